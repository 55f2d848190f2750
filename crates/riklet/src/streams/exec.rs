//! A program in a container, by stream: what a person types goes in, what the program writes comes out. A copy to or from
//! a container is such a program as well, of ours.
//!
//! *Guarantee*: when the user goes, the program ends; when the program ends, the user hears how, after its last words.

use std::{io, path::PathBuf, time::Duration};

use model::session::{
    CONTROL, Control, CopyDirection, CopyRequest, ERRORS, ExecRequest, INPUT, OUTPUT, Outcome, TerminalSize,
    message,
};
use proto::relay::{Frame, MAX_DATA_BYTES, RelayFailure};
use runtime::pod::{
    PodRuntime,
    exec::{Copy, ExecHandle, ExecSession, ExecSpec, Streams, Terminal},
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

async fn carry_to_end(session: ExecSession, stream: &mut Stream, stdin: bool) -> Result<(), RelayFailure> {
    let talked = talk(session, stream, stdin).await;
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
            join(&handle, type_in(receive, Input::Pipe(input), &handle), out, &send).await
        }
        Streams::Terminal(terminal) => {
            let out = async { carry_terminal(&terminal, &send).await };
            join(&handle, type_in(receive, Input::Terminal(&terminal), &handle), out, &send).await
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
    Ok(exit.and_then(|exit| exit.shell_code().ok_or_else(|| io::Error::other("nobody saw how it ended"))))
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
}

impl Input<'_> {
    async fn take(&mut self, mut bytes: &[u8]) {
        match self {
            Self::Pipe(None) => {}
            Self::Pipe(Some(pipe)) => {
                // A program that reads no more has had enough of it.
                if pipe.write_all(bytes).await.is_err() {
                    *self = Self::Pipe(None);
                }
            }
            Self::Terminal(terminal) => {
                while !bytes.is_empty()
                    && let Ok(count) = terminal.write(bytes).await
                {
                    bytes = bytes.get(count..).unwrap_or_default();
                }
            }
        }
    }

    fn resize(&self, size: TerminalSize) {
        if let Self::Terminal(terminal) = self
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
    handle: &ExecHandle,
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
                    }
                }
                Ok(Control::Resize(size)) => input.resize(size),
                Ok(Control::Signal(signal)) => {
                    if let Err(error) = handle.signal(signal).await {
                        tracing::debug!(error = error.sentence(), "a signal was not sent");
                    }
                }
                Err(error) => tracing::debug!(%error, "something was said that is not understood"),
            },
            _ => {}
        }
    }
}
