//! The shim's loop: one thread that waits for everything at once and does one small thing at a time.
//!
//! ```text
//!  callers ⇄ socket ─┐                      ┌─▶ starts.rs    creators, their reports and deadlines
//!  SIGCHLD ──────────┼─▶ epoll ─▶ dispatch ─┼─▶ exits.rs     who ended, and the file that says so
//!  stdout, stderr ───┤                      ├─▶ log.rs       lines
//!  process handles ──┘                      └─▶ callers.rs   calls, replies, news
//! ```
//! Each wake-up reads at most one buffer from each source, so that none starves another. With nothing to do it sleeps
//! without a timer.

use std::{
    collections::{BTreeMap, VecDeque},
    fs::File,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::net::{UnixListener, UnixStream},
    },
    path::PathBuf,
    time::{Duration, Instant},
};

use rustix::{
    buffer::spare_capacity,
    event::{Timespec, epoll},
    io::Errno,
};

use super::{
    attach::Attached,
    callers::Caller,
    exec::Exec,
    launch::{LaunchConfig, ReportBuffer},
    log::{LogWriter, Stream},
    upgrade::{Home, Upgrade},
    wire::{ContainerOrder, PodLook},
};

/// Events taken from the kernel at a time.
const EVENTS: usize = 64;
/// Most bytes read from one source in one turn: the size of a pipe.
pub(super) const READ_BYTES: usize = 64 << 10;

/// A container: its pod's uid and its place in it.
pub(super) type Key = (String, u32);

/// What a token of epoll stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Source {
    Signals,
    Listener,
    Caller,
    Report(Key),
    Output(Key, Stream),
    Process(Key),
    Attached(Key),
    Exec(String),
}

/// A running container.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) pid: i32,
    pub(super) start_ticks: u64,
    pub(super) run: u32,
    /// Handle on its process.
    pub(super) handle: OwnedFd,
    pub(super) dir: PathBuf,
    pub(super) stop_signal: i32,
    /// Its control group, if its processes do not end with its first one.
    pub(super) group: Option<PathBuf>,
    pub(super) memory_dir: Option<PathBuf>,
    pub(super) outputs: Outputs,
    pub(super) tokens: Vec<u64>,
}

/// The pipes or the terminal that a container writes to, its log, and who else listens. Absent if they could not be
/// opened: it runs all the same.
#[derive(Debug, Default)]
pub(super) struct Outputs {
    pub(super) stdout: Option<File>,
    pub(super) stderr: Option<File>,
    /// Whether `stdout` is a terminal, and all there is.
    pub(super) is_terminal: bool,
    pub(super) log: Option<LogWriter>,
    /// Keeps its input from ending.
    pub(super) input: Option<File>,
    pub(super) attached: Vec<Attached>,
    /// What it said before its owner was there.
    pub(super) early: Option<VecDeque<u8>>,
    /// Whether it is not read, because its owner is behind.
    pub(super) paused: bool,
    /// What it is waited for by.
    pub(super) tokens: [u64; 2],
}

/// A creator at work.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) pid: i32,
    pub(super) report: OwnedFd,
    pub(super) buffer: ReportBuffer,
    pub(super) token: u64,
    pub(super) order: ContainerOrder,
    pub(super) outputs: Outputs,
    /// Where its terminal comes from, if it is to have one.
    pub(super) terminal: Option<UnixStream>,
    pub(super) deadline: Instant,
}

/// The start of a pod that is under way.
#[derive(Debug)]
pub(super) struct PodStart {
    /// Who asked: token of the caller and number of the call.
    pub(super) asked_by: Option<(u64, u64)>,
    /// Containers that are not running yet: waiting or with a creator at work.
    pub(super) missing: usize,
    /// The first that failed, and why.
    pub(super) failed: Option<(u32, String)>,
}

/// The whole state of the shim.
#[derive(Debug)]
pub(super) struct Shim {
    pub(super) epoll: OwnedFd,
    pub(super) signals: OwnedFd,
    pub(super) listener: UnixListener,
    pub(super) config: LaunchConfig,
    pub(super) launches_max: usize,
    pub(super) sources: BTreeMap<u64, Source>,
    pub(super) next_token: u64,
    pub(super) callers: BTreeMap<u64, Caller>,
    pub(super) live: BTreeMap<Key, Live>,
    pub(super) launches: BTreeMap<Key, Launch>,
    pub(super) waiting: VecDeque<(String, ContainerOrder)>,
    pub(super) starts: BTreeMap<String, PodStart>,
    /// Containers that have ended in a way not known yet, and until when it is waited for.
    pub(super) fading: BTreeMap<Key, Instant>,
    pub(super) execs: BTreeMap<String, Exec>,
    /// Containers that wait for their owner, and until when.
    pub(super) expecting: BTreeMap<Key, Instant>,
    /// Who still has to hear the last words of containers that have ended.
    pub(super) leaving: BTreeMap<u64, Attached>,
    pub(super) read_buffer: Vec<u8>,
    pub(super) batch: Vec<u8>,
    pub(super) upgrade: Option<Upgrade>,
    pub(super) ending: bool,
}

