//! From the request to the running container, one at a time, in turns with `runc run --detach`.

use std::fs;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::lab::{NODE, configuration};
use e2e::{Lab, image, manifest};
use model::Status;
use serde_json::{Value, json};

use super::Hand;
use crate::oracle::Oracle;
use crate::report::{Finding, Report, Verdict};
use crate::sample::Sample;

/// Part of runc's time that we shall need at most.
const REACH: f64 = 0.7;
/// Port that the second workload publishes; nobody else is in the lab.
const PORT: u16 = 30_080;
/// By what the operator lets pods have what is the node's own.
const ALLOWING: &str = "allow_privileged = true\n";

/// When, after the request was begun, a client knew what.
#[derive(Debug, Default)]
struct Stages {
    answered: Sample,
    bound: Sample,
    creating: Sample,
    running: Sample,
    node: NodeStages,
}

/// The node's own account of a start, in the order of [`PARTS`].
#[derive(Debug, Default)]
struct NodeStages([Sample; PARTS.len()]);

/// Parts of a start on its node, as an instance has them.
const PARTS: [&str; 6] =
    ["sandboxMicros", "imageMicros", "filesMicros", "networkMicros", "limitsMicros", "processesMicros"];

pub(super) fn measure(lab: &mut Lab, quick: bool, report: &mut Report) -> Result<()> {
    let rounds = if quick { 5 } else { 30 };
    fs::write(configuration(NODE), ALLOWING).context("failed to configure the node")?;
    let api = lab.cluster();
    let image = image::busybox("busybox:1");
    let oracle = Oracle::lay_out(&image)?;
    let mut published = manifest::sleeper("published");
    published["spec"]["containers"][0]["ports"] =
        json!({ "port": PORT, "target_port": 8080, "type": "NodePort" });
    let mut bare = manifest::sleeper("bare");
    bare["spec"]["hostNetwork"] = json!(true);
    bare["spec"]["containers"][0]["securityContext"] = json!({ "privileged": true });
    let bare = api.create_workload(&bare);
    let plain = api.create_workload(&manifest::sleeper("plain"));
    let published = api.create_workload(&published);
    let mut hand = Hand::of(lab)?;
    let (mut without, mut with, mut runc) = (Stages::default(), Stages::default(), Sample::default());
    let mut open = Stages::default();
    for round in 0..=rounds {
        let took = oracle.run("bench")?;
        oracle.remove("bench")?;
        if round == 0 {
            // The first of each kind fills caches.
            let mut warm = Stages::default();
            once(&mut hand, &plain, "warm", &mut warm)?;
            once(&mut hand, &published, "warm-port", &mut warm)?;
            once(&mut hand, &bare, "warm-bare", &mut warm)?;
            continue;
        }
        runc.add_time(took);
        once(&mut hand, &plain, &format!("plain-{round}"), &mut without)?;
        once(&mut hand, &published, &format!("port-{round}"), &mut with)?;
        once(&mut hand, &bare, &format!("bare-{round}"), &mut open)?;
    }
    add(report, "create → running, network attached", &without, &runc);
    add(report, "create → running, network attached, one port published", &with, &runc);
    report.note(&format!("Of {rounds} starts of each, in turns. Running is when the watch stream says so; runc has no network, and no record on disk that would survive it."));
    split(report, "without a port", &without);
    split(report, "with a port", &with);
    report.note(&format!(
        "What isolation costs: the same pod as `privileged` and with `hostNetwork` (no user namespace, no filter of system calls, no capability dropped, no network of its own) runs after {:.1} ms (min {:.1}); of those, {}.",
        open.running.median(),
        open.running.minimum(),
        open.node.words()
    ));
    Ok(())
}

/// One instance, from the request until it runs; then it goes.
fn once(hand: &mut Hand, workload: &str, name: &str, stages: &mut Stages) -> Result<()> {
    let begun = Instant::now();
    hand.client.create(&json!({ "workload": workload, "name": name }))?;
    let answered = begun.elapsed();
    let mut bound: Option<Duration> = None;
    let mut creating: Option<Duration> = None;
    let running = loop {
        let change = hand.watch.next()?;
        if change.name != name {
            continue;
        }
        let when = change.at.duration_since(begun);
        if change.bound {
            bound.get_or_insert(when);
        }
        match change.status {
            Some(Status::Creating) => {
                creating.get_or_insert(when);
            }
            Some(Status::Running) => break when,
            _ => {}
        }
    };
    stages.answered.add_time(answered);
    stages.bound.add_time(bound.unwrap_or(running));
    stages.creating.add_time(creating.unwrap_or(running));
    stages.running.add_time(running);
    stages.node.add(&hand.client.send("GET", &format!("/api/v1/instances/{name}"), &Value::Null)?);
    hand.client.send("DELETE", &format!("/api/v1/instances/{name}"), &Value::Null)?;
    hand.watch.until(1, None).map(drop)
}

fn add(report: &mut Report, what: &str, ours: &Stages, runc: &Sample) {
    let ratio = ours.running.median() / runc.median();
    report.add(&Finding {
        what: what.to_owned(),
        reach: "p50 ≤ 0.7 × `runc run -d`",
        measured: format!(
            "{:.1} ms (min {:.1}): {ratio:.2} ×",
            ours.running.median(),
            ours.running.minimum()
        ),
        peer: format!("runc {:.1} ms (min {:.1})", runc.median(), runc.minimum()),
        verdict: Verdict::of(ratio <= REACH),
    });
}

fn split(report: &mut Report, which: &str, stages: &Stages) {
    report.note(&format!(
        "Where the time goes {which} (medians, seen by the client): POST answered after {:.1} ms, bound {:.1}, Creating {:.1}, Running {:.1}. On the node: {}.",
        stages.answered.median(),
        stages.bound.median(),
        stages.creating.median(),
        stages.running.median(),
        stages.node.words()
    ));
}

impl NodeStages {
    /// Adds what an instance says about its start. One that was asked at once may not say so yet.
    fn add(&mut self, instance: &Value) {
        for (sample, field) in self.0.iter_mut().zip(PARTS) {
            if let Some(micros) = instance["startTimes"][field].as_u64() {
                sample.add_time(Duration::from_micros(micros));
            }
        }
    }

    fn words(&self) -> String {
        let [sandbox, image, files, network, limits, processes] = self.0.each_ref().map(Sample::median);
        format!(
            "sandbox {sandbox:.1} ms, then image {image:.1}, files {files:.1}, network {network:.1} and limits {limits:.1} at once, then processes {processes:.1}"
        )
    }
}
