//! The agent's end of the shim's socket: calls, replies and news; begins a shim if there is none.
//!
//! ```text
//!  PodRuntime ──call──▶ queue ──▶ owner task ⇄ socket ⇄ shim
//!      ▲                             │ news of a pod; after a lost connection: of all pods
//!      └───────────── News ◀─────────┘
//! ```
//! A shim that runs another program file than this process is asked to become this one (`shim::upgrade`).
//!
//! *Guarantees*: a lost shim is replaced at once, and the new one has taken over the containers before it answers. A
//! call whose reply was lost fails with [`LinkError::Lost`]; whoever called looks at the files again.

use std::{
    collections::BTreeMap,
    io,
    os::{fd::AsRawFd, unix::fs::MetadataExt},
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::{sleep, timeout},
};

use super::{
    cgroup::Cgroups,
    news::News,
    shim::{
        ALREADY_THERE, SOCKET,
        wire::{Answer, Call, FrameBuffer, Message, PROTOCOL, Request, encode},
    },
};

/// Calls that wait for the owner task: each belongs to an instance's task, which makes one at a time.
const QUEUE: usize = 1_024;
/// How long a shim may take to begin: it looks at each container that it takes over.
const BEGIN_DEADLINE: Duration = Duration::from_secs(30);
/// How long a simple call may take.
const CALL_DEADLINE: Duration = Duration::from_secs(15);
/// How long a start may take: the shim ends a creation that hangs sooner, and others may wait before it.
const START_DEADLINE: Duration = Duration::from_secs(300);
/// The same for machines that come up: a few at a time, of which hundreds may wait.
const BOOT_DEADLINE: Duration = Duration::from_secs(30 * 60);
/// Pause after a shim could not be begun.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Bytes taken from the socket at a time.
const READ_BYTES: usize = 64 << 10;

/// How a shim is begun.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShimCommand {
    /// The program.
    pub program: PathBuf,
    /// What comes before `--dir`.
    pub args: Vec<String>,
}

/// This very program, also if its file has been replaced since.
const OWN_PROGRAM: &str = "/proc/self/exe";

impl Default for ShimCommand {
    /// This very program, as `shim`.
    fn default() -> Self {
        Self { program: PathBuf::from(OWN_PROGRAM), args: vec!["shim".to_owned()] }
    }
}

impl ShimCommand {
    /// Whether the shim should be this very program and is another one: an older, or a newer.
    fn is_other_program(&self, shim: i32) -> bool {
        let file = |path: &str| std::fs::metadata(path).map(|file| (file.dev(), file.ino())).ok();
        match (file(OWN_PROGRAM), file(&format!("/proc/{shim}/exe"))) {
            (Some(own), Some(its)) => self.program == Path::new(OWN_PROGRAM) && own != its,
            _ => false,
        }
    }
}

