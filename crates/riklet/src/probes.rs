//! The probes of one instance: a task for each running container that has any, and what they found out.
//!
//! ```text
//!  startup ──first good answer──▶ ┬ liveness   too many bad ones: unhealthy
//!      │ too many bad answers     └ readiness  ready, not ready, ready …
//!      ▼
//!   unhealthy
//! ```
//! They only say what they found: what follows is for the instance's task to do.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use model::{ContainerPhase, ContainerSpec, WorkloadSpec, lifecycle::Facts, manifest::health::Probe};
use runtime::Runtime;
use tokio::{sync::watch, task::JoinHandle, time::sleep};

/// What the probes of a container say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Verdict {
    ready: bool,
    /// Why it is to be ended.
    unhealthy: Option<String>,
}

/// The probes of one instance.
pub(crate) struct Probes {
    uid: String,
    runtime: Arc<dyn Runtime>,
    tasks: BTreeMap<usize, Asking>,
    verdicts: watch::Sender<BTreeMap<usize, Verdict>>,
    news: watch::Receiver<BTreeMap<usize, Verdict>>,
}

struct Asking {
    /// Which run of the container is asked.
    run: u32,
    task: JoinHandle<()>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Probes {
    /// No probes yet.
    pub(crate) fn new(uid: String, runtime: Arc<dyn Runtime>) -> Self {
        let (verdicts, news) = watch::channel(BTreeMap::new());
        Self { uid, runtime, tasks: BTreeMap::new(), verdicts, news }
    }

    /// Asks the containers that run, and no others; says in `facts` which of them are ready.
    pub(crate) fn follow(&mut self, spec: &WorkloadSpec, facts: &mut Facts) {
        for (index, (container, seen)) in spec.all_containers().zip(&mut facts.containers).enumerate() {
            let runs = seen.phase == ContainerPhase::Running && seen.started_at.is_some();
            if !runs || !has_probes(container) {
                self.forget(index);
                seen.ready = runs;
                continue;
            }
            if self.tasks.get(&index).is_none_or(|asking| asking.run != seen.restarts) {
                self.forget(index);
                let task = tokio::spawn(ask(self.questions(index, container)));
                self.tasks.insert(index, Asking { run: seen.restarts, task });
            }
            seen.ready = self.news.borrow().get(&index).is_some_and(|verdict| verdict.ready);
        }
    }

    /// A container that is to be ended, and why.
    pub(crate) fn unhealthy(&self) -> Option<(usize, String)> {
        let verdicts = self.news.borrow();
        verdicts.iter().find_map(|(index, verdict)| Some((*index, verdict.unhealthy.clone()?)))
    }

    /// Forgets what was found out about a container, and asks it no more.
    pub(crate) fn forget(&mut self, index: usize) {
        self.tasks.remove(&index);
        self.verdicts.send_if_modified(|verdicts| verdicts.remove(&index).is_some());
    }

    /// Asks nobody any more.
    pub(crate) fn end(&mut self) {
        while let Some(index) = self.tasks.keys().next().copied() {
            self.forget(index);
        }
    }

    /// Waits until something new was found out. Safe to cancel.
    pub(crate) async fn changed(&mut self) {
        // The sender is ours, so this only ends with news.
        let _ = self.news.changed().await;
    }

    fn questions(&self, index: usize, container: &ContainerSpec) -> Questions {
        Questions {
            uid: self.uid.clone(),
            index,
            runtime: Arc::clone(&self.runtime),
            startup: container.startup_probe.clone(),
            liveness: container.liveness_probe.clone(),
            readiness: container.readiness_probe.clone(),
            verdicts: self.verdicts.clone(),
        }
    }
}

fn has_probes(container: &ContainerSpec) -> bool {
    container.startup_probe.is_some()
        || container.liveness_probe.is_some()
        || container.readiness_probe.is_some()
}

struct Questions {
    uid: String,
    index: usize,
    runtime: Arc<dyn Runtime>,
    startup: Option<Probe>,
    liveness: Option<Probe>,
    readiness: Option<Probe>,
    verdicts: watch::Sender<BTreeMap<usize, Verdict>>,
}

async fn ask(questions: Questions) {
    if let Some(startup) = &questions.startup
        && !questions.until_decided(startup, "startup").await
    {
        return;
    }
    if questions.readiness.is_none() {
        questions.ready(true);
    }
    tokio::join!(questions.whether_well(), questions.whether_ready());
}

impl Questions {
    async fn whether_well(&self) {
        let Some(probe) = &self.liveness else { return };
        sleep(seconds(probe.initial_delay_seconds)).await;
        self.until_decided(probe, "liveness").await;
    }

