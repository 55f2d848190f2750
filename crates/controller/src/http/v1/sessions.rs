//! Sessions: programs in containers, and ports of instances, over WebSockets. What is said is in `model::session`.
//!
//! *Guarantees*: nothing is read from one side that the other has not taken; when either side goes, or the server ends,
//! so does the session; whatever goes wrong after the upgrade is told in the session's last message.

use std::time::Duration;

use axum::{
    Extension,
    body::Bytes,
    extract::{
        State, WebSocketUpgrade,
        ws::{CloseFrame, Message, WebSocket, close_code, rejection::WebSocketUpgradeRejection},
    },
    response::Response,
};
use futures::{SinkExt, StreamExt};
use model::session::{AttachRequest, CONTROL, CopyRequest, ExecRequest, MAX_REQUEST_BYTES, Outcome, message};
use proto::relay::{Frame, MAX_DATA_BYTES, StreamRequest};
use serde::de::DeserializeOwned;
use tokio::{sync::mpsc, time::timeout};

use super::logs::choose_container;
use crate::{
    cluster::{ClusterError, NodeStream},
    http::{
        body::Name,
        connections::{Client, StreamTicket},
        problem::{self, Code, Refusal},
        relay::broke_off,
        routes::Api,
    },
};

/// How long a client may take to say what it wants.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// How long a client may take to go once it was told the end.
const GONE_WITHIN: Duration = Duration::from_secs(10);
/// What a session's outcome is called when it cannot be said.
const UNSAYABLE: &[u8] = br#"{"failed":{"code":"internal","message":"the outcome cannot be told"}}"#;

/// Runs a program in a container. The connection becomes a WebSocket: the client's first message is an `ExecRequest` as
/// text; then each message is binary and begins with the number of a channel: 0 input, 1 output, 2 complaints, 3 a
/// `Control` from the client, or the `Outcome` to it, which is the last message.
#[utoipa::path(get, path = "/instances/{id}/exec", tag = "instances",
    params(("id" = String, Path, description = "Id of the instance.")),
    responses((status = 101, description = "A session; its messages are as described.", body = Outcome)))]
pub(super) async fn exec(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    Name(id): Name,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let upgrade = session(upgrade)?;
    let (uid, node, spec) = placed(&api, &id)?;
    let ticket = api.admit_stream(client)?;
    Ok(upgrade.on_upgrade(move |mut socket| async move {
        let begun = async {
            let wanted: ExecRequest = first_message(&mut socket).await?;
            let container = choose_container(&id, &spec, wanted.container.clone())?;
            if wanted.command.is_empty() {
                return Err(Refusal::new(Code::RequestInvalid, "there is no command to run"));
            }
            let request = StreamRequest::Exec { uid, container, exec: wanted };
            Ok(api.cluster().open_stream(&node, request).await?)
        };
        let begun = begun.await;
        run(&api, &node, begun, socket, ticket).await;
    }))
}

/// Attaches to a container: what it writes from now on, and what is typed to its program. The connection becomes a
/// WebSocket: the client's first message is an `AttachRequest` as text; the others are as for `exec`. The container goes on
/// when the client goes, but for one with `stdinOnce`, whose input ends.
#[utoipa::path(get, path = "/instances/{id}/attach", tag = "instances",
    params(("id" = String, Path, description = "Id of the instance.")),
    responses((status = 101, description = "A session; its messages are as described.", body = Outcome)))]
pub(super) async fn attach(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    Name(id): Name,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let upgrade = session(upgrade)?;
    let (uid, node, spec) = placed(&api, &id)?;
    let ticket = api.admit_stream(client)?;
    Ok(upgrade.on_upgrade(move |mut socket| async move {
        let begun = async {
            let wanted: AttachRequest = first_message(&mut socket).await?;
            let container = choose_container(&id, &spec, wanted.container.clone())?;
            let request = StreamRequest::Attach { uid, container, attach: wanted };
            Ok(api.cluster().open_stream(&node, request).await?)
        };
        let begun = begun.await;
        run(&api, &node, begun, socket, ticket).await;
    }))
}

