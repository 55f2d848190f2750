//! What can go wrong between this machine and a registry, in words for the person who named the image.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::time::Duration;

use reqwest::StatusCode;

use crate::Digest;

/// Why a registry did not give what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RegistryError {
    /// Nobody listens there.
    #[error("registry {registry} refused the connection")]
    Refused {
        /// Which registry.
        registry: String,
    },
    /// No connection for another reason: no route, no such host.
    #[error("registry {registry} cannot be reached: {reason}")]
    Unreachable {
        /// Which registry.
        registry: String,
        /// The innermost reason.
        reason: String,
    },
    /// A certificate that cannot be trusted, or no TLS at all on the other side.
    #[error(
        "no trusted connection to registry {registry}: {reason}; plain HTTP must be allowed by listing it as insecure"
    )]
    Tls {
        /// Which registry.
        registry: String,
        /// The innermost reason.
        reason: String,
    },
    /// Silence.
    #[error("registry {registry} did not answer in time")]
    Timeout {
        /// Which registry.
        registry: String,
    },
    /// The connection broke within an answer.
    #[error("registry {registry} broke the connection: {reason}")]
    Interrupted {
        /// Which registry.
        registry: String,
        /// The innermost reason.
        reason: String,
    },
    /// No such thing.
    #[error("{what} not found in registry {registry}")]
    NotFound {
        /// Which registry.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// The registry wants to know who asks.
    #[error("registry {registry} wants a login for {what}, or there is no such image")]
    Login {
        /// Which registry.
        registry: String,
        /// What was asked for.
        what: String,
    },
    /// It does not take the login.
    #[error(
        "registry {registry} does not give {what} to user {user:?}: the login is wrong, or not for this image"
    )]
    LoginRefused {
        /// Which registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// Who asked.
        user: String,
    },
    /// The registry sends to a token service that it is not known to belong to.
    #[error(
        "registry {registry} wants the login of user {user:?} told to {host:?}, another host: list that host as one of its token_hosts"
    )]
    Stranger {
        /// Which registry.
        registry: String,
        /// Who asked.
        user: String,
        /// Where the token service is.
        host: String,
    },
    /// An answer that is a failure.
    #[error("registry {registry} answered {status} to the request for {what}")]
    Status {
        /// Which registry.
        registry: String,
        /// HTTP's number.
        status: u16,
        /// What was asked for.
        what: String,
        /// When to ask again, if the registry said so.
        retry_after: Option<Duration>,
    },
    /// More bytes than such an answer has.
    #[error("registry {registry} sent more than {max} bytes for {what}")]
    TooLarge {
        /// Which registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// The limit.
        max: u64,
    },
    /// Other bytes than named.
    #[error("digest mismatch: {what} from registry {registry} has {found}, expected {expected}")]
    Digest {
        /// Which registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// What was asked for, by content.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// Another number of bytes than declared.
    #[error("size mismatch: {what} from registry {registry} has {found} bytes, {declared} were declared")]
    Size {
        /// Which registry.
        registry: String,
        /// What was asked for.
        what: String,
        /// What the manifest declares.
        declared: u64,
        /// What came.
        found: u64,
    },
    /// A redirect that is not followed.
    #[error("registry {registry} redirects {reason}")]
    Redirect {
        /// Which registry.
        registry: String,
        /// Why it is not followed.
        reason: String,
    },
    /// A token service that is not asked.
    #[error("registry {registry} sends for a token to {realm:?}, {reason}")]
    Realm {
        /// Which registry.
        registry: String,
        /// Where to.
        realm: String,
        /// Why not.
        reason: &'static str,
    },
    /// The token service's answer has no token.
    #[error("token service of registry {registry} gave no token: {reason}")]
    Token {
        /// Which registry.
        registry: String,
        /// What came instead.
        reason: String,
    },
    /// A file with certificates cannot be used.
    #[error("cannot use the authorities in {path:?}: {reason}")]
    Authority {
        /// The file.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// No client could be made: this machine has no certificates to trust.
    #[error("cannot set up encrypted connections: {reason}")]
    Setup {
        /// Why.
        reason: String,
    },
}

impl RegistryError {
    /// Whether the same request may succeed later.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Refused { .. }
            | Self::Unreachable { .. }
            | Self::Timeout { .. }
            | Self::Interrupted { .. } => true,
            Self::Status { status, .. } => matches!(status, 408 | 429 | 500..),
            Self::Tls { .. }
            | Self::NotFound { .. }
            | Self::Login { .. }
            | Self::LoginRefused { .. }
            | Self::Stranger { .. }
            | Self::TooLarge { .. }
            | Self::Digest { .. }
            | Self::Size { .. }
            | Self::Redirect { .. }
            | Self::Realm { .. }
            | Self::Token { .. }
            | Self::Authority { .. }
            | Self::Setup { .. } => false,
        }
    }

    /// How long the registry asked to wait.
    pub(super) fn retry_after(&self) -> Option<Duration> {
        match self {
            Self::Status { retry_after, .. } => *retry_after,
            _ => None,
        }
    }

    /// Sorts a fault of the HTTP client.
    pub(super) fn of_transport(registry: &str, fault: &reqwest::Error) -> Self {
        let registry = registry.to_owned();
        let causes = causes(fault);
        let io_kinds: Vec<io::ErrorKind> = causes
            .iter()
            .filter_map(|cause| cause.downcast_ref::<io::Error>())
            .map(io::Error::kind)
            .collect();
        let reason = causes.last().map(ToString::to_string).unwrap_or_default();
        let is_tls = causes.iter().any(|cause| cause.is::<rustls::Error>());
        if is_tls {
            return Self::Tls { registry, reason };
        }
        if fault.is_timeout() || io_kinds.contains(&io::ErrorKind::TimedOut) {
            return Self::Timeout { registry };
        }
        if io_kinds.contains(&io::ErrorKind::ConnectionRefused) {
            return Self::Refused { registry };
        }
        if fault.is_connect() {
            return Self::Unreachable { registry, reason };
        }
        Self::Interrupted { registry, reason }
    }

    /// The failure that an answer's status means.
    pub(super) fn of_status(
        registry: &str,
        what: &str,
        status: StatusCode,
        retry_after: Option<Duration>,
    ) -> Self {
        let (registry, what) = (registry.to_owned(), what.to_owned());
        match status {
            StatusCode::NOT_FOUND => Self::NotFound { registry, what },
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => Self::Login { registry, what },
            status => Self::Status { registry, status: status.as_u16(), what, retry_after },
        }
    }
}

/// The reason beneath all others.
pub(super) fn innermost(fault: &reqwest::Error) -> String {
    causes(fault).last().map(ToString::to_string).unwrap_or_default()
}

/// A fault and all that lies beneath it. An [`io::Error`] hides what it wraps from `source`, so it is asked itself.
fn causes<'a>(fault: &'a (dyn Error + 'static)) -> Vec<&'a (dyn Error + 'static)> {
    let mut all = vec![fault];
    let mut at = fault;
    loop {
        let wrapped = at.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        let inner: Option<&(dyn Error + 'static)> = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => at.source(),
        };
        match inner {
            Some(inner) => all.push(inner),
            None => return all,
        }
        at = all[all.len() - 1];
    }
}
