//! How bytes of many programs share one channel without one that nobody reads holding up the others.
//!
//! ```text
//!  file ─ read ─▶ Room (bytes that the other side can take) ─▶ Data ┄┄▶ queue ─▶ file
//!                   ▲                                                      │ written
//!                   └──────────────────── Room(n) ◀────────────────────────┘
//! ```
//! *Guarantee*: of one pipe, never more than [`WINDOW_BYTES`] are on the way or waiting.

use std::{
    io::{self, Read, Write},
    sync::{
        Arc, Condvar, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, Sender, channel},
    },
};

use crate::frame::{Frame, MAX_DATA_BYTES, Pipe};

/// Most bytes of one pipe that are on the way.
pub const WINDOW_BYTES: usize = 64 << 10;

/// The outgoing side of a channel: frames of all streams, one after the other.
#[derive(Debug)]
pub struct Wire<W> {
    out: Mutex<W>,
}

impl<W: Write> Wire<W> {
    /// A channel that is written to here.
    pub const fn new(out: W) -> Self {
        Self { out: Mutex::new(out) }
    }

    /// Sends a frame.
    ///
    /// # Errors
    /// What the channel says.
    pub fn send(&self, stream: u32, frame: &Frame) -> io::Result<()> {
        frame.write(stream, &mut *lock(&self.out))
    }
}

/// What a lock guards is whole whenever it is free, also after a panic.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// How much the other side can take of one pipe.
#[derive(Debug)]
pub struct Room {
    left: Mutex<Option<usize>>,
    more: Condvar,
}

impl Default for Room {
    fn default() -> Self {
        Self { left: Mutex::new(Some(WINDOW_BYTES)), more: Condvar::new() }
    }
}

impl Room {
    /// Waits until something may be sent, and takes up to `most` bytes of it. None when the pipe is closed.
    fn take(&self, most: usize) -> Option<usize> {
        let mut left = lock(&self.left);
        loop {
            match &mut *left {
                None => return None,
                Some(0) => left = self.more.wait(left).unwrap_or_else(PoisonError::into_inner),
                Some(free) => {
                    let taken = most.min(*free);
                    *free -= taken;
                    return Some(taken);
                }
            }
        }
    }

    /// The other side has room for more.
    pub fn give(&self, count: usize) {
        if let Some(free) = &mut *lock(&self.left) {
            *free = free.saturating_add(count).min(WINDOW_BYTES);
        }
        self.more.notify_all();
    }

    /// Nothing is sent any more.
    pub fn close(&self) {
        *lock(&self.left) = None;
        self.more.notify_all();
    }
}

/// Carries a file to the other side, to its end. Says how that was only to who waits for the thread.
///
/// # Errors
/// What the channel says. That the file cannot be read is its end.
pub fn carry<W: Write>(
    mut file: impl Read,
    wire: &Wire<W>,
    (stream, pipe): (u32, Pipe),
    room: &Room,
) -> io::Result<()> {
    let mut buffer = vec![0_u8; MAX_DATA_BYTES];
    while let Some(taken) = room.take(buffer.len()) {
        let part = buffer.get_mut(..taken).unwrap_or_default();
        let count = match file.read(part) {
            Ok(count) => count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {
                room.give(taken);
                continue;
            }
            // A terminal that nobody holds any more says so by an error.
            Err(_ended) => 0,
        };
        room.give(taken - count);
        if count == 0 {
            break;
        }
        wire.send(stream, &Frame::Data(pipe, part.get(..count).unwrap_or_default().to_vec()))?;
    }
    wire.send(stream, &Frame::End(pipe))
}

/// Where what comes from the other side is put down until it is written.
#[derive(Clone, Debug)]
pub struct Inlet {
    queue: Sender<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
}

/// The other end of an [`Inlet`].
#[derive(Debug)]
pub struct Outlet {
    queue: Receiver<Vec<u8>>,
    waiting: Arc<AtomicUsize>,
}

