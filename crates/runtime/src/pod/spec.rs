//! What a container is told to be: from manifest and image to the runtime specification (`config.json`). Pure.
//!
//! ```text
//!  ContainerSpec ─┐
//!  ImageConfig   ─┼─▶ config.json ─▶ libcontainer
//!  what was set up┘
//! ```
//! *Guarantees*: the defaults are the safe ones and nothing in an image changes them: capabilities of a plain
//! service, no new privileges, kernel files hidden or read-only. Only a privileged container has others, and only where the
//! node's operator allows one.
//! *Not here*: limits and devices, which are the control groups' (`cgroup`).

use std::path::{Path, PathBuf};

use images::ImageConfig;
use model::{ContainerSpec, WorkloadSpec, manifest::security::Security};
use network::namespace;
use serde_json::{Value, json};
use userns::IdRange;

use guest::accounts::Account;

use super::privileged::{all_capabilities, devices};

/// Where programs are looked for if the image does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Open files of one process; less where the machine allows less.
const OPEN_FILES: u64 = 65_536;
/// Files of the kernel that tell about the machine or harm it.
const MASKED_PATHS: [&str; 12] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Files of the kernel that may be read and not written.
const READONLY_PATHS: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// What was set up for a container, and what the machine can do.
#[derive(Clone, Debug, Default)]
pub struct ContainerSetup {
    /// Its root file system, mounted.
    pub rootfs: PathBuf,
    /// Directory with the pod's `hosts`, `hostname` and `resolv.conf`.
    pub etc_dir: PathBuf,
    /// Its namespaces.
    pub namespaces: Namespaces,
    /// Ids of the pod's user namespace, if it has one.
    pub ids: Option<IdRange>,
    /// Who runs it.
    pub user: Account,
    /// Where it starts: exists.
    pub working_dir: PathBuf,
    /// Host name of the pod.
    pub hostname: String,
    /// What it may do.
    pub security: Security,
    /// Mounts of its volumes.
    pub volumes: Vec<Value>,
    /// What this machine can do.
    pub machine: Machine,
}

/// The namespaces of a container, beside those that are always its own. None: the machine's.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    /// File that holds the pod's network.
    pub net: Option<PathBuf>,
    /// File that holds the pod's memory and queues.
    pub ipc: Option<PathBuf>,
    /// File that holds the pod's host name.
    pub uts: Option<PathBuf>,
    /// Where its processes are.
    pub pids: Pids,
}

/// Where the processes of a container are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Pids {
    /// Among themselves.
    #[default]
    Own,
    /// With those of the pod's other containers, in the namespace that this file holds.
    Pod(PathBuf),
    /// With those of the machine.
    Machine,
}

impl Namespaces {
    /// Those of a pod's containers, from the directory of its namespaces.
    #[must_use]
    pub fn of(spec: &WorkloadSpec, dir: &Path) -> Self {
        let own_net = !spec.host_network;
        Self {
            net: own_net.then(|| namespace::net_path(dir)),
            // The machine's name goes with its network.
            uts: own_net.then(|| namespace::uts_path(dir)),
            ipc: (!spec.host_ipc).then(|| namespace::ipc_path(dir)),
            pids: match (spec.host_pid, spec.share_process_namespace) {
                (true, _) => Pids::Machine,
                (false, true) => Pids::Pod(namespace::pid_path(dir)),
                (false, false) => Pids::Own,
            },
        }
    }
}

/// What this machine can do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Machine {
    /// Mount points of the v1 control groups that containers see; none with the unified ones (v2).
    pub cgroups_shown: Vec<PathBuf>,
    /// Most open files that a process may have.
    pub open_files_max: u64,
    /// Its processors: each may have a throttle file that is hidden.
    pub processors: u32,
}

/// A container that cannot be described.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpecError {
    /// Nothing says what to run.
    #[error("there is no command: the image has none, and the manifest neither")]
    NoCommand,
    /// Something holds a NUL, which the kernel cannot take.
    #[error("the {what} holds a NUL character")]
    Nul {
        /// What.
        what: &'static str,
    },
}

/// The runtime specification of a container.
///
/// # Errors
/// If there is nothing to run, or it cannot be said to the kernel.
pub fn container_spec(
    container: &ContainerSpec,
    image: &ImageConfig,
    setup: &ContainerSetup,
) -> Result<Value, SpecError> {
    let args = command_line(container, image)?;
    let env = environment(container, image, &setup.hostname)?;
    let privileged = setup.security.privileged;
    let capabilities: Vec<String> = if privileged {
        all_capabilities()
    } else {
        capability_names(&setup.security).into_iter().map(str::to_owned).collect()
    };
    let open_files = OPEN_FILES.min(setup.machine.open_files_max);
    let mut document = json!({
        "ociVersion": "1.2.0",
        "root": { "path": setup.rootfs, "readonly": setup.security.read_only_root },
        "process": {
            "terminal": false,
            "user": {
                "uid": setup.user.uid, "gid": setup.user.gid, "additionalGids": setup.user.groups, "umask": 0o022,
            },
            "args": args,
            "env": env,
            "cwd": setup.working_dir,
            "capabilities": {
                "bounding": capabilities, "effective": capabilities, "permitted": capabilities,
                "inheritable": [], "ambient": [],
            },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": open_files, "hard": open_files }],
            "noNewPrivileges": !privileged,
        },
        "mounts": mounts(setup),
        "linux": { "namespaces": namespaces(&setup.namespaces) },
    });
    if privileged {
        document["linux"]["devices"] = devices().into();
    } else {
        document["linux"]["maskedPaths"] = masked_paths(setup.machine.processors).into();
        document["linux"]["readonlyPaths"] = json!(readonly_paths(&setup.machine));
    }
    Ok(document)
}

