//! What a container in a user namespace is made from, gathered where its creator may go.
//!
//! ```text
//!  the creator, in a mount namespace of its own:
//!    <place>          a small file system in memory, over a directory that everybody may enter
//!    <place>/rootfs   the root file system, with /dev, /dev/shm and the pod's files in /etc
//!    <place>/net …    the pod's namespaces
//!    <place>/0 …      each volume and file of the pod, with mapped owners
//!    <place>/groups/  its control groups of v1, read-only
//! ```
//! Inside a user namespace, a process that becomes a container is a stranger to the machine: it cannot pass through our
//! directories, which are root's alone, and should not. What needs nothing of the inside is mounted here too: libcontainer
//! takes some seventy system calls for each mount. Nobody else ever sees the scaffold; it ends with the creator.
//!
//! *Guarantee*: an owner on a volume is the same id inside, and root there is root only on the files that it was given.

use std::{
    collections::BTreeSet,
    fs::{self, File},
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, mkdirat, openat, openat2, symlinkat},
    io::Errno,
    mount::{
        MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags, mount_change, move_mount,
        open_tree,
    },
    thread::UnshareFlags,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{cgroup::SeenGroup, memory};

/// Name of the root file system.
const ROOTFS: &str = "rootfs";
/// Name of the directory of control groups.
const GROUPS: &str = "groups";
/// Directories that every machine has and everybody may enter; the first that does not hold our own files is covered, for
/// the creator alone.
const PLACES: [&str; 3] = ["/dev/shm", "/mnt", "/media"];

/// What a creator gathers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Scaffold {
    /// The directory that is covered.
    pub place: PathBuf,
    /// File of the user namespace that owners are mapped by.
    pub namespace: PathBuf,
    /// What is mounted there.
    pub trees: Vec<Tree>,
}

/// A directory or file there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Tree {
    /// Its name there.
    pub name: String,
    /// Where it is on the machine; of what is new, the name that it is shown by.
    pub source: PathBuf,
    /// What becomes of it.
    pub kind: TreeKind,
}

/// What becomes of a directory or file there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum TreeKind {
    /// It is as it is.
    Plain,
    /// Its owners are those of inside.
    Mapped,
    /// So are its owners, and it holds text: no program or device.
    Text,
    /// It is a control group: nobody writes there.
    Group,
    /// It is new, in memory, and holds no program or device.
    Memory {
        /// Options of tmpfs, each with its value.
        options: Vec<String>,
        /// Names of the directories in it.
        directories: BTreeSet<String>,
    },
}

/// What a scaffold is for.
#[derive(Clone, Debug)]
pub struct Site<'a> {
    /// File of the user namespace.
    pub namespace: PathBuf,
    /// The riklet's directory of the pod, which must not be covered.
    pub pod_dir: &'a Path,
    /// The root file system, if the usual mounts can be put onto it: it has real directories for them.
    pub rootfs: Option<&'a Path>,
    /// Control groups of v1 that the container sees.
    pub groups: Vec<SeenGroup>,
}

/// Makes a runtime specification one for a user namespace, and says what its creator has to gather.
///
/// # Errors
/// No directory of the machine can be covered.
pub fn move_onto(document: &mut Value, site: Site<'_>) -> io::Result<Scaffold> {
    let place =
        PLACES.iter().map(PathBuf::from).find(|place| place.is_dir() && !site.pod_dir.starts_with(place));
    let place = place.ok_or_else(|| {
        let why = format!("none of the directories {} can be used", PLACES.join(", "));
        io::Error::new(io::ErrorKind::NotFound, why)
    })?;
    let mut scaffold = Scaffold { place, namespace: site.namespace, trees: Vec::new() };
    scaffold.take(document.pointer_mut("/root/path"), ROOTFS.to_owned(), TreeKind::Plain);
    if let Some(rootfs) = site.rootfs {
        scaffold.take_usual(document, rootfs, site.pod_dir);
    }
    let namespaces = document.pointer_mut("/linux/namespaces").and_then(Value::as_array_mut);
    for own in namespaces.into_iter().flatten() {
        let kind = own["type"].as_str().unwrap_or_default().to_owned();
        scaffold.take(own.get_mut("path"), kind, TreeKind::Plain);
    }
    let mounts = document.pointer_mut("/mounts").and_then(Value::as_array_mut);
    for (number, mount) in mounts.into_iter().flatten().filter(|mount| mount["type"] == "bind").enumerate() {
        scaffold.take(mount.get_mut("source"), number.to_string(), TreeKind::Mapped);
    }
    let mut user = json!({ "type": "user", "path": scaffold.namespace });
    scaffold.take(user.get_mut("path"), "user".to_owned(), TreeKind::Plain);
    if let Some(Value::Array(namespaces)) = document.pointer_mut("/linux/namespaces") {
        namespaces.push(user);
    }
    if !site.groups.is_empty() {
        scaffold.take_groups(document, site.groups);
    }
    Ok(scaffold)
}

