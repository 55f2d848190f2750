//! The law of the containers inside an instance: who is started when, and when the whole is over.
//!
//! ```text
//!  init 0 ─good end─▶ init 1 ─good end─▶ … ─▶ all the others at once ─▶ each ends ─▶ restart policy
//!            sidecars start in their turn and go on ─────────────────────────────▶ ended after the others
//! ```
//! [`course`] decides from what is seen of each container; [`told`] puts it in words. Both are pure: the time is an
//! argument.
//!
//! *Guarantees*: no container is started while it runs, nor before its turn; under the policy `Never` none is ever
//! started twice; a pause never shrinks while a container keeps ending soon.

use jiff::{SignedDuration, Timestamp};

use super::{Facts, Status};
use crate::{
    instance::{ContainerPhase, ContainerStatus},
    manifest::{
        WorkloadSpec,
        health::{RestartBackoff, RestartPolicy},
    },
    reason::Reason,
};

/// What to do with the containers of an instance that was started.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Course {
    /// Start these, by their indices. Never empty.
    Start(Vec<usize>),
    /// Nothing before this time, unless something changes.
    Wait(Option<Timestamp>),
    /// End what still runs: the instance has failed, or only sidecars are left.
    End,
    /// Nothing runs, and nothing will.
    Over,
}

/// Indices of the containers that are started first.
#[must_use]
pub fn first(spec: &WorkloadSpec) -> Vec<usize> {
    let none = spec.all_containers().map(|own| ContainerStatus::waiting(&own.name)).collect::<Vec<_>>();
    match course(spec, &none, Timestamp::UNIX_EPOCH) {
        Course::Start(which) => which,
        // What has no containers of its own, such as a Function, is one thing that is started whole.
        Course::Wait(_) | Course::End | Course::Over => vec![0],
    }
}

/// What to do, from what is seen of each container, in the order of [`WorkloadSpec::all_containers`].
#[must_use]
pub fn course(spec: &WorkloadSpec, seen: &[ContainerStatus], now: Timestamp) -> Course {
    let pod = Pod { spec, seen };
    let running = seen.iter().any(|own| own.phase == ContainerPhase::Running);
    let end = if running { Course::End } else { Course::Over };
    if seen.is_empty() {
        return Course::Wait(None);
    }
    if (0..seen.len()).any(|index| pod.failed_for_good(index)) || pod.has_done_its_work() {
        return end;
    }
    let (mut due, mut later) = (Vec::new(), Vec::new());
    for index in pod.in_turn() {
        match pod.starts_at(index, now) {
            Some(at) if at <= now => due.push(index),
            Some(at) => later.push(at),
            None => {}
        }
    }
    if due.is_empty() { Course::Wait(later.into_iter().min()) } else { Course::Start(due) }
}

/// Whether nothing runs and nothing will.
#[must_use]
pub fn is_over(spec: &WorkloadSpec, seen: &[ContainerStatus]) -> bool {
    course(spec, seen, Timestamp::UNIX_EPOCH) == Course::Over
}

/// Whether one container will not run any more, whatever becomes of the others.
#[must_use]
pub fn has_come_to_its_end(spec: &WorkloadSpec, seen: &[ContainerStatus], index: usize) -> bool {
    let pod = Pod { spec, seen };
    is_over(spec, seen) || (pod.ended(index).is_some() && !pod.starts_again(index))
}

/// Runs in a row that ended soon, if the present one of this container is counted as well: what the pause before the
/// next start follows from. Zero if it ran long enough to be called well.
#[must_use]
pub fn quick_ends(backoff: &RestartBackoff, own: &ContainerStatus) -> u32 {
    let lasted = own.started_at.zip(own.finished_at).map(|(from, to)| to.duration_since(from));
    let well = SignedDuration::from_secs(backoff.reset_seconds.into());
    if lasted.is_some_and(|lasted| lasted >= well) { 0 } else { own.quick_ends }
}

/// The status that an instance with running containers has, and what there is to say beside it.
#[must_use]
pub fn told(spec: &WorkloadSpec, facts: Facts) -> (Status, Facts) {
    let pod = Pod { spec, seen: &facts.containers };
    let begun = |own: &ContainerStatus| own.started_at.is_some() || own.restarts > 0;
    let up = facts.containers.iter().filter(|own| !own.init).all(begun);
    let status = if up { Status::Running } else { Status::Creating };
    let again = (0..facts.containers.len()).find(|index| pod.starts_again(*index));
    let (reason, message) = match again.and_then(|index| pod.restart_in_words(index)) {
        Some((reason, message)) => (reason, Some(message)),
        None => (None, pod.init_in_words()),
    };
    (status, Facts { reason, message, ..facts })
}

