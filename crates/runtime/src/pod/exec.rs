//! Further programs in a running container: a shell for a person, the command of a probe, a hook.
//!
//! ```text
//!  exec ─▶ directory x/<id> with pipes, or a socket for the terminal ─▶ shim ─▶ session: streams, signals, the end
//! ```
//! Streams go between this process and the program directly. When the session is dropped, or this process dies, the
//! program's input ends and its output has nowhere to go; what ignores that is killed when the session is dropped.
//!
//! *Guarantee*: the directory goes with the session, or with the next opening of the runtime.

use std::{
    fs::{self, DirBuilder},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::PathBuf,
    sync::atomic::{AtomicBool, Ordering},
};

use guest::order::{Order, Program, Task};
use model::Reason;
use oci_spec::runtime::Process;
use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, recvmsg},
    termios::{Winsize, tcsetwinsize},
};
use tokio::{
    io::{AsyncReadExt, unix::AsyncFd},
    net::{
        UnixListener, UnixStream,
        unix::pipe::{OpenOptions, Receiver, Sender},
    },
    time::timeout,
};
use uuid::Uuid;

use super::{
    PodRuntime, fault,
    files::{EXIT_FILE, ExitFile, read_whole},
    function,
    link::LinkError,
    prepare::{START_FILE, StartFile},
    record::PodPlace,
    shim::{
        STDIO, TERMINAL_SOCKET, through,
        wire::{Answer, ExecOrder, Request},
    },
};
use crate::RuntimeError;

/// How long the program's terminal may take to arrive after the program runs: it is sent before.
const TERMINAL_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);
/// How long a program that was killed may take to be gone, before its files are removed all the same.
const KILLED_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);
/// What is kept of the output of a program that nobody reads, such as a probe's.
const KEPT_OUTPUT_BYTES: usize = 1 << 10;

/// What is to be run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ExecSpec {
    /// Program and arguments.
    pub command: Vec<String>,
    /// Variables beside the container's own, as `NAME=value`.
    pub env: Vec<String>,
    /// Directory to start in, instead of the container's.
    pub working_dir: Option<PathBuf>,
    /// Rows and columns of its terminal, if it is to have one.
    pub terminal: Option<(u16, u16)>,
}

pub use super::shim::wire::Copy;

/// A program that runs.
#[derive(Debug)]
pub struct ExecSession {
    /// Its standard files.
    pub streams: Streams,
    /// The hold on it: when this is dropped, the program ends.
    pub handle: ExecHandle,
}

/// The standard files of a program, from outside.
#[derive(Debug)]
pub enum Streams {
    /// One pipe each.
    Pipes {
        /// Its input. None once it was closed.
        input: Option<Sender>,
        /// Its output.
        output: Receiver,
        /// Its complaints.
        errors: Receiver,
    },
    /// A terminal for all.
    Terminal(Terminal),
}

/// The outer end of a terminal.
#[derive(Debug)]
pub struct Terminal(AsyncFd<OwnedFd>);

/// The hold on a program.
#[derive(Debug)]
pub struct ExecHandle {
    runtime: PodRuntime,
    uid: String,
    id: String,
    dir: PathBuf,
    over: AtomicBool,
}

/// What came of a program that nobody talked to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// How it ended.
    pub exit: ExitFile,
    /// The beginning of what it wrote.
    pub output: String,
}

impl Done {
    /// The last line that it wrote, after a colon, for a sentence about it.
    #[must_use]
    pub fn in_words(&self) -> String {
        let line = self.output.lines().rev().find(|line| !line.trim().is_empty());
        line.map(|line| format!(": {}", line.trim())).unwrap_or_default()
    }
}

impl PodRuntime {
    /// Runs a further program in a running container, with the container's user, rights and limits.
    ///
    /// # Errors
    /// The container does not run, or the program cannot.
    pub async fn exec(&self, uid: &str, index: usize, spec: ExecSpec) -> Result<ExecSession, RuntimeError> {
        let place = self.place(uid)?;
        self.begin(&place, index, spec, None).await
    }

