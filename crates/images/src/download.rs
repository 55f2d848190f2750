//! Fetches one file by its URL, for microVMs: their root file systems come from wherever a user says.
//!
//! ```text
//!  URL ─▶ scheme, host ─▶ addresses, each held against the list ─▶ connection to one of those ─▶ status
//!   ▲                                                                                           │ redirect
//!   └────────────────────────────────────── again from the beginning ◀──────────────────────────┘
//! ```
//! *Guarantees*: the address that was checked is the one that is connected to; link-local addresses, where clouds keep
//! their secrets, are never; those of this machine and of private networks only if the operator lists them. Size and
//! time have bounds. What a URL says about users is never repeated.

use std::{
    fmt, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use reqwest::{
    Client, Response, StatusCode, Url,
    header::{
        CONTENT_ENCODING, ETAG, HeaderMap, HeaderName, IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
        LOCATION,
    },
};
use serde::{Deserialize, Serialize};
use tokio::{
    fs::File,
    io::{AsyncSeekExt, AsyncWriteExt},
};

use crate::{
    Digest,
    digest::Hasher,
    limits::{REDIRECTS_MAX, UNPACKED_BYTES_MAX},
};

/// Largest file.
const BYTES_MAX: u64 = UNPACKED_BYTES_MAX;
/// How long a whole download may take.
const DEADLINE: Duration = Duration::from_secs(30 * 60);
/// How long a host may take to take a connection.
const CONNECT_WITHIN: Duration = Duration::from_secs(15);
/// How long a host may be silent.
const SILENT_FOR: Duration = Duration::from_secs(60);
/// Tries while the fault may pass.
const TRIES: u32 = 3;
/// Pause before the second try; doubles.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Name under which hosts see us.
const USER_AGENT: &str = concat!("rik/", env!("CARGO_PKG_VERSION"));

/// Hosts and networks beside the public ones (names, addresses and `address/length`) and directories of this machine
/// (absolute paths), with commas between them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowlist {
    hosts: Vec<String>,
    networks: Vec<(IpAddr, u8)>,
    directories: Vec<PathBuf>,
}

impl Allowlist {
    /// The same list with this machine itself on it.
    #[must_use]
    pub fn with_loopback(mut self) -> Self {
        self.networks.push((IpAddr::V4(Ipv4Addr::LOCALHOST), 8));
        self
    }

    /// Directories of this machine.
    #[must_use]
    pub fn directories(&self) -> &[PathBuf] {
        &self.directories
    }

    /// Whether this address of this host may be connected to.
    fn permits(&self, host: &str, address: IpAddr) -> bool {
        let address = address.to_canonical();
        if is_never(address) {
            return false;
        }
        let listed = self.hosts.iter().any(|own| own.eq_ignore_ascii_case(host.trim_end_matches('.')))
            || self.networks.iter().any(|(network, length)| is_within(address, *network, *length));
        listed || is_public(address)
    }
}

impl FromStr for Allowlist {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut list = Self::default();
        for part in text.split(',').map(str::trim).filter(|part| !part.is_empty()) {
            if part.starts_with('/') {
                list.directories.push(PathBuf::from(part));
                continue;
            }
            let (address, length) = part.split_once('/').map_or((part, None), |(a, b)| (a, Some(b)));
            match (address.parse::<IpAddr>(), length) {
                (Ok(address), None) => {
                    list.networks.push((address, if address.is_ipv4() { 32 } else { 128 }))
                }
                (Ok(address), Some(length)) => {
                    let most = if address.is_ipv4() { 32 } else { 128 };
                    let length = length.parse().ok().filter(|length| *length <= most);
                    let unfit = || format!("{part:?} is no network; allowed is 10.0.0.0/8 and the like");
                    list.networks.push((address, length.ok_or_else(unfit)?));
                }
                (Err(_), None)
                    if part.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-')) =>
                {
                    list.hosts.push(part.trim_end_matches('.').to_owned());
                }
                (Err(_), _) => {
                    return Err(format!("{part:?} is neither a host nor a network nor a directory"));
                }
            }
        }
        Ok(list)
    }
}

