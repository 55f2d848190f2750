//! The controller's REST API, version 1, as rikctl uses it.
//!
//! Every call is blocking. Objects come back as the JSON that was sent, so that a field which this version does not
//! know is still shown; [`crate::listed`] reads them.
//!
//! *Guarantees*: a call ends, whatever the other side does: connecting, waiting, the length of an answer and the
//! number of pages are bounded. Redirects are not followed and no proxy is used, so nothing that is sent goes to
//! another host. What creates something carries one random key through all of its attempts, so that asking again
//! after a lost answer creates nothing twice.

mod error;
pub(crate) mod session;
pub(crate) mod sse;
pub(crate) mod watch;

use std::{io::Read, sync::Arc, thread, time::Duration};

use model::{
    Revision,
    api::{
        ClusterView, CreateInstances, Created, ImageView, ImagesRemoved, ObjectBody, Page, Problem, PullImage,
    },
};
use serde::de::DeserializeOwned;
use serde_json::Value;
use ureq::{
    Agent, AsSendBody, Body, SendBody,
    http::{Method, Request, Response, StatusCode, header},
};

pub(crate) use self::error::ClientError;
use crate::config::Cluster;

/// Longest time until a connection stands, name resolution included.
const CONNECT: Duration = Duration::from_secs(5);
/// Longest time until an answer begins; the slowest honest one waits for a disk.
const ANSWER_BEGINS: Duration = Duration::from_secs(30);
/// Longest silence in the middle of an answer.
pub(crate) const SILENCE: Duration = Duration::from_secs(30);
/// Longest time for a whole answer, so that one byte now and then does not keep us.
const ANSWER_ENDS: Duration = Duration::from_secs(120);
/// Longest time for a node to pull or remove images: longer than the controller waits for it.
const WORK: Duration = Duration::from_secs(31 * 60);
/// Longest time for an image to be sent and unpacked.
const UPLOAD: Duration = Duration::from_secs(3_600);
/// Longest time that the other side may refuse to take more of it.
const STALL: Duration = Duration::from_secs(60);
/// Largest answer: a page of the largest objects stays below it.
const MAX_ANSWER: u64 = 64 << 20;
/// Most of an error's body that is read.
const MAX_PROBLEM: u64 = 1 << 20;
/// Most of a foreign error text that is repeated.
const MAX_QUOTED: usize = 200;
/// Objects asked for at once.
const PAGE: &str = "500";
/// Most objects of one list; beyond it a list helps nobody.
const MAX_LISTED: usize = 200_000;
/// How often a request is made in all when its answer is lost.
const ATTEMPTS: u32 = 3;
/// Pause before another attempt.
const PAUSE: Duration = Duration::from_millis(200);

/// A connection to one cluster. Nothing is sent before the first call.
#[derive(Debug)]
pub(crate) struct Client {
    agent: Agent,
    cluster: Arc<Cluster>,
}

/// One list, whole.
#[derive(Debug)]
pub(crate) struct Listing {
    /// The objects.
    pub(crate) items: Vec<Value>,
    /// Revision of the first page: a watch from here misses nothing.
    pub(crate) revision: Revision,
}

/// How long an answer may take.
#[derive(Clone, Copy, Debug)]
enum Patience {
    /// An ordinary answer.
    Answer,
    /// A stream: silence and deadline, where there are any.
    Stream { silence: Option<Duration>, whole: Option<Duration> },
    /// The answer to something that takes its time.
    Work,
    /// The answer to something large.
    Upload,
}

/// A request without its body.
#[derive(Clone, Debug)]
struct Call {
    method: Method,
    path: String,
    key: Option<String>,
}

impl Call {
    fn new(method: Method, path: impl Into<String>) -> Self {
        Self { method, path: path.into(), key: None }
    }

    fn keyed(mut self) -> Self {
        self.key = Some(uuid::Uuid::new_v4().to_string());
        self
    }
}

impl std::fmt::Display for Call {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{} /api/v1{}", self.method, self.path)
    }
}

