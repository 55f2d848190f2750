//! Waiting for instances to reach a state: the decision, which is pure, and the loop around it.
//!
//! *Guarantees*: a state that was reached before the wait began is seen; one that can no longer be reached ends the
//! wait at once, with the reason; the end of the time is exit code 3.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use clap::ValueEnum;
use model::{
    Instance, Reason, Status,
    api::{Action, WatchEvent},
};

use crate::{
    age::spelled,
    client::{
        Client,
        watch::{Step, Watch},
    },
    exit::Exit,
    failure::{Failure, Report, counted},
    listed::Listed as _,
    progress::Progress,
    resolve,
    terminal::Terminal,
};

/// How long the end of an instance may take to be known after its program has ended.
pub(crate) const SOON: Duration = Duration::from_secs(30);

/// Most instances that a message lists.
const MAX_TOLD: usize = 20;

/// Most instances that are asked for one by one; beyond it the list is cheaper.
const MAX_SINGLE_LOOKS: usize = 10;

/// What can be waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Condition {
    /// It has started: it runs, or has run and ended well.
    #[value(skip)]
    Started,
    /// It is running.
    Running,
    /// It has ended by itself, as it should.
    Terminated,
    /// It has failed.
    Failed,
    /// It has ended, well or not.
    Ended,
    /// Nothing of it is left.
    Deleted,
}

impl Condition {
    /// As it is told.
    pub(crate) const fn participle(self) -> &'static str {
        match self {
            Self::Started => "started",
            Self::Running => "running",
            Self::Terminated => "terminated",
            Self::Failed => "failed",
            Self::Ended => "ended",
            Self::Deleted => "deleted",
        }
    }
}

/// Whether the wait for one instance is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is as wished.
    Met,
    /// It may still become so.
    Open,
    /// It can not become so any more.
    Never,
}

/// Whether an instance in this state, or gone, is what is waited for.
pub(crate) const fn verdict(condition: Condition, status: Option<Status>) -> Verdict {
    use Condition as C;
    use Status as S;
    match (condition, status) {
        (C::Deleted, None)
        | (C::Started, Some(S::Running | S::Terminated))
        | (C::Running, Some(S::Running))
        | (C::Terminated, Some(S::Terminated))
        | (C::Failed, Some(S::Failed))
        | (C::Ended, Some(S::Terminated | S::Failed)) => Verdict::Met,
        (C::Deleted, Some(_)) | (_, Some(S::Pending | S::Creating)) => Verdict::Open,
        (C::Terminated | C::Failed | C::Ended, Some(S::Running)) => Verdict::Open,
        (_, None | Some(S::Terminated | S::Failed | S::Destroying)) => Verdict::Never,
    }
}

/// An instance that is waited for. Its uid tells it from a later one of the same name.
#[derive(Clone, Debug)]
struct Awaited {
    uid: Option<String>,
    seen: Option<Instance>,
}

/// Waits until every instance of these ids is as wished.
///
/// # Errors
/// The time is over, or an instance cannot become so any more.
pub(crate) fn until(
    client: &Client,
    terminal: &mut Terminal,
    ids: &[String],
    (condition, timeout): (Condition, Duration),
) -> Result<(), Failure> {
    let deadline = Instant::now() + timeout;
    let mut progress = Progress::spinner(terminal);
    let mut awaited: BTreeMap<String, Awaited> =
        ids.iter().map(|id| (id.clone(), Awaited { uid: None, seen: None })).collect();
    loop {
        // The revision comes first, so that what changes while we look is in the watch too.
        let cluster = client.cluster()?;
        look(client, &mut awaited)?;
        let mut watch = Watch::new(client, Some("instance"), cluster.revision);
        loop {
            if settled(&awaited, condition)? {
                return Ok(());
            }
            progress.say(&summary(&awaited, condition), terminal);
            match watch.next(Some(deadline))? {
                Step::Change(change) => {
                    if let Some(one) = awaited.get_mut(&change.name) {
                        one.note(&change);
                    }
                }
                Step::Deadline => {
                    let report = timed_out(&awaited, condition, timeout);
                    let away =
                        "the scheduler is not connected to the controller; nothing new is placed".to_owned();
                    return Err(report.details((!cluster.scheduler_connected).then_some(away)).into());
                }
                Step::Compacted => break,
            }
        }
    }
}

/// Sees how each one is now: a few one by one, many out of one list.
fn look(client: &Client, awaited: &mut BTreeMap<String, Awaited>) -> Result<(), Failure> {
    let mut listed = BTreeMap::new();
    let many = awaited.len() > MAX_SINGLE_LOOKS;
    if many {
        let all = resolve::every::<Instance>(client, &[])?;
        listed.extend(all.into_iter().map(|one| (one.object.id.clone(), one.object)));
    }
    for (id, one) in awaited {
        let found =
            if many { listed.remove(id) } else { resolve::lookup(client, id)?.map(|found| found.object) };
        one.see(found);
    }
    Ok(())
}

impl Awaited {
    fn see(&mut self, found: Option<Instance>) {
        let uid = found.as_ref().map(|found| found.uid.clone());
        if self.uid.is_none() {
            self.uid = uid;
        } else if self.uid != uid {
            self.seen = None;
            return;
        }
        self.seen = found;
    }

