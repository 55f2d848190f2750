//! The nouns of RIK and their laws. Pure: values in, values out; no clock, no files, no randomness.
//!
//! Read in this order: [`manifest`] (what a user asks for), [`instance`] (one running copy of it), [`lifecycle`]
//! (the law that every instance follows), [`node`] (where it runs). Everything else in RIK may use this crate;
//! this crate uses none of the others.

pub mod api;
mod clock;
pub mod given;
pub mod instance;
pub mod key;
pub mod lifecycle;
pub mod manifest;
pub mod node;
pub mod quantity;
pub mod reason;
mod revision;
pub mod session;

pub use clock::Clock;
pub use instance::{
    ContainerPhase, ContainerStatus, Instance, PastRun, PublishedPort, StartTimes, WorkloadRecord,
};
pub use lifecycle::Status;
pub use manifest::{ContainerSpec, Kind, PortSpec, Protocol, Workload, WorkloadSpec};
pub use node::{Node, NodeMetrics, NodeStatus};
pub use reason::Reason;
pub use revision::Revision;
