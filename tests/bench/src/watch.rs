//! The watch stream of the instances, each change with the moment at which a client has it.

use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use model::Status;
use model::api::Action;
use serde::Deserialize;

/// How long nothing may change while something is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// A change of an instance.
#[derive(Clone, Debug)]
pub(crate) struct Change {
    /// When it was read.
    pub(crate) at: Instant,
    /// Name of the instance.
    pub(crate) name: String,
    /// Its status since; `None` when it is gone.
    pub(crate) status: Option<Status>,
    /// Whether it is bound to a node.
    pub(crate) bound: bool,
    /// Why it stands where it stands.
    message: Option<String>,
}

/// What is read of an event; the rest is skipped, as it costs the machine that is measured.
#[derive(Deserialize)]
struct Told {
    action: Action,
    name: String,
    value: Option<Seen>,
}

#[derive(Deserialize)]
struct Seen {
    status: Status,
    node: Option<String>,
    message: Option<String>,
}

/// An open watch.
#[derive(Debug)]
pub(crate) struct Watch(Receiver<Result<Change>>);

impl Watch {
    /// Begins to watch; what changes from now on is seen.
    ///
    /// # Errors
    /// When the controller does not let us.
    pub(crate) fn open(server: SocketAddr) -> Result<Self> {
        let mut stream = TcpStream::connect(server).context("failed to reach the controller")?;
        // In HTTP/1.0 the stream comes as it is, without chunks.
        write!(stream, "GET /api/v1/watch?object=instance HTTP/1.0\r\nHost: {server}\r\n\r\n")?;
        let mut lines = BufReader::with_capacity(1 << 20, stream).lines();
        let status = lines.next().context("the watch was not answered")??;
        ensure!(status.contains(" 200 "), "the watch was refused: {status}");
        // Its first line says that it watches.
        lines
            .by_ref()
            .map_while(Result::ok)
            .find(|line| line.starts_with(": watching"))
            .context("no watch began")?;
        let (sender, receiver) = mpsc::channel();
        thread::spawn(move || {
            for line in lines {
                let change = line.context("the watch broke off").and_then(|line| read(&line));
                if let Some(change) = change.transpose()
                    && sender.send(change).is_err()
                {
                    return;
                }
            }
        });
        Ok(Self(receiver))
    }

    /// The next change.
    ///
    /// # Errors
    /// When none comes for long, or an instance has failed.
    pub(crate) fn next(&self) -> Result<Change> {
        let change = self.0.recv_timeout(PATIENCE).context("nothing changed for a minute")??;
        if change.status == Some(Status::Failed) {
            bail!("{} failed: {}", change.name, change.message.as_deref().unwrap_or_default());
        }
        Ok(change)
    }

    /// Waits until `count` instances have the status, `None` for gone; gives what was seen.
    ///
    /// # Errors
    /// As [`Watch::next`].
    pub(crate) fn until(&self, count: usize, status: Option<Status>) -> Result<Vec<Change>> {
        let mut seen = Vec::new();
        while seen.len() < count {
            let change = self.next()?;
            if change.status == status {
                seen.push(change);
            }
        }
        Ok(seen)
    }
}

fn read(line: &str) -> Result<Option<Change>> {
    let Some(data) = line.strip_prefix("data: ") else { return Ok(None) };
    let at = Instant::now();
    let Told { action, name, value } =
        serde_json::from_str(data).with_context(|| format!("the watch said {data}"))?;
    let gone = action == Action::Deleted;
    let (status, bound, message) = match value {
        Some(seen) => (Some(seen.status), seen.node.is_some(), seen.message),
        None => (None, false, None),
    };
    Ok(Some(Change { at, name, status: status.filter(|_| !gone), bound, message }))
}
