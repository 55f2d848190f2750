//! Memory: every process of an idle cluster, and what a further pod costs beside its own processes.

use std::thread;
use std::time::Duration;

use anyhow::Result;
use e2e::{Lab, image, manifest};

use super::{Hand, megabytes, remove_all_in_one, start_all_in_one};
use crate::process::{pss, shim};
use crate::report::{Finding, Report, Verdict};

/// Megabytes that an idle cluster shall need at most.
const REACH: f64 = 25.0;
/// Megabytes that a further pod shall need at most.
const REACH_PER_POD: f64 = 0.3;
/// How long processes are left alone before they count as idle.
const SETTLE: Duration = Duration::from_secs(5);
/// Pods by which the cost of one is found.
const PODS: usize = 100;

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
    add(lab, "controller + scheduler + riklet + shim", &parts, pods, report)
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
