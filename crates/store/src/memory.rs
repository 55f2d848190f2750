//! The store in memory: no threads, no timers, no disk; every call is complete within its first poll.
//!
//! A clone is the same store. A simulation keeps one across crashes of the controller that writes to it, as a disk
//! would be kept, and makes commits fail where a crash could cut them: before they are applied, or after.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use model::Revision;
use tokio::sync::watch;

use crate::Store;
use crate::change::{Change, History, Op, Position, history_size};
use crate::error::{CommitError, Fault, StoreError, WatchError};
use crate::object::{KeyRange, Listing, Object, Page, PageBuilder};
use crate::tail::Bounds;
use crate::txn::{Txn, Write};
use crate::watch::{ChangeLog, Stretch, Watch, select};

/// The memory backend.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    shared: Arc<Shared>,
}

/// Where an injected failure cuts a commit. Either way the caller sees the same error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommitFailure {
    /// Nothing is applied.
    BeforeApplying,
    /// All of it is applied.
    AfterApplying,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    newest: watch::Sender<Revision>,
}

#[derive(Debug, Default)]
struct State {
    objects: BTreeMap<String, Object>,
    log: BTreeMap<Revision, Vec<Change>>,
    log_entries: usize,
    bounds: Bounds,
    revision: Revision,
    compacted: Revision,
    failure: Option<CommitFailure>,
}

impl MemoryStore {
    /// An empty store with the usual bounds.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// An empty store with these bounds.
    #[must_use]
    pub fn with_bounds(bounds: Bounds) -> Self {
        let store = Self::default();
        store.shared.lock().bounds = bounds;
        store
    }

    /// Makes the next commit whose guards hold fail.
    pub fn fail_next_commit(&self, failure: CommitFailure) {
        self.shared.lock().failure = Some(failure);
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // No method panics half-way through a change, so a poisoned lock still guards a whole value.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn check_guards(&self, txn: &Txn) -> Result<(), CommitError> {
        for guard in &txn.guards {
            let found = self.objects.get(&guard.key).map(|object| object.revision);
            if !guard.expect.holds(found) {
                let (key, expected) = (guard.key.clone(), guard.expect);
                return Err(CommitError::Conflict { key, expected, found });
            }
        }
        Ok(())
    }

    fn apply(&mut self, txn: Txn) {
        let revision = self.revision.next();
        let mut changes = Vec::with_capacity(txn.writes.len());
        for write in txn.writes {
            let Some((key, op)) = self.write(write, revision) else { continue };
            let index = u32::try_from(changes.len()).unwrap_or(u32::MAX);
            changes.push(Change { revision, index, at: txn.at, key, op });
        }
        if changes.is_empty() {
            return;
        }
        self.revision = revision;
        self.log_entries += changes.len();
        self.log.insert(revision, changes);
        self.trim();
    }

    fn write(&mut self, write: Write, revision: Revision) -> Option<(String, Op)> {
        match write {
            Write::Put { key, value } => {
                let created = self.objects.get(&key).map_or(revision, |object| object.created);
                let object = Object { key: key.clone(), value: value.clone(), revision, created };
                self.objects.insert(key.clone(), object);
                Some((key, Op::Put { value, created }))
            }
            Write::Delete { key } => {
                let last = self.objects.remove(&key)?.value;
                Some((key, Op::Delete { last: Some(last) }))
            }
        }
    }

    /// Keeps the log within its bound.
    fn trim(&mut self) {
        let Some(excess) = self.bounds.excess(self.log_entries) else { return };
        let mut seen = 0;
        let through = self.log.iter().find_map(|(revision, changes)| {
            seen += changes.len();
            (seen >= excess).then_some(*revision)
        });
        self.compact(through.unwrap_or(self.revision));
    }

    fn compact(&mut self, through: Revision) {
        self.compacted = self.compacted.max(through.min(self.revision));
        let kept = self.log.split_off(&self.compacted.next());
        let dropped = std::mem::replace(&mut self.log, kept);
        self.log_entries -= dropped.values().map(Vec::len).sum::<usize>();
    }

    fn list(&self, prefix: &str, page: &Page) -> Listing {
        let mut built = PageBuilder::new(page);
        let Some(range) = KeyRange::of(prefix) else { return built.finish(self.revision, false) };
        let low = match &page.after {
            Some(after) if *after >= range.high => return built.finish(self.revision, false),
            Some(after) if *after >= range.low => Bound::Excluded(after.as_str()),
            Some(_) | None => Bound::Included(range.low.as_str()),
        };
        for (_, object) in self.objects.range::<str, _>((low, Bound::Excluded(range.high.as_str()))) {
            if !built.fits(object.value.len()) {
                return built.finish(self.revision, true);
            }
            built.push(object.clone());
        }
        built.finish(self.revision, false)
    }

