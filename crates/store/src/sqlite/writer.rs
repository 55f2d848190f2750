//! The writer thread: gathers waiting transactions into a batch, and makes each batch durable with one commit.
//!
//! ```text
//! wait ─▶ gather ─▶ BEGIN ─▶ check and apply each ─▶ trim a step of the log ─▶ COMMIT ─▶ publish ─▶ reply
//!  ▲                                   any error: ROLLBACK, the whole batch fails ─────────────────┘
//!  └ with forgotten rows left, a step of deleting them instead of waiting
//! ```
//!
//! *Guarantees*: a transaction whose guards fail leaves the rest of its batch alone; a COMMIT that fails is reported
//! to everybody in the batch and never tried again, because after a failed fsync nobody knows what the disk holds.

use std::sync::Arc;

use model::Revision;
use rusqlite::{Connection, OptionalExtension as _};
use tokio::sync::{mpsc, oneshot, watch};

use super::fault::fault;
use super::queries::{DELETE, PUT};
use super::schema::{Log, ends, from_sql, to_sql};
use super::{Shared, legacy};
use crate::change::{Change, Op};
use crate::error::{CommitError, Fault};
use crate::tail::Bounds;
use crate::txn::{MAX_TXN_BYTES, Txn, Write};

/// Transactions in one batch: enough to share an fsync widely, few enough that the last one does not wait long.
const BATCH_TXNS: usize = 512;

/// Bytes in one batch, exceeded by one transaction at most.
const BATCH_BYTES: usize = MAX_TXN_BYTES;

const FOUND: &str = "SELECT revision FROM element WHERE element_id = ?1";
const PUT_ELEMENT: &str = "INSERT INTO element (element_id, element_type, revision, create_revision, value)
    VALUES (?1, ?2, ?3, ?3, ?4)
    ON CONFLICT (element_id) DO UPDATE SET revision = excluded.revision, value = excluded.value
    RETURNING create_revision";
const DELETE_ELEMENT: &str = "DELETE FROM element WHERE element_id = ?1 RETURNING value";
const ADD_EVENT: &str = "INSERT INTO event (revision, position, at, op, element_id, create_revision, value)
    VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7)";
const NTH_OLDEST: &str = "SELECT revision FROM event ORDER BY revision, position LIMIT 1 OFFSET ?1";
const SET_COMPACTED: &str = "UPDATE meta SET value = ?1 WHERE name = 'compacted'";
const DELETE_OLDEST: &str = "DELETE FROM event WHERE rowid IN (SELECT rowid FROM event
    WHERE revision <= ?1 ORDER BY revision, position LIMIT ?2)";

/// What the writer is asked for.
pub(super) enum Request {
    Commit { txn: Txn, reply: oneshot::Sender<Result<Revision, CommitError>> },
    Compact { through: Revision, reply: oneshot::Sender<Result<(), Fault>> },
    FinishImport { reply: oneshot::Sender<Result<(), Fault>> },
}

/// What became of one transaction of a batch.
enum Outcome {
    Applied(Revision, Arc<[Change]>),
    /// It had nothing to change.
    Unchanged(Revision),
    Refused(CommitError),
}

/// Owner of the writing connection.
pub(super) struct Writer {
    connection: Connection,
    log: Log,
    bounds: Bounds,
    shared: Arc<Shared>,
    newest: watch::Sender<Revision>,
}

#[derive(Default)]
struct Batch {
    txns: Vec<Txn>,
    replies: Vec<oneshot::Sender<Result<Revision, CommitError>>>,
    bytes: usize,
}

impl Batch {
    fn push(&mut self, txn: Txn, reply: oneshot::Sender<Result<Revision, CommitError>>) {
        self.bytes += txn.bytes();
        self.txns.push(txn);
        self.replies.push(reply);
    }

    fn is_full(&self) -> bool {
        self.txns.len() >= BATCH_TXNS || self.bytes >= BATCH_BYTES
    }
}

impl Writer {
    pub(super) fn new(
        connection: Connection,
        log: Log,
        bounds: Bounds,
        shared: Arc<Shared>,
        newest: watch::Sender<Revision>,
    ) -> Self {
        Self { connection, log, bounds, shared, newest }
    }

