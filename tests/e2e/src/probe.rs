//! Looking at containers from outside, with the kernel's eyes: `/proc` of their processes.

use std::fs;
use std::path::Path;

/// The processes whose command line contains `text`, in order of their ids.
#[must_use]
pub fn processes(text: &str) -> Vec<u32> {
    let mut pids: Vec<u32> = fs::read_dir("/proc")
        .into_iter()
        .flatten()
        .flatten()
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .filter(|pid| *pid != std::process::id() && command_line(*pid).contains(text))
        .collect();
    pids.sort_unstable();
    pids
}

/// What a process was started with, words separated by spaces; empty where it is gone.
#[must_use]
pub fn command_line(pid: u32) -> String {
    let bytes = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    String::from_utf8_lossy(&bytes).replace('\0', " ").trim().to_owned()
}

/// Whether a process exists and is not a zombie.
#[must_use]
pub fn is_alive(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status.lines().any(|line| line.starts_with("State:") && !line.contains('Z'))
}

/// When a process was started, in the kernel's ticks since boot: with the pid, its identity.
#[must_use]
pub fn started(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name in parentheses may contain spaces; the 22nd field is the 20th after it.
    stat.rsplit_once(") ")?.1.split(' ').nth(19)?.parse().ok()
}

/// The identity of one of a process's namespaces, such as `net:[4026531840]`.
///
/// # Panics
/// When the process is gone.
#[track_caller]
#[must_use]
pub fn namespace(pid: u32, kind: &str) -> String {
    let link = Path::new("/proc").join(pid.to_string()).join("ns").join(kind);
    let target = fs::read_link(&link).unwrap_or_else(|error| panic!("{}: {error}", link.display()));
    target.to_string_lossy().into_owned()
}

/// A line of a process's `status`, such as `CapEff`; empty where there is none.
#[must_use]
pub fn status(pid: u32, key: &str) -> String {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':').map(str::trim));
    line.unwrap_or_default().to_owned()
}

/// The environment of a process, `NAME=value` each.
#[must_use]
pub fn environment(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
    bytes
        .split(|byte| *byte == 0)
        .filter(|entry| !entry.is_empty())
        .map(|entry| String::from_utf8_lossy(entry).into_owned())
        .collect()
}
