//! A runtime that runs nothing: for the simulation and for tests of whoever uses a runtime.
//!
//! [`FakeHost`] is the machine: it survives the riklet, as containers do. [`FakeRuntime`] is a riklet's hand on it.
//! Every operation has several side effects with a pause between them, so that a simulated crash can fall between any
//! two. What an instance does is in the name of its first image: `ends-well`, `ends-badly`, `missing`, anything else
//! runs until it is stopped.
//!
//! *Guarantee*: the host counts what really happened, so that a test can tell whether something was started twice.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use jiff::Timestamp;
use model::{
    Reason,
    lifecycle::{Facts, Observed},
    manifest::health::Action,
};
use tokio::{sync::Notify, time::Instant};

use crate::{InstanceSpec, Progress, Runtime, RuntimeError};

/// Longest pause between two side effects.
const LONGEST_PAUSE: Duration = Duration::from_millis(40);
/// How long an instance lives that ends by itself.
const LIFETIME: Duration = Duration::from_secs(2);

/// A machine. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct FakeHost(Arc<Host>);

#[derive(Debug)]
struct Host {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    random: fastrand::Rng,
    instances: BTreeMap<String, FakeInstance>,
    started: BTreeMap<String, u32>,
}

#[derive(Clone, Debug)]
struct FakeInstance {
    spec: InstanceSpec,
    stage: Stage,
}

#[derive(Clone, Debug)]
enum Stage {
    Partial,
    Prepared,
    /// Started at an instant, and ending by itself at another if it does.
    Started {
        ends: Option<(Instant, i32)>,
    },
    Ended(i32),
    Released(i32),
}

impl FakeHost {
    /// An empty machine whose pauses follow from `seed`.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        let random = fastrand::Rng::with_seed(seed);
        let state = Mutex::new(State { random, instances: BTreeMap::new(), started: BTreeMap::new() });
        Self(Arc::new(Host { state, changed: Notify::new() }))
    }

    /// How often each uid was started here, ever.
    #[must_use]
    pub fn started(&self) -> BTreeMap<String, u32> {
        self.state().started.clone()
    }

    /// Uids of which anything is here.
    #[must_use]
    pub fn present(&self) -> Vec<String> {
        self.state().instances.keys().cloned().collect()
    }

    /// Uids that run now.
    #[must_use]
    pub fn running(&self) -> Vec<String> {
        let state = self.state();
        let running = state.instances.iter().filter(|(_, one)| matches!(one.now(), Observed::Running(_)));
        running.map(|(uid, _)| uid.clone()).collect()
    }

    /// The machine starts again: nothing runs any more, records and files are still there.
    pub fn reboot(&self) {
        for one in self.state().instances.values_mut() {
            if let Stage::Started { .. } = one.stage {
                one.stage = Stage::Ended(137);
            }
        }
        self.0.changed.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn pause(&self) {
        let share = self.state().random.f64();
        tokio::time::sleep(LONGEST_PAUSE.mul_f64(share)).await;
    }

    fn stage(&self, uid: &str) -> Option<Stage> {
        self.state().instances.get(uid).map(|one| one.stage.clone())
    }

    fn set(&self, uid: &str, stage: Stage) {
        if let Some(one) = self.state().instances.get_mut(uid) {
            one.stage = stage;
        }
        self.0.changed.notify_waiters();
    }
}

impl FakeInstance {
    fn image(&self) -> &str {
        self.spec.spec.containers.first().map_or("", |container| container.image.as_str())
    }

    fn now(&self) -> Observed {
        match &self.stage {
            Stage::Partial => Observed::Partial,
            Stage::Prepared => Observed::Prepared,
            Stage::Started { ends: Some((at, code)) } if Instant::now() >= *at => {
                Observed::Ended(ended(*code))
            }
            Stage::Started { .. } => {
                Observed::Running(Facts { started_at: Some(Timestamp::UNIX_EPOCH), ..Facts::default() })
            }
            Stage::Ended(code) => Observed::Ended(ended(*code)),
            Stage::Released(code) => Observed::Released(ended(*code)),
        }
    }
}

fn ended(code: i32) -> Facts {
    Facts { exit_code: Some(code), reason: (code != 0).then_some(Reason::NonZeroExit), ..Facts::default() }
}

