//! The hub of relayed streams: brings together the user's half and the node's half.
//!
//! ```text
//!  controller's half waits under an id ─▶ the node is asked to dial that id ─▶ both halves are joined
//! ```
//! Frames are handed on as they are, and only as fast as the reader takes them: each half is the other's source.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use proto::{relay::StreamRequest, wire};
use tokio::sync::oneshot;
use tokio_stream::Stream;
use tonic::{Status, Streaming};

use super::engine::Handle;

/// How long a node may take to dial a stream that it was asked for.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Streams that may be open at once: each holds a connection's share of memory on every hop.
const MAX_RELAYS: usize = 1_000;

/// Streams that wait for their node.
#[derive(Clone, Default)]
pub(super) struct Hub {
    waiting: Arc<Mutex<BTreeMap<String, Waiting>>>,
    numbers: Arc<std::sync::atomic::AtomicU64>,
}

/// The user's half: what it has to say, and where the node's half is wanted.
struct Waiting {
    from_user: Streaming<wire::Frame>,
    to_user: oneshot::Sender<Streaming<wire::Frame>>,
}

/// Takes a waiting stream away when its user goes.
struct Place {
    hub: Hub,
    stream: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.hub.take(&self.stream);
    }
}

impl Hub {
    /// Asks `node` for a stream and returns what it says on it.
    pub(super) async fn ask(
        &self,
        engine: &Handle,
        node: String,
        request: StreamRequest,
        from_user: Streaming<wire::Frame>,
    ) -> Result<impl Stream<Item = Result<wire::Frame, Status>> + Send + use<>, Status> {
        let number = self.numbers.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let stream = format!("{number:x}-{:016x}", fastrand::u64(..));
        let (to_user, answered) = oneshot::channel();
        {
            let mut waiting = self.waiting.lock().unwrap_or_else(PoisonError::into_inner);
            if waiting.len() >= MAX_RELAYS {
                return Err(Status::resource_exhausted(format!(
                    "{MAX_RELAYS} streams wait for their nodes already"
                )));
            }
            waiting.insert(stream.clone(), Waiting { from_user, to_user });
        }
        let _place = Place { hub: self.clone(), stream: stream.clone() };
        let refused = engine.open_stream(node, stream, request).await;
        let refused = refused.map_err(|gone| Status::unavailable(gone.to_string()))?;
        tokio::select! {
            answered = answered => {
                let from_node = answered.map_err(|_| Status::unavailable("the stream was given up"))?;
                Ok(from_node)
            }
            Ok(why) = refused => Err(Status::unavailable(why)),
            () = tokio::time::sleep(ANSWER_TIMEOUT) => {
                Err(Status::deadline_exceeded("it did not answer in time"))
            }
        }
    }

    /// A node has dialled: gives its half to the user, and the user's half to it.
    pub(super) fn answer(
        &self,
        stream: &str,
        from_node: Streaming<wire::Frame>,
    ) -> Result<impl Stream<Item = Result<wire::Frame, Status>> + Send + use<>, Status> {
        let unknown = || Status::not_found("nobody waits for this stream any more");
        let Waiting { from_user, to_user } = self.take(stream).ok_or_else(unknown)?;
        to_user.send(from_node).map_err(|_| unknown())?;
        Ok(from_user)
    }

    fn take(&self, stream: &str) -> Option<Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner).remove(stream)
    }
}
