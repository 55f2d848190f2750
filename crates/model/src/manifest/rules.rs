//! Rules that one field alone cannot break: what a kind needs, and what must differ inside one manifest.

use std::collections::BTreeSet;

use super::{Kind, MAX_LABELS, Resources, Workload};

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
        Kind::Function if workload.spec.function.is_none() => {
            fault(
                "spec.function".to_owned(),
                "a Function needs this, with execution.rootfs in it".to_owned(),
            );
        }
        Kind::Function if !workload.spec.containers.is_empty() => {
            fault(
                "spec.containers".to_owned(),
                "a Function has no containers; use kind Pod, or leave them out".to_owned(),
            );
        }
        Kind::Pod | Kind::Function => {}
    }
    for (path, labels) in [("labels", &workload.labels), ("spec.nodeSelector", &workload.spec.node_selector)]
    {
        if labels.len() > MAX_LABELS {
            fault(path.to_owned(), format!("has {} labels; at most {MAX_LABELS} are allowed", labels.len()));
        }
    }
    let mut names = BTreeSet::new();
    let mut ports = BTreeSet::new();
    for (index, container) in workload.spec.containers.iter().enumerate() {
        let path = format!("spec.containers[{index}]");
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
    }
    check_resources(workload.spec.resources.as_ref(), "spec.resources", &mut fault);
    faults
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
