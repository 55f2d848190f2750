//! The engine: the one task that owns the scheduler's state machine.
//!
//! Inputs come through one queue; outputs go to the queue of their connection. The engine never waits for a peer.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use proto::{
    link::{FromController, ToController},
    node::{FromNode, Hello, ToNode},
    relay::StreamRequest,
};
use tokio::{
    sync::{mpsc, oneshot},
    time::{Instant, MissedTickBehavior},
};

use crate::machine::{Connection, Input, Output, Scheduler, TICK, Time};

/// Inputs that wait for the engine: a burst of a thousand nodes that report at once. Whoever finds the queue full
/// waits, and so does the peer behind it.
const HELD_INPUTS: usize = 4_096;
/// Inputs that are taken before a plan is made: enough to plan for a whole burst at once, few enough that a plan is
/// never far away.
const INPUTS_BEFORE_PLAN: usize = 512;
/// Messages that wait for one peer. More means that it cannot keep up.
pub const HELD_OUTPUTS: usize = 1_024;

/// What is put into the engine's queue.
enum Event {
    Input(Input),
    Node(Connection, Hello, mpsc::Sender<ToNode>),
    Controller(Connection, mpsc::Sender<ToController>),
    Stream { node: String, stream: String, request: StreamRequest, refused: oneshot::Sender<String> },
}

/// The engine.
pub struct Engine {
    inbox: mpsc::Receiver<Event>,
    scheduler: Scheduler,
    began: Instant,
    nodes: BTreeMap<Connection, mpsc::Sender<ToNode>>,
    controllers: BTreeMap<Connection, mpsc::Sender<ToController>>,
    streams: BTreeMap<String, oneshot::Sender<String>>,
}

/// The way into the engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    inbox: mpsc::Sender<Event>,
    connections: Arc<AtomicU64>,
}

/// A connection as the engine sees it. Say [`Handle::node_closed`] or [`Handle::controller_closed`] at its end.
#[derive(Debug)]
pub struct Connected<T> {
    /// Its name.
    pub connection: Connection,
    /// What the engine says; closed when the engine wants the connection closed.
    pub outgoing: mpsc::Receiver<T>,
}

/// The engine is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the scheduler is shutting down")]
pub struct Gone;

impl Engine {
    /// An engine that knows nothing yet, and the way into it.
    #[must_use]
    pub fn new() -> (Self, Handle) {
        let (sender, inbox) = mpsc::channel(HELD_INPUTS);
        let engine = Self {
            inbox,
            scheduler: Scheduler::new(),
            began: Instant::now(),
            nodes: BTreeMap::new(),
            controllers: BTreeMap::new(),
            streams: BTreeMap::new(),
        };
        (engine, Handle { inbox: sender, connections: Arc::default() })
    }