    /// Copies a file or a directory to or from a running container, as the container's own user and seen from inside:
    /// the archive is the session's input or output, and what goes wrong its complaints.
    ///
    /// # Errors
    /// The container does not run.
    pub async fn copy(&self, uid: &str, index: usize, copy: Copy) -> Result<ExecSession, RuntimeError> {
        let place = self.place(uid)?;
        let spec = ExecSpec { command: vec!["copy".to_owned()], ..ExecSpec::default() };
        self.begin(&place, index, spec, Some(copy)).await
    }

    async fn begin(
        &self,
        place: &PodPlace,
        index: usize,
        spec: ExecSpec,
        copy: Option<Copy>,
    ) -> Result<ExecSession, RuntimeError> {
        let failed =
            |error| fault::words(operation(&spec), Reason::StartFailed, &io::Error::to_string(&error));
        let start: Option<StartFile> =
            read_whole(&place.container(index).join(START_FILE)).map_err(failed)?;
        let start = start.ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
        let says_itself = start.says_itself;
        let (process, copy) = if says_itself {
            (session_of(place, index, &spec, copy).map_err(failed)?, None)
        } else {
            (process_of(place, index, &spec).map_err(failed)?, copy)
        };
        let id = Uuid::new_v4().to_string();
        let dir = place.execs().join(&id);
        DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;
        let (runtime, over) = (self.clone(), AtomicBool::new(false));
        let uid = place.uid();
        let handle = ExecHandle { runtime, uid: uid.clone(), id: id.clone(), dir, over };
        let order = ExecOrder {
            id,
            pod: uid.clone(),
            container: u32::try_from(index).unwrap_or(u32::MAX),
            dir: handle.dir.clone(),
            container_dir: place.container(index),
            groups: self.shared.cgroups.container(&uid, index),
            owner: start.owner,
            process,
            terminal: spec.terminal,
            copy,
            says_itself,
        };
        let begin = async {
            let begun = self.begin_exec(&spec, order).await;
            // What never began has no end to wait for.
            handle.over.store(begun.is_err(), Ordering::Relaxed);
            begun
        };
        let streams = match spec.terminal {
            Some(_) => {
                let socket = listen(&handle.dir).map_err(failed)?;
                begin.await?;
                Streams::Terminal(Terminal::arrive(&socket).await.map_err(failed)?)
            }
            None => {
                let pipes = make_pipes(&handle.dir).map_err(failed)?;
                begin.await?;
                pipes
            }
        };
        Ok(ExecSession { streams, handle })
    }

    /// Waits until it is written down in `dir` how a program of the pod ended.
    async fn exec_ended(&self, uid: &str, dir: &std::path::Path) -> io::Result<ExitFile> {
        let mut news = self.shared.news.counter(uid);
        loop {
            news.mark_unchanged();
            if let Some(exit) = read_whole(&dir.join(EXIT_FILE))? {
                return Ok(exit);
            }
            news.changed().await.map_err(|_gone| io::Error::other("its pod is gone"))?;
        }
    }

    async fn begin_exec(&self, spec: &ExecSpec, order: ExecOrder) -> Result<(), RuntimeError> {
        let failed = |error| match error {
            LinkError::Refused { why } => fault::words(operation(spec), Reason::StartFailed, &why),
            other => fault::link(&operation(spec), Reason::StartFailed, other),
        };
        match self.shared.link.call(Request::Exec(Box::new(order))).await.map_err(failed)? {
            Answer::Started => Ok(()),
            _ => Err(failed(LinkError::Lost)),
        }
    }
}

fn operation(spec: &ExecSpec) -> String {
    format!("run {:?} in the container", spec.command.first().map_or("", String::as_str))
}

/// The container's own process.
fn own_process(place: &PodPlace, index: usize) -> io::Result<Process> {
    let config: Option<serde_json::Value> =
        read_whole(&place.container(index).join(super::prepare::CONFIG_FILE))?;
    let own = config.as_ref().and_then(|config| config.get("process")).cloned();
    let own = own.ok_or_else(|| io::Error::other("the container is not there any more"))?;
    Ok(serde_json::from_value(own)?)
}

