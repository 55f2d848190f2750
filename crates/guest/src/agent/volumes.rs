//! Volumes of a microVM: directories in its memory, with the files that they were given, shown where its program looks.
//!
//! Made while nothing of the user's runs. A path of the image may be a link: it is followed inside the image's root and
//! nowhere else.

use std::{
    fs::{DirBuilder, OpenOptions, Permissions, set_permissions},
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt, chown},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{CWD, Mode, OFlags, ResolveFlags, mkdirat, open, openat, openat2},
    io::Errno,
    mount::{MountFlags, MoveMountFlags, OpenTreeFlags, mount, mount_remount, move_mount, open_tree},
};

use super::{machine::ROOT, program::read_accounts};
use crate::{
    accounts::{self, Account},
    order::{Boot, Volume, VolumeMount},
};

/// Where volumes are before they are shown.
const VOLUMES: &str = "/volumes";

/// Makes the volumes and shows them.
pub(super) fn make(boot: &Boot) -> Result<(), String> {
    if boot.volumes.is_empty() {
        return Ok(());
    }
    let root = open(ROOT, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
    let root = root.map_err(|error| format!("its root: {error}"))?;
    let owner = accounts::resolve(&read_accounts("passwd"), &read_accounts("group"), &boot.owner);
    let owner = owner.map_err(|error| error.to_string())?;
    for (number, volume) in boot.volumes.iter().enumerate() {
        fill(&directory(number), volume, &owner).map_err(|error| format!("volume {number}: {error}"))?;
    }
    for wanted in &boot.mounts {
        show(&root, wanted).map_err(|error| format!("mounting {}: {error}", wanted.path.display()))?;
    }
    Ok(())
}

fn directory(number: usize) -> PathBuf {
    Path::new(VOLUMES).join(number.to_string())
}

fn fill(top: &Path, volume: &Volume, owner: &Account) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(top)?;
    let size = volume.bytes.map(|bytes| format!(",size={bytes}")).unwrap_or_default();
    let options =
        std::ffi::CString::new(format!("mode={}{size}", if volume.is_given { "0755" } else { "0777" }))?;
    mount("volume", top, "tmpfs", MountFlags::NOSUID | MountFlags::NODEV, Some(options.as_c_str()))?;
    for file in &volume.files {
        let path = top.join(&file.path);
        if let Some(parent) = path.parent() {
            DirBuilder::new().recursive(true).mode(0o755).create(parent)?;
        }
        let mut own = OpenOptions::new().write(true).create_new(true).mode(file.mode).open(&path)?;
        own.write_all(file.content.bytes())?;
        chown(&path, Some(owner.uid), Some(owner.gid))?;
    }
    Ok(())
}

fn show(root: &OwnedFd, wanted: &VolumeMount) -> io::Result<()> {
    let top = directory(wanted.volume);
    let source = wanted.sub_path.as_ref().map_or_else(|| top.clone(), |part| top.join(part));
    if !source.exists() {
        // A part of an empty directory is everybody's as the whole is.
        DirBuilder::new().recursive(true).create(&source)?;
        set_permissions(&source, Permissions::from_mode(0o777))?;
    }
    let target = place(root, &wanted.path, source.is_dir())?;
    let tree = open_tree(CWD, &source, OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC)?;
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(&tree, "", &target, "", flags)?;
    if wanted.is_read_only {
        // The mount itself, whatever leads to it.
        let own = format!("/proc/self/fd/{}", tree.as_raw_fd());
        let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV;
        mount_remount(own, flags, "")?;
    }
    Ok(())
}

/// A directory or file of the image for a volume to be mounted on; made if it is not there.
fn place(root: &OwnedFd, path: &Path, is_directory: bool) -> io::Result<OwnedFd> {
    let inside = |path: &Path, flags: OFlags| {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        openat2(root, path, flags | OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), ResolveFlags::IN_ROOT)
    };
    let path = path.strip_prefix("/").unwrap_or(path);
    let mut so_far = PathBuf::new();
    let parts: Vec<_> = path.components().collect();
    for (number, part) in parts.iter().enumerate() {
        let parent = inside(&so_far, OFlags::DIRECTORY)?;
        so_far.push(part);
        match inside(&so_far, OFlags::empty()) {
            Err(Errno::NOENT) => {}
            found => {
                found?;
                continue;
            }
        }
        if number + 1 < parts.len() || is_directory {
            mkdirat(&parent, part.as_os_str(), Mode::from_raw_mode(0o755))?;
        } else {
            let flags = OFlags::CREATE | OFlags::EXCL | OFlags::WRONLY | OFlags::CLOEXEC;
            openat(&parent, part.as_os_str(), flags, Mode::from_raw_mode(0o644))?;
        }
    }
    Ok(inside(path, OFlags::empty())?)
}
