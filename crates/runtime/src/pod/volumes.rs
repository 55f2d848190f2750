//! Volumes: made before the containers, mounted into them, and taken away with the pod.
//!
//! ```text
//!  pods/<uid>/v/<name>   emptyDir on disk: a plain directory
//!  run/<uid>/m/<name>    emptyDir in memory, hostPath: a mount on an empty directory of ours
//!             g/<index>/<name>   config, secret: a directory in memory for each container (`given`)
//!             s/<index>.<number>   a part of one of these, for one container
//!  volumes/<name>/data   local: a plain directory that stays (`local`)
//! ```
//! A path of the node is opened once, below a directory that its operator allowed, without following a link out of it;
//! what was opened is mounted, so nobody can put something else in its place afterwards. Containers are given our own
//! path of it.
//!
//! *Guarantee*: what is below `m` is unmounted and its directory removed only if it is empty: no file of the node is ever
//! removed by us.

use std::{
    ffi::OsStr,
    fs::{self, DirBuilder, Permissions},
    io,
    os::{
        fd::OwnedFd,
        unix::fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
};

use model::{
    ContainerSpec, Reason, WorkloadSpec, given,
    manifest::volume::{EmptyDir, Volume, VolumeMount},
};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fchmod, fstat, mkdirat, open, openat, openat2},
    io::Errno,
    mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount},
};
use serde_json::{Value, json};

use super::{
    fault,
    given::directory,
    local::{self, LocalVolumes},
    memory::{self, InMemory},
    record::PodPlace,
};
use crate::RuntimeError;

/// Mounts on top of each other that a crash may have left at one place.
const STACKED_MOUNTS_MAX: usize = 8;

/// Makes every volume of a pod. Safe to repeat.
///
/// # Errors
/// A path is not allowed or not there, or something cannot be made.
pub fn make(
    place: &PodPlace,
    spec: &WorkloadSpec,
    allowed: &[PathBuf],
    lasting: &LocalVolumes,
) -> Result<(), RuntimeError> {
    spec.volumes.iter().try_for_each(|volume| {
        if let Some(empty) = &volume.empty_dir {
            make_empty(place, volume, empty).map_err(|error| failed(volume, error))
        } else if let Some(host) = &volume.host_path {
            let opened = open_allowed(Path::new(&host.path), allowed, HOST_PATHS)
                .map_err(|why| refused(volume, &why))?;
            show(&source(place, volume), &opened).map_err(|error| failed(volume, error))
        } else if let Some(local) = &volume.local {
            lasting.make(&local.name).map_err(|error| failed(volume, error))
        } else {
            // Configs and secrets are kept elsewhere (`given`).
            Ok(())
        }
    })
}

/// Opens the parts of volumes that a container sees instead of the whole, and holds on to what was opened: a container
/// that writes to the volume cannot put a link in its place. Safe to repeat.
///
/// # Errors
/// A part is not there, or leads out of its volume.
pub fn make_parts(
    place: &PodPlace,
    spec: &WorkloadSpec,
    index: usize,
    container: &ContainerSpec,
) -> Result<(), RuntimeError> {
    for (number, mount) in container.volume_mounts.iter().enumerate() {
        let (Some(part), Some(volume)) = (&mount.sub_path, volume_of(spec, mount)) else { continue };
        if given::of_volume(volume).is_some() {
            continue;
        }
        let path = part_place(place, index, number);
        if is_mount(&path).unwrap_or(false) {
            continue;
        }
        let ours = volume.host_path.is_none();
        let opened = open_part(&source(place, volume), Path::new(part), ours);
        let opened = opened.map_err(|why| refused(volume, &why))?;
        show(&path, &opened).map_err(|error| failed(volume, error))?;
    }
    Ok(())
}

