//! Functions: what runs in a microVM, and how it is reached.
//!
//! A Function is described by a root file system (the documented way), or by one container, whose image becomes the root
//! file system. Either way an instance has one container in the end: everything that holds for containers holds for it.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{
    ContainerSpec, EnvVar, ExposureKind, PortSpec, Protocol, ResourceList, Resources, WorkloadSpec,
    health::Probe, image::PullPolicy,
};
use crate::quantity::{Cpu, Memory};

/// Ports of the node that Functions get if they name none.
pub const NODE_PORTS: std::ops::RangeInclusive<u16> = 45_000..=49_999;
/// Memory of a microVM whose manifest does not say.
pub const DEFAULT_MEMORY: Memory = Memory(128 << 20);
/// Processor time that a microVM whose manifest does not say asks its node for: a kernel of its own is never quite idle.
pub const DEFAULT_CPU: Cpu = Cpu(50);
/// The least memory that a microVM's kernel comes up with.
pub const MIN_MEMORY: Memory = Memory(80 << 20);
/// Name of the container that a root file system becomes.
pub const CONTAINER: &str = "function";

/// A microVM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FunctionSpec {
    /// What runs in it, if no container says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub execution: Option<FunctionExecution>,
    /// How it is reached. Without it, a Function with a root file system gets a free port of the node.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposure: Option<FunctionExposure>,
}

/// What runs in a microVM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FunctionExecution {
    /// Root file system to use: a URL that the node can reach, or a path of the node that its operator allows. An ext4,
    /// squashfs or erofs image, or a tar archive, plain or packed with gzip or zstd.
    #[schema(format = "url-or-path", max_length = 2048)]
    pub rootfs: String,
    /// SHA-256 of what is there, in hexadecimal. Anything else is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = "sha256", min_length = 64, max_length = 64)]
    pub sha256: Option<String>,
    /// Program to run, instead of the root file system's `init`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1000, format = "argument")]
    pub command: Vec<String>,
    /// Its environment.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1000)]
    pub env: Vec<EnvVar>,
    /// Directory to start in.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = "absolute-path", max_length = 4096)]
    pub working_dir: Option<String>,
    /// Whether it is still well; if not, it is ended, and the restart policy says what follows.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub liveness_probe: Option<Probe>,
    /// Whether it is able to serve.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub readiness_probe: Option<Probe>,
    /// Whether it is up: until the first good answer, no other probe asks.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub startup_probe: Option<Probe>,
}

/// How a microVM is reached.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct FunctionExposure {
    /// Port of the node. Without it, a free one of 45000 to 49999.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 1, maximum = 65535)]
    pub port: Option<u16>,
    /// Port inside the microVM.
    #[serde(default = "default_function_port")]
    #[schema(default = 8080, minimum = 1, maximum = 65535)]
    pub target_port: u16,
    /// How the port is exposed.
    #[serde(default, rename = "type")]
    #[schema(default = "NodePort")]
    pub exposure: ExposureKind,
}

const fn default_function_port() -> u16 {
    8080
}

impl Default for FunctionExposure {
    fn default() -> Self {
        Self { port: None, target_port: default_function_port(), exposure: ExposureKind::NodePort }
    }
}

impl WorkloadSpec {
    /// Whether an instance of this Function needs a port of the node chosen for it.
    #[must_use]
    pub fn wants_port(&self) -> bool {
        self.exposure().is_some_and(|exposure| exposure.port.is_none())
    }

    /// How the Function is exposed: as it says, or at a port that is chosen if it only has a root file system.
    fn exposure(&self) -> Option<FunctionExposure> {
        let function = self.function.as_ref()?;
        function.exposure.clone().or_else(|| function.execution.as_ref().map(|_| FunctionExposure::default()))
    }

