//! What the scheduler knows: the controller's state as last told, and who is connected.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use model::{Node, NodeMetrics, Revision, Status};
use placement::{Port, Room};
use proto::{Epoch, link::Placed, node::Hello};

use super::Connection;

/// A point in time, as the time that has passed since any fixed instant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Time(pub Duration);

impl Time {
    /// The time between an earlier point and this one.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// The controller's state as last told.
#[derive(Debug, Default)]
pub(crate) struct State {
    pub(crate) revision: Revision,
    pub(crate) records: BTreeMap<String, Node>,
    pub(crate) instances: BTreeMap<String, Entry>,
    /// Uids on each node, bound or about to be.
    pub(crate) on_node: BTreeMap<String, BTreeSet<String>>,
    /// What those have requested, kept up to date so that a plan need not add it up.
    pub(crate) used: BTreeMap<String, Room>,
    /// The ports that those publish. Most publish none, and a plan must not ask each of them.
    pub(crate) ports: BTreeMap<String, Vec<Port>>,
    /// The local volumes that those use: the record of a node has them a moment later.
    pub(crate) volumes: BTreeMap<String, Vec<String>>,
    /// Waiting instances by age: revision of creation is not known here, so the order in which they were first seen.
    pub(crate) waiting: BTreeMap<u64, String>,
    pub(crate) seen: u64,
    /// Uids that were tried and left out, and need not be tried again until there is more room somewhere.
    pub(crate) left_out: BTreeSet<String>,
    /// Whether something has changed that may let a left-out instance in.
    pub(crate) more_room: bool,
}

/// An instance.
#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) placed: Placed,
    /// Node that a plan gave it, while the controller has not answered.
    pub(crate) assumed: Option<String>,
    /// Its place among those that wait.
    pub(crate) turn: Option<u64>,
}

impl Entry {
    pub(crate) fn node(&self) -> Option<&str> {
        self.placed.node.as_deref().or(self.assumed.as_deref())
    }

    fn waits(&self) -> bool {
        self.placed.status == Status::Pending && self.node().is_none()
    }

    fn holds_resources(&self) -> bool {
        !matches!(self.placed.status, Status::Failed | Status::Terminated)
    }

    pub(crate) fn room(&self) -> Room {
        let (cpu, memory) = self.placed.spec.requests();
        Room { cpu, memory, instances: 1 }
    }

    pub(crate) fn ports(&self) -> impl Iterator<Item = Port> + '_ {
        self.placed.spec.published().map(Port::from)
    }

    pub(crate) fn volumes(&self) -> impl Iterator<Item = &str> {
        self.placed.spec.local_volumes()
    }
}

fn take_one<T: PartialEq<Q>, Q: ?Sized>(all: &mut Vec<T>, one: &Q) {
    if let Some(at) = all.iter().position(|own| own == one) {
        all.swap_remove(at);
    }
}

impl State {
    /// Takes over what the controller says of an instance. Returns what it said before, if anything.
    pub(crate) fn upsert(&mut self, mut placed: Placed) -> Option<Placed> {
        let uid = placed.uid.clone();
        let old = self.detach(&uid);
        // What it is given is said once; it is kept for its node until it has started, and no longer.
        if placed.given.is_none() && matches!(placed.status, Status::Pending | Status::Creating) {
            placed.given = old.as_ref().and_then(|old| old.placed.given.clone());
        }
        let assumed = old.as_ref().and_then(|old| old.assumed.clone()).filter(|_| {
            // The plan still stands as long as the instance is what it was made from.
            placed.node.is_none() && old.as_ref().is_some_and(|old| old.placed.revision == placed.revision)
        });
        self.attach(Entry { placed, assumed, turn: old.as_ref().and_then(|old| old.turn) });
        old.map(|old| old.placed)
    }

    pub(crate) fn remove(&mut self, uid: &str) -> Option<Placed> {
        let old = self.detach(uid)?;
        self.left_out.remove(uid);
        Some(old.placed)
    }