/// Copies a file or a directory to or from a container. The connection becomes a WebSocket: the client's first message is
/// a `CopyRequest` as text; then each message is binary and begins with the number of a channel: 0 an archive into the
/// container, 1 one out of it, 2 what went wrong, 3 a `Control` from the client, of which `endOfInput` ends the archive,
/// or the `Outcome` to it, which is the last message and good if it is `{"exit":0}`.
#[utoipa::path(get, path = "/instances/{id}/copy", tag = "instances",
    params(("id" = String, Path, description = "Id of the instance.")),
    responses((status = 101, description = "A session; its messages are as described.", body = Outcome)))]
pub(super) async fn copy(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    Name(id): Name,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let upgrade = session(upgrade)?;
    let (uid, node, spec) = placed(&api, &id)?;
    let ticket = api.admit_stream(client)?;
    Ok(upgrade.on_upgrade(move |mut socket| async move {
        let begun = async {
            let wanted: CopyRequest = first_message(&mut socket).await?;
            let container = choose_container(&id, &spec, wanted.container.clone())?;
            if !wanted.path.starts_with('/') || wanted.path.contains('\0') {
                let detail = format!("{:?} is no absolute path in the container", wanted.path);
                return Err(Refusal::new(Code::RequestInvalid, detail));
            }
            let request = StreamRequest::Copy { uid, container, copy: wanted };
            Ok(api.cluster().open_stream(&node, request).await?)
        };
        let begun = begun.await;
        run(&api, &node, begun, socket, ticket).await;
    }))
}

/// Connects to a TCP port of an instance. The connection becomes a WebSocket: each message is binary and begins with the
/// number of a channel: 0 towards the port, 1 from it, 3 the `Outcome` if it failed. An empty message on channel 0 says
/// that the client has sent all.
#[utoipa::path(get, path = "/instances/{id}/ports/{port}", tag = "instances",
    params(("id" = String, Path, description = "Id of the instance."), ("port" = u16, Path, description = "The port.")),
    responses((status = 101, description = "A session; its messages are as described.", body = Outcome)))]
