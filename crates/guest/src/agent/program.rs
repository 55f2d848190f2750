//! Begins a program in the root that was made for it: as its user, in its directory, with its terminal.

use std::{
    ffi::{CStr, CString},
    fs::{self, File},
    io::{self, Read},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::{
            fs::{OpenOptionsExt, PermissionsExt},
            process::CommandExt,
        },
    },
    path::Path,
    process::{Command, Stdio},
    sync::mpsc::{Sender, channel},
    thread,
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2},
    process::Pid,
    pty::{OpenptFlags, ioctl_tiocgptpeer, unlockpt},
    termios::{Winsize, tcsetwinsize},
};

use super::machine::ROOT;
use crate::{
    accounts::{self, Account},
    order::{Order, Program, Task},
};

/// What a root file system may have as its first program, as kernels look for it.
const INITS: [&str; 4] = ["/sbin/init", "/etc/init", "/bin/init", "/bin/sh"];
/// Where programs are looked for if the environment does not say.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// This side's ends of a program's standard files.
pub(super) enum Files {
    Pipes { input: File, output: File, errors: File },
    Terminal(File),
}

/// The same, one by one.
pub(super) struct Outer {
    pub(super) input: File,
    pub(super) output: File,
    pub(super) errors: Option<File>,
    pub(super) terminal: Option<File>,
}

type Begun = Result<(Pid, Files), String>;

/// Begins programs, in a thread that does nothing else: it lives where processes are the programs', and can have no
/// threads of its own any more.
#[derive(Clone, Debug)]
pub(super) struct Beginner {
    orders: Sender<(Order, bool, Sender<Begun>)>,
}

impl Beginner {
    /// Starts the thread.
    pub(super) fn new() -> Self {
        let (orders, queue) = channel::<(Order, bool, Sender<Begun>)>();
        thread::spawn(move || {
            for (order, first, answer) in queue {
                // Whoever asked waits.
                let _ = answer.send(begin(&order, first));
            }
        });
        Self { orders }
    }

    /// Begins what is ordered. The first program of all gets processes of its own, which later ones share.
    pub(super) fn begin(&self, order: &Order, first: bool) -> Begun {
        let (answer, heard) = channel();
        let gone = "nothing can be begun any more";
        self.orders.send((order.clone(), first, answer)).map_err(|_gone| gone.to_owned())?;
        heard.recv().map_err(|_gone| gone.to_owned())?
    }
}

fn begin(order: &Order, first: bool) -> Begun {
    if first {
        // SAFETY: it concerns children of this thread alone.
        unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWPID) }
            .map_err(|error| format!("processes of its own: {error}"))?;
    }
    // Held until the child has become another program: it is that program's file, or is not needed.
    let own = File::open("/init").map_err(|error| format!("the agent's own file: {error}"))?;
    let copy = |way: &str, path: &Path| Program {
        args: [&format!("/proc/self/fd/{}", own.as_raw_fd()), "copy", way, &path.to_string_lossy()]
            .map(str::to_owned)
            .into(),
        working_dir: "/".into(),
        user: order.user.clone(),
        ..Program::default()
    };
    let program = match &order.task {
        Task::Run(program) => program.clone(),
        Task::CopyOut(path) => copy("out", path),
        Task::CopyIn(path) => copy("in", path),
    };
    let args = if program.args.is_empty() { vec![first_program()?] } else { program.args.clone() };
    let account = account_of(&program)?;
    let mut command = prepare(&program, &args, &account)?;
    let (inner, outer) =
        standard_files(order.terminal).map_err(|error| format!("its standard files: {error}"))?;
    let is_terminal = order.terminal.is_some();
    let [input, output, errors] = inner;
    command.stdin(Stdio::from(input)).stdout(Stdio::from(output)).stderr(Stdio::from(errors));
    let directory = if program.working_dir.is_absolute() { program.working_dir.clone() } else { "/".into() };
    let root = CString::new(ROOT).map_err(|error| error.to_string())?;
    // SAFETY: only system calls on values that were made before, as is right between fork and exec.
    unsafe {
        command.pre_exec(move || become_program((&root, &directory), &account, is_terminal, first));
    }
    let child = command.spawn().map_err(|error| words(&args, &program, &error))?;
    let pid = i32::try_from(child.id()).ok().and_then(Pid::from_raw);
    Ok((pid.ok_or("a process without a number")?, outer))
}

/// Opens a path of the program's root, whose links lead nowhere else.
fn open_inside(path: &str, flags: OFlags) -> io::Result<File> {
    let root = File::open(ROOT)?;
    let opened = openat2(root, path.trim_start_matches('/'), flags, Mode::empty(), ResolveFlags::IN_ROOT)?;
    Ok(File::from(opened))
}

