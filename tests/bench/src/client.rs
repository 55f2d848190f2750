//! A client of the REST API that keeps its connection, so that connecting is not what is measured.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

/// How long the controller may be silent.
const PATIENCE: Duration = Duration::from_secs(60);

/// One connection to the controller.
#[derive(Debug)]
pub(crate) struct Client {
    server: SocketAddr,
    stream: BufReader<TcpStream>,
}

impl Client {
    /// Connects.
    ///
    /// # Errors
    /// When nobody answers.
    pub(crate) fn connect(server: SocketAddr) -> Result<Self> {
        let stream =
            TcpStream::connect_timeout(&server, PATIENCE).context("failed to reach the controller")?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        Ok(Self { server, stream: BufReader::new(stream) })
    }

    /// Sends a request and reads the JSON of its answer, `Null` where it has no body.
    ///
    /// # Errors
    /// When the answer is no success, or none.
    pub(crate) fn send(&mut self, method: &str, path: &str, body: &Value) -> Result<Value> {
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: {}\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            self.server,
            body.len()
        );
        self.stream.get_mut().write_all(request.as_bytes()).context("failed to send a request")?;
        let (status, length) = self.read_head().context("failed to read an answer")?;
        let mut answer = vec![0; length];
        self.stream.read_exact(&mut answer).context("failed to read the body of an answer")?;
        if !(200..300).contains(&status) {
            bail!("{method} {path} was answered {status}: {}", String::from_utf8_lossy(&answer));
        }
        if answer.is_empty() {
            return Ok(Value::Null);
        }
        serde_json::from_slice(&answer).with_context(|| format!("{method} {path} was not answered in JSON"))
    }

    /// Asks for instances of a workload; one of them may be named.
    ///
    /// # Errors
    /// When they are refused.
    pub(crate) fn create(&mut self, request: &Value) -> Result<()> {
        self.send("POST", "/api/v1/instances", request).map(drop)
    }

    fn read_head(&mut self) -> Result<(u16, usize)> {
        let mut status = None;
        let mut length = 0;
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                bail!("the controller closed the connection");
            }
            let line = line.trim_end();
            if line.is_empty() {
                break;
            }
            match (status, line.split_once(':')) {
                (None, _) => status = line.split(' ').nth(1).and_then(|code| code.parse().ok()),
                (Some(_), Some((name, value))) if name.eq_ignore_ascii_case("content-length") => {
                    length = value.trim().parse().context("the length of an answer is no number")?;
                }
                (Some(_), _) => {}
            }
        }
        Ok((status.context("an answer has no status")?, length))
    }
}
