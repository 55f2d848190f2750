//! Mounts whose owners are seen by the map of a user namespace (idmapped mounts).

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// Neither programs with rights of their own, nor devices, nor programs at all.
const INERT: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// Lets the owners of a mount be seen by the map of a user namespace: root on the file system is root inside. `tree` is a
/// mount that was made and is at no place yet.
///
/// # Errors
/// The kernel or the file system cannot do that.
pub fn mapped(tree: impl AsFd, user_namespace: impl AsFd) -> io::Result<()> {
    set_attributes(tree, libc::MOUNT_ATTR_IDMAP, number(&user_namespace)?)
}

/// The same, and lets nobody run programs or use devices on it.
///
/// # Errors
/// The kernel or the file system cannot do that.
pub fn mapped_inert(tree: impl AsFd, user_namespace: impl AsFd) -> io::Result<()> {
    set_attributes(tree, INERT | libc::MOUNT_ATTR_IDMAP, number(&user_namespace)?)
}

/// Lets nobody write to a mount, nor run programs or use devices on it.
///
/// # Errors
/// What the kernel says.
pub fn protected(tree: impl AsFd) -> io::Result<()> {
    set_attributes(tree, INERT | libc::MOUNT_ATTR_RDONLY, 0)
}

fn number(descriptor: &impl AsFd) -> io::Result<u64> {
    u64::try_from(descriptor.as_fd().as_raw_fd()).map_err(io::Error::other)
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
