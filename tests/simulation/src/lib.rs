//! The whole of RIK in one process: the real controller logic, scheduler and riklets, with a store in memory, a runtime
//! that runs nothing, and a network, a clock and a fate that follow from one seed.
//!
//! ```text
//!  [world]     the processes and what survives them: store, machines, node records
//!  [network]   connections that are slow, repeat themselves and break
//!  [history]   what happened, for a person to read
//!  [laws]      what must hold, during and after
//! ```
//! One seed is one history: `RIK_SEED=17 cargo nextest run -p simulation a_seed` prints it.
//!
//! *Guarantee*: the same seed gives the same history, word for word; a test holds that.

pub mod history;
pub mod laws;
pub mod network;
pub mod world;

pub use history::History;
pub use world::{World, run_seed};
