//! The HTTP side: REST as RIK 2023 had it (v0), and the API of this RIK (v1).
//!
//! ```text
//!  server ▶ connections ▶ answer ▶ gate ▶ routes ▶ v0 | v1 ▶ Cluster
//!  listener  who may stay   around every    what a route reads: body
//!  socket                   request         what it refuses:    problem
//! ```
//! Handlers translate and nothing else: every decision is the cluster's.
//!
//! *Guarantees*: everything that a client can make the server hold is bounded ([`limits`]); every refusal has a stable
//! code ([`problem`]) and the request's id; the OpenAPI document lists what is served, because both come from one list.
//! *Assumption*: whoever can reach the port may do everything: there is no authentication yet.

mod answer;
mod body;
mod connections;
mod gate;
pub mod limits;
mod page;
mod place;
pub mod problem;
mod relay;
mod routes;
pub mod server;
mod socket;
mod v0;
mod v1;

pub use limits::Limits;
pub use server::{Server, serve};
