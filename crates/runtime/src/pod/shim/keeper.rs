//! The first process of a pod whose containers share their processes (`shareProcessNamespace`).
//!
//! ```text
//!  shim ──fork──▶ helper ── the pod's groups, its user namespace, a new pid namespace ──fork──▶ keeper (pid 1 inside)
//!    ▲              │ tells the keeper's pid, and ends                                            reaps, and nothing else
//!    └──────────────┘ ns/pid and keeper.json, then the containers
//! ```
//! A pid namespace lives as long as its first process. That is nobody's program here: a container may end and start again
//! while the others go on.
//!
//! *Guarantees*: the keeper has no descriptor, no right and no memory that a container could look into: it is never
//! dumpable, and its command line is blank. It ends with the pod's control groups.

use std::{
    convert::Infallible,
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::{fd::AsRawFd, unix::fs::OpenOptionsExt},
    path::Path,
};

use rustix::{
    fs::OFlags,
    pipe::{PipeFlags, pipe_with},
    process::{Pid, WaitOptions, chdir, waitpid},
    thread::{CapabilitySet, CapabilitySets, set_capabilities},
};
use serde::{Deserialize, Serialize};

use super::{
    birth::{Birth, enter, fork_into},
    join::become_root,
    launch::close_all_but,
    process::start_ticks,
    wire::SharedPids,
};
use crate::pod::files::{read_whole, write_whole};

/// What stands instead of the command line that the keeper was forked with.
const COMMAND_LINE: &[u8] = b"pod";
/// Places of the command line's bounds in `/proc/<pid>/stat`, counted behind the name (proc_pid_stat(5): 48 and 49).
const ARGUMENT_FIELDS: (usize, usize) = (45, 46);

/// Who it is.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct KeeperFile {
    pid: i32,
    start_ticks: u64,
    boot_id: String,
}

/// Makes sure that the pod has a keeper, and that its file holds the namespace. Blocks for a millisecond or two.
///
/// # Errors
/// What the kernel says.
pub(super) fn ensure(shared: &SharedPids, boot_id: &str) -> io::Result<()> {
    let known: Option<KeeperFile> = read_whole(&shared.keeper)?;
    if known.is_some_and(|own| own.boot_id == boot_id && start_ticks(own.pid) == Some(own.start_ticks)) {
        return Ok(());
    }
    let pid = begin(shared)?;
    let ticks =
        start_ticks(pid).ok_or_else(|| io::Error::other("the pod's first process has ended at once"))?;
    hold(pid, &shared.namespace)?;
    write_whole(&shared.keeper, &KeeperFile { pid, start_ticks: ticks, boot_id: boot_id.to_owned() })
}

