//! What a container may do: whose rights its program has, and what it may write.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ContainerSpec, WorkloadSpec};

/// Most further groups of a program.
pub const MAX_GROUPS: usize = 64;

/// What every container of the pod may do, unless it says otherwise itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct PodSecurityContext {
    /// User id of the programs, instead of the image's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2147483647)]
    pub run_as_user: Option<u32>,
    /// Group id of the programs. Without it, the user's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2147483647)]
    pub run_as_group: Option<u32>,
    /// Further groups of the programs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub supplemental_groups: Vec<u32>,
    /// Refuses to start a program as root, whatever image and manifest say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_non_root: Option<bool>,
    /// Which calls of the kernel the programs may make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp_profile: Option<SeccompProfile>,
}

/// What a container may do. What it does not say is as the pod says.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SecurityContext {
    /// User id of the program, instead of the image's user.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2147483647)]
    pub run_as_user: Option<u32>,
    /// Group id of the program. Without it, the user's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(minimum = 0, maximum = 2147483647)]
    pub run_as_group: Option<u32>,
    /// Refuses to start the program as root, whatever image and manifest say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_as_non_root: Option<bool>,
    /// Whether the container may write to its volumes alone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub read_only_root_filesystem: Option<bool>,
    /// What root may do in it beside, or not even.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub capabilities: Option<Capabilities>,
    /// Which calls of the kernel the program may make.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seccomp_profile: Option<SeccompProfile>,
    /// Can only be false, but in a privileged container: no program of another ever gets more rights than it began with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub allow_privilege_escalation: Option<bool>,
    /// Whether it has all rights and devices of the node, where the node's operator allows it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub privileged: Option<bool>,
}

/// Which calls of the kernel a program may make.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct SeccompProfile {
    /// Where the list of calls comes from.
    #[serde(rename = "type")]
    pub source: SeccompSource,
    /// File below the directory that the node's operator named. Only with `Localhost`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(format = "relative-path", max_length = 4096)]
    pub localhost_profile: Option<String>,
}

/// Where a list of allowed calls comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
pub enum SeccompSource {
    /// The one that every container has unless something else is said.
    #[default]
    RuntimeDefault,
    /// A file of the node's operator.
    Localhost,
    /// All calls, where the node's operator allows it.
    Unconfined,
}

/// Parts of root's rights, as Linux divides them.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "camelCase")]
pub struct Capabilities {
    /// Those that it has beside the usual ones.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub add: Vec<Capability>,
    /// Those of the usual ones that it does not have; `ALL` for none of them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 64)]
    pub drop: Vec<Capability>,
}

/// The capabilities that a container may have, and `ALL`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Capability {
    /// Every one of them; only to drop.
    All,
    /// Write to the audit log.
    AuditWrite,
    /// Change the owner of files.
    Chown,
    /// Read and write any file.
    DacOverride,
    /// Change what only a file's owner may.
    Fowner,
    /// Keep set-user-id bits of files that are changed.
    Fsetid,
    /// Keep memory from being swapped out.
    IpcLock,
    /// Send signals to any process of the container.
    Kill,
    /// Configure the pod's network.
    NetAdmin,
    /// Listen on ports below 1024.
    NetBindService,
    /// Send raw packets, as ping did once.
    NetRaw,
    /// Give files capabilities.
    Setfcap,
    /// Change the own group.
    Setgid,
    /// Give up capabilities.
    Setpcap,
    /// Change the own user.
    Setuid,
    /// Change the root directory.
    SysChroot,
    /// Raise the own priority.
    SysNice,
    /// Look into other processes of the container.
    SysPtrace,
}

/// The capabilities of a container that asks for nothing else: what programs of images need that begin as root.
pub const USUAL: [Capability; 11] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::NetBindService,
    Capability::Setfcap,
    Capability::Setgid,
    Capability::Setpcap,
    Capability::Setuid,
    Capability::SysChroot,
];

