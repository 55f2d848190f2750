//! State → rules. Pure; the one place that knows what a rule says.
//!
//! The rule set is the one that was measured to be needed for a published port to work from 127.0.0.1, from the
//! node's own address and from another host, with FORWARD open and closed; each rule below says what fails without
//! it. Rules are written as `iptables-save` prints them.

use std::collections::BTreeMap;

use model::Protocol;

use super::{
    DNAT_CHAIN, END_CHAIN, FORWARD_CHAIN, FirewallState, Forwarding, INPUT_CHAIN, POSTROUTING_CHAIN, Publish,
    RAW_CHAIN, Table, rule_text,
};

/// Loopback: never a source or destination on a wire (RFC 1122, 3.2.1.3).
const LOOPBACK: &str = "127.0.0.0/8";

/// Link-local, and in it the clouds' metadata services (169.254.169.254 and neighbours): a pod that reaches them
/// has the node's credentials.
const LINK_LOCAL: &str = "169.254.0.0/16";

/// Comment of rules that belong to the node rather than to a pod. No owner can be called so.
const NODE_COMMENT: &str = "rik:node/rule";

/// Comment of the jumps into our chains.
const JUMP_COMMENT: &str = "rik:node/jump";

/// Where in its chain a jump must stand.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Position {
    /// Before all others: what it drops must not have been accepted.
    First,
    /// After all others: it decides only what nobody else did.
    Last,
    /// Wherever it came to stand.
    Anywhere,
}

/// A jump from a chain of the kernel's into one of ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Jump {
    pub(super) from: &'static str,
    pub(super) position: Position,
    pub(super) rule: String,
}

/// What one table should have of ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct TableRules {
    pub(super) chains: BTreeMap<&'static str, Vec<String>>,
    pub(super) jumps: Vec<Jump>,
}

/// Every rule that should be there, as a value.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Rules {
    pub(super) tables: BTreeMap<Table, TableRules>,
}

impl Rules {
    /// No rule at all: what should be there when RIK has gone.
    #[must_use]
    pub fn none() -> Self {
        Self::default()
    }

    fn chain(&mut self, table: Table, chain: &'static str, rules: Vec<String>) {
        self.tables.entry(table).or_default().chains.insert(chain, rules);
    }

    fn jump(&mut self, table: Table, from: &'static str, position: Position, condition: &str) {
        let target = match (table, from) {
            (Table::Raw, _) => RAW_CHAIN,
            (Table::Filter, "INPUT") => INPUT_CHAIN,
            (Table::Filter, _) if position == Position::Last => END_CHAIN,
            (Table::Filter, _) => FORWARD_CHAIN,
            (Table::Nat, "POSTROUTING") => POSTROUTING_CHAIN,
            (Table::Nat, _) => DNAT_CHAIN,
        };
        let rule = format!("{condition}-m comment --comment {} -j {target}", rule_text::quoted(JUMP_COMMENT));
        self.tables.entry(table).or_default().jumps.push(Jump { from, position, rule });
    }
}

/// The rules that a state asks for. The same state gives the same rules.
#[must_use]
pub fn render(state: &FirewallState) -> Rules {
    let mut rules = Rules::default();

    rules.chain(Table::Raw, RAW_CHAIN, raw(state));
    rules.jump(Table::Raw, "PREROUTING", Position::First, "");

    rules.chain(Table::Filter, INPUT_CHAIN, input(state));
    rules.jump(Table::Filter, "INPUT", Position::First, "");
    rules.chain(Table::Filter, FORWARD_CHAIN, forward(state));
    rules.jump(Table::Filter, "FORWARD", Position::First, "");
    if state.forwarding == Forwarding::BecauseOfUs {
        rules.chain(Table::Filter, END_CHAIN, vec![node("", "DROP")]);
        rules.jump(Table::Filter, "FORWARD", Position::Last, "");
    }

    rules.chain(Table::Nat, DNAT_CHAIN, state.published.iter().map(destination).collect());
    // From the wire never for 127.0.0.0/8: rewriting the destination would rescue a packet that the kernel is about
    // to drop as a martian, and a port published on 127.0.0.1 would be open to the neighbours.
    let from_wire = format!("! -d {LOOPBACK} -m addrtype --dst-type LOCAL ");
    rules.jump(Table::Nat, "PREROUTING", Position::Anywhere, &from_wire);
    rules.jump(Table::Nat, "OUTPUT", Position::Anywhere, "-m addrtype --dst-type LOCAL ");
    rules.chain(Table::Nat, POSTROUTING_CHAIN, postrouting(state));
    rules.jump(Table::Nat, "POSTROUTING", Position::Anywhere, "");
    rules
}