    /// Notes that a plan gave the instance this node, or that it did not come about.
    pub(crate) fn assume(&mut self, uid: &str, node: Option<&str>) {
        if let Some(mut entry) = self.detach(uid) {
            entry.assumed = node.map(str::to_owned);
            self.attach(entry);
        }
    }

    fn attach(&mut self, mut entry: Entry) {
        let uid = entry.placed.uid.clone();
        if let Some(node) = entry.node().map(str::to_owned) {
            self.on_node.entry(node.clone()).or_default().insert(uid.clone());
            if entry.holds_resources() {
                let used = self.used.entry(node.clone()).or_default();
                *used = used.plus(entry.room());
                let mut ports = entry.ports().peekable();
                if ports.peek().is_some() {
                    self.ports.entry(node.clone()).or_default().extend(ports);
                }
                let mut volumes = entry.volumes().peekable();
                if volumes.peek().is_some() {
                    self.volumes.entry(node).or_default().extend(volumes.map(str::to_owned));
                }
            }
        }
        if entry.waits() {
            let turn = entry.turn.unwrap_or_else(|| {
                self.seen += 1;
                self.seen
            });
            entry.turn = Some(turn);
            self.waiting.insert(turn, uid.clone());
        } else {
            self.left_out.remove(&uid);
        }
        self.instances.insert(uid, entry);
    }

    fn detach(&mut self, uid: &str) -> Option<Entry> {
        let entry = self.instances.remove(uid)?;
        if let Some(turn) = entry.turn {
            self.waiting.remove(&turn);
        }
        if let Some(node) = entry.node() {
            if let Some(uids) = self.on_node.get_mut(node) {
                uids.remove(uid);
            }
            if entry.holds_resources()
                && let Some(used) = self.used.get_mut(node)
            {
                *used = used.without(entry.room());
                self.more_room = true;
                // Each instance of them put one there, so each takes one away, even if two are equal.
                if let Some(published) = self.ports.get_mut(node) {
                    entry.ports().for_each(|port| take_one(published, &port));
                }
                if let Some(volumes) = self.volumes.get_mut(node) {
                    entry.volumes().for_each(|volume| take_one(volumes, volume));
                }
            }
        }
        Some(entry)
    }

    /// The instances that are bound to a node, as the controller has recorded it.
    pub(crate) fn assigned(&self, node: &str) -> impl Iterator<Item = &Placed> {
        let uids = self.on_node.get(node).into_iter().flatten();
        uids.filter_map(|uid| self.instances.get(uid))
            .map(|entry| &entry.placed)
            .filter(|placed| placed.node.is_some())
    }
}

/// A node: connected, recorded, or both (the record is in [`State`]).
#[derive(Debug, Default)]
pub(crate) struct NodeEntry {
    pub(crate) session: Option<Session>,
    /// When it was last heard from, or when we began to listen.
    pub(crate) heard: Time,
    /// When the controller was last told that it is there or lost.
    pub(crate) told: Option<Time>,
}

/// A riklet's connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) connection: Connection,
    pub(crate) hello: Hello,
    pub(crate) heard: Time,
    /// Whether it has been welcomed: only then it is assigned anything.
    pub(crate) welcome: bool,
    /// Ports that programs of its machine listen on, as last told.
    pub(crate) listening: Vec<Port>,
    /// What it measured last: for a controller that comes later.
    pub(crate) metrics: Option<NodeMetrics>,
}

/// The controller's connection.
#[derive(Debug)]
pub(crate) struct LinkEntry {
    pub(crate) connection: Connection,
    pub(crate) cluster: String,
    pub(crate) epoch: Epoch,
    /// Whether the whole snapshot has arrived.
    pub(crate) synced: bool,
    /// The parts of the snapshot so far.
    pub(crate) parts: (Vec<Node>, Vec<Placed>),
}
