//! Events: the store's history, told for people and for watchers.
//!
//! Nothing is recorded twice for this: an event is an entry of the change log, read as what it says about an object.

use std::str::FromStr;

use model::{
    Instance, Node, Revision, WorkloadRecord,
    api::{Action, Event, Page, WatchEvent},
    key,
};
use store::{Change, Op, Position, Watch};

use super::{Cluster, ClusterError};

/// Entries of the log that one request for events looks at: several times a page, because not all are events.
const MAX_SCANNED: usize = 10_000;

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
    /// Waits for the next changes; all of one revision together. Cancel-safe.
    ///
    /// # Errors
    /// The watch fell behind the history, or the store failed.
    pub async fn next(&mut self) -> Result<Vec<WatchEvent>, ClusterError> {
        loop {
            let changes = self.0.next().await?;
            let events: Vec<WatchEvent> = changes.iter().filter_map(watch_event).collect();
            if !events.is_empty() {
                return Ok(events);
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

fn watch_event(change: &Change) -> Option<WatchEvent> {
    let (object, name) = object(&change.key)?;
    let value = value(change).and_then(|text| serde_json::from_str(text).ok());
    Some(WatchEvent {
        revision: change.revision,
        action: action(change),
        object: object.to_owned(),
        name: name.to_owned(),
        value,
    })
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
