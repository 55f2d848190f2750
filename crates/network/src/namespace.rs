//! The namespaces that the containers of one pod share: net, ipc, uts and mostly user, each held by a file.
//!
//! A namespace lives as long as something refers to it. Here that is a bind mount on a file, so that no process is
//! needed, and the namespaces outlive the riklet and the shim. The files stand on a mount point that is private:
//! otherwise every mount namespace made later would receive copies, and keep the pod's namespaces alive.

use std::{
    fs, io,
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags},
    io::Errno,
    mount::{MountPropagationFlags, UnmountFlags},
    thread::{LinkNameSpaceType, move_into_link_name_space},
};
use userns::{IdRange, Kind, Newborn};

/// `f_type` of a file that a namespace is mounted on (`NSFS_MAGIC` of linux/magic.h).
const NSFS_MAGIC: u32 = 0x6e73_6673;

/// How often one file is unmounted: a mount for each earlier run that died between mounting and unmounting. More
/// would be an error of ours, and the loop has to end.
const UNMOUNT_LIMIT: usize = 64;

/// What every pod has.
const KINDS: [Kind; 3] = [Kind::Net, Kind::Ipc, Kind::Uts];

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
    /// The kernel gave no new namespaces, or not with that host name.
    #[error("make namespaces for host name {hostname:?}")]
    New {
        /// The name.
        hostname: String,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The network namespace could not be entered.
    #[error("enter the network namespace {path}", path = path.display())]
    Enter {
        /// Its file.
        path: PathBuf,
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

/// The file that holds the pod's pid namespace, if its containers share one.
#[must_use]
pub fn pid_path(ns_dir: &Path) -> PathBuf {
    ns_dir.join("pid")
}

/// The file that holds the pod's user namespace, if it has one.
#[must_use]
pub fn user_path(ns_dir: &Path) -> PathBuf {
    ns_dir.join("user")
}

/// Makes a pod's namespaces, in a user namespace of its own if it has ids, and has files hold them. What they held
/// before is let go. Blocks for some milliseconds.
///
/// # Errors
/// [`NamespaceError`]; nothing is left then.
pub fn make(ns_dir: &Path, hostname: &str, ids: Option<IdRange>) -> Result<(), NamespaceError> {
    let newborn = Newborn::new(hostname, ids)
        .map_err(|source| NamespaceError::New { hostname: hostname.to_owned(), source })?;
    create_dir(ns_dir)?;
    let user = ids.map(|_| Kind::User);
    let made = KINDS.into_iter().chain(user).try_for_each(|kind| hold(&newborn, kind, ns_dir));
    if made.is_err()
        && let Err(error) = remove(ns_dir)
    {
        tracing::warn!(path = %ns_dir.display(), %error, "a failed attempt left a namespace");
    }
    made
}

fn hold(newborn: &Newborn, kind: Kind, ns_dir: &Path) -> Result<(), NamespaceError> {
    let path = ns_dir.join(kind.name());
    release(&path)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::open(&path, flags, Mode::RUSR)
        .map_err(|errno| NamespaceError::Create { path: path.clone(), source: errno.into() })?;
    rustix::mount::mount_bind(newborn.namespace(kind), &path)
        .map_err(|errno| NamespaceError::Mount { path, source: errno.into() })
}

/// Moves the calling thread into the pod's network namespace. The thread must end afterwards: it can do no other work of
/// the process any more.
pub(crate) fn enter_net(ns_dir: &Path) -> Result<(), NamespaceError> {
    let path = net_path(ns_dir);
    let entered = fs::File::open(&path).and_then(|namespace| {
        Ok(move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Network))?)
    });
    entered.map_err(|source| NamespaceError::Enter { path, source })
}

/// Whether all files hold a namespace.
pub(crate) fn are_held(ns_dir: &Path) -> bool {
    KINDS.iter().all(|kind| {
        rustix::fs::statfs(ns_dir.join(kind.name()))
            .is_ok_and(|found| u32::try_from(found.f_type) == Ok(NSFS_MAGIC))
    })
}

/// Lets the namespaces go and removes the files and their directory. Does nothing where nothing is.
///
/// Never waits for users of a namespace: it lives on until they end.
pub(crate) fn remove(ns_dir: &Path) -> Result<(), NamespaceError> {
    for kind in KINDS.into_iter().chain([Kind::User]) {
        release(&ns_dir.join(kind.name()))?;
    }
    release(&pid_path(ns_dir))?;
    match fs::remove_dir(ns_dir) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => {
            Err(NamespaceError::Remove { path: ns_dir.to_owned(), source })
        }
        _ => Ok(()),
    }
}

/// Makes sure that mounts below a directory stay in this mount namespace: makes it a private mount point, unless
/// the mount that it lies on is private already.
///
/// # Errors
/// [`NamespaceError`].
pub fn keep_mounts_private(dir: &Path) -> Result<(), NamespaceError> {
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

/// Where something is mounted in the mount namespace of this thread, each point after those that it is below.
///
/// # Errors
/// There is no `/proc`.
pub fn mount_points() -> io::Result<Vec<PathBuf>> {
    Ok(mounts()?.into_iter().map(|mount| mount.point).collect())
}

fn mounts() -> io::Result<Vec<Mount>> {
    let table = fs::read_to_string("/proc/thread-self/mountinfo")?;
    Ok(table.lines().filter_map(read_mount).collect())
}

/// The mount that a canonical path lies on.
fn mount_of(path: &Path) -> Option<Mount> {
    // Of several mounts on the same point the last one is on top.
    let mounts = mounts().ok()?.into_iter().filter(|mount| path.starts_with(&mount.point));
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
