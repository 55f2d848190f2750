//! What a controller and the scheduler say to each other.

use std::sync::Arc;

use model::{Kind, Node, NodeMetrics, Revision, Status, WorkloadSpec, given::Given, node::NodeFacts};

use crate::{
    Epoch,
    node::{Ack, Numbered},
};

/// From a controller.
#[derive(Clone, Debug, PartialEq)]
pub enum FromController {
    /// The first message: which cluster it speaks for.
    Hello {
        /// Version of the contracts that it speaks.
        protocol: u32,
        /// The cluster's id.
        cluster: String,
        /// Fencing token of this controller.
        epoch: Epoch,
    },
    /// The whole state at a revision, in parts.
    Snapshot {
        /// The revision.
        revision: Revision,
        /// Whether more parts follow.
        more: bool,
        /// Nodes.
        nodes: Vec<Node>,
        /// Instances.
        instances: Vec<Placed>,
    },
    /// What has changed since.
    Changes {
        /// The revision that the state is at now.
        revision: Revision,
        /// Nodes that are new or changed.
        nodes: Vec<Node>,
        /// Names of nodes that are gone.
        gone_nodes: Vec<String>,
        /// Instances that are new or changed.
        instances: Vec<Placed>,
        /// Uids of instances that are gone.
        gone_instances: Vec<String>,
    },
    /// What became of a plan.
    PlanResult {
        /// The plan's number.
        plan: u64,
        /// Uids of instances that had changed since: they have to be decided about again.
        refused: Vec<String>,
    },
    /// These reports are recorded.
    Acks {
        /// Node that sent them.
        node: String,
        /// Which ones.
        acks: Vec<Ack>,
    },
    /// A node may not take part.
    NodeRefused {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
        /// Why.
        message: String,
    },
}

/// An instance as far as placement and its node are concerned.
#[derive(Clone, Debug, PartialEq)]
pub struct Placed {
    /// Its id.
    pub id: String,
    /// Its uid.
    pub uid: String,
    /// Its kind.
    pub kind: Kind,
    /// What it consists of.
    pub spec: WorkloadSpec,
    /// Where it stands.
    pub status: Status,
    /// Node that it is bound to.
    pub node: Option<String>,
    /// Revision of its last change.
    pub revision: Revision,
    /// Why it is recorded as not placed, if it is.
    pub unplaced: Option<String>,
    /// Configs and secrets that it names, if it has a node and has not started.
    pub given: Option<Arc<Given>>,
}

/// To a controller.
#[derive(Clone, Debug, PartialEq)]
pub enum ToController {
    /// It may not take part, for this reason.
    Refused(String),
    /// Decisions to record.
    Plan(Decisions),
    /// A riklet has connected, or its facts have changed.
    NodeSeen {
        /// Name of the node.
        name: String,
        /// Identity of its state directory.
        uid: String,
        /// What the machine is.
        facts: NodeFacts,
    },
    /// A node is alive.
    NodeHeard {
        /// Its name.
        name: String,
        /// Its metrics, if measured anew.
        metrics: Option<NodeMetrics>,
    },
    /// A node has not been heard from for too long.
    NodeLost {
        /// Its name.
        name: String,
        /// Its uid.
        uid: String,
    },
    /// What a node says about its instances.
    Reports {
        /// The node.
        node: String,
        /// What it says.
        reports: Vec<Numbered>,
    },
}

/// A plan: what the scheduler decided, each against the revision that it was decided from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decisions {
    /// Counts the scheduler's plans.
    pub plan: u64,
    /// Instances that get a node.
    pub bindings: Vec<Binding>,
    /// Instances that no node can take.
    pub unplaced: Vec<Unplaced>,
}

/// An instance gets a node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binding {
    /// The instance's id.
    pub id: String,
    /// Its uid.
    pub uid: String,
    /// Its kind.
    pub kind: Kind,
    /// Revision of the instance that the decision was made from.
    pub revision: Revision,
    /// The node.
    pub node: String,
}

/// No node can take an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unplaced {
    /// The instance's id.
    pub id: String,
    /// Its uid.
    pub uid: String,
    /// Its kind.
    pub kind: Kind,
    /// Revision of the instance that the decision was made from.
    pub revision: Revision,
    /// Why, with a sentence for each group of nodes.
    pub message: String,
}
