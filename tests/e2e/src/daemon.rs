//! One program under test as a process of ours: its output in a file, its end in our hands.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use rustix::process::{Pid, Signal, kill_process};

use crate::wait::{SHORT, wait_until};

/// How much of a log is shown when a story fails.
const SHOWN_LINES: usize = 60;

/// A running program.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    log: PathBuf,
    child: Child,
}

impl Daemon {
    /// Starts `command`; everything that it prints is appended to `NAME.log` in `logs`.
    ///
    /// # Panics
    /// When it cannot be started.
    #[track_caller]
    #[must_use]
    pub fn start(name: &str, logs: &Path, command: &mut Command) -> Self {
        let log = logs.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log);
        let file = file.unwrap_or_else(|error| panic!("failed to write {}: {error}", log.display()));
        let errors =
            file.try_clone().unwrap_or_else(|error| panic!("failed to share {}: {error}", log.display()));
        let child = command.stdin(Stdio::null()).stdout(file).stderr(errors).spawn();
        let child = child.unwrap_or_else(|error| panic!("failed to start {name}: {error}"));
        Self { name: name.to_owned(), log, child }
    }

    /// What it was called at its start.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Everything that it has printed so far, in this and earlier lives.
    #[must_use]
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// How it ended, if it has.
    #[must_use]
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Sends it a signal, if it still runs.
    pub fn signal(&mut self, signal: Signal) {
        if self.ended().is_none()
            && let Some(pid) = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw)
        {
            // It may end between the question and the signal; being ours and not reaped, its pid is not reused.
            let _ = kill_process(pid, signal);
        }
    }

    /// Ends it as a crash would.
    pub fn kill(mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }

    /// Asks it to end, and waits until it has.
    ///
    /// # Panics
    /// When it does not end.
    #[track_caller]
    pub fn stop(mut self) -> ExitStatus {
        self.signal(Signal::TERM);
        self.wait_end()
    }

    /// Waits until it ends by itself.
    ///
    /// # Panics
    /// When it does not.
    #[track_caller]
    pub fn wait_end(&mut self) -> ExitStatus {
        let name = self.name.clone();
        wait_until(SHORT, &format!("{name} to end"), || self.ended().ok_or("still running"))
    }

    /// Waits until it has printed `text`.
    ///
    /// # Panics
    /// When it does not, or ends before.
    #[track_caller]
    pub fn wait_log(&mut self, text: &str) {
        let name = self.name.clone();
        wait_until(SHORT, &format!("{name} to print {text:?}"), || {
            let log = self.log();
            if log.contains(text) { Ok(()) } else { Err(last_lines(&log)) }
        });
    }

    /// Prints the end of its log, for a person who looks into a failed story.
    pub fn show_log(&self) {
        println!("──── {} (whole: {})\n{}", self.name, self.log.display(), last_lines(&self.log()));
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        let _ = self.child.wait();
    }
}

fn last_lines(log: &str) -> String {
    let lines: Vec<&str> = log.lines().collect();
    lines[lines.len().saturating_sub(SHOWN_LINES)..].join("\n")
}
