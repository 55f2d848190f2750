//! Reading what a request carries: bodies, path, query and header fields. Everything here is bounded in size and time.

use std::{error::Error, time::Duration};

use axum::{
    body::{Body, Bytes},
    extract::{FromRequest, FromRequestParts, Path, Query, Request},
};
use http::{HeaderMap, header, request::Parts};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use model::{
    Revision, Workload,
    manifest::read::{self, Strictness},
};
use serde::de::DeserializeOwned;
use tokio::{sync::oneshot, time::timeout};

use super::{
    limits::{MAX_BODY_BYTES, PARSE_STACK_BYTES},
    place::Place,
    problem::{Code, Refusal},
    routes::Api,
};
use crate::cluster::{ClusterError, IdempotencyKey};

/// A body that was read whole.
pub(crate) struct Whole(pub(crate) Bytes);

impl FromRequest<Api> for Whole {
    type Rejection = Refusal;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Refusal> {
        let (head, body) = request.into_parts();
        let reading = read_whole(&head.headers, body, api.limits().body);
        let read = match head.extensions.get::<Place>() {
            Some(place) => place.while_away(reading).await,
            None => reading.await,
        };
        read.map(Self)
    }
}

async fn read_whole(headers: &HeaderMap, body: Body, deadline: Duration) -> Result<Bytes, Refusal> {
    let too_large = || {
        Refusal::new(
            Code::BodyTooLarge,
            format!("the body has more than the {MAX_BODY_BYTES} bytes that are allowed"),
        )
    };
    let declared = headers.get(header::CONTENT_LENGTH).and_then(|length| length.to_str().ok());
    if declared
        .and_then(|length| length.parse::<u64>().ok())
        .is_some_and(|length| length > MAX_BODY_BYTES as u64)
    {
        return Err(too_large());
    }
    match timeout(deadline, Limited::new(body, MAX_BODY_BYTES).collect()).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(error)) if error.is::<LengthLimitError>() => Err(too_large()),
        Ok(Err(error)) => Err(Refusal::new(Code::BodyInvalid, format!("the body ended early: {error}"))),
        Err(_) => Err(slow(deadline)),
    }
}

/// The refusal for a body that comes too slowly.
pub(crate) fn slow(deadline: Duration) -> Refusal {
    Refusal::new(Code::BodySlow, format!("the body did not arrive within {deadline:?}"))
}

/// Forms of a body that routes read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Json,
    Yaml,
}

