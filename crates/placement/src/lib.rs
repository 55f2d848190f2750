//! Placement: which node an instance belongs to, and why not.
//!
//! ```text
//!  nodes, with what is free on each ─┐
//!                                    ├─ plan ─▶ bindings, and for the rest a sentence for each group of nodes
//!  instances that wait, in order ────┘
//! ```
//! Pure: a snapshot goes in, a plan comes out; whoever keeps the truth commits it against the revision that the
//! snapshot was made from. The same snapshot always gives the same plan.
//!
//! For each instance every node is looked at: the [`filter`]s say which can take it, and of those the one that is
//! least loaded gets it (spread). Loads are kept in an array of their own, so that a scan reads one word for each node.
//!
//! *Guarantees*: no node gets more than it has free; an instance is left out only if every node refuses it, and each
//! refusal is explained by the filter that made it.

mod explain;
mod filter;

use std::collections::BTreeMap;

use model::{
    Kind, PortSpec,
    node::ListeningPort,
    quantity::{Cpu, Memory},
};

/// A node, as far as placement is concerned.
#[derive(Clone, Debug)]
pub struct Node<'a> {
    /// Its name.
    pub name: &'a str,
    /// Whether it is heard from.
    pub ready: bool,
    /// Kinds that it can run.
    pub kinds: &'a [Kind],
    /// Its labels.
    pub labels: &'a BTreeMap<String, String>,
    /// All that instances may request there.
    pub capacity: Room,
    /// What the instances on it have requested.
    pub used: Room,
    /// Ports that are published on it.
    pub ports: Vec<Port>,
    /// Ports that programs of its machine listen on.
    pub listening: &'a [Port],
    /// Local volumes that it has.
    pub volumes: Vec<&'a str>,
}

/// An amount of everything that is counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Room {
    /// Processor time.
    pub cpu: Cpu,
    /// Memory.
    pub memory: Memory,
    /// Instances.
    pub instances: u32,
}

/// A port of a node: protocol, number, and the address if it is published on one only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Port {
    /// Protocol.
    pub protocol: model::Protocol,
    /// Number.
    pub port: u16,
    /// Address of the node; every address if absent.
    pub address: Option<std::net::Ipv4Addr>,
}

impl From<&PortSpec> for Port {
    fn from(spec: &PortSpec) -> Self {
        Self { protocol: spec.protocol, port: spec.port, address: spec.host_address }
    }
}

impl From<&ListeningPort> for Port {
    fn from(own: &ListeningPort) -> Self {
        Self { protocol: own.protocol, port: own.port, address: own.address }
    }
}

impl Port {
    /// Whether both cannot be published on one node.
    fn clashes(self, other: Self) -> bool {
        let same_address = self.address.is_none() || other.address.is_none() || self.address == other.address;
        self.protocol == other.protocol && self.port == other.port && same_address
    }
}

/// An instance that waits for a node.
#[derive(Clone, Debug)]
pub struct Waiting<'a> {
    /// Its uid: how the plan refers to it.
    pub uid: &'a str,
    /// Its kind.
    pub kind: Kind,
    /// Labels that its node must carry.
    pub selector: &'a BTreeMap<String, String>,
    /// What it requests. Counts as one instance.
    pub cpu: Cpu,
    /// What it requests.
    pub memory: Memory,
    /// Ports that it publishes.
    pub ports: Vec<Port>,
    /// Local volumes that it uses: where one of them is already, it has to be.
    pub volumes: Vec<&'a str>,
}

/// What was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Uid and node.
    pub bindings: Vec<(String, String)>,
    /// Uid and why no node takes it.
    pub unplaced: Vec<(String, String)>,
}

/// Load is counted in parts of this: fine enough to tell nodes apart, small enough for one word.
const FULL: u64 = 1 << 20;

/// Decides for each waiting instance, in order.
#[must_use]
pub fn plan<'a>(nodes: &'a [Node<'a>], waiting: &[Waiting<'a>]) -> Plan {
    let mut board = Board::new(nodes);
    let mut plan = Plan::default();
    for instance in waiting {
        match board.best(instance) {
            Some(index) => {
                board.place(index, instance);
                plan.bindings.push((instance.uid.to_owned(), nodes[index].name.to_owned()));
            }
            None => plan.unplaced.push((instance.uid.to_owned(), explain::explain(&board, instance))),
        }
    }
    plan
}