/// Looks for the files of configs and secrets that a container sees one by one.
///
/// # Errors
/// One is not there.
pub fn check_given_parts(
    place: &PodPlace,
    spec: &WorkloadSpec,
    index: usize,
    container: &ContainerSpec,
) -> Result<(), RuntimeError> {
    for mount in &container.volume_mounts {
        let (Some(part), Some(volume)) = (&mount.sub_path, volume_of(spec, mount)) else { continue };
        let given = given::of_volume(volume).is_some();
        if given && !directory(place, index, &volume.name).join(part).exists() {
            let operation = format!("set up volume {:?}", volume.name);
            return Err(fault::words(
                operation,
                Reason::ObjectMissing,
                &format!("there is no {part:?} in it"),
            ));
        }
    }
    Ok(())
}

fn volume_of<'s>(spec: &'s WorkloadSpec, mount: &VolumeMount) -> Option<&'s Volume> {
    spec.volumes.iter().find(|volume| volume.name == mount.name)
}

fn part_place(place: &PodPlace, index: usize, number: usize) -> PathBuf {
    place.volume_parts().join(format!("{index}.{number}"))
}

/// Opens a file or directory below a volume; directories that are missing are made if the volume is ours.
fn open_part(top: &Path, part: &Path, ours: bool) -> Result<OwnedFd, String> {
    let said = |error: Errno| match error {
        Errno::XDEV | Errno::LOOP => format!("{} leads out of it by a link", part.display()),
        Errno::NOENT => format!("there is no {} in it", part.display()),
        other => format!("{} in it cannot be opened: {other}", part.display()),
    };
    let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let find = |top: &OwnedFd, path: &Path| {
        openat2(top, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), within)
    };
    let top = open(top, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).map_err(said)?;
    let opened = match find(&top, part) {
        Err(Errno::NOENT) if ours => {
            for path in part.ancestors().collect::<Vec<_>>().into_iter().rev() {
                if let (Some(parent), Some(name)) = (path.parent(), path.file_name()) {
                    let parent = if parent.as_os_str().is_empty() { Path::new(".") } else { parent };
                    make_below(&find(&top, parent).map_err(said)?, name).map_err(said)?;
                }
            }
            find(&top, part)
        }
        other => other,
    };
    fit(opened.map_err(said)?).map_err(|error| match error {
        Some(error) => said(error),
        None => format!("{} in it is neither a directory nor a file nor a socket", part.display()),
    })
}

