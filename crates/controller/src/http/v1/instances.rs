//! Instances: single running copies of workloads.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode};
use model::{
    Instance, Status,
    api::{CreateInstances, Created, Page, Versioned},
    manifest::MAX_REPLICAS,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{flag, tagged};
use crate::{
    cluster::{ClusterError, Deletion, InstanceFilter},
    http::{
        body::{IfMatch, JsonBody, Name, Params, idempotency},
        page::{cursor, sealed, size},
        problem::{Code, Refusal},
        routes::Api,
    },
};

/// Which instances to list.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct ListParams {
    /// Most objects of the page: 1 to 1000; 500 without it.
    #[param(minimum = 1, maximum = 1000, default = 500)]
    limit: Option<u32>,
    /// The `continue` of the page before.
    #[serde(rename = "continue")]
    after: Option<String>,
    /// Only those of this workload, by name or id.
    workload: Option<String>,
    /// Only those on this node.
    node: Option<String>,
    /// Only those with this status, in any case of letters.
    status: Option<String>,
}

/// A page of the instances, ordered by id.
#[utoipa::path(get, path = "/instances", tag = "instances", params(ListParams),
    responses((status = 200, description = "The page.", body = Page<Versioned<Instance>>)))]
pub(super) async fn list_instances(
    State(api): State<Api>,
    Params(params): Params<ListParams>,
) -> Result<Response, Refusal> {
    let after = cursor(params.after.as_deref())?;
    let status = params.status.as_deref().map(read_status).transpose()?;
    let filter = InstanceFilter { workload: params.workload, node: params.node, status };
    let page = api.cluster().instances(&filter, after.as_deref(), size(params.limit)?);
    let items: Vec<&Versioned<Instance>> = page.items.iter().map(|instance| &**instance).collect();
    Ok(Json(sealed(Page { items, revision: page.revision, next: page.next })).into_response())
}

fn read_status(text: &str) -> Result<Status, Refusal> {
    let found = Status::ALL.into_iter().find(|status| status.to_string().eq_ignore_ascii_case(text));
    found.ok_or_else(|| {
        let all = Status::ALL.map(|status| status.to_string()).join(", ");
        Refusal::new(Code::ParameterInvalid, format!("status is {text:?}; allowed are {all}"))
    })
}

/// Creates instances of a workload, all of them or none. They can be listed when the answer arrives.
#[utoipa::path(post, path = "/instances", tag = "instances", request_body = CreateInstances,
    params(("Idempotency-Key" = Option<String>, Header, description = "Names this attempt: sent again with the same key and body, the request creates nothing twice.")),
    responses((status = 201, description = "Their ids.", body = Created)))]
pub(super) async fn create_instances(
    State(api): State<Api>,
    headers: HeaderMap,
    body: JsonBody<CreateInstances>,
) -> Result<(StatusCode, Json<Created>), Refusal> {
    if let Some(replicas) = body.value.replicas.filter(|replicas| !(1..=MAX_REPLICAS).contains(replicas)) {
        let detail = format!("replicas is {replicas}; allowed are 1 to {MAX_REPLICAS}");
        return Err(Refusal::new(Code::RequestInvalid, detail));
    }
    let key = idempotency(&headers, "v1/instances", &body.bytes)?;
    let ids = api.cluster().create_instances(body.value, key).await?;
    Ok((StatusCode::CREATED, Json(Created { ids })))
}

/// One instance.
#[utoipa::path(get, path = "/instances/{id}", tag = "instances",
    params(("id" = String, Path, description = "Id of the instance.")),
    responses((status = 200, description = "The instance.", body = Versioned<Instance>,
        headers(("ETag" = String, description = "Its revision.")))))]
pub(super) async fn get_instance(State(api): State<Api>, Name(id): Name) -> Result<Response, Refusal> {
    let instance = api.cluster().instance(&id).ok_or(ClusterError::InstanceNotFound { id })?;
    Ok(tagged(&*instance))
}

/// How to delete an instance.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct DeleteParams {
    /// Forget it at once, whatever its node says; for nodes that will not come back.
    #[serde(default, deserialize_with = "flag")]
    #[param(required = false)]
    force: bool,
}

/// Ends an instance. It is listed until nothing of it is left.
#[utoipa::path(delete, path = "/instances/{id}", tag = "instances",
    params(
        ("id" = String, Path, description = "Id of the instance."),
        ("If-Match" = Option<String>, Header, description = "ETag that the instance must still have."),
        DeleteParams,
    ),
    responses(
        (status = 202, description = "Its end has begun."),
        (status = 204, description = "It is gone: no node had it, or it was forced."),
    ))]
pub(super) async fn delete_instance(
    State(api): State<Api>,
    Name(id): Name,
    Params(params): Params<DeleteParams>,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Refusal> {
    let how = if params.force { Deletion::Force } else { Deletion::Graceful };
    let uid = |id: &str| api.cluster().instance(id).map(|instance| instance.object.uid.clone());
    let before = uid(&id);
    api.cluster().delete_instance(&id, how, expected).await?;
    let is_there = before.is_some() && uid(&id) == before;
    Ok(if is_there { StatusCode::ACCEPTED } else { StatusCode::NO_CONTENT })
}
