//! The child of the shim that goes into a running container and becomes a further program there.
//!
//! ```text
//!  shim ──fork──▶ guide: the container's groups, its namespaces ──fork, the shim its parent──▶ program
//!    ▲             │ the program's pid, then it ends                                            │ why it cannot, or nothing
//!    └─────────────┴────────────────────────────────────────────────────────────────────────────┘ (the pipe closes)
//! ```
//! All namespaces are entered by one call on a handle of the container's first process, so they belong together and to
//! that very process. The second fork is for the pid namespace, which only children enter.
//!
//! *Guarantees*: the program has what the container's own has: root, user, capabilities, no new privileges, filter; it is
//! looked for inside. It holds no descriptor but its standard files.

use std::{
    ffi::CString,
    fs::{File, OpenOptions},
    io::{self, IoSlice, Read},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
        unix::{fs::OpenOptionsExt, net::UnixStream},
    },
    panic::{AssertUnwindSafe, catch_unwind},
    path::PathBuf,
};

use libcontainer::capabilities::CapabilityExt;
use oci_spec::runtime::{Capabilities, Process};
use rustix::{
    fs::{Mode, OFlags},
    io::ioctl_fionbio,
    net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg},
    pipe::{PipeFlags, pipe_with},
    process::{Resource, Rlimit, setrlimit, setsid, umask},
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    termios::{Winsize, tcsetwinsize},
    thread::{CapabilitySet, CapabilitySets, set_capabilities},
};

use super::{
    birth::{Birth, enter, fork_into},
    copying,
    executor::{become_program, leave_report},
    launch::{MAX_WHY_BYTES, STDIO, unblock_signals},
    wire::ExecOrder,
};
use crate::pod::seccomp::Confinement;

/// Largest list of users that is looked through.
const MAX_PASSWD_BYTES: u64 = 1 << 20;
/// Name of the socket that a terminal is sent to.
pub const TERMINAL_SOCKET: &str = "terminal.sock";
/// The file system that a container's terminals are on (linux/magic.h).
const DEVPTS_MAGIC: i64 = 0x1cd1;
/// Rows and columns of a terminal before somebody says otherwise.
pub(super) const FIRST_SIZE: (u16, u16) = (24, 80);
/// Separates the pid from the words that may follow it.
pub(super) const AFTER_PID: u8 = b'\n';

/// Forks a guide into the container whose first process is behind `container`. Gives the guide's pid, and the pipe that
/// tells the program's.
///
/// # Errors
/// If there can be no further process.
pub(super) fn join(order: &ExecOrder, container: &OwnedFd, score: Option<i32>) -> io::Result<(i32, OwnedFd)> {
    let (report, write) = pipe_with(PipeFlags::CLOEXEC)?;
    ioctl_fionbio(&report, true)?;
    // SAFETY: the shim has one thread, so the child may do whatever the parent may; it never returns.
    match unsafe { fork_into(&order.groups) }? {
        Birth::Child { inside } => {
            let done = catch_unwind(AssertUnwindSafe(|| guide(order, container, &write, inside, score)));
            let words = match done {
                Ok(Ok(())) => String::new(),
                Ok(Err(words)) => words,
                Err(_panic) => "going into the container crashed".to_owned(),
            };
            say(&write, &words);
            // SAFETY: ends the process at once; nothing of the parent's that was copied into it is to be torn down.
            unsafe { libc::_exit(0) }
        }
        Birth::Parent(pid) => Ok((pid, report)),
    }
}

fn say(pipe: &OwnedFd, words: &str) {
    let bytes = words.as_bytes();
    let short = bytes.get(..bytes.len().min(MAX_WHY_BYTES)).unwrap_or_default();
    let _ = rustix::io::write(pipe, short);
}

/// A short path to an open directory, for the address of a socket, which has room for little more than a hundred
/// characters.
#[must_use]
pub fn through(dir: &File) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", dir.as_raw_fd()))
}

