//! The scheduler's command line.

use std::{net::SocketAddr, process::ExitCode};

use clap::{ArgAction, Parser};
use scheduler::serve::{self, Config};

/// The scheduler of RIK: decides on which node each instance runs.
#[derive(Debug, Parser)]
#[command(version)]
struct Args {
    /// Address and port for riklets
    #[arg(short, long, default_value = "127.0.0.1:4995", value_name = "ADDRESS:PORT")]
    workersip: SocketAddr,
    /// Address and port for controllers
    #[arg(short, long, default_value = "127.0.0.1:4996", value_name = "ADDRESS:PORT")]
    ctrlip: SocketAddr,
    /// Says more; twice says everything
    #[arg(short, long, action = ArgAction::Count)]
    verbose: u8,
}

fn main() -> ExitCode {
    let args = Args::parse();
    daemon::init_logs(match args.verbose {
        0 => "info",
        1 => "debug",
        _ => "trace",
    });
    match run(Config { workers: args.workersip, controllers: args.ctrlip }) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => daemon::last_words(&*error, None, 1),
    }
}

fn run(config: Config) -> anyhow::Result<()> {
    // One thread: the state machine is one task, and what is left is carrying messages to and from it. More threads would
    // hand each of them over, which costs more than the work.
    tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(async {
        let shutdown = daemon::shutdown_on_signals()?;
        tokio::spawn(daemon::give_memory_back());
        serve::run(config, shutdown).await.map_err(anyhow::Error::from)
    })
}