impl Scaffold {
    /// Has the usual mounts that need nothing of the inside be trees of ours.
    fn take_usual(&mut self, document: &mut Value, rootfs: &Path, pod_dir: &Path) {
        let Some(Value::Array(mounts)) = document.pointer_mut("/mounts") else { return };
        let destinations: Vec<PathBuf> = mounts.iter().filter_map(destination).map(PathBuf::from).collect();
        mounts.retain(|mount| {
            let Some((name, kind)) = usual(mount, &destinations, rootfs, pod_dir) else { return true };
            let source = mount["source"].as_str().map(PathBuf::from).unwrap_or_default();
            self.trees.push(Tree { name, source, kind });
            false
        });
    }

    /// Has the control groups be a tree of ours, in place of what libcontainer would mount and write-protect one by one.
    fn take_groups(&mut self, document: &mut Value, groups: Vec<SeenGroup>) {
        let mounts = document.pointer_mut("/mounts").and_then(Value::as_array_mut);
        let Some(mount) = mounts.into_iter().flatten().find(|mount| mount["type"] == "cgroup") else {
            return;
        };
        mount["type"] = "bind".into();
        mount["source"] = json!(self.place.join(GROUPS));
        mount["options"] = json!(["rbind", "ro", "nosuid", "nodev", "noexec"]);
        let shown = mount["destination"].as_str().map(PathBuf::from).unwrap_or_default();
        if let Some(Value::Array(paths)) = document.pointer_mut("/linux/readonlyPaths") {
            paths.retain(|path| !path.as_str().is_some_and(|path| Path::new(path).starts_with(&shown)));
        }
        let tree = |SeenGroup { name, dir }| Tree {
            name: format!("{GROUPS}/{name}"),
            source: dir,
            kind: TreeKind::Group,
        };
        self.trees.extend(groups.into_iter().map(tree));
    }

    fn take(&mut self, path: Option<&mut Value>, name: String, kind: TreeKind) {
        let Some(path) = path else { return };
        let Some(source) = path.as_str().map(PathBuf::from) else { return };
        *path = json!(self.place.join(&name));
        self.trees.push(Tree { name, source, kind });
    }

    /// Takes everything along that is to be gathered: from the machine's own mounts, where the calling process still is.
    ///
    /// # Errors
    /// What cannot be had, in words.
    pub fn take_along(&self) -> Result<Vec<OwnedFd>, String> {
        let namespace =
            File::open(&self.namespace).map_err(|error| format!("its user namespace: {error}"))?;
        self.trees.iter().map(|tree| take(tree, &namespace).map_err(words(tree))).collect()
    }

    /// Gathers it, in a new mount namespace of the calling process, which must have one thread.
    ///
    /// # Errors
    /// What cannot be put there, in words.
    pub fn build(&self, taken: &[OwnedFd]) -> Result<(), String> {
        let cover = self.cover().map_err(|error| format!("{}: {error}", self.place.display()))?;
        for (tree, mount) in self.trees.iter().zip(taken) {
            put(&cover, &tree.name, mount).map_err(words(tree))?;
        }
        Ok(())
    }

    /// Covers the place, for this process alone.
    fn cover(&self) -> io::Result<OwnedFd> {
        // SAFETY: it does not unshare descriptors, which is what is dangerous about the call; the process has one thread.
        unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
        mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
        let flags = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
        let mount = memory::make("rik", [("mode", "0755")], false, flags)?;
        move_mount(&mount, "", CWD, &self.place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
        Ok(mount)
    }
}

/// A directory of the machine's own mounts that is to be where it was.
pub struct Carried<'a> {
    path: &'a Path,
    mount: OwnedFd,
}

impl<'a> Carried<'a> {
    /// Takes it along.
    ///
    /// # Errors
    /// It cannot be had, in words.
    pub fn take(path: &'a Path) -> Result<Self, String> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        let mount = open_tree(CWD, path, flags);
        let mount = mount.map_err(|error| format!("taking {} along: {error}", path.display()))?;
        Ok(Self { path, mount })
    }

    /// Puts it where it was, in a namespace that has the same directories.
    ///
    /// # Errors
    /// It cannot be put there, in words.
    pub fn put_back(self) -> Result<(), String> {
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        let put = move_mount(&self.mount, "", CWD, self.path, flags);
        put.map_err(|error| format!("putting {} where it was: {error}", self.path.display()))
    }
}

