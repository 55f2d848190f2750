//! One thing more in a running microVM: this process is its outer end.

use std::{
    fs::File,
    io::{self, BufReader},
    os::{
        fd::{AsFd, OwnedFd},
        unix::net::UnixStream,
    },
    process::ExitCode,
    sync::Arc,
    thread,
};

use rustix::termios::{OptionalActions, tcgetattr, tcgetwinsize, tcsetattr};

use super::{ORDER_VARIABLE, lost, sessions_socket, signals};
use crate::{
    flow::{Outlet, Room, Wire, carry, inlet},
    frame::{Frame, Pipe},
    order::{Ended, Order},
};

/// The number of a session's stream on its own connection: there is one.
pub(super) const OWN: u32 = 1;

/// A session that has begun.
pub(super) struct Session {
    wire: Arc<Wire<UnixStream>>,
    frames: BufReader<UnixStream>,
}

impl Session {
    /// Begins it. The error is words on why it could not.
    pub(super) fn begin() -> Result<Self, String> {
        let order = std::env::var(ORDER_VARIABLE).map_err(|error| format!("its order: {error}"))?;
        let mut order: Order = serde_json::from_str(&order).map_err(|error| format!("its order: {error}"))?;
        if order.terminal.is_some() {
            order.terminal = Some(become_terminal().map_err(|error| format!("its terminal: {error}"))?);
        }
        let stream = UnixStream::connect(sessions_socket()).map_err(|error| lost(&error))?;
        let frames = BufReader::new(stream.try_clone().map_err(|error| lost(&error))?);
        let mut own = Self { wire: Arc::new(Wire::new(stream)), frames };
        own.wire.send(OWN, &Frame::Open(Box::new(order))).map_err(|error| lost(&error))?;
        match Frame::read(&mut own.frames).map_err(|error| lost(&error))? {
            (_, Frame::Opened) => Ok(own),
            (_, Frame::Failed(words)) => Err(words),
            _ => Err("the microVM does not speak as it should".to_owned()),
        }
    }

    /// Carries until it has ended.
    pub(super) fn run(mut self) -> ExitCode {
        let own = Arc::clone(&self.wire);
        pass_signals(OWN, move |stream, frame| drop(own.send(stream, &frame)));
        let mut ends = Ends::new(&self.wire, OWN);
        ends.carry_input(&self.wire, OWN);
        loop {
            match Frame::read(&mut self.frames) {
                Ok((_, Frame::Ended(ended))) => {
                    ends.flush();
                    return ExitCode::from(ended.shell_code());
                }
                Ok((_, frame)) => {
                    if let Err(error) = ends.take(frame) {
                        return gone(&error);
                    }
                }
                Err(error) => return gone(&error),
            }
        }
    }
}

fn gone(error: &io::Error) -> ExitCode {
    eprintln!("rik: {}", lost(error));
    ExitCode::from(Ended::default().shell_code())
}

/// Lets the program inside have the signals of this process, and the size of its terminal.
pub(super) fn pass_signals(stream: u32, send: impl Fn(u32, Frame) + Send + 'static) {
    signals::pass_on(move |signal| {
        let frame = match signal {
            libc::SIGWINCH => match size() {
                Some((rows, columns)) => Frame::Resize(rows, columns),
                None => return,
            },
            other => Frame::Signal(other),
        };
        send(stream, frame);
    });
}

fn size() -> Option<(u16, u16)> {
    let size = tcgetwinsize(io::stdin()).ok()?;
    Some((size.ws_row, size.ws_col))
}

/// Makes this process's terminal one that passes on every key, for there is another one inside. Gives its size.
pub(super) fn become_terminal() -> io::Result<(u16, u16)> {
    let stdin = io::stdin();
    let mut modes = tcgetattr(&stdin)?;
    modes.make_raw();
    tcsetattr(&stdin, OptionalActions::Now, &modes)?;
    Ok(size().unwrap_or((24, 80)))
}

/// The outer ends of one program's pipes.
pub(super) struct Ends {
    output: Option<Writer>,
    errors: Option<Writer>,
    input: Arc<Room>,
}

struct Writer {
    inlet: crate::flow::Inlet,
    thread: thread::JoinHandle<io::Result<()>>,
}

impl Writer {
    fn new<W: io::Write + Send + 'static>(
        file: File,
        wire: &Arc<Wire<W>>,
        (stream, pipe): (u32, Pipe),
    ) -> Self {
        let (inlet, outlet): (_, Outlet) = inlet();
        let wire = Arc::clone(wire);
        Self { inlet, thread: thread::spawn(move || outlet.write_to(file, &wire, (stream, pipe))) }
    }

    /// Waits until all is written.
    fn finish(self) {
        drop(self.inlet);
        // What could not be written is nobody's any more.
        let _ = self.thread.join();
    }
}

impl Ends {
    /// The ends are this process's standard files.
    pub(super) fn new<W: io::Write + Send + 'static>(wire: &Arc<Wire<W>>, stream: u32) -> Self {
        let writer =
            |file: io::Result<OwnedFd>, pipe| Some(Writer::new(File::from(file.ok()?), wire, (stream, pipe)));
        Self {
            output: writer(io::stdout().as_fd().try_clone_to_owned(), Pipe::Output),
            errors: writer(io::stderr().as_fd().try_clone_to_owned(), Pipe::Errors),
            input: Arc::new(Room::default()),
        }
    }

    /// Carries this process's input inwards.
    pub(super) fn carry_input<W: io::Write + Send + 'static>(&self, wire: &Arc<Wire<W>>, stream: u32) {
        let (wire, room) = (Arc::clone(wire), Arc::clone(&self.input));
        thread::spawn(move || carry(io::stdin(), &wire, (stream, Pipe::Input), &room));
    }

    /// Takes what comes for this program.
    pub(super) fn take(&mut self, frame: Frame) -> io::Result<()> {
        match frame {
            Frame::Data(Pipe::Output, bytes) => put(self.output.as_ref(), bytes),
            Frame::Data(Pipe::Errors, bytes) => put(self.errors.as_ref(), bytes),
            Frame::Room(Pipe::Input, count) => {
                self.input.give(usize::try_from(count).unwrap_or(usize::MAX));
                Ok(())
            }
            // That a pipe has ended is seen when the program has.
            _ => Ok(()),
        }
    }

    /// Writes down all that has come.
    pub(super) fn flush(&mut self) {
        for writer in [self.output.take(), self.errors.take()].into_iter().flatten() {
            writer.finish();
        }
    }
}

fn put(writer: Option<&Writer>, bytes: Vec<u8>) -> io::Result<()> {
    writer.map_or(Ok(()), |own| own.inlet.put(bytes))
}
