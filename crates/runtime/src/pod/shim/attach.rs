//! Who listens to a container beside its log.
//!
//! ```text
//!  pipes or terminal ─▶ outputs ─┬▶ log
//!                                └▶ each attached socket: channel, length (4 bytes, big end first), bytes
//! ```
//! A container whose input ends with the first who attaches (`stdinOnce`) is that one's own: its first words are kept for
//! him a moment, and it is not read faster than he takes them. Whoever else does not keep up is left behind, so that
//! nobody who listens can hold up a service.
//!
//! *Guarantee*: what waits for a socket is bounded, by [`MAX_BEHIND_BYTES`] or by not reading on.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, IoSlice, Read, Write},
    mem::MaybeUninit,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd},
        unix::net::UnixStream,
    },
    path::Path,
    time::{Duration, Instant},
};

use model::session::{ERRORS, OUTPUT};
use rustix::{
    event::epoll,
    io::{FdFlags, fcntl_setfd},
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
};
use serde::{Deserialize, Serialize};

use super::{
    join::{TERMINAL_SOCKET, through},
    launch::STDIO,
    log::Stream,
    server::{Key, Live, Outputs, Shim, Source, watch},
    wire::Answer,
};
use crate::pod::files::{read_whole, write_whole};

/// Most that one who does not own the container may be behind before he is left.
const MAX_BEHIND_BYTES: usize = 4 << 20;
/// Most of a container's first words that are kept for its owner; it is not read on before he is there.
const EARLY_BYTES: usize = 64 << 10;
/// How long a container waits for its owner.
pub(super) const OWNER_WITHIN: Duration = Duration::from_secs(10);
/// Most who are attached to one container.
const MAX_ATTACHED: usize = 16;
/// Bytes before each piece: channel and length.
pub const HEAD_BYTES: usize = 5;
/// Name of the file in which a terminal is handed over to the next program of this process.
const TERMINAL_FILE: &str = "terminal.json";

/// One who listens.
#[derive(Debug)]
pub(super) struct Attached {
    socket: UnixStream,
    token: u64,
    unsent: VecDeque<u8>,
    /// Whether the container's input ends with him.
    owner: bool,
    /// Whether he has gone, or did not keep up.
    left: bool,
}

/// A terminal that stays open over an upgrade: its number in this process.
#[derive(Debug, Serialize, Deserialize)]
struct TerminalFile {
    descriptor: RawFd,
    pid: u32,
}

impl Outputs {
    /// Gives what a container wrote to all who listen.
    pub(super) fn pass_on(&mut self, stream: Stream, bytes: &[u8]) {
        let channel = match stream {
            Stream::Stdout => OUTPUT,
            Stream::Stderr => ERRORS,
        };
        let Ok(length) = u32::try_from(bytes.len()) else { return };
        let pieces = [&[channel][..], &length.to_be_bytes(), bytes];
        if let Some(early) = &mut self.early {
            pieces.iter().for_each(|piece| early.extend(*piece));
        }
        for one in &mut self.attached {
            pieces.iter().for_each(|piece| one.unsent.extend(*piece));
        }
        for one in &mut self.attached {
            one.left = !one.flush() || (!one.owner && one.unsent.len() > MAX_BEHIND_BYTES);
        }
    }

    /// Whether it may be read: nobody who owns it is behind.
    fn may_be_read(&self) -> bool {
        let early = self.early.as_ref().is_none_or(|early| early.len() < EARLY_BYTES);
        early && !self.attached.iter().any(|one| one.owner && !one.unsent.is_empty())
    }
}