    /// Works until every sender is gone and the queue is empty.
    pub(super) fn run(mut self, mut queue: mpsc::Receiver<Request>) {
        let mut left_over = None;
        while let Some(request) = left_over.take().or_else(|| self.wait(&mut queue)) {
            match request {
                Request::Commit { txn, reply } => {
                    let mut batch = Batch::default();
                    batch.push(txn, reply);
                    left_over = gather(&mut batch, &mut queue);
                    self.commit(batch);
                }
                // Nobody may be waiting for an answer any more.
                Request::Compact { through, reply } => drop(reply.send(self.compact(through))),
                Request::FinishImport { reply } => {
                    drop(reply.send(legacy::finish(&self.connection).map_err(fault)));
                }
            }
        }
        // The readers go first, so that closing this last connection also tidies up the write-ahead log.
        self.shared.readers.close();
    }

    /// The next request. While there are none, deletes what is forgotten, then sleeps.
    fn wait(&mut self, queue: &mut mpsc::Receiver<Request>) -> Option<Request> {
        while self.log.backlog {
            match queue.try_recv() {
                Ok(request) => return Some(request),
                Err(mpsc::error::TryRecvError::Disconnected) => return None,
                Err(mpsc::error::TryRecvError::Empty) => {}
            }
            let step = self.transaction(|writer, log| writer.delete_forgotten(log));
            if step.is_err() {
                // Forgotten rows harm nobody; the next commit tries again.
                self.log.backlog = false;
            }
        }
        queue.blocking_recv()
    }

    fn commit(&mut self, batch: Batch) {
        let Batch { txns, replies, .. } = batch;
        let done = self.transaction(|writer, log| writer.apply_all(&txns, log));
        match done {
            Ok(outcomes) => {
                self.publish(&outcomes);
                for (reply, outcome) in replies.into_iter().zip(outcomes) {
                    let answer = match outcome {
                        Outcome::Applied(revision, _) | Outcome::Unchanged(revision) => Ok(revision),
                        Outcome::Refused(error) => Err(error),
                    };
                    drop(reply.send(answer));
                }
            }
            Err(source) => {
                for (reply, txn) in replies.into_iter().zip(txns) {
                    let error = CommitError::Write { writes: txn.writes.len(), source: source.clone() };
                    drop(reply.send(Err(error)));
                }
            }
        }
    }

    /// Runs `work` in one durable transaction; the log's new standing counts only once that is committed.
    fn transaction<T>(
        &mut self,
        work: impl FnOnce(&Self, &mut Log) -> rusqlite::Result<T>,
    ) -> Result<T, Fault> {
        let mut log = self.log;
        let done = self.connection.execute_batch("BEGIN IMMEDIATE").and_then(|()| {
            let done = work(self, &mut log)?;
            self.connection.execute_batch("COMMIT")?;
            Ok(done)
        });
        match done {
            Ok(done) => {
                self.log = log;
                Ok(done)
            }
            Err(error) => {
                if !self.connection.is_autocommit() {
                    // It is given up either way: a transaction that stays open fails the next BEGIN, and says so.
                    let _ended = self.connection.execute_batch("ROLLBACK");
                }
                Err(fault(error))
            }
        }
    }

    fn apply_all(&self, txns: &[Txn], log: &mut Log) -> rusqlite::Result<Vec<Outcome>> {
        // Read anew, in case somebody else wrote to the file.
        let (newest, compacted) = ends(&self.connection)?;
        log.newest = log.newest.max(newest);
        log.compacted = log.compacted.max(compacted);
        let mut outcomes = Vec::with_capacity(txns.len());
        for txn in txns {
            let outcome = self.apply(txn, log.newest)?;
            if let Outcome::Applied(revision, changes) = &outcome {
                log.newest = *revision;
                log.entries += changes.len();
            }
            outcomes.push(outcome);
        }
        self.bound_log(log)?;
        Ok(outcomes)
    }

