//! Looks into a container's root file system before it runs: who its user is, and where it starts.
//!
//! *Guarantee*: every path is resolved as if the root file system were the whole world, links included; nothing of the
//! host is ever read or made.

use std::{
    fs::File,
    io::{self, Read},
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use guest::accounts::{self, Account, AccountError};
use rustix::fs::{AtFlags, CWD, Gid, Mode, OFlags, ResolveFlags, Uid, chownat, mkdirat, openat2};

/// Folders that are the kernel's inside a container: a program never starts there.
const KERNEL_FOLDERS: [&str; 3] = ["proc", "sys", "dev"];

/// Why user or folder of a container are of no use.
#[derive(Debug, thiserror::Error)]
pub enum RootfsError {
    /// It would run as root, which its manifest refuses.
    #[error("it would run as root, which its runAsNonRoot refuses; runAsUser names another user")]
    Root,
    /// There is no such user.
    #[error(transparent)]
    Account(#[from] AccountError),
    /// A file of the root file system could not be read.
    #[error("read {file} of the image")]
    Read {
        /// Which.
        file: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// An id that a pod's user namespace does not have.
    #[error(
        "id {id} is not one of the {count} ids of a pod's user namespace; runAsUser and runAsGroup name others"
    )]
    Beyond {
        /// Which.
        id: u32,
        /// How many there are, from 0 on.
        count: u32,
    },
    /// A working directory that is not an absolute path without `..`.
    #[error("working directory {path:?} is not an absolute path")]
    NotAbsolute {
        /// As written.
        path: String,
    },
    /// A working directory among the kernel's own.
    #[error("working directory {path:?} is in a folder of the kernel")]
    KernelFolder {
        /// As written.
        path: String,
    },
    /// The working directory could not be made.
    #[error("make working directory {path:?}")]
    MakeFolder {
        /// As written.
        path: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

fn open_in(root: impl AsFd, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
    Ok(openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve)?)
}

fn open_root(rootfs: &Path) -> io::Result<OwnedFd> {
    Ok(rustix::fs::openat(CWD, rootfs, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?)
}

/// Finds out who `user` (as the image writes it: `name`, `uid`, `name:group`, `uid:gid`, or nothing) is.
///
/// # Errors
/// If there is no such user or group, or a number is out of range.
pub fn resolve_user(rootfs: &Path, user: &str) -> Result<Account, RootfsError> {
    let passwd = read_accounts(rootfs, "etc/passwd", "/etc/passwd")?;
    let groups = read_accounts(rootfs, "etc/group", "/etc/group")?;
    Ok(accounts::resolve(&passwd, &groups, user)?)
}

/// The text of an account file; empty if there is none.
fn read_accounts(rootfs: &Path, path: &str, file: &'static str) -> Result<String, RootfsError> {
    let failed = |source| RootfsError::Read { file, source };
    let root = open_root(rootfs).map_err(failed)?;
    // Not to wait for a writer, should it be a pipe.
    let opened = match open_in(&root, Path::new(path), OFlags::RDONLY | OFlags::NONBLOCK) {
        Ok(opened) => File::from(opened),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(String::new());
        }
        Err(error) => return Err(failed(error)),
    };
    if !opened.metadata().map_err(failed)?.is_file() {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "it is not a file")));
    }
    let mut bytes = Vec::new();
    opened.take(accounts::MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(failed)?;
    if bytes.len() as u64 > accounts::MAX_FILE_BYTES {
        return Err(failed(io::Error::new(io::ErrorKind::InvalidData, "it is larger than 1 MiB")));
    }
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Makes sure that the folder that a program starts in exists, and gives its path inside the container. What has to be
/// made belongs to `owner`, user and group.
///
/// # Errors
/// If it is no absolute path, leads to a folder of the kernel, or cannot be made.
pub fn ensure_working_dir(rootfs: &Path, path: &str, owner: u32) -> Result<PathBuf, RootfsError> {
    let path = if path.is_empty() { "/" } else { path };
    let mut wanted = PathBuf::new();
    for component in Path::new(path).components() {
        match component {
            Component::RootDir | Component::CurDir => {}
            Component::Normal(name) => wanted.push(name),
            Component::ParentDir | Component::Prefix(_) => {
                return Err(RootfsError::NotAbsolute { path: path.to_owned() });
            }
        }
    }
    if !path.starts_with('/') {
        return Err(RootfsError::NotAbsolute { path: path.to_owned() });
    }
    let failed = |source| RootfsError::MakeFolder { path: path.to_owned(), source };
    let base = open_root(rootfs).map_err(failed)?;
    let real_base = real_path(&base).map_err(failed)?;
    let mut current = base.try_clone().map_err(failed)?;
    let mut walked = PathBuf::new();
    for name in &wanted {
        walked.push(name);
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        current = match open_in(&base, &walked, flags) {
            Ok(next) => next,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let (user, group) = (Uid::from_raw(owner), Gid::from_raw(owner));
                mkdirat(&current, name, Mode::from_raw_mode(0o755))
                    .and_then(|()| {
                        chownat(&current, name, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW)
                    })
                    .map_err(|error| failed(error.into()))?;
                open_in(&base, &walked, flags).map_err(failed)?
            }
            Err(error) => return Err(failed(error)),
        };
        let real = real_path(&current).map_err(failed)?;
        let inside = real.strip_prefix(&real_base).unwrap_or(Path::new(KERNEL_FOLDERS[0]));
        if inside
            .components()
            .next()
            .is_some_and(|first| KERNEL_FOLDERS.iter().any(|f| first.as_os_str() == *f))
        {
            return Err(RootfsError::KernelFolder { path: path.to_owned() });
        }
    }
    Ok(Path::new("/").join(wanted))
}

fn real_path(folder: &OwnedFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", folder.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use super::*;

    #[test]
    fn account_file_that_links_outside_is_looked_up_inside() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("etc")).unwrap();
        symlink("/../../../../../../etc/passwd", dir.path().join("etc/passwd")).unwrap();
        // Inside, it links to itself: an error, and not the host's file.
        assert!(matches!(resolve_user(dir.path(), "root"), Err(RootfsError::Read { .. })));
        fs::remove_file(dir.path().join("etc/passwd")).unwrap();
        assert_eq!(resolve_user(dir.path(), "0").unwrap().uid, 0);
    }

    #[test]
    fn working_dir_is_made_inside_whatever_its_links_say() {
        let root = tempfile::tempdir().unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(root.path().join("proc")).unwrap();
        symlink(outside.path(), root.path().join("away")).unwrap();
        symlink("proc", root.path().join("sly")).unwrap();
        assert_eq!(ensure_working_dir(root.path(), "", 0).unwrap(), Path::new("/"));
        assert_eq!(ensure_working_dir(root.path(), "/srv/app/", 0).unwrap(), Path::new("/srv/app"));
        assert!(root.path().join("srv/app").is_dir());
        assert!(ensure_working_dir(root.path(), "/away/x", 0).is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
        for path in ["/proc/self/fd/7", "/sly/self", "/sly"] {
            let error = ensure_working_dir(root.path(), path, 0).unwrap_err();
            assert!(matches!(error, RootfsError::KernelFolder { .. }), "{path}: {error}");
        }
        assert!(matches!(ensure_working_dir(root.path(), "srv", 0), Err(RootfsError::NotAbsolute { .. })));
        assert!(matches!(
            ensure_working_dir(root.path(), "/srv/../..", 0),
            Err(RootfsError::NotAbsolute { .. })
        ));
    }
}