impl Shim {
    pub(super) fn new(
        listener: UnixListener,
        signals: OwnedFd,
        config: LaunchConfig,
        launches_max: usize,
    ) -> io::Result<Self> {
        let mut shim = Self {
            epoll: epoll::create(epoll::CreateFlags::CLOEXEC)?,
            signals,
            listener,
            config,
            launches_max,
            sources: BTreeMap::new(),
            next_token: 1,
            callers: BTreeMap::new(),
            live: BTreeMap::new(),
            launches: BTreeMap::new(),
            waiting: VecDeque::new(),
            starts: BTreeMap::new(),
            fading: BTreeMap::new(),
            execs: BTreeMap::new(),
            expecting: BTreeMap::new(),
            leaving: BTreeMap::new(),
            read_buffer: vec![0; READ_BYTES],
            batch: Vec::new(),
            upgrade: None,
            ending: false,
        };
        shim.listener.set_nonblocking(true)?;
        let token = shim.token(Source::Signals);
        watch(&shim.epoll, &shim.signals, token)?;
        let token = shim.token(Source::Listener);
        watch(&shim.epoll, &shim.listener, token)?;
        Ok(shim)
    }

    pub(super) fn token(&mut self, source: Source) -> u64 {
        let token = self.next_token;
        self.next_token += 1;
        self.sources.insert(token, source);
        token
    }

    /// Runs until it is asked to end and has no containers, or to become another program.
    pub(super) fn run(mut self, home: &Home) -> io::Result<()> {
        let mut events: Vec<epoll::Event> = Vec::with_capacity(EVENTS);
        while !self.ending {
            let timeout = self.time_to_next_deadline();
            events.clear();
            match epoll::wait(&self.epoll, spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(rustix::io::Errno::INTR) => {}
                Err(error) => return Err(error.into()),
            }
            for event in &events {
                self.dispatch(event.data.u64(), event.flags);
            }
            self.end_late_launches();
            self.end_faded();
            self.end_early();
            self.launch_waiting();
            self.upgrade_if_asked(home);
        }
        self.flush_callers();
        Ok(())
    }

    fn dispatch(&mut self, token: u64, flags: epoll::EventFlags) {
        // An event of something that an earlier event of the same turn removed stands for nothing.
        let Some(source) = self.sources.get(&token).cloned() else { return };
        match source {
            Source::Signals => self.take_signals(),
            Source::Listener => self.accept_callers(),
            Source::Caller => self.serve(token, flags),
            Source::Report(key) => self.take_report(&key),
            Source::Output(key, stream) => self.take_output(&key, stream),
            Source::Attached(key) => self.serve_attached(&key, token),
            Source::Process(key) => self.unseen_end(&key),
            Source::Exec(id) => self.take_exec_report(&id),
        }
    }

    /// Reads once what a container wrote, logs it and passes it on.
    fn take_output(&mut self, key: &Key, stream: Stream) {
        let Some(live) = self.live.get_mut(key) else { return };
        let outputs = &mut live.outputs;
        match outputs.take(stream, &mut self.read_buffer, &mut self.batch) {
            Ok(_) | Err(Errno::AGAIN | Errno::INTR) => {}
            Err(_closed) => {
                // Nothing holds its terminal any more; the kernel would say so again and again.
                if let Some(file) = outputs.file(stream) {
                    let _ = epoll::delete(&self.epoll, file);
                }
            }
        }
        if outputs.is_heard() {
            self.settle_listeners(key);
        }
    }

    fn time_to_next_deadline(&self) -> Option<Timespec> {
        let next = self
            .launches
            .values()
            .map(|launch| launch.deadline)
            .chain(self.fading.values().copied())
            .chain(self.expecting.values().copied())
            .min()?;
        let left = next.saturating_duration_since(Instant::now()) + Duration::from_millis(1);
        Timespec::try_from(left).ok()
    }

    pub(super) fn look(&self, pod: &str) -> PodLook {
        let running = self.live.keys().filter(|(uid, _)| uid == pod).map(|(_, index)| *index).collect();
        PodLook { pod: pod.to_owned(), starting: self.starts.contains_key(pod), running }
    }

    pub(super) fn look_at_all(&self) -> Vec<PodLook> {
        let mut pods: Vec<&String> = self.live.keys().map(|(pod, _)| pod).chain(self.starts.keys()).collect();
        pods.sort_unstable();
        pods.dedup();
        pods.into_iter().map(|pod| self.look(pod)).collect()
    }
}

impl Outputs {
    /// Reads once from a stream, logs it and passes it on. Gives how many bytes there were.
    pub(super) fn take(
        &mut self,
        stream: Stream,
        read_buffer: &mut [u8],
        batch: &mut Vec<u8>,
    ) -> Result<usize, Errno> {
        let Some(file) = self.file(stream) else { return Ok(0) };
        let count = rustix::io::read(file, &mut *read_buffer)?;
        let bytes = read_buffer.get(..count).unwrap_or_default();
        if let Some(log) = &mut self.log {
            log.take(stream, bytes, batch);
        }
        if self.is_heard() {
            self.pass_on(stream, bytes);
        }
        Ok(count)
    }

    fn file(&self, stream: Stream) -> Option<&File> {
        match stream {
            Stream::Stdout => self.stdout.as_ref(),
            Stream::Stderr => self.stderr.as_ref(),
        }
    }

    /// Whether somebody listens beside the log, or is expected to.
    fn is_heard(&self) -> bool {
        self.early.is_some() || !self.attached.is_empty()
    }

    /// Its terminal, if it has one.
    pub(super) fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.stdout.as_ref().filter(|_| self.is_terminal).map(AsFd::as_fd)
    }

    /// What is waited for, and by which tokens.
    pub(super) fn watched(&self) -> impl Iterator<Item = (&File, u64)> {
        [&self.stdout, &self.stderr]
            .into_iter()
            .zip(self.tokens)
            .filter_map(|(file, token)| Some((file.as_ref()?, token)))
    }
}

/// Adds `what` to what the loop waits for.
pub(super) fn watch(epoll: &OwnedFd, what: impl AsFd, token: u64) -> io::Result<()> {
    Ok(epoll::add(epoll, what, epoll::EventData::new_u64(token), epoll::EventFlags::IN)?)
}
