//! The manager of a container's groups, who has nothing to do.

use std::path::PathBuf;

use nix::unistd::Pid;
use oci_spec::runtime::LinuxResources;

use crate::{shown, stats::Stats};

/// Where control groups are mounted.
pub const DEFAULT_CGROUP_ROOT: &str = "/sys/fs/cgroup";

/// Which hierarchies there are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CgroupSetup {
    /// Only those of v1.
    Legacy,
    /// Those of v1, and one of v2 without controllers.
    Hybrid,
    /// Only that of v2.
    Unified,
}

/// What libcontainer says about the groups that it wants.
#[derive(Clone, Debug)]
pub struct CgroupConfig {
    /// Path below the root of the hierarchies.
    pub cgroup_path: PathBuf,
    /// Whether systemd should make them.
    pub systemd_cgroup: bool,
    /// Name of the container.
    pub container_name: String,
}

/// What libcontainer wants to have set.
#[derive(Clone, Copy, Debug)]
pub struct ControllerOpt<'a> {
    /// Limits.
    pub resources: &'a LinuxResources,
    /// Badness for the out-of-memory killer.
    pub oom_score_adj: Option<i32>,
    /// Whether that is off.
    pub disable_oom_killer: bool,
    /// Whether to freeze or thaw.
    pub freezer_state: Option<FreezerState>,
}

/// Whether processes are frozen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreezerState {
    /// As it was.
    Undefined,
    /// They are.
    Frozen,
    /// They are not.
    Thawed,
}

/// Something that is not to be had here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0} by libcontainer: the control groups are the node agent's")]
pub struct NotOurs(&'static str);

/// The manager cannot do that.
pub type AnyManagerError = NotOurs;
/// There is no manager; never happens.
pub type CreateCgroupSetupError = Never<0>;
/// The setup is not known; never happens.
pub type GetCgroupSetupError = Never<1>;

/// An error that never happens. The number tells such errors apart for those who convert them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Never<const NUMBER: u8> {}

/// Which hierarchies the container shall see.
///
/// # Errors
/// Never.
pub fn get_cgroup_setup() -> Result<CgroupSetup, GetCgroupSetupError> {
    Ok(if shown().is_empty() { CgroupSetup::Unified } else { CgroupSetup::Legacy })
}

/// The manager of a container.
///
/// # Errors
/// Never.
pub fn create_cgroup_manager(_config: CgroupConfig) -> Result<AnyCgroupManager, CreateCgroupSetupError> {
    Ok(AnyCgroupManager)
}

/// Manages the groups of one container.
pub trait CgroupManager {
    /// Why it cannot.
    type Error;

    /// Puts a process into the groups.
    ///
    /// # Errors
    /// It cannot.
    fn add_task(&self, pid: Pid) -> Result<(), Self::Error>;
    /// Sets limits.
    ///
    /// # Errors
    /// It cannot.
    fn apply(&self, options: &ControllerOpt<'_>) -> Result<(), Self::Error>;
    /// Removes the groups.
    ///
    /// # Errors
    /// It cannot.
    fn remove(&self) -> Result<(), Self::Error>;
    /// Freezes or thaws.
    ///
    /// # Errors
    /// It cannot.
    fn freeze(&self, state: FreezerState) -> Result<(), Self::Error>;
    /// What was used.
    ///
    /// # Errors
    /// It cannot.
    fn stats(&self) -> Result<Stats, Self::Error>;
    /// Who is in the groups.
    ///
    /// # Errors
    /// It cannot.
    fn get_all_pids(&self) -> Result<Vec<Pid>, Self::Error>;
}

/// The manager who has nothing to do: the process is in its groups, with their limits, before libcontainer begins, and
/// they are removed by whoever made them.
#[derive(Clone, Copy, Debug)]
pub struct AnyCgroupManager;

impl AnyCgroupManager {
    /// The same, whoever runs it.
    #[must_use]
    pub const fn with_rootless(self, _rootless: bool) -> Self {
        self
    }
}

impl CgroupManager for AnyCgroupManager {
    type Error = AnyManagerError;

    fn add_task(&self, _pid: Pid) -> Result<(), NotOurs> {
        Ok(())
    }

    fn apply(&self, _options: &ControllerOpt<'_>) -> Result<(), NotOurs> {
        Ok(())
    }

    fn remove(&self) -> Result<(), NotOurs> {
        Ok(())
    }

    fn freeze(&self, _state: FreezerState) -> Result<(), NotOurs> {
        Err(NotOurs("freeze a container"))
    }

    fn stats(&self) -> Result<Stats, NotOurs> {
        Err(NotOurs("measure a container"))
    }

    fn get_all_pids(&self) -> Result<Vec<Pid>, NotOurs> {
        Err(NotOurs("list the processes of a container"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_done_already_succeeds_and_what_is_not_to_be_had_is_an_error() {
        let config = CgroupConfig {
            cgroup_path: PathBuf::from("/anything"),
            systemd_cgroup: false,
            container_name: "c".to_owned(),
        };
        let Ok(manager) = create_cgroup_manager(config);
        let resources = LinuxResources::default();
        let options = ControllerOpt {
            resources: &resources,
            oom_score_adj: None,
            disable_oom_killer: false,
            freezer_state: None,
        };
        assert_eq!(
            (manager.add_task(Pid::this()), manager.apply(&options), manager.remove()),
            (Ok(()), Ok(()), Ok(()))
        );
        assert!(manager.freeze(FreezerState::Frozen).is_err());
        assert!(manager.stats().is_err());
        assert!(manager.get_all_pids().is_err());
    }

    #[test]
    fn container_sees_the_hierarchies_that_it_was_said_to_see() {
        assert_eq!(get_cgroup_setup(), Ok(CgroupSetup::Unified));
        crate::show(vec![PathBuf::from("/sys/fs/cgroup/memory")]);
        assert_eq!(get_cgroup_setup(), Ok(CgroupSetup::Legacy));
        assert_eq!(
            crate::v1::util::list_subsystem_mount_points(),
            Ok(vec![PathBuf::from("/sys/fs/cgroup/memory")])
        );
    }
}
