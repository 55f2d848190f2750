//! The two gRPC services: riklets' sessions and controllers' links.

use std::{pin::Pin, time::Duration};

use daemon::chain;
use proto::{
    link::FromController,
    node::FromNode,
    relay::Frame,
    wire::{self, link_server::Link, session_server::Session},
};
use tokio_stream::{Stream, StreamExt, wrappers::ReceiverStream};
use tonic::{Request, Response, Status, Streaming};

use super::{
    engine::{Gone, Handle},
    relay::Hub,
};

/// How long a peer may take to say who it is.
const HELLO_TIMEOUT: Duration = Duration::from_secs(5);

/// A stream of messages to a peer.
type Outgoing<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// The service for riklets.
pub(super) struct Workers {
    engine: Handle,
    hub: Hub,
}

impl Workers {
    pub(super) fn new(engine: Handle, hub: Hub) -> Self {
        Self { engine, hub }
    }
}

#[tonic::async_trait]
impl Session for Workers {
    type ConnectStream = Outgoing<wire::ToNode>;
    type RelayStream = Outgoing<wire::Frame>;

    async fn connect(
        &self,
        request: Request<Streaming<wire::FromNode>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let peer = request.remote_addr();
        let mut arriving = request.into_inner();
        let hello = match read(first(&mut arriving).await?)? {
            FromNode::Hello(hello) => hello,
            FromNode::Heartbeat(_) | FromNode::Reports(_) => {
                return Err(Status::failed_precondition("the first message must be the hello"));
            }
        };
        let name = hello.name.clone();
        tracing::info!(node.name = name, ?peer, "node connected");
        let connected = self.engine.node_connected(hello).await.map_err(gone)?;
        let (engine, connection) = (self.engine.clone(), connected.connection);
        // Ends with the riklet's stream; the engine closes ours by dropping its sender.
        tokio::spawn(async move {
            while let Ok(Some(message)) = arriving.message().await {
                match FromNode::try_from(message) {
                    Ok(message) => {
                        if engine.from_node(connection, message).await.is_err() {
                            break;
                        }
                    }
                    Err(error) => tracing::error!(
                        node.name = name,
                        error = chain(&error),
                        "unreadable message passed over"
                    ),
                }
            }
            tracing::info!(node.name = name, "node disconnected");
            engine.node_closed(connection).await;
        });
        let outgoing = ReceiverStream::new(connected.outgoing).map(|message| Ok(wire::ToNode::from(message)));
        Ok(Response::new(Box::pin(outgoing)))
    }

    async fn relay(
        &self,
        request: Request<Streaming<wire::Frame>>,
    ) -> Result<Response<Self::RelayStream>, Status> {
        let mut arriving = request.into_inner();
        let Frame::Open(stream) = read(first(&mut arriving).await?)? else {
            return Err(Status::failed_precondition("the first frame must say which stream it is"));
        };
        let outgoing = self.hub.answer(&stream, arriving)?;
        Ok(Response::new(Box::pin(outgoing)))
    }
}

/// The service for controllers.
pub(super) struct Controllers {
    engine: Handle,
    hub: Hub,
}

impl Controllers {
    pub(super) fn new(engine: Handle, hub: Hub) -> Self {
        Self { engine, hub }
    }
}

#[tonic::async_trait]
impl Link for Controllers {
    type ConnectStream = Outgoing<wire::ToController>;
    type RelayStream = Outgoing<wire::Frame>;

    async fn connect(
        &self,
        request: Request<Streaming<wire::FromController>>,
    ) -> Result<Response<Self::ConnectStream>, Status> {
        let peer = request.remote_addr();
        let mut arriving = request.into_inner();
        let hello: FromController = read(first(&mut arriving).await?)?;
        tracing::info!(?peer, "controller connected");
        let connected = self.engine.controller_connected().await.map_err(gone)?;
        let (engine, connection) = (self.engine.clone(), connected.connection);
        engine.from_controller(connection, hello).await.map_err(gone)?;
        tokio::spawn(async move {
            while let Ok(Some(message)) = arriving.message().await {
                match FromController::try_from(message) {
                    Ok(message) => {
                        if engine.from_controller(connection, message).await.is_err() {
                            break;
                        }
                    }
                    Err(error) => tracing::error!(
                        error = chain(&error),
                        "unreadable message of the controller passed over"
                    ),
                }
            }
            tracing::info!(?peer, "controller disconnected");
            engine.controller_closed(connection).await;
        });
        let outgoing =
            ReceiverStream::new(connected.outgoing).map(|message| Ok(wire::ToController::from(message)));
        Ok(Response::new(Box::pin(outgoing)))
    }

    async fn relay(
        &self,
        request: Request<Streaming<wire::Frame>>,
    ) -> Result<Response<Self::RelayStream>, Status> {
        let mut arriving = request.into_inner();
        let Frame::Request { node, request } = read(first(&mut arriving).await?)? else {
            return Err(Status::failed_precondition("the first frame must say what is asked of which node"));
        };
        let outgoing = self.hub.ask(&self.engine, node, request, arriving).await?;
        Ok(Response::new(Box::pin(outgoing)))
    }
}

async fn first<T>(arriving: &mut Streaming<T>) -> Result<T, Status> {
    let message = tokio::time::timeout(HELLO_TIMEOUT, arriving.message()).await;
    let message =
        message.map_err(|_| Status::deadline_exceeded("the first message did not come in time"))??;
    message.ok_or_else(|| Status::failed_precondition("the stream ended before its first message"))
}

fn read<W, T: TryFrom<W, Error = proto::DecodeError>>(message: W) -> Result<T, Status> {
    T::try_from(message).map_err(|error| Status::invalid_argument(chain(&error)))
}

fn gone(error: Gone) -> Status {
    Status::unavailable(error.to_string())
}
