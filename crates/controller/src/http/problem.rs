//! Refusals: every error that the API answers, with its stable code.
//!
//! A handler returns a [`Refusal`]; it travels inside the response until [`super::answer`] writes it out, as
//! `application/problem+json` on v1 and as plain text on v0, so that both tell the same.
//!
//! | code | status | meaning |
//! |---|---|---|
//! | `body-invalid` | 400 | the body is not what this route reads |
//! | `manifest-invalid` | 400 | the manifest has faults, all of them listed |
//! | `image-not-loaded` | 400 | the archive holds no image that the node can use |
//! | `parameter-invalid` | 400 | a part of the URL or a header field cannot be used |
//! | `request-invalid` | 400 | the request is readable and makes no sense |
//! | `origin-not-allowed` | 403 | a web page of another origin may not change anything |
//! | `workload-not-found`, `instance-not-found`, `node-not-found`, `container-not-found`, `tenant-not-found` | 404 | there is no such object |
//! | `config-not-found`, `secret-not-found` | 404 | there is no such config or secret |
//! | `image-not-found` | 404 | the node has no such image |
//! | `volume-not-found` | 404 | the node has no such volume |
//! | `no-log` | 404 | the node has no log of the container: nothing of it was started, or it is gone |
//! | `route-not-found` | 404 | the API has no such path |
//! | `method-not-allowed` | 405 | the path exists, but not for this method |
//! | `body-slow` | 408 | the body did not arrive in time |
//! | `name-taken` | 409 | another object has this name |
//! | `image-in-use` | 409 | containers stand on the image |
//! | `volume-in-use` | 409 | instances use the volume |
//! | `node-in-use` | 409 | the node still takes part |
//! | `not-placed` | 409 | the instance has no node yet |
//! | `contended` | 409 | others changed the object again and again |
//! | `exec-failed` | 409 | the program cannot be run in the container |
//! | `compacted` | 410 | the history does not go back so far |
//! | `revision-ahead` | 410 | the revision is of another store |
//! | `revision-mismatch` | 412 | the object is not at the revision of `If-Match` |
//! | `body-too-large` | 413 | the body is larger than this route reads |
//! | `url-too-long` | 414 | the URL is longer than any of the API |
//! | `content-type-unsupported` | 415 | this route does not read that type |
//! | `host-not-allowed` | 421 | the name in `Host` is not one of this server |
//! | `upgrade-required` | 426 | this path is a WebSocket |
//! | `key-reused` | 422 | the `Idempotency-Key` was used for another request |
//! | `too-many` | 429 | a bound was reached; try again later |
//! | `headers-too-large` | 431 | too many header fields, or too large |
//! | `internal` | 500 | a defect of the controller |
//! | `seal-failed` | 500 | secrets cannot be sealed or opened: their key file is lost or unfit |
//! | `store-failed` | 500 | the store could not be read or written |
//! | `image-not-pulled` | 502 | the node could not get the image from its registry |
//! | `port-unreachable` | 502 | nothing answers on the port of the instance |
//! | `node-failed` | 502 | the node could not do what was asked |
//! | `overloaded` | 503 | too many requests at once |
//! | `scheduler-away` | 503 | the scheduler is not connected, and with it no node |
//! | `node-not-ready` | 503 | the node is still getting ready |
//! | `node-unreachable` | 503 | the node cannot be asked now |
//! | `store-unavailable` | 503 | the store cannot be written now |
//! | `node-slow` | 504 | the node did not answer in time |

use axum::response::{IntoResponse, Response};
use http::StatusCode;
use model::{api::Problem, given::ObjectKind, manifest::read::Fault};

use crate::cluster::ClusterError;

macro_rules! codes {
    ($($name:ident, $code:literal, $status:ident, $title:literal;)*) => {
        /// The stable codes. New ones may be added; none changes its meaning.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Code {
            $(#[doc = $title] $name,)*
        }

        impl Code {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code as clients see it.
            #[must_use]
            pub const fn text(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// The status of an answer with this code.
            #[must_use]
            pub const fn status(self) -> StatusCode {
                match self { $(Self::$name => StatusCode::$status,)* }
            }

            /// What all problems of this code have in common.
            #[must_use]
            pub const fn title(self) -> &'static str {
                match self { $(Self::$name => $title,)* }
            }
        }
    };
}

