//! The old routes of workloads, `workloads.*`, exactly as their clients know them.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode};
use model::api::Page;
use serde::Serialize;
use utoipa::ToSchema;

use super::{
    IdBody, LimitParams,
    list::{array, text},
    view::{InstanceView, WorkloadElement},
};
use crate::{
    cluster::InstanceFilter,
    http::{
        body::{Name, Params, Whole, idempotency, json, lenient_manifest},
        problem::Refusal,
        routes::Api,
    },
};

/// Every workload.
#[utoipa::path(get, path = "/workloads.list", tag = "v0", operation_id = "v0_list_workloads", params(LimitParams),
    responses((status = 200, description = "The workloads.", body = Vec<WorkloadElement>)))]
pub(super) async fn list(State(api): State<Api>, Params(params): Params<LimitParams>) -> Response {
    array(params.limit, ("[", "]"), move |after, limit| {
        let page = api.cluster().workloads(after, limit);
        let items = page.items.iter().map(|workload| text(&WorkloadElement::from(&**workload))).collect();
        Page { items, revision: page.revision, next: page.next }
    })
}

/// The instances of a workload.
#[utoipa::path(get, path = "/workloads.instances/{id}", tag = "v0", operation_id = "v0_list_workload_instances",
    params(("id" = String, Path, description = "Id of the workload."), LimitParams),
    responses(
        (status = 200, description = "Its instances.", body = InstancesView),
        (status = 204, description = "There is none, or no such workload."),
    ))]
pub(super) async fn instances(
    State(api): State<Api>,
    Name(id): Name,
    Params(params): Params<LimitParams>,
) -> Response {
    let filter = InstanceFilter { workload: Some(id), ..InstanceFilter::default() };
    if api.cluster().instances(&filter, None, 1).items.is_empty() {
        return StatusCode::NO_CONTENT.into_response();
    }
    array(params.limit, ("{\"instances\":[", "]}"), move |after, limit| {
        let page = api.cluster().instances(&filter, after, limit);
        let items = page.items.iter().map(|instance| text(&InstanceView::from(&**instance))).collect();
        Page { items, revision: page.revision, next: page.next }
    })
}

/// Instances of one workload.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct InstancesView {
    /// The instances.
    instances: Vec<InstanceView>,
}

/// The id of a new workload, and nothing else: a client in use takes no further key.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct CreatedWorkload {
    /// Id of the workload.
    id: String,
}

/// Defines a workload. Nothing is deployed by it.
#[utoipa::path(post, path = "/workloads.create", tag = "v0", operation_id = "v0_create_workload",
    request_body(content = model::Workload, description = "The definition; unknown keys are passed over."),
    responses((status = 200, description = "It is defined.", body = CreatedWorkload)))]
pub(super) async fn create(
    State(api): State<Api>,
    headers: HeaderMap,
    Whole(bytes): Whole,
) -> Result<Json<CreatedWorkload>, Refusal> {
    let key = idempotency(&headers, "v0/workloads.create", &bytes)?;
    let manifest = lenient_manifest(bytes).await?;
    let workload = api.cluster().create_workload(manifest, key).await?;
    Ok(Json(CreatedWorkload { id: workload.object.id.clone() }))
}

/// Deletes a workload and ends its instances.
#[utoipa::path(post, path = "/workloads.delete", tag = "v0", operation_id = "v0_delete_workload", request_body = IdBody,
    responses((status = 204, description = "It is deleted.")))]
pub(super) async fn delete(State(api): State<Api>, Whole(bytes): Whole) -> Result<StatusCode, Refusal> {
    let IdBody { id } = json(&bytes)?;
    api.cluster().delete_workload(&id, None).await?;
    Ok(StatusCode::NO_CONTENT)
}
