//! The manifest: what a user writes to define a workload.
//!
//! The types here are the one source: the parser reads into them, the published JSON Schema ([`schema`]) and the
//! reference page ([`mod@reference`]) are generated from them, and everything that they name is applied by the node.
//! Text becomes a [`Workload`] through [`read`], which reports every fault at once.
//!
//! *Guarantee*: a [`Workload`] that came out of [`read`] obeys every rule of the schema and of [`rules`].

pub mod check;
pub mod function;
pub mod given;
pub mod health;
pub mod image;
pub mod names;
pub mod read;
pub mod reference;
pub mod rules;
pub mod schema;
pub mod security;
pub mod tree;
pub mod volume;

use std::{collections::BTreeMap, fmt, net::Ipv4Addr};

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::{
    function::FunctionSpec,
    given::{EnvFrom, EnvSource},
    health::{Lifecycle, Probe, RestartBackoff, RestartPolicy},
    image::{PullPolicy, PullSecret},
    security::{PodSecurityContext, SecurityContext},
    volume::{Volume, VolumeMount},
};
use crate::quantity::{Cpu, Memory};

/// Most containers of one pod: a pod is one application and its helpers.
pub const MAX_CONTAINERS: usize = 32;
/// Most environment variables of one container.
pub const MAX_ENV: usize = 1_000;
/// Most ports that one container may publish.
pub const MAX_PORTS: usize = 64;
/// Most labels on one object.
pub const MAX_LABELS: usize = 64;
/// Most instances that one workload, or one request, may ask for.
pub const MAX_REPLICAS: u32 = 1_000;
/// Longest grace period: an hour. Longer waits are the application's business.
pub const MAX_GRACE_SECONDS: u32 = 3_600;

/// A workload: software to run on the cluster, and what it needs. Defining one deploys nothing; instances are
/// deployed from the definition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Workload {
    /// Version of this schema.
    #[serde(default = "default_api_version")]
    #[schema(default = "v1", max_length = 32)]
    pub api_version: String,
    /// What kind of thing the instances are.
    pub kind: Kind,
    /// Unique name of the workload among those of its kind.
    #[schema(format = "name", min_length = 1, max_length = 63)]
    pub name: String,
    /// Expected number of replicas. Nothing is deployed by it; `create instance` deploys.
    #[serde(default = "default_replicas")]
    #[schema(default = 1, minimum = 1, maximum = 1000)]
    pub replicas: u32,
    /// Labels for people and for selection. They have no effect of their own.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Full specification.
    pub spec: WorkloadSpec,
}

/// The kinds of workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub enum Kind {
    /// Containers that run together and share a network, an address and resource limits.
    Pod,
    /// A microVM with a kernel of its own.
    Function,
}

impl Kind {
    /// The kind as the store's keys spell it.
    #[must_use]
    pub const fn segment(self) -> &'static str {
        match self {
            Self::Pod => "pods",
            Self::Function => "function",
        }
    }

    /// Every kind.
    pub const ALL: [Self; 2] = [Self::Pod, Self::Function];
}

impl fmt::Display for Kind {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, out)
    }
}

/// What a workload's instances consist of. A Pod has `containers`; a Function has `function`, or one container whose
/// image is what its microVM runs.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct WorkloadSpec {
    /// Containers to deploy. Required for a Pod. A Function has one at most.
    #[serde(default)]
    #[schema(max_items = 32)]
    pub containers: Vec<ContainerSpec>,
    /// Containers that run before the others, one after the other, each to its good end. One with restart policy
    /// `Always` is a sidecar: it is started in its turn, goes on beside the others, and is ended after them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 32)]
    pub init_containers: Vec<ContainerSpec>,
    /// Secrets with logins of the registries of its images.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 8)]
    pub image_pull_secrets: Vec<PullSecret>,
    /// What its containers may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<PodSecurityContext>,
    /// Directories for its containers.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub volumes: Vec<Volume>,
    /// Whether its containers see each other's processes, and may send them signals.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schema(default = false)]
    pub share_process_namespace: bool,
    /// What makes its containers, of what the node's operator offers: `rik` for RIK itself, or the name of another program
    /// such as `runc`. Without it, the first of the node's list.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = "name", min_length = 1, max_length = 63)]
    pub runtime_class_name: Option<String>,
    /// Whether it has the node's network instead of one of its own, where the node's operator allows it.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schema(default = false)]
    pub host_network: bool,
    /// Whether it sees all processes of the node, where the node's operator allows it.
    #[serde(default, rename = "hostPID", skip_serializing_if = "is_default")]
    #[schema(default = false)]
    pub host_pid: bool,
    /// Whether it shares memory and queues with the node, where the node's operator allows it.
    #[serde(default, rename = "hostIPC", skip_serializing_if = "is_default")]
    #[schema(default = false)]
    pub host_ipc: bool,
    /// What happens when a container ends.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schema(default = "Never")]
    pub restart_policy: RestartPolicy,
    /// Pauses between the starts of a container that keeps ending.
    #[serde(default, skip_serializing_if = "is_default")]
    pub restart_backoff: RestartBackoff,
    /// The microVM to deploy, for a Function.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub function: Option<FunctionSpec>,
    /// Labels that a node must carry to be considered.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub node_selector: BTreeMap<String, String>,
    /// What the whole instance needs and may use; its containers share these limits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// Seconds between the polite request to end (TERM) and the end by force (KILL).
    #[serde(default = "default_grace")]
    #[schema(default = 10, minimum = 0, maximum = 3600)]
    pub termination_grace_period_seconds: u32,
}

