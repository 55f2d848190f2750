//! A program in a container, by stream: what a person types goes in, what the program writes comes out. A copy to or from
//! a container is such a program as well, of ours.
//!
//! *Guarantee*: when the user goes, the program ends; when the program ends, the user hears how, after its last words.

use std::{io, path::PathBuf, time::Duration};

use model::session::{
    AttachRequest, CONTROL, Control, CopyDirection, CopyRequest, ERRORS, ExecRequest, INPUT, OUTPUT, Outcome,
    TerminalSize, message,
};
use proto::relay::{Frame, MAX_DATA_BYTES, RelayFailure};
use runtime::{
    RuntimeError,
    pod::{
        PodRuntime,
        attach::{AttachHandle, AttachInput, AttachSession, Output},
        exec::{Copy, ExecHandle, ExecSession, ExecSpec, Streams, Terminal},
        files::ExitFile,
    },
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWriteExt},
    net::unix::pipe::Sender,
    sync::mpsc,
    time::timeout,
};
use tonic::Streaming;

use super::{Hangup, Stream, failure};

/// How long the output of a program that has ended may be quiet before nothing more is expected: what it left running
/// may hold its streams for ever.
const LAST_WORDS: Duration = Duration::from_millis(300);
/// How long the end of a container may take to be written down after its output has ended.
const END_WITHIN: Duration = Duration::from_secs(2);
/// Bytes of data in one frame, beside the channel's.
const PIECE_BYTES: usize = MAX_DATA_BYTES - 1;

/// Runs the program, and carries between it and the user until one of them ends.
pub(super) async fn serve(
    pods: &PodRuntime,
    stream: &mut Stream,
    uid: &str,
    container: &str,
    wanted: &ExecRequest,
) -> Result<(), RelayFailure> {
    let index = pods.container_index(uid, container);
    let index = index.ok_or_else(|| failure("container-not-found", "it is not on its node"))?;
    let spec = ExecSpec {
        command: wanted.command.clone(),
        terminal: wanted.terminal.map(|size| (size.rows, size.columns)),
        ..ExecSpec::default()
    };
    let session = pods.exec(uid, index, spec).await;
    let session = session.map_err(|error| failure("exec-failed", error.sentence()))?;
    carry_to_end(session, stream, wanted.stdin).await
}

/// Copies, with the container's own rights and within it.
pub(super) async fn copy(
    pods: &PodRuntime,
    stream: &mut Stream,
    uid: &str,
    container: &str,
    wanted: &CopyRequest,
) -> Result<(), RelayFailure> {
    let index = pods.container_index(uid, container);
    let index = index.ok_or_else(|| failure("container-not-found", "it is not on its node"))?;
    let path = PathBuf::from(&wanted.path);
    let copy = match wanted.direction {
        CopyDirection::Out => Copy::Out(path),
        CopyDirection::In => Copy::In(path),
    };
    let session = pods.copy(uid, index, copy).await;
    let session = session.map_err(|error| failure("exec-failed", error.sentence()))?;
    carry_to_end(session, stream, wanted.direction == CopyDirection::In).await
}

/// Lets the user be there while a container runs.
pub(super) async fn attach(
    pods: &PodRuntime,
    stream: &mut Stream,
    uid: &str,
    container: &str,
    wanted: &AttachRequest,
) -> Result<(), RelayFailure> {
    let index = pods.container_index(uid, container);
    let index = index.ok_or_else(|| failure("container-not-found", "it is not on its node"))?;
    let session = pods.attach(uid, index).await;
    let AttachSession { mut output, input, handle } =
        session.map_err(|error| failure("exec-failed", error.sentence()))?;
    let input = match input {
        AttachInput::Terminal(terminal) if wanted.stdin => Input::OwnedTerminal(terminal),
        AttachInput::Pipe(pipe) if wanted.stdin => Input::Pipe(Some(pipe)),
        AttachInput::None | AttachInput::Pipe(_) | AttachInput::Terminal(_) => Input::Pipe(None),
    };
    if let Some(size) = wanted.terminal {
        input.resize(size);
    }
    let (send, receive) = (stream.send.clone(), &mut stream.receive);
    let exit = async {
        carry_pieces(&mut output, &send).await;
        // Left behind while the container goes on, there is no end to wait for.
        match timeout(END_WITHIN, handle.ended()).await {
            Ok(exit) => exit,
            Err(_goes_on) => {
                Err(io::Error::other("you did not keep up with its output; `rikctl logs` has it"))
            }
        }
    };
    let talked = tokio::select! {
        gone = type_in(receive, input, Program::Container(&handle)) => Err(gone),
        () = send.closed() => Err(Hangup),
        exit = exit => Ok(code_of(exit)),
    };
    tell_outcome(talked, stream).await
}