/// The nodes while a plan is made: what the plan has placed already counts.
struct Board<'a> {
    nodes: &'a [Node<'a>],
    free: Vec<Room>,
    /// Signed, because the baseline of x86-64 compares only signed words side by side.
    load: Vec<i32>,
    /// Ports that this plan has taken, by node.
    taken: Vec<Vec<Port>>,
    /// Local volumes that this plan puts on a node, by name.
    made: BTreeMap<&'a str, usize>,
}

impl<'a> Board<'a> {
    fn new(nodes: &'a [Node<'a>]) -> Self {
        let free: Vec<Room> = nodes.iter().map(|node| node.capacity.minus(node.used)).collect();
        let load = nodes.iter().zip(&free).map(|(node, free)| load(node.capacity, *free)).collect();
        Self { nodes, free, load, taken: vec![Vec::new(); nodes.len()], made: BTreeMap::new() }
    }

    /// The least loaded node that every filter lets through; the first by position among equals.
    fn best(&self, instance: &Waiting<'_>) -> Option<usize> {
        // Mostly the least loaded of all is let through, and finding it is a scan of one array that the compiler turns
        // into vector instructions.
        let least = self.load.iter().copied().min()?;
        let first = self.load.iter().position(|load| *load == least)?;
        if filter::refusal(self, first, instance).is_none() {
            return Some(first);
        }
        let mut best: Option<(i32, usize)> = None;
        for (index, load) in self.load.iter().copied().enumerate() {
            let better = best.is_none_or(|(least, _)| load < least);
            if better && filter::refusal(self, index, instance).is_none() {
                best = Some((load, index));
            }
        }
        best.map(|(_, index)| index)
    }

    /// The node that has a local volume, if one has; the first by position among several.
    fn holder(&self, volume: &str) -> Option<usize> {
        let made = self.made.get(volume).copied();
        made.or_else(|| self.nodes.iter().position(|node| node.volumes.contains(&volume)))
    }

    /// Whether the node at `index` has a local volume.
    fn has(&self, index: usize, volume: &str) -> bool {
        self.made.get(volume) == Some(&index) || self.nodes[index].volumes.contains(&volume)
    }

    fn place(&mut self, index: usize, instance: &Waiting<'a>) {
        let one = Room { cpu: instance.cpu, memory: instance.memory, instances: 1 };
        self.free[index] = self.free[index].minus(one);
        self.load[index] = load(self.nodes[index].capacity, self.free[index]);
        self.taken[index].extend(&instance.ports);
        for volume in &instance.volumes {
            if self.holder(volume).is_none() {
                self.made.insert(volume, index);
            }
        }
    }
}

impl Room {
    fn minus(self, other: Self) -> Self {
        Self {
            cpu: Cpu(self.cpu.0.saturating_sub(other.cpu.0)),
            memory: Memory(self.memory.0.saturating_sub(other.memory.0)),
            instances: self.instances.saturating_sub(other.instances),
        }
    }

    /// The sum of both, for what is used.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self {
            cpu: Cpu(self.cpu.0.saturating_add(other.cpu.0)),
            memory: Memory(self.memory.0.saturating_add(other.memory.0)),
            instances: self.instances.saturating_add(other.instances),
        }
    }

    /// What is left when one of the summands of [`Room::plus`] goes.
    #[must_use]
    pub fn without(self, other: Self) -> Self {
        self.minus(other)
    }
}

/// How full a node is by the resource that is used most, in parts of [`FULL`].
fn load(capacity: Room, free: Room) -> i32 {
    let part = |capacity: u64, free: u64| {
        let used = u128::from(capacity.saturating_sub(free));
        u64::try_from(used * u128::from(FULL) / u128::from(capacity.max(1))).unwrap_or(FULL)
    };
    let cpu = part(capacity.cpu.0, free.cpu.0);
    let memory = part(capacity.memory.0, free.memory.0);
    let instances = part(u64::from(capacity.instances), u64::from(free.instances));
    i32::try_from(cpu.max(memory).max(instances)).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests;
