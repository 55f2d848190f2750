//! The scheduler: decides where instances run, and keeps the sessions of the nodes. It holds no truth of its own.
//!
//! ```text
//!   controller ══ link ══▶ ┌───────────┐ ◀══ session ══ riklet, one for each node
//!     state, acks          │ [machine] │      hello, heartbeat, reports
//!   ◀══ plans, reports ══  └───────────┘ ══▶ what it is assigned, acks
//! ```
//! [`machine`] is a state machine without I/O: an input and the time go in, messages come out. [`serve`] carries them
//! over gRPC. Everything in [`machine`] can be thrown away at any instant: the controller sends its state again, and the
//! nodes report again.
//!
//! *Guarantees*: a node hears of a binding only when the controller has recorded it; a session that cannot keep up is
//! closed and begins anew with the full set, so nobody waits for a slow peer.

pub mod machine;
pub mod serve;
