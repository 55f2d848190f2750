//! The agent: compares what is assigned with what is here, and keeps one task for each instance.
//!
//! It outlives its sessions: losing the scheduler changes nothing for what runs. [`Agent::serve`] is one session, from
//! hello to the end of the connection.

mod assigned;

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use daemon::chain;
use futures::future::BoxFuture;
use model::{Clock, NodeMetrics, Revision, node::NodeFacts};
use proto::{
    PROTOCOL,
    node::{Assignment, FromNode, Hello, ToNode},
    relay::StreamRequest,
};
use runtime::{InstanceSpec, Runtime};
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::MissedTickBehavior,
};

use crate::{
    identity::{IdentityError, IdentityFile},
    instance_task::{self, Tools, Wanted},
    reporter::Reporter,
};

/// How often the scheduler hears that this node lives.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Heartbeats between two that carry metrics: the documented 15 seconds.
const HEARTBEATS_PER_METRICS: u32 = 3;
/// How often the runtime may restore what others took away, such as firewall rules.
const HEAL: Duration = Duration::from_secs(5);

/// Makes the runtime once the node knows its addresses.
pub type OpenRuntime =
    Arc<dyn Fn(String) -> BoxFuture<'static, anyhow::Result<Arc<dyn Runtime>>> + Send + Sync>;
/// Measures the machine.
pub type Measure = Box<dyn FnMut() -> NodeMetrics + Send>;

/// What an agent is made of.
pub struct Parts {
    /// Name of the node.
    pub name: String,
    /// What the machine is.
    pub facts: NodeFacts,
    /// Who it is.
    pub identity: IdentityFile,
    /// How to get a runtime.
    pub open_runtime: OpenRuntime,
    /// How to measure the machine.
    pub measure: Measure,
    /// Time of day.
    pub clock: Clock,
}

/// The agent.
pub struct Agent {
    parts: Parts,
    reporter: Reporter,
    runtime: Option<Arc<dyn Runtime>>,
    tasks: BTreeMap<String, Task>,
    healing: Option<JoinHandle<()>>,
    /// Newest revision that was obeyed.
    revision: Revision,
    /// Parts of a full set, until the last one has come.
    parts_of_set: Vec<Assignment>,
}

struct Task {
    id: String,
    wanted: watch::Sender<Wanted>,
    handle: JoinHandle<()>,
}

/// A connection to the scheduler.
#[derive(Debug)]
pub struct Link {
    /// Towards the scheduler.
    pub send: mpsc::Sender<FromNode>,
    /// From the scheduler.
    pub receive: mpsc::Receiver<ToNode>,
}

/// Why a session ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionEnd {
    /// The other side closed it, or it broke.
    #[error("the connection to the scheduler was lost")]
    Lost,
    /// The cluster does not want this node.
    #[error("the cluster refused this node: {0}")]
    Refused(String),
    /// The controller knows less than this node has seen.
    #[error(
        "the controller's state is older than what this node has obeyed ({seen} against {found}); was a backup restored? nothing is changed here; `riklet reset` would start over"
    )]
    Stale {
        /// What this node has seen.
        seen: String,
        /// What the controller is at.
        found: String,
    },
    /// The node cannot run anything.
    #[error("this node cannot run anything: {0}")]
    Runtime(String),
    /// The node's own record cannot be kept.
    #[error("keep the node's own record")]
    Identity(#[source] IdentityError),
}

impl Agent {
    /// An agent; if the node has been here before, it takes up what runs already.
    ///
    /// # Errors
    /// The runtime could not be opened.
    pub async fn open(parts: Parts) -> anyhow::Result<Self> {
        let subnet = parts.identity.get().pod_subnet.clone();
        let mut agent = Self {
            parts,
            reporter: Reporter::default(),
            runtime: None,
            tasks: BTreeMap::new(),
            healing: None,
            revision: Revision::ZERO,
            parts_of_set: Vec::new(),
        };
        if let Some(subnet) = subnet {
            agent.open_runtime(subnet).await?;
        }
        Ok(agent)
    }