/// Mounts the keeper's namespace on the file, over an earlier one that has ended.
fn hold(pid: i32, path: &Path) -> io::Result<()> {
    let flags = OFlags::NOFOLLOW.bits().cast_signed();
    match OpenOptions::new().write(true).create_new(true).mode(0o400).custom_flags(flags).open(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    Ok(rustix::mount::mount_bind(format!("/proc/{pid}/ns/pid"), path)?)
}

/// Forks the helper, and waits until it has told the keeper's pid.
fn begin(shared: &SharedPids) -> io::Result<i32> {
    let (report, write) = pipe_with(PipeFlags::CLOEXEC)?;
    // SAFETY: the shim has one thread, so the child may do whatever the parent may; it never returns.
    let helper = match unsafe { fork_into(&shared.groups) }? {
        Birth::Child { inside } => {
            close_all_but([write.as_raw_fd()]);
            let words = match help(shared, inside) {
                Ok(pid) => pid.to_string(),
                Err(error) => error.to_string(),
            };
            let _ = rustix::io::write(&write, words.as_bytes());
            // SAFETY: ends the process at once; nothing of the parent's that was copied into it is to be torn down.
            unsafe { libc::_exit(0) }
        }
        Birth::Parent(pid) => pid,
    };
    drop(write);
    let mut words = String::new();
    File::from(report).read_to_string(&mut words)?;
    if let Some(helper) = Pid::from_raw(helper) {
        let _ = waitpid(Some(helper), WaitOptions::empty());
    }
    words.trim().parse().map_err(|_words| io::Error::other(format!("the pod's first process: {words}")))
}

/// The life of the helper: goes where the keeper is to be, and forks it. Gives its pid as the machine sees it.
fn help(shared: &SharedPids, inside: bool) -> io::Result<i32> {
    if !inside {
        enter(&shared.groups)?;
    }
    // Before it is in a namespace that others are in.
    // SAFETY: a plain call.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    if let Some(user) = &shared.user {
        let user = File::open(user)?;
        // SAFETY: a plain call on an open descriptor.
        if unsafe { libc::setns(user.as_raw_fd(), libc::CLONE_NEWUSER) } != 0 {
            return Err(io::Error::last_os_error());
        }
        become_root()?;
    }
    // SAFETY: plain calls; this process has one thread.
    let pid = unsafe {
        if libc::unshare(libc::CLONE_NEWPID) != 0 {
            return Err(io::Error::last_os_error());
        }
        libc::fork()
    };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        0 => match keep() {
            Ok(never) => match never {},
            // SAFETY: as for the helper. The namespace ends with it, and the first container finds none.
            Err(_) => unsafe { libc::_exit(1) },
        },
        pid => Ok(pid),
    }
}

/// The life of the keeper.
fn keep() -> io::Result<Infallible> {
    // While there is still a /proc to ask; what cannot be hidden is our own name and directory, and no secret.
    let _ = blank_command_line();
    chdir("/")?;
    // SAFETY: nothing of what the descriptors belonged to is used in this process any more.
    unsafe { libc::close_range(0, libc::c_uint::MAX, 0) };
    // SAFETY: plain calls on values of this frame.
    unsafe {
        libc::prctl(libc::PR_SET_NAME, c"pod".as_ptr(), 0, 0, 0);
        libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
    }
    let none = CapabilitySet::empty();
    set_capabilities(None, CapabilitySets { effective: none, permitted: none, inheritable: none })?;
    // SAFETY: plain calls on a set of this frame. The signal is blocked, so that none is missed between two waits.
    unsafe {
        let mut ends: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut ends);
        libc::sigaddset(&raw mut ends, libc::SIGCHLD);
        libc::sigprocmask(libc::SIG_BLOCK, &raw const ends, std::ptr::null_mut());
        loop {
            while libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) > 0 {}
            libc::sigwaitinfo(&raw const ends, std::ptr::null_mut());
        }
    }
}

/// Overwrites the command line, which everybody inside may read: it names directories of the machine.
fn blank_command_line() -> io::Result<()> {
    let stat = fs::read_to_string("/proc/self/stat")?;
    let fields: Vec<&str> = stat.rsplit_once(") ").map_or(Vec::new(), |(_, rest)| rest.split(' ').collect());
    let bound = |at: usize| fields.get(at).and_then(|text| text.trim().parse::<usize>().ok());
    let (Some(start), Some(end)) = (bound(ARGUMENT_FIELDS.0), bound(ARGUMENT_FIELDS.1)) else {
        return Err(io::ErrorKind::InvalidData.into());
    };
    let length = end.saturating_sub(start);
    if start == 0 || length <= COMMAND_LINE.len() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    let place = std::ptr::with_exposed_provenance_mut::<u8>(start);
    // SAFETY: the kernel says that the arguments of this program lie there, in writable memory of its stack; nothing in
    // this process looks at them any more.
    unsafe {
        place.write_bytes(0, length);
        std::ptr::copy_nonoverlapping(COMMAND_LINE.as_ptr(), place, COMMAND_LINE.len());
    }
    Ok(())
}
