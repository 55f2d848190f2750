//! What the commands about things on nodes have in common: which nodes, one list of all, and taking one away wherever it
//! is.

use jiff::Timestamp;
use model::{NodeStatus, api::NodeView};
use serde::de::DeserializeOwned;

use super::each;
use crate::{
    client::{Client, ClientError},
    failure::{Failure, Report},
    output::{self, Format, OutputArgs},
    resolve,
    table::Table,
    terminal::Terminal,
};

/// The nodes that were named, or every one that is ready.
pub(crate) fn nodes(named: &[String], client: &Client) -> Result<Vec<String>, Failure> {
    if !named.is_empty() {
        return named
            .iter()
            .map(|name| Ok(resolve::object::<NodeView>(client, name)?.object.node.name))
            .collect();
    }
    let all = resolve::every::<NodeView>(client, &[])?;
    let count = all.len();
    let ready = all.into_iter().filter(|node| node.object.node.status == NodeStatus::Ready);
    let ready: Vec<_> = ready.map(|node| node.object.node.name).collect();
    match (count, ready.is_empty()) {
        (0, _) => Err(Report::new("the cluster has no node").hint("start a riklet").into()),
        (_, true) => Err(Report::new("no node is ready").hint("rikctl get nodes").into()),
        (_, false) => Ok(ready),
    }
}

/// How things are listed.
pub(crate) struct Listing<T> {
    /// What they are called together.
    pub(crate) what: &'static str,
    /// Heads of the columns.
    pub(crate) columns: &'static [&'static str],
    /// The name of one.
    pub(crate) name: fn(&T) -> &str,
    /// The columns of one; whether all of each is wanted.
    pub(crate) row: fn(&T, Timestamp, Format) -> Vec<String>,
}

impl<T: DeserializeOwned> Listing<T> {
    /// Prints what is listed at each of the paths, one list. A node that cannot be asked is told of.
    pub(crate) fn print(
        &self,
        paths: impl IntoIterator<Item = String>,
        args: &OutputArgs,
        client: &Client,
        terminal: &mut Terminal,
    ) -> Result<(), Failure> {
        let mut values = Vec::new();
        let outcome = each(paths, terminal, |path, _| {
            values.extend(client.list(&path, &[])?.items);
            Ok(())
        });
        self.print_values(&values, args, terminal)?;
        outcome
    }

    fn print_values(
        &self,
        values: &[serde_json::Value],
        args: &OutputArgs,
        terminal: &mut Terminal,
    ) -> Result<(), Failure> {
        let format = args.format();
        match format {
            Format::Json if !args.quiet => return terminal.print(&output::json(&values.into())?),
            Format::Yaml if !args.quiet => return terminal.print(&output::yaml(&values.into())?),
            Format::Table | Format::Wide | Format::Json | Format::Yaml | Format::Name => {}
        }
        let things = values.iter().map(T::deserialize).collect::<Result<Vec<T>, _>>().map_err(|error| {
            Report::new(format!("the controller's list of {} is not understood: {error}", self.what))
        })?;
        if args.quiet || format == Format::Name {
            return things.iter().try_for_each(|thing| terminal.print_line((self.name)(thing)));
        }
        let mut table = Table::new(self.columns.to_vec());
        let now = Timestamp::now();
        for thing in &things {
            table.push((self.row)(thing, now, format));
        }
        terminal.print(&table.render(args.headed()))
    }
}

/// Takes something away from each node. That one does not have it (the controller's code `absent`) is no failure, as
/// long as another one does.
pub(crate) fn take_away(
    nodes: &[String],
    absent: &str,
    terminal: &mut Terminal,
    mut from: impl FnMut(&str) -> Result<String, ClientError>,
) -> Result<(), Failure> {
    let (mut any, mut missing) = (false, None);
    let outcome = each(nodes, terminal, |node, terminal| match from(node) {
        Ok(said) => {
            any = true;
            terminal.print_line(&said)
        }
        Err(error) if error.code() == Some(absent) => {
            missing = Some(error);
            Ok(())
        }
        Err(error) => Err(error.into()),
    });
    match missing.filter(|_| !any && outcome.is_ok()) {
        Some(error) => Err(error.into()),
        None => outcome,
    }
}
