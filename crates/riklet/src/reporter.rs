//! The reporter: the latest word about each instance, repeated until it is acknowledged.
//!
//! Tasks put in what they see; the session takes out what is to be said. Only the latest word counts, so a session
//! that was away for hours has no more to say than one for each instance.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use model::lifecycle::{Report, Said};
use proto::node::{Ack, Numbered};
use tokio::{sync::Notify, time::Instant};

/// How long a report may stay unacknowledged before it is sent again.
const REPEAT: Duration = Duration::from_secs(3);
/// Reports in one message: at a few hundred bytes each, well below a message's limit.
const MAX_BATCH: usize = 200;

/// What is to be said. Cheap to clone; all clones are one.
#[derive(Clone, Debug, Default)]
pub struct Reporter(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    entries: Mutex<BTreeMap<String, Entry>>,
    news: Notify,
}

#[derive(Debug)]
struct Entry {
    id: String,
    sequence: u64,
    said: Said,
    acknowledged: bool,
    sent: Option<Instant>,
}

impl Reporter {
    /// Says something about an instance. Saying the same again is not news.
    pub fn say(&self, id: &str, uid: &str, said: Said) {
        let mut entries = self.entries();
        match entries.get_mut(uid) {
            Some(entry) if entry.said == said => return,
            Some(entry) => {
                entry.sequence += 1;
                entry.said = said;
                entry.acknowledged = false;
                entry.sent = None;
            }
            None => {
                let entry = Entry { id: id.to_owned(), sequence: 1, said, acknowledged: false, sent: None };
                entries.insert(uid.to_owned(), entry);
            }
        }
        drop(entries);
        self.0.news.notify_one();
    }

    /// Has nothing more to say about an instance.
    pub fn forget(&self, uid: &str) {
        self.entries().remove(uid);
    }

    /// Says everything again: the other side may have forgotten it.
    pub fn repeat_all(&self) {
        for entry in self.entries().values_mut() {
            entry.acknowledged = false;
            entry.sent = None;
        }
        self.0.news.notify_one();
    }

    /// Notes what has been recorded.
    pub fn acknowledge(&self, acks: &[Ack]) {
        let mut entries = self.entries();
        for ack in acks {
            if let Some(entry) = entries.get_mut(&ack.uid) {
                entry.acknowledged |= entry.sequence <= ack.sequence;
            }
        }
    }

    /// What is to be said now, at most one message full; counts as sent.
    #[must_use]
    pub fn take(&self) -> Vec<Numbered> {
        let now = Instant::now();
        let mut entries = self.entries();
        let due = entries.iter_mut().filter(|(_, entry)| {
            !entry.acknowledged && entry.sent.is_none_or(|sent| now.duration_since(sent) >= REPEAT)
        });
        let taken = due.take(MAX_BATCH).map(|(uid, entry)| {
            entry.sent = Some(now);
            let report = Report { id: entry.id.clone(), uid: uid.clone(), said: entry.said.clone() };
            Numbered { sequence: entry.sequence, report }
        });
        taken.collect()
    }

    /// Waits until there may be something to say: news, or time to repeat. Cancel-safe.
    pub async fn due(&self) {
        let wait = {
            let entries = self.entries();
            let now = Instant::now();
            let open = entries.values().filter(|entry| !entry.acknowledged);
            open.map(|entry| {
                entry.sent.map_or(Duration::ZERO, |sent| (sent + REPEAT).saturating_duration_since(now))
            })
            .min()
        };
        match wait {
            Some(wait) if wait.is_zero() => {}
            Some(wait) => tokio::select! {
                biased;
                () = self.0.news.notified() => {}
                () = tokio::time::sleep(wait) => {}
            },
            None => self.0.news.notified().await,
        }
    }

    fn entries(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, Entry>> {
        self.0.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use model::Status;

    use super::*;

    fn status(status: Status) -> Said {
        Said::Status(status, Box::default())
    }

    #[tokio::test(start_paused = true)]
    async fn a_report_is_repeated_until_it_is_acknowledged() {
        let reporter = Reporter::default();
        reporter.say("web", "u", status(Status::Creating));
        reporter.due().await;
        assert_eq!(reporter.take().len(), 1);
        assert_eq!(reporter.take(), []);
        // The news may be noticed once more; after that only time makes it due.
        reporter.due().await;
        reporter.due().await;
        let again = reporter.take();
        assert_eq!(again[0].sequence, 1);
        reporter.acknowledge(&[Ack { uid: "u".to_owned(), sequence: 1 }]);
        tokio::time::advance(REPEAT * 2).await;
        assert_eq!(reporter.take(), []);
    }

    #[tokio::test(start_paused = true)]
    async fn an_acknowledgement_of_an_older_word_does_not_silence_a_newer_one() {
        let reporter = Reporter::default();
        reporter.say("web", "u", status(Status::Creating));
        let _ = reporter.take();
        reporter.say("web", "u", status(Status::Running));
        reporter.acknowledge(&[Ack { uid: "u".to_owned(), sequence: 1 }]);
        let now = reporter.take();
        assert_eq!((now[0].sequence, &now[0].report.said), (2, &status(Status::Running)));
    }
}
