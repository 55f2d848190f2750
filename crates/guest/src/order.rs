//! What a microVM is told to be and to do, and what it says about it.

use std::{net::Ipv4Addr, path::PathBuf};

use serde::{Deserialize, Serialize};

/// What the supervisor is told: the whole description of one microVM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Machine {
    /// The VMM and its arguments.
    pub vmm: Vec<String>,
    /// File with the state that it begins with, given to the VMM as its descriptor [`crate::vmm::STATE`]; without it, its
    /// kernel boots.
    pub template: Option<PathBuf>,
    /// What the VMM is told by a socket of its own, if it is not told all by its arguments.
    pub api: Option<Api>,
    /// Socket of the VMM that is the other end of the microVM's port.
    pub port: PathBuf,
    /// Number of the agent's port, if that socket leads to all of them.
    pub agent: Option<u32>,
    /// Seconds that the microVM has to come up.
    pub boot_seconds: u32,
    /// What the microVM is to be.
    pub boot: Boot,
    /// The program that it is there for.
    pub main: Order,
    /// Whether somebody may write to it.
    pub stdin: bool,
}

/// What a VMM is told by its own socket, before its machine runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Api {
    /// The socket.
    pub socket: PathBuf,
    /// What it is told, in this order.
    pub requests: Vec<ApiRequest>,
}

/// One request: something is set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApiRequest {
    /// What.
    pub path: String,
    /// To what.
    pub body: serde_json::Value,
}

/// What the machine inside is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Boot {
    /// Its name.
    pub hostname: String,
    /// Its place in the network, if it has one.
    pub network: Option<Network>,
    /// Files of `/etc` and what is in them: `hosts`, `hostname`, `resolv.conf`.
    pub etc: Vec<(String, String)>,
    /// Time since 1970, in nanoseconds, when this was sent.
    pub unix_nanos: u64,
    /// Random bytes, which no other microVM is told.
    pub entropy: Vec<u8>,
    /// Whether nothing may be written to the root file system.
    pub read_only: bool,
    /// Directories in its memory.
    pub volumes: Vec<Volume>,
    /// Where they are shown, the outer ones first.
    pub mounts: Vec<VolumeMount>,
    /// Whose the files of the volumes are; in the words of [`Program::user`].
    pub owner: String,
}

/// A directory in the memory of a microVM.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Volume {
    /// How much it holds at most, in bytes.
    pub bytes: Option<u64>,
    /// Whether its files were given, and not written inside.
    pub is_given: bool,
    /// What is in it.
    pub files: Vec<VolumeFile>,
}

/// A file of a volume.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct VolumeFile {
    /// Its path in the volume.
    pub path: String,
    /// What is in it.
    pub content: Content,
    /// Its permissions.
    pub mode: u32,
}

/// What is in a file.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Content {
    /// Text.
    Text(String),
    /// Anything else.
    Bytes(Vec<u8>),
}

impl Content {
    /// As it is in the file.
    #[must_use]
    pub const fn bytes(&self) -> &[u8] {
        match self {
            Self::Text(text) => text.as_bytes(),
            Self::Bytes(bytes) => bytes.as_slice(),
        }
    }
}

impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Self::Text(text.to_owned()),
            Err(_) => Self::Bytes(bytes.to_vec()),
        }
    }
}

/// A place where a volume is shown.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VolumeMount {
    /// Its number among the volumes.
    pub volume: usize,
    /// The part of it that is shown, if not all.
    pub sub_path: Option<PathBuf>,
    /// Where, in the root file system.
    pub path: PathBuf,
    /// Whether nothing can be written to it there.
    pub is_read_only: bool,
}

/// A place in the network.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Network {
    /// The microVM's own address.
    pub address: Ipv4Addr,
    /// Length of its subnet's prefix, in bits.
    pub prefix: u8,
    /// Where everything else is reached by.
    pub gateway: Ipv4Addr,
    /// Largest packet, in bytes.
    pub mtu: u32,
}

/// The agent's first words.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Version of the agent.
    pub version: String,
}

/// Something to be done inside.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Order {
    /// What.
    pub task: Task,
    /// Rows and columns of its terminal, if it is to have one.
    pub terminal: Option<(u16, u16)>,
    /// Who copies, if that is the task; in the words of [`Program::user`].
    #[serde(default)]
    pub user: String,
}

/// Kinds of what is to be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Task {
    /// Run a program.
    Run(Program),
    /// Write the file or directory here, as an archive, to standard output.
    CopyOut(PathBuf),
    /// Put the archive from standard input here.
    CopyIn(PathBuf),
}

impl Default for Task {
    fn default() -> Self {
        Self::Run(Program::default())
    }
}

/// A program.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Program {
    /// Its file, or a name that is looked up, and its arguments. Of a root file system that says nothing about what runs
    /// in it, none: then it is its `init`.
    pub args: Vec<String>,
    /// Its environment, as `NAME=value`.
    pub env: Vec<String>,
    /// Directory that it starts in; made if it is not there.
    pub working_dir: PathBuf,
    /// Who runs it: `name`, `uid`, `name:group`, `uid:gid`, or nothing for root.
    pub user: String,
    /// Further groups of that user.
    pub groups: Vec<u32>,
    /// Whether it is an error if that is root.
    pub non_root: bool,
}

/// How a program ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ended {
    /// Its exit code, if it ended by itself.
    pub code: Option<i32>,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the microVM's memory was all taken when that happened.
    #[serde(default)]
    pub out_of_memory: bool,
}

impl Ended {
    /// The code that a shell would give for it.
    #[must_use]
    pub fn shell_code(self) -> u8 {
        let code = self.code.or(self.signal.map(|signal| 128 + signal)).unwrap_or(255);
        u8::try_from(code & 0xff).unwrap_or(u8::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_of_a_file_is_text_where_it_can_be_and_comes_out_as_it_went_in() {
        for bytes in [&b"plain\n"[..], b"\xff\0"] {
            let text = serde_json::to_string(&Content::from(bytes)).unwrap();
            assert_eq!(text.starts_with('"'), bytes[0] == b'p', "{text}");
            let back: Content = serde_json::from_str(&text).unwrap();
            assert_eq!(back.bytes(), bytes);
        }
    }
}
