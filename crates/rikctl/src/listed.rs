//! What is listed, and which columns it is listed in.
//!
//! The first columns of workloads and instances are documented and stay as they are; more stands in `-o wide`.

use jiff::Timestamp;
use model::{
    Instance, PublishedPort, Reason, WorkloadRecord,
    api::{Event, NodeView, ObjectView},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::Value;

use crate::{age::since, noun::Noun};

/// An object as it was sent, and as we understand it.
#[derive(Clone, Debug)]
pub(crate) struct Shown<T> {
    /// As sent: with fields that we do not know.
    pub(crate) value: Value,
    /// As understood.
    pub(crate) object: T,
}

impl<T: DeserializeOwned> Shown<T> {
    /// Reads an object that was sent.
    pub(crate) fn read(value: Value) -> Result<Self, serde_json::Error> {
        let object = T::deserialize(&value)?;
        Ok(Self { value, object })
    }
}

/// Something that is listed in a table.
pub(crate) trait Listed: DeserializeOwned {
    /// What it is.
    const NOUN: Noun;
    /// Headers of the columns that are always shown.
    const COLUMNS: &'static [&'static str];
    /// Headers of the columns that `-o wide` adds.
    const MORE: &'static [&'static str];

    /// Its name.
    fn name(&self) -> &str;
    /// The id that it has beside its name, or the name again.
    fn long_id(&self) -> &str;
    /// What stands in the first columns.
    fn cells(&self, now: Timestamp) -> Vec<String>;
    /// What stands in those that `-o wide` adds.
    fn more(&self, now: Timestamp) -> Vec<String>;
    /// Why it is not as it should be, for a person who sees only the first columns.
    fn trouble(&self) -> Option<String> {
        None
    }
}

impl Listed for WorkloadRecord {
    const NOUN: Noun = Noun::Workload;
    const COLUMNS: &'static [&'static str] = &["ID", "NAME", "KIND", "CONTAINERS"];
    const MORE: &'static [&'static str] = &["REPLICAS", "IMAGES", "AGE"];

    fn name(&self) -> &str {
        &self.manifest.name
    }

    fn long_id(&self) -> &str {
        &self.id
    }

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        let manifest = &self.manifest;
        let containers = manifest.spec.containers.len().to_string();
        vec![self.id.clone(), manifest.name.clone(), manifest.kind.to_string(), containers]
    }

    fn more(&self, now: Timestamp) -> Vec<String> {
        let spec = &self.manifest.spec;
        let images = spec.containers.iter().map(|container| container.image.as_str());
        let rootfs = spec.function.iter().filter_map(|own| Some(own.execution.as_ref()?.rootfs.as_str()));
        let images = images.chain(rootfs).collect::<Vec<_>>().join(",");
        vec![self.manifest.replicas.to_string(), images, since(now, self.created_at)]
    }
}

impl Listed for Instance {
    const NOUN: Noun = Noun::Instance;
    const COLUMNS: &'static [&'static str] = &["ID", "NAME", "STATUS"];
    const MORE: &'static [&'static str] =
        &["WORKLOAD", "NODE", "IP", "PORTS", "READY", "RESTARTS", "AGE", "REASON", "MESSAGE"];

    fn name(&self) -> &str {
        &self.id
    }

    fn long_id(&self) -> &str {
        &self.uid
    }

    fn cells(&self, _now: Timestamp) -> Vec<String> {
        vec![self.id.clone(), self.id.clone(), self.status.to_string()]
    }

    fn more(&self, now: Timestamp) -> Vec<String> {
        vec![
            self.workload.clone(),
            or_dash(self.node.clone()),
            or_dash(self.ip.map(|ip| ip.to_string())),
            or_dash((!self.ports.is_empty()).then(|| ports(&self.ports))),
            ready(self),
            self.restarts.to_string(),
            since(now, self.created_at),
            or_dash(self.reason.map(|reason| reason.to_string())),
            self.message.clone().unwrap_or_default(),
        ]
    }

    fn trouble(&self) -> Option<String> {
        let reason = match self.reason? {
            Reason::ImagePulling | Reason::Deleted => return None,
            reason => reason,
        };
        let message = self.message.as_deref().map(|message| format!(": {message}"));
        Some(format!("{}: {reason}{}", self.id, message.unwrap_or_default()))
    }
}

