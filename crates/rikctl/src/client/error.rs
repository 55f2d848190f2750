//! What can go wrong between rikctl and the controller, and how a person is told.

use std::{io, sync::Arc};

use model::{api::Problem, manifest::check::MAX_FAULTS};

use crate::{
    config::{Cluster, Origin},
    failure::{Failure, Report, chain},
};

/// Why the controller did not do, or did not tell, what it was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// No connection: it has not heard of the request.
    #[error("the controller of cluster {:?} at {} cannot be reached", cluster.name, cluster.server)]
    Unreachable { cluster: Arc<Cluster>, source: Box<ureq::Error> },
    /// The connection ended before the whole answer had arrived.
    #[error("the connection to the controller at {} broke", cluster.server)]
    Lost { cluster: Arc<Cluster>, source: Box<ureq::Error> },
    /// It took too long.
    #[error("the controller at {} does not answer in time", cluster.server)]
    Silent { cluster: Arc<Cluster>, source: Box<ureq::Error> },
    /// What answers does not speak HTTP as it should.
    #[error("what answers at {} does not speak HTTP properly", cluster.server)]
    Garbled { cluster: Arc<Cluster>, source: Box<ureq::Error> },
    /// The answer is larger than any honest one.
    #[error("the answer of {} is larger than {limit}", cluster.server)]
    TooLarge { cluster: Arc<Cluster>, limit: String },
    /// The answer is not what this request is answered with.
    #[error("the answer of {} to {request} is not understood", cluster.server)]
    Malformed { cluster: Arc<Cluster>, request: String, source: serde_json::Error },
    /// It sends us elsewhere, where we do not go.
    #[error("{} answers {request} with a redirect to {location:?}, which is not followed", cluster.server)]
    Redirected { cluster: Arc<Cluster>, request: String, location: String },
    /// An error in the form of the v1 API.
    #[error("{}", problem.detail.as_deref().unwrap_or(&problem.title))]
    Problem { problem: Box<Problem> },
    /// An error in another form: something else listens there, or stands between.
    #[error("{} answers {request} with {status}{text}", cluster.server)]
    Status { cluster: Arc<Cluster>, request: String, status: u16, text: String },
}

impl ClientError {
    /// The HTTP status of the answer, if there is one.
    pub(crate) fn status(&self) -> Option<u16> {
        match self {
            Self::Problem { problem } => Some(problem.status),
            Self::Status { status, .. } => Some(*status),
            Self::Unreachable { .. }
            | Self::Lost { .. }
            | Self::Silent { .. }
            | Self::Garbled { .. }
            | Self::TooLarge { .. }
            | Self::Malformed { .. }
            | Self::Redirected { .. } => None,
        }
    }

    /// The controller's code for it, if it has one.
    pub(crate) fn code(&self) -> Option<&str> {
        match self {
            Self::Problem { problem } => Some(&problem.code),
            _ => None,
        }
    }

    /// Whether the controller says that there is no such thing.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Problem { problem } if problem.status == 404)
    }

    /// Whether asking again may help, because only the way there failed.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable { .. } | Self::Lost { .. } | Self::Silent { .. })
            || matches!(self.status(), Some(502..=504))
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let hint = hint(&error);
        let details = details(&error);
        let report = Report::new(sentence(&error)).details(details);
        match hint {
            Some(hint) => report.hint(hint),
            None => report,
        }
        .into()
    }
}

fn sentence(error: &ClientError) -> String {
    match error {
        ClientError::Unreachable { source, .. }
        | ClientError::Lost { source, .. }
        | ClientError::Silent { source, .. }
        | ClientError::Garbled { source, .. } => format!("{error}: {}", cause(source)),
        ClientError::TooLarge { .. }
        | ClientError::Malformed { .. }
        | ClientError::Redirected { .. }
        | ClientError::Problem { .. }
        | ClientError::Status { .. } => chain(error),
    }
}

/// The cause in a few words; the library's own text carries prefixes that help nobody.
fn cause(source: &ureq::Error) -> String {
    match source {
        ureq::Error::Io(error) => match error.kind() {
            io::ErrorKind::ConnectionRefused => "connection refused".to_owned(),
            io::ErrorKind::UnexpectedEof => "it was closed in the middle of an answer".to_owned(),
            _ => error.to_string(),
        },
        ureq::Error::HostNotFound => "its host name is not known".to_owned(),
        ureq::Error::Timeout(ureq::Timeout::Connect | ureq::Timeout::Resolve) => {
            "no connection in time".to_owned()
        }
        ureq::Error::Timeout(_) => "time ran out".to_owned(),
        other => other.to_string(),
    }
}

fn details(error: &ClientError) -> Vec<String> {
    match error {
        ClientError::Unreachable { cluster, .. } => {
            vec![format!("the address comes from {}", cluster.origin)]
        }
        ClientError::Problem { problem } => {
            let mut lines: Vec<_> = problem.faults.iter().take(MAX_FAULTS).map(ToString::to_string).collect();
            if let (500.., Some(request)) = (problem.status, &problem.request) {
                lines.push(format!("request {request} in the controller's log"));
            }
            lines
        }
        ClientError::Lost { .. }
        | ClientError::Silent { .. }
        | ClientError::Garbled { .. }
        | ClientError::TooLarge { .. }
        | ClientError::Malformed { .. }
        | ClientError::Redirected { .. }
        | ClientError::Status { .. } => Vec::new(),
    }
}

fn hint(error: &ClientError) -> Option<String> {
    match error {
        ClientError::Unreachable { cluster, .. } => Some(match cluster.origin {
            Origin::BuiltIn | Origin::Home(_) => {
                "start a cluster with `rik up`, or name another with --server http://HOST:5000".to_owned()
            }
            Origin::Flag | Origin::Named(_) | Origin::Environment => {
                "see that the controller runs there and listens on this address".to_owned()
            }
        }),
        ClientError::Problem { problem } => problem.hint.clone(),
        ClientError::Lost { .. } | ClientError::Silent { .. } => Some("rikctl version".to_owned()),
        ClientError::Garbled { .. }
        | ClientError::Malformed { .. }
        | ClientError::Redirected { .. }
        | ClientError::Status { .. }
        | ClientError::TooLarge { .. } => Some(
            "see with `rikctl version` whether a RIK controller of this version answers there".to_owned(),
        ),
    }
}