/// What the program gets as its standard files.
enum Stdio {
    Files([OwnedFd; 3]),
    /// Where its terminal is to be sent.
    Terminal(UnixStream),
}

fn guide(
    order: &ExecOrder,
    container: &OwnedFd,
    report: &OwnedFd,
    inside: bool,
    score: Option<i32>,
) -> Result<(), String> {
    let at = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    unblock_signals();
    if let Some(score) = score {
        let _ = std::fs::write("/proc/self/oom_score_adj", score.to_string());
    }
    if !inside {
        enter(&order.groups).map_err(at("entering its control groups"))?;
    }
    // Files of the host are opened while its root is still ours.
    let stdio = open_stdio(order).map_err(at("its standard files"))?;
    let confinement = Confinement::read(&order.container_dir).map_err(at("its seccomp filter"))?;
    // Until it is a program of the container, the container is to see nothing of what it is, its program least of all.
    // SAFETY: a plain call.
    unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) };
    enter_namespaces(container).map_err(at("entering its namespaces"))?;
    let (go, hold) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| format!("a pipe: {error}"))?;
    match fork_beside().map_err(at("a process inside"))? {
        0 => {
            drop(hold);
            // Ends when the guide has told this process's pid.
            let mut nothing = [0_u8; 1];
            let _ = rustix::io::read(&go, &mut nothing);
            // What is closed below is not to be closed again.
            std::mem::forget(go);
            let words = match program(order, stdio, report, &confinement) {
                Err(words) => words,
                Ok(never) => match never {},
            };
            say(report, &words);
            // SAFETY: as for the guide.
            unsafe { libc::_exit(127) }
        }
        pid => {
            let mut line = pid.to_string().into_bytes();
            line.push(AFTER_PID);
            rustix::io::write(report, &line).map_err(|error| error.to_string())?;
            drop(hold);
            Ok(())
        }
    }
}

