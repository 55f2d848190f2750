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
    /// The other side takes no more: what it said before is still there to be read.
    deaf: bool,
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
        Ok(Session { socket, unsent: false, deaf: false })
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
            let (heard, typed) = self.wait(input.filter(|_| !self.deaf))?;
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
        if self.deaf {
            return Ok(());
        }
        match self.socket.write(message) {
            Ok(()) => self.flush(),
            Err(error) => self.unsaid(error),
        }
    }

    fn flush(&mut self) -> Result<(), Failure> {
        match self.socket.flush() {
            Ok(()) => self.unsent = false,
            Err(error) => self.unsaid(error)?,
        }
        Ok(())
    }

    fn unsaid(&mut self, error: tungstenite::Error) -> Result<(), Failure> {
        use io::ErrorKind::{BrokenPipe, ConnectionReset, WouldBlock};
        match error {
            // It is kept, and sent when there is room.
            tungstenite::Error::Io(error) if error.kind() == WouldBlock => self.unsent = true,
            tungstenite::Error::Io(error) if matches!(error.kind(), BrokenPipe | ConnectionReset) => {
                (self.unsent, self.deaf) = (false, true);
            }
            error => return Err(broken(&error.to_string())),
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

#[cfg(test)]
mod tests {
    use std::{net::TcpListener, sync::mpsc, thread};

    use super::*;

    /// Types once the other side is gone.
    struct LateTyper(mpsc::Receiver<()>);

    impl Local for LateTyper {
        fn hear(&mut self, _channel: u8, _bytes: &[u8]) -> Result<(), Failure> {
            Ok(())
        }

        fn typed(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
            let _ = self.0.recv();
            Some(bytes.to_vec())
        }

        fn end_of_input(&self) -> Vec<u8> {
            vec![CONTROL]
        }
    }

    #[test]
    fn last_words_are_heard_although_the_other_side_takes_no_more() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it has an address");
        let (gone, is_gone) = mpsc::channel();
        let other = thread::spawn(move || {
            let (stream, _) = listener.accept().expect("it comes");
            let mut socket = tungstenite::accept(stream).expect("it is a session");
            let outcome = serde_json::to_vec(&Outcome::Exit(7)).expect("it is JSON");
            // What was sent before is there and not read, so the end is a reset.
            while socket.get_ref().peek(&mut [0]).expect("it is open") == 0 {}
            socket.send(Message::Binary(message(CONTROL, &outcome).into())).expect("it is open");
            drop(socket);
            gone.send(()).expect("it waits");
        });
        let stream = TcpStream::connect(address).expect("it listens");
        let (socket, _) = tungstenite::client(format!("ws://{address}/"), stream).expect("it answers");
        socket.get_ref().set_nonblocking(true).expect("it can");
        let mut session = Session { socket, unsent: false, deaf: false };
        session.request("first".to_owned()).expect("it is open");
        let (read, mut write) = io::pipe().expect("there is room");
        io::Write::write_all(&mut write, b"typed").expect("there is room");
        let over = session.run(Some(read.as_fd()), &mut LateTyper(is_gone)).ok();
        assert_eq!(over, Some(Over::Told(Outcome::Exit(7))));
        other.join().expect("it does not panic");
    }
}