codes! {
    BodyInvalid, "body-invalid", BAD_REQUEST, "The body cannot be read";
    ManifestInvalid, "manifest-invalid", BAD_REQUEST, "The manifest has faults";
    ImageNotLoaded, "image-not-loaded", BAD_REQUEST, "The image could not be loaded";
    ParameterInvalid, "parameter-invalid", BAD_REQUEST, "A parameter cannot be used";
    RequestInvalid, "request-invalid", BAD_REQUEST, "The request makes no sense";
    OriginNotAllowed, "origin-not-allowed", FORBIDDEN, "Pages of other origins may change nothing";
    WorkloadNotFound, "workload-not-found", NOT_FOUND, "There is no such workload";
    InstanceNotFound, "instance-not-found", NOT_FOUND, "There is no such instance";
    NodeNotFound, "node-not-found", NOT_FOUND, "There is no such node";
    ContainerNotFound, "container-not-found", NOT_FOUND, "There is no such container";
    ConfigNotFound, "config-not-found", NOT_FOUND, "There is no such config";
    SecretNotFound, "secret-not-found", NOT_FOUND, "There is no such secret";
    ImageNotFound, "image-not-found", NOT_FOUND, "There is no such image";
    VolumeNotFound, "volume-not-found", NOT_FOUND, "There is no such volume";
    NoLog, "no-log", NOT_FOUND, "There is no log";
    TenantNotFound, "tenant-not-found", NOT_FOUND, "There is no such tenant";
    RouteNotFound, "route-not-found", NOT_FOUND, "There is no such path";
    MethodNotAllowed, "method-not-allowed", METHOD_NOT_ALLOWED, "The path does not know this method";
    BodySlow, "body-slow", REQUEST_TIMEOUT, "The body did not arrive in time";
    NameTaken, "name-taken", CONFLICT, "The name is taken";
    ImageInUse, "image-in-use", CONFLICT, "The image is used";
    VolumeInUse, "volume-in-use", CONFLICT, "The volume is used";
    NodeInUse, "node-in-use", CONFLICT, "The node still takes part";
    NotPlaced, "not-placed", CONFLICT, "The instance has no node yet";
    Contended, "contended", CONFLICT, "The object kept changing";
    Compacted, "compacted", GONE, "The history does not go back so far";
    RevisionAhead, "revision-ahead", GONE, "The revision does not exist yet";
    RevisionMismatch, "revision-mismatch", PRECONDITION_FAILED, "The object has changed";
    BodyTooLarge, "body-too-large", PAYLOAD_TOO_LARGE, "The body is too large";
    UrlTooLong, "url-too-long", URI_TOO_LONG, "The URL is too long";
    ContentTypeUnsupported, "content-type-unsupported", UNSUPPORTED_MEDIA_TYPE, "The type of the body is not read here";
    HostNotAllowed, "host-not-allowed", MISDIRECTED_REQUEST, "The host is not this server";
    UpgradeRequired, "upgrade-required", UPGRADE_REQUIRED, "This path is a WebSocket";
    ExecFailed, "exec-failed", CONFLICT, "The program cannot be run";
    ImageNotPulled, "image-not-pulled", BAD_GATEWAY, "The image could not be pulled";
    PortUnreachable, "port-unreachable", BAD_GATEWAY, "Nothing answers on the port";
    KeyReused, "key-reused", UNPROCESSABLE_ENTITY, "The Idempotency-Key was used before";
    TooMany, "too-many", TOO_MANY_REQUESTS, "A bound was reached";
    HeadersTooLarge, "headers-too-large", REQUEST_HEADER_FIELDS_TOO_LARGE, "The header is too large";
    Internal, "internal", INTERNAL_SERVER_ERROR, "The controller has a defect";
    SealFailed, "seal-failed", INTERNAL_SERVER_ERROR, "Secrets cannot be sealed or opened";
    StoreFailed, "store-failed", INTERNAL_SERVER_ERROR, "The store failed";
    NodeFailed, "node-failed", BAD_GATEWAY, "The node could not do it";
    Overloaded, "overloaded", SERVICE_UNAVAILABLE, "Too many requests at once";
    SchedulerAway, "scheduler-away", SERVICE_UNAVAILABLE, "The scheduler is not connected";
    NodeNotReady, "node-not-ready", SERVICE_UNAVAILABLE, "The node is still getting ready";
    NodeUnreachable, "node-unreachable", SERVICE_UNAVAILABLE, "The node cannot be asked";
    StoreUnavailable, "store-unavailable", SERVICE_UNAVAILABLE, "The store cannot be written now";
    NodeSlow, "node-slow", GATEWAY_TIMEOUT, "The node did not answer in time";
}

