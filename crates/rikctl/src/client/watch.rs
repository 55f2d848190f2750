//! A watch that outlives its connections: changes from a revision on, each once, in order.
//!
//! ```text
//! connect ──▶ read ──▶ change ──▶ read …
//!    ▲          └─ the stream ends or is silent ─┐
//!    └── pause, from the last revision seen ◀────┘
//! ```
//! *Guarantee*: a change is told once, however often the connection breaks. *Assumption*: the server's revisions only
//! grow; when it no longer has those that we ask for, [`Step::Compacted`] says to list again.

use std::{
    collections::BTreeSet,
    io::Read,
    thread,
    time::{Duration, Instant},
};

use model::{Revision, api::WatchEvent};

use super::{Client, ClientError, sse::Messages, with_query};

/// Longest silence before the connection counts as dead: four times the server's keep-alive.
const SILENCE: Duration = Duration::from_secs(60);
/// How long in a row no connection may stand before the watch gives up: a controller's restart takes less.
const PATIENCE: Duration = Duration::from_secs(60);
/// First pause before connecting again; it doubles up to [`MAX_PAUSE`].
const MIN_PAUSE: Duration = Duration::from_millis(100);
/// Longest pause before connecting again.
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// What a watch came to.
#[derive(Debug)]
pub(crate) enum Step {
    /// Something changed.
    Change(Box<WatchEvent>),
    /// The deadline has passed.
    Deadline,
    /// The history no longer reaches back to our revision: list again and watch from there.
    Compacted,
}

/// A watch.
pub(crate) struct Watch<'a> {
    client: &'a Client,
    object: Option<&'static str>,
    /// Everything up to here has been told: where the next connection goes on.
    floor: Revision,
    /// The newest revision that something was told of, and what: one transaction may change many objects, and the
    /// connection may break between them.
    newest: Revision,
    told: BTreeSet<(String, String)>,
    messages: Option<Messages<Box<dyn Read>>>,
    pause: Duration,
    lost: Instant,
}

impl<'a> Watch<'a> {
    /// A watch of all changes after a revision, of one sort of object or of all.
    pub(crate) fn new(client: &'a Client, object: Option<&'static str>, after: Revision) -> Self {
        Self {
            client,
            object,
            floor: after,
            newest: after,
            told: BTreeSet::new(),
            messages: None,
            pause: MIN_PAUSE,
            lost: Instant::now(),
        }
    }

    /// The next change, or the deadline.
    ///
    /// # Errors
    /// The controller refuses, or has not been reached for a minute.
    pub(crate) fn next(&mut self, deadline: Option<Instant>) -> Result<Step, ClientError> {
        loop {
            let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(Step::Deadline);
            }
            let Some(messages) = &mut self.messages else {
                match self.connect(left) {
                    Ok(()) => continue,
                    Err(error) if is_compacted(&error) => {
                        // Whoever lists again comes back here at once; a server that always says so is not to be pestered.
                        self.rest(left);
                        return Ok(Step::Compacted);
                    }
                    Err(error) if error.is_transient() && self.lost.elapsed() < PATIENCE => self.rest(left),
                    Err(error) => return Err(error),
                }
                continue;
            };
            match messages.next() {
                // What is no change is passed over: a newer server may say more than we know.
                Ok(Some(message)) if message.data.is_empty() => self.reach(&message.id),
                Ok(Some(message)) => {
                    let change = serde_json::from_str::<WatchEvent>(&message.data).ok();
                    if let Some(change) = change.filter(|change| self.is_new(change)) {
                        return Ok(Step::Change(Box::new(change)));
                    }
                }
                Ok(None) | Err(_) => {
                    self.messages = None;
                    self.lost = Instant::now();
                    self.rest(left);
                }
            }
        }
    }

    /// Whether a change has not been told yet; from now on it has.
    fn is_new(&mut self, change: &WatchEvent) -> bool {
        if change.revision <= self.floor || change.revision < self.newest {
            return false;
        }
        if change.revision > self.newest {
            self.floor = self.newest;
            self.newest = change.revision;
            self.told.clear();
            self.pause = MIN_PAUSE;
        }
        self.told.insert((change.object.clone(), change.name.clone()))
    }

    /// An id without data: everything up to there has been told, or is of another sort.
    fn reach(&mut self, id: &str) {
        if let Ok(revision) = id.parse().map(Revision)
            && revision >= self.newest
        {
            (self.floor, self.newest) = (revision, revision);
            self.told.clear();
        }
    }

    fn connect(&mut self, left: Option<Duration>) -> Result<(), ClientError> {
        let after = self.floor.to_string();
        let mut query = vec![("after", after.as_str())];
        query.extend(self.object.map(|object| ("object", object)));
        let stream = self.client.stream(&with_query("/watch", &query), Some(SILENCE), left)?;
        self.messages = Some(Messages::new(Box::new(stream)));
        Ok(())
    }

    fn rest(&mut self, left: Option<Duration>) {
        thread::sleep(left.map_or(self.pause, |left| left.min(self.pause)));
        self.pause = (self.pause * 2).min(MAX_PAUSE);
    }
}

fn is_compacted(error: &ClientError) -> bool {
    // 410 Gone: the revision is older than the history.
    error.status() == Some(410)
}
