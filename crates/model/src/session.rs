//! What is said over the WebSocket of a session: a program in a container, or a port of an instance.
//!
//! ```text
//!  client ──text: SessionRequest──▶ controller ──▶ … ──▶ riklet
//!     ◀──── binary: channel, then bytes ────▶          until one of them ends it
//! ```
//! Every binary message begins with a byte that says which channel its bytes are of.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Channel of the program's input, and of what goes to a port.
pub const INPUT: u8 = 0;
/// Channel of the program's output, and of what comes from a port.
pub const OUTPUT: u8 = 1;
/// Channel of the program's complaints.
pub const ERRORS: u8 = 2;
/// Channel of [`Control`] from the client, and of [`Outcome`] to it; JSON.
pub const CONTROL: u8 = 3;
/// Longest request of a session: room for a thousand arguments of sensible length.
pub const MAX_REQUEST_BYTES: usize = 256 << 10;

/// A program to be run in a container: the first message of the session, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct ExecRequest {
    /// Name of the container; needed if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Program and arguments; not through a shell.
    pub command: Vec<String>,
    /// Whether it gets input. Otherwise its input has ended from the beginning.
    #[serde(default)]
    pub stdin: bool,
    /// Size of its terminal, if it is to have one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
}

/// Being there while a container runs: the first message of the session, as text.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct AttachRequest {
    /// Name of the container; needed if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Whether something will be typed, if the container reads (`stdin: true`).
    #[serde(default)]
    pub stdin: bool,
    /// Size of the client's terminal, if the container has one (`tty: true`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub terminal: Option<TerminalSize>,
}

/// A file or directory to be copied: the first message of the session, as text. What is copied goes as an archive (tar)
/// with one name at its top.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct CopyRequest {
    /// Name of the container; needed if there are several.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Absolute path in the container.
    pub path: String,
    /// Which way.
    pub direction: CopyDirection,
}

/// Which way a copy goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum CopyDirection {
    /// Out of the container: the archive comes as output.
    Out,
    /// Into the container: the archive is the input. Into a directory that is there, or under a new name in one.
    In,
}

/// Size of a terminal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TerminalSize {
    /// Lines.
    pub rows: u16,
    /// Characters of a line.
    pub columns: u16,
}

/// What a client says beside the input.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Control {
    /// The input has ended.
    EndOfInput,
    /// The terminal has another size now.
    Resize(TerminalSize),
    /// The program is to get this signal, by its number.
    Signal(i32),
}

/// How a session ended: its last message.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub enum Outcome {
    /// The program ended with this code; 128 and the signal's number if a signal ended it.
    Exit(i32),
    /// There was no session, or it broke off.
    Failed {
        /// Stable code, such as `container-not-found`.
        code: String,
        /// A sentence.
        message: String,
    },
}

/// A message of a channel.
#[must_use]
pub fn message(channel: u8, bytes: &[u8]) -> Vec<u8> {
    let mut message = Vec::with_capacity(1 + bytes.len());
    message.push(channel);
    message.extend_from_slice(bytes);
    message
}
