//! The namespaces that the containers of one pod share: net, ipc and uts, each held by a file.
//!
//! A namespace lives as long as something refers to it. Here that is a bind mount on a file, so that no process is
//! needed, and the namespaces outlive the riklet and the shim. The files stand on a mount point that is private:
//! otherwise every mount namespace made later would receive copies, and keep the pod's namespaces alive.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{MountPropagationFlags, UnmountFlags},
    thread::UnshareFlags,
};

/// `f_type` of a file that a namespace is mounted on (`NSFS_MAGIC` of linux/magic.h).
const NSFS_MAGIC: u32 = 0x6e73_6673;

/// How often one file is unmounted: a mount for each earlier run that died between mounting and unmounting. More
/// would be an error of ours, and the loop has to end.
const UNMOUNT_LIMIT: usize = 64;

/// Names of the files, which are the names in `/proc/*/ns` too.
const KINDS: [&str; 3] = ["net", "ipc", "uts"];

/// Why a pod's namespaces could not be made or removed.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// The directory or a file in it could not be made.
    #[error("create {path}", path = path.display())]
    Create {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel gave no new namespaces.
    #[error("make network, ipc and uts namespaces")]
    Unshare {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The host name was refused.
    #[error("set the host name {name:?}")]
    Hostname {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A mount failed.
    #[error("mount {path}", path = path.display())]
    Mount {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// An unmount failed.
    #[error("unmount {path}", path = path.display())]
    Unmount {
        /// Where.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file could not be removed.
    #[error("remove {path}", path = path.display())]
    Remove {
        /// The path.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// The file that holds the pod's network namespace.
#[must_use]
pub fn net_path(ns_dir: &Path) -> PathBuf {
    ns_dir.join("net")
}

/// The file that holds the pod's ipc namespace.
#[must_use]
pub fn ipc_path(ns_dir: &Path) -> PathBuf {
    ns_dir.join("ipc")
}

/// The file that holds the pod's uts namespace.
#[must_use]
pub fn uts_path(ns_dir: &Path) -> PathBuf {
    ns_dir.join("uts")
}

/// Moves the calling thread into new namespaces and sets the host name there. The thread must end afterwards: it
/// can do no other work of the process any more.
pub(crate) fn enter_new(hostname: &str) -> Result<(), NamespaceError> {
    let flags = UnshareFlags::NEWNET | UnshareFlags::NEWIPC | UnshareFlags::NEWUTS;
    #[expect(unsafe_code, reason = "rustix has no safe unshare; only its FILES flag is dangerous")]
    // SAFETY: the flags do not hold FILES, so that this thread goes on sharing its descriptors with the others.
    unsafe { rustix::thread::unshare_unsafe(flags) }
        .map_err(|errno| NamespaceError::Unshare { source: errno.into() })?;
    rustix::system::sethostname(hostname.as_bytes())
        .map_err(|errno| NamespaceError::Hostname { name: hostname.to_owned(), source: errno.into() })
}

/// Makes files hold the namespaces of the calling thread. What they held before is let go.
pub(crate) fn hold_current(ns_dir: &Path) -> Result<(), NamespaceError> {
    create_dir(ns_dir)?;
    for kind in KINDS {
        let path = ns_dir.join(kind);
        release(&path)?;
        let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::open(&path, flags, Mode::RUSR)
            .map_err(|errno| NamespaceError::Create { path: path.clone(), source: errno.into() })?;
        rustix::mount::mount_bind(format!("/proc/thread-self/ns/{kind}"), &path)
            .map_err(|errno| NamespaceError::Mount { path, source: errno.into() })?;
    }
    Ok(())
}

/// Whether all files hold a namespace.
pub(crate) fn are_held(ns_dir: &Path) -> bool {
    KINDS.iter().all(|kind| {
        rustix::fs::statfs(ns_dir.join(kind)).is_ok_and(|found| u32::try_from(found.f_type) == Ok(NSFS_MAGIC))
    })
}

/// Lets the namespaces go and removes the files and their directory. Does nothing where nothing is.
///
/// Never waits for users of a namespace: it lives on until they end.
pub(crate) fn remove(ns_dir: &Path) -> Result<(), NamespaceError> {
    for kind in KINDS {
        release(&ns_dir.join(kind))?;
    }
    match fs::remove_dir(ns_dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(NamespaceError::Remove { path: ns_dir.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Makes sure that mounts below a directory stay in this mount namespace: makes it a private mount point, unless
/// the mount that it lies on is private already.
pub(crate) fn keep_mounts_private(dir: &Path) -> Result<(), NamespaceError> {
    create_dir(dir)?;
    let dir =
        fs::canonicalize(dir).map_err(|source| NamespaceError::Create { path: dir.to_owned(), source })?;
    let failed = |errno: Errno| NamespaceError::Mount { path: dir.clone(), source: errno.into() };
    match mount_of(&dir) {
        Some(mount) if !mount.is_shared => Ok(()),
        Some(mount) if mount.point == dir => make_private(&dir).map_err(failed),
        _ => {
            rustix::mount::mount_bind(&dir, &dir).map_err(failed)?;
            make_private(&dir).map_err(failed)
        }
    }
}

/// Undoes [`keep_mounts_private`].
pub(crate) fn release_private_mount(dir: &Path) -> Result<(), NamespaceError> {
    let Ok(dir) = fs::canonicalize(dir) else { return Ok(()) };
    if mount_of(&dir).is_some_and(|mount| mount.point == dir && !mount.is_shared) {
        unmount(&dir)?;
    }
    Ok(())
}

fn make_private(dir: &Path) -> Result<(), Errno> {
    rustix::mount::mount_change(dir, MountPropagationFlags::PRIVATE)
}

fn create_dir(dir: &Path) -> Result<(), NamespaceError> {
    fs::create_dir_all(dir).map_err(|source| NamespaceError::Create { path: dir.to_owned(), source })
}

fn release(path: &Path) -> Result<(), NamespaceError> {
    unmount(path)?;
    match fs::remove_file(path) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(NamespaceError::Remove { path: path.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Unmounts whatever is mounted on a path, layer by layer.
fn unmount(path: &Path) -> Result<(), NamespaceError> {
    for _ in 0..UNMOUNT_LIMIT {
        match rustix::mount::unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Not a mount point, or nothing there.
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(errno) => {
                return Err(NamespaceError::Unmount { path: path.to_owned(), source: errno.into() });
            }
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Mount {
    point: PathBuf,
    is_shared: bool,
}

/// The mount that a canonical path lies on.
fn mount_of(path: &Path) -> Option<Mount> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo").ok()?;
    // Of several mounts on the same point the last one is on top.
    let mounts = table.lines().filter_map(read_mount).filter(|mount| path.starts_with(&mount.point));
    mounts.max_by_key(|mount| mount.point.components().count())
}

/// `id parent major:minor root point options [shared:N …] - type source options`
fn read_mount(line: &str) -> Option<Mount> {
    let (left, _) = line.split_once(" - ")?;
    let fields: Vec<&str> = left.split(' ').collect();
    let is_shared = fields.iter().skip(6).any(|field| field.starts_with("shared:"));
    Some(Mount { point: PathBuf::from(unescape(fields.get(4)?)), is_shared })
}

/// Blanks and backslashes are written as `\040`.
fn unescape(field: &str) -> String {
    [("\\040", " "), ("\\011", "\t"), ("\\012", "\n"), ("\\134", "\\")]
        .iter()
        .fold(field.to_owned(), |text, (code, letter)| text.replace(code, letter))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_of_the_mount_table_tells_point_and_propagation() {
        let line = r"36 35 98:0 /mnt1 /var/lib/my\040pods rw,noatime shared:1 master:2 - ext4 /dev/root rw";
        let mount = Mount { point: PathBuf::from("/var/lib/my pods"), is_shared: true };
        assert_eq!(read_mount(line), Some(mount));
        let line = "36 35 98:0 / /a rw,noatime - ext4 /dev/root rw,errors=shared:";
        assert_eq!(read_mount(line), Some(Mount { point: PathBuf::from("/a"), is_shared: false }));
    }

    #[test]
    fn removing_what_is_not_there_is_no_error() {
        let dir = tempfile::tempdir().unwrap();
        remove(&dir.path().join("ns")).unwrap();
        assert!(!are_held(&dir.path().join("ns")));
    }
}
