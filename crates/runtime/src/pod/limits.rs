//! What a pod and its containers may use, as numbers for the kernel. Pure.
//!
//! Formulas are those of the field: shares are 1024 for a core, a quota is a part of a period of 100 ms.

use model::{
    ContainerSpec, WorkloadSpec,
    manifest::{ResourceList, Resources},
    quantity::{Cpu, Memory},
};

/// Length of a scheduling period in microseconds.
pub const CPU_PERIOD_MICROS: u64 = 100_000;
/// The least quota that the kernel takes.
const CPU_QUOTA_MIN_MICROS: u64 = 1_000;
/// Bounds of shares (cgroup v1).
const CPU_SHARES: (u64, u64) = (2, 262_144);
/// The least memory that is of any use: below it the kernel cannot even start a program.
const MEMORY_MIN_BYTES: u64 = 1 << 20;
/// Processes and threads of a pod whose manifest does not say: stops a fork bomb, suffices for a large service.
pub const DEFAULT_PIDS: u32 = 512;
/// Memory of a container for which nobody says anything, unless the node's operator says otherwise: one that leaks does not
/// take the machine with it.
pub const DEFAULT_MEMORY: Memory = Memory(512 << 20);

/// Limits of one control group. None: no limit of its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of memory. Swap does not add to it.
    pub memory_bytes: Option<u64>,
    /// Processor time in microseconds for each [`CPU_PERIOD_MICROS`].
    pub cpu_quota_micros: Option<u64>,
    /// Share of the processor when it is contended, 1024 for a core.
    pub cpu_shares: Option<u64>,
    /// Processes and threads.
    pub pids: Option<u32>,
    /// Which devices of the machine.
    pub devices: Devices,
}

/// Which devices of the machine what runs in a control group may use.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Devices {
    /// The harmless ones.
    #[default]
    Usual,
    /// Those of a VMM: a maker of links and the processor's virtual machines beside them.
    Vmm,
    /// All: for privileged containers.
    All,
}

impl Limits {
    /// Limits of the pod: its own, or else the sum over its containers where each of them has one. `default`: what the node
    /// gives containers for which nobody says anything.
    #[must_use]
    pub fn of_pod(spec: &WorkloadSpec, default: Option<Memory>) -> Self {
        let own = spec.resources.as_ref().and_then(|resources| resources.limits).unwrap_or_default();
        let of = |part: fn(&ResourceList) -> Option<u64>| {
            sum(spec, move |container| container.resources.as_ref()?.limits.as_ref().and_then(part))
        };
        let each = |container: &ContainerSpec| Some(memory_limit(spec, container, default)?.0);
        let memory = own.memory.map(|Memory(bytes)| bytes).or_else(|| sum(spec, each));
        let cpu = own.cpu.map(|Cpu(millis)| millis).or_else(|| of(|each| each.cpu.map(|own| own.0)));
        let pids = of(|each| each.pids.map(u64::from)).and_then(|count| count.try_into().ok());
        let pids = own.pids.or(pids);
        Self {
            memory_bytes: memory.map(at_least_some),
            cpu_quota_micros: cpu.map(quota),
            cpu_shares: Some(shares(spec.requests().0.0)),
            pids: Some(pids.unwrap_or(DEFAULT_PIDS)),
            devices: Devices::default(),
        }
    }

    /// Limits of one container of the pod.
    #[must_use]
    pub fn of_container(spec: &WorkloadSpec, container: &ContainerSpec, default: Option<Memory>) -> Self {
        let resources = container.resources.as_ref();
        let limits = resources.and_then(|resources| resources.limits).unwrap_or_default();
        let requests = resources.and_then(|resources| resources.requests).unwrap_or_default();
        Self {
            memory_bytes: memory_limit(spec, container, default).map(|Memory(bytes)| at_least_some(bytes)),
            cpu_quota_micros: limits.cpu.map(|Cpu(millis)| quota(millis)),
            cpu_shares: requests.cpu.or(limits.cpu).map(|Cpu(millis)| shares(millis)),
            pids: limits.pids,
            devices: if container.is_privileged() { Devices::All } else { Devices::Usual },
        }
    }

    /// [`Limits::cpu_shares`] as the weight of cgroup v2 (1 to 10000).
    #[must_use]
    pub fn cpu_weight(&self) -> Option<u64> {
        self.cpu_shares.map(|shares| 1 + (shares - CPU_SHARES.0) * 9_999 / (CPU_SHARES.1 - CPU_SHARES.0))
    }
}

/// What all that run together may use: None if one of them has no limit. An init container runs before the others.
fn sum(spec: &WorkloadSpec, each: impl Fn(&ContainerSpec) -> Option<u64>) -> Option<u64> {
    let (sidecars, inits): (Vec<_>, Vec<_>) = spec.init_containers.iter().partition(|own| own.is_sidecar());
    let mut together = spec.containers.iter().chain(sidecars).map(&each);
    let together = together.try_fold(0_u64, |total, own| own.map(|own| total.saturating_add(own)));
    inits.into_iter().map(&each).try_fold(together?, |most, own| own.map(|own| most.max(own)))
}

