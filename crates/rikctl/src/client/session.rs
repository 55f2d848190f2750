//! Sessions over a WebSocket: one loop that waits for the controller and for local input at once.
//!
//! What is said is in `model::session`. Input is read only as fast as the controller takes it, and what arrives is
//! always read, so that neither side can hold up the other for ever.

use std::{
    io,
    net::{TcpStream, ToSocketAddrs},
    os::fd::{AsFd, BorrowedFd},
    sync::Arc,
};

use model::{
    api::Problem,
    session::{CONTROL, Control, INPUT, Outcome, message},
};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tungstenite::{HandshakeError, Message, WebSocket, protocol::WebSocketConfig};

use super::{ANSWER_BEGINS, CONNECT, Client, ClientError};
use crate::failure::{Failure, Report};

/// Bytes of input that are read at a time.
const CHUNK: usize = 32 << 10;
/// How often what the caller has to say beside the input is looked for.
const LOOK_EVERY: Timespec = Timespec { tv_sec: 0, tv_nsec: 250_000_000 };
/// Largest message that is taken: the controller sends less.
const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// A session that stands.
pub(crate) struct Session {
    socket: WebSocket<TcpStream>,
    /// Something is written and not sent yet.
    unsent: bool,
}

/// How a session was over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    /// With this outcome.
    Told(Outcome),
    /// Without a word.
    Silent,
    /// We left it.
    Left,
}

/// What a session talks to on this side.
pub(crate) trait Local {
    /// Takes what arrived on a channel.
    fn hear(&mut self, channel: u8, bytes: &[u8]) -> Result<(), Failure>;

    /// What of the bytes that were typed is passed on; None to leave.
    fn typed(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        Some(bytes.to_vec())
    }

    /// Something to say beside the input.
    fn control(&mut self) -> Option<Control> {
        None
    }

    /// The message that says that the input has ended.
    fn end_of_input(&self) -> Vec<u8>;
}

impl Client {
    /// Opens a session.
    pub(crate) fn session(&self, path: &str) -> Result<Session, ClientError> {
        let cluster = &self.cluster;
        let unreachable = |error: io::Error| ClientError::Unreachable {
            cluster: Arc::clone(cluster),
            source: Box::new(ureq::Error::Io(error)),
        };
        let server = cluster.server.strip_prefix("http://").unwrap_or(&cluster.server);
        let authority = server.split('/').next().unwrap_or(server);
        let address = if authority.rsplit_once(':').is_some_and(|(_, port)| port.parse::<u16>().is_ok()) {
            authority.to_owned()
        } else {
            format!("{authority}:80")
        };
        let stream = connect(&address).map_err(unreachable)?;
        stream.set_read_timeout(Some(ANSWER_BEGINS)).map_err(unreachable)?;
        stream.set_write_timeout(Some(ANSWER_BEGINS)).map_err(unreachable)?;
        let config = WebSocketConfig::default()
            .max_message_size(Some(MAX_MESSAGE_BYTES))
            .max_frame_size(Some(MAX_MESSAGE_BYTES));
        let url = format!("ws://{server}/api/v1{path}");
        let opened = tungstenite::client::client_with_config(url, stream, Some(config));
        let (socket, _) = opened.map_err(|error| self.refused(path, error))?;
        let stream = socket.get_ref();
        stream.set_nodelay(true).and_then(|()| stream.set_nonblocking(true)).map_err(unreachable)?;
        Ok(Session { socket, unsent: false })
    }

