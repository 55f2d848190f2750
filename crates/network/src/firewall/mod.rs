//! The node's packet rules as a function of what the node has: state → rules → one `iptables-restore`.
//!
//! ```text
//!  FirewallState ──render──▶ Rules ──┐
//!                                    ├─plan──▶ Batch ──▶ iptables-restore --noflush
//!  iptables-save ──parse──▶ Observed ┘         (none when nothing differs)
//! ```
//!
//! *Guarantees.* Only rules of our own are ever written: the chains whose names begin with `RIKLET` and stand in the one list below, which are replaced whole, and
//! the jumps into them, which carry a mark. Rules of other programs are neither changed nor moved among each other.
//! A batch is atomic for each table. Applying a plan and planning again gives nothing.
//!
//! *Not here.* IPv6: pods have none (see `wiring`). Finding out that a port is taken: `ports`.

mod enforcer;
mod generation;
mod iptables;
#[cfg(test)]
mod laws;
mod observed;
mod plan;
mod render;
mod rule_text;

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddrV4},
};

use model::Protocol;
use serde::{Deserialize, Serialize};

pub use enforcer::{Firewall, FirewallError};
pub use iptables::{Backend, IptablesError};
pub use observed::{Observed, ObservedError};
pub use plan::{Batch, plan};
pub use render::{Rules, render};

use crate::{Owner, Subnet};

/// The tables that have chains of ours, in the order in which a batch writes them: what protects the host comes
/// before what opens it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Table {
    Raw,
    Filter,
    Nat,
}

impl Table {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Filter => "filter",
            Self::Nat => "nat",
        }
    }

    fn from_name(name: &str) -> Option<Self> {
        [Self::Raw, Self::Filter, Self::Nat].into_iter().find(|table| table.name() == name)
    }
}

/// Every chain that RIK may ever have made. Whatever has another name, however similar, belongs to others.
pub(crate) const OWN_CHAINS: [(Table, &str); 6] = [
    (Table::Raw, RAW_CHAIN),
    (Table::Filter, INPUT_CHAIN),
    (Table::Filter, FORWARD_CHAIN),
    (Table::Filter, END_CHAIN),
    (Table::Nat, DNAT_CHAIN),
    (Table::Nat, POSTROUTING_CHAIN),
];

/// raw PREROUTING: what pods may not even send.
const RAW_CHAIN: &str = "RIKLET-RAW";
/// filter INPUT: pods and the node itself.
const INPUT_CHAIN: &str = "RIKLET-IN";
/// filter FORWARD: pods and everybody else.
const FORWARD_CHAIN: &str = "RIKLET-FWD";
/// End of filter FORWARD: what the node would not forward if it were not for pods.
const END_CHAIN: &str = "RIKLET-END";
/// nat PREROUTING and OUTPUT: published ports. The documented name.
const DNAT_CHAIN: &str = "RIKLET";
/// nat POSTROUTING: sources rewritten so that answers find their way.
const POSTROUTING_CHAIN: &str = "RIKLET-POST";

fn is_own_chain(table: Table, chain: &str) -> bool {
    OWN_CHAINS.contains(&(table, chain))
}

/// A port of the node that leads to a pod.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Publish {
    /// Port of the node.
    pub host_port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Address of the node; any of its addresses without it. One in 127.0.0.0/8 is reached from the node alone.
    pub host_address: Option<Ipv4Addr>,
    /// The pod.
    pub owner: Owner,
    /// Address and port of the pod.
    pub target: SocketAddrV4,
}

/// Where pods may not go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Destination {
    /// The network, or the single address as a /32.
    pub network: Subnet,
    /// The TCP port; every protocol and port without it.
    pub tcp_port: Option<u16>,
}

/// Whether the node forwarded packets before RIK asked it to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Forwarding {
    /// It did: what it forwards for others stays its own affair.
    BeforeUs,
    /// It did not: beyond pods it goes on forwarding only what rules of others accept.
    BecauseOfUs,
}

/// Everything that the rules follow from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FirewallState {
    /// The pods' bridge.
    pub bridge: String,
    /// The pods' addresses; its gateway is the bridge's own.
    pub subnet: Subnet,
    /// The interface that pods' own traffic leaves by; any but the bridge without it.
    pub uplink: Option<String>,
    /// Who turned forwarding on.
    pub forwarding: Forwarding,
    /// Where pods may not go, beside what is always closed to them.
    pub forbidden: BTreeSet<Destination>,
    /// Ports that lead to pods.
    pub published: BTreeSet<Publish>,
}
