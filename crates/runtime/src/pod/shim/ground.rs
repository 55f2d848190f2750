//! The mount namespace that containers are made in: the machine's root, the kernel's own files and the state directory,
//! and nothing else.
//!
//! A creator would otherwise copy all mounts of the machine twice and read their list, and each pod of the node has some:
//! with hundreds of pods, that is most of the work of a start. What a container brings along is taken from the machine's
//! own namespace before (`scaffold`).
//!
//! *Guarantee*: a mount that the machine lets go of is not held here, unless RIK itself stands on it.

use std::{
    fs::{self, File},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::MetadataExt,
    },
    path::Path,
};

use network::namespace;
use rustix::{
    mount::{MountPropagationFlags, UnmountFlags, mount_change, unmount},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, WaitOptions, set_parent_process_death_signal, waitpid},
    thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space},
};

use super::birth::{Birth, fork_outside};
use crate::pod::record::RUN_DIR;

/// Where the kernel shows its own files and devices.
const KERNEL_DIRS: [&str; 3] = ["/proc", "/sys", "/dev"];
/// The file of a process's own mount namespace.
const OWN: &str = "/proc/self/ns/mnt";

/// Makes the namespace, for a node with this state directory. The calling process must have one thread.
///
/// # Errors
/// What the kernel says; or this process has another root than its namespace, and could not come back.
pub(super) fn make(state_dir: &Path) -> io::Result<OwnedFd> {
    let state_dir = fs::canonicalize(state_dir)?;
    let ((go, stay), (made, done)) = (pipe_with(PipeFlags::CLOEXEC)?, pipe_with(PipeFlags::CLOEXEC)?);
    // SAFETY: this process has one thread.
    match unsafe { fork_outside() }? {
        Birth::Child { .. } => {
            drop((stay, made));
            // The parent reads of it that nothing came.
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            let said = lay(&state_dir).and_then(|()| File::from(done).write_all(&[0]));
            let _ = said.map(|()| File::from(go).read(&mut [0]));
            // SAFETY: ends the process at once; nothing of the parent's that was copied into it is to be torn down.
            unsafe { libc::_exit(0) }
        }
        Birth::Parent(pid) => {
            drop((go, done));
            let opened = File::from(made)
                .read_exact(&mut [0])
                .and_then(|()| File::open(format!("/proc/{pid}/ns/mnt")));
            drop(stay);
            if let Some(pid) = Pid::from_raw(pid) {
                // It ends because nobody holds its pipe any more.
                let _ = waitpid(Some(pid), WaitOptions::empty());
            }
            Ok(opened?.into())
        }
    }
}

/// Moves the calling process, which has one thread, into the namespace.
///
/// # Errors
/// What the kernel says.
pub(super) fn enter(ground: &OwnedFd) -> io::Result<()> {
    Ok(move_into_link_name_space(ground.as_fd(), Some(LinkNameSpaceType::Mount))?)
}

/// Takes this process into a new mount namespace with what is needed there.
fn lay(state_dir: &Path) -> io::Result<()> {
    let root = |path: &str| fs::metadata(path).map(|found| (found.dev(), found.ino()));
    let (before, machine) = (root("/")?, OwnedFd::from(File::open(OWN)?));
    // SAFETY: it does not unshare descriptors, which is what is dangerous about the call; the process has one thread.
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWNS) }?;
    let own = OwnedFd::from(File::open(OWN)?);
    // Whoever enters a namespace has its root.
    enter(&machine)?;
    if root("/")? != before {
        return Err(io::Error::other("this process has a root of its own"));
    }
    enter(&own)?;
    mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    for point in namespace::mount_points()?.iter().rev().filter(|point| !is_needed(point, state_dir)) {
        // What went with another one is not there any more.
        let _ = unmount(point, UnmountFlags::DETACH | UnmountFlags::NOFOLLOW);
    }
    Ok(())
}

/// Whether something of a creator's may be on the file system that is mounted there.
fn is_needed(point: &Path, state_dir: &Path) -> bool {
    let of_pods = state_dir.join(RUN_DIR);
    of_pods.starts_with(point) || KERNEL_DIRS.iter().any(|dir| point.starts_with(dir))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_needed_is_the_way_to_the_state_directory_and_what_is_the_kernels() {
        let state = Path::new("/srv/rik node/state");
        for needed in [
            "/",
            "/srv",
            "/srv/rik node/state",
            "/srv/rik node/state/run",
            "/proc",
            "/sys/fs/cgroup/memory",
            "/dev/shm",
        ] {
            assert!(is_needed(Path::new(needed), state), "{needed}");
        }
        for other in ["/home", "/srv/other", "/srv/rik node/state/run/a/ns", "/run", "/device"] {
            assert!(!is_needed(Path::new(other), state), "{other}");
        }
    }
}
