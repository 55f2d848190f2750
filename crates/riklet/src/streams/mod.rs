//! Streams that users ask this node for: logs, programs in containers, ports, images.
//!
//! The riklet dials each stream itself, so that it needs no listening port. A stream ends with its last frame, when the
//! user goes, or when the node's work fails; whichever it is, nothing of it is left.

mod exec;
mod images;
mod logs;
mod ports;
mod volumes;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use proto::{
    MAX_MESSAGE_BYTES,
    relay::{Frame, HELD_FRAMES, MAX_DATA_BYTES, RelayFailure, StreamRequest},
    wire::session_client::SessionClient,
};
use runtime::pod::PodRuntime;
use serde::Serialize;
use tokio::sync::mpsc;
use tokio_stream::{StreamExt, wrappers::ReceiverStream};
use tonic::{Streaming, transport::Channel};

/// How long a user may take to end its half of a stream after we have ended ours.
const FAREWELL: Duration = Duration::from_secs(30);

/// What streams work on.
pub struct Streams {
    node: String,
    pods: OnceLock<Arc<PodRuntime>>,
}

/// A stream's two directions, as its server sees them.
struct Stream {
    send: mpsc::Sender<Frame>,
    receive: Streaming<proto::wire::Frame>,
}

/// The user has gone.
struct Hangup;

impl Streams {
    /// Streams of the node of this name, with nothing to work on yet.
    #[must_use]
    pub fn new(node: String) -> Self {
        Self { node, pods: OnceLock::new() }
    }

    /// Says what there is to work on, once it is known.
    pub fn set_pods(&self, pods: Arc<PodRuntime>) {
        // A second call would be of the same node; the first one stands.
        let _ = self.pods.set(pods);
    }

    /// What there is to work on, once it is known.
    #[must_use]
    pub fn pods(&self) -> Option<&Arc<PodRuntime>> {
        self.pods.get()
    }

    /// Dials the stream with this id and serves it to its end.
    pub async fn answer(
        self: Arc<Self>,
        client: SessionClient<Channel>,
        stream: String,
        request: StreamRequest,
    ) {
        let (send, sending) = mpsc::channel(HELD_FRAMES);
        let id = stream.clone();
        let outgoing = tokio_stream::once(Frame::Open(stream.clone())).chain(ReceiverStream::new(sending));
        let mut client = client.max_decoding_message_size(MAX_MESSAGE_BYTES);
        let answer = client.relay(outgoing.map(proto::wire::Frame::from)).await;
        let receive = match answer {
            Ok(answer) => answer.into_inner(),
            Err(status) => {
                tracing::debug!(stream, status = status.message(), "nobody waits for the stream any more");
                return;
            }
        };
        let mut stream = Stream { send, receive };
        let last = match self.serve(&mut stream, request).await {
            Ok(()) => Frame::End,
            Err(failure) => Frame::Failed(failure),
        };
        // Nobody reads it if the user has gone.
        let _ = stream.send.send(last).await;
        let Stream { send, mut receive } = stream;
        drop(send);
        // Dropping our reading half at once would reset the stream before the last frames are through: the user ends
        // its half when it has read ours.
        let ended = async { while let Ok(Some(_)) = receive.message().await {} };
        if tokio::time::timeout(FAREWELL, ended).await.is_err() {
            tracing::debug!(stream = id, "the user did not end the stream");
        }
    }

    async fn serve(&self, stream: &mut Stream, request: StreamRequest) -> Result<(), RelayFailure> {
        let pods = self.pods.get().ok_or_else(|| failure("node-not-ready", "it is still getting ready"))?;
        match request {
            StreamRequest::Logs { uid, container, follow, tail, since_seconds, previous, timestamps } => {
                let since = since_seconds.map(ago);
                let view = logs::View { follow, tail, since, previous, timestamps };
                logs::serve(pods, stream, &uid, &container, view).await
            }
            StreamRequest::Deleted => logs::list_deleted(pods, &self.node, stream).await,
            StreamRequest::DeletedLogs { uid, container, tail, since_seconds, previous, timestamps } => {
                let since = since_seconds.map(ago);
                let view = logs::View { follow: false, tail, since, previous, timestamps };
                logs::serve_deleted(pods, stream, &uid, container.as_deref(), view).await
            }
            StreamRequest::Exec { uid, container, exec } => {
                exec::serve(pods, stream, &uid, &container, &exec).await
            }
            StreamRequest::Attach { uid, container, attach } => {
                exec::attach(pods, stream, &uid, &container, &attach).await
            }
            StreamRequest::Copy { uid, container, copy } => {
                exec::copy(pods, stream, &uid, &container, &copy).await
            }
            StreamRequest::PortForward { uid, port } => ports::serve(pods, stream, &uid, port).await,
            StreamRequest::Volumes => volumes::list(pods, &self.node, stream).await,
            StreamRequest::RemoveVolume { name } => volumes::remove(pods, &name).await,
            StreamRequest::Images => images::list(pods, &self.node, stream).await,
            StreamRequest::RemoveImages { reference } => {
                images::remove(pods, reference.as_deref(), stream).await
            }
            StreamRequest::PullImage { reference } => {
                images::pull(pods, &self.node, &reference, stream).await
            }
            StreamRequest::SaveImage { reference } => images::save(pods, &reference, stream).await,
            StreamRequest::LoadImage => images::load(pods, stream).await,
        }
    }
}

/// So many seconds before now.
fn ago(seconds: u32) -> Timestamp {
    Timestamp::now() - SignedDuration::from_secs(seconds.into())
}

impl Stream {
    /// Sends data in frames of the allowed size, as fast as the user takes them.
    async fn data(&self, bytes: &[u8]) -> Result<(), Hangup> {
        for piece in bytes.chunks(MAX_DATA_BYTES) {
            self.send.send(Frame::Data(piece.to_vec())).await.map_err(|_| Hangup)?;
        }
        Ok(())
    }
}

/// Says an answer as JSON.
async fn say(answer: &impl Serialize, stream: &Stream) -> Result<(), RelayFailure> {
    let text = serde_json::to_vec(answer).map_err(|error| failure("internal", error.to_string()))?;
    // If the user has gone there is nobody to tell.
    let _ = stream.data(&text).await;
    Ok(())
}

fn failure(code: &str, message: impl Into<String>) -> RelayFailure {
    RelayFailure { code: code.to_owned(), message: message.into() }
}
