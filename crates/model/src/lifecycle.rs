//! The law of an instance's life.
//!
//! ```text
//!            bound            started           ended
//!  Pending ────────▶ Creating ───────▶ Running ───────▶ Terminated | Failed
//!     │                 │ └───────────────┼───────────────▶ Failed
//!     └────────┬────────┴────────┬────────┴────────┬──────────┘
//!              ▼ the user deletes it, at any time  ▼
//!          Destroying ──▶ the node reports that nothing is left ──▶ the row goes
//! ```
//! Two functions decide everything: [`next_step`] for the node ("what do I do now?") and [`accept`] for the record
//! ("do I believe this report?"). Both are total: every combination has an answer.
//!
//! *Guarantees*: a status never moves backward; an ended instance never runs again; a report about another incarnation
//! or from a node that does not own the instance changes nothing.

pub mod containers;

use std::{fmt, net::Ipv4Addr};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use self::containers::{Course, course};
use crate::{
    instance::{ContainerStatus, Instance, PublishedPort, StartTimes},
    manifest::WorkloadSpec,
    reason::Reason,
};

/// Where an instance stands. A closed set that clients rely on; everything else is told in fields beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ToSchema)]
pub enum Status {
    /// Asked for, and waiting for a node or for the node to begin.
    Pending,
    /// The node fetches and sets up what it needs.
    Creating,
    /// All of its containers have started.
    Running,
    /// It ended, or could not begin, otherwise than it should have.
    Failed,
    /// It ended by itself, as it should.
    Terminated,
    /// Its end was asked for; the row goes when nothing of it is left.
    Destroying,
}

impl Status {
    /// Every status, in the order of the documentation.
    pub const ALL: [Self; 6] =
        [Self::Pending, Self::Creating, Self::Running, Self::Failed, Self::Terminated, Self::Destroying];

    /// Whether an instance may go from this status to `next`. Staying is not moving.
    #[must_use]
    pub const fn may_become(self, next: Self) -> bool {
        self.rank() < next.rank()
    }

    const fn rank(self) -> u8 {
        match self {
            Self::Pending => 0,
            Self::Creating => 1,
            Self::Running => 2,
            Self::Failed | Self::Terminated => 3,
            Self::Destroying => 4,
        }
    }
}

impl fmt::Display for Status {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, out)
    }
}

/// What a node is asked to do with an instance.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Desired {
    /// Let it run until it ends by itself.
    Run,
    /// End it and leave nothing of it.
    Destroy,
}

/// What a node sees of an instance on its own machine.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Observed {
    /// Nothing: no record, no process, no file.
    Absent,
    /// A record and perhaps some of what it needs, but nothing of it has been started.
    Partial,
    /// Everything that it needs is there, and nothing has been started.
    Prepared,
    /// It was started and is not over: a container runs, or is going to.
    Running(Facts),
    /// It had been started and is over; its network and mounts may still be there.
    Ended(Facts),
    /// It has ended, and only its record and logs are left.
    Released(Facts),
}

/// What is known about an instance beside its status. Reported whole each time: absent means unknown or none.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Facts {
    /// Why it stands where it stands.
    pub reason: Option<Reason>,
    /// The same for people.
    pub message: Option<String>,
    /// Its address.
    pub ip: Option<Ipv4Addr>,
    /// Ports that are published.
    pub ports: Vec<PublishedPort>,
    /// Exit code of the first container that failed, else of the last one that ended.
    pub exit_code: Option<i32>,
    /// How often its containers were started again.
    pub restarts: u32,
    /// Where the time of its start went.
    pub start_times: Option<StartTimes>,
    /// When all had started.
    pub started_at: Option<Timestamp>,
    /// When the last one ended.
    pub finished_at: Option<Timestamp>,
    /// Its containers.
    pub containers: Vec<ContainerStatus>,
}

/// What the record said when the assignment was made: whether the node had ever begun.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum History {
    /// No report has arrived: it may be begun.
    Fresh,
    /// A report has arrived: if the node knows nothing of it, it was lost with the node's memory.
    Begun,
    /// It is over: nothing may be begun.
    Over,
}

impl From<Status> for History {
    fn from(status: Status) -> Self {
        match status {
            Status::Pending => Self::Fresh,
            Status::Creating | Status::Running | Status::Destroying => Self::Begun,
            Status::Failed | Status::Terminated => Self::Over,
        }
    }
}

/// The one thing that a node does next about an instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step {
    /// Record it, fetch its images, set up its sandbox. Safe to repeat from wherever it stopped.
    Prepare,
    /// Start these of its containers, by their indices.
    Start(Vec<usize>),
    /// Watch it until something changes, or until this time.
    Watch(Option<Timestamp>),
    /// It has ended: give back its network, mounts and groups, and keep record and logs.
    Release,
    /// End its containers, politely and then by force.
    Stop,
    /// Remove every trace of it.
    Remove,
    /// Say that it failed because its node had forgotten it, and begin nothing.
    Forgotten,
    /// Nothing to do, and nothing will change by itself.
    Rest,
    /// Nothing is left: say so.
    ReportGone,
}