impl Capability {
    /// Its name as the kernel's documentation has it.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::All => "ALL",
            Self::AuditWrite => "CAP_AUDIT_WRITE",
            Self::Chown => "CAP_CHOWN",
            Self::DacOverride => "CAP_DAC_OVERRIDE",
            Self::Fowner => "CAP_FOWNER",
            Self::Fsetid => "CAP_FSETID",
            Self::IpcLock => "CAP_IPC_LOCK",
            Self::Kill => "CAP_KILL",
            Self::NetAdmin => "CAP_NET_ADMIN",
            Self::NetBindService => "CAP_NET_BIND_SERVICE",
            Self::NetRaw => "CAP_NET_RAW",
            Self::Setfcap => "CAP_SETFCAP",
            Self::Setgid => "CAP_SETGID",
            Self::Setpcap => "CAP_SETPCAP",
            Self::Setuid => "CAP_SETUID",
            Self::SysChroot => "CAP_SYS_CHROOT",
            Self::SysNice => "CAP_SYS_NICE",
            Self::SysPtrace => "CAP_SYS_PTRACE",
        }
    }
}

/// What holds for one container, from what it and its pod say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Security {
    /// User id, if not the image's.
    pub user: Option<u32>,
    /// Group id, if not the user's own.
    pub group: Option<u32>,
    /// Further groups.
    pub groups: Vec<u32>,
    /// Whether root is refused.
    pub non_root: bool,
    /// Whether its root file system is read-only.
    pub read_only_root: bool,
    /// Its capabilities.
    pub capabilities: BTreeSet<Capability>,
    /// Which calls of the kernel it may make.
    pub seccomp: SeccompProfile,
    /// Whether it has all rights and devices of the node; `capabilities` and `seccomp` mean nothing then.
    pub privileged: bool,
}

impl Security {
    /// What holds for `container` of the pod `spec`.
    #[must_use]
    pub fn of(spec: &WorkloadSpec, container: &ContainerSpec) -> Self {
        let pod = spec.security_context.clone().unwrap_or_default();
        let own = container.security_context.clone().unwrap_or_default();
        let asked = own.capabilities.unwrap_or_default();
        let kept = |usual: &Capability| !asked.drop.contains(usual) && !asked.drop.contains(&Capability::All);
        Self {
            user: own.run_as_user.or(pod.run_as_user),
            group: own.run_as_group.or(pod.run_as_group),
            groups: pod.supplemental_groups,
            non_root: own.run_as_non_root.or(pod.run_as_non_root).unwrap_or(false),
            read_only_root: own.read_only_root_filesystem.unwrap_or(false),
            capabilities: USUAL.into_iter().filter(kept).chain(asked.add).collect(),
            seccomp: own.seccomp_profile.or(pod.seccomp_profile).unwrap_or_default(),
            privileged: own.privileged.unwrap_or(false),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn container_wins_over_its_pod_and_added_capabilities_over_dropped_ones() {
        let spec = WorkloadSpec {
            security_context: Some(PodSecurityContext {
                run_as_user: Some(1),
                run_as_group: Some(2),
                run_as_non_root: Some(true),
                supplemental_groups: vec![3],
                seccomp_profile: None,
            }),
            ..WorkloadSpec::default()
        };
        let plain = Security::of(&spec, &ContainerSpec::default());
        assert_eq!((plain.user, plain.group, plain.non_root), (Some(1), Some(2), true));
        assert_eq!(plain.capabilities, BTreeSet::from(USUAL));
        let own = SecurityContext {
            run_as_user: Some(0),
            run_as_non_root: Some(false),
            capabilities: Some(Capabilities {
                add: vec![Capability::Kill, Capability::NetRaw],
                drop: vec![Capability::All],
            }),
            ..SecurityContext::default()
        };
        let own =
            Security::of(&spec, &ContainerSpec { security_context: Some(own), ..ContainerSpec::default() });
        assert_eq!((own.user, own.group, own.groups, own.non_root), (Some(0), Some(2), vec![3], false));
        assert_eq!(own.capabilities, BTreeSet::from([Capability::Kill, Capability::NetRaw]));
    }
}
