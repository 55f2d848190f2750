//! Where everything of an all-in-one cluster is, below one directory.

use std::path::{Path, PathBuf};

use anyhow::Context;

/// The directory, unless another is given.
pub(crate) const DEFAULT_DATA_DIR: &str = "/var/lib/rik";

/// The places below the directory.
#[derive(Clone, Debug)]
pub(crate) struct Layout {
    root: PathBuf,
}

impl Layout {
    /// The layout of this directory, which need not exist.
    pub(crate) fn of(root: PathBuf) -> anyhow::Result<Self> {
        let root = std::path::absolute(&root).with_context(|| format!("could not use {}", root.display()))?;
        Ok(Self { root })
    }

    /// The directory itself.
    pub(crate) fn root(&self) -> &Path {
        &self.root
    }

    /// The controller's database.
    pub(crate) fn database(&self) -> PathBuf {
        self.root.join("data")
    }

    /// The single node of a cluster in one process.
    pub(crate) fn single_node(&self) -> PathBuf {
        self.root.join("node")
    }

    /// The nodes of a cluster of several.
    pub(crate) fn nodes(&self) -> PathBuf {
        self.root.join("nodes")
    }

    /// One of them.
    pub(crate) fn node(&self, name: &str) -> PathBuf {
        self.nodes().join(name)
    }

    /// Namespaces of one of them.
    pub(crate) fn namespaces(&self, name: &str) -> PathBuf {
        self.root.join("wires").join("pods").join(name).join("ns")
    }

    /// What joins the nodes to this machine.
    pub(crate) fn wires(&self) -> PathBuf {
        self.root.join("wires")
    }

    /// The scheduler's socket for nodes.
    pub(crate) fn socket(&self) -> PathBuf {
        self.root.join("scheduler.sock")
    }

    /// Held by a running `rik up`.
    pub(crate) fn lock(&self) -> PathBuf {
        self.root.join("rik.lock")
    }

    /// Names of the nodes of a cluster of several that are here.
    pub(crate) fn node_names(&self) -> Vec<String> {
        let entries = std::fs::read_dir(self.nodes()).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }
}
