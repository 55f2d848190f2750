//! The controller's side: its state arrives, and what it has recorded goes on to the nodes.

use std::collections::BTreeMap;

use model::{Node, Status, lifecycle::Desired};
use proto::{
    PART_BYTES, PROTOCOL,
    link::{FromController, Placed, ToController},
    node::{Assigned, Assignment, ToNode},
};

use super::{
    Connection, Output, Outputs, Scheduler,
    state::{LinkEntry, State, Time},
};

impl Scheduler {
    pub(super) fn controller_says(
        &mut self,
        now: Time,
        connection: Connection,
        message: FromController,
        out: &mut Outputs,
    ) {
        if let FromController::Hello { protocol, cluster, epoch } = message {
            let entry = LinkEntry { connection, cluster, epoch, synced: false, parts: Default::default() };
            return self.controller_connected(entry, protocol, out);
        }
        // What an earlier connection had still to say is of no interest.
        let Some(link) = self.link.as_mut().filter(|link| link.connection == connection) else { return };
        match message {
            FromController::Hello { .. } => {}
            FromController::Snapshot { revision, more, nodes, instances } => {
                link.parts.0.extend(nodes);
                link.parts.1.extend(instances);
                if !more {
                    let parts = std::mem::take(&mut link.parts);
                    link.synced = true;
                    self.state.revision = revision;
                    self.begin_with(now, parts, out);
                }
            }
            FromController::Changes { revision, nodes, gone_nodes, instances, gone_instances } => {
                self.state.revision = revision;
                self.records_changed(now, nodes, &gone_nodes, out);
                self.instances_changed(instances, &gone_instances, out);
            }
            FromController::PlanResult { refused, .. } => {
                for uid in refused {
                    self.state.assume(&uid, None);
                    self.state.left_out.remove(&uid);
                }
            }
            FromController::Acks { node, acks } => {
                if let Some(session) = self.nodes.get(&node).and_then(|entry| entry.session.as_ref()) {
                    out.push(Output::ToNode(session.connection, ToNode::Acks(acks)));
                }
            }
            FromController::NodeRefused { name, uid, message } => self.refuse_node(&name, &uid, message, out),
        }
    }

    fn controller_connected(&mut self, entry: LinkEntry, protocol: u32, out: &mut Outputs) {
        let connection = entry.connection;
        let refuse = |why: String, out: &mut Outputs| {
            out.push(Output::ToController(connection, ToController::Refused(why)));
            out.push(Output::CloseController(connection));
        };
        if protocol != PROTOCOL {
            let why =
                format!("it speaks version {protocol} of the protocol, this scheduler speaks {PROTOCOL}");
            return refuse(why, out);
        }
        if let Some(old) = &self.link {
            if old.cluster != entry.cluster {
                return refuse(format!("this scheduler serves cluster {} already", old.cluster), out);
            }
            if old.epoch > entry.epoch {
                return refuse("a newer controller of this cluster is connected".to_owned(), out);
            }
            out.push(Output::CloseController(old.connection));
        }
        self.link = Some(entry);
    }

    pub(super) fn controller_closed(&mut self, connection: Connection) {
        if self.link.as_ref().is_some_and(|link| link.connection == connection) {
            self.link = None;
        }
    }

    /// The whole state has arrived: it replaces everything, and every node gets its full set.
    fn begin_with(&mut self, now: Time, (nodes, instances): (Vec<Node>, Vec<Placed>), out: &mut Outputs) {
        self.state = State { revision: self.state.revision, more_room: true, ..State::default() };
        for placed in instances {
            self.state.upsert(placed);
        }
        for node in &nodes {
            // A node is given the usual time to be heard from, counted from now if it is not connected.
            self.nodes
                .entry(node.name.clone())
                .or_insert_with(|| super::NodeEntry { heard: now, ..Default::default() });
        }
        self.state.records = nodes.into_iter().map(|node| (node.name.clone(), node)).collect();
        for entry in self.nodes.values_mut() {
            entry.told = None;
            if let Some(session) = &mut entry.session {
                session.welcome = false;
            }
        }
        self.tell_controller_about_nodes(now, out);
        for (name, entry) in &self.nodes {
            if let Some(metrics) = entry.session.as_ref().and_then(|session| session.metrics.clone()) {
                self.to_controller(
                    ToController::NodeHeard { name: name.clone(), metrics: Some(metrics) },
                    out,
                );
            }
        }
        self.welcome_nodes(out);
    }