    async fn whether_ready(&self) {
        let Some(probe) = &self.readiness else { return };
        sleep(seconds(probe.initial_delay_seconds)).await;
        let mut tally = Tally::default();
        loop {
            let good = self.ask(probe).await.is_ok();
            if let Some(ready) = tally.count(good, probe) {
                self.ready(ready);
            }
            sleep(seconds(probe.period_seconds)).await;
        }
    }

    /// Asks until there is a verdict. False if the container is to be ended.
    async fn until_decided(&self, probe: &Probe, name: &str) -> bool {
        if name == "startup" {
            sleep(seconds(probe.initial_delay_seconds)).await;
        }
        let mut tally = Tally::default();
        loop {
            let answer = self.ask(probe).await;
            match (tally.count(answer.is_ok(), probe), answer) {
                (Some(false), Err(fault)) => {
                    let times = probe.failure_threshold;
                    self.tell(|verdict| {
                        verdict.ready = false;
                        verdict.unhealthy = Some(format!("its {name} probe failed {times} times: {fault}"));
                    });
                    return false;
                }
                (Some(true), _) if name == "startup" => return true,
                _ => {}
            }
            sleep(seconds(probe.period_seconds)).await;
        }
    }

    async fn ask(&self, probe: &Probe) -> Result<(), String> {
        // What the manifest's rules let through has one.
        let Some(action) = probe.action() else { return Ok(()) };
        self.runtime.ask(&self.uid, self.index, action, seconds(probe.timeout_seconds)).await
    }

    fn ready(&self, ready: bool) {
        self.tell(|verdict| verdict.ready = ready);
    }

    fn tell(&self, change: impl FnOnce(&mut Verdict)) {
        self.verdicts.send_if_modified(|verdicts| {
            let own = verdicts.entry(self.index).or_default();
            let before = own.clone();
            change(own);
            *own != before
        });
    }
}

fn seconds(count: u32) -> Duration {
    Duration::from_secs(count.into())
}

/// Answers in a row.
#[derive(Debug, Default)]
struct Tally {
    good: u32,
    bad: u32,
}

impl Tally {
    /// Counts an answer. Says well or unwell once enough of a kind came in a row.
    fn count(&mut self, good: bool, probe: &Probe) -> Option<bool> {
        if good {
            (self.good, self.bad) = (self.good.saturating_add(1), 0);
            (self.good >= probe.success_threshold).then_some(true)
        } else {
            (self.good, self.bad) = (0, self.bad.saturating_add(1));
            (self.bad >= probe.failure_threshold).then_some(false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn verdict_takes_enough_answers_of_a_kind_in_a_row() {
        let probe: Probe =
            serde_json::from_str(r#"{"tcpSocket":{"port":1},"successThreshold":2,"failureThreshold":3}"#)
                .unwrap();
        let mut tally = Tally::default();
        let answers = [true, true, false, false, true, false, false, false, true, true];
        let verdicts = answers.map(|good| tally.count(good, &probe));
        let (well, unwell) = (Some(true), Some(false));
        assert_eq!(verdicts, [None, well, None, None, None, None, None, unwell, None, well]);
    }
}
