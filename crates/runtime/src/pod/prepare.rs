//! Makes everything that a pod needs before it can start. Independent work overlaps.
//!
//! ```text
//!  record, volumes ─▶ ┬ for each container: image ─▶ mount ─▶ user, folder ─▶ config.json, start.json ┐
//!            ├ namespaces, address, ports, then hosts and resolv.conf                        ├─▶ record: Prepared
//!            └ control groups                                                                ┘
//! ```
//! *Guarantee*: safe to repeat from wherever an earlier attempt stopped, in this process or another.

use std::{
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use futures::future::try_join_all;
use guest::accounts::Account;
use images::{Image, ImageConfig, Users};
use jiff::Timestamp;
use model::{
    ContainerSpec, Kind, Reason, StartTimes, WorkloadSpec,
    given::has_foreign_variables,
    manifest::security::{Security, USUAL},
};
use network::{AttachRequest, Attachment, Owner, namespace};
use serde::{Deserialize, Serialize};
use userns::IdRange;

use super::{
    PodRuntime, Shared, blocking,
    cgroup::SeenGroup,
    etc, fault,
    files::write_whole,
    function, given,
    limits::Limits,
    oci_runtime::{self, Beside},
    record::{Found, PodPlace, Record, Stage},
    rootfs::{RootfsError, ensure_working_dir, resolve_user},
    scaffold::{self, Scaffold, Site},
    seccomp::{Confinement, Profile},
    shim::process::signal_number,
    spec::{ContainerSetup, Namespaces, capability_names, container_spec},
    volumes,
};
use crate::{InstanceSpec, Progress, RuntimeError};

/// Name of the file with what the shim is told about a container beside its specification.
pub(super) const START_FILE: &str = "start.json";
/// Name of the file with the runtime specification.
pub(super) const CONFIG_FILE: &str = "config.json";

/// What the shim is told about a container beside its specification.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct StartFile {
    /// User and group of the machine that own its standard files.
    pub(super) owner: (u32, u32),
    /// What is gathered for it, if it is in a user namespace.
    #[serde(default)]
    pub(super) scaffold: Option<Scaffold>,
    /// Signal that asks it to end.
    pub(super) stop_signal: i32,
    /// The program that makes it in place of RIK's own code.
    #[serde(default)]
    pub(super) runtime: Option<PathBuf>,
    /// Whether its program says itself when it has begun, as one does that stands for another.
    #[serde(default)]
    pub(super) says_itself: bool,
}

/// A container that was made.
struct Made {
    /// Digest of its image.
    digest: String,
    /// Microseconds that its image took, and its files.
    fetched: u64,
    furnished: u64,
    /// Whether its machine begins from a template, if it is one.
    warm: Option<bool>,
}

impl PodRuntime {
    pub(super) async fn prepare_pod(
        &self,
        spec: &InstanceSpec,
        progress: Progress<'_>,
    ) -> Result<(), RuntimeError> {
        let uid = &spec.uid;
        let place = self.place(uid)?;
        match place.read() {
            Found::Record(record) if record.stage != Stage::Preparing => return Ok(()),
            Found::Record(_) | Found::Torn { .. } => self.clear(&place, spec).await?,
            Found::Nothing => {}
        }
        self.shared.allowed.check_host_access(&spec.spec)?;
        let mut record = Record::new(spec.clone(), self.shared.boot_id.clone());
        record.ids = self.ids_for(spec)?;
        record.default_memory = self.shared.default_memory;
        place.write(&record).map_err(|error| fault::record(uid, error))?;
        let sandbox = async {
            self.prepare_volumes(&place, spec).await?;
            self.prepare_namespaces(&place, spec, record.ids).await
        };
        let ((), sandbox_micros) = timed(sandbox).await?;
        let containers = spec.spec.all_containers().enumerate();
        let containers =
            try_join_all(containers.map(|own| self.prepare_container(&place, &record, own, progress)));
        let network = timed(self.prepare_network(&place, spec, record.ids));
        let ready = tokio::try_join!(containers, network, timed(self.prepare_group(&record)))?;
        let (made, (attachment, network_micros), ((), limits_micros)) = ready;
        record.image_digests = made.iter().map(|one| Some(one.digest.clone())).collect();
        record.attachment = attachment;
        let longest = |part: fn(&Made) -> u64| made.iter().map(part).max().unwrap_or_default();
        let times = StartTimes {
            sandbox_micros,
            image_micros: longest(|one| one.fetched),
            files_micros: longest(|one| one.furnished),
            network_micros,
            limits_micros,
            processes_micros: None,
            warm: made.iter().find_map(|one| one.warm),
        };
        record.prepared = Some((times, Timestamp::now()));
        record.stage = Stage::Prepared;
        place.write(&record).map_err(|error| fault::record(uid, error))
    }