fn first_program() -> Result<String, String> {
    let there = |path: &&str| {
        let found = open_inside(path, OFlags::PATH | OFlags::CLOEXEC).and_then(|file| file.metadata());
        found.is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    let found = INITS.into_iter().find(there).map(str::to_owned);
    found.ok_or_else(|| {
        format!("there is no command, and none of {} in the root file system", INITS.join(", "))
    })
}

/// The text of an account file; empty if there is none of a sensible size.
pub(super) fn read_accounts(name: &str) -> String {
    // Not to wait for a writer, should it be a pipe.
    let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let read = open_inside(&format!("etc/{name}"), flags).and_then(|file| {
        let mut bytes = Vec::new();
        file.take(accounts::MAX_FILE_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    });
    read.map(|bytes| String::from_utf8_lossy(&bytes).into_owned()).unwrap_or_default()
}

fn account_of(program: &Program) -> Result<Account, String> {
    let (passwd, groups) = (read_accounts("passwd"), read_accounts("group"));
    let mut account =
        accounts::resolve(&passwd, &groups, &program.user).map_err(|error| error.to_string())?;
    account.groups.extend(&program.groups);
    account.groups.sort_unstable();
    account.groups.dedup();
    if program.non_root && account.uid == 0 {
        return Err(
            "it would run as root, which its runAsNonRoot refuses; runAsUser names another user".to_owned()
        );
    }
    Ok(account)
}

fn prepare(program: &Program, args: &[String], account: &Account) -> Result<Command, String> {
    let name = args.first().ok_or("there is no command to run")?;
    let mut command = Command::new(name);
    command.args(args.iter().skip(1)).env_clear();
    let has = |wanted: &str| program.env.iter().any(|own| own.split('=').next() == Some(wanted));
    if !has("PATH") {
        command.env("PATH", DEFAULT_PATH);
    }
    if !has("HOME") {
        let passwd = read_accounts("passwd");
        command.env("HOME", accounts::home(&passwd, account.uid).unwrap_or("/"));
    }
    for variable in &program.env {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        command.env(name, value);
    }
    Ok(command)
}

fn standard_files(terminal: Option<(u16, u16)>) -> io::Result<([OwnedFd; 3], Files)> {
    let Some((rows, columns)) = terminal else {
        let ((input, to_input), (output, its_output), (errors, its_errors)) =
            (io::pipe()?, io::pipe()?, io::pipe()?);
        let outer = Files::Pipes {
            input: File::from(OwnedFd::from(to_input)),
            output: File::from(OwnedFd::from(output)),
            errors: File::from(OwnedFd::from(errors)),
        };
        return Ok(([input.into(), its_output.into(), its_errors.into()], outer));
    };
    let path = Path::new(ROOT).join("dev/pts/ptmx");
    let outer = fs::OpenOptions::new().read(true).write(true).custom_flags(libc::O_NOCTTY).open(path)?;
    unlockpt(&outer)?;
    let inner = ioctl_tiocgptpeer(&outer, OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    tcsetwinsize(&inner, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
    Ok(([inner.try_clone()?, inner.try_clone()?, inner], Files::Terminal(outer)))
}

/// What the child does before it becomes the program.
fn become_program(
    (root, directory): (&CStr, &Path),
    account: &Account,
    is_terminal: bool,
    first: bool,
) -> io::Result<()> {
    let check = |result: libc::c_int| if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) };
    // SAFETY: plain calls on values that outlive them.
    unsafe {
        libc::setsid();
        if is_terminal {
            check(libc::ioctl(0, libc::TIOCSCTTY, 0))?;
        }
        check(libc::chroot(root.as_ptr()))?;
        if first {
            let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
            let (kind, target) = (c"proc", c"/proc");
            check(libc::mount(kind.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, std::ptr::null()))?;
        }
        // By now its links lead where they should.
        if std::env::set_current_dir(directory).is_err() {
            fs::create_dir_all(directory)?;
            std::env::set_current_dir(directory)?;
        }
        check(libc::setgroups(account.groups.len(), account.groups.as_ptr()))?;
        check(libc::setresgid(account.gid, account.gid, account.gid))?;
        check(libc::setresuid(account.uid, account.uid, account.uid))
    }
}

/// Why a program could not be begun, as for a container.
fn words(args: &[String], program: &Program, error: &io::Error) -> String {
    let name = args.first().map_or("", String::as_str);
    match error.raw_os_error() {
        Some(libc::ENOENT) if name.contains('/') => format!("{name:?} not found in the image"),
        Some(libc::ENOENT) => {
            let path = program.env.iter().find_map(|own| own.strip_prefix("PATH=")).unwrap_or(DEFAULT_PATH);
            format!("{name:?} not found in the image (PATH is {path})")
        }
        Some(libc::ENOEXEC) => {
            format!("{name:?} is not a program that this machine can run (wrong format or processor)")
        }
        Some(libc::EACCES) => format!("{name:?} may not be executed by this user"),
        Some(libc::E2BIG) => format!("the arguments and environment of {name:?} are too long"),
        _ => format!("{name:?} could not be executed: {error}"),
    }
}
