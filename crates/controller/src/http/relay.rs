//! Streams to nodes as HTTP bodies, in both directions and with back-pressure: nothing is read from one side that the
//! other has not taken.

use std::time::Duration;

use axum::{
    Json,
    body::{Body, Bytes},
};
use futures::{Stream, StreamExt, stream};
use http_body_util::BodyExt;
use model::api::Page;
use proto::relay::{Frame, MAX_DATA_BYTES, RelayFailure, StreamRequest};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    body,
    connections::StreamTicket,
    limits::{Limits, MAX_NODE_ANSWER_BYTES, MAX_UPLOAD_BYTES},
    page::{PageParams, cursor, sealed, size},
    problem::{self, Code, Refusal},
    routes::Api,
};
use crate::cluster::NodeStream;

/// The next data from a node; none at the end.
async fn next(receive: &mut mpsc::Receiver<Frame>, node: &str) -> Result<Option<Bytes>, Refusal> {
    loop {
        return match receive.recv().await {
            Some(Frame::Data(data)) => Ok(Some(data.into())),
            Some(Frame::End) => Ok(None),
            Some(Frame::Failed(failure)) => Err(failed(node, &failure)),
            Some(Frame::Open(_) | Frame::Request { .. }) => continue,
            None => Err(broke_off(node, "it ended without a word")),
        };
    }
}

fn failed(node: &str, failure: &RelayFailure) -> Refusal {
    match problem::node_failure(&failure.code) {
        Code::NodeUnreachable => broke_off(node, &failure.message),
        code => Refusal::new(code, format!("node {node:?} answered: {}", failure.message)),
    }
}

/// A stream that ended before its end.
pub(crate) fn broke_off(node: &str, why: &str) -> Refusal {
    Refusal::new(Code::NodeUnreachable, format!("the stream to node {node:?} broke off: {why}"))
}

fn slow(node: &str, deadline: Duration) -> Refusal {
    let detail = format!("node {node:?} did not answer within {deadline:?}");
    Refusal::new(Code::NodeSlow, detail).hint("rikctl get nodes")
}

/// Gathers the whole of a node's answer.
pub(crate) async fn gather(stream: NodeStream, node: &str, limits: &Limits) -> Result<Vec<u8>, Refusal> {
    gather_within(stream, node, limits.node_answer).await
}

/// As [`gather`], if the node may be silent for longer.
pub(crate) async fn gather_within(
    mut stream: NodeStream,
    node: &str,
    silence: Duration,
) -> Result<Vec<u8>, Refusal> {
    let mut answer = Vec::new();
    loop {
        let data = timeout(silence, next(&mut stream.receive, node)).await;
        let Some(data) = data.map_err(|_| slow(node, silence))?? else { return Ok(answer) };
        if answer.len() + data.len() > MAX_NODE_ANSWER_BYTES {
            let detail = format!("node {node:?} answers with more than {MAX_NODE_ANSWER_BYTES} bytes");
            return Err(Refusal::new(Code::NodeFailed, detail));
        }
        answer.extend_from_slice(&data);
    }
}

/// What a node answered, from JSON.
pub(crate) fn read<T: DeserializeOwned>(node: &str, answer: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(answer).map_err(|error| {
        Refusal::new(Code::NodeFailed, format!("the answer of node {node:?} is not understood: {error}"))
    })
}

/// A page of what a node lists, ordered by `name`.
pub(crate) async fn page_of<T: DeserializeOwned>(
    api: &Api,
    node: &str,
    request: StreamRequest,
    params: &PageParams,
    name: impl Fn(&T) -> String,
) -> Result<Json<Page<T>>, Refusal> {
    let after = cursor(params.after.as_deref())?;
    let limit = size(params.limit)?;
    let revision = api.cluster().overview().revision;
    let stream = api.cluster().open_stream(node, request).await?;
    let answer = gather(stream, node, api.limits()).await?;
    let mut items: Vec<T> = read(node, &answer)?;
    items.sort_by_key(&name);
    items.retain(|item| after.as_ref().is_none_or(|after| name(item) > *after));
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(name);
    Ok(Json(sealed(Page { items, revision, next })))
}

/// How long to wait for a node's first data before the answer begins.
#[derive(Clone, Copy, Debug)]
pub(crate) enum FirstData {
    /// It must come within the deadline for nodes.
    Due,
    /// It may come at any time: after a moment, the answer begins without it.
    Whenever,
}

/// The moment that [`FirstData::Whenever`] waits, so that a node's refusal can still be the answer's status.
const MOMENT: Duration = Duration::from_millis(500);

