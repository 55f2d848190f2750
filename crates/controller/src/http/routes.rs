//! Every route, and what all handlers share.
//!
//! Routes and the OpenAPI document come from the same list, so nothing is served that is not described.

use std::sync::{Arc, OnceLock};

use axum::Router;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;
use utoipa_axum::router::OpenApiRouter;

use super::{
    answer,
    connections::{Client, StreamTicket, Streams},
    limits::Limits,
    problem::{Code, Refusal},
    v0, v1,
};
use crate::Cluster;

/// What handlers share.
#[derive(Clone)]
pub(crate) struct Api(Arc<Shared>);

struct Shared {
    cluster: Cluster,
    limits: Limits,
    streams: Arc<Streams>,
    uploads: Arc<Semaphore>,
    shutdown: CancellationToken,
    documents: OnceLock<v1::Documents>,
}

impl Api {
    /// The cluster.
    pub(crate) fn cluster(&self) -> &Cluster {
        &self.0.cluster
    }

    /// The bounds.
    pub(crate) fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Ends when the server does; streams end with it.
    pub(crate) fn shutdown(&self) -> &CancellationToken {
        &self.0.shutdown
    }

    /// The OpenAPI document and its page. Made when somebody asks for the first time: most controllers are never asked.
    pub(crate) fn documents(&self) -> &v1::Documents {
        self.0.documents.get_or_init(|| {
            let (_, openapi) = list().split_for_parts();
            v1::Documents::new(&v1::complete(openapi))
        })
    }

    /// Room for a watch or log stream.
    pub(crate) fn admit_stream(&self, client: Client) -> Result<StreamTicket, Refusal> {
        self.0.streams.admit(client).map_err(|most| {
            Refusal::new(
                Code::TooMany,
                format!("{most} watches and logs are open already, and more are not allowed"),
            )
            .hint("close one, or try again later")
        })
    }

    /// Room for an image on its way to a node.
    pub(crate) fn admit_upload(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        Arc::clone(&self.0.uploads).try_acquire_owned().map_err(|_| {
            let most = self.0.limits.uploads;
            Refusal::new(Code::TooMany, format!("{most} images are on their way to nodes already"))
                .hint("try again later")
        })
    }
}

/// The routes of a cluster's API.
pub(crate) fn build(cluster: Cluster, limits: Limits, shutdown: CancellationToken) -> Router {
    let (router, _) = list().split_for_parts();
    let shared = Shared {
        cluster,
        streams: Streams::new(&limits),
        uploads: Arc::new(Semaphore::new(limits.uploads)),
        limits,
        shutdown,
        documents: OnceLock::new(),
    };
    let router = router.fallback(answer::not_found).method_not_allowed_fallback(answer::method_not_allowed);
    router.with_state(Api(Arc::new(shared)))
}

/// The one list: every route with what describes it.
fn list() -> OpenApiRouter<Api> {
    OpenApiRouter::with_openapi(v1::description())
        .merge(v1::pages())
        .nest("/api/v0", v0::routes())
        .nest("/api/v1", v1::routes())
}
