//! The SQLite backend: one file `rik.db`, one writer thread, readers beside it.
//!
//! ```text
//! commit ─▶ queue ─▶ writer thread: BEGIN, a batch of transactions, COMMIT (fsync) ─▶ tail, watchers ─▶ replies
//! get, list, history, a watch that is behind ─▶ read-only connections, off the async threads
//! ```
//!
//! *Guarantees*: a reply follows the durable commit of its batch, and a batch whose commit failed fails whole; nothing
//! is tried again behind the caller's back. Nothing is written while nothing is asked. One process at a time.
//!
//! *Assumptions*: other programs may read the file at any time (`sqlite3 rik.db 'SELECT * FROM element'`); whoever
//! writes to it does so while no RIK runs.

mod fault;
mod legacy;
mod lock;
mod open;
mod queries;
mod readers;
mod schema;
mod wal;
mod writer;

use std::path::Path;
use std::sync::Arc;
use std::thread::JoinHandle;

use async_trait::async_trait;
use model::Revision;
use tokio::sync::{mpsc, oneshot, watch};

use crate::Store;
use crate::change::{History, Position, history_size};
use crate::error::{CommitError, Fault, StoreError, WatchError};
use crate::object::{KeyRange, Listing, Object, Page, PageBuilder};
use crate::tail::{Bounds, Tail, TailRead};
use crate::txn::Txn;
use crate::watch::{ChangeLog, Stretch, Watch};
use readers::Readers;
use writer::{Request, Writer};

pub use legacy::LegacyRow;
pub use open::OpenError;

/// Requests that wait for the writer: two batches, so that the next one is full when the disk is done with this one.
const WRITE_QUEUE: usize = 1_024;

/// The SQLite backend. Dropping it finishes what was queued, closes the file and releases its lock.
#[derive(Debug)]
pub struct SqliteStore {
    requests: Option<mpsc::Sender<Request>>,
    writer: Option<JoinHandle<()>>,
    shared: Arc<Shared>,
    newest: watch::Receiver<Revision>,
}

/// A store that was opened, and what is to be converted first.
#[derive(Debug)]
pub struct Opened {
    /// The store.
    pub store: SqliteStore,
    /// Rows of RIK 2023, until [`SqliteStore::finish_legacy_import`]. Converting them must bear repetition: a crash
    /// between the two offers them again.
    pub legacy: Vec<LegacyRow>,
}

/// What watches need, and what outlives no writer.
#[derive(Debug)]
struct Shared {
    tail: Tail,
    readers: Readers,
}

impl SqliteStore {
    /// Opens `rik.db` in this directory, which is made if it is not there. Blocks while the file is checked: about a
    /// second for each gigabyte.
    ///
    /// # Errors
    /// [`OpenError`] says which file, what is wrong with it and what to do. A database that existed and cannot be used
    /// is never replaced by an empty one.
    pub fn open(dir: &Path) -> Result<Opened, OpenError> {
        Self::open_with(dir, Bounds::default())
    }

    /// Like [`SqliteStore::open`], with other bounds on the past that is kept.
    ///
    /// # Errors
    /// As `open`.
    pub fn open_with(dir: &Path, bounds: Bounds) -> Result<Opened, OpenError> {
        let database = open::open(dir)?;
        let log = database.log;
        let readers = Readers::new(database.file.clone());
        let shared = Arc::new(Shared { tail: Tail::new(log.newest, log.compacted, bounds), readers });
        let (requests, queue) = mpsc::channel(WRITE_QUEUE);
        let (sender, newest) = watch::channel(log.newest);
        let writer = Writer::new(database.connection, log, bounds, Arc::clone(&shared), sender);
        let lock = database.lock;
        let thread = std::thread::Builder::new().name("rik-store".into());
        let writer = thread.spawn(move || {
            writer.run(queue);
            drop(lock);
        });
        let writer = Some(writer.map_err(OpenError::SpawnWriter)?);
        let store = Self { requests: Some(requests), writer, shared, newest };
        Ok(Opened { store, legacy: database.legacy })
    }

