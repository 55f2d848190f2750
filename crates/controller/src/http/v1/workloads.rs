//! Workloads: definitions of what can be run.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use model::{
    WorkloadRecord,
    api::{Applied, ApplyResult, Page, Versioned},
};

use super::tagged;
use crate::{
    cluster::ClusterError,
    http::{
        body::{IfMatch, ManifestBody, Name, Params, idempotency},
        page::{PageParams, cursor, sealed, size},
        problem::Refusal,
        routes::Api,
    },
};

/// A page of the workloads, ordered by kind and name.
#[utoipa::path(get, path = "/workloads", tag = "workloads", params(PageParams),
    responses((status = 200, description = "The page.", body = Page<Versioned<WorkloadRecord>>)))]
pub(super) async fn list_workloads(
    State(api): State<Api>,
    Params(params): Params<PageParams>,
) -> Result<Response, Refusal> {
    let after = cursor(params.after.as_deref())?;
    let page = api.cluster().workloads(after.as_deref(), size(params.limit)?);
    let items: Vec<&Versioned<WorkloadRecord>> = page.items.iter().map(|workload| &**workload).collect();
    Ok(Json(sealed(Page { items, revision: page.revision, next: page.next })).into_response())
}

/// Defines a workload. Nothing is deployed by it.
#[utoipa::path(post, path = "/workloads", tag = "workloads",
    params(("Idempotency-Key" = Option<String>, Header, description = "Names this attempt: sent again with the same key and body, the request creates nothing twice.")),
    request_body(content(
        (model::Workload = "application/json"),
        (model::Workload = "application/yaml"),
    ), description = "The manifest; unknown keys are refused."),
    responses((status = 201, description = "It is defined.", body = Versioned<WorkloadRecord>,
        headers(("Location" = String, description = "Where it is."), ("ETag" = String, description = "Its revision.")))))]
pub(super) async fn create_workload(
    State(api): State<Api>,
    headers: HeaderMap,
    body: ManifestBody,
) -> Result<Response, Refusal> {
    let key = idempotency(&headers, "v1/workloads", &body.bytes)?;
    let workload = api.cluster().create_workload(body.manifest, key).await?;
    let location = format!("/api/v1/workloads/{}", workload.object.manifest.name);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], tagged(&*workload)).into_response())
}

/// Defines a workload, or changes the one of the same kind and name. Running instances keep what they run.
#[utoipa::path(put, path = "/workloads", tag = "workloads",
    params(("If-Match" = Option<String>, Header, description = "ETag that the workload must still have.")),
    request_body(content(
        (model::Workload = "application/json"),
        (model::Workload = "application/yaml"),
    ), description = "The manifest; unknown keys are refused."),
    responses(
        (status = 200, description = "It was changed, or was already so.", body = ApplyResult),
        (status = 201, description = "It is new.", body = ApplyResult),
    ))]
pub(super) async fn apply_workload(
    State(api): State<Api>,
    IfMatch(expected): IfMatch,
    body: ManifestBody,
) -> Result<(StatusCode, Json<ApplyResult>), Refusal> {
    let applied = api.cluster().apply_workload(body.manifest, expected).await?;
    let status = if applied.result == Applied::Created { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, Json(applied)))
}

/// One workload.
#[utoipa::path(get, path = "/workloads/{name}", tag = "workloads",
    params(("name" = String, Path, description = "Name or id of the workload.")),
    responses((status = 200, description = "The workload.", body = Versioned<WorkloadRecord>,
        headers(("ETag" = String, description = "Its revision.")))))]
pub(super) async fn get_workload(State(api): State<Api>, Name(name): Name) -> Result<Response, Refusal> {
    let workload = api.cluster().workload(&name).ok_or(ClusterError::WorkloadNotFound { name })?;
    Ok(tagged(&*workload))
}

/// Deletes a workload and ends its instances.
#[utoipa::path(delete, path = "/workloads/{name}", tag = "workloads",
    params(
        ("name" = String, Path, description = "Name or id of the workload."),
        ("If-Match" = Option<String>, Header, description = "ETag that the workload must still have."),
    ),
    responses((status = 204, description = "It is deleted; its instances are ending.")))]
pub(super) async fn delete_workload(
    State(api): State<Api>,
    Name(name): Name,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Refusal> {
    api.cluster().delete_workload(&name, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}