/// One container of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerSpec {
    /// Name, unique in the pod.
    #[schema(format = "name", min_length = 1, max_length = 63)]
    pub name: String,
    /// Image of the container, such as `alpine:latest` or `127.0.0.1:5001/web@sha256:…`. Without a tag, `latest`.
    #[schema(format = "image", min_length = 1, max_length = 512)]
    pub image: String,
    /// When a registry is asked for the image.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schema(default = "IfNotPresent")]
    pub image_pull_policy: PullPolicy,
    /// Program to run, instead of the image's entrypoint.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1000, format = "argument")]
    pub command: Vec<String>,
    /// Arguments, instead of the image's command.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1000, format = "argument")]
    pub args: Vec<String>,
    /// Environment, added to the image's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1000)]
    pub env: Vec<EnvVar>,
    /// Whole configs and secrets as environment; `env` goes before them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 100)]
    pub env_from: Vec<EnvFrom>,
    /// Ports to publish on the node: one object or a list.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub ports: Vec<PortSpec>,
    /// Directory to start in, instead of the image's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = "absolute-path", max_length = 4096)]
    pub working_dir: Option<String>,
    /// Whether somebody may write to its program: `rikctl attach`. Without it, standard input is open and silent.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schema(default = false)]
    pub stdin: bool,
    /// Whether its standard input ends when the first who writes to it has done so.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schema(default = false)]
    pub stdin_once: bool,
    /// Whether its standard files are a terminal.
    #[serde(default, skip_serializing_if = "is_default")]
    #[schema(default = false)]
    pub tty: bool,
    /// What this container needs and may use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resources: Option<Resources>,
    /// What it may do.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub security_context: Option<SecurityContext>,
    /// Where it finds volumes of the pod.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub volume_mounts: Vec<VolumeMount>,
    /// Only for an init container, and only `Always`: it is a sidecar, and goes on beside the others.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub restart_policy: Option<RestartPolicy>,
    /// Whether it is still well; if not, it is ended, and the restart policy says what follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Probe>,
    /// Whether it is able to serve. Shown, and no reason to end it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Probe>,
    /// Whether it is up: until the first good answer, no other probe asks. If none comes, it is ended.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_probe: Option<Probe>,
    /// What runs before it is asked to end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lifecycle: Option<Lifecycle>,
}

impl ContainerSpec {
    /// Whether it is, as an init container, one that goes on beside the others.
    #[must_use]
    pub fn is_sidecar(&self) -> bool {
        self.restart_policy == Some(RestartPolicy::Always)
    }

    /// Whether it asks for all rights and devices of the node.
    #[must_use]
    pub fn is_privileged(&self) -> bool {
        self.security_context.as_ref().and_then(|own| own.privileged) == Some(true)
    }
}

/// One environment variable.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EnvVar {
    /// Its name: anything without `=` and NUL.
    #[schema(format = "env-name", min_length = 1, max_length = 256)]
    pub name: String,
    /// Its value.
    #[schema(format = "argument", max_length = 131072)]
    #[serde(default)]
    pub value: String,
    /// Where its value comes from, instead of `value`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value_from: Option<EnvSource>,
}

/// A port published on the node.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PortSpec {
    /// Port of the node.
    #[schema(minimum = 1, maximum = 65535)]
    pub port: u16,
    /// Port inside the container. Without it, the same number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65535)]
    pub target_port: Option<u16>,
    /// Protocol.
    #[serde(default)]
    #[schema(default = "TCP")]
    pub protocol: Protocol,
    /// How the port is exposed. There is one way so far.
    #[serde(default, rename = "type")]
    #[schema(default = "NodePort")]
    pub exposure: ExposureKind,
    /// Address of the node to publish on. Without it, every address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = "ipv4")]
    pub host_address: Option<Ipv4Addr>,
}

impl PortSpec {
    /// Port inside the container.
    #[must_use]
    pub fn target(&self) -> u16 {
        self.target_port.unwrap_or(self.port)
    }
}

