//! The REST API over a real socket: what each route answers, how it refuses, and what hostile clients cannot do.
//!
//! Every test has a controller of its own ([`bed::Bed`]) over the memory store, and speaks HTTP by hand
//! ([`wire::Wire`]).

#![expect(clippy::unwrap_used, reason = "a test fails by it, also outside of its own function")]

mod bed;
mod documents;
mod hostile;
mod nodes;
mod objects;
mod overload;
mod v0;
mod v0_regressions;
mod v1;
mod watch;
mod wire;