/// A place for what comes through one pipe.
#[must_use]
pub fn inlet() -> (Inlet, Outlet) {
    let (send, receive) = channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    (Inlet { queue: send, waiting: waiting.clone() }, Outlet { queue: receive, waiting })
}

impl Inlet {
    /// Puts down what came. Nothing happens if nobody writes it any more.
    ///
    /// # Errors
    /// The other side sends more than it was given room for.
    pub fn put(&self, bytes: Vec<u8>) -> io::Result<()> {
        let waiting = self.waiting.fetch_add(bytes.len(), Ordering::AcqRel) + bytes.len();
        if waiting > WINDOW_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "more came than there is room for"));
        }
        // Whoever read it has gone; what he does not want is not kept.
        let _ = self.queue.send(bytes);
        Ok(())
    }
}

impl Outlet {
    /// Writes what comes until its inlet is gone, and tells the other side about the room that there is again. What cannot
    /// be written is thrown away, so that the other side is not held up.
    ///
    /// # Errors
    /// What the channel says.
    pub fn write_to<W: Write>(
        self,
        mut file: impl Write,
        wire: &Wire<W>,
        (stream, pipe): (u32, Pipe),
    ) -> io::Result<()> {
        let mut broken = false;
        for bytes in self.queue {
            broken = broken || file.write_all(&bytes).is_err();
            self.waiting.fetch_sub(bytes.len(), Ordering::AcqRel);
            let count = u32::try_from(bytes.len()).unwrap_or(u32::MAX);
            wire.send(stream, &Frame::Room(pipe, count))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    /// A file of so many bytes that says how many were read.
    struct Counted(Arc<AtomicUsize>, usize);

    impl Read for Counted {
        fn read(&mut self, part: &mut [u8]) -> io::Result<usize> {
            let count = part.len().min(self.1);
            self.1 -= count;
            self.0.fetch_add(count, Ordering::AcqRel);
            Ok(count)
        }
    }

    #[test]
    fn what_nobody_reads_is_not_sent_beyond_the_window() {
        let (room, read) = (Arc::new(Room::default()), Arc::new(AtomicUsize::new(0)));
        let wire = Arc::new(Wire::new(Vec::new()));
        let (of_thread, own) = (room.clone(), wire.clone());
        let file = Counted(read.clone(), 3 * WINDOW_BYTES);
        let carrier = thread::spawn(move || carry(file, &own, (1, Pipe::Output), &of_thread));
        while read.load(Ordering::Acquire) < WINDOW_BYTES {
            thread::yield_now();
        }
        assert_eq!(read.load(Ordering::Acquire), WINDOW_BYTES);
        for _ in 0..2 {
            room.give(WINDOW_BYTES);
            while room.left.lock().unwrap().is_some_and(|left| left > 0) {
                thread::yield_now();
            }
        }
        room.give(1);
        carrier.join().unwrap().unwrap();
        assert_eq!(read.load(Ordering::Acquire), 3 * WINDOW_BYTES);
    }

    #[test]
    fn whoever_sends_more_than_there_is_room_for_is_refused() {
        let (inlet, _outlet) = inlet();
        inlet.put(vec![0; WINDOW_BYTES]).unwrap();
        assert!(inlet.put(vec![0]).is_err());
    }

    #[test]
    fn what_was_written_makes_room_and_what_cannot_be_written_as_well() {
        for writable in [true, false] {
            let (inlet, outlet) = inlet();
            inlet.put(b"hello".to_vec()).unwrap();
            drop(inlet);
            let wire = Wire::new(Vec::new());
            let mut bytes = [0_u8; 5];
            let file: &mut [u8] = if writable { &mut bytes } else { &mut [] };
            outlet.write_to(file, &wire, (3, Pipe::Input)).unwrap();
            let sent = lock(&wire.out).clone();
            assert_eq!(Frame::read(sent.as_slice()).unwrap(), (3, Frame::Room(Pipe::Input, 5)));
        }
    }
}