/// Transport protocols.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
pub enum Protocol {
    /// TCP.
    #[default]
    #[serde(rename = "TCP", alias = "tcp")]
    Tcp,
    /// UDP.
    #[serde(rename = "UDP", alias = "udp")]
    Udp,
}

impl fmt::Display for Protocol {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Tcp => "TCP",
            Self::Udp => "UDP",
        })
    }
}

/// Ways to expose a port.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema,
)]
pub enum ExposureKind {
    /// A port of the node that the instance runs on.
    #[default]
    NodePort,
}

/// What is needed (requests, for placement) and what may be used (limits, enforced).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Resources {
    /// What a node must have free. Without it, the limits; without those, a small default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub requests: Option<ResourceList>,
    /// What may be used at most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limits: Option<ResourceList>,
}

/// Amounts of each resource.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ResourceList {
    /// Processor time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cpu: Option<Cpu>,
    /// Memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<Memory>,
    /// Processes and threads. Only a limit; a request for them has no effect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 4194304)]
    pub pids: Option<u32>,
    /// Disk that a container takes with what it writes beside its volumes, and with its logs. Only a limit of a container;
    /// 10Gi without it.
    #[serde(default, rename = "ephemeral-storage", skip_serializing_if = "Option::is_none")]
    pub ephemeral_storage: Option<Memory>,
}

fn default_api_version() -> String {
    "v1".to_owned()
}

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

const fn default_replicas() -> u32 {
    1
}

const fn default_grace() -> u32 {
    10
}

/// What one container asks for if its manifest says nothing: enough for a small program, little enough that a
/// machine of two cores takes 200 of them.
pub const DEFAULT_REQUEST: (Cpu, Memory) = (Cpu(10), Memory(16 << 20));

impl WorkloadSpec {
    /// What a node must have free for one instance: the pod's own request, or else the sum over its containers.
    #[must_use]
    pub fn requests(&self) -> (Cpu, Memory) {
        let asked = |resources: Option<&Resources>| {
            let requests = resources.and_then(|own| own.requests).unwrap_or_default();
            let limits = resources.and_then(|own| own.limits).unwrap_or_default();
            (requests.cpu.or(limits.cpu), requests.memory.or(limits.memory))
        };
        let sidecars = self.init_containers.iter().filter(|own| own.is_sidecar());
        let lasting = self.containers.iter().chain(sidecars);
        let none = Resources::default();
        let count = lasting.clone().count().max(1);
        let each = lasting.map(|container| container.resources.as_ref().unwrap_or(&none));
        let sum =
            each.chain(std::iter::repeat(&none)).take(count).fold((0_u64, 0_u64), |(cpu, memory), own| {
                let (own_cpu, own_memory) = asked(Some(own));
                (
                    cpu.saturating_add(own_cpu.unwrap_or(DEFAULT_REQUEST.0).0),
                    memory.saturating_add(own_memory.unwrap_or(DEFAULT_REQUEST.1).0),
                )
            });
        // An init container has the place of all the others before they start.
        let sum = self.init_containers.iter().fold(sum, |(cpu, memory), own| {
            let (own_cpu, own_memory) = asked(own.resources.as_ref());
            (cpu.max(own_cpu.map_or(0, |own| own.0)), memory.max(own_memory.map_or(0, |own| own.0)))
        });
        let (pod_cpu, pod_memory) = asked(self.resources.as_ref());
        (pod_cpu.unwrap_or(Cpu(sum.0)), pod_memory.unwrap_or(Memory(sum.1)))
    }

    /// Every container, the init containers first: a container's place in this order is its index on the node.
    pub fn all_containers(&self) -> impl Iterator<Item = &ContainerSpec> + Clone {
        self.init_containers.iter().chain(&self.containers)
    }

    /// Names of the local volumes that it uses.
    pub fn local_volumes(&self) -> impl Iterator<Item = &str> {
        self.volumes.iter().filter_map(|volume| volume.local.as_ref()).map(|local| local.name.as_str())
    }

    /// Every port of the node that one instance publishes.
    pub fn published(&self) -> impl Iterator<Item = &PortSpec> {
        self.all_containers().flat_map(|container| &container.ports)
    }

    /// The first field by which it takes something of the node itself, which needs the word of the node's operator. Such a
    /// pod has no user namespace of its own: what is the node's is of no use from inside one.
    #[must_use]
    pub fn host_access(&self) -> Option<&'static str> {
        [
            (self.host_network, "hostNetwork"),
            (self.host_pid, "hostPID"),
            (self.host_ipc, "hostIPC"),
            (self.all_containers().any(ContainerSpec::is_privileged), "securityContext.privileged"),
        ]
        .into_iter()
        .find_map(|(asked, field)| asked.then_some(field))
    }
}
