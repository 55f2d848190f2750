//! From the request to the running container, one at a time, in turns with `runc run --detach`.

use std::time::{Duration, Instant};

use anyhow::Result;
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

/// When, after the request was begun, a client knew what.
#[derive(Debug, Default)]
struct Stages {
    answered: Sample,
    bound: Sample,
    creating: Sample,
    running: Sample,
}

pub(super) fn measure(lab: &mut Lab, quick: bool, report: &mut Report) -> Result<()> {
    let rounds = if quick { 5 } else { 30 };
    let api = lab.cluster();
    let image = image::busybox("busybox:1");
    let oracle = Oracle::lay_out(&image)?;
    let mut published = manifest::sleeper("published");
    published["spec"]["containers"][0]["ports"] =
        json!({ "port": PORT, "target_port": 8080, "type": "NodePort" });
    let plain = api.create_workload(&manifest::sleeper("plain"));
    let published = api.create_workload(&published);
    let mut hand = Hand::of(lab)?;
    let (mut without, mut with, mut runc) = (Stages::default(), Stages::default(), Sample::default());
    for round in 0..=rounds {
        let took = oracle.run("bench")?;
        oracle.remove("bench")?;
        if round == 0 {
            // The first of each kind fills caches.
            let mut warm = Stages::default();
            once(&mut hand, &plain, "warm", &mut warm)?;
            once(&mut hand, &published, "warm-port", &mut warm)?;
            continue;
        }
        runc.add_time(took);
        once(&mut hand, &plain, &format!("plain-{round}"), &mut without)?;
        once(&mut hand, &published, &format!("port-{round}"), &mut with)?;
    }
    add(report, "create → running, network attached", &without, &runc);
    add(report, "create → running, network attached, one port published", &with, &runc);
    report.note(&format!("Of {rounds} starts of each, in turns. Running is when the watch stream says so; runc has no network, and no record on disk that would survive it."));
    split(report, "without a port", &without);
    split(report, "with a port", &with);
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
        "Where the time goes {which} (medians, seen by the client): POST answered after {:.1} ms, bound {:.1}, Creating {:.1}, Running {:.1}.",
        stages.answered.median(),
        stages.bound.median(),
        stages.creating.median(),
        stages.running.median()
    ));
}
