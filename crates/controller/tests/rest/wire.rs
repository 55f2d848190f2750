//! HTTP/1.1 by hand, so that a test sends exactly the bytes that it says, and sees exactly what came back.

use std::{fmt, net::SocketAddr, time::Duration};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// No answer takes this long, unless it never comes.
const PATIENCE: Duration = Duration::from_secs(20);

/// Runs `work`, which must end.
pub(crate) async fn soon<T>(work: impl Future<Output = T>) -> T {
    timeout(PATIENCE, work).await.expect("it takes too long")
}

/// An answer.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
}

/// Header fields that are part of what is promised, in the order in which snapshots show them.
const TOLD: [&str; 7] = [
    "content-type",
    "etag",
    "location",
    "allow",
    "retry-after",
    "content-security-policy",
    "access-control-allow-origin",
];

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known == name).map(|(_, value)| value.as_str())
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8(self.body.clone()).unwrap()
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The stable code of a problem.
    pub(crate) fn code(&self) -> String {
        self.json()["code"].as_str().unwrap().to_owned()
    }
}

impl fmt::Display for Answer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}", self.status)?;
        for name in TOLD {
            if let Some(value) = self.header(name) {
                write!(out, "\n{name}: {value}")?;
            }
        }
        if !self.body.is_empty() {
            write!(out, "\n\n{}", String::from_utf8_lossy(&self.body))?;
        }
        Ok(())
    }
}

/// A connection.
pub(crate) struct Wire {
    stream: TcpStream,
    /// What was read and not yet taken.
    held: Vec<u8>,
}

impl Wire {
    pub(crate) async fn open(address: SocketAddr) -> Self {
        Self { stream: TcpStream::connect(address).await.unwrap(), held: Vec::new() }
    }

    /// Sends bytes; false if the other side takes no more.
    pub(crate) async fn send(&mut self, bytes: &[u8]) -> bool {
        soon(self.stream.write_all(bytes)).await.is_ok()
    }

    /// Reads more; false at the end.
    async fn fill(&mut self) -> bool {
        let mut piece = vec![0; 64 << 10];
        match soon(self.stream.read(&mut piece)).await {
            Ok(0) | Err(_) => false,
            Ok(count) => {
                self.held.extend_from_slice(&piece[..count]);
                true
            }
        }
    }

    /// Whether the other side closes the connection without another word.
    pub(crate) async fn is_closed(&mut self) -> bool {
        self.held.is_empty() && !self.fill().await
    }

    /// What comes up to and with `mark`.
    pub(crate) async fn until(&mut self, mark: &str) -> String {
        loop {
            if let Some(at) = find(&self.held, mark.as_bytes()) {
                let rest = self.held.split_off(at + mark.len());
                let text = std::mem::replace(&mut self.held, rest);
                return String::from_utf8_lossy(&text).into_owned();
            }
            assert!(
                self.fill().await,
                "the stream ended before {mark:?}: {:?}",
                String::from_utf8_lossy(&self.held)
            );
        }
    }

    /// The head of an answer.
    pub(crate) async fn head(&mut self) -> Answer {
        let text = self.until("\r\n\r\n").await;
        let mut lines = text.lines();
        let status = lines.next().unwrap().split(' ').nth(1).unwrap().parse().unwrap();
        let fields = lines.filter_map(|line| line.split_once(": "));
        let headers = fields.map(|(name, value)| (name.to_lowercase(), value.to_owned())).collect();
        Answer { status, headers, body: Vec::new() }
    }

    /// A whole answer; `head_only` if it is one to HEAD.
    pub(crate) async fn answer(&mut self, head_only: bool) -> Answer {
        let mut answer = self.head().await;
        if head_only || answer.status == 204 {
            return answer;
        }
        if answer.header("transfer-encoding") == Some("chunked") {
            while let Some(piece) = self.chunk().await {
                answer.body.extend(piece);
            }
            return answer;
        }
        let length: usize = answer.header("content-length").map_or(0, |length| length.parse().unwrap());
        while self.held.len() < length {
            assert!(self.fill().await, "the answer is cut off");
        }
        let rest = self.held.split_off(length);
        answer.body = std::mem::replace(&mut self.held, rest);
        answer
    }

    /// The next chunk of a body; none after the last.
    pub(crate) async fn chunk(&mut self) -> Option<Vec<u8>> {
        let size = self.until("\r\n").await;
        let size = usize::from_str_radix(size.trim_end(), 16).unwrap();
        while self.held.len() < size + 2 {
            assert!(self.fill().await, "the answer is cut off");
        }
        let rest = self.held.split_off(size + 2);
        let mut piece = std::mem::replace(&mut self.held, rest);
        piece.truncate(size);
        Some(piece).filter(|_| size > 0)
    }

    /// Passes over what comes; false when the connection has ended, in the middle of a body or not.
    pub(crate) async fn chunk_or_end(&mut self) -> bool {
        self.held.clear();
        self.fill().await
    }

    /// The next chunks up to the one that ends with `mark`, as text.
    pub(crate) async fn chunks_until(&mut self, mark: &str) -> String {
        let mut text = String::new();
        while !text.ends_with(mark) {
            let piece =
                self.chunk().await.unwrap_or_else(|| panic!("the body ended before {mark:?}: {text}"));
            text.push_str(std::str::from_utf8(&piece).unwrap());
        }
        text
    }
}

fn find(text: &[u8], mark: &[u8]) -> Option<usize> {
    text.windows(mark.len()).position(|window| window == mark)
}
