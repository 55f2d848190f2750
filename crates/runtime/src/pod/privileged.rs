//! What is the machine's own and goes to a privileged container: rights and devices. Only by the operator's word
//! (`Allowed`).

use std::{
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use rustix::{
    fs::{major, minor},
    thread::{CapabilitySet, capabilities},
};
use serde_json::{Value, json};

/// Most devices that are passed on: more than a large machine has.
const MAX_DEVICES: usize = 4_096;
/// What every container has of its own below `/dev`: it is not to be the machine's.
const OWN: [&str; 12] =
    ["console", "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "tty", "urandom", "zero"];

/// The capabilities that this process has, by the kernel's names: nobody can have more of it.
pub(super) fn all_capabilities() -> Vec<String> {
    let held = capabilities(None).map_or(CapabilitySet::empty(), |own| own.permitted);
    held.iter_names().map(|(name, _)| format!("CAP_{name}")).collect()
}

/// The devices below `/dev`, as the runtime specification has them.
pub(super) fn devices() -> Vec<Value> {
    let mut found = Vec::new();
    collect(Path::new("/dev"), &mut found);
    found
}

/// Devices that come and go while they are looked at are left out.
fn collect(dir: &Path, found: &mut Vec<Value>) {
    let top = dir == Path::new("/dev");
    for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
        if top && OWN.iter().any(|own| entry.file_name() == *own) {
            continue;
        }
        // Links are not followed: what they lead to is there itself.
        let Ok(metadata) = entry.metadata() else { continue };
        let kind = metadata.file_type();
        if kind.is_dir() {
            collect(&entry.path(), found);
        } else if (kind.is_char_device() || kind.is_block_device()) && found.len() < MAX_DEVICES {
            found.push(json!({
                "path": entry.path(), "type": if kind.is_block_device() { "b" } else { "c" },
                "major": major(metadata.rdev()), "minor": minor(metadata.rdev()),
                "fileMode": metadata.mode() & 0o777, "uid": metadata.uid(), "gid": metadata.gid(),
            }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machines_devices_are_told_without_those_that_a_container_has_itself() {
        let all = devices();
        let paths: Vec<&str> = all.iter().filter_map(|device| device["path"].as_str()).collect();
        assert!(!paths.contains(&"/dev/null") && !paths.iter().any(|path| path.starts_with("/dev/pts/")));
        for device in &all {
            assert!(
                device["major"].is_u64() && ["b", "c"].contains(&device["type"].as_str().unwrap()),
                "{device}"
            );
        }
    }
}