impl Client {
    /// A client of that cluster.
    pub(crate) fn new(cluster: Cluster) -> Self {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .proxy(None)
            .user_agent(concat!("rikctl/", env!("CARGO_PKG_VERSION")))
            .timeout_resolve(Some(CONNECT))
            .timeout_connect(Some(CONNECT))
            .timeout_recv_response(Some(ANSWER_BEGINS))
            .build();
        Self { agent: config.new_agent(), cluster: Arc::new(cluster) }
    }

    /// The cluster that it talks to.
    pub(crate) fn cluster_config(&self) -> &Cluster {
        &self.cluster
    }

    /// What the controller is and how it fares.
    pub(crate) fn cluster(&self) -> Result<ClusterView, ClientError> {
        self.answer(&Call::new(Method::GET, "/cluster"), None)
    }

    /// One object.
    pub(crate) fn get(&self, path: &str) -> Result<Value, ClientError> {
        self.answer(&Call::new(Method::GET, path), None)
    }

    /// All objects below a path, page after page.
    pub(crate) fn list(&self, path: &str, query: &[(&str, &str)]) -> Result<Listing, ClientError> {
        let mut items = Vec::new();
        let mut revision = None;
        let mut next: Option<String> = None;
        loop {
            let mut pairs = vec![("limit", PAGE)];
            pairs.extend_from_slice(query);
            pairs.extend(next.as_deref().map(|next| ("continue", next)));
            let page: Page<Value> = self.answer(&Call::new(Method::GET, with_query(path, &pairs)), None)?;
            let first = *revision.get_or_insert(page.revision);
            let empty = page.items.is_empty();
            items.extend(page.items);
            // A page without objects ends the list whatever it says, so that no server can keep us turning pages.
            let Some(following) = page.next.filter(|_| !empty) else {
                return Ok(Listing { items, revision: first });
            };
            if items.len() >= MAX_LISTED {
                return Err(self.too_large(format!("{MAX_LISTED} objects")));
            }
            next = Some(following);
        }
    }

    /// Creates a workload.
    pub(crate) fn create_workload(&self, manifest: &Value) -> Result<Value, ClientError> {
        self.answer(&Call::new(Method::POST, "/workloads").keyed(), Some(manifest))
    }

    /// Creates a config or secret; `path` is that of their list.
    pub(crate) fn create_object(&self, path: &str, body: &ObjectBody) -> Result<Value, ClientError> {
        let call = Call::new(Method::POST, path).keyed();
        let body = serde_json::to_value(body).map_err(|source| self.malformed(&call, source))?;
        self.answer(&call, Some(&body))
    }

    /// Creates or changes a workload.
    pub(crate) fn apply_workload(&self, manifest: &Value) -> Result<model::api::ApplyResult, ClientError> {
        self.answer(&Call::new(Method::PUT, "/workloads"), Some(manifest))
    }

    /// Creates instances.
    pub(crate) fn create_instances(&self, request: &CreateInstances) -> Result<Created, ClientError> {
        let call = Call::new(Method::POST, "/instances").keyed();
        let body = serde_json::to_value(request).map_err(|source| self.malformed(&call, source))?;
        self.answer(&call, Some(&body))
    }

    /// Deletes an object. True if it is gone already, false if its end has begun.
    pub(crate) fn delete(&self, path: &str) -> Result<bool, ClientError> {
        let call = Call::new(Method::DELETE, path);
        let response = self.perform(&call, (), Patience::Answer)?;
        Ok(response.status() == StatusCode::NO_CONTENT)
    }

    /// Removes a volume of a node, with all that is in it.
    pub(crate) fn remove_volume(&self, path: &str) -> Result<(), ClientError> {
        self.perform(&Call::new(Method::DELETE, path), (), Patience::Work).map(drop)
    }

    /// Sends an image archive; the answer is what it is known by.
    pub(crate) fn load_image(&self, path: &str, archive: &mut dyn Read) -> Result<Vec<String>, ClientError> {
        let call = Call::new(Method::POST, path).keyed();
        let response = self.perform(&call, SendBody::from_reader(archive), Patience::Upload)?;
        self.decode(&call, &self.read_all(response, MAX_ANSWER)?)
    }

