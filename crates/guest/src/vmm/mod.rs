//! The outer side: a process that stands for the program in the microVM.
//!
//! ```text
//!  supervise: VMM ── port ── frames ─┬─ stream 0: its own standard files, signals and end
//!                                    └─ streams 1…: sessions, each a connection to a socket
//!  session:   its own standard files, signals and end ── connection
//! ```
//! Both are small, have no configuration but what they are given, and know nothing of RIK.
//!
//! *Guarantee*: whichever way the microVM ends, the supervisor ends too, and has said why.

pub mod api;
mod console;
mod session;
mod signals;
mod supervisor;

use std::{
    io::{self, Write},
    os::fd::FromRawFd,
    path::PathBuf,
    process::ExitCode,
};

/// Name, inside, of the port that leads outside.
pub const PORT_NAME: &str = "rik.0";
/// Number, inside, of the port that leads outside where a machine has all of them (vsock).
pub const AGENT_PORT: u32 = 1024;
/// The word of the kernel's command line that says that the machine has those.
pub const VSOCK_WORD: &str = "rik.vsock";
/// File with the description of the microVM.
pub const MACHINE_FILE: &str = "/vm/machine.json";
/// Where sockets are: of the VMM, and of the supervisor for sessions.
pub const RUN_DIR: &str = "/run";
/// The variable with a session's order.
pub const ORDER_VARIABLE: &str = "RIK_ORDER";
/// File that the reason is written to when the microVM ends otherwise than by its program's end.
pub const REASON_FILE: &str = "/vm/reason";
/// The reason if it was that the guest's memory was all taken.
pub const OUT_OF_MEMORY: &str = "OutOfMemory";
/// The descriptor that words about a failed beginning go to, and that closes when the program has begun.
pub const REPORT: i32 = 3;

/// The word of the kernel's command line that says that a template of the machine is to be taken.
pub const TEMPLATE_WORD: &str = "rik.template";
/// The descriptor that a VMM reads the state from that its machine begins with.
pub const STATE: i32 = 4;

fn sessions_socket() -> PathBuf {
    PathBuf::from(RUN_DIR).join("sessions.sock")
}

/// What is owed to whoever began this process: words on why it could not, or silence.
struct Report(std::fs::File);

impl Report {
    /// Takes over the descriptor. To be called once.
    fn take() -> Self {
        // It is not for children of this process, which would keep it open.
        // SAFETY: a plain call.
        unsafe { libc::fcntl(REPORT, libc::F_SETFD, libc::FD_CLOEXEC) };
        // SAFETY: whoever begins this process leaves the descriptor to it, and nothing else in it knows the number. If it
        // is not open, writing to it fails and nothing more.
        Self(unsafe { std::fs::File::from_raw_fd(REPORT) })
    }

    fn failed(mut self, words: &str) -> ExitCode {
        // Without somebody who listens it is still in the log.
        if self.0.write_all(words.as_bytes()).is_err() {
            eprintln!("rik: {words}");
        }
        ExitCode::FAILURE
    }
}

/// Runs a microVM, and ends as its program ends.
#[must_use]
pub fn supervise() -> ExitCode {
    let report = Report::take();
    signals::block();
    match supervisor::Supervisor::begin() {
        Err(words) => report.failed(&words),
        Ok(supervisor) => {
            drop(report);
            supervisor.run()
        }
    }
}

/// Does one thing more in the microVM that this process's neighbour runs, and ends as that ends.
#[must_use]
pub fn session() -> ExitCode {
    let report = Report::take();
    signals::block();
    match session::Session::begin() {
        Err(words) => report.failed(&words),
        Ok(session) => {
            drop(report);
            session.run()
        }
    }
}

fn lost(error: &io::Error) -> String {
    format!("the microVM does not answer: {error}")
}
