//! Becomes the program of a newer (or older) riklet in place: the same process goes on, with the same children.
//!
//! ```text
//!  riklet ── Version ──▶ shim        another version, or another program file?
//!         ── Upgrade ──▶ starts that are under way end ─▶ execve of the caller's own program:
//!                        shim --dir D --take-over LOCK:LISTENER:SCORE
//!         ◀── the connection ends; riklet connects again, to the same socket
//! ```
//! Lock and listening socket are handed over open, so there is no moment in which another shim could begin or a riklet
//! could be turned away. Everything else is found again as after a crash, but that the containers are this process's
//! children still, and their ends cannot be missed: one that ends meanwhile waits to be reaped.
//!
//! *Guarantees*: the program is the one that the caller runs, whatever the file is called now, and never named by a
//! message; if it cannot be executed, everything is as before. What is frozen for all versions: the calls `version` and
//! `upgrade` with the answer to the former (`wire`), and the arguments above.

use std::{
    ffi::{CString, OsStr, OsString},
    fs::File,
    io,
    os::{
        fd::{AsFd, AsRawFd, FromRawFd, OwnedFd},
        unix::{ffi::OsStrExt, fs::MetadataExt, net::UnixListener, net::UnixStream},
    },
    path::{Path, PathBuf},
};

use rustix::io::{FdFlags, fcntl_setfd};

use super::{server::Shim, wire::Answer};

/// The argument behind which the inheritance follows.
pub(super) const TAKE_OVER: &str = "--take-over";
/// What stands for the score if it was never changed.
const NO_SCORE: &str = "-";

/// What the shim of a directory holds as long as it lives, whichever program it is.
#[derive(Debug)]
pub(super) struct Home {
    pub(super) dir: PathBuf,
    pub(super) lock: File,
}

/// What the program before has handed over.
#[derive(Debug)]
pub(super) struct Inheritance {
    pub(super) lock: File,
    pub(super) listener: UnixListener,
    /// Badness for the out-of-memory killer that containers get.
    pub(super) oom_score_adj: Option<i32>,
}

/// An upgrade that waits until no start is under way.
#[derive(Debug)]
pub(super) struct Upgrade {
    program: File,
    /// Token of the caller and number of the call.
    asked_by: (u64, u64),
}

impl Shim {
    /// Begins an upgrade to the program that the caller runs.
    pub(super) fn begin_upgrade(&mut self, caller: &UnixStream, asked_by: (u64, u64)) -> Result<(), String> {
        if self.upgrade.is_some() {
            return Err("it is about to become another program already".to_owned());
        }
        let program = program_of(caller).map_err(|error| format!("finding the caller's program: {error}"))?;
        self.upgrade = Some(Upgrade { program, asked_by });
        Ok(())
    }

    /// Becomes the other program if one was asked for and nothing is under way. Comes back if there is nothing to do, or
    /// if that failed.
    pub(super) fn upgrade_if_asked(&mut self, home: &Home) {
        if !self.starts.is_empty() {
            return;
        }
        let Some(Upgrade { program, asked_by }) = self.upgrade.take() else { return };
        for live in self.live.values_mut() {
            if let Some(log) = &mut live.outputs.log {
                log.hand_over();
            }
        }
        self.hand_over_terminals(FdFlags::empty());
        let error = self.execute(&program, home);
        self.hand_over_terminals(FdFlags::CLOEXEC);
        eprintln!("the program of the caller could not be executed: {error}");
        let why = format!("executing the caller's program: {error}");
        self.reply(asked_by.0, asked_by.1, Answer::Refused { why });
    }

    /// Executes the program; comes back only if that failed.
    fn execute(&self, program: &File, home: &Home) -> io::Error {
        let (lock, listener) = (home.lock.as_fd(), self.listener.as_fd());
        let score = self.config.oom_score_adj.map_or_else(|| NO_SCORE.to_owned(), |score| score.to_string());
        let inheritance = format!("{}:{}:{score}", lock.as_raw_fd(), listener.as_raw_fd());
        let words: [&OsStr; 6] = [
            OsStr::new("/proc/self/exe"),
            OsStr::new("shim"),
            OsStr::new("--dir"),
            home.dir.as_os_str(),
            OsStr::new(TAKE_OVER),
            OsStr::new(&inheritance),
        ];
        let words: Result<Vec<CString>, _> = words.iter().map(|word| CString::new(word.as_bytes())).collect();
        let Ok(words) = words else { return io::ErrorKind::InvalidInput.into() };
        let keep = |flags: FdFlags| [lock, listener].map(|fd| fcntl_setfd(fd, flags));
        if let Some(Err(error)) = keep(FdFlags::empty()).into_iter().find(Result::is_err) {
            return error.into();
        }
        let mut arguments: Vec<*const libc::c_char> = words.iter().map(|word| word.as_ptr()).collect();
        arguments.push(std::ptr::null());
        let environment: [*const libc::c_char; 1] = [std::ptr::null()];
        // SAFETY: both lists end with a null, and what they point to lives until the call comes back.
        unsafe { libc::fexecve(program.as_raw_fd(), arguments.as_ptr(), environment.as_ptr()) };
        let error = io::Error::last_os_error();
        let _ = keep(FdFlags::CLOEXEC);
        error
    }
}

/// The program file that the process at the other end of a connection runs.
fn program_of(caller: &UnixStream) -> io::Result<File> {
    let peer = rustix::net::sockopt::socket_peercred(caller)?;
    if !peer.uid.is_root() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    File::open(format!("/proc/{}/exe", peer.pid.as_raw_nonzero()))
}

/// Reads what stands behind [`TAKE_OVER`]. None if it is not an inheritance of the shim of this directory.
pub(super) fn read_inheritance(word: &OsString, dir: &Path) -> Option<Inheritance> {
    let mut fields = word.to_str()?.splitn(3, ':');
    let (lock, listener) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let oom_score_adj = match fields.next()? {
        NO_SCORE => None,
        score => Some(score.parse().ok()?),
    };
    let lock = File::from(inherited(lock)?);
    // Whoever calls by hand has no such descriptor.
    let (own, there) = (lock.metadata().ok()?, std::fs::metadata(dir.join("lock")).ok()?);
    let same = own.dev() == there.dev() && own.ino() == there.ino();
    let listener = UnixListener::from(inherited(listener)?);
    listener.local_addr().ok()?;
    same.then_some(Inheritance { lock, listener, oom_score_adj })
}

/// A descriptor that was left open for us, which from now on is not left open for others.
fn inherited(number: i32) -> Option<OwnedFd> {
    if number <= libc::STDERR_FILENO {
        return None;
    }
    // SAFETY: by the arguments, this process was executed with the descriptor open for it; nothing else here owns it, as
    // this is read before anything is opened. One that is not open fails in the next line and is given up there.
    let descriptor = unsafe { OwnedFd::from_raw_fd(number) };
    match fcntl_setfd(&descriptor, FdFlags::CLOEXEC) {
        Ok(()) => Some(descriptor),
        Err(_absent) => {
            std::mem::forget(descriptor);
            None
        }
    }
}
