//! Control groups of this node: one for each pod, the containers' below it, and one for the shim.
//!
//! ```text
//!  v1, in each hierarchy        v2
//!  <mount>/rik/<node>/<uid>     /sys/fs/cgroup/rik/<node>/<uid>     the pod: limits of the whole
//!                     └─<n>                               └─<n>     a container: its own limits and devices
//!                  └─shim                              └─shim
//! ```
//! libcontainer has no part in this (`docs/adr/0026-own-control-groups.md`): the process that becomes a container is
//! born in its groups or moves itself there ([`Groups`]).
//! *Guarantees*: nothing outside `/rik/<node>` is ever written to, but for the v2 switch that lets controllers reach it
//! (`switches`); mounts are never changed; removing a pod ends whatever still runs in it.
//! *Assumption*: where v1 hierarchies exist they are used, as libcontainer does; a unified one beside them is left alone.

mod counters;
mod folders;
mod groups;

pub use groups::{Groups, SeenGroup};

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use self::folders::{children, failed, make, remove, write};
use super::{
    limits::{CPU_PERIOD_MICROS, Devices, Limits},
    switches,
};

/// Where the unified hierarchy is if it is the only one, and where the others are below.
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// The v1 controllers that limit or count something of ours. Each further one would cost a group for every pod.
const CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "devices", "memory", "pids"];
/// The v1 hierarchies that containers see, as language runtimes that ask for their limits expect.
const SHOWN_CONTROLLERS: [&str; 5] = ["cpu", "cpuacct", "cpuset", "memory", "pids"];
/// The v1 device list of a container: null, zero, full, random, urandom, tty, ptmx and terminals of its own.
const DEVICES: [&str; 8] = [
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];
/// What a VMM has beside: the maker of links, and the processor's virtual machines.
const VMM_DEVICES: [&str; 2] = ["c 10:200 rw", "c 10:232 rw"];
/// Folder of everything of RIK.
const TOP: &str = "rik";
/// How often the node's own group is tried to be made: each further try needs another node that ends at that instant.
const BASE_TRIES: u32 = 10;
/// How long a group's processes may take to vanish after they were killed.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(5);

/// What could not be done about control groups.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// The machine has none, or none that are mounted where they belong.
    #[error("find control groups below {CGROUP_ROOT}")]
    None,
    /// A name that cannot be a folder's.
    #[error("use {name:?} as the name of a control group")]
    Name {
        /// The name.
        name: String,
    },
    /// A limit was asked for that this machine cannot set.
    #[error("limit {what}: this machine has no control group for it")]
    NoController {
        /// What was to be limited.
        what: &'static str,
    },
    /// A folder or file of a group could not be made, written or removed.
    #[error("{operation} {}", path.display())]
    Path {
        /// What was being done.
        operation: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// Processes do not end.
    #[error("empty {}: processes {pids:?} do not end", path.display())]
    Occupied {
        /// The group.
        path: PathBuf,
        /// Who is in it.
        pids: Vec<i32>,
    },
}

/// Which hierarchies there are.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Layout {
    /// One for each set of controllers.
    Legacy {
        /// Those that we use: controllers and mount point.
        used: Vec<(BTreeSet<String>, PathBuf)>,
        /// Mount points of those that containers see.
        shown: Vec<PathBuf>,
        /// Mount points of those that we do not use: other runtimes make groups there.
        others: Vec<PathBuf>,
    },
    /// One for all.
    Unified(PathBuf),
}

/// The control groups of one node on this machine.
#[derive(Clone, Debug)]
pub struct Cgroups {
    layout: Layout,
    node: String,
}

impl Cgroups {
    /// Finds the machine's hierarchies and makes the node's own group in them.
    ///
    /// # Errors
    /// If there are none, or they cannot be written to.
    pub fn open(node: &str) -> Result<Self, CgroupError> {
        let plain = |letter: char| letter.is_ascii_alphanumeric() || "-_.".contains(letter);
        if node.is_empty() || node.starts_with('.') || !node.chars().all(plain) {
            return Err(CgroupError::Name { name: node.to_owned() });
        }
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let layout = layout_of(&mountinfo).ok_or(CgroupError::None)?;
        let groups = Self { layout, node: node.to_owned() };
        groups.make_base()?;
        Ok(groups)
    }

    /// Whether the machine has the unified hierarchy alone.
    #[must_use]
    pub const fn is_unified(&self) -> bool {
        matches!(self.layout, Layout::Unified(_))
    }

