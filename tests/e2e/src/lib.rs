//! The harness of the end-to-end tests: real programs, real containers, nothing left behind.
//!
//! ```text
//! cargo nextest ── test process ──▶ harness enclose ──▶ unshare ──▶ harness init (pid 1) ──▶ same test, inside
//!                  (outside: waits,                   own mount, net, pid,                   Lab: network, daemons,
//!                   removes cgroups)                  ipc, uts, cgroup namespaces            registry, ledger, story
//! ```
//!
//! A test calls [`story`]. Its process only starts itself again in an enclosure and waits; the story is played inside,
//! where the whole machine is its own: `/run`, `/tmp`, the process list, the network and the cgroup tree are empty at
//! the start, so the [`ledger`] needs hardly an exception, and ports need no search. The files of the machine itself can
//! be read and not changed (see [`filesystem`]).
//!
//! *Guarantees*: when the enclosure's first process ends, for whatever reason (a panic, a killed test runner), the
//! kernel ends everything in it and drops its mounts, links and rules. Only cgroup folders outlive it; they carry the
//! test's process id in their name, and are removed by it or by the next test that finds that process gone.
//!
//! *Assumptions*: root; the programs of the workspace are built (`cargo build --workspace`) and so is the static
//! `hello` (`cargo xtask test` does both first).

pub mod api;
pub mod cgroups;
pub mod daemon;
pub mod enclosure;
pub mod filesystem;
pub mod guest;
pub mod http;
pub mod image;
pub mod lab;
pub mod ledger;
pub mod manifest;
pub mod network;
pub mod probe;
pub mod programs;
pub mod registry;
pub mod rikctl;
pub mod terminal;
pub mod wait;

pub use api::Api;
pub use enclosure::story;
pub use lab::Lab;
pub use rikctl::Said;
pub use wait::{LONG, SHORT, wait_until};
