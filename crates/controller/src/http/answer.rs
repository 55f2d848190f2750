//! From a request to its answer: what happens around every route.
//!
//! ```text
//!  id ▶ gate ▶ room? ▶ route (a panic ends here) ▶ refusal written out ▶ headers ▶ log
//! ```
//! A request that may change something runs in a task of its own, so that it is done or not done, but never cut off in
//! the middle because its client went away.

use std::{panic::AssertUnwindSafe, sync::Arc, time::Instant};

use axum::{Router, body::Body, extract::Request, response::Response};
use futures::FutureExt;
use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;

use super::{
    connections::Client,
    gate,
    place::Place,
    problem::{Code, Refusal},
};

/// Header with the id of a request.
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
/// Longest id of a client's own.
const MAX_REQUEST_ID: usize = 64;
/// What pages of ours may load: their own style sheet, and nothing else.
const CONTENT_POLICY: HeaderValue = HeaderValue::from_static(
    "default-src 'none'; style-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
);

/// Everything around the routes.
#[derive(Debug)]
pub(crate) struct Answerer {
    router: Router,
    /// Names of this server in `Host`, besides its addresses and `localhost`.
    names: Vec<String>,
    room: Arc<Semaphore>,
    /// Changes that are under way.
    changes: TaskTracker,
}

impl Answerer {
    pub(crate) fn new(router: Router, names: Vec<String>, in_flight: usize) -> Self {
        Self { router, names, room: Arc::new(Semaphore::new(in_flight)), changes: TaskTracker::new() }
    }

    /// Waits until no change is under way. Call it when no more requests come.
    pub(crate) async fn drained(&self) {
        self.changes.close();
        self.changes.wait().await;
    }

    /// Answers a request.
    pub(crate) async fn answer(&self, client: Client, mut request: Request) -> Response {
        let started = Instant::now();
        let id = request_id(&request);
        let (method, path) = (request.method().clone(), request.uri().path().to_owned());
        request.extensions_mut().insert(client);
        let response = match self.route(request).await {
            Ok(response) => response,
            Err(refusal) => axum::response::IntoResponse::into_response(refusal),
        };
        let response = finish(response, &path, &id);
        let status = response.status().as_u16();
        tracing::debug!(request.id = id, %method, path, status, elapsed = ?started.elapsed(), "answered");
        response
    }

    async fn route(&self, request: Request) -> Result<Response, Refusal> {
        let (mut head, body) = request.into_parts();
        gate::check(&head, &self.names)?;
        if let Some(uri) = gate::normal(&head.uri) {
            head.uri = uri;
        }
        let place = Place::take(&self.room, head.extensions.get().cloned())?;
        head.extensions.insert(place.clone());
        let mutating = gate::is_mutating(&head.method);
        let routed = self.router.clone().oneshot(Request::from_parts(head, body));
        let routed = AssertUnwindSafe(routed).catch_unwind().map(move |result| {
            place.leave();
            match result {
                Ok(Ok(response)) => Ok(response),
                Ok(Err(never)) => match never {},
                Err(panic) => Err(defect(&*panic)),
            }
        });
        if mutating {
            self.changes.spawn(routed).await.unwrap_or_else(|error| Err(defect(&error.to_string())))
        } else {
            routed.await
        }
    }
}

/// The refusal for a panic of ours. It costs one request and nothing else.
fn defect(panic: &(dyn std::any::Any + Send)) -> Refusal {
    let text =
        panic.downcast_ref::<String>().map(String::as_str).or_else(|| panic.downcast_ref::<&str>().copied());
    let said = text.unwrap_or("no message");
    tracing::error!(panic = said, "a request met a defect of the controller");
    Refusal::new(
        Code::Internal,
        "the controller met a defect of its own; its log has more under the id of this request",
    )
    .hint("please report it")
}

/// The client's own id, if it is one that may stand in a log; else a new one.
fn request_id(request: &Request) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
    let given = request.headers().get(REQUEST_ID).and_then(|id| id.to_str().ok());
    let usable = given.filter(|id| (1..=MAX_REQUEST_ID).contains(&id.len()) && id.bytes().all(plain));
    usable.map_or_else(|| uuid::Uuid::new_v4().to_string(), ToOwned::to_owned)
}

/// Writes a refusal out and adds the headers that every answer has.
fn finish(mut response: Response, path: &str, id: &str) -> Response {
    if let Some(refusal) = response.extensions_mut().remove::<Refusal>() {
        if refusal.code().status().is_server_error() {
            let (code, detail) = (refusal.code().text(), refusal.detail());
            tracing::warn!(request.id = id, path, code, detail, "a request could not be carried out");
        }
        write_refusal(&mut response, &refusal, path, id);
    }
    let headers = response.headers_mut();
    if let Ok(id) = HeaderValue::from_str(id) {
        headers.insert(REQUEST_ID, id);
    }
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert("cross-origin-resource-policy", HeaderValue::from_static("same-origin"));
    headers.entry(header::CACHE_CONTROL).or_insert(HeaderValue::from_static("no-store"));
    let is_page =
        headers.get(header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"text/html"));
    if is_page {
        headers.insert(header::CONTENT_SECURITY_POLICY, CONTENT_POLICY);
        headers.insert(header::X_FRAME_OPTIONS, HeaderValue::from_static("DENY"));
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    }
    response
}

