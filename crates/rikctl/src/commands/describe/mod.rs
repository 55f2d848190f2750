//! `rikctl describe`: everything about an object, for a person.

mod sheet;

use clap::Args;
use jiff::Timestamp;
use model::{
    ContainerStatus, Instance, PastRun, Reason, StartTimes, Status, WorkloadRecord, WorkloadSpec,
    api::{Event, NodeView},
    manifest::health::RestartPolicy,
    node::ImagesCleared,
};

use self::sheet::Sheet;
use super::get::about;
use crate::{
    age::{since, stamp},
    client::Client,
    escape,
    failure::{Failure, Report, counted},
    listed::{Listed as _, Object, Shown, bytes, ports},
    noun::{self, Noun, Subject},
    output, resolve,
    table::{Headed, Table},
    terminal::Terminal,
};

/// Most events that are shown.
const MAX_EVENTS: usize = 20;
/// Most instances that are shown.
const MAX_INSTANCES: usize = 50;

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// What: workload, instance, node, config or secret.
    #[arg(value_name = "NOUN", value_parser = noun::OBJECTS)]
    subject: Subject,
    /// Which: names, ids or unique beginnings.
    #[arg(value_name = "NAME")]
    names: Vec<String>,
}

pub(crate) fn run(args: &DescribeArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    let names = args.subject.names(&args.names);
    if names.is_empty() {
        let noun = args.subject.noun;
        return Err(Report::new(format!("no {noun} is named"))
            .hint(format!("rikctl describe {noun} NAME; rikctl get {} lists them", noun.plural()))
            .exit(crate::exit::Exit::Usage)
            .into());
    }
    let mut first = true;
    super::each(&names, terminal, |name, terminal| {
        let (sheet, hint) = match args.subject.noun {
            Noun::Workload => (workload(client, name)?, None),
            Noun::Instance => instance(client, name)?,
            Noun::Config => (object::<false>(client, name)?, None),
            Noun::Secret => (object::<true>(client, name)?, None),
            Noun::Node | Noun::Event => (node(client, name)?, None),
        };
        if !std::mem::take(&mut first) {
            terminal.print("\n")?;
        }
        terminal.print(&sheet.finish())?;
        hint.iter().for_each(|hint| terminal.hint(hint));
        Ok(())
    })
}

fn instance(client: &Client, name: &str) -> Result<(Sheet, Option<String>), Failure> {
    let now = Timestamp::now();
    let instance = resolve::object::<Instance>(client, name)?.object;
    let mut sheet = Sheet::default();
    sheet.field("Name", &instance.id);
    sheet.field("Uid", &instance.uid);
    sheet.field("Workload", &format!("{} ({})", instance.workload, instance.workload_id));
    sheet.field("Kind", &instance.kind.to_string());
    sheet.field("Status", &instance.status.to_string());
    sheet.maybe("Reason", instance.reason.map(|reason| reason.to_string()));
    sheet.maybe("Message", instance.message.clone());
    sheet.maybe("Node", instance.node.clone());
    sheet.maybe("Address", instance.ip.map(|ip| ip.to_string()));
    sheet.maybe("Ports", (!instance.ports.is_empty()).then(|| ports(&instance.ports)));
    sheet.maybe("Exit code", instance.exit_code.map(|code| code.to_string()));
    sheet.field("Restarts", &instance.restarts.to_string());
    sheet.field("Created", &stamp(now, instance.created_at));
    sheet.maybe("Started", instance.started_at.map(|at| stamp(now, at)));
    sheet.maybe("Start", instance.start_times.as_ref().map(time_line));
    sheet.maybe("Finished", instance.finished_at.map(|at| stamp(now, at)));
    sheet.maybe("Deletion", instance.deleted_at.map(|at| stamp(now, at)));
    spec(&mut sheet, &instance.spec, &instance.containers);
    events(&mut sheet, &about(client, Noun::Instance, &instance.id)?, now);
    Ok((sheet, next_command(&instance)))
}

