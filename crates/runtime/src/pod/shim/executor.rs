//! The last thing that runs of ours inside a container: finds the program and becomes it.
//!
//! It stands in for libcontainer's own executor for three reasons: what cannot be executed is explained in words for
//! people through a pipe that closes when the program takes over (so "started" means executed), what the shim
//! did to signals does not reach the program, and it loads the filter of system calls, which libcontainer would leave out
//! without a word.
//!
//! *Guarantee*: nothing is executed without the filter that it was made with.

use std::{
    ffi::CString,
    fs,
    io::{self, Write},
    os::{
        fd::{BorrowedFd, RawFd},
        unix::{fs::PermissionsExt, net::UnixStream},
    },
    path::{Path, PathBuf},
};

use guest::vmm::REPORT;
use libcontainer::workload::{Executor, ExecutorError, ExecutorValidationError};
use oci_spec::runtime::{Process, Spec};

use super::join::become_terminal;
use crate::pod::seccomp::Confinement;

/// Finds and executes the program of a container's spec.
#[derive(Clone, Debug)]
pub struct ProgramExecutor {
    /// Where a failure is explained. A number and not an owner: it is copied along by several forks.
    said: RawFd,
    /// Whether the program goes on explaining there.
    says_itself: bool,
    /// Where the program's terminal is sent, if it is to have one. A number for the same reason.
    terminal: Option<RawFd>,
    confinement: Confinement,
}

impl ProgramExecutor {
    /// An executor that explains failures to the descriptor `said`, which the program itself may have as well, gives the
    /// program a terminal whose other end goes to `terminal`, and holds it by this filter.
    #[must_use]
    pub const fn new(
        (said, says_itself): (RawFd, bool),
        terminal: Option<RawFd>,
        confinement: Confinement,
    ) -> Self {
        Self { said, says_itself, terminal, confinement }
    }

    fn prepare_terminal(&self) -> io::Result<()> {
        let Some(number) = self.terminal else { return Ok(()) };
        // SAFETY: the descriptor is open in every process that this value is copied to, until it executes.
        let socket = unsafe { BorrowedFd::borrow_raw(number) }.try_clone_to_owned()?;
        become_terminal(&UnixStream::from(socket))
    }

    fn say(&self, words: &str) {
        // SAFETY: the descriptor is open in every process that this value is copied to, until it executes.
        let pipe = unsafe { BorrowedFd::borrow_raw(self.said) };
        if let Ok(pipe) = pipe.try_clone_to_owned() {
            let _ = fs::File::from(pipe).write_all(words.as_bytes());
        }
    }
}

impl Executor for ProgramExecutor {
    fn exec(&self, spec: &Spec) -> Result<(), ExecutorError> {
        let process = spec.process().as_ref().ok_or(ExecutorError::InvalidArg)?;
        let ready = self.prepare_terminal().map_err(|error| format!("a terminal: {error}"));
        let ready = ready.and_then(|()| if self.says_itself { leave_report(self.said) } else { Ok(()) });
        let Err(words) =
            ready.and_then(|()| become_program(process, &present_environment(), &self.confinement));
        self.say(&words);
        Err(ExecutorError::Other(words))
    }

    fn validate(&self, spec: &Spec) -> Result<(), ExecutorValidationError> {
        let none = || ExecutorValidationError::ArgValidationError("there is no process".to_owned());
        let process = spec.process().as_ref().ok_or_else(none)?;
        program_of(process).map(drop).map_err(|words| {
            self.say(&words);
            ExecutorValidationError::ArgValidationError(words)
        })
    }
}

/// Leaves the report to the program, as the descriptor that it looks for it at.
pub(super) fn leave_report(report: RawFd) -> Result<(), String> {
    // SAFETY: plain calls on an open descriptor; whatever had the number before is not used after this.
    let done = unsafe {
        if report == REPORT { libc::fcntl(report, libc::F_SETFD, 0) } else { libc::dup2(report, REPORT) }
    };
    if done < 0 { Err(format!("its report: {}", io::Error::last_os_error())) } else { Ok(()) }
}

/// Finds the program of a process and becomes it, with this environment and behind this filter. Comes back only with words for people on why
/// not.
pub(super) fn become_program(
    process: &Process,
    environment: &[CString],
    confinement: &Confinement,
) -> Result<std::convert::Infallible, String> {
    let (program, args) = program_of(process)?;
    execute(&program, &args, environment, confinement).map_err(|error| match error {
        NotExecuted::Unconfined(error) => format!("its seccomp filter could not be loaded: {error}"),
        NotExecuted::Refused(error) => explain(&program, &error),
    })
}

/// What libcontainer has put together: the specification's variables, and a home.
fn present_environment() -> Vec<CString> {
    let joined = std::env::vars_os().map(|(name, value)| {
        let mut bytes = name.into_encoded_bytes();
        bytes.push(b'=');
        bytes.extend(value.into_encoded_bytes());
        CString::new(bytes)
    });
    // None holds a NUL: they come from the kernel.
    joined.flatten().collect()
}

