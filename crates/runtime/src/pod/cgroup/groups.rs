//! The groups of one container, as those are told who make it.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// The groups of one container, for the process that is to become it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Groups {
    /// cgroup v1: a process moves itself there after it was born. The kernel does that at once for a process that moves
    /// only itself, where moving another one waits for all processors.
    Legacy {
        /// Its directory in each hierarchy that has one.
        dirs: Vec<PathBuf>,
        /// Mount points of the hierarchies that the container sees.
        shown: Vec<PathBuf>,
    },
    /// cgroup v2: a process can be born there.
    Unified {
        /// Its directory.
        dir: PathBuf,
    },
}

/// A group of v1 that a container sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SeenGroup {
    /// Name of its hierarchy.
    pub name: String,
    /// Its directory.
    pub dir: PathBuf,
}

impl Groups {
    /// One directory of the container's, to see its processes.
    #[must_use]
    pub fn dir(&self) -> Option<&Path> {
        match self {
            Self::Legacy { dirs, .. } => dirs.first().map(PathBuf::as_path),
            Self::Unified { dir } => Some(dir),
        }
    }
}