/// What to do next with an instance of this specification, from what is wanted, what is there, and what had been
/// reported before.
#[must_use]
pub fn next_step(
    desired: Desired,
    observed: &Observed,
    history: History,
    spec: &WorkloadSpec,
    now: Timestamp,
) -> Step {
    match (desired, observed, history) {
        (Desired::Run, Observed::Absent, History::Fresh) => Step::Prepare,
        (Desired::Run, Observed::Absent, History::Begun) => Step::Forgotten,
        (Desired::Run, Observed::Absent, History::Over) => Step::Rest,
        (Desired::Run, Observed::Partial, History::Fresh | History::Begun) => Step::Prepare,
        (Desired::Run, Observed::Prepared, History::Fresh | History::Begun) => {
            Step::Start(containers::first(spec))
        }
        // It failed before it ever ran; what was set up for it goes.
        (Desired::Run, Observed::Partial | Observed::Prepared, History::Over) => Step::Release,
        (Desired::Run, Observed::Running(facts), _) => match course(spec, &facts.containers, now) {
            Course::Start(which) => Step::Start(which),
            Course::Wait(until) => Step::Watch(until),
            Course::End => Step::Stop,
            // The next look will say so.
            Course::Over => Step::Watch(Some(now)),
        },
        (Desired::Run, Observed::Ended(_), _) => Step::Release,
        (Desired::Run, Observed::Released(_), _) => Step::Rest,
        (Desired::Destroy, Observed::Absent, _) => Step::ReportGone,
        (Desired::Destroy, Observed::Running(_), _) => Step::Stop,
        (
            Desired::Destroy,
            Observed::Partial | Observed::Prepared | Observed::Ended(_) | Observed::Released(_),
            _,
        ) => Step::Remove,
    }
}

/// What a node says about one instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Report {
    /// Id of the instance.
    pub id: String,
    /// Which incarnation of that id.
    pub uid: String,
    /// What is said.
    pub said: Said,
}

/// The content of a report.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// Where it stands now, whole.
    Status(Status, Box<Facts>),
    /// It is being removed and that takes long: this is why.
    Removing(Facts),
    /// Nothing of it is left on the node.
    Gone,
}

/// What a report does to the record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// The record becomes this.
    Changed(Box<Instance>),
    /// The record says so already.
    Unchanged,
    /// The row goes.
    Removed,
    /// The report is not believed, for this reason.
    Refused(Refusal),
}

/// Why a report was not believed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Refusal {
    /// It is about an earlier incarnation of the id.
    OtherIncarnation,
    /// The instance is not bound to the node that reports.
    OtherNode,
    /// The status would move backward.
    Backward,
    /// The node says that it is gone, and nobody asked for that.
    NotAskedToGo,
}

/// Holds a report by `node` against the record `old`.
#[must_use]
pub fn accept(old: &Instance, node: &str, report: &Report) -> Accepted {
    if old.uid != report.uid {
        return Accepted::Refused(Refusal::OtherIncarnation);
    }
    if old.node.as_deref() != Some(node) {
        return Accepted::Refused(Refusal::OtherNode);
    }
    let (status, facts) = match &report.said {
        Said::Gone if old.is_deleting() => return Accepted::Removed,
        Said::Gone => return Accepted::Refused(Refusal::NotAskedToGo),
        Said::Removing(facts) if old.is_deleting() => (Status::Destroying, facts),
        Said::Removing(_) => return Accepted::Refused(Refusal::NotAskedToGo),
        Said::Status(status, facts) => (*status, &**facts),
    };
    if status != old.status && !old.status.may_become(status) {
        return Accepted::Refused(Refusal::Backward);
    }
    if status == Status::Destroying && !old.is_deleting() {
        return Accepted::Refused(Refusal::NotAskedToGo);
    }
    let new = with_facts(old, status, facts);
    if new == *old { Accepted::Unchanged } else { Accepted::Changed(Box::new(new)) }
}

fn with_facts(old: &Instance, status: Status, facts: &Facts) -> Instance {
    let deleting = status == Status::Destroying;
    let mut serving = facts.containers.iter().filter(|container| !container.init);
    let ready = status == Status::Running && serving.all(|own| own.ready);
    Instance {
        ready,
        status,
        reason: facts.reason.or(if deleting { old.reason } else { None }),
        message: facts.message.clone().or(if deleting { old.message.clone() } else { None }),
        ip: facts.ip,
        ports: facts.ports.clone(),
        exit_code: facts.exit_code.or(old.exit_code),
        restarts: facts.restarts.max(old.restarts),
        start_times: facts.start_times.or(old.start_times),
        started_at: facts.started_at.or(old.started_at),
        finished_at: facts.finished_at.or(old.finished_at),
        containers: if facts.containers.is_empty() {
            old.containers.clone()
        } else {
            facts.containers.clone()
        },
        ..old.clone()
    }
}

#[cfg(test)]
mod tests;
