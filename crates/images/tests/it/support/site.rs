//! A registry on a loopback port, small enough to misbehave in any way.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use images::Digest;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::picture::{OCI_INDEX, OCI_MANIFEST, Picture};

/// What somebody asked for.
#[derive(Debug, Clone)]
pub(crate) struct Request {
    pub(crate) path: String,
    pub(crate) headers: BTreeMap<String, String>,
}

/// What is answered, and how badly.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Vec<u8>,
    /// Closes the connection after so many bytes of the body.
    pub(crate) cut: Option<usize>,
    /// Falls silent after so many bytes of the body.
    pub(crate) hang: Option<usize>,
    /// Waits for `true` before the body is sent.
    pub(crate) gate: Option<watch::Receiver<bool>>,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self { status, ..Self::default() }
    }

    pub(crate) fn header(mut self, key: &str, value: impl Into<String>) -> Self {
        self.headers.push((key.to_owned(), value.into()));
        self
    }
}

type Twist = Arc<dyn Fn(&Request, Reply) -> Reply + Send + Sync>;

/// What a registry has: bytes and media type by path.
#[derive(Debug, Clone, Default)]
pub(crate) struct Shelf {
    pages: BTreeMap<String, (String, Vec<u8>)>,
}

impl Shelf {
    pub(crate) fn with(picture: &Picture, repository: &str, tag: &str) -> Self {
        let mut shelf = Self::default();
        shelf.put(picture, repository, tag);
        shelf
    }

    pub(crate) fn put(&mut self, picture: &Picture, repository: &str, tag: &str) {
        for (digest, bytes) in picture.blobs() {
            self.page(format!("/v2/{repository}/blobs/{digest}"), "application/octet-stream", bytes);
        }
        self.document(repository, tag, OCI_MANIFEST, picture.manifest_bytes());
    }

    pub(crate) fn index(&mut self, repository: &str, tag: &str, index: &Value) {
        self.document(repository, tag, OCI_INDEX, serde_json::to_vec(index).unwrap());
    }

    /// A manifest or index, under its tag and its digest.
    pub(crate) fn document(&mut self, repository: &str, tag: &str, media_type: &str, bytes: Vec<u8>) {
        let digest = Digest::of(&bytes);
        self.page(format!("/v2/{repository}/manifests/{digest}"), media_type, bytes.clone());
        self.page(format!("/v2/{repository}/manifests/{tag}"), media_type, bytes);
    }

    pub(crate) fn page(&mut self, path: String, media_type: &str, bytes: Vec<u8>) {
        self.pages.insert(path, (media_type.to_owned(), bytes));
    }

    /// The good answer, with ranges honoured.
    fn answer(&self, request: &Request) -> Reply {
        let Some((media_type, bytes)) = self.pages.get(&request.path) else { return Reply::status(404) };
        let start = request
            .headers
            .get("range")
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse::<usize>().ok());
        let reply = match start {
            Some(start) => Reply { body: bytes[start..].to_vec(), ..Reply::status(206) }
                .header("content-range", format!("bytes {start}-{}/{}", bytes.len() - 1, bytes.len())),
            None => Reply { body: bytes.clone(), ..Reply::status(200) },
        };
        reply.header("content-type", media_type)
    }
}

/// A running registry; stops when dropped.
pub(crate) struct Site {
    pub(crate) host: String,
    log: Arc<Mutex<Vec<Request>>>,
    task: JoinHandle<()>,
}

impl Site {
    pub(crate) async fn of(shelf: Shelf) -> Self {
        Self::twisted(shelf, |_, reply| reply).await
    }

    /// A registry whose names mean what `moved` says: another path of the shelf.
    pub(crate) async fn moving(shelf: Shelf, moved: impl Fn(&str) -> String + Send + Sync + 'static) -> Self {
        let own = shelf.clone();
        Self::twisted(shelf, move |request, _| {
            own.answer(&Request { path: moved(&request.path), headers: request.headers.clone() })
        })
        .await
    }

    /// A registry each of whose answers `twist` may spoil.
    pub(crate) async fn twisted(
        shelf: Shelf,
        twist: impl Fn(&Request, Reply) -> Reply + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let host = listener.local_addr().unwrap().to_string();
        let log = Arc::new(Mutex::new(Vec::new()));
        let (shelf, twist): (_, Twist) = (Arc::new(shelf), Arc::new(twist));
        let task = tokio::spawn({
            let log = Arc::clone(&log);
            async move {
                let mut connections = tokio::task::JoinSet::new();
                while let Ok((stream, _)) = listener.accept().await {
                    let (shelf, twist, log) = (Arc::clone(&shelf), Arc::clone(&twist), Arc::clone(&log));
                    connections.spawn(async move {
                        let _ = serve(stream, &shelf, &twist, &log).await;
                    });
                }
            }
        });
        Self { host, log, task }
    }

    pub(crate) fn requests(&self) -> Vec<Request> {
        self.log.lock().unwrap().clone()
    }

    /// How often a path that contains `part` was asked for.
    pub(crate) fn count(&self, part: &str) -> usize {
        self.requests().iter().filter(|request| request.path.contains(part)).count()
    }

    pub(crate) fn reference(&self, rest: &str) -> images::Reference {
        super::name(&format!("{}/{rest}", self.host))
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    mut stream: TcpStream,
    shelf: &Shelf,
    twist: &Twist,
    log: &Mutex<Vec<Request>>,
) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await?);
        if head == [0x16] {
            // Somebody speaks TLS.
            return stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await;
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut lines = head.lines();
    let path = lines.next().and_then(|line| line.split(' ').nth(1)).unwrap_or_default().to_owned();
    let headers = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(key, value)| (key.to_ascii_lowercase(), value.to_owned()))
        .collect();
    let request = Request { path, headers };
    log.lock().unwrap().push(request.clone());
    let reply = twist(&request, shelf.answer(&request));
    let mut out = format!("HTTP/1.1 {} X\r\nconnection: close\r\n", reply.status);
    if !reply.headers.iter().any(|(key, _)| key == "content-length") {
        out.push_str(&format!("content-length: {}\r\n", reply.body.len()));
    }
    for (key, value) in &reply.headers {
        out.push_str(&format!("{key}: {value}\r\n"));
    }
    out.push_str("\r\n");
    stream.write_all(out.as_bytes()).await?;
    if let Some(mut gate) = reply.gate {
        let _ = gate.wait_for(|open| *open).await;
    }
    let sent = reply.cut.or(reply.hang).unwrap_or(reply.body.len());
    stream.write_all(&reply.body[..sent]).await?;
    stream.flush().await?;
    if reply.hang.is_some() {
        std::future::pending::<()>().await;
    }
    stream.shutdown().await
}
