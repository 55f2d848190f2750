//! The contracts between controller, scheduler and riklet.
//!
//! ```text
//!  [node], [link], [relay]      what the parts say to each other, in the model's words
//!        ▲  convert  ▼           the only place where words and wire meet
//!      [wire]                    generated from proto/rik.proto
//! ```
//! The parts' logic knows only the first row; the simulation sends those values through the conversion and back.
//!
//! *Guarantee*: a message that cannot be read is an error that says which field, never a default.

pub mod channel;
mod convert;
pub mod link;
pub mod node;
pub mod relay;

/// The generated types and services.
#[expect(
    missing_docs,
    clippy::allow_attributes_without_reason,
    clippy::too_many_lines,
    reason = "generated code"
)]
pub mod wire {
    tonic::include_proto!("rik.v1");
}

pub use convert::DecodeError;

/// Version of the contracts. A peer with another number is refused with both numbers named.
pub const PROTOCOL: u32 = 2;

/// Largest message on any stream, after decompression. Larger sets are sent in parts.
pub const MAX_MESSAGE_BYTES: usize = 4 << 20;

/// Bytes of specifications after which a set is cut into another part, well below [`MAX_MESSAGE_BYTES`]: one
/// specification alone is at most 1 MiB.
pub const PART_BYTES: usize = 1 << 20;

/// Streams that one connection may have open at once; tonic would allow any number.
pub const MAX_STREAMS: u32 = 100;

/// Fencing token of a controller's reign over its store: rises with each start.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
pub struct Epoch(pub u64);
