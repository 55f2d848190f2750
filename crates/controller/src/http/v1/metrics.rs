//! Metrics for Prometheus: what the nodes said last, and what the store says of instances. Nothing is measured here.

use std::{
    collections::BTreeMap,
    fmt::{Display, Write as _},
};

use axum::{
    extract::State,
    response::{IntoResponse, Response},
};
use http::header;
use model::{NodeMetrics, NodeStatus, Status, api::NodeView};

use crate::http::routes::Api;

/// The form that is written, as Prometheus names it.
const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// What nodes, instances and containers use, in the text form of Prometheus.
#[utoipa::path(get, path = "/metrics", tag = "cluster",
    responses((status = 200, description = "The metrics.", body = String, content_type = "text/plain")))]
pub(super) async fn get_metrics(State(api): State<Api>) -> Response {
    let nodes = api.cluster().nodes().items;
    let mut page = Text::default();
    for node in &nodes {
        of_node(&mut page, node);
    }
    let mut counts: BTreeMap<Status, u64> = Status::ALL.into_iter().map(|status| (status, 0)).collect();
    let state = api.cluster().mirror().read();
    for instance in state.instances.values().map(|instance| &instance.object) {
        *counts.entry(instance.status).or_default() += 1;
        let labels = [("instance", instance.id.as_str()), ("workload", instance.workload.as_str())];
        page.add(("rik_instance_restarts_total", "counter", RESTARTS), &labels, instance.restarts);
        page.add(("rik_instance_ready", "gauge", READY), &labels, u8::from(instance.ready));
    }
    drop(state);
    for (status, count) in counts {
        page.add(("rik_instances", "gauge", INSTANCES), &[("status", &status.to_string())], count);
    }
    ([(header::CONTENT_TYPE, CONTENT_TYPE)], page.finish()).into_response()
}

const RESTARTS: &str = "How often containers of the instance were started again.";
const READY: &str = "Whether the instance runs and can serve.";
const INSTANCES: &str = "Instances by status.";

fn of_node(page: &mut Text, view: &NodeView) {
    let name = view.node.name.as_str();
    let labels = [("node", name)];
    let ready = u8::from(view.node.status == NodeStatus::Ready);
    page.add(("rik_node_ready", "gauge", "Whether the node is heard from."), &labels, ready);
    if let Some(metrics) = view.metrics.as_ref().filter(|_| ready == 1) {
        of_machine(page, name, metrics);
        of_pods(page, name, metrics);
    }
}

fn of_machine(page: &mut Text, name: &str, metrics: &NodeMetrics) {
    let labels = [("node", name)];
    let mut gauge = |name, help, value: f64| page.add((name, "gauge", help), &labels, value);
    gauge("rik_node_cpu_cores", "Cores of the node.", metrics.cpu.total);
    gauge("rik_node_cpu_free_ratio", "Part of all cores that was idle.", metrics.cpu.free / 100.0);
    gauge("rik_node_memory_bytes", "Memory of the node.", metrics.memory.total);
    gauge("rik_node_memory_free_bytes", "Memory of the node that is available.", metrics.memory.free);
    for disk in &metrics.disks {
        let labels = [("node", name), ("disk", disk.disk_name.as_str())];
        page.add(("rik_node_disk_bytes", "gauge", "Size of a disk of the node."), &labels, disk.total);
        page.add(("rik_node_disk_free_bytes", "gauge", "Free bytes of the disk."), &labels, disk.free);
    }
}

fn of_pods(page: &mut Text, node: &str, metrics: &NodeMetrics) {
    for pod in &metrics.pods {
        let labels = [("node", node), ("instance", pod.instance.as_str())];
        let received = "Bytes that the instance received over the network.";
        page.add(
            ("rik_instance_network_received_bytes_total", "counter", received),
            &labels,
            pod.received_bytes,
        );
        let sent = "Bytes that the instance sent over the network.";
        page.add(("rik_instance_network_sent_bytes_total", "counter", sent), &labels, pod.sent_bytes);
        for container in &pod.containers {
            let labels =
                [("node", node), ("instance", pod.instance.as_str()), ("container", container.name.as_str())];
            let cpu = "Processor time of the container's present run.";
            let seconds = Micros(container.cpu_micros);
            page.add(("rik_container_cpu_seconds_total", "counter", cpu), &labels, seconds);
            let memory = "Memory of the container, without files that the kernel could let go.";
            page.add(("rik_container_memory_bytes", "gauge", memory), &labels, container.memory_bytes);
            let disk = "Disk that the container takes beside its volumes, its logs included.";
            page.add(("rik_container_disk_bytes", "gauge", disk), &labels, container.disk_bytes);
        }
    }
}

/// Microseconds, written as seconds.
struct Micros(u64);

impl Display for Micros {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "{}.{:06}", self.0 / 1_000_000, self.0 % 1_000_000)
    }
}

/// Metrics by name: all lines of one have to stand together.
#[derive(Default)]
struct Text {
    families: BTreeMap<&'static str, String>,
}

impl Text {
    fn add(
        &mut self,
        (name, kind, help): (&'static str, &str, &str),
        labels: &[(&str, &str)],
        value: impl Display,
    ) {
        let family = self
            .families
            .entry(name)
            .or_insert_with(|| format!("# HELP {name} {help}\n# TYPE {name} {kind}\n"));
        let labels: Vec<String> =
            labels.iter().map(|(label, text)| format!("{label}=\"{}\"", escaped(text))).collect();
        // Writing to a string cannot fail.
        let _ = writeln!(family, "{name}{{{}}} {value}", labels.join(","));
    }

    fn finish(self) -> String {
        self.families.into_values().collect()
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_of_one_metric_stand_together_behind_its_type() {
        let mut page = Text::default();
        for (name, value) in [("a", "x"), ("b", "y"), ("a", "q\"\\")] {
            page.add(
                (if name == "a" { "a" } else { "b" }, "gauge", "What."),
                &[("l", value)],
                Micros(1_500_000),
            );
        }
        let expected = "# HELP a What.\n# TYPE a gauge\na{l=\"x\"} 1.500000\na{l=\"q\\\"\\\\\"} 1.500000\n\
                        # HELP b What.\n# TYPE b gauge\nb{l=\"y\"} 1.500000\n";
        assert_eq!(page.finish(), expected);
    }
}
