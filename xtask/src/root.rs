//! Being root: directly, or through sudo for the single commands that need it. Builds are never done as root for
//! somebody who is not, so that their build folder stays theirs.

use std::ffi::OsStr;
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::paths;

/// Whether this process is root.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A command that runs `program` as root, with this process's environment.
pub(crate) fn command(program: impl AsRef<OsStr>) -> Command {
    if is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.args(["--preserve-env", "--non-interactive", "--"]).arg(program);
    command
}

/// Makes sure that [`command`] works, asking for the password now rather than in the middle. `why` completes
/// "root is needed …".
///
/// # Errors
/// When this user cannot become root.
pub(crate) fn acquire(why: &str) -> Result<()> {
    if is_root() {
        return Ok(());
    }
    eprintln!("root is needed {why}; using sudo");
    if paths::find_program("sudo").is_none() {
        bail!("root is needed {why}, and sudo is not installed: run this command as root");
    }
    let status = Command::new("sudo").arg("--validate").status().context("failed to run sudo")?;
    if !status.success() {
        bail!("root is needed {why}, and sudo refused");
    }
    Ok(())
}
