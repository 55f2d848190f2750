//! Those who call the shim: their connections, calls and replies.
//!
//! *Guarantee*: a caller that does not read is cut off when [`MAX_UNREAD_BYTES`] wait for it; it never delays another.

use std::{
    io::{self, Read, Write},
    os::unix::net::UnixStream,
};

use rustix::event::epoll;

use super::{
    process,
    server::{Key, Live, Shim, Source, watch},
    wire::{Answer, Call, FrameBuffer, MAX_FRAME_BYTES, Message, PROTOCOL, Request, encode},
};

/// Most connections at a time: the agent has one, people with tools a few.
const MAX_CALLERS: usize = 16;
/// Most that waits for a caller that does not read.
const MAX_UNREAD_BYTES: usize = 4 * MAX_FRAME_BYTES;

/// A connection.
#[derive(Debug)]
pub(super) struct Caller {
    stream: UnixStream,
    received: FrameBuffer,
    unsent: Vec<u8>,
    subscribed: bool,
}

impl Shim {
    pub(super) fn accept_callers(&mut self) {
        while let Ok((stream, _)) = self.listener.accept() {
            if self.callers.len() >= MAX_CALLERS || stream.set_nonblocking(true).is_err() {
                continue;
            }
            let token = self.token(Source::Caller);
            if watch(&self.epoll, &stream, token).is_err() {
                self.sources.remove(&token);
                continue;
            }
            let caller =
                Caller { stream, received: FrameBuffer::default(), unsent: Vec::new(), subscribed: false };
            self.callers.insert(token, caller);
        }
    }

