//! Running things on a node: the [`Runtime`] contract and what implements it.
//!
//! ```text
//!  riklet ──Runtime──▶ pod/   (shim, libcontainer, images, network) ─▶ microvm/ (VMMs, kernels, disks)
//!                  └─▶ fake   (nothing real: simulation and tests)
//! ```
//! The runtime is the keeper of what exists on this machine: its first act for an instance is a record on disk, its
//! last is to remove that record, and whatever happened in between can be found again by [`Runtime::list`] after any
//! crash. It decides nothing: which step comes next is the law of `model::lifecycle`.
//!
//! *Guarantees*, for every implementation:
//! - Each method is safe to repeat, and safe to be dropped or killed at any instant.
//! - A container whose start has begun is not started again before [`Runtime::inspect`] has shown that it ended.
//! - After `remove` returned Ok, nothing of the instance is left: no process, mount, namespace, group, address, rule, file.
//! - One instance's trouble never blocks a call about another.

pub mod fake;
pub mod microvm;
pub mod pod;

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use model::{
    Kind, WorkloadSpec,
    given::Given,
    lifecycle::{Facts, Observed},
    manifest::health::Action,
};
use serde::{Deserialize, Serialize};

/// What a runtime needs to know of an instance; it is the record on disk as well.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct InstanceSpec {
    /// Id of the instance, for people: names in messages and the host name inside. Never part of a path.
    pub id: String,
    /// Unique for ever; names everything of it on this machine. A uuid in its usual form.
    pub uid: String,
    /// Kind of workload.
    pub kind: Kind,
    /// What it consists of.
    pub spec: WorkloadSpec,
    /// Configs and secrets that it names. Known only while it is prepared: never on a disk.
    #[serde(skip)]
    pub given: Arc<Given>,
}

/// How far a preparation is: for the message of an instance that is being created.
pub type Progress<'a> = &'a (dyn Fn(Facts) + Send + Sync);

/// What runs instances on this machine. See the module for what every implementation guarantees.
#[async_trait]
pub trait Runtime: Send + Sync + 'static {
    /// Every instance that there is a record of, whatever its state.
    async fn list(&self) -> Result<Vec<InstanceSpec>, RuntimeError>;

    /// What is there of the instance right now, from disk and kernel.
    async fn inspect(&self, uid: &str) -> Result<Observed, RuntimeError>;

    /// Records the instance and makes everything that it needs: images, root file systems, sandbox, network.
    /// Completes what an earlier attempt left half done.
    async fn prepare(&self, spec: &InstanceSpec, progress: Progress<'_>) -> Result<(), RuntimeError>;

    /// Starts containers of an instance that is prepared, or runs: those that were never started, and anew those that
    /// have ended, with a fresh root file system. Others are left alone. Ok once each of them has started, or has ended
    /// with the reason for which it could not: [`Runtime::inspect`] tells.
    async fn start(&self, uid: &str, which: &[usize]) -> Result<(), RuntimeError>;

    /// Puts a probe's question to a running container. Err says, as a fragment, what was wrong with the answer.
    async fn ask(&self, uid: &str, index: usize, action: Action<'_>, within: Duration) -> Result<(), String>;

    /// Ends one container, politely and then by force, because its probe failed; `why` becomes part of its message. What
    /// follows is for its restart policy to say.
    async fn end_container(&self, uid: &str, index: usize, why: &str) -> Result<(), RuntimeError>;

    /// Waits until [`Runtime::inspect`] may say something new about a running instance.
    async fn changed(&self, uid: &str);

    /// Ends its containers: politely, and by force after its grace period. Ok when no process is left.
    async fn stop(&self, uid: &str) -> Result<(), RuntimeError>;

    /// Gives back network, mounts and groups of an instance that does not run; keeps the record and the logs.
    async fn release(&self, uid: &str) -> Result<(), RuntimeError>;

    /// Removes every trace. Ok if there is none already.
    async fn remove(&self, uid: &str) -> Result<(), RuntimeError>;

    /// Restores what other programs may have taken away from all instances, such as firewall rules. Called now and then.
    async fn heal(&self) -> Result<(), RuntimeError>;
}

/// An operation that did not succeed. Its reason and sentence are what the user is told.
#[derive(Debug, thiserror::Error)]
#[error("{operation}")]
pub struct RuntimeError {
    /// What was being done to what, as a fragment that fits after "failed to".
    pub operation: String,
    /// The code that the instance gets if this is the end of it.
    pub reason: model::Reason,
    /// Whether trying again later may help.
    pub transient: bool,
    /// Why it did not succeed.
    #[source]
    pub source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl RuntimeError {
    /// The whole chain of causes as one sentence.
    #[must_use]
    pub fn sentence(&self) -> String {
        sentence(self)
    }
}

/// An error with the chain of its causes, as one sentence. Links that only repeat what the one before says are left out.
pub(crate) fn sentence(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        let words = cause.to_string();
        if !text.ends_with(&words) {
            text.push_str(": ");
            text.push_str(&words);
        }
        next = cause.source();
    }
    text
}
