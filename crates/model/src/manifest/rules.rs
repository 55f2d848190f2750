//! Rules that one field alone cannot break: what a kind needs, and what must differ inside one manifest.

use std::collections::BTreeSet;

use super::{
    ContainerSpec, Kind, MAX_LABELS, Resources, Workload, WorkloadSpec,
    function::MIN_MEMORY,
    health::{Hook, Probe, RestartPolicy},
    security::{Capability, SeccompProfile, SeccompSource},
    volume::{Volume, mount_path_fault},
};

/// A broken rule: the path of the field and the sentence.
pub type Broken = (String, String);

/// Every rule that `workload` breaks, in the order of the document.
#[must_use]
pub fn broken(workload: &Workload) -> Vec<Broken> {
    let mut faults = Vec::new();
    let mut fault = |path: String, message: String| faults.push((path, message));
    match workload.kind {
        Kind::Pod if workload.spec.containers.is_empty() => {
            fault("spec.containers".to_owned(), "a Pod needs at least one container".to_owned());
        }
        Kind::Function => check_function(workload, &mut fault),
        Kind::Pod => {}
    }
    for (path, labels) in [("labels", &workload.labels), ("spec.nodeSelector", &workload.spec.node_selector)]
    {
        if labels.len() > MAX_LABELS {
            fault(path.to_owned(), format!("has {} labels; at most {MAX_LABELS} are allowed", labels.len()));
        }
    }
    let mut names = BTreeSet::new();
    let mut ports = BTreeSet::new();
    let init = workload.spec.init_containers.iter().enumerate().map(|own| ("initContainers", own));
    let main = workload.spec.containers.iter().enumerate().map(|own| ("containers", own));
    for (list, (index, container)) in init.chain(main) {
        let path = format!("spec.{list}[{index}]");
        if !names.insert(&container.name) {
            fault(
                format!("{path}.name"),
                format!("{:?} is taken by another container of this pod", container.name),
            );
        }
        for (at, port) in container.ports.iter().enumerate() {
            if !ports.insert((port.protocol, port.port, port.host_address)) {
                let message = format!("{} port {} is published twice in this pod", port.protocol, port.port);
                fault(format!("{path}.ports[{at}].port"), message);
            }
        }
        check_resources(container.resources.as_ref(), &format!("{path}.resources"), &mut fault);
        check_security(container, &path, &mut fault);
        if container.stdin_once && !container.stdin {
            fault(format!("{path}.stdinOnce"), "needs stdin: true".to_owned());
        }
        check_environment(container, &path, &mut fault);
        check_mounts(container, &workload.spec.volumes, &path, &mut fault);
        check_health(container, list == "initContainers", &path, &mut fault);
    }
    check_volumes(&workload.spec.volumes, &mut fault);
    let backoff = &workload.spec.restart_backoff;
    if backoff.initial_seconds > backoff.max_seconds {
        let message = format!("{} is more than maxSeconds, {}", backoff.initial_seconds, backoff.max_seconds);
        fault("spec.restartBackoff.initialSeconds".to_owned(), message);
    }
    check_resources(workload.spec.resources.as_ref(), "spec.resources", &mut fault);
    let own = workload.spec.resources.as_ref().and_then(|own| own.limits);
    if own.is_some_and(|own| own.ephemeral_storage.is_some()) {
        let message = "is a limit of single containers".to_owned();
        fault("spec.resources.limits.ephemeral-storage".to_owned(), message);
    }
    let pod = workload.spec.security_context.as_ref();
    check_seccomp(pod.and_then(|pod| pod.seccomp_profile.as_ref()), "spec.securityContext", &mut fault);
    check_host_namespaces(&workload.spec, &mut fault);
    faults
}

fn check_host_namespaces(spec: &WorkloadSpec, fault: &mut impl FnMut(String, String)) {
    if spec.host_pid && spec.share_process_namespace {
        let message = "its containers see each other in the node's processes already";
        fault("spec.shareProcessNamespace".to_owned(), message.to_owned());
    }
    if let Some(other) = spec.published().find(|one| spec.host_network && one.target() != one.port) {
        let (port, target) = (other.port, other.target());
        let message =
            format!("port {port} cannot lead to {target}: the node's ports are the container's own");
        fault("spec.hostNetwork".to_owned(), message);
    }
}

