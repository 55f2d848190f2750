//! Read-only connections: one for point reads on the spot, a few for everything longer.
//!
//! A point read is a handful of cached pages, cheaper than the hop to another thread. It gives way at once: if the
//! connection is taken or the file is locked, the read goes the long way.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::Connection;
use tokio::sync::Semaphore;

use super::fault::fault;
use super::schema::open_reader;
use crate::error::Fault;

/// Long reads at the same time: they are bound by the processor, and each keeps a page cache of 2 MiB.
const READERS: usize = 4;

/// The connections of one database.
#[derive(Debug)]
pub(super) struct Readers {
    permits: Arc<Semaphore>,
    pool: Arc<Pool>,
    quick: Mutex<Option<Connection>>,
}

#[derive(Debug)]
struct Pool {
    file: PathBuf,
    /// Connections that nobody uses; `None` once closed.
    idle: Mutex<Option<Vec<Connection>>>,
}

impl Readers {
    pub(super) fn new(file: PathBuf) -> Self {
        let pool = Arc::new(Pool { file, idle: Mutex::new(Some(Vec::new())) });
        Self { permits: Arc::new(Semaphore::new(READERS)), pool, quick: Mutex::new(None) }
    }

    /// Runs a point read here and now, or returns `None` if it would have to wait or fails.
    pub(super) fn quick<T>(&self, query: impl FnOnce(&Connection) -> rusqlite::Result<T>) -> Option<T> {
        let mut quick = self.quick.try_lock().ok()?;
        if quick.is_none() {
            let connection = self.pool.take().ok()?;
            connection.busy_timeout(Duration::ZERO).ok()?;
            *quick = Some(connection);
        }
        let found = query(quick.as_ref()?);
        if found.is_err() {
            *quick = None;
        }
        found.ok()
    }

    /// Runs a read off the async threads.
    pub(super) async fn read<T, Q>(&self, query: Q) -> Result<T, Fault>
    where
        T: Send + 'static,
        Q: FnOnce(&Connection) -> rusqlite::Result<T> + Send + 'static,
    {
        let permit = Arc::clone(&self.permits).acquire_owned().await.map_err(|_closed| Fault::Closed)?;
        let pool = Arc::clone(&self.pool);
        let read = tokio::task::spawn_blocking(move || {
            let connection = pool.take()?;
            let answer = query(&connection).map_err(fault)?;
            // After a failure the connection is dropped instead: the next read gets a fresh one.
            pool.put_back(connection);
            drop(permit);
            Ok(answer)
        });
        read.await.unwrap_or(Err(Fault::Closed))
    }

    /// Closes what is idle, and refuses further reads.
    pub(super) fn close(&self) {
        self.permits.close();
        *self.pool.idle.lock().unwrap_or_else(PoisonError::into_inner) = None;
        *self.quick.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}

impl Pool {
    fn take(&self) -> Result<Connection, Fault> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).as_mut().map(Vec::pop);
        match idle {
            Some(Some(connection)) => Ok(connection),
            Some(None) => open_reader(&self.file).map_err(fault),
            None => Err(Fault::Closed),
        }
    }

    fn put_back(&self, connection: Connection) {
        if let Some(idle) = self.idle.lock().unwrap_or_else(PoisonError::into_inner).as_mut() {
            idle.push(connection);
        }
    }
}