    /// The groups of a container.
    #[must_use]
    pub fn container(&self, uid: &str, index: usize) -> Groups {
        let own = self.below_root(uid, index);
        let group = |root: PathBuf| root.join(&own);
        match &self.layout {
            Layout::Legacy { shown, others, .. } => {
                // Another runtime has made some there; whoever follows its container belongs in them as well.
                let others = others.iter().cloned().map(group).filter(|dir| dir.exists());
                let dirs = self.roots().into_iter().map(group).chain(others).collect();
                Groups::Legacy { dirs, shown: shown.clone() }
            }
            Layout::Unified(root) => Groups::Unified { dir: group(root.clone()) },
        }
    }

    /// Mount points of the v1 hierarchies that containers see.
    #[must_use]
    pub fn shown(&self) -> Vec<PathBuf> {
        match &self.layout {
            Layout::Legacy { shown, .. } => shown.clone(),
            Layout::Unified(_) => Vec::new(),
        }
    }

    /// The groups of v1 that a container sees. In hierarchies that are not used it has none, and sees what it is in.
    #[must_use]
    pub fn seen_by(&self, uid: &str, index: usize) -> Vec<SeenGroup> {
        let own = self.below_root(uid, index);
        let used = self.roots();
        let seen = |root: PathBuf| {
            let name = root.file_name()?.to_str()?.to_owned();
            Some(SeenGroup { name, dir: if used.contains(&root) { root.join(&own) } else { root } })
        };
        self.shown().into_iter().filter_map(seen).collect()
    }

    /// Directory of a container's memory group.
    #[must_use]
    pub fn memory_dir(&self, uid: &str, index: usize) -> Option<PathBuf> {
        Some(self.dir_of("memory")?.join(self.below_root(uid, index)))
    }

    /// A container's group as other runtimes are told it: below the mount point of each hierarchy.
    #[must_use]
    pub fn path_of(&self, uid: &str, index: usize) -> PathBuf {
        Path::new("/").join(self.below_root(uid, index))
    }

    fn below_root(&self, uid: &str, index: usize) -> PathBuf {
        Path::new(TOP).join(&self.node).join(uid).join(index.to_string())
    }