    pub(super) fn serve(&mut self, token: u64, flags: epoll::EventFlags) {
        if flags.contains(epoll::EventFlags::OUT) {
            self.flush(token);
        }
        if !flags.intersects(epoll::EventFlags::IN | epoll::EventFlags::HUP | epoll::EventFlags::ERR) {
            return;
        }
        let Some(caller) = self.callers.get_mut(&token) else { return };
        match caller.stream.read(&mut self.read_buffer) {
            Ok(0) => return self.hang_up(token),
            Ok(count) => caller.received.push(self.read_buffer.get(..count).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(_gone) => return self.hang_up(token),
        }
        loop {
            let Some(caller) = self.callers.get_mut(&token) else { return };
            match caller.received.take::<Call>() {
                Ok(Some(call)) => self.answer(token, call),
                Ok(None) => return,
                Err(error) => {
                    eprintln!("a caller is cut off: {error}");
                    return self.hang_up(token);
                }
            }
        }
    }

    fn answer(&mut self, token: u64, call: Call) {
        let id = call.id;
        let answer = match call.request {
            Request::Version => Answer::Version { protocol: PROTOCOL, pid: std::process::id().cast_signed() },
            Request::Start { pod, containers } => match self.begin_start(pod, containers, (token, id)) {
                // The answer follows when it is known.
                Ok(()) => return,
                Err(why) => Answer::Refused { why },
            },
            Request::Upgrade => match self.upgrade_for(token, id) {
                // The end of the connection is the answer.
                Ok(()) => return,
                Err(why) => Answer::Refused { why },
            },
            Request::Signal { pod, only, signal } => self.signal_pod(&pod, &only, signal),
            Request::End { pod, only } => self.end_pod(&pod, &only),
            Request::Exec(order) => match self.begin_exec(*order, (token, id)) {
                // The answer follows when it is known.
                Ok(()) => return,
                Err(why) => Answer::Refused { why },
            },
            Request::SignalExec { id, signal } => self.signal_exec(&id, signal),
            Request::Attach { pod, container, dir } => self.attach(&pod, container, &dir),
            Request::CloseInput { pod, container } => self.close_input(&pod, container),
            Request::Look { pod } => Answer::Pod(self.look(&pod)),
            Request::List => Answer::Pods(self.look_at_all()),
            Request::Subscribe => {
                if let Some(caller) = self.callers.get_mut(&token) {
                    caller.subscribed = true;
                }
                Answer::Done
            }
            Request::Shutdown => match self.live.len() + self.starts.len() {
                0 => {
                    self.ending = true;
                    Answer::Done
                }
                busy => Answer::Refused { why: format!("{busy} containers or starts are there") },
            },
        };
        self.reply(token, id, answer);
    }

    fn upgrade_for(&mut self, token: u64, id: u64) -> Result<(), String> {
        let caller = self.callers.get(&token).map(|caller| caller.stream.try_clone());
        match caller {
            Some(Ok(stream)) => self.begin_upgrade(&stream, (token, id)),
            Some(Err(error)) => Err(error.to_string()),
            None => Ok(()),
        }
    }

    fn meant<'a>(&'a self, pod: &'a str, only: &'a [u32]) -> impl Iterator<Item = &'a Live> {
        let meant = move |key: &Key| key.0 == pod && (only.is_empty() || only.contains(&key.1));
        self.live.iter().filter(move |(key, _)| meant(key)).map(|(_, live)| live)
    }

    fn signal_pod(&mut self, pod: &str, only: &[u32], signal: i32) -> Answer {
        let (mut running, mut hearing) = (0, 0);
        for live in self.meant(pod, only) {
            running += 1;
            // Asked before it is sent: a process that obeys at once can no longer be asked.
            let hears = process::hears(live.pid, signal);
            match process::send(&live.handle, signal) {
                Ok(()) => hearing += u32::from(hears),
                Err(error) => return Answer::Refused { why: format!("signal {signal}: {error}") },
            }
        }
        if signal == libc::SIGKILL && only.is_empty() {
            self.give_up_start(pod, "it was stopped while it was being started");
        }
        Answer::Signalled { running, hearing }
    }

    fn end_pod(&mut self, pod: &str, only: &[u32]) -> Answer {
        let (mut running, mut hearing) = (0, 0);
        for live in self.meant(pod, only) {
            running += 1;
            let hears = process::hears(live.pid, live.stop_signal);
            hearing += u32::from(hears);
            let signal = if hears { live.stop_signal } else { libc::SIGKILL };
            if let Err(error) = process::send(&live.handle, signal) {
                return Answer::Refused { why: format!("signal {signal}: {error}") };
            }
        }
        if only.is_empty() {
            self.give_up_start(pod, "it was stopped while it was being started");
        }
        Answer::Signalled { running, hearing }
    }

    pub(super) fn reply(&mut self, token: u64, id: u64, answer: Answer) {
        self.send(token, &Message::Reply { id, answer });
    }

    /// Tells all subscribers that files of the pod say something new.
    pub(super) fn tell(&mut self, pod: &str) {
        let tokens: Vec<u64> =
            self.callers.iter().filter(|(_, c)| c.subscribed).map(|(token, _)| *token).collect();
        let message = Message::Changed { pod: pod.to_owned() };
        for token in tokens {
            self.send(token, &message);
        }
    }

    fn send(&mut self, token: u64, message: &Message) {
        let Some(caller) = self.callers.get_mut(&token) else { return };
        match encode(message) {
            Ok(bytes) if caller.unsent.len() + bytes.len() <= MAX_UNREAD_BYTES => caller.unsent.extend(bytes),
            Ok(_) => return self.hang_up(token),
            Err(error) => {
                eprintln!("a reply was not sent: {error}");
                return self.hang_up(token);
            }
        }
        self.flush(token);
    }

    fn flush(&mut self, token: u64) {
        let Some(caller) = self.callers.get_mut(&token) else { return };
        while !caller.unsent.is_empty() {
            match caller.stream.write(&caller.unsent) {
                Ok(count) if count > 0 => drop(caller.unsent.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                _ => return self.hang_up(token),
            }
        }
        let mut flags = epoll::EventFlags::IN;
        if caller.unsent.is_empty() {
            caller.unsent = Vec::new();
        } else {
            flags |= epoll::EventFlags::OUT;
        }
        let _ = epoll::modify(&self.epoll, &caller.stream, epoll::EventData::new_u64(token), flags);
    }

    pub(super) fn flush_callers(&mut self) {
        let tokens: Vec<u64> = self.callers.keys().copied().collect();
        for token in tokens {
            self.flush(token);
        }
    }

    fn hang_up(&mut self, token: u64) {
        self.callers.remove(&token);
        self.sources.remove(&token);
    }
}
