//! Names of images: what a person writes, and the one full form that everything here works with.
//!
//! `alpine` means `docker.io/library/alpine:latest`. Names are registry names and nothing else: transports
//! (`oci:/path`), URLs and anything that could be read as an option of a program are refused with the reason.

use std::fmt;
use std::net::{IpAddr, Ipv6Addr};
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::{Digest, DigestError};

/// The registry that a name without one means.
const DEFAULT_REGISTRY: &str = "docker.io";
/// The tag that a name without tag and digest means.
const DEFAULT_TAG: &str = "latest";
/// Registry and repository together, in bytes: the limit of the reference grammar that registries share.
const NAME_MAX: usize = 255;
/// A tag, in bytes: the same grammar's limit.
const TAG_MAX: usize = 128;
/// How much of a refused text is repeated to the reader.
const QUOTED_MAX: usize = 80;

/// A full image name: registry, repository, and a tag or a digest or both. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference(Arc<Parts>);

#[derive(PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Parts {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

/// A text that is not an image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not an image name: {fault}")]
pub struct ReferenceError {
    /// What was given (its beginning).
    pub text: String,
    /// What is wrong with it.
    pub fault: ReferenceFault,
}

/// What is wrong with an image name.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReferenceFault {
    /// Nothing was given, or nothing but a tag or digest.
    #[error("it is empty")]
    Empty,
    /// Registry and repository are too long together.
    #[error("it is longer than {NAME_MAX} characters")]
    TooLong,
    /// It could be taken for an option.
    #[error("it begins with '-'")]
    LeadingDash,
    /// Spaces, control characters, anything outside of ASCII.
    #[error("it contains {0:?}")]
    Character(char),
    /// A URL or a transport of another tool.
    #[error("images come from registries only; leave out {0:?}")]
    Transport(String),
    /// The registry is not a host name or address.
    #[error("{0:?} is not a registry host; write host, host:port or [ipv6]:port")]
    Host(String),
    /// A host name that displays as something else than it is.
    #[error("registry {0:?} is an encoded international name, which could pass for another host")]
    International(String),
    /// The registry's port is not a port.
    #[error("{0:?} is not a port; write 1 to 65535")]
    Port(String),
    /// Repositories are lower case.
    #[error("repository {0:?} has upper-case letters; registries have lower-case names")]
    UpperCase(String),
    /// A part between slashes breaks the grammar.
    #[error(
        "{0:?} cannot be a part of a repository; parts are a-z and 0-9, joined by single '.', '_', '__' or '-'"
    )]
    Part(String),
    /// The tag breaks the grammar.
    #[error(
        "{0:?} cannot be a tag; tags are letters, digits, '_', '.' and '-', and begin with none of the last two"
    )]
    Tag(String),
    /// The tag is too long.
    #[error("its tag is longer than {TAG_MAX} characters")]
    TagTooLong,
    /// More than one `@`.
    #[error("it has more than one '@'")]
    SecondDigest,
    /// The digest is malformed.
    #[error("{0}")]
    Digest(DigestError),
}

impl Reference {
    /// Host of the registry, with its port if one was given: `docker.io`, `127.0.0.1:5000`.
    pub fn registry(&self) -> &str {
        &self.0.registry
    }

    /// Path within the registry: `library/alpine`.
    pub fn repository(&self) -> &str {
        &self.0.repository
    }

    /// The tag; absent only where a digest was given without one.
    pub fn tag(&self) -> Option<&str> {
        self.0.tag.as_deref()
    }

    /// The digest that pins the image.
    pub fn digest(&self) -> Option<Digest> {
        self.0.digest
    }

    /// The same repository's image of this digest, whatever its tags mean.
    #[must_use]
    pub fn by_digest(&self, digest: Digest) -> Self {
        let Parts { registry, repository, .. } = &*self.0;
        let (registry, repository) = (registry.clone(), repository.clone());
        Self(Arc::new(Parts { registry, repository, tag: None, digest: Some(digest) }))
    }