    /// Pulls an image to a node.
    pub(crate) fn pull_image(&self, path: &str, reference: &str) -> Result<ImageView, ClientError> {
        let call = Call::new(Method::POST, path);
        let wanted = PullImage { reference: reference.to_owned() };
        let body = serde_json::to_string(&wanted).map_err(|source| self.malformed(&call, source))?;
        let response = self.perform(&call, body, Patience::Work)?;
        self.decode(&call, &self.read_all(response, MAX_ANSWER)?)
    }

    /// Removes images of a node.
    pub(crate) fn remove_images(
        &self,
        path: &str,
        reference: Option<&str>,
    ) -> Result<ImagesRemoved, ClientError> {
        let query: Vec<_> = reference.map(|reference| ("reference", reference)).into_iter().collect();
        let call = Call::new(Method::DELETE, with_query(path, &query));
        let response = self.perform(&call, (), Patience::Work)?;
        self.decode(&call, &self.read_all(response, MAX_ANSWER)?)
    }

    /// An answer without end. `silence` is the longest pause in it, `whole` the longest time for all of it.
    pub(crate) fn stream(
        &self,
        path: &str,
        silence: Option<Duration>,
        whole: Option<Duration>,
    ) -> Result<impl Read + use<>, ClientError> {
        let call = Call::new(Method::GET, path);
        let response = self.perform(&call, (), Patience::Stream { silence, whole })?;
        Ok(response.into_body().into_with_config().limit(u64::MAX).reader())
    }

    /// A whole JSON answer, asked for again if it is lost on the way.
    fn answer<T: DeserializeOwned>(&self, call: &Call, body: Option<&Value>) -> Result<T, ClientError> {
        let mut attempt = 1;
        loop {
            let outcome = match body {
                Some(body) => self.perform(call, body.to_string(), Patience::Answer),
                None => self.perform(call, (), Patience::Answer),
            };
            match outcome.and_then(|response| self.read_all(response, MAX_ANSWER)) {
                Err(ClientError::Lost { .. }) if attempt < ATTEMPTS => {
                    attempt += 1;
                    thread::sleep(PAUSE);
                }
                Err(error) => return Err(error),
                Ok(bytes) => return self.decode(call, &bytes),
            }
        }
    }

    fn perform(
        &self,
        call: &Call,
        body: impl AsSendBody,
        patience: Patience,
    ) -> Result<Response<Body>, ClientError> {
        let mut builder = Request::builder()
            .method(&call.method)
            .uri(format!("{}/api/v1{}", self.cluster.server, call.path));
        builder = match (&call.method, patience) {
            (_, Patience::Upload) => builder.header(header::CONTENT_TYPE, "application/x-tar"),
            (&Method::POST | &Method::PUT, _) => builder.header(header::CONTENT_TYPE, "application/json"),
            _ => builder,
        };
        if let Some(key) = &call.key {
            builder = builder.header("Idempotency-Key", key);
        }
        let request = builder.body(body).map_err(|error| self.transport(ureq::Error::Http(error)))?;
        let configured = self.agent.configure_request(request);
        let configured = match patience {
            Patience::Answer => configured.timeout_per_read(Some(SILENCE)).timeout_global(Some(ANSWER_ENDS)),
            Patience::Stream { silence, whole } => configured.timeout_per_read(silence).timeout_global(whole),
            Patience::Work => configured.timeout_recv_response(Some(WORK)).timeout_global(Some(WORK)),
            Patience::Upload => configured
                .timeout_per_write(Some(STALL))
                .timeout_recv_response(Some(UPLOAD))
                .timeout_global(Some(UPLOAD)),
        };
        let response = self.agent.run(configured.build()).map_err(|error| self.transport(error))?;
        self.accepted(call, response)
    }