/// Where the time of a start went, in the order in which it went; what is done at once stands together.
fn time_line(times: &StartTimes) -> String {
    let millis = |micros: u64| format!("{}.{} ms", micros / 1_000, micros % 1_000 / 100);
    let how = match times.warm {
        Some(true) => " (warm, from a template)",
        Some(false) => " (cold, by booting)",
        None => "",
    };
    let processes = times.processes_micros.map(|micros| format!(", then processes {}{how}", millis(micros)));
    format!(
        "sandbox {}, then image {} and files {}, network {}, limits {} at once{}",
        millis(times.sandbox_micros),
        millis(times.image_micros),
        millis(times.files_micros),
        millis(times.network_micros),
        millis(times.limits_micros),
        processes.unwrap_or_default()
    )
}

/// What a person who looks at this instance will want to do next.
fn next_command(instance: &Instance) -> Option<String> {
    let id = &instance.id;
    match (instance.status, instance.reason) {
        (
            Status::Failed,
            Some(Reason::NonZeroExit | Reason::Signaled | Reason::OutOfMemory | Reason::OutOfDisk),
        ) => Some(format!("rikctl logs {id}")),
        (Status::Pending, Some(Reason::Unplaceable)) => Some("rikctl get nodes -o wide".to_owned()),
        (_, Some(Reason::NodeLost)) => {
            instance.node.as_ref().map(|node| format!("rikctl describe node {node}"))
        }
        (Status::Failed, Some(_)) => Some(format!("rikctl delete instance {id}, then create it anew")),
        (Status::Destroying, Some(Reason::RemovalFailed)) => {
            Some(format!("rikctl delete instance {id} --force"))
        }
        _ => None,
    }
}

fn workload(client: &Client, name: &str) -> Result<Sheet, Failure> {
    let now = Timestamp::now();
    let record = resolve::object::<WorkloadRecord>(client, name)?.object;
    let manifest = &record.manifest;
    let mut sheet = Sheet::default();
    sheet.field("Name", &manifest.name);
    sheet.field("Id", &record.id);
    sheet.field("Kind", &manifest.kind.to_string());
    sheet.field("Api version", &manifest.api_version);
    sheet.field("Replicas", &format!("{} expected; creating instances deploys them", manifest.replicas));
    sheet.maybe("Labels", (!manifest.labels.is_empty()).then(|| pairs(&manifest.labels)));
    sheet.field("Created", &stamp(now, record.created_at));
    spec(&mut sheet, &manifest.spec, &[]);
    let instances = resolve::every::<Instance>(client, &[("workload", &record.id)])?;
    list(&mut sheet, &instances, now);
    events(&mut sheet, &about(client, Noun::Workload, &manifest.name)?, now);
    Ok(sheet)
}

/// A config with its values, a secret with the sizes of them.
fn object<const SECRET: bool>(client: &Client, name: &str) -> Result<Sheet, Failure> {
    let now = Timestamp::now();
    let Object(view) = resolve::object::<Object<SECRET>>(client, name)?.object;
    let mut sheet = Sheet::default();
    sheet.field("Name", &view.name);
    sheet.field("Created", &stamp(now, view.created_at));
    sheet.section("Values");
    for (key, size) in &view.keys {
        let value = view.data.get(key).cloned();
        sheet.field(key, &value.unwrap_or_else(|| format!("({})", bytes(*size))));
    }
    Ok(sheet)
}

