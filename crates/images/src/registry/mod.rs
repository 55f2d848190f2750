//! Speaks to registries: manifests, small blobs, and layers as streams, over the distribution protocol.
//!
//! HTTP with its redirects is handled here and not by the HTTP client, because each hop decides what may be sent where:
//! a token goes only to the host that asked for it, and never to a less protected one.
//!
//! *Guarantees*: every answer is bounded in size and silence; a document that is returned has the digest that was
//! asked for; a stream that breaks is continued where it broke.
//!
//! *Not here*: digests of layers (whoever unpacks checks them, byte by byte); logins of workloads.

mod auth;
mod fault;
mod retry;

use std::future::Future;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use reqwest::header::{
    ACCEPT, AUTHORIZATION, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LOCATION, RANGE, RETRY_AFTER,
    WWW_AUTHENTICATE,
};
use reqwest::{Certificate, Client, ClientBuilder, Response, StatusCode, Url};
use tokio::sync::mpsc;

pub use fault::RegistryError;

use crate::config::Endpoint;
use crate::document::{DOCKER_LIST, DOCKER_MANIFEST, OCI_INDEX, OCI_MANIFEST};
use crate::limits::{
    LAYERS_AT_ONCE, MANIFEST_BYTES_MAX, REDIRECTS_MAX, SMALL_ANSWER_DEADLINE, TOKEN_AGE_MAX, TOKEN_BYTES_MAX,
};
use crate::login::Login;
use crate::reference::is_loopback;
use crate::{Digest, RegistryConfig};
use auth::{Demand, Holder, Tokens};
use retry::{Tries, retried};

/// Bytes that a stream must have brought since its last break for the break to count as a first one.
const PROGRESS_BYTES: u64 = 1 << 20;
/// Name under which registries see us.
const USER_AGENT: &str = concat!("rik/", env!("CARGO_PKG_VERSION"));

/// All registries.
pub(crate) struct Registry {
    config: RegistryConfig,
    /// Of authorities that this machine's operator adds.
    authorities: Vec<Certificate>,
    connect_timeout: Duration,
    idle_timeout: Duration,
    /// For HTTPS. Made when it is first needed: it reads this machine's certificates, of which there may be none.
    trusting: OnceLock<Client>,
    /// For plain HTTP.
    plain: Client,
    /// For this machine: never through a proxy.
    local: Client,
    tokens: Mutex<Tokens>,
}

/// A repository on one host.
#[derive(Debug, Clone)]
pub(crate) struct Repository {
    pub(crate) endpoint: Endpoint,
    pub(crate) path: String,
    /// Who asks.
    pub(crate) login: Option<Login>,
}

impl Repository {
    fn holder(&self) -> Holder {
        Holder {
            registry: self.endpoint.name.clone(),
            repository: self.path.clone(),
            login: self.login.clone(),
        }
    }
}

/// A manifest or index as it came.
#[derive(Debug)]
pub(crate) struct Fetched {
    pub(crate) bytes: Bytes,
    pub(crate) digest: Digest,
    pub(crate) content_type: Option<String>,
}

/// A blob, and what to call it in messages.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    pub(crate) what: String,
}

/// Where a blob's bytes go.
pub(crate) struct Outlet {
    feed: mpsc::Sender<io::Result<Bytes>>,
    /// Bytes sent, for others to see.
    seen: Arc<AtomicU64>,
    at: u64,
}

impl Outlet {
    pub(crate) fn new(feed: mpsc::Sender<io::Result<Bytes>>, seen: Arc<AtomicU64>) -> Self {
        Self { feed, seen, at: 0 }
    }

    /// Tells the other side that this is no end of a blob.
    pub(crate) async fn break_off(&self) {
        let _ = self.feed.send(Err(io::ErrorKind::ConnectionAborted.into())).await;
    }
}

impl Registry {
    pub(crate) fn new(config: &RegistryConfig) -> Result<Self, RegistryError> {
        // Fails only if somebody in this process chose one before.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let connect_timeout = Duration::from_secs(config.connect_timeout_seconds);
        let idle_timeout = Duration::from_secs(config.idle_timeout_seconds);
        let authorities = read_authorities(config)?;
        let without_roots = || client(connect_timeout, idle_timeout).tls_certs_only([]);
        Ok(Self {
            config: config.clone(),
            authorities,
            trusting: OnceLock::new(),
            plain: without_roots().build().map_err(setup)?,
            local: without_roots().no_proxy().build().map_err(setup)?,
            connect_timeout,
            idle_timeout,
            tokens: Mutex::default(),
        })
    }