    /// The response if it is one of success.
    fn accepted(&self, call: &Call, response: Response<Body>) -> Result<Response<Body>, ClientError> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let (cluster, request) = (Arc::clone(&self.cluster), call.to_string());
        if status.is_redirection() {
            let location = response
                .headers()
                .get(header::LOCATION)
                .map(|value| quoted(value.as_bytes()))
                .unwrap_or_default();
            return Err(ClientError::Redirected { cluster, request, location });
        }
        let bytes = self.read_all(response, MAX_PROBLEM)?;
        match serde_json::from_slice::<Problem>(&bytes) {
            Ok(problem) => {
                let problem = Box::new(Problem { status: status.as_u16(), ..problem });
                Err(ClientError::Problem { problem })
            }
            Err(_) => {
                let text = quoted(&bytes);
                let text = if text.is_empty() { text } else { format!(": {text}") };
                Err(ClientError::Status { cluster, request, status: status.as_u16(), text })
            }
        }
    }

    fn read_all(&self, response: Response<Body>, limit: u64) -> Result<Vec<u8>, ClientError> {
        let too_large = || self.too_large(format!("{} MiB", limit >> 20));
        if response.body().content_length().is_some_and(|length| length > limit) {
            return Err(too_large());
        }
        let mut bytes = Vec::new();
        let reader = response.into_body().into_with_config().limit(u64::MAX).reader();
        match reader.take(limit + 1).read_to_end(&mut bytes) {
            Ok(_) if bytes.len() as u64 > limit => Err(too_large()),
            Ok(_) => Ok(bytes),
            Err(error) => Err(self.transport(error.into())),
        }
    }

    fn decode<T: DeserializeOwned>(&self, call: &Call, bytes: &[u8]) -> Result<T, ClientError> {
        serde_json::from_slice(bytes).map_err(|source| self.malformed(call, source))
    }

    fn malformed(&self, call: &Call, source: serde_json::Error) -> ClientError {
        ClientError::Malformed { cluster: Arc::clone(&self.cluster), request: call.to_string(), source }
    }

    fn too_large(&self, limit: String) -> ClientError {
        ClientError::TooLarge { cluster: Arc::clone(&self.cluster), limit }
    }

    /// Sorts an error of the way by what is known about the other side.
    pub(crate) fn transport(&self, error: ureq::Error) -> ClientError {
        use std::io::ErrorKind as Kind;
        let (cluster, source) = (Arc::clone(&self.cluster), Box::new(error));
        match source.as_ref() {
            ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
                ClientError::Unreachable { cluster, source }
            }
            ureq::Error::Timeout(_) => ClientError::Silent { cluster, source },
            ureq::Error::Io(error)
                if matches!(
                    error.kind(),
                    Kind::UnexpectedEof | Kind::ConnectionReset | Kind::ConnectionAborted | Kind::BrokenPipe
                ) =>
            {
                ClientError::Lost { cluster, source }
            }
            ureq::Error::Io(_) | ureq::Error::HostNotFound | ureq::Error::ConnectionFailed => {
                ClientError::Unreachable { cluster, source }
            }
            _ => ClientError::Garbled { cluster, source },
        }
    }
}

/// `path` with a query behind it.
pub(crate) fn with_query(path: &str, pairs: &[(&str, &str)]) -> String {
    let pairs: Vec<_> = pairs.iter().map(|(key, value)| format!("{key}={}", segment(value))).collect();
    if pairs.is_empty() { path.to_owned() } else { format!("{path}?{}", pairs.join("&")) }
}

/// Text as one segment of a path, or one value of a query: everything that could mean more is encoded.
pub(crate) fn segment(text: &str) -> String {
    let mut encoded = String::with_capacity(text.len());
    let only_dots = text.bytes().all(|byte| byte == b'.');
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'~' | b':' => {
                encoded.push(char::from(byte))
            }
            b'.' if !only_dots => encoded.push('.'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// The beginning of a foreign text, in one line.
fn quoted(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut short: String = line.chars().take(MAX_QUOTED).collect();
    if short.len() < line.len() {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_cannot_leave_its_segment() {
        assert_eq!(segment("fn:v1"), "fn:v1");
        assert_eq!(segment("../nodes?x#y"), "..%2Fnodes%3Fx%23y");
        assert_eq!(segment(".."), "%2E%2E");
        assert_eq!(segment("ü %"), "%C3%BC%20%25");
        assert_eq!(with_query("/x", &[("a", "b&c")]), "/x?a=b%26c");
    }
}