    /// Ids for a pod; None if this machine has no user namespaces, or the pod has what is the machine's.
    fn ids_for(&self, spec: &InstanceSpec) -> Result<Option<IdRange>, RuntimeError> {
        if !self.shared.user_namespaces || spec.spec.host_access().is_some() {
            return Ok(None);
        }
        let uid = &spec.uid;
        let none = || {
            let why = "every range of user ids is taken: remove pods of this node";
            fault::words(format!("prepare instance {uid}"), Reason::SandboxFailed, why)
        };
        self.shared.ids.take(uid).map(Some).ok_or_else(none)
    }

    /// Makes the pod's namespaces: before the root file systems, whose owners are seen by one of them.
    async fn prepare_namespaces(
        &self,
        place: &PodPlace,
        spec: &InstanceSpec,
        ids: Option<IdRange>,
    ) -> Result<(), RuntimeError> {
        let (ns, hostname) = (place.ns(), etc::hostname(&spec.id));
        let at_work = self.shared.busy.work_on(&spec.uid).await;
        let work = move || {
            let _at_work = at_work;
            namespace::make(&ns, &hostname, ids)
        };
        blocking(work).await.map_err(fault::files)?.map_err(|error| fault::files(io::Error::other(error)))
    }

    /// Takes away the root file systems of an attempt that was cut off: what is in them is not known.
    async fn clear(&self, place: &PodPlace, spec: &InstanceSpec) -> Result<(), RuntimeError> {
        let _alone = self.shared.busy.alone_with(&spec.uid).await;
        for index in 0..spec.spec.all_containers().count() {
            self.shared.images.unmount_rootfs(place.rootfs(index)).await.map_err(fault::snapshot)?;
        }
        Ok(())
    }

    async fn prepare_volumes(&self, place: &PodPlace, spec: &InstanceSpec) -> Result<(), RuntimeError> {
        if spec.spec.volumes.is_empty() && model::given::named(&spec.spec).is_empty() {
            return Ok(());
        }
        let (place, own, shared) = (place.clone(), spec.clone(), Arc::clone(&self.shared));
        let at_work = self.shared.busy.work_on(&spec.uid).await;
        let work = move || {
            let _at_work = at_work;
            // Those of a Function are made in its microVM.
            if own.kind == Kind::Pod {
                volumes::make(&place, &own.spec, &shared.allowed.host_paths, &shared.volumes)?;
            }
            given::keep(&place, &own.spec, &own.given)
        };
        blocking(work).await.map_err(fault::files)?
    }

    async fn prepare_network(
        &self,
        place: &PodPlace,
        spec: &InstanceSpec,
        ids: Option<IdRange>,
    ) -> Result<Option<Attachment>, RuntimeError> {
        let hostname = etc::hostname_of(spec);
        if spec.spec.host_network {
            etc::write_of_machine(&place.etc(), &hostname).map_err(fault::files)?;
            return Ok(None);
        }
        let owner: Owner = spec
            .uid
            .parse()
            .map_err(|error| fault::no_path(&spec.uid, io::Error::new(io::ErrorKind::InvalidInput, error)))?;
        let request = AttachRequest {
            owner,
            hostname: hostname.clone(),
            ns_dir: place.ns(),
            has_namespaces: true,
            tap: if spec.kind == Kind::Function { Some(function::tap_owner(ids)?) } else { None },
            publish: spec.spec.published().cloned().collect(),
        };
        let attachment = self.shared.network.attach(request).await.map_err(fault::attach)?;
        etc::write(&place.etc(), &hostname, attachment.ip).map_err(fault::files)?;
        Ok(Some(attachment))
    }

    async fn prepare_group(&self, record: &Record) -> Result<(), RuntimeError> {
        let (spec, default) = (&record.spec, record.default_memory);
        let (cgroups, uid) = (self.shared.cgroups.clone(), spec.uid.clone());
        let limits = function::limits(spec, Limits::of_pod(&spec.spec, default));
        let containers = spec.spec.all_containers();
        // The first process of those that share their processes has the group behind the last container's.
        let keeper = spec.spec.share_process_namespace.then(Limits::default);
        let containers =
            containers.map(|own| function::limits(spec, Limits::of_container(&spec.spec, own, default)));
        let containers: Vec<Limits> = containers.chain(keeper).collect();
        let at_work = self.shared.busy.work_on(&spec.uid).await;
        let work = move || {
            let _at_work = at_work;
            cgroups.make_pod(&uid, &limits, &containers)
        };
        let made = blocking(work).await.map_err(fault::files)?;
        made.map_err(fault::group)
    }