/// What went wrong between agent and shim.
#[derive(Debug, thiserror::Error)]
pub enum LinkError {
    /// It could not be begun.
    #[error("begin the shim with {}", program.display())]
    Begin {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It ended at once.
    #[error("begin the shim: it ended with {status}: {said}")]
    Ended {
        /// How.
        status: std::process::ExitStatus,
        /// What it said.
        said: String,
    },
    /// Its socket cannot be reached.
    #[error("reach the shim at {}", socket.display())]
    Connect {
        /// The socket.
        socket: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It speaks another version and has containers.
    #[error("speak with the running shim: it speaks version {found}, and this program version {PROTOCOL}")]
    OtherVersion {
        /// Its version.
        found: u32,
    },
    /// The connection was lost before the answer came.
    #[error("hear the shim's answer: the connection was lost")]
    Lost,
    /// No answer in time.
    #[error("hear the shim's answer within {} s", seconds)]
    Late {
        /// The time allowed.
        seconds: u64,
    },
    /// It refused.
    #[error("be served by the shim: {why}")]
    Refused {
        /// Its words.
        why: String,
    },
}

/// What the owner task needs to reach or begin a shim.
#[derive(Clone, Debug)]
pub struct LinkConfig {
    /// The shim's directory.
    pub dir: PathBuf,
    /// How it is begun.
    pub command: ShimCommand,
    /// Where it is put.
    pub cgroups: Cgroups,
}

struct Asked {
    request: Request,
    answer: oneshot::Sender<Result<Answer, LinkError>>,
}

/// The connection to the shim. Its task ends when this is dropped; the shim goes on.
#[derive(Debug)]
pub struct ShimLink {
    queue: mpsc::Sender<Asked>,
    task: JoinHandle<()>,
}

impl ShimLink {
    /// Reaches the shim, or begins one, and keeps doing so.
    ///
    /// # Errors
    /// If that does not succeed now.
    pub async fn open(config: LinkConfig, news: Arc<News>) -> Result<Self, LinkError> {
        let stream = reach(&config).await?;
        let (queue, asked) = mpsc::channel(QUEUE);
        let task = tokio::spawn(own(config, stream, asked, news));
        Ok(Self { queue, task })
    }

    /// Asks the shim.
    ///
    /// # Errors
    /// If there is no answer or a refusal.
    pub async fn call(&self, request: Request) -> Result<Answer, LinkError> {
        let deadline = match &request {
            Request::Start { containers, .. } if containers.iter().any(|own| own.says_itself) => {
                BOOT_DEADLINE
            }
            Request::Start { .. } => START_DEADLINE,
            _ => CALL_DEADLINE,
        };
        let (answer, answered) = oneshot::channel();
        let asking = async {
            self.queue.send(Asked { request, answer }).await.map_err(|_closed| LinkError::Lost)?;
            answered.await.map_err(|_closed| LinkError::Lost)?
        };
        match timeout(deadline, asking).await {
            Ok(Ok(Answer::Refused { why })) => Err(LinkError::Refused { why }),
            Ok(result) => result,
            Err(_elapsed) => Err(LinkError::Late { seconds: deadline.as_secs() }),
        }
    }

    /// Asks the shim to end, and lets no other one begin.
    ///
    /// # Errors
    /// If it has containers, or does not answer.
    pub async fn shut_down(&self) -> Result<(), LinkError> {
        self.call(Request::Shutdown).await.map(drop)
    }
}

impl Drop for ShimLink {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The owner task: serves calls over one connection after the other until nobody can ask any more.
async fn own(config: LinkConfig, stream: UnixStream, mut asked: mpsc::Receiver<Asked>, news: Arc<News>) {
    let mut stream = Some(stream);
    loop {
        let current = match stream.take() {
            Some(stream) => stream,
            None => match reach(&config).await {
                Ok(stream) => stream,
                Err(error) => {
                    let cause =
                        std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                    tracing::warn!(%error, cause, "no shim; trying again");
                    sleep(RETRY_PAUSE).await;
                    continue;
                }
            },
        };
        // Whatever happened while nobody listened is in the files.
        news.tell_all();
        if serve(current, &mut asked, &news).await.is_none() {
            return;
        }
        tracing::warn!(shim.dir = %config.dir.display(), "the connection to the shim was lost");
    }
}

/// Serves until the connection is lost (Some), or nobody can ask any more (None).
async fn serve(stream: UnixStream, asked: &mut mpsc::Receiver<Asked>, news: &News) -> Option<()> {
    let (mut reader, mut writer) = stream.into_split();
    let mut pending: BTreeMap<u64, oneshot::Sender<Result<Answer, LinkError>>> = BTreeMap::new();
    let mut next_id = 1;
    let mut farewell = None;
    let mut received = FrameBuffer::default();
    let mut chunk = vec![0; READ_BYTES];
    loop {
        tokio::select! {
            // Both arms are cancel-safe: a message is taken whole or not at all, and a read gives what it has.
            next = asked.recv() => {
                let Asked { request, answer } = next?;
                let is_farewell = request == Request::Shutdown;
                let Ok(frame) = encode(&Call { id: next_id, request }) else {
                    let _ = answer.send(Err(LinkError::Refused { why: "the request is too long".to_owned() }));
                    continue;
                };
                pending.insert(next_id, answer);
                if is_farewell {
                    farewell = Some(next_id);
                }
                next_id += 1;
                if writer.write_all(&frame).await.is_err() {
                    return Some(());
                }
            }
            read = reader.read(&mut chunk) => {
                match read {
                    Ok(count) if count > 0 => received.push(chunk.get(..count).unwrap_or_default()),
                    _ => return Some(()),
                }
                loop {
                    match received.take() {
                        Ok(Some(Message::Reply { id, answer })) => {
                            let gone = farewell == Some(id) && answer == Answer::Done;
                            if let Some(waiting) = pending.remove(&id) {
                                let _ = waiting.send(Ok(answer));
                            }
                            if gone {
                                // It ends as it was told to: no other one is to be begun.
                                return None;
                            }
                        }
                        Ok(Some(Message::Changed { pod })) => news.tell(&pod),
                        Ok(None) => break,
                        Err(_foreign) => return Some(()),
                    }
                }
            }
        }
    }
}

/// A connection to a shim of our version that tells us its news. One that is another program becomes ours first.
async fn reach(config: &LinkConfig) -> Result<UnixStream, LinkError> {
    let mut begun = false;
    let mut upgraded = false;
    loop {
        let mut stream = match connect(&config.dir).await {
            Ok(stream) => stream,
            Err(_absent) if !begun => {
                begin(config).await?;
                begun = true;
                continue;
            }
            Err(source) => return Err(LinkError::Connect { socket: config.dir.join(SOCKET), source }),
        };
        let Answer::Version { protocol, pid } = ask_alone(&mut stream, Request::Version).await? else {
            return Err(LinkError::Lost);
        };
        if !upgraded && config.command.is_other_program(pid) {
            upgraded = true;
            match ask_alone(&mut stream, Request::Upgrade).await {
                // It has become this program, or never heard the word: it will say who it is now.
                Err(LinkError::Lost) => continue,
                Err(error) => return Err(error),
                Ok(answer) => {
                    tracing::warn!(?answer, "the shim goes on as the program that it was begun with")
                }
            }
        }
        if protocol != PROTOCOL {
            match ask_alone(&mut stream, Request::Shutdown).await? {
                Answer::Done if !begun => continue,
                _ => return Err(LinkError::OtherVersion { found: protocol }),
            }
        }
        if let Err(error) = config.cgroups.enter_shim(pid) {
            tracing::warn!(%error, "the shim stays in the control group of this process");
        }
        ask_alone(&mut stream, Request::Subscribe).await?;
        return Ok(stream);
    }
}

/// One call on a connection that nobody else uses and that has no news yet.
async fn ask_alone(stream: &mut UnixStream, request: Request) -> Result<Answer, LinkError> {
    // An upgrade waits for the starts that are under way.
    let deadline = if request == Request::Upgrade { START_DEADLINE } else { CALL_DEADLINE };
    let talk = async {
        let frame = encode(&Call { id: 0, request }).map_err(|_| LinkError::Lost)?;
        stream.write_all(&frame).await.map_err(|_| LinkError::Lost)?;
        let mut received = FrameBuffer::default();
        let mut byte = [0_u8; 1];
        loop {
            // One at a time, so that nothing behind the answer is taken; answers are short.
            stream.read_exact(&mut byte).await.map_err(|_| LinkError::Lost)?;
            received.push(&byte);
            match received.take() {
                Ok(Some(Message::Reply { answer, .. })) => return Ok(answer),
                Ok(_) => {}
                Err(_) => return Err(LinkError::Lost),
            }
        }
    };
    let late = |_| LinkError::Late { seconds: deadline.as_secs() };
    timeout(deadline, talk).await.map_err(late)?
}

async fn connect(dir: &Path) -> io::Result<UnixStream> {
    // By way of a descriptor: the directory's own path may be too long for a socket's address.
    let dir = std::fs::File::open(dir)?;
    UnixStream::connect(format!("/proc/self/fd/{}/{SOCKET}", dir.as_raw_fd())).await
}

async fn begin(config: &LinkConfig) -> Result<(), LinkError> {
    let failed = |source| LinkError::Begin { program: config.command.program.clone(), source };
    let mut command = tokio::process::Command::new(&config.command.program);
    command.args(&config.command.args).arg("--dir").arg(&config.dir).env_clear();
    // Its words go to a file: a pipe would be held open by the shim for its whole life.
    let words = config.dir.join("begin.log");
    let file = std::fs::File::create(&words).map_err(failed)?;
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::from(file)).current_dir("/");
    let waiting = async { command.spawn()?.wait().await };
    let late = |_| failed(io::Error::from(io::ErrorKind::TimedOut));
    let status = timeout(BEGIN_DEADLINE, waiting).await.map_err(late)?.map_err(failed)?;
    let said = std::fs::read_to_string(&words).unwrap_or_default();
    let _ = std::fs::remove_file(&words);
    if status.success() || status.code() == Some(ALREADY_THERE.into()) {
        return Ok(());
    }
    Err(LinkError::Ended { status, said: said.trim().to_owned() })
}