impl Attached {
    /// Sends what can be sent now; false if he is gone.
    fn flush(&mut self) -> bool {
        while !self.unsent.is_empty() {
            match self.socket.write(self.unsent.as_slices().0) {
                Ok(count) if count > 0 => drop(self.unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return false,
            }
        }
        self.unsent = VecDeque::new();
        true
    }
}

impl Shim {
    /// Lets somebody listen to a container: he waits at the socket in `dir`.
    pub(super) fn attach(&mut self, pod: &str, index: u32, dir: &Path) -> Answer {
        let refused = |why: &str| Answer::Refused { why: why.to_owned() };
        let key: Key = (pod.to_owned(), index);
        let Some(live) = self.live.get(&key) else { return refused("the container does not run") };
        if live.outputs.attached.len() >= MAX_ATTACHED {
            return refused("too many are attached to the container already");
        }
        let socket = match call(dir, live.outputs.terminal()) {
            Ok(socket) => socket,
            Err(error) => return Answer::Refused { why: error.to_string() },
        };
        let token = self.token(Source::Attached(key.clone()));
        self.expecting.remove(&key);
        let Some(live) = self.live.get_mut(&key) else { return refused("the container does not run") };
        let early = live.outputs.early.take();
        let owner = early.is_some();
        let unsent = early.unwrap_or_default();
        let mut one = Attached { socket, token, unsent, owner, left: false };
        let watched = watch(&self.epoll, &one.socket, token);
        one.left = watched.is_err() || !one.flush();
        live.outputs.attached.push(one);
        self.settle_listeners(&key);
        Answer::Done
    }

    /// Something came from one who listens, or he can take more.
    pub(super) fn serve_attached(&mut self, key: &Key, token: u64) {
        if let Some(one) = self.leaving.get_mut(&token) {
            if !one.is_there() || !one.flush() || one.unsent.is_empty() {
                self.leaving.remove(&token);
                self.sources.remove(&token);
            }
            return;
        }
        let Some(live) = self.live.get_mut(key) else { return };
        for one in live.outputs.attached.iter_mut().filter(|one| one.token == token) {
            one.left = !one.is_there() || !one.flush();
        }
        self.settle_listeners(key);
    }

    /// Waits for what can go on: room at those who are behind, and the container's words if they may be read.
    pub(super) fn settle_listeners(&mut self, key: &Key) {
        let Some(live) = self.live.get_mut(key) else { return };
        for one in live.outputs.attached.iter().filter(|one| one.left) {
            self.sources.remove(&one.token);
        }
        let owner_gone = live.outputs.attached.iter().any(|one| one.left && one.owner);
        live.outputs.attached.retain(|one| !one.left);
        if owner_gone {
            end_input(live);
        }
        let outputs = &mut live.outputs;
        for one in &outputs.attached {
            let out = if one.unsent.is_empty() { epoll::EventFlags::empty() } else { epoll::EventFlags::OUT };
            let flags = epoll::EventFlags::IN | out;
            let _ = epoll::modify(&self.epoll, &one.socket, epoll::EventData::new_u64(one.token), flags);
        }
        let read = outputs.may_be_read();
        if read == outputs.paused {
            outputs.paused = !read;
            let flags = if read { epoll::EventFlags::IN } else { epoll::EventFlags::empty() };
            for (file, token) in outputs.watched() {
                let _ = epoll::modify(&self.epoll, file, epoll::EventData::new_u64(token), flags);
            }
        }
    }

    /// Goes on without owners who did not come.
    pub(super) fn end_early(&mut self) {
        let now = Instant::now();
        let late = self.expecting.iter().filter(|(_, until)| **until <= now).map(|(key, _)| key.clone());
        for key in late.collect::<Vec<Key>>() {
            self.expecting.remove(&key);
            if let Some(live) = self.live.get_mut(&key) {
                live.outputs.early = None;
            }
            self.settle_listeners(&key);
        }
    }

    /// A container has ended: those who listen hear its last words, and then the end.
    pub(super) fn let_listeners_go(&mut self, outputs: &mut Outputs) {
        for mut one in outputs.attached.drain(..) {
            if !one.left && one.flush() && !one.unsent.is_empty() {
                let flags = epoll::EventFlags::IN | epoll::EventFlags::OUT;
                let _ = epoll::modify(&self.epoll, &one.socket, epoll::EventData::new_u64(one.token), flags);
                self.leaving.insert(one.token, one);
            } else {
                self.sources.remove(&one.token);
            }
        }
    }

