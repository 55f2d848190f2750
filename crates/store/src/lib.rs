//! The store: revisioned objects behind one interface, with SQLite and memory backends.
//!
//! An object is a key and a JSON text. Every transaction that changes something takes the next revision; its changes
//! go to the objects and to a bounded log at once, durably, or nowhere. Whoever follows the store lists first and then
//! watches from the revision of its first page. The semantics are etcd's, so that etcd fits behind the same trait.
//!
//! ```text
//! commit ─▶ guards hold? ─▶ objects + log at revision n+1 ─▶ durable ─▶ reply
//!                                             └▶ watchers: the log first, then live
//! ```
//!
//! *Guarantees*, each held by the conformance suite for every backend:
//! - a transaction is applied whole, or not at all; revisions have no gaps;
//! - what was acknowledged is there after any crash;
//! - a reader sees a commit as soon as the committer does;
//! - a watch misses nothing, repeats nothing and never slows a writer; if it asks for what the log has already
//!   forgotten, it is told so.
//!
//! *Not here*: what the JSON says. The controller owns the meaning of keys and values.

mod change;
mod error;
mod memory;
mod object;
mod sqlite;
mod tail;
mod txn;
mod watch;

use async_trait::async_trait;
use model::Revision;

pub use change::{Change, History, MAX_HISTORY, Op, Position};
pub use error::{CommitError, Fault, StoreError, WatchError};
pub use memory::{CommitFailure, MemoryStore};
pub use object::{Listing, MAX_PAGE, MAX_PAGE_BYTES, Object, Page};
pub use sqlite::{LegacyRow, OpenError, Opened, SqliteStore};
pub use tail::Bounds;
pub use txn::{
    Expect, Guard, MAX_KEY_BYTES, MAX_TXN_BYTES, MAX_TXN_OPS, MAX_VALUE_BYTES, Txn, TxnFault, Write,
};
pub use watch::Watch;

/// Revisioned objects with transactions, a change log and watches.
///
/// Prefixes are compared literally, byte by byte; the empty prefix means every key. A call that is dropped half-way
/// leaves the store whole; a dropped `commit` may still be applied.
#[async_trait]
pub trait Store: Send + Sync + 'static {
    /// The object of this key, if there is one.
    async fn get(&self, key: &str) -> Result<Option<Object>, StoreError>;

    /// One page of the objects whose key starts with `prefix`, ordered by key.
    ///
    /// An object that exists all the time while its pages are read is seen exactly once. To mirror a prefix: read all
    /// pages, then watch after the revision of the *first* one, and let changes overwrite what the pages said.
    async fn list(&self, prefix: &str, page: Page) -> Result<Listing, StoreError>;

    /// Applies all writes at one new revision if every guard holds; returns that revision once it is durable.
    ///
    /// Deleting a key that does not exist changes nothing. A transaction that changes nothing takes no revision and
    /// returns the newest one.
    async fn commit(&self, txn: Txn) -> Result<Revision, CommitError>;

    /// Every change after `after` to keys that start with `prefix`: first from the log, then live.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<Watch, WatchError>;

    /// The log, newest first, strictly before `before` (`None`: from the newest), of keys that start with `prefix`,
    /// at most `limit` entries (at most [`MAX_HISTORY`]).
    async fn history(
        &self,
        prefix: &str,
        before: Option<Position>,
        limit: u32,
    ) -> Result<History, StoreError>;

    /// Forgets the log up to and including this revision; objects stay. A revision beyond the newest means the newest.
    async fn compact(&self, through: Revision) -> Result<(), StoreError>;

    /// The newest revision.
    async fn revision(&self) -> Result<Revision, StoreError>;
}
