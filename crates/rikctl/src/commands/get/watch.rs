//! `-w`: after the list, every change of it.
//!
//! A table grows by one row for each change. JSON is one [`WatchEvent`] a line, also for what was there at the start,
//! so that a program reads one form and learns of deletions too.

use std::collections::BTreeSet;

use jiff::Timestamp;
use model::{
    Instance, Revision, WorkloadRecord,
    api::{Action, Event, NodeView, WatchEvent},
};
use serde_json::Value;

use super::Filter;
use crate::{
    client::{
        Client,
        watch::{Step, Watch},
    },
    escape,
    failure::Failure,
    listed::{Listed, Shown},
    output::{self, Format, OutputArgs},
    resolve,
    table::Table,
    terminal::Terminal,
};

/// Something whose changes can be followed.
pub(super) trait Watched: Listed {
    /// What the watch is narrowed to.
    const OBJECT: Option<&'static str>;

    /// The object after a change; none if there is nothing to show.
    fn after(change: &WatchEvent, client: &Client) -> Result<Option<Self>, Failure>;

    /// Whether a filter lets it through.
    fn is_admitted(&self, filter: &Filter) -> bool {
        filter.admits_name(self.name())
    }
}

impl Watched for WorkloadRecord {
    const OBJECT: Option<&'static str> = Some("workload");

    fn after(change: &WatchEvent, _client: &Client) -> Result<Option<Self>, Failure> {
        from_value(change)
    }
}

impl Watched for Instance {
    const OBJECT: Option<&'static str> = Some("instance");

    fn after(change: &WatchEvent, _client: &Client) -> Result<Option<Self>, Failure> {
        from_value(change)
    }

    fn is_admitted(&self, filter: &Filter) -> bool {
        filter.admits_name(&self.id) && filter.admits(self)
    }
}

impl Watched for NodeView {
    const OBJECT: Option<&'static str> = Some("node");

    /// A change tells the record alone; how the node fares is asked for.
    fn after(change: &WatchEvent, client: &Client) -> Result<Option<Self>, Failure> {
        Ok(resolve::lookup::<Self>(client, &change.name)?.map(|shown| shown.object))
    }
}

impl Watched for Event {
    const OBJECT: Option<&'static str> = None;

    /// Every change is an event; what it says beside the object stands in the object.
    fn after(change: &WatchEvent, _client: &Client) -> Result<Option<Self>, Failure> {
        let value = change.value.clone().unwrap_or_default();
        let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
        let node = if change.object == "instance" { text("node") } else { None };
        Ok(Some(Self {
            revision: change.revision,
            time: Timestamp::now(),
            action: change.action,
            object: change.object.clone(),
            kind: value.get("kind").and_then(|kind| serde::Deserialize::deserialize(kind).ok()),
            name: change.name.clone(),
            status: text("status"),
            node,
            reason: value.get("reason").and_then(|reason| serde::Deserialize::deserialize(reason).ok()),
            message: text("message"),
        }))
    }
}

fn from_value<T: Listed>(change: &WatchEvent) -> Result<Option<T>, Failure> {
    match (&change.value, change.action) {
        (None, _) => Ok(None),
        // What is gone may be told without all that it was.
        (Some(value), Action::Deleted) => Ok(Shown::read(value.clone()).ok().map(|shown| shown.object)),
        (Some(value), _) => resolve::read::<T>(value.clone()).map(|shown| Some(shown.object)),
    }
}

/// What is followed: the filter, what was there, and at which revision.
pub(super) type Start<T> = (Filter, Vec<Shown<T>>, Revision);