/// What a microVM needs, and what it cannot have.
fn check_function(workload: &Workload, fault: &mut impl FnMut(String, String)) {
    let spec = &workload.spec;
    let execution = spec.function.as_ref().and_then(|own| own.execution.as_ref());
    match (execution, spec.containers.as_slice()) {
        (None, []) => fault(
            "spec.function".to_owned(),
            "a Function needs this, with execution.rootfs in it, or one container".to_owned(),
        ),
        (Some(_), [_, ..]) => fault(
            "spec.containers".to_owned(),
            "a Function has function.execution or one container, not both".to_owned(),
        ),
        (None, [_, _, ..]) => {
            fault(
                "spec.containers".to_owned(),
                "a Function has one container; a Pod may have more".to_owned(),
            );
        }
        (Some(_), []) | (None, [_]) => {}
    }
    for path in only_of_pods(spec).map(str::to_owned).chain(volumes_of_pods(&spec.volumes)) {
        fault(format!("spec.{path}"), "is for kind Pod: a microVM has a kernel of its own".to_owned());
    }
    if execution.is_some() && !spec.volumes.is_empty() {
        fault(
            "spec.volumes".to_owned(),
            "are mounted by a container: name an image in one, in place of execution.rootfs".to_owned(),
        );
    }
    if let Some(memory) = spec.memory_limit().filter(|memory| *memory < MIN_MEMORY) {
        fault(
            "spec.resources.limits.memory".to_owned(),
            format!("{memory} is less than a microVM's kernel comes up with; {MIN_MEMORY} is the least"),
        );
    }
    if let Some(execution) = execution {
        let container = ContainerSpec { env: execution.env.clone(), ..ContainerSpec::default() };
        check_environment(&container, "spec.function.execution", fault);
        let probes = [
            ("livenessProbe", &execution.liveness_probe),
            ("readinessProbe", &execution.readiness_probe),
            ("startupProbe", &execution.startup_probe),
        ];
        for (name, probe) in probes {
            if let Some(probe) = probe {
                check_probe(name, probe, "spec.function.execution", fault);
            }
        }
    }
}

/// What a Function says that only a Pod can have.
fn only_of_pods(spec: &WorkloadSpec) -> impl Iterator<Item = &'static str> {
    let limits = spec.resources.as_ref().and_then(|own| own.limits).unwrap_or_default();
    let none = ContainerSpec::default();
    let container = spec.containers.first().unwrap_or(&none);
    let security = container.security_context.as_ref();
    let own = container.resources.as_ref().and_then(|own| own.limits).unwrap_or_default();
    [
        (!spec.init_containers.is_empty(), "initContainers"),
        (spec.share_process_namespace, "shareProcessNamespace"),
        (spec.runtime_class_name.is_some(), "runtimeClassName"),
        (spec.host_network, "hostNetwork"),
        (spec.host_pid, "hostPID"),
        (spec.host_ipc, "hostIPC"),
        (limits.pids.is_some(), "resources.limits.pids"),
        (
            security.is_some_and(|own| own.capabilities.is_some()),
            "containers[0].securityContext.capabilities",
        ),
        (
            security.is_some_and(|own| own.seccomp_profile.is_some()),
            "containers[0].securityContext.seccompProfile",
        ),
        (container.is_privileged(), "containers[0].securityContext.privileged"),
        (own.pids.is_some(), "containers[0].resources.limits.pids"),
        (own.ephemeral_storage.is_some(), "containers[0].resources.limits.ephemeral-storage"),
    ]
    .into_iter()
    .filter_map(|(has, path)| has.then_some(path))
}

/// Volumes that are of the node, and that no microVM sees.
fn volumes_of_pods(volumes: &[Volume]) -> impl Iterator<Item = String> {
    volumes.iter().enumerate().flat_map(|(index, volume)| {
        let kinds = [(volume.host_path.is_some(), "hostPath"), (volume.local.is_some(), "local")];
        kinds.into_iter().filter(|(has, _)| *has).map(move |(_, kind)| format!("volumes[{index}].{kind}"))
    })
}

fn check_resources(resources: Option<&Resources>, path: &str, fault: &mut impl FnMut(String, String)) {
    let Some(Resources { requests: Some(requests), limits: Some(limits) }) = resources else { return };
    if let (Some(request), Some(limit)) = (requests.cpu, limits.cpu)
        && request > limit
    {
        fault(format!("{path}.requests.cpu"), format!("{request} is more than the limit of {limit}"));
    }
    if let (Some(request), Some(limit)) = (requests.memory, limits.memory)
        && request > limit
    {
        fault(format!("{path}.requests.memory"), format!("{request} is more than the limit of {limit}"));
    }
}

fn check_security(container: &ContainerSpec, path: &str, fault: &mut impl FnMut(String, String)) {
    let Some(own) = &container.security_context else { return };
    let path = format!("{path}.securityContext");
    let privileged = own.privileged == Some(true);
    if privileged && own.allow_privilege_escalation == Some(false) {
        let message = "a privileged container has all rights already";
        fault(format!("{path}.allowPrivilegeEscalation"), message.to_owned());
    }
    if privileged && (own.capabilities.is_some() || own.seccomp_profile.is_some()) {
        let message = "a privileged container has all capabilities and no filter; leave those out";
        fault(format!("{path}.privileged"), message.to_owned());
    }
    if !privileged && own.allow_privilege_escalation == Some(true) {
        let message = "no program of a container ever gets more rights than it began with";
        fault(format!("{path}.allowPrivilegeEscalation"), message.to_owned());
    }
    if own.capabilities.as_ref().is_some_and(|asked| asked.add.contains(&Capability::All)) {
        fault(format!("{path}.capabilities.add"), "ALL can only be dropped; name each one to add".to_owned());
    }
    if own.run_as_non_root == Some(true) && own.run_as_user == Some(0) {
        fault(format!("{path}.runAsUser"), "0 is root, which runAsNonRoot refuses".to_owned());
    }
    check_seccomp(own.seccomp_profile.as_ref(), &path, fault);
}