    /// What a registry is asked for: the digest if there is one, else the tag.
    pub(crate) fn selector(&self) -> String {
        match (&self.0.digest, &self.0.tag) {
            (Some(digest), _) => digest.to_string(),
            (None, Some(tag)) => tag.clone(),
            (None, None) => DEFAULT_TAG.to_owned(),
        }
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.0.registry, self.0.repository)?;
        if let Some(tag) = &self.0.tag {
            write!(out, ":{tag}")?;
        }
        match &self.0.digest {
            Some(digest) => write!(out, "@{digest}"),
            None => Ok(()),
        }
    }
}

impl fmt::Debug for Reference {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, out)
    }
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Self, ReferenceError> {
        parse(text).map_err(|fault| ReferenceError { text: text.chars().take(QUOTED_MAX).collect(), fault })
    }
}

impl TryFrom<String> for Reference {
    type Error = ReferenceError;

    fn try_from(text: String) -> Result<Self, ReferenceError> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

fn parse(text: &str) -> Result<Reference, ReferenceFault> {
    if let Some(character) = text.chars().find(|c| !c.is_ascii_graphic()) {
        return Err(ReferenceFault::Character(character));
    }
    if text.starts_with('-') {
        return Err(ReferenceFault::LeadingDash);
    }
    if let Some((transport, _)) = text.split_once(":/") {
        return Err(ReferenceFault::Transport(format!("{}:", quoted(transport))));
    }
    let (named, digest) = match text.split_once('@') {
        Some((_, rest)) if rest.contains('@') => return Err(ReferenceFault::SecondDigest),
        Some((named, digest)) => (named, Some(digest.parse().map_err(ReferenceFault::Digest)?)),
        None => (text, None),
    };
    let (registry, rest) = split_registry(named)?;
    let (repository, tag) = match rest.split_once(':') {
        Some((repository, tag)) => (repository, Some(check_tag(tag)?)),
        None => (rest, None),
    };
    let repository = check_repository(&registry, repository)?;
    if registry.len() + 1 + repository.len() > NAME_MAX {
        return Err(ReferenceFault::TooLong);
    }
    let tag = match (tag, digest) {
        (None, None) => Some(DEFAULT_TAG.to_owned()),
        (tag, _) => tag,
    };
    Ok(Reference(Arc::new(Parts { registry, repository, tag, digest })))
}

/// Splits a registry off: the part before the first slash, if it can only be a host.
fn split_registry(named: &str) -> Result<(String, &str), ReferenceFault> {
    match named.split_once('/') {
        Some((host, rest)) if host == "localhost" || host.contains(['.', ':', '[']) => {
            Ok((check_registry(host)?, rest))
        }
        _ => Ok((DEFAULT_REGISTRY.to_owned(), named)),
    }
}

/// A registry's host and optional port in lower case, or what is wrong with it.
pub(crate) fn check_registry(registry: &str) -> Result<String, ReferenceFault> {
    let fault = || ReferenceFault::Host(quoted(registry));
    let (host, port) = match registry.strip_prefix('[') {
        Some(rest) => {
            let (address, port) = rest.split_once(']').ok_or_else(fault)?;
            address.parse::<Ipv6Addr>().map_err(|_| fault())?;
            let port = match port {
                "" => None,
                port => Some(port.strip_prefix(':').ok_or_else(fault)?),
            };
            (&registry[..address.len() + 2], port)
        }
        None => match registry.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (registry, None),
        },
    };
    if !host.starts_with('[') {
        check_host(host)?;
    }
    if let Some(port) = port {
        let digits = !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit());
        if !digits || !port.parse::<u16>().is_ok_and(|number| number > 0) {
            return Err(ReferenceFault::Port(quoted(port)));
        }
    }
    match registry.to_ascii_lowercase().as_str() {
        "index.docker.io" | "registry-1.docker.io" => Ok(DEFAULT_REGISTRY.to_owned()),
        lower => Ok(lower.to_owned()),
    }
}

