//! The reference: `runc`, with the same root filesystem and program.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{Lab, programs};
use images::archive::PackSpec;
use serde_json::{Value, json};

/// Where runc keeps what it knows of its containers, for as long as we measure.
const STATE: &str = "/run/bench-runc";

/// A bundle that runc runs containers from.
#[derive(Debug)]
pub(crate) struct Oracle {
    program: PathBuf,
    bundle: PathBuf,
}

impl Oracle {
    /// Lays the image out as a bundle: its files as root filesystem, its command, runc's own defaults for the rest.
    /// Those give a network namespace with nothing in it.
    ///
    /// # Errors
    /// When runc is missing, or a file cannot be written.
    pub(crate) fn lay_out(image: &PackSpec) -> Result<Self> {
        let oracle = Self { program: programs::needed("runc"), bundle: Lab::root().join("bundle") };
        let rootfs = oracle.bundle.join("rootfs");
        for file in &image.files {
            let path = rootfs.join(file.path.trim_start_matches('/'));
            fs::create_dir_all(path.parent().unwrap_or(&rootfs))?;
            fs::write(&path, &file.bytes)?;
            fs::set_permissions(&path, fs::Permissions::from_mode(file.mode))?;
        }
        let made = Command::new(&oracle.program).arg("spec").current_dir(&oracle.bundle).status();
        ensure!(made.context("failed to run runc")?.success(), "runc made no configuration");
        let path = oracle.bundle.join("config.json");
        let mut config: Value = serde_json::from_slice(&fs::read(&path)?)?;
        config["process"]["terminal"] = json!(false);
        config["process"]["args"] = json!(image.cmd);
        config["process"]["env"] = json!(["PATH=/bin"]);
        config["root"] = json!({ "path": "rootfs", "readonly": false });
        fs::write(&path, config.to_string())?;
        Ok(oracle)
    }

    /// Runs a container in the background; gives how long that took.
    ///
    /// # Errors
    /// When it does not run.
    pub(crate) fn run(&self, id: &str) -> Result<Duration> {
        let begun = Instant::now();
        let status = self.command().args(["run", "--detach", "--bundle"]).arg(&self.bundle).arg(id).status();
        let taken = begun.elapsed();
        ensure!(status.context("failed to run runc")?.success(), "runc did not run {id}");
        Ok(taken)
    }

    /// Removes a container, running or not.
    ///
    /// # Errors
    /// When it stays.
    pub(crate) fn remove(&self, id: &str) -> Result<()> {
        let status = self.command().args(["delete", "--force", id]).status();
        ensure!(status.context("failed to run runc")?.success(), "runc did not remove {id}");
        Ok(())
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        // A container inherits these: a pipe would never end.
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).args(["--root", STATE]);
        command
    }
}

impl Drop for Oracle {
    fn drop(&mut self) {
        // The ledger tells if something is left.
        let _ = fs::remove_dir_all(Path::new(STATE));
    }
}
