//! `rikctl get`: lists, in a table or another form, once or for as long as things change.

mod watch;

use clap::Args;
use model::{
    Instance, Status, WorkloadRecord,
    api::{Event, NodeView, Page},
};

use crate::{
    client::{Client, with_query},
    exit::Exit,
    failure::{Failure, Report},
    listed::{Listed, Object, Shown},
    noun::{self, Noun, Subject, bare},
    output::{Count, Format, OutputArgs},
    resolve,
    terminal::Terminal,
};

/// Most notes about instances below one table.
const MAX_NOTES: usize = 20;

#[derive(Clone, Debug, Args)]
pub(crate) struct GetArgs {
    /// What to list: workloads (wl), instances (inst), nodes (no) or events (ev), configs (cfg) or secrets (sec).
    #[arg(value_name = "NOUN", value_parser = noun::LISTED)]
    subject: Subject,
    /// Only these: names, ids or unique beginnings.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    list: ListArgs,
}

/// `rikctl ps`.
#[derive(Clone, Debug, Args)]
pub(crate) struct PsArgs {
    /// Only these: names, ids or unique beginnings.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    list: ListArgs,
}

impl From<PsArgs> for GetArgs {
    fn from(args: PsArgs) -> Self {
        let subject = Subject { noun: Noun::Instance, name: None };
        Self { subject, names: args.names, list: args.list }
    }
}

/// `rikctl events`.
#[derive(Clone, Debug, Args)]
pub(crate) struct EventsArgs {
    /// Only about these, such as web-1 or node/n1.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    #[command(flatten)]
    output: OutputArgs,
    /// Go on and print what happens, until Ctrl-C. JSON is then one event a line.
    #[arg(short, long)]
    watch: bool,
    /// The newest so many.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
}

impl From<EventsArgs> for GetArgs {
    fn from(args: EventsArgs) -> Self {
        let EventsArgs { names, output, watch, limit } = args;
        let subject = Subject { noun: Noun::Event, name: None };
        let list = ListArgs { output, watch, workload: None, node: None, status: None, limit };
        Self { subject, names, list }
    }
}

#[derive(Clone, Debug, Args)]
struct ListArgs {
    #[command(flatten)]
    output: OutputArgs,
    /// Go on and print what changes, until Ctrl-C. JSON is then one change a line.
    #[arg(short, long)]
    watch: bool,
    /// Instances of this workload only.
    #[arg(long, value_name = "ID|NAME")]
    workload: Option<String>,
    /// Instances on this node only.
    #[arg(long, value_name = "NAME")]
    node: Option<String>,
    /// Instances in this state only, such as Running.
    #[arg(long, value_name = "STATUS", value_parser = status)]
    status: Option<Status>,
    /// The newest so many events.
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=500))]
    limit: u32,
}

fn status(text: &str) -> Result<Status, String> {
    let found = Status::ALL.into_iter().find(|status| status.to_string().eq_ignore_ascii_case(text));
    found.ok_or_else(|| format!("allowed are {}", Status::ALL.map(|status| status.to_string()).join(", ")))
}

/// Which objects are wanted, with every name resolved.
#[derive(Clone, Debug, Default)]
struct Filter {
    names: Vec<String>,
    workload: Option<String>,
    node: Option<String>,
    status: Option<Status>,
}

impl Filter {
    fn query(&self) -> Vec<(&'static str, String)> {
        let workload = self.workload.clone().map(|workload| ("workload", workload));
        let node = self.node.clone().map(|node| ("node", node));
        let status = self.status.map(|status| ("status", status.to_string()));
        workload.into_iter().chain(node).chain(status).collect()
    }

    fn admits_name(&self, name: &str) -> bool {
        self.names.is_empty() || self.names.iter().any(|wanted| wanted == name)
    }

    fn admits(&self, instance: &Instance) -> bool {
        self.workload.as_ref().is_none_or(|workload| *workload == instance.workload_id)
            && self.node.as_ref().is_none_or(|node| instance.node.as_ref() == Some(node))
            && self.status.is_none_or(|status| status == instance.status)
    }
}

pub(crate) fn run(args: &GetArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    match args.subject.noun {
        Noun::Workload => list::<WorkloadRecord>(args, client, terminal),
        Noun::Instance => list::<Instance>(args, client, terminal),
        Noun::Node => list::<NodeView>(args, client, terminal),
        Noun::Event => events(args, client, terminal),
        Noun::Config => objects::<false>(args, client, terminal),
        Noun::Secret => objects::<true>(args, client, terminal),
    }
}

fn list<T: Listed + watch::Watched>(
    args: &GetArgs,
    client: &Client,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    let names = args.subject.names(&args.names);
    if !names.is_empty() && !args.list.watch {
        return named::<T>(args, &names, client, terminal);
    }
    let mut filter = filter(&args.list, client)?;
    for name in &names {
        filter.names.push(resolve::object::<T>(client, name)?.object.name().to_owned());
    }
    let query = filter.query();
    let pairs: Vec<_> = query.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let listing = client.list(&format!("/{}", T::NOUN.plural()), &pairs)?;
    let items = listing.items.into_iter().map(resolve::read::<T>).collect::<Result<Vec<_>, _>>()?;
    let items: Vec<_> = items.into_iter().filter(|item| filter.admits_name(item.object.name())).collect();
    if args.list.watch {
        return watch::follow(client, terminal, &args.list.output, (filter, items, listing.revision));
    }
    args.list.output.print(&items, Count::List, terminal)?;
    notes(&items, &args.list.output, client, terminal);
    Ok(())
}