    /// The specification of one instance of this Function: with its container, its memory, and its port of the node,
    /// which is `chosen` if it names none.
    #[must_use]
    pub fn of_function(&self, chosen: Option<u16>) -> Self {
        let mut spec = self.clone();
        if let Some(execution) = self.function.as_ref().and_then(|own| own.execution.as_ref()) {
            spec.containers = vec![execution.container()];
        }
        let exposure =
            self.exposure().map(|exposure| FunctionExposure { port: exposure.port.or(chosen), ..exposure });
        if let (Some(function), Some(_)) = (&mut spec.function, &exposure) {
            function.exposure.clone_from(&exposure);
        }
        if let Some(container) = spec.containers.first_mut() {
            let published = exposure.and_then(|exposure| {
                Some(PortSpec {
                    port: exposure.port?,
                    target_port: Some(exposure.target_port),
                    protocol: Protocol::Tcp,
                    exposure: exposure.exposure,
                    host_address: None,
                })
            });
            container.ports.extend(published);
        }
        let (memory, own) = (spec.memory_limit(), spec.resources.clone());
        if let Some(container) = spec.containers.first_mut() {
            let resources = container.resources.get_or_insert_with(Resources::default);
            if memory.is_none() {
                resources.limits.get_or_insert_with(ResourceList::default).memory = Some(DEFAULT_MEMORY);
            }
            let asks = |own: &Resources| {
                [own.requests, own.limits].into_iter().flatten().any(|one| one.cpu.is_some())
            };
            if !asks(resources) && !own.as_ref().is_some_and(asks) {
                resources.requests.get_or_insert_with(ResourceList::default).cpu = Some(DEFAULT_CPU);
            }
        }
        spec
    }

    /// The memory of an instance that is a microVM, if its manifest says.
    #[must_use]
    pub fn memory_limit(&self) -> Option<Memory> {
        let own = self.containers.first().and_then(|container| container.resources.as_ref());
        [own, self.resources.as_ref()].into_iter().flatten().find_map(|resources| resources.limits?.memory)
    }
}

impl FunctionExecution {
    fn container(&self) -> ContainerSpec {
        ContainerSpec {
            name: CONTAINER.to_owned(),
            image: self.rootfs.clone(),
            image_pull_policy: PullPolicy::default(),
            command: self.command.clone(),
            env: self.env.clone(),
            working_dir: self.working_dir.clone(),
            liveness_probe: self.liveness_probe.clone(),
            readiness_probe: self.readiness_probe.clone(),
            startup_probe: self.startup_probe.clone(),
            ..ContainerSpec::default()
        }
    }
}

/// Whether an `image` is where a root file system is, rather than the name of an image.
#[must_use]
pub fn is_place(image: &str) -> bool {
    ["http://", "https://", "/"].iter().any(|start| image.starts_with(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(text: &str) -> WorkloadSpec {
        serde_json::from_str(text).unwrap()
    }

    #[test]
    fn documented_function_has_one_container_and_a_port_in_its_instances() {
        let documented =
            spec(r#"{"containers":[],"function":{"execution":{"rootfs":"https://x.test/r.ext4"}}}"#);
        assert!(documented.wants_port());
        let own = documented.of_function(Some(45_001));
        let container = own.containers.first().unwrap();
        assert_eq!(
            (container.name.as_str(), container.image.as_str()),
            ("function", "https://x.test/r.ext4")
        );
        let port = own.published().next().unwrap();
        assert_eq!((port.port, port.target()), (45_001, 8080));
        assert_eq!(own.requests(), (DEFAULT_CPU, DEFAULT_MEMORY));
        assert_eq!(own.function.unwrap().exposure.unwrap().port, Some(45_001));
    }

    #[test]
    fn port_of_the_user_is_kept_and_an_image_alone_gets_none() {
        let named = spec(
            r#"{"function":{"execution":{"rootfs":"http://x.test/r"},"exposure":{"port":8000,"targetPort":80}}}"#,
        );
        assert!(!named.wants_port());
        let own = named.of_function(None);
        assert_eq!(own.published().map(|port| (port.port, port.target())).collect::<Vec<_>>(), [(8000, 80)]);
        let image = spec(r#"{"containers":[{"name":"web","image":"web:1"}]}"#);
        assert!(!image.wants_port());
        let own = image.of_function(None);
        assert_eq!(own.published().count(), 0);
        assert_eq!(own.memory_limit(), Some(DEFAULT_MEMORY));
    }
}