    /// Ends the input of a container for good.
    pub(super) fn close_input(&mut self, pod: &str, index: u32) -> Answer {
        if let Some(live) = self.live.get_mut(&(pod.to_owned(), index)) {
            end_input(live);
        }
        Answer::Done
    }

    /// Leaves the terminals open for the program that this process becomes, and says where they are.
    pub(super) fn hand_over_terminals(&self, flags: FdFlags) {
        for live in self.live.values() {
            let Some(terminal) = live.outputs.terminal() else { continue };
            let file = TerminalFile { descriptor: terminal.as_raw_fd(), pid: std::process::id() };
            let handed = fcntl_setfd(terminal, flags).map_err(io::Error::from);
            if let Err(error) = handed.and_then(|()| write_whole(&live.dir.join(TERMINAL_FILE), &file)) {
                eprintln!("the terminal of {} is lost: {error}", live.dir.display());
            }
        }
    }
}

impl Attached {
    /// Whether he has not hung up. He has nothing to say here: what he types goes to the container directly.
    fn is_there(&mut self) -> bool {
        let mut byte = [0_u8; 1];
        match self.socket.read(&mut byte) {
            Ok(0) => false,
            Ok(_) => true,
            Err(error) => error.kind() == io::ErrorKind::WouldBlock,
        }
    }
}

/// The container's input ends when the last who holds its other end lets go.
fn end_input(live: &mut Live) {
    if live.outputs.input.take().is_some() {
        // It is not to be opened again.
        let _ = std::fs::remove_file(live.dir.join(STDIO[0]));
    }
}

/// Calls the one who waits in `dir`, with the terminal, if there is one.
fn call(dir: &Path, terminal: Option<BorrowedFd<'_>>) -> io::Result<UnixStream> {
    let dir = File::open(dir)?;
    let socket = UnixStream::connect(through(&dir).join(TERMINAL_SOCKET))?;
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut buffer = SendAncillaryBuffer::new(&mut space);
    let sent: Vec<BorrowedFd<'_>> = terminal.into_iter().collect();
    if !sent.is_empty() {
        buffer.push(SendAncillaryMessage::ScmRights(&sent));
    }
    sendmsg(&socket, &[IoSlice::new(b"a")], &mut buffer, SendFlags::empty())?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// Takes the terminal that a container has sent before it began its program.
pub(super) fn receive_terminal(socket: &UnixStream) -> io::Result<File> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut byte = [0_u8; 1];
    let mut parts = [io::IoSliceMut::new(&mut byte)];
    recvmsg(socket.as_fd(), &mut parts, &mut ancillary, RecvFlags::CMSG_CLOEXEC | RecvFlags::DONTWAIT)?;
    let found = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut descriptors) => descriptors.next(),
        _ => None,
    });
    let terminal = found.ok_or_else(|| io::Error::other("no terminal came"))?;
    rustix::io::ioctl_fionbio(&terminal, true)?;
    Ok(terminal.into())
}

/// The terminal of a container that the program before has handed over, if this is the process that had it.
pub(super) fn inherited_terminal(dir: &Path) -> Option<File> {
    let path = dir.join(TERMINAL_FILE);
    let file: TerminalFile = read_whole(&path).ok().flatten()?;
    let _ = std::fs::remove_file(&path);
    if file.pid != std::process::id() || file.descriptor <= libc::STDERR_FILENO {
        return None;
    }
    // SAFETY: this very process has left it open for itself, and nothing else has taken it since: it is asked what it is
    // below, and let go of if it is something else.
    let descriptor = unsafe { OwnedFd::from_raw_fd(file.descriptor) };
    let mut number: libc::c_uint = 0;
    // SAFETY: a plain call with room for its answer.
    let is_terminal = unsafe { libc::ioctl(descriptor.as_raw_fd(), libc::TIOCGPTN, &raw mut number) } == 0;
    if !is_terminal {
        std::mem::forget(descriptor);
        return None;
    }
    let _ = fcntl_setfd(&descriptor, FdFlags::CLOEXEC);
    Some(descriptor.into())
}
