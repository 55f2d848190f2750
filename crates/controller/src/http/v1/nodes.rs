//! Nodes: the machines that instances run on.

use axum::{Json, extract::State, response::Response};
use http::StatusCode;
use model::api::{NodeView, Page};

use super::with_tag;
use crate::{
    cluster::ClusterError,
    http::{
        body::{Name, Params},
        page::{PageParams, cursor, sealed, size},
        problem::Refusal,
        routes::Api,
    },
};

/// A page of the nodes, ordered by name.
#[utoipa::path(get, path = "/nodes", tag = "nodes", params(PageParams),
    responses((status = 200, description = "The page.", body = Page<NodeView>)))]
pub(super) async fn list_nodes(
    State(api): State<Api>,
    Params(params): Params<PageParams>,
) -> Result<Json<Page<NodeView>>, Refusal> {
    let after = cursor(params.after.as_deref())?;
    let limit = size(params.limit)?;
    let all = api.cluster().nodes();
    let mut items = all.items;
    items.retain(|view| after.as_ref().is_none_or(|after| view.node.name > *after));
    let more = items.len() > limit;
    items.truncate(limit);
    let next = items.last().filter(|_| more).map(|last| last.node.name.clone());
    Ok(Json(sealed(Page { items, revision: all.revision, next })))
}

/// One node.
#[utoipa::path(get, path = "/nodes/{name}", tag = "nodes",
    params(("name" = String, Path, description = "Name of the node.")),
    responses((status = 200, description = "The node.", body = NodeView,
        headers(("ETag" = String, description = "Revision of its record.")))))]
pub(super) async fn get_node(State(api): State<Api>, Name(name): Name) -> Result<Response, Refusal> {
    let revision = api.cluster().mirror().read().nodes.get(&name).map(|node| node.revision);
    let found = revision.zip(api.cluster().node(&name));
    let (revision, node) = found.ok_or(ClusterError::NodeNotFound { name })?;
    Ok(with_tag(Json(node), revision))
}

/// Removes a node that does not take part any more.
#[utoipa::path(delete, path = "/nodes/{name}", tag = "nodes",
    params(("name" = String, Path, description = "Name of the node.")),
    responses((status = 204, description = "It is removed; what ran there is recorded as failed.")))]
pub(super) async fn delete_node(State(api): State<Api>, Name(name): Name) -> Result<StatusCode, Refusal> {
    api.cluster().delete_node(&name).await?;
    Ok(StatusCode::NO_CONTENT)
}
