//! The watch: every change from a revision on, as server-sent events.
//!
//! The stream reads the store's log at the client's pace and holds one stretch of it at most, so a slow client costs
//! nothing but its place; if it falls behind the log's end, it is told so and has to list again.
//!
//! *Guarantee*: no gap. The `id` of an event is given only with the last one of its revision, so that a client that
//! goes on from the last `id` may hear something twice, but misses nothing.

use std::time::Duration;

use axum::{
    Extension,
    body::Bytes,
    extract::State,
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use http::{HeaderMap, HeaderName, header};
use model::{Revision, api::WatchEvent};
use serde::Deserialize;
use tokio::time::{Instant, timeout_at};
use utoipa::{IntoParams, ToSchema};

use crate::{
    cluster::{Changes, Told},
    http::{
        body::{Params, header_text},
        connections::Client,
        problem::{Code, Refusal},
        relay,
        routes::Api,
    },
};

/// From where to watch, and what.
#[derive(Debug, Deserialize, IntoParams)]
#[serde(deny_unknown_fields)]
#[into_params(parameter_in = Query)]
pub(super) struct WatchParams {
    /// Revision after which changes are told; from now on without it.
    after: Option<u64>,
    /// Only changes of this sort of object.
    #[param(inline)]
    object: Option<Sort>,
}

/// Sorts of object.
#[derive(Clone, Copy, Debug, Deserialize, ToSchema)]
#[serde(rename_all = "lowercase")]
enum Sort {
    /// Workloads.
    Workload,
    /// Instances.
    Instance,
    /// Nodes.
    Node,
}

impl Sort {
    const fn name(self) -> &'static str {
        match self {
            Self::Workload => "workload",
            Self::Instance => "instance",
            Self::Node => "node",
        }
    }
}

/// Name of the header field by which a browser goes on where it was.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

/// Changes as they happen. Each event's `data` is a change as JSON; an event named `error` carries a problem and is the
/// last one.
#[utoipa::path(get, path = "/watch", tag = "events",
    params(WatchParams, ("Last-Event-ID" = Option<String>, Header, description = "Goes before `after`: the last `id` that was received.")),
    responses((status = 200, description = "The changes.", body = WatchEvent, content_type = "text/event-stream")))]
pub(super) async fn watch(
    State(api): State<Api>,
    Extension(client): Extension<Client>,
    headers: HeaderMap,
    Params(params): Params<WatchParams>,
) -> Result<Response, Refusal> {
    let last = header_text(&headers, &LAST_EVENT_ID)?.filter(|last| !last.is_empty());
    let last = last.map(|last| {
        let invalid = |_| {
            Refusal::new(Code::ParameterInvalid, format!("Last-Event-ID is {last:?}; allowed is a revision"))
        };
        last.parse::<u64>().map_err(invalid)
    });
    let after = match last.transpose()?.or(params.after) {
        Some(after) => Revision(after),
        None => api.cluster().overview().revision,
    };
    let ticket = api.admit_stream(client)?;
    let changes = api.cluster().watch(after).await?;
    let teller = Teller {
        changes,
        sort: params.object,
        reached: after,
        keep_alive: api.limits().keep_alive,
        due: Instant::now() + api.limits().keep_alive,
    };
    let told = stream::unfold(Some(teller), |teller| async move {
        let mut teller = teller?;
        Some(match teller.next().await {
            Ok(text) => (text, Some(teller)),
            Err(last_words) => (last_words, None),
        })
    });
    let hello = stream::iter([": watching\n\n".to_owned()]);
    let texts = hello.chain(told).map(|text| Ok::<_, std::convert::Infallible>(Bytes::from(text)));
    let body = relay::held(texts, ticket, api.shutdown().clone());
    Ok(([(header::CONTENT_TYPE, "text/event-stream")], body).into_response())
}

struct Teller {
    changes: Changes,
    sort: Option<Sort>,
    /// Everything up to here has been told.
    reached: Revision,
    keep_alive: Duration,
    due: Instant,
}

impl Teller {
    /// The next text of the stream, or its last one.
    async fn next(&mut self) -> Result<String, String> {
        loop {
            let Ok(changes) = timeout_at(self.due, self.changes.next()).await else {
                self.due = Instant::now() + self.keep_alive;
                // With its `id`, so that a client whose sort of object never changes does not fall behind the log.
                return Ok(format!(": still here\nid: {}\n\n", self.reached));
            };
            let changes = changes.map_err(|error| last_words(&Refusal::from(error)))?;
            self.reached = changes.last().map_or(self.reached, |change| change.revision);
            let told = changes.iter().filter_map(Told::of).filter(|change| self.is_wanted(change));
            let text = text(told);
            if !text.is_empty() {
                self.due = Instant::now() + self.keep_alive;
                return Ok(text);
            }
        }
    }

    fn is_wanted(&self, change: &Told<'_>) -> bool {
        self.sort.is_none_or(|sort| sort.name() == change.object)
    }
}

/// The events of some changes, each revision with its `id` at its last one.
fn text<'a>(told: impl Iterator<Item = Told<'a>>) -> String {
    let mut text = String::new();
    let mut told = told.peekable();
    while let Some(change) = told.next() {
        if told.peek().is_none_or(|next| next.revision != change.revision) {
            text.push_str(&format!("id: {}\n", change.revision));
        }
        text.push_str("data: ");
        text.push_str(&serde_json::to_string(&change).unwrap_or_default());
        text.push_str("\n\n");
    }
    text
}

fn last_words(refusal: &Refusal) -> String {
    let problem = serde_json::to_string(&refusal.problem(None)).unwrap_or_default();
    format!("event: error\ndata: {problem}\n\n")
}