fn words(tree: &Tree) -> impl Fn(io::Error) -> String {
    let path = tree.source.display().to_string();
    move |error| format!("taking {path} along: {error}")
}

fn destination(mount: &Value) -> Option<&str> {
    mount["destination"].as_str()
}

/// Where a mount goes on the scaffold and what becomes of it, if it is one that every container has and needs nothing of
/// the inside.
fn usual(
    mount: &Value,
    destinations: &[PathBuf],
    rootfs: &Path,
    pod_dir: &Path,
) -> Option<(String, TreeKind)> {
    let own = destination(mount)?;
    let kind = match (mount["type"].as_str()?, own) {
        ("tmpfs", "/dev" | "/dev/shm") => {
            let options = mount["options"].as_array()?.iter().filter_map(Value::as_str);
            let below = destinations.iter().filter_map(|path| path.strip_prefix(own).ok()?.to_str());
            let below = below.filter(|name| !name.is_empty() && !name.contains('/')).map(str::to_owned);
            TreeKind::Memory {
                options: options.filter(|option| option.contains('=')).map(str::to_owned).collect(),
                // A volume may be mounted where another mount is.
                directories: BTreeSet::from_iter(below),
            }
        }
        // A link is followed by libcontainer, which makes what is missing at its end.
        ("bind", "/etc/hosts" | "/etc/hostname" | "/etc/resolv.conf")
            if Path::new(mount["source"].as_str()?).starts_with(pod_dir.join("etc"))
                && fs::symlink_metadata(rootfs.join(own.trim_start_matches('/')))
                    .is_ok_and(|at| at.is_file()) =>
        {
            TreeKind::Text
        }
        _ => return None,
    };
    Some((format!("{ROOTFS}{own}"), kind))
}

fn take(tree: &Tree, namespace: &File) -> io::Result<OwnedFd> {
    if let TreeKind::Memory { options, directories } = &tree.kind {
        let mount = in_memory(&tree.source, options, directories)?;
        return userns::mapped(&mount, namespace).map(|()| mount);
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, &tree.source, flags)?;
    match tree.kind {
        TreeKind::Plain | TreeKind::Memory { .. } => {}
        TreeKind::Mapped => userns::mapped(&mount, namespace)?,
        TreeKind::Text => userns::mapped_inert(&mount, namespace)?,
        TreeKind::Group => userns::protected(&mount)?,
    }
    Ok(mount)
}

fn in_memory(source: &Path, options: &[String], directories: &BTreeSet<String>) -> io::Result<OwnedFd> {
    let flags = MountAttrFlags::MOUNT_ATTR_NODEV
        | MountAttrFlags::MOUNT_ATTR_NOSUID
        | MountAttrFlags::MOUNT_ATTR_NOEXEC;
    let options = options.iter().filter_map(|option| option.split_once('='));
    let mount = memory::make(&source.to_string_lossy(), options, false, flags)?;
    directories.iter().try_for_each(|name| mkdirat(&mount, name, Mode::from_raw_mode(0o755)))?;
    Ok(mount)
}

