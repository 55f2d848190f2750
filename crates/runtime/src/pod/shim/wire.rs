//! What is said over the shim's socket: a length of four bytes (big end first), then JSON.
//!
//! A caller numbers its calls and gets one reply to each, in any order. A caller that subscribed also hears
//! [`Message::Changed`] whenever files of a pod say something new. The facts themselves are in those files.

use std::path::PathBuf;

use oci_spec::runtime::Process;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::pod::{cgroup::Groups, scaffold::Scaffold};

/// Version of what is said here. A shim of another version is asked to become this program.
pub const PROTOCOL: u32 = 6;
/// Longest message: 32 containers with paths of full length are less than a third of it.
pub const MAX_FRAME_BYTES: usize = 1 << 20;
const LENGTH_BYTES: usize = 4;

/// A request with the caller's number for it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Call {
    /// Comes back in the reply.
    pub id: u64,
    /// What is asked.
    pub request: Request,
}

/// What can be asked of the shim.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Request {
    /// Who are you? Frozen, as is the answer: every version has to understand every other one here.
    Version,
    /// Become the program that I am. The connection ends when that is done; it is refused if it cannot be. Frozen.
    Upgrade,
    /// Create and start containers of a pod. Refused if one of them was begun before and its files still say so.
    Start {
        /// Uid of the pod.
        pod: String,
        /// Those to start.
        containers: Vec<ContainerOrder>,
    },
    /// Send a signal to the first process of running containers of a pod.
    Signal {
        /// Uid of the pod.
        pod: String,
        /// Those that are meant; all if empty.
        only: Vec<u32>,
        /// Number of the signal.
        signal: i32,
    },
    /// Ask running containers of a pod to end, each by its own signal. One that cannot hear that signal is killed.
    End {
        /// Uid of the pod.
        pod: String,
        /// Those that are meant; all if empty.
        only: Vec<u32>,
    },
    /// Run a further program in a running container. Answered with `Started` when it runs, `Refused` if it cannot.
    Exec(Box<ExecOrder>),
    /// Send a signal to such a program. Done as well if it has ended.
    SignalExec {
        /// Its id.
        id: String,
        /// Number of the signal.
        signal: i32,
    },
    /// Let somebody listen to a running container who waits at the socket in `dir`. He is sent a byte, with its terminal if
    /// it has one, and then what it writes: pieces of a channel, a length of four bytes (big end first), and that many
    /// bytes.
    Attach {
        /// Uid of the pod.
        pod: String,
        /// Index of the container.
        container: u32,
        /// Directory of the socket.
        dir: PathBuf,
    },
    /// End the input of a container whose input can end.
    CloseInput {
        /// Uid of the pod.
        pod: String,
        /// Index of the container.
        container: u32,
    },
    /// What is there of a pod?
    Look {
        /// Uid of the pod.
        pod: String,
    },
    /// What is there of every pod?
    List,
    /// Tell me of changes from now on.
    Subscribe,
    /// End, if there is no container.
    Shutdown,
}

/// Everything that the shim needs to start one container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ContainerOrder {
    /// Place in the pod's list of containers.
    pub index: u32,
    /// Which run of it this is, from 0.
    pub run: u32,
    /// Its directory: `config.json` is there, the rest is the shim's.
    pub dir: PathBuf,
    /// File that its output goes to.
    pub log: PathBuf,
    /// Directory for the runtime's own state.
    pub oci_root: PathBuf,
    /// User and group that its program runs as: they own its standard files.
    pub owner: (u32, u32),
    /// What is gathered for it, if it is in a user namespace.
    pub scaffold: Option<Scaffold>,
    /// Whether its standard files are a terminal.
    pub terminal: bool,
    /// Whether its input ends with the first who attaches.
    pub stdin_once: bool,
    /// Signal that asks it to end.
    pub stop_signal: i32,
    /// Its control groups.
    pub groups: Groups,
    /// Directory of its memory group.
    pub memory_dir: Option<PathBuf>,
    /// Where its processes are, if the pod's containers share them.
    pub shared_pids: Option<SharedPids>,
    /// The program that makes it in place of libcontainer, if it is to be another.
    #[serde(default)]
    pub runtime: Option<PathBuf>,
    /// Whether its processes are among the machine's.
    #[serde(default)]
    pub host_pids: bool,
    /// Whether the program says itself when it has begun, as one that stands for another does: until then the report
    /// stays open, as its descriptor 3.
    #[serde(default)]
    pub says_itself: bool,
}

/// What holds the processes of a pod whose containers share them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SharedPids {
    /// File that the namespace is mounted on.
    pub namespace: PathBuf,
    /// File that says who the first process is.
    pub keeper: PathBuf,
    /// File of the pod's user namespace, if it has one.
    pub user: Option<PathBuf>,
    /// Control groups of the first process.
    pub groups: Groups,
}

/// A further program in a running container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ExecOrder {
    /// Its id, unique among all.
    pub id: String,
    /// Uid of the pod.
    pub pod: String,
    /// Index of the container.
    pub container: u32,
    /// Its directory: its standard files, or the socket that its terminal is sent to, are there; `exit.json` will be.
    pub dir: PathBuf,
    /// The container's directory, where its seccomp filter is.
    pub container_dir: PathBuf,
    /// The container's control groups.
    pub groups: Groups,
    /// What it is, in the words of the runtime specification.
    pub process: Process,
    /// User and group of the machine that own its standard files.
    pub owner: (u32, u32),
    /// Size of its terminal, rows and columns, if it has one.
    pub terminal: Option<(u16, u16)>,
    /// What is to be done instead of becoming a program.
    pub copy: Option<Copy>,
    /// Whether the program says itself when it has begun, as for a container.
    #[serde(default)]
    pub says_itself: bool,
}

