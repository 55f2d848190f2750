//! What an error of SQLite means to a caller of the store.

use std::sync::Arc;

use rusqlite::{Error, ErrorCode};

use crate::error::Fault;

/// Sorts an error by what can be done about it.
pub(super) fn fault(error: Error) -> Fault {
    let code = error.sqlite_error_code();
    let source = Arc::new(error);
    match code {
        Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Fault::Busy(source),
        Some(ErrorCode::DiskFull) => Fault::Full(source),
        Some(ErrorCode::ReadOnly) => Fault::ReadOnly(source),
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Fault::Damaged(source),
        // No code: a row that does not hold what it should.
        None => Fault::Damaged(source),
        Some(_) => Fault::Io(source),
    }
}
