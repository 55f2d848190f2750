//! `rikctl run`: from an image to something that runs, in one line.

use std::{sync::Arc, time::Duration};

use clap::{ArgGroup, Args};
use model::{
    ContainerSpec, Instance, Kind, WorkloadRecord,
    api::CreateInstances,
    manifest::read::{self, Strictness},
};
use serde_json::{Value, json};

use super::{
    TimeoutArgs,
    attach::attach,
    logs,
    talk::{Ended, wants_terminal},
};
use crate::{
    client::Client,
    exit::Exit,
    failure::{Failure, Report, counted},
    resolve,
    terminal::Terminal,
    waiting::{self, Condition},
};

/// Longest part of an image's name that becomes part of the workload's: names have 63 characters at most.
const MAX_STEM: usize = 40;
/// Hexadecimal digits behind it, so that the same line can be run again.
const SUFFIX: usize = 5;

/// How long after its node the controller may learn of an instance's end.
const END_IS_KNOWN: Duration = Duration::from_secs(5);

#[derive(Debug, Args)]
#[command(
    group = ArgGroup::new("foreground").multiple(true),
    after_help = "It is a workload with one instance of the same name; `rikctl rm workload NAME` removes both."
)]
pub(crate) struct RunArgs {
    /// The image.
    #[arg(value_name = "IMAGE")]
    image: String,
    /// Name of the workload and of its instance; otherwise one is made of the image's.
    #[arg(long, value_name = "NAME")]
    name: Option<String>,
    /// Run it in a microVM, with a kernel of its own.
    #[arg(long)]
    function: bool,
    /// A variable for the program; repeatable.
    #[arg(short, long, value_name = "NAME=VALUE", value_parser = variable)]
    env: Vec<(String, String)>,
    /// A port of the node that leads to a port of the container; repeatable.
    #[arg(short, long = "publish", value_name = "PORT[:TARGET]", value_parser = port)]
    ports: Vec<(u16, u16)>,
    /// Print what it writes until it has ended, and end with its code.
    #[arg(short, long, group = "foreground")]
    follow: bool,
    /// Type to it until it has ended, and end with its code.
    #[arg(short = 'i', long, group = "foreground")]
    stdin: bool,
    /// Give it this terminal until it has ended.
    #[arg(short, long, group = "foreground")]
    tty: bool,
    /// Remove it when it has ended.
    #[arg(long, requires = "foreground")]
    rm: bool,
    #[command(flatten)]
    timeout: TimeoutArgs,
    /// Arguments instead of the image's command, after --.
    #[arg(value_name = "ARGUMENT", last = true)]
    arguments: Vec<String>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("it has to be NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}

fn port(text: &str) -> Result<(u16, u16), String> {
    let (own, target) = text.split_once(':').unwrap_or((text, text));
    let read = |number: &str| match number.parse::<u16>() {
        Ok(number) if number > 0 => Ok(number),
        _ => Err(format!("{number:?} is no port; ports are 1 to 65535")),
    };
    Ok((read(own)?, read(target)?))
}

pub(crate) fn run(args: &RunArgs, client: &Arc<Client>, terminal: &mut Terminal) -> Result<(), Failure> {
    let name = args.name.clone().unwrap_or_else(|| made_name(&args.image));
    let own = ContainerSpec {
        stdin: args.stdin,
        stdin_once: args.stdin,
        tty: wants_terminal(args.tty, terminal),
        ..ContainerSpec::default()
    };
    let manifest = checked(manifest(args, &name, &own))?;
    let workload = resolve::read::<WorkloadRecord>(client.create_workload(&manifest)?)?.object;
    let request = CreateInstances { workload: workload.id.clone(), name: Some(name.clone()), replicas: None };
    client.create_instances(&request)?;
    let foreground = args.follow || args.stdin || args.tty;
    if !foreground {
        terminal.print_line(&name)?;
    }
    let started = waiting::until(
        client,
        terminal,
        std::slice::from_ref(&name),
        (Condition::Started, args.timeout.timeout),
    );
    if !foreground {
        return started;
    }
    let talked = if started.is_ok() && (args.stdin || args.tty) {
        converse(&name, &own, client, terminal)?
    } else {
        None
    };
    let ended = match talked {
        Some(Ended::Detached) => return Ok(()),
        Some(ended) => ended.outcome(),
        None => follow(&name, started, client, terminal),
    };
    if args.rm {
        client.delete(&resolve::path::<WorkloadRecord>(&workload.id))?;
    }
    ended
}

/// Talks to it until it has ended. None if it had ended already: all that it wrote is in its log then.
fn converse(
    name: &str,
    spec: &ContainerSpec,
    client: &Client,
    terminal: &mut Terminal,
) -> Result<Option<Ended>, Failure> {
    let talked = attach(name, None, spec, spec.stdin, (client, terminal));
    let Err(Failure::Told(report)) = talked else { return talked.map(Some) };
    // Its node knows that it has ended, and the controller does a moment later.
    let ids = [name.to_owned()];
    match waiting::until(client, terminal, &ids, (Condition::Ended, END_IS_KNOWN)) {
        Ok(()) => Ok(None),
        Err(_goes_on) => Err(Failure::Told(report)),
    }
}

/// Prints its log to the end. A program that failed at once has a log as well.
fn follow(
    name: &str,
    started: Result<(), Failure>,
    client: &Arc<Client>,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    let now = || resolve::lookup::<Instance>(client, name);
    if let Err(failure) = started
        && now()?.is_none_or(|instance| instance.object.exit_code.is_none())
    {
        return Err(failure);
    }
    logs::run(&logs::LogsArgs::following(name), client, terminal)?;
    // Its log ends a moment before its end is known here.
    let ids = [name.to_owned()];
    waiting::until(client, terminal, &ids, (Condition::Ended, waiting::SOON))?;
    Ended::Exit(now()?.and_then(|instance| instance.object.exit_code).unwrap_or(0)).outcome()
}

fn manifest(args: &RunArgs, name: &str, own: &ContainerSpec) -> Value {
    let env = args.env.iter().map(|(name, value)| json!({"name": name, "value": value}));
    let ports = args.ports.iter().map(|(port, target)| json!({"port": port, "targetPort": target}));
    json!({
        "apiVersion": "v1",
        "kind": if args.function { Kind::Function } else { Kind::Pod },
        "name": name,
        "spec": {"containers": [{
            "name": "main",
            "image": args.image,
            "args": args.arguments,
            "env": env.collect::<Vec<_>>(),
            "ports": ports.collect::<Vec<_>>(),
            "stdin": own.stdin,
            "stdinOnce": own.stdin_once,
            "tty": own.tty,
        }]},
    })
}

/// The manifest as it is sent, if it obeys every rule.
fn checked(manifest: Value) -> Result<Value, Failure> {
    match read::workload(&manifest.to_string(), Strictness::Strict) {
        Ok(workload) => serde_json::to_value(&workload)
            .map_err(|error| Report::new(format!("it cannot be sent as JSON: {error}")).into()),
        Err(error) => {
            let message = format!("this cannot be run: {}", counted(error.faults.len(), "fault"));
            let report = Report::new(message).details(error.faults.iter().map(ToString::to_string));
            Err(report.hint("nothing was sent to the cluster").exit(Exit::Usage).into())
        }
    }
}

/// A name that begins as the image's last part does.
fn made_name(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    let stem = last.split(['@', ':']).next().unwrap_or(last).to_lowercase();
    let stem: String =
        stem.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '-' }).take(MAX_STEM).collect();
    let stem = stem.trim_matches('-');
    let suffix = uuid::Uuid::new_v4().simple().to_string();
    let suffix = suffix.get(..SUFFIX).unwrap_or_default();
    if stem.is_empty() { format!("run-{suffix}") } else { format!("{stem}-{suffix}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_of_the_last_part_of_the_image() {
        for (image, stem) in [
            ("alpine", "alpine-"),
            ("127.0.0.1:5001/team/Web_App:1.2@sha256:00", "web-app-"),
            ("x/___", "run-"),
        ] {
            let name = made_name(image);
            assert!(name.starts_with(stem) && name.len() == stem.len() + SUFFIX, "{name}");
        }
    }

    #[test]
    fn ports_are_given_as_one_number_or_two() {
        assert_eq!((port("80"), port("8080:80")), (Ok((80, 80)), Ok((8080, 80))));
        for text in ["", "0", "80:", "80:70000", "a:b"] {
            assert!(port(text).is_err(), "{text:?}");
        }
    }
}
