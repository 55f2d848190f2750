//! `tenants.*` of v0: values that are kept for clients and mean nothing to RIK.
//!
//! The store holds `{"name","value"}`; a row of another form (imported from RIK 2023) is a value without a name.

use axum::{Json, extract::State};
use http::StatusCode;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use utoipa::ToSchema;

use super::{IdBody, view::TenantElement};
use crate::http::{
    body::{Whole, json as read_json},
    problem::{Code, Refusal},
    routes::Api,
};

/// A tenant as clients send it.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub(super) struct TenantBody {
    /// An id, which is replaced by a new one.
    id: String,
    /// Its name, such as `/tenant/acme`.
    name: String,
    /// Its value, as JSON text.
    value: String,
}

/// Every tenant.
#[utoipa::path(get, path = "/tenants.list", tag = "v0", operation_id = "v0_list_tenants",
    responses((status = 200, description = "The tenants.", body = Vec<TenantElement>)))]
pub(super) async fn list(State(api): State<Api>) -> Result<Json<Vec<TenantElement>>, Refusal> {
    let tenants = api.cluster().tenants().await?;
    let elements = tenants.into_iter().map(|tenant| {
        let named = tenant.value.get("name").and_then(Value::as_str).zip(tenant.value.get("value"));
        match named.map(|(name, value)| (last_segment(name), value.clone())) {
            Some((name, value)) => TenantElement { id: tenant.id, name, value },
            None => TenantElement { name: tenant.id.clone(), id: tenant.id, value: tenant.value },
        }
    });
    Ok(Json(elements.collect()))
}

fn last_segment(name: &str) -> String {
    name.rsplit('/').next().unwrap_or(name).to_owned()
}

/// Keeps a tenant. The answer is what was sent.
#[utoipa::path(post, path = "/tenants.create", tag = "v0", operation_id = "v0_create_tenant", request_body = TenantBody,
    responses((status = 200, description = "It is kept.", body = TenantBody)))]
pub(super) async fn create(State(api): State<Api>, Whole(bytes): Whole) -> Result<Json<TenantBody>, Refusal> {
    let tenant: TenantBody = read_json(&bytes)?;
    let value: Value = serde_json::from_str(&tenant.value).map_err(|error| {
        Refusal::new(Code::BodyInvalid, format!("value is not the text of a JSON value: {error}"))
    })?;
    api.cluster().create_tenant(&json!({ "name": tenant.name, "value": value })).await?;
    Ok(Json(tenant))
}

/// Forgets a tenant.
#[utoipa::path(post, path = "/tenants.delete", tag = "v0", operation_id = "v0_delete_tenant", request_body = IdBody,
    responses((status = 204, description = "It is forgotten.")))]
pub(super) async fn delete(State(api): State<Api>, Whole(bytes): Whole) -> Result<StatusCode, Refusal> {
    let IdBody { id } = read_json(&bytes)?;
    api.cluster().delete_tenant(&id).await?;
    Ok(StatusCode::NO_CONTENT)
}
