//! How the parts reach each other: addresses, keepalive, pace of trying again.

use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

/// Longest wait for a connection to be made.
pub const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// How often a silent connection is tried.
pub const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
/// How long it may stay silent then; with the interval, a broken connection is noticed within 10 seconds.
pub const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(5);

/// Most bytes of one stream that its reader has not taken: a slow reader slows its own writer down.
pub const STREAM_WINDOW_BYTES: u32 = 256 << 10;
/// Most bytes of all streams of a connection that their readers have not taken: as much as HTTP/2 can say. Otherwise one
/// stream that nobody reads would hold up all others, and the heartbeats with them.
pub const CONNECTION_WINDOW_BYTES: u32 = (1 << 31) - 1;

/// Pause after the first failed attempt to connect.
const FIRST_PAUSE: Duration = Duration::from_millis(50);
/// Longest pause: a peer that comes back is found within this time.
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// An address that cannot be one.
#[derive(Debug, thiserror::Error)]
#[error("{address:?} is no address of a peer; allowed is host:port, http://host:port or unix:/path")]
pub struct AddressError {
    /// What was given.
    pub address: String,
    /// Why it is none.
    #[source]
    pub source: tonic::transport::Error,
}

/// An address that can be dialled: host:port, a URL, or `unix:/path/of/a/socket`.
///
/// # Errors
/// It is none.
pub fn endpoint(address: &str) -> Result<Endpoint, AddressError> {
    let complete = address.contains("://") || address.starts_with("unix:");
    let url = if complete { address.to_owned() } else { format!("http://{address}") };
    let endpoint =
        Endpoint::from_shared(url).map_err(|source| AddressError { address: address.to_owned(), source })?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEPALIVE_INTERVAL)
        .keep_alive_timeout(KEEPALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .tcp_nodelay(true))
}

/// A connection that has been made.
///
/// # Errors
/// Nobody answered.
pub async fn connect(endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
    endpoint.connect().await
}

/// How long to pause between attempts: doubling, up to two seconds, with some randomness so that many peers do not
/// come at the same instant.
#[derive(Debug)]
pub struct Pace {
    next: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self { next: FIRST_PAUSE }
    }
}

impl Pace {
    /// The next pause. `random` is any number; it decides where in the second half of the pause it ends.
    pub fn pause(&mut self, random: u64) -> Duration {
        let half = self.next / 2;
        let spread = u64::try_from(half.as_millis()).unwrap_or(u64::MAX).max(1);
        let pause = half + Duration::from_millis(random % spread);
        self.next = (self.next * 2).min(LONGEST_PAUSE);
        pause
    }

    /// An attempt succeeded: begin with short pauses again.
    pub fn reset(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_to_two_seconds_and_begin_anew() {
        let mut pace = Pace::default();
        let pauses: Vec<_> = (0..20).map(|random| pace.pause(random * 7919)).collect();
        assert!(pauses.iter().all(|pause| *pause <= LONGEST_PAUSE));
        assert!(pauses[19] >= LONGEST_PAUSE / 2);
        pace.reset();
        assert!(pace.pause(3) <= FIRST_PAUSE);
    }
}
