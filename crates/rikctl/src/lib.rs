//! The user's hand: the commands of `rikctl`, over the controller's REST API.
//!
//! ```text
//! arguments ──args──▶ commands/* ──client──▶ controller
//!                        │  └─ resolve: names, ids, beginnings → objects
//!                        └──output, table──▶ stdout      failures, notes, progress ──▶ stderr
//! ```
//! *Guarantees*: data goes to stdout and words go to stderr; the exit code is one of [`Exit`]; text that comes from
//! elsewhere cannot move the terminal's cursor; every call and every answer is bounded.
//!
//! *Not here*: nothing decides about the cluster, and nothing is kept between two runs but `~/.rik/config.yaml`.

mod age;
mod args;
mod client;
mod commands;
mod config;
mod escape;
mod exit;
mod failure;
mod listed;
mod manifest_file;
mod noun;
mod output;
mod progress;
mod resolve;
mod table;
mod terminal;
mod waiting;

use std::{ffi::OsString, sync::Arc};

use clap::Parser as _;

use crate::{
    args::{Cli, Command},
    client::Client,
    failure::Failure,
};
pub use crate::{
    exit::Exit,
    terminal::{Reader, Terminal},
};

/// Does what the arguments say; the first one is the program's own name.
pub fn run(arguments: impl IntoIterator<Item = OsString>, terminal: &mut Terminal) -> Exit {
    let cli = match Cli::try_parse_from(arguments) {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers and go to stdout; nobody is left to tell if that fails.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage } else { Exit::Done };
        }
    };
    match dispatch(cli, terminal) {
        Ok(()) | Err(Failure::ReaderGone) => Exit::Done,
        Err(Failure::Already(exit)) => exit,
        Err(Failure::Told(report)) => {
            terminal.report(&report);
            report.exit
        }
    }
}

fn dispatch(cli: Cli, terminal: &mut Terminal) -> Result<(), Failure> {
    let server = cli.server;
    let connect = |terminal: &mut Terminal| -> Result<Client, Failure> {
        let (cluster, warning) = config::cluster(server.as_deref(), &config::Environment::of_process())?;
        if let Some(warning) = warning {
            terminal.note(&warning);
        }
        Ok(Client::new(cluster))
    };
    match cli.command {
        Command::Completion(args) => commands::completion::run(&args, terminal),
        Command::Config(commands::config::ConfigCommand::View) => {
            commands::config::view(connect(terminal)?.cluster_config(), terminal)
        }
        Command::Version(args) => commands::version::run(&args, connect, terminal),
        Command::Create(command) => commands::create::run(command, connect, terminal),
        Command::Apply(args) => commands::apply::run(&args, connect, terminal),
        Command::Get(args) => commands::get::run(&args, &connect(terminal)?, terminal),
        Command::Ps(args) => commands::get::run(&args.into(), &connect(terminal)?, terminal),
        Command::Events(args) => commands::get::run(&args.into(), &connect(terminal)?, terminal),
        Command::Describe(args) => commands::describe::run(&args, &connect(terminal)?, terminal),
        Command::Delete(args) => commands::delete::run(&args, connect, terminal),
        Command::Logs(args) => commands::logs::run(&args, &Arc::new(connect(terminal)?), terminal),
        Command::Run(args) => commands::run::run(&args, &Arc::new(connect(terminal)?), terminal),
        Command::Exec(args) => commands::exec::run(&args, &connect(terminal)?, terminal),
        Command::Attach(args) => commands::attach::run(&args, &connect(terminal)?, terminal),
        Command::Cp(args) => commands::cp::run(&args, &connect(terminal)?),
        Command::PortForward(args) => commands::port_forward::run(&args, connect(terminal)?, terminal),
        Command::Top(args) => commands::top::run(&args, &connect(terminal)?, terminal),
        Command::Wait(args) => commands::wait::run(&args, &connect(terminal)?, terminal),
        Command::Volume(command) => commands::volume::run(&command, &connect(terminal)?, terminal),
        Command::Image(command) => commands::image::run(&command, &connect(terminal)?, terminal),
    }
}
