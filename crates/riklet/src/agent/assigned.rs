//! Obeying an assigned set: whole, or what has changed of it.

use std::sync::Arc;

use model::lifecycle::{Desired, History};
use proto::node::{Assigned, Assignment};
use runtime::InstanceSpec;

use super::{Agent, SessionEnd};
use crate::instance_task::Wanted;

impl Agent {
    /// Takes over what the set says, unless it is from an older state than this node has obeyed.
    pub(super) fn obey(&mut self, assigned: Assigned) -> Result<(), SessionEnd> {
        self.check_age(&assigned)?;
        if !assigned.full {
            for assignment in assigned.assignments {
                self.take_up(assignment);
            }
            for uid in assigned.withdrawn {
                self.give_up(&uid);
            }
        } else {
            self.parts_of_set.extend(assigned.assignments);
            if assigned.more {
                return Ok(());
            }
            let set = std::mem::take(&mut self.parts_of_set);
            let wanted = |uid: &String| set.iter().any(|assignment| assignment.uid == *uid);
            let unwanted: Vec<String> = self.tasks.keys().filter(|uid| !wanted(uid)).cloned().collect();
            for uid in unwanted {
                self.give_up(&uid);
            }
            for assignment in set {
                self.take_up(assignment);
            }
        }
        self.revision = self.revision.max(assigned.revision);
        self.tasks.retain(|_, task| !task.handle.is_finished());
        Ok(())
    }

    fn check_age(&mut self, assigned: &Assigned) -> Result<(), SessionEnd> {
        let seen = self.parts.identity.get().epoch;
        if assigned.epoch < seen
            || (assigned.epoch == seen && assigned.full && assigned.revision < self.revision)
        {
            return Err(SessionEnd::Stale {
                seen: format!("epoch {}, revision {}", seen.0, self.revision),
                found: format!("epoch {}, revision {}", assigned.epoch.0, assigned.revision),
            });
        }
        if assigned.epoch > seen {
            let changed = self.parts.identity.change(|record| record.epoch = assigned.epoch);
            changed.map_err(SessionEnd::Identity)?;
        }
        Ok(())
    }

    fn take_up(&mut self, assignment: Assignment) {
        let Assignment { id, uid, kind, spec, desired, recorded, given } = assignment;
        let mut wanted =
            Wanted { desired: Some(desired), history: History::from(recorded), assigned: true, given };
        match self.tasks.get(&uid) {
            // The end is final: what was once to be destroyed is not run again, whatever arrives late.
            Some(task) => {
                task.wanted.send_if_modified(|old| {
                    // It is said once, before the start; later words of the same instance leave it out.
                    if wanted.given.is_none() {
                        wanted.given.clone_from(&old.given);
                    }
                    let final_word = old.desired == Some(Desired::Destroy) && desired == Desired::Run;
                    let news = *old != wanted && !final_word;
                    if news {
                        *old = wanted;
                    }
                    news
                });
            }
            None => self.begin(InstanceSpec { id, uid, kind, spec, given: Arc::default() }, wanted),
        }
    }

    /// The cluster does not know the instance (any more): it goes without a word.
    fn give_up(&mut self, uid: &str) {
        if let Some(task) = self.tasks.get(uid) {
            tracing::debug!(instance.id = task.id, "instance is not assigned any more");
            let gone = Wanted {
                desired: Some(Desired::Destroy),
                history: History::Over,
                assigned: false,
                given: None,
            };
            task.wanted.send_replace(gone);
        }
    }
}