    /// Gives a container its image and its files, and says how many microseconds each took.
    async fn prepare_container(
        &self,
        place: &PodPlace,
        record: &Record,
        (index, container): (usize, &ContainerSpec),
        progress: Progress<'_>,
    ) -> Result<Made, RuntimeError> {
        let spec = &record.spec;
        if spec.kind == Kind::Function {
            let content = self.content_of(container, &spec.spec, &spec.given, progress);
            let (content, fetched) = timed(content).await?;
            let digest = content.digest.clone();
            let furnish = self.furnish_function(place, record, (index, container), content);
            let (warm, furnished) = timed(furnish).await?;
            return Ok(Made { digest, fetched, furnished, warm: Some(warm) });
        }
        let (image, fetched) = timed(self.fetch(container, &spec.spec, &spec.given, progress)).await?;
        let (image, furnished) =
            timed(self.furnish_container(place, record, (index, container), image)).await?;
        Ok(Made { digest: image.digest.to_string(), fetched, furnished, warm: None })
    }

    /// Gives a container a fresh root file system of its image, and writes what it is told to be.
    pub(super) async fn furnish_container(
        &self,
        place: &PodPlace,
        record: &Record,
        (index, container): (usize, &ContainerSpec),
        image: Arc<Image>,
    ) -> Result<Arc<Image>, RuntimeError> {
        let spec = &record.spec;
        let dir = place.container(index);
        let ns = place.ns();
        let setup = ContainerSetup {
            etc_dir: place.etc(),
            namespaces: Namespaces::of(&spec.spec, &ns),
            hostname: etc::hostname_of(spec),
            machine: self.shared.machine.clone(),
            security: Security::of(&spec.spec, container),
            ids: record.ids,
            volumes: volumes::mounts(place, &spec.spec, index, &container.volume_mounts),
            ..ContainerSetup::default()
        };
        let program = self.shared.oci_runtimes.choose(spec.spec.runtime_class_name.as_deref())?;
        let groups = self.shared.cgroups.seen_by(&spec.uid, index);
        let (runtime, container) = (self.clone(), container.clone());
        let own = (place.clone(), spec.spec.clone(), index);
        let at = place.rootfs(index);
        let at_work = self.shared.busy.work_on(&spec.uid).await;
        let work = async move {
            let _at_work = at_work;
            // Held for work on this machine only, never while waiting for a registry.
            let _turn = runtime.shared.disk_work.acquire().await;
            let users = users(setup.ids, &ns).map_err(fault::files)?;
            let rootfs = runtime.shared.images.mount_rootfs(&image, at, users).await;
            let rootfs = rootfs.map_err(fault::snapshot)?;
            let setup = ContainerSetup { rootfs, ..setup };
            let of_thread = Arc::clone(&image);
            let shared = Arc::clone(&runtime.shared);
            let write = move || {
                let profile = confine(&shared, &setup.security, &dir)?;
                let foreign = match program {
                    Some(program) => Some((program, beside(&shared, &container, &setup, (&own, &profile))?)),
                    None => None,
                };
                write_container(&container, &of_thread, setup, (foreign, groups), &own)
            };
            blocking(write).await.map_err(fault::files)??;
            Ok(image)
        };
        // In a task of its own: it goes on to its end even if nobody waits, and until then nothing is taken away.
        tokio::spawn(work).await.map_err(|error| fault::files(io::Error::other(error)))?
    }
}

/// Does something, and says how many microseconds it took.
async fn timed<T>(work: impl Future<Output = Result<T, RuntimeError>>) -> Result<(T, u64), RuntimeError> {
    let begun = Instant::now();
    let done = work.await?;
    Ok((done, u64::try_from(begun.elapsed().as_micros()).unwrap_or(u64::MAX)))
}

/// The pod's user namespace, if it has one.
fn users(ids: Option<IdRange>, ns: &Path) -> io::Result<Option<Users>> {
    let Some(ids) = ids else { return Ok(None) };
    let namespace = fs::File::open(namespace::user_path(ns))?;
    Ok(Some(Users { namespace: Arc::new(namespace.into()), ids }))
}

/// Writes the filter of a container: the one that was made when the runtime was opened, unless it has other rights than
/// the usual ones.
fn confine(shared: &Shared, security: &Security, dir: &Path) -> Result<Profile, RuntimeError> {
    let profile =
        if security.privileged { Profile::Unconfined } else { shared.allowed.profile(&security.seccomp)? };
    if profile == Profile::Standard && security.capabilities.iter().eq(&USUAL) {
        shared.confinement.write(dir).map_err(fault::files)?;
        return Ok(profile);
    }
    let own = Confinement::of(&profile, &capability_names(security)).map_err(fault::seccomp)?;
    own.write(dir).map_err(fault::files)?;
    Ok(profile)
}

