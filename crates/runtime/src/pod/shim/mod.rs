//! The shim: one small process for the whole node, the parent of every container.
//!
//! ```text
//!  riklet ──exec──▶ "shim --dir D" ──fork, new session, fork──▶ the shim          D/control.sock  calls
//!                     │ ends when the shim answers                                D/lock          one shim for each D
//!                     ▼                                                           D/shim.log      its complaints
//!                   exit code                                                     D/../pods       its containers
//! ```
//! A riklet that is another program than the shim has it become that program in place (`upgrade`).
//!
//! It has one thread, owns the containers' standard files, writes their logs, reaps them and writes down how they
//! ended. It decides nothing.
//!
//! *Guarantees*: riklet may end, crash or be replaced, and no container notices. The shim's own end breaks no
//! container either: their pipes stay open in themselves, and the next shim takes them over.
//! *Not here*: what a container consists of (`spec`), and what its end means (`mod`).

mod attach;
mod birth;
mod callers;
mod copying;
mod exec;
pub mod executor;
mod exits;
mod foreign;
mod ground;
mod join;
mod keeper;
pub mod launch;
pub mod log;
pub mod process;
mod server;
mod starts;
mod upgrade;
pub mod wire;

use std::{
    ffi::OsString,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Read, Write},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::{
            fs::{DirBuilderExt, OpenOptionsExt},
            net::UnixListener,
        },
    },
    path::{Path, PathBuf},
    process::ExitCode,
};

use rustix::{
    fs::{FlockOperation, flock},
    pipe::{PipeFlags, pipe_with},
    process::{
        DumpableBehavior, Pid, WaitOptions, set_child_subreaper, set_dumpable_behavior, setsid, waitpid,
    },
};

use self::upgrade::{Home, Inheritance, TAKE_OVER, read_inheritance};
pub use self::{
    attach::HEAD_BYTES,
    join::{TERMINAL_SOCKET, through},
    launch::STDIO,
};

/// Name of the socket in the shim's directory.
pub const SOCKET: &str = "control.sock";
/// Name of the file in which the shim complains.
pub const LOG: &str = "shim.log";
/// Exit code of a shim that found another one in its directory.
pub const ALREADY_THERE: u8 = 3;
/// Size at which the shim's own log is begun anew when a shim starts.
const LOG_BYTES: u64 = 1 << 20;
/// Badness for the out-of-memory killer that the shim asks for: it is small, and everything hangs on it.
const OOM_SCORE_ADJ: i32 = -999;
/// Creators at work together for each processor: more brought nothing in measurements, and each takes memory.
const LAUNCHES_FOR_EACH_PROCESSOR: usize = 4;

/// Why a shim could not begin.
#[derive(Debug, thiserror::Error)]
pub enum ShimError {
    /// It was called wrongly.
    #[error("the shim takes exactly: --dir DIRECTORY")]
    Usage,
    /// Another one is there.
    #[error("a shim is already there for {}", dir.display())]
    AlreadyThere {
        /// Its directory.
        dir: PathBuf,
    },
    /// Something that it needs could not be had.
    #[error("{what}")]
    Setup {
        /// What was being done.
        what: &'static str,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

trait While<T> {
    /// Says what was being done.
    fn during(self, what: &'static str) -> Result<T, ShimError>;
}

impl<T, E: Into<io::Error>> While<T> for Result<T, E> {
    fn during(self, what: &'static str) -> Result<T, ShimError> {
        self.map_err(|error| ShimError::Setup { what, source: error.into() })
    }
}

/// The whole life of the program `shim --dir DIRECTORY`. To be called before there is any other thread.
///
/// Comes back in the process that was called, with the exit code to end with, when the shim answers on its socket; and
/// in the shim itself when it ends.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    match begin(args) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error @ ShimError::AlreadyThere { .. }) => {
            eprintln!("{error}");
            ExitCode::from(ALREADY_THERE)
        }
        Err(error) => {
            let cause =
                std::error::Error::source(&error).map(|cause| format!(": {cause}")).unwrap_or_default();
            eprintln!("{error}{cause}");
            ExitCode::FAILURE
        }
    }
}

