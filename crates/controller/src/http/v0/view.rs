//! Workloads and instances as the v0 API shows them.
//!
//! Fields stand in alphabetical order, because the old API wrote them so. A key that the old API had is always there,
//! null if there is nothing; a key that it did not have appears when there is something to tell.

use std::{collections::BTreeMap, net::Ipv4Addr};

use jiff::Timestamp;
use model::{
    ContainerSpec, ContainerStatus, Instance, Kind, PortSpec, Protocol, PublishedPort, Reason, Revision,
    Status, WorkloadRecord, WorkloadSpec,
    api::Versioned,
    manifest::{EnvVar, ExposureKind, Resources, function::FunctionExposure},
};
use serde::Serialize;
use utoipa::ToSchema;

/// A workload in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct WorkloadElement {
    /// Its id.
    id: String,
    /// Its name.
    name: String,
    /// Its definition.
    value: DefinitionView,
}

/// An instance in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InstanceElement {
    /// Its id.
    id: String,
    /// Its name, which is its id.
    name: String,
    /// The instance.
    value: InstanceView,
}

/// A tenant in a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct TenantElement {
    /// Its id.
    pub(super) id: String,
    /// The last segment of its name.
    pub(super) name: String,
    /// Its value.
    pub(super) value: serde_json::Value,
}

/// A workload's definition.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct DefinitionView {
    api_version: String,
    #[schema(value_type = String, format = "date-time")]
    created_at: Timestamp,
    kind: Kind,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    labels: BTreeMap<String, String>,
    name: String,
    replicas: u32,
    revision: Revision,
    spec: SpecView,
}

/// What a workload's instances consist of.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct SpecView {
    containers: Vec<ContainerView>,
    function: Option<FunctionView>,
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    node_selector: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<Resources>,
    termination_grace_period_seconds: u32,
}

/// A container.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ContainerView {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    args: Vec<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    command: Vec<String>,
    env: Option<Vec<EnvVar>>,
    image: String,
    /// Ports after the first one, which is in `ports`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    more_ports: Vec<PortView>,
    name: String,
    ports: Option<PortView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    resources: Option<Resources>,
    #[serde(skip_serializing_if = "Option::is_none")]
    working_dir: Option<String>,
}

/// A published port.
#[derive(Debug, Serialize, ToSchema)]
struct PortView {
    #[serde(rename = "hostAddress", skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "ipv4")]
    host_address: Option<Ipv4Addr>,
    port: u16,
    protocol: Protocol,
    target_port: u16,
    r#type: ExposureKind,
}

/// A microVM.
#[derive(Debug, Serialize, ToSchema)]
struct FunctionView {
    execution: ExecutionView,
    exposure: Option<ExposureView>,
}

/// What runs in a microVM.
#[derive(Debug, Serialize, ToSchema)]
struct ExecutionView {
    rootfs: String,
}

/// How a microVM is reached.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
struct ExposureView {
    port: Option<u16>,
    target_port: u16,
    r#type: ExposureKind,
}

/// An instance. The fields that v0 clients know are `id`, `kind`, `namespace`, `spec`, `status` and `workload_id`.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct InstanceView {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    containers: Vec<ContainerStatus>,
    #[schema(value_type = String, format = "date-time")]
    created_at: Timestamp,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "date-time")]
    deleted_at: Option<Timestamp>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exit_code: Option<i32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "date-time")]
    finished_at: Option<Timestamp>,
    id: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "ipv4")]
    ip: Option<Ipv4Addr>,
    kind: Kind,
    #[serde(skip_serializing_if = "Option::is_none")]
    message: Option<String>,
    namespace: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    node: Option<String>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    ports: Vec<PublishedPort>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Reason>,
    restarts: u32,
    revision: Revision,
    spec: SpecView,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "date-time")]
    started_at: Option<Timestamp>,
    status: Status,
    uid: String,
    workload: String,
    #[serde(rename = "workload_id")]
    workload_id: String,
}

impl From<&Versioned<WorkloadRecord>> for WorkloadElement {
    fn from(workload: &Versioned<WorkloadRecord>) -> Self {
        let WorkloadRecord { id, created_at, manifest, .. } = &workload.object;
        let value = DefinitionView {
            api_version: manifest.api_version.clone(),
            created_at: *created_at,
            kind: manifest.kind,
            labels: manifest.labels.clone(),
            name: manifest.name.clone(),
            replicas: manifest.replicas,
            revision: workload.revision,
            spec: SpecView::from(&manifest.spec),
        };
        Self { id: id.clone(), name: manifest.name.clone(), value }
    }
}

impl From<&Versioned<Instance>> for InstanceElement {
    fn from(instance: &Versioned<Instance>) -> Self {
        let id = &instance.object.id;
        Self { id: id.clone(), name: id.clone(), value: InstanceView::from(instance) }
    }
}

impl From<&Versioned<Instance>> for InstanceView {
    fn from(instance: &Versioned<Instance>) -> Self {
        let Versioned { revision, object } = instance.clone();
        Self {
            containers: object.containers,
            created_at: object.created_at,
            deleted_at: object.deleted_at,
            exit_code: object.exit_code,
            finished_at: object.finished_at,
            id: object.id,
            ip: object.ip,
            kind: object.kind,
            message: object.message,
            namespace: object.namespace,
            node: object.node,
            ports: object.ports,
            reason: object.reason,
            restarts: object.restarts,
            revision,
            spec: SpecView::from(&object.spec),
            started_at: object.started_at,
            status: object.status,
            uid: object.uid,
            workload: object.workload,
            workload_id: object.workload_id,
        }
    }
}

impl From<&WorkloadSpec> for SpecView {
    fn from(spec: &WorkloadSpec) -> Self {
        let execution = spec.function.as_ref().and_then(|own| own.execution.as_ref());
        Self {
            // Of a Function that has a root file system, they are that again.
            containers: if execution.is_some() {
                Vec::new()
            } else {
                spec.containers.iter().map(ContainerView::from).collect()
            },
            function: execution.map(|execution| FunctionView {
                execution: ExecutionView { rootfs: execution.rootfs.clone() },
                exposure: spec
                    .function
                    .as_ref()
                    .and_then(|own| own.exposure.as_ref())
                    .map(ExposureView::from),
            }),
            node_selector: spec.node_selector.clone(),
            resources: spec.resources.clone(),
            termination_grace_period_seconds: spec.termination_grace_period_seconds,
        }
    }
}

impl From<&ContainerSpec> for ContainerView {
    fn from(spec: &ContainerSpec) -> Self {
        let mut ports = spec.ports.iter().map(PortView::from);
        Self {
            args: spec.args.clone(),
            command: spec.command.clone(),
            env: Some(spec.env.clone()).filter(|env| !env.is_empty()),
            image: spec.image.clone(),
            name: spec.name.clone(),
            ports: ports.next(),
            more_ports: ports.collect(),
            resources: spec.resources.clone(),
            working_dir: spec.working_dir.clone(),
        }
    }
}

impl From<&PortSpec> for PortView {
    fn from(spec: &PortSpec) -> Self {
        Self {
            host_address: spec.host_address,
            port: spec.port,
            protocol: spec.protocol,
            target_port: spec.target(),
            r#type: spec.exposure,
        }
    }
}

impl From<&FunctionExposure> for ExposureView {
    fn from(exposure: &FunctionExposure) -> Self {
        Self { port: exposure.port, target_port: exposure.target_port, r#type: exposure.exposure }
    }
}
