//! Images on nodes: what is there, and putting one there by hand.

use std::time::Duration;

use axum::{
    Extension, Json,
    body::Body,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, header};
use model::api::{ImageView, ImagesRemoved, Page, PullImage};
use proto::relay::StreamRequest;
use serde::Deserialize;
use utoipa::IntoParams;

use crate::http::{
    body::{JsonBody, Name, Params},
    connections::Client,
    page::PageParams,
    problem::{Code, Refusal},
    relay::{self, FirstData},
    routes::Api,
};

/// A page of the images on a node, ordered by reference.
#[utoipa::path(get, path = "/nodes/{name}/images", tag = "nodes",
    params(("name" = String, Path, description = "Name of the node."), PageParams),
    responses((status = 200, description = "The page.", body = Page<ImageView>)))]
pub(super) async fn list_images(
    State(api): State<Api>,
    Name(name): Name,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<ImageView>>, Refusal> {
    relay::page_of(&api, &name, StreamRequest::Images, &params, |image: &ImageView| image.reference.clone())
        .await
}

/// Types of body that an image archive may be sent as.
const ARCHIVES: [&str; 4] =
    ["application/x-tar", "application/octet-stream", "application/gzip", "application/zstd"];

/// Puts an image on a node: an OCI or Docker archive, as `docker save` writes it. The body is passed on as it comes and
/// may be of any size.
#[utoipa::path(post, path = "/nodes/{name}/images", tag = "nodes",
    params(("name" = String, Path, description = "Name of the node.")),
    request_body(content = Vec<u8>, content_type = "application/x-tar", description = "The archive."),
    responses((status = 200, description = "The references that the image is known by now.", body = Vec<String>)))]
pub(super) async fn load_image(
    State(api): State<Api>,
    Name(name): Name,
    headers: HeaderMap,
    body: Body,
) -> Result<Json<Vec<String>>, Refusal> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    if !ARCHIVES.iter().any(|archive| kind.eq_ignore_ascii_case(archive)) {
        return Err(Refusal::new(Code::ContentTypeUnsupported, format!("the Content-Type is {kind:?}"))
            .hint(format!("send one of {}", ARCHIVES.join(", "))));
    }
    let _room = api.admit_upload()?;
    let stream = api.cluster().open_stream(&name, StreamRequest::LoadImage).await?;
    let answer = relay::upload(body, stream, &name, api.limits()).await?;
    relay::read(&name, &answer).map(Json)
}

/// Which image is removed.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct RemoveParams {
    /// Its reference; without it, every image that nothing uses.
    reference: Option<String>,
}

/// Removes an image from a node, or every one that nothing uses. One that a container stands on stays.
#[utoipa::path(delete, path = "/nodes/{name}/images", tag = "nodes",
    params(("name" = String, Path, description = "Name of the node."), RemoveParams),
    responses((status = 200, description = "What was removed.", body = ImagesRemoved)))]
pub(super) async fn remove_images(
    State(api): State<Api>,
    Name(name): Name,
    Params(params): Params<RemoveParams>,
) -> Result<Json<ImagesRemoved>, Refusal> {
    let request = StreamRequest::RemoveImages { reference: params.reference };
    let stream = api.cluster().open_stream(&name, request).await?;
    let answer = relay::gather_within(stream, &name, REMOVAL).await?;
    relay::read(&name, &answer).map(Json)
}

/// Pulls an image to a node, with the node's own logins. One that the node has already is asked for again.
#[utoipa::path(post, path = "/nodes/{name}/images/pull", tag = "nodes",
    params(("name" = String, Path, description = "Name of the node.")),
    request_body = PullImage,
    responses((status = 200, description = "The image.", body = ImageView)))]
pub(super) async fn pull_image(
    State(api): State<Api>,
    Name(name): Name,
    wanted: JsonBody<PullImage>,
) -> Result<Json<ImageView>, Refusal> {
    let request = StreamRequest::PullImage { reference: wanted.value.reference };
    let stream = api.cluster().open_stream(&name, request).await?;
    let answer = relay::gather_within(stream, &name, PULL).await?;
    relay::read(&name, &answer).map(Json)
}

/// Which image is saved.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct SaveParams {
    /// Its reference.
    reference: String,
}

/// An image of a node as an archive: an OCI image layout, which `docker load` reads as well. Layers are packed anew, so it
/// holds the same files as the image and other digests.
#[utoipa::path(get, path = "/nodes/{name}/images/archive", tag = "nodes",
    params(("name" = String, Path, description = "Name of the node."), SaveParams),
    responses((status = 200, description = "The archive.", body = Vec<u8>, content_type = "application/x-tar")))]
pub(super) async fn save_image(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    Name(name): Name,
    Params(params): Params<SaveParams>,
) -> Result<Response, Refusal> {
    let ticket = api.admit_stream(client)?;
    let request = StreamRequest::SaveImage { reference: params.reference };
    let stream = api.cluster().open_stream(&name, request).await?;
    let bytes = relay::body(stream, &name, FirstData::Due, api.limits()).await?;
    let body = relay::held(bytes, ticket, api.shutdown().clone());
    Ok(([(header::CONTENT_TYPE, "application/x-tar")], body).into_response())
}

/// How long a node may take to remove images: many large ones, on a slow disk.
const REMOVAL: Duration = Duration::from_secs(5 * 60);
/// How long a node may take to pull an image: as long as its own default.
const PULL: Duration = Duration::from_secs(30 * 60);
