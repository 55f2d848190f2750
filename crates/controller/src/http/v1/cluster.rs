//! The cluster itself, and whether its controller is well.

use axum::{Json, extract::State};
use model::api::ClusterView;
use serde::Serialize;
use utoipa::ToSchema;

use crate::http::routes::Api;

/// What the cluster is and how it fares.
#[utoipa::path(get, path = "/cluster", tag = "cluster",
    responses((status = 200, description = "The cluster.", body = ClusterView)))]
pub(super) async fn get_cluster(State(api): State<Api>) -> Json<ClusterView> {
    Json(api.cluster().overview())
}

/// Whether the controller is well.
#[derive(Debug, Serialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct Health {
    /// Always `ok`: a controller that is not does not answer.
    status: &'static str,
    /// Whether the scheduler is connected; without it, everything works but placing and asking nodes.
    scheduler_connected: bool,
}

/// Whether the controller is well.
#[utoipa::path(get, path = "/health", tag = "cluster",
    responses((status = 200, description = "It is.", body = Health)))]
pub(super) async fn get_health(State(api): State<Api>) -> Json<Health> {
    Json(Health { status: "ok", scheduler_connected: api.cluster().overview().scheduler_connected })
}
