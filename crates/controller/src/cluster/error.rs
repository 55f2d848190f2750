//! What the cluster refuses, and why.

use model::{Revision, given::ObjectKind, manifest::read::ManifestError};
use proto::relay::RelayFailure;
use store::{CommitError, StoreError, WatchError};

use crate::sealing::SealError;

/// A request that was not carried out. Nothing has changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ClusterError {
    /// There is no such workload.
    #[error("there is no workload {name:?}")]
    WorkloadNotFound {
        /// Name or id that was asked for.
        name: String,
    },
    /// There is no such instance.
    #[error("there is no instance {id:?}")]
    InstanceNotFound {
        /// Id that was asked for.
        id: String,
    },
    /// There is no such node.
    #[error("there is no node {name:?}")]
    NodeNotFound {
        /// Name that was asked for.
        name: String,
    },
    /// There is no such tenant.
    #[error("there is no tenant {id:?}")]
    TenantNotFound {
        /// Id that was asked for.
        id: String,
    },
    /// There is no such config or secret.
    #[error("there is no {kind} {name:?}")]
    ObjectNotFound {
        /// Config or secret.
        kind: ObjectKind,
        /// Name that was asked for.
        name: String,
    },
    /// Secrets cannot be sealed or opened.
    #[error("seal or open a secret")]
    Seal(#[source] SealError),
    /// The name is in use.
    #[error("{kind} {name:?} exists already")]
    NameTaken {
        /// What has that name.
        kind: &'static str,
        /// The name.
        name: String,
    },
    /// The manifest has faults.
    #[error("the manifest cannot be used")]
    Manifest(#[source] ManifestError),
    /// The request makes no sense.
    #[error("{detail}")]
    InvalidRequest {
        /// What is wrong and what is allowed.
        detail: String,
    },
    /// The object has changed since the caller looked.
    #[error("the object is at revision {found}, not at {expected}")]
    RevisionMismatch {
        /// Revision that the caller had seen.
        expected: Revision,
        /// Revision that it is at.
        found: Revision,
    },
    /// The idempotency key was used for something else.
    #[error("this Idempotency-Key was used for another request")]
    KeyReused,
    /// The node still takes part.
    #[error("node {node:?} is in use: {detail}")]
    NodeInUse {
        /// Its name.
        node: String,
        /// How.
        detail: String,
    },
    /// The node cannot be asked.
    #[error("node {node:?} cannot be asked: {detail}")]
    NodeUnreachable {
        /// Its name.
        node: String,
        /// Why.
        detail: String,
    },
    /// A node answered with a failure.
    #[error("node {node:?} answered: {failure}")]
    Node {
        /// Its name.
        node: String,
        /// What it said.
        failure: RelayFailure,
    },
    /// The scheduler is not connected.
    #[error("the scheduler is not connected")]
    SchedulerAway,
    /// The history does not go back so far.
    #[error("the history before revision {oldest} is gone")]
    Compacted {
        /// Oldest revision that one can still watch from.
        oldest: Revision,
    },
    /// A revision that does not exist yet.
    #[error("the newest revision is {newest}")]
    Ahead {
        /// The newest revision.
        newest: Revision,
    },
    /// Too much at once.
    #[error("{what}; at most {limit} are allowed")]
    TooMany {
        /// What was asked for.
        what: String,
        /// The bound.
        limit: usize,
    },
    /// Others changed the object again and again.
    #[error("the object changed {tries} times while it was being written")]
    Contended {
        /// How often it was tried.
        tries: usize,
    },
    /// The store could not be read.
    #[error("read the store")]
    Read(#[source] StoreError),
    /// The store could not be written.
    #[error("write the store")]
    Write(#[source] CommitError),
    /// The store could not be watched.
    #[error("watch the store")]
    Watch(#[source] WatchError),
    /// A value of the store could not be read or made.
    #[error("read or write the JSON of {what}")]
    Json {
        /// Which value.
        what: &'static str,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
}

impl From<WatchError> for ClusterError {
    fn from(error: WatchError) -> Self {
        match error {
            WatchError::Compacted { oldest } => Self::Compacted { oldest },
            WatchError::Ahead { newest } => Self::Ahead { newest },
            WatchError::Read(_) => Self::Watch(error),
        }
    }
}