/// Sends what a container writes, to the end.
async fn carry_pieces(output: &mut Output, send: &mpsc::Sender<Frame>) {
    let mut piece = Vec::new();
    while let Ok(Some(channel)) = output.next(&mut piece).await {
        for part in piece.chunks(PIECE_BYTES) {
            if send.send(Frame::Data(message(channel, part))).await.is_err() {
                return;
            }
        }
    }
}

async fn carry_to_end(session: ExecSession, stream: &mut Stream, stdin: bool) -> Result<(), RelayFailure> {
    let talked = talk(session, stream, stdin).await;
    tell_outcome(talked, stream).await
}

async fn tell_outcome(
    talked: Result<io::Result<i32>, Hangup>,
    stream: &mut Stream,
) -> Result<(), RelayFailure> {
    let code = match talked {
        Ok(code) => code.map_err(|error| failure("exec-failed", error.to_string()))?,
        // Nobody is there to be told.
        Err(Hangup) => return Ok(()),
    };
    let outcome =
        serde_json::to_vec(&Outcome::Exit(code)).map_err(|error| failure("internal", error.to_string()))?;
    let _ = stream.send.send(Frame::Data(message(CONTROL, &outcome))).await;
    Ok(())
}

/// Carries until the program has ended and its last words are sent. Gives its exit code.
async fn talk(session: ExecSession, stream: &mut Stream, stdin: bool) -> Result<io::Result<i32>, Hangup> {
    let ExecSession { streams, handle } = session;
    let (send, receive) = (stream.send.clone(), &mut stream.receive);
    match streams {
        Streams::Pipes { input, mut output, mut errors } => {
            let input = input.filter(|_| stdin);
            let out = async {
                tokio::join!(carry(&mut output, OUTPUT, &send), carry(&mut errors, ERRORS, &send));
            };
            join(&handle, type_in(receive, Input::Pipe(input), Program::Exec(&handle)), out, &send).await
        }
        Streams::Terminal(terminal) => {
            let out = async { carry_terminal(&terminal, &send).await };
            join(&handle, type_in(receive, Input::Terminal(&terminal), Program::Exec(&handle)), out, &send)
                .await
        }
    }
}

async fn join(
    handle: &ExecHandle,
    typing: impl Future<Output = Hangup>,
    output: impl Future<Output = ()>,
    send: &mpsc::Sender<Frame>,
) -> Result<io::Result<i32>, Hangup> {
    let (mut typing, mut output) = (std::pin::pin!(typing), std::pin::pin!(output));
    let mut ended = std::pin::pin!(handle.ended());
    let mut all_said = false;
    let exit = loop {
        tokio::select! {
            gone = &mut typing => return Err(gone),
            () = send.closed() => return Err(Hangup),
            () = &mut output, if !all_said => all_said = true,
            exit = &mut ended => break exit,
        }
    };
    if !all_said {
        let _ = timeout(LAST_WORDS, output).await;
    }
    Ok(code_of(exit))
}

fn code_of(exit: io::Result<ExitFile>) -> io::Result<i32> {
    exit.and_then(|exit| exit.shell_code().ok_or_else(|| io::Error::other("nobody saw how it ended")))
}

