//! The container of a Function: a VMM in its jail, and what its microVM is told.
//!
//! ```text
//!  prepare   image ─▶ root (`microvm::roots`) ─▶ jail on rootfs/ ─▶ config.json: the supervisor in the jail
//!  run       machine.json: VMM, address, program, environment   (in memory, if it holds what is secret)
//!  session   exec, copy: `rik-guest session` in the jail, with its order as a variable
//! ```
//! To everybody else it is a container like others.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown},
    path::{Path, PathBuf},
};

use guest::{
    accounts::Account,
    order::{
        Boot, Machine as Guest, Network as GuestNetwork, Order, Program, Task, Volume as GuestVolume,
        VolumeFile, VolumeMount as GuestMount,
    },
    vmm::{MACHINE_FILE, ORDER_VARIABLE, REASON_FILE, RUN_DIR},
};
use images::{Image, ImageConfig};
use model::{
    ContainerSpec, Kind, Reason, WorkloadSpec,
    given::{Given, has_foreign_variables},
    lifecycle::Facts,
    manifest::{
        function::{DEFAULT_MEMORY, is_place},
        security::Security,
    },
    quantity::Cpu,
};
use network::TapOwner;
use rustix::{
    fs::{CWD, FileType, Mode, makedev, mknodat},
    mount::{MountFlags, mount_bind, mount_remount},
};
use serde::{Deserialize, Serialize};
use serde_json::json;
use userns::IdRange;

use super::{
    PodRuntime, blocking, etc, fault,
    files::{read_whole, write_whole},
    given,
    limits::{Devices, Limits},
    prepare::{CONFIG_FILE, START_FILE, StartFile},
    record::{Places, PodPlace, Record},
    scaffold::{self, Site},
    seccomp::{Confinement, Profile},
    spec::{ContainerSetup, Machine, Namespaces, command_line, container_spec, environment},
};
use crate::{
    InstanceSpec, Progress, RuntimeError,
    microvm::{
        Begin, Ready, Shape,
        jail::{GUEST_PROGRAM, ROOT, TEMPLATE},
    },
};

/// Who runs a VMM, inside its user namespace: nobody who owns anything.
const VMM_ID: u32 = 1;
/// Seconds that a microVM has to come up: on a busy machine that emulates, ten times what it needs on a quiet one.
const BOOT_SECONDS: u32 = 120;
/// Memory that a VMM takes beside its guest's.
const OVERHEAD_BYTES: u64 = 192 << 20;
/// Name of the file with what an image says about its program.
const IMAGE_FILE: &str = "image.json";
/// Directory of files that the jail shows.
const SHOWN_DIR: &str = "vm";
/// Devices that a VMM may have: maker of links, and the processor's virtual machines.
const TUN: (&str, u32, u32) = ("tun", 10, 200);
const KVM: (&str, u32, u32) = ("kvm", 10, 232);

/// What of an image is needed to run its program in a microVM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Content {
    /// Name of its root file system among those of the node.
    pub(super) root: String,
    /// Its digest, for people.
    pub(super) digest: String,
    /// What it says about its program.
    pub(super) config: ImageConfig,
    /// The state that its microVM begins with.
    #[serde(default)]
    pub(super) template: Option<PathBuf>,
}

impl Content {
    pub(super) fn of_image(root: String, image: &Image) -> Self {
        Self { root, digest: image.digest.to_string(), config: image.config.clone(), template: None }
    }
}

/// The machine's ids of a VMM.
fn vmm_owner(ids: Option<IdRange>) -> Result<(u32, u32), RuntimeError> {
    let id = ids.map_or(Some(VMM_ID), |ids| ids.outside(VMM_ID));
    let none = || fault::files(io::Error::other("the pod's range of user ids is empty"));
    id.map(|id| (id, id)).ok_or_else(none)
}

/// Who holds the TAP device of a Function.
pub(super) fn tap_owner(ids: Option<IdRange>) -> Result<TapOwner, RuntimeError> {
    vmm_owner(ids).map(|(user, group)| TapOwner { user, group })
}

/// Limits of an instance's control groups. Of a Function: its guest's memory is all that the program sees, and its VMM
/// needs some beside.
pub(super) fn limits(spec: &InstanceSpec, own: Limits) -> Limits {
    if spec.kind == Kind::Pod {
        return own;
    }
    let spec = &spec.spec;
    Limits { memory_bytes: Some(memory_bytes(spec) + OVERHEAD_BYTES), devices: Devices::Vmm, ..own }
}