/// Addresses of no host: link-local, where clouds answer questions about the machine's rights, and those that no
/// connection has.
fn is_never(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(own) => {
            own.is_link_local() || own.is_unspecified() || own.is_multicast() || own.is_broadcast()
        }
        IpAddr::V6(own) => {
            let link_local = own.segments()[0] & 0xffc0 == 0xfe80;
            let of_clouds = own.segments()[..4] == [0xfd00, 0x0ec2, 0, 0];
            link_local || of_clouds || own.is_unspecified() || own.is_multicast()
        }
    }
}

/// Whether an address is anybody's, rather than of this machine or of a network around it.
fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(own) => {
            let [a, b, c, _] = own.octets();
            let special = a == 0
                || own.is_loopback()
                || own.is_private()
                || (a == 100 && b & 0xc0 == 64)
                || (a == 192 && b == 0 && c == 0)
                || (a == 198 && b & 0xfe == 18)
                || a >= 240;
            !special
        }
        IpAddr::V6(own) => {
            let first = own.segments()[0];
            // Global unicast, without what stands for an IPv4 address in it.
            first & 0xe000 == 0x2000 && first != 0x2002
        }
    }
}

fn is_within(address: IpAddr, network: IpAddr, length: u8) -> bool {
    let bits = |address: IpAddr| match address {
        IpAddr::V4(own) => u128::from(own.to_bits()) << 96,
        IpAddr::V6(own) => own.to_bits(),
    };
    let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
    address.is_ipv4() == network.is_ipv4() && (bits(address) ^ bits(network)) & mask == 0
}

/// What a host said about the file that was fetched, by which it tells whether that has changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Validators {
    /// `ETag`.
    pub etag: Option<String>,
    /// `Last-Modified`.
    pub last_modified: Option<String>,
}

/// What came of a download.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Downloaded {
    /// It is as it was.
    Unchanged,
    /// It is in the file now.
    New {
        /// SHA-256 of it.
        digest: Digest,
        /// By what it can be asked for again.
        validators: Validators,
    },
}

/// Why a file could not be fetched.
#[derive(Debug, thiserror::Error)]
#[error("{shown}: {fault}")]
pub struct DownloadError {
    /// The URL, without what it says about a user.
    pub shown: String,
    /// What was wrong.
    #[source]
    pub fault: DownloadFault,
}

/// What is wrong with a download.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DownloadFault {
    /// It is no URL.
    #[error("it is no URL: {0}")]
    NoUrl(String),
    /// Another scheme.
    #[error("only http and https are fetched, not {0}")]
    Scheme(String),
    /// A user in it.
    #[error("a URL with a user in it is not fetched: it would be shown to many")]
    User,
    /// No address for its host.
    #[error("the host has no address: {0}")]
    Unknown(String),
    /// An address that is not allowed.
    #[error("{host} is at {address}, which the operator of the node does not allow (--rootfs-allow)")]
    Forbidden {
        /// The host.
        host: String,
        /// Its address.
        address: IpAddr,
    },
    /// From a protected connection to an open one.
    #[error("it leads from https to http")]
    Downgrade,
    /// Too many redirects.
    #[error("it leads on more than {REDIRECTS_MAX} times")]
    Redirects,
    /// Another answer than the file.
    #[error("the host answers {0}")]
    Status(StatusCode),
    /// Packed for the way.
    #[error("the host packs it ({0}), though nobody asked for that")]
    Encoding(String),
    /// Larger than allowed.
    #[error("it is larger than {BYTES_MAX} bytes")]
    TooLarge,
    /// The connection.
    #[error("{0}")]
    Connection(String),
    /// It took too long.
    #[error("it was not whole after {} minutes", DEADLINE.as_secs() / 60)]
    Late,
    /// The disk.
    #[error("writing it down: {0}")]
    Disk(Arc<io::Error>),
}

impl DownloadFault {
    fn is_transient(&self) -> bool {
        match self {
            Self::Connection(_) => true,
            Self::Status(status) => status.is_server_error() || *status == StatusCode::TOO_MANY_REQUESTS,
            _ => false,
        }
    }
}

