//! Dialling the scheduler, again and again, and carrying the session over gRPC.

use std::{sync::Arc, time::Duration};

use daemon::chain;
use proto::{
    MAX_MESSAGE_BYTES,
    channel::{self, Pace},
    node::ToNode,
    wire::session_client::SessionClient,
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tonic::{
    Streaming,
    transport::{Channel, Endpoint},
};

use crate::{
    agent::{Agent, Link, SessionEnd},
    streams::Streams,
};

/// Messages that wait for the wire in each direction.
const HELD_MESSAGES: usize = 256;
/// How often a scheduler that stays away is mentioned in the log.
const MENTION_EVERY: Duration = Duration::from_secs(30);
/// Pause after a refusal: a person has to do something, so there is no hurry.
const PAUSE_AFTER_REFUSAL: Duration = Duration::from_secs(5);

/// Keeps a session with one of `endpoints` until `shutdown`.
pub async fn run(
    agent: &mut Agent,
    endpoints: &[Endpoint],
    streams: Arc<Streams>,
    shutdown: CancellationToken,
) {
    let mut pace = Pace::default();
    let mut mentioned: Option<tokio::time::Instant> = None;
    for endpoint in endpoints.iter().cycle() {
        let ended = tokio::select! {
            ended = attempt(agent, endpoint, streams.clone()) => ended,
            () = shutdown.cancelled() => return,
        };
        let pause = match ended {
            Ok(SessionEnd::Lost) => {
                tracing::warn!(scheduler = %endpoint.uri(), "the connection to the scheduler was lost; trying again");
                pace.reset();
                pace.pause(fastrand::u64(..))
            }
            Ok(end) => {
                tracing::error!(scheduler = %endpoint.uri(), "{}", chain(&end));
                PAUSE_AFTER_REFUSAL
            }
            Err(error) => {
                if mentioned.is_none_or(|when| when.elapsed() >= MENTION_EVERY) {
                    mentioned = Some(tokio::time::Instant::now());
                    tracing::info!(scheduler = %endpoint.uri(), cause = chain(&error), "waiting for the scheduler");
                }
                pace.pause(fastrand::u64(..))
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
    }
}

/// No session came about.
#[derive(Debug, thiserror::Error)]
enum DialError {
    #[error("no connection to the scheduler")]
    Connect(#[source] tonic::transport::Error),
    #[error("the scheduler did not take the session")]
    Open(#[source] Box<tonic::Status>),
}

async fn attempt(
    agent: &mut Agent,
    endpoint: &Endpoint,
    streams: Arc<Streams>,
) -> Result<SessionEnd, DialError> {
    let channel = channel::connect(endpoint).await.map_err(DialError::Connect)?;
    let mut client = client(channel.clone());
    let (send, sending) = mpsc::channel(HELD_MESSAGES);
    let outgoing = ReceiverStream::new(sending).map(proto::wire::FromNode::from);
    // The hello has to be on its way before the answer comes.
    let (received, receive) = mpsc::channel(HELD_MESSAGES);
    let carried = async {
        let answer = client.connect(outgoing).await.map_err(|status| DialError::Open(Box::new(status)))?;
        tracing::info!(scheduler = %endpoint.uri(), "connected to the scheduler");
        carry(answer.into_inner(), received).await;
        Ok(())
    };
    let tracker = TaskTracker::new();
    let open_stream = |stream: String, request| {
        tracker.spawn(streams.clone().answer(client_for_streams(&channel), stream, request));
    };
    tokio::select! {
        carried = carried => carried.map(|()| SessionEnd::Lost),
        end = agent.serve(Link { send, receive }, open_stream) => Ok(end),
    }
}

fn client(channel: Channel) -> SessionClient<Channel> {
    SessionClient::new(channel).max_decoding_message_size(MAX_MESSAGE_BYTES)
}

fn client_for_streams(channel: &Channel) -> SessionClient<Channel> {
    client(channel.clone())
}

/// Hands what arrives to the session, until one of them ends.
async fn carry(mut arriving: Streaming<proto::wire::ToNode>, session: mpsc::Sender<ToNode>) {
    while let Ok(Some(message)) = arriving.message().await {
        match ToNode::try_from(message) {
            Ok(message) => {
                if session.send(message).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::error!(error = chain(&error), "the scheduler sent what cannot be read; passed over")
            }
        }
    }
}
