//! A cluster with nothing to do: how often it waits for the disk, and how much processor time it uses.

use std::fs;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use e2e::{Lab, SHORT, manifest, programs, wait_until};
use rustix::process::{Pid, Signal, kill_process};

use super::Hand;
use crate::process::{cpu, shim};
use crate::report::{Finding, Report, Verdict};

/// Percent of one core that an idle cluster shall use at most.
const REACH_PERCENT: f64 = 0.2;
/// Calls that make a program wait for the disk.
const SYNCS: &str = "fsync,fdatasync,sync_file_range,syncfs,sync,msync";
/// How many pods run, quietly, in the second measurement.
const PODS: usize = 20;

pub(super) fn measure(lab: &mut Lab, quick: bool, report: &mut Report) -> Result<()> {
    let window = Duration::from_secs(if quick { 5 } else { 30 });
    let api = lab.cluster();
    let parts: Vec<(&str, u32)> = vec![
        ("controller", lab.daemon("controller").pid()),
        ("scheduler", lab.daemon("scheduler").pid()),
        ("riklet", lab.daemon(e2e::lab::NODE).pid()),
        ("shim", shim()),
    ];
    // What the start set in motion comes to its end.
    thread::sleep(window / 3);
    add(&parts, "an empty cluster", window, report)?;
    let workload = api.create_workload(&manifest::sleeper("quiet"));
    let mut hand = Hand::of(lab)?;
    hand.run_many(&workload, PODS)?;
    thread::sleep(window / 3);
    add(&parts, &format!("with {PODS} quiet pods"), window, report)?;
    hand.delete_workload(&workload, PODS)
}

fn add(parts: &[(&str, u32)], when: &str, window: Duration, report: &mut Report) -> Result<()> {
    let (percent, each) = used(parts, window)?;
    let syncs = syncs(parts, window)?;
    let seconds = window.as_secs();
    report.add(&Finding {
        what: format!("idle, {when}: waits for the disk"),
        reach: "0 fsync/s",
        measured: format!("{syncs} in {seconds} s"),
        peer: "–".to_owned(),
        verdict: Verdict::of(syncs == 0),
    });
    report.add(&Finding {
        what: format!("idle, {when}: processor, all parts"),
        reach: "≤ 0.2 % of a core",
        measured: format!("{percent:.3} % ({each})"),
        peer: "–".to_owned(),
        verdict: Verdict::of(percent <= REACH_PERCENT),
    });
    Ok(())
}

/// Percent of one core that all parts use, and each of them.
fn used(parts: &[(&str, u32)], window: Duration) -> Result<(f64, String)> {
    let before: Vec<Duration> = parts.iter().map(|(_, pid)| cpu(*pid)).collect::<Result<_>>()?;
    let begun = Instant::now();
    thread::sleep(window);
    let elapsed = begun.elapsed();
    let mut sum = 0.0;
    let mut words = Vec::new();
    for ((name, pid), before) in parts.iter().zip(before) {
        let percent = cpu(*pid)?.saturating_sub(before).as_secs_f64() / elapsed.as_secs_f64() * 100.0;
        sum += percent;
        words.push(format!("{name} {percent:.3}"));
    }
    Ok((sum, words.join(", ")))
}

/// Counts the calls of all parts that wait for the disk.
fn syncs(parts: &[(&str, u32)], window: Duration) -> Result<usize> {
    let trace = Lab::root().join("strace.txt");
    let mut command = Command::new(programs::needed("strace"));
    command.args(["-f", "-e", &format!("trace={SYNCS}"), "-e", "signal=none", "-o"]).arg(&trace);
    for (_, pid) in parts {
        command.args(["-p", &pid.to_string()]);
    }
    let mut tracer = command.stderr(Stdio::null()).spawn().context("failed to start strace")?;
    let (_, last) = parts.last().context("there is nothing to trace")?;
    wait_until(SHORT, "strace to attach", || {
        let traced = e2e::probe::status(*last, "TracerPid");
        if traced == tracer.id().to_string() { Ok(()) } else { Err(traced) }
    });
    thread::sleep(window);
    ensure!(tracer.try_wait()?.is_none(), "strace ended too soon");
    let pid = i32::try_from(tracer.id()).ok().and_then(Pid::from_raw).context("strace has no pid")?;
    kill_process(pid, Signal::INT).context("failed to end strace")?;
    tracer.wait().context("failed to wait for strace")?;
    let text = fs::read_to_string(&trace).context("strace wrote nothing")?;
    Ok(text.lines().filter(|line| line.contains("sync") && !line.contains("resumed>")).count())
}
