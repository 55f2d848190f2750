//! One command of another program as a step: its output in a log file, its progress on the screen.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::paths;
use crate::progress::{Progress, printable};

/// How often a running command is looked at.
const POLL: Duration = Duration::from_millis(50);
/// How much of a log's end is read to find its latest line.
const TAIL_BYTES: u64 = 4 * 1024;
/// How much of a failed step's log is shown.
const SHOWN_LINES: usize = 120;

/// How a step ended.
pub(crate) struct Finished {
    /// What the command ended with.
    pub(crate) status: ExitStatus,
    /// How long it took.
    pub(crate) elapsed: Duration,
    /// Everything that it printed.
    pub(crate) log: PathBuf,
}

/// Runs `command` to its end, whatever that is. `name` titles the step and names its log.
///
/// # Errors
/// When the command cannot be started or its log not written.
pub(crate) fn watch(name: &str, command: &mut Command) -> Result<Finished> {
    let log = paths::log(name);
    let file = create_log(&log)?;
    let mut progress = Progress::begin(name);
    let mut child = command
        .env("CARGO_TERM_COLOR", "never")
        .env("NO_COLOR", "1")
        .stdin(Stdio::null())
        .stdout(file.try_clone().context("failed to share the log file")?)
        .stderr(file)
        .spawn()
        .with_context(|| format!("failed to start {}", command.get_program().display()))?;
    let status = loop {
        if let Some(status) = child.try_wait().context("failed to wait for a command")? {
            break status;
        }
        thread::sleep(POLL);
        progress.tick(&last_line(&log));
    };
    Ok(Finished { status, elapsed: progress.end(status.success()), log })
}

/// Runs `command`, and fails with the end of its log when it fails.
///
/// # Errors
/// When the command cannot be started, or ends with anything but success.
pub(crate) fn run(name: &str, command: &mut Command) -> Result<()> {
    let finished = watch(name, command)?;
    if finished.status.success() {
        return Ok(());
    }
    show_end(&finished.log);
    bail!(
        "{name} ended with {}; everything that it printed is in {}",
        finished.status,
        paths::short(&finished.log)
    )
}

/// Prints the last lines of `log` to stderr.
pub(crate) fn show_end(log: &Path) {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    let lines: Vec<&str> = text.lines().collect();
    for line in &lines[lines.len().saturating_sub(SHOWN_LINES)..] {
        eprintln!("       | {}", printable(line).trim_end());
    }
}

fn create_log(log: &Path) -> Result<File> {
    if let Some(folder) = log.parent() {
        fs::create_dir_all(folder).with_context(|| format!("failed to make {}", folder.display()))?;
    }
    File::create(log).with_context(|| format!("failed to write {}", log.display()))
}

/// The latest line that is not empty; nothing where the log cannot be read.
fn last_line(log: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = File::open(log)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL_BYTES)))?;
        let mut bytes = Vec::new();
        file.take(TAIL_BYTES).read_to_end(&mut bytes)?;
        let text = String::from_utf8_lossy(&bytes);
        Ok(text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or_default().to_owned())
    };
    read().unwrap_or_default()
}
