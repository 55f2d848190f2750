//! The riklet: the node agent. Runs what its node is assigned, and reports what it sees.
//!
//! ```text
//!  scheduler ══ session ══▶ [agent] ── one task for each instance ──▶ Runtime
//!      ◀══ reports, until acknowledged ══ [reporter] ◀── what each task sees
//! ```
//! It dials out only and has no listening port. What it started is recorded by the runtime before it is started, so a
//! riklet that was killed finds everything again and starts nothing twice. Stopping the riklet stops no instance.
//!
//! *Guarantees*: what is not assigned is removed, but never on the word of a controller that knows less than this node
//! has seen; one instance's trouble delays no other; a report is repeated until it is recorded.

pub mod agent;
pub mod config;
pub mod dial;
pub mod facts;
pub mod identity;
pub mod instance_task;
pub mod meter;
mod probes;
pub mod reporter;
pub mod start;
pub mod streams;
