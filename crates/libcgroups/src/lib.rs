//! Stands in for the crate of the same name below libcontainer, and does nothing to any control group.
//!
//! libcontainer puts a container into its groups by moving a running process there, which makes the kernel wait for
//! every processor (about 8 ms), after looking for each hierarchy in the list of all mounts (2 ms, more with every pod).
//! The node makes a container's groups itself (`runtime::pod::cgroup`), and the process that calls libcontainer is born
//! or moves itself into them, which costs nothing. All that is left to say here is which hierarchies the container
//! shall see; see `docs/adr/0026-own-control-groups.md`.
//!
//! *Guarantee*: whatever libcontainer asks for is answered without touching a control group; what it cannot get here
//! (statistics, freezing) is an error and never a silent success.

mod idle;
pub mod stats;
pub mod v1;
pub mod v2;

use std::{path::PathBuf, sync::OnceLock};

/// By the name that libcontainer knows it by.
pub mod common {
    pub use crate::idle::*;
}

/// What this process shows to the container that it is about to create.
static SHOWN: OnceLock<Vec<PathBuf>> = OnceLock::new();

/// Says which hierarchies of cgroup v1 the container shall see, by mount point; none: it sees the unified one. To be
/// called once, before libcontainer is.
pub fn show(hierarchies: Vec<PathBuf>) {
    // A process creates one container; what was said first counts.
    let _ = SHOWN.set(hierarchies);
}

fn shown() -> &'static [PathBuf] {
    SHOWN.get().map_or(&[], Vec::as_slice)
}
