//! The demo's cluster: one `rik up` in a folder of its own, `rikctl` aimed at it, and its removal.

use std::env;
use std::fs::{self, File};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::fs::DirBuilderExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{self, Child, Command, Stdio};
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::{POLL, read};
use crate::interrupt::Interrupt;
use crate::progress::Progress;
use crate::{http, paths, root, step};

/// The port that the documentation uses, taken when it is free.
const USUAL_PORT: u16 = 5000;
/// How long the cluster may take to answer.
const START_PATIENCE: Duration = Duration::from_secs(60);
/// How long it may take to end when asked to.
const STOP_PATIENCE: Duration = Duration::from_secs(30);

/// A running cluster.
pub(super) struct Cluster {
    programs: PathBuf,
    folder: PathBuf,
    log: PathBuf,
    port: u16,
    child: Child,
}

impl Cluster {
    /// Starts it. Its processes are in a group of their own: Ctrl-C reaches the demo, which then ends them in order.
    pub(super) fn start(programs: &Path, kernel: Option<&Path>) -> Result<Self> {
        let folder = env::temp_dir().join(format!("rik-demo-{}", process::id()));
        fs::DirBuilder::new()
            .mode(0o700)
            .create(&folder)
            .with_context(|| format!("failed to make {}", folder.display()))?;
        let port = free_port()?;
        let log = paths::log("rik up");
        if let Some(parent) = log.parent() {
            fs::create_dir_all(parent).with_context(|| format!("failed to make {}", parent.display()))?;
        }
        let file = File::create(&log).with_context(|| format!("failed to write {}", log.display()))?;
        let mut command = match kernel {
            // By `env`, because root's hands let no variable through.
            Some(kernel) => {
                let mut command = root::command("env");
                command.arg(format!("KERNEL_LOCATION={}", kernel.display())).arg(programs.join("rik"));
                command
            }
            None => root::command(programs.join("rik")),
        };
        let child = command
            .arg("up")
            .arg("--data-dir")
            .arg(folder.join("data"))
            .args(["--port", &port.to_string()])
            .stdin(Stdio::null())
            .stdout(file.try_clone().context("failed to share the log")?)
            .stderr(file)
            .process_group(0)
            .spawn()
            .context("failed to start rik up")?;
        Ok(Self { programs: programs.to_path_buf(), folder, log, port, child })
    }

    /// Where the demo may put files; removed with the cluster.
    pub(super) fn folder(&self) -> &Path {
        &self.folder
    }