fn memory_bytes(spec: &WorkloadSpec) -> u64 {
    spec.memory_limit().unwrap_or(DEFAULT_MEMORY).0
}

/// What one microVM has: as many processors as its limit needs, and no more than the machine has.
fn shape(spec: &WorkloadSpec, machine: &Machine) -> Shape {
    let container = spec.containers.first().and_then(|own| own.resources.as_ref());
    let limits = [container, spec.resources.as_ref()].into_iter().flatten().find_map(|own| own.limits?.cpu);
    let Cpu(millis) = limits.unwrap_or(Cpu(1_000));
    let processors = u32::try_from(millis.div_ceil(1_000)).unwrap_or(u32::MAX);
    Shape {
        processors: processors.clamp(1, machine.processors.max(1)),
        memory_mib: memory_bytes(spec) >> 20,
        from_template: false,
    }
}

impl PodRuntime {
    /// What all microVMs of this node share.
    async fn microvms_ready(&self) -> Result<Ready, RuntimeError> {
        let unfit = |why: String| fault::words("run a microVM".to_owned(), Reason::KindUnsupported, &why);
        self.shared.microvms.ready().await.map_err(unfit)
    }

    /// What a Function runs: its image's or its own root file system, on this node.
    pub(super) async fn content_of(
        &self,
        container: &ContainerSpec,
        spec: &WorkloadSpec,
        given: &Given,
        progress: Progress<'_>,
    ) -> Result<Content, RuntimeError> {
        if is_place(&container.image) {
            let execution = spec.function.as_ref().and_then(|own| own.execution.as_ref());
            let sha256 = execution.and_then(|own| own.sha256.as_deref());
            let message = format!("fetching {}", images::shown_url(&container.image));
            progress(Facts {
                reason: Some(Reason::ImagePulling),
                message: Some(message),
                ..Facts::default()
            });
            let roots = &self.shared.roots;
            let root = roots.of_place(&container.image, sha256, self.shared.microvms.allowed()).await?;
            return Ok(Content { digest: format!("sha256:{root}"), root, ..Content::default() });
        }
        let image = self.fetch(container, spec, given, progress).await?;
        let root = self.shared.roots.of_image(&self.shared.images, &image).await?;
        Ok(Content::of_image(root, &image))
    }

    /// What a Function runs once more: what it ran before, or that again if it is gone.
    pub(super) async fn content_of_run(
        &self,
        place: &PodPlace,
        record: &Record,
        index: usize,
        container: &ContainerSpec,
    ) -> Result<Content, RuntimeError> {
        let kept = read_whole::<Content>(&place.container(index).join(IMAGE_FILE)).map_err(fault::files)?;
        if let Some(kept) = kept.filter(|kept| self.shared.roots.get(&kept.root).is_some()) {
            return Ok(kept);
        }
        let spec = &record.spec.spec;
        let given = given::load(place, spec).map_err(fault::files)?;
        self.content_of(container, spec, &given, &|_| {}).await
    }

    /// Makes the container of a Function, for its first run or a later one. Says whether its machine begins from a template.
    pub(super) async fn furnish_function(
        &self,
        place: &PodPlace,
        record: &Record,
        (index, container): (usize, &ContainerSpec),
        content: Content,
    ) -> Result<bool, RuntimeError> {
        let ready = self.microvms_ready().await?;
        let root = self.shared.roots.get(&content.root);
        let root = root.ok_or_else(|| fault::files(io::Error::other("its root file system is gone")))?;
        let shape = shape(&record.spec.spec, &self.shared.machine);
        let template = self.shared.microvms.template(&ready, &shape).await;
        let warm = template.is_some();
        let content = Content { template, ..content };
        let (runtime, place, record, container) =
            (self.clone(), place.clone(), record.clone(), container.clone());
        let at_work = self.shared.busy.work_on(&record.spec.uid).await;
        let work = move || {
            let _at_work = at_work;
            runtime.write_function(&place, &record, (index, &container), (&ready, &content, &root))
        };
        blocking(work).await.map_err(fault::files)??;
        Ok(warm)
    }

