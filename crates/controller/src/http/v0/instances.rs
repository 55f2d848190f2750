//! The old routes of instances, `instances.*`, exactly as their clients know them.

use axum::{Json, extract::State, response::Response};
use http::{HeaderMap, StatusCode, header};
use model::{
    api::{CreateInstances, Page},
    manifest::MAX_REPLICAS,
};
use serde::Deserialize;
use utoipa::ToSchema;

use super::{
    IdBody, LimitParams,
    list::{array, text},
    view::InstanceElement,
};
use crate::{
    cluster::{ClusterError, Deletion, InstanceFilter},
    http::{
        body::{Params, Whole, idempotency, json},
        problem::{Code, Refusal},
        routes::Api,
    },
};

/// Every instance. A client that accepts exactly `text/plain` gets `{"instances":[[…]]}` instead of the array.
#[utoipa::path(get, path = "/instances.list", tag = "v0", operation_id = "v0_list_instances", params(LimitParams),
    responses((status = 200, description = "The instances.", body = Vec<InstanceElement>)))]
pub(super) async fn list(
    State(api): State<Api>,
    headers: HeaderMap,
    Params(params): Params<LimitParams>,
) -> Response {
    // The Go client of 2023 asks so, and decodes this shape only.
    let is_go_client = headers.get(header::ACCEPT).is_some_and(|accept| accept == "text/plain");
    let around = if is_go_client { ("{\"instances\":[[", "]]}") } else { ("[", "]") };
    array(params.limit, around, move |after, limit| {
        let page = api.cluster().instances(&InstanceFilter::default(), after, limit);
        let items = page.items.iter().map(|instance| text(&InstanceElement::from(&**instance))).collect();
        Page { items, revision: page.revision, next: page.next }
    })
}

/// Which instances to create.
#[derive(Debug, Deserialize, ToSchema)]
pub(super) struct CreateBody {
    /// Id of the workload.
    workload_id: String,
    /// Name of the instance; only for a single one.
    name: Option<String>,
    /// How many; without it, one.
    #[schema(maximum = 1000)]
    replicas: Option<u32>,
}

/// Creates instances of a workload. They can be listed when the answer arrives.
#[utoipa::path(post, path = "/instances.create", tag = "v0", operation_id = "v0_create_instances", request_body = CreateBody,
    responses((status = 201, description = "Their ids.", body = Vec<String>)))]
pub(super) async fn create(
    State(api): State<Api>,
    headers: HeaderMap,
    Whole(bytes): Whole,
) -> Result<(StatusCode, Json<Vec<String>>), Refusal> {
    let CreateBody { workload_id, name, replicas } = json(&bytes)?;
    let count = replicas.unwrap_or(1);
    if count > MAX_REPLICAS {
        let detail = format!("replicas is {count}; at most {MAX_REPLICAS} are allowed in one request");
        return Err(Refusal::new(Code::RequestInvalid, detail));
    }
    if name.is_some() && count > 1 {
        let detail = format!("one name cannot be given to {count} instances");
        return Err(Refusal::new(Code::RequestInvalid, detail).hint("leave out the name or the replicas"));
    }
    if api.cluster().workload(&workload_id).is_none() {
        return Err(ClusterError::WorkloadNotFound { name: workload_id }.into());
    }
    if count == 0 {
        return Ok((StatusCode::CREATED, Json(Vec::new())));
    }
    let key = idempotency(&headers, "v0/instances.create", &bytes)?;
    let request = CreateInstances { workload: workload_id, name, replicas };
    let ids = api.cluster().create_instances(request, key).await?;
    Ok((StatusCode::CREATED, Json(ids)))
}

/// Ends an instance. It is listed until nothing of it is left.
#[utoipa::path(post, path = "/instances.delete", tag = "v0", operation_id = "v0_delete_instance", request_body = IdBody,
    responses((status = 204, description = "Its end has begun.")))]
pub(super) async fn delete(State(api): State<Api>, Whole(bytes): Whole) -> Result<StatusCode, Refusal> {
    let IdBody { id } = json(&bytes)?;
    api.cluster().delete_instance(&id, Deletion::Graceful, None).await?;
    Ok(StatusCode::NO_CONTENT)
}
