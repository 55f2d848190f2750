//! Creates and starts a container by a program with runc's command line.
//!
//! ```text
//!  creator ──runs──▶ runc create ──▶ init (waits) ── process.json ── runc start ──▶ init runs the program
//! ```
//! The program enters the container's control groups with its init alone: what it needs itself is not the container's.
//!
//! *Guarantee*: it does not outlive the creator.

use std::{
    fs, io,
    os::{
        fd::{AsFd as _, OwnedFd},
        unix::{
            net::{UnixListener, UnixStream},
            process::CommandExt as _,
        },
    },
    path::Path,
    process::{Command, Stdio},
};

use rustix::{
    process::{Pid, Signal, set_child_subreaper, set_parent_process_death_signal},
    termios::{Winsize, tcsetwinsize},
};
use serde::Deserialize;

use super::{
    attach::receive_terminal,
    executor::forget_signals,
    join::{FIRST_SIZE, send_terminal},
    wire::ContainerOrder,
};

/// Name of the file that it writes the process id of its init to.
const PID_FILE: &str = "runtime.pid";
/// Name of the file that it complains to.
const LOG_FILE: &str = "runtime.log";
/// Name of the socket that it sends a terminal to.
const CONSOLE: &str = "console.sock";

/// A line of its complaints.
#[derive(Deserialize)]
struct Line {
    msg: String,
}

/// Has the container created, its program waiting. Gives the process id of its init.
pub(super) fn create(
    program: &Path,
    order: &ContainerOrder,
    stdio: [OwnedFd; 3],
    terminal: Option<&UnixStream>,
) -> Result<i32, String> {
    let at = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    // Its init is nobody else's child before its end can be told from one that was never seen.
    set_child_subreaper(Pid::from_raw(1)).map_err(|error| format!("adopting its process: {error}"))?;
    let pid_file = order.dir.join(PID_FILE);
    // What is said is of this attempt.
    let _ = fs::remove_file(order.dir.join(LOG_FILE));
    let mut command = command(program, order);
    command.args(["create", "--bundle"]).arg(&order.dir).arg("--pid-file").arg(&pid_file);
    let console = terminal.map(|terminal| Ok((terminal, listen(&order.dir)?))).transpose();
    let console = console.map_err(at("a socket for its terminal"))?;
    if console.is_some() {
        command.args(["--console-socket", CONSOLE]);
    }
    let [stdin, stdout, stderr] = stdio;
    command.arg(order.index.to_string()).stdin(stdin).stdout(stdout).stderr(stderr);
    run(command, order)?;
    if let Some((terminal, console)) = console {
        pass_on(&console, terminal).map_err(at("its terminal"))?;
    }
    let text = fs::read_to_string(&pid_file).map_err(at("its process id"))?;
    text.trim().parse().map_err(|_none| format!("its process id is {text:?}"))
}

/// Lets the program of a created container begin.
pub(super) fn start(program: &Path, order: &ContainerOrder) -> Result<(), String> {
    let mut command = command(program, order);
    command.arg("start").arg(order.index.to_string());
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    run(command, order)
}

fn command(program: &Path, order: &ContainerOrder) -> Command {
    let mut command = Command::new(program);
    command.arg("--root").arg(&order.oci_root);
    command.arg("--log").arg(order.dir.join(LOG_FILE)).args(["--log-format", "json"]);
    let prepare = || {
        forget_signals();
        Ok(set_parent_process_death_signal(Some(Signal::KILL))?)
    };
    // SAFETY: system calls are all that happens between fork and exec.
    unsafe { command.pre_exec(prepare) };
    command
}

fn run(mut command: Command, order: &ContainerOrder) -> Result<(), String> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command.status().map_err(|error| format!("{name} cannot be called: {error}"))?;
    if status.success() {
        return Ok(());
    }
    let text = fs::read_to_string(order.dir.join(LOG_FILE)).unwrap_or_default();
    let last = text.lines().rev().find_map(|line| serde_json::from_str::<Line>(line).ok());
    Err(last.map_or_else(|| format!("{name} ended with {status}"), |line| line.msg))
}

/// Listens in the container's directory, which becomes this process's own: the address of a socket is short.
fn listen(dir: &Path) -> io::Result<UnixListener> {
    std::env::set_current_dir(dir)?;
    let _ = fs::remove_file(CONSOLE);
    let listener = UnixListener::bind(CONSOLE)?;
    // It has connected when its creation is done, or never will.
    listener.set_nonblocking(true)?;
    Ok(listener)
}

/// Gives the shim the terminal that came over the socket.
fn pass_on(console: &UnixListener, shim: &UnixStream) -> io::Result<()> {
    let (stream, _) = console.accept()?;
    let master = receive_terminal(&stream)?;
    let (rows, columns) = FIRST_SIZE;
    tcsetwinsize(&master, Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 })?;
    send_terminal(shim, master.as_fd())?;
    let _ = fs::remove_file(CONSOLE);
    Ok(())
}
