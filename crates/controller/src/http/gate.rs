//! The gate: what is looked at before any route sees a request.
//!
//! Two of its rules stand for the authentication that this version does not have. A web page that somebody on this
//! machine visits can make their browser send requests here, so (1) the name in `Host` must be one of ours: a page
//! whose own name was pointed at this address (DNS rebinding) carries that name; an address instead of a name cannot
//! be rebound and is let through; and (2) a request that changes something, or becomes a WebSocket, and comes from a
//! page must come from a page of this server. There is no CORS.

use std::net::IpAddr;

use http::{HeaderMap, Method, Uri, header, request::Parts};

use super::{
    limits::{MAX_HEADER_BYTES, MAX_URL_BYTES},
    problem::{Code, Refusal},
};

/// Looks at a request's head; `names` are the further names of this server.
pub(crate) fn check(head: &Parts, names: &[String]) -> Result<(), Refusal> {
    let url = head.uri.path_and_query().map_or(0, |path| path.as_str().len());
    if url > MAX_URL_BYTES {
        let detail = format!("the URL has {url} bytes; at most {MAX_URL_BYTES} are allowed");
        return Err(Refusal::new(Code::UrlTooLong, detail));
    }
    let size: usize = head.headers.iter().map(|(name, value)| name.as_str().len() + value.len()).sum();
    if size > MAX_HEADER_BYTES {
        let detail = format!("the header has {size} bytes; at most {MAX_HEADER_BYTES} are allowed");
        return Err(Refusal::new(Code::HeadersTooLarge, detail));
    }
    check_host(head, names)?;
    // A WebSocket is no fetch: a browser opens one for any page, and it can do as much as a request that changes things.
    if is_mutating(&head.method) || head.headers.contains_key(header::UPGRADE) {
        check_origin(&head.headers, &head.uri)?;
    }
    Ok(())
}

/// Whether requests of this method may change something.
pub(crate) const fn is_mutating(method: &Method) -> bool {
    !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS)
}

fn check_host(head: &Parts, names: &[String]) -> Result<(), Refusal> {
    let mut hosts = head.headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Refusal::new(Code::ParameterInvalid, "the request has more than one Host"));
    }
    if host.is_none() && head.version >= http::Version::HTTP_11 {
        return Err(Refusal::new(Code::ParameterInvalid, "the request has no Host"));
    }
    let host = host.map(|host| host.to_str().unwrap_or("?"));
    let named = head.uri.authority().map(http::uri::Authority::as_str);
    for authority in named.into_iter().chain(host) {
        let name = host_of(authority);
        if !is_ours(name, names) {
            let detail = format!("{name:?} is not a name of this server");
            return Err(Refusal::new(Code::HostNotAllowed, detail).hint(
                "use its address or localhost, or add the name to the allowed hosts of the controller",
            ));
        }
    }
    Ok(())
}

fn check_origin(headers: &HeaderMap, uri: &Uri) -> Result<(), Refusal> {
    let crosses = headers.get("sec-fetch-site").is_some_and(|site| site == "cross-site");
    let own = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .or(uri.authority().map(|own| own.as_str()));
    let foreign = headers.get_all(header::ORIGIN).iter().any(|origin| {
        let host = origin.to_str().ok().and_then(|origin| origin.strip_prefix("http://"));
        host.is_none() || host.map(str::to_ascii_lowercase) != own.map(str::to_ascii_lowercase)
    });
    if crosses || foreign {
        let detail = "the request comes from a web page of another origin";
        return Err(Refusal::new(Code::OriginNotAllowed, detail));
    }
    Ok(())
}