fn check_host(host: &str) -> Result<(), ReferenceFault> {
    for label in host.split('.') {
        let edges = [label.bytes().next(), label.bytes().last()];
        let good = edges.iter().all(|edge| edge.is_some_and(|b| b.is_ascii_alphanumeric()))
            && label.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-');
        if !good {
            return Err(ReferenceFault::Host(quoted(host)));
        }
        if label.to_ascii_lowercase().starts_with("xn--") {
            return Err(ReferenceFault::International(quoted(host)));
        }
    }
    Ok(())
}

fn check_repository(registry: &str, repository: &str) -> Result<String, ReferenceFault> {
    if repository.is_empty() {
        return Err(ReferenceFault::Empty);
    }
    if repository.bytes().any(|b| b.is_ascii_uppercase()) {
        return Err(ReferenceFault::UpperCase(quoted(repository)));
    }
    if let Some(part) = repository.split('/').find(|part| !is_repository_part(part)) {
        return Err(ReferenceFault::Part(quoted(part)));
    }
    if registry == DEFAULT_REGISTRY && !repository.contains('/') {
        return Ok(format!("library/{repository}"));
    }
    Ok(repository.to_owned())
}

/// Runs of `a-z0-9`, joined by one `.`, one or two `_`, or any number of `-`.
fn is_repository_part(part: &str) -> bool {
    let is_word = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let bytes = part.as_bytes();
    let edges_are_words =
        bytes.first().is_some_and(|b| is_word(*b)) && bytes.last().is_some_and(|b| is_word(*b));
    edges_are_words
        && bytes
            .split(|b| is_word(*b))
            .all(|joint| matches!(joint, b"" | b"." | b"_" | b"__") || joint.iter().all(|b| *b == b'-'))
}

fn check_tag(tag: &str) -> Result<String, ReferenceFault> {
    if tag.len() > TAG_MAX {
        return Err(ReferenceFault::TagTooLong);
    }
    let good = !tag.is_empty()
        && !tag.starts_with(['.', '-'])
        && tag.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-'));
    if good { Ok(tag.to_owned()) } else { Err(ReferenceFault::Tag(quoted(tag))) }
}

fn quoted(text: &str) -> String {
    text.chars().take(QUOTED_MAX).collect()
}

