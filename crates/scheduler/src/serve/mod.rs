//! The scheduler on the network: two gRPC services around one [`engine`].
//!
//! A connection is two halves: what arrives is handed to the engine, what the engine says waits in a bounded queue.
//! If that queue is full, the peer cannot keep up, and the connection is closed: the next one begins with everything.

pub mod engine;
mod relay;
mod services;

use std::net::SocketAddr;

use proto::{
    MAX_MESSAGE_BYTES, MAX_STREAMS,
    channel::{CONNECTION_WINDOW_BYTES, KEEPALIVE_INTERVAL, KEEPALIVE_TIMEOUT, STREAM_WINDOW_BYTES},
    wire::{link_server::LinkServer, session_server::SessionServer},
};
use tokio::net::{TcpListener, UnixListener};
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Server, server::TcpIncoming};

use engine::Engine;
use relay::Hub;
use services::{Controllers, Workers};

/// Where the scheduler listens.
#[derive(Clone, Copy, Debug)]
pub struct Config {
    /// For riklets.
    pub workers: SocketAddr,
    /// For controllers.
    pub controllers: SocketAddr,
}

/// The scheduler could not run.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// A port could not be bound.
    #[error("could not listen on {address}")]
    Bind {
        /// The address.
        address: SocketAddr,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Serving failed.
    #[error("could not serve {who}")]
    Serve {
        /// Whom.
        who: &'static str,
        /// Why.
        #[source]
        source: tonic::transport::Error,
    },
}

/// Where the scheduler listens, bound.
#[derive(Debug)]
pub struct Listeners {
    /// For riklets.
    pub workers: TcpListener,
    /// For riklets on this machine, which may live in network namespaces of their own.
    pub workers_socket: Option<UnixListener>,
    /// For controllers.
    pub controllers: TcpListener,
}

/// Runs the scheduler until `shutdown`.
///
/// # Errors
/// A port could not be bound, or serving failed.
pub async fn run(config: Config, shutdown: CancellationToken) -> Result<(), ServeError> {
    let workers = bind(config.workers).await?;
    let controllers = bind(config.controllers).await?;
    warn_if_open(config.workers, "nodes");
    warn_if_open(config.controllers, "controllers");
    tracing::info!(workers = %config.workers, controllers = %config.controllers, "the scheduler is ready");
    serve(Listeners { workers, workers_socket: None, controllers }, shutdown).await
}

/// Serves on what is bound already, until `shutdown`.
///
/// # Errors
/// Serving failed.
pub async fn serve(listeners: Listeners, shutdown: CancellationToken) -> Result<(), ServeError> {
    let (engine, handle) = Engine::new();
    let hub = Hub::default();
    let sessions = SessionServer::new(Workers::new(handle.clone(), hub.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let links = LinkServer::new(Controllers::new(handle, hub)).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let workers = incoming(listeners.workers);
    let controllers = incoming(listeners.controllers);
    let local = sessions.clone();
    let on_socket = async {
        match listeners.workers_socket {
            Some(socket) => {
                server().add_service(local).serve_with_incoming(UnixListenerStream::new(socket)).await
            }
            None => std::future::pending().await,
        }
    };
    let for_nodes = |source| ServeError::Serve { who: "nodes", source };
    // Nothing is lost by ending at once: peers connect again and say everything again.
    tokio::select! {
        served = server().add_service(sessions).serve_with_incoming(workers) => served.map_err(for_nodes),
        served = on_socket => served.map_err(for_nodes),
        served = server().add_service(links).serve_with_incoming(controllers) => {
            served.map_err(|source| ServeError::Serve { who: "controllers", source })
        }
        () = engine.run() => Ok(()),
        () = shutdown.cancelled() => Ok(()),
    }
}

async fn bind(address: SocketAddr) -> Result<TcpListener, ServeError> {
    TcpListener::bind(address).await.map_err(|source| ServeError::Bind { address, source })
}

fn server() -> Server {
    Server::builder()
        .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
        .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
        .max_concurrent_streams(MAX_STREAMS)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
}

/// Connections whose small messages go out at once. The server's own setting does not reach connections that it is
/// given; without this, a message behind an unacknowledged one waits 40 ms for the peer's delayed acknowledgement.
fn incoming(listener: TcpListener) -> TcpIncoming {
    TcpIncoming::from(listener).with_nodelay(Some(true))
}

/// Until there is authentication, whoever reaches the ports is believed; that must be said.
fn warn_if_open(address: SocketAddr, who: &str) {
    if !address.ip().is_loopback() {
        tracing::warn!(
            %address,
            "the port for {who} has no authentication yet: everybody who reaches it is taken for one of them"
        );
    }
}