/// The process that stands for a further program in a microVM, or for a copy.
fn session_of(place: &PodPlace, index: usize, spec: &ExecSpec, copy: Option<Copy>) -> io::Result<Process> {
    let mut process = own_process(place, index)?;
    let mut env = spec.env.clone();
    if spec.terminal.is_some() && !env.iter().any(|variable| variable.starts_with("TERM=")) {
        env.push("TERM=xterm".to_owned());
    }
    let task = match copy {
        Some(Copy::Out(path)) => Task::CopyOut(path),
        Some(Copy::In(path)) => Task::CopyIn(path),
        None => Task::Run(Program {
            args: spec.command.clone(),
            env,
            working_dir: spec.working_dir.clone().unwrap_or_default(),
            ..Program::default()
        }),
    };
    let order = Order { task, terminal: spec.terminal, user: String::new() };
    let environment = function::session_environment(place, index, &order)?;
    process.set_args(Some(function::session_command())).set_env(Some(environment));
    Ok(process)
}

/// The container's own process with another command.
fn process_of(place: &PodPlace, index: usize, spec: &ExecSpec) -> io::Result<Process> {
    let mut process = own_process(place, index)?;
    let mut environment = process.env().clone().unwrap_or_default();
    let name = |variable: &str| variable.split('=').next().unwrap_or_default().to_owned();
    environment.retain(|known| !spec.env.iter().any(|own| name(own) == name(known)));
    environment.extend(spec.env.iter().cloned());
    if spec.terminal.is_some() && !environment.iter().any(|variable| variable.starts_with("TERM=")) {
        environment.push("TERM=xterm".to_owned());
    }
    let strings = spec.command.iter().chain(&environment);
    if strings.into_iter().any(|text| text.contains('\0')) {
        return Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "a NUL character cannot be told to a program",
        ));
    }
    process.set_args(Some(spec.command.clone())).set_env(Some(environment));
    if let Some(directory) = &spec.working_dir {
        process.set_cwd(directory.clone());
    }
    Ok(process)
}

/// Makes the pipes and opens this process's ends, before the program opens its own: so each side notices when the other
/// one goes.
fn make_pipes(dir: &std::path::Path) -> io::Result<Streams> {
    let make = |name: &str| -> io::Result<PathBuf> {
        let path = dir.join(name);
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)?;
        Ok(path)
    };
    let output = OpenOptions::new().open_receiver(make(STDIO[1])?)?;
    let errors = OpenOptions::new().open_receiver(make(STDIO[2])?)?;
    // Without a reader yet, a pipe can only be opened for both.
    let input = OpenOptions::new().read_write(true).open_sender(make(STDIO[0])?)?;
    Ok(Streams::Pipes { input: Some(input), output, errors })
}

/// Listens for the terminal. By a handle on the directory, because the address of a socket is short.
pub(super) fn listen(dir: &std::path::Path) -> io::Result<UnixListener> {
    let dir = fs::File::open(dir)?;
    UnixListener::bind(through(&dir).join(TERMINAL_SOCKET))
}

impl ExecHandle {
    /// Waits until the program has ended, and says how. What other programs that it began still write is not waited for.
    ///
    /// # Errors
    /// Nobody could see how: its node's shim was lost.
    pub async fn ended(&self) -> io::Result<ExitFile> {
        let exit = self.runtime.exec_ended(&self.uid, &self.dir).await?;
        self.over.store(true, Ordering::Relaxed);
        Ok(exit)
    }

    /// Sends the program a signal.
    ///
    /// # Errors
    /// It cannot be sent.
    pub async fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        let request = Request::SignalExec { id: self.id.clone(), signal };
        let failed = |error| fault::link("signal the program", Reason::Other, error);
        self.runtime.shared.link.call(request).await.map_err(failed).map(drop)
    }
}

impl ExecSession {
    /// Lets the program run without input to its end, and keeps the beginning of what it writes.
    ///
    /// # Errors
    /// Nobody could see how it ended.
    pub async fn run(mut self) -> io::Result<Done> {
        let mut output = Vec::new();
        if let Streams::Pipes { input, output: out, errors } = &mut self.streams {
            drop(input.take());
            let mut complaints = Vec::new();
            tokio::join!(keep(out, &mut output), keep(errors, &mut complaints));
            output.append(&mut complaints);
        }
        let exit = self.handle.ended().await?;
        Ok(Done { exit, output: String::from_utf8_lossy(&output).into_owned() })
    }
}

