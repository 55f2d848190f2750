//! The cluster: what can be asked of it, and how each request becomes a transaction.
//!
//! Every method reads the mirror, decides, commits against the revision that it decided from, and waits until the
//! mirror shows the result. If somebody else was faster, it decides again from the newer state.
//!
//! *Guarantees*: a request that returned Ok is durable and visible; one that returned an error changed nothing.
//! *Not here*: HTTP ([`crate::http`]), the scheduler's side ([`crate::link`]).

mod error;
mod events;
mod idempotency;
mod ids;
mod instances;
mod nodes;
mod objects;
mod observed;
mod tenants;
mod workloads;

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use daemon::chain;
use futures::future::BoxFuture;
use jiff::Timestamp;
use model::{
    Clock, NodeMetrics, Revision, Status,
    api::{ClusterView, Versioned},
    key,
};
use proto::{
    Epoch,
    relay::{Frame, StreamRequest},
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use store::{CommitError, Expect, Store, Txn};
use tokio::sync::mpsc;

pub use error::ClusterError;
pub use events::{Changes, Told};
pub use idempotency::{IdempotencyKey, KEEP as KEEP_IDEMPOTENCY};
pub use ids::Ids;
pub use instances::{Deletion, InstanceFilter};
pub(crate) use nodes::Admission;
pub use nodes::{SubnetPlan, SubnetPlanError};

use crate::{
    mirror::{Mirror, MirrorError},
    sealing::Sealer,
};

/// How often a request is decided anew when others keep changing the object. Each round waits for the newer state,
/// so more than a few mean that something writes in a circle.
const MAX_TRIES: usize = 50;

/// The cluster. Cheap to clone; all clones are one.
#[derive(Clone)]
pub struct Cluster(Arc<Inner>);

struct Inner {
    store: Arc<dyn Store>,
    mirror: Mirror,
    clock: Clock,
    ids: Ids,
    subnets: SubnetPlan,
    sealer: Sealer,
    identity: Identity,
    /// Held while ports of the node are chosen for new instances.
    choosing: tokio::sync::Mutex<()>,
    /// What is known only while this controller runs.
    live: Mutex<Live>,
}

#[derive(Default)]
struct Live {
    relay: Option<Relay>,
    heard: BTreeMap<String, Heard>,
}

struct Heard {
    at: Timestamp,
    metrics: Option<NodeMetrics>,
}

/// How a stream to a node is opened while the scheduler is connected.
pub type Relay =
    Arc<dyn Fn(String, StreamRequest) -> BoxFuture<'static, Result<NodeStream, ClusterError>> + Send + Sync>;

/// A stream to a node.
#[derive(Debug)]
pub struct NodeStream {
    /// Towards the node. Closing it is the end of what we have to say.
    pub send: mpsc::Sender<Frame>,
    /// From the node.
    pub receive: mpsc::Receiver<Frame>,
}

/// The cluster's own record.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Id of the cluster, made with its store.
    pub cluster: String,
    /// Counts the controllers that have owned the store: the fencing token.
    pub epoch: Epoch,
    /// When the store was made.
    pub created_at: Timestamp,
}

/// What a cluster is made of.
pub struct Parts {
    /// The store.
    pub store: Arc<dyn Store>,
    /// Time of day.
    pub clock: Clock,
    /// Ids.
    pub ids: Ids,
    /// Addresses of the nodes' instances.
    pub subnets: SubnetPlan,
    /// What seals secrets.
    pub sealer: Sealer,
}

