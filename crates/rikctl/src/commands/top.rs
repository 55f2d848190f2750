//! `rikctl top`: what instances and nodes use right now, as their nodes last said.

use clap::Args;
use model::{
    NodeMetrics,
    api::NodeView,
    node::{ContainerMetrics, Gauge, PodMetrics},
};
use serde_json::{Value, json};

use crate::{
    client::Client,
    failure::{Failure, Report},
    listed::bytes,
    noun::{self, Noun, Subject},
    output::{self, Format, OutputArgs},
    resolve,
    table::Table,
    terminal::Terminal,
};

#[derive(Debug, Args)]
#[command(after_help = "\
CPU is what was used since the measurement before, in thousandths of a core; nodes measure every 15 seconds. Memory is
without what the kernel holds of files and could give back at once.")]
pub(crate) struct TopArgs {
    /// What: instances (inst) or nodes (no).
    #[arg(value_name = "NOUN", value_parser = noun::MEASURED, default_value = "instances")]
    subject: Subject,
    /// Only these.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// A row for each container.
    #[arg(long)]
    containers: bool,
    #[command(flatten)]
    output: OutputArgs,
}

pub(crate) fn run(args: &TopArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    let names = args.subject.names(&args.names);
    let nodes = resolve::every::<NodeView>(client, &[])?.into_iter().map(|shown| shown.object);
    let measured: Vec<(String, NodeMetrics)> =
        nodes.filter_map(|node| Some((node.node.name, node.metrics?))).collect();
    if measured.is_empty() {
        return Err(Report::new("no node has sent a measurement yet").hint("rikctl get nodes").into());
    }
    let found = if args.subject.noun == Noun::Node {
        let wanted = measured.iter().filter(|(node, _)| admits(&names, node));
        wanted.map(|(node, metrics)| of_node(node, metrics)).collect()
    } else {
        let pods =
            measured.iter().flat_map(|(node, metrics)| metrics.pods.iter().map(move |pod| (node, pod)));
        let mut pods: Vec<_> = pods.filter(|(_, pod)| admits(&names, &pod.instance)).collect();
        pods.sort_by(|a, b| a.1.instance.cmp(&b.1.instance));
        pods.into_iter().flat_map(|(node, pod)| of_pod(node, pod, args.containers)).collect::<Vec<_>>()
    };
    if let Some(missing) = names.iter().find(|name| found.iter().all(|row| row.name != **name)) {
        let report = Report::new(format!("there is no measurement of {} {missing:?}", args.subject.noun));
        return Err(report.hint("rikctl ps; a new instance is measured within 15 seconds").into());
    }
    if found.is_empty() {
        terminal.note("nothing is measured yet; a new instance is within 15 seconds");
        return Ok(());
    }
    print(args, &found, terminal)
}

fn admits(names: &[String], name: &str) -> bool {
    names.is_empty() || names.iter().any(|wanted| wanted == name)
}

/// A row of the table, and the same for programs.
struct Row {
    name: String,
    cells: Vec<String>,
    value: Value,
}

fn of_node(node: &str, metrics: &NodeMetrics) -> Row {
    let busy = 100.0 - metrics.cpu.free;
    let disk = metrics.disks.first();
    let used = disk.map(|disk| disk.total.saturating_sub(disk.free));
    let cells = vec![
        node.to_owned(),
        format!("{:.0}m", metrics.cpu.total * busy * 10.0),
        format!("{busy:.0}%"),
        bytes(used_bytes(metrics.memory)),
        bytes(whole(metrics.memory.total)),
        used.map_or_else(|| "-".to_owned(), bytes),
        disk.map_or_else(|| "-".to_owned(), |disk| bytes(disk.total)),
    ];
    let value = json!({"node": node, "cpu": metrics.cpu, "memory": metrics.memory, "disks": metrics.disks});
    Row { name: node.to_owned(), cells, value }
}

fn used_bytes(gauge: Gauge) -> u64 {
    whole(gauge.total - gauge.free)
}

/// A number of bytes that came as a fraction.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "for people; it saturates")]
const fn whole(bytes: f64) -> u64 {
    bytes as u64
}

fn of_pod(node: &str, pod: &PodMetrics, containers: bool) -> Vec<Row> {
    let row = |who: Vec<String>, used: &[ContainerMetrics], value: Value| {
        let cpu = used.iter().map(|one| one.cpu_millicores).sum::<Option<u64>>();
        let memory = used.iter().map(|one| one.memory_bytes).sum();
        let cpu = cpu.map_or_else(|| "-".to_owned(), |cpu| format!("{cpu}m"));
        let mut cells = who;
        let disk = used.iter().map(|one| one.disk_bytes).sum();
        cells.extend([node.to_owned(), cpu, bytes(memory), bytes(disk)]);
        Row { name: pod.instance.clone(), cells, value }
    };
    if containers {
        let rows = pod.containers.iter().map(|one| {
            let value = json!({"node": node, "instance": pod.instance, "container": one});
            row(vec![pod.instance.clone(), one.name.clone()], std::slice::from_ref(one), value)
        });
        return rows.collect();
    }
    let value = json!({"node": node, "metrics": pod});
    let mut whole = row(vec![pod.instance.clone()], &pod.containers, value);
    whole.cells.extend([bytes(pod.received_bytes), bytes(pod.sent_bytes)]);
    vec![whole]
}

fn print(args: &TopArgs, rows: &[Row], terminal: &mut Terminal) -> Result<(), Failure> {
    let values = || Value::from(rows.iter().map(|row| row.value.clone()).collect::<Vec<_>>());
    let format = args.output.format();
    match format {
        _ if args.output.quiet => {}
        Format::Json => return terminal.print(&output::json(&values())?),
        Format::Yaml => return terminal.print(&output::yaml(&values())?),
        Format::Table | Format::Wide | Format::Name => {}
    }
    if args.output.quiet || format == Format::Name {
        return rows.iter().try_for_each(|row| terminal.print_line(&row.name));
    }
    let mut table = Table::new(match (args.subject.noun, args.containers) {
        (Noun::Node, _) => vec!["NODE", "CPU", "CPU%", "MEMORY", "OF", "DISK", "OF"],
        (_, true) => vec!["INSTANCE", "CONTAINER", "NODE", "CPU", "MEMORY", "DISK"],
        (_, false) => vec!["INSTANCE", "NODE", "CPU", "MEMORY", "DISK", "RECEIVED", "SENT"],
    });
    for row in rows {
        table.push(row.cells.clone());
    }
    terminal.print(&table.render(args.output.headed()))
}