/// Prints what was there, and from then on what changes.
pub(super) fn follow<T: Watched>(
    client: &Client,
    terminal: &mut Terminal,
    output: &OutputArgs,
    (filter, items, mut revision): Start<T>,
) -> Result<(), Failure> {
    let mut printer = Printer::start(output, &items, revision, terminal)?;
    let mut known: BTreeSet<String> = items.iter().map(|item| item.object.name().to_owned()).collect();
    loop {
        let mut watch = Watch::new(client, T::OBJECT, revision);
        loop {
            let change = match watch.next(None)? {
                Step::Change(change) => change,
                Step::Deadline => continue,
                Step::Compacted => break,
            };
            let Some(object) = T::after(&change, client)?.filter(|object| object.is_admitted(&filter)) else {
                // What leaves the filter, or goes without a last word, is told once.
                if known.remove(&change.name) && change.action == Action::Deleted {
                    printer.gone::<T>(&change, terminal)?;
                }
                continue;
            };
            if change.action == Action::Deleted && T::OBJECT.is_some() {
                known.remove(&change.name);
                printer.gone::<T>(&change, terminal)?;
            } else {
                known.insert(change.name.clone());
                printer.changed(&object, &change, terminal)?;
            }
        }
        if T::OBJECT.is_none() {
            terminal.note("changes were missed while the connection was away");
            revision = client.cluster()?.revision;
            continue;
        }
        terminal.note("changes were missed while the connection was away; the list is printed anew");
        let listing = client.list(&format!("/{}", T::NOUN.plural()), &[])?;
        revision = listing.revision;
        let items = listing.items.into_iter().map(resolve::read::<T>).collect::<Result<Vec<_>, _>>()?;
        let items: Vec<_> = items.into_iter().filter(|item| item.object.is_admitted(&filter)).collect();
        printer = Printer::start(output, &items, revision, terminal)?;
    }
}

struct Printer<'a> {
    output: &'a OutputArgs,
    table: Table,
}

impl<'a> Printer<'a> {
    fn start<T: Listed>(
        output: &'a OutputArgs,
        items: &[Shown<T>],
        revision: Revision,
        terminal: &mut Terminal,
    ) -> Result<Self, Failure> {
        let table = output::table(items, output.format(), Timestamp::now());
        match output.format() {
            Format::Json if !output.quiet => {
                for item in items {
                    let revision =
                        item.value.get("revision").and_then(Value::as_u64).map_or(revision, Revision);
                    let change = WatchEvent {
                        revision,
                        action: Action::Created,
                        object: T::NOUN.singular().to_owned(),
                        name: item.object.name().to_owned(),
                        value: Some(item.value.clone()),
                    };
                    print_change(&change, terminal)?;
                }
            }
            Format::Yaml if !output.quiet => {
                for item in items {
                    terminal.print(&format!("---\n{}", output::yaml(&item.value)?))?;
                }
            }
            Format::Table | Format::Wide | Format::Json | Format::Yaml | Format::Name => {
                output.print(items, output::Count::List, terminal)?;
            }
        }
        Ok(Self { output, table })
    }

    fn changed<T: Listed>(
        &self,
        object: &T,
        change: &WatchEvent,
        terminal: &mut Terminal,
    ) -> Result<(), Failure> {
        if self.output.quiet {
            return terminal.print_line(output::short_id(object));
        }
        match self.output.format() {
            Format::Table | Format::Wide => {
                let row = output::row(object, self.output.format(), Timestamp::now());
                terminal.print(&output::ended::<T>(self.table.later_row(&row), self.output.format()))?;
                if let (Format::Table, Some(trouble)) = (self.output.format(), object.trouble()) {
                    terminal.say(&trouble);
                }
                Ok(())
            }
            Format::Json => print_change(change, terminal),
            Format::Yaml => {
                let value = change.value.clone().unwrap_or_default();
                terminal.print(&format!("---\n{}", output::yaml(&value)?))
            }
            Format::Name => terminal.print_line(&output::noun_name(object)),
        }
    }

    fn gone<T: Listed>(&self, change: &WatchEvent, terminal: &mut Terminal) -> Result<(), Failure> {
        if self.output.format() == Format::Json && !self.output.quiet {
            return print_change(change, terminal);
        }
        terminal.say(&format!("{}/{} is deleted", T::NOUN, change.name));
        Ok(())
    }
}

fn print_change(change: &WatchEvent, terminal: &mut Terminal) -> Result<(), Failure> {
    let line = serde_json::to_string(change)
        .map_err(|error| crate::failure::Report::new(format!("a change cannot be printed: {error}")))?;
    terminal.print(&format!("{}\n", escape::json(&line)))
}