/// Sends what comes out of a pipe, to its end.
async fn carry(pipe: &mut (impl AsyncRead + Unpin), channel: u8, send: &mpsc::Sender<Frame>) {
    let mut buffer = vec![0_u8; PIECE_BYTES];
    while let Ok(count) = pipe.read(&mut buffer).await
        && count > 0
    {
        let piece = message(channel, buffer.get(..count).unwrap_or_default());
        if send.send(Frame::Data(piece)).await.is_err() {
            return;
        }
    }
}

async fn carry_terminal(terminal: &Terminal, send: &mpsc::Sender<Frame>) {
    let mut buffer = vec![0_u8; PIECE_BYTES];
    while let Ok(count) = terminal.read(&mut buffer).await
        && count > 0
    {
        let piece = message(OUTPUT, buffer.get(..count).unwrap_or_default());
        if send.send(Frame::Data(piece)).await.is_err() {
            return;
        }
    }
}

enum Input<'a> {
    /// None: it has ended.
    Pipe(Option<Sender>),
    Terminal(&'a Terminal),
    OwnedTerminal(Terminal),
}

/// Who is typed to.
#[derive(Clone, Copy)]
enum Program<'a> {
    Exec(&'a ExecHandle),
    Container(&'a AttachHandle),
}

impl Program<'_> {
    async fn signal(self, signal: i32) -> Result<(), RuntimeError> {
        match self {
            Self::Exec(handle) => handle.signal(signal).await,
            Self::Container(handle) => handle.signal(signal).await,
        }
    }

    /// The user's end of its input is closed already.
    async fn end_input(self) {
        if let Self::Container(handle) = self
            && let Err(error) = handle.close_input().await
        {
            tracing::debug!(error = error.sentence(), "the input of a container was not ended");
        }
    }
}

impl Input<'_> {
    fn terminal(&self) -> Option<&Terminal> {
        match self {
            Self::Pipe(_) => None,
            Self::Terminal(terminal) => Some(terminal),
            Self::OwnedTerminal(terminal) => Some(terminal),
        }
    }

    async fn take(&mut self, mut bytes: &[u8]) {
        if let Self::Pipe(Some(pipe)) = self {
            // A program that reads no more has had enough of it.
            if pipe.write_all(bytes).await.is_err() {
                *self = Self::Pipe(None);
            }
        } else if let Some(terminal) = self.terminal() {
            while !bytes.is_empty()
                && let Ok(count) = terminal.write(bytes).await
            {
                bytes = bytes.get(count..).unwrap_or_default();
            }
        }
    }

    fn resize(&self, size: TerminalSize) {
        if let Some(terminal) = self.terminal()
            && let Err(error) = terminal.resize(size.rows, size.columns)
        {
            tracing::debug!(%error, "a terminal keeps its size");
        }
    }
}

/// Gives the program what the user sends, until the user goes.
async fn type_in(
    receive: &mut Streaming<proto::wire::Frame>,
    mut input: Input<'_>,
    program: Program<'_>,
) -> Hangup {
    loop {
        let Ok(Some(frame)) = receive.message().await else { return Hangup };
        let Ok(Frame::Data(data)) = Frame::try_from(frame) else { return Hangup };
        match data.split_first() {
            Some((&INPUT, bytes)) => input.take(bytes).await,
            Some((&CONTROL, bytes)) => match serde_json::from_slice(bytes) {
                Ok(Control::EndOfInput) => {
                    if let Input::Pipe(pipe) = &mut input {
                        *pipe = None;
                        program.end_input().await;
                    }
                }
                Ok(Control::Resize(size)) => input.resize(size),
                Ok(Control::Signal(signal)) => {
                    if let Err(error) = program.signal(signal).await {
                        tracing::debug!(error = error.sentence(), "a signal was not sent");
                    }
                }
                Err(error) => tracing::debug!(%error, "something was said that is not understood"),
            },
            _ => {}
        }
    }
}