fn namespaces(own: &Namespaces) -> Vec<Value> {
    let pids = match &own.pids {
        Pids::Own => Some(json!({ "type": "pid" })),
        Pids::Pod(path) => Some(json!({ "type": "pid", "path": path })),
        Pids::Machine => None,
    };
    let always = [json!({ "type": "mount" }), json!({ "type": "cgroup" })];
    let of_pod = [("network", &own.net), ("ipc", &own.ipc), ("uts", &own.uts)];
    let of_pod =
        of_pod.into_iter().filter_map(|(kind, path)| Some(json!({ "type": kind, "path": path.as_ref()? })));
    pids.into_iter().chain(always).chain(of_pod).collect()
}

/// The capabilities of a container, by the kernel's names.
#[must_use]
pub fn capability_names(security: &Security) -> Vec<&'static str> {
    security.capabilities.iter().map(|own| own.name()).collect()
}

/// Kubernetes' rule: a command stands instead of the image's entrypoint and its command, arguments stand instead of
/// the image's command.
pub(super) fn command_line(container: &ContainerSpec, image: &ImageConfig) -> Result<Vec<String>, SpecError> {
    let (program, args) = match (container.command.is_empty(), container.args.is_empty()) {
        (true, true) => (&image.entrypoint, &image.cmd),
        (true, false) => (&image.entrypoint, &container.args),
        (false, _) => (&container.command, &container.args),
    };
    let line: Vec<String> = program.iter().chain(args).cloned().collect();
    if line.iter().any(|word| word.contains('\0')) {
        return Err(SpecError::Nul { what: "command" });
    }
    if line.first().is_none_or(String::is_empty) { Err(SpecError::NoCommand) } else { Ok(line) }
}

/// Defaults, then the image's variables, then the manifest's; the later value of a name wins, in the earlier place.
pub(super) fn environment(
    container: &ContainerSpec,
    image: &ImageConfig,
    hostname: &str,
) -> Result<Vec<String>, SpecError> {
    let terminal = container.tty.then_some(("TERM", "xterm"));
    let defaults = [("PATH", DEFAULT_PATH), ("HOSTNAME", hostname)].into_iter().chain(terminal);
    let own = container.env.iter().map(|variable| (variable.name.as_str(), variable.value.as_str()));
    let from_image = image.env.iter().map(|(name, value)| (name.as_str(), value.as_str()));
    let mut merged: Vec<(&str, &str)> = Vec::new();
    for (name, value) in defaults.chain(from_image).chain(own) {
        if name.contains('\0') || value.contains('\0') {
            return Err(SpecError::Nul { what: "environment" });
        }
        // An image can hold what no program could have set; it has no meaning.
        if name.is_empty() || name.contains('=') {
            continue;
        }
        match merged.iter_mut().find(|(known, _)| *known == name) {
            Some(entry) => entry.1 = value,
            None => merged.push((name, value)),
        }
    }
    Ok(merged.into_iter().map(|(name, value)| format!("{name}={value}")).collect())
}

fn mounts(setup: &ContainerSetup) -> Value {
    let of_pod = |name: &str| {
        json!({
            "destination": format!("/etc/{name}"), "type": "bind", "source": setup.etc_dir.join(name),
            "options": ["bind", "nosuid", "nodev", "noexec"],
        })
    };
    let access = if setup.security.privileged { "rw" } else { "ro" };
    let own = json!([
        { "destination": "/proc", "type": "proc", "source": "proc", "options": ["nosuid", "noexec", "nodev"] },
        {
            "destination": "/dev", "type": "tmpfs", "source": "tmpfs",
            "options": ["nosuid", "noexec", "strictatime", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts", "type": "devpts", "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        shared_memory(setup.namespaces.ipc.is_none()),
        {
            "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue",
            "options": ["nosuid", "noexec", "nodev"],
        },
        {
            "destination": "/sys", "type": "sysfs", "source": "sysfs",
            "options": ["nosuid", "noexec", "nodev", access],
        },
        {
            "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
            "options": ["nosuid", "noexec", "nodev", "relatime", access],
        },
        of_pod("resolv.conf"),
        of_pod("hosts"),
        of_pod("hostname"),
    ]);
    Value::from_iter(own.as_array().into_iter().flatten().chain(&setup.volumes).cloned())
}

/// The mount of shared memory. Queues need none of this: their file system is that of the namespace.
fn shared_memory(of_machine: bool) -> Value {
    if of_machine {
        return json!({
            "destination": "/dev/shm", "type": "bind", "source": "/dev/shm",
            "options": ["bind", "nosuid", "noexec", "nodev"],
        });
    }
    json!({
        "destination": "/dev/shm", "type": "tmpfs", "source": "shm",
        "options": ["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"],
    })
}

/// Control groups of v1 are each mounted apart, and writable unless said otherwise here: a container that runs as root
/// could widen its own limits.
fn readonly_paths(machine: &Machine) -> Vec<PathBuf> {
    READONLY_PATHS.iter().map(PathBuf::from).chain(machine.cgroups_shown.iter().cloned()).collect()
}

fn masked_paths(processors: u32) -> Vec<String> {
    let throttles = (0..processors).map(|n| format!("/sys/devices/system/cpu/cpu{n}/thermal_throttle"));
    MASKED_PATHS.iter().map(|path| (*path).to_owned()).chain(throttles).collect()
}

#[cfg(test)]
mod tests;