    fn apply(&self, txn: &Txn, newest: Revision) -> rusqlite::Result<Outcome> {
        for guard in &txn.guards {
            let mut statement = self.connection.prepare_cached(FOUND)?;
            let found: Option<i64> = statement.query_row([&guard.key], |row| row.get(0)).optional()?;
            let found = found.map(from_sql);
            if !guard.expect.holds(found) {
                let (key, expected) = (guard.key.clone(), guard.expect);
                return Ok(Outcome::Refused(CommitError::Conflict { key, expected, found }));
            }
        }
        let revision = newest.next();
        let at = txn.at.to_string();
        let mut changes = Vec::with_capacity(txn.writes.len());
        for write in &txn.writes {
            let Some(op) = self.write(write, revision)? else { continue };
            let index = u32::try_from(changes.len()).unwrap_or(u32::MAX);
            let change = Change { revision, index, at: txn.at, key: write.key().to_owned(), op };
            self.add_event(&change, &at)?;
            changes.push(change);
        }
        if changes.is_empty() {
            return Ok(Outcome::Unchanged(newest));
        }
        Ok(Outcome::Applied(revision, changes.into()))
    }

    fn write(&self, write: &Write, revision: Revision) -> rusqlite::Result<Option<Op>> {
        match write {
            Write::Put { key, value } => {
                let mut statement = self.connection.prepare_cached(PUT_ELEMENT)?;
                let row = (key, element_type(key), to_sql(revision), &**value);
                let created = from_sql(statement.query_row(row, |row| row.get(0))?);
                Ok(Some(Op::Put { value: Arc::clone(value), created }))
            }
            Write::Delete { key } => {
                let mut statement = self.connection.prepare_cached(DELETE_ELEMENT)?;
                let last: Option<Arc<str>> = statement.query_row([key], |row| row.get(0)).optional()?;
                Ok(last.map(|last| Op::Delete { last: Some(last) }))
            }
        }
    }

    fn add_event(&self, change: &Change, at: &str) -> rusqlite::Result<()> {
        let (op, created, value) = match &change.op {
            Op::Put { value, created } => (PUT, Some(to_sql(*created)), Some(&**value)),
            Op::Delete { last } => (DELETE, None, last.as_deref()),
        };
        let row = (to_sql(change.revision), change.index, at, op, &change.key, created, value);
        self.connection.prepare_cached(ADD_EVENT)?.execute(row).map(|_rows| ())
    }

    /// Forgets the oldest entries once the log is too long, and deletes a step of what is forgotten.
    fn bound_log(&self, log: &mut Log) -> rusqlite::Result<()> {
        if !log.backlog
            && let Some(excess) = self.bounds.excess(log.entries)
        {
            let offset = i64::try_from(excess - 1).unwrap_or(i64::MAX);
            let through: Option<i64> = self
                .connection
                .prepare_cached(NTH_OLDEST)?
                .query_row([offset], |row| row.get(0))
                .optional()?;
            self.forget(log, through.map_or(log.newest, from_sql))?;
        }
        if log.backlog { self.delete_forgotten(log) } else { Ok(()) }
    }

    fn forget(&self, log: &mut Log, through: Revision) -> rusqlite::Result<()> {
        let through = through.min(log.newest);
        if through > log.compacted {
            self.connection.prepare_cached(SET_COMPACTED)?.execute([to_sql(through)])?;
            log.compacted = through;
            log.backlog = true;
        }
        Ok(())
    }

    /// One small step, so that a commit that comes meanwhile does not wait for long.
    fn delete_forgotten(&self, log: &mut Log) -> rusqlite::Result<()> {
        let step = self.bounds.trim_step();
        let limit = i64::try_from(step).unwrap_or(i64::MAX);
        let mut statement = self.connection.prepare_cached(DELETE_OLDEST)?;
        let deleted = statement.execute((to_sql(log.compacted), limit))?;
        log.entries = log.entries.saturating_sub(deleted);
        log.backlog = deleted == step;
        Ok(())
    }

    fn compact(&mut self, through: Revision) -> Result<(), Fault> {
        self.transaction(|writer, log| writer.forget(log, through))?;
        self.shared.tail.compact(self.log.compacted);
        Ok(())
    }

    /// Shows a durable batch to the watchers.
    fn publish(&self, outcomes: &[Outcome]) {
        for outcome in outcomes {
            if let Outcome::Applied(revision, changes) = outcome {
                self.shared.tail.push(*revision, Arc::clone(changes));
            }
        }
        self.shared.tail.compact(self.log.compacted);
        self.newest.send_if_modified(|shown| std::mem::replace(shown, self.log.newest) != self.log.newest);
    }
}

/// Adds what waits in the queue, until the batch is full; returns the first request that is not a commit.
fn gather(batch: &mut Batch, queue: &mut mpsc::Receiver<Request>) -> Option<Request> {
    while !batch.is_full() {
        match queue.try_recv() {
            Ok(Request::Commit { txn, reply }) => batch.push(txn, reply),
            Ok(other) => return Some(other),
            Err(_) => return None,
        }
    }
    None
}

