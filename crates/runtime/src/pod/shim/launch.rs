//! Creates and starts one container in a child of the shim that does nothing else.
//!
//! ```text
//!  shim ──fork──▶ creator ──libcontainer──▶ init (waits) ── process.json ── go ──▶ init runs the program
//!    ▲              │ report: what came of it, one line of JSON
//!    └──────────────┘ the creator ends; the shim is the subreaper and becomes the parent of init
//! ```
//! libcontainer forks with bare system calls and changes what belongs to the whole process; here it has a process of
//! its own with one thread, and a crash or a hang in it is that process's end and nothing else.
//!
//! The creator is in the container's control groups from its birth; what it uses for some milliseconds counts there. Another
//! runtime than libcontainer (`foreign`) puts its init there, and stays outside itself.
//!
//! *Guarantees*: the creator ends with the shim, and holds no descriptor of the shim's but the report; `process.json` is there before the
//! program may run; the report of a success comes after the program was executed.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd, RawFd},
        unix::{
            fs::{OpenOptionsExt, fchown},
            net::UnixStream,
        },
    },
    panic::{AssertUnwindSafe, catch_unwind},
    path::Path,
    rc::Rc,
};

use jiff::Timestamp;
use libcontainer::{container::builder::ContainerBuilder, syscall::syscall::SyscallType};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags, mknodat},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, kill_process, set_parent_process_death_signal, umask},
};
use serde::{Deserialize, Serialize};

use super::{
    birth::{Birth, enter, fork_into, fork_outside},
    executor::ProgramExecutor,
    foreign, ground,
    process::start_ticks,
    wire::ContainerOrder,
};
use crate::{
    pod::{
        cgroup::Groups,
        files::{EXIT_FILE, PROCESS_FILE, ProcessFile, write_whole},
        prepare::CONFIG_FILE,
        scaffold::Carried,
        seccomp::Confinement,
    },
    sentence,
};

/// Names of the pipes that are a container's standard files.
pub const STDIO: [&str; 3] = ["stdin", "stdout", "stderr"];
/// Longest sentence about a failure.
pub(super) const MAX_WHY_BYTES: usize = 4 << 10;

/// What a creator says when it is done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Report {
    /// The program runs.
    Runs {
        /// Its process.
        process: ProcessFile,
    },
    /// It does not, and nothing of it is left but perhaps in its control group.
    Failed {
        /// Why, for people.
        why: String,
    },
}

/// A creator at work.
#[derive(Debug)]
pub struct Launched {
    /// Its process id.
    pub pid: i32,
    /// Where its report comes from. Does not block.
    pub report: OwnedFd,
    /// Where the container's terminal comes from before its program begins, if it is to have one.
    pub terminal: Option<UnixStream>,
}

/// What creators need to know of the shim's own state.
#[derive(Clone, Debug, Default)]
pub struct LaunchConfig {
    /// Badness for the out-of-memory killer that containers get, if the shim's own was changed.
    pub oom_score_adj: Option<i32>,
    /// Start of the machine.
    pub boot_id: String,
    /// The mount namespace that containers are made in; without it, in a copy of the machine's.
    pub ground: Option<Rc<OwnedFd>>,
}

/// Forks a creator for the container.
///
/// # Errors
/// If pipes or process cannot be made.
pub fn launch(order: &ContainerOrder, config: &LaunchConfig) -> io::Result<Launched> {
    let (report, write) = pipe_with(PipeFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&report, true)?;
    let (terminal, sender) =
        if order.terminal { UnixStream::pair().map(|(a, b)| (Some(a), Some(b)))? } else { (None, None) };
    // SAFETY: the shim has one thread, so the child may do whatever the parent may; it never returns.
    let birth = unsafe {
        match &order.runtime {
            None => fork_into(&order.groups),
            // It moves what belongs there itself.
            Some(_) => fork_outside(),
        }
    };
    match birth? {
        Birth::Child { inside } => {
            // A creator does not outlive the shim, so the next one finds all that it will ever have done.
            let _ = set_parent_process_death_signal(Some(Signal::KILL));
            creator(order, config, (write, sender), inside)
        }
        Birth::Parent(pid) => Ok(Launched { pid, report, terminal }),
    }
}