/// Makes a directory for containers of any user.
fn make_below(parent: &OwnedFd, name: &OsStr) -> rustix::io::Result<()> {
    match mkdirat(parent, name, Mode::RWXU) {
        Ok(()) => {}
        Err(Errno::EXIST) => return Ok(()),
        Err(error) => return Err(error),
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let made = openat(parent, name, flags, Mode::empty())?;
    fchmod(&made, Mode::RWXU | Mode::RWXG | Mode::RWXO)
}

/// What can be mounted; Err without an error if it is of another sort.
fn fit(opened: OwnedFd) -> Result<OwnedFd, Option<Errno>> {
    match FileType::from_raw_mode(fstat(&opened).map_err(Some)?.st_mode) {
        FileType::Directory | FileType::RegularFile | FileType::Socket => Ok(opened),
        _ => Err(None),
    }
}

/// Unmounts and removes every volume of a pod, whatever is there of them. Ok if there is none.
///
/// # Errors
/// Something of it stays.
pub fn clear(place: &PodPlace) -> io::Result<()> {
    take_away(&place.given())?;
    for parent in [place.volume_parts(), place.mounted_volumes()] {
        for mounted in entries(&parent)? {
            take_away(&mounted)?;
        }
    }
    for directory in [place.volume_parts(), place.mounted_volumes(), place.volumes()] {
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
    let mut wanted: Vec<(usize, &VolumeMount)> = wanted.iter().enumerate().collect();
    wanted.sort_by_key(|(_, mount)| mount.mount_path.matches('/').count());
    let each = wanted.into_iter().filter_map(|(number, mount)| {
        let volume = volume_of(spec, mount)?;
        let mut options = vec!["bind", "rprivate", "nosuid", "nodev"];
        let given = given::of_volume(volume).is_some();
        if mount.read_only || given {
            options.push("ro");
        }
        let source = match (&mount.sub_path, given) {
            (None, true) => directory(place, index, &volume.name),
            (Some(part), true) => directory(place, index, &volume.name).join(part),
            (None, false) => source(place, volume),
            (Some(_), false) => part_place(place, index, number),
        };
        Some(json!({
            "destination": mount.mount_path, "type": "bind", "source": source, "options": options,
        }))
    });
    each.collect()
}

fn source(place: &PodPlace, volume: &Volume) -> PathBuf {
    match (volume.empty_dir, &volume.local) {
        (None, Some(local)) => local::data(place.local_volumes(), &local.name),
        (Some(EmptyDir { medium: None, .. }), _) => place.volumes().join(&volume.name),
        (Some(EmptyDir { medium: Some(_), .. }) | None, _) => place.mounted_volumes().join(&volume.name),
    }
}

fn make_empty(place: &PodPlace, volume: &Volume, empty: &EmptyDir) -> io::Result<()> {
    let path = source(place, volume);
    if empty.medium.is_none() {
        make_directory(&path)?;
        // For containers of any user; nobody else gets here, because the directories above are ours alone.
        return fs::set_permissions(&path, Permissions::from_mode(0o777));
    }
    let bytes = empty.size_limit.map(|limit| limit.0);
    memory::mount(&path, InMemory { mode: "0777", bytes, stays: false, programs: true, devices: false })
}

/// Mounts what was opened at a place of ours.
fn show(path: &Path, opened: &OwnedFd) -> io::Result<()> {
    if FileType::from_raw_mode(fstat(opened)?.st_mode) == FileType::Directory {
        make_directory(path)?;
    } else {
        path.parent().map_or(Ok(()), make_directory)?;
        drop(fs::OpenOptions::new().write(true).create(true).truncate(false).open(path)?);
    }
    if is_mount(path)? {
        return Ok(());
    }
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let tree = open_tree(opened, "", flags)?;
    Ok(move_mount(&tree, "", CWD, path, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
}

/// By what flag directories for volumes are allowed.
const HOST_PATHS: &str = "--hostpath-allow";

/// Opens a path of the node that lies below one of the allowed directories, links and all. The error names the flag by which
/// they are allowed.
pub(crate) fn open_allowed(path: &Path, allowed: &[PathBuf], flag: &str) -> Result<OwnedFd, String> {
    let below = allowed.iter().find_map(|top| Some((top, path.strip_prefix(top).ok()?)));
    let Some((top, rest)) = below else {
        return Err(format!(
            "{} is not below a directory that the node's operator allowed (riklet {flag})",
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
    fit(opened).map_err(|error| match error {
        Some(error) => said(error),
        None => format!("{} is neither a directory nor a file nor a socket", path.display()),
    })
}

/// Unmounts whatever is mounted at a place of ours. Ok if nothing is.
pub(super) fn unmount_all(path: &Path) -> io::Result<()> {
    for _ in 0..STACKED_MOUNTS_MAX {
        match unmount(path, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW) {
            Ok(()) => {}
            // Nothing is mounted there.
            Err(Errno::INVAL | Errno::NOENT) => break,
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

/// The same, and removes the empty directory or the file that it was mounted on.
pub(super) fn take_away(path: &Path) -> io::Result<()> {
    unmount_all(path)?;
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
            open_allowed(&open.join(good), &allowed, HOST_PATHS)
                .unwrap_or_else(|why| panic!("{good}: {why}"));
        }
        for (bad, words) in [
            (open.join("out/secret"), "leads out of"),
            (open.join("absent"), "is not there"),
            (closed.join("secret"), "--hostpath-allow"),
            (host.path().to_owned(), "--hostpath-allow"),
            (host.path().join("opener"), "--hostpath-allow"),
            (open.join("../closed/secret"), "leads out of"),
        ] {
            let why = open_allowed(&bad, &allowed, HOST_PATHS).unwrap_err();
            assert!(why.contains(words), "{}: {why}", bad.display());
        }
    }
}