/// The cluster could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Its own record could not be read or written.
    #[error("take over the store")]
    Identity(#[source] ClusterError),
    /// Its state could not be read.
    #[error("read the store")]
    Mirror(#[source] MirrorError),
}

impl Cluster {
    /// Opens the cluster that the store holds, or makes a new one in an empty store. Raises the epoch.
    ///
    /// Run [`Cluster::follow`] for as long as the cluster is used.
    ///
    /// # Errors
    /// The store could not be read or written.
    pub async fn open(parts: Parts) -> Result<Self, OpenError> {
        let identity = take_over(&parts).await.map_err(OpenError::Identity)?;
        let mirror = Mirror::fill(&*parts.store).await.map_err(OpenError::Mirror)?;
        let Parts { store, clock, ids, subnets, sealer } = parts;
        let live = Mutex::default();
        let choosing = tokio::sync::Mutex::default();
        Ok(Self(Arc::new(Inner { store, mirror, clock, ids, subnets, sealer, identity, choosing, live })))
    }

    /// Keeps the mirror up to date and finishes what an earlier controller left half done. Ends only with an error.
    ///
    /// # Errors
    /// The store could not be followed: nothing works any more.
    pub async fn follow(&self) -> Result<std::convert::Infallible, MirrorError> {
        let resumed = async {
            if let Err(error) = self.resume_deletions().await {
                tracing::warn!(error = chain(&error), "could not finish the deletions of an earlier run");
            }
            std::future::pending().await
        };
        tokio::select! {
            biased;
            ended = self.0.mirror.follow(&*self.0.store) => ended,
            never = resumed => never,
        }
    }

    /// The mirror of the store.
    #[must_use]
    pub fn mirror(&self) -> &Mirror {
        &self.0.mirror
    }

    /// The store.
    #[must_use]
    pub fn store(&self) -> &Arc<dyn Store> {
        &self.0.store
    }

    /// Who this cluster is.
    #[must_use]
    pub fn identity(&self) -> &Identity {
        &self.0.identity
    }

    /// What the cluster is and how it fares.
    #[must_use]
    pub fn overview(&self) -> ClusterView {
        let state = self.0.mirror.read();
        let mut instances: BTreeMap<Status, u32> = BTreeMap::new();
        for instance in state.instances.values() {
            *instances.entry(instance.object.status).or_default() += 1;
        }
        ClusterView {
            cluster: self.0.identity.cluster.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: state.revision,
            scheduler_connected: self.live().relay.is_some(),
            instances,
        }
    }

    /// Tells the cluster how streams to nodes are opened, or that they cannot be.
    pub fn set_relay(&self, relay: Option<Relay>) {
        self.live().relay = relay;
    }

    /// Opens a stream to a node.
    ///
    /// # Errors
    /// The node is unknown, or cannot be asked now.
    pub async fn open_stream(&self, node: &str, request: StreamRequest) -> Result<NodeStream, ClusterError> {
        if !self.0.mirror.read().nodes.contains_key(node) {
            return Err(ClusterError::NodeNotFound { name: node.to_owned() });
        }
        let relay = self.live().relay.clone().ok_or(ClusterError::SchedulerAway)?;
        relay(node.to_owned(), request).await
    }

    fn live(&self) -> std::sync::MutexGuard<'_, Live> {
        self.0.live.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now(&self) -> Timestamp {
        self.0.clock.now()
    }

    fn txn(&self) -> Txn {
        Txn::new(self.now())
    }

    /// Commits and waits until the mirror shows it. `Ok(None)`: a guard did not hold; the mirror is newer now.
    async fn commit(&self, txn: Txn) -> Result<Option<Revision>, ClusterError> {
        let seen = self.0.mirror.read().revision;
        match self.0.store.commit(txn).await {
            Ok(revision) => {
                self.0.mirror.reached(revision).await;
                Ok(Some(revision))
            }
            Err(CommitError::Conflict { key, expected, found }) => {
                tracing::debug!(element.id = key, %expected, ?found, "somebody else was faster; deciding again");
                // The guard was decided from the mirror, so the object has changed since: that change is on its way,
                // unless the mirror already shows it.
                let newest = self.0.store.revision().await.map_err(ClusterError::Read)?;
                self.0.mirror.reached(newest.max(seen)).await;
                Ok(None)
            }
            Err(error) => Err(ClusterError::Write(error)),
        }
    }
}

/// Raises the epoch in the cluster's record, making the record if there is none.
async fn take_over(parts: &Parts) -> Result<Identity, ClusterError> {
    for _ in 0..MAX_TRIES {
        let found = parts.store.get(key::CLUSTER).await.map_err(ClusterError::Read)?;
        let txn = Txn::new(parts.clock.now());
        let (identity, txn) = match found {
            Some(object) => {
                let old: Identity = from_json("the cluster's record", &object.value)?;
                let new = Identity { epoch: Epoch(old.epoch.0 + 1), ..old };
                let value = to_json("the cluster's record", &new)?;
                (new, txn.replace(key::CLUSTER, object.revision, value))
            }
            None => {
                let new =
                    Identity { cluster: parts.ids.uuid(), epoch: Epoch(1), created_at: parts.clock.now() };
                let value = to_json("the cluster's record", &new)?;
                (new, txn.create(key::CLUSTER, value))
            }
        };
        match parts.store.commit(txn).await {
            Ok(_) => return Ok(identity),
            Err(CommitError::Conflict { .. }) => {}
            Err(error) => return Err(ClusterError::Write(error)),
        }
    }
    Err(ClusterError::Contended { tries: MAX_TRIES })
}

fn to_json<T: Serialize>(what: &'static str, value: &T) -> Result<String, ClusterError> {
    serde_json::to_string(value).map_err(|source| ClusterError::Json { what, source })
}

fn from_json<T: DeserializeOwned>(what: &'static str, text: &str) -> Result<T, ClusterError> {
    serde_json::from_str(text).map_err(|source| ClusterError::Json { what, source })
}

/// Requires that `found` is what the caller had seen, if the caller says what that was.
fn expect_revision<T>(object: &Versioned<T>, expected: Option<Revision>) -> Result<(), ClusterError> {
    match expected {
        Some(expected) if expected != object.revision => {
            Err(ClusterError::RevisionMismatch { expected, found: object.revision })
        }
        _ => Ok(()),
    }
}

/// Guards that an id is free in both kinds: ids are unique across them.
fn guard_free(txn: Txn, kind: model::Kind, id: &str) -> Txn {
    let others = model::Kind::ALL.into_iter().filter(|other| *other != kind);
    others.fold(txn, |txn, other| txn.guard(key::instance(other, id), Expect::Absent))
}
