//! Pods: containers that share network, ipc, host name and limits, on this machine.
//!
//! ```text
//!  prepare   record ─▶ ┬ images ─▶ root file systems ─▶ config.json ┐
//!                      ├ namespaces, address, ports ─▶ /etc         ├─▶ Prepared
//!                      └ control groups                             ┘
//!  start     the mark in the record, then one call to the shim, which creates and starts containers (`starting`)
//!  inspect   record + files of the containers ─▶ observed.rs
//!  stop      each container's own signal, the grace period, KILL
//!  release   network, mounts, groups; then the record says Released
//!  remove    all of that, and record and logs
//! ```
//! Truth is on disk and in the kernel; this process remembers nothing that it could not read again. The shim is the
//! parent of the containers ([`shim`]); libcontainer never runs in this process, which has threads.
//!
//! *Guarantees*: those of [`Runtime`]. A started mark is on disk before the shim hears of the start, so whatever dies in
//! between, nothing is started twice.

mod adopt;
mod allowed;
pub mod attach;
mod busy;
pub mod cgroup;
mod deleted;
mod disk;
mod ending;
pub mod etc;
pub mod exec;
pub(crate) mod fault;
mod fetching;
pub mod files;
mod function;
mod given;
mod ids;
pub mod limits;
pub mod link;
mod local;
mod memory;
mod news;
mod observed;
pub mod oci_runtime;
mod prepare;
mod privileged;
mod probing;
mod record;
pub mod rootfs;
pub mod scaffold;
pub mod seccomp;
pub mod shim;
pub mod spec;
mod starting;
mod switches;
pub mod usage;
mod views;
mod volumes;

pub(crate) use self::volumes::open_allowed;
pub use allowed::Allowed;
pub use deleted::{DeletedInstance, KEEP_LOGS};
pub use images::Cleaned;
pub use images::RegistryConfig;
pub use local::{LocalVolumeOnNode, VolumeNotRemoved};
pub use network::{Backend, NetworkConfig, Subnet, listening};
pub use views::{GrowingLog, ImageNotRemoved, ImageNotSaved, ImageOnNode};

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use images::{ImageStore, StoreError};
use model::{Reason, lifecycle::Observed, manifest::health::Action, quantity::Memory};
use network::{Network, NetworkError};
use tokio::sync::Semaphore;

use self::{
    busy::Busy,
    cgroup::{CgroupError, Cgroups},
    deleted::Deleted,
    disk::Disk,
    ids::Ranges,
    link::{LinkError, ShimCommand, ShimLink},
    local::LocalVolumes,
    news::News,
    observed::Circumstances,
    oci_runtime::OciRuntimes,
    record::{Found, Places, PodPlace, Record},
    seccomp::{Confinement, SeccompError},
    shim::wire::{Answer, PodLook, Request},
    spec::Machine,
};
use crate::{
    InstanceSpec, Progress, Runtime, RuntimeError,
    microvm::{MicrovmConfig, Microvms, roots::Roots},
};

/// Pods whose files are being written at the same time, for each processor: more only wait for each other.
const DISK_WORK_FOR_EACH_PROCESSOR: usize = 4;

/// What a node's pods need.
#[derive(Clone, Debug)]
pub struct PodRuntimeConfig {
    /// Directory that everything of this node is in.
    pub state_dir: PathBuf,
    /// Name of the node: its control groups are named for it.
    pub node: String,
    /// How the shim is begun.
    pub shim: ShimCommand,
    /// How registries are reached.
    pub registry: RegistryConfig,
    /// The network of the pods.
    pub network: NetworkConfig,
    /// What the node's operator allows.
    pub allowed: Allowed,
    /// What makes its containers.
    pub oci_runtimes: OciRuntimes,
    /// Memory limit of a container for which nobody says anything; None: no limit.
    pub default_memory: Option<Memory>,
    /// How long logs of instances that are gone are kept.
    pub keep_logs: Duration,
    /// Whether pods have user namespaces: if [`probe_user_namespaces`] found that they can.
    pub user_namespaces: bool,
    /// What the node's operator says about microVMs.
    pub microvms: MicrovmConfig,
}

/// Whether this machine can give pods user namespaces, with this state directory. Takes some milliseconds.
///
/// # Errors
/// What cannot be done.
pub fn probe_user_namespaces(state_dir: &Path) -> Result<(), userns::Unavailable> {
    userns::probe(Ranges::ANY, &[state_dir])
}

