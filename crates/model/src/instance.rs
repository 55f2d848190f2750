//! Instances: single running copies of a workload, and the workload's own record.
//!
//! An instance is made by the user's request, bound to a node by the scheduler, and filled in by what that node
//! reports. It carries a copy of its workload's specification, so that it goes on when the workload changes or goes.

use std::{fmt, net::Ipv4Addr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    lifecycle::Status,
    manifest::{Kind, PortSpec, Protocol, Workload, WorkloadSpec},
    reason::Reason,
};

/// A workload as the store holds it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadRecord {
    /// Id of the workload, a uuid.
    pub id: String,
    /// When it was created.
    #[schema(value_type = String, format = "date-time")]
    pub created_at: Timestamp,
    /// When its end was asked for: its instances are being destroyed, and then it goes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "date-time")]
    pub deleted_at: Option<Timestamp>,
    /// The definition.
    #[serde(flatten)]
    pub manifest: Workload,
}

/// One running copy of a workload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Instance {
    /// Its id, which is its name: unique while it exists.
    pub id: String,
    /// Unique for ever: a later instance of the same id has another.
    pub uid: String,
    /// Id of the workload that it is a copy of.
    pub workload_id: String,
    /// Name of that workload.
    pub workload: String,
    /// Namespace; always `default`.
    pub namespace: String,
    /// Kind of the workload.
    pub kind: Kind,
    /// Where it stands.
    pub status: Status,
    /// Node that it is bound to. Once set, it never changes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Why it stands there: a stable code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// Its address in the cluster's network.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "ipv4")]
    pub ip: Option<Ipv4Addr>,
    /// Ports that are published on the node.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PublishedPort>,
    /// Exit code, when it has ended: of the first container that failed, else 0.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// How often its containers were started again.
    #[serde(default)]
    pub restarts: u32,
    /// Whether it runs and the probes of all its containers say that it can serve.
    #[serde(default)]
    pub ready: bool,
    /// Its containers, as last seen.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub containers: Vec<ContainerStatus>,
    /// Where the time of its start went.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start_times: Option<StartTimes>,
    /// When it was asked for.
    #[schema(value_type = String, format = "date-time")]
    pub created_at: Timestamp,
    /// When all of its containers had started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "date-time")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "date-time")]
    pub finished_at: Option<Timestamp>,
    /// When its end was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "date-time")]
    pub deleted_at: Option<Timestamp>,
    /// What it consists of.
    pub spec: WorkloadSpec,
}

/// Where the time of a start went on its node, in microseconds. Images with files, network and control groups are made at
/// the same time, after the sandbox; of several containers, the longest counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct StartTimes {
    /// Volumes and namespaces.
    pub sandbox_micros: u64,
    /// Having the image: pulled and unpacked, if it was not there.
    pub image_micros: u64,
    /// Root file system and description.
    pub files_micros: u64,
    /// Address, link and published ports.
    pub network_micros: u64,
    /// Control groups.
    pub limits_micros: u64,
    /// From then until the last of its containers' processes was there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub processes_micros: Option<u64>,
    /// Of a microVM, whether it began from a template instead of booting.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub warm: Option<bool>,
}

impl Instance {
    /// Whether its end has been asked for.
    #[must_use]
    pub const fn is_deleting(&self) -> bool {
        matches!(self.status, Status::Destroying)
    }

    /// Whether it takes room on its node.
    #[must_use]
    pub const fn holds_resources(&self) -> bool {
        !matches!(self.status, Status::Failed | Status::Terminated)
    }
}

/// A port that is published on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PublishedPort {
    /// Port of the node.
    pub port: u16,
    /// Port inside the instance.
    pub target_port: u16,
    /// Protocol.
    pub protocol: Protocol,
    /// Address of the node that it is published on; every address if absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "ipv4")]
    pub host_address: Option<Ipv4Addr>,
}

impl From<&PortSpec> for PublishedPort {
    fn from(spec: &PortSpec) -> Self {
        Self {
            port: spec.port,
            target_port: spec.target(),
            protocol: spec.protocol,
            host_address: spec.host_address,
        }
    }
}

/// Where a container stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub enum ContainerPhase {
    /// Not started yet.
    Waiting,
    /// Running.
    Running,
    /// Ended.
    Exited,
}

impl fmt::Display for ContainerPhase {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, out)
    }
}

/// A container as last seen.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Name in the manifest.
    pub name: String,
    /// Where it stands.
    pub phase: ContainerPhase,
    /// Digest of the image that it was made from.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image_digest: Option<String>,
    /// Process id on the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<u32>,
    /// Exit code; 128 and the signal's number if a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Number of the signal that ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub signal: Option<i32>,
    /// Why it ended as it did.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "date-time")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "date-time")]
    pub finished_at: Option<Timestamp>,
    /// Whether it is an init container.
    #[serde(default, skip_serializing_if = "is_false")]
    pub init: bool,
    /// Whether it runs and its probes say that it can serve.
    #[serde(default)]
    pub ready: bool,
    /// How often it was started again.
    #[serde(default)]
    pub restarts: u32,
    /// Runs before this one, in a row, that ended soon: the pause before the next start doubles with each.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub quick_ends: u32,
    /// How the run before this one ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_run: Option<PastRun>,
}

/// A run of a container that is over.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PastRun {
    /// Exit code; 128 and the signal's number if a signal ended it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exit_code: Option<i32>,
    /// Why it ended as it did, if that was a failure.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// When it started.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "date-time")]
    pub started_at: Option<Timestamp>,
    /// When it ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "date-time")]
    pub finished_at: Option<Timestamp>,
}

impl ContainerStatus {
    /// What is known of a container that was never started.
    #[must_use]
    pub fn waiting(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            phase: ContainerPhase::Waiting,
            image_digest: None,
            pid: None,
            exit_code: None,
            signal: None,
            reason: None,
            message: None,
            started_at: None,
            finished_at: None,
            init: false,
            ready: false,
            restarts: 0,
            quick_ends: 0,
            last_run: None,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
const fn is_false(value: &bool) -> bool {
    !*value
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
const fn is_zero(value: &u32) -> bool {
    *value == 0
}