fn check_seccomp(profile: Option<&SeccompProfile>, path: &str, fault: &mut impl FnMut(String, String)) {
    let Some(profile) = profile else { return };
    let named = profile.localhost_profile.is_some();
    if named != (profile.source == SeccompSource::Localhost) {
        let message = if named { "goes with type Localhost only" } else { "type Localhost needs it" };
        fault(format!("{path}.seccompProfile.localhostProfile"), message.to_owned());
    }
}

fn check_environment(container: &ContainerSpec, path: &str, fault: &mut impl FnMut(String, String)) {
    for (index, variable) in container.env.iter().enumerate() {
        let Some(source) = &variable.value_from else { continue };
        let path = format!("{path}.env[{index}]");
        if !variable.value.is_empty() {
            fault(format!("{path}.valueFrom"), "stands instead of value, not beside it".to_owned());
        }
        if source.config_key_ref.is_some() == source.secret_key_ref.is_some() {
            let message = "needs exactly one of configKeyRef and secretKeyRef";
            fault(format!("{path}.valueFrom"), message.to_owned());
        }
    }
    for (index, from) in container.env_from.iter().enumerate() {
        if from.config_ref.is_some() == from.secret_ref.is_some() {
            let message = "needs exactly one of configRef and secretRef";
            fault(format!("{path}.envFrom[{index}]"), message.to_owned());
        }
    }
}

fn check_volumes(volumes: &[Volume], fault: &mut impl FnMut(String, String)) {
    let mut names = BTreeSet::new();
    for (index, volume) in volumes.iter().enumerate() {
        let path = format!("spec.volumes[{index}]");
        if !names.insert(&volume.name) {
            fault(
                format!("{path}.name"),
                format!("{:?} is taken by another volume of this pod", volume.name),
            );
        }
        let sorts = [
            volume.empty_dir.is_some(),
            volume.host_path.is_some(),
            volume.local.is_some(),
            volume.config.is_some(),
            volume.secret.is_some(),
        ];
        if sorts.into_iter().filter(|is| *is).count() != 1 {
            fault(path, "needs exactly one of emptyDir, hostPath, local, config and secret".to_owned());
        }
    }
}

fn check_mounts(
    container: &ContainerSpec,
    volumes: &[Volume],
    path: &str,
    fault: &mut impl FnMut(String, String),
) {
    let mut places = BTreeSet::new();
    for (index, mount) in container.volume_mounts.iter().enumerate() {
        let path = format!("{path}.volumeMounts[{index}]");
        if !volumes.iter().any(|volume| volume.name == mount.name) {
            fault(format!("{path}.name"), format!("{:?} is no volume of this pod", mount.name));
        }
        if let Some(why) = mount_path_fault(&mount.mount_path) {
            fault(format!("{path}.mountPath"), why.to_owned());
        }
        if !places.insert(mount.mount_path.trim_end_matches('/')) {
            fault(format!("{path}.mountPath"), "is the place of another volume already".to_owned());
        }
    }
}

fn check_health(container: &ContainerSpec, init: bool, path: &str, fault: &mut impl FnMut(String, String)) {
    match container.restart_policy {
        Some(_) if !init => fault(
            format!("{path}.restartPolicy"),
            "is for init containers only; for the others, it is spec.restartPolicy".to_owned(),
        ),
        Some(RestartPolicy::Never | RestartPolicy::OnFailure) => fault(
            format!("{path}.restartPolicy"),
            "can only be Always, which makes a sidecar of an init container".to_owned(),
        ),
        Some(RestartPolicy::Always) | None => {}
    }
    let probes = [
        ("livenessProbe", &container.liveness_probe),
        ("readinessProbe", &container.readiness_probe),
        ("startupProbe", &container.startup_probe),
    ];
    let passing = init && !container.is_sidecar();
    for (name, probe) in probes {
        let Some(probe) = probe else { continue };
        if passing {
            let message = "an init container runs to its end, and is not asked how it is; with restartPolicy Always it \
                           is a sidecar, which may be asked";
            fault(format!("{path}.{name}"), message.to_owned());
        }
        check_probe(name, probe, path, fault);
    }
    if let Some(hook) = container.lifecycle.as_ref().and_then(|own| own.pre_stop.as_ref()) {
        check_hook(hook, &format!("{path}.lifecycle.preStop"), fault);
    }
}

fn check_probe(name: &str, probe: &Probe, path: &str, fault: &mut impl FnMut(String, String)) {
    if probe.action().is_none() {
        let message = "needs exactly one of exec, httpGet and tcpSocket";
        fault(format!("{path}.{name}"), message.to_owned());
    }
    if name != "readinessProbe" && probe.success_threshold != 1 {
        fault(format!("{path}.{name}.successThreshold"), "can only be 1 for this probe".to_owned());
    }
}

fn check_hook(hook: &Hook, path: &str, fault: &mut impl FnMut(String, String)) {
    if hook.action().is_none() {
        fault(path.to_owned(), "needs exactly one of exec and httpGet".to_owned());
    }
}
