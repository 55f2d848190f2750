//! Frames: what the two sides say to each other over one byte stream.
//!
//! ```text
//!  length of the body (4, little end first) │ stream (4) │ kind (1) │ body
//! ```
//! A stream is one program: 0 is the microVM's own. Numbers of others are chosen by the outer side.
//!
//! *Guarantee*: a frame longer than [`MAX_BODY_BYTES`], or one that is not understood, is an error and never waited for.

use std::io::{self, Read, Write};

use serde::{Serialize, de::DeserializeOwned};

use crate::order::{Boot, Ended, Order, Ready};

/// The stream of the microVM's own program.
pub const MAIN: u32 = 0;
/// Largest piece of a program's output or input.
pub const MAX_DATA_BYTES: usize = 16 << 10;
/// Largest body: an order with as much environment as a manifest may have.
pub const MAX_BODY_BYTES: usize = 16 << 20;
/// Bytes before the body.
const HEAD_BYTES: usize = 9;

/// A program's standard files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pipe {
    /// Its input.
    Input,
    /// Its output. Everything, if it has a terminal.
    Output,
    /// Its complaints.
    Errors,
}

impl Pipe {
    /// All of them, by their descriptors' numbers.
    pub const ALL: [Self; 3] = [Self::Input, Self::Output, Self::Errors];

    /// The number of its descriptor.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Input => 0,
            Self::Output => 1,
            Self::Errors => 2,
        }
    }

    fn from_number(number: u8) -> io::Result<Self> {
        Self::ALL.into_iter().find(|pipe| pipe.number() == number).ok_or_else(|| invalid("an unknown pipe"))
    }
}

/// One thing that is said.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// Inwards, first of all: what the machine should be.
    Boot(Box<Boot>),
    /// Outwards, first of all: the agent is there.
    Ready(Ready),
    /// Inwards: begin this.
    Open(Box<Order>),
    /// Outwards: it has begun.
    Opened,
    /// Outwards: it could not begin, in words for people. The last of its stream.
    Failed(String),
    /// Both ways: a piece of what goes through a pipe.
    Data(Pipe, Vec<u8>),
    /// Both ways: nothing more comes through a pipe, or nobody reads what does.
    End(Pipe),
    /// Both ways: there is room for so many bytes more.
    Room(Pipe, u32),
    /// Inwards: send it this signal.
    Signal(i32),
    /// Inwards: rows and columns of its terminal.
    Resize(u16, u16),
    /// Outwards: how it ended. The last of its stream.
    Ended(Ended),
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("{what} came through the channel of the microVM"))
}

fn json(value: &impl Serialize) -> Vec<u8> {
    // None of these types can fail: their keys are texts.
    serde_json::to_vec(value).unwrap_or_default()
}

fn of_json<T: DeserializeOwned>(body: &[u8]) -> io::Result<T> {
    serde_json::from_slice(body).map_err(|error| invalid(&format!("what is not understood ({error})")))
}

impl Frame {
    fn encode(&self) -> (u8, Vec<u8>) {
        match self {
            Self::Boot(boot) => (1, json(boot)),
            Self::Ready(ready) => (2, json(ready)),
            Self::Open(order) => (3, json(order)),
            Self::Opened => (4, Vec::new()),
            Self::Failed(words) => (5, words.as_bytes().to_vec()),
            Self::Data(pipe, bytes) => (6, [&[pipe.number()], bytes.as_slice()].concat()),
            Self::End(pipe) => (7, vec![pipe.number()]),
            Self::Room(pipe, count) => (8, [&[pipe.number()], count.to_le_bytes().as_slice()].concat()),
            Self::Signal(signal) => (9, signal.to_le_bytes().to_vec()),
            Self::Resize(rows, columns) => (10, [rows.to_le_bytes(), columns.to_le_bytes()].concat()),
            Self::Ended(ended) => (11, json(ended)),
        }
    }