/// Configs or secrets. Their changes are told to nobody, so they cannot be followed.
fn objects<const SECRET: bool>(
    args: &GetArgs,
    client: &Client,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    let noun = args.subject.noun;
    if args.list.watch {
        let report = Report::new(format!("{} cannot be watched", noun.plural()));
        return Err(report.hint(format!("rikctl get {}", noun.plural())).exit(Exit::Usage).into());
    }
    let names = args.subject.names(&args.names);
    if !names.is_empty() {
        return named::<Object<SECRET>>(args, &names, client, terminal);
    }
    let items = resolve::every::<Object<SECRET>>(client, &[])?;
    args.list.output.print(&items, Count::List, terminal)
}

/// Those that were named: what is missing is told, and the others are printed all the same.
fn named<T: Listed>(
    args: &GetArgs,
    names: &[String],
    client: &Client,
    terminal: &mut Terminal,
) -> Result<(), Failure> {
    let mut items = Vec::new();
    let outcome = super::each(names, terminal, |name, _| {
        items.push(resolve::object::<T>(client, name)?);
        Ok(())
    });
    if !items.is_empty() || outcome.is_ok() {
        let count = if names.len() == 1 { Count::One } else { Count::List };
        args.list.output.print(&items, count, terminal)?;
        notes(&items, &args.list.output, client, terminal);
    }
    outcome
}

fn filter(list: &ListArgs, client: &Client) -> Result<Filter, Failure> {
    let workload = match &list.workload {
        Some(typed) => Some(resolve::object::<WorkloadRecord>(client, typed)?.object.id),
        None => None,
    };
    let node = match &list.node {
        Some(typed) => Some(resolve::object::<NodeView>(client, typed)?.object.node.name),
        None => None,
    };
    Ok(Filter { names: Vec::new(), workload, node, status: list.status })
}

/// The documented table has no room for reasons, so those stand below it, on stderr.
fn notes<T: Listed>(items: &[Shown<T>], output: &OutputArgs, client: &Client, terminal: &mut Terminal) {
    if output.format() != Format::Table || output.quiet {
        return;
    }
    let troubles: Vec<_> = items.iter().filter_map(|item| item.object.trouble()).collect();
    for trouble in troubles.iter().take(MAX_NOTES) {
        terminal.say(trouble);
    }
    if troubles.len() > MAX_NOTES {
        terminal.say(&format!("and {} more; see `rikctl get instances -o wide`", troubles.len() - MAX_NOTES));
    }
    let unexplained = |item: &&Shown<T>| T::NOUN == Noun::Instance && item.value["status"] == "Pending";
    let waiting = items.iter().filter(unexplained).any(|item| item.object.trouble().is_none());
    // Without this answer there is one note less; the list itself is already there.
    if waiting && client.cluster().is_ok_and(|cluster| !cluster.scheduler_connected) {
        terminal.note("the scheduler is not connected; what is Pending waits for it");
    }
}

fn events(args: &GetArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    let names: Vec<_> = args.subject.names(&args.names);
    let wanted = |event: &Event| {
        let object = format!("{}/{}", event.object, event.name);
        names.is_empty() || names.iter().any(|name| *name == object || *name == event.name)
    };
    let page = newest(client, args.list.limit)?;
    let mut items = page.items.into_iter().map(resolve::read::<Event>).collect::<Result<Vec<_>, _>>()?;
    items.retain(|item| wanted(&item.object));
    // The newest stands last, next to the prompt.
    items.reverse();
    if args.list.watch {
        let names = names.iter().map(|name| name.rsplit('/').next().unwrap_or(name).to_owned()).collect();
        let filter = Filter { names, ..Filter::default() };
        return watch::follow(client, terminal, &args.list.output, (filter, items, page.revision));
    }
    args.list.output.print(&items, Count::List, terminal)
}

fn newest(client: &Client, limit: u32) -> Result<Page<serde_json::Value>, Failure> {
    let path = with_query("/events", &[("limit", &limit.to_string())]);
    let value = client.get(&path)?;
    serde_json::from_value(value).map_err(|error| {
        crate::failure::Report::new(format!("the controller's list of events is not understood: {error}"))
            .into()
    })
}

/// The latest events about one object, newest last.
pub(crate) fn about(client: &Client, noun: Noun, name: &str) -> Result<Vec<Event>, Failure> {
    let page = newest(client, 500)?;
    let events = page.items.into_iter().filter_map(|value| Shown::<Event>::read(value).ok());
    let mut events: Vec<_> = events
        .map(|shown| shown.object)
        .filter(|event| event.object == noun.singular() && event.name == bare(noun, name))
        .collect();
    events.reverse();
    Ok(events)
}