fn write_refusal(response: &mut Response, refusal: &Refusal, path: &str, id: &str) {
    let is_v0 = path == "/api/v0" || path.starts_with("/api/v0/");
    let status = refusal.code().status();
    let (kind, body) = if is_v0 && matches!(refusal.code(), Code::RouteNotFound | Code::MethodNotAllowed) {
        (None, String::new())
    } else if is_v0 {
        (Some("text/plain; charset=UTF-8"), refusal.text())
    } else {
        let problem = serde_json::to_string(&refusal.problem(Some(id))).unwrap_or_default();
        (Some("application/problem+json"), problem)
    };
    if let Some(kind) = kind {
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    } else {
        response.headers_mut().remove(header::CONTENT_TYPE);
    }
    if matches!(status, StatusCode::SERVICE_UNAVAILABLE | StatusCode::TOO_MANY_REQUESTS) {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    // The router has counted the empty body that stood here before.
    response.headers_mut().remove(header::CONTENT_LENGTH);
    *response.body_mut() = Body::from(body);
}

/// The answer where no route is.
pub(crate) async fn not_found(request: Request) -> Refusal {
    Refusal::new(Code::RouteNotFound, format!("there is nothing at {:?}", request.uri().path()))
        .hint("/api/v1/docs lists every path")
}

/// The answer where a route is, but not for this method.
pub(crate) async fn method_not_allowed(method: Method) -> Refusal {
    Refusal::new(Code::MethodNotAllowed, format!("this path does not know {method}"))
        .hint("/api/v1/docs lists every path and its methods")
}

#[cfg(test)]
mod tests {
    use axum::routing::{get, post};

    use super::*;

    async fn ask(answerer: &Answerer, method: &str, path: &str) -> Response {
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("host", "localhost")
            .header("x-request-id", "r1");
        let client = std::net::IpAddr::from([127, 0, 0, 1]).into();
        answerer.answer(client, request.body(Body::empty()).unwrap()).await
    }

    async fn text(response: Response) -> String {
        let bytes = axum::body::to_bytes(response.into_body(), 1 << 20).await.unwrap();
        String::from_utf8(bytes.to_vec()).unwrap()
    }

    fn panicking() -> Answerer {
        async fn explode() -> &'static str {
            panic!("as asked")
        }
        let router = Router::new()
            .route("/a", get(explode))
            .route("/b", post(explode))
            .route("/c", get(|| async { "fine" }));
        Answerer::new(router, Vec::new(), 1)
    }

    #[tokio::test]
    async fn c05_a_panic_costs_one_request_and_nothing_else() {
        let answerer = panicking();
        for _ in 0..3 {
            let response = ask(&answerer, "GET", "/a").await;
            assert_eq!(
                (response.status(), response.headers()["x-request-id"].as_bytes()),
                (StatusCode::INTERNAL_SERVER_ERROR, &b"r1"[..])
            );
            let said = text(response).await;
            assert!(said.contains(r#""code":"internal""#) && said.contains(r#""request":"r1""#), "{said}");
            assert!(!said.contains("as asked"), "what panics say is not for clients: {said}");
            assert_eq!(ask(&answerer, "POST", "/b").await.status(), StatusCode::INTERNAL_SERVER_ERROR);
        }
        assert_eq!(text(ask(&answerer, "GET", "/c").await).await, "fine");
    }

    #[tokio::test]
    async fn requests_beyond_the_room_are_turned_away_and_the_next_ones_are_not() {
        let (sender, receiver) = tokio::sync::watch::channel(false);
        let wait = move || {
            let mut receiver = receiver.clone();
            async move { receiver.wait_for(|open| *open).await.map(|_| "done").unwrap_or("closed") }
        };
        let answerer = Answerer::new(Router::new().route("/", get(wait)), Vec::new(), 1);
        let (first, second) = tokio::join!(ask(&answerer, "GET", "/"), async {
            let second = ask(&answerer, "GET", "/").await;
            sender.send_replace(true);
            second
        });
        assert_eq!((first.status(), second.status()), (StatusCode::OK, StatusCode::SERVICE_UNAVAILABLE));
        assert_eq!(second.headers()["retry-after"], "1");
        assert_eq!(ask(&answerer, "GET", "/").await.status(), StatusCode::OK);
    }

    #[tokio::test]
    async fn a_change_is_finished_although_its_client_went_away() {
        let (sender, mut receiver) = tokio::sync::mpsc::channel(1);
        let slow = move || {
            let sender = sender.clone();
            async move {
                tokio::task::yield_now().await;
                sender.send(()).await.map(|()| "done").unwrap_or("closed")
            }
        };
        let answerer = Answerer::new(Router::new().route("/", post(slow)), Vec::new(), 1);
        assert!(ask(&answerer, "POST", "/").now_or_never().is_none());
        assert_eq!(receiver.recv().await, Some(()));
        answerer.drained().await;
    }
}
