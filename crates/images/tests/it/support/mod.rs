//! What the tests share: images made here, and a registry made here that can misbehave.

pub(crate) mod picture;
pub(crate) mod rawtar;
pub(crate) mod site;
pub(crate) mod tree;

use std::error::Error;
use std::future::Future;
use std::path::Path;
use std::time::Duration;

use images::{ImageStore, Reference, RegistryConfig};

/// How long anything in a test may take before it counts as hanging.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// A directory; whatever is mounted below its `pods` goes with it.
pub(crate) struct Scratch(tempfile::TempDir);

impl Scratch {
    pub(crate) fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        for pod in std::fs::read_dir(self.path().join("pods")).into_iter().flatten().flatten() {
            let _ = rustix::mount::unmount(pod.path().join("rootfs"), rustix::mount::UnmountFlags::DETACH);
        }
    }
}

/// A store in a directory of its own.
pub(crate) struct Lab {
    // Dropped first: nothing of the store writes from then on.
    pub(crate) store: ImageStore,
    pub(crate) scratch: Scratch,
}

impl Lab {
    pub(crate) fn new() -> Self {
        Self::with(RegistryConfig::default())
    }

    pub(crate) fn with(config: RegistryConfig) -> Self {
        let scratch = Scratch(tempfile::tempdir().unwrap());
        let store = ImageStore::open(&scratch.path().join("store"), config).unwrap();
        Self { scratch, store }
    }

    pub(crate) fn root(&self) -> std::path::PathBuf {
        self.scratch.path().join("store")
    }

    /// Everything that a failed pull could leave.
    pub(crate) fn leftovers(&self) -> Vec<String> {
        ["tmp", "blobs/sha256"].iter().flat_map(|name| names_in(&self.root().join(name))).collect()
    }
}

pub(crate) fn names_in(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<String> =
        entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

pub(crate) fn name(text: &str) -> Reference {
    text.parse().unwrap()
}

/// The whole chain of reasons, as a person reads it.
pub(crate) fn text(fault: &dyn Error) -> String {
    let mut text = fault.to_string();
    let mut source = fault.source();
    while let Some(inner) = source {
        text = format!("{text}: {inner}");
        source = inner.source();
    }
    text
}

/// Waits, but not for ever.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it hangs")
}

/// Looks until `done`, but not for ever.
pub(crate) async fn until(what: &str, mut done: impl FnMut() -> bool) {
    let looking = async {
        while !done() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, looking).await.unwrap_or_else(|_| panic!("never: {what}"));
}
