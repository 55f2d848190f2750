//! Configs and secrets: values that instances are given. Those of a secret never come back.

use axum::{
    Json,
    extract::State,
    response::{IntoResponse, Response},
};
use http::{HeaderMap, StatusCode, header};
use model::{
    Revision,
    api::{ObjectBody, ObjectView, Page, Versioned},
    given::ObjectKind,
};

use super::tagged;
use crate::http::{
    body::{IfMatch, JsonBody, Name, Params, idempotency},
    page::{PageParams, cursor, sealed, size},
    problem::{Code, Refusal},
    routes::Api,
};

/// A page of the configs, ordered by name and without values.
#[utoipa::path(get, path = "/configs", tag = "configs", params(PageParams),
    responses((status = 200, description = "The page.", body = Page<Versioned<ObjectView>>)))]
pub(super) async fn list_configs(
    State(api): State<Api>,
    Params(params): Params<PageParams>,
) -> Result<Response, Refusal> {
    list(&api, ObjectKind::Config, &params).await
}

/// Creates a config.
#[utoipa::path(post, path = "/configs", tag = "configs",
    params(("Idempotency-Key" = Option<String>, Header, description = "Names this attempt: sent again with the same key and body, the request creates nothing twice.")),
    request_body = ObjectBody,
    responses((status = 201, description = "It is there.", body = Versioned<ObjectView>,
        headers(("Location" = String, description = "Where it is."), ("ETag" = String, description = "Its revision.")))))]
pub(super) async fn create_config(
    State(api): State<Api>,
    headers: HeaderMap,
    body: JsonBody<ObjectBody>,
) -> Result<Response, Refusal> {
    let key = idempotency(&headers, "v1/configs", &body.bytes)?;
    let created = api.cluster().create_object(ObjectKind::Config, body.value, key).await?;
    let location = format!("/api/v1/configs/{}", created.object.name);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], tagged(&created)).into_response())
}

/// One config.
#[utoipa::path(get, path = "/configs/{name}", tag = "configs",
    params(("name" = String, Path, description = "Its name.")),
    responses((status = 200, description = "The config.", body = Versioned<ObjectView>,
        headers(("ETag" = String, description = "Its revision.")))))]
pub(super) async fn get_config(State(api): State<Api>, Name(name): Name) -> Result<Response, Refusal> {
    Ok(tagged(&api.cluster().object(ObjectKind::Config, &name).await?))
}

/// Creates a config, or replaces all of its values. Instances that were given the old ones keep them.
#[utoipa::path(put, path = "/configs/{name}", tag = "configs",
    params(
        ("name" = String, Path, description = "Its name."),
        ("If-Match" = Option<String>, Header, description = "ETag that it must still have."),
    ),
    request_body = ObjectBody,
    responses(
        (status = 200, description = "It was replaced.", body = Versioned<ObjectView>),
        (status = 201, description = "It is new.", body = Versioned<ObjectView>),
    ))]
pub(super) async fn replace_config(
    State(api): State<Api>,
    Name(name): Name,
    IfMatch(expected): IfMatch,
    body: JsonBody<ObjectBody>,
) -> Result<Response, Refusal> {
    replace(&api, ObjectKind::Config, name, (body.value, expected)).await
}

/// Deletes a config. Instances that were given it keep it until they end.
#[utoipa::path(delete, path = "/configs/{name}", tag = "configs",
    params(
        ("name" = String, Path, description = "Its name."),
        ("If-Match" = Option<String>, Header, description = "ETag that it must still have."),
    ),
    responses((status = 204, description = "It is deleted.")))]