fn begin(args: impl IntoIterator<Item = OsString>) -> Result<(), ShimError> {
    match read_args(args)? {
        Asked::Begin { dir } => begin_anew(&dir),
        Asked::TakeOver { dir, inheritance } => {
            let shim = set_up(&dir, Some((inheritance.listener, inheritance.oom_score_adj)))?;
            live(shim, Home { dir, lock: inheritance.lock })
        }
    }
}

fn begin_anew(dir: &Path) -> Result<(), ShimError> {
    close_inherited();
    DirBuilder::new().recursive(true).mode(0o700).create(dir).during("making its directory")?;
    let dir = dir.canonicalize().during("finding its directory")?;
    let lock = lock(&dir)?;
    let log = open_log(&dir).during("opening its log")?;
    let (ready, mut say_ready) =
        pipe_with(PipeFlags::CLOEXEC).map(|(r, w)| (r, File::from(w))).during("a pipe")?;
    if let Some(child) = fork().during("forking")? {
        drop(say_ready);
        // It ends at once, when it has forked in its turn.
        let _ = waitpid(Some(child), WaitOptions::empty());
        return wait_until_ready(ready);
    }
    // A session of its own, and then not its leader: no terminal reaches it, and riklet is not its parent.
    setsid().during("leaving the session")?;
    if fork().during("forking")?.is_some() {
        std::process::exit(0);
    }
    drop(ready);
    take_stdio(&log).during("redirecting its output")?;
    let shim = set_up(&dir, None)?;
    let _ = say_ready.write_all(b"+");
    drop(say_ready);
    live(shim, Home { dir, lock })
}

/// Lets go of everything that the caller has left open, knowing or not: it would stay open as long as the shim lives.
fn close_inherited() {
    let first = libc::STDERR_FILENO.unsigned_abs() + 1;
    // SAFETY: this process has opened nothing yet, so nothing here owns any of them.
    unsafe { libc::close_range(first, libc::c_uint::MAX, 0) };
}

/// Runs until the shim ends.
fn live(shim: server::Shim, home: Home) -> Result<(), ShimError> {
    let outcome = shim.run(&home).during("waiting for events");
    let _ = fs::remove_file(home.dir.join(SOCKET));
    outcome
}

/// What the program was called for.
enum Asked {
    Begin { dir: PathBuf },
    TakeOver { dir: PathBuf, inheritance: Inheritance },
}

fn read_args(args: impl IntoIterator<Item = OsString>) -> Result<Asked, ShimError> {
    let args: Vec<OsString> = args.into_iter().collect();
    match args.as_slice() {
        [flag, dir] if flag == "--dir" && !dir.is_empty() => Ok(Asked::Begin { dir: PathBuf::from(dir) }),
        [flag, dir, take_over, word] if flag == "--dir" && take_over == TAKE_OVER => {
            let dir = PathBuf::from(dir);
            let inheritance = read_inheritance(word, &dir).ok_or(ShimError::Usage)?;
            Ok(Asked::TakeOver { dir, inheritance })
        }
        _ => Err(ShimError::Usage),
    }
}

fn lock(dir: &Path) -> Result<File, ShimError> {
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(dir.join("lock"));
    let lock = lock.during("opening its lock")?;
    match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(lock),
        Err(rustix::io::Errno::WOULDBLOCK) => Err(ShimError::AlreadyThere { dir: dir.to_owned() }),
        Err(error) => Err(ShimError::Setup { what: "taking its lock", source: error.into() }),
    }
}

