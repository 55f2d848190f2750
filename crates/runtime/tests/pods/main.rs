//! Pods on a real node: real images, containers, namespaces and control groups.

#![expect(clippy::unwrap_used, reason = "what fails here fails the test")]

mod execs;
mod lives;
mod node;
mod restarts;
mod security;
mod table;
