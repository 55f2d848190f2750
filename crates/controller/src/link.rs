//! The link to the scheduler: state down, plans and reports up.
//!
//! ```text
//!  connected ─▶ hello ─▶ snapshot at revision R, in parts ─▶ every change after R
//!            ◀─ plans (committed or refused) ─ reports (recorded, acknowledged) ─ nodes seen, heard, lost
//! ```
//! One task serves one connection. It never waits for a commit: those run beside it, one at a time for each node, so
//! that a node's reports are recorded in the order in which they were made, and a busy node delays no other.
//!
//! *Guarantee*: losing the connection at any instant loses nothing: whatever was not acknowledged is sent again, and
//! the snapshot of the next connection replaces whatever the scheduler thought it knew.

pub mod dial;

use std::{collections::BTreeMap, sync::Arc};

use daemon::chain;
use futures::{StreamExt, future::BoxFuture, stream::FuturesUnordered};
use model::{Instance, Node, Reason, Revision, Status, api::Versioned, given, key};
use proto::{
    PART_BYTES, PROTOCOL,
    link::{FromController, Placed, ToController},
    node::{Ack, Numbered},
};
use store::{Change, Op, WatchError};
use tokio::sync::mpsc;

use crate::cluster::{Cluster, ClusterError};

/// A connection to the scheduler.
#[derive(Debug)]
pub struct Link {
    /// Towards the scheduler.
    pub send: mpsc::Sender<FromController>,
    /// From the scheduler.
    pub receive: mpsc::Receiver<ToController>,
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum LinkEnd {
    /// The other side closed it, or it broke.
    #[error("the connection to the scheduler was lost")]
    Lost,
    /// The scheduler does not want us.
    #[error("the scheduler refused this controller: {0}")]
    Refused(String),
    /// The store could not be followed.
    #[error("follow the store for the scheduler")]
    Watch(#[source] WatchError),
}

/// What runs beside the task that serves the connection.
enum Done {
    Plan { plan: u64, uids: Vec<String>, refused: Result<Vec<String>, ClusterError> },
    Lane { node: String, answers: Vec<FromController> },
}

/// Work about one node, in order.
enum Work {
    Seen { uid: String, facts: Box<model::node::NodeFacts> },
    Lost { uid: String },
    Reports(Vec<Numbered>),
}

/// Serves one connection until it ends.
pub async fn serve(cluster: &Cluster, mut link: Link) -> LinkEnd {
    let identity = cluster.identity();
    let hello = FromController::Hello {
        protocol: PROTOCOL,
        cluster: identity.cluster.clone(),
        epoch: identity.epoch,
    };
    if link.send.send(hello).await.is_err() {
        return LinkEnd::Lost;
    }
    let (revision, parts) = snapshot(cluster);
    let early = |placed: &Placed| matches!(placed.status, Status::Pending | Status::Creating);
    let waiting: Vec<Placed> = parts.iter().flat_map(|part| needy(part, early)).collect();
    for part in parts {
        if link.send.send(part).await.is_err() {
            return LinkEnd::Lost;
        }
    }
    if let Err(end) = give(cluster, &link, revision, waiting).await {
        return end;
    }
    let mut watch = match cluster.store().watch("", revision).await {
        Ok(watch) => watch,
        Err(error) => return LinkEnd::Watch(error),
    };
    let mut lanes = Lanes { cluster, waiting: BTreeMap::new(), running: FuturesUnordered::new() };
    loop {
        // Both receiving and watching are cancel-safe, and the lanes keep their futures.
        tokio::select! {
            biased;
            Some(done) = lanes.running.next(), if !lanes.running.is_empty() => {
                for answer in lanes.finished(done) {
                    if link.send.send(answer).await.is_err() {
                        return LinkEnd::Lost;
                    }
                }
            }
            message = link.receive.recv() => match message {
                None => return LinkEnd::Lost,
                Some(ToController::Refused(why)) => return LinkEnd::Refused(why),
                Some(message) => lanes.take(message),
            },
            changes = watch.next() => match changes {
                Ok(changes) => {
                    // What is here already is told together: the scheduler then decides about it together.
                    let mut changes = changes;
                    while let Some(more) = watch.ready() {
                        changes.extend(more);
                    }
                    // The scheduler answers at once, and its answer is held against the mirror.
                    if let Some(last) = changes.last() {
                        cluster.mirror().reached(last.revision).await;
                    }
                    for part in parts_of(&changes) {
                        let Some(message) = told(cluster, part) else { continue };
                        // Each passes through this state once; the scheduler keeps what it is given until it starts.
                        let waiting = needy(&message, |placed| placed.status == Status::Pending);
                        let revision = part.last().map_or(Revision::ZERO, |change| change.revision);
                        if link.send.send(message).await.is_err() {
                            return LinkEnd::Lost;
                        }
                        if let Err(end) = give(cluster, &link, revision, waiting).await {
                            return end;
                        }
                    }
                }
                Err(error) => return LinkEnd::Watch(error),
            },
        }
    }
}

/// The instances of a message that have a node and name configs or secrets, and that `state` holds for.
fn needy(message: &FromController, state: impl Fn(&Placed) -> bool) -> Vec<Placed> {
    let (FromController::Snapshot { instances, .. } | FromController::Changes { instances, .. }) = message
    else {
        return Vec::new();
    };
    let needs =
        |placed: &&Placed| placed.node.is_some() && state(placed) && !given::named(&placed.spec).is_empty();
    instances.iter().filter(needs).cloned().collect()
}

/// Says what these instances are given. A message for each: some are large.
async fn give(cluster: &Cluster, link: &Link, revision: Revision, needy: Vec<Placed>) -> Result<(), LinkEnd> {
    for placed in needy {
        let given = Some(Arc::new(cluster.given(&placed.spec).await));
        let message = FromController::Changes {
            revision,
            nodes: Vec::new(),
            gone_nodes: Vec::new(),
            instances: vec![Placed { given, ..placed }],
            gone_instances: Vec::new(),
        };
        link.send.send(message).await.map_err(|_| LinkEnd::Lost)?;
    }
    Ok(())
}

struct Lanes<'a> {
    cluster: &'a Cluster,
    /// What waits behind the work that is running for a node. A node has a lane here while work for it runs.
    waiting: BTreeMap<String, Vec<Work>>,
    running: FuturesUnordered<BoxFuture<'a, Done>>,
}

impl<'a> Lanes<'a> {
    fn take(&mut self, message: ToController) {
        let (node, work) = match message {
            ToController::Plan(plan) => {
                let cluster = self.cluster;
                self.running.push(Box::pin(async move {
                    let uids = plan.bindings.iter().map(|binding| binding.uid.clone()).collect();
                    Done::Plan { plan: plan.plan, uids, refused: cluster.commit_plan(&plan).await }
                }));
                return;
            }
            ToController::NodeHeard { name, metrics } => return self.cluster.node_heard(&name, metrics),
            ToController::NodeSeen { name, uid, facts } => (name, Work::Seen { uid, facts: Box::new(facts) }),
            ToController::NodeLost { name, uid } => (name, Work::Lost { uid }),
            ToController::Reports { node, reports } => (node, Work::Reports(reports)),
            ToController::Refused(_) => return,
        };
        match self.waiting.get_mut(&node) {
            Some(lane) => lane.push(work),
            None => {
                self.waiting.insert(node.clone(), Vec::new());
                self.running.push(Box::pin(run(self.cluster, node, vec![work])));
            }
        }
    }

