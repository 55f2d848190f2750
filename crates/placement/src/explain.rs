//! Explaining: why nobody takes an instance, one sentence for each group of nodes.

use std::collections::BTreeMap;

use crate::{
    Board, Waiting,
    filter::{Refusal, refusal},
};

/// The sentence for a person: `2 nodes: needs 512Mi of memory, at most 300Mi is free; 1 node: is not heard from`.
pub(crate) fn explain(board: &Board<'_>, instance: &Waiting<'_>) -> String {
    if board.nodes.is_empty() {
        return "there is no node yet; start a riklet".to_owned();
    }
    // Amounts differ from node to node; they are one group, which names the nearest miss.
    let mut groups: BTreeMap<Refusal, (usize, Refusal)> = BTreeMap::new();
    for index in 0..board.nodes.len() {
        let Some(refusal) = refusal(board, index, instance) else { continue };
        let group = match &refusal {
            Refusal::Cpu(_) => Refusal::Cpu(model::quantity::Cpu(0)),
            Refusal::Memory(_) => Refusal::Memory(model::quantity::Memory(0)),
            Refusal::NotReady
            | Refusal::Kind(_)
            | Refusal::Label(..)
            | Refusal::Volume(..)
            | Refusal::Full
            | Refusal::Port(..)
            | Refusal::Listening(..) => refusal.clone(),
        };
        let entry = groups.entry(group).or_insert((0, refusal.clone()));
        entry.0 += 1;
        entry.1 = entry.1.clone().max(refusal);
    }
    let sentences = groups.into_values().map(|(count, refusal)| {
        let nodes = if count == 1 { "node" } else { "nodes" };
        format!("{count} {nodes}: {}", sentence(&refusal, instance))
    });
    sentences.collect::<Vec<_>>().join("; ")
}

fn sentence(refusal: &Refusal, instance: &Waiting<'_>) -> String {
    match refusal {
        Refusal::NotReady => "not heard from".to_owned(),
        Refusal::Kind(kind) => format!("cannot run a {kind}"),
        Refusal::Label(key, value) => format!("without the label {key}={value}"),
        Refusal::Volume(volume, node) => format!("volume {volume:?} is on node {node}"),
        Refusal::Full => "takes no more instances".to_owned(),
        Refusal::Cpu(free) => format!("needs {} cpu, at most {free} is free", instance.cpu),
        Refusal::Memory(free) => {
            format!("needs {} of memory, at most {} is free", instance.memory, rounded(*free))
        }
        Refusal::Port(protocol, port) => format!("{protocol} port {port} is taken"),
        Refusal::Listening(protocol, port) => {
            format!("a program of the machine listens on {protocol} port {port}")
        }
    }
}

/// Free memory as a person reads it: whole mebibytes, rounded down.
fn rounded(free: model::quantity::Memory) -> model::quantity::Memory {
    const MEBI: u64 = 1 << 20;
    if free.0 >= MEBI { model::quantity::Memory(free.0 / MEBI * MEBI) } else { free }
}