/// Whether `registry` (host and optional port) is this machine, by name or by a loopback address.
pub(crate) fn is_loopback(registry: &str) -> bool {
    let host = host_of(registry);
    host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// `registry` without port and brackets.
pub(crate) fn host_of(registry: &str) -> &str {
    match registry.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => registry.split(':').next().unwrap_or(registry),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";

    #[test]
    fn a_name_is_completed_as_people_expect() {
        let digest = format!("@sha256:{HEX}");
        let cases = [
            ("alpine", "docker.io/library/alpine:latest".to_owned()),
            ("alpine:3.20", "docker.io/library/alpine:3.20".to_owned()),
            ("docker.io/alpine", "docker.io/library/alpine:latest".to_owned()),
            ("index.docker.io/library/alpine", "docker.io/library/alpine:latest".to_owned()),
            ("user/app:V1", "docker.io/user/app:V1".to_owned()),
            ("localhost/app", "localhost/app:latest".to_owned()),
            ("localhost:5000/app:1", "localhost:5000/app:1".to_owned()),
            ("127.0.0.1:5000/a/b/c:1", "127.0.0.1:5000/a/b/c:1".to_owned()),
            ("[::1]:5000/app", "[::1]:5000/app:latest".to_owned()),
            ("GHCR.io/org/app", "ghcr.io/org/app:latest".to_owned()),
            (
                "registry.example.com/a__b/c-----d/e.f_g",
                "registry.example.com/a__b/c-----d/e.f_g:latest".to_owned(),
            ),
            (&format!("app{digest}"), format!("docker.io/library/app{digest}")),
            (&format!("host:1/app:2{digest}"), format!("host:1/app:2{digest}")),
        ];
        for (text, full) in cases {
            let reference: Reference = text.parse().expect(text);
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(full.parse(), Ok(reference), "{text}");
        }
    }

    #[test]
    fn host_port_and_tag_are_told_apart() {
        let reference: Reference = "host.example:5000/group/name:tag".parse().unwrap();
        assert_eq!(reference.registry(), "host.example:5000");
        assert_eq!(reference.repository(), "group/name");
        assert_eq!(reference.tag(), Some("tag"));
        assert_eq!(reference.digest(), None);
    }

    #[test]
    fn a_hostile_name_is_refused_with_its_reason() {
        let long_tag = format!("alpine:{}", "t".repeat(129));
        let long_name = format!("a/{}", "b".repeat(300));
        let short = format!("alpine@sha256:{}", &HEX[1..]);
        let long = format!("alpine@sha256:{HEX}0");
        let upper = format!("alpine@sha256:{}", HEX.to_uppercase());
        let twice = format!("alpine@sha256:{HEX}@sha256:{HEX}");
        let only_digest = format!("@sha256:{HEX}");
        let cases = [
            ("", "empty"),
            (":tag", "empty"),
            (only_digest.as_str(), "empty"),
            ("Alpine", "upper-case"),
            ("Foo/bar", "upper-case"),
            ("host:5000/App", "upper-case"),
            ("alpine:", "cannot be a tag"),
            ("alpine:.hidden", "cannot be a tag"),
            ("alpine:-x", "cannot be a tag"),
            ("alpine:a:b", "cannot be a tag"),
            (&long_tag, "longer than 128"),
            (&long_name, "longer than 255"),
            ("alpine@", "has no algorithm"),
            ("alpine@sha256", "has no algorithm"),
            ("alpine@md5:abc", "\"md5\" is not supported"),
            (&short, "64 lower-case hex digits"),
            (&long, "64 lower-case hex digits"),
            (&upper, "64 lower-case hex digits"),
            (&twice, "more than one '@'"),
            ("al pine", "contains ' '"),
            ("alpine ", "contains ' '"),
            ("alpine\n", "contains '\\n'"),
            ("alpine\0", "contains '\\0'"),
            ("älpine", "contains 'ä'"),
            ("http://host/app", "leave out \"http:\""),
            ("https://host/app", "leave out \"https:\""),
            ("docker://alpine", "leave out \"docker:\""),
            ("oci:/etc", "leave out \"oci:\""),
            ("docker-archive:/etc/passwd", "leave out \"docker-archive:\""),
            ("dir:/", "leave out \"dir:\""),
            ("-rm", "begins with '-'"),
            ("--help", "begins with '-'"),
            ("a/../b", "\"..\" cannot be a part"),
            ("../b", "is not a registry host"),
            ("a/./b", "\".\" cannot be a part"),
            ("a//b", "\"\" cannot be a part"),
            ("/a", "\"\" cannot be a part"),
            ("a/", "\"\" cannot be a part"),
            ("a/-b", "\"-b\" cannot be a part"),
            ("a..b", "cannot be a part"),
            ("a___b", "cannot be a part"),
            ("a_-b", "cannot be a part"),
            ("a\\b", "cannot be a part"),
            ("host:99999/app", "\"99999\" is not a port"),
            ("host:0/app", "\"0\" is not a port"),
            ("host:+80/app", "\"+80\" is not a port"),
            ("host:port/app", "\"port\" is not a port"),
            ("::1/app", "is not a registry host"),
            ("[::1/app", "is not a registry host"),
            ("[::g]/app", "is not a registry host"),
            ("-host.example/app", "begins with '-'"),
            ("host-.example/app", "is not a registry host"),
            ("xn--dcker-jua.io/app", "encoded international name"),
        ];
        for (text, reason) in cases {
            let fault = text.parse::<Reference>().expect_err(text).to_string();
            assert!(fault.contains(reason), "{text:?}: {fault}");
        }
    }

    #[test]
    fn only_this_machine_is_loopback() {
        for host in ["localhost", "localhost:5000", "127.0.0.1", "127.9.9.9:1", "[::1]:5000", "[::1]"] {
            assert!(is_loopback(host), "{host}");
        }
        for host in ["localhost.example", "128.0.0.1", "127.0.0.1.example", "docker.io", "[::2]:1"] {
            assert!(!is_loopback(host), "{host}");
        }
    }
}
