//! Events: the history of the cluster, newest first.

use axum::{Json, extract::State};
use model::api::{Event, Page};
use serde::Deserialize;
use utoipa::IntoParams;

use crate::{
    cluster::ClusterError,
    http::{
        body::Params,
        page::size,
        problem::{Code, Refusal},
        routes::Api,
    },
};

/// Which events.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct EventParams {
    /// Most events of the page: 1 to 1000; 500 without it.
    #[param(minimum = 1, maximum = 1000, default = 500)]
    limit: Option<u32>,
    /// Only events before this revision, or before this continuation.
    before: Option<String>,
    /// The `continue` of the page before; the same as `before`.
    #[serde(rename = "continue")]
    after: Option<String>,
}

/// A page of the events, newest first. The history is bounded: old events go.
#[utoipa::path(get, path = "/events", tag = "events", params(EventParams),
    responses((status = 200, description = "The page.", body = Page<Event>)))]
pub(super) async fn list_events(
    State(api): State<Api>,
    Params(params): Params<EventParams>,
) -> Result<Json<Page<Event>>, Refusal> {
    let limit = size(params.limit)?;
    let before = match (params.before, params.after) {
        (Some(_), Some(_)) => {
            return Err(Refusal::new(
                Code::ParameterInvalid,
                "before and continue mean the same; give one of them",
            ));
        }
        (one, other) => one.or(other),
    };
    // A revision alone stands for its first change.
    let before =
        before.map(|before| if before.parse::<u64>().is_ok() { format!("{before}.0") } else { before });
    match api.cluster().events(before.as_deref(), limit).await {
        Ok(page) => Ok(Json(page)),
        Err(ClusterError::InvalidRequest { detail }) => Err(Refusal::new(Code::ParameterInvalid, detail)),
        Err(error) => Err(error.into()),
    }
}
