//! What can go wrong, by operation, and the faults of a backend beneath.

use std::error::Error;
use std::sync::Arc;

use model::Revision;

use crate::txn::{Expect, TxnFault};

/// The source of a fault. Shared, because one failed disk write fails every transaction that waited for it.
type Source = Arc<dyn Error + Send + Sync>;

/// A backend that could not do its work.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Fault {
    /// Another program holds the database. Trying again later helps.
    #[error("the database is locked by another program")]
    Busy(#[source] Source),
    /// The disk is full. Trying again helps once there is space.
    #[error("no space is left on the device of the database")]
    Full(#[source] Source),
    /// The database may not be written.
    #[error("the database is read-only")]
    ReadOnly(#[source] Source),
    /// The database does not hold what it should.
    #[error("the database is damaged")]
    Damaged(#[source] Source),
    /// Reading or writing the disk failed.
    #[error("the database could not be read or written")]
    Io(#[source] Source),
    /// The store was closed, or its writer is gone.
    #[error("the store is closed")]
    Closed,
}

impl Fault {
    /// Whether the same call may succeed later without anything being repaired.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        matches!(self, Self::Busy(_) | Self::Full(_))
    }
}

/// Reading or maintaining the store failed.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// Reading an object.
    #[error("read {key} from the store")]
    Get {
        /// The key.
        key: String,
        /// Why.
        #[source]
        source: Fault,
    },
    /// Reading a page of objects.
    #[error("list {prefix:?} from the store")]
    List {
        /// The prefix.
        prefix: String,
        /// Why.
        #[source]
        source: Fault,
    },
    /// Reading the log.
    #[error("read the log of the store")]
    History(#[source] Fault),
    /// Forgetting part of the log.
    #[error("compact the log of the store through revision {through}")]
    Compact {
        /// The revision.
        through: Revision,
        /// Why.
        #[source]
        source: Fault,
    },
    /// Reading the newest revision.
    #[error("read the revision of the store")]
    Revision(#[source] Fault),
    /// Putting the imported table of 2023 aside.
    #[error("put the imported table of 2023 aside")]
    FinishImport(#[source] Fault),
}

impl StoreError {
    /// What the backend met.
    #[must_use]
    pub const fn fault(&self) -> &Fault {
        match self {
            Self::Get { source, .. } | Self::List { source, .. } | Self::Compact { source, .. } => source,
            Self::History(source) | Self::Revision(source) | Self::FinishImport(source) => source,
        }
    }
}

/// A transaction was not applied.
#[derive(Clone, Debug, thiserror::Error)]
pub enum CommitError {
    /// A guard did not hold. Nothing was written.
    #[error("find {expected} at {key}: {}", .found.map_or_else(|| "there is none".to_owned(), |at| format!("it is at revision {at}")))]
    Conflict {
        /// The key of the first guard that failed.
        key: String,
        /// What it expected.
        expected: Expect,
        /// The revision of the object that is there, if any.
        found: Option<Revision>,
    },
    /// The transaction breaks a bound. Nothing was written.
    #[error("accept the transaction")]
    Refused(#[source] TxnFault),
    /// The backend failed. No reader sees the transaction; if the process dies before the next commit, it may yet be
    /// there afterwards, whole.
    #[error("commit {writes} writes to the store")]
    Write {
        /// How many writes the transaction had.
        writes: usize,
        /// Why.
        #[source]
        source: Fault,
    },
}

/// A watch cannot go on.
#[derive(Clone, Debug, thiserror::Error)]
pub enum WatchError {
    /// The log no longer reaches back so far. List again, then watch from there.
    #[error("watch from a revision that was compacted: the oldest possible is {oldest}")]
    Compacted {
        /// The oldest revision that one can still watch after.
        oldest: Revision,
    },
    /// The store has not come so far: it is not the one that the revision is from, or an older backup of it.
    #[error("watch from a revision that does not exist yet: the newest is {newest}")]
    Ahead {
        /// The newest revision.
        newest: Revision,
    },
    /// The backend failed.
    #[error("read changes from the store")]
    Read(#[source] Fault),
}