/// Makes one of a container's pipes, if it is not there.
pub(super) fn make_fifo(path: &Path) -> io::Result<()> {
    match mknodat(CWD, path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Opens one of a container's pipes for reading and writing: so it has neither end-of-file nor broken pipe, whoever
/// else comes and goes.
///
/// # Errors
/// What the file system says.
pub fn open_fifo(path: &Path, flags: OFlags) -> io::Result<File> {
    let flags = OFlags::CLOEXEC | OFlags::NOFOLLOW | flags;
    OpenOptions::new().read(true).write(true).custom_flags(flags.bits().cast_signed()).open(path)
}

/// The life of a creator.
fn creator(
    order: &ContainerOrder,
    config: &LaunchConfig,
    (report, terminal): (OwnedFd, Option<UnixStream>),
    inside: bool,
) -> ! {
    let outcome = catch_unwind(AssertUnwindSafe(|| {
        let ground = config.ground.as_ref().map(|ground| ground.as_raw_fd());
        let kept = [Some(report.as_raw_fd()), terminal.as_ref().map(AsRawFd::as_raw_fd), ground];
        close_all_but(kept.into_iter().flatten());
        umask(Mode::WGRP | Mode::WOTH);
        unblock_signals();
        if let Some(score) = config.oom_score_adj {
            let _ = fs::write("/proc/self/oom_score_adj", score.to_string());
        }
        if !inside && order.runtime.is_none() {
            enter(&order.groups).map_err(|error| format!("entering its control groups: {error}"))?;
        }
        create(order, config, terminal.as_ref())
    }));
    let said = match outcome {
        Ok(Ok(said)) => said,
        Ok(Err(why)) => Report::Failed { why: shorten(why) },
        Err(_panic) => Report::Failed { why: "the creation of the container crashed".to_owned() },
    };
    let failed = matches!(said, Report::Failed { .. });
    let mut line = serde_json::to_vec(&said).unwrap_or_default();
    line.push(b'\n');
    let _ = File::from(report).write_all(&line);
    // SAFETY: ends the process at once; nothing of the parent's that was copied into it is to be torn down.
    unsafe { libc::_exit(i32::from(failed)) }
}

fn create(
    order: &ContainerOrder,
    config: &LaunchConfig,
    terminal: Option<&UnixStream>,
) -> Result<Report, String> {
    if let Groups::Legacy { shown, .. } = &order.groups {
        libcgroups::show(shown.clone());
    }
    if let Some(scaffold) = &order.scaffold {
        let taken = scaffold.take_along()?;
        // Another runtime is a program of the machine's, which may be anywhere.
        let ground = config.ground.as_ref().filter(|_| order.runtime.is_none());
        // A description that holds secrets is in memory, which is a mount of the pod's own.
        let secret = ground.and_then(|_| fs::read_link(order.dir.join(CONFIG_FILE)).ok());
        let secret = secret.as_deref().and_then(Path::parent).map(Carried::take).transpose()?;
        if let Some(ground) = ground {
            ground::enter(ground).map_err(|error| format!("leaving the machine's mounts: {error}"))?;
        }
        scaffold.build(&taken)?;
        secret.map_or(Ok(()), Carried::put_back)?;
    }
    // A container that an earlier attempt left half created has never run anything: it makes room.
    let _ = fs::remove_dir_all(order.oci_root.join(order.index.to_string()));
    let stdio = open_stdio(order).map_err(|error| format!("its standard files: {error}"))?;
    match &order.runtime {
        None => create_here(order, config, stdio, terminal),
        Some(program) => {
            let pid = foreign::create(program, order, stdio, terminal)?;
            begin(order, config, pid, |_| foreign::start(program, order))
        }
    }
}

/// Creates it by libcontainer.
fn create_here(
    order: &ContainerOrder,
    config: &LaunchConfig,
    [stdin, stdout, stderr]: [OwnedFd; 3],
    terminal: Option<&UnixStream>,
) -> Result<Report, String> {
    let (heard, said) = pipe_with(PipeFlags::CLOEXEC).map_err(|error| format!("a pipe: {error}"))?;
    let confinement =
        Confinement::read(&order.dir).map_err(|error| format!("its seccomp filter: {error}"))?;
    let executor = ProgramExecutor::new(
        (said.as_raw_fd(), order.says_itself),
        terminal.map(AsRawFd::as_raw_fd),
        confinement,
    );
    let built = ContainerBuilder::new(order.index.to_string(), SyscallType::default())
        .with_executor(executor)
        .with_stdin(stdin)
        .with_stdout(stdout)
        .with_stderr(stderr)
        .with_root_path(&order.oci_root)
        .and_then(|builder| builder.as_init(&order.dir).with_systemd(false).with_detach(true).build());
    let mut container = match built {
        Ok(container) => container,
        Err(error) => {
            drop(said);
            let own = read_all(heard);
            return Err(if own.is_empty() { sentence(&error) } else { own });
        }
    };
    let pid = container.pid().map_or(0, |pid| pid.as_raw());
    begin(order, config, pid, |process| {
        let started = container.start().map_err(|error| sentence(&error));
        drop(said);
        started?;
        // Ends when init executes its program (the pipe closes then) or says why it cannot.
        let own = read_all(heard);
        if !own.is_empty() {
            return Err(own);
        }
        if order.says_itself {
            // It has begun only now, and not when its process was there.
            process.created_at = Timestamp::now();
            write_process(order, process)?;
        }
        Ok(())
    })
}

/// Writes down the process of a created container, then lets its program begin. One that does not is killed.
fn begin(
    order: &ContainerOrder,
    config: &LaunchConfig,
    pid: i32,
    start: impl FnOnce(&mut ProcessFile) -> Result<(), String>,
) -> Result<Report, String> {
    let mut process = process_file(order, config, pid);
    let started = write_process(order, &process).and_then(|()| start(&mut process));
    if started.is_err()
        && let Some(pid) = Pid::from_raw(pid)
    {
        let _ = kill_process(pid, Signal::KILL);
    }
    started.map(|()| Report::Runs { process })
}

fn write_process(order: &ContainerOrder, process: &ProcessFile) -> Result<(), String> {
    write_whole(&order.dir.join(PROCESS_FILE), process)
        .map_err(|error| format!("writing down its process: {error}"))
}

fn process_file(order: &ContainerOrder, config: &LaunchConfig, pid: i32) -> ProcessFile {
    // Elsewhere the kernel ends all its processes with the first.
    let by_group = order.host_pids || order.shared_pids.is_some();
    ProcessFile {
        pid,
        start_ticks: start_ticks(pid).unwrap_or_default(),
        boot_id: config.boot_id.clone(),
        created_at: Timestamp::now(),
        log: order.log.clone(),
        stop_signal: order.stop_signal,
        memory_dir: order.memory_dir.clone(),
        run: order.run,
        stdin_once: order.stdin_once,
        group: order.groups.dir().filter(|_| by_group).map(Path::to_owned),
    }
}

/// The container's ends of its standard files, owned by its user, so that programs that open `/dev/stdout` may.
fn open_stdio(order: &ContainerOrder) -> io::Result<[OwnedFd; 3]> {
    let open = |name: &str| -> io::Result<OwnedFd> {
        let file = open_fifo(&order.dir.join(name), OFlags::empty())?;
        fchown(&file, Some(order.owner.0), Some(order.owner.1))?;
        Ok(file.into())
    };
    let (mut stdin, stdout, stderr) = (open(STDIO[0])?, open(STDIO[1])?, open(STDIO[2])?);
    if order.stdin_once {
        // It only reads, so that it comes to an end when the shim and all who write let go.
        let flags = (OFlags::CLOEXEC | OFlags::NOFOLLOW).bits().cast_signed();
        stdin = OpenOptions::new().read(true).custom_flags(flags).open(order.dir.join(STDIO[0]))?.into();
    }
    Ok([stdin, stdout, stderr])
}

/// Closes everything above the standard files but what is to be kept: what a container inherits it holds for its whole
/// life.
pub(super) fn close_all_but(keep: impl IntoIterator<Item = RawFd>) {
    let close = |first: RawFd, last: libc::c_uint| {
        let Ok(first) = libc::c_uint::try_from(first) else { return };
        if first <= last {
            // SAFETY: the values that own these descriptors are copies of the parent's that are never used or dropped
            // in this process, which ends by `_exit`.
            unsafe { libc::close_range(first, last, 0) };
        }
    };
    let mut keep: Vec<RawFd> = keep.into_iter().collect();
    keep.sort_unstable();
    let mut first = libc::STDERR_FILENO + 1;
    for kept in keep {
        close(first, libc::c_uint::try_from(kept).unwrap_or(0).saturating_sub(1));
        first = kept + 1;
    }
    close(first, libc::c_uint::MAX);
}

pub(super) fn unblock_signals() {
    // SAFETY: plain calls on a set of this frame.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

fn read_all(pipe: OwnedFd) -> String {
    let mut text = Vec::new();
    let _ = File::from(pipe).take(MAX_WHY_BYTES as u64).read_to_end(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

fn shorten(mut why: String) -> String {
    if why.len() > MAX_WHY_BYTES {
        let end = (0..=MAX_WHY_BYTES).rev().find(|at| why.is_char_boundary(*at)).unwrap_or(0);
        why.truncate(end);
    }
    why
}

/// Whether the container in this directory has ever been begun.
#[must_use]
pub fn has_begun(dir: &Path) -> bool {
    dir.join(PROCESS_FILE).exists() || dir.join(EXIT_FILE).exists()
}

/// A report as far as it has come: None while it is incomplete.
#[derive(Debug, Default)]
pub struct ReportBuffer {
    bytes: Vec<u8>,
}

impl ReportBuffer {
    /// Reads what has come.
    pub fn read(&mut self, pipe: impl AsFd) -> Option<Report> {
        let mut chunk = [0_u8; 4096];
        while let Ok(count) = rustix::io::read(&pipe, &mut chunk)
            && count > 0
            && self.bytes.len() < 4 * MAX_WHY_BYTES
        {
            self.bytes.extend_from_slice(chunk.get(..count).unwrap_or_default());
        }
        let line = self.bytes.strip_suffix(b"\n")?;
        serde_json::from_slice(line).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sentence_about_a_failure_is_cut_between_characters() {
        let long = "ü".repeat(MAX_WHY_BYTES);
        let cut = shorten(long);
        assert!(cut.len() <= MAX_WHY_BYTES);
        assert!(cut.chars().all(|letter| letter == 'ü'));
    }
}
