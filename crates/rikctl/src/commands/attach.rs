//! `rikctl attach`: hears what a running container writes, and types to its program.

use clap::Args;
use model::{ContainerSpec, Instance, session::AttachRequest};

use super::talk::{Ended, Ways, talk, wants_terminal};
use crate::{
    client::{Client, segment},
    failure::Failure,
    noun::{Noun, bare},
    resolve,
    terminal::Terminal,
};

#[derive(Debug, Args)]
#[command(
    after_help = "Ctrl-P Ctrl-Q detaches from a container with a terminal. What it wrote before is in `rikctl logs`."
)]
pub(crate) struct AttachArgs {
    /// The instance: its name, or a unique beginning.
    #[arg(value_name = "INSTANCE")]
    instance: String,
    /// Container, if the instance has several.
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Only listen, even if the container reads (`stdin: true`).
    #[arg(long)]
    no_stdin: bool,
}

pub(crate) fn run(args: &AttachArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    let instance = resolve::object::<Instance>(client, bare(Noun::Instance, &args.instance))?.object;
    let mut containers = instance.spec.all_containers();
    let wanted = match &args.container {
        Some(name) => containers.find(|own| own.name == *name),
        None => instance.spec.containers.first(),
    };
    let wanted = wanted.cloned().unwrap_or_default();
    let container = args.container.clone();
    attach(&instance.id, container, &wanted, !args.no_stdin, (client, terminal))?.outcome()
}

/// Attaches to a container that is told to be like `spec`, and says how that ended.
pub(crate) fn attach(
    instance: &str,
    container: Option<String>,
    spec: &ContainerSpec,
    stdin: bool,
    (client, terminal): (&Client, &mut Terminal),
) -> Result<Ended, Failure> {
    let path = format!("/instances/{}/attach", segment(instance));
    let stdin = stdin && spec.stdin;
    let ways = Ways { stdin, tty: spec.tty && wants_terminal(true, terminal), detachable: true };
    let request = |size| serde_json::to_string(&AttachRequest { container, stdin, terminal: size });
    let ended = talk(client, &path, ways, request, terminal)?;
    if ended == Ended::Detached {
        terminal.note(&format!("detached; it goes on (rikctl attach {instance})"));
    }
    Ok(ended)
}