fn node(client: &Client, name: &str) -> Result<Sheet, Failure> {
    let now = Timestamp::now();
    let view = resolve::object::<NodeView>(client, name)?.object;
    let (node, facts) = (&view.node, &view.node.facts);
    let mut sheet = Sheet::default();
    sheet.field("Name", &node.name);
    sheet.field("Uid", &node.uid);
    sheet.field("Status", &format!("{} for {}", node.status, since(now, node.status_since)));
    sheet.maybe("Last heard", view.last_heard.map(|at| stamp(now, at)));
    sheet.maybe("Address", facts.address.clone());
    sheet.field("Pod subnet", &node.pod_subnet);
    sheet.field("System", &format!("{}, kernel {}, {}", facts.os, facts.kernel, facts.architecture));
    sheet.field("Riklet", &facts.version);
    sheet.field("Cgroups", &facts.cgroups);
    if !facts.user_namespaces.is_empty() {
        sheet.field("User namespaces", &facts.user_namespaces);
    }
    let now_known = view.metrics.as_ref().map(|metrics| &metrics.microvms);
    let microvms = now_known.into_iter().chain([&facts.microvms]).find(|words| !words.is_empty());
    sheet.maybe("MicroVMs", microvms.cloned());
    sheet.maybe("Runtimes", Some(facts.runtimes.clone()).filter(|words| !words.is_empty()));
    sheet.field("Kinds", &facts.kinds.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "));
    sheet.maybe("Labels", (!facts.labels.is_empty()).then(|| pairs(&facts.labels)));
    sheet.field(
        "Allocatable",
        &format!("{} cores, {} memory, {} instances", facts.cpu, bytes(facts.memory.0), facts.max_instances),
    );
    if let Some(metrics) = &view.metrics {
        sheet.field("Cpu", &format!("{:.0} % free of {} cores", metrics.cpu.free, metrics.cpu.total));
        sheet.field(
            "Memory",
            &format!("{} free of {}", gauge(metrics.memory.free), gauge(metrics.memory.total)),
        );
        for disk in &metrics.disks {
            sheet.field(
                "Disk",
                &format!("{} {} free of {}", disk.disk_name, bytes(disk.free), bytes(disk.total)),
            );
        }
        sheet.maybe("Images cleared", metrics.images_cleared.as_ref().map(|cleared| in_words(cleared, now)));
    }
    sheet.field("Created", &stamp(now, node.created_at));
    let instances = resolve::every::<Instance>(client, &[("node", &node.name)])?;
    list(&mut sheet, &instances, now);
    events(&mut sheet, &about(client, Noun::Node, &node.name)?, now);
    Ok(sheet)
}

/// Metrics carry bytes as numbers that may have decimals; those of a byte tell nothing.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "the cast saturates, as is wished for display"
)]
fn gauge(count: f64) -> String {
    bytes(count as u64)
}

/// Images that had to go because the disk was nearly full.
fn in_words(cleared: &ImagesCleared, now: Timestamp) -> String {
    let freed = bytes(cleared.bytes);
    format!(
        "{}: {}, because the disk was nearly full ({freed} freed)",
        stamp(now, cleared.at),
        cleared.images.join(", ")
    )
}

