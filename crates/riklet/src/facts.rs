//! What this machine is, and how it fares: read from /proc and /etc, without any library.

use std::{collections::BTreeMap, fs, net::UdpSocket, path::Path};

use model::{
    Kind, NodeMetrics,
    node::{DiskGauge, Gauge, NodeFacts},
    quantity::{Cpu, Memory},
};

/// Most instances of one node: its block of addresses has 253.
const MAX_INSTANCES: u32 = 250;
/// Memory that is left to the machine itself: a sixteenth, but no less than this.
const LEAST_RESERVE: u64 = 128 << 20;

/// What was found out about the machine by trying.
#[derive(Clone, Debug)]
pub struct Found {
    /// Whether it can give pods user namespaces, or why not.
    pub user_namespaces: Result<(), String>,
    /// What its microVMs run with, or why it has none.
    pub microvms: Result<String, String>,
    /// What makes its containers.
    pub runtimes: String,
}

/// Reads what the machine is, beside what was found out before.
#[must_use]
pub fn read(labels: &BTreeMap<String, String>, found: Found) -> NodeFacts {
    let Found { user_namespaces, microvms, runtimes } = found;
    let total = memory_field("MemTotal:");
    let reserve = (total / 16).max(LEAST_RESERVE);
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let mut all = implicit_labels();
    all.extend(labels.clone());
    NodeFacts {
        address: address(),
        architecture: std::env::consts::ARCH.to_owned(),
        os: os_name(),
        kernel: rustix::system::uname().release().to_string_lossy().into_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        cgroups: cgroup_layout().to_owned(),
        user_namespaces: user_namespaces.map_or_else(|why| format!("no: {why}"), |()| "yes".to_owned()),
        kinds: if microvms.is_ok() { Kind::ALL.to_vec() } else { vec![Kind::Pod] },
        runtimes,
        microvms: microvms.unwrap_or_else(|why| format!("no: {why}")),
        labels: all,
        cpu: Cpu(cores * 1000),
        memory: Memory(total.saturating_sub(reserve)),
        max_instances: MAX_INSTANCES,
    }
}

/// The machine's host name, as a node's name.
#[must_use]
pub fn host_name() -> String {
    rustix::system::uname().nodename().to_string_lossy().to_lowercase()
}

/// Labels that every node has, so that a selector can ask for them.
fn implicit_labels() -> BTreeMap<String, String> {
    BTreeMap::from([
        ("rik/arch".to_owned(), std::env::consts::ARCH.to_owned()),
        ("rik/os".to_owned(), std::env::consts::OS.to_owned()),
    ])
}

/// The address that other machines most likely reach this one by: the source of its default route. Nothing is sent.
fn address() -> Option<String> {
    let socket = UdpSocket::bind("0.0.0.0:0").ok()?;
    // An address of the documentation's range: connecting a datagram socket only looks up the route.
    socket.connect("198.51.100.1:9").ok()?;
    Some(socket.local_addr().ok()?.ip().to_string())
}

fn os_name() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let pretty = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    pretty.map_or_else(|| "Linux".to_owned(), |name| name.trim_matches('"').to_owned())
}

fn cgroup_layout() -> &'static str {
    let root = Path::new("/sys/fs/cgroup");
    match (root.join("cgroup.controllers").exists(), root.join("unified/cgroup.controllers").exists()) {
        (true, _) => "v2",
        (false, true) => "hybrid",
        (false, false) => "v1",
    }
}

/// A field of /proc/meminfo, in bytes; 0 if there is none.
fn memory_field(name: &str) -> u64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let kibi = line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok());
    kibi.unwrap_or(0) * 1024
}

/// Measures the machine; remembers the last reading, because the processor's use is a difference.
#[derive(Debug, Default)]
pub struct Meter {
    last: Option<(u64, u64)>,
}

impl Meter {
    /// How the machine fares since the last call.
    #[expect(clippy::cast_precision_loss, reason = "gauges for people; 2^53 bytes are exact enough")]
    pub fn measure(&mut self) -> NodeMetrics {
        let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        let now = processor_ticks();
        let (idle, all) = match (self.last, now) {
            (Some(last), Some(now)) => (now.0.saturating_sub(last.0), now.1.saturating_sub(last.1)),
            (None, Some(now)) => now,
            _ => (0, 0),
        };
        self.last = now;
        let free = if all == 0 { 100.0 } else { 100.0 * idle as f64 / all as f64 };
        NodeMetrics {
            cpu: Gauge { total: cores as f64, free: (free * 10.0).round() / 10.0 },
            memory: Gauge {
                total: memory_field("MemTotal:") as f64,
                free: memory_field("MemAvailable:") as f64,
            },
            disks: disks(),
            listening: runtime::pod::listening(),
            microvms: String::new(),
            images_cleared: None,
            pods: Vec::new(),
        }
    }
}

/// Idle ticks and all ticks since boot.
fn processor_ticks() -> Option<(u64, u64)> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let fields = text.lines().next()?.split_whitespace().skip(1);
    let ticks: Vec<u64> = fields.take(8).filter_map(|field| field.parse().ok()).collect();
    let idle = ticks.get(3)? + ticks.get(4)?;
    Some((idle, ticks.iter().sum()))
}

fn disks() -> Vec<DiskGauge> {
    let root = rustix::fs::statvfs("/").ok();
    let gauge = root.map(|disk| DiskGauge {
        disk_name: "/".to_owned(),
        total: disk.f_blocks * disk.f_frsize,
        free: disk.f_bavail * disk.f_frsize,
    });
    gauge.into_iter().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_have_the_documented_form() {
        let metrics = serde_json::to_value(Meter::default().measure()).unwrap();
        for pointer in
            ["/cpu/total", "/cpu/free", "/memory/total", "/memory/free", "/disks/0/total", "/disks/0/free"]
        {
            assert!(metrics.pointer(pointer).unwrap().is_number(), "{pointer}");
        }
        assert!(metrics.pointer("/disks/0/disk_name").unwrap().is_string());
    }

    #[test]
    fn facts_say_what_the_machine_has() {
        let found = Found {
            user_namespaces: Ok(()),
            microvms: Err("no kernel".to_owned()),
            runtimes: "rik".to_owned(),
        };
        let facts = read(&BTreeMap::new(), found);
        assert!(facts.cpu.0 >= 1000 && facts.memory.0 > 0, "{facts:?}");
        assert!(["v1", "hybrid", "v2"].contains(&facts.cgroups.as_str()));
    }
}
