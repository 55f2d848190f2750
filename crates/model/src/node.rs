//! Nodes: the machines that instances run on.
//!
//! The riklet reports what its machine is ([`NodeFacts`]) and how it fares ([`NodeMetrics`]); the scheduler notices
//! whether it is heard from; the controller keeps the record. Heartbeats and metrics are never stored.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::Ipv4Addr,
};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    manifest::{Kind, Protocol},
    quantity::{Cpu, Memory},
};

/// Whether a node is heard from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub enum NodeStatus {
    /// Heard from within the last heartbeats; takes instances.
    Ready,
    /// Not heard from. What runs there may go on running; nothing new is placed there.
    Unreachable,
}

impl fmt::Display for NodeStatus {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, out)
    }
}

/// What a machine is: reported by its riklet, and only by it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeFacts {
    /// Address that other machines reach it by, if known.
    #[serde(default)]
    pub address: Option<String>,
    /// Processor architecture, such as `x86_64`.
    pub architecture: String,
    /// Operating system, such as `Debian GNU/Linux 12`.
    pub os: String,
    /// Kernel release.
    pub kernel: String,
    /// Version of its riklet.
    pub version: String,
    /// Layout of its control groups: `v1`, `hybrid` or `v2`.
    pub cgroups: String,
    /// Whether its pods have user namespaces: `yes`, or `no` and why.
    #[serde(default)]
    pub user_namespaces: String,
    /// What makes its containers, the usual one first: `rik` is RIK itself.
    #[serde(default)]
    pub runtimes: String,
    /// What its microVMs run with, or `no` and why it cannot have any.
    #[serde(default)]
    pub microvms: String,
    /// Kinds of workload that it can run.
    pub kinds: Vec<Kind>,
    /// Labels that its operator gave it.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Processor time that instances may request.
    pub cpu: Cpu,
    /// Memory that instances may request.
    pub memory: Memory,
    /// Most instances that it takes.
    pub max_instances: u32,
}

/// A node as the controller records it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Node {
    /// Unique name; the machine's host name unless given.
    pub name: String,
    /// Made by the riklet when its state directory was made: the same name with another uid is another machine.
    pub uid: String,
    /// Whether it is heard from.
    pub status: NodeStatus,
    /// Since when it has this status.
    #[schema(value_type = String, format = "date-time")]
    pub status_since: Timestamp,
    /// When it was first seen.
    #[schema(value_type = String, format = "date-time")]
    pub created_at: Timestamp,
    /// Addresses that its instances get, such as `10.42.1.0/24`.
    pub pod_subnet: String,
    /// Local volumes that instances were given there, and that were not removed since.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub volumes: BTreeSet<String>,
    /// What the machine is.
    #[serde(flatten)]
    pub facts: NodeFacts,
}

/// How a machine fares, in the documented form. `free` of the processor is in percent, all else in bytes or cores.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct NodeMetrics {
    /// Processor: `total` cores, `free` percent of them.
    pub cpu: Gauge,
    /// Memory in bytes.
    pub memory: Gauge,
    /// Disks, by mount point.
    pub disks: Vec<DiskGauge>,
    /// Ports that programs of the machine listen on: instances cannot publish them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub listening: Vec<ListeningPort>,
    /// What its microVMs run with by now: the first of them finds out whether the processor can run them.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub microvms: String,
    /// The last time that images had to go because its disk was nearly full.
    #[serde(default, rename = "imagesCleared", skip_serializing_if = "Option::is_none")]
    pub images_cleared: Option<ImagesCleared>,
    /// What the instances on it use.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub pods: Vec<PodMetrics>,
}

/// Images that went because a disk was nearly full: some that nothing used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ImagesCleared {
    /// When.
    #[schema(value_type = String, format = "date-time")]
    pub at: Timestamp,
    /// Their names, in the order in which they went.
    pub images: Vec<String>,
    /// Bytes that came free.
    pub bytes: u64,
}

/// A port that a program of the machine listens on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, ToSchema)]
pub struct ListeningPort {
    /// Protocol.
    pub protocol: Protocol,
    /// Number.
    pub port: u16,
    /// Address, if it is not every one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "ipv4")]
    pub address: Option<Ipv4Addr>,
}

/// What a pod uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodMetrics {
    /// Id of the instance.
    pub instance: String,
    /// Its uid.
    pub uid: String,
    /// Bytes that it has received over the network.
    pub received_bytes: u64,
    /// Bytes that it has sent.
    pub sent_bytes: u64,
    /// Its containers that have been started.
    pub containers: Vec<ContainerMetrics>,
}

/// What a container uses.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerMetrics {
    /// Its name.
    pub name: String,
    /// Processor time that its present run has used, in microseconds.
    pub cpu_micros: u64,
    /// Thousandths of a core that it used since the measurement before; absent in the first one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu_millicores: Option<u64>,
    /// Memory in bytes, without what the kernel holds of files and could give back at once.
    pub memory_bytes: u64,
    /// Bytes on disk of what it wrote beside its volumes, and of its logs.
    #[serde(default)]
    pub disk_bytes: u64,
}

/// How much there is and how much of it is free.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct Gauge {
    /// All of it.
    pub total: f64,
    /// What is free.
    pub free: f64,
}

/// A disk.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct DiskGauge {
    /// Its mount point.
    pub disk_name: String,
    /// Bytes in all.
    pub total: u64,
    /// Bytes free.
    pub free: u64,
}