fn open_stdio(order: &ExecOrder) -> io::Result<Stdio> {
    if order.terminal.is_some() {
        let dir = File::open(&order.dir)?;
        return Ok(Stdio::Terminal(UnixStream::connect(through(&dir).join(TERMINAL_SOCKET))?));
    }
    // Not both ways: when the agent closes its ends, reading comes to an end and writing fails. That is why it opens its
    // ends first.
    let open = |name: &str, write: bool| -> io::Result<OwnedFd> {
        let flags = (OFlags::CLOEXEC | OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let file =
            OpenOptions::new().read(!write).write(write).custom_flags(flags).open(order.dir.join(name))?;
        ioctl_fionbio(&file, false)?;
        // So that programs that open `/dev/stdout` may.
        std::os::unix::fs::fchown(&file, Some(order.owner.0), Some(order.owner.1))?;
        Ok(file.into())
    };
    Ok(Stdio::Files([open(STDIO[0], false)?, open(STDIO[1], true)?, open(STDIO[2], true)?]))
}

/// Enters all namespaces of the process behind `container` that are not ours already.
fn enter_namespaces(container: &OwnedFd) -> io::Result<()> {
    const ALL: i32 = libc::CLONE_NEWNS
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWCGROUP;
    let set = |flags: i32| {
        // SAFETY: a plain call on an open handle.
        match unsafe { libc::setns(container.as_raw_fd(), flags) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    // A process may not enter the user namespace that it is in.
    match set(ALL | libc::CLONE_NEWUSER) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => set(ALL),
        Ok(()) => become_root(),
        failed => failed,
    }
}

/// Becomes root of the user namespace that was entered: the machine's own root is nobody there, and what it makes, such as
/// a terminal, would be nobody's.
pub(super) fn become_root() -> io::Result<()> {
    // SAFETY: plain calls; this process has one thread.
    if unsafe { libc::setresgid(0, 0, 0) != 0 || libc::setresuid(0, 0, 0) != 0 } {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Forks a process that is a sibling: its parent is the shim, which reaps it.
fn fork_beside() -> io::Result<i32> {
    let flags = libc::CLONE_PARENT | libc::SIGCHLD;
    // SAFETY: without a stack of its own the child goes on here, as after a fork; this process has one thread.
    let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0_usize, 0_usize, 0_usize, 0_usize) };
    match pid {
        -1 => Err(io::Error::last_os_error()),
        pid => i32::try_from(pid).map_err(io::Error::other),
    }
}

/// The life of the process inside, until it is the program.
fn program(
    order: &ExecOrder,
    stdio: Stdio,
    report: &OwnedFd,
    confinement: &Confinement,
) -> Result<std::convert::Infallible, String> {
    let at = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let process = &order.process;
    setsid().map_err(|error| format!("a session: {error}"))?;
    let files = match stdio {
        Stdio::Files(files) => files,
        Stdio::Terminal(socket) => {
            open_terminal(&socket, order.terminal.unwrap_or(FIRST_SIZE)).map_err(at("a terminal"))?
        }
    };
    take_stdio(&files, order.terminal.is_some()).map_err(at("its standard files"))?;
    std::mem::forget(files);
    close_all_but(report);
    limit_files(process);
    umask(Mode::from_raw_mode(process.user().umask().unwrap_or(0o022)));
    std::env::set_current_dir(process.cwd())
        .map_err(|error| format!("the directory {}: {error}", process.cwd().display()))?;
    become_user(process).map_err(at("its user"))?;
    if let Some(copy) = &order.copy {
        copying::copy(copy, report, confinement)
    }
    if order.says_itself {
        leave_report(report.as_raw_fd())?;
    }
    become_program(process, &environment(process), confinement)
}

/// The variables of the specification, and a home.
fn environment(process: &Process) -> Vec<CString> {
    let mut variables = process.env().clone().unwrap_or_default();
    if !variables.iter().any(|variable| variable.starts_with("HOME=")) {
        variables.push(format!("HOME={}", home(process.user().uid())));
    }
    // Held against NUL when the specification was made.
    variables.into_iter().filter_map(|variable| CString::new(variable).ok()).collect()
}

/// The home that the container's own list of users has for this one.
fn home(uid: u32) -> String {
    let mut text = String::new();
    let list = File::open("/etc/passwd");
    let read = list.and_then(|file| file.take(MAX_PASSWD_BYTES).read_to_string(&mut text));
    let own = |line: &str| {
        let mut fields = line.split(':');
        let found = fields.nth(2)?.parse() == Ok(uid);
        found.then(|| fields.nth(2).map(str::to_owned))?
    };
    let found = read.ok().and_then(|_| text.lines().find_map(own));
    found.filter(|home| !home.is_empty()).unwrap_or_else(|| "/".to_owned())
}

/// Makes these the standard files of this process, and its terminal if they are one.
fn take_stdio(files: &[OwnedFd; 3], are_terminal: bool) -> io::Result<()> {
    for (number, file) in (0..).zip(files) {
        // SAFETY: plain calls on open descriptors.
        if unsafe { libc::dup2(file.as_raw_fd(), number) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    if are_terminal {
        // SAFETY: a plain call; descriptor 0 is the terminal.
        unsafe { libc::ioctl(0, libc::TIOCSCTTY, 0) };
    }
    Ok(())
}

/// Gives this process, which is inside the container, a terminal of the container, and sends its other end over the socket.
///
/// # Errors
/// What the kernel says.
pub(super) fn become_terminal(socket: &UnixStream) -> io::Result<()> {
    let files = open_terminal(socket, FIRST_SIZE)?;
    take_stdio(&files, true)
}

/// The program's end of a new terminal of the container, three times; the other end goes over the socket.
fn open_terminal(socket: &UnixStream, (rows, columns): (u16, u16)) -> io::Result<[OwnedFd; 3]> {
    let flags = (OFlags::NOCTTY | OFlags::CLOEXEC | OFlags::NOFOLLOW).bits().cast_signed();
    let master = OpenOptions::new().read(true).write(true).custom_flags(flags).open("/dev/pts/ptmx")?;
    // The container may have put something else there.
    if rustix::fs::fstatfs(&master)?.f_type != DEVPTS_MAGIC {
        return Err(io::Error::other("/dev/pts of the container is no file system of terminals"));
    }
    unlockpt(&master)?;
    let own = ioctl_tiocgptpeer(&master, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    tcsetwinsize(&own, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
    send_terminal(socket, master.as_fd())?;
    Ok([own.try_clone()?, own.try_clone()?, own])
}

/// Sends the outer end of a terminal over the socket.
pub(super) fn send_terminal(socket: &UnixStream, terminal: BorrowedFd<'_>) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut buffer = SendAncillaryBuffer::new(&mut space);
    let sent = [terminal];
    buffer.push(SendAncillaryMessage::ScmRights(&sent));
    sendmsg(socket, &[IoSlice::new(b"t")], &mut buffer, SendFlags::empty())?;
    Ok(())
}

/// Closes everything but the standard files and the report, which closes itself when the program takes over.
fn close_all_but(report: &OwnedFd) {
    super::launch::close_all_but([report.as_raw_fd()]);
}

fn limit_files(process: &Process) {
    for limit in process.rlimits().iter().flatten() {
        if limit.typ() == oci_spec::runtime::PosixRlimitType::RlimitNofile {
            let _ = setrlimit(
                Resource::Nofile,
                Rlimit { current: Some(limit.soft()), maximum: Some(limit.hard()) },
            );
        }
    }
}

/// Takes the container's user, groups and capabilities, for good.
fn become_user(process: &Process) -> io::Result<()> {
    let user = process.user();
    let groups: Vec<libc::gid_t> = user.additional_gids().clone().unwrap_or_default();
    let check = |result: i32| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    let list = process.capabilities().as_ref();
    let bounding = mask(list.and_then(|own| own.bounding().as_ref()));
    let effective = mask(list.and_then(|own| own.effective().as_ref()));
    let permitted = mask(list.and_then(|own| own.permitted().as_ref()));
    // SAFETY: plain calls on values of this frame; the process has one thread, so they hold for all of it.
    unsafe {
        check(libc::setgroups(groups.len(), groups.as_ptr()))?;
        check(libc::setresgid(user.gid(), user.gid(), user.gid()))?;
        for capability in 0..=63 {
            let unknown = libc::prctl(libc::PR_CAPBSET_READ, capability, 0, 0, 0) < 0;
            if !unknown && bounding & (1 << capability) == 0 {
                check(libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0))?;
            }
        }
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))?;
        check(libc::setresuid(user.uid(), user.uid(), user.uid()))?;
    }
    let set = |mask: u64| CapabilitySet::from_bits_retain(mask);
    let sets = CapabilitySets {
        effective: set(effective),
        permitted: set(permitted),
        inheritable: CapabilitySet::empty(),
    };
    set_capabilities(None, sets)?;
    // SAFETY: as above.
    unsafe {
        check(libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0))?;
        if process.no_new_privileges().unwrap_or(true) {
            check(libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0))?;
        }
    }
    Ok(())
}

/// The capabilities as the kernel's mask.
fn mask(list: Option<&Capabilities>) -> u64 {
    list.into_iter().flatten().fold(0, |mask, capability| mask | (1 << capability.to_cap().index()))
}

#[cfg(test)]
mod tests {
    use oci_spec::runtime::Capability;

    use super::*;

    #[test]
    fn capabilities_become_the_bits_of_the_kernel() {
        let list: Capabilities = [Capability::Chown, Capability::Kill, Capability::SysChroot].into();
        assert_eq!(mask(Some(&list)), 1 | 1 << 5 | 1 << 18);
        assert_eq!(mask(None), 0);
    }
}
