//! Anonymous tokens: what a registry's 401 asks for, and where it may send us.
//!
//! A hostile registry could point at any address of this network, so the token service must be as public as the
//! registry itself, and never less protected. The scope asked for is exactly "pull this repository". Pure but for the
//! age of tokens, whose clock is an argument.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::{Duration, Instant};

use reqwest::Url;
use serde::Deserialize;

use crate::config::Endpoint;
use crate::limits::{CHALLENGE_BYTES_MAX, TOKEN_AGE_DEFAULT, TOKEN_AGE_MAX, TOKENS_MAX};
use crate::login::Login;
use crate::reference::host_of;

/// What a `WWW-Authenticate` header asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Demand {
    /// A token.
    Token(Challenge),
    /// User and password, with every request.
    Login,
}

/// Reads the header; `None` if it makes no sense.
pub(super) fn parse_demand(header: &str) -> Option<Demand> {
    let scheme = header.trim_start().split(' ').next()?;
    if scheme.eq_ignore_ascii_case("basic") {
        return Some(Demand::Login);
    }
    parse_challenge(header).map(Demand::Token)
}

/// What a `WWW-Authenticate: Bearer` header asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Challenge {
    pub(super) realm: String,
    pub(super) service: Option<String>,
}

/// Reads the header; `None` if it asks for something else or makes no sense.
fn parse_challenge(header: &str) -> Option<Challenge> {
    if header.len() > CHALLENGE_BYTES_MAX {
        return None;
    }
    let (scheme, mut rest) = header.trim_start().split_once(' ')?;
    if !scheme.eq_ignore_ascii_case("bearer") {
        return None;
    }
    let (mut realm, mut service) = (None, None);
    while !rest.trim_start().is_empty() {
        let (key, after) = rest.split_once('=')?;
        let (value, after) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"')?,
            None => after.find(',').map_or((after, ""), |comma| after.split_at(comma)),
        };
        rest = match after.trim_start() {
            "" => "",
            after => after.strip_prefix(',')?,
        };
        let slot = match key.trim().to_ascii_lowercase().as_str() {
            "realm" => &mut realm,
            "service" => &mut service,
            _ => continue,
        };
        if slot.replace(value.to_owned()).is_some() {
            return None;
        }
    }
    Some(Challenge { realm: realm?, service })
}

/// The address to ask for a token, or why it is not asked.
pub(super) fn token_url(
    endpoint: &Endpoint,
    challenge: &Challenge,
    repository: &str,
) -> Result<Url, &'static str> {
    let mut url = Url::parse(&challenge.realm).map_err(|_| "which is no address")?;
    if !url.username().is_empty() || url.password().is_some() {
        return Err("which carries a login");
    }
    check_target(endpoint, &url)?;
    url.query_pairs_mut()
        .extend_pairs(challenge.service.iter().map(|service| ("service", service.as_str())))
        .append_pair("scope", &format!("repository:{repository}:pull"));
    Ok(url)
}

/// Whether a registry may send us to `url`: as protected and as public as itself, or on its own host.
pub(super) fn check_target(endpoint: &Endpoint, url: &Url) -> Result<(), &'static str> {
    match (url.scheme(), endpoint.plain) {
        ("https", _) | ("http", true) => {}
        ("http", false) => return Err("which is not encrypted"),
        _ => return Err("which is neither http nor https"),
    }
    let host = url.host_str().ok_or("which has no host")?;
    let host = host_of(host);
    let own = host_of(&endpoint.name);
    if host == own {
        return Ok(());
    }
    if url.scheme() == "http" && !endpoint.loopback {
        return Err("which is another host and not encrypted");
    }
    let address: Option<IpAddr> = host.parse().ok();
    if address.is_some_and(is_link_local) {
        return Err("which is an address within one link");
    }
    let is_here = host == "localhost"
        || address.is_some_and(|address| address.is_loopback() || address.is_unspecified());
    if is_here && !endpoint.loopback {
        return Err("which is this machine itself");
    }
    let own_is_private = endpoint.loopback || own.parse::<IpAddr>().is_ok_and(is_private);
    if address.is_some_and(is_private) && !own_is_private {
        return Err("which is an address of a private network");
    }
    Ok(())
}

fn is_link_local(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_link_local(),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => mapped.is_link_local(),
            None => address.is_unicast_link_local(),
        },
    }
}

fn is_private(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => address.is_private() || address.is_loopback(),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(mapped) => mapped.is_private() || mapped.is_loopback(),
            None => address.is_unique_local() || address.is_loopback(),
        },
    }
}

/// A token service's answer.
#[derive(Deserialize)]
pub(super) struct TokenAnswer {
    #[serde(default)]
    token: Option<String>,
    #[serde(default)]
    access_token: Option<String>,
    #[serde(default)]
    expires_in: Option<i64>,
}

/// Whom a token was given to, and for what.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Holder {
    pub(super) registry: String,
    pub(super) repository: String,
    pub(super) login: Option<Login>,
}

/// Values of the `Authorization` header that still hold.
#[derive(Default)]
pub(super) struct Tokens {
    held: BTreeMap<Holder, (String, Instant)>,
}

impl Tokens {
    pub(super) fn get(&self, holder: &Holder, now: Instant) -> Option<String> {
        let (value, until) = self.held.get(holder)?;
        (now < *until).then(|| value.clone())
    }

