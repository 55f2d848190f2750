//! What a process costs, as the kernel counts it.

use std::fs;
use std::time::Duration;

use anyhow::{Context, Result};
use e2e::{SHORT, probe, wait_until};

/// Memory that is its own, and its share of what it shares, in bytes.
///
/// # Errors
/// When the process is gone.
pub(crate) fn pss(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))
        .with_context(|| format!("failed to read the memory of process {pid}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Pss:")).context("the kernel tells no PSS")?;
    let kibibytes: u64 = line.trim().trim_end_matches(" kB").parse().context("the PSS is no number")?;
    Ok(kibibytes * 1024)
}

/// Processor time that its threads of now have used since they began.
///
/// # Errors
/// When the process is gone.
pub(crate) fn cpu(pid: u32) -> Result<Duration> {
    let tasks = fs::read_dir(format!("/proc/{pid}/task"))
        .with_context(|| format!("failed to list the threads of process {pid}"))?;
    let mut total = 0;
    for task in tasks.flatten() {
        // A thread may end meanwhile; the daemons' threads stay.
        let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
        total += text
            .split(' ')
            .next()
            .and_then(|nanoseconds| nanoseconds.parse::<u64>().ok())
            .unwrap_or_default();
    }
    Ok(Duration::from_nanos(total))
}

/// The node's shim; waits until there is one.
pub(crate) fn shim() -> u32 {
    wait_until(SHORT, "the shim to run", || {
        // A program that starts itself again is called by its link in `/proc`.
        probe::processes("/exe shim").first().copied().ok_or("there is none")
    })
}