    /// Opens the runtime and begins to watch what it finds, without beginning anything.
    async fn open_runtime(&mut self, subnet: String) -> anyhow::Result<()> {
        let runtime = (self.parts.open_runtime)(subnet).await?;
        let found = runtime.list().await?;
        if !found.is_empty() {
            tracing::info!(instances = found.len(), "taking up the instances of an earlier run");
        }
        self.runtime = Some(runtime.clone());
        for spec in found {
            let history = model::lifecycle::History::Begun;
            self.begin(spec, Wanted { desired: None, history, assigned: true, given: None });
        }
        // Ends with the agent.
        self.healing = Some(tokio::spawn(async move {
            let mut interval = tokio::time::interval(HEAL);
            interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                interval.tick().await;
                if let Err(error) = runtime.heal().await {
                    tracing::warn!(error = error.sentence(), "could not restore what the instances need");
                }
            }
        }));
        Ok(())
    }

    /// Serves one session until it ends. `open_stream` is called for each stream that a user wants.
    pub async fn serve(&mut self, mut link: Link, open_stream: impl Fn(String, StreamRequest)) -> SessionEnd {
        if link.send.send(FromNode::Hello(self.hello())).await.is_err() {
            return SessionEnd::Lost;
        }
        self.parts_of_set.clear();
        let mut welcome = false;
        let mut beats = 0_u32;
        let mut heartbeat = tokio::time::interval(HEARTBEAT);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let reporter = self.reporter.clone();
        loop {
            // Receiving, ticking and waiting for reports are all cancel-safe.
            let said = tokio::select! {
                biased;
                message = link.receive.recv() => {
                    let Some(message) = message else { return SessionEnd::Lost };
                    match self.heed(message, &mut welcome, &open_stream).await {
                        Ok(()) => continue,
                        Err(end) => return end,
                    }
                }
                _ = heartbeat.tick() => {
                    let metrics = beats.is_multiple_of(HEARTBEATS_PER_METRICS).then(|| (self.parts.measure)());
                    beats = beats.wrapping_add(1);
                    FromNode::Heartbeat(metrics)
                }
                () = reporter.due(), if welcome => {
                    let reports = reporter.take();
                    if reports.is_empty() { continue }
                    FromNode::Reports(reports)
                }
            };
            if link.send.send(said).await.is_err() {
                return SessionEnd::Lost;
            }
        }
    }

    fn hello(&self) -> Hello {
        let identity = self.parts.identity.get();
        // A node on which nothing is left of its old cluster may join another.
        let bound = !self.tasks.is_empty();
        Hello {
            protocol: PROTOCOL,
            name: self.parts.name.clone(),
            uid: identity.uid.clone(),
            facts: self.parts.facts.clone(),
            cluster: identity.cluster.clone().filter(|_| bound),
        }
    }

    async fn heed(
        &mut self,
        message: ToNode,
        welcome: &mut bool,
        open_stream: &impl Fn(String, StreamRequest),
    ) -> Result<(), SessionEnd> {
        match message {
            ToNode::Refused(why) => return Err(SessionEnd::Refused(why)),
            ToNode::Welcome { cluster, pod_subnet } => {
                self.join(cluster, pod_subnet).await?;
                *welcome = true;
            }
            ToNode::Assigned(assigned) => self.obey(assigned)?,
            ToNode::Acks(acks) => self.reporter.acknowledge(&acks),
            ToNode::ReportAll => self.reporter.repeat_all(),
            ToNode::Open { stream, request } => open_stream(stream, request),
        }
        Ok(())
    }

    /// Joins the cluster, which gives the node its addresses.
    async fn join(&mut self, cluster: String, pod_subnet: String) -> Result<(), SessionEnd> {
        let identity = self.parts.identity.get().clone();
        if identity.cluster.as_ref() != Some(&cluster) {
            tracing::info!(cluster.id = cluster, subnet = pod_subnet, "joined the cluster");
            self.revision = Revision::ZERO;
        }
        let same_cluster = identity.cluster.as_ref() == Some(&cluster);
        let changed = self.parts.identity.change(|record| {
            if !same_cluster {
                record.epoch = proto::Epoch(0);
            }
            record.cluster = Some(cluster);
            record.pod_subnet = Some(pod_subnet.clone());
        });
        changed.map_err(SessionEnd::Identity)?;
        if self.runtime.is_some() && identity.pod_subnet.as_ref() != Some(&pod_subnet) {
            let why =
                format!("its addresses changed to {pod_subnet}; start the riklet again to take them over");
            return Err(SessionEnd::Runtime(why));
        }
        if self.runtime.is_none() {
            let opened = self.open_runtime(pod_subnet).await;
            opened.map_err(|error| SessionEnd::Runtime(chain(&*error)))?;
        }
        Ok(())
    }

    fn begin(&mut self, spec: InstanceSpec, wanted: Wanted) {
        let Some(runtime) = self.runtime.clone() else { return };
        let tools = Tools { runtime, reporter: self.reporter.clone(), clock: self.parts.clock.clone() };
        let (sender, receiver) = watch::channel(wanted);
        let (id, uid) = (spec.id.clone(), spec.uid.clone());
        let handle = tokio::spawn(instance_task::run(tools, spec, receiver));
        self.tasks.insert(uid, Task { id, wanted: sender, handle });
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        // Instances go on; only the watching ends.
        for task in self.tasks.values() {
            task.handle.abort();
        }
        if let Some(healing) = &self.healing {
            healing.abort();
        }
    }
}