    fn decode(kind: u8, body: &[u8]) -> io::Result<Self> {
        let short = || invalid("a frame that is too short");
        let pipe = || Pipe::from_number(*body.first().ok_or_else(short)?);
        let number = |from: usize| -> io::Result<[u8; 4]> {
            body.get(from..from + 4).and_then(|bytes| bytes.try_into().ok()).ok_or_else(short)
        };
        Ok(match kind {
            1 => Self::Boot(Box::new(of_json(body)?)),
            2 => Self::Ready(of_json(body)?),
            3 => Self::Open(Box::new(of_json(body)?)),
            4 => Self::Opened,
            5 => Self::Failed(String::from_utf8_lossy(body).into_owned()),
            6 => Self::Data(pipe()?, body.get(1..).unwrap_or_default().to_vec()),
            7 => Self::End(pipe()?),
            8 => Self::Room(pipe()?, u32::from_le_bytes(number(1)?)),
            9 => Self::Signal(i32::from_le_bytes(number(0)?)),
            10 => {
                let [a, b, c, d] = number(0)?;
                Self::Resize(u16::from_le_bytes([a, b]), u16::from_le_bytes([c, d]))
            }
            11 => Self::Ended(of_json(body)?),
            _ => return Err(invalid("a frame of an unknown kind")),
        })
    }

    /// Writes the frame, in one piece.
    ///
    /// # Errors
    /// What the stream says, or that the frame is too long.
    pub fn write(&self, stream: u32, mut out: impl Write) -> io::Result<()> {
        let (kind, body) = self.encode();
        let length = u32::try_from(body.len()).ok().filter(|_| body.len() <= MAX_BODY_BYTES);
        let length = length.ok_or_else(|| invalid("a frame that is too long"))?;
        let mut bytes = Vec::with_capacity(HEAD_BYTES + body.len());
        bytes.extend_from_slice(&length.to_le_bytes());
        bytes.extend_from_slice(&stream.to_le_bytes());
        bytes.push(kind);
        bytes.extend_from_slice(&body);
        out.write_all(&bytes)
    }

    /// Reads one frame and the stream that it belongs to.
    ///
    /// # Errors
    /// What the stream says, its end included, or that what came is no frame.
    pub fn read(mut input: impl Read) -> io::Result<(u32, Self)> {
        let mut head = [0_u8; HEAD_BYTES];
        input.read_exact(&mut head)?;
        let [a, b, c, d, e, f, g, h, kind] = head;
        let length = usize::try_from(u32::from_le_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        if length > MAX_BODY_BYTES {
            return Err(invalid("a frame that is too long"));
        }
        let mut body = Vec::new();
        // No memory is taken for bytes that were only announced.
        input.take(length as u64).read_to_end(&mut body)?;
        if body.len() < length {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok((u32::from_le_bytes([e, f, g, h]), Self::decode(kind, &body)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::{Program, Task};

    #[test]
    fn every_frame_is_read_as_it_was_written() {
        let program = Program { args: vec!["sh".to_owned()], ..Program::default() };
        let order = Order { task: Task::Run(program), terminal: Some((24, 80)), user: "web".to_owned() };
        let frames = [
            Frame::Boot(Box::default()),
            Frame::Ready(Ready { version: "1".to_owned() }),
            Frame::Open(Box::new(order)),
            Frame::Opened,
            Frame::Failed("no such file".to_owned()),
            Frame::Data(Pipe::Errors, vec![0, 255]),
            Frame::End(Pipe::Input),
            Frame::Room(Pipe::Output, 65_536),
            Frame::Signal(15),
            Frame::Resize(24, 80),
            Frame::Ended(Ended { code: None, signal: Some(9), out_of_memory: true }),
        ];
        let mut bytes = Vec::new();
        for (stream, frame) in (7..).zip(&frames) {
            frame.write(stream, &mut bytes).unwrap();
        }
        let mut rest = bytes.as_slice();
        for (stream, frame) in (7..).zip(frames) {
            assert_eq!(Frame::read(&mut rest).unwrap(), (stream, frame));
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn what_is_no_frame_is_an_error_and_takes_no_memory() {
        let head = |length: u32, kind: u8| [&length.to_le_bytes()[..], &[0; 4], &[kind]].concat();
        for bytes in [
            head(u32::MAX, 6),
            head(1 << 24, 6),
            head(0, 99),
            head(0, 6),
            [head(1, 7), vec![3]].concat(),
            [head(2, 8), vec![1, 1]].concat(),
            [head(3, 1), b"no!".to_vec()].concat(),
        ] {
            assert!(Frame::read(bytes.as_slice()).is_err(), "{bytes:?}");
        }
    }
}
