//! Configs and secrets of a pod: kept in memory on its node, and shown to its containers.
//!
//! ```text
//!  run/<uid>/g              a file system in memory, for root alone
//!             /config.<name>/<key>, secret.<name>/<key>   what the instance was given: for containers that start anew
//!             /<index>/<volume>/<path>                    files that a container sees
//!             /<index>.json                               its config.json, if its variables come from here
//! ```
//! *Guarantees*: none of it is ever written to a disk, nor to swap where the kernel can do without; it goes with the
//! pod's volumes, and with the machine's memory.

use std::{
    fs::{self, DirBuilder, OpenOptions},
    io::{self, Write},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt, chown, symlink},
    path::{Path, PathBuf},
};

use model::{
    ContainerSpec, Reason, WorkloadSpec,
    given::{self, Contents, Given, ObjectKind},
};

use super::{
    fault,
    memory::{self, InMemory},
    record::PodPlace,
};
use crate::RuntimeError;

/// Most bytes of the file system: the objects once, and again for each of many containers that show them.
const SPACE_BYTES: u64 = 64 << 20;
/// Where they are kept.
const KEPT_IN: InMemory =
    InMemory { mode: "0700", bytes: Some(SPACE_BYTES), stays: true, programs: false, devices: false };

/// Keeps what the instance was given, if it names anything. Safe to repeat.
///
/// # Errors
/// Something that it names is missing, or cannot be kept.
pub fn keep(place: &PodPlace, spec: &WorkloadSpec, given: &Given) -> Result<(), RuntimeError> {
    if given::named(spec).is_empty() {
        return Ok(());
    }
    given.check(spec).map_err(|why| missing(&why))?;
    let kept = memory::mount(&place.given(), KEPT_IN).and_then(|()| {
        given.objects.iter().try_for_each(|((kind, name), contents)| {
            let directory = object(place, *kind, name);
            fresh(&directory)?;
            contents.iter().try_for_each(|(key, value)| write(&directory.join(key), value, None))
        })
    });
    kept.map_err(fault::files)
}

/// What the instance was given, from where it is kept.
///
/// # Errors
/// It cannot be read.
pub fn load(place: &PodPlace, spec: &WorkloadSpec) -> io::Result<Given> {
    let mut given = Given::default();
    for (kind, name) in given::named(spec) {
        let entries = match fs::read_dir(object(place, kind, &name)) {
            Ok(entries) => entries,
            // It was optional, or `keep` would have said so.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let mut contents = Contents::new();
        for entry in entries {
            let entry = entry?;
            contents.insert(entry.file_name().to_string_lossy().into_owned(), fs::read(entry.path())?);
        }
        given.objects.insert((kind, name), contents);
    }
    Ok(given)
}

/// The container with every variable's value in its place.
///
/// # Errors
/// A value is missing.
pub fn with_values(container: &ContainerSpec, given: &Given) -> Result<ContainerSpec, RuntimeError> {
    let env = given.variables(container).map_err(|why| missing(&why))?;
    Ok(ContainerSpec { env, env_from: Vec::new(), ..container.clone() })
}

/// Makes the files that a container sees, for its user alone if they are secret.
///
/// # Errors
/// They cannot be made.
pub fn show(
    place: &PodPlace,
    spec: &WorkloadSpec,
    (index, container): (usize, &ContainerSpec),
    (given, owner): (&Given, (u32, u32)),
) -> Result<(), RuntimeError> {
    for volume in &spec.volumes {
        let mounted = container.volume_mounts.iter().any(|mount| mount.name == volume.name);
        let Some((kind, own)) = given::of_volume(volume).filter(|_| mounted) else { continue };
        let files = given.files(kind, own).map_err(|why| missing(&why))?;
        let top = directory(place, index, &volume.name);
        let made = fresh(&top).and_then(|()| {
            files.iter().try_for_each(|(path, value)| {
                let path = top.join(path);
                open_directories(&top, &path)?;
                write(&path, value, Some((kind, owner)))
            })
        });
        made.map_err(fault::files)?;
    }
    Ok(())
}

/// Where a container's files of a volume are.
#[must_use]
pub fn directory(place: &PodPlace, index: usize, volume: &str) -> PathBuf {
    place.given().join(index.to_string()).join(volume)
}

/// Makes `path` lead to a file in memory, and says which: for a `config.json` that holds values.
///
/// # Errors
/// What the file system says.
pub fn in_memory(place: &PodPlace, index: usize, path: &Path) -> io::Result<PathBuf> {
    let real = place.given().join(format!("{index}.json"));
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    symlink(&real, path)?;
    Ok(real)
}

fn object(place: &PodPlace, kind: ObjectKind, name: &str) -> PathBuf {
    place.given().join(format!("{kind}.{name}"))
}

/// An empty directory that everybody may look into who gets there; above it is one for root alone.
fn fresh(path: &Path) -> io::Result<()> {
    match fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

fn open_directories(top: &Path, path: &Path) -> io::Result<()> {
    match path.parent().filter(|parent| *parent != top) {
        Some(parent) => DirBuilder::new().recursive(true).mode(0o755).create(parent),
        None => Ok(()),
    }
}

fn write(path: &Path, value: &[u8], shown: Option<(ObjectKind, (u32, u32))>) -> io::Result<()> {
    let mode = shown.map_or(0o400, |(kind, _)| mode(kind));
    let mut file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path)?;
    file.write_all(value)?;
    match shown {
        Some((_, (user, group))) => chown(path, Some(user), Some(group)),
        None => Ok(()),
    }
}

/// Permissions of a file that a container sees.
pub(super) const fn mode(kind: ObjectKind) -> u32 {
    match kind {
        ObjectKind::Config => 0o444,
        ObjectKind::Secret => 0o400,
    }
}

pub(super) fn missing(why: &str) -> RuntimeError {
    fault::words("give the instance what it names".to_owned(), Reason::ObjectMissing, why)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::record::Places;

    #[test]
    fn what_was_given_is_read_back_as_it_was_kept() {
        let state = tempfile::tempdir().unwrap();
        let place = Places::new(state.path().to_owned()).pod("3f2c1d5e-0a4b-4c6d-8e7f-90a1b2c3d4e5").unwrap();
        let spec: WorkloadSpec =
            serde_json::from_str(r#"{"containers":[],"volumes":[{"name":"v","secret":{"name":"db"}}]}"#)
                .unwrap();
        let contents = Contents::from([("a.b".to_owned(), b"\0\xff".to_vec()), ("c".to_owned(), Vec::new())]);
        let given =
            Given { objects: [((ObjectKind::Secret, "db".to_owned()), contents)].into(), problem: None };
        keep(&place, &spec, &given).unwrap();
        keep(&place, &spec, &given).unwrap();
        let loaded = load(&place, &spec);
        super::super::volumes::clear(&place).unwrap();
        assert_eq!(loaded.unwrap(), given);
        assert!(!place.given().exists());
        let refused = keep(&place, &spec, &Given::default()).unwrap_err();
        assert_eq!(refused.reason, Reason::ObjectMissing);
        assert!(!place.given().exists(), "nothing is made for what is refused");
    }
}
