//! From an archive to a file or a directory.

use std::{
    ffi::OsString,
    fs::{self, Permissions},
    io::{self, Read},
    os::unix::fs::PermissionsExt as _,
    path::{Component, Path, PathBuf},
};

use tar::{Archive, EntryType};

use crate::CopyError;

/// Unpacks what `pack` made. `destination` is a directory that exists, or the new name in one.
///
/// # Errors
/// Something cannot be written, or the archive is not one that `pack` makes; what was unpacked by then stays.
pub fn unpack(archive: impl Read, destination: &Path) -> Result<(), CopyError> {
    let (dir, renamed) = place(destination)?;
    let dir = fs::canonicalize(&dir).map_err(|source| CopyError::Write { path: dir.clone(), source })?;
    let mut archive = Archive::new(archive);
    // What rights a program has is not for whoever sent it to say: no set-user-id.
    archive.set_preserve_permissions(false);
    archive.set_preserve_ownerships(false);
    let mut top: Option<OsString> = None;
    for entry in archive.entries().map_err(broken)? {
        let mut entry = entry.map_err(broken)?;
        let path = entry.path().map_err(broken)?.into_owned();
        let misplaced = || CopyError::Misplaced { name: path.display().to_string() };
        let kind = entry.header().entry_type();
        if !matches!(kind, EntryType::Regular | EntryType::Directory | EntryType::Symlink) {
            return Err(misplaced());
        }
        let mut parts = path.components();
        let Some(Component::Normal(first)) = parts.next() else { return Err(misplaced()) };
        let rest = parts.as_path();
        let inside = rest.components().all(|part| matches!(part, Component::Normal(_)));
        if !inside || *top.get_or_insert_with(|| first.to_owned()) != *first {
            return Err(misplaced());
        }
        let mut target = dir.join(renamed.as_deref().unwrap_or(first));
        if !rest.as_os_str().is_empty() {
            target.push(rest);
        }
        let written = make_room(&dir, &target, kind).and_then(|()| {
            if kind == EntryType::Directory {
                return make_dir(&target, entry.header().mode()?);
            }
            entry.unpack(&target).map(drop)
        });
        written.map_err(|source| CopyError::Write { path: target, source })?;
    }
    match top {
        Some(_) => Ok(()),
        None => Err(broken(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// The directory to unpack in, and the new name if there is one.
fn place(destination: &Path) -> Result<(PathBuf, Option<OsString>), CopyError> {
    if destination.is_dir() {
        return Ok((destination.to_owned(), None));
    }
    let missing = |path: &Path| CopyError::NoDirectory { path: path.to_owned() };
    if destination.as_os_str().as_encoded_bytes().ends_with(b"/") {
        return Err(missing(destination));
    }
    let name = destination.file_name().ok_or_else(|| missing(destination))?;
    let parent = match destination.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    if parent.is_dir() { Ok((parent.to_owned(), Some(name.to_owned()))) } else { Err(missing(parent)) }
}

/// Makes a directory, into which its owner may write: more follows.
fn make_dir(path: &Path, mode: u32) -> io::Result<()> {
    if !path.is_dir() {
        fs::create_dir(path)?;
    }
    fs::set_permissions(path, Permissions::from_mode(mode & 0o777 | 0o700))
}

/// Sees that the way to `target` leads through directories alone, and that nothing but a directory stands there.
fn make_room(dir: &Path, target: &Path, kind: EntryType) -> io::Result<()> {
    let way = target.strip_prefix(dir).map_err(io::Error::other)?;
    let mut at = dir.to_owned();
    for part in way.parent().unwrap_or(Path::new("")).components() {
        at.push(part);
        if !fs::symlink_metadata(&at)?.is_dir() {
            return Err(io::Error::other(format!("{} is no directory", at.display())));
        }
    }
    match fs::symlink_metadata(target) {
        Ok(there) if there.is_dir() => {
            if kind == EntryType::Directory {
                Ok(())
            } else {
                Err(io::Error::other("a directory stands there"))
            }
        }
        // Replaced, and never written through: it may be a link.
        Ok(_) => fs::remove_file(target),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

const fn broken(source: io::Error) -> CopyError {
    CopyError::Broken { source }
}
