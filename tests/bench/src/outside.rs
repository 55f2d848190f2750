//! Into an enclosure and out again, with the report.

use std::env;
use std::fs;
use std::path::Path;
use std::process::{self, Command, ExitCode};

use anyhow::{Context, Result};
use e2e::{cgroups, programs};

use crate::report;

/// Names the folder of the enclosure; set inside only. The harness reads it too.
const INSIDE: &str = "RIK_E2E_FOLDER";
/// What the names of the enclosure's cgroup folders begin with; the end-to-end tests clear what a killed run left.
const CGROUP_PREFIX: &str = "rik-e2e-";

/// Whether this process is in an enclosure already.
pub(crate) fn is_inside() -> bool {
    env::var_os(INSIDE).is_some()
}

/// Starts this very program again, inside, and copies its report to `out`, also when it broke off.
///
/// # Errors
/// When the enclosure cannot be made, or nothing was measured.
pub(crate) fn enclose(row: &str, out: &Path) -> Result<ExitCode> {
    let folder = programs::target_folder().join("e2e").join(format!("bench-{row}"));
    if folder.exists() {
        fs::remove_dir_all(&folder).with_context(|| format!("failed to clear {}", folder.display()))?;
    }
    fs::create_dir_all(&folder).with_context(|| format!("failed to make {}", folder.display()))?;
    let cgroup = format!("{CGROUP_PREFIX}{}", process::id());
    let status = Command::new(programs::built("harness"))
        .args(["enclose", "--cgroup", &cgroup, "--"])
        .args(env::args_os())
        .env(INSIDE, &folder)
        .status()
        .context("failed to start the enclosure")?;
    let stubborn = cgroups::remove(&cgroup).context("failed to remove the cgroups")?;
    for left in stubborn {
        eprintln!("warning: processes outlived the measurement in {}", left.display());
    }
    fs::copy(folder.join(report::NAME), out).context("nothing was measured")?;
    let logs = folder.join("logs");
    for entry in fs::read_dir(&folder).context("failed to look at what was left")?.flatten() {
        // Logs stay for those who wonder; all else may be large.
        if entry.path() != logs && entry.path().is_dir() {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("failed to clear {}", entry.path().display()))?;
        }
    }
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
