//! The log of a container, as its node sends it.

use axum::{
    Extension, Json,
    extract::{Path, State},
    response::{IntoResponse, Response},
};
use http::header;
use model::{
    WorkloadSpec,
    api::{DeletedInstanceView, Page},
};
use proto::relay::StreamRequest;
use serde::Deserialize;
use utoipa::IntoParams;

use super::flag;
use crate::{
    cluster::ClusterError,
    http::{
        body::{Name, Params},
        connections::Client,
        page::PageParams,
        problem::{Code, Refusal},
        relay::{self, FirstData},
        routes::Api,
    },
};

/// Which log, and how much of it.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct LogParams {
    /// Name of the container; needed if there are several.
    container: Option<String>,
    /// Whether to go on as lines are written, through all runs of the container, until none will follow.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    follow: bool,
    /// Only the last so many lines.
    tail: Option<u32>,
    /// Only lines that are no older than so many seconds, by the clock of the node.
    since_seconds: Option<u32>,
    /// Whether the log of the run before the present one is wanted, if the container was restarted.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    previous: bool,
    /// Whether each line starts with the time at which it was written.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    timestamps: bool,
}

/// The log of a container: what it wrote to standard output and standard error.
#[utoipa::path(get, path = "/instances/{id}/logs", tag = "instances",
    params(("id" = String, Path, description = "Id of the instance."), LogParams),
    responses((status = 200, description = "The lines.", body = String, content_type = "text/plain")))]
pub(super) async fn get_logs(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    Name(id): Name,
    Params(params): Params<LogParams>,
) -> Result<Response, Refusal> {
    let instance = api.cluster().instance(&id).ok_or(ClusterError::InstanceNotFound { id })?;
    let instance = &instance.object;
    let container = choose_container(&instance.id, &instance.spec, params.container)?;
    let Some(node) = &instance.node else {
        return Err(Refusal::new(
            Code::NotPlaced,
            format!("instance {:?} has no node yet, so it has no log", instance.id),
        )
        .hint(format!("rikctl describe instance {}", instance.id)));
    };
    let ticket = api.admit_stream(client)?;
    let LogParams { follow, tail, since_seconds, previous, timestamps, .. } = params;
    if previous && follow {
        return Err(Refusal::new(Code::RequestInvalid, "the log of a run that has ended cannot be followed")
            .hint("leave out follow or previous"));
    }
    let uid = instance.uid.clone();
    let request = StreamRequest::Logs { uid, container, follow, tail, since_seconds, previous, timestamps };
    let stream = api.cluster().open_stream(node, request).await?;
    let first = if follow { FirstData::Whenever } else { FirstData::Due };
    let lines = relay::body(stream, node, first, api.limits()).await?;
    let body = relay::held(lines, ticket, api.shutdown().clone());
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response())
}

/// Which log of an instance that is gone, and how much of it.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeletedLogParams {
    /// Name of the container; needed if there were several.
    container: Option<String>,
    /// Only the last so many lines.
    tail: Option<u32>,
    /// Only lines that are no older than so many seconds, by the clock of the node.
    since_seconds: Option<u32>,
    /// Whether the log of the run before the last one is wanted.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    previous: bool,
    /// Whether each line starts with the time at which it was written.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    timestamps: bool,
}

/// A page of the instances that are gone and whose logs the node still has, ordered by uid.
#[utoipa::path(get, path = "/nodes/{name}/deleted", tag = "nodes",
    params(("name" = String, Path, description = "Name of the node."), PageParams),
    responses((status = 200, description = "The page.", body = Page<DeletedInstanceView>)))]
pub(super) async fn list_deleted(
    State(api): State<Api>,
    Name(name): Name,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<DeletedInstanceView>>, Refusal> {
    relay::page_of(&api, &name, StreamRequest::Deleted, &params, |gone: &DeletedInstanceView| {
        gone.uid.clone()
    })
    .await
}

/// The log of a container of an instance that is gone.
#[utoipa::path(get, path = "/nodes/{name}/deleted/{uid}/logs", tag = "nodes",
    params(("name" = String, Path, description = "Name of the node."),
        ("uid" = String, Path, description = "Uid of the instance."), DeletedLogParams),
    responses((status = 200, description = "The lines.", body = String, content_type = "text/plain")))]
pub(super) async fn get_deleted_logs(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    Path((name, uid)): Path<(String, String)>,
    Params(params): Params<DeletedLogParams>,
) -> Result<Response, Refusal> {
    let ticket = api.admit_stream(client)?;
    let DeletedLogParams { container, tail, since_seconds, previous, timestamps } = params;
    let request = StreamRequest::DeletedLogs { uid, container, tail, since_seconds, previous, timestamps };
    let stream = api.cluster().open_stream(&name, request).await?;
    let lines = relay::body(stream, &name, FirstData::Due, api.limits()).await?;
    let body = relay::held(lines, ticket, api.shutdown().clone());
    Ok(([(header::CONTENT_TYPE, "text/plain; charset=utf-8")], body).into_response())
}

/// The container that was asked for, or the only one that lasts.
pub(super) fn choose_container(
    id: &str,
    spec: &WorkloadSpec,
    asked: Option<String>,
) -> Result<String, Refusal> {
    let names: Vec<&str> = spec.all_containers().map(|container| container.name.as_str()).collect();
    let all = names.join(", ");
    match asked {
        Some(asked) if names.contains(&asked.as_str()) => Ok(asked),
        Some(asked) => {
            let detail = format!("instance {id:?} has no container {asked:?}; it has {all}");
            Err(Refusal::new(Code::ContainerNotFound, detail))
        }
        None => match spec.containers.as_slice() {
            [only] => Ok(only.name.clone()),
            [] => Err(Refusal::new(Code::RequestInvalid, format!("instance {id:?} has no containers"))),
            _ => {
                let detail = format!("instance {id:?} has several containers");
                Err(Refusal::new(Code::RequestInvalid, detail).hint(format!("name one of them: {all}")))
            }
        },
    }
}
