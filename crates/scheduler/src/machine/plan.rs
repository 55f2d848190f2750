//! Planning: what waits, the nodes as they are, and what the placement makes of it.

use model::NodeStatus;
use placement::{Node, Room, Waiting};
use proto::link::{Binding, Decisions, ToController, Unplaced};

use super::{Outputs, Scheduler, state::State};

/// Instances that one plan decides about: one transaction of the store holds this many bindings. What is left is
/// decided in the next plan.
const MAX_PLAN: usize = 500;

impl Scheduler {
    pub(super) fn make_plan(&mut self, out: &mut Outputs) {
        loop {
            if !self.link.as_ref().is_some_and(|link| link.synced) {
                return;
            }
            if std::mem::take(&mut self.state.more_room) {
                self.state.left_out.clear();
            }
            let turn: Vec<String> = {
                let state = &self.state;
                let fresh = state.waiting.values().filter(|uid| !state.left_out.contains(*uid));
                fresh.take(MAX_PLAN).cloned().collect()
            };
            if turn.is_empty() {
                return;
            }
            let plan = placement::plan(&self.placement_nodes(), &waiting(&self.state, &turn));
            self.plans += 1;
            let decisions = decisions(&self.state, self.plans, &plan);
            for (uid, node) in &plan.bindings {
                self.state.assume(uid, Some(node));
            }
            self.state.left_out.extend(plan.unplaced.into_iter().map(|(uid, _)| uid));
            if !decisions.bindings.is_empty() || !decisions.unplaced.is_empty() {
                self.to_controller(ToController::Plan(decisions), out);
            }
        }
    }

    fn placement_nodes(&self) -> Vec<Node<'_>> {
        let state = &self.state;
        let nodes = state.records.values().map(|record| {
            let connected = self.nodes.get(&record.name).and_then(|entry| entry.session.as_ref());
            Node {
                name: &record.name,
                ready: record.status == NodeStatus::Ready && connected.is_some_and(|session| session.welcome),
                kinds: &record.facts.kinds,
                labels: &record.facts.labels,
                capacity: Room {
                    cpu: record.facts.cpu,
                    memory: record.facts.memory,
                    instances: record.facts.max_instances,
                },
                used: state.used.get(&record.name).copied().unwrap_or_default(),
                ports: state.ports.get(&record.name).cloned().unwrap_or_default(),
                listening: connected.map_or(&[], |session| session.listening.as_slice()),
                volumes: {
                    let coming = state.volumes.get(&record.name).into_iter().flatten();
                    record.volumes.iter().chain(coming).map(String::as_str).collect()
                },
            }
        });
        nodes.collect()
    }
}

fn waiting<'a>(state: &'a State, turn: &'a [String]) -> Vec<Waiting<'a>> {
    let entries = turn.iter().filter_map(|uid| state.instances.get(uid).map(|entry| (uid, entry)));
    let waiting = entries.map(|(uid, entry)| {
        let room = entry.room();
        Waiting {
            uid,
            kind: entry.placed.kind,
            selector: &entry.placed.spec.node_selector,
            cpu: room.cpu,
            memory: room.memory,
            ports: entry.ports().collect(),
            volumes: entry.volumes().collect(),
        }
    });
    waiting.collect()
}

fn decisions(state: &State, plan: u64, decided: &placement::Plan) -> Decisions {
    let mut decisions = Decisions { plan, ..Decisions::default() };
    for (uid, node) in &decided.bindings {
        if let Some(entry) = state.instances.get(uid) {
            let placed = &entry.placed;
            decisions.bindings.push(Binding {
                id: placed.id.clone(),
                uid: uid.clone(),
                kind: placed.kind,
                revision: placed.revision,
                node: node.clone(),
            });
        }
    }
    for (uid, message) in &decided.unplaced {
        // What is recorded already need not be written again.
        let news = state.instances.get(uid).filter(|entry| entry.placed.unplaced.as_ref() != Some(message));
        if let Some(entry) = news {
            let placed = &entry.placed;
            decisions.unplaced.push(Unplaced {
                id: placed.id.clone(),
                uid: uid.clone(),
                kind: placed.kind,
                revision: placed.revision,
                message: message.clone(),
            });
        }
    }
    decisions
}
