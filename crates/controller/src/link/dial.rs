//! Dialling the scheduler, again and again, and carrying the link over gRPC.

use std::{sync::Arc, time::Duration};

use daemon::chain;
use proto::{
    MAX_MESSAGE_BYTES,
    channel::{self, Pace},
    link::ToController,
    relay::{Frame, HELD_FRAMES, StreamRequest},
    wire::link_client::LinkClient,
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::sync::CancellationToken;
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

use super::{Link, LinkEnd, serve};
use crate::cluster::{Cluster, ClusterError, NodeStream};

/// Messages that wait for the wire in each direction. The scheduler never waits for us for long; a burst of this
/// size is a change of a thousand instances, one message each.
const HELD_MESSAGES: usize = 1_024;
/// How often a scheduler that stays away is mentioned in the log.
const MENTION_EVERY: Duration = Duration::from_secs(30);

/// Keeps a link to the scheduler at `endpoint` until `shutdown`.
pub async fn run(cluster: Cluster, endpoint: Endpoint, shutdown: CancellationToken) {
    let mut pace = Pace::default();
    let mut mentioned: Option<tokio::time::Instant> = None;
    loop {
        let ended = tokio::select! {
            ended = attempt(&cluster, &endpoint) => ended,
            () = shutdown.cancelled() => return,
        };
        cluster.set_relay(None);
        match ended {
            Ok(end) => {
                pace.reset();
                mentioned = None;
                tracing::warn!(scheduler = %endpoint.uri(), "{}; trying again", chain(&end));
            }
            Err(error) => {
                if mentioned.is_none_or(|when| when.elapsed() >= MENTION_EVERY) {
                    mentioned = Some(tokio::time::Instant::now());
                    tracing::info!(scheduler = %endpoint.uri(), cause = chain(&error), "waiting for the scheduler");
                }
            }
        }
        tokio::select! {
            () = tokio::time::sleep(pace.pause(fastrand::u64(..))) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// No connection came about.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("no connection to the scheduler")]
    Connect(#[source] tonic::transport::Error),
    #[error("the scheduler did not take the connection")]
    Open(#[source] Box<tonic::Status>),
}

/// One connection, from dialling to its end.
async fn attempt(cluster: &Cluster, endpoint: &Endpoint) -> Result<LinkEnd, DialError> {
    let channel = channel::connect(endpoint).await.map_err(DialError::Connect)?;
    let mut client = client(channel.clone());
    let (send, sending) = mpsc::channel(HELD_MESSAGES);
    let outgoing = ReceiverStream::new(sending).map(proto::wire::FromController::from);
    let (received, receive) = mpsc::channel(HELD_MESSAGES);
    // The scheduler answers when it has read our hello, so serving and carrying begin together.
    let carried = async {
        let answer = client.connect(outgoing).await.map_err(|status| DialError::Open(Box::new(status)))?;
        tracing::info!(scheduler = %endpoint.uri(), "connected to the scheduler");
        cluster.set_relay(Some(Arc::new(move |node, request| {
            let channel = channel.clone();
            Box::pin(async move { open_relay(channel, node, request).await })
        })));
        carry(answer.into_inner(), received).await;
        Ok(LinkEnd::Lost)
    };
    tokio::select! {
        carried = carried => carried,
        end = serve(cluster, Link { send, receive }) => Ok(end),
    }
}

fn client(channel: Channel) -> LinkClient<Channel> {
    LinkClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

/// Hands what arrives to the link, until one of them ends.
async fn carry(mut arriving: Streaming<proto::wire::ToController>, link: mpsc::Sender<ToController>) {
    while let Ok(Some(message)) = arriving.message().await {
        match ToController::try_from(message) {
            Ok(message) => {
                if link.send(message).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "the scheduler sent what cannot be read; passed over")
            }
        }
    }
}

/// Opens a stream to a node by way of the scheduler.
async fn open_relay(
    channel: Channel,
    node: String,
    request: StreamRequest,
) -> Result<NodeStream, ClusterError> {
    let (send, sending) = mpsc::channel::<Frame>(HELD_FRAMES);
    let first = Frame::Request { node: node.clone(), request };
    let outgoing =
        tokio_stream::once(first).chain(ReceiverStream::new(sending)).map(proto::wire::Frame::from);
    let unreachable = |status: tonic::Status| ClusterError::NodeUnreachable {
        node: node.clone(),
        detail: status.message().to_owned(),
    };
    let answer = client(channel).relay(outgoing).await.map_err(unreachable)?;
    let mut arriving = answer.into_inner();
    let (received, receive) = mpsc::channel(HELD_FRAMES);
    // Ends with the stream, or when the reader has gone.
    tokio::spawn(async move {
        loop {
            let frame = tokio::select! {
                frame = arriving.message() => frame,
                () = received.closed() => return,
            };
            let frame = match frame {
                Ok(Some(frame)) => Frame::try_from(frame).ok(),
                Ok(None) => None,
                Err(status) => Some(Frame::Failed(proto::relay::RelayFailure {
                    code: "node-unreachable".to_owned(),
                    message: status.message().to_owned(),
                })),
            };
            let Some(frame) = frame else { return };
            if received.send(frame).await.is_err() {
                return;
            }
        }
    });
    Ok(NodeStream { send, receive })
}
