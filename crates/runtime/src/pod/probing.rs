//! Puts a probe's question, or a hook's request, to a container.
//!
//! Connections go to the pod's address, as any client's would. Of an answer to HTTP only the first line is read: a
//! status says all, and whatever else a container sends is nobody's business here.

use std::{
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use model::manifest::health::{Action, HttpGetAction};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

use super::{PodRuntime, exec::ExecSpec, record::Found};

/// Longest first line of an answer: a version, a status and a few words.
const MAX_STATUS_LINE_BYTES: u64 = 256;
/// How long a connection that a user asked for may take: its other end is on this machine.
const CONNECT: Duration = Duration::from_secs(5);
/// Statuses that are good answers.
const GOOD_STATUSES: std::ops::RangeInclusive<u16> = 200..=399;

impl PodRuntime {
    pub(super) async fn ask_container(
        &self,
        uid: &str,
        index: usize,
        action: Action<'_>,
        within: Duration,
    ) -> Result<(), String> {
        let asking = async {
            match action {
                Action::Exec(exec) => self.ask_by_command(uid, index, &exec.command).await,
                Action::HttpGet(get) => get_status(self.address(uid)?, get).await,
                Action::TcpSocket(socket) => connect(self.address(uid)?, socket.port).await.map(drop),
            }
        };
        let late = || format!("no answer within {} s", within.as_secs());
        timeout(within, asking).await.unwrap_or_else(|_late| Err(late()))
    }

    async fn ask_by_command(&self, uid: &str, index: usize, command: &[String]) -> Result<(), String> {
        let wanted = ExecSpec { command: command.to_vec(), ..ExecSpec::default() };
        let session = self.exec(uid, index, wanted).await.map_err(|error| error.sentence())?;
        let done = session.run().await.map_err(|error| error.to_string())?;
        match done.exit.shell_code() {
            Some(0) => Ok(()),
            Some(code) => Err(format!("{command:?} ended with exit code {code}{}", done.in_words())),
            None => Err(format!("nobody saw how {command:?} ended")),
        }
    }

    /// Connects to a TCP port of a pod.
    ///
    /// # Errors
    /// A fragment that says why not.
    pub async fn connect(&self, uid: &str, port: u16) -> Result<TcpStream, String> {
        let connecting = connect(self.address(uid)?, port);
        timeout(CONNECT, connecting).await.unwrap_or_else(|_late| Err(format!("port {port} does not answer")))
    }

    fn address(&self, uid: &str) -> Result<Ipv4Addr, String> {
        let place = self.place(uid).map_err(|error| error.sentence())?;
        match place.read() {
            Found::Record(record) => {
                let own = record.attachment.map(|own| own.ip);
                let of_machine = record.spec.spec.host_network.then_some(Ipv4Addr::LOCALHOST);
                own.or(of_machine).ok_or("it has no address".to_owned())
            }
            Found::Nothing | Found::Torn { .. } => Err("it is not on this node".to_owned()),
        }
    }
}

async fn connect(ip: Ipv4Addr, port: u16) -> Result<TcpStream, String> {
    TcpStream::connect(SocketAddrV4::new(ip, port)).await.map_err(|error| format!("port {port}: {error}"))
}

async fn get_status(ip: Ipv4Addr, get: &HttpGetAction) -> Result<(), String> {
    let (port, path) = (get.port, &get.path);
    let broken = |error: std::io::Error| format!("http on port {port}: {error}");
    let mut stream = connect(ip, port).await?;
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {ip}:{port}\r\nUser-Agent: rik-probe\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await.map_err(broken)?;
    let mut line = Vec::new();
    let mut answer = stream.take(MAX_STATUS_LINE_BYTES);
    while !line.contains(&b'\n') {
        if answer.read_buf(&mut line).await.map_err(broken)? == 0 {
            break;
        }
    }
    let status = status_of(&line).ok_or_else(|| format!("no HTTP answer on port {port}"))?;
    if GOOD_STATUSES.contains(&status) { Ok(()) } else { Err(format!("HTTP status {status} for {path}")) }
}

/// The status in the first line of an answer.
fn status_of(line: &[u8]) -> Option<u16> {
    let text = std::str::from_utf8(line.split(|byte| *byte == b'\n').next()?).ok()?;
    let (version, rest) = text.split_once(' ')?;
    version.strip_prefix("HTTP/")?;
    rest.get(..3)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_is_read_from_the_first_line_alone() {
        for (line, status) in [
            ("HTTP/1.1 200 OK\r\nHTTP/1.1 500", Some(200)),
            ("HTTP/1.0 404 Not Found", Some(404)),
            ("HTTP/1.1 503", Some(503)),
            ("HTTP/1.1 20", None),
            ("SSH-2.0-x 200 ", None),
            ("", None),
        ] {
            assert_eq!(status_of(line.as_bytes()), status, "{line:?}");
        }
    }
}