/// Why the runtime could not be opened or taken down.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A directory.
    #[error("use the directory {}", path.display())]
    Directory {
        /// Which.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The images.
    #[error("open the image store")]
    Images {
        /// Why not.
        #[source]
        source: StoreError,
    },
    /// The network.
    #[error("set up the pod network")]
    Network {
        /// Why not.
        #[source]
        source: NetworkError,
    },
    /// The control groups.
    #[error("set up control groups")]
    Cgroups {
        /// Why not.
        #[source]
        source: CgroupError,
    },
    /// The filter of system calls.
    #[error("make the filter of system calls")]
    Seccomp {
        /// Why not.
        #[source]
        source: SeccompError,
    },
    /// The shim.
    #[error("reach the shim")]
    Shim {
        /// Why not.
        #[source]
        source: LinkError,
    },
    /// A pod that is to be taken down stays.
    #[error("remove instance {uid}")]
    Remove {
        /// Which.
        uid: String,
        /// Why.
        #[source]
        source: RuntimeError,
    },
}

/// Runs pods on this machine. Clones are the same runtime.
#[derive(Clone, Debug)]
pub struct PodRuntime {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state_dir: PathBuf,
    places: Places,
    boot_id: String,
    machine: Machine,
    /// The filter of a container that asks for nothing else: compiled once.
    confinement: Confinement,
    allowed: Allowed,
    oci_runtimes: OciRuntimes,
    default_memory: Option<Memory>,
    volumes: LocalVolumes,
    deleted: Deleted,
    disk: Disk,
    /// Whether pods to come have user namespaces. Those that have one keep it.
    user_namespaces: bool,
    ids: Ranges,
    images: ImageStore,
    microvms: Microvms,
    roots: Roots,
    network: Network,
    cgroups: Cgroups,
    link: ShimLink,
    news: Arc<News>,
    disk_work: Semaphore,
    busy: Busy,
}

impl PodRuntime {
    /// The images of this node.
    #[must_use]
    pub fn images(&self) -> &ImageStore {
        &self.shared.images
    }

    /// The microVMs of this node.
    #[must_use]
    pub fn microvms(&self) -> &Microvms {
        &self.shared.microvms
    }

    /// The network of this node.
    #[must_use]
    pub fn network(&self) -> &Network {
        &self.shared.network
    }

    /// Files with what a container wrote, the oldest first. Without a name, of the first container.
    ///
    /// # Errors
    /// If there is no such instance or container.
    pub fn logs(&self, uid: &str, container: Option<&str>) -> Result<Vec<PathBuf>, RuntimeError> {
        let operation = || format!("find the logs of instance {uid}");
        let place = self.place(uid)?;
        let Found::Record(record) = place.read() else {
            return Err(fault::words(operation(), Reason::Other, "it is not on this node"));
        };
        let containers = record.spec.spec.all_containers();
        let index = match container {
            None => record.spec.spec.init_containers.len(),
            Some(name) => containers.clone().position(|own| own.name == name).ok_or_else(|| {
                let names: Vec<&str> = containers.map(|own| own.name.as_str()).collect();
                let why = format!("it has no container {name:?}; it has {}", names.join(", "));
                fault::words(operation(), Reason::Other, &why)
            })?,
        };
        let run = record.runs.get(index).and_then(record::Runs::present).unwrap_or(0);
        let log = place.log(index, run);
        let files = (0..shim::log::FILES).rev().map(|number| shim::log::rotated(&log, number));
        Ok(files.filter(|file| file.exists()).collect())
    }

    fn place(&self, uid: &str) -> Result<PodPlace, RuntimeError> {
        self.shared.places.pod(uid).map_err(|error| fault::no_path(uid, error))
    }

    async fn look(&self, uid: &str) -> Result<PodLook, LinkError> {
        match self.shared.link.call(Request::Look { pod: uid.to_owned() }).await? {
            Answer::Pod(look) => Ok(look),
            _ => Err(LinkError::Lost),
        }
    }

