//! What a VMM is told by a socket of its own instead of by its arguments: Firecracker's API, HTTP over a Unix socket.
//!
//! Some requests before the machine runs, each answered before the next is sent; so a client is not needed for it.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    os::unix::net::UnixStream,
    time::Duration,
};

use serde_json::Value;

use crate::order::ApiRequest;

/// How long an answer may take. The machine's start is the longest of them.
const ANSWERED_WITHIN: Duration = Duration::from_secs(30);
/// Largest head and largest body of an answer, in bytes.
const MAX_ANSWER_BYTES: u64 = 64 << 10;
/// Longest answer to the question for an agent.
const MAX_WORD_BYTES: usize = 64;

/// Sends the requests, one after the other.
///
/// # Errors
/// One was refused, in the VMM's words, or there was no answer.
pub fn tell(socket: UnixStream, requests: &[ApiRequest]) -> io::Result<()> {
    socket.set_read_timeout(Some(ANSWERED_WITHIN))?;
    let mut answers = BufReader::new(socket);
    requests.iter().try_for_each(|request| put(&mut answers, request))
}

fn put(connection: &mut BufReader<UnixStream>, request: &ApiRequest) -> io::Result<()> {
    let ApiRequest { path, body } = request;
    let body = body.to_string();
    let head = format!(
        "PUT {path} HTTP/1.1\r\nHost: localhost\r\nAccept: application/json\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    connection.get_mut().write_all(format!("{head}{body}").as_bytes())?;
    let (status, body) = answer(connection)?;
    if (200..300).contains(&status) {
        return Ok(());
    }
    let told: Value = serde_json::from_slice(&body).unwrap_or_default();
    let why = told.get("fault_message").and_then(Value::as_str).unwrap_or("it does not say why");
    Err(io::Error::other(format!("the VMM refused {path} ({status}): {why}")))
}

/// Status and body of an answer.
fn answer(connection: &mut BufReader<UnixStream>) -> io::Result<(u16, Vec<u8>)> {
    let odd = || io::Error::new(io::ErrorKind::InvalidData, "the VMM does not answer as it should");
    let mut head = connection.by_ref().take(MAX_ANSWER_BYTES);
    let (mut status, mut length) = (None, 0);
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let line = line.trim_end();
        match (status, line.split_once(':')) {
            (None, _) => {
                let code = line.split(' ').nth(1).and_then(|code| code.parse().ok());
                status = Some(code.ok_or_else(odd)?);
            }
            (Some(status), None) if line.is_empty() => {
                let mut body = vec![0; length];
                connection.read_exact(&mut body)?;
                return Ok((status, body));
            }
            (Some(_), Some((name, value))) if name.eq_ignore_ascii_case("content-length") => {
                let known = value.trim().parse().ok().filter(|length| *length as u64 <= MAX_ANSWER_BYTES);
                length = known.ok_or_else(odd)?;
            }
            (Some(_), _) => {}
        }
    }
}

/// Asks, on a new connection to a VMM's socket, for the agent's port inside.
///
/// # Errors
/// Nobody listens inside yet, or the VMM does not answer.
pub fn ask_for(port: u32, connection: &UnixStream) -> io::Result<()> {
    connection.set_read_timeout(Some(ANSWERED_WITHIN))?;
    (&*connection).write_all(format!("CONNECT {port}\n").as_bytes())?;
    let mut word = Vec::new();
    let mut letter = [0];
    // Byte for byte: what comes after it is the agent's.
    while word.len() < MAX_WORD_BYTES && !word.ends_with(b"\n") && (&*connection).read(&mut letter)? > 0 {
        word.extend_from_slice(&letter);
    }
    if word.starts_with(b"OK ") { Ok(()) } else { Err(io::ErrorKind::ConnectionReset.into()) }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use serde_json::json;

    use super::*;

    /// What comes of two requests, the answers to which are given.
    fn told(answers: &[&str]) -> (io::Result<()>, String) {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        let answers: Vec<String> = answers.iter().map(|answer| (*answer).to_owned()).collect();
        let vmm = thread::spawn(move || {
            let mut heard = String::new();
            for answer in &answers {
                let mut part = [0; 4096];
                let count = theirs.read(&mut part).unwrap();
                heard.push_str(std::str::from_utf8(&part[..count]).unwrap());
                theirs.write_all(answer.as_bytes()).unwrap();
            }
            heard
        });
        let requests = ["/a", "/b"].map(|path| ApiRequest { path: path.to_owned(), body: json!({ "x": 1 }) });
        (tell(ours, &requests), vmm.join().unwrap())
    }

    #[test]
    fn requests_are_sent_one_after_the_other_and_a_refusal_is_told_in_the_words_of_the_vmm() {
        const GOOD: &str = "HTTP/1.1 204 No Content\r\nServer: Firecracker API\r\n\r\n";
        let (done, heard) = told(&[GOOD, GOOD]);
        assert!(done.is_ok(), "{done:?}");
        assert!(heard.starts_with("PUT /a HTTP/1.1\r\n") && heard.ends_with("\r\n\r\n{\"x\":1}"), "{heard}");
        let refusal =
            "HTTP/1.1 400 Bad Request\r\nContent-Length: 33\r\n\r\n{\"fault_message\":\"no such drive\"}";
        let (done, _) = told(&[GOOD, refusal]);
        assert_eq!(done.unwrap_err().to_string(), "the VMM refused /b (400): no such drive");
        for odd in ["nonsense\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n", "HTTP/1.1 200"]
        {
            assert!(told(&[odd]).0.is_err(), "{odd}");
        }
    }

    #[test]
    fn agent_is_asked_for_and_what_it_says_first_is_left_to_be_read() {
        let (ours, mut theirs) = UnixStream::pair().unwrap();
        theirs.write_all(b"OK 1073741824\nhello").unwrap();
        ask_for(1024, &ours).unwrap();
        let mut said = [0; 13];
        theirs.read_exact(&mut said).unwrap();
        assert_eq!(&said, b"CONNECT 1024\n");
        let mut first = [0; 5];
        (&ours).read_exact(&mut first).unwrap();
        assert_eq!(&first, b"hello");
        drop(theirs);
        assert!(ask_for(1024, &ours).is_err());
    }
}