    fn history(&self, prefix: &str, before: Option<Position>, limit: u32) -> History {
        let newest_first = self.log.values().rev().flat_map(|changes| changes.iter().rev());
        let mut matching = newest_first
            .filter(|change| before.is_none_or(|before| change.position() < before))
            .filter(|change| change.key.starts_with(prefix));
        let changes = matching.by_ref().take(history_size(limit)).cloned().collect();
        History { changes, more: matching.next().is_some() }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn get(&self, key: &str) -> Result<Option<Object>, StoreError> {
        Ok(self.shared.lock().objects.get(key).cloned())
    }

    async fn list(&self, prefix: &str, page: Page) -> Result<Listing, StoreError> {
        Ok(self.shared.lock().list(prefix, &page))
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, CommitError> {
        txn.check().map_err(CommitError::Refused)?;
        let writes = txn.writes.len();
        let mut state = self.shared.lock();
        state.check_guards(&txn)?;
        let failure = state.failure.take();
        if failure != Some(CommitFailure::BeforeApplying) {
            state.apply(txn);
        }
        let revision = state.revision;
        drop(state);
        self.shared.newest.send_replace(revision);
        if failure.is_some() {
            let source = Fault::Io(Arc::new(std::io::Error::other("failure injected by a test")));
            return Err(CommitError::Write { writes, source });
        }
        Ok(revision)
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, WatchError> {
        let state = self.shared.lock();
        if after < state.compacted {
            return Err(WatchError::Compacted { oldest: state.compacted });
        }
        if after > state.revision {
            return Err(WatchError::Ahead { newest: state.revision });
        }
        Ok(Watch::new(self.shared.clone(), self.shared.newest.subscribe(), prefix, after))
    }

    async fn history(
        &self,
        prefix: &str,
        before: Option<Position>,
        limit: u32,
    ) -> Result<History, StoreError> {
        Ok(self.shared.lock().history(prefix, before, limit))
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        self.shared.lock().compact(through);
        Ok(())
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(self.shared.lock().revision)
    }
}

#[async_trait]
impl ChangeLog for Shared {
    async fn read(&self, prefix: &str, cursor: Revision) -> Result<Stretch, WatchError> {
        let state = self.lock();
        if cursor < state.compacted {
            return Err(WatchError::Compacted { oldest: state.compacted });
        }
        let mut stretch = Stretch::starting_at(cursor);
        for (revision, changes) in state.log.range(cursor.next()..) {
            stretch.push(select(changes, prefix), *revision);
            if stretch.is_full() {
                break;
            }
        }
        Ok(stretch)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;

    fn txn(value: &str) -> Txn {
        Txn::new(Timestamp::UNIX_EPOCH).put("/a/x", value)
    }

    #[tokio::test]
    async fn a_commit_that_is_made_to_fail_is_applied_or_not_as_asked_and_the_next_one_is_unharmed() {
        let store = MemoryStore::new();
        for (failure, applied) in [(CommitFailure::BeforeApplying, 0), (CommitFailure::AfterApplying, 1)] {
            store.fail_next_commit(failure);
            assert!(matches!(store.commit(txn("1")).await, Err(CommitError::Write { writes: 1, .. })));
            assert_eq!(store.revision().await.unwrap(), Revision(applied));
        }
        assert_eq!(store.commit(txn("2")).await.unwrap(), Revision(2));
    }

    #[tokio::test]
    async fn a_clone_is_the_same_store() {
        let store = MemoryStore::new();
        let kept = store.clone();
        store.commit(txn("1")).await.unwrap();
        drop(store);
        assert_eq!(kept.revision().await.unwrap(), Revision(1));
    }

    #[test]
    fn every_call_is_complete_within_its_first_poll() {
        use std::pin::pin;
        use std::task::{Context, Poll, Waker};

        let mut context = Context::from_waker(Waker::noop());
        let store = MemoryStore::new();
        let commit = pin!(store.commit(txn("1"))).poll(&mut context);
        assert!(matches!(commit, Poll::Ready(Ok(Revision(1)))));
        let Poll::Ready(Ok(mut watch)) = pin!(store.watch("", Revision::ZERO)).poll(&mut context) else {
            panic!("a watch begins at once");
        };
        assert!(pin!(watch.next()).poll(&mut context).is_ready());
        assert!(pin!(watch.next()).poll(&mut context).is_pending());
    }
}
