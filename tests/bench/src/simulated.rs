//! Nodes without machines: real sessions with the scheduler, and every assignment is carried out at once.
//!
//! They speak the wire's own types and read no specification, so that of the two cores that they share with the
//! control plane as little as possible is theirs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result};
use model::Kind;
use model::node::NodeFacts;
use model::quantity::{Cpu, Memory};
use proto::node::{FromNode, Hello};
use proto::wire::from_node::Message as Said;
use proto::wire::report::Said as Fact;
use proto::wire::session_client::SessionClient;
use proto::wire::to_node::Message as Heard;
use proto::wire::{self, Assigned, Assignment, NodeReports, Report, StatusReport};
use proto::{MAX_MESSAGE_BYTES, PROTOCOL, channel};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use tokio_stream::wrappers::ReceiverStream;

/// How often a node says that it lives, as a riklet does.
const HEARTBEAT: Duration = Duration::from_secs(5);
/// Messages that wait for the wire.
const HELD_MESSAGES: usize = 256;
/// What every instance is reported with: about as much as a riklet tells of a pod with one container.
const FACTS: &str = r#"{"ip":"10.42.1.2","startedAt":"2026-01-01T00:00:00Z","containers":[{"name":"main","phase":"Running","pid":4242,"imageDigest":"sha256:0000000000000000000000000000000000000000000000000000000000000000","startedAt":"2026-01-01T00:00:00Z"}]}"#;

/// Nodes that are connected as long as this lives.
#[derive(Debug)]
pub(crate) struct Nodes(Option<tokio::runtime::Runtime>);

impl Nodes {
    /// Connects `count` nodes, `node-0` and so on, each by a connection of its own.
    ///
    /// # Errors
    /// When the address is none.
    pub(crate) fn connect(scheduler: &str, count: usize) -> Result<Self> {
        let endpoint = channel::endpoint(scheduler).context("failed to read the scheduler's address")?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("failed to start tokio")?;
        for number in 0..count {
            let endpoint = endpoint.clone();
            runtime.spawn(async move {
                if let Err(error) = live(&endpoint, number).await {
                    eprintln!("node-{number} has ended: {error:#}");
                }
            });
        }
        Ok(Self(Some(runtime)))
    }
}

impl Drop for Nodes {
    fn drop(&mut self) {
        if let Some(runtime) = self.0.take() {
            runtime.shutdown_background();
        }
    }
}

fn hello(number: usize) -> FromNode {
    FromNode::Hello(Hello {
        protocol: PROTOCOL,
        name: format!("node-{number}"),
        uid: format!("bench-{number}"),
        facts: NodeFacts {
            address: None,
            architecture: "x86_64".into(),
            os: "none".into(),
            kernel: "none".into(),
            version: env!("CARGO_PKG_VERSION").into(),
            cgroups: "v2".into(),
            user_namespaces: "yes".to_owned(),
            microvms: String::new(),
            runtimes: String::new(),
            kinds: vec![Kind::Pod],
            labels: BTreeMap::new(),
            cpu: Cpu(1_000_000),
            memory: Memory(1 << 44),
            max_instances: 100_000,
        },
        cluster: None,
    })
}

async fn live(endpoint: &tonic::transport::Endpoint, number: usize) -> Result<()> {
    let channel = channel::connect(endpoint).await.context("failed to connect")?;
    let mut client = SessionClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let (send, sending) = mpsc::channel(HELD_MESSAGES);
    send.send(wire::FromNode::from(hello(number))).await?;
    let mut arriving =
        client.connect(ReceiverStream::new(sending)).await.context("failed to begin")?.into_inner();
    let mut heartbeat = tokio::time::interval(HEARTBEAT);
    heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut work = Work::default();
    loop {
        let answer = tokio::select! {
            message = arriving.message() => {
                let Some(message) = message.context("failed to listen")? else { return Ok(()) };
                work.heed(message.message)?
            }
            _ = heartbeat.tick() => Some(Said::Heartbeat(wire::Heartbeat::default())),
        };
        if let Some(answer) = answer {
            send.send(wire::FromNode { message: Some(answer) }).await?;
        }
    }
}

/// What one node has been given and has said.
#[derive(Default)]
struct Work {
    running: BTreeSet<String>,
    /// Reports that are not acknowledged, by uid.
    said: BTreeMap<String, Report>,
}

impl Work {
    fn heed(&mut self, message: Option<Heard>) -> Result<Option<Said>> {
        let reports = match message {
            Some(Heard::Assigned(assigned)) => self.obey(assigned),
            Some(Heard::Acks(acks)) => {
                for ack in acks.acks {
                    if self.said.get(&ack.uid).is_some_and(|report| report.sequence <= ack.sequence) {
                        self.said.remove(&ack.uid);
                    }
                }
                return Ok(None);
            }
            Some(Heard::ReportAll(_)) => self.said.values().cloned().collect(),
            Some(Heard::Refused(why)) => anyhow::bail!("refused: {}", why.message),
            Some(Heard::Welcome(_) | Heard::Open(_)) | None => return Ok(None),
        };
        Ok((!reports.is_empty()).then_some(Said::Reports(NodeReports { reports })))
    }

    fn obey(&mut self, assigned: Assigned) -> Vec<Report> {
        for uid in &assigned.withdrawn {
            self.running.remove(uid);
            self.said.remove(uid);
        }
        assigned.assignments.into_iter().filter_map(|assignment| self.carry_out(assignment)).collect()
    }

    fn carry_out(&mut self, assignment: Assignment) -> Option<Report> {
        let Assignment { id, uid, destroy, .. } = assignment;
        let (sequence, fact) = if destroy {
            self.running.remove(&uid);
            (2, Fact::Gone(true))
        } else if self.running.insert(uid.clone()) {
            (1, Fact::Status(StatusReport { status: wire::Status::Running.into(), facts_json: FACTS.into() }))
        } else {
            return None;
        };
        let report = Report { sequence, id, uid, said: Some(fact) };
        self.said.insert(report.uid.clone(), report.clone());
        Some(report)
    }
}