    fn write_function(
        &self,
        place: &PodPlace,
        record: &Record,
        (index, container): (usize, &ContainerSpec),
        (ready, content, root): (&Ready, &Content, &Path),
    ) -> Result<(), RuntimeError> {
        let dir = place.container(index);
        let rootfs = dir.join("rootfs");
        mount_jail(&ready.jail, &rootfs).map_err(fault::files)?;
        make_shown(&dir.join(SHOWN_DIR)).map_err(fault::files)?;
        let machine = machine_path(place, index, container, &record.spec.spec);
        let mounts = jail_mounts(&dir.join(SHOWN_DIR), &machine, root, content.template.as_deref(), ready);
        let ns = place.ns();
        let setup = ContainerSetup {
            rootfs,
            etc_dir: place.etc(),
            namespaces: Namespaces::of(&record.spec.spec, &ns),
            hostname: etc::hostname(&record.spec.id),
            machine: self.shared.machine.clone(),
            security: Security { read_only_root: true, ..Security::default() },
            ids: record.ids,
            user: Account { uid: VMM_ID, gid: VMM_ID, groups: Vec::new() },
            working_dir: PathBuf::from("/"),
            volumes: mounts,
        };
        let supervisor = ContainerSpec {
            name: container.name.clone(),
            command: vec![GUEST_PROGRAM.to_owned(), "supervise".to_owned()],
            tty: container.tty,
            ..ContainerSpec::default()
        };
        let mut document = container_spec(&supervisor, &ImageConfig::default(), &setup)
            .map_err(|error| fault::spec(&container.name, error))?;
        let scaffold = match record.ids {
            Some(_) => {
                let namespace = network::namespace::user_path(&ns);
                let groups = self.shared.cgroups.seen_by(&record.spec.uid, index);
                let site = Site { namespace, pod_dir: place.run(), rootfs: None, groups };
                Some(scaffold::move_onto(&mut document, site).map_err(fault::files)?)
            }
            None => None,
        };
        let confinement = Confinement::of(&Profile::Standard, &[]).map_err(fault::seccomp)?;
        confinement.write(&dir).map_err(fault::files)?;
        let start = StartFile {
            owner: vmm_owner(record.ids)?,
            scaffold,
            stop_signal: stop_signal(content),
            runtime: None,
            says_itself: true,
        };
        DirBuilder::new().recursive(true).mode(0o700).create(place.logs()).map_err(fault::files)?;
        write_whole(&dir.join(IMAGE_FILE), content).map_err(fault::files)?;
        write_whole(&dir.join(CONFIG_FILE), &document).map_err(fault::files)?;
        write_whole(&dir.join(START_FILE), &start).map_err(fault::files)
    }

    /// Writes down what the supervisor of a Function's next run is told: the last step before it is begun.
    pub(super) async fn tell_function(
        &self,
        place: &PodPlace,
        record: &Record,
        index: usize,
    ) -> Result<(), RuntimeError> {
        let ready = self.microvms_ready().await?;
        let (place, record) = (place.clone(), record.clone());
        let (gateway, prefix, mtu) = self.shared.network.surroundings();
        let shape = shape(&record.spec.spec, &self.shared.machine);
        let work = move || {
            let Some(container) = record.spec.spec.containers.first() else {
                return Err(fault::files(io::ErrorKind::NotFound.into()));
            };
            let content = read_whole::<Content>(&place.container(index).join(IMAGE_FILE));
            let content = content.map_err(fault::files)?.unwrap_or_default();
            let given = given::load(&place, &record.spec.spec).map_err(fault::files)?;
            let whole = given::with_values(container, &given)?;
            let from_template = content.template.is_some();
            let shape = Shape { from_template, ..shape };
            let address = record.attachment.as_ref().map(|own| own.ip);
            let network = address.map(|address| GuestNetwork { address, prefix, gateway, mtu });
            let security = Security::of(&record.spec.spec, container);
            let etc = etc_files(&place).map_err(fault::files)?;
            let program = program(&whole, &content, &security, &record.spec)?;
            let (volumes, mounts) = guest_volumes(&record.spec.spec, container, &given)?;
            let boot = Boot {
                hostname: etc::hostname(&record.spec.id),
                network,
                etc,
                read_only: security.read_only_root,
                volumes,
                mounts,
                owner: program.user.clone(),
                ..Boot::default()
            };
            let task = Task::Run(program);
            let Begin { command, api, port, agent } = ready.begin(&shape);
            let machine = Guest {
                vmm: command,
                template: from_template.then(|| TEMPLATE.into()),
                api,
                port,
                agent,
                boot_seconds: BOOT_SECONDS,
                boot,
                main: Order { task, terminal: container.tty.then_some((24, 80)), user: String::new() },
                stdin: container.stdin,
            };
            let path = machine_path(&place, index, container, &record.spec.spec);
            write_machine(&path, &machine).map_err(fault::files)
        };
        blocking(work).await.map_err(fault::files)?
    }
}