fn raw(state: &FirewallState) -> Vec<String> {
    let (bridge, subnet) = (&state.bridge, state.subnet);
    vec![
        // route_localnet on the bridge, needed for 127.0.0.1 callers, opens the node's own loopback to pods.
        node(&format!("-d {LOOPBACK} -i {bridge}"), "DROP"),
        node(&format!("-d {LINK_LOCAL} -i {bridge}"), "DROP"),
        // Sources that no pod has.
        node(&format!("! -s {subnet} -i {bridge}"), "DROP"),
    ]
}

fn input(state: &FirewallState) -> Vec<String> {
    // Answers only: else pods reach every service that listens on the node.
    vec![node(&format!("-i {} -m conntrack ! --ctstate RELATED,ESTABLISHED", state.bridge), "DROP")]
}

fn forward(state: &FirewallState) -> Vec<String> {
    let bridge = &state.bridge;
    let mut rules: Vec<String> = Vec::new();
    for forbidden in &state.forbidden {
        let port =
            forbidden.tcp_port.map(|port| format!(" -p tcp -m tcp --dport {port}")).unwrap_or_default();
        rules.push(node(&format!("-d {} -i {bridge}{port}", forbidden.network), "DROP"));
    }
    let leaves = match &state.uplink {
        Some(uplink) => format!("-i {bridge} -o {uplink}"),
        None => format!("-i {bridge} ! -o {bridge}"),
    };
    rules.extend([
        node(&format!("-o {bridge} -m conntrack --ctstate RELATED,ESTABLISHED"), "ACCEPT"),
        node(&format!("-i {bridge} -m conntrack --ctstate RELATED,ESTABLISHED"), "ACCEPT"),
        // Pod to pod: seen here because bridged packets pass FORWARD where bridge-nf-call-iptables is on.
        node(&format!("-i {bridge} -o {bridge}"), "ACCEPT"),
        // Through a published port, and not by a route to the pod's address.
        node(&format!("-o {bridge} -m conntrack --ctstate DNAT"), "ACCEPT"),
        node(&leaves, "ACCEPT"),
        // Everything else, whatever the policy of FORWARD.
        node(&format!("-o {bridge}"), "DROP"),
        node(&format!("-i {bridge}"), "DROP"),
    ]);
    rules
}

fn postrouting(state: &FirewallState) -> Vec<String> {
    let (bridge, subnet) = (&state.bridge, state.subnet);
    let leaves = match &state.uplink {
        Some(uplink) => format!("-o {uplink}"),
        None => format!("! -o {bridge}"),
    };
    vec![
        // Callers on 127.0.0.1: a pod cannot answer to that address.
        node(&format!("-s {LOOPBACK} -o {bridge}"), "MASQUERADE"),
        // Hairpin: a pod that calls a pod by the node's port would get its answer from a stranger.
        node(&format!("-s {subnet} -d {subnet} -o {bridge} -m conntrack --ctstate DNAT"), "MASQUERADE"),
        // Egress.
        node(&format!("-s {subnet} {leaves}"), "MASQUERADE"),
    ]
}

fn destination(publish: &Publish) -> String {
    let protocol = match publish.protocol {
        Protocol::Tcp => "tcp",
        Protocol::Udp => "udp",
    };
    let address = publish.host_address.map(|address| format!("-d {address}/32 ")).unwrap_or_default();
    let comment = rule_text::quoted(&publish.owner.mark());
    format!(
        "{address}-p {protocol} -m {protocol} --dport {} -m comment --comment {comment} -j DNAT --to-destination {}",
        publish.host_port, publish.target
    )
}

fn node(condition: &str, verdict: &str) -> String {
    let space = if condition.is_empty() { "" } else { " " };
    format!("{condition}{space}-m comment --comment {} -j {verdict}", rule_text::quoted(NODE_COMMENT))
}