fn open_log(dir: &Path) -> io::Result<File> {
    let path = dir.join(LOG);
    if path.metadata().is_ok_and(|metadata| metadata.len() > LOG_BYTES) {
        let _ = fs::remove_file(&path);
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

/// Gives the child's number in the parent.
fn fork() -> io::Result<Option<Pid>> {
    // SAFETY: by contract of `main` there is no other thread, so the child may go on as the parent would.
    match unsafe { libc::fork() } {
        -1 => Err(io::Error::last_os_error()),
        pid => Ok(Pid::from_raw(pid)),
    }
}

fn wait_until_ready(ready: OwnedFd) -> Result<(), ShimError> {
    let mut word = [0_u8; 1];
    File::from(ready).read_exact(&mut word).during("waiting for it to begin (its log says why)")
}

fn take_stdio(log: &File) -> io::Result<()> {
    let null = OpenOptions::new().read(true).write(true).open("/dev/null")?;
    for (file, standard) in [(&null, 0), (log, 1), (log, 2)] {
        // SAFETY: both are descriptors of this process; the standard ones belong to nobody.
        if unsafe { libc::dup2(file.as_raw_fd(), standard) } < 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

/// Sets up the process as a shim. `inherited`: what it had as another program, socket and score for containers.
fn set_up(dir: &Path, inherited: Option<(UnixListener, Option<i32>)>) -> Result<server::Shim, ShimError> {
    set_child_subreaper(Pid::from_raw(1)).during("becoming the subreaper")?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let (listener, oom_score_adj) = match inherited {
        Some((listener, score)) => (Some(listener), score),
        None => (None, lower_badness()),
    };
    let boot_id = boot_id().during("reading the boot id")?;
    let ground = ground::make(dir.parent().unwrap_or(dir)).map(std::rc::Rc::new);
    if let Err(error) = &ground {
        eprintln!("containers start slower the more of them there are: no mount namespace for them: {error}");
    }
    let config = launch::LaunchConfig { oom_score_adj, boot_id, ground: ground.ok() };
    set_dumpable_behavior(DumpableBehavior::NotDumpable).during("hiding its memory")?;
    let signals = block_signals().during("taking signals")?;
    let listener = match listener {
        Some(listener) => listener,
        None => listen(dir)?,
    };
    let processors = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let launches_max = LAUNCHES_FOR_EACH_PROCESSOR * processors;
    let mut shim =
        server::Shim::new(listener, signals, config, launches_max).during("setting up its loop")?;
    if let Some(state_dir) = dir.parent() {
        shim.adopt(&state_dir.join(crate::pod::record::RUN_DIR));
    }
    // Children that ended while this process was about to become another program.
    shim.reap();
    Ok(shim)
}

fn listen(dir: &Path) -> Result<UnixListener, ShimError> {
    // A name in the directory and not a path: the directory's own path may be too long for a socket.
    std::env::set_current_dir(dir).during("entering its directory")?;
    let _ = fs::remove_file(SOCKET);
    let listener = UnixListener::bind(SOCKET).during("listening on its socket")?;
    std::env::set_current_dir("/").during("leaving its directory")?;
    Ok(listener)
}

/// Makes the kernel spare this process; gives the value that containers are to get back.
fn lower_badness() -> Option<i32> {
    const FILE: &str = "/proc/self/oom_score_adj";
    let before = fs::read_to_string(FILE).ok()?.trim().parse().ok()?;
    match fs::write(FILE, OOM_SCORE_ADJ.to_string()) {
        Ok(()) => Some(before),
        Err(error) => {
            eprintln!(
                "the kernel may end this process when memory is short: its score cannot be lowered: {error}"
            );
            None
        }
    }
}

/// The start of this machine, as the kernel names it.
///
/// # Errors
/// If there is no /proc.
pub fn boot_id() -> io::Result<String> {
    Ok(fs::read_to_string("/proc/sys/kernel/random/boot_id")?.trim().to_owned())
}

fn block_signals() -> io::Result<OwnedFd> {
    // SAFETY: plain calls on a set of this frame; the new descriptor is nobody else's.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        for signal in [libc::SIGCHLD, libc::SIGTERM, libc::SIGINT, libc::SIGHUP] {
            libc::sigaddset(&raw mut set, signal);
        }
        if libc::sigprocmask(libc::SIG_SETMASK, &raw const set, std::ptr::null_mut()) != 0 {
            return Err(io::Error::last_os_error());
        }
        match libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK) {
            -1 => Err(io::Error::last_os_error()),
            fd => Ok(OwnedFd::from_raw_fd(fd)),
        }
    }
}
