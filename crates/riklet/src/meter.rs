//! What the instances of this node use, with the rates that follow from two measurements.

use std::{
    collections::HashMap,
    time::{Duration, Instant},
};

use model::node::{ContainerMetrics, PodMetrics};
use runtime::pod::usage::PodUsage;

/// Shortest time between two measurements that says something about a rate.
const LEAST_INTERVAL: Duration = Duration::from_millis(100);

/// Remembers the last measurement.
#[derive(Debug, Default)]
pub struct PodMeter {
    last: Option<Instant>,
    cpu: HashMap<(String, String), u64>,
}

impl PodMeter {
    /// The measurement at `now`, with rates since the last one.
    pub fn measure(&mut self, usage: Vec<PodUsage>, now: Instant) -> Vec<PodMetrics> {
        let elapsed = self.last.replace(now).map(|last| now.saturating_duration_since(last));
        let elapsed = elapsed.filter(|elapsed| *elapsed >= LEAST_INTERVAL);
        let before = std::mem::take(&mut self.cpu);
        usage.into_iter().map(|pod| self.pod(pod, &before, elapsed)).collect()
    }

    fn pod(
        &mut self,
        pod: PodUsage,
        before: &HashMap<(String, String), u64>,
        elapsed: Option<Duration>,
    ) -> PodMetrics {
        let PodUsage { uid, id, received_bytes, sent_bytes, containers } = pod;
        let containers = containers.into_iter().map(|container| {
            let key = (uid.clone(), container.name.clone());
            // Less than before: it was started anew.
            let used = before.get(&key).and_then(|before| container.cpu_micros.checked_sub(*before));
            let cpu_millicores = used.zip(elapsed).map(|(used, elapsed)| millicores(used, elapsed));
            self.cpu.insert(key, container.cpu_micros);
            ContainerMetrics {
                name: container.name,
                cpu_micros: container.cpu_micros,
                cpu_millicores,
                memory_bytes: container.memory_bytes,
                disk_bytes: container.disk_bytes,
            }
        });
        let containers = containers.collect();
        PodMetrics { instance: id, uid, received_bytes, sent_bytes, containers }
    }
}

fn millicores(micros: u64, elapsed: Duration) -> u64 {
    let elapsed = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX).max(1);
    micros.saturating_mul(1000) / elapsed
}

#[cfg(test)]
mod tests {
    use runtime::pod::usage::ContainerUsage;

    use super::*;

    fn usage(cpu_micros: u64) -> Vec<PodUsage> {
        let container =
            ContainerUsage { name: "main".to_owned(), cpu_micros, memory_bytes: 1, disk_bytes: 0 };
        vec![PodUsage { uid: "u".to_owned(), containers: vec![container], ..PodUsage::default() }]
    }

    #[test]
    fn rates_follow_from_two_measurements_and_a_new_run_has_none() {
        let (mut meter, begin) = (PodMeter::default(), Instant::now());
        let mut rate = |cpu_micros, seconds| {
            let pods = meter.measure(usage(cpu_micros), begin + Duration::from_secs(seconds));
            pods[0].containers[0].cpu_millicores
        };
        assert_eq!(rate(1_000_000, 0), None);
        assert_eq!(rate(6_000_000, 10), Some(500));
        assert_eq!(rate(1_000, 20), None);
        assert_eq!(rate(1_000, 30), Some(0));
    }
}
