//! Volumes: directories that the containers of a pod share and that outlive a container's run.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::given::ObjectVolume;
use crate::quantity::Memory;

/// Most volumes of one pod, and most mounts of one container.
pub const MAX_VOLUMES: usize = 64;

/// A directory for the containers of a pod. Exactly one of the others says what it is.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Name, unique in the pod.
    #[schema(format = "name", min_length = 1, max_length = 63)]
    pub name: String,
    /// A directory that is empty at first and goes with the instance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub empty_dir: Option<EmptyDir>,
    /// A directory or file of the node, where the node's operator allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host_path: Option<HostPath>,
    /// A directory of the node that RIK keeps: it is there for the next instance when this one is gone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub local: Option<LocalVolume>,
    /// A config as files; also written `configMap`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<ObjectVolume>,
    /// A secret as files, in memory only, readable by the container's user alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret: Option<ObjectVolume>,
}

/// A directory that is empty at first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct EmptyDir {
    /// Where its files are. Without it, on the node's disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub medium: Option<Medium>,
    /// How much it holds at most. In memory, nothing more can be written, and without it half of the node's memory; on disk,
    /// containers that mount it are ended when it is more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub size_limit: Option<Memory>,
}

/// Where files can be beside a disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum Medium {
    /// In memory; what is written counts as memory of the container that wrote it.
    Memory,
}

/// A directory or file of the node.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HostPath {
    /// Its path on the node. It has to be there.
    #[schema(format = "absolute-path", max_length = 4096)]
    pub path: String,
}

/// A directory of the node that outlives instances. It is made when it is first used, and an instance that names it is
/// placed on the node that has it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct LocalVolume {
    /// Its name, the same for every workload that uses it.
    #[schema(format = "object-name", min_length = 1, max_length = 63)]
    pub name: String,
}

/// Where a container finds a volume.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMount {
    /// Name of the volume.
    #[schema(format = "name", min_length = 1, max_length = 63)]
    pub name: String,
    /// Path in the container.
    #[schema(format = "absolute-path", max_length = 4096)]
    pub mount_path: String,
    /// A file or directory of the volume, instead of all of it. A directory that is missing is made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = "relative-path", max_length = 4096)]
    pub sub_path: Option<String>,
    /// Whether the container may only read.
    #[serde(default, skip_serializing_if = "is_false")]
    #[schema(default = false)]
    pub read_only: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the form that serde asks for")]
const fn is_false(value: &bool) -> bool {
    !*value
}

/// Why a volume cannot be mounted at `path` in a container; None if it can. Such a path is made of plain names, and is
/// none that the kernel's own file systems have to be at.
#[must_use]
pub fn mount_path_fault(path: &str) -> Option<&'static str> {
    let plain = path.split('/').skip(1).all(|part| !matches!(part, "." | ".."));
    let path = path.trim_end_matches('/');
    let below = |top: &str| path == top || path.strip_prefix(top).is_some_and(|rest| rest.starts_with('/'));
    if !plain {
        Some("has no \".\" and \"..\" in it")
    } else if path.is_empty() {
        Some("cannot be the root of the container")
    } else if path != "/dev/shm" && ["/proc", "/sys", "/dev"].into_iter().any(below) {
        Some("cannot be below /proc, /sys or /dev, but for /dev/shm")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volumes_stay_away_from_what_the_kernel_shows() {
        for path in ["/data", "/data/", "/dev/shm", "/developers", "/etc/app", "/var/lib/x"] {
            assert_eq!(mount_path_fault(path), None, "{path}");
        }
        for path in ["/", "//", "/proc", "/proc/sys", "/sys/", "/dev", "/dev/pts", "/a/../proc", "/a/./b"] {
            assert!(mount_path_fault(path).is_some(), "{path}");
        }
    }
}