    fn finished(&mut self, done: Done) -> Vec<FromController> {
        match done {
            Done::Plan { plan, refused: Ok(refused), .. } => {
                vec![FromController::PlanResult { plan, refused }]
            }
            Done::Plan { plan, uids, refused: Err(error) } => {
                tracing::error!(error = chain(&error), "could not record a plan of the scheduler");
                vec![FromController::PlanResult { plan, refused: uids }]
            }
            Done::Lane { node, answers } => {
                let next = self.waiting.get_mut(&node).map(std::mem::take).unwrap_or_default();
                if next.is_empty() {
                    self.waiting.remove(&node);
                } else {
                    self.running.push(Box::pin(run(self.cluster, node, next)));
                }
                answers
            }
        }
    }
}

async fn run(cluster: &Cluster, node: String, work: Vec<Work>) -> Done {
    let mut answers = Vec::new();
    for item in work {
        let done = match item {
            Work::Seen { uid, facts } => match cluster.admit_node(&node, &uid, &facts).await {
                Ok(crate::cluster::Admission::Admitted) => Ok(()),
                Ok(crate::cluster::Admission::Refused(message)) => {
                    answers.push(FromController::NodeRefused { name: node.clone(), uid, message });
                    Ok(())
                }
                Err(error) => Err(error),
            },
            Work::Lost { uid } => cluster.node_lost(&node, &uid).await,
            Work::Reports(reports) => cluster.record_reports(&node, &reports).await.map(|acks: Vec<Ack>| {
                answers.push(FromController::Acks { node: node.clone(), acks });
            }),
        };
        if let Err(error) = done {
            // Not acknowledged, so it is sent again.
            tracing::error!(node.name = node, error = chain(&error), "could not record what a node said");
        }
    }
    Done::Lane { node, answers }
}

/// The whole state, cut into parts that fit a message.
fn snapshot(cluster: &Cluster) -> (Revision, Vec<FromController>) {
    let state = cluster.mirror().read();
    let revision = state.revision;
    let nodes: Vec<Node> = state.nodes.values().map(|node| node.object.clone()).collect();
    let mut parts: Vec<Vec<Placed>> = vec![Vec::new()];
    let mut bytes = 0;
    for instance in state.instances.values() {
        let size = size_of(&instance.object);
        if bytes + size > PART_BYTES {
            parts.push(Vec::new());
            bytes = 0;
        }
        bytes += size;
        if let Some(part) = parts.last_mut() {
            part.push(placed(instance));
        }
    }
    drop(state);
    let last = parts.len() - 1;
    let mut nodes = Some(nodes);
    let parts = parts.into_iter().enumerate().map(|(index, instances)| FromController::Snapshot {
        revision,
        more: index < last,
        nodes: nodes.take().unwrap_or_default(),
        instances,
    });
    (revision, parts.collect())
}

/// About how many bytes an instance takes on the wire.
fn size_of(instance: &Instance) -> usize {
    let containers = instance.spec.containers.iter().map(|container| {
        let words = container.command.iter().chain(&container.args).map(String::len).sum::<usize>();
        words + container.env.iter().map(|var| var.name.len() + var.value.len()).sum::<usize>() + 256
    });
    512 + containers.sum::<usize>()
}

fn placed(instance: &Versioned<Instance>) -> Placed {
    let Versioned { revision, object } = instance;
    let unplaced = object.message.clone().filter(|_| object.reason == Some(Reason::Unplaceable));
    Placed {
        id: object.id.clone(),
        uid: object.uid.clone(),
        kind: object.kind,
        spec: object.spec.clone(),
        status: object.status,
        node: object.node.clone(),
        revision: *revision,
        unplaced,
        given: None,
    }
}

/// Changes in parts that fit a message each.
fn parts_of(changes: &[Change]) -> impl Iterator<Item = &[Change]> {
    let size = |change: &Change| match &change.op {
        Op::Put { value, .. } => value.len(),
        Op::Delete { .. } => 0,
    };
    let mut bytes = 0;
    changes.chunk_by(move |_, next| {
        bytes += size(next);
        let fits = bytes <= PART_BYTES;
        if !fits {
            bytes = 0;
        }
        fits
    })
}

/// What the scheduler is told about changes; nothing if they do not concern it. Of an object that changed several times
/// it is told where it stands in the end; what is gone is said even if something has taken its place.
fn told(cluster: &Cluster, changes: &[Change]) -> Option<FromController> {
    let revision = changes.last()?.revision;
    let (mut nodes, mut instances) = (BTreeMap::new(), BTreeMap::new());
    let (mut gone_nodes, mut gone_instances) = (Vec::new(), Vec::new());
    for change in changes {
        let key = change.key.as_str();
        let is_node = key.starts_with(key::NODES);
        if !is_node && !key.starts_with(key::INSTANCES) {
            continue;
        }
        match &change.op {
            Op::Put { .. } if is_node => drop(nodes.insert(key, change)),
            Op::Put { .. } => drop(instances.insert(key, change)),
            Op::Delete { .. } if is_node => {
                nodes.remove(key);
                gone_nodes.push(key.trim_start_matches(key::NODES).to_owned());
            }
            Op::Delete { last } => {
                instances.remove(key);
                let parsed = last.as_deref().and_then(|last| serde_json::from_str::<Instance>(last).ok());
                gone_instances.extend(parsed.map(|object| object.uid));
            }
        }
    }
    let nodes: Vec<Node> =
        nodes.values().filter_map(|change| serde_json::from_str(value(change)?).ok()).collect();
    let mut instances: Vec<&Change> = instances.into_values().collect();
    // In the order in which they came: so they are placed.
    instances.sort_unstable_by_key(|change| (change.revision, change.index));
    let instances: Vec<Placed> = instances.into_iter().filter_map(|change| seen(cluster, change)).collect();
    let silent =
        nodes.is_empty() && gone_nodes.is_empty() && instances.is_empty() && gone_instances.is_empty();
    (!silent).then_some(FromController::Changes { revision, nodes, gone_nodes, instances, gone_instances })
}

fn value(change: &Change) -> Option<&str> {
    match &change.op {
        Op::Put { value, .. } => Some(value),
        Op::Delete { .. } => None,
    }
}

/// The instance as this change left it. Mostly the mirror has just parsed this very value.
fn seen(cluster: &Cluster, change: &Change) -> Option<Placed> {
    let id = change.key.rsplit('/').next().unwrap_or_default();
    match cluster.instance(id).filter(|mirrored| mirrored.revision == change.revision) {
        Some(mirrored) => Some(placed(&mirrored)),
        None => {
            let object = serde_json::from_str::<Instance>(value(change)?).ok()?;
            Some(placed(&Versioned { revision: change.revision, object }))
        }
    }
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use model::Clock;
    use store::MemoryStore;

    use super::*;
    use crate::cluster::{Ids, Parts, SubnetPlan};

    async fn cluster() -> Cluster {
        let clock = Clock::new(|| Timestamp::UNIX_EPOCH);
        let (store, subnets) = (Arc::new(MemoryStore::new()), SubnetPlan::default());
        let sealer = crate::sealing::Sealer::in_memory();
        Cluster::open(Parts { store, clock, ids: Ids::seeded(1), subnets, sealer }).await.unwrap()
    }

    fn value(uid: &str, status: &str) -> Arc<str> {
        let value = serde_json::json!({
            "id": "web", "uid": uid, "workloadId": "w", "workload": "web", "namespace": "default", "kind": "Pod",
            "status": status, "createdAt": "1970-01-01T00:00:00Z", "spec": { "containers": [] },
        });
        value.to_string().into()
    }

    fn change(revision: u64, op: Op) -> Change {
        let (revision, at) = (Revision(revision), Timestamp::UNIX_EPOCH);
        Change { revision, index: 0, at, key: key::instance(model::Kind::Pod, "web"), op }
    }

    fn put(revision: u64, uid: &str, status: &str) -> Change {
        change(revision, Op::Put { value: value(uid, status), created: Revision(1) })
    }

    fn gone(revision: u64, uid: &str) -> Change {
        change(revision, Op::Delete { last: Some(value(uid, "Running")) })
    }

    /// Uid and status of what is there, and the uids of what is gone.
    async fn heard(changes: &[Change]) -> (u64, Vec<(String, String)>, Vec<String>) {
        match told(&cluster().await, changes) {
            Some(FromController::Changes { revision, instances, gone_instances, .. }) => {
                let there = instances.into_iter().map(|one| (one.uid, one.status.to_string())).collect();
                (revision.0, there, gone_instances)
            }
            other => panic!("{other:?}"),
        }
    }

    #[tokio::test]
    async fn of_several_changes_to_an_instance_the_last_one_is_told() {
        let (revision, there, gone) = heard(&[put(2, "a", "Pending"), put(3, "a", "Running")]).await;
        assert_eq!(
            (revision, there, gone),
            (3, vec![("a".to_owned(), "Running".to_owned())], Vec::<String>::new())
        );
    }

    #[tokio::test]
    async fn an_instance_that_came_and_went_is_told_as_gone() {
        let (_, there, uids) = heard(&[put(2, "a", "Pending"), gone(3, "a")]).await;
        assert_eq!((there, uids), (Vec::new(), vec!["a".to_owned()]));
    }

    #[tokio::test]
    async fn an_instance_whose_place_another_has_taken_is_told_as_gone_beside_the_other() {
        let (_, there, uids) = heard(&[gone(2, "a"), put(3, "b", "Pending")]).await;
        assert_eq!((there, uids), (vec![("b".to_owned(), "Pending".to_owned())], vec!["a".to_owned()]));
    }
}
