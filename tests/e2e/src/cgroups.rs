//! The cgroup hierarchies of this machine, v1, hybrid or v2: a folder of our own in each, and their removal.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

/// Files of the cpuset hierarchy (v1) that a new folder must be given before a process can join it.
const CPUSET_FILES: [&str; 2] = ["cpuset.cpus", "cpuset.mems"];

/// One mounted hierarchy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hierarchy {
    /// Where it is mounted.
    pub path: PathBuf,
    /// `cgroup` (v1) or `cgroup2`.
    pub filesystem: String,
    /// The mount option that names its v1 controllers, such as `cpu` or `name=systemd`; empty on v2.
    pub controllers: String,
}

/// Every hierarchy that this process sees, in order of path.
///
/// # Errors
/// When the list of mounts cannot be read.
pub fn hierarchies() -> io::Result<Vec<Hierarchy>> {
    let mut found: Vec<Hierarchy> =
        fs::read_to_string("/proc/self/mountinfo")?.lines().filter_map(hierarchy).collect();
    found.sort_by(|one, other| one.path.cmp(&other.path));
    // A mount over a mount of the same path hides it.
    found.dedup_by(|one, other| one.path == other.path);
    Ok(found)
}

fn hierarchy(line: &str) -> Option<Hierarchy> {
    let (left, right) = line.split_once(" - ")?;
    let path = left.split(' ').nth(4)?;
    let mut right = right.split(' ');
    let filesystem = right.next()?;
    let options = right.nth(1)?;
    if !filesystem.starts_with("cgroup") {
        return None;
    }
    let controllers: Vec<&str> = match filesystem {
        "cgroup" => options.split(',').filter(|option| !GENERAL_OPTIONS.contains(option)).collect(),
        _ => Vec::new(),
    };
    Some(Hierarchy { path: path.into(), filesystem: filesystem.into(), controllers: controllers.join(",") })
}

/// Mount options that do not name controllers.
const GENERAL_OPTIONS: [&str; 6] = ["rw", "ro", "xattr", "clone_children", "noprefix", "favordynmods"];

/// Makes the folder `name` in every hierarchy.
///
/// # Errors
/// When one of them cannot be made.
pub fn make(name: &str) -> io::Result<()> {
    for hierarchy in hierarchies()? {
        let folder = hierarchy.path.join(name);
        fs::create_dir_all(&folder)?;
        for file in CPUSET_FILES {
            let (own, parent) = (folder.join(file), hierarchy.path.join(file));
            if hierarchy.filesystem == "cgroup" && own.exists() && fs::read_to_string(&own)?.trim().is_empty()
            {
                fs::write(&own, fs::read_to_string(&parent)?)?;
            }
        }
    }
    Ok(())
}

/// Moves this process into the folder `name` of every hierarchy.
///
/// # Errors
/// When one of them refuses it.
pub fn join(name: &str) -> io::Result<()> {
    for hierarchy in hierarchies()? {
        fs::write(hierarchy.path.join(name).join("cgroup.procs"), "0")?;
    }
    Ok(())
}

/// Removes the folder `name`, and all below it, from every hierarchy. Gives what could not be removed, because
/// processes still live there.
///
/// # Errors
/// When the list of mounts cannot be read.
pub fn remove(name: &str) -> io::Result<Vec<PathBuf>> {
    let mut stubborn = Vec::new();
    for hierarchy in hierarchies()? {
        remove_tree(&hierarchy.path.join(name), &mut stubborn);
    }
    Ok(stubborn)
}

fn remove_tree(folder: &Path, stubborn: &mut Vec<PathBuf>) {
    for child in folders(folder) {
        remove_tree(&child, stubborn);
    }
    match fs::remove_dir(folder) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(_) => stubborn.push(folder.to_path_buf()),
    }
}

/// Every folder below `folder`, at any depth, in order.
#[must_use]
pub fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut found = folders(folder);
    let mut next = 0;
    while let Some(folder) = found.get(next) {
        let below = folders(folder);
        found.extend(below);
        next += 1;
    }
    found.sort();
    found
}

/// The folders directly in `folder`; none where it is gone by now.
#[must_use]
pub fn folders(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mount_lines_give_path_and_controllers() {
        let line = "33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct";
        let found = hierarchy(line);
        assert_eq!(found.as_ref().map(|one| one.controllers.as_str()), Some("cpu,cpuacct"));
        assert_eq!(found.map(|one| one.path), Some(PathBuf::from("/sys/fs/cgroup/cpuacct")));
        let unified = hierarchy("41 31 0:38 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw,nsdelegate");
        assert_eq!(unified.map(|one| one.controllers), Some(String::new()));
        assert_eq!(hierarchy("27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard"), None);
    }
}
