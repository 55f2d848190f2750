//! Mounts whose owners are seen by the map of a user namespace (idmapped mounts).

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

const INERT: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// Lets the owners of a mount be seen by the map of a user namespace: root on the file system is root inside. `tree` is a
/// mount that was made and is at no place yet.
///
/// # Errors
/// The kernel or the file system cannot do that.
pub fn mapped(tree: impl AsFd, user_namespace: impl AsFd) -> io::Result<()> {
    let namespace = u64::try_from(user_namespace.as_fd().as_raw_fd()).map_err(io::Error::other)?;
    set_attributes(tree, libc::MOUNT_ATTR_IDMAP, namespace)
}

/// Lets nobody run programs or use devices on a mount.
///
/// # Errors
/// What the kernel says.
pub fn inert(tree: impl AsFd) -> io::Result<()> {
    set_attributes(tree, INERT, 0)
}

/// The same, and lets nobody write to it.
///
/// # Errors
/// What the kernel says.
pub fn protected(tree: impl AsFd) -> io::Result<()> {
    set_attributes(tree, INERT | libc::MOUNT_ATTR_RDONLY, 0)
}

fn set_attributes(tree: impl AsFd, attr_set: u64, userns_fd: u64) -> io::Result<()> {
    let attributes = libc::mount_attr { attr_set, attr_clr: 0, propagation: 0, userns_fd };
    // SAFETY: a plain call on open descriptors and a value of this frame, whose size it is told.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