    /// Makes the pod's group and those of its containers, with their limits. Safe to repeat before the start.
    ///
    /// # Errors
    /// If a group cannot be made, or a limit not be set.
    pub fn make_pod(&self, uid: &str, limits: &Limits, containers: &[Limits]) -> Result<(), CgroupError> {
        let pod = Path::new(TOP).join(&self.node).join(uid);
        for root in self.roots() {
            let group = root.join(&pod);
            match make(&group) {
                Err(CgroupError::Path { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                    self.make_base()?;
                    make(&group)?;
                }
                other => other?,
            }
            self.pass_down(&group)?;
            for index in 0..containers.len() {
                let container = group.join(index.to_string());
                make(&container)?;
                self.pass_down_cpuset(&container)?;
            }
        }
        self.set_limits(&pod, limits)?;
        for (index, limits) in containers.iter().enumerate() {
            let container = pod.join(index.to_string());
            self.set_limits(&container, limits)?;
            self.set_devices(&container, limits)?;
        }
        Ok(())
    }

    /// Makes a container's group anew, with its limits: what an earlier run of it counted is gone.
    ///
    /// # Errors
    /// If processes do not end, or a group cannot be made.
    pub fn make_container_anew(&self, uid: &str, index: usize, limits: &Limits) -> Result<(), CgroupError> {
        let container = Path::new(TOP).join(&self.node).join(uid).join(index.to_string());
        self.remove_below(&container)?;
        for root in self.roots() {
            let group = root.join(&container);
            make(&group)?;
            self.pass_down_cpuset(&group)?;
        }
        self.set_limits(&container, limits)?;
        self.set_devices(&container, limits)
    }

    /// Ends whatever still runs in the pod's group and removes it everywhere. Ok if there is none.
    ///
    /// # Errors
    /// If processes do not end, or a group cannot be removed.
    pub fn remove_pod(&self, uid: &str) -> Result<(), CgroupError> {
        self.remove_below(&Path::new(TOP).join(&self.node).join(uid))
    }

    /// Uids of pods that have a group.
    #[must_use]
    pub fn pods(&self) -> BTreeSet<String> {
        let folders = self.roots().into_iter().map(|root| root.join(TOP).join(&self.node));
        let names = folders.flat_map(|folder| children(&folder));
        names
            .filter_map(|child| child.file_name()?.to_str().map(str::to_owned))
            .filter(|name| name != "shim")
            .collect()
    }

    /// Puts the shim in a group of its own, outside every pod's and every limit that riklet has.
    ///
    /// # Errors
    /// If a group cannot be made or entered.
    pub fn enter_shim(&self, pid: i32) -> Result<(), CgroupError> {
        for root in self.roots() {
            let group = root.join(TOP).join(&self.node).join("shim");
            make(&group)?;
            self.pass_down_cpuset(&group)?;
            write(&group.join("cgroup.procs"), &pid.to_string())?;
        }
        Ok(())
    }

    /// Removes everything of this node.
    ///
    /// # Errors
    /// If processes do not end, or a group cannot be removed.
    pub fn remove_all(&self) -> Result<(), CgroupError> {
        self.remove_below(&Path::new(TOP).join(&self.node))?;
        for root in self.all_roots() {
            let top = root.join(TOP);
            let noted = switches::noted(&top);
            // Other nodes of this machine may live there.
            if fs::remove_dir(&top).is_ok() && self.is_unified() {
                switches::take_back(&root, &noted);
            }
        }
        Ok(())
    }

    fn roots(&self) -> Vec<PathBuf> {
        match &self.layout {
            Layout::Legacy { used, .. } => used.iter().map(|(_, root)| root.clone()).collect(),
            Layout::Unified(root) => vec![root.clone()],
        }
    }

    /// Those that we do not use as well.
    fn all_roots(&self) -> Vec<PathBuf> {
        let mut roots = self.roots();
        if let Layout::Legacy { others, .. } = &self.layout {
            roots.extend(others.iter().cloned());
        }
        roots
    }

    fn dir_of(&self, controller: &str) -> Option<PathBuf> {
        match &self.layout {
            Layout::Legacy { used, .. } => {
                used.iter().find(|(own, _)| own.contains(controller)).map(|(_, root)| root.clone())
            }
            Layout::Unified(root) => Some(root.clone()),
        }
    }

    /// Another node of this machine removes our common folder when it is empty, so it may go while we fill it.
    fn make_base(&self) -> Result<(), CgroupError> {
        let mut tries = 1;
        loop {
            match self.try_to_make_base() {
                Err(CgroupError::Path { source, .. })
                    if source.kind() == io::ErrorKind::NotFound && tries < BASE_TRIES =>
                {
                    tries += 1;
                }
                done => return done,
            }
        }
    }

    fn try_to_make_base(&self) -> Result<(), CgroupError> {
        for root in self.roots() {
            // Our folder before the switches above it: nobody takes switches back as long as there is a group.
            make(&root.join(TOP))?;
            let switched_on = if self.is_unified() { switches::pass_on(&root) } else { Vec::new() };
            if !switched_on.is_empty() {
                switches::note(&root.join(TOP), &switched_on);
            }
            for folder in [root.join(TOP), root.join(TOP).join(&self.node)] {
                make(&folder)?;
                // Older kernels count a group's children against it only if told to, and only before it has any.
                let _ = fs::write(folder.join("memory.use_hierarchy"), "1");
                self.pass_down(&folder)?;
            }
        }
        Ok(())
    }

    /// Lets a new group pass on to its children what it has itself.
    fn pass_down(&self, group: &Path) -> Result<(), CgroupError> {
        if self.is_unified() {
            switches::pass_on(group);
            return Ok(());
        }
        self.pass_down_cpuset(group)
    }

    /// A new v1 group has no processors and no memory nodes, and takes no process until it has.
    fn pass_down_cpuset(&self, group: &Path) -> Result<(), CgroupError> {
        if self.is_unified() {
            return Ok(());
        }
        for name in ["cpuset.cpus", "cpuset.mems"] {
            let Ok(own) = fs::read_to_string(group.join(name)) else { return Ok(()) };
            if own.trim().is_empty() {
                let parent = group.parent().map(|parent| parent.join(name)).unwrap_or_default();
                let inherited =
                    fs::read_to_string(&parent).map_err(|source| failed("read", &parent, source))?;
                write(&group.join(name), inherited.trim())?;
            }
        }
        Ok(())
    }

    fn set_limits(&self, group: &Path, limits: &Limits) -> Result<(), CgroupError> {
        let files = if self.is_unified() { unified_files(limits) } else { legacy_files(limits) };
        for LimitFile { controller, name, value, required } in files {
            let dir = self.dir_of(controller).map(|root| root.join(group));
            match dir.map(|dir| dir.join(name)).filter(|file| file.exists()) {
                Some(file) => write(&file, &value)?,
                None if required => return Err(CgroupError::NoController { what: controller }),
                None => {}
            }
        }
        Ok(())
    }

    /// Closes all devices of the machine to a container but those that are meant for it. The unified hierarchy has no such file:
    /// there, a container has no device but those that were made for it, and cannot make any.
    fn set_devices(&self, container: &Path, limits: &Limits) -> Result<(), CgroupError> {
        let Some(group) = self.dir_of("devices").filter(|_| !self.is_unified()) else { return Ok(()) };
        let group = group.join(container);
        let more = match limits.devices {
            Devices::All => return Ok(()),
            Devices::Vmm => VMM_DEVICES.as_slice(),
            Devices::Usual => &[],
        };
        write(&group.join("devices.deny"), "a")?;
        DEVICES.iter().chain(more).try_for_each(|device| write(&group.join("devices.allow"), device))
    }

    fn remove_below(&self, path: &Path) -> Result<(), CgroupError> {
        let until = Instant::now() + REMOVAL_DEADLINE;
        self.all_roots().into_iter().try_for_each(|root| remove(&root.join(path), until))
    }
}

/// One file of a group and what is to be in it.
struct LimitFile {
    controller: &'static str,
    name: &'static str,
    value: String,
    /// Whether somebody asked for it; a mere default is left out where the machine has no such file.
    required: bool,
}

fn legacy_files(limits: &Limits) -> Vec<LimitFile> {
    let file = |controller, name, value: u64, required| LimitFile {
        controller,
        name,
        value: value.to_string(),
        required,
    };
    let mut files = Vec::new();
    if let Some(bytes) = limits.memory_bytes {
        files.push(file("memory", "memory.limit_in_bytes", bytes, true));
        files.push(file("memory", "memory.memsw.limit_in_bytes", bytes, false));
    }
    if let Some(micros) = limits.cpu_quota_micros {
        files.push(file("cpu", "cpu.cfs_period_us", CPU_PERIOD_MICROS, true));
        files.push(file("cpu", "cpu.cfs_quota_us", micros, true));
    }
    files.extend(limits.cpu_shares.map(|shares| file("cpu", "cpu.shares", shares, false)));
    files.extend(limits.pids.map(|pids| file("pids", "pids.max", pids.into(), false)));
    files
}

fn unified_files(limits: &Limits) -> Vec<LimitFile> {
    let file = |controller, name, value, required| LimitFile { controller, name, value, required };
    let mut files = Vec::new();
    if let Some(bytes) = limits.memory_bytes {
        files.push(file("memory", "memory.max", bytes.to_string(), true));
        files.push(file("memory", "memory.swap.max", "0".to_owned(), false));
    }
    files.extend(
        limits.cpu_quota_micros.map(|q| file("cpu", "cpu.max", format!("{q} {CPU_PERIOD_MICROS}"), true)),
    );
    files.extend(limits.cpu_weight().map(|weight| file("cpu", "cpu.weight", weight.to_string(), false)));
    files.extend(limits.pids.map(|pids| file("pids", "pids.max", pids.to_string(), false)));
    files
}

/// The hierarchies in a `mountinfo`.
fn layout_of(mountinfo: &str) -> Option<Layout> {
    let mut used: Vec<(BTreeSet<String>, PathBuf)> = Vec::new();
    let mut shown = BTreeSet::new();
    let (mut unified, mut others) = (None, BTreeSet::new());
    for line in mountinfo.lines() {
        let Some((before, after)) = line.split_once(" - ") else { continue };
        let (Some(mount_point), mut after) = (before.split(' ').nth(4), after.split(' ')) else { continue };
        let kind = after.next().unwrap_or_default();
        let options = after.nth(1).unwrap_or_default();
        if kind == "cgroup2" && mount_point == CGROUP_ROOT {
            unified = Some(PathBuf::from(mount_point));
        }
        if kind.starts_with("cgroup") && mount_point.starts_with(CGROUP_ROOT) {
            others.insert(PathBuf::from(mount_point));
        }
        if kind == "cgroup" && mount_point.starts_with(CGROUP_ROOT) {
            let names = options.split(',').filter(|option| CONTROLLERS.contains(option));
            let controllers: BTreeSet<String> = names.map(str::to_owned).collect();
            if !controllers.is_empty() && !used.iter().any(|(known, _)| *known == controllers) {
                used.push((controllers, PathBuf::from(mount_point)));
            }
            if options.split(',').any(|option| SHOWN_CONTROLLERS.contains(&option)) {
                shown.insert(PathBuf::from(mount_point));
            }
        }
    }
    others.retain(|other| !used.iter().any(|(_, own)| own == other));
    let (shown, others) = (shown.into_iter().collect(), others.into_iter().collect());
    let legacy = (!used.is_empty()).then_some(Layout::Legacy { used, shown, others });
    unified.map(Layout::Unified).or(legacy)
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
30 23 0:26 / /sys/fs/cgroup rw shared:9 - tmpfs tmpfs rw,mode=755
31 30 0:27 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct
32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory
33 30 0:29 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,name=systemd
34 30 0:30 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw";

    #[test]
    fn hybrid_machine_is_used_by_its_legacy_hierarchies() {
        let Some(Layout::Legacy { used, shown, others }) = layout_of(HYBRID) else { panic!("not legacy") };
        let roots: Vec<_> = used.iter().map(|(_, root)| root.to_str().unwrap()).collect();
        assert_eq!(roots, ["/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/memory"]);
        assert!(used[0].0.contains("cpuacct"));
        assert_eq!(others, ["/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified"].map(PathBuf::from));
        assert_eq!(shown, roots.iter().map(PathBuf::from).collect::<Vec<_>>());
    }

    #[test]
    fn unified_machine_is_recognised_and_a_machine_without_is_too() {
        let unified = "30 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate";
        assert_eq!(layout_of(unified), Some(Layout::Unified(PathBuf::from(CGROUP_ROOT))));
        assert_eq!(layout_of("22 1 0:20 / /proc rw - proc proc rw"), None);
    }

    #[test]
    fn limits_become_files_of_either_kind() {
        let limits = Limits {
            memory_bytes: Some(1 << 20),
            cpu_quota_micros: Some(50_000),
            cpu_shares: Some(1_024),
            pids: Some(9),
            devices: Devices::default(),
        };
        let text = |files: Vec<LimitFile>| -> Vec<String> {
            files.into_iter().map(|file| format!("{}={}", file.name, file.value)).collect()
        };
        let legacy = text(legacy_files(&limits));
        assert!(legacy.contains(&"memory.memsw.limit_in_bytes=1048576".to_owned()), "{legacy:?}");
        assert!(legacy.contains(&"cpu.cfs_quota_us=50000".to_owned()), "{legacy:?}");
        let unified = text(unified_files(&limits));
        let expected = [
            "memory.max=1048576",
            "memory.swap.max=0",
            "cpu.max=50000 100000",
            "cpu.weight=39",
            "pids.max=9",
        ];
        assert_eq!(unified, expected);
    }

    #[test]
    fn group_is_made_limited_and_removed_with_what_runs_in_it() {
        let node = format!("test-{}", std::process::id());
        let groups = Cgroups::open(&node).unwrap();
        let limits = Limits { memory_bytes: Some(32 << 20), pids: Some(7), ..Limits::default() };
        let of_container = Limits { pids: Some(5), ..Limits::default() };
        groups.make_pod("pod", &limits, &[of_container]).unwrap();
        groups.make_pod("pod", &limits, &[of_container]).unwrap();
        assert_eq!(groups.pods(), BTreeSet::from(["pod".to_owned()]));
        let pids = groups.dir_of("pids").unwrap().join(TOP).join(&node).join("pod");
        assert_eq!(fs::read_to_string(pids.join("pids.max")).unwrap().trim(), "7");
        let below = pids.join("0");
        assert_eq!(fs::read_to_string(below.join("pids.max")).unwrap().trim(), "5");
        if !groups.is_unified() {
            let devices = groups.dir_of("devices").unwrap().join(TOP).join(&node).join("pod/0/devices.list");
            assert_eq!(fs::read_to_string(devices).unwrap().lines().collect::<Vec<_>>(), DEVICES);
        }
        let mut child = std::process::Command::new("sleep").arg("1000").spawn().unwrap();
        write(&below.join("cgroup.procs"), &child.id().to_string()).unwrap();
        groups.remove_pod("pod").unwrap();
        assert_eq!(std::os::unix::process::ExitStatusExt::signal(&child.wait().unwrap()), Some(9));
        assert!(groups.pods().is_empty());
        groups.remove_all().unwrap();
        assert!(groups.roots().iter().all(|root| !root.join(TOP).join(&node).exists()));
    }

    #[test]
    fn name_that_leads_elsewhere_is_refused() {
        for name in ["", "..", "a/b", ".x", "a b"] {
            assert!(matches!(Cgroups::open(name), Err(CgroupError::Name { .. })), "{name:?}");
        }
    }
}