    fn note(&mut self, change: &WatchEvent) {
        let now = change.value.as_ref().and_then(|value| serde::Deserialize::deserialize(value).ok());
        let now: Option<Instance> =
            now.filter(|now: &Instance| self.uid.as_ref().is_none_or(|uid| *uid == now.uid));
        match (change.action, now) {
            (Action::Deleted, _) => self.seen = None,
            (Action::Created | Action::Changed, Some(now)) => {
                self.uid = Some(now.uid.clone());
                self.seen = Some(now);
            }
            // Another instance has the name: ours is gone. What we cannot read tells nothing.
            (Action::Created, None) if change.value.is_some() => self.seen = None,
            (Action::Created | Action::Changed, None) => {}
        }
    }
}

/// True when all is as wished, an error when something cannot become so.
fn settled(awaited: &BTreeMap<String, Awaited>, condition: Condition) -> Result<bool, Failure> {
    let mut all = true;
    for (id, one) in awaited {
        match verdict(condition, one.seen.as_ref().map(|seen| seen.status)) {
            Verdict::Met => {}
            Verdict::Open => all = false,
            Verdict::Never => return Err(hopeless(id, one.seen.as_ref(), condition)),
        }
    }
    Ok(all)
}

fn hopeless(id: &str, seen: Option<&Instance>, condition: Condition) -> Failure {
    let Some(seen) = seen else {
        return Report::new(format!(
            "instance {id:?} does not exist any more, so it will not be {}",
            condition.participle()
        ))
        .hint("rikctl get events")
        .into();
    };
    let report =
        Report::new(format!("instance {id:?} is {} and will not be {}", seen.status, condition.participle()));
    let code = seen.exit_code.map(|code| format!("exit code {code}"));
    let report = report.details(seen.trouble().into_iter().chain(code));
    match seen.reason {
        Some(Reason::NonZeroExit | Reason::Signaled | Reason::OutOfMemory) => {
            report.hint(format!("rikctl logs {id}"))
        }
        _ => report.hint(format!("rikctl describe instance {id}")),
    }
    .into()
}

fn timed_out(awaited: &BTreeMap<String, Awaited>, condition: Condition, timeout: Duration) -> Report {
    let open: Vec<_> = awaited
        .iter()
        .filter(|(_, one)| verdict(condition, one.seen.as_ref().map(|seen| seen.status)) != Verdict::Met)
        .collect();
    let message = format!(
        "{} of {} not {} after {}",
        open.len(),
        counted(awaited.len(), "instance"),
        condition.participle(),
        spelled(timeout)
    );
    let rest = (open.len() > MAX_TOLD).then(|| format!("and {} more", open.len() - MAX_TOLD));
    let lines = open.iter().take(MAX_TOLD).map(|(id, one)| match &one.seen {
        Some(seen) => {
            let trouble =
                seen.trouble().map(|trouble| trouble.replacen(id.as_str(), "", 1)).unwrap_or_default();
            format!("{id}: {}{trouble}", seen.status)
        }
        None => format!("{id}: not seen"),
    });
    let report = Report::new(message).details(lines.chain(rest)).exit(Exit::TimedOut);
    match open.first() {
        Some((id, _)) => report.hint(format!("rikctl describe instance {id}; or wait longer with --timeout")),
        None => report,
    }
}

/// `2 of 3 running, 1 Creating`, or `web-1: Creating` for one alone.
fn summary(awaited: &BTreeMap<String, Awaited>, condition: Condition) -> String {
    let state =
        |one: &Awaited| one.seen.as_ref().map_or_else(|| "gone".to_owned(), |seen| seen.status.to_string());
    if let (1, Some((id, one))) = (awaited.len(), awaited.iter().next()) {
        let trouble = one.seen.as_ref().and_then(|seen| seen.reason).map(|reason| format!(" ({reason})"));
        return format!("{id}: {}{}", state(one), trouble.unwrap_or_default());
    }
    let mut states: BTreeMap<String, usize> = BTreeMap::new();
    let mut met = 0;
    for one in awaited.values() {
        if verdict(condition, one.seen.as_ref().map(|seen| seen.status)) == Verdict::Met {
            met += 1;
        } else {
            *states.entry(state(one)).or_default() += 1;
        }
    }
    let others: String = states.iter().map(|(state, count)| format!(", {count} {state}")).collect();
    format!("{met} of {} {}{others}", awaited.len(), condition.participle())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_ends_when_its_state_is_reached_or_lost() {
        let seen = |condition| {
            let states = Status::ALL.into_iter().map(Some).chain([None]);
            states
                .map(|status| match verdict(condition, status) {
                    Verdict::Met => 'y',
                    Verdict::Open => '.',
                    Verdict::Never => 'n',
                })
                .collect::<String>()
        };
        // Pending, Creating, Running, Failed, Terminated, Destroying, gone.
        assert_eq!(seen(Condition::Started), "..ynynn");
        assert_eq!(seen(Condition::Running), "..ynnnn");
        assert_eq!(seen(Condition::Terminated), "...nynn");
        assert_eq!(seen(Condition::Failed), "...ynnn");
        assert_eq!(seen(Condition::Ended), "...yynn");
        assert_eq!(seen(Condition::Deleted), "......y");
    }
}
