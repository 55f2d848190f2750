//! The log: what each revision changed.

use std::sync::Arc;

use jiff::Timestamp;
use model::Revision;

/// Entries in one answer of `history` at most, as with pages of objects.
pub const MAX_HISTORY: u32 = 1_000;

/// One change to one object: an entry of the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// The revision that made it.
    pub revision: Revision,
    /// Its place among the changes of that revision, from 0.
    pub index: u32,
    /// When the writer says that it happened.
    pub at: Timestamp,
    /// The key that changed.
    pub key: String,
    /// What happened to it.
    pub op: Op,
}

impl Change {
    /// Where the change stands in the log.
    #[must_use]
    pub const fn position(&self) -> Position {
        Position { revision: self.revision, index: self.index }
    }

    /// Bytes of its key and value, for bounds in bytes.
    pub(crate) fn bytes(&self) -> usize {
        let value = match &self.op {
            Op::Put { value, .. } => value.len(),
            Op::Delete { last } => last.as_ref().map_or(0, |value| value.len()),
        };
        self.key.len() + value
    }
}

/// What happened to an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Op {
    /// It was created or replaced.
    Put {
        /// The value since then.
        value: Arc<str>,
        /// The revision that created the object: the revision of this change if it is new.
        created: Revision,
    },
    /// It was deleted.
    Delete {
        /// The value that it had, where the backend still knows.
        last: Option<Arc<str>>,
    },
}

/// A place in the log. Positions order the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    /// The revision.
    pub revision: Revision,
    /// The place among the changes of that revision.
    pub index: u32,
}

/// A stretch of the log, newest first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// The entries.
    pub changes: Vec<Change>,
    /// Whether older entries follow: read on before the position of the last one.
    pub more: bool,
}

/// The number of entries that an answer may hold.
pub(crate) fn history_size(limit: u32) -> usize {
    limit.clamp(1, MAX_HISTORY) as usize
}
