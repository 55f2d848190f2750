//! Whether this machine can give pods user namespaces: found out by doing once what every start does.

use std::{fs::File, io, path::Path};

use rustix::{
    fs::CWD,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, OpenTreeFlags, fsconfig_create, fsmount, fsopen, open_tree,
    },
};

use crate::{IdRange, Kind, Newborn, mapped, newborn::Task};

/// Why there are no user namespaces for pods.
#[derive(Debug)]
pub struct Unavailable {
    /// What was tried.
    what: &'static str,
    /// What the kernel said.
    error: io::Error,
}

impl std::fmt::Display for Unavailable {
    fn fmt(&self, to: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(to, "{} failed: {}", self.what, self.error)
    }
}

impl std::error::Error for Unavailable {}

/// Does once what the start of a pod with these ids does, and leaves nothing: new namespaces, the kernel's files mounted in
/// them, and mounts of `directories` and of one in memory with mapped owners (Linux 6.3).
///
/// # Errors
/// What cannot be done.
pub fn probe(ids: IdRange, directories: &[&Path]) -> Result<(), Unavailable> {
    let flags =
        libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | libc::CLONE_NEWNS | libc::CLONE_NEWPID;
    let newborn = Newborn::with(flags, Some(ids), Task::MountKernelFiles)
        .map_err(|(what, error)| Unavailable { what, error })?;
    let at = |what: &'static str| move |error: io::Error| Unavailable { what, error };
    let namespace = File::open(newborn.namespace(Kind::User)).map_err(at("opening a user namespace"))?;
    for directory in directories {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
        open_tree(CWD, *directory, flags)
            .map_err(io::Error::from)
            .and_then(|tree| mapped(tree, &namespace))
            .map_err(at("a mount of the state directory with mapped owners"))?;
    }
    in_memory()
        .and_then(|tree| mapped(tree, &namespace))
        .map_err(at("a mount in memory with mapped owners (Linux 6.3 and later can)"))
}

fn in_memory() -> io::Result<rustix::fd::OwnedFd> {
    let context = fsopen("tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    Ok(fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_mapped_is_told_in_words() {
        let ids = IdRange { first: 1_879_048_192, count: 65_536 };
        let refused = probe(ids, &[Path::new("/proc")]).unwrap_err().to_string();
        assert!(
            refused.starts_with("a mount of the state directory with mapped owners failed: "),
            "{refused}"
        );
    }
}
