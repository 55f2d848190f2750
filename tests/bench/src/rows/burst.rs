//! A hundred pods in one request, in turns with a hundred times `runc run --detach`, eight at a time.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::Instant;

use anyhow::{Result, anyhow};
use e2e::{Lab, image, manifest};
use serde_json::json;

use super::Hand;
use crate::oracle::Oracle;
use crate::report::{Finding, Report, Verdict};
use crate::sample::Sample;

/// How many pods.
const PODS: usize = 100;
/// Pods that shall run after each second.
const REACH: f64 = 100.0;
/// How many runc are run at a time: more bring it nothing on two cores.
const AT_ONCE: usize = 8;

pub(super) fn measure(lab: &mut Lab, quick: bool, report: &mut Report) -> Result<()> {
    let rounds = if quick { 1 } else { 5 };
    let api = lab.cluster();
    let oracle = Oracle::lay_out(&image::busybox("busybox:1"))?;
    let mut hand = Hand::of(lab)?;
    let (mut ours, mut runc, mut gone) = (Sample::default(), Sample::default(), Sample::default());
    let mut slowest_first = Sample::default();
    for round in 0..rounds {
        let workload = api.create_workload(&manifest::sleeper(&format!("burst-{round}")));
        hand.reconnect()?;
        let begun = Instant::now();
        hand.client.create(&json!({ "workload": workload, "replicas": PODS }))?;
        let seen = hand.watch.until(PODS, Some(model::Status::Running))?;
        ours.add(rate(begun));
        if let Some(first) = seen.first() {
            slowest_first.add_time(first.at.duration_since(begun));
        }
        let deleting = Instant::now();
        hand.delete_workload(&workload, PODS)?;
        gone.add(rate(deleting));
        runc.add(run_all(&oracle)?);
    }
    report.add(&Finding {
        what: format!("{PODS} pods in one POST → all running"),
        reach: "≥ 100 pods/s",
        measured: format!("{:.0} pods/s (best {:.0})", ours.median(), ours.part(100)),
        peer: format!(
            "runc, {AT_ONCE} at a time, no network: {:.0}/s (best {:.0})",
            runc.median(),
            runc.part(100)
        ),
        verdict: Verdict::of(ours.median() >= REACH),
    });
    report.note(&format!(
        "Of {rounds} bursts, in turns with runc; the first pod of a burst runs after {:.0} ms (median). Deleting the workload removes its pods at {:.0}/s.",
        slowest_first.median(),
        gone.median()
    ));
    Ok(())
}

fn run_all(oracle: &Oracle) -> Result<f64> {
    let next = AtomicUsize::new(0);
    let begun = Instant::now();
    thread::scope(|scope| {
        let workers: Vec<_> = (0..AT_ONCE)
            .map(|_| {
                scope.spawn(|| -> Result<()> {
                    loop {
                        let number = next.fetch_add(1, Ordering::Relaxed);
                        if number >= PODS {
                            return Ok(());
                        }
                        oracle.run(&format!("burst-{number}"))?;
                    }
                })
            })
            .collect();
        workers.into_iter().try_for_each(|worker| worker.join().map_err(|_| anyhow!("a thread broke off"))?)
    })?;
    let rate = rate(begun);
    (0..PODS).try_for_each(|number| oracle.remove(&format!("burst-{number}")))?;
    Ok(rate)
}

#[expect(clippy::cast_precision_loss, reason = "a hundred")]
fn rate(begun: Instant) -> f64 {
    PODS as f64 / begun.elapsed().as_secs_f64()
}