pub(super) async fn delete_config(
    State(api): State<Api>,
    Name(name): Name,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Refusal> {
    api.cluster().delete_object(ObjectKind::Config, &name, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

/// A page of the secrets, ordered by name and without values.
#[utoipa::path(get, path = "/secrets", tag = "secrets", params(PageParams),
    responses((status = 200, description = "The page.", body = Page<Versioned<ObjectView>>)))]
pub(super) async fn list_secrets(
    State(api): State<Api>,
    Params(params): Params<PageParams>,
) -> Result<Response, Refusal> {
    list(&api, ObjectKind::Secret, &params).await
}

/// Creates a secret.
#[utoipa::path(post, path = "/secrets", tag = "secrets",
    params(("Idempotency-Key" = Option<String>, Header, description = "Names this attempt: sent again with the same key and body, the request creates nothing twice.")),
    request_body = ObjectBody,
    responses((status = 201, description = "It is there. Its values are not shown.", body = Versioned<ObjectView>,
        headers(("Location" = String, description = "Where it is."), ("ETag" = String, description = "Its revision.")))))]
pub(super) async fn create_secret(
    State(api): State<Api>,
    headers: HeaderMap,
    body: JsonBody<ObjectBody>,
) -> Result<Response, Refusal> {
    let key = idempotency(&headers, "v1/secrets", &body.bytes)?;
    let created = api.cluster().create_object(ObjectKind::Secret, body.value, key).await?;
    let location = format!("/api/v1/secrets/{}", created.object.name);
    Ok((StatusCode::CREATED, [(header::LOCATION, location)], tagged(&created)).into_response())
}

/// One secret. Its values are not shown.
#[utoipa::path(get, path = "/secrets/{name}", tag = "secrets",
    params(("name" = String, Path, description = "Its name.")),
    responses((status = 200, description = "The secret.", body = Versioned<ObjectView>,
        headers(("ETag" = String, description = "Its revision.")))))]
pub(super) async fn get_secret(State(api): State<Api>, Name(name): Name) -> Result<Response, Refusal> {
    Ok(tagged(&api.cluster().object(ObjectKind::Secret, &name).await?))
}

/// Creates a secret, or replaces all of its values. Instances that were given the old ones keep them.
#[utoipa::path(put, path = "/secrets/{name}", tag = "secrets",
    params(
        ("name" = String, Path, description = "Its name."),
        ("If-Match" = Option<String>, Header, description = "ETag that it must still have."),
    ),
    request_body = ObjectBody,
    responses(
        (status = 200, description = "It was replaced.", body = Versioned<ObjectView>),
        (status = 201, description = "It is new.", body = Versioned<ObjectView>),
    ))]
pub(super) async fn replace_secret(
    State(api): State<Api>,
    Name(name): Name,
    IfMatch(expected): IfMatch,
    body: JsonBody<ObjectBody>,
) -> Result<Response, Refusal> {
    replace(&api, ObjectKind::Secret, name, (body.value, expected)).await
}

/// Deletes a secret. Instances that were given it keep it until they end.
#[utoipa::path(delete, path = "/secrets/{name}", tag = "secrets",
    params(
        ("name" = String, Path, description = "Its name."),
        ("If-Match" = Option<String>, Header, description = "ETag that it must still have."),
    ),
    responses((status = 204, description = "It is deleted.")))]
pub(super) async fn delete_secret(
    State(api): State<Api>,
    Name(name): Name,
    IfMatch(expected): IfMatch,
) -> Result<StatusCode, Refusal> {
    api.cluster().delete_object(ObjectKind::Secret, &name, expected).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn list(api: &Api, kind: ObjectKind, params: &PageParams) -> Result<Response, Refusal> {
    let after = cursor(params.after.as_deref())?;
    let page = api.cluster().objects(kind, after.as_deref(), size(params.limit)?).await?;
    Ok(Json(sealed(page)).into_response())
}

async fn replace(
    api: &Api,
    kind: ObjectKind,
    name: String,
    (mut body, expected): (ObjectBody, Option<Revision>),
) -> Result<Response, Refusal> {
    if !body.name.is_empty() && body.name != name {
        let detail = format!("the body is about {:?}, the path about {name:?}", body.name);
        return Err(Refusal::new(Code::RequestInvalid, detail));
    }
    body.name = name;
    let (replaced, is_new) = api.cluster().replace_object(kind, body, expected).await?;
    let status = if is_new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((status, tagged(&replaced)).into_response())
}
