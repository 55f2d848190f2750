//! RIK in one binary: `rik up` starts a cluster on this machine, `rik down` takes everything of it away.
//!
//! ```text
//!  rik up            controller + scheduler + riklet in this process
//!  rik up --nodes 3  controller + scheduler in this process, and for each node a process of its own in a network
//!                    namespace of its own, which reaches the scheduler through a socket file
//! ```
//! Wiring only: every part is the library that its own binary runs.

mod layout;
mod node;
mod up;

use std::{path::PathBuf, process::ExitCode};

use anyhow::Context;
use clap::{Parser, Subcommand};
use riklet::start::Volumes;

/// RIK in one binary: a cluster on this machine.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Start a cluster on this machine; what runs goes on when it is stopped
    Up(up::Args),
    /// Take everything of the cluster away: instances, networks, images, records
    Down {
        /// Directory of everything of the cluster
        #[arg(long, default_value = layout::DEFAULT_DATA_DIR)]
        data_dir: PathBuf,
        /// Remove local volumes too, with the data in them
        #[arg(long)]
        volumes: bool,
    },
    /// Run one node of a cluster of several; `rik up --nodes` starts them, this starts one again
    Node {
        /// Name of the node
        name: String,
        /// Directory of everything of the cluster
        #[arg(long, default_value = layout::DEFAULT_DATA_DIR)]
        data_dir: PathBuf,
        /// Take everything of the node away instead
        #[arg(long, hide = true)]
        reset: bool,
        /// End when standard input does: so does the node of a `rik up` that was killed
        #[arg(long, hide = true)]
        tied: bool,
    },
}

fn main() -> ExitCode {
    // The shim has to begin before there is any thread.
    if std::env::args_os().nth(1).is_some_and(|first| first == "shim") {
        return runtime::pod::shim::main(std::env::args_os().skip(2));
    }
    let cli = Cli::parse();
    match run(cli.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => daemon::last_words(&*error, None, 1),
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    match command {
        Command::Up(args) => {
            must_be_root()?;
            daemon::init_logs("info");
            tokio()?.block_on(up::run(args))
        }
        Command::Down { data_dir, volumes } => {
            must_be_root()?;
            daemon::init_logs("warn");
            let volumes = if volumes { Volumes::Remove } else { Volumes::Keep };
            tokio()?.block_on(up::down(&layout::Layout::of(data_dir)?, volumes))
        }
        Command::Node { name, data_dir, reset, tied } => {
            must_be_root()?;
            daemon::init_logs("info");
            let layout = layout::Layout::of(data_dir)?;
            // Before there is any thread: a namespace is entered by one thread and inherited by those it starts.
            node::enter(&layout, &name)?;
            tokio()?.block_on(async {
                if reset { node::reset(&layout, &name).await } else { node::run(&layout, &name, tied).await }
            })
        }
    }
}

fn tokio() -> anyhow::Result<tokio::runtime::Runtime> {
    daemon::runtime().context("could not start")
}

fn must_be_root() -> anyhow::Result<()> {
    anyhow::ensure!(
        rustix::process::geteuid().is_root(),
        "rik needs to be root, because its node makes namespaces, mounts and firewall rules; try again with sudo"
    );
    Ok(())
}