/// A request that is not carried out, and why.
#[derive(Clone, Debug)]
pub struct Refusal(Box<Parts>);

#[derive(Clone, Debug)]
struct Parts {
    code: Code,
    detail: String,
    hint: Option<String>,
    faults: Vec<Fault>,
}

impl Refusal {
    /// A refusal with this code and what happened this time.
    pub fn new(code: Code, detail: impl Into<String>) -> Self {
        Self(Box::new(Parts { code, detail: detail.into(), hint: None, faults: Vec::new() }))
    }

    /// The same with what to do next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.0.hint = Some(hint.into());
        self
    }

    /// Its code.
    #[must_use]
    pub const fn code(&self) -> Code {
        self.0.code
    }

    /// What happened.
    #[must_use]
    pub fn detail(&self) -> &str {
        &self.0.detail
    }

    /// The body of a v1 answer.
    #[must_use]
    pub fn problem(&self, request: Option<&str>) -> Problem {
        Problem {
            code: self.0.code.text().to_owned(),
            title: self.0.code.title().to_owned(),
            status: self.0.code.status().as_u16(),
            detail: Some(self.0.detail.clone()),
            hint: self.0.hint.clone(),
            faults: self.0.faults.clone(),
            request: request.map(ToOwned::to_owned),
        }
    }

    /// The body of a v0 answer: the same as lines of text.
    #[must_use]
    pub fn text(&self) -> String {
        let faults = self.0.faults.iter().map(ToString::to_string);
        let hint = self.0.hint.iter().map(|hint| format!("hint: {hint}"));
        std::iter::once(self.0.detail.clone()).chain(faults).chain(hint).collect::<Vec<_>>().join("\n")
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let mut response = self.0.code.status().into_response();
        response.extensions_mut().insert(self);
        response
    }
}

impl From<ClusterError> for Refusal {
    fn from(error: ClusterError) -> Self {
        let (code, hint) = classify(&error);
        let detail = match code {
            // These name what was being done, all others what is wrong.
            Code::StoreFailed | Code::StoreUnavailable | Code::Internal => {
                format!("failed to {}", daemon::chain(&error))
            }
            _ => daemon::chain(&error),
        };
        let mut refusal = Self::new(code, detail);
        refusal.0.hint = hint.map(ToOwned::to_owned);
        if let ClusterError::Manifest(manifest) = error {
            refusal.0.detail = manifest.to_string();
            refusal.0.faults = manifest.faults;
        }
        refusal
    }
}

