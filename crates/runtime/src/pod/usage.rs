//! What the pods of this node use right now: read from their control groups and links, with nothing held in between.

use std::{fs, path::Path};

use super::{PodRuntime, record::Found};

/// What one pod has used, and uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PodUsage {
    /// Uid of the instance.
    pub uid: String,
    /// Id of the instance.
    pub id: String,
    /// Bytes that it received over the network; 0 if it has none.
    pub received_bytes: u64,
    /// Bytes that it sent.
    pub sent_bytes: u64,
    /// Its containers that have a group, in the order of the manifest.
    pub containers: Vec<ContainerUsage>,
}

/// What one container has used, and uses.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContainerUsage {
    /// Its name.
    pub name: String,
    /// Processor time of its present run, in microseconds.
    pub cpu_micros: u64,
    /// Memory in bytes, without what the kernel holds of files and could give back at once.
    pub memory_bytes: u64,
    /// Bytes on disk of its writable layer and its logs, as seen last.
    pub disk_bytes: u64,
}

impl PodRuntime {
    /// What each pod uses, ordered by uid. One that is being set up or removed may be left out.
    #[must_use]
    pub fn usage(&self) -> Vec<PodUsage> {
        self.shared.cgroups.pods().into_iter().filter_map(|uid| self.usage_of(uid)).collect()
    }

    fn usage_of(&self, uid: String) -> Option<PodUsage> {
        let Found::Record(record) = self.place(&uid).ok()?.read() else { return None };
        let groups = &self.shared.cgroups;
        let containers = record.spec.spec.all_containers().enumerate().filter_map(|(index, container)| {
            let (cpu_micros, memory_bytes) =
                (groups.cpu_micros(&uid, index)?, groups.memory_bytes(&uid, index)?);
            let disk_bytes = self.shared.disk.of_container(&uid, index);
            Some(ContainerUsage { name: container.name.clone(), cpu_micros, memory_bytes, disk_bytes })
        });
        let containers = containers.collect();
        let link = record.attachment.as_ref().map(|attachment| attachment.link.as_str());
        // The node's end of the link: what it receives, the pod has sent.
        let counted = |name: &str| link.and_then(|link| number(&statistics(link).join(name))).unwrap_or(0);
        let (received_bytes, sent_bytes) = (counted("tx_bytes"), counted("rx_bytes"));
        Some(PodUsage { id: record.spec.id, received_bytes, sent_bytes, containers, uid })
    }
}

fn statistics(link: &str) -> std::path::PathBuf {
    Path::new("/sys/class/net").join(link).join("statistics")
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}
