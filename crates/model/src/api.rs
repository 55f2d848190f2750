//! The bodies of the v1 API: what the controller answers and rikctl reads.

use std::{collections::BTreeMap, fmt};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::{
    Revision,
    lifecycle::Status,
    manifest::{Kind, read::Fault},
    node::{Node, NodeMetrics},
    reason::Reason,
};

/// One object with the revision at which it last changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Versioned<T> {
    /// Revision of its last change; also its `ETag`.
    pub revision: Revision,
    /// The object.
    #[serde(flatten)]
    pub object: T,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Page<T> {
    /// The objects, ordered by name.
    pub items: Vec<T>,
    /// Revision that the page was read at: a watch from here misses nothing.
    pub revision: Revision,
    /// Give this back as `continue` to get the next page. Absent on the last one.
    #[serde(default, rename = "continue", skip_serializing_if = "Option::is_none")]
    pub next: Option<String>,
}

/// Request for instances of a workload.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CreateInstances {
    /// Id or name of the workload.
    pub workload: String,
    /// Name of the instance; only for a single one. Without it, a name is made from the workload's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// How many. Without it, one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 1000)]
    pub replicas: Option<u32>,
}

/// A config or secret as it is sent. Values are text in `data`, or base64 in `binaryData`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ObjectBody {
    /// Its name: one label of a host name. May be left out where the path has it.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Values that are text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
    /// Values of any bytes, as base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub binary_data: BTreeMap<String, String>,
}

impl fmt::Debug for ObjectBody {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("ObjectBody").field("name", &self.name).finish_non_exhaustive()
    }
}

/// A config or secret as it is shown. Values of a secret are never shown, and those of a config not in a list.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ObjectView {
    /// Its name.
    pub name: String,
    /// When it was created.
    #[schema(value_type = String, format = "date-time")]
    pub created_at: Timestamp,
    /// Its keys, and how many bytes the value of each has.
    pub keys: BTreeMap<String, u64>,
    /// Values that are text.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub data: BTreeMap<String, String>,
    /// Other values, as base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub binary_data: BTreeMap<String, String>,
}

/// What was created.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Created {
    /// Ids, in the order of creation.
    pub ids: Vec<String>,
}

/// What `apply` did.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Applied {
    /// The workload is new.
    Created,
    /// The workload was changed.
    Configured,
    /// It was already so.
    Unchanged,
}

/// Answer to `apply`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ApplyResult {
    /// Id of the workload.
    pub id: String,
    /// What was done.
    pub result: Applied,
}

/// A node with how it fares right now.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct NodeView {
    /// The record.
    #[serde(flatten)]
    pub node: Node,
    /// When it was last heard from, if since the controller's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "date-time")]
    pub last_heard: Option<Timestamp>,
    /// Its latest metrics, if it has sent any since the controller's start.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub metrics: Option<NodeMetrics>,
    /// How many instances are bound to it and have not ended.
    pub instances: u32,
}

/// A change of an object: the store's history, told for people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Event {
    /// Revision of the change.
    pub revision: Revision,
    /// When it was recorded.
    #[schema(value_type = String, format = "date-time")]
    pub time: Timestamp,
    /// What was done to it.
    pub action: Action,
    /// `workload`, `instance` or `node`.
    pub object: String,
    /// Kind of the workload or instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kind: Option<Kind>,
    /// Its name.
    pub name: String,
    /// Status that it has since.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Node of the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<Reason>,
    /// The same for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
}

/// What was done to an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
pub enum Action {
    /// It is new.
    Created,
    /// It changed.
    Changed,
    /// It is gone.
    Deleted,
}

/// One message of a watch stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WatchEvent {
    /// Revision of the change; resume from here.
    pub revision: Revision,
    /// What was done to it.
    pub action: Action,
    /// `workload`, `instance` or `node`.
    pub object: String,
    /// Its name.
    pub name: String,
    /// The object as it is since; as it last was, if it is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub value: Option<serde_json::Value>,
}

/// An image on a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImageView {
    /// Node that has it.
    pub node: String,
    /// Reference that it is known by.
    pub reference: String,
    /// Digest of its manifest.
    pub digest: String,
    /// Bytes on disk, unpacked; layers that several images share count for each.
    pub size: u64,
    /// When it arrived.
    #[schema(value_type = String, format = "date-time")]
    pub pulled_at: Timestamp,
    /// Containers that stand on it.
    #[serde(default)]
    pub containers: u32,
    /// When it was last asked for; since its riklet started, or else when it arrived.
    #[serde(default)]
    #[schema(value_type = Option<String>, format = "date-time")]
    pub used_at: Option<Timestamp>,
}

/// An image to pull to a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct PullImage {
    /// Which one.
    pub reference: String,
}

/// Images that were removed from a node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ImagesRemoved {
    /// References of the images, in the order in which they went.
    pub removed: Vec<String>,
    /// Bytes of their layers, as far as no other image has them.
    pub freed_bytes: u64,
}

/// An instance that is gone, and whose logs its node still has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct DeletedInstanceView {
    /// Id that it had.
    pub id: String,
    /// Its uid.
    pub uid: String,
    /// Node that it ran on.
    pub node: String,
    /// When it was removed.
    #[schema(value_type = String, format = "date-time")]
    pub deleted_at: Timestamp,
    /// Its containers as they were at the end.
    #[serde(default)]
    pub containers: Vec<crate::ContainerStatus>,
}

/// A local volume of a node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeView {
    /// Its name.
    pub name: String,
    /// Node that it is on.
    pub node: String,
    /// When it was made.
    #[schema(value_type = String, format = "date-time")]
    pub created_at: Timestamp,
    /// Ids of the instances that use it.
    #[serde(default)]
    pub instances: Vec<String>,
}

/// An error, as RFC 9457 has it (`application/problem+json`).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct Problem {
    /// Stable code, such as `workload-not-found`.
    pub code: String,
    /// What kind of problem, the same for every problem of this code.
    pub title: String,
    /// Status code of the answer.
    pub status: u16,
    /// What happened this time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// What to do next.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Faults of the manifest, if that is the problem.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub faults: Vec<Fault>,
    /// Id of the request, which the controller's log has too.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub request: Option<String>,
}

/// What the controller is and how it fares.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ClusterView {
    /// Id of the cluster, made with its store.
    pub cluster: String,
    /// Version of the controller.
    pub version: String,
    /// Newest revision.
    pub revision: Revision,
    /// Whether the scheduler is connected; without it nothing new is placed.
    pub scheduler_connected: bool,
    /// How many instances stand where.
    pub instances: std::collections::BTreeMap<Status, u32>,
}
