//! Volumes: made before the containers, mounted into them, and taken away with the pod.
//!
//! ```text
//!  pods/<uid>/v/<name>   emptyDir on disk: a plain directory
//!             m/<name>   emptyDir in memory, hostPath: a mount on an empty directory of ours
//!             g/<index>/<name>   config, secret: a directory in memory for each container (`given`)
//! ```
//! A path of the node is opened once, below a directory that its operator allowed, without following a link out of it;
//! what was opened is mounted, so nobody can put something else in its place afterwards. Containers are given our own
//! path of it.
//!
//! *Guarantee*: what is below `m` is unmounted and its directory removed only if it is empty: no file of the node is ever
//! removed by us.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use model::{
    Reason, WorkloadSpec, given,
    manifest::volume::{EmptyDir, Volume, VolumeMount},
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, open, openat2},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, UnmountFlags,
        fsconfig_create, fsconfig_set_string, fsmount, fsopen, move_mount, open_tree, unmount,
    },
};
use serde_json::{Value, json};

use super::{fault, given::directory, record::PodPlace};
use crate::RuntimeError;

/// Mounts on top of each other that a crash may have left at one place.
const STACKED_MOUNTS_MAX: usize = 8;

/// Makes every volume of a pod. Safe to repeat.
///
/// # Errors
/// A path is not allowed or not there, or something cannot be made.
pub fn make(place: &PodPlace, spec: &WorkloadSpec, allowed: &[PathBuf]) -> Result<(), RuntimeError> {
    spec.volumes.iter().try_for_each(|volume| match (&volume.empty_dir, &volume.host_path) {
        (Some(empty), None) => make_empty(place, volume, empty).map_err(|error| failed(volume, error)),
        (None, Some(host)) => {
            let opened = open_allowed(Path::new(&host.path), allowed).map_err(|why| refused(volume, &why))?;
            show(place, volume, &opened).map_err(|error| failed(volume, error))
        }
        // Configs and secrets are kept elsewhere (`given`).
        _ => Ok(()),
    })
}