/// The order of a further program, as the variables of the process that stands for it.
pub(super) fn session_environment(place: &PodPlace, index: usize, order: &Order) -> io::Result<Vec<String>> {
    let mut order = order.clone();
    let machine = [place.container(index).join(SHOWN_DIR).join("machine.json"), in_memory(place, index)];
    let machine = machine.iter().find_map(|path| read_whole::<Guest>(path).ok().flatten());
    let Some(Task::Run(main)) = machine.map(|machine| machine.main.task) else {
        return Err(io::Error::other("the microVM is not there any more"));
    };
    order.user.clone_from(&main.user);
    if let Task::Run(program) = &mut order.task {
        // A further program has the environment, the directory and the user of the first.
        let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
        let mut env = main.env;
        env.retain(|known| !program.env.iter().any(|own| name(own) == name(known)));
        env.append(&mut program.env);
        program.env = env;
        if program.working_dir.as_os_str().is_empty() {
            program.working_dir = main.working_dir;
        }
        (program.user, program.groups, program.non_root) = (main.user, main.groups, main.non_root);
    }
    Ok(vec![format!("{ORDER_VARIABLE}={}", serde_json::to_string(&order)?)])
}

/// The program that stands for a further one.
pub(super) fn session_command() -> Vec<String> {
    vec![GUEST_PROGRAM.to_owned(), "session".to_owned()]
}

fn stop_signal(content: &Content) -> i32 {
    super::shim::process::signal_number(&content.config.stop_signal).unwrap_or(libc::SIGTERM)
}

/// The jail, read-only, as the root of one VMM.
fn mount_jail(jail: &Path, rootfs: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(rootfs)?;
    mount_bind(jail, rootfs)?;
    mount_remount(rootfs, MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID, "")?;
    Ok(())
}

/// What a Function's container sees beside its jail, each thing at the path at which the supervisor opens it.
fn jail_mounts(
    shown: &Path,
    machine: &Path,
    root: &Path,
    template: Option<&Path>,
    ready: &Ready,
) -> Vec<serde_json::Value> {
    let bind = |source: &Path, destination: &str, access: &str| {
        json!({
            "destination": destination, "type": "bind", "source": source,
            "options": ["bind", "nosuid", "noexec", access],
        })
    };
    let mut mounts = vec![
        json!({
            "destination": RUN_DIR, "type": "tmpfs", "source": "run",
            "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=1024k"],
        }),
        bind(root, ROOT, "ro"),
        bind(machine, MACHINE_FILE, "ro"),
        bind(&shown.join("reason"), REASON_FILE, "rw"),
        bind(&shown.join(TUN.0), "/dev/net/tun", "rw"),
    ];
    mounts.extend(template.map(|template| bind(template, TEMPLATE, "ro")));
    if ready.vmm.needs_kvm() {
        mounts.push(bind(&shown.join(KVM.0), "/dev/kvm", "rw"));
    }
    mounts
}

/// Files that belong to one VMM alone. Their owners are those of inside: they are shown with mapped ones.
fn make_shown(dir: &Path) -> io::Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    File::create(dir.join("reason"))?;
    File::create(dir.join("machine.json"))?;
    for (name, major, minor) in [TUN, KVM] {
        let mode = Mode::RUSR | Mode::WUSR;
        mknodat(CWD, dir.join(name), FileType::CharacterDevice, mode, makedev(major, minor))?;
    }
    for name in ["reason", TUN.0, KVM.0] {
        chown(dir.join(name), Some(VMM_ID), Some(VMM_ID))?;
    }
    Ok(())
}

fn in_memory(place: &PodPlace, index: usize) -> PathBuf {
    place.given().join(format!("{index}.machine.json"))
}

/// Where the description of a Function's machine is: in memory, if values in it came from secrets.
fn machine_path(place: &PodPlace, index: usize, container: &ContainerSpec, spec: &WorkloadSpec) -> PathBuf {
    let has_given = spec.volumes.iter().any(|volume| model::given::of_volume(volume).is_some());
    if has_given || has_foreign_variables(container) {
        in_memory(place, index)
    } else {
        place.container(index).join(SHOWN_DIR).join("machine.json")
    }
}

fn write_machine(path: &Path, machine: &Guest) -> io::Result<()> {
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o400).open(path)?;
    file.write_all(&serde_json::to_vec(machine)?)?;
    chown(path, Some(VMM_ID), Some(VMM_ID))
}

