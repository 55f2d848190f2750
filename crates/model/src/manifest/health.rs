//! How a container is kept going: probes, hooks, and what follows when it ends.

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

/// Longest period, delay or timeout of a probe: an hour.
pub const MAX_PROBE_SECONDS: u32 = 3_600;
/// Longest pause before a container is started again.
pub const MAX_BACKOFF_SECONDS: u32 = 3_600;

/// What happens when a container of the pod ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum RestartPolicy {
    /// It has ended. If it failed, the whole pod has.
    #[default]
    Never,
    /// It is started again if it failed.
    OnFailure,
    /// It is started again, however it ended.
    Always,
}

/// The pauses between the starts of a container that keeps ending.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase", default)]
pub struct RestartBackoff {
    /// Seconds before the first new start; doubles with each further one.
    #[schema(default = 1, minimum = 1, maximum = 3600)]
    pub initial_seconds: u32,
    /// Longest pause, in seconds.
    #[schema(default = 300, minimum = 1, maximum = 3600)]
    pub max_seconds: u32,
    /// A container that ran for so many seconds is well again: the next pause is the first one.
    #[schema(default = 600, minimum = 1, maximum = 86400)]
    pub reset_seconds: u32,
}

impl Default for RestartBackoff {
    fn default() -> Self {
        Self { initial_seconds: 1, max_seconds: 300, reset_seconds: 600 }
    }
}

impl RestartBackoff {
    /// Seconds before the next start, after `quick_ends` runs in a row that ended soon.
    #[must_use]
    pub fn pause_seconds(&self, quick_ends: u32) -> u32 {
        let doubled = 1_u32.checked_shl(quick_ends).and_then(|times| self.initial_seconds.checked_mul(times));
        doubled.unwrap_or(self.max_seconds).min(self.max_seconds)
    }
}

/// A question to a container, asked again and again. Exactly one of `exec`, `httpGet` and `tcpSocket` says how.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Probe {
    /// A command inside the container; exit code 0 is a good answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecAction>,
    /// An HTTP request; a status from 200 to 399 is a good answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGetAction>,
    /// A TCP connection; that it opens is a good answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tcp_socket: Option<TcpSocketAction>,
    /// Seconds after the container's start before the first question.
    #[serde(default)]
    #[schema(default = 0, minimum = 0, maximum = 3600)]
    pub initial_delay_seconds: u32,
    /// Seconds between two questions.
    #[serde(default = "default_period")]
    #[schema(default = 10, minimum = 1, maximum = 3600)]
    pub period_seconds: u32,
    /// Seconds that an answer may take.
    #[serde(default = "default_one")]
    #[schema(default = 1, minimum = 1, maximum = 3600)]
    pub timeout_seconds: u32,
    /// Good answers in a row until it counts as well again. Must be 1 for liveness and startup.
    #[serde(default = "default_one")]
    #[schema(default = 1, minimum = 1, maximum = 100)]
    pub success_threshold: u32,
    /// Bad answers in a row until it counts as unwell.
    #[serde(default = "default_failures")]
    #[schema(default = 3, minimum = 1, maximum = 1000)]
    pub failure_threshold: u32,
}

/// A command inside the container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct ExecAction {
    /// Program and arguments; not through a shell.
    #[schema(min_items = 1, max_items = 1000, format = "argument")]
    pub command: Vec<String>,
}

/// An HTTP request to the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct HttpGetAction {
    /// Port inside the container.
    #[schema(minimum = 1, maximum = 65535)]
    pub port: u16,
    /// Path of the request.
    #[serde(default = "default_path")]
    #[schema(default = "/", format = "url-path", max_length = 2048)]
    pub path: String,
}

/// A TCP connection to the container.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub struct TcpSocketAction {
    /// Port inside the container.
    #[schema(minimum = 1, maximum = 65535)]
    pub port: u16,
}

/// How a question is put, or a hook run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action<'a> {
    /// Runs a command.
    Exec(&'a ExecAction),
    /// Sends a request.
    HttpGet(&'a HttpGetAction),
    /// Opens a connection.
    TcpSocket(&'a TcpSocketAction),
}

impl Probe {
    /// The one action that is set. None if there is none, or more than one.
    #[must_use]
    pub fn action(&self) -> Option<Action<'_>> {
        match (&self.exec, &self.http_get, &self.tcp_socket) {
            (Some(exec), None, None) => Some(Action::Exec(exec)),
            (None, Some(get), None) => Some(Action::HttpGet(get)),
            (None, None, Some(socket)) => Some(Action::TcpSocket(socket)),
            _ => None,
        }
    }
}

/// What runs at turns of a container's life.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Lifecycle {
    /// Runs before the container is asked to end; the grace period runs meanwhile.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pre_stop: Option<Hook>,
}

/// An action at a turn of a container's life. Exactly one of `exec` and `httpGet` says what.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Hook {
    /// A command inside the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exec: Option<ExecAction>,
    /// An HTTP request to the container.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_get: Option<HttpGetAction>,
}

impl Hook {
    /// The one action that is set. None if there is none, or more than one.
    #[must_use]
    pub fn action(&self) -> Option<Action<'_>> {
        match (&self.exec, &self.http_get) {
            (Some(exec), None) => Some(Action::Exec(exec)),
            (None, Some(get)) => Some(Action::HttpGet(get)),
            _ => None,
        }
    }
}

const fn default_period() -> u32 {
    10
}

const fn default_one() -> u32 {
    1
}

const fn default_failures() -> u32 {
    3
}

fn default_path() -> String {
    "/".to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pause_doubles_up_to_the_longest_one() {
        let backoff = RestartBackoff::default();
        let pauses: Vec<u32> = (0..11).map(|ends| backoff.pause_seconds(ends)).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300]);
        assert_eq!(backoff.pause_seconds(u32::MAX), 300);
    }
}