    fn records_changed(&mut self, now: Time, nodes: Vec<Node>, gone: &[String], out: &mut Outputs) {
        if nodes.is_empty() && gone.is_empty() {
            return;
        }
        for name in gone {
            self.state.records.remove(name);
            if self.nodes.get(name).is_some_and(|entry| entry.session.is_none()) {
                self.nodes.remove(name);
            }
        }
        for node in nodes {
            let entry = self.nodes.entry(node.name.clone());
            entry.or_insert_with(|| super::NodeEntry { heard: now, ..Default::default() });
            self.state.records.insert(node.name.clone(), node);
        }
        self.state.more_room = true;
        self.welcome_nodes(out);
    }

    fn instances_changed(&mut self, instances: Vec<Placed>, gone: &[String], out: &mut Outputs) {
        let mut changed: BTreeMap<String, (Vec<Assignment>, Vec<String>)> = BTreeMap::new();
        for uid in gone {
            if let Some(node) = self.state.remove(uid).and_then(|old| old.node) {
                changed.entry(node).or_default().1.push(uid.clone());
            }
        }
        for placed in instances {
            let now_assigned = assignment(&placed);
            let node = placed.node.clone();
            let old = self.state.upsert(placed);
            // A node is told what it has to do and what it needs for that, not what it has itself reported.
            let same = |old: &Placed| {
                old.node == node
                    && assignment(old).desired == now_assigned.desired
                    && (now_assigned.given.is_none() || old.given == now_assigned.given)
            };
            if let Some(node) = node.clone().filter(|_| !old.as_ref().is_some_and(same)) {
                changed.entry(node).or_default().0.push(now_assigned);
            }
        }
        for (node, (assignments, withdrawn)) in changed {
            let session = self.nodes.get(&node).and_then(|entry| entry.session.as_ref());
            if let (Some(session), Some(link)) = (session.filter(|session| session.welcome), &self.link) {
                let mut parts = parts(assignments);
                if let Some(last) = parts.last_mut() {
                    last.1 = withdrawn;
                }
                for (assignments, withdrawn) in parts {
                    let assigned = Assigned {
                        epoch: link.epoch,
                        revision: self.state.revision,
                        full: false,
                        more: false,
                        assignments,
                        withdrawn,
                    };
                    out.push(Output::ToNode(session.connection, ToNode::Assigned(assigned)));
                }
            }
        }
    }

    /// Sends a node everything that it is assigned.
    pub(super) fn send_full_set(&self, node: &str, connection: Connection, out: &mut Outputs) {
        let Some(link) = &self.link else { return };
        let parts = parts(self.state.assigned(node).map(assignment).collect());
        let last = parts.len() - 1;
        for (index, (assignments, _)) in parts.into_iter().enumerate() {
            let assigned = Assigned {
                epoch: link.epoch,
                revision: self.state.revision,
                full: true,
                more: index < last,
                assignments,
                withdrawn: Vec::new(),
            };
            out.push(Output::ToNode(connection, ToNode::Assigned(assigned)));
        }
    }
}

fn assignment(placed: &Placed) -> Assignment {
    let desired = if placed.status == Status::Destroying { Desired::Destroy } else { Desired::Run };
    Assignment {
        id: placed.id.clone(),
        uid: placed.uid.clone(),
        kind: placed.kind,
        spec: placed.spec.clone(),
        desired,
        recorded: placed.status,
        given: placed.given.clone(),
    }
}

/// Assignments cut into parts that fit a message; at least one part.
fn parts(assignments: Vec<Assignment>) -> Vec<(Vec<Assignment>, Vec<String>)> {
    let mut parts = vec![(Vec::new(), Vec::new())];
    let mut bytes = 0;
    for assignment in assignments {
        let given = assignment.given.as_ref().map_or(0, |given| given.bytes());
        let size = assignment.spec.all_containers().map(weight).sum::<usize>() + given + 512;
        if bytes + size > PART_BYTES {
            parts.push((Vec::new(), Vec::new()));
            bytes = 0;
        }
        bytes += size;
        if let Some((part, _)) = parts.last_mut() {
            part.push(assignment);
        }
    }
    parts
}

/// About how many bytes a container takes on the wire.
fn weight(container: &model::ContainerSpec) -> usize {
    let words = container.command.iter().chain(&container.args).map(String::len).sum::<usize>();
    words + container.env.iter().map(|var| var.name.len() + var.value.len()).sum::<usize>() + 256
}