fn program_of(process: &Process) -> Result<(PathBuf, Vec<String>), String> {
    let args = process.args().clone().unwrap_or_default();
    let name = args.first().ok_or("there is no command to run")?;
    let path =
        process.env().iter().flatten().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or("");
    find(name, path).map(|program| (program, args))
}

/// The file that `name` stands for, looked up as a shell does.
fn find(name: &str, path: &str) -> Result<PathBuf, String> {
    if name.contains('/') {
        return look(Path::new(name)).unwrap_or_else(|| Err(format!("{name:?} not found in the image")));
    }
    let mut obstacle = None;
    for folder in path.split(':') {
        let candidate = Path::new(if folder.is_empty() { "." } else { folder }).join(name);
        match look(&candidate) {
            Some(Ok(found)) => return Ok(found),
            Some(Err(words)) => obstacle = obstacle.or(Some(words)),
            None => {}
        }
    }
    Err(obstacle.unwrap_or_else(|| format!("{name:?} not found in the image (PATH is {path})")))
}

fn look(candidate: &Path) -> Option<Result<PathBuf, String>> {
    let metadata = match fs::metadata(candidate) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            return Some(Err(format!("{} may not be looked up by this user", candidate.display())));
        }
        Err(_absent) => return None,
    };
    if metadata.is_dir() {
        return Some(Err(format!("{:?} is a directory, not a program", candidate.display().to_string())));
    }
    if metadata.permissions().mode() & 0o111 == 0 {
        return Some(Err(format!("{:?} is not executable", candidate.display().to_string())));
    }
    Some(Ok(candidate.to_owned()))
}

/// Why a program was not executed.
enum NotExecuted {
    /// Its filter could not be loaded.
    Unconfined(seccompiler::Error),
    /// The kernel refused.
    Refused(io::Error),
}

fn execute(
    program: &Path,
    args: &[String],
    environment: &[CString],
    confinement: &Confinement,
) -> Result<std::convert::Infallible, NotExecuted> {
    let text = |bytes: &[u8]| CString::new(bytes).map_err(|nul| NotExecuted::Refused(nul.into()));
    let program = text(program.as_os_str().as_encoded_bytes())?;
    let args = args.iter().map(|arg| text(arg.as_bytes())).collect::<Result<Vec<_>, _>>()?;
    let list = |texts: &[CString]| -> Vec<*const libc::c_char> {
        texts.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (args, environment) = (list(&args), list(environment));
    forget_signals();
    // The last step of all: what comes after it would need to be allowed.
    confinement.load().map_err(NotExecuted::Unconfined)?;
    // SAFETY: a plain call; both lists end with null and their strings outlive the call.
    unsafe { libc::execve(program.as_ptr(), args.as_ptr(), environment.as_ptr()) };
    Err(NotExecuted::Refused(io::Error::last_os_error()))
}

/// Lets the program begin with no signal blocked and none ignored: the shim blocks some, the language's runtime ignores
/// SIGPIPE, and whoever began the node may have ignored others. All of that would be inherited.
pub(super) fn forget_signals() {
    /// The kernel's own `struct sigaction`: handler, flags, restorer, mask. All zero is the default action.
    const DEFAULT: [u64; 4] = [0; 4];
    const MASK_BYTES: usize = 8;
    // SAFETY: plain calls on values that outlive them. By number and not by the library, which hides two signals.
    unsafe {
        for signal in 1..=64 {
            let none = std::ptr::null::<u64>();
            libc::syscall(libc::SYS_rt_sigaction, signal, DEFAULT.as_ptr(), none, MASK_BYTES);
        }
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

fn explain(program: &Path, error: &io::Error) -> String {
    let name = program.display().to_string();
    match error.raw_os_error() {
        Some(libc::ENOENT) => format!("{name:?} needs an interpreter or loader that is not in the image"),
        Some(libc::ENOEXEC) => {
            format!("{name:?} is not a program that this machine can run (wrong format or processor)")
        }
        Some(libc::EACCES) => format!("{name:?} may not be executed by this user"),
        Some(libc::E2BIG) => format!("the arguments and environment of {name:?} are too long"),
        _ => format!("{name:?} could not be executed: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn program_is_found_as_a_shell_finds_it() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str, mode: u32| {
            let path = dir.path().join(name);
            fs::write(&path, "").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        };
        place("tool", 0o755);
        place("note", 0o644);
        let path = format!("/nowhere:{}", dir.path().display());
        assert_eq!(find("tool", &path).unwrap(), dir.path().join("tool"));
        assert!(find("note", &path).unwrap_err().contains("is not executable"));
        assert_eq!(find("/bin/nope-nope", &path).unwrap_err(), "\"/bin/nope-nope\" not found in the image");
        assert!(find("nope", "/nowhere").unwrap_err().contains("PATH is /nowhere"));
        assert!(find("/", &path).unwrap_err().contains("directory"));
    }
}
