//! Opening the runtime: what an earlier process left is taken over or cleared away.
//!
//! ```text
//!  images ┐                  ┌─▶ networks that are gone: prepare again
//!  network├─▶ records ─▶ shim┤
//!  groups ┘                  └─▶ groups and logs that nobody owns: removed
//! ```

use std::{collections::BTreeMap, fs::DirBuilder, io, os::unix::fs::DirBuilderExt, path::Path, sync::Arc};

use images::ImageStore;
use model::manifest::security::{Capability, USUAL};
use network::{Attachment, Network};
use rustix::process::{Resource, getrlimit};
use tokio::sync::Semaphore;

use crate::microvm::{Microvms, roots::Roots};

use super::{
    DISK_WORK_FOR_EACH_PROCESSOR, OpenError, PodRuntime, PodRuntimeConfig, Shared, blocking,
    busy::Busy,
    cgroup::Cgroups,
    deleted::Deleted,
    disk::Disk,
    exec,
    ids::Ranges,
    link::{LinkConfig, ShimLink},
    local::LocalVolumes,
    news::News,
    record::{Found, Places, Record, Stage},
    remove_dir,
    seccomp::{Confinement, Profile},
    shim,
    spec::Machine,
};

impl PodRuntime {
    /// Opens the runtime: takes over what runs, and clears away what an earlier process left half done.
    ///
    /// # Errors
    /// If the machine lacks something, or another process has the state directory.
    pub async fn open(config: PodRuntimeConfig) -> Result<Self, OpenError> {
        let places = Places::new(config.state_dir.clone());
        for path in [config.state_dir.clone(), places.pods(), places.logs(), places.shim()] {
            make_private(&path)?;
        }
        places.mount_run().map_err(|source| OpenError::Directory { path: places.run(), source })?;
        let state_dir = &config.state_dir;
        let unusable = |source| OpenError::Directory { path: state_dir.clone(), source };
        let boot_id = shim::boot_id().map_err(unusable)?;
        // Before anything of a pod is touched: it is locked, so that there is one runtime for each state directory.
        let (root, leases, registry) = (state_dir.join("images"), places.leases(), config.registry.clone());
        let opened = blocking(move || ImageStore::open_with(&root, &leases, registry)).await;
        let images = opened.map_err(unusable)?;
        let images = images.map_err(|source| OpenError::Images { source })?;
        places.unmount_former().map_err(|source| OpenError::Directory { path: places.pods(), source })?;
        let cgroups = Cgroups::open(&config.node).map_err(|source| OpenError::Cgroups { source })?;
        let news = Arc::new(News::default());
        let link = LinkConfig { dir: places.shim(), command: config.shim.clone(), cgroups: cgroups.clone() };
        let records = read_records(&places).map_err(unusable)?;
        let network = open_network(&config, &places, &records, &boot_id);
        let shim = async {
            let opened = ShimLink::open(link, Arc::clone(&news)).await;
            opened.map_err(|source| OpenError::Shim { source })
        };
        let (network, link) = tokio::try_join!(network, shim)?;
        let ids = ranges(&records, &boot_id);
        let machine = look_at_machine(&cgroups);
        let confinement = Confinement::of(&Profile::Standard, &USUAL.map(Capability::name))
            .map_err(|source| OpenError::Seccomp { source })?;
        let disk_work = Semaphore::new(DISK_WORK_FOR_EACH_PROCESSOR * machine.processors.max(1) as usize);
        let state_dir = config.state_dir;
        let microvms = Microvms::new(&state_dir, config.microvms);
        let roots = Roots::new(microvms.roots_dir());
        let busy = Busy::default();
        let (volumes, deleted) = (places.volumes(), places.deleted());
        let shared = Shared {
            state_dir,
            places,
            boot_id,
            allowed: config.allowed,
            oci_runtimes: config.oci_runtimes,
            default_memory: config.default_memory,
            volumes: LocalVolumes::new(volumes),
            deleted: Deleted::new(deleted, config.keep_logs),
            disk: Disk::default(),
            user_namespaces: config.user_namespaces,
            ids,
            machine,
            confinement,
            images,
            microvms,
            roots,
            network,
            cgroups,
            link,
            news,
            disk_work,
            busy,
        };
        let runtime = Self { shared: Arc::new(shared) };
        runtime.clear_strays(&records).await;
        Ok(runtime)
    }

