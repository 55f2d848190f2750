//! The nodes' side: who is connected, who is heard from, who may take part.

use model::NodeStatus;
use placement::Port;
use proto::{
    PROTOCOL,
    link::ToController,
    node::{FromNode, Hello, ToNode},
};

use super::{
    Connection, GRACE, Output, Outputs, REPEAT, SILENCE, Scheduler,
    state::{NodeEntry, Session, Time},
};

impl Scheduler {
    pub(super) fn node_connected(
        &mut self,
        now: Time,
        connection: Connection,
        hello: Hello,
        out: &mut Outputs,
    ) {
        let refuse = |why: String, out: &mut Outputs| {
            out.push(Output::ToNode(connection, ToNode::Refused(why)));
            out.push(Output::CloseNode(connection));
        };
        if hello.protocol != PROTOCOL {
            let found = hello.protocol;
            return refuse(
                format!("it speaks version {found} of the protocol, this scheduler speaks {PROTOCOL}"),
                out,
            );
        }
        if hello.name.is_empty() {
            return refuse("it has no name; give --node-name".to_owned(), out);
        }
        if let Some((own, ours)) = self.foreign_cluster(&hello) {
            let why = format!(
                "it belongs to cluster {own}, this is cluster {ours}; end what it runs with `riklet reset` to let it join"
            );
            return refuse(why, out);
        }
        let other = self.nodes.get(&hello.name).and_then(|entry| entry.session.as_ref());
        if let Some(other) = other {
            if other.hello.uid != hello.uid {
                let name = &hello.name;
                return refuse(
                    format!("another machine is connected as {name:?}; give this one another --node-name"),
                    out,
                );
            }
            // The same riklet again: its old connection is dead, whether we have noticed or not.
            let old = other.connection;
            out.push(Output::CloseNode(old));
            self.sessions.remove(&old);
        }
        self.sessions.insert(connection, hello.name.clone());
        let entry = self.nodes.entry(hello.name.clone()).or_default();
        entry.heard = now;
        entry.told = None;
        entry.session = Some(Session {
            connection,
            hello,
            heard: now,
            welcome: false,
            listening: Vec::new(),
            metrics: None,
        });
        self.tell_controller_about_nodes(now, out);
        // A node that comes back before it was missed has its record already.
        self.welcome_nodes(out);
    }

    /// The node's cluster and ours, if they differ. A node that runs nothing belongs to no cluster.
    fn foreign_cluster(&self, hello: &Hello) -> Option<(String, String)> {
        let ours = &self.link.as_ref()?.cluster;
        let own = hello.cluster.as_ref().filter(|own| *own != ours)?;
        Some((own.clone(), ours.clone()))
    }

    pub(super) fn node_says(
        &mut self,
        now: Time,
        connection: Connection,
        message: FromNode,
        out: &mut Outputs,
    ) {
        let Some(name) = self.sessions.get(&connection).cloned() else { return };
        let Some(entry) = self.nodes.get_mut(&name) else { return };
        entry.heard = now;
        if let Some(session) = &mut entry.session {
            session.heard = now;
        }
        match message {
            FromNode::Hello(_) => {}
            FromNode::Heartbeat(metrics) => {
                if let (Some(metrics), Some(session)) = (&metrics, &mut entry.session) {
                    session.metrics = Some(metrics.clone());
                    let listening = metrics.listening.iter().map(Port::from).collect();
                    if session.listening != listening {
                        session.listening = listening;
                        // One that was in the way may be gone.
                        self.state.more_room = true;
                    }
                }
                self.to_controller(ToController::NodeHeard { name, metrics }, out)
            }
            FromNode::Reports(reports) => {
                self.to_controller(ToController::Reports { node: name, reports }, out)
            }
        }
    }

    pub(super) fn node_closed(&mut self, connection: Connection) {
        let Some(name) = self.sessions.remove(&connection) else { return };
        if let Some(entry) = self.nodes.get_mut(&name)
            && entry.session.as_ref().is_some_and(|session| session.connection == connection)
        {
            entry.session = None;
        }
    }

    pub(super) fn refuse_node(&mut self, name: &str, uid: &str, why: String, out: &mut Outputs) {
        let session = self.nodes.get(name).and_then(|entry| entry.session.as_ref());
        if let Some(connection) =
            session.filter(|session| session.hello.uid == uid).map(|session| session.connection)
        {
            out.push(Output::ToNode(connection, ToNode::Refused(why)));
            out.push(Output::CloseNode(connection));
            self.node_closed(connection);
        }
    }

    /// Compares what the controller has recorded of each node with what is seen of it, and tells it the difference.
    pub(super) fn tell_controller_about_nodes(&mut self, now: Time, out: &mut Outputs) {
        let Some(link) = self.link.as_ref().filter(|link| link.synced) else { return };
        for (name, entry) in &mut self.nodes {
            if entry.told.is_some_and(|told| now.since(told) < REPEAT) {
                continue;
            }
            let record = self.state.records.get(name);
            let message = match (&entry.session, record) {
                (Some(session), record) => {
                    let known = record.is_some_and(|record| {
                        record.status == NodeStatus::Ready
                            && record.uid == session.hello.uid
                            && record.facts == session.hello.facts
                    });
                    // A fresh session is announced even if nothing has changed, so that what was said of its
                    // instances while it was away is taken back.
                    let news = !known || entry.told.is_none();
                    news.then(|| ToController::NodeSeen {
                        name: name.clone(),
                        uid: session.hello.uid.clone(),
                        facts: session.hello.facts.clone(),
                    })
                }
                (None, Some(record)) => {
                    let lost = record.status == NodeStatus::Ready && now.since(entry.heard) > SILENCE + GRACE;
                    lost.then(|| ToController::NodeLost { name: name.clone(), uid: record.uid.clone() })
                }
                (None, None) => None,
            };
            if let Some(message) = message {
                entry.told = Some(now);
                out.push(Output::ToController(link.connection, message));
            }
        }
        self.nodes.retain(|name, entry| entry.session.is_some() || self.state.records.contains_key(name));
    }

    /// Welcomes every connected node that the controller has recorded as it is.
    pub(super) fn welcome_nodes(&mut self, out: &mut Outputs) {
        let Some(link) = self.link.as_ref().filter(|link| link.synced) else { return };
        let mut welcomed = Vec::new();
        for (name, entry) in &mut self.nodes {
            let Some(record) = self.state.records.get(name) else { continue };
            let foreign = |own: &String| *own != link.cluster;
            if entry
                .session
                .as_ref()
                .is_some_and(|session| session.hello.cluster.as_ref().is_some_and(foreign))
            {
                continue;
            }
            if let Some(connection) = welcome(entry, record) {
                out.push(Output::ToNode(
                    connection,
                    ToNode::Welcome { cluster: link.cluster.clone(), pod_subnet: record.pod_subnet.clone() },
                ));
                welcomed.push((name.clone(), connection));
            }
        }
        for (name, connection) in welcomed {
            self.state.more_room = true;
            self.send_full_set(&name, connection, out);
            out.push(Output::ToNode(connection, ToNode::ReportAll));
        }
    }
}

/// Marks the node's session as welcome if its record says that it takes part.
fn welcome(entry: &mut NodeEntry, record: &model::Node) -> Option<Connection> {
    let session = entry.session.as_mut()?;
    let admitted = record.status == NodeStatus::Ready && record.uid == session.hello.uid;
    let news = admitted && !session.welcome;
    session.welcome |= admitted;
    news.then_some(session.connection)
}
