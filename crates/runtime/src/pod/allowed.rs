//! What the node's operator allows instances beyond the usual, and what is refused without that word.

use std::path::PathBuf;

use model::{
    Reason, WorkloadSpec,
    manifest::security::{SeccompProfile, SeccompSource},
};

use super::{fault, seccomp::Profile};
use crate::RuntimeError;

/// What the node's operator allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Allowed {
    /// Directories of the machine that volumes may be below.
    pub host_paths: Vec<PathBuf>,
    /// Directory of seccomp profiles that containers may name.
    pub seccomp_profiles: Option<PathBuf>,
    /// Whether containers may have no seccomp filter.
    pub seccomp_unconfined: bool,
    /// Whether containers may be privileged, and pods be in namespaces of the node.
    pub privileged: bool,
}

impl Allowed {
    /// Whether the pod may have what it takes of the node itself.
    ///
    /// # Errors
    /// The operator does not allow it.
    pub(super) fn check_host_access(&self, spec: &WorkloadSpec) -> Result<(), RuntimeError> {
        match spec.host_access() {
            Some(field) if !self.privileged => {
                let why = format!("this node's operator does not allow {field} (riklet --allow-privileged)");
                Err(fault::words(
                    "set up the pod's rights and namespaces".to_owned(),
                    Reason::NotAllowed,
                    &why,
                ))
            }
            _ => Ok(()),
        }
    }

    /// The filter that a container asks for.
    ///
    /// # Errors
    /// The operator does not allow it.
    pub(super) fn profile(&self, asked: &SeccompProfile) -> Result<Profile, RuntimeError> {
        let name = asked.localhost_profile.as_deref().unwrap_or_default();
        match (asked.source, &self.seccomp_profiles) {
            (SeccompSource::RuntimeDefault, _) => Ok(Profile::Standard),
            (SeccompSource::Localhost, Some(directory)) => {
                Ok(Profile::File { directory: directory.clone(), name: PathBuf::from(name) })
            }
            (SeccompSource::Localhost, None) => {
                Err(refused("this node has no profiles of its operator (riklet --seccomp-profiles)"))
            }
            (SeccompSource::Unconfined, _) if self.seccomp_unconfined => Ok(Profile::Unconfined),
            (SeccompSource::Unconfined, _) => Err(refused(
                "this node's operator does not allow containers without a filter (riklet --seccomp-unconfined)",
            )),
        }
    }
}

fn refused(why: &str) -> RuntimeError {
    fault::words("set up the filter of system calls".to_owned(), Reason::NotAllowed, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_operator_did_not_allow_is_refused_with_the_flag_that_would() {
        let spec = WorkloadSpec { host_pid: true, ..WorkloadSpec::default() };
        let refused = Allowed::default().check_host_access(&spec).unwrap_err();
        assert_eq!(refused.reason, Reason::NotAllowed);
        assert!(refused.sentence().contains("hostPID (riklet --allow-privileged)"), "{}", refused.sentence());
        assert!(Allowed { privileged: true, ..Allowed::default() }.check_host_access(&spec).is_ok());
        let ask = |source, file: Option<&str>| SeccompProfile {
            source,
            localhost_profile: file.map(str::to_owned),
        };
        let strict = Allowed::default();
        assert_eq!(strict.profile(&SeccompProfile::default()).unwrap(), Profile::Standard);
        for (asked, flag) in [
            (ask(SeccompSource::Unconfined, None), "--seccomp-unconfined"),
            (ask(SeccompSource::Localhost, Some("x")), "--seccomp-profiles"),
        ] {
            let refused = strict.profile(&asked).unwrap_err();
            assert_eq!(refused.reason, Reason::NotAllowed);
            assert!(refused.sentence().contains(flag), "{}", refused.sentence());
        }
    }
}
