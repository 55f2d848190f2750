//! Events: the store's history, told for people and for watchers.
//!
//! Nothing is recorded twice for this: an event is an entry of the change log, read as what it says about an object.

use std::{borrow::Cow, str::FromStr};

use model::{
    Instance, Node, Revision, WorkloadRecord,
    api::{Action, Event, Page},
    key,
};
use serde::Serialize;
use serde_json::value::{RawValue, to_raw_value};
use store::{Change, Op, Position, Watch};

use super::{Cluster, ClusterError};

/// Entries of the log that one request for events looks at: several times a page, because not all are events.
const MAX_SCANNED: usize = 10_000;

/// Bytes of changes that a watcher is told at once, exceeded by one revision at most: enough to make many small changes
/// one piece on the wire, little enough to hold for each watcher.
const AT_HAND_BYTES: usize = 64 << 10;

impl Cluster {
    /// Events, newest first; `before` is the continuation of the page before.
    ///
    /// # Errors
    /// The continuation is none, or the store could not be read.
    pub async fn events(&self, before: Option<&str>, limit: usize) -> Result<Page<Event>, ClusterError> {
        let mut cursor = before.map(parse_position).transpose()?;
        let mut items = Vec::new();
        let mut scanned = 0;
        let revision = self.mirror().read().revision;
        loop {
            let history =
                self.store().history("", cursor, store::MAX_HISTORY).await.map_err(ClusterError::Read)?;
            for change in &history.changes {
                scanned += 1;
                cursor = Some(change.position());
                items.extend(event(change));
                if items.len() >= limit {
                    break;
                }
            }
            let full = items.len() >= limit || scanned >= MAX_SCANNED;
            if full || !history.more {
                let next = cursor.filter(|_| full).map(|at| format!("{}.{}", at.revision, at.index));
                return Ok(Page { items, revision, next });
            }
        }
    }

    /// Every change after a revision, as it happens.
    ///
    /// # Errors
    /// The history does not go back so far, or the store failed.
    pub async fn watch(&self, after: Revision) -> Result<Changes, ClusterError> {
        Ok(Changes(self.store().watch("", after).await?))
    }
}

/// The changes of the cluster, as they happen.
#[derive(Debug)]
pub struct Changes(Watch);

impl Changes {
    /// Waits for the next changes; all of one revision together, and whatever is at hand with them. Cancel-safe.
    ///
    /// # Errors
    /// The watch fell behind the history, or the store failed.
    pub async fn next(&mut self) -> Result<Vec<Change>, ClusterError> {
        loop {
            let mut changes = self.0.next().await?;
            let mut bytes = 0;
            while bytes < AT_HAND_BYTES
                && let Some(more) = self.0.ready()
            {
                bytes += more.iter().filter_map(value).map(str::len).sum::<usize>();
                changes.extend(more);
            }
            changes.retain(|change| object(&change.key).is_some());
            if !changes.is_empty() {
                return Ok(changes);
            }
        }
    }
}

fn parse_position(text: &str) -> Result<Position, ClusterError> {
    let parts = text.split_once('.').and_then(|(revision, index)| {
        Some(Position {
            revision: Revision(u64::from_str(revision).ok()?),
            index: u32::from_str(index).ok()?,
        })
    });
    parts.ok_or_else(|| ClusterError::InvalidRequest {
        detail: format!("{text:?} is no continuation of a page of events"),
    })
}

/// The object's type and name, if the key belongs to an object that users know.
fn object(element: &str) -> Option<(&'static str, &str)> {
    let object = if element.starts_with(key::WORKLOADS) {
        "workload"
    } else if element.starts_with(key::INSTANCES) {
        "instance"
    } else if element.starts_with(key::NODES) {
        "node"
    } else {
        return None;
    };
    Some((object, element.rsplit('/').next().unwrap_or_default()))
}

fn action(change: &Change) -> Action {
    match &change.op {
        Op::Put { created, .. } if *created == change.revision => Action::Created,
        Op::Put { .. } => Action::Changed,
        Op::Delete { .. } => Action::Deleted,
    }
}

fn value(change: &Change) -> Option<&str> {
    match &change.op {
        Op::Put { value, .. } => Some(value),
        Op::Delete { last } => last.as_deref(),
    }
}

/// A change as it is told: a [`model::api::WatchEvent`] whose object is the text that the store holds, so that telling
/// it to many costs nobody's parsing.
#[derive(Debug, Serialize)]
pub struct Told<'a> {
    /// Revision of the change.
    pub revision: Revision,
    action: Action,
    /// The sort of object.
    pub object: &'static str,
    name: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    value: Option<Cow<'a, RawValue>>,
}

impl<'a> Told<'a> {
    /// The change, if it is of an object that users know.
    #[must_use]
    pub fn of(change: &'a Change) -> Option<Self> {
        let (object, name) = object(&change.key)?;
        let value = value(change).and_then(one_line);
        Some(Self { revision: change.revision, action: action(change), object, name, value })
    }
}

/// The JSON as it is, or, where somebody has edited it by hand and it has several lines, written anew on one.
fn one_line(text: &str) -> Option<Cow<'_, RawValue>> {
    if text.contains(['\n', '\r']) {
        let value = serde_json::from_str::<serde_json::Value>(text).ok()?;
        return to_raw_value(&value).ok().map(Cow::Owned);
    }
    serde_json::from_str(text).ok().map(Cow::Borrowed)
}

fn event(change: &Change) -> Option<Event> {
    let (object, name) = object(&change.key)?;
    let plain = Event {
        revision: change.revision,
        time: change.at,
        action: action(change),
        object: object.to_owned(),
        kind: None,
        name: name.to_owned(),
        status: None,
        node: None,
        reason: None,
        message: None,
    };
    let text = value(change).unwrap_or_default();
    Some(match object {
        "instance" => match serde_json::from_str::<Instance>(text) {
            Ok(instance) => Event {
                kind: Some(instance.kind),
                status: Some(instance.status.to_string()),
                node: instance.node,
                reason: instance.reason,
                message: instance.message,
                ..plain
            },
            Err(_) => plain,
        },
        "node" => match serde_json::from_str::<Node>(text) {
            Ok(node) => Event { status: Some(node.status.to_string()), ..plain },
            Err(_) => plain,
        },
        _ => match serde_json::from_str::<WorkloadRecord>(text) {
            Ok(workload) => Event { kind: Some(workload.manifest.kind), ..plain },
            Err(_) => plain,
        },
    })
}
