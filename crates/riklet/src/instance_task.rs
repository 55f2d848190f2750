//! The task of one instance: look, decide, do one step, wait.
//!
//! ```text
//!  loop { what is wanted, what is there ─▶ next_step ─▶ one call of the runtime ─▶ report }
//!          ▲ a change of what is wanted interrupts a step that only builds up
//! ```
//! What to do is the law of `model::lifecycle`; how to do it is the runtime's business; this file joins the two and
//! says what came of it. It keeps nothing but the verdict on an instance that could not be begun, and what its probes
//! found out.
//!
//! *Guarantees*: one task for each instance, so nothing is ever done twice at once; a step that fails for a passing
//! reason is tried again, more and more slowly.

use std::{sync::Arc, time::Duration};

use jiff::Timestamp;
use model::{
    Clock, Reason, Status,
    given::{self, Given},
    lifecycle::{Desired, Facts, History, Observed, Said, Step, containers, next_step},
};
use runtime::{InstanceSpec, Runtime, RuntimeError};
use tokio::sync::watch;

use crate::{probes::Probes, reporter::Reporter};

/// Pause after the first failure of a step; doubles with each further one.
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// Longest pause between two attempts.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long building up is tried in spite of passing failures.
const PATIENCE: Duration = Duration::from_secs(5 * 60);

/// What is wanted of an instance.
#[derive(Clone, Debug, PartialEq)]
pub struct Wanted {
    /// What to do with it. None: nobody has said yet since this riklet started; what runs goes on running.
    pub desired: Option<Desired>,
    /// What the record said of it.
    pub history: History,
    /// Whether the cluster knows of it; otherwise it goes without a word.
    pub assigned: bool,
    /// Configs and secrets that it names; None while they have not come.
    pub given: Option<Arc<Given>>,
}

/// What a task works with.
pub struct Tools {
    /// What runs instances.
    pub runtime: Arc<dyn Runtime>,
    /// Where reports go.
    pub reporter: Reporter,
    /// Time of day.
    pub clock: Clock,
}

/// How a step ended.
enum Outcome {
    /// Look again at once.
    Look,
    /// Nothing to do until something else is wanted.
    WaitForOrders,
    /// Try again after a pause.
    Retry,
    /// Nothing is left, and nobody wants to hear of it.
    Finished,
}

/// Takes care of one instance until nothing is left of it.
pub async fn run(tools: Tools, spec: InstanceSpec, mut wanted: watch::Receiver<Wanted>) {
    let probes = Probes::new(spec.uid.clone(), tools.runtime.clone());
    let mut task = Task { tools, spec, probes, verdict: None, failing_since: None, pause: FIRST_PAUSE };
    loop {
        let orders = wanted.borrow_and_update().clone();
        match task.step(&orders, &mut wanted).await {
            Outcome::Look => {
                task.pause = FIRST_PAUSE;
                task.failing_since = None;
            }
            Outcome::WaitForOrders => {
                if wanted.changed().await.is_err() {
                    return;
                }
            }
            Outcome::Retry => {
                let pause = task.pause;
                task.pause = (pause * 2).min(LONGEST_PAUSE);
                tokio::select! {
                    biased;
                    changed = wanted.changed() => if changed.is_err() { return },
                    () = tokio::time::sleep(pause) => {}
                }
            }
            Outcome::Finished => return,
        }
    }
}

struct Task {
    tools: Tools,
    spec: InstanceSpec,
    probes: Probes,
    /// It could not be begun, and never will be.
    verdict: Option<Facts>,
    failing_since: Option<tokio::time::Instant>,
    pause: Duration,
}

