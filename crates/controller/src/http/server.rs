//! The listener and its connections.
//!
//! ```text
//!  accept ▶ room for this client? ▶ HTTP/1.1 ▶ answer
//! ```
//! *Guarantees*: no client can hold more than its share; a failed accept never ends the server; shutdown takes at most
//! [`Limits::drain`], whatever clients do.

use std::{
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    pin::pin,
    sync::Arc,
    time::Duration,
};

use axum::body::Body;
use hyper::{Request, body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustix::net::sockopt;
use tokio::{
    net::{TcpListener, TcpStream},
    task::{JoinError, JoinSet},
    time::{sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    answer::Answerer,
    connections::{Client, Connections, Ticket, WorkingBody},
    limits::{Limits, MAX_HEAD_BYTES, MAX_HEADERS},
    routes,
    socket::Socket,
};
use crate::Cluster;

/// Pause after an accept that failed: descriptors come free when connections end, not by asking again at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);
/// Silence after which a client is probed.
const PROBE_AFTER: Duration = Duration::from_secs(4);
/// Pause between probes. With the silence before, a client that is gone is found out in ten seconds.
const PROBE_EVERY: Duration = Duration::from_secs(2);
/// Probes without an answer after which a client is gone.
const PROBES: u32 = 3;
/// What a connection that finds no room is told.
const NO_ROOM: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";

/// The HTTP server of a cluster.
#[derive(Clone)]
pub struct Server {
    cluster: Cluster,
    names: Vec<String>,
    limits: Limits,
}

/// Serves the API until `shutdown`, with the usual bounds and no further host names.
pub async fn serve(cluster: Cluster, listener: TcpListener, shutdown: CancellationToken) {
    Server::new(cluster).serve(listener, shutdown).await;
}

impl Server {
    /// A server with the usual bounds.
    #[must_use]
    pub fn new(cluster: Cluster) -> Self {
        Self { cluster, names: Vec::new(), limits: Limits::default() }
    }

    /// Names by which clients may call this server, besides `localhost` and addresses.
    #[must_use]
    pub fn names(self, names: Vec<String>) -> Self {
        Self { names, ..self }
    }

    /// Other bounds.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Serves until `shutdown`; what is under way then may finish within [`Limits::drain`].
    pub async fn serve(self, listener: TcpListener, shutdown: CancellationToken) {
        let Self { cluster, names, limits } = self;
        let router = routes::build(cluster, limits.clone(), shutdown.clone());
        let answerer = Arc::new(Answerer::new(router, names, limits.in_flight));
        let connections = Connections::new(&limits);
        let mut tasks = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                // Cancel-safe: a token stays cancelled.
                () = shutdown.cancelled() => break,
                // Cancel-safe: a task that ended is handed out once, or waits.
                Some(ended) = tasks.join_next(), if !tasks.is_empty() => {
                    note_end(ended);
                    continue;
                }
                // Cancel-safe: a connection is taken from the queue only when it is handed out.
                accepted = listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => match connections.admit(client(peer)) {
                    Some(ticket) => {
                        let connection =
                            Connection { ticket, answerer: Arc::clone(&answerer), limits: limits.clone() };
                        tasks.spawn(connection.serve(stream, client(peer), shutdown.clone()));
                    }
                    None => refuse(&stream, peer),
                },
                Err(error) => pause_after(&error, &shutdown).await,
            }
        }
        drop(listener);
        let drained = async {
            while let Some(ended) = tasks.join_next().await {
                note_end(ended);
            }
            answerer.drained().await;
        };
        if timeout(limits.drain, drained).await.is_err() {
            tracing::warn!("some requests were still under way at the end and are cut off");
            tasks.shutdown().await;
        }
    }
}

fn client(peer: SocketAddr) -> Client {
    IpAddr::into(peer.ip())
}

fn refuse(stream: &TcpStream, peer: SocketAddr) {
    tracing::debug!(%peer, "no room for another connection");
    // As much as fits without waiting; a client that cannot take it learns of it by the end of the connection.
    let _ = stream.try_write(NO_ROOM);
}

async fn pause_after(error: &io::Error, shutdown: &CancellationToken) {
    tracing::warn!(%error, "a connection could not be accepted");
    tokio::select! {
        () = shutdown.cancelled() => {}
        () = sleep(ACCEPT_PAUSE) => {}
    }
}

/// Sets what sockets of clients have in common. A socket that takes none of it works, only less well.
fn prepare(stream: &TcpStream) {
    // Answers are small and whole: waiting for more of them only delays.
    let _ = stream.set_nodelay(true);
    // A client whose machine is gone says nothing: without probes, a quiet stream to it would stay for ever.
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, PROBE_AFTER);
    let _ = sockopt::set_tcp_keepintvl(stream, PROBE_EVERY);
    let _ = sockopt::set_tcp_keepcnt(stream, PROBES);
}

fn note_end(ended: Result<(), JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection met a defect of the controller");
    }
}

struct Connection {
    ticket: Ticket,
    answerer: Arc<Answerer>,
    limits: Limits,
}

impl Connection {
    async fn serve(self, stream: TcpStream, client: Client, shutdown: CancellationToken) {
        let Self { ticket, answerer, limits } = self;
        prepare(&stream);
        let evicted = ticket.evicted();
        let service = service_fn(|mut request: Request<Incoming>| {
            let (answerer, work) = (Arc::clone(&answerer), ticket.load().mark());
            request.extensions_mut().insert(ticket.load().clone());
            async move {
                let response = answerer.answer(client, request.map(Body::new)).await;
                Ok::<_, Infallible>(response.map(|body| WorkingBody::new(body, work)))
            }
        });
        let served = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(limits.head)
            .max_headers(MAX_HEADERS)
            .max_buf_size(MAX_HEAD_BYTES)
            .serve_connection(TokioIo::new(Socket::new(stream, limits.stall)), service)
            .with_upgrades();
        let mut served = pin!(served);
        let mut draining = false;
        loop {
            let ended = tokio::select! {
                ended = served.as_mut() => ended,
                () = evicted.cancelled() => return,
                () = shutdown.cancelled(), if !draining => {
                    draining = true;
                    served.as_mut().graceful_shutdown();
                    continue;
                }
            };
            if let Err(error) = ended {
                tracing::debug!(%error, "a connection ended early");
            }
            return;
        }
    }
}