fn put(cover: &OwnedFd, name: &str, mount: &OwnedFd) -> io::Result<()> {
    match name.split_once('/') {
        Some((ROOTFS, _)) => return put_onto(cover, name, mount),
        Some((parent, name)) => make_room(cover, parent, name)?,
        None => {}
    }
    if FileType::from_raw_mode(fstat(mount)?.st_mode) == FileType::Directory {
        mkdirat(cover, name, Mode::from_raw_mode(0o755))?;
    } else {
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
        openat(cover, name, flags, Mode::RUSR)?;
    }
    Ok(move_mount(mount, "", cover, name, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Puts it onto what the image has there, which must be no link.
fn put_onto(cover: &OwnedFd, name: &str, mount: &OwnedFd) -> io::Result<()> {
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
    let at = openat2(cover, name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    Ok(move_mount(mount, "", &at, "", flags)?)
}

/// Makes the directory that `name` is about to be in, and a link for each of the hierarchies that it stands for together:
/// `cpu` and `cpuacct` for `cpu,cpuacct`.
fn make_room(cover: &OwnedFd, parent: &str, name: &str) -> io::Result<()> {
    match mkdirat(cover, parent, Mode::from_raw_mode(0o755)) {
        Ok(()) | Err(Errno::EXIST) => {}
        Err(error) => return Err(error.into()),
    }
    let together = name.contains(',').then(|| name.split(','));
    together.into_iter().flatten().try_for_each(|own| Ok(symlinkat(name, cover, format!("{parent}/{own}"))?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn specification_names_only_the_scaffold_and_the_scaffold_says_where_it_all_comes_from() {
        let mut document = json!({
            "root": { "path": "/state/c/0/rootfs" },
            "mounts": [
                { "destination": "/proc", "type": "proc", "source": "proc" },
                { "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": ["ro"] },
                { "destination": "/etc/hosts", "type": "bind", "source": "/state/etc/hosts" },
            ],
            "linux": { "readonlyPaths": ["/proc/sys", "/sys/fs/cgroup/memory"], "namespaces": [{ "type": "pid" }, { "type": "network", "path": "/state/ns/net" }] },
        });
        let site = Site {
            namespace: "/state/ns/user".into(),
            pod_dir: Path::new("/dev/shm/state"),
            rootfs: None,
            groups: vec![SeenGroup { name: "memory".to_owned(), dir: "/sys/fs/cgroup/memory/rik/0".into() }],
        };
        let scaffold = move_onto(&mut document, site).unwrap();
        assert_eq!(scaffold.place, Path::new("/mnt"));
        assert_eq!(
            document,
            json!({
                "root": { "path": "/mnt/rootfs" },
                "mounts": [
                    { "destination": "/proc", "type": "proc", "source": "proc" },
                    {
                        "destination": "/sys/fs/cgroup", "type": "bind", "source": "/mnt/groups",
                        "options": ["rbind", "ro", "nosuid", "nodev", "noexec"],
                    },
                    { "destination": "/etc/hosts", "type": "bind", "source": "/mnt/0" },
                ],
                "linux": { "readonlyPaths": ["/proc/sys"], "namespaces": [
                    { "type": "pid" },
                    { "type": "network", "path": "/mnt/network" },
                    { "type": "user", "path": "/mnt/user" },
                ] },
            })
        );
        let told = scaffold
            .trees
            .iter()
            .map(|tree| format!("{} {} {:?}", tree.name, tree.source.display(), tree.kind));
        assert_eq!(
            told.collect::<Vec<_>>(),
            [
                "rootfs /state/c/0/rootfs Plain",
                "network /state/ns/net Plain",
                "0 /state/etc/hosts Mapped",
                "user /state/ns/user Plain",
                "groups/memory /sys/fs/cgroup/memory/rik/0 Group",
            ]
        );
    }

    #[test]
    fn what_is_usual_goes_onto_the_root_file_system_unless_the_image_has_a_link_there() {
        let scratch = tempfile::tempdir().unwrap();
        let (rootfs, pod_dir) = (scratch.path().join("rootfs"), scratch.path().join("run"));
        fs::create_dir_all(rootfs.join("etc")).unwrap();
        fs::write(rootfs.join("etc/hosts"), "").unwrap();
        std::os::unix::fs::symlink("/run/resolv.conf", rootfs.join("etc/resolv.conf")).unwrap();
        let bind = |destination: &str, source: PathBuf| json!({ "destination": destination, "type": "bind", "source": source });
        let of_pod = |name: &str| bind(&format!("/etc/{name}"), pod_dir.join("etc").join(name));
        let mut document = json!({
            "root": { "path": rootfs },
            "mounts": [
                { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
                { "destination": "/dev/pts", "type": "devpts", "source": "devpts" },
                { "destination": "/dev/shm", "type": "tmpfs", "source": "shm", "options": ["size=65536k"] },
                { "destination": "/srv/own", "type": "tmpfs", "source": "tmpfs" },
                bind("/dev/shm", "/state/v/large".into()),
                of_pod("hosts"), of_pod("hostname"), of_pod("resolv.conf"), bind("/etc/hosts", "/state/v/own".into()),
            ],
        });
        let site =
            Site { namespace: "/ns".into(), pod_dir: &pod_dir, rootfs: Some(&rootfs), groups: Vec::new() };
        let scaffold = move_onto(&mut document, site).unwrap();
        let left: Vec<&str> = document["mounts"].as_array().unwrap().iter().filter_map(destination).collect();
        assert_eq!(
            left,
            ["/dev/pts", "/srv/own", "/dev/shm", "/etc/hostname", "/etc/resolv.conf", "/etc/hosts"]
        );
        let memory = |option: &str, directories: &[&str]| TreeKind::Memory {
            options: vec![option.to_owned()],
            directories: directories.iter().map(|name| (*name).to_owned()).collect(),
        };
        let onto: Vec<(&str, &TreeKind)> =
            scaffold.trees[1..4].iter().map(|tree| (&*tree.name, &tree.kind)).collect();
        assert_eq!(
            onto,
            [
                ("rootfs/dev", &memory("mode=755", &["pts", "shm"])),
                ("rootfs/dev/shm", &memory("size=65536k", &[])),
                ("rootfs/etc/hosts", &TreeKind::Text),
            ]
        );
    }
}
