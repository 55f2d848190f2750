//! Transactions: guards that must hold, and writes that are then applied together.

use std::collections::BTreeSet;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use model::Revision;

/// Guards and writes in one transaction at most: a guarded create of 1,000 replicas is one transaction.
pub const MAX_TXN_OPS: usize = 2_048;

/// Bytes of one value at most: about what etcd takes in one request.
pub const MAX_VALUE_BYTES: usize = 1024 * 1024;

/// Bytes of all keys and values of one transaction at most: room for `MAX_TXN_OPS` operations of 16 KiB each.
pub const MAX_TXN_BYTES: usize = 32 * 1024 * 1024;

/// Bytes of one key at most: names have at most 253, and a key is four of them.
pub const MAX_KEY_BYTES: usize = 1_024;

/// What a guard expects of its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// There is no such object.
    Absent,
    /// There is such an object.
    Present,
    /// There is such an object, and this revision wrote it.
    At(Revision),
}

impl Expect {
    /// Whether the expectation holds for an object written at `found` (`None`: there is no object).
    #[must_use]
    pub fn holds(self, found: Option<Revision>) -> bool {
        match self {
            Self::Absent => found.is_none(),
            Self::Present => found.is_some(),
            Self::At(revision) => found == Some(revision),
        }
    }
}

impl fmt::Display for Expect {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => out.write_str("no object"),
            Self::Present => out.write_str("an object"),
            Self::At(revision) => write!(out, "revision {revision}"),
        }
    }
}

/// A condition of a transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    /// The key that it looks at.
    pub key: String,
    /// What it expects there.
    pub expect: Expect,
}

/// One change that a transaction makes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Creates the object or replaces its value.
    Put {
        /// The key.
        key: String,
        /// The new value, a JSON text.
        value: Arc<str>,
    },
    /// Removes the object; nothing happens if there is none.
    Delete {
        /// The key.
        key: String,
    },
}

impl Write {
    /// The key that is written.
    #[must_use]
    pub fn key(&self) -> &str {
        match self {
            Self::Put { key, .. } | Self::Delete { key } => key,
        }
    }

    fn value_bytes(&self) -> usize {
        match self {
            Self::Put { value, .. } => value.len(),
            Self::Delete { .. } => 0,
        }
    }
}

/// Guards and the writes that are applied if all of them hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Txn {
    /// The conditions; all are checked before anything is written.
    pub guards: Vec<Guard>,
    /// The writes, each to another key.
    pub writes: Vec<Write>,
    /// When it happened, for the log. The store keeps it, and reads no clock.
    pub at: Timestamp,
}

impl Txn {
    /// An empty transaction.
    #[must_use]
    pub const fn new(at: Timestamp) -> Self {
        Self { guards: Vec::new(), writes: Vec::new(), at }
    }

    /// Also requires `expect` of `key`.
    #[must_use]
    pub fn guard(mut self, key: impl Into<String>, expect: Expect) -> Self {
        self.guards.push(Guard { key: key.into(), expect });
        self
    }

    /// Also writes `value` to `key`, whatever was there.
    #[must_use]
    pub fn put(mut self, key: impl Into<String>, value: impl Into<Arc<str>>) -> Self {
        self.writes.push(Write::Put { key: key.into(), value: value.into() });
        self
    }

    /// Also deletes `key`, if it is there.
    #[must_use]
    pub fn delete(mut self, key: impl Into<String>) -> Self {
        self.writes.push(Write::Delete { key: key.into() });
        self
    }

    /// Also creates `key`, which must not exist.
    #[must_use]
    pub fn create(self, key: impl Into<String>, value: impl Into<Arc<str>>) -> Self {
        let key = key.into();
        self.guard(key.clone(), Expect::Absent).put(key, value)
    }

    /// Also replaces `key`, which must still be as revision `seen` wrote it.
    #[must_use]
    pub fn replace(self, key: impl Into<String>, seen: Revision, value: impl Into<Arc<str>>) -> Self {
        let key = key.into();
        self.guard(key.clone(), Expect::At(seen)).put(key, value)
    }

    /// Also deletes `key`, which must still be as revision `seen` wrote it.
    #[must_use]
    pub fn remove(self, key: impl Into<String>, seen: Revision) -> Self {
        let key = key.into();
        self.guard(key.clone(), Expect::At(seen)).delete(key)
    }

    /// Bytes of all keys and values.
    pub(crate) fn bytes(&self) -> usize {
        let guards: usize = self.guards.iter().map(|guard| guard.key.len()).sum();
        let writes: usize = self.writes.iter().map(|write| write.key().len() + write.value_bytes()).sum();
        guards + writes
    }

    /// Checks every bound, before anything is asked of a backend.
    pub(crate) fn check(&self) -> Result<(), TxnFault> {
        let ops = self.guards.len() + self.writes.len();
        if ops > MAX_TXN_OPS {
            return Err(TxnFault::TooManyOps { ops });
        }
        let bytes = self.bytes();
        if bytes > MAX_TXN_BYTES {
            return Err(TxnFault::TooLarge { bytes });
        }
        for guard in &self.guards {
            check_key(&guard.key)?;
        }
        let mut written = BTreeSet::new();
        for write in &self.writes {
            let key = write.key();
            check_key(key)?;
            let bytes = write.value_bytes();
            if bytes > MAX_VALUE_BYTES {
                return Err(TxnFault::ValueTooLarge { key: key.to_owned(), bytes });
            }
            if !written.insert(key) {
                return Err(TxnFault::WrittenTwice { key: key.to_owned() });
            }
        }
        Ok(())
    }
}

/// A key begins with a slash, so that its first segment is its type, and is plain text that a terminal can show.
fn check_key(key: &str) -> Result<(), TxnFault> {
    if key.len() > MAX_KEY_BYTES {
        return Err(TxnFault::KeyTooLong { bytes: key.len() });
    }
    if key.len() < 2 || !key.starts_with('/') || key.chars().any(char::is_control) {
        return Err(TxnFault::BadKey { key: key.to_owned() });
    }
    Ok(())
}

/// Why a transaction was refused unseen.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TxnFault {
    /// More guards and writes than [`MAX_TXN_OPS`].
    #[error("{ops} operations in one transaction, at most {MAX_TXN_OPS} are allowed")]
    TooManyOps {
        /// How many there were.
        ops: usize,
    },
    /// More bytes than [`MAX_TXN_BYTES`].
    #[error("{bytes} bytes in one transaction, at most {MAX_TXN_BYTES} are allowed")]
    TooLarge {
        /// How many there were.
        bytes: usize,
    },
    /// A value beyond [`MAX_VALUE_BYTES`].
    #[error("the value of {key} has {bytes} bytes, at most {MAX_VALUE_BYTES} are allowed")]
    ValueTooLarge {
        /// The key of the value.
        key: String,
        /// How many bytes it has.
        bytes: usize,
    },
    /// A key beyond [`MAX_KEY_BYTES`].
    #[error("a key of {bytes} bytes, at most {MAX_KEY_BYTES} are allowed")]
    KeyTooLong {
        /// How many bytes it has.
        bytes: usize,
    },
    /// A key that does not begin with a slash, is nothing but that, or holds a control character.
    #[error("{key:?} is not a key: a slash, then text without control characters")]
    BadKey {
        /// The key.
        key: String,
    },
    /// Two writes to one key.
    #[error("{key} is written twice in one transaction")]
    WrittenTwice {
        /// The key.
        key: String,
    },
}
