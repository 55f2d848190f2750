//! File systems in memory.

use std::{
    fs::DirBuilder,
    io,
    os::{fd::OwnedFd, unix::fs::DirBuilderExt},
    path::Path,
};

use rustix::{
    fs::CWD,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, fsconfig_create, fsconfig_set_flag,
        fsconfig_set_string, fsmount, fsopen, move_mount,
    },
};

use super::volumes::is_mount;

/// What a file system in memory is like. None has programs with rights of their own.
#[derive(Clone, Copy, Debug)]
pub(super) struct InMemory {
    /// Rights of its top directory, as `mode` of tmpfs.
    pub(super) mode: &'static str,
    /// Most bytes that it takes; half of the machine's memory if absent.
    pub(super) bytes: Option<u64>,
    /// Whether it never goes to swap, where the kernel can do without (6.4 and later).
    pub(super) stays: bool,
    /// Whether programs on it can be executed.
    pub(super) programs: bool,
    /// Whether devices on it can be used.
    pub(super) devices: bool,
}

/// Mounts one at `path`, unless something is mounted there already. Makes the directory.
///
/// # Errors
/// What the kernel says.
pub(super) fn mount(path: &Path, memory: InMemory) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)?;
    if is_mount(path)? {
        return Ok(());
    }
    let bytes = memory.bytes.map(|bytes| bytes.to_string());
    let size = bytes.as_deref().map(|bytes| ("size", bytes));
    let options = std::iter::once(("mode", memory.mode)).chain(size);
    let mut flags = MountAttrFlags::MOUNT_ATTR_NOSUID;
    flags.set(MountAttrFlags::MOUNT_ATTR_NODEV, !memory.devices);
    flags.set(MountAttrFlags::MOUNT_ATTR_NOEXEC, !memory.programs);
    let mounted = make("rik", options, memory.stays, flags)?;
    Ok(move_mount(&mounted, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Makes one that is mounted at no place yet: what is shown as its source, and options of tmpfs. If it `stays`, it never
/// goes to swap where the kernel can do without.
///
/// # Errors
/// What the kernel says.
pub(super) fn make<'a>(
    source: &str,
    options: impl IntoIterator<Item = (&'a str, &'a str)>,
    stays: bool,
    flags: MountAttrFlags,
) -> io::Result<OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", source)?;
    for (key, value) in options {
        fsconfig_set_string(&context, key, value)?;
    }
    if stays {
        let _ = fsconfig_set_flag(&context, "noswap");
    }
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?)
}
