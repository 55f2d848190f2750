//! The control plane alone: real controller and scheduler, the store on disk, a hundred simulated nodes.
//!
//! ```text
//!  clients (threads) ──POST──▶ controller ⇄ scheduler ⇄ 100 simulated nodes, which report Running at once
//!  watch   (a thread) ◀──SSE──┘
//! ```
//! Clients, watch and nodes share the machine with what is measured.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow};
use e2e::{LONG, Lab, manifest, wait_until};
use model::Status;
use serde_json::json;

use super::Hand;
use crate::client::Client;
use crate::process::cpu;
use crate::report::{Finding, Report, Verdict};
use crate::sample::Sample;
use crate::simulated::Nodes;

/// How many nodes.
const NODES: usize = 100;
/// Where the scheduler listens for them.
const SCHEDULER: &str = "127.0.0.1:4995";
/// Instances that shall come to run in a second.
const REACH: f64 = 10_000.0;
/// Milliseconds that 99 of 100 requests shall take at most.
const REACH_P99: f64 = 5.0;
/// Requests in a second of the open loop: they come at their time, whether the earlier ones are answered or not.
const PACE: usize = 1_000;
/// Clients that ask one request after the other.
const CLIENTS: usize = 16;
/// Connections of the open loop; below what one address may have.
const OPEN_LOOP_CLIENTS: usize = 48;

pub(super) fn measure(lab: &mut Lab, quick: bool, report: &mut Report) -> Result<()> {
    lab.start_scheduler();
    lab.start_controller();
    let api = lab.api();
    api.wait_up();
    let nodes = Nodes::connect(SCHEDULER, NODES)?;
    wait_until(LONG, "the simulated nodes to be ready", || {
        let ready = api.nodes().iter().filter(|node| node["status"] == "Ready").count();
        if ready == NODES { Ok(()) } else { Err(format!("{ready} are")) }
    });
    let mut bench = Bench {
        server: api.server,
        hand: Hand::of(lab)?,
        controller: lab.daemon("controller").pid(),
        scheduler: lab.daemon("scheduler").pid(),
        rounds: 0,
    };
    open_loop(&mut bench, lab, if quick { 1 } else { 5 }, report)?;
    let rounds = if quick { 1 } else { 3 };
    closed(&mut bench, lab, rounds, Load { requests: if quick { 20 } else { 100 }, replicas: 100 }, report)?;
    closed(
        &mut bench,
        lab,
        rounds,
        Load { requests: if quick { 1_000 } else { 5_000 }, replicas: 1 },
        report,
    )?;
    report.note("The load generator, the watch and the nodes run on the same cores as what is measured. The store is SQLite with synchronous=FULL on disk; an instance is bound durably before its node hears of it.");
    drop(nodes);
    Ok(())
}

struct Bench {
    server: SocketAddr,
    hand: Hand,
    controller: u32,
    scheduler: u32,
    rounds: usize,
}

/// What is asked in one round.
#[derive(Clone, Copy)]
struct Load {
    requests: usize,
    replicas: usize,
}

impl Bench {
    fn workload(&mut self, lab: &Lab) -> String {
        self.rounds += 1;
        lab.api().create_workload(&manifest::sleeper(&format!("load-{}", self.rounds)))
    }

    fn cpu(&self) -> Result<[Duration; 2]> {
        Ok([cpu(self.controller)?, cpu(self.scheduler)?])
    }
}

/// Clients that ask as fast as they are answered.
fn closed(bench: &mut Bench, lab: &Lab, rounds: usize, load: Load, report: &mut Report) -> Result<()> {
    let count = load.requests * load.replicas;
    let (mut speeds, mut answers) = (Sample::default(), Sample::default());
    let (mut controller, mut scheduler, mut gone) = (Sample::default(), Sample::default(), Sample::default());
    for _ in 0..rounds {
        let workload = bench.workload(lab);
        let before = bench.cpu()?;
        let begun = Instant::now();
        let request = json!({ "workload": workload, "replicas": load.replicas });
        let asking = spawn(bench.server, load.requests, CLIENTS, move |client, _| client.create(&request));
        let seen = bench.hand.watch.until(count, Some(Status::Running))?;
        let last = seen.last().map_or(begun, |change| change.at);
        speeds.add(per_second(count, last.duration_since(begun)));
        let after = bench.cpu()?;
        controller.add(micros_each(after[0].saturating_sub(before[0]), count));
        scheduler.add(micros_each(after[1].saturating_sub(before[1]), count));
        asking.join()?.into_iter().for_each(|(_, taken)| answers.add_time(taken));
        let deleting = Instant::now();
        bench.hand.delete_workload(&workload, count)?;
        gone.add(per_second(count, deleting.elapsed()));
    }
    report.add(&Finding {
        what: format!(
            "control plane, {NODES} nodes, {CLIENTS} clients, replicas {}: instances/s to Running",
            load.replicas
        ),
        reach: "≥ 10,000/s",
        measured: format!("{:.0}/s (best {:.0})", speeds.median(), speeds.part(100)),
        peer: "–".to_owned(),
        verdict: Verdict::of(speeds.median() >= REACH),
    });
    report.note(&format!(
        "Replicas {}: {rounds} rounds of {count} instances; processor time for each instance: controller {:.0} µs, scheduler {:.0} µs; POST answered in p50 {:.1} ms, p99 {:.1} ms; deleting the workload removes them at {:.0}/s.",
        load.replicas,
        controller.median(),
        scheduler.median(),
        answers.median(),
        answers.part(99),
        gone.median()
    ));
    Ok(())
}

