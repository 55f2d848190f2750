//! A microVM from inside and from its very edge.
//!
//! ```text
//!  shim ─▶ rik-guest supervise ─▶ VMM ─────── microVM
//!             │    ▲    └── one port, frames ──▶ rik-guest (/init) ─▶ the program, and further ones
//!             │    └─ rik-guest session: one for each further program, copy …
//!             └─ its standard files and its end are those of the program inside
//! ```
//! The supervisor is, to the shim, the process of a container: it writes what the program in the microVM writes, takes
//! its signals, and ends as it ends. So logs, restarts, probes, `exec`, `cp` and `attach` of a Function are those of a
//! Pod, and nothing else of RIK has to know what a microVM is.
//!
//! - [`frame`], [`order`]: the words. [`flow`]: nobody is sent more than there is room for.
//! - [`agent`]: inside. [`vmm`]: outside. [`accounts`]: who a user of an image is.
//!   [`disk`]: what is on one.
//!
//! *Guarantees*: the agent does nothing unless it is the first process of a machine. Neither side trusts the other's
//! numbers: every length has a bound.

pub mod accounts;
pub mod agent;
pub mod disk;
pub mod flow;
pub mod frame;
pub mod order;
pub mod vmm;