impl Task {
    async fn step(&mut self, orders: &Wanted, wanted: &mut watch::Receiver<Wanted>) -> Outcome {
        let runtime = self.tools.runtime.clone();
        let mut observed = match runtime.inspect(&self.spec.uid).await {
            Ok(observed) => observed,
            Err(error) => return self.failed("look at the instance", &error),
        };
        match &mut observed {
            Observed::Running(facts) => self.probes.follow(&self.spec.spec, facts),
            _ => self.probes.end(),
        }
        let history = if self.verdict.is_some() { History::Over } else { orders.history };
        let desired = orders.desired.unwrap_or(Desired::Run);
        let begun = !matches!(observed, Observed::Absent | Observed::Partial | Observed::Prepared);
        match next_step(desired, &observed, history, &self.spec.spec, self.now()) {
            // Nothing is begun before the cluster has said that it is still wanted. What was begun goes on.
            Step::Prepare | Step::Start(_) | Step::Forgotten if orders.desired.is_none() && !begun => {
                Outcome::WaitForOrders
            }
            // Begun without what it names, it could only fail.
            Step::Prepare if orders.given.is_none() && !given::named(&self.spec.spec).is_empty() => {
                Outcome::WaitForOrders
            }
            Step::Prepare => {
                self.spec.given = orders.given.clone().unwrap_or_default();
                self.prepare(wanted).await
            }
            Step::Start(which) => self.start(&which, begun).await,
            Step::Watch(until) => self.watch(observed, until, wanted).await,
            Step::Release => self.release(observed).await,
            Step::Stop => self.stop(desired).await,
            Step::Remove => self.remove().await,
            Step::Forgotten => {
                let message =
                    "its node had lost its record of it; whether it had ended well is unknown".to_owned();
                self.condemn(Facts {
                    reason: Some(Reason::NodeRestarted),
                    message: Some(message),
                    ..Facts::default()
                });
                Outcome::Look
            }
            Step::Rest => {
                self.report_end(&observed);
                Outcome::WaitForOrders
            }
            Step::ReportGone if orders.assigned => {
                self.say(Said::Gone);
                Outcome::WaitForOrders
            }
            Step::ReportGone => {
                self.tools.reporter.forget(&self.spec.uid);
                Outcome::Finished
            }
        }
    }

    async fn prepare(&mut self, wanted: &mut watch::Receiver<Wanted>) -> Outcome {
        self.say(Said::Status(Status::Creating, Box::default()));
        let (reporter, spec) = (self.tools.reporter.clone(), self.spec.clone());
        let progress = move |facts: Facts| {
            reporter.say(&spec.id, &spec.uid, Said::Status(Status::Creating, Box::new(facts)));
        };
        let runtime = self.tools.runtime.clone();
        let prepared = tokio::select! {
            biased;
            // Dropping a preparation is safe, and whoever deletes an instance does not want to wait for its image.
            _ = wanted.wait_for(|wanted| wanted.desired == Some(Desired::Destroy)) => return Outcome::Look,
            prepared = runtime.prepare(&self.spec, &progress) => prepared,
        };
        match prepared {
            Ok(()) => Outcome::Look,
            Err(error) => self.build_up_failed(&error),
        }
    }

    async fn start(&mut self, which: &[usize], begun: bool) -> Outcome {
        match self.tools.runtime.start(&self.spec.uid, which).await {
            Ok(()) if begun => {
                tracing::info!(instance.id = self.spec.id, containers = ?which, "containers started");
                Outcome::Look
            }
            Ok(()) => {
                tracing::info!(instance.id = self.spec.id, "instance started");
                Outcome::Look
            }
            Err(error) => self.build_up_failed(&error),
        }
    }

    async fn watch(
        &mut self,
        observed: Observed,
        until: Option<Timestamp>,
        wanted: &mut watch::Receiver<Wanted>,
    ) -> Outcome {
        if let Observed::Running(facts) = observed {
            let (status, facts) = containers::told(&self.spec.spec, facts);
            self.say(Said::Status(status, Box::new(facts)));
        }
        if let Some((index, why)) = self.probes.unhealthy() {
            return self.end_unhealthy(index, &why, wanted).await;
        }
        let left = until.map(|until| until.duration_since(self.now()));
        let left = left.map(|left| Duration::try_from(left).unwrap_or(Duration::ZERO));
        tokio::select! {
            biased;
            _ = wanted.changed() => {}
            () = self.tools.runtime.changed(&self.spec.uid) => {}
            () = self.probes.changed() => {}
            () = tokio::time::sleep(left.unwrap_or_default()), if left.is_some() => {}
        }
        Outcome::Look
    }