/// A thousand requests each second, each at its time.
fn open_loop(bench: &mut Bench, lab: &Lab, seconds: usize, report: &mut Report) -> Result<()> {
    let count = PACE * seconds;
    let workload = bench.workload(lab);
    let begun = Instant::now() + Duration::from_millis(100);
    let due = move |number: usize| {
        begun + Duration::from_secs(1) * u32::try_from(number).unwrap_or(u32::MAX) / 1_000
    };
    let name = workload.clone();
    let asking = spawn(bench.server, count, OPEN_LOOP_CLIENTS, move |client, number| {
        thread::sleep(due(number).saturating_duration_since(Instant::now()));
        client.create(&json!({ "workload": name, "name": format!("open-{number}") }))
    });
    let seen = bench.hand.watch.until(count, Some(Status::Running))?;
    let ran: BTreeMap<String, Instant> = seen.into_iter().map(|change| (change.name, change.at)).collect();
    let (mut answered, mut running) = (Sample::default(), Sample::default());
    for (number, ended) in asking.join_ends()? {
        answered.add_time(ended.saturating_duration_since(due(number)));
        if let Some(at) = ran.get(&format!("open-{number}")) {
            running.add_time(at.saturating_duration_since(due(number)));
        }
    }
    bench.hand.delete_workload(&workload, count)?;
    for (what, sample) in
        [("POST answered, durable", &answered), ("seen Running by a watching client", &running)]
    {
        report.add(&Finding {
            what: format!("control plane, {NODES} nodes, open loop {PACE}/s for {seconds} s: {what}"),
            reach: "p99 ≤ 5 ms",
            measured: format!(
                "p50 {:.2} ms, p99 {:.2} ms (of {})",
                sample.median(),
                sample.part(99),
                sample.len()
            ),
            peer: "–".to_owned(),
            verdict: Verdict::of(sample.part(99) <= REACH_P99),
        });
    }
    Ok(())
}

/// Clients at work.
struct Asking(Vec<thread::JoinHandle<Result<Times>>>);

/// Of each request: its number, when it was begun, when it was answered.
type Times = Vec<(usize, Instant, Instant)>;

impl Asking {
    fn wait(self) -> Result<Times> {
        let mut all = Vec::new();
        for worker in self.0 {
            all.extend(worker.join().map_err(|_| anyhow!("a client broke off"))??);
        }
        Ok(all)
    }

    /// Each request's number, and how long it took.
    fn join(self) -> Result<Vec<(usize, Duration)>> {
        Ok(self
            .wait()?
            .into_iter()
            .map(|(number, begun, ended)| (number, ended.duration_since(begun)))
            .collect())
    }

    /// Each request's number, and when it was answered.
    fn join_ends(self) -> Result<Vec<(usize, Instant)>> {
        Ok(self.wait()?.into_iter().map(|(number, _, ended)| (number, ended)).collect())
    }
}

/// Lets `clients` threads, each with a connection of its own, ask `requests` times in all.
fn spawn(
    server: SocketAddr,
    requests: usize,
    clients: usize,
    ask: impl Fn(&mut Client, usize) -> Result<()> + Clone + Send + 'static,
) -> Asking {
    let next = std::sync::Arc::new(AtomicUsize::new(0));
    let workers = (0..clients).map(|_| {
        let (next, ask) = (next.clone(), ask.clone());
        thread::spawn(move || {
            let mut client = Client::connect(server)?;
            let mut times = Vec::new();
            loop {
                let number = next.fetch_add(1, Ordering::Relaxed);
                if number >= requests {
                    return Ok(times);
                }
                let begun = Instant::now();
                ask(&mut client, number)?;
                times.push((number, begun, Instant::now()));
            }
        })
    });
    Asking(workers.collect())
}

#[expect(clippy::cast_precision_loss, reason = "some thousands")]
fn per_second(count: usize, time: Duration) -> f64 {
    count as f64 / time.as_secs_f64()
}

#[expect(clippy::cast_precision_loss, reason = "some thousands")]
fn micros_each(time: Duration, count: usize) -> f64 {
    time.as_secs_f64() * 1e6 / count as f64
}