/// The first segment of a key, with its slash: `/workload` of `/workload/pods/default/web`.
fn element_type(key: &str) -> &str {
    let end = key.char_indices().skip(1).find(|(_, character)| *character == '/').map(|(at, _)| at);
    end.map_or(key, |end| &key[..end])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::SqliteStore;
    use crate::sqlite::readers::Readers;
    use crate::sqlite::schema;
    use crate::tail::Tail;
    use jiff::Timestamp;
    use std::path::Path;

    /// The writer of a new database that may grow by no more than these pages.
    fn writer(dir: &Path, pages: i64) -> Writer {
        drop(SqliteStore::open(dir).unwrap());
        let file = dir.join("rik.db");
        let connection = schema::open_writer(&file).unwrap();
        let now: i64 = connection.query_row("PRAGMA page_count", [], |row| row.get(0)).unwrap();
        connection.query_row(&format!("PRAGMA max_page_count = {}", now + pages), [], |_row| Ok(())).unwrap();
        let log = schema::survey(&connection).unwrap();
        let tail = Tail::new(log.newest, log.compacted, Bounds::default());
        let shared = Arc::new(Shared { tail, readers: Readers::new(file) });
        Writer::new(connection, log, Bounds::default(), shared, watch::channel(log.newest).0)
    }

    /// Commits these values as one batch.
    fn commit(writer: &mut Writer, values: &[usize]) -> Vec<Result<Revision, CommitError>> {
        let mut batch = Batch::default();
        let mut answers = Vec::new();
        for (n, bytes) in values.iter().enumerate() {
            let (reply, answer) = oneshot::channel();
            batch.push(Txn::new(Timestamp::UNIX_EPOCH).put(format!("/a/{n}"), "x".repeat(*bytes)), reply);
            answers.push(answer);
        }
        writer.commit(batch);
        answers.iter_mut().map(|answer| answer.try_recv().unwrap()).collect()
    }

    #[test]
    fn a_batch_that_does_not_fit_on_the_disk_fails_whole_and_the_next_one_that_fits_succeeds() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path(), 20);
        for outcome in commit(&mut writer, &[10, 500_000, 10]) {
            let Err(CommitError::Write { source, .. }) = outcome else { panic!("{outcome:?}") };
            assert!(matches!(source, Fault::Full(_)) && source.is_transient(), "{source}");
        }
        assert_eq!(ends(&writer.connection).unwrap().0, Revision::ZERO);
        assert_eq!(writer.shared.tail.ends().0, Revision::ZERO);
        let answers = commit(&mut writer, &[10, 10]);
        assert!(matches!(answers[..], [Ok(Revision(1)), Ok(Revision(2))]), "{answers:?}");
    }

    #[test]
    fn a_database_that_may_not_be_written_fails_commits_and_still_reads() {
        let dir = tempfile::tempdir().unwrap();
        let mut writer = writer(dir.path(), 20);
        writer.connection.pragma_update(None, "query_only", true).unwrap();
        let outcome = commit(&mut writer, &[10]).remove(0);
        assert!(matches!(outcome, Err(CommitError::Write { source: Fault::ReadOnly(_), .. })), "{outcome:?}");
        assert_eq!(ends(&writer.connection).unwrap().0, Revision::ZERO);
    }

    #[test]
    fn a_batch_takes_no_more_than_its_bound() {
        let (sender, mut queue) = mpsc::channel(BATCH_TXNS + 10);
        for _ in 0..BATCH_TXNS + 10 {
            let request =
                Request::Commit { txn: Txn::new(Timestamp::UNIX_EPOCH), reply: oneshot::channel().0 };
            assert!(sender.try_send(request).is_ok());
        }
        let mut batch = Batch::default();
        assert!(gather(&mut batch, &mut queue).is_none());
        assert_eq!((batch.txns.len(), queue.len()), (BATCH_TXNS, 10));
    }

    #[test]
    fn the_type_of_an_element_is_the_first_segment_of_its_key() {
        assert_eq!(element_type("/workload/pods/default/web"), "/workload");
        assert_eq!(element_type("/node"), "/node");
        assert_eq!(element_type("//x"), "/");
    }
}