pub(super) async fn connect_port(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    axum::extract::Path((id, port)): axum::extract::Path<(String, u16)>,
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<Response, Refusal> {
    let upgrade = session(upgrade)?;
    let (uid, node, _) = placed(&api, &id)?;
    let ticket = api.admit_stream(client)?;
    Ok(upgrade.on_upgrade(move |socket| async move {
        let begun = api.cluster().open_stream(&node, StreamRequest::PortForward { uid, port }).await;
        run(&api, &node, begun.map_err(Refusal::from), socket, ticket).await;
    }))
}

fn session(
    upgrade: Result<WebSocketUpgrade, WebSocketUpgradeRejection>,
) -> Result<WebSocketUpgrade, Refusal> {
    let upgrade = upgrade.map_err(|rejection| {
        Refusal::new(Code::UpgradeRequired, format!("this path is a WebSocket: {rejection}"))
    })?;
    Ok(upgrade.max_message_size(MAX_REQUEST_BYTES).max_frame_size(MAX_REQUEST_BYTES))
}

fn placed(api: &Api, id: &str) -> Result<(String, String, model::WorkloadSpec), Refusal> {
    let found =
        api.cluster().instance(id).ok_or_else(|| ClusterError::InstanceNotFound { id: id.to_owned() })?;
    let instance = &found.object;
    match &instance.node {
        Some(node) => Ok((instance.uid.clone(), node.clone(), instance.spec.clone())),
        None => Err(Refusal::new(Code::NotPlaced, format!("instance {id:?} has no node yet"))
            .hint(format!("rikctl describe instance {id}"))),
    }
}

async fn first_message<T: DeserializeOwned>(socket: &mut WebSocket) -> Result<T, Refusal> {
    let invalid = |detail: String| Refusal::new(Code::RequestInvalid, detail);
    match timeout(REQUEST_WITHIN, socket.recv()).await {
        Ok(Some(Ok(Message::Text(text)))) => serde_json::from_str(&text)
            .map_err(|error| invalid(format!("the first message is no request of a session: {error}"))),
        Ok(_) => Err(invalid("the first message has to be the request, as text".to_owned())),
        Err(_late) => Err(invalid("no request came".to_owned())),
    }
}

/// Carries a session to its end, and says how it ended if the node did not.
async fn run(
    api: &Api,
    node: &str,
    begun: Result<NodeStream, Refusal>,
    mut socket: WebSocket,
    ticket: StreamTicket,
) {
    let ended = match begun {
        Ok(mut stream) => tokio::select! {
            ended = carry(node, &mut stream, &mut socket) => ended,
            () = api.shutdown().cancelled() => Err(Refusal::new(Code::NodeUnreachable, "the controller ends")),
        },
        Err(refusal) => Err(refusal),
    };
    if let Err(refusal) = ended {
        let outcome =
            Outcome::Failed { code: refusal.code().text().to_owned(), message: refusal.detail().to_owned() };
        let outcome = serde_json::to_vec(&outcome).unwrap_or_else(|_| UNSAYABLE.to_vec());
        let _ = socket.send(Message::Binary(message(CONTROL, &outcome).into())).await;
    }
    let close = CloseFrame { code: close_code::NORMAL, reason: "".into() };
    let _ = socket.send(Message::Close(Some(close))).await;
    // A connection that is closed while the client still sends is reset, and the last words with it.
    let gone = async { while let Some(Ok(_)) = socket.recv().await {} };
    tokio::select! {
        _ = timeout(GONE_WITHIN, gone) => {}
        () = api.shutdown().cancelled() => {}
    }
    drop(ticket);
}

/// Carries in both directions at once, so that a program that answers while it is spoken to holds up neither.
async fn carry(node: &str, stream: &mut NodeStream, socket: &mut WebSocket) -> Result<(), Refusal> {
    let (mut sink, mut source) = socket.split();
    let NodeStream { send, receive } = stream;
    let outward = async {
        loop {
            match receive.recv().await {
                Some(Frame::Data(data)) => {
                    if sink.send(Message::Binary(data.into())).await.is_err() {
                        return Ok(());
                    }
                }
                Some(Frame::End) => return Ok(()),
                Some(Frame::Failed(failure)) => {
                    return Err(match problem::node_failure(&failure.code) {
                        Code::NodeUnreachable => broke_off(node, &failure.message),
                        code => Refusal::new(code, failure.message),
                    });
                }
                Some(Frame::Open(_) | Frame::Request { .. }) => {}
                None => return Err(broke_off(node, "it ended without a word")),
            }
        }
    };
    let inward = async {
        loop {
            match source.next().await {
                Some(Ok(Message::Binary(data))) => pass_on(&data, send).await,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return,
                Some(Ok(Message::Text(_) | Message::Ping(_) | Message::Pong(_))) => {}
            }
        }
    };
    tokio::select! {
        ended = outward => ended,
        () = inward => Ok(()),
    }
}

/// Passes a client's message on, in pieces of the allowed size. If nobody takes it any more, the node's own last words
/// follow, and end the session.
async fn pass_on(data: &Bytes, send: &mpsc::Sender<Frame>) {
    let Some((channel, bytes)) = data.split_first() else { return };
    let whole = bytes.is_empty().then_some(bytes);
    for piece in bytes.chunks(MAX_DATA_BYTES - 1).chain(whole) {
        if send.send(Frame::Data(message(*channel, piece))).await.is_err() {
            return;
        }
    }
}