/// What another runtime is told about a container beside.
fn beside(
    shared: &Shared,
    container: &ContainerSpec,
    setup: &ContainerSetup,
    (own, profile): (&(PodPlace, WorkloadSpec, usize), &Profile),
) -> Result<Beside, RuntimeError> {
    let (place, _, index) = own;
    let seccomp = profile.document(&capability_names(&setup.security)).map_err(fault::seccomp)?;
    let group = shared.cgroups.path_of(&place.uid(), *index);
    Ok(Beside { group, ids: setup.ids, terminal: container.tty, seccomp })
}

/// Looks into the mounted root file system and writes what the shim and libcontainer need to know.
fn write_container(
    container: &ContainerSpec,
    image: &Image,
    mut setup: ContainerSetup,
    (foreign, groups): (Option<(PathBuf, Beside)>, Vec<SeenGroup>),
    (place, spec, index): &(PodPlace, WorkloadSpec, usize),
) -> Result<(), RuntimeError> {
    let config = &image.config;
    let unfit = |error| fault::rootfs(&container.name, error);
    setup.user = user_of(config, &setup).map_err(unfit)?;
    let folder = container.working_dir.as_deref().unwrap_or(&config.working_dir);
    let outside = |id| outside(setup.ids, id).map_err(unfit);
    let owner = (outside(setup.user.uid)?, outside(setup.user.gid)?);
    setup.user.groups.iter().try_for_each(|group| outside(*group).map(drop))?;
    setup.working_dir = ensure_working_dir(&setup.rootfs, folder, outside(0)?).map_err(unfit)?;
    let (index, dir) = (*index, place.container(*index));
    let given = given::load(place, spec).map_err(fault::files)?;
    volumes::make_parts(place, spec, index, container)?;
    given::show(place, spec, (index, container), (&given, (setup.user.uid, setup.user.gid)))?;
    volumes::check_given_parts(place, spec, index, container)?;
    let whole = given::with_values(container, &given)?;
    let mut document =
        container_spec(&whole, config, &setup).map_err(|error| fault::spec(&container.name, error))?;
    let scaffold = match setup.ids {
        Some(_) => {
            let namespace = namespace::user_path(&place.ns());
            // Another runtime has its own way with what is usual.
            let (rootfs, groups) = match foreign {
                None => (Some(setup.rootfs.as_path()), groups),
                Some(_) => (None, Vec::new()),
            };
            let site = Site { namespace, pod_dir: place.run(), rootfs, groups };
            Some(scaffold::move_onto(&mut document, site).map_err(fault::files)?)
        }
        None => None,
    };
    let stop_signal = match config.stop_signal.as_str() {
        "" => libc::SIGTERM,
        other => signal_number(other).unwrap_or(libc::SIGTERM),
    };
    let runtime = foreign.map(|(program, beside)| {
        oci_runtime::tell(&mut document, beside);
        program
    });
    let start = StartFile { owner, scaffold, stop_signal, runtime, says_itself: false };
    DirBuilder::new().recursive(true).mode(0o700).create(place.logs()).map_err(fault::files)?;
    let mut path = dir.join(CONFIG_FILE);
    if has_foreign_variables(container) {
        path = given::in_memory(place, index, &path).map_err(fault::files)?;
    }
    write_whole(&path, &document).map_err(fault::files)?;
    write_whole(&dir.join(START_FILE), &start).map_err(fault::files)
}

/// The machine's id of an id inside.
fn outside(ids: Option<IdRange>, id: u32) -> Result<u32, RootfsError> {
    match ids {
        None => Ok(id),
        Some(ids) => ids.outside(id).ok_or(RootfsError::Beyond { id, count: ids.count }),
    }
}

/// Who runs a container: the image's user, unless the manifest says who.
fn user_of(image: &ImageConfig, setup: &ContainerSetup) -> Result<Account, RootfsError> {
    let asked = &setup.security;
    let wanted = match (asked.user, asked.group) {
        (None, None) => image.user.clone(),
        (Some(user), None) => user.to_string(),
        (Some(user), Some(group)) => format!("{user}:{group}"),
        (None, Some(group)) => {
            let user = image.user.split(':').next().filter(|user| !user.is_empty()).unwrap_or("0");
            format!("{user}:{group}")
        }
    };
    let mut user = resolve_user(&setup.rootfs, &wanted)?;
    user.groups.extend(&asked.groups);
    user.groups.sort_unstable();
    user.groups.dedup();
    if asked.non_root && user.uid == 0 {
        return Err(RootfsError::Root);
    }
    Ok(user)
}