    /// Waits until the API answers and the node is ready.
    pub(super) fn wait_ready(&mut self, interrupt: &Interrupt) -> Result<()> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        let mut progress = Progress::begin("start a cluster of one node");
        loop {
            let outcome = match self.ready_node(address) {
                Ok(()) => Ok(()),
                Err(_) if interrupt.arrived() => Err(anyhow::anyhow!("interrupted")),
                Err(_) if self.assert_runs().is_err() => self.assert_runs(),
                Err(error) if progress.elapsed() > START_PATIENCE => {
                    Err(error).context("the cluster is not ready")
                }
                Err(_) => {
                    progress.tick(read(&self.log).lines().last().unwrap_or_default());
                    thread::sleep(POLL);
                    continue;
                }
            };
            progress.end(outcome.is_ok());
            return outcome;
        }
    }

    fn ready_node(&self, address: SocketAddr) -> Result<()> {
        http::get(address, "/api/v0/workloads.list").context("no answer from the API")?;
        let nodes = self.ask(&["get", "nodes", "--no-headers"])?;
        if !nodes.split_whitespace().any(|word| word == "Ready") {
            bail!("no node is ready: {nodes}");
        }
        Ok(())
    }

    /// Fails when the cluster has ended by itself.
    pub(super) fn assert_runs(&mut self) -> Result<()> {
        match self.child.try_wait().context("failed to look at rik up")? {
            None => Ok(()),
            Some(status) => bail!("rik up ended with {status}; its log is {}", paths::short(&self.log)),
        }
    }

    /// `rikctl` for this cluster, ready for arguments.
    pub(super) fn rikctl(&self) -> Command {
        let mut command = Command::new(self.programs.join("rikctl"));
        command
            .env("RIK_CLUSTER_SERVER", format!("http://127.0.0.1:{}", self.port))
            .env_remove("RIKCONFIG")
            .current_dir(paths::workspace());
        command
    }

    /// What `rikctl` prints, without the line's end.
    pub(super) fn ask(&self, arguments: &[&str]) -> Result<String> {
        let output = self.rikctl().args(arguments).output().context("failed to start rikctl")?;
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            bail!("rikctl {} failed: {}", arguments.join(" "), errors.trim());
        }
        Ok(String::from_utf8_lossy(&output.stdout).trim_end().to_owned())
    }

    /// How a person calls `rikctl` for this cluster.
    pub(super) fn typed(&self) -> String {
        let program = paths::short(&self.programs.join("rikctl"));
        if self.port == USUAL_PORT {
            program
        } else {
            format!("RIK_CLUSTER_SERVER=http://127.0.0.1:{} {program}", self.port)
        }
    }

    /// Shows the end of its log.
    pub(super) fn show_log(&self) {
        eprintln!("       the log of rik up, {}, ends with:", paths::short(&self.log));
        step::show_end(&self.log);
    }

    /// Deletes what the demo made, ends the cluster and removes all of it. Goes on to the end whatever fails, and
    /// reports the first failure.
    pub(super) fn take_down(mut self) -> Result<()> {
        let deleted = if self.assert_runs().is_ok() { self.delete_everything() } else { Ok(()) };
        let stopped = self.stop();
        let mut down = root::command(self.programs.join("rik"));
        let removed =
            step::run("remove the cluster", down.arg("down").arg("--data-dir").arg(self.folder.join("data")));
        let mut rm = root::command("rm");
        let cleared = step::run("remove its files", rm.arg("-rf").arg(&self.folder));
        deleted.and(stopped).and(removed).and(cleared)
    }

    /// Deletes the workloads, and with them their instances.
    fn delete_everything(&self) -> Result<()> {
        let ids = self.ask(&["get", "workloads", "--quiet"])?;
        let ids: Vec<&str> = ids.split_whitespace().collect();
        if ids.is_empty() {
            return Ok(());
        }
        step::run("delete the workload", self.rikctl().args(["delete", "workload", "--wait"]).args(&ids))
    }

    /// Asks `rik up` to end, and makes it after a while. The signal goes through root's hands: the process is root's.
    fn stop(&mut self) -> Result<()> {
        let mut progress = Progress::begin("stop the cluster");
        let mut outcome = self.signal("TERM");
        while outcome.is_ok() && self.assert_runs().is_ok() {
            if progress.elapsed() > STOP_PATIENCE {
                outcome = Err(anyhow::anyhow!("rik up did not end within {STOP_PATIENCE:?}, and was killed"));
            }
            progress.tick("");
            thread::sleep(POLL);
        }
        if outcome.is_err() && self.assert_runs().is_ok() {
            // Already failing: what matters now is that it ends.
            let _ = self.signal("KILL");
            let _ = self.child.wait();
        }
        progress.end(outcome.is_ok());
        outcome
    }

    fn signal(&self, signal: &str) -> Result<()> {
        // sudo passes signals on to what it runs, but not one from the same process group: ours differs.
        let status =
            root::command("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status();
        let status = status.context("failed to run kill")?;
        if !status.success() {
            bail!("rik up cannot be sent a signal");
        }
        Ok(())
    }
}

/// The usual port, or any other that is free.
fn free_port() -> Result<u16> {
    let listener =
        TcpListener::bind(("127.0.0.1", USUAL_PORT)).or_else(|_| TcpListener::bind(("127.0.0.1", 0)));
    let listener = listener.context("failed to find a free port")?;
    Ok(listener.local_addr().context("failed to find a free port")?.port())
}
