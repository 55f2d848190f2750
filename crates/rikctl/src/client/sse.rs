//! Reads a `text/event-stream`: bytes in, one [`Message`] after another out.

use std::io::{self, BufRead, BufReader, Read};

/// Longest message: the largest object that a watch tells of, with room to spare.
const MAX_MESSAGE: usize = 8 << 20;

/// One message of a stream.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Message {
    /// Its `id`, if it has one.
    pub(crate) id: String,
    /// Its `data`, line by line.
    pub(crate) data: String,
}

/// A stream being read.
#[derive(Debug)]
pub(crate) struct Messages<R> {
    lines: BufReader<R>,
}

impl<R: Read> Messages<R> {
    /// Messages out of these bytes.
    pub(crate) fn new(source: R) -> Self {
        Self { lines: BufReader::new(source) }
    }

    /// The next message that has data or an id; none at the end of the stream. One that the end cuts off is none.
    ///
    /// # Errors
    /// What the source says, or `InvalidData` for a message that is too large.
    pub(crate) fn next(&mut self) -> io::Result<Option<Message>> {
        let mut message = Message::default();
        let mut line = Vec::new();
        loop {
            line.clear();
            let room = (MAX_MESSAGE - message.data.len()) as u64 + 1;
            if self.lines.by_ref().take(room).read_until(b'\n', &mut line)? == 0 {
                return Ok(None);
            }
            if line.len() as u64 == room {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "a message is too large"));
            }
            if line.pop() != Some(b'\n') {
                return Ok(None);
            }
            let text = String::from_utf8_lossy(line.strip_suffix(b"\r").unwrap_or(&line));
            if text.is_empty() {
                if message == Message::default() {
                    continue;
                }
                return Ok(Some(message));
            }
            let (field, value) = text.split_once(':').unwrap_or((&text, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                "data" if message.data.is_empty() => value.clone_into(&mut message.data),
                "data" => {
                    message.data.push('\n');
                    message.data.push_str(value);
                }
                "id" => value.clone_into(&mut message.id),
                _ => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all(text: &str) -> Vec<Message> {
        let mut messages = Messages::new(text.as_bytes());
        std::iter::from_fn(|| messages.next().unwrap()).collect()
    }

    #[test]
    fn messages_are_told_apart() {
        let text = ": hello\n\nid: 7\ndata: {\"a\":\ndata: 1}\n\nevent: error\r\ndata:x\r\n\r\n: still\nid: 9\n\ndata: cut";
        let expected = [
            Message { id: "7".to_owned(), data: "{\"a\":\n1}".to_owned() },
            Message { id: String::new(), data: "x".to_owned() },
            Message { id: "9".to_owned(), data: String::new() },
        ];
        assert_eq!(all(text), expected);
    }

    #[test]
    fn a_message_without_end_is_refused() {
        let endless = io::repeat(b'x');
        let error = Messages::new(endless).next().unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData);
    }
}
