//! The filters: each looks at one thing, and can say why it refuses.

use model::{
    Kind,
    quantity::{Cpu, Memory},
};

use crate::{Board, Port, Waiting};

/// Why a node cannot take an instance. The order is the order in which the filters look.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Refusal {
    /// It is not heard from.
    NotReady,
    /// It cannot run this kind.
    Kind(Kind),
    /// It does not carry this label.
    Label(String, String),
    /// This local volume is on another node: its name and the node's.
    Volume(String, String),
    /// It takes no more instances.
    Full,
    /// It has too little processor time free: what is free.
    Cpu(Cpu),
    /// It has too little memory free: what is free.
    Memory(Memory),
    /// This port is published already.
    Port(model::Protocol, u16),
    /// A program of the machine listens on this port.
    Listening(model::Protocol, u16),
}

/// The first filter that refuses `instance` on the node at `index`, if one does.
pub(crate) fn refusal(board: &Board<'_>, index: usize, instance: &Waiting<'_>) -> Option<Refusal> {
    let node = &board.nodes[index];
    let free = board.free[index];
    if !node.ready {
        return Some(Refusal::NotReady);
    }
    if !node.kinds.contains(&instance.kind) {
        return Some(Refusal::Kind(instance.kind));
    }
    let missing = instance.selector.iter().find(|(key, value)| node.labels.get(*key) != Some(value));
    if let Some((key, value)) = missing {
        return Some(Refusal::Label(key.clone(), value.clone()));
    }
    let elsewhere = instance.volumes.iter().filter(|volume| !board.has(index, volume));
    for volume in elsewhere {
        if let Some(holder) = board.holder(volume) {
            let holder = board.nodes[holder].name.to_owned();
            return Some(Refusal::Volume((*volume).to_owned(), holder));
        }
    }
    if free.instances == 0 {
        return Some(Refusal::Full);
    }
    if free.cpu < instance.cpu {
        return Some(Refusal::Cpu(free.cpu));
    }
    if free.memory < instance.memory {
        return Some(Refusal::Memory(free.memory));
    }
    let clashes =
        |wanted: &Port| node.ports.iter().chain(&board.taken[index]).any(|taken| taken.clashes(*wanted));
    if let Some(port) = instance.ports.iter().find(|wanted| clashes(wanted)) {
        return Some(Refusal::Port(port.protocol, port.port));
    }
    let listens = |wanted: &Port| node.listening.iter().any(|taken| taken.clashes(*wanted));
    let port = instance.ports.iter().find(|wanted| listens(wanted))?;
    Some(Refusal::Listening(port.protocol, port.port))
}