fn classify(error: &ClusterError) -> (Code, Option<&'static str>) {
    match error {
        ClusterError::WorkloadNotFound { .. } => (Code::WorkloadNotFound, Some("rikctl get workloads")),
        ClusterError::InstanceNotFound { .. } => (Code::InstanceNotFound, Some("rikctl get instances")),
        ClusterError::NodeNotFound { .. } => (Code::NodeNotFound, Some("rikctl get nodes")),
        ClusterError::ObjectNotFound { kind: ObjectKind::Config, .. } => {
            (Code::ConfigNotFound, Some("rikctl get configs"))
        }
        ClusterError::ObjectNotFound { kind: ObjectKind::Secret, .. } => {
            (Code::SecretNotFound, Some("rikctl get secrets"))
        }
        ClusterError::Seal(_) => (Code::SealFailed, None),
        ClusterError::TenantNotFound { .. } => (Code::TenantNotFound, None),
        ClusterError::NameTaken { .. } => {
            (Code::NameTaken, Some("choose another name, or delete the one that has it"))
        }
        ClusterError::Manifest(_) => (Code::ManifestInvalid, None),
        ClusterError::InvalidRequest { .. } => (Code::RequestInvalid, None),
        ClusterError::RevisionMismatch { .. } => {
            (Code::RevisionMismatch, Some("read it again, then decide again"))
        }
        ClusterError::KeyReused => (Code::KeyReused, Some("a new request needs a new key")),
        ClusterError::NodeInUse { .. } => (Code::NodeInUse, None),
        ClusterError::NodeUnreachable { .. } => (Code::NodeUnreachable, Some("rikctl get nodes")),
        ClusterError::Node { failure, .. } => (node_failure(&failure.code), None),
        ClusterError::SchedulerAway => {
            (Code::SchedulerAway, Some("start the scheduler, or look at SCHEDULER_URL"))
        }
        ClusterError::Compacted { .. } => {
            (Code::Compacted, Some("list again, then watch from the list's revision"))
        }
        ClusterError::Ahead { .. } => {
            (Code::RevisionAhead, Some("list again, then watch from the list's revision"))
        }
        ClusterError::TooMany { .. } => (Code::TooMany, None),
        ClusterError::Contended { .. } => (Code::Contended, Some("try again")),
        ClusterError::Read(source) if source.fault().is_transient() => {
            (Code::StoreUnavailable, Some("try again later"))
        }
        ClusterError::Write(store::CommitError::Write { source, .. }) if source.is_transient() => {
            (Code::StoreUnavailable, Some("try again later"))
        }
        ClusterError::Read(_) | ClusterError::Write(_) | ClusterError::Watch(_) => (Code::StoreFailed, None),
        ClusterError::Json { .. } => (Code::Internal, None),
    }
}

/// The code for what a node said. Nodes may be newer than this controller: what it does not know is `node-failed`.
pub fn node_failure(said: &str) -> Code {
    const SAYABLE: [Code; 16] = [
        Code::VolumeNotFound,
        Code::VolumeInUse,
        Code::ImageNotFound,
        Code::ImageInUse,
        Code::ImageNotPulled,
        Code::NoLog,
        Code::ImageNotLoaded,
        Code::NodeNotReady,
        Code::InstanceNotFound,
        Code::ContainerNotFound,
        Code::NodeUnreachable,
        Code::SchedulerAway,
        Code::RequestInvalid,
        Code::TooMany,
        Code::ExecFailed,
        Code::PortUnreachable,
    ];
    SAYABLE.into_iter().find(|code| code.text() == said).unwrap_or(Code::NodeFailed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_code_stands_in_the_table_with_its_status() {
        let table: String =
            include_str!("problem.rs").lines().filter(|line| line.starts_with("//! |")).collect();
        for code in Code::ALL {
            let row = table.split("//!").find(|row| row.contains(&format!("`{}`", code.text())));
            let row = row.unwrap_or_else(|| panic!("{} is not documented", code.text()));
            assert!(row.contains(&format!("| {} |", code.status().as_u16())), "{}: {row}", code.text());
        }
    }

    #[test]
    fn documentation_has_the_same_table() {
        let page = include_str!("../../../../docs/src/controller/api-v1.md");
        for row in include_str!("problem.rs").lines().filter_map(|line| line.strip_prefix("//! | `")) {
            assert!(page.contains(&format!("\n| `{row}\n")), "docs/src/controller/api-v1.md lacks: | `{row}");
        }
    }

    #[test]
    fn codes_are_unique() {
        let texts: std::collections::BTreeSet<_> = Code::ALL.iter().map(|code| code.text()).collect();
        assert_eq!(texts.len(), Code::ALL.len());
    }
}
