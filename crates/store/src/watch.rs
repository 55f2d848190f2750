//! Watches: a cursor in the log that waits at its end.
//!
//! A watch reads what follows its cursor, hands it out revision by revision, and sleeps on the newest revision when
//! there is nothing left. It holds at most one [`Stretch`] of changes, however far it is behind.
//!
//! *Guarantees*: no gap, no repeat, in order, all changes of one revision together. `next` is cancel-safe: the cursor
//! moves only together with the changes that it passed.

use std::collections::VecDeque;
use std::sync::Arc;

use async_trait::async_trait;
use model::Revision;
use tokio::sync::watch;

use crate::change::Change;
use crate::error::{Fault, WatchError};

/// Commits that a watch holds at once.
const STRETCH_COMMITS: usize = 256;

/// Bytes of the changes that a watch holds at once, exceeded by one commit at most.
const STRETCH_BYTES: usize = 1024 * 1024;

/// Entries that one read of the log looks at, for a prefix that hardly ever changes.
const STRETCH_SCAN: usize = 8_192;

/// Where a watch reads changes.
#[async_trait]
pub(crate) trait ChangeLog: Send + Sync {
    /// What follows `cursor`, as far as one stretch goes.
    async fn read(&self, prefix: &str, cursor: Revision) -> Result<Stretch, WatchError>;
}

/// A bounded piece of the log.
#[derive(Debug)]
pub(crate) struct Stretch {
    /// The changes that matter to the reader, a revision each.
    commits: VecDeque<Vec<Change>>,
    /// The piece is complete up to here.
    through: Revision,
    bytes: usize,
    scanned: usize,
}

impl Stretch {
    pub(crate) fn starting_at(cursor: Revision) -> Self {
        Self { commits: VecDeque::new(), through: cursor, bytes: 0, scanned: 0 }
    }

    /// Adds what one revision changed, which may be nothing that matters.
    pub(crate) fn push(&mut self, changes: Vec<Change>, revision: Revision) {
        self.through = revision;
        self.scanned += changes.len().max(1);
        if !changes.is_empty() {
            self.bytes += changes.iter().map(Change::bytes).sum::<usize>();
            self.commits.push_back(changes);
        }
    }

    pub(crate) fn is_full(&self) -> bool {
        self.commits.len() >= STRETCH_COMMITS || self.bytes >= STRETCH_BYTES || self.scanned >= STRETCH_SCAN
    }
}

/// The changes of one commit to keys with this prefix.
pub(crate) fn select(commit: &[Change], prefix: &str) -> Vec<Change> {
    commit.iter().filter(|change| change.key.starts_with(prefix)).cloned().collect()
}

/// A running watch. Dropping it ends it.
pub struct Watch {
    log: Arc<dyn ChangeLog>,
    newest: watch::Receiver<Revision>,
    prefix: String,
    cursor: Revision,
    ready: VecDeque<Vec<Change>>,
}

impl Watch {
    pub(crate) fn new(
        log: Arc<dyn ChangeLog>,
        newest: watch::Receiver<Revision>,
        prefix: &str,
        after: Revision,
    ) -> Self {
        Self { log, newest, prefix: prefix.to_owned(), cursor: after, ready: VecDeque::new() }
    }

    /// Waits for the next revision that changed a watched key, and returns its changes to watched keys. Cancel-safe.
    ///
    /// # Errors
    /// [`WatchError::Compacted`] if the watch fell behind the log; it stays so. Other errors may pass: call again.
    pub async fn next(&mut self) -> Result<Vec<Change>, WatchError> {
        loop {
            if let Some(commit) = self.ready.pop_front() {
                return Ok(commit);
            }
            // Marked as seen before reading, so that what is committed meanwhile wakes the wait below.
            let newest = *self.newest.borrow_and_update();
            if self.cursor < newest {
                let stretch = self.log.read(&self.prefix, self.cursor).await?;
                self.cursor = stretch.through;
                self.ready = stretch.commits;
            } else {
                self.newest.changed().await.map_err(|_closed| WatchError::Read(Fault::Closed))?;
            }
        }
    }

    /// The next revision's changes if they are here already: after [`Watch::next`], what may be taken together with it.
    pub fn ready(&mut self) -> Option<Vec<Change>> {
        self.ready.pop_front()
    }
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Watch").field("prefix", &self.prefix).field("cursor", &self.cursor).finish()
    }
}
