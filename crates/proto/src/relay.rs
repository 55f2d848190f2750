//! Relayed streams: how a user's request reaches a node that has no listening port.
//!
//! ```text
//!  rikctl ──HTTP──▶ controller ──Link.Relay──▶ scheduler ──ToNode.open──▶ riklet
//!                       ▲                          ▲                        │
//!                       └──────── frames ──────────┴──── Session.Relay ─────┘
//! ```
//! Frames flow in both directions; each hop holds a few of them at most, so a slow reader slows the writer down.

use model::session::{AttachRequest, CopyRequest, ExecRequest};
use serde::{Deserialize, Serialize};

/// What is asked of a node over a stream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", rename_all_fields = "camelCase", tag = "kind")]
pub enum StreamRequest {
    /// The log of a container, as text lines.
    Logs {
        /// Uid of the instance.
        uid: String,
        /// Name of the container.
        container: String,
        /// Whether to go on as lines are written, through all runs of the container, until none will follow.
        #[serde(default)]
        follow: bool,
        /// Only the last so many lines.
        #[serde(default)]
        tail: Option<u32>,
        /// Only lines that are no older than so many seconds, by the node's clock.
        #[serde(default)]
        since_seconds: Option<u32>,
        /// Whether the log of the run before the present one is meant.
        #[serde(default)]
        previous: bool,
        /// Whether each line starts with the time at which it was written.
        #[serde(default)]
        timestamps: bool,
    },
    /// Instances that are gone and whose logs the node still has, as a JSON array of `DeletedInstanceView`.
    Deleted,
    /// The log of a container of such an instance, as text lines.
    DeletedLogs {
        /// Uid of the instance.
        uid: String,
        /// Name of the container; without it, the only one that lasted.
        #[serde(default)]
        container: Option<String>,
        /// Only the last so many lines.
        #[serde(default)]
        tail: Option<u32>,
        /// Only lines that are no older than so many seconds, by the node's clock.
        #[serde(default)]
        since_seconds: Option<u32>,
        /// Whether the log of the run before the last one is meant.
        #[serde(default)]
        previous: bool,
        /// Whether each line starts with the time at which it was written.
        #[serde(default)]
        timestamps: bool,
    },
    /// A program in a container. Data in both directions begins with a channel of `model::session`.
    Exec {
        /// Uid of the instance.
        uid: String,
        /// Name of the container.
        container: String,
        /// What is to be run.
        exec: ExecRequest,
    },
    /// Being there while a container runs. Data in both directions begins with a channel of `model::session`.
    Attach {
        /// Uid of the instance.
        uid: String,
        /// Name of the container.
        container: String,
        /// How.
        attach: AttachRequest,
    },
    /// A file or directory to or from a container. Data in both directions begins with a channel of `model::session`.
    Copy {
        /// Uid of the instance.
        uid: String,
        /// Name of the container.
        container: String,
        /// What is to be copied.
        copy: CopyRequest,
    },
    /// A connection to a port of an instance. Data in both directions begins with a channel of `model::session`.
    PortForward {
        /// Uid of the instance.
        uid: String,
        /// The port.
        port: u16,
    },
    /// The local volumes of the node, as a JSON array of `VolumeView`.
    Volumes,
    /// Remove a local volume; the answer is empty.
    RemoveVolume {
        /// Its name.
        name: String,
    },
    /// The images on the node, as a JSON array of `ImageView`.
    Images,
    /// Remove an image, or all that nothing uses; the answer is an `ImagesRemoved` as JSON.
    RemoveImages {
        /// Which one; without it, all that nothing uses.
        #[serde(default)]
        reference: Option<String>,
    },
    /// Pull an image, whether the node has one of that name or not; the answer is its `ImageView` as JSON.
    PullImage {
        /// Which one.
        reference: String,
    },
    /// An image of the node, as the bytes of an archive.
    SaveImage {
        /// Which one.
        reference: String,
    },
    /// An image archive follows; the answer is a JSON array of the references that were loaded.
    LoadImage,
}

/// A piece of a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// First frame of the riklet: the stream's id.
    Open(String),
    /// First frame of the controller.
    Request {
        /// Node that is asked.
        node: String,
        /// What is asked.
        request: StreamRequest,
    },
    /// Data, at most [`MAX_DATA_BYTES`].
    Data(Vec<u8>),
    /// The sender has no more data.
    End,
    /// The stream failed; nothing follows.
    Failed(RelayFailure),
}

/// Why a stream failed, as the user is told.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct RelayFailure {
    /// Stable code, such as `node-unreachable`.
    pub code: String,
    /// A sentence.
    pub message: String,
}

/// Most bytes of data in one frame.
pub const MAX_DATA_BYTES: usize = 64 << 10;
/// Frames that one hop holds: with [`MAX_DATA_BYTES`], half a megabyte for each stream and direction.
pub const HELD_FRAMES: usize = 8;
