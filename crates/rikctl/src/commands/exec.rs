//! `rikctl exec`: runs a program in a container, with this terminal or with pipes.

use clap::Args;
use model::{Instance, session::ExecRequest};

use super::talk::{Ways, talk, wants_terminal};
use crate::{
    client::{Client, segment},
    failure::Failure,
    noun::{Noun, bare},
    resolve,
    terminal::Terminal,
};

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The instance: its name, or a unique beginning.
    #[arg(value_name = "INSTANCE")]
    instance: String,
    /// Container, if the instance has several.
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Pass stdin on to the program.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the program a terminal.
    #[arg(short = 't', long)]
    tty: bool,
    /// The program and its arguments, after --.
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<String>,
}

pub(crate) fn run(args: &ExecArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    let instance = resolve::object::<Instance>(client, bare(Noun::Instance, &args.instance))?.object;
    let path = format!("/instances/{}/exec", segment(&instance.id));
    let ways = Ways { stdin: args.stdin, tty: wants_terminal(args.tty, terminal), detachable: false };
    let request = |size| {
        serde_json::to_string(&ExecRequest {
            container: args.container.clone(),
            command: args.command.clone(),
            stdin: args.stdin,
            terminal: size,
        })
    };
    talk(client, &path, ways, request, terminal)?.outcome()
}