    /// Removes groups and logs of pods that are gone. What stays is told of; it harms nobody.
    async fn clear_strays(&self, records: &BTreeMap<String, Option<Record>>) {
        let cgroups = self.shared.cgroups.clone();
        let known: Vec<String> = records.keys().cloned().collect();
        let (logs, shared) = (self.shared.places.logs(), Arc::clone(&self.shared));
        let work = move || {
            shared.volumes.clear_gone();
            for uid in cgroups.pods().into_iter().filter(|uid| !known.contains(uid)) {
                if let Err(error) = cgroups.remove_pod(&uid) {
                    tracing::warn!(instance.uid = uid, %error, "control groups of an earlier pod stay");
                }
            }
            for entry in std::fs::read_dir(&logs).into_iter().flatten().flatten() {
                let ours = entry.file_name().into_string().is_ok_and(|name| known.contains(&name));
                if !ours && let Err(error) = remove_dir(&entry.path()) {
                    tracing::warn!(path = %entry.path().display(), %error, "logs of an earlier pod stay");
                }
            }
        };
        let _ = blocking(work).await;
    }
}

fn make_private(path: &Path) -> Result<(), OpenError> {
    let made = DirBuilder::new().recursive(true).mode(0o700).create(path);
    made.map_err(|source| OpenError::Directory { path: path.to_owned(), source })
}

/// All records; None for those that cannot be understood.
fn read_records(places: &Places) -> io::Result<BTreeMap<String, Option<Record>>> {
    let mut records = BTreeMap::new();
    for uid in places.uids()? {
        let place = places.pod(&uid)?;
        exec::clear_left(&place);
        let record = match place.read() {
            Found::Record(record) => Some(*record),
            Found::Torn { why } => {
                tracing::warn!(instance.uid = uid, error = %why, "an instance's record is not understood");
                None
            }
            Found::Nothing => continue,
        };
        records.insert(uid, record);
    }
    Ok(records)
}

async fn open_network(
    config: &PodRuntimeConfig,
    places: &Places,
    records: &BTreeMap<String, Option<Record>>,
    boot_id: &str,
) -> Result<Network, OpenError> {
    let failed = |source| OpenError::Network { source };
    let network = Network::open(config.network.clone()).await.map_err(failed)?;
    let attached = |record: &Record| record.attachment.clone().filter(|_| record.boot_id == boot_id);
    let known: Vec<Attachment> = records.values().flatten().filter_map(attached).collect();
    let found = network.reconcile(&known).await.map_err(failed)?;
    for what in &found.removed {
        tracing::info!(what, "something of an earlier pod was removed from the network");
    }
    for (owner, why) in found.lost {
        tracing::warn!(instance.uid = %owner, why, "a pod's network is gone");
        let Some(Some(record)) = records.get(owner.as_str()) else { continue };
        if record.stage == Stage::Prepared {
            let again = Record { stage: Stage::Preparing, attachment: None, ..record.clone() };
            let written = places.pod(owner.as_str()).and_then(|place| place.write(&again));
            written.map_err(|source| OpenError::Directory { path: places.pods(), source })?;
        }
    }
    Ok(network)
}

/// The ids of the pods, those of known ones taken.
fn ranges(records: &BTreeMap<String, Option<Record>>, boot_id: &str) -> Ranges {
    let ranges = Ranges::default();
    for (uid, record) in records {
        let Some(record) = record.as_ref().filter(|own| own.boot_id == boot_id) else { continue };
        if let Some(ids) = record.ids.filter(|_| record.stage != Stage::Released) {
            ranges.keep(uid, ids);
        }
    }
    ranges
}

fn look_at_machine(cgroups: &Cgroups) -> Machine {
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    Machine {
        cgroups_shown: cgroups.shown(),
        open_files_max: getrlimit(Resource::Nofile).maximum.unwrap_or(u64::MAX),
        processors: u32::try_from(processors).unwrap_or(u32::MAX),
    }
}