/// A riklet's hand on a [`FakeHost`].
#[derive(Clone, Debug)]
pub struct FakeRuntime {
    host: FakeHost,
}

impl FakeRuntime {
    /// A runtime on this machine.
    #[must_use]
    pub fn new(host: FakeHost) -> Self {
        Self { host }
    }
}

fn failure(operation: &str, reason: Reason) -> RuntimeError {
    RuntimeError { operation: operation.to_owned(), reason, transient: false, source: None }
}

#[async_trait]
impl Runtime for FakeRuntime {
    async fn list(&self) -> Result<Vec<InstanceSpec>, RuntimeError> {
        Ok(self.host.state().instances.values().map(|one| one.spec.clone()).collect())
    }

    async fn inspect(&self, uid: &str) -> Result<Observed, RuntimeError> {
        Ok(self.host.state().instances.get(uid).map_or(Observed::Absent, FakeInstance::now))
    }

    async fn prepare(&self, spec: &InstanceSpec, progress: Progress<'_>) -> Result<(), RuntimeError> {
        self.host.pause().await;
        let one = FakeInstance { spec: spec.clone(), stage: Stage::Partial };
        self.host.state().instances.entry(spec.uid.clone()).or_insert(one.clone());
        self.host.pause().await;
        progress(Facts { reason: Some(Reason::ImagePulling), ..Facts::default() });
        self.host.pause().await;
        if one.image().contains("missing") {
            return Err(failure("pull the image", Reason::ImagePullFailed));
        }
        if matches!(self.host.stage(&spec.uid), Some(Stage::Partial)) {
            self.host.set(&spec.uid, Stage::Prepared);
        }
        self.host.pause().await;
        Ok(())
    }

    async fn start(&self, uid: &str, _which: &[usize]) -> Result<(), RuntimeError> {
        self.host.pause().await;
        {
            let mut state = self.host.state();
            let Some(one) = state.instances.get_mut(uid) else {
                return Err(failure("start what was never prepared", Reason::StartFailed));
            };
            let code = if one.image().contains("ends-well") {
                Some(0)
            } else {
                one.image().contains("ends-badly").then_some(3)
            };
            one.stage = Stage::Started { ends: code.map(|code| (Instant::now() + LIFETIME, code)) };
            *state.started.entry(uid.to_owned()).or_default() += 1;
        }
        self.host.0.changed.notify_waiters();
        self.host.pause().await;
        Ok(())
    }

    async fn ask(
        &self,
        _uid: &str,
        _index: usize,
        _action: Action<'_>,
        _within: Duration,
    ) -> Result<(), String> {
        Ok(())
    }

    async fn end_container(&self, uid: &str, _index: usize, _why: &str) -> Result<(), RuntimeError> {
        self.stop(uid).await
    }

    async fn changed(&self, uid: &str) {
        let ends = match self.host.stage(uid) {
            Some(Stage::Started { ends: Some((at, _)) }) => at,
            _ => Instant::now() + Duration::from_secs(24 * 60 * 60),
        };
        tokio::select! {
            biased;
            () = self.host.0.changed.notified() => {}
            () = tokio::time::sleep_until(ends) => {}
        }
    }

    async fn stop(&self, uid: &str) -> Result<(), RuntimeError> {
        self.host.pause().await;
        if let Some(Stage::Started { .. }) = self.host.stage(uid) {
            self.host.set(uid, Stage::Ended(143));
        }
        self.host.pause().await;
        Ok(())
    }

    async fn release(&self, uid: &str) -> Result<(), RuntimeError> {
        self.host.pause().await;
        let observed = self.inspect(uid).await?;
        let code = match observed {
            Observed::Ended(facts) | Observed::Released(facts) => facts.exit_code.unwrap_or(0),
            Observed::Absent | Observed::Partial | Observed::Prepared | Observed::Running(_) => 1,
        };
        self.host.set(uid, Stage::Released(code));
        self.host.pause().await;
        Ok(())
    }

    async fn remove(&self, uid: &str) -> Result<(), RuntimeError> {
        self.host.pause().await;
        self.host.state().instances.remove(uid);
        self.host.0.changed.notify_waiters();
        self.host.pause().await;
        Ok(())
    }

    async fn heal(&self) -> Result<(), RuntimeError> {
        Ok(())
    }
}