/// A copy between a container and its standard files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Copy {
    /// The file or directory here, as an archive to standard output.
    Out(PathBuf),
    /// The archive from standard input to here.
    In(PathBuf),
}

/// What the shim says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Message {
    /// The answer to a call.
    Reply {
        /// Number of the call.
        id: u64,
        /// The answer.
        answer: Answer,
    },
    /// Files of a pod say something new.
    Changed {
        /// Uid of the pod.
        pod: String,
    },
}

/// Answers.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Answer {
    /// To `Version`. Frozen.
    Version {
        /// [`PROTOCOL`] of that shim.
        protocol: u32,
        /// Its process id.
        pid: i32,
    },
    /// To `Start`: all run.
    Started,
    /// To `Start`: those that could not start have an `exit.json` that says why. This is the first.
    StartFailed {
        /// Which one.
        index: u32,
        /// Why, for people.
        why: String,
    },
    /// To `Signal` and `End`.
    Signalled {
        /// Containers that run.
        running: u32,
        /// Those of them that may take notice: they catch, block or ignore the signal. The first process of a pid
        /// namespace never sees a signal that it left at its default, unless it is KILL.
        hearing: u32,
    },
    /// To `Look`.
    Pod(PodLook),
    /// To `List`.
    Pods(Vec<PodLook>),
    /// Done.
    Done,
    /// Not done, for this reason.
    Refused {
        /// For people.
        why: String,
    },
}

/// What there is of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PodLook {
    /// Uid of the pod.
    pub pod: String,
    /// Whether its start is under way.
    pub starting: bool,
    /// Its running containers.
    pub running: Vec<u32>,
}

/// Bytes that are not what is said here.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    /// Longer than [`MAX_FRAME_BYTES`].
    #[error("a message of {bytes} bytes is too long")]
    TooLong {
        /// Its length.
        bytes: usize,
    },
    /// Not JSON of ours.
    #[error("a message that is not understood")]
    NotUnderstood {
        /// What is wrong with it.
        #[source]
        source: serde_json::Error,
    },
}

/// The message as bytes for the socket.
///
/// # Errors
/// If it is too long.
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, FrameError> {
    let body = serde_json::to_vec(value).map_err(|source| FrameError::NotUnderstood { source })?;
    match u32::try_from(body.len()) {
        Ok(length) if body.len() <= MAX_FRAME_BYTES => {
            let mut frame = Vec::with_capacity(LENGTH_BYTES + body.len());
            frame.extend_from_slice(&length.to_be_bytes());
            frame.extend_from_slice(&body);
            Ok(frame)
        }
        _ => Err(FrameError::TooLong { bytes: body.len() }),
    }
}

/// Bytes that arrived and are not yet a whole message.
#[derive(Debug, Default)]
pub struct FrameBuffer {
    bytes: Vec<u8>,
}

impl FrameBuffer {
    /// Takes bytes from the socket.
    pub fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message, if there is one.
    ///
    /// # Errors
    /// If it is too long or not understood; the connection is of no use then.
    pub fn take<T: DeserializeOwned>(&mut self) -> Result<Option<T>, FrameError> {
        let Some((head, rest)) = self.bytes.split_first_chunk::<LENGTH_BYTES>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head) as usize;
        if length > MAX_FRAME_BYTES {
            return Err(FrameError::TooLong { bytes: length });
        }
        let Some(body) = rest.get(..length) else { return Ok(None) };
        let value = serde_json::from_slice(body).map_err(|source| FrameError::NotUnderstood { source })?;
        self.bytes.drain(..LENGTH_BYTES + length);
        if self.bytes.is_empty() {
            self.bytes = Vec::new();
        }
        Ok(Some(value))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_that_arrive_in_pieces_are_whole_again() {
        let calls: Vec<Call> =
            (0..3).map(|id| Call { id, request: Request::Look { pod: "p".repeat(40) } }).collect();
        let bytes: Vec<u8> = calls.iter().flat_map(|call| encode(call).unwrap()).collect();
        let mut buffer = FrameBuffer::default();
        let mut seen = Vec::new();
        for byte in bytes {
            buffer.push(&[byte]);
            while let Some(call) = buffer.take::<Call>().unwrap() {
                seen.push(call);
            }
        }
        assert_eq!(seen, calls);
    }

    #[test]
    fn what_every_version_has_to_understand_of_every_other_is_frozen() {
        let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes[LENGTH_BYTES..]).into_owned();
        let call = |request| text(encode(&Call { id: 7, request }).unwrap());
        assert_eq!(call(Request::Version), r#"{"id":7,"request":"version"}"#);
        assert_eq!(call(Request::Upgrade), r#"{"id":7,"request":"upgrade"}"#);
        let answer = Answer::Version { protocol: 3, pid: 5 };
        assert_eq!(
            text(encode(&Message::Reply { id: 7, answer }).unwrap()),
            r#"{"reply":{"id":7,"answer":{"version":{"protocol":3,"pid":5}}}}"#
        );
    }

    #[test]
    fn message_longer_than_the_limit_is_refused_before_it_is_stored() {
        let mut buffer = FrameBuffer::default();
        buffer.push(&u32::MAX.to_be_bytes());
        assert!(matches!(buffer.take::<Call>(), Err(FrameError::TooLong { .. })));
    }
}
