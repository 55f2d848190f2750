//! The API of RIK 2023, as its clients rely on it.
//!
//! *Guarantees*: the paths, codes and shapes that those clients decode: bare arrays of elements, keys in alphabetical
//! order, `{"id"}` alone for a new workload, 201 with ids for instances, 204 for deletions, errors as plain text, the
//! closed set of statuses. What RIK knows beyond that stands in keys beside the old ones, which they ignore.

mod instances;
mod list;
mod tenants;
mod view;
mod workloads;

use serde::Deserialize;
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::{router::OpenApiRouter, routes};

use super::routes::Api;

/// The routes below `/api/v0`.
pub(crate) fn routes() -> OpenApiRouter<Api> {
    OpenApiRouter::new()
        .routes(routes!(workloads::list))
        .routes(routes!(workloads::instances))
        .routes(routes!(workloads::create))
        .routes(routes!(workloads::delete))
        .routes(routes!(instances::list))
        .routes(routes!(instances::create))
        .routes(routes!(instances::delete))
        .routes(routes!(tenants::list))
        .routes(routes!(tenants::create))
        .routes(routes!(tenants::delete))
}

/// Body that names one object.
#[derive(Debug, Deserialize, ToSchema)]
struct IdBody {
    /// Its id.
    id: String,
}

/// How much of a list.
#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct LimitParams {
    /// Most objects of the list; all without it.
    limit: Option<usize>,
}
