//! The newest part of the log in memory, from which watchers that keep up are served without touching the disk.
//!
//! The writer pushes each commit once it is durable; watchers read from their own cursor. Nothing is queued for a
//! watcher: one that is slower than the tail reads the log, and only its own cursor is behind.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use model::Revision;

use crate::change::Change;
use crate::watch::{Stretch, select};

/// Entries of the log that are kept: some hours of a busy cluster, about 100 MB on disk.
const LOG_ENTRIES: usize = 100_000;

/// Entries of the tail: two of the largest transactions, so that a watcher may be one behind.
const TAIL_ENTRIES: usize = 4_096;

/// Bytes of the tail: what the controller can spare of its memory.
const TAIL_BYTES: usize = 4 * 1024 * 1024;

/// How much of the past a store keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bounds {
    /// Entries of the log; older ones are compacted, a step at a time, so it may be exceeded by a hundredth.
    pub log_entries: usize,
    /// Entries of the log that are also kept in memory for watchers.
    pub tail_entries: usize,
    /// Bytes of those entries.
    pub tail_bytes: usize,
}

impl Default for Bounds {
    fn default() -> Self {
        Self { log_entries: LOG_ENTRIES, tail_entries: TAIL_ENTRIES, tail_bytes: TAIL_BYTES }
    }
}

impl Bounds {
    /// Entries that are compacted in one step.
    pub(crate) const fn trim_step(&self) -> usize {
        self.log_entries / 100 + 1
    }

    /// How many of `entries` must be compacted now. Steps rather than single entries, so that most commits pay nothing.
    pub(crate) const fn excess(&self, entries: usize) -> Option<usize> {
        let step = self.trim_step();
        if entries >= self.log_entries + step { Some(entries - self.log_entries) } else { None }
    }
}

/// What the tail can say about the changes after a cursor.
pub(crate) enum TailRead {
    /// It has them.
    Found(Stretch),
    /// The log has them; the tail begins later.
    Older,
    /// Nobody has them; this is the oldest cursor that is served.
    Compacted(Revision),
}

/// The newest commits.
#[derive(Debug)]
pub(crate) struct Tail {
    inner: Mutex<Inner>,
    bounds: Bounds,
}

#[derive(Debug)]
struct Inner {
    commits: VecDeque<Arc<[Change]>>,
    entries: usize,
    bytes: usize,
    /// Every commit after this revision is in `commits`.
    floor: Revision,
    newest: Revision,
    compacted: Revision,
}

impl Tail {
    /// An empty tail of a store at revision `newest`.
    pub(crate) fn new(newest: Revision, compacted: Revision, bounds: Bounds) -> Self {
        let commits = VecDeque::new();
        let inner = Inner { commits, entries: 0, bytes: 0, floor: newest, newest, compacted };
        Self { inner: Mutex::new(inner), bounds }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No method panics half-way through a change, so a poisoned lock still guards a whole value.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds the changes of the next revision, and drops the oldest ones beyond the bounds.
    pub(crate) fn push(&self, revision: Revision, changes: Arc<[Change]>) {
        let mut inner = self.lock();
        if revision != inner.newest.next() {
            // Somebody else wrote to the database; the log knows what.
            inner.forget_all();
            inner.floor = Revision(revision.0.saturating_sub(1));
        }
        inner.newest = revision;
        inner.entries += changes.len();
        inner.bytes += changes.iter().map(Change::bytes).sum::<usize>();
        inner.commits.push_back(changes);
        while inner.entries > self.bounds.tail_entries || inner.bytes > self.bounds.tail_bytes {
            if !inner.forget_oldest() {
                break;
            }
        }
    }

    /// Forgets everything up to and including this revision.
    pub(crate) fn compact(&self, through: Revision) {
        let mut inner = self.lock();
        inner.compacted = inner.compacted.max(through);
        while inner.floor < through && inner.forget_oldest() {}
        inner.floor = inner.floor.max(through);
    }

    /// The newest revision, and the oldest cursor that is served.
    pub(crate) fn ends(&self) -> (Revision, Revision) {
        let inner = self.lock();
        (inner.newest, inner.compacted)
    }

    /// What follows `cursor`.
    pub(crate) fn after(&self, prefix: &str, cursor: Revision) -> TailRead {
        let inner = self.lock();
        if cursor < inner.compacted {
            return TailRead::Compacted(inner.compacted);
        }
        if cursor < inner.floor {
            return TailRead::Older;
        }
        let skip = usize::try_from(cursor.0 - inner.floor.0).unwrap_or(usize::MAX);
        let mut stretch = Stretch::starting_at(cursor);
        for commit in inner.commits.iter().skip(skip) {
            stretch.push(select(commit, prefix), commit.first().map_or(cursor, |change| change.revision));
            if stretch.is_full() {
                break;
            }
        }
        TailRead::Found(stretch)
    }
}

impl Inner {
    fn forget_oldest(&mut self) -> bool {
        let Some(commit) = self.commits.pop_front() else { return false };
        self.entries -= commit.len();
        self.bytes -= commit.iter().map(Change::bytes).sum::<usize>();
        self.floor = self.floor.next();
        true
    }

    fn forget_all(&mut self) {
        self.commits.clear();
        self.entries = 0;
        self.bytes = 0;
    }
}
