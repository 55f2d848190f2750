//! The scheduler's state machine.
//!
//! ```text
//!  hello of a node ─▶ NodeSeen to the controller ─▶ its record appears in the state ─▶ Welcome + full set ─▶ deltas
//!  instance without node in the state ─▶ plan ─▶ binding recorded ─▶ appears in the state ─▶ delta to its node
//!  report of a node ─▶ passed up ─▶ acknowledged by the controller ─▶ passed down
//! ```
//! Whatever is lost on the way is made good by the tick: it compares what should be with what is, and says it again.
//!
//! *Assumptions*: inputs of one connection arrive in order; the time never goes backward.
//! *Not here*: transport, clocks, relayed streams (only the request to open one).

mod link;
mod nodes;
mod plan;
mod state;

use std::{collections::BTreeMap, time::Duration};

use proto::{
    link::{FromController, ToController},
    node::{FromNode, Hello, ToNode},
    relay::StreamRequest,
};

pub use state::Time;
use state::{LinkEntry, NodeEntry, State};

/// A node's heartbeat interval; riklets keep to it.
pub const HEARTBEAT: Duration = Duration::from_secs(5);
/// A node that is silent for this long …
pub const SILENCE: Duration = Duration::from_secs(10);
/// … and this much longer, for the road, is unreachable.
pub const GRACE: Duration = Duration::from_secs(5);
/// How often [`Input::Tick`] should come. An instance is placed within this time after a node becomes fit, at worst.
pub const TICK: Duration = Duration::from_millis(500);
/// How long something that was told to a peer may go without effect before it is told again.
const REPEAT: Duration = Duration::from_secs(3);

/// Names one connection; never used twice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Connection(pub u64);

/// What happens to the scheduler.
#[derive(Debug)]
pub enum Input {
    /// A riklet has connected and said who it is.
    NodeConnected(Connection, Hello),
    /// A riklet says something.
    FromNode(Connection, FromNode),
    /// A riklet's connection is gone.
    NodeClosed(Connection),
    /// A controller says something; the first thing is its hello.
    FromController(Connection, FromController),
    /// A controller's connection is gone.
    ControllerClosed(Connection),
    /// A user wants a stream to a node.
    OpenStream {
        /// The node.
        node: String,
        /// Id of the stream.
        stream: String,
        /// What is asked for.
        request: StreamRequest,
    },
    /// Time has passed.
    Tick,
}

/// What the scheduler does.
#[derive(Debug, PartialEq)]
pub enum Output {
    /// Say this to a riklet.
    ToNode(Connection, ToNode),
    /// Close the connection to a riklet, after what was said to it.
    CloseNode(Connection),
    /// Say this to the controller.
    ToController(Connection, ToController),
    /// Close the connection to a controller, after what was said to it.
    CloseController(Connection),
    /// The stream with this id cannot be opened, for this reason.
    StreamRefused(String, String),
}

/// The scheduler.
#[derive(Debug, Default)]
pub struct Scheduler {
    state: State,
    nodes: BTreeMap<String, NodeEntry>,
    sessions: BTreeMap<Connection, String>,
    link: Option<LinkEntry>,
    plans: u64,
}

/// What one input leads to, gathered.
type Outputs = Vec<Output>;

impl Scheduler {
    /// A scheduler that knows nothing yet.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes one input; `now` is the time that has passed since any fixed instant. Call [`Scheduler::decide`] when no
    /// further input is at hand.
    pub fn handle(&mut self, now: Time, input: Input) -> Vec<Output> {
        let mut out = Vec::new();
        match input {
            Input::NodeConnected(connection, hello) => self.node_connected(now, connection, hello, &mut out),
            Input::FromNode(connection, message) => self.node_says(now, connection, message, &mut out),
            Input::NodeClosed(connection) => self.node_closed(connection),
            Input::FromController(connection, message) => {
                self.controller_says(now, connection, message, &mut out)
            }
            Input::ControllerClosed(connection) => self.controller_closed(connection),
            Input::OpenStream { node, stream, request } => self.open_stream(&node, stream, request, &mut out),
            Input::Tick => self.tick(now, &mut out),
        }
        out
    }

    /// Places what waits for a node, if anything does and something has changed since it was last tried.
    pub fn decide(&mut self) -> Vec<Output> {
        let mut out = Vec::new();
        self.make_plan(&mut out);
        out
    }

    fn open_stream(&self, node: &str, stream: String, request: StreamRequest, out: &mut Outputs) {
        let session =
            self.nodes.get(node).and_then(|entry| entry.session.as_ref()).filter(|session| session.welcome);
        match session {
            Some(session) => out.push(Output::ToNode(session.connection, ToNode::Open { stream, request })),
            None => out.push(Output::StreamRefused(stream, "it is not connected at present".to_owned())),
        }
    }

    fn tick(&mut self, now: Time, out: &mut Outputs) {
        let silent = SILENCE + GRACE;
        let quiet: Vec<Connection> = self
            .nodes
            .values()
            .filter_map(|entry| entry.session.as_ref().filter(|session| now.since(session.heard) > silent))
            .map(|session| session.connection)
            .collect();
        for connection in quiet {
            // Half-open: nothing has come for so long that the other side is gone.
            out.push(Output::CloseNode(connection));
            self.node_closed(connection);
        }
        self.tell_controller_about_nodes(now, out);
    }

    fn to_controller(&self, message: ToController, out: &mut Outputs) {
        if let Some(link) = self.link.as_ref().filter(|link| link.synced) {
            out.push(Output::ToController(link.connection, message));
        }
    }
}

#[cfg(test)]
mod tests;
