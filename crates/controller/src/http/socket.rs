//! A client's socket that gives up on a client who takes nothing, and that parts politely.
//!
//! *Stall*: when nothing of an answer could be written for so long, the write fails. Without it, a client that never
//! reads would hold its stream, its buffers and its place for ever.
//! *Parting*: an answer that is sent before the request's body was read whole (413, 415) would be lost if the socket
//! were closed at once, because unread bytes make the kernel reset the connection. So at the end the sending side is
//! closed first, and what still arrives is thrown away for a moment.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    time::{Instant, Sleep, sleep_until},
};

/// How long what still arrives is thrown away at the end.
const LINGER: Duration = Duration::from_secs(1);
/// How much of it at most: sixteen times the largest body that is read whole.
const LINGER_BYTES: usize = 16 << 20;
/// Bytes thrown away in one step.
const LINGER_STEP: usize = 16 << 10;

/// The socket.
pub(crate) struct Socket {
    stream: TcpStream,
    stall: Duration,
    /// Runs while nothing can be written.
    stalled: Option<Pin<Box<Sleep>>>,
    parting: Parting,
}

enum Parting {
    NotYet,
    Lingering { until: Pin<Box<Sleep>>, taken: usize },
    Done,
}

impl Socket {
    pub(crate) const fn new(stream: TcpStream, stall: Duration) -> Self {
        Self { stream, stall, stalled: None, parting: Parting::NotYet }
    }

    /// Passes a result of writing on, unless nothing could be written for too long.
    fn watch_stall<T>(
        &mut self,
        context: &mut Context<'_>,
        result: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if result.is_ready() {
            self.stalled = None;
            return result;
        }
        let stall = self.stall;
        let stalled = self.stalled.get_or_insert_with(|| Box::pin(sleep_until(Instant::now() + stall)));
        ready!(stalled.as_mut().poll(context));
        Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, "the client takes nothing of its answer")))
    }
}

impl AsyncRead for Socket {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Socket {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write(context, data);
        self.watch_stall(context, result)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.stream).poll_flush(context);
        self.watch_stall(context, result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = &mut *self;
        loop {
            match &mut this.parting {
                Parting::NotYet => {
                    ready!(Pin::new(&mut this.stream).poll_shutdown(context))?;
                    let until = Box::pin(sleep_until(Instant::now() + LINGER));
                    this.parting = Parting::Lingering { until, taken: 0 };
                }
                Parting::Lingering { until, taken } => {
                    let mut bytes = [0_u8; LINGER_STEP];
                    let mut buffer = ReadBuf::new(&mut bytes);
                    let read = Pin::new(&mut this.stream).poll_read(context, &mut buffer);
                    if read.is_pending() {
                        ready!(until.as_mut().poll(context));
                    }
                    let count = buffer.filled().len();
                    *taken += count;
                    let goes_on = matches!(read, Poll::Ready(Ok(()))) && count > 0 && *taken < LINGER_BYTES;
                    if !goes_on {
                        this.parting = Parting::Done;
                    }
                }
                Parting::Done => return Poll::Ready(Ok(())),
            }
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        data: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.stream).poll_write_vectored(context, data);
        self.watch_stall(context, result)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