/// Reads to the end and keeps the beginning.
async fn keep(pipe: &mut Receiver, kept: &mut Vec<u8>) {
    let mut chunk = [0_u8; 4096];
    while let Ok(count) = pipe.read(&mut chunk).await
        && count > 0
    {
        let room = KEPT_OUTPUT_BYTES.saturating_sub(kept.len());
        kept.extend_from_slice(chunk.get(..count.min(room)).unwrap_or_default());
    }
}

impl Drop for ExecHandle {
    fn drop(&mut self) {
        let (runtime, uid, id, dir) =
            (self.runtime.clone(), self.uid.clone(), self.id.clone(), self.dir.clone());
        let over = self.over.load(Ordering::Relaxed);
        let clear = async move {
            if !over {
                let kill = Request::SignalExec { id, signal: libc::SIGKILL };
                if let Err(error) = runtime.shared.link.call(kill).await {
                    tracing::debug!(%error, "a program in a container is left to the end of its streams");
                }
                // The shim writes its end down there: not into a directory that is being removed.
                let _ = timeout(KILLED_WITHIN, runtime.exec_ended(&uid, &dir)).await;
            }
            if let Err(error) = super::remove_dir(&dir) {
                tracing::warn!(path = %dir.display(), %error, "files of a program in a container stay");
            }
        };
        match tokio::runtime::Handle::try_current() {
            Ok(handle) => drop(handle.spawn(clear)),
            // The whole process ends: the streams end with it, and the files go when it is opened again.
            Err(_none) => {}
        }
    }
}

impl Terminal {
    /// Takes the terminal that comes over the socket.
    async fn arrive(socket: &UnixListener) -> io::Result<Self> {
        let (_, terminal) = accept(socket).await?;
        terminal.ok_or_else(|| io::Error::other("no terminal came"))
    }

    /// Reads what the program writes. 0 when nothing holds the terminal any more.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn read(&self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.readable().await?;
            let read = ready.try_io(|own| Ok(rustix::io::read(own.get_ref(), &mut *buffer)?));
            match read {
                // That the last program has closed it is an error of its own.
                Ok(Err(error)) if error.raw_os_error() == Some(libc::EIO) => return Ok(0),
                Ok(done) => return done,
                Err(_not_yet) => {}
            }
        }
    }

    /// Writes what a person types. Gives how many bytes it took.
    ///
    /// # Errors
    /// What the kernel says.
    pub async fn write(&self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            let mut ready = self.0.writable().await?;
            match ready.try_io(|own| Ok(rustix::io::write(own.get_ref(), bytes)?)) {
                Ok(done) => return done,
                Err(_not_yet) => {}
            }
        }
    }

    /// Tells the program the size of its terminal.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn resize(&self, rows: u16, columns: u16) -> io::Result<()> {
        let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
        Ok(tcsetwinsize(self.0.get_ref(), size)?)
    }
}

/// Takes the connection that comes to the socket, with the byte that is its first, and the terminal that may come with it.
pub(super) async fn accept(socket: &UnixListener) -> io::Result<(UnixStream, Option<Terminal>)> {
    let late = |_late| io::Error::new(io::ErrorKind::TimedOut, "nothing came over its socket");
    let (stream, _) = timeout(TERMINAL_WITHIN, socket.accept()).await.map_err(late)??;
    timeout(TERMINAL_WITHIN, stream.readable()).await.map_err(late)??;
    let Some(terminal) = receive_descriptor(&stream)? else { return Ok((stream, None)) };
    rustix::io::ioctl_fionbio(&terminal, true)?;
    // SAFETY: an owned descriptor is open, and the same one, as long as its owner is there.
    Ok((stream, Some(Terminal(unsafe { AsyncFd::register(terminal)? }))))
}

fn receive_descriptor(stream: &UnixStream) -> io::Result<Option<OwnedFd>> {
    let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0_u8; 1];
    let mut parts = [io::IoSliceMut::new(&mut byte)];
    recvmsg(stream.as_fd(), &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC)?;
    Ok(ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    }))
}

/// Removes what sessions of an earlier process left.
pub(super) fn clear_left(place: &PodPlace) {
    if let Err(error) = fs::remove_dir_all(place.execs())
        && error.kind() != io::ErrorKind::NotFound
    {
        tracing::warn!(path = %place.execs().display(), %error, "files of programs in a container stay");
    }
}
