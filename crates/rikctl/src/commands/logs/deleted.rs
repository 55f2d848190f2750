//! The logs of instances that are gone, as long as their nodes keep them.

use std::cmp::Reverse;

use jiff::Timestamp;
use model::{ContainerStatus, api::DeletedInstanceView};
use serde::Deserialize as _;

use super::{LogsArgs, print, with_what};
use crate::{
    age::since,
    client::{Client, SILENCE, segment},
    commands::{each, on_nodes},
    failure::{Failure, Report},
    noun::{Noun, bare},
    table::{Headed, Table},
    terminal::Terminal,
};

pub(super) fn run(args: &LogsArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    let mut all: Vec<DeletedInstanceView> = Vec::new();
    // A node that cannot be asked is told of; the others may have it.
    let asked = each(on_nodes::nodes(&[], client)?, terminal, |node, _| {
        let path = format!("/nodes/{}/deleted", segment(&node));
        for value in client.list(&path, &[])?.items {
            let one = DeletedInstanceView::deserialize(&value);
            all.push(one.map_err(|error| Report::new(format!("the answer is not understood: {error}")))?);
        }
        Ok(())
    });
    all.sort_by_key(|one| Reverse(one.deleted_at));
    let name = bare(Noun::Instance, &args.instance);
    if name.is_empty() {
        list(&all, terminal)?;
        return asked;
    }
    let exact = all.iter().find(|one| one.id == name);
    let Some(found) = exact.or_else(|| all.iter().find(|one| one.id.starts_with(name))) else {
        let report = Report::new(format!("no node has a log of a deleted instance {name:?}"));
        return Err(report.hint("rikctl logs --deleted lists those that there are").into());
    };
    let ago = since(Timestamp::now(), found.deleted_at);
    terminal.note(&format!("instance {} was deleted {ago} ago; {}", found.id, ends(found)));
    let path = format!("/nodes/{}/deleted/{}/logs", segment(&found.node), segment(&found.uid));
    print(client.stream(&with_what(&path, args), Some(SILENCE), None)?, client, terminal)
}

fn list(all: &[DeletedInstanceView], terminal: &mut Terminal) -> Result<(), Failure> {
    if all.is_empty() {
        terminal.note("no node has logs of deleted instances");
        return Ok(());
    }
    let now = Timestamp::now();
    let mut table = Table::new(vec!["INSTANCE", "NODE", "DELETED", "END"]);
    for one in all {
        let ago = format!("{} ago", since(now, one.deleted_at));
        table.push(vec![one.id.clone(), one.node.clone(), ago, ends(one)]);
    }
    terminal.print(&table.render(Headed::Yes))
}

/// How its containers ended.
fn ends(one: &DeletedInstanceView) -> String {
    let each = one.containers.iter().map(|container| format!("{}: {}", container.name, end(container)));
    let text = each.collect::<Vec<_>>().join(", ");
    if text.is_empty() { "never started".to_owned() } else { text }
}

fn end(container: &ContainerStatus) -> String {
    match (container.reason, container.exit_code) {
        (Some(reason), Some(code)) => format!("{reason}, exit code {code}"),
        (None, Some(code)) => format!("exit code {code}"),
        (Some(reason), None) => reason.to_string(),
        (None, None) => "no exit code".to_owned(),
    }
}