    /// Puts the table of RIK 2023 aside (it stays in the file as `cluster_2023`), once its rows were committed in
    /// their new form. Nothing happens if there is no such table.
    ///
    /// # Errors
    /// [`StoreError::FinishImport`] if the file could not be written.
    pub async fn finish_legacy_import(&self) -> Result<(), StoreError> {
        let (reply, answer) = oneshot::channel();
        self.send(Request::FinishImport { reply }).await.map_err(StoreError::FinishImport)?;
        answer.await.unwrap_or(Err(Fault::Closed)).map_err(StoreError::FinishImport)
    }

    async fn send(&self, request: Request) -> Result<(), Fault> {
        let Some(requests) = &self.requests else { return Err(Fault::Closed) };
        requests.send(request).await.map_err(|_closed| Fault::Closed)
    }
}

impl Drop for SqliteStore {
    fn drop(&mut self) {
        drop(self.requests.take());
        if let Some(writer) = self.writer.take() {
            // A writer that panicked has answered nobody; there is nothing left to tell.
            let _ended = writer.join();
        }
    }
}

#[async_trait]
impl Store for SqliteStore {
    async fn get(&self, key: &str) -> Result<Option<Object>, StoreError> {
        let found = match self.shared.readers.quick(|connection| queries::object(connection, key)) {
            Some(found) => Ok(found),
            None => {
                let owned = key.to_owned();
                self.shared.readers.read(move |connection| queries::object(connection, &owned)).await
            }
        };
        found.map_err(|source| StoreError::Get { key: key.to_owned(), source })
    }

    async fn list(&self, prefix: &str, page: Page) -> Result<Listing, StoreError> {
        let Some(range) = KeyRange::of(prefix) else {
            return Ok(PageBuilder::new(&page).finish(*self.newest.borrow(), false));
        };
        let listing = self.shared.readers.read(move |connection| queries::page(connection, &range, &page));
        listing.await.map_err(|source| StoreError::List { prefix: prefix.to_owned(), source })
    }

    async fn commit(&self, txn: Txn) -> Result<Revision, CommitError> {
        txn.check().map_err(CommitError::Refused)?;
        let writes = txn.writes.len();
        let failed = |source| CommitError::Write { writes, source };
        let (reply, answer) = oneshot::channel();
        self.send(Request::Commit { txn, reply }).await.map_err(failed)?;
        answer.await.unwrap_or_else(|_gone| Err(failed(Fault::Closed)))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, WatchError> {
        let (newest, oldest) = self.shared.tail.ends();
        if after < oldest {
            return Err(WatchError::Compacted { oldest });
        }
        if after > newest {
            return Err(WatchError::Ahead { newest });
        }
        let log: Arc<dyn ChangeLog> = self.shared.clone();
        Ok(Watch::new(log, self.newest.clone(), prefix, after))
    }

    async fn history(
        &self,
        prefix: &str,
        before: Option<Position>,
        limit: u32,
    ) -> Result<History, StoreError> {
        let Some(range) = KeyRange::of(prefix) else {
            return Ok(History { changes: Vec::new(), more: false });
        };
        let size = history_size(limit);
        let history =
            self.shared.readers.read(move |connection| queries::history(connection, &range, before, size));
        history.await.map_err(StoreError::History)
    }

    async fn compact(&self, through: Revision) -> Result<(), StoreError> {
        let failed = |source| StoreError::Compact { through, source };
        let (reply, answer) = oneshot::channel();
        self.send(Request::Compact { through, reply }).await.map_err(failed)?;
        answer.await.unwrap_or(Err(Fault::Closed)).map_err(failed)
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        Ok(*self.newest.borrow())
    }
}

#[async_trait]
impl ChangeLog for Shared {
    async fn read(&self, prefix: &str, cursor: Revision) -> Result<Stretch, WatchError> {
        match self.tail.after(prefix, cursor) {
            TailRead::Found(stretch) => return Ok(stretch),
            TailRead::Compacted(oldest) => return Err(WatchError::Compacted { oldest }),
            TailRead::Older => {}
        }
        let prefix = prefix.to_owned();
        let read = self.readers.read(move |connection| queries::changes(connection, &prefix, cursor)).await;
        match read.map_err(WatchError::Read)? {
            queries::Changes::Found(stretch) => Ok(stretch),
            queries::Changes::Compacted(oldest) => Err(WatchError::Compacted { oldest }),
        }
    }
}