    fn refused(
        &self,
        path: &str,
        error: HandshakeError<tungstenite::ClientHandshake<TcpStream>>,
    ) -> ClientError {
        let cluster = Arc::clone(&self.cluster);
        match error {
            HandshakeError::Failure(tungstenite::Error::Http(response)) => {
                let status = response.status().as_u16();
                let body = response.into_body().unwrap_or_default();
                match serde_json::from_slice::<Problem>(&body) {
                    Ok(problem) => ClientError::Problem { problem: Box::new(problem) },
                    Err(_) => {
                        let request = format!("GET /api/v1{path}");
                        ClientError::Status { cluster, request, status, text: String::new() }
                    }
                }
            }
            HandshakeError::Failure(error) => {
                let source = Box::new(ureq::Error::Io(io::Error::other(error)));
                ClientError::Lost { cluster, source }
            }
            HandshakeError::Interrupted(_) => {
                let source = Box::new(ureq::Error::Io(io::ErrorKind::TimedOut.into()));
                ClientError::Silent { cluster, source }
            }
        }
    }
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for address in address.to_socket_addrs()? {
        match TcpStream::connect_timeout(&address, CONNECT) {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(last)
}

impl Session {
    /// Says the first message.
    pub(crate) fn request(&mut self, text: String) -> Result<(), Failure> {
        self.say(Message::Text(text.into()))
    }

    /// Talks until the other side ends it, or this one leaves.
    pub(crate) fn run(
        mut self,
        input: Option<BorrowedFd<'_>>,
        local: &mut impl Local,
    ) -> Result<Over, Failure> {
        let mut input = input;
        let mut buffer = vec![0_u8; CHUNK];
        loop {
            let (heard, typed) = self.wait(input)?;
            if self.unsent {
                self.flush()?;
            }
            if let Some(control) = local.control() {
                self.control(&control)?;
            }
            if heard && let Some(end) = self.hear(local)? {
                return Ok(end);
            }
            if typed && let Some(source) = input {
                match rustix::io::read(source, &mut buffer) {
                    Ok(0) => {
                        input = None;
                        self.say(Message::Binary(local.end_of_input().into()))?;
                    }
                    Ok(count) => {
                        let Some(bytes) = local.typed(buffer.get(..count).unwrap_or_default()) else {
                            return self.leave();
                        };
                        if !bytes.is_empty() {
                            self.say(Message::Binary(message(INPUT, &bytes).into()))?;
                        }
                    }
                    Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                    // A terminal or connection that is gone says nothing more.
                    Err(_) => {
                        input = None;
                        self.say(Message::Binary(local.end_of_input().into()))?;
                    }
                }
            }
        }
    }

    /// Waits for something to do. Says whether something arrived, and whether there is input.
    fn wait(&self, input: Option<BorrowedFd<'_>>) -> Result<(bool, bool), Failure> {
        let wanted = if self.unsent { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
        let mut waiting = vec![PollFd::from_borrowed_fd(self.socket.get_ref().as_fd(), wanted)];
        // Not read faster than it can be passed on.
        if let Some(input) = input.filter(|_| !self.unsent) {
            waiting.push(PollFd::from_borrowed_fd(input, PollFlags::IN));
        }
        match poll(&mut waiting, Some(&LOOK_EVERY)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(broken(&error.to_string())),
        }
        let any = |place: usize| waiting.get(place).is_some_and(|one| !one.revents().is_empty());
        Ok((any(0), any(1)))
    }

    /// Says that this side goes.
    fn leave(mut self) -> Result<Over, Failure> {
        // It is gone either way.
        let _ = self.socket.close(None);
        let _ = self.flush();
        Ok(Over::Left)
    }

    /// Takes everything that arrived. Some when it was the last.
    fn hear(&mut self, local: &mut impl Local) -> Result<Option<Over>, Failure> {
        loop {
            match self.socket.read() {
                Ok(Message::Binary(data)) => match data.split_first() {
                    Some((&CONTROL, bytes)) => {
                        let outcome = serde_json::from_slice(bytes).map_err(|error| {
                            broken(&format!("its last words are not understood: {error}"))
                        })?;
                        return Ok(Some(Over::Told(outcome)));
                    }
                    Some((channel, bytes)) => local.hear(*channel, bytes)?,
                    None => {}
                },
                Ok(Message::Close(_)) => return Ok(Some(Over::Silent)),
                Ok(_) => {}
                Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    return Ok(None);
                }
                Err(tungstenite::Error::ConnectionClosed | tungstenite::Error::AlreadyClosed) => {
                    return Ok(Some(Over::Silent));
                }
                Err(error) => return Err(broken(&error.to_string())),
            }
        }
    }

    fn control(&mut self, control: &Control) -> Result<(), Failure> {
        let bytes = serde_json::to_vec(control).map_err(|error| broken(&error.to_string()))?;
        self.say(Message::Binary(message(CONTROL, &bytes).into()))
    }

    fn say(&mut self, message: Message) -> Result<(), Failure> {
        match self.socket.write(message) {
            Ok(()) => self.flush(),
            // It is kept, and sent when there is room.
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.unsent = true;
                Ok(())
            }
            Err(error) => Err(broken(&error.to_string())),
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        match self.socket.flush() {
            Ok(()) => self.unsent = false,
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                self.unsent = true
            }
            // What the other side still had to say is read first.
            Err(tungstenite::Error::Io(error)) if error.kind() == io::ErrorKind::BrokenPipe => {
                self.unsent = false
            }
            Err(error) => return Err(broken(&error.to_string())),
        }
        Ok(())
    }
}

/// The session ended before its end.
fn broken(why: &str) -> Failure {
    Report::new(format!("the session broke off: {why}")).into()
}

/// An outcome that is a failure, told.
pub(crate) fn failed(code: &str, message: &str) -> Failure {
    let report = Report::new(message.to_owned());
    match code {
        "node-unreachable" | "scheduler-away" => report.hint("rikctl get nodes").into(),
        _ => report.into(),
    }
}