    /// Keeps the token of an answer; `None` if it has none that fits a header.
    pub(super) fn put(&mut self, holder: &Holder, answer: TokenAnswer, now: Instant) -> Option<String> {
        let token = answer.token.or(answer.access_token)?;
        if token.is_empty() || !token.bytes().all(|byte| byte.is_ascii_graphic()) {
            return None;
        }
        let age = match answer.expires_in {
            None => TOKEN_AGE_DEFAULT,
            Some(seconds) => Duration::from_secs(u64::try_from(seconds).unwrap_or(0)).min(TOKEN_AGE_MAX),
        };
        Some(self.keep(holder, format!("Bearer {token}"), now, age))
    }

    /// Keeps a header's value.
    pub(super) fn keep(&mut self, holder: &Holder, value: String, now: Instant, age: Duration) -> String {
        self.held.retain(|_, (_, until)| now < *until);
        if self.held.len() >= TOKENS_MAX {
            self.held.pop_first();
        }
        self.held.insert(holder.clone(), (value.clone(), now + age));
        value
    }

    pub(super) fn forget(&mut self, holder: &Holder) {
        self.held.remove(holder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::RegistryConfig;

    fn endpoint(name: &str, insecure: bool) -> Endpoint {
        let insecure = if insecure { vec![name.to_owned()] } else { Vec::new() };
        let config = RegistryConfig { insecure, ..RegistryConfig::default() };
        config.endpoints(&format!("{name}/x").parse().unwrap()).remove(0)
    }

    #[test]
    fn a_challenge_is_read_or_ignored() {
        let header =
            r#"Bearer realm="https://auth.example/token",service="reg, istry",scope="repository:other:push""#;
        let challenge = parse_challenge(header).unwrap();
        assert_eq!(challenge.realm, "https://auth.example/token");
        assert_eq!(challenge.service.as_deref(), Some("reg, istry"));
        assert_eq!(parse_challenge("bearer realm=https://a/b , x=y").unwrap().realm, "https://a/b ");
        let huge = format!("Bearer realm=\"{}\"", "x".repeat(1 << 20));
        for header in [
            "",
            "Basic realm=\"x\"",
            "Bearer",
            "Bearer realm=\"x",
            "Bearer x",
            "Bearer service=\"x\"",
            "Bearer realm=\"a\" realm=\"b\"",
            "Bearer realm=\"a\",realm=\"b\"",
            &huge,
        ] {
            assert_eq!(parse_challenge(header), None, "{:.60}", header);
        }
    }

    #[test]
    fn a_token_is_fetched_only_from_where_the_registry_could_be() {
        let challenge = |realm: &str| Challenge { realm: realm.to_owned(), service: None };
        let public = endpoint("registry.example", false);
        let url = token_url(&public, &challenge("https://auth.example/token"), "a/b").unwrap();
        assert_eq!(url.as_str(), "https://auth.example/token?scope=repository%3Aa%2Fb%3Apull");
        for realm in [
            "http://registry.example/token",
            "http://127.0.0.1/token",
            "https://127.0.0.1/token",
            "https://localhost/token",
            "https://[::1]/token",
            "https://[::ffff:127.0.0.1]/token",
            "https://10.1.2.3/token",
            "https://169.254.169.254/token",
            "https://[::ffff:169.254.169.254]/token",
            "https://0.0.0.0/token",
            "https://user:pass@auth.example/token",
            "file:///etc/passwd",
            "token",
        ] {
            assert!(token_url(&public, &challenge(realm), "x").is_err(), "{realm}");
        }
        let plain = endpoint("lab.example:5000", true);
        assert!(token_url(&plain, &challenge("http://lab.example:5001/token"), "x").is_ok());
        assert!(token_url(&plain, &challenge("http://other.example/token"), "x").is_err());
        let here = endpoint("127.0.0.1:5000", false);
        assert!(token_url(&here, &challenge("http://localhost:5001/token"), "x").is_ok());
        assert!(token_url(&here, &challenge("http://169.254.169.254/token"), "x").is_err());
    }

    #[test]
    fn a_token_ages_within_bounds() {
        let now = Instant::now();
        let mut tokens = Tokens::default();
        let answer = |token: &str, expires_in| TokenAnswer {
            token: Some(token.to_owned()),
            access_token: None,
            expires_in,
        };
        let holder = |registry: &str, repository: &str| Holder {
            registry: registry.to_owned(),
            repository: repository.to_owned(),
            login: None,
        };
        let later = |seconds| now + Duration::from_secs(seconds);
        tokens.put(&holder("r", "long"), answer("t", Some(10 * 365 * 86400)), now).unwrap();
        assert!(tokens.get(&holder("r", "long"), later(3599)).is_some());
        assert!(tokens.get(&holder("r", "long"), later(3601)).is_none());
        tokens.put(&holder("r", "short"), answer("t", Some(-1)), now).unwrap();
        assert!(tokens.get(&holder("r", "short"), now).is_none());
        tokens.put(&holder("r", "plain"), answer("t", None), now).unwrap();
        assert!(tokens.get(&holder("r", "plain"), later(59)).is_some());
        assert!(tokens.get(&holder("other", "plain"), now).is_none());
        assert_eq!(tokens.put(&holder("r", "x"), answer("a\r\nb", None), now), None);
        assert_eq!(tokens.put(&holder("r", "x"), answer("", None), now), None);
    }
}