/// The host in `host[:port]`.
fn host_of(authority: &str) -> &str {
    if authority.starts_with('[') {
        return authority.split_inclusive(']').next().unwrap_or(authority);
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

fn is_ours(host: &str, names: &[String]) -> bool {
    let host = host.strip_suffix('.').unwrap_or(host);
    let address = host.trim_start_matches('[').trim_end_matches(']');
    address.parse::<IpAddr>().is_ok()
        || host.eq_ignore_ascii_case("localhost")
        || names.iter().any(|name| name.eq_ignore_ascii_case(host))
}

/// The path as routes know it: without slashes at its end.
pub(crate) fn normal(uri: &Uri) -> Option<Uri> {
    let path = uri.path();
    let trimmed = path.trim_end_matches('/');
    if trimmed.len() == path.len() || path == "/" {
        return None;
    }
    let path = if trimmed.is_empty() { "/" } else { trimmed };
    let query = uri.query().map(|query| format!("?{query}")).unwrap_or_default();
    format!("{path}{query}").parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn code(build: impl FnOnce(http::request::Builder) -> http::request::Builder) -> Option<Code> {
        let (head, ()) = build(http::Request::builder().method("POST")).body(()).unwrap().into_parts();
        check(&head, &["rik.example".to_owned()]).err().map(|refusal| refusal.code())
    }

    #[test]
    fn names_of_this_server_pass() {
        for host in [
            "localhost",
            "LOCALHOST:5000",
            "127.0.0.1:5000",
            "[::1]:5000",
            "192.0.2.7",
            "rik.example:80",
            "rik.example.",
        ] {
            assert_eq!(code(|request| request.header("host", host)), None, "{host}");
        }
    }

    #[test]
    fn websocket_of_another_page_is_refused_though_it_is_a_get() {
        let ask = |origin: &str| {
            let request = http::Request::builder().method("GET").header("host", "localhost:5000");
            let request = request.header("upgrade", "websocket").header("origin", origin);
            let (head, ()) = request.body(()).unwrap().into_parts();
            check(&head, &[]).err().map(|refusal| refusal.code())
        };
        assert_eq!(ask("http://localhost:5000"), None);
        assert_eq!(ask("http://evil.example"), Some(Code::OriginNotAllowed));
    }

    #[test]
    fn other_names_are_misdirected() {
        for host in [
            "evil.example",
            "evil.example:5000",
            "localhost.evil.example",
            "127.0.0.1.evil.example",
            "",
            "[evil]",
        ] {
            assert_eq!(code(|request| request.header("host", host)), Some(Code::HostNotAllowed), "{host}");
        }
        let absolute =
            |request: http::request::Builder| request.uri("http://evil.example/").header("host", "localhost");
        assert_eq!(code(absolute), Some(Code::HostNotAllowed));
        assert_eq!(code(|request| request), Some(Code::ParameterInvalid));
        let twice =
            |request: http::request::Builder| request.header("host", "localhost").header("host", "evil");
        assert_eq!(code(twice), Some(Code::ParameterInvalid));
    }

    #[test]
    fn only_pages_of_this_server_change_anything() {
        let from = |origin: &'static str| {
            code(|request| request.header("host", "localhost:5000").header("origin", origin))
        };
        assert_eq!(from("http://localhost:5000"), None);
        for origin in ["https://evil.example", "http://localhost", "http://localhost:5001", "null", "http://"]
        {
            assert_eq!(from(origin), Some(Code::OriginNotAllowed), "{origin}");
        }
        let site = |request: http::request::Builder| {
            request.header("host", "localhost").header("sec-fetch-site", "cross-site")
        };
        assert_eq!(code(site), Some(Code::OriginNotAllowed));
    }

    #[test]
    fn slashes_at_the_end_do_not_matter() {
        let normal = |uri: &str| normal(&uri.parse().unwrap()).map(|uri| uri.to_string());
        assert_eq!(normal("/api/v0/workloads.list/?a=b"), Some("/api/v0/workloads.list?a=b".to_owned()));
        assert_eq!(normal("/a///"), Some("/a".to_owned()));
        assert_eq!(normal("//"), Some("/".to_owned()));
        assert_eq!(normal("/"), None);
        assert_eq!(normal("/a"), None);
    }
}
