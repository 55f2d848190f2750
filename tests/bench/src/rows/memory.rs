//! Memory: every process of an idle cluster, and what a further pod costs beside its own processes.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use e2e::{Lab, image, manifest};
use model::Status;
use serde_json::json;

use super::{Hand, megabytes, remove_all_in_one, start_all_in_one};
use crate::process::{pss, shim};
use crate::report::{Finding, Report, Verdict};

/// Megabytes that an idle cluster shall need at most.
const REACH: f64 = 25.0;
/// Megabytes that a further pod shall need at most.
const REACH_PER_POD: f64 = 0.3;
/// How long processes are left alone before they count as idle.
const SETTLE: Duration = Duration::from_secs(5);
/// How long threads that waited for the disk, and memory that is free, may stay.
const REST: Duration = Duration::from_secs(40);
/// Pods by which the cost of one is found.
const PODS: usize = 100;
/// How often as many pods live and end.
const TURNS: usize = 10;

pub(super) fn measure(lab: &mut Lab, quick: bool, report: &mut Report) -> Result<()> {
    let pods = if quick { 20 } else { PODS };
    all_in_one(lab, pods, report)?;
    four_programs(lab, pods, report)?;
    report.note("PSS: memory that is a process's own, and its share of what it shares with others. runc leaves no process beside a container; peers that do: a containerd shim has 2.9 MB, conmon 0.7 MB, each for every pod.");
    Ok(())
}

fn four_programs(lab: &mut Lab, pods: usize, report: &mut Report) -> Result<()> {
    let _ = lab.cluster();
    let parts: Vec<(&str, u32)> = vec![
        ("controller", lab.daemon("controller").pid()),
        ("scheduler", lab.daemon("scheduler").pid()),
        ("riklet", lab.daemon(e2e::lab::NODE).pid()),
        ("shim", shim()),
    ];
    add(lab, "controller + scheduler + riklet + shim", &parts, pods, report)?;
    churn(lab, &parts, pods, report)
}

/// Lets many pods live and end, a turn of them after the other, and looks at what they leave in each process.
fn churn(lab: &Lab, parts: &[(&str, u32)], in_a_turn: usize, report: &mut Report) -> Result<()> {
    let mut hand = Hand::of(lab)?;
    let mut lives = |turns: usize| -> Result<Duration> {
        let begun = Instant::now();
        for turn in 0..turns {
            let workload =
                lab.api().create_workload(&manifest::script(&format!("short-{turn}"), "busybox true"));
            hand.reconnect()?;
            hand.client.create(&json!({ "workload": workload, "replicas": in_a_turn }))?;
            hand.watch.until(in_a_turn, Some(Status::Terminated))?;
            hand.delete_workload(&workload, in_a_turn)?;
        }
        Ok(begun.elapsed())
    };
    // Buffers and pools grow to their size at first.
    lives(2)?;
    thread::sleep(REST);
    let (before, open_before) = (total(parts)?, held(parts)?);
    let took = lives(TURNS)?;
    thread::sleep(REST);
    let (after, open_after) = (total(parts)?, held(parts)?);
    let count = in_a_turn * TURNS;
    report.add(&Finding {
        what: format!("{count} short-lived pods: what all four processes hold"),
        reach: "no more descriptors or threads",
        measured: format!(
            "{} → {} descriptors, {} → {} threads; PSS {:.1} → {:.1} MB",
            open_before.0,
            open_after.0,
            open_before.1,
            open_after.1,
            megabytes(before.0),
            megabytes(after.0)
        ),
        peer: "–".to_owned(),
        verdict: Verdict::of(open_after.0 <= open_before.0 && open_after.1 <= open_before.1),
    });
    #[expect(clippy::cast_precision_loss, reason = "a thousand")]
    let rate = count as f64 / took.as_secs_f64();
    report.note(&format!(
        "Short-lived pods: {in_a_turn} at once, {TURNS} times; created, run, ended and removed at {rate:.0}/s. Before: {}; after: {}.",
        before.1, after.1
    ));
    Ok(())
}

/// Descriptors and threads of all of them.
fn held(parts: &[(&str, u32)]) -> Result<(usize, usize)> {
    let count = |pid: u32, what: &str| -> Result<usize> {
        let entries = fs::read_dir(format!("/proc/{pid}/{what}"));
        Ok(entries.with_context(|| format!("failed to look at process {pid}"))?.count())
    };
    parts.iter().try_fold((0, 0), |(files, threads), (_, pid)| {
        Ok((files + count(*pid, "fd")?, threads + count(*pid, "task")?))
    })
}

fn all_in_one(lab: &mut Lab, pods: usize, report: &mut Report) -> Result<()> {
    start_all_in_one(lab);
    let api = lab.api();
    e2e::wait_until(e2e::SHORT, "the node to be ready", || {
        let ready = api.nodes().iter().any(|node| node["status"] == "Ready");
        if ready { Ok(()) } else { Err("there is none") }
    });
    lab.load(&image::busybox("busybox:1"));
    let parts = vec![("rik up", lab.daemon("rik").pid()), ("shim", shim())];
    add(lab, "`rik up` + shim", &parts, pods, report)?;
    remove_all_in_one(lab)
}

/// Idle, then with pods, then after them.
fn add(lab: &Lab, what: &str, parts: &[(&str, u32)], pods: usize, report: &mut Report) -> Result<()> {
    let (idle, each) = total(parts)?;
    report.add(&Finding {
        what: format!("{what}, idle (PSS)"),
        reach: "≤ 25 MB",
        measured: format!("{:.1} MB ({each})", megabytes(idle)),
        peer: "–".to_owned(),
        verdict: Verdict::of(megabytes(idle) <= REACH),
    });
    let mut hand = Hand::of(lab)?;
    let workload = lab.api().create_workload(&manifest::sleeper("many"));
    hand.run_many(&workload, pods)?;
    let (busy, each) = total(parts)?;
    #[expect(clippy::cast_precision_loss, reason = "a hundred")]
    let one = megabytes(busy.saturating_sub(idle)) / pods as f64;
    hand.delete_workload(&workload, pods)?;
    let (after, _) = total(parts)?;
    report.add(&Finding {
        what: format!("each further pod, beside its own processes ({what})"),
        reach: "≤ 0.3 MB",
        measured: format!("{one:.3} MB"),
        peer: "–".to_owned(),
        verdict: Verdict::of(one <= REACH_PER_POD),
    });
    report.note(&format!(
        "With {pods} pods: {each}; after they are deleted {:.1} MB in all ({what}).",
        megabytes(after)
    ));
    Ok(())
}

fn total(parts: &[(&str, u32)]) -> Result<(u64, String)> {
    thread::sleep(SETTLE);
    let mut sum = 0;
    let mut words = Vec::new();
    for (name, pid) in parts {
        let bytes = pss(*pid)?;
        sum += bytes;
        words.push(format!("{name} {:.1}", megabytes(bytes)));
    }
    Ok((sum, words.join(", ")))
}