/// The node's answer as a body, from its first data on.
pub(crate) async fn body(
    mut stream: NodeStream,
    node: &str,
    first: FirstData,
    limits: &Limits,
) -> Result<impl Stream<Item = Result<Bytes, std::io::Error>> + Send + use<>, Refusal> {
    let head = match first {
        FirstData::Due => match timeout(limits.node_answer, next(&mut stream.receive, node)).await {
            Ok(data) => Some(data?),
            Err(_) => return Err(slow(node, limits.node_answer)),
        },
        FirstData::Whenever => timeout(MOMENT, next(&mut stream.receive, node)).await.ok().transpose()?,
    };
    let (ended, head) = match head {
        Some(None) => (true, None),
        Some(Some(data)) => (false, Some(Ok(data))),
        None => (false, None),
    };
    let state = (!ended).then(|| (stream, node.to_owned()));
    let tail = stream::unfold(state, |state| async move {
        let (mut stream, node) = state?;
        match next(&mut stream.receive, &node).await {
            Ok(Some(data)) => Some((Ok(data), Some((stream, node)))),
            Ok(None) => None,
            // The status has been sent: breaking off is the only way left to say that something is missing.
            Err(refusal) => Some((Err(std::io::Error::other(refusal.detail().to_owned())), None)),
        }
    });
    Ok(stream::iter(head).chain(tail))
}

/// A body that keeps its place among the streams, and ends with the server.
pub(crate) fn held<E>(
    source: impl Stream<Item = Result<Bytes, E>> + Send + 'static,
    ticket: StreamTicket,
    shutdown: CancellationToken,
) -> Body
where
    E: Into<Box<dyn std::error::Error + Send + Sync>> + 'static,
{
    let counted = source.map(move |item| {
        let _held = &ticket;
        item
    });
    Body::from_stream(counted.take_until(shutdown.cancelled_owned()))
}

/// How long a node may take to unpack an image that it has whole: the largest, on a slow disk.
const UNPACK: Duration = Duration::from_secs(15 * 60);

/// Sends a body to a node, and gathers what the node says to it.
pub(crate) async fn upload(
    source: Body,
    stream: NodeStream,
    node: &str,
    limits: &Limits,
) -> Result<Vec<u8>, Refusal> {
    let NodeStream { send, mut receive } = stream;
    let mut answer = Vec::new();
    let begun = tokio::select! {
        biased;
        // A node may know enough before the last byte, or refuse: then nobody needs the rest.
        begun = next(&mut receive, node) => Some(begun?),
        // Dropped only with the rest of the body, which nobody needs then.
        sent = send_body(source, &send, limits) => sent.map(|()| None)?,
    };
    let gathered = async {
        let mut data = match begun {
            Some(data) => data,
            None => next(&mut receive, node).await?,
        };
        while let Some(piece) = data {
            if answer.len() + piece.len() > MAX_NODE_ANSWER_BYTES {
                let detail = format!("node {node:?} answers with more than {MAX_NODE_ANSWER_BYTES} bytes");
                return Err(Refusal::new(Code::NodeFailed, detail));
            }
            answer.extend_from_slice(&piece);
            data = next(&mut receive, node).await?;
        }
        Ok(())
    };
    timeout(UNPACK, gathered).await.map_err(|_| slow(node, UNPACK))??;
    Ok(answer)
}

async fn send_body(mut source: Body, send: &mpsc::Sender<Frame>, limits: &Limits) -> Result<(), Refusal> {
    let mut sent = 0_u64;
    loop {
        let frame = timeout(limits.stall, source.frame()).await.map_err(|_| body::slow(limits.stall))?;
        let Some(frame) = frame else { break };
        let frame = frame
            .map_err(|error| Refusal::new(Code::BodyInvalid, format!("the upload broke off: {error}")))?;
        let Ok(mut data) = frame.into_data() else { continue };
        sent += data.len() as u64;
        if sent > MAX_UPLOAD_BYTES {
            return Err(Refusal::new(
                Code::BodyTooLarge,
                format!("an image has at most {MAX_UPLOAD_BYTES} bytes"),
            ));
        }
        while !data.is_empty() {
            let piece = data.split_to(data.len().min(MAX_DATA_BYTES));
            if send.send(Frame::Data(piece.to_vec())).await.is_err() {
                // The node has hung up; why is in what it sent.
                return std::future::pending().await;
            }
        }
    }
    // If nobody listens any more, the node's answer says why.
    let _ = send.send(Frame::End).await;
    Ok(())
}
