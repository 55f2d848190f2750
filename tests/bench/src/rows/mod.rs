//! The rows of the table, one file for each, and what several of them do.

mod burst;
mod control;
mod functions;
mod idle;
mod images;
mod memory;
mod placement;
mod start;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result, ensure};
use clap::ValueEnum;
use e2e::{Lab, programs};
use model::Status;
use serde_json::{Value, json};

use crate::client::Client;
use crate::report::Report;
use crate::watch::Watch;

/// A row of the table of numbers.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub(crate) enum Row {
    /// From the request to the running container.
    Start,
    /// A hundred pods in one request.
    Burst,
    /// Memory of every process, idle and for each further pod.
    Memory,
    /// What a cluster costs that has nothing to do.
    Idle,
    /// The control plane alone, with simulated nodes.
    Control,
    /// The placement alone.
    Placement,
    /// Pull and unpack an image.
    Images,
    /// From the request to the first byte of a microVM.
    Functions,
}

impl Row {
    /// Its name on the command line.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Burst => "burst",
            Self::Memory => "memory",
            Self::Idle => "idle",
            Self::Control => "control",
            Self::Placement => "placement",
            Self::Images => "images",
            Self::Functions => "functions",
        }
    }

    /// Whether it makes many pods, of which each has files.
    pub(crate) const fn makes_pods(self) -> bool {
        matches!(self, Self::Start | Self::Burst | Self::Memory | Self::Idle)
    }

    /// Measures it.
    ///
    /// # Panics
    /// When something does not work: a row that breaks off is not measured.
    pub(crate) fn measure(self, lab: &mut Lab, quick: bool, report: &mut Report) {
        let measured = match self {
            Self::Start => start::measure(lab, quick, report),
            Self::Burst => burst::measure(lab, quick, report),
            Self::Memory => memory::measure(lab, quick, report),
            Self::Idle => idle::measure(lab, quick, report),
            Self::Control => control::measure(lab, quick, report),
            Self::Placement => placement::measure(quick, report),
            Self::Images => images::measure(lab, quick, report),
            Self::Functions => functions::measure(lab, quick, report),
        };
        if let Err(error) = measured {
            panic!("failed to measure {}: {error:#}", self.name());
        }
    }
}

/// A way to a cluster: a connection for requests, and a watch that began before the first of them.
#[derive(Debug)]
struct Hand {
    server: SocketAddr,
    client: Client,
    watch: Watch,
}

impl Hand {
    fn of(lab: &Lab) -> Result<Self> {
        let server = lab.api().server;
        Ok(Self { server, watch: Watch::open(server)?, client: Client::connect(server)? })
    }

    /// A new connection: the controller closes one on which nothing was asked for long.
    fn reconnect(&mut self) -> Result<()> {
        self.client = Client::connect(self.server)?;
        Ok(())
    }

    /// Asks for `replicas` instances of a workload and waits until all run.
    fn run_many(&mut self, workload: &str, replicas: usize) -> Result<()> {
        self.reconnect()?;
        self.client.create(&json!({ "workload": workload, "replicas": replicas }))?;
        self.watch.until(replicas, Some(Status::Running)).map(drop)
    }

    /// Deletes a workload, and its `count` instances with it; waits until they are gone.
    fn delete_workload(&mut self, workload: &str, count: usize) -> Result<()> {
        self.reconnect()?;
        self.client.send("DELETE", &format!("/api/v1/workloads/{workload}"), &Value::Null)?;
        self.watch.until(count, None).context("the instances of a deleted workload stayed").map(drop)
    }
}

/// `rik up` as a daemon of the lab, in place of the four programs.
fn start_all_in_one(lab: &mut Lab) {
    let mut command = Command::new(programs::built("rik"));
    command.arg("up").arg("--data-dir").arg(all_in_one_folder()).args(["--port", "5000"]);
    lab.start("rik", &mut command);
    lab.api().wait_up();
}

/// Ends what [`start_all_in_one`] began, with all that it made.
fn remove_all_in_one(lab: &mut Lab) -> Result<()> {
    lab.stop("rik");
    let status =
        Command::new(programs::built("rik")).arg("down").arg("--data-dir").arg(all_in_one_folder()).status();
    ensure!(status.context("failed to run rik")?.success(), "rik down failed");
    Ok(())
}

fn all_in_one_folder() -> PathBuf {
    Lab::state().join("rik")
}

/// Bytes as decimal megabytes, as the table has them.
#[expect(clippy::cast_precision_loss, reason = "shown with one or two digits")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}
