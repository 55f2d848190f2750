//! What the tidy tests read: the repository's files, cargo's view of the workspace, and licence expressions.
//!
//! The laws themselves are in `tests/`, one file for each subject. They read and never write, and each names every
//! offender at once, so that one run shows the whole work.

pub mod expression;
pub mod metadata;
pub mod repository;

/// Fails with all of `faults` under one heading; passes when there are none.
///
/// # Panics
/// When there is a fault: this is how a law fails.
pub fn assert_none(law: &str, faults: &[String]) {
    assert!(faults.is_empty(), "{law}:\n  {}\n", faults.join("\n  "));
}
