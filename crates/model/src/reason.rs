//! Reasons: the stable codes that say why something is as it is.
//!
//! A code is for programs and never changes its meaning; the sentence for people stands beside it in `message`.

use std::fmt;

use serde::{Deserialize, Serialize};

/// Why an instance is in its state. Clients must accept codes that they do not know.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[non_exhaustive]
pub enum Reason {
    /// No node can take it at present; the message says what stands in the way on which nodes.
    Unplaceable,
    /// An image is being fetched.
    ImagePulling,
    /// An image could not be fetched or was not what it claimed to be.
    ImagePullFailed,
    /// The container could not be created or started: no such command, bad user, refused by the kernel.
    StartFailed,
    /// Network, address or disk of the instance could not be set up.
    SandboxFailed,
    /// The port that it wants to publish is taken on the node.
    PortInUse,
    /// A container ended with a code other than zero.
    NonZeroExit,
    /// A container was ended by a signal.
    Signaled,
    /// A container used more memory than it may.
    OutOfMemory,
    /// A microVM ended otherwise than by the end of its program: its kernel or its VMM did.
    MicrovmFailed,
    /// A container took more of the disk than it may.
    OutOfDisk,
    /// A container keeps ending, and is started again after a pause that grows.
    CrashLoop,
    /// A container was ended because its liveness or startup probe failed.
    Unhealthy,
    /// It ended while nobody could see how.
    ExitUnknown,
    /// Its node is not heard from; it may still be running there.
    NodeLost,
    /// Its node started again, or lost its records, and it cannot be running any more.
    NodeRestarted,
    /// Nothing here can run this kind of workload.
    KindUnsupported,
    /// It asks for something that the operator of its node does not allow.
    NotAllowed,
    /// A config or secret that it needs is not there, or lacks a key.
    ObjectMissing,
    /// The user asked for its end.
    Deleted,
    /// The node could not remove all that belongs to it yet, and keeps trying.
    RemovalFailed,
    /// A code from a newer RIK.
    #[serde(other)]
    Other,
}

impl fmt::Display for Reason {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, out)
    }
}