struct Pod<'a> {
    spec: &'a WorkloadSpec,
    seen: &'a [ContainerStatus],
}

impl Pod<'_> {
    fn inits(&self) -> usize {
        self.spec.init_containers.len()
    }

    fn is_sidecar(&self, index: usize) -> bool {
        self.spec.init_containers.get(index).is_some_and(|own| own.is_sidecar())
    }

    fn policy(&self, index: usize) -> RestartPolicy {
        match self.spec.restart_policy {
            _ if self.is_sidecar(index) => RestartPolicy::Always,
            // An init container that has come to its good end has done its work.
            RestartPolicy::Always if index < self.inits() => RestartPolicy::OnFailure,
            policy => policy,
        }
    }

    fn ended(&self, index: usize) -> Option<&ContainerStatus> {
        self.seen.get(index).filter(|own| own.phase == ContainerPhase::Exited)
    }

    /// Whether it has ended and is to be started again.
    fn starts_again(&self, index: usize) -> bool {
        self.ended(index).is_some_and(|own| match self.policy(index) {
            RestartPolicy::Never => false,
            RestartPolicy::OnFailure => own.reason.is_some(),
            RestartPolicy::Always => true,
        })
    }

    fn failed_for_good(&self, index: usize) -> bool {
        self.ended(index).is_some_and(|own| own.reason.is_some()) && !self.starts_again(index)
    }

    fn has_done_its_work(&self) -> bool {
        (self.inits()..self.seen.len()).all(|index| self.ended(index).is_some() && !self.starts_again(index))
    }

    /// Those whose turn has come: the init containers one after the other, then all the others.
    fn in_turn(&self) -> Vec<usize> {
        let mut turn = Vec::new();
        for index in 0..self.inits() {
            turn.push(index);
            if !self.lets_others_begin(index) {
                return turn;
            }
        }
        turn.extend(self.inits()..self.seen.len());
        turn
    }

    fn lets_others_begin(&self, index: usize) -> bool {
        let begun = |own: &ContainerStatus| own.phase != ContainerPhase::Waiting || own.restarts > 0;
        if self.seen.get(index + 1..).is_some_and(|later| later.iter().any(begun)) {
            return true;
        }
        let waits_for_its_probe =
            self.spec.init_containers.get(index).is_some_and(|own| own.startup_probe.is_some());
        self.seen.get(index).is_some_and(|own| match own.phase {
            ContainerPhase::Waiting => false,
            ContainerPhase::Running => self.is_sidecar(index) && (own.ready || !waits_for_its_probe),
            ContainerPhase::Exited => !self.starts_again(index),
        })
    }

    /// When it is started next; None if it is not, or runs.
    fn starts_at(&self, index: usize, now: Timestamp) -> Option<Timestamp> {
        let own = self.seen.get(index)?;
        match own.phase {
            ContainerPhase::Waiting => Some(now),
            ContainerPhase::Running => None,
            ContainerPhase::Exited if self.starts_again(index) => {
                let pause = self.pause(own);
                // A clock that was set back does not make the pause longer.
                Some(own.finished_at.map_or(now, |ended| ended.min(now) + pause))
            }
            ContainerPhase::Exited => None,
        }
    }

    fn pause(&self, own: &ContainerStatus) -> SignedDuration {
        let backoff = &self.spec.restart_backoff;
        SignedDuration::from_secs(backoff.pause_seconds(quick_ends(backoff, own)).into())
    }

    fn restart_in_words(&self, index: usize) -> Option<(Option<Reason>, String)> {
        let own = self.ended(index)?;
        let why = own.message.clone().unwrap_or_else(|| format!("container {:?} ended", own.name));
        let pause = self.pause(own).as_secs();
        let (reason, soon) = match quick_ends(&self.spec.restart_backoff, own) {
            0 => (own.reason, String::new()),
            before => (Some(Reason::CrashLoop), format!(", for the {} time in a row", ordinal(before + 1))),
        };
        Some((reason, format!("{why}{soon}; it is started again after {pause} s")))
    }

    fn init_in_words(&self) -> Option<String> {
        let total = self.inits();
        let index = (0..total).find(|index| !self.lets_others_begin(*index))?;
        let name = &self.seen.get(index)?.name;
        Some(format!("init container {name:?} ({} of {total}) is at work", index + 1))
    }
}

fn ordinal(number: u32) -> String {
    let ending = match (number % 10, number % 100) {
        (_, 11..=13) => "th",
        (1, _) => "st",
        (2, _) => "nd",
        (3, _) => "rd",
        _ => "th",
    };
    format!("{number}{ending}")
}

#[cfg(test)]
mod tests;
