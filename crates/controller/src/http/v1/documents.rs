//! What describes the API: the schema of manifests, the OpenAPI document, and a page to read it.

use axum::{
    body::Bytes,
    extract::State,
    response::{IntoResponse, Redirect, Response},
};
use http::header;
use model::api::Problem;
use serde_json::{Value, json};
use utoipa::{
    OpenApi as _,
    openapi::{
        ContentBuilder, HttpMethod, OpenApi, Ref, RefOr, ResponseBuilder,
        path::{Operation, PathItem},
    },
};

use super::docs_page;
use crate::http::routes::Api;

/// Where the OpenAPI document's page is.
const DOCS: &str = "/api/v1/docs";

/// The documents, made once.
pub(crate) struct Documents {
    schema: Bytes,
    openapi: Bytes,
    page: Bytes,
}

impl Documents {
    /// The documents of the API that `openapi` describes.
    pub(crate) fn new(openapi: &OpenApi) -> Self {
        let mut value = serde_json::to_value(openapi).unwrap_or(Value::Null);
        link(&mut value["components"]["schemas"]);
        Self {
            schema: pretty(&model::manifest::schema::document()),
            openapi: pretty(&value),
            page: docs_page::render(&value).into(),
        }
    }
}

/// Makes generic schemas refer to what they are made of, which the generator writes out in each of them.
fn link(schemas: &mut Value) {
    let Value::Object(schemas) = schemas else { return };
    let names: Vec<String> = schemas.keys().cloned().collect();
    for name in &names {
        let Some((wrapper, inner)) = name.split_once('_') else { continue };
        let place = match wrapper {
            "Page" => "/properties/items/items",
            "Versioned" => "/allOf/0",
            _ => continue,
        };
        if names.iter().any(|name| name == inner)
            && let Some(copy) = schemas.get_mut(name).and_then(|schema| schema.pointer_mut(place))
        {
            *copy = json!({ "$ref": format!("#/components/schemas/{inner}") });
        }
    }
}

fn pretty(value: &Value) -> Bytes {
    serde_json::to_string_pretty(value).unwrap_or_default().into()
}

/// What the document says before any route.
#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "RIK",
        description = "The controller of a RIK cluster. Every refusal of v1 is a problem document (RFC 9457) with a stable `code`; every answer has an `X-Request-Id`, which the controller's log has too.",
    ),
    servers((url = "/", description = "This controller")),
    components(schemas(Problem)),
    tags(
        (name = "cluster", description = "The cluster as a whole."),
        (name = "workloads", description = "Definitions of what can be run. Defining one deploys nothing."),
        (name = "instances", description = "Single running copies of workloads."),
        (name = "configs", description = "Values that instances are given as variables or files."),
        (name = "secrets", description = "The same, for values that are never shown again."),
        (name = "nodes", description = "The machines that instances run on."),
        (name = "events", description = "What happened, and what happens."),
        (name = "documents", description = "What describes this API."),
        (name = "v0", description = "The API of RIK 2023, for its clients. Its errors are plain text."),
    ),
)]
struct Description;

/// The document without its routes.
pub(crate) fn description() -> OpenApi {
    Description::openapi()
}

/// The document with what all routes have in common: how they refuse.
pub(crate) fn complete(mut openapi: OpenApi) -> OpenApi {
    for (path, item) in &mut openapi.paths.paths {
        for (_, operation) in operations(item) {
            let refusal = ResponseBuilder::new().description("It was refused, or failed.");
            let (kind, schema) = if path.starts_with("/api/v0/") {
                ("text/plain", RefOr::T(utoipa::schema!(String).into()))
            } else {
                ("application/problem+json", RefOr::Ref(Ref::from_schema_name("Problem")))
            };
            let content = ContentBuilder::new().schema(Some(schema)).build();
            let refusal = refusal.content(kind, content).build();
            operation.responses.responses.insert("default".to_owned(), RefOr::T(refusal));
        }
    }
    openapi
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (HttpMethod, &mut Operation)> {
    let PathItem { get, put, post, delete, .. } = item;
    let all = [
        (HttpMethod::Get, get),
        (HttpMethod::Put, put),
        (HttpMethod::Post, post),
        (HttpMethod::Delete, delete),
    ];
    all.into_iter().filter_map(|(method, operation)| Some((method, operation.as_mut()?)))
}

/// The JSON Schema of manifests.
#[utoipa::path(get, path = "/schema/workload-v1.json", tag = "documents",
    responses((status = 200, description = "The schema (draft 2020-12).", body = Value, content_type = "application/schema+json")))]
pub(super) async fn get_schema(State(api): State<Api>) -> Response {
    ([(header::CONTENT_TYPE, "application/schema+json")], api.documents().schema.clone()).into_response()
}

/// The OpenAPI document.
#[utoipa::path(get, path = "/openapi.json", tag = "documents",
    responses((status = 200, description = "The document.", body = Value)))]
pub(super) async fn get_openapi(State(api): State<Api>) -> Response {
    ([(header::CONTENT_TYPE, "application/json")], api.documents().openapi.clone()).into_response()
}

/// The OpenAPI document as a page to read.
#[utoipa::path(get, path = "/docs", tag = "documents",
    responses((status = 200, description = "The page.", body = String, content_type = "text/html")))]
pub(super) async fn get_docs(State(api): State<Api>) -> Response {
    ([(header::CONTENT_TYPE, "text/html; charset=utf-8")], api.documents().page.clone()).into_response()
}

/// The style of that page.
#[utoipa::path(get, path = "/docs.css", tag = "documents",
    responses((status = 200, description = "The style sheet.", body = String, content_type = "text/css")))]
pub(super) async fn get_docs_style() -> Response {
    ([(header::CONTENT_TYPE, "text/css; charset=utf-8")], docs_page::STYLE).into_response()
}

/// Leads to the page.
#[utoipa::path(get, path = "/", tag = "documents", responses((status = 303, description = "It is elsewhere.")))]
pub(super) async fn get_root() -> Redirect {
    Redirect::to(DOCS)
}