    /// Runs until every handle is gone.
    pub async fn run(mut self) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                event = self.inbox.recv() => match event {
                    Some(event) => self.take(event),
                    None => return,
                },
                _ = tick.tick() => self.input(Input::Tick),
            }
            for _ in 0..INPUTS_BEFORE_PLAN {
                match self.inbox.try_recv() {
                    Ok(event) => self.take(event),
                    Err(_) => break,
                }
            }
            let outputs = self.scheduler.decide();
            self.carry_out(outputs);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::Input(input) => self.input(input),
            Event::Node(connection, hello, outgoing) => {
                self.nodes.insert(connection, outgoing);
                self.input(Input::NodeConnected(connection, hello));
            }
            Event::Controller(connection, outgoing) => {
                self.controllers.insert(connection, outgoing);
            }
            Event::Stream { node, stream, request, refused } => {
                // Streams that were taken are of no more interest here.
                self.streams.retain(|_, waiting| !waiting.is_closed());
                self.streams.insert(stream.clone(), refused);
                self.input(Input::OpenStream { node, stream, request });
            }
        }
    }

    fn input(&mut self, input: Input) {
        match &input {
            Input::NodeClosed(connection) => drop(self.nodes.remove(connection)),
            Input::ControllerClosed(connection) => drop(self.controllers.remove(connection)),
            Input::NodeConnected(..)
            | Input::FromNode(..)
            | Input::FromController(..)
            | Input::OpenStream { .. }
            | Input::Tick => {}
        }
        let now = Time(self.began.elapsed());
        let outputs = self.scheduler.handle(now, input);
        self.carry_out(outputs);
    }

    fn carry_out(&mut self, outputs: Vec<Output>) {
        for output in outputs {
            match output {
                Output::ToNode(connection, message) => {
                    let full = self.nodes.get(&connection).is_some_and(|out| out.try_send(message).is_err());
                    if full && self.nodes.remove(&connection).is_some() {
                        tracing::warn!(
                            connection = connection.0,
                            "a node cannot keep up; it has to connect again"
                        );
                        self.input(Input::NodeClosed(connection));
                    }
                }
                Output::ToController(connection, message) => {
                    let full =
                        self.controllers.get(&connection).is_some_and(|out| out.try_send(message).is_err());
                    if full && self.controllers.remove(&connection).is_some() {
                        tracing::warn!(
                            connection = connection.0,
                            "the controller cannot keep up; it has to connect again"
                        );
                        self.input(Input::ControllerClosed(connection));
                    }
                }
                Output::CloseNode(connection) => drop(self.nodes.remove(&connection)),
                Output::CloseController(connection) => drop(self.controllers.remove(&connection)),
                Output::StreamRefused(stream, why) => {
                    if let Some(refused) = self.streams.remove(&stream) {
                        // Nobody listens any more if the user has gone.
                        let _ = refused.send(why);
                    }
                }
            }
        }
    }
}

impl Handle {
    /// A riklet has connected and said who it is.
    ///
    /// # Errors
    /// The engine is gone.
    pub async fn node_connected(&self, hello: Hello) -> Result<Connected<ToNode>, Gone> {
        let connection = self.next();
        let (sender, outgoing) = mpsc::channel(HELD_OUTPUTS);
        self.send(Event::Node(connection, hello, sender)).await?;
        Ok(Connected { connection, outgoing })
    }

    /// A controller has connected.
    ///
    /// # Errors
    /// The engine is gone.
    pub async fn controller_connected(&self) -> Result<Connected<ToController>, Gone> {
        let connection = self.next();
        let (sender, outgoing) = mpsc::channel(HELD_OUTPUTS);
        self.send(Event::Controller(connection, sender)).await?;
        Ok(Connected { connection, outgoing })
    }

    /// A riklet says something.
    ///
    /// # Errors
    /// The engine is gone.
    pub async fn from_node(&self, connection: Connection, message: FromNode) -> Result<(), Gone> {
        self.send(Event::Input(Input::FromNode(connection, message))).await
    }

    /// A controller says something.
    ///
    /// # Errors
    /// The engine is gone.
    pub async fn from_controller(&self, connection: Connection, message: FromController) -> Result<(), Gone> {
        self.send(Event::Input(Input::FromController(connection, message))).await
    }

    /// A riklet's connection is gone.
    pub async fn node_closed(&self, connection: Connection) {
        // If the engine is gone, so is the connection.
        let _ = self.send(Event::Input(Input::NodeClosed(connection))).await;
    }

    /// A controller's connection is gone.
    pub async fn controller_closed(&self, connection: Connection) {
        let _ = self.send(Event::Input(Input::ControllerClosed(connection))).await;
    }

    /// A user wants a stream to a node. The answer comes only if that is refused.
    ///
    /// # Errors
    /// The engine is gone.
    pub async fn open_stream(
        &self,
        node: String,
        stream: String,
        request: StreamRequest,
    ) -> Result<oneshot::Receiver<String>, Gone> {
        let (refused, answer) = oneshot::channel();
        self.send(Event::Stream { node, stream, request, refused }).await?;
        Ok(answer)
    }

    fn next(&self) -> Connection {
        Connection(self.connections.fetch_add(1, Ordering::Relaxed))
    }

    async fn send(&self, event: Event) -> Result<(), Gone> {
        self.inbox.send(event).await.map_err(|_| Gone)
    }
}