/// Memory that a container may use by itself: its own limit, or else, if its pod has none, the node's, but no less than what
/// it asks for.
#[must_use]
pub fn memory_limit(
    spec: &WorkloadSpec,
    container: &ContainerSpec,
    default: Option<Memory>,
) -> Option<Memory> {
    let limit = |resources: Option<&Resources>| resources.and_then(|own| own.limits?.memory);
    let request = container.resources.as_ref().and_then(|own| own.requests?.memory);
    let default = default.filter(|_| limit(spec.resources.as_ref()).is_none());
    limit(container.resources.as_ref())
        .or_else(|| default.map(|default| request.map_or(default, |own| own.max(default))))
}

fn at_least_some(bytes: u64) -> u64 {
    bytes.clamp(MEMORY_MIN_BYTES, i64::MAX as u64)
}

fn quota(millis: u64) -> u64 {
    (millis.saturating_mul(CPU_PERIOD_MICROS) / 1_000).max(CPU_QUOTA_MIN_MICROS)
}

fn shares(millis: u64) -> u64 {
    (millis.saturating_mul(1_024) / 1_000).clamp(CPU_SHARES.0, CPU_SHARES.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn container(cpu: u64, memory: Option<u64>) -> ContainerSpec {
        let limits =
            ResourceList { cpu: Some(Cpu(cpu)), memory: memory.map(Memory), ..ResourceList::default() };
        ContainerSpec {
            resources: Some(Resources { requests: None, limits: Some(limits) }),
            ..ContainerSpec::default()
        }
    }

    #[test]
    fn pod_limit_is_the_sum_only_if_every_container_has_one() {
        let both = WorkloadSpec {
            containers: vec![container(500, Some(32 << 20)), container(250, Some(16 << 20))],
            ..WorkloadSpec::default()
        };
        let limits = Limits::of_pod(&both, None);
        assert_eq!(limits.memory_bytes, Some(48 << 20));
        assert_eq!(limits.cpu_quota_micros, Some(75_000));
        assert_eq!(limits.pids, Some(DEFAULT_PIDS));
        let one = WorkloadSpec {
            containers: vec![container(500, Some(32 << 20)), container(250, None)],
            ..WorkloadSpec::default()
        };
        assert_eq!(Limits::of_pod(&one, None).memory_bytes, None);
        assert_eq!(Limits::of_pod(&one, Some(Memory(8 << 20))).memory_bytes, Some(40 << 20));
    }

    #[test]
    fn pod_limit_of_its_own_wins_over_the_sum() {
        let own = ResourceList { memory: Some(Memory(64 << 20)), pids: Some(20), ..ResourceList::default() };
        let spec = WorkloadSpec {
            containers: vec![container(500, Some(32 << 20))],
            resources: Some(Resources { requests: None, limits: Some(own) }),
            ..WorkloadSpec::default()
        };
        let limits = Limits::of_pod(&spec, Some(DEFAULT_MEMORY));
        assert_eq!((limits.memory_bytes, limits.pids), (Some(64 << 20), Some(20)));
        let free = container(0, None);
        assert_eq!(Limits::of_container(&spec, &free, Some(DEFAULT_MEMORY)).memory_bytes, None);
    }

    #[test]
    fn container_for_which_nobody_says_anything_has_what_its_node_gives_it_or_what_it_asks_for() {
        let spec = WorkloadSpec::default();
        let of = |own: &ContainerSpec| Limits::of_container(&spec, own, Some(Memory(8 << 20))).memory_bytes;
        assert_eq!(of(&ContainerSpec::default()), Some(8 << 20));
        assert_eq!(of(&container(0, Some(4 << 20))), Some(4 << 20));
        let requests = ResourceList { memory: Some(Memory(16 << 20)), ..ResourceList::default() };
        let asking = ContainerSpec {
            resources: Some(Resources { requests: Some(requests), limits: None }),
            ..ContainerSpec::default()
        };
        assert_eq!(of(&asking), Some(16 << 20));
    }

    #[test]
    fn shares_and_weight_stay_within_what_the_kernel_takes() {
        let limits = |millis| Limits { cpu_shares: Some(shares(millis)), ..Limits::default() };
        assert_eq!((limits(0).cpu_shares, limits(0).cpu_weight()), (Some(2), Some(1)));
        assert_eq!(limits(1_000).cpu_shares, Some(1_024));
        assert_eq!(
            (limits(u64::MAX).cpu_shares, limits(u64::MAX).cpu_weight()),
            (Some(262_144), Some(10_000))
        );
        assert_eq!(quota(1), CPU_QUOTA_MIN_MICROS);
    }
}
