//! What a riklet and the scheduler say to each other.

use std::sync::Arc;

use model::{
    Kind, NodeMetrics, Revision, Status, WorkloadSpec,
    given::Given,
    lifecycle::{Desired, Report},
    node::NodeFacts,
};

use crate::{Epoch, relay::StreamRequest};

/// From a riklet.
#[derive(Clone, Debug, PartialEq)]
pub enum FromNode {
    /// The first message: who it is.
    Hello(Hello),
    /// It lives; with its metrics when they were measured anew.
    Heartbeat(Option<NodeMetrics>),
    /// What it says about its instances, each until acknowledged.
    Reports(Vec<Numbered>),
}

/// Who a riklet is.
#[derive(Clone, Debug, PartialEq)]
pub struct Hello {
    /// Version of the contracts that it speaks.
    pub protocol: u32,
    /// Name of the node.
    pub name: String,
    /// Identity of its state directory.
    pub uid: String,
    /// What the machine is.
    pub facts: NodeFacts,
    /// Cluster that it belongs to, if it has joined one.
    pub cluster: Option<String>,
}

/// A report with the number by which it is acknowledged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Numbered {
    /// Counts the node's reports about one instance.
    pub sequence: u64,
    /// The report.
    pub report: Report,
}

/// Acknowledges every report about one instance up to a number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ack {
    /// The instance's uid.
    pub uid: String,
    /// The number.
    pub sequence: u64,
}

/// To a riklet.
#[derive(Clone, Debug, PartialEq)]
pub enum ToNode {
    /// It is known to the cluster and may act.
    Welcome {
        /// The cluster's id.
        cluster: String,
        /// Addresses for its instances.
        pod_subnet: String,
    },
    /// It may not take part, for this reason.
    Refused(String),
    /// What it shall run.
    Assigned(Assigned),
    /// These reports are recorded.
    Acks(Vec<Ack>),
    /// Report everything again.
    ReportAll,
    /// Dial a relayed stream with this id and serve the request on it.
    Open {
        /// Id of the stream.
        stream: String,
        /// What is asked for.
        request: StreamRequest,
    },
}

/// What a node shall run, at a revision.
#[derive(Clone, Debug, PartialEq)]
pub struct Assigned {
    /// Fencing token; a lower one than seen before is refused.
    pub epoch: Epoch,
    /// Revision of the store that the set is from.
    pub revision: Revision,
    /// Whether the set is complete, or only what changed.
    pub full: bool,
    /// Whether more parts of the same set follow.
    pub more: bool,
    /// The instances.
    pub assignments: Vec<Assignment>,
    /// Uids that are no longer assigned; only when not full.
    pub withdrawn: Vec<String>,
}

/// One instance that a node shall run or destroy.
#[derive(Clone, Debug, PartialEq)]
pub struct Assignment {
    /// Its id.
    pub id: String,
    /// Its uid.
    pub uid: String,
    /// Its kind.
    pub kind: Kind,
    /// What it consists of.
    pub spec: WorkloadSpec,
    /// What to do with it.
    pub desired: Desired,
    /// What the record said when this was sent.
    pub recorded: Status,
    /// Configs and secrets that it names; None while they are not known here.
    pub given: Option<Arc<Given>>,
}