/// A URL as it may be shown: without user, question and fragment.
#[must_use]
pub fn shown(url: &str) -> String {
    let (scheme, rest) = url.split_once("://").unwrap_or(("", url));
    let rest = rest.split(['?', '#']).next().unwrap_or_default();
    let (host, path) = rest.split_once('/').map_or((rest, None), |(host, path)| (host, Some(path)));
    let host = host.rsplit('@').next().unwrap_or_default();
    path.map_or_else(|| format!("{scheme}://{host}"), |path| format!("{scheme}://{host}/{path}"))
}

/// Fetches what is behind `url` into `file`, unless it is as the `known` validators say.
///
/// # Errors
/// The URL is not one that is fetched, the host not one that is allowed, or what came is not whole. The file is of no use
/// then.
pub async fn download(
    url: &str,
    known: &Validators,
    allowed: &Allowlist,
    file: &mut File,
) -> Result<Downloaded, DownloadError> {
    // Fails only if somebody in this process chose one before.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let all = async {
        let mut pause = FIRST_PAUSE;
        for _ in 1..TRIES {
            match attempt(url, known, allowed, file).await {
                Err(fault) if fault.is_transient() => {}
                done => return done,
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
        attempt(url, known, allowed, file).await
    };
    let done = tokio::time::timeout(DEADLINE, all).await.unwrap_or(Err(DownloadFault::Late));
    done.map_err(|fault| DownloadError { shown: shown(url), fault })
}

async fn attempt(
    url: &str,
    known: &Validators,
    allowed: &Allowlist,
    file: &mut File,
) -> Result<Downloaded, DownloadFault> {
    let mut url = Url::parse(url).map_err(|error| DownloadFault::NoUrl(error.to_string()))?;
    for _ in 0..=REDIRECTS_MAX {
        let answer = ask(&url, known, allowed).await?;
        let status = answer.status();
        if status.is_redirection() && status != StatusCode::NOT_MODIFIED {
            let target = text_of(answer.headers(), LOCATION).ok_or(DownloadFault::Status(status))?;
            let next = url.join(&target).map_err(|error| DownloadFault::NoUrl(error.to_string()))?;
            if url.scheme() == "https" && next.scheme() != "https" {
                return Err(DownloadFault::Downgrade);
            }
            url = next;
            continue;
        }
        return match status {
            StatusCode::NOT_MODIFIED => Ok(Downloaded::Unchanged),
            StatusCode::OK => take(answer, file).await,
            other => Err(DownloadFault::Status(other)),
        };
    }
    Err(DownloadFault::Redirects)
}

async fn ask(url: &Url, known: &Validators, allowed: &Allowlist) -> Result<Response, DownloadFault> {
    if !matches!(url.scheme(), "http" | "https") {
        return Err(DownloadFault::Scheme(url.scheme().to_owned()));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(DownloadFault::User);
    }
    let host = url.host_str().unwrap_or_default();
    let addresses = addresses(url, host, allowed).await?;
    let client = Client::builder()
        .user_agent(USER_AGENT)
        .redirect(reqwest::redirect::Policy::none())
        .no_proxy()
        .connect_timeout(CONNECT_WITHIN)
        .read_timeout(SILENT_FOR)
        .resolve_to_addrs(host, &addresses);
    // Reading this machine's certificates takes a while, and may fail: only where they are needed.
    let client = if url.scheme() == "http" { client.tls_certs_only([]) } else { client };
    let client = client.build().map_err(|error| DownloadFault::Connection(innermost(&error)))?;
    let mut request = client.get(url.clone());
    for (name, value) in [(IF_NONE_MATCH, &known.etag), (IF_MODIFIED_SINCE, &known.last_modified)] {
        if let Some(value) = value {
            request = request.header(name, value);
        }
    }
    request.send().await.map_err(|error| DownloadFault::Connection(innermost(&error)))
}

/// The addresses of a host, if each of them may be connected to.
async fn addresses(url: &Url, host: &str, allowed: &Allowlist) -> Result<Vec<SocketAddr>, DownloadFault> {
    let port = url.port_or_known_default().unwrap_or_default();
    let plain = host.trim_start_matches('[').trim_end_matches(']');
    let unknown = |error: io::Error| DownloadFault::Unknown(error.to_string());
    let found: Vec<SocketAddr> = tokio::net::lookup_host((plain, port)).await.map_err(unknown)?.collect();
    if found.is_empty() {
        return Err(DownloadFault::Unknown(host.to_owned()));
    }
    match found.iter().find(|found| !allowed.permits(plain, found.ip())) {
        Some(refused) => Err(DownloadFault::Forbidden { host: host.to_owned(), address: refused.ip() }),
        None => Ok(found),
    }
}

async fn take(mut answer: Response, file: &mut File) -> Result<Downloaded, DownloadFault> {
    let disk = |error: io::Error| DownloadFault::Disk(error.into());
    if let Some(encoding) = text_of(answer.headers(), CONTENT_ENCODING).filter(|own| own != "identity") {
        return Err(DownloadFault::Encoding(encoding));
    }
    if answer.content_length().is_some_and(|length| length > BYTES_MAX) {
        return Err(DownloadFault::TooLarge);
    }
    let validators = Validators {
        etag: text_of(answer.headers(), ETAG),
        last_modified: text_of(answer.headers(), LAST_MODIFIED),
    };
    // Of an attempt that broke off.
    file.set_len(0).await.map_err(disk)?;
    file.rewind().await.map_err(disk)?;
    let mut hasher = Hasher::default();
    while let Some(piece) =
        answer.chunk().await.map_err(|error| DownloadFault::Connection(innermost(&error)))?
    {
        hasher.update(&piece);
        if hasher.bytes() > BYTES_MAX {
            return Err(DownloadFault::TooLarge);
        }
        file.write_all(&piece).await.map_err(disk)?;
    }
    file.flush().await.map_err(disk)?;
    Ok(Downloaded::New { digest: hasher.finish(), validators })
}

fn text_of(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}

/// The cause of an error that is not about other errors; it does not repeat the URL.
fn innermost(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

impl fmt::Display for Allowlist {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        let networks = self.networks.iter().map(|(address, length)| format!("{address}/{length}"));
        out.write_str(&self.hosts.iter().cloned().chain(networks).collect::<Vec<_>>().join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn permits(list: &str, host: &str, address: &str) -> bool {
        list.parse::<Allowlist>().unwrap().permits(host, address.parse().unwrap())
    }

    #[test]
    fn addresses_around_the_machine_need_the_operator_and_those_of_clouds_are_never_reached() {
        for address in [
            "127.0.0.1",
            "10.1.2.3",
            "172.16.0.1",
            "192.168.1.1",
            "100.64.0.1",
            "::1",
            "::ffff:10.0.0.1",
            "0.0.0.1",
        ] {
            assert!(!permits("", "x.test", address), "{address}");
        }
        for address in ["93.184.216.34", "2606:2800:220:1::1"] {
            assert!(permits("", "x.test", address), "{address}");
        }
        for list in ["", "0.0.0.0/0,::/0", "x.test"] {
            for address in
                ["169.254.169.254", "fe80::1", "fd00:ec2::254", "::ffff:169.254.169.254", "0.0.0.0"]
            {
                assert!(!permits(list, "x.test", address), "{list} {address}");
            }
        }
        assert!(permits("10.0.0.0/8", "x.test", "10.200.0.1"));
        assert!(!permits("10.0.0.0/8", "x.test", "192.168.0.1"));
        assert!(permits("files.test", "FILES.test.", "192.168.1.5"));
        assert!(!permits("files.test", "other.test", "192.168.1.5"));
        assert!(Allowlist::default().with_loopback().permits("localhost", "127.0.0.1".parse().unwrap()));
    }

    #[test]
    fn a_list_that_is_none_is_refused() {
        for text in ["10.0.0.0/33", "a/8", "http://x", "10.0.0.0/x"] {
            assert!(text.parse::<Allowlist>().is_err(), "{text}");
        }
        assert_eq!("a.test, 10.0.0.0/8".parse::<Allowlist>().unwrap().to_string(), "a.test,10.0.0.0/8");
    }

    #[tokio::test]
    async fn urls_that_are_not_fetched_are_refused_before_anything_is_connected() {
        let allowed = Allowlist::default();
        for (url, words) in [
            ("file:///etc/shadow", "only http and https"),
            ("ftp://x.test/a", "only http and https"),
            ("http://user:secret@x.test/", "with a user in it"),
            ("http://2130706433/", "127.0.0.1, which the operator"),
            ("http://0x7f.1/", "127.0.0.1, which the operator"),
            ("http://017700000001/", "127.0.0.1, which the operator"),
            ("http://[::ffff:127.0.0.1]/", "which the operator"),
            ("http://169.254.169.254/latest", "which the operator"),
            ("http://0.0.0.0/", "which the operator"),
            ("not a url", "no URL"),
        ] {
            let mut file = File::from_std(tempfile::tempfile().unwrap());
            let error = download(url, &Validators::default(), &allowed, &mut file).await.unwrap_err();
            let text = error.to_string();
            assert!(text.contains(words) && !text.contains("secret"), "{url}: {text}");
        }
    }

    /// A host on this machine that answers each path with its text, once for each connection, for as long as the test is.
    fn host(answers: &'static [(&'static str, &'static str)]) -> String {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for mut stream in listener.incoming().flatten() {
                let mut head = [0_u8; 4096];
                let count = io::Read::read(&mut stream, &mut head).unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..count]).into_owned();
                let path = head.split(' ').nth(1).unwrap_or_default();
                let answer = answers
                    .iter()
                    .find(|(own, _)| *own == path)
                    .map_or("HTTP/1.1 404 No\r\n\r\n", |own| own.1);
                let _ = io::Write::write_all(&mut stream, answer.as_bytes());
            }
        });
        format!("http://{address}")
    }

    async fn fetched(url: &str) -> Result<String, String> {
        let mut file = File::from_std(tempfile::tempfile().unwrap());
        let allowed = Allowlist::default().with_loopback();
        match download(url, &Validators::default(), &allowed, &mut file).await {
            Ok(Downloaded::New { digest, .. }) => Ok(digest.hex()),
            Ok(Downloaded::Unchanged) => Ok("unchanged".to_owned()),
            Err(error) => Err(error.to_string()),
        }
    }

    #[tokio::test]
    async fn what_hosts_answer_is_followed_taken_or_refused_in_words() {
        let host = host(&[
            ("/whole", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello"),
            ("/there", "HTTP/1.1 302 Found\r\nLocation: /whole\r\nContent-Length: 0\r\n\r\n"),
            (
                "/cloud",
                "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/latest\r\nContent-Length: 0\r\n\r\n",
            ),
            ("/file", "HTTP/1.1 302 Found\r\nLocation: file:///etc/shadow\r\nContent-Length: 0\r\n\r\n"),
            ("/round", "HTTP/1.1 302 Found\r\nLocation: /round\r\nContent-Length: 0\r\n\r\n"),
            ("/packed", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nhello"),
            ("/part", "HTTP/1.1 206 Partial Content\r\nContent-Length: 5\r\n\r\nhello"),
            ("/huge", "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\nhello"),
            ("/torn", "HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nhello"),
        ]);
        let hello = Digest::of(b"hello").hex();
        for path in ["/whole", "/there"] {
            assert_eq!(fetched(&format!("{host}{path}")).await.as_deref(), Ok(hello.as_str()), "{path}");
        }
        for (path, words) in [
            ("/cloud", "169.254.169.254, which the operator"),
            ("/file", "only http and https"),
            ("/round", "leads on more than"),
            ("/packed", "packs it (gzip)"),
            ("/part", "answers 206"),
            ("/huge", "larger than"),
            ("/torn", "end of file before message length reached"),
            ("/none", "answers 404"),
        ] {
            let refused = fetched(&format!("{host}{path}")).await.unwrap_err();
            assert!(refused.contains(words), "{path}: {refused}");
        }
    }

    #[test]
    fn what_is_shown_of_a_url_holds_no_secret() {
        assert_eq!(shown("https://u:p@x.test/a/b?token=1#f"), "https://x.test/a/b");
        assert_eq!(shown("http://x.test"), "http://x.test");
    }
}
