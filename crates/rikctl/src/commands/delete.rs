//! `rikctl delete`: asks for the end of objects, and waits for it if so wished.

use clap::Args;
use model::{Instance, WorkloadRecord, api::NodeView};

use super::TimeoutArgs;
use crate::{
    client::{Client, with_query},
    exit::Exit,
    failure::{Failure, Report},
    listed::{Listed, Object, Shown},
    manifest_file::{self, Manifest},
    noun::{self, Noun, Subject},
    output::noun_name,
    resolve,
    terminal::Terminal,
    waiting::{self, Condition},
};

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// What: workload (with its instances), instance, node, config or secret.
    #[arg(value_name = "NOUN", value_parser = noun::OBJECTS, required_unless_present = "files", conflicts_with = "files")]
    subject: Option<Subject>,
    /// Which: names, ids or unique beginnings.
    #[arg(value_name = "NAME", conflicts_with = "files")]
    names: Vec<String>,
    /// Delete the workloads that these manifests define; - reads stdin.
    #[arg(short, long = "file", value_name = "PATH", num_args = 1..)]
    files: Vec<String>,
    /// Forget instances at once, whatever their node says; for nodes that will not come back.
    #[arg(long)]
    force: bool,
    /// Wait until nothing of them is left.
    #[arg(long)]
    wait: bool,
    #[command(flatten)]
    timeout: TimeoutArgs,
}

pub(crate) fn run(
    args: &DeleteArgs,
    connect: impl FnOnce(&mut Terminal) -> Result<Client, Failure>,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    let mut awaited = Vec::new();
    let Some(subject) = &args.subject else {
        let manifests = manifest_file::read_all(&args.files)?;
        let client = connect(terminal)?;
        let outcome = super::each(&manifests, terminal, |manifest, terminal| {
            let record = defined_by(&client, manifest)?;
            workload(args, &client, &record, (&mut awaited, terminal))
        });
        return finish(args, &client, &awaited, (outcome, terminal));
    };
    let names = subject.names(&args.names);
    if names.is_empty() {
        let (one, many) = (subject.noun, subject.noun.plural());
        let report = Report::new(format!("no {one} is named, and nothing is deleted"));
        return Err(report
            .hint(format!("rikctl delete {one} NAME; rikctl get {many} lists them"))
            .exit(Exit::Usage)
            .into());
    }
    let client = connect(terminal)?;
    let outcome = super::each(&names, terminal, |name, terminal| match subject.noun {
        Noun::Workload => workload(args, &client, &resolve::object(&client, name)?, (&mut awaited, terminal)),
        Noun::Instance => {
            let instance = resolve::object::<Instance>(&client, name)?;
            awaited.push(instance.object.id.clone());
            delete(args, &client, &instance, terminal)
        }
        Noun::Config => delete(args, &client, &resolve::object::<Object<false>>(&client, name)?, terminal),
        Noun::Secret => delete(args, &client, &resolve::object::<Object<true>>(&client, name)?, terminal),
        Noun::Node | Noun::Event => {
            delete(args, &client, &resolve::object::<NodeView>(&client, name)?, terminal)
        }
    });
    finish(args, &client, &awaited, (outcome, terminal))
}

/// The workload that a manifest means: the one of its name and its kind.
fn defined_by(client: &Client, manifest: &Manifest) -> Result<Shown<WorkloadRecord>, Failure> {
    let (name, kind) = (&manifest.workload.name, manifest.workload.kind);
    let all = resolve::every::<WorkloadRecord>(client, &[])?;
    let mut found =
        all.into_iter().filter(|one| one.object.manifest.name == *name && one.object.manifest.kind == kind);
    found.next().ok_or_else(|| {
        Report::new(format!("there is no workload {name:?} of kind {kind}"))
            .hint("rikctl get workloads")
            .into()
    })
}

fn workload(
    args: &DeleteArgs,
    client: &Client,
    record: &Shown<WorkloadRecord>,
    (awaited, terminal): (&mut Vec<String>, &mut Terminal),
) -> Result<(), Failure> {
    let instances = if args.wait || args.force {
        resolve::every::<Instance>(client, &[("workload", &record.object.id)])?
    } else {
        Vec::new()
    };
    delete(args, client, record, terminal)?;
    awaited.extend(instances.iter().map(|instance| instance.object.id.clone()));
    if !args.force {
        return Ok(());
    }
    // The controller ends them gracefully by itself; force has to be asked for one by one.
    super::each(&instances, terminal, |instance, terminal| {
        match client
            .delete(&with_query(&resolve::path::<Instance>(&instance.object.id), &[("force", "true")]))
        {
            Ok(_) => terminal.print_line(&format!("{} deleted", noun_name(&instance.object))),
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    })
}

/// Workloads and instances are addressed by id, so that one which takes a name meanwhile stays.
fn delete<T: Listed>(
    args: &DeleteArgs,
    client: &Client,
    shown: &Shown<T>,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    let path = resolve::path::<T>(crate::output::short_id(&shown.object));
    let forced = args.force && T::NOUN == Noun::Instance;
    let force: &[(&str, &str)] = if forced { &[("force", "true")] } else { &[] };
    let gone = client.delete(&with_query(&path, force))?;
    let state = if gone { "deleted" } else { "is being deleted" };
    terminal.print_line(&format!("{} {state}", noun_name(&shown.object)))
}

fn finish(
    args: &DeleteArgs,
    client: &Client,
    awaited: &[String],
    (outcome, terminal): (Result<(), Failure>, &mut Terminal),
) -> Result<(), Failure> {
    if args.wait && !awaited.is_empty() && !matches!(outcome, Err(Failure::ReaderGone)) {
        waiting::until(client, terminal, awaited, (Condition::Deleted, args.timeout.timeout))?;
    }
    outcome
}
