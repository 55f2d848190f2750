//! `rikctl wait`: until instances run, have ended, or are gone.

use clap::Args;
use model::Instance;

use super::TimeoutArgs;
use crate::{
    client::Client,
    exit::Exit,
    failure::{Failure, Report},
    noun::{self, Subject},
    resolve,
    terminal::Terminal,
    waiting::{self, Condition},
};

#[derive(Debug, Args)]
#[command(after_help = "Ctrl-C ends the waiting and nothing else. Exit code 3: the time ran out.")]
pub(crate) struct WaitArgs {
    /// The noun instance.
    #[arg(value_name = "NOUN", value_parser = noun::INSTANCES)]
    subject: Subject,
    /// Which: names or unique beginnings.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// What to wait for.
    #[arg(long = "for", value_name = "STATE", value_enum)]
    condition: Condition,
    #[command(flatten)]
    timeout: TimeoutArgs,
}

pub(crate) fn run(args: &WaitArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    let names = args.subject.names(&args.names);
    if names.is_empty() {
        let report = Report::new("no instance is named").hint("rikctl wait instance NAME --for running");
        return Err(report.exit(Exit::Usage).into());
    }
    let mut ids = Vec::new();
    for name in &names {
        match resolve::object::<Instance>(client, name) {
            Ok(found) => ids.push(found.object.id),
            // What is not there need not be waited for to go.
            Err(Failure::Told(report))
                if args.condition == Condition::Deleted && report.exit == Exit::Failed =>
            {
                if resolve::is_absent(client, name)? {
                    continue;
                }
                return Err(Failure::Told(report));
            }
            Err(failure) => return Err(failure),
        }
    }
    waiting::until(client, terminal, &ids, (args.condition, args.timeout.timeout))?;
    for id in &ids {
        terminal.say(&format!("instance/{id} is {}", args.condition.participle()));
    }
    Ok(())
}