fn spec(sheet: &mut Sheet, spec: &WorkloadSpec, seen: &[ContainerStatus]) {
    if !spec.node_selector.is_empty() {
        sheet.field("Node selector", &pairs(&spec.node_selector));
    }
    sheet.field("Grace period", &format!("{}s", spec.termination_grace_period_seconds));
    let (cpu, memory) = spec.requests();
    sheet.field("Requests", &format!("{cpu} cpu, {} memory", bytes(memory.0)));
    if let Some(function) = &spec.function {
        sheet.maybe("Rootfs", function.execution.as_ref().map(|execution| execution.rootfs.clone()));
    }
    let restarts = spec.restart_policy != RestartPolicy::default();
    sheet.maybe("Policy", restarts.then(|| format!("{:?}", spec.restart_policy)));
    for (index, container) in spec.all_containers().enumerate() {
        let seen = seen.iter().find(|seen| seen.name == container.name);
        let title = match (index < spec.init_containers.len(), container.is_sidecar()) {
            (true, true) => "Sidecar",
            (true, false) => "Init container",
            (false, _) => "Container",
        };
        sheet.section(&format!("{title} {}", container.name));
        sheet.field("Image", &container.image);
        sheet.maybe("Digest", seen.and_then(|seen| seen.image_digest.clone()));
        sheet.maybe("Command", (!container.command.is_empty()).then(|| words(&container.command)));
        sheet.maybe("Args", (!container.args.is_empty()).then(|| words(&container.args)));
        sheet.maybe("Directory", container.working_dir.clone());
        for variable in &container.env {
            sheet.field("Env", &format!("{}={}", variable.name, variable.value));
        }
        for port in &container.ports {
            sheet.field("Port", &format!("{}->{}/{}", port.port, port.target(), port.protocol));
        }
        if let Some(seen) = seen {
            sheet.field("Phase", &seen.phase.to_string());
            sheet.maybe("Reason", seen.reason.map(|reason| reason.to_string()));
            sheet.maybe("Pid", seen.pid.map(|pid| pid.to_string()));
            sheet.maybe("Exit code", seen.exit_code.map(|code| code.to_string()));
            sheet.maybe("Signal", seen.signal.map(|signal| signal.to_string()));
            sheet.field("Ready", if seen.ready { "yes" } else { "no" });
            sheet.field("Restarts", &seen.restarts.to_string());
            sheet.maybe("Last run", seen.last_run.as_ref().map(past));
        }
    }
}

/// How a run that is over ended, and when.
fn past(run: &PastRun) -> String {
    let how = match (&run.message, run.exit_code) {
        (Some(message), _) => message.clone(),
        (None, Some(code)) => format!("ended with exit code {code}"),
        (None, None) => "ended".to_owned(),
    };
    run.finished_at.map_or_else(|| how.clone(), |at| format!("{how}, at {at:.0}"))
}

fn list(sheet: &mut Sheet, instances: &[Shown<Instance>], now: Timestamp) {
    sheet.section(&counted(instances.len(), "instance"));
    let shown = &instances[..instances.len().min(MAX_INSTANCES)];
    if !shown.is_empty() {
        let mut table = Table::new(vec!["NAME", "STATUS", "NODE", "AGE", "REASON"]);
        for Shown { object, .. } in shown {
            let reason = object.reason.map(|reason| reason.to_string()).unwrap_or_default();
            let node = object.node.clone().unwrap_or_else(|| "-".to_owned());
            table.push(vec![
                object.name().to_owned(),
                object.status.to_string(),
                node,
                since(now, object.created_at),
                reason,
            ]);
        }
        sheet.block(&table.render(Headed::Yes));
    }
    if shown.len() < instances.len() {
        sheet.block(&format!(" and {} more\n", instances.len() - shown.len()));
    }
}

fn events(sheet: &mut Sheet, events: &[Event], now: Timestamp) {
    if events.is_empty() {
        return;
    }
    sheet.section("Events");
    let mut table = Table::new(vec!["AGE", "ACTION", "STATUS", "REASON", "MESSAGE"]);
    for event in &events[events.len().saturating_sub(MAX_EVENTS)..] {
        let mut cells = output::row(event, output::Format::Table, now);
        cells.remove(1);
        table.push(cells);
    }
    sheet.block(&table.render(Headed::Yes));
}

fn pairs(labels: &std::collections::BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(", ")
}

fn words(words: &[String]) -> String {
    words.iter().map(|word| format!("{:?}", escape::line(word))).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn images_that_went_are_told_with_the_reason() {
        let now: Timestamp = "2026-03-01T10:00:00Z".parse().unwrap();
        let at = "2026-03-01T09:50:00Z".parse().unwrap();
        let images = vec!["docker.io/library/a:1".to_owned(), "docker.io/library/b:1".to_owned()];
        assert_eq!(
            in_words(&ImagesCleared { at, images, bytes: 3 << 20 }, now),
            "2026-03-01T09:50:00Z (10m ago): docker.io/library/a:1, docker.io/library/b:1, because the disk was nearly full (3.0 MiB freed)"
        );
    }
}
