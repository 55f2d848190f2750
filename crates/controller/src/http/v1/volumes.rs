//! Local volumes of nodes: what is there, and taking one away.

use std::time::Duration;

use axum::{
    Json,
    extract::{Path, State},
};
use http::StatusCode;
use model::api::{Page, VolumeView};
use proto::relay::StreamRequest;

use crate::http::{
    body::{Name, Params},
    page::PageParams,
    problem::{Code, Refusal},
    relay,
    routes::Api,
};

/// How long a node may take to remove what is in a volume.
const REMOVAL: Duration = Duration::from_secs(5 * 60);

/// A page of the local volumes of a node, ordered by name.
#[utoipa::path(get, path = "/nodes/{name}/volumes", tag = "nodes",
    params(("name" = String, Path, description = "Name of the node."), PageParams),
    responses((status = 200, description = "The page.", body = Page<VolumeView>)))]
pub(super) async fn list_volumes(
    State(api): State<Api>,
    Name(name): Name,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<VolumeView>>, Refusal> {
    relay::page_of(&api, &name, StreamRequest::Volumes, &params, |volume: &VolumeView| volume.name.clone())
        .await
}

/// Removes a local volume of a node with all that is in it. One that an instance uses stays.
#[utoipa::path(delete, path = "/nodes/{name}/volumes/{volume}", tag = "nodes",
    params(("name" = String, Path, description = "Name of the node."),
        ("volume" = String, Path, description = "Name of the volume.")),
    responses((status = 204, description = "It is removed.")))]
pub(super) async fn remove_volume(
    State(api): State<Api>,
    Path((name, volume)): Path<(String, String)>,
) -> Result<StatusCode, Refusal> {
    let cluster = api.cluster();
    let request = StreamRequest::RemoveVolume { name: volume.clone() };
    let stream = cluster.open_stream(&name, request).await?;
    let removed = relay::gather_within(stream, &name, REMOVAL).await;
    let gone = match &removed {
        Ok(_) => true,
        Err(refusal) => refusal.code() == Code::VolumeNotFound,
    };
    // The node has none of that name: neither has the record from now on.
    let known = gone && cluster.forget_volume(&name, &volume).await?;
    match removed {
        Err(refusal) if !known => Err(refusal),
        _ => Ok(StatusCode::NO_CONTENT),
    }
}
