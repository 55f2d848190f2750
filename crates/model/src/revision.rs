//! The revision: a point in the store's history.
//!
//! Every committed transaction gets the next revision; all that it wrote carries that revision. Revisions order
//! everything that RIK knows, so they are what plans, watches and assignments are computed from and checked against.

use std::fmt;

use serde::{Deserialize, Serialize};

/// A point in the store's history, counted in transactions. Zero is the empty store, before the first one.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    Serialize,
    Deserialize,
    utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl Revision {
    /// The revision of an empty store.
    pub const ZERO: Self = Self(0);

    /// The revision of the transaction that follows this one.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(out)
    }
}