/// The volumes of a microVM, and where they are shown: what is given is told to it, what is empty is made inside.
fn guest_volumes(
    spec: &WorkloadSpec,
    container: &ContainerSpec,
    given: &Given,
) -> Result<(Vec<GuestVolume>, Vec<GuestMount>), RuntimeError> {
    let mut volumes = Vec::new();
    for volume in &spec.volumes {
        let is_shown = container.volume_mounts.iter().any(|mount| mount.name == volume.name);
        let bytes = volume.empty_dir.and_then(|own| own.size_limit).map(|limit| limit.0);
        volumes.push(match model::given::of_volume(volume).filter(|_| is_shown) {
            None => GuestVolume { bytes, ..GuestVolume::default() },
            Some((kind, own)) => {
                let files = given.files(kind, own).map_err(|why| given::missing(&why))?;
                let mode = given::mode(kind);
                let file = |(path, bytes): (&str, &[u8])| VolumeFile {
                    path: path.to_owned(),
                    content: bytes.into(),
                    mode,
                };
                let files = files.into_iter().map(file).collect();
                GuestVolume { bytes, is_given: true, files }
            }
        });
    }
    let mut mounts = Vec::new();
    for mount in &container.volume_mounts {
        let Some(volume) = spec.volumes.iter().position(|own| own.name == mount.name) else { continue };
        let sub_path = mount.sub_path.as_ref().map(PathBuf::from);
        let given = volumes.get(volume).filter(|own| own.is_given);
        if let (Some(part), Some(own)) = (&sub_path, given)
            && !own.files.iter().any(|file| Path::new(&file.path).starts_with(part))
        {
            return Err(given::missing(&format!(
                "there is no {} in volume {:?}",
                part.display(),
                mount.name
            )));
        }
        let (path, is_read_only) = (PathBuf::from(&mount.mount_path), mount.read_only || given.is_some());
        mounts.push(GuestMount { volume, sub_path, path, is_read_only });
    }
    mounts.sort_by_key(|mount| mount.path.components().count());
    Ok((volumes, mounts))
}

fn etc_files(place: &PodPlace) -> io::Result<Vec<(String, String)>> {
    let read = |name: &str| Ok((name.to_owned(), fs::read_to_string(place.etc().join(name))?));
    ["hosts", "hostname", "resolv.conf"].into_iter().map(read).collect()
}

fn program(
    container: &ContainerSpec,
    content: &Content,
    security: &Security,
    spec: &InstanceSpec,
) -> Result<Program, RuntimeError> {
    let config = &content.config;
    let unfit = |error| fault::spec(&container.name, error);
    let args = match command_line(container, config) {
        // A root file system runs its own `init`.
        Err(super::spec::SpecError::NoCommand) if *config == ImageConfig::default() => Vec::new(),
        other => other.map_err(unfit)?,
    };
    let env = environment(container, config, &etc::hostname(&spec.id)).map_err(unfit)?;
    let user = match (security.user, security.group) {
        (None, None) => config.user.clone(),
        (Some(user), None) => user.to_string(),
        (Some(user), Some(group)) => format!("{user}:{group}"),
        (None, Some(group)) => {
            let user = config.user.split(':').next().filter(|user| !user.is_empty()).unwrap_or("0");
            format!("{user}:{group}")
        }
    };
    let working_dir = container.working_dir.clone().unwrap_or_else(|| config.working_dir.clone());
    Ok(Program {
        args,
        env,
        working_dir: working_dir.into(),
        user,
        groups: security.groups.clone(),
        non_root: security.non_root,
    })
}

/// Names of the root file systems that instances of this node stand on.
pub(super) fn used_roots(places: &Places) -> BTreeSet<String> {
    let uids = places.uids().unwrap_or_default();
    let dirs = uids.iter().filter_map(|uid| Some(places.pod(uid).ok()?.container(0)));
    dirs.filter_map(|dir| Some(read_whole::<Content>(&dir.join(IMAGE_FILE)).ok()??.root)).collect()
}

/// What the supervisor left to say about the end of a microVM.
pub(super) fn last_words(container_dir: &Path) -> Option<String> {
    /// More than that is not a reason.
    const MAX_BYTES: u64 = 4 << 10;
    let mut text = Vec::new();
    let file = File::open(container_dir.join(SHOWN_DIR).join("reason")).ok()?;
    io::Read::read_to_end(&mut io::Read::take(file, MAX_BYTES), &mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let plain: String = text.chars().filter(|letter| !letter.is_control()).collect();
    Some(plain).filter(|words| !words.trim().is_empty())
}