/// The form that `Content-Type` names.
fn form(headers: &HeaderMap) -> Result<Form, Refusal> {
    let named = headers.get(header::CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let mut parts = named.split(';').map(str::trim);
    let essence = parts.next().unwrap_or_default().to_ascii_lowercase();
    let charset = parts.find_map(|part| {
        let (name, value) = part.split_once('=')?;
        name.trim().eq_ignore_ascii_case("charset").then(|| value.trim().trim_matches('"'))
    });
    if let Some(charset) = charset.filter(|charset| !charset.eq_ignore_ascii_case("utf-8")) {
        return Err(Refusal::new(
            Code::ContentTypeUnsupported,
            format!("the charset is {charset:?}; allowed is utf-8"),
        ));
    }
    match essence.as_str() {
        "application/json" => Ok(Form::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" => Ok(Form::Yaml),
        _ => Err(Refusal::new(Code::ContentTypeUnsupported, format!("the Content-Type is {essence:?}"))
            .hint("send application/json, or application/yaml where a manifest is read")),
    }
}

/// A small JSON body of v1.
pub(crate) struct JsonBody<T> {
    pub(crate) value: T,
    pub(crate) bytes: Bytes,
}

impl<T: DeserializeOwned> FromRequest<Api> for JsonBody<T> {
    type Rejection = Refusal;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Refusal> {
        if form(request.headers())? != Form::Json {
            return Err(Refusal::new(Code::ContentTypeUnsupported, "this route reads application/json"));
        }
        let Whole(bytes) = Whole::from_request(request, api).await?;
        Ok(Self { value: json(&bytes)?, bytes })
    }
}

/// Reads JSON that is no manifest.
pub(crate) fn json<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Refusal> {
    serde_json::from_slice(bytes).map_err(|error| {
        let what = if bytes.is_empty() { "the body is empty" } else { "the body cannot be used" };
        Refusal::new(Code::BodyInvalid, format!("{what}: {error}"))
    })
}

/// A manifest of v1: JSON or YAML, unknown keys refused.
pub(crate) struct ManifestBody {
    pub(crate) manifest: Workload,
    pub(crate) bytes: Bytes,
}

impl FromRequest<Api> for ManifestBody {
    type Rejection = Refusal;

    async fn from_request(request: Request, api: &Api) -> Result<Self, Refusal> {
        let form = form(request.headers())?;
        let Whole(bytes) = Whole::from_request(request, api).await?;
        if form == Form::Json && !starts_an_object(&bytes) {
            return Err(Refusal::new(Code::BodyInvalid, "the body is no JSON object"));
        }
        let manifest = manifest(bytes.clone(), Strictness::Strict).await?;
        Ok(Self { manifest, bytes })
    }
}

fn starts_an_object(bytes: &[u8]) -> bool {
    bytes.iter().find(|byte| !byte.is_ascii_whitespace()) == Some(&b'{')
}

/// Reads a manifest that must be JSON, unknown keys passed over.
pub(crate) async fn lenient_manifest(bytes: Bytes) -> Result<Workload, Refusal> {
    if !starts_an_object(&bytes) {
        return Err(Refusal::new(Code::BodyInvalid, "the body is no JSON object"));
    }
    manifest(bytes, Strictness::Lenient).await
}

/// Parses on a thread of its own, for the deep stack and because a large manifest takes a while.
async fn manifest(bytes: Bytes, strictness: Strictness) -> Result<Workload, Refusal> {
    let parse = move || match std::str::from_utf8(&bytes) {
        Ok(text) => read::workload(text, strictness).map_err(|error| ClusterError::Manifest(error).into()),
        Err(error) => Err(Refusal::new(Code::BodyInvalid, format!("the body is not UTF-8: {error}"))),
    };
    let (answer, parsed) = oneshot::channel();
    let thread = std::thread::Builder::new().name("manifest".to_owned()).stack_size(PARSE_STACK_BYTES);
    thread
        // Nobody waits any more if the client has gone.
        .spawn(move || drop(answer.send(parse())))
        .map_err(|error| {
            Refusal::new(Code::Overloaded, format!("there is no thread left to parse with: {error}"))
        })?;
    let failed = |_| Err(Refusal::new(Code::Internal, "the manifest could not be parsed"));
    parsed.await.unwrap_or_else(failed)
}

/// The name in the path.
pub(crate) struct Name(pub(crate) String);

impl<S: Send + Sync> FromRequestParts<S> for Name {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let path = Path::<String>::from_request_parts(parts, state).await;
        path.map(|Path(name)| Self(name))
            .map_err(|error| Refusal::new(Code::ParameterInvalid, error.body_text()))
    }
}

/// The parameters in the query. Unknown ones are refused by the type.
pub(crate) struct Params<T>(pub(crate) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Params<T> {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refusal> {
        let query = Query::<T>::from_request_parts(parts, state).await;
        query.map(|Query(params)| Self(params)).map_err(|error| {
            // The library's own sentence says the same in more words.
            let cause = error.source().map_or_else(|| error.body_text(), daemon::chain);
            Refusal::new(Code::ParameterInvalid, format!("the query cannot be used: {cause}"))
        })
    }
}

/// The revision in `If-Match`, if the request has one.
pub(crate) struct IfMatch(pub(crate) Option<Revision>);

impl<S: Send + Sync> FromRequestParts<S> for IfMatch {
    type Rejection = Refusal;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Refusal> {
        let Some(value) = header_text(&parts.headers, &header::IF_MATCH)? else { return Ok(Self(None)) };
        // `*` asks only that the object is there, which every route that reads this asks anyway.
        if value == "*" {
            return Ok(Self(None));
        }
        let tag = value.strip_prefix('"').and_then(|tag| tag.strip_suffix('"'));
        let revision = tag.and_then(|tag| tag.parse().ok()).map(|revision| Self(Some(Revision(revision))));
        revision.ok_or_else(|| {
            let detail =
                format!("If-Match is {value:?}; allowed is one ETag as this API gives them, such as \"42\"");
            Refusal::new(Code::ParameterInvalid, detail)
        })
    }
}

/// The text of a header field that may stand once.
pub(crate) fn header_text<'h>(
    headers: &'h HeaderMap,
    name: &header::HeaderName,
) -> Result<Option<&'h str>, Refusal> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Refusal::new(Code::ParameterInvalid, format!("{name} stands twice; it may stand once")));
    }
    let invalid =
        |_| Refusal::new(Code::ParameterInvalid, format!("{name} has characters other than visible ones"));
    value.to_str().map(Some).map_err(invalid)
}

/// Name of the header field by which a repeated request is recognised.
const IDEMPOTENCY_KEY: header::HeaderName = header::HeaderName::from_static("idempotency-key");

/// The key of `Idempotency-Key` for a request with this body to `route`.
pub(crate) fn idempotency(
    headers: &HeaderMap,
    route: &str,
    body: &[u8],
) -> Result<Option<IdempotencyKey>, Refusal> {
    let Some(key) = header_text(headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    let request = [route.as_bytes(), b"\n", body].concat();
    let invalid = |error: ClusterError| Refusal::new(Code::ParameterInvalid, error.to_string());
    IdempotencyKey::new(key, &request).map(Some).map_err(invalid)
}