/// Containers that can serve, of those that are to.
fn ready(instance: &Instance) -> String {
    let serving = instance.containers.iter().filter(|own| !own.init);
    let ready = serving.filter(|own| own.ready).count();
    format!("{ready}/{}", instance.spec.containers.len())
}

impl Listed for NodeView {
    const NOUN: Noun = Noun::Node;
    const COLUMNS: &'static [&'static str] = &["NAME", "STATUS", "INSTANCES", "AGE"];
    const MORE: &'static [&'static str] =
        &["ADDRESS", "CPU", "MEMORY", "SUBNET", "ARCH", "OS", "KERNEL", "VERSION"];

    fn name(&self) -> &str {
        &self.node.name
    }

    fn long_id(&self) -> &str {
        &self.node.uid
    }

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let node = &self.node;
        vec![
            node.name.clone(),
            node.status.to_string(),
            self.instances.to_string(),
            since(now, node.created_at),
        ]
    }

    fn more(&self, _now: Timestamp) -> Vec<String> {
        let facts = &self.node.facts;
        vec![
            or_dash(facts.address.clone()),
            facts.cpu.to_string(),
            bytes(facts.memory.0),
            self.node.pod_subnet.clone(),
            facts.architecture.clone(),
            facts.os.clone(),
            facts.kernel.clone(),
            facts.version.clone(),
        ]
    }
}

/// A config, or a secret without its values.
#[derive(Clone, Debug, Deserialize)]
#[serde(transparent)]
pub(crate) struct Object<const SECRET: bool>(pub(crate) ObjectView);

impl<const SECRET: bool> Listed for Object<SECRET> {
    const NOUN: Noun = if SECRET { Noun::Secret } else { Noun::Config };
    const COLUMNS: &'static [&'static str] = &["NAME", "KEYS", "BYTES", "AGE"];
    const MORE: &'static [&'static str] = &["KEY NAMES"];

    fn name(&self) -> &str {
        &self.0.name
    }

    fn long_id(&self) -> &str {
        &self.0.name
    }

    fn cells(&self, now: Timestamp) -> Vec<String> {
        let size = self.0.keys.values().sum::<u64>();
        let count = self.0.keys.len().to_string();
        vec![self.0.name.clone(), count, size.to_string(), since(now, self.0.created_at)]
    }

    fn more(&self, _now: Timestamp) -> Vec<String> {
        vec![self.0.keys.keys().cloned().collect::<Vec<_>>().join(",")]
    }
}

impl Listed for Event {
    const NOUN: Noun = Noun::Event;
    const COLUMNS: &'static [&'static str] = &["AGE", "OBJECT", "ACTION", "STATUS", "REASON", "MESSAGE"];
    const MORE: &'static [&'static str] = &["NODE", "TIME", "REVISION"];

    fn name(&self) -> &str {
        &self.name
    }

    fn long_id(&self) -> &str {
        &self.name
    }

    fn cells(&self, now: Timestamp) -> Vec<String> {
        vec![
            since(now, self.time),
            format!("{}/{}", self.object, self.name),
            format!("{:?}", self.action).to_lowercase(),
            or_dash(self.status.clone()),
            or_dash(self.reason.map(|reason| reason.to_string())),
            self.message.clone().unwrap_or_default(),
        ]
    }

    fn more(&self, _now: Timestamp) -> Vec<String> {
        vec![or_dash(self.node.clone()), format!("{:.0}", self.time), self.revision.to_string()]
    }
}

/// Text, or a dash where there is none.
pub(crate) fn or_dash(text: Option<String>) -> String {
    text.unwrap_or_else(|| "-".to_owned())
}

/// `8080->80/TCP`, with the address in front where it is one alone.
pub(crate) fn ports(ports: &[PublishedPort]) -> String {
    let each = ports.iter().map(|port| {
        let address = port.host_address.map(|address| format!("{address}:")).unwrap_or_default();
        format!("{address}{}->{}/{}", port.port, port.target_port, port.protocol)
    });
    each.collect::<Vec<_>>().join(",")
}

/// Bytes to one decimal of their largest unit.
pub(crate) fn bytes(count: u64) -> String {
    const UNITS: [(&str, u64); 4] = [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)];
    match UNITS.iter().find(|(_, size)| count >= *size) {
        Some((unit, size)) => {
            let tenths = u128::from(count) * 10 / u128::from(*size);
            format!("{}.{} {unit}", tenths / 10, tenths % 10)
        }
        None => format!("{count} B"),
    }
}
