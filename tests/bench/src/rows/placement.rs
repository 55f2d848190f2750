//! The placement alone: exact, ten thousand nodes, one thread.

use std::collections::BTreeMap;
use std::time::Instant;

use anyhow::{Result, ensure};
use model::Kind;
use model::quantity::{Cpu, Memory};
use placement::{Node, Room, Waiting, plan};

use crate::report::{Finding, Report, Verdict};
use crate::sample::Sample;

/// How many nodes.
const NODES: usize = 10_000;
/// Instances of one plan: enough that making ready for a plan does not count.
const INSTANCES: usize = 20_000;
/// Placements that shall be made in a second.
const REACH: f64 = 100_000.0;
/// Where the random loads begin: every run measures the same cluster.
const SEED: u64 = 7;

pub(super) fn measure(quick: bool, report: &mut Report) -> Result<()> {
    let rounds = if quick { 2 } else { 9 };
    let one = speed(&[4], rounds)?;
    let three = speed(&[4, 16, 64], rounds)?;
    add(report, "placement, exact, 10,000 equal nodes, one core", &one);
    add(report, "placement, exact, 10,000 nodes of three sizes, one core", &three);
    report.note(&format!("Of {rounds} plans of {INSTANCES} instances each, spread over nodes that are 50 to 70 % full; no ports and no selectors."));
    Ok(())
}

fn add(report: &mut Report, what: &str, speeds: &Sample) {
    report.add(&Finding {
        what: what.to_owned(),
        reach: "≥ 100,000/s",
        measured: format!("{:.0}/s (best {:.0})", speeds.median(), speeds.part(100)),
        peer: "–".to_owned(),
        verdict: Verdict::of(speeds.median() >= REACH),
    });
}

/// Placements in a second on nodes of these sizes, in cores.
#[expect(clippy::cast_precision_loss, reason = "some thousands")]
fn speed(cores: &[u64], rounds: usize) -> Result<Sample> {
    let mut random = fastrand::Rng::with_seed(SEED);
    let names: Vec<String> = (0..NODES).map(|number| format!("node-{number}")).collect();
    let none = BTreeMap::new();
    let kinds = [Kind::Pod];
    let mut nodes = Vec::new();
    for name in &names {
        let size = cores[random.usize(..cores.len())];
        let capacity = Room { cpu: Cpu(size * 1000), memory: Memory(size << 32), instances: 250 };
        let full = random.u64(50..70);
        let used = Room {
            cpu: Cpu(capacity.cpu.0 * full / 100),
            memory: Memory(capacity.memory.0 * full / 100),
            instances: 100,
        };
        nodes.push(Node {
            name,
            ready: true,
            kinds: &kinds,
            labels: &none,
            capacity,
            used,
            ports: Vec::new(),
            volumes: Vec::new(),
            listening: &[],
        });
    }
    let uids: Vec<String> = (0..INSTANCES).map(|number| format!("uid-{number}")).collect();
    let ask = |uid| Waiting {
        uid,
        kind: Kind::Pod,
        selector: &none,
        cpu: Cpu(100),
        memory: Memory(256 << 20),
        ports: Vec::new(),
        volumes: Vec::new(),
    };
    let waiting: Vec<Waiting<'_>> = uids.iter().map(|uid| ask(uid)).collect();
    let mut speeds = Sample::default();
    for _ in 0..rounds {
        let begun = Instant::now();
        let made = plan(&nodes, &waiting);
        speeds.add(INSTANCES as f64 / begun.elapsed().as_secs_f64());
        ensure!(made.unplaced.is_empty(), "the nodes were too small: {}", made.unplaced[0].1);
    }
    Ok(speeds)
}
