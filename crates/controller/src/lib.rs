//! The controller: the REST API, and the owner of the store.
//!
//! ```text
//!  rikctl ──▶ http ──▶ cluster ──▶ store ──▶ mirror ──▶ http (lists), link (snapshot)
//!                         ▲                               │
//!                         └───── plans, reports ── link ◀─┘──▶ scheduler
//! ```
//! Everything that changes goes through [`cluster::Cluster`] as a transaction against the revision that it was decided
//! from; everything that is read comes from the [`mirror`], which follows the store. The HTTP side works without the
//! scheduler; the [`link`] works without a request.
//!
//! *Guarantees*: what was acknowledged is in the store; a row is visible when its answer arrives; a plan or report
//! that was made from an older state changes nothing.

pub mod cluster;
pub mod http;
pub mod import;
pub mod link;
pub mod mirror;
pub mod sealing;
pub mod start;

pub use cluster::Cluster;