    async fn observe(&self, uid: &str) -> Result<(Option<Box<Record>>, Observed), RuntimeError> {
        let place = self.place(uid)?;
        let record = match place.read() {
            Found::Nothing => return Ok((None, Observed::Absent)),
            Found::Torn { why } => {
                tracing::warn!(instance.uid = uid, error = %why, "an instance's record is not understood");
                return Ok((None, Observed::Partial));
            }
            Found::Record(record) => record,
        };
        let boot_id = &self.shared.boot_id;
        let mut files = place.container_files(&record);
        let mut starting = false;
        if observed::is_unclear(&record, &files, boot_id) {
            let failed = |error| fault::link("look at the instance", Reason::StartFailed, error);
            let look = self.look(uid).await.map_err(failed)?;
            // What was under way then may be written down now.
            files = place.container_files(&record);
            starting = look.starting;
            observed::end_unwatched(&record, &mut files, &look);
        }
        let observed = observed::observe(&record, &files, Circumstances { boot_id, starting });
        Ok((Some(record), observed))
    }
}

#[async_trait]
impl Runtime for PodRuntime {
    async fn list(&self) -> Result<Vec<InstanceSpec>, RuntimeError> {
        let uids = self.shared.places.uids().map_err(|error| fault::record("list", error))?;
        let specs = uids.into_iter().filter_map(|uid| match self.shared.places.pod(&uid).ok()?.read() {
            Found::Record(record) => Some(record.spec),
            Found::Torn { .. } => Some(record::nameless(&uid)),
            Found::Nothing => None,
        });
        Ok(specs.collect())
    }

    async fn inspect(&self, uid: &str) -> Result<Observed, RuntimeError> {
        self.shared.news.note(uid);
        let (_, observed) = self.observe(uid).await?;
        if observed == Observed::Absent {
            self.shared.news.forget(uid);
        }
        Ok(observed)
    }

    async fn prepare(&self, spec: &InstanceSpec, progress: Progress<'_>) -> Result<(), RuntimeError> {
        self.prepare_pod(spec, progress).await
    }

    async fn start(&self, uid: &str, which: &[usize]) -> Result<(), RuntimeError> {
        // In a task of its own: once the mark is set, the start must reach the shim even if nobody waits any more.
        let (runtime, own, which) = (self.clone(), uid.to_owned(), which.to_vec());
        let task = tokio::spawn(async move { runtime.start_containers(&own, &which).await });
        let ended = |error: tokio::task::JoinError| {
            fault::words(format!("start instance {uid}"), Reason::StartFailed, &error.to_string())
        };
        task.await.map_err(ended)?
    }

    async fn ask(&self, uid: &str, index: usize, action: Action<'_>, within: Duration) -> Result<(), String> {
        self.ask_container(uid, index, action, within).await
    }

    async fn end_container(&self, uid: &str, index: usize, why: &str) -> Result<(), RuntimeError> {
        self.end_condemned(uid, index, (Reason::Unhealthy, why)).await
    }

    async fn changed(&self, uid: &str) {
        self.shared.news.wait(uid).await;
    }

    async fn stop(&self, uid: &str) -> Result<(), RuntimeError> {
        self.stop_pod(uid).await
    }

    async fn release(&self, uid: &str) -> Result<(), RuntimeError> {
        self.release_pod(uid).await
    }

    async fn remove(&self, uid: &str) -> Result<(), RuntimeError> {
        self.remove_pod(uid).await
    }

    async fn heal(&self) -> Result<(), RuntimeError> {
        let mended = self.shared.network.ensure().await;
        let mended = mended.map_err(|error| RuntimeError {
            operation: "restore the pod network".to_owned(),
            reason: Reason::SandboxFailed,
            transient: true,
            source: Some(Box::new(error)),
        })?;
        if mended.anything() {
            tracing::warn!(?mended, "another program had changed the pod network; it is restored");
        }
        self.look_at_disk();
        let shared = Arc::clone(&self.shared);
        // What cannot be removed is told of there; it harms nobody.
        let clean = move || {
            shared.deleted.clean_now_and_then();
            shared.roots.clean(|| function::used_roots(&shared.places));
        };
        let _ = blocking(clean).await;
        let room = self.shared.images.make_room().await.map_err(|error| RuntimeError {
            operation: "make room on the disk".to_owned(),
            reason: Reason::Other,
            transient: true,
            source: Some(Box::new(error)),
        })?;
        if !room.removed.is_empty() {
            let images: Vec<String> = room.removed.iter().map(ToString::to_string).collect();
            let (freed, images) = (room.freed_bytes, images.join(", "));
            tracing::warn!(images, freed, "the disk is nearly full: images that nothing uses were removed");
        }
        Ok(())
    }
}

/// Runs blocking work on a thread for such work.
async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, io::Error> {
    tokio::task::spawn_blocking(work).await.map_err(io::Error::other)
}

/// Removes a directory with all that is in it. Ok if there is none.
fn remove_dir(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