    /// The document under a tag or digest. `expected` is the digest it must have.
    pub(crate) async fn document(
        &self,
        repository: &Repository,
        selector: &str,
        expected: Option<Digest>,
        what: &str,
    ) -> Result<Fetched, RegistryError> {
        let path = format!("manifests/{selector}");
        let accept = [OCI_INDEX, OCI_MANIFEST, DOCKER_LIST, DOCKER_MANIFEST].join(", ");
        let ask = Ask { path: &path, accept: Some(&accept), what, offset: 0 };
        let (bytes, headers) = self.small(repository, ask, MANIFEST_BYTES_MAX).await?;
        let digest = Digest::of(&bytes);
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok()).map(str::to_owned);
        let named: Option<Digest> = text("docker-content-digest").and_then(|digest| digest.parse().ok());
        match expected.or(named) {
            Some(expected) if expected != digest => Err(RegistryError::Digest {
                registry: repository.endpoint.name.clone(),
                what: what.to_owned(),
                expected,
                found: digest,
            }),
            _ => Ok(Fetched { bytes, digest, content_type: text(CONTENT_TYPE.as_str()) }),
        }
    }

    /// A blob that is small enough to hold; verified.
    pub(crate) async fn blob(
        &self,
        repository: &Repository,
        wanted: &Wanted,
    ) -> Result<Bytes, RegistryError> {
        let path = format!("blobs/{}", wanted.digest);
        let ask = Ask { path: &path, accept: None, what: &wanted.what, offset: 0 };
        let (bytes, _) = self.small(repository, ask, wanted.size).await?;
        check_length(bytes.len() as u64, &repository.endpoint.name, wanted)?;
        let (registry, what) = (repository.endpoint.name.clone(), wanted.what.clone());
        let found = Digest::of(&bytes);
        if found != wanted.digest {
            return Err(RegistryError::Digest { registry, what, expected: wanted.digest, found });
        }
        Ok(bytes)
    }

    /// Sends a blob's bytes to `outlet` until its end, or until nobody takes them any more.
    pub(crate) async fn stream(
        &self,
        repository: &Repository,
        wanted: &Wanted,
        outlet: &mut Outlet,
    ) -> Result<(), RegistryError> {
        let mut tries = Tries::default();
        loop {
            let from = outlet.at;
            match self.stream_on(repository, wanted, outlet).await {
                Ok(()) => return Ok(()),
                Err(fault) => {
                    if outlet.at - from >= PROGRESS_BYTES {
                        tries.reset();
                    }
                    tries.wait_after(fault).await?;
                }
            }
        }
    }

    /// Sends what has not been sent.
    async fn stream_on(
        &self,
        repository: &Repository,
        wanted: &Wanted,
        outlet: &mut Outlet,
    ) -> Result<(), RegistryError> {
        if outlet.at > 0 && outlet.at == wanted.size {
            return Ok(());
        }
        let registry = &repository.endpoint.name;
        let path = format!("blobs/{}", wanted.digest);
        let ask = Ask { path: &path, accept: None, what: &wanted.what, offset: outlet.at };
        let mut response = self.request(repository, &ask).await?;
        let mut skipped = skip_before(&response, outlet.at, registry)?;
        if let Some(length) = response.content_length() {
            check_length(length.saturating_add(outlet.at - skipped), registry, wanted)?;
        }
        loop {
            let chunk =
                response.chunk().await.map_err(|fault| RegistryError::of_transport(registry, &fault))?;
            let Some(mut chunk) = chunk else { break };
            let skip = skipped.min(chunk.len() as u64);
            skipped -= skip;
            let chunk = chunk.split_off(usize::try_from(skip).unwrap_or(chunk.len()));
            outlet.at += chunk.len() as u64;
            outlet.seen.store(outlet.at, Ordering::Relaxed);
            if outlet.feed.send(Ok(chunk)).await.is_err() || outlet.at > wanted.size {
                // Whoever unpacks has seen enough, or sees now that this is too much.
                return Ok(());
            }
        }
        if outlet.at < wanted.size {
            let reason = format!("{} of {} bytes of {} came", outlet.at, wanted.size, wanted.what);
            return Err(RegistryError::Interrupted { registry: registry.clone(), reason });
        }
        Ok(())
    }

    /// A whole answer of at most `max` bytes, and its headers.
    async fn small(
        &self,
        repository: &Repository,
        ask: Ask<'_>,
        max: u64,
    ) -> Result<(Bytes, HeaderMap), RegistryError> {
        let registry = &repository.endpoint.name;
        retried(|| {
            in_time(registry, async {
                let response = self.request(repository, &ask).await?;
                let headers = response.headers().clone();
                Ok((read_bounded(response, registry, ask.what, max).await?, headers))
            })
        })
        .await
    }

    /// Makes a request; if the registry wants to know who asks, finds that out and makes it again.
    async fn request(&self, repository: &Repository, ask: &Ask<'_>) -> Result<Response, RegistryError> {
        let (endpoint, holder) = (&repository.endpoint, repository.holder());
        let mut known = self.tokens().get(&holder, Instant::now());
        let mut stranger = None;
        let mut response = self.send(repository, ask, known.as_deref()).await?;
        if response.status() == StatusCode::UNAUTHORIZED {
            let headers = response.headers().get_all(WWW_AUTHENTICATE).iter();
            let demand = headers.filter_map(|value| value.to_str().ok()).find_map(auth::parse_demand);
            self.tokens().forget(&holder);
            if let (Some(Demand::Token(challenge)), Some(_)) = (&demand, &repository.login) {
                stranger = self.stranger(endpoint, challenge);
            }
            known = match (demand, &repository.login) {
                (Some(Demand::Token(challenge)), _) => {
                    Some(in_time(&endpoint.name, self.fetch_token(repository, &challenge)).await?)
                }
                (Some(Demand::Login), Some(login)) => {
                    Some(self.tokens().keep(&holder, login.header(), Instant::now(), TOKEN_AGE_MAX))
                }
                (Some(Demand::Login) | None, _) => None,
            };
            if known.is_some() {
                response = self.send(repository, ask, known.as_deref()).await?;
            }
        }
        let status = response.status();
        if status == StatusCode::OK || (status == StatusCode::PARTIAL_CONTENT && ask.offset > 0) {
            return Ok(response);
        }
        let retry_after = response.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let retry_after = retry_after.and_then(|text| text.parse().ok()).map(Duration::from_secs);
        Err(
            match (RegistryError::of_status(&endpoint.name, ask.what, status, retry_after), &repository.login)
            {
                (RegistryError::Login { registry, what }, Some(login)) => {
                    self.tokens().forget(&holder);
                    let user = login.user.clone();
                    match stranger {
                        Some(host) => RegistryError::Stranger { registry, user, host },
                        None => RegistryError::LoginRefused { registry, what, user },
                    }
                }
                (other, _) => other,
            },
        )
    }

    async fn send(
        &self,
        repository: &Repository,
        ask: &Ask<'_>,
        known: Option<&str>,
    ) -> Result<Response, RegistryError> {
        let endpoint = &repository.endpoint;
        let refused = |reason: String| RegistryError::Redirect { registry: endpoint.name.clone(), reason };
        let start = format!("{}/v2/{}/{}", endpoint.base, repository.path, ask.path);
        let start = Url::parse(&start).map_err(|_| refused("nowhere: its own address is none".to_owned()))?;
        let mut url = start.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self.client_for(&url)?.get(url.clone());
            if let Some(accept) = ask.accept {
                request = request.header(ACCEPT, accept);
            }
            if ask.offset > 0 {
                request = request.header(RANGE, format!("bytes={}-", ask.offset));
            }
            if let Some(known) = known
                && url.origin() == start.origin()
            {
                request = request.header(AUTHORIZATION, known);
            }
            let response =
                request.send().await.map_err(|fault| RegistryError::of_transport(&endpoint.name, &fault))?;
            if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
                return Ok(response);
            }
            let location = response.headers().get(LOCATION).and_then(|value| value.to_str().ok());
            let next = location.and_then(|location| url.join(location).ok());
            url = next.ok_or_else(|| refused("to no address".to_owned()))?;
            auth::check_target(endpoint, &url).map_err(|reason| refused(format!("to {url}, {reason}")))?;
        }
        Err(refused(format!("more than {REDIRECTS_MAX} times")))
    }

    async fn fetch_token(
        &self,
        repository: &Repository,
        challenge: &auth::Challenge,
    ) -> Result<String, RegistryError> {
        let endpoint = &repository.endpoint;
        let registry = endpoint.name.clone();
        let url = auth::token_url(endpoint, challenge, &repository.path).map_err(|reason| {
            RegistryError::Realm {
                registry: registry.clone(),
                realm: challenge.realm.chars().take(200).collect(),
                reason,
            }
        })?;
        let host = url.host_str().unwrap_or_default().to_owned();
        let mut request = self.client_for(&url)?.get(url);
        // A token service that is not told may still give what is public.
        let told = repository.login.as_ref().filter(|_| self.config.may_tell(endpoint, &host));
        if let Some(login) = told {
            request = request.header(AUTHORIZATION, login.header());
        }
        let sent = request.send().await;
        let response = sent.map_err(|fault| RegistryError::of_transport(&registry, &fault))?;
        let status = response.status();
        if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS {
            return Err(RegistryError::of_status(&registry, "a token", status, None));
        }
        if let (StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN, Some(login)) = (status, &repository.login) {
            let user = login.user.clone();
            return Err(match told {
                Some(_) => RegistryError::LoginRefused { registry, what: "a token".to_owned(), user },
                None => RegistryError::Stranger { registry, user, host },
            });
        }
        if status != StatusCode::OK {
            return Err(RegistryError::Token {
                registry,
                reason: format!("it answered {}", status.as_u16()),
            });
        }
        let bytes = read_bounded(response, &registry, "a token", TOKEN_BYTES_MAX).await?;
        let answer = serde_json::from_slice(&bytes).map_err(|fault| RegistryError::Token {
            registry: registry.clone(),
            reason: fault.to_string(),
        })?;
        let kept = self.tokens().put(&repository.holder(), answer, Instant::now());
        kept.ok_or_else(|| RegistryError::Token {
            registry,
            reason: "there is none in its answer".to_owned(),
        })
    }

    /// The host that a challenge sends to, if it is not told this registry's logins.
    fn stranger(&self, endpoint: &Endpoint, challenge: &auth::Challenge) -> Option<String> {
        let url = Url::parse(&challenge.realm).ok()?;
        let host = url.host_str()?;
        (!self.config.may_tell(endpoint, host)).then(|| host.to_owned())
    }

    fn client_for(&self, url: &Url) -> Result<&Client, RegistryError> {
        if url.host_str().is_some_and(is_loopback) && url.scheme() == "http" {
            return Ok(&self.local);
        }
        if url.scheme() == "http" {
            return Ok(&self.plain);
        }
        if let Some(client) = self.trusting.get() {
            return Ok(client);
        }
        let made = client(self.connect_timeout, self.idle_timeout).tls_certs_merge(self.authorities.clone());
        let made = made.build().map_err(setup)?;
        Ok(self.trusting.get_or_init(|| made))
    }

    fn tokens(&self) -> std::sync::MutexGuard<'_, Tokens> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn client(connect_timeout: Duration, idle_timeout: Duration) -> ClientBuilder {
    Client::builder()
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(connect_timeout)
        .read_timeout(idle_timeout)
        .pool_max_idle_per_host(LAYERS_AT_ONCE)
}