    async fn end_unhealthy(
        &mut self,
        index: usize,
        why: &str,
        wanted: &mut watch::Receiver<Wanted>,
    ) -> Outcome {
        tracing::info!(instance.id = self.spec.id, container = index, "a container is ended because {why}");
        let runtime = self.tools.runtime.clone();
        let ended = tokio::select! {
            biased;
            // The whole instance ends then, and this container with it.
            _ = wanted.wait_for(|wanted| wanted.desired == Some(Desired::Destroy)) => return Outcome::Look,
            ended = runtime.end_container(&self.spec.uid, index, why) => ended,
        };
        match ended {
            Ok(()) => {
                self.probes.forget(index);
                Outcome::Look
            }
            Err(error) => self.failed("end a container whose probe failed", &error),
        }
    }

    async fn release(&mut self, observed: Observed) -> Outcome {
        self.report_end(&observed);
        match self.tools.runtime.release(&self.spec.uid).await {
            Ok(()) => Outcome::Look,
            Err(error) => self.failed("give back what the instance held", &error),
        }
    }

    async fn stop(&mut self, desired: Desired) -> Outcome {
        let removing = desired == Desired::Destroy;
        if removing {
            self.say_removing(None);
        }
        match self.tools.runtime.stop(&self.spec.uid).await {
            Ok(()) => Outcome::Look,
            Err(error) => {
                if removing {
                    self.say_removing(Some(&error));
                }
                self.failed("stop the instance", &error)
            }
        }
    }

    async fn remove(&mut self) -> Outcome {
        match self.tools.runtime.remove(&self.spec.uid).await {
            Ok(()) => {
                tracing::info!(instance.id = self.spec.id, "instance removed");
                Outcome::Look
            }
            Err(error) => {
                self.say_removing(Some(&error));
                self.failed("remove the instance", &error)
            }
        }
    }

    /// Building up did not succeed: for good, or for now.
    fn build_up_failed(&mut self, error: &RuntimeError) -> Outcome {
        let since = *self.failing_since.get_or_insert_with(tokio::time::Instant::now);
        let facts = Facts { reason: Some(error.reason), message: Some(error.sentence()), ..Facts::default() };
        if error.transient && since.elapsed() < PATIENCE {
            self.say(Said::Status(Status::Creating, Box::new(facts)));
            return self.failed("set up the instance", error);
        }
        tracing::warn!(instance.id = self.spec.id, reason = %error.reason, "{}", error.sentence());
        self.condemn(Facts { finished_at: Some(self.now()), ..facts });
        Outcome::Look
    }

    fn condemn(&mut self, facts: Facts) {
        self.say(Said::Status(Status::Failed, Box::new(facts.clone())));
        self.verdict = Some(facts);
    }

    fn failed(&self, what: &str, error: &RuntimeError) -> Outcome {
        tracing::warn!(
            instance.id = self.spec.id,
            error = error.sentence(),
            "could not {what}; trying again"
        );
        Outcome::Retry
    }

    /// Says how it ended, if it is known.
    fn report_end(&self, observed: &Observed) {
        let said = match (&self.verdict, observed) {
            (Some(verdict), _) => Said::Status(Status::Failed, Box::new(verdict.clone())),
            (None, Observed::Ended(facts) | Observed::Released(facts)) => {
                Said::Status(ended_as(facts), Box::new(facts.clone()))
            }
            (None, Observed::Absent | Observed::Partial | Observed::Prepared | Observed::Running(_)) => {
                return;
            }
        };
        self.say(said);
    }

    fn say_removing(&self, error: Option<&RuntimeError>) {
        let facts = Facts {
            reason: error.map(|_| Reason::RemovalFailed),
            message: error.map(RuntimeError::sentence),
            ..Facts::default()
        };
        self.say(Said::Removing(facts));
    }

    fn say(&self, said: Said) {
        self.tools.reporter.say(&self.spec.id, &self.spec.uid, said);
    }

    fn now(&self) -> Timestamp {
        self.tools.clock.now()
    }
}

/// Exit code 0 and nothing against it is a good end.
fn ended_as(facts: &Facts) -> Status {
    if facts.exit_code == Some(0) && facts.reason.is_none() { Status::Terminated } else { Status::Failed }
}
