//! Mounts whose owners are seen by the map of a user namespace (idmapped mounts).

use std::{
    io,
    os::fd::{AsFd, AsRawFd},
};

/// Lets the owners of a mount be seen by the map of a user namespace: root on the file system is root inside. `tree` is a
/// mount that was made and is at no place yet.
///
/// # Errors
/// The kernel or the file system cannot do that.
pub fn mapped(tree: impl AsFd, user_namespace: impl AsFd) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: u64::try_from(user_namespace.as_fd().as_raw_fd()).map_err(io::Error::other)?,
    };
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
