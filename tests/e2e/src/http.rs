//! HTTP/1.1 by hand over TCP: small enough to read, and able to send what a proper client would refuse to.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// How long the server may stay silent.
const PATIENCE: Duration = Duration::from_secs(30);
/// The largest answer that is read.
const ANSWER_LIMIT: u64 = 64 * 1024 * 1024;

/// An answer, whole.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Status code; 0 where the answer had none.
    pub status: u16,
    /// Header lines, as they came.
    pub headers: Vec<(String, String)>,
    /// Body, with chunks put together.
    pub body: String,
}

impl Answer {
    /// The value of a header; names are compared without case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }
}

/// Sends a request with a body and reads the answer.
///
/// # Errors
/// When the server cannot be reached, or says nothing for long.
pub fn request(
    server: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> io::Result<Answer> {
    let mut head = format!("{method} {path} HTTP/1.1\r\nHost: {server}\r\nConnection: close\r\n");
    if !body.is_empty() || method != "GET" {
        head.push_str(&format!("Content-Length: {}\r\n", body.len()));
    }
    for (name, value) in headers {
        head.push_str(&format!("{name}: {value}\r\n"));
    }
    head.push_str("\r\n");
    raw(server, &[head.as_bytes(), body].concat())
}

/// Sends `bytes` as they are and reads the answer until the server closes.
///
/// # Errors
/// When the server cannot be reached, or says nothing for long.
pub fn raw(server: SocketAddr, bytes: &[u8]) -> io::Result<Answer> {
    let mut stream = TcpStream::connect_timeout(&server, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    // A server may refuse and close before it has read everything: what it said still counts.
    let written = stream.write_all(bytes);
    let mut answer = Vec::new();
    match stream.take(ANSWER_LIMIT).read_to_end(&mut answer) {
        Err(error) if answer.is_empty() => return Err(error),
        _ => {}
    }
    if answer.is_empty() {
        written?;
    }
    Ok(parse(&answer))
}

fn parse(bytes: &[u8]) -> Answer {
    let end = bytes.windows(4).position(|window| window == b"\r\n\r\n").unwrap_or(bytes.len());
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let body = bytes.get(end + 4..).unwrap_or_default();
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    let headers: Vec<(String, String)> = head
        .lines()
        .skip(1)
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned()))
        .collect();
    let mut answer = Answer { status, headers, body: String::new() };
    let chunked =
        answer.header("transfer-encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"));
    let body = if chunked { join_chunks(body) } else { body.to_vec() };
    answer.body = String::from_utf8_lossy(&body).into_owned();
    answer
}

fn join_chunks(mut bytes: &[u8]) -> Vec<u8> {
    let mut body = Vec::new();
    while let Some(end) = bytes.windows(2).position(|window| window == b"\r\n") {
        let size = String::from_utf8_lossy(&bytes[..end]);
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16).unwrap_or(0);
        let chunk = bytes.get(end + 2..end + 2 + size).unwrap_or_default();
        if chunk.is_empty() {
            break;
        }
        body.extend_from_slice(chunk);
        bytes = bytes.get(end + 4 + size..).unwrap_or_default();
    }
    body
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunked_answer_is_put_together() {
        let answer =
            parse(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n");
        assert_eq!((answer.status, answer.body.as_str()), (200, "abcde"));
    }

    #[test]
    fn answer_without_body_has_its_status() {
        assert_eq!(parse(b"HTTP/1.1 204 No Content\r\n\r\n").status, 204);
        assert_eq!(parse(b"").status, 0);
    }
}