fn read_authorities(config: &RegistryConfig) -> Result<Vec<Certificate>, RegistryError> {
    let mut all = Vec::new();
    for path in &config.authorities {
        let fault = |reason: String| RegistryError::Authority { path: path.clone(), reason };
        let bytes = std::fs::read(path).map_err(|error| fault(error.to_string()))?;
        let found = Certificate::from_pem_bundle(&bytes).map_err(|error| fault(fault::innermost(&error)))?;
        if found.is_empty() {
            return Err(fault("there is no certificate in it".to_owned()));
        }
        all.extend(found);
    }
    Ok(all)
}

fn setup(fault: reqwest::Error) -> RegistryError {
    RegistryError::Setup { reason: fault::innermost(&fault) }
}

/// One request to a repository.
struct Ask<'a> {
    path: &'a str,
    accept: Option<&'a str>,
    what: &'a str,
    /// First byte wanted.
    offset: u64,
}

fn check_length(found: u64, registry: &str, wanted: &Wanted) -> Result<(), RegistryError> {
    if found == wanted.size {
        return Ok(());
    }
    let (registry, what) = (registry.to_owned(), wanted.what.clone());
    Err(RegistryError::Size { registry, what, declared: wanted.size, found })
}

/// How many bytes of the answer lie before `at`: none if the registry honoured the range.
fn skip_before(response: &Response, at: u64, registry: &str) -> Result<u64, RegistryError> {
    if response.status() != StatusCode::PARTIAL_CONTENT {
        return Ok(at);
    }
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let start: Option<u64> =
        range.and_then(|range| range.strip_prefix("bytes ")?.split('-').next()?.parse().ok());
    match start {
        Some(start) if at == start => Ok(0),
        _ => Err(RegistryError::Interrupted {
            registry: registry.to_owned(),
            reason: format!("it continues at another place than byte {at}"),
        }),
    }
}

async fn read_bounded(
    mut response: Response,
    registry: &str,
    what: &str,
    max: u64,
) -> Result<Bytes, RegistryError> {
    let mut bytes = Vec::new();
    loop {
        let chunk = response.chunk().await.map_err(|fault| RegistryError::of_transport(registry, &fault))?;
        let Some(chunk) = chunk else { return Ok(bytes.into()) };
        if (bytes.len() + chunk.len()) as u64 > max {
            return Err(RegistryError::TooLarge {
                registry: registry.to_owned(),
                what: what.to_owned(),
                max,
            });
        }
        bytes.extend_from_slice(&chunk);
    }
}

async fn in_time<T>(
    registry: &str,
    work: impl Future<Output = Result<T, RegistryError>>,
) -> Result<T, RegistryError> {
    match tokio::time::timeout(SMALL_ANSWER_DEADLINE, work).await {
        Ok(done) => done,
        Err(_) => Err(RegistryError::Timeout { registry: registry.to_owned() }),
    }
}