/// Unmounts and removes every volume of a pod, whatever is there of them. Ok if there is none.
///
/// # Errors
/// Something of it stays.
pub fn clear(place: &PodPlace) -> io::Result<()> {
    take_away(&place.given())?;
    for mounted in entries(&place.mounted_volumes())? {
        take_away(&mounted)?;
    }
    for directory in [place.mounted_volumes(), place.volumes()] {
        let removed = if directory == place.volumes() {
            fs::remove_dir_all(&directory)
        } else {
            fs::remove_dir(&directory)
        };
        match removed {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    Ok(())
}

/// The mounts of a container's volumes, in the words of the runtime specification: the outer ones first.
#[must_use]
pub fn mounts(place: &PodPlace, spec: &WorkloadSpec, index: usize, wanted: &[VolumeMount]) -> Vec<Value> {
    let mut wanted: Vec<&VolumeMount> = wanted.iter().collect();
    wanted.sort_by_key(|mount| mount.mount_path.matches('/').count());
    let each = wanted.into_iter().filter_map(|mount| {
        let volume = spec.volumes.iter().find(|volume| volume.name == mount.name)?;
        let mut options = vec!["bind", "rprivate", "nosuid", "nodev"];
        let given = given::of_volume(volume).is_some();
        if mount.read_only || given {
            options.push("ro");
        }
        let source = if given { directory(place, index, &volume.name) } else { source(place, volume) };
        Some(json!({
            "destination": mount.mount_path, "type": "bind", "source": source, "options": options,
        }))
    });
    each.collect()
}

fn source(place: &PodPlace, volume: &Volume) -> PathBuf {
    match volume.empty_dir {
        Some(EmptyDir { medium: None, .. }) => place.volumes().join(&volume.name),
        Some(EmptyDir { medium: Some(_), .. }) | None => place.mounted_volumes().join(&volume.name),
    }
}

fn make_empty(place: &PodPlace, volume: &Volume, empty: &EmptyDir) -> io::Result<()> {
    let path = source(place, volume);
    make_directory(&path)?;
    if empty.medium.is_none() {
        // For containers of any user; nobody else gets here, because the directories above are ours alone.
        return fs::set_permissions(&path, Permissions::from_mode(0o777));
    }
    if is_mount(&path)? {
        return Ok(());
    }
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_set_string(&context, "source", "rik")?;
    fsconfig_set_string(&context, "mode", "0777")?;
    if let Some(limit) = empty.size_limit {
        fsconfig_set_string(&context, "size", limit.0.to_string())?;
    }
    fsconfig_create(&context)?;
    let flags = MountAttrFlags::MOUNT_ATTR_NODEV | MountAttrFlags::MOUNT_ATTR_NOSUID;
    let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, flags)?;
    Ok(move_mount(&mounted, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Mounts what was opened at the volume's place.
fn show(place: &PodPlace, volume: &Volume, opened: &OwnedFd) -> io::Result<()> {
    let path = source(place, volume);
    if FileType::from_raw_mode(fstat(opened)?.st_mode) == FileType::Directory {
        make_directory(&path)?;
    } else {
        make_directory(&place.mounted_volumes())?;
        drop(fs::OpenOptions::new().write(true).create(true).truncate(false).open(&path)?);
    }
    if is_mount(&path)? {
        return Ok(());
    }
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(opened, "", flags)?;
    Ok(move_mount(&tree, "", CWD, &path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// Opens a path of the node that lies below one of the allowed directories, links and all.
fn open_allowed(path: &Path, allowed: &[PathBuf]) -> Result<OwnedFd, String> {
    let below = allowed.iter().find_map(|top| Some((top, path.strip_prefix(top).ok()?)));
    let Some((top, rest)) = below else {
        return Err(format!(
            "{} is not below a directory that the node's operator allowed (riklet --hostpath-allow)",
            path.display()
        ));
    };
    let said = |error: Errno| match error {
        Errno::XDEV | Errno::LOOP => format!("{} leads out of {} by a link", path.display(), top.display()),
        Errno::NOENT => format!("{} is not there", path.display()),
        other => format!("{} cannot be opened: {other}", path.display()),
    };
    let top = open(top, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(said)?;
    let rest = if rest.as_os_str().is_empty() { Path::new(".") } else { rest };
    let flags = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let opened = openat2(&top, rest, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), flags).map_err(said)?;
    match FileType::from_raw_mode(fstat(&opened).map_err(said)?.st_mode) {
        FileType::Directory | FileType::RegularFile | FileType::Socket => Ok(opened),
        _ => Err(format!("{} is neither a directory nor a file nor a socket", path.display())),
    }
}

fn take_away(path: &Path) -> io::Result<()> {
    for _ in 0..STACKED_MOUNTS_MAX {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there.
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    let removed = match fs::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs::remove_dir(path),
        Ok(_) => fs::remove_file(path),
        Err(error) => Err(error),
    };
    match removed {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

fn make_directory(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(path)
}

pub(super) fn is_mount(path: &Path) -> io::Result<bool> {
    use rustix::fs::{AtFlags, StatxAttributes, StatxFlags, statx};
    let found = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW, StatxFlags::empty())?;
    Ok(found.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

fn entries(directory: &Path) -> io::Result<Vec<PathBuf>> {
    match fs::read_dir(directory) {
        Ok(entries) => entries.map(|entry| Ok(entry?.path())).collect(),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

fn failed(volume: &Volume, error: io::Error) -> RuntimeError {
    RuntimeError {
        operation: format!("set up volume {:?}", volume.name),
        reason: Reason::SandboxFailed,
        transient: true,
        source: Some(Box::new(error)),
    }
}

fn refused(volume: &Volume, why: &str) -> RuntimeError {
    fault::words(format!("set up volume {:?}", volume.name), Reason::NotAllowed, why)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn host_paths_are_opened_below_what_is_allowed_and_never_by_a_link_out_of_it() {
        let host = tempfile::tempdir().unwrap();
        let (open, closed) = (host.path().join("open"), host.path().join("closed"));
        for path in [open.join("data"), closed.clone()] {
            fs::create_dir_all(path).unwrap();
        }
        fs::write(closed.join("secret"), "x").unwrap();
        symlink("../closed", open.join("out")).unwrap();
        symlink("data", open.join("in")).unwrap();
        let allowed = [open.clone()];
        for good in ["", "data", "in"] {
            open_allowed(&open.join(good), &allowed).unwrap_or_else(|why| panic!("{good}: {why}"));
        }
        for (bad, words) in [
            (open.join("out/secret"), "leads out of"),
            (open.join("absent"), "is not there"),
            (closed.join("secret"), "--hostpath-allow"),
            (host.path().to_owned(), "--hostpath-allow"),
            (host.path().join("opener"), "--hostpath-allow"),
            (open.join("../closed/secret"), "leads out of"),
        ] {
            let why = open_allowed(&bad, &allowed).unwrap_err();
            assert!(why.contains(words), "{}: {why}", bad.display());
        }
    }
}
