//! Being there while a container runs: hearing what it writes from now on, and typing to its program.
//!
//! ```text
//!  attach ─▶ directory x/<id> with a socket ─▶ shim ─▶ pieces of output, and the terminal if there is one
//!                                 input: the container's own pipe, or its terminal
//! ```
//! Whoever goes leaves the container as it was; only one whose input ends with the first who attaches notices.

use std::{fs, io, os::unix::fs::DirBuilderExt};

use model::Reason;
use tokio::{
    io::AsyncReadExt,
    net::{
        UnixStream,
        unix::pipe::{OpenOptions, Sender},
    },
};
use uuid::Uuid;

use super::{
    PodRuntime,
    exec::{Terminal, accept, listen},
    fault,
    files::{EXIT_FILE, ExitFile, PROCESS_FILE, ProcessFile, read_whole},
    link::LinkError,
    record::{Found, PodPlace},
    shim::{HEAD_BYTES, STDIO, wire::Request},
};
use crate::RuntimeError;

/// Longest piece of output: what the shim reads at once.
const MAX_PIECE_BYTES: u32 = 64 << 10;

/// Somebody who is attached.
#[derive(Debug)]
pub struct AttachSession {
    /// What the container writes.
    pub output: Output,
    /// What it reads, if it reads at all.
    pub input: AttachInput,
    /// The container.
    pub handle: AttachHandle,
}

/// What a container writes, piece by piece.
#[derive(Debug)]
pub struct Output(UnixStream);

/// How a container is written to.
#[derive(Debug)]
pub enum AttachInput {
    /// Nothing reads.
    None,
    /// By its pipe.
    Pipe(Sender),
    /// By its terminal.
    Terminal(Terminal),
}

/// The container that somebody is attached to.
#[derive(Debug)]
pub struct AttachHandle {
    runtime: PodRuntime,
    place: PodPlace,
    index: usize,
    /// Which run of it.
    run: u32,
}

impl PodRuntime {
    /// Attaches to a running container.
    ///
    /// # Errors
    /// It does not run.
    pub async fn attach(&self, uid: &str, index: usize) -> Result<AttachSession, RuntimeError> {
        let operation = || "attach to the container".to_owned();
        let failed = |error: io::Error| fault::words(operation(), Reason::StartFailed, &error.to_string());
        let place = self.place(uid)?;
        let Found::Record(record) = place.read() else {
            return Err(failed(io::Error::other("it is not on this node")));
        };
        let reads = record.spec.spec.all_containers().nth(index).is_some_and(|own| own.stdin);
        let dir = place.execs().join(Uuid::new_v4().to_string());
        fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir).map_err(failed)?;
        let attached = async {
            let process: Option<ProcessFile> =
                read_whole(&place.container(index).join(PROCESS_FILE)).map_err(failed)?;
            let process = process.ok_or_else(|| failed(io::Error::other("the container does not run")))?;
            let socket = listen(&dir).map_err(failed)?;
            let container = u32::try_from(index).unwrap_or(u32::MAX);
            let request = Request::Attach { pod: uid.to_owned(), container, dir: dir.clone() };
            self.shared.link.call(request).await.map_err(|error| match error {
                LinkError::Refused { why } => fault::words(operation(), Reason::StartFailed, &why),
                other => fault::link("attach to the container", Reason::StartFailed, other),
            })?;
            let (stream, terminal) = accept(&socket).await.map_err(failed)?;
            let input = match terminal {
                Some(terminal) => AttachInput::Terminal(terminal),
                None if reads => self.input_of(&place, index),
                None => AttachInput::None,
            };
            let handle =
                AttachHandle { runtime: self.clone(), place: place.clone(), index, run: process.run };
            Ok(AttachSession { output: Output(stream), input, handle })
        };
        let attached = attached.await;
        if let Err(error) = super::remove_dir(&dir) {
            tracing::warn!(path = %dir.display(), %error, "the socket of somebody who attached stays");
        }
        attached
    }

    /// The pipe of a container that reads. One whose input has ended has none any more.
    fn input_of(&self, place: &PodPlace, index: usize) -> AttachInput {
        let pipe = OpenOptions::new().open_sender(place.container(index).join(STDIO[0]));
        pipe.map_or(AttachInput::None, AttachInput::Pipe)
    }
}

impl Output {
    /// The next piece: its channel (`model::session`) and its bytes. None at the end: the container has ended, or this one
    /// was left behind because he did not keep up.
    ///
    /// # Errors
    /// The shim was lost.
    pub async fn next(&mut self, piece: &mut Vec<u8>) -> io::Result<Option<u8>> {
        let mut head = [0_u8; HEAD_BYTES];
        match self.0.read_exact(&mut head).await {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
            Err(error) => return Err(error),
        }
        let [channel, length @ ..] = head;
        let length = u32::from_be_bytes(length);
        if length > MAX_PIECE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a piece that the shim does not send"));
        }
        piece.resize(length as usize, 0);
        match self.0.read_exact(piece).await {
            Ok(_) => Ok(Some(channel)),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AttachHandle {
    /// How the run has ended, once it is written down; None while it goes on, or if a later run has begun already.
    fn exit(&self) -> io::Result<Option<ExitFile>> {
        let exit: Option<ExitFile> = read_whole(&self.place.container(self.index).join(EXIT_FILE))?;
        Ok(exit.filter(|exit| exit.run == self.run))
    }

    /// Waits until the run has ended, and says how.
    ///
    /// # Errors
    /// Nobody can say it any more: a later run has begun, or the pod is gone.
    pub async fn ended(&self) -> io::Result<ExitFile> {
        let mut news = self.runtime.shared.news.counter(&self.place.uid());
        loop {
            news.mark_unchanged();
            if let Some(exit) = self.exit()? {
                return Ok(exit);
            }
            let process: Option<ProcessFile> =
                read_whole(&self.place.container(self.index).join(PROCESS_FILE))?;
            if process.is_none_or(|process| process.run != self.run) {
                return Err(io::Error::other("the container has started again, or is gone"));
            }
            news.changed().await.map_err(|_gone| io::Error::other("its pod is gone"))?;
        }
    }

    /// Sends the container's first process a signal.
    ///
    /// # Errors
    /// It cannot be sent.
    pub async fn signal(&self, signal: i32) -> Result<(), RuntimeError> {
        let request = Request::Signal { pod: self.place.uid(), only: self.only().to_vec(), signal };
        self.call("signal the container", request).await
    }

    /// Ends the container's input, if it can end.
    ///
    /// # Errors
    /// The shim cannot be reached.
    pub async fn close_input(&self) -> Result<(), RuntimeError> {
        let [container] = self.only();
        self.call("end the container's input", Request::CloseInput { pod: self.place.uid(), container }).await
    }

    fn only(&self) -> [u32; 1] {
        [u32::try_from(self.index).unwrap_or(u32::MAX)]
    }

    async fn call(&self, what: &str, request: Request) -> Result<(), RuntimeError> {
        let failed = |error| fault::link(what, Reason::Other, error);
        self.runtime.shared.link.call(request).await.map_err(failed).map(drop)
    }
}
