//! How the errors of what a pod is made of become a [`RuntimeError`]: the sentence, the code, and whether to try again.

use std::{error::Error, io};

use images::{PullError, SnapshotError};
use model::Reason;
use network::{AttachError, DetachError};

use super::{
    cgroup::CgroupError, link::LinkError, rootfs::RootfsError, seccomp::SeccompError, spec::SpecError,
};
use crate::RuntimeError;

type Source = Box<dyn Error + Send + Sync>;

/// Words of somebody who has no error type, such as the shim.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Words(pub String);

fn fault(operation: String, reason: Reason, source: impl Into<Source>) -> RuntimeError {
    RuntimeError { operation, reason, transient: false, source: Some(source.into()) }
}

/// The record could not be read or written.
pub fn record(uid: &str, error: io::Error) -> RuntimeError {
    RuntimeError {
        transient: true,
        ..fault(format!("keep the record of instance {uid}"), Reason::SandboxFailed, error)
    }
}

/// The instance is none of ours.
pub fn no_path(uid: &str, error: io::Error) -> RuntimeError {
    fault(format!("keep instance {uid:?}"), Reason::SandboxFailed, error)
}

/// An image could not be had. Final: the image store has tried again already, and the user is told.
pub fn pull(error: PullError) -> RuntimeError {
    fault("fetch an image".to_owned(), Reason::ImagePullFailed, error)
}

/// A root file system could not be made or taken away.
pub fn snapshot(error: SnapshotError) -> RuntimeError {
    let unfit = matches!(error, SnapshotError::NotADirectory { .. });
    let reason = if unfit { Reason::StartFailed } else { Reason::SandboxFailed };
    RuntimeError { transient: !unfit, ..fault("set up the root file system".to_owned(), reason, error) }
}

/// User or working directory of a container are of no use.
pub fn rootfs(container: &str, error: RootfsError) -> RuntimeError {
    fault(format!("set up container {container:?}"), Reason::StartFailed, error)
}

/// A filter of system calls could not be made: the operator's file is of no use.
pub fn seccomp(error: SeccompError) -> RuntimeError {
    fault("set up the filter of system calls".to_owned(), Reason::StartFailed, error)
}

/// A container cannot be described.
pub fn spec(container: &str, error: SpecError) -> RuntimeError {
    fault(format!("set up container {container:?}"), Reason::StartFailed, error)
}

/// Files of the pod could not be written.
pub fn files(error: io::Error) -> RuntimeError {
    RuntimeError {
        transient: true,
        ..fault("write the pod's files".to_owned(), Reason::SandboxFailed, error)
    }
}

/// The pod got no network.
pub fn attach(error: AttachError) -> RuntimeError {
    let transient = error.is_transient();
    let reason = if matches!(error, AttachError::PortInUse { .. }) {
        Reason::PortInUse
    } else {
        Reason::SandboxFailed
    };
    RuntimeError { transient, ..fault("set up the pod's network".to_owned(), reason, error) }
}

/// The pod's network could not be taken away.
pub fn detach(error: DetachError) -> RuntimeError {
    RuntimeError {
        transient: true,
        ..fault("take away the pod's network".to_owned(), Reason::RemovalFailed, error)
    }
}

/// A control group could not be made.
pub fn group(error: CgroupError) -> RuntimeError {
    let transient = !matches!(error, CgroupError::NoController { .. });
    RuntimeError { transient, ..fault("set up the pod's limits".to_owned(), Reason::SandboxFailed, error) }
}

/// Something of the pod could not be removed.
pub fn removal(what: &str, error: impl Into<Source>) -> RuntimeError {
    RuntimeError { transient: true, ..fault(format!("remove {what}"), Reason::RemovalFailed, error) }
}

/// The shim could not be asked.
pub fn link(operation: &str, reason: Reason, error: LinkError) -> RuntimeError {
    RuntimeError { transient: true, ..fault(operation.to_owned(), reason, error) }
}

/// Something could not be done, for a reason in words.
pub fn words(operation: String, reason: Reason, why: &str) -> RuntimeError {
    fault(operation, reason, Words(why.to_owned()))
}
