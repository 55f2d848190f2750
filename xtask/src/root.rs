//! Being root: directly, or through sudo for the single commands that need it. Builds are never done as root for
//! somebody who is not, so that their build folder stays theirs.

use std::ffi::OsStr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Once;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::paths;

/// How often sudo is told that it is still in use. It forgets the password after some minutes, 5 on Fedora and 15 on
/// Debian; a build takes longer, and a demo that is looked at must be able to clean up.
const RENEWAL: Duration = Duration::from_secs(60);

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
    static RENEWED: Once = Once::new();
    RENEWED.call_once(|| drop(thread::spawn(stay_acquired)));
    Ok(())
}

/// Renews until the process ends. A renewal that fails is no matter: the next use of root will say so.
fn stay_acquired() {
    loop {
        thread::sleep(RENEWAL);
        let mut renewal = Command::new("sudo");
        renewal.args(["--non-interactive", "--validate"]);
        let _ = renewal.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status();
    }
}

/// Gives what root has written below `folder` to this user, who could not remove it otherwise.
///
/// # Errors
/// When the owner cannot be changed.
pub(crate) fn give_back(folder: &Path) -> Result<()> {
    if is_root() || !folder.exists() {
        return Ok(());
    }
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    let mut chown = command("chown");
    chown.args(["--recursive", "--no-dereference", "--from=root"]);
    let owner = format!("{}:{}", user.as_raw(), group.as_raw());
    let status = chown.arg(owner).arg(folder).status().context("failed to run chown")?;
    if !status.success() {
        bail!("what root wrote in {} stays root's", paths::short(folder));
    }
    Ok(())
}
