//! How a process comes into a container's control groups without waiting.
//!
//! Moving a running process costs some 8 ms, because the kernel waits until no processor is in the middle of a fork. A
//! process that is born in its group (cgroup v2), or that has one thread and moves only itself (cgroup v1), costs
//! nothing of the kind.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use rustix::io::Errno;

use crate::pod::cgroup::Groups;

/// Flag of clone3 (linux/sched.h); libc has it as a number that does not fit its type.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// What a fork gives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Birth {
    /// To the parent: the child.
    Parent(i32),
    /// To the child: whether it is in its groups already; otherwise [`enter`].
    Child {
        /// Whether it is.
        inside: bool,
    },
}

/// Forks, into the groups where that is possible.
///
/// # Errors
/// If there can be no further process.
///
/// # Safety
/// The calling process must have one thread.
pub(super) unsafe fn fork_into(groups: &Groups) -> io::Result<Birth> {
    if let Groups::Unified { dir } = groups {
        // SAFETY: as for this function.
        match unsafe { clone_into(dir) } {
            // Linux before 5.7, or a sandbox that knows no clone3.
            Err(error)
                if matches!(
                    Errno::from_io_error(&error),
                    Some(Errno::NOSYS | Errno::INVAL | Errno::PERM)
                ) => {}
            born => return born,
        }
    }
    // SAFETY: as for this function.
    unsafe { fork_outside() }
}

/// Forks; the child is in no other groups than its parent.
///
/// # Errors
/// If there can be no further process.
///
/// # Safety
/// The calling process must have one thread.
pub(super) unsafe fn fork_outside() -> io::Result<Birth> {
    // SAFETY: as for this function.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Birth::Child { inside: false }),
        pid => Ok(Birth::Parent(pid)),
    }
}

unsafe fn clone_into(dir: &Path) -> io::Result<Birth> {
    let dir = OpenOptions::new().read(true).custom_flags(libc::O_DIRECTORY | libc::O_PATH).open(dir)?;
    let number = |descriptor: &File| u64::try_from(descriptor.as_raw_fd()).unwrap_or(u64::MAX);
    // SAFETY: every field of this struct may be zero.
    let mut wanted: libc::clone_args = unsafe { std::mem::zeroed() };
    wanted.flags = CLONE_INTO_CGROUP;
    wanted.exit_signal = u64::from(libc::SIGCHLD.unsigned_abs());
    wanted.cgroup = number(&dir);
    // SAFETY: the struct is whole and its size is given; without a stack of its own the child goes on here, as after a
    // fork, and there is no other thread that could have held a lock.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw const wanted, size_of::<libc::clone_args>()) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => Ok(Birth::Child { inside: true }),
        pid => i32::try_from(pid).map(Birth::Parent).map_err(io::Error::other),
    }
}

/// Moves the calling process, which has one thread, into the groups.
///
/// # Errors
/// If a group is not there or does not take it.
pub(super) fn enter(groups: &Groups) -> io::Result<()> {
    let write = |path: &Path| OpenOptions::new().write(true).open(path)?.write_all(b"0");
    match groups {
        // `tasks` and not `cgroup.procs`: it moves the calling thread alone, for which nobody has to wait. The unified
        // hierarchy of a hybrid machine has none.
        Groups::Legacy { dirs, .. } => dirs.iter().try_for_each(|dir| match write(&dir.join("tasks")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => write(&dir.join("cgroup.procs")),
            done => done,
        }),
        Groups::Unified { dir } => write(&dir.join("cgroup.procs")),
    }
}
