//! The API of this RIK: workloads, instances, nodes and events as resources, one file for each.
//!
//! *Guarantees*: a refusal is a problem document with a stable code; a list comes in pages that miss nothing; a watch
//! from a list's revision misses nothing either; a change can be tied to the revision that was seen (`If-Match`), and a
//! creation can be sent again (`Idempotency-Key`).

mod cluster;
mod docs_page;
mod documents;
mod events;
mod images;
mod instances;
mod logs;
mod metrics;
mod nodes;
mod objects;
mod sessions;
mod volumes;
mod watch;
mod workloads;

use axum::{
    Json,
    response::{IntoResponse, Response},
};
use http::{HeaderValue, header};
use model::{Revision, api::Versioned};
use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa_axum::{router::OpenApiRouter, routes};

pub(crate) use documents::{Documents, complete, description};

use super::routes::Api;

/// The routes below `/api/v1`.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(cluster::get_cluster))
        .routes(routes!(workloads::list_workloads, workloads::create_workload, workloads::apply_workload))
        .routes(routes!(workloads::get_workload, workloads::delete_workload))
        .routes(routes!(instances::list_instances, instances::create_instances))
        .routes(routes!(instances::get_instance, instances::delete_instance))
        .routes(routes!(logs::get_logs))
        .routes(routes!(sessions::exec))
        .routes(routes!(sessions::copy))
        .routes(routes!(sessions::connect_port))
        .routes(routes!(nodes::list_nodes))
        .routes(routes!(nodes::get_node, nodes::delete_node))
        .routes(routes!(objects::list_configs, objects::create_config))
        .routes(routes!(objects::get_config, objects::replace_config, objects::delete_config))
        .routes(routes!(objects::list_secrets, objects::create_secret))
        .routes(routes!(objects::get_secret, objects::replace_secret, objects::delete_secret))
        .routes(routes!(sessions::attach))
        .routes(routes!(images::list_images, images::load_image, images::remove_images))
        .routes(routes!(images::pull_image))
        .routes(routes!(images::save_image))
        .routes(routes!(logs::list_deleted))
        .routes(routes!(logs::get_deleted_logs))
        .routes(routes!(volumes::list_volumes))
        .routes(routes!(volumes::remove_volume))
        .routes(routes!(events::list_events))
        .routes(routes!(watch::watch))
        .routes(routes!(documents::get_schema))
        .routes(routes!(documents::get_openapi))
        .routes(routes!(documents::get_docs))
        .routes(routes!(documents::get_docs_style))
}

/// The routes outside of both APIs.
pub(crate) fn pages() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(documents::get_root))
        .routes(routes!(cluster::get_health))
        .routes(routes!(metrics::get_metrics))
}

/// One object with its `ETag`.
fn tagged<T: Serialize>(object: &Versioned<T>) -> Response {
    with_tag(Json(object), object.revision)
}

fn with_tag(body: impl IntoResponse, revision: Revision) -> Response {
    let mut response = body.into_response();
    if let Ok(tag) = HeaderValue::from_str(&format!("\"{revision}\"")) {
        response.headers_mut().insert(header::ETAG, tag);
    }
    response
}

/// A parameter that is on when it is there, unless it says `false`.
fn flag<'de, D: Deserializer<'de>>(source: D) -> Result<bool, D::Error> {
    match String::deserialize(source)?.as_str() {
        "" | "true" => Ok(true),
        "false" => Ok(false),
        other => Err(de::Error::custom(format_args!("{other:?} is neither true nor false"))),
    }
}
