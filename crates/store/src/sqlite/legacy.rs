//! RIK 2023: its table `cluster(id, name, value)`, and the place where it put the file.
//!
//! That version joined folder and file name without a slash: `DATABASE_LOCATION=/x/data` made `/x/datarik.db`. Such a
//! file is moved to where it belongs if no database is there yet. The rows are handed to the caller, who knows what
//! they mean; the table stays until the caller says that they were converted, and is then renamed, not dropped.

use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::{Path, PathBuf};

use rusqlite::Connection;
use rusqlite::types::ValueRef;

use super::open::{OpenError, check_file, check_pages, sync_parent};
use super::schema;

const TABLE: &str = "cluster";

const ROWS: &str = "SELECT id, name, value FROM cluster ORDER BY rowid";

const PUT_ASIDE: &str = "DROP TABLE IF EXISTS cluster_2023; ALTER TABLE cluster RENAME TO cluster_2023;";

/// One row of the table of 2023.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LegacyRow {
    /// The element's id, mostly a UUID.
    pub id: String,
    /// Its key, such as `/workload/Pod/default/web`.
    pub name: String,
    /// Its value, mostly JSON.
    pub value: Vec<u8>,
}

/// Moves the misnamed file of 2023 to `file`; returns whether there was one.
pub(super) fn take_over(dir: &Path, file: &Path) -> Result<bool, OpenError> {
    let Some(misnamed) = misnamed(dir) else { return Ok(false) };
    if fs::symlink_metadata(&misnamed).is_err() {
        return Ok(false);
    }
    check_file(&misnamed)?;
    settle(&misnamed)?;
    let moved = fs::rename(&misnamed, file);
    moved.map_err(|source| OpenError::TakeOver { from: misnamed.clone(), to: file.to_owned(), source })?;
    sync_parent(file)?;
    sync_parent(&misnamed)?;
    tracing::info!(from = %misnamed.display(), to = %file.display(), "database of RIK 2023 moved to its folder");
    Ok(true)
}

/// `/x/data` and `/x/data/` give `/x/datarik.db`.
fn misnamed(dir: &Path) -> Option<PathBuf> {
    let mut path = dir.as_os_str().as_bytes();
    while let Some(shorter) = path.strip_suffix(b"/") {
        path = shorter;
    }
    if path.is_empty() {
        return None;
    }
    Some(PathBuf::from(OsString::from_vec([path, b"rik.db"].concat())))
}

/// Brings everything into the one file that is moved, and makes sure that nobody else has it open for writing.
fn settle(file: &Path) -> Result<(), OpenError> {
    let sqlite = |error| OpenError::sqlite(file, error);
    let connection = schema::open_writer(file).map_err(sqlite)?;
    check_pages(file, &connection)?;
    if !has_table(&connection).map_err(sqlite)? {
        return Err(OpenError::Foreign { file: file.to_owned() });
    }
    // Rolls back or checkpoints whatever an unclean end has left beside the file.
    connection.execute_batch("BEGIN EXCLUSIVE; COMMIT").map_err(sqlite)?;
    connection.close().map_err(|(_connection, error)| sqlite(error))
}

pub(super) fn has_table(connection: &Connection) -> rusqlite::Result<bool> {
    schema::has_table(connection, TABLE)
}

/// The rows that wait to be converted.
pub(super) fn rows(connection: &Connection) -> rusqlite::Result<Vec<LegacyRow>> {
    if !has_table(connection)? {
        return Ok(Vec::new());
    }
    let mut statement = connection.prepare(ROWS)?;
    let rows = statement.query_map([], |row| {
        Ok(LegacyRow {
            id: text(row.get_ref(0)?),
            name: text(row.get_ref(1)?),
            value: bytes(row.get_ref(2)?).to_vec(),
        })
    })?;
    rows.collect()
}

/// The table of 2023 did not hold its columns to their types.
fn text(value: ValueRef<'_>) -> String {
    String::from_utf8_lossy(bytes(value)).into_owned()
}

fn bytes(value: ValueRef<'_>) -> &[u8] {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes,
        ValueRef::Null | ValueRef::Integer(_) | ValueRef::Real(_) => &[],
    }
}

/// Puts the table aside, if it is there.
pub(super) fn finish(connection: &Connection) -> rusqlite::Result<()> {
    if !has_table(connection)? {
        return Ok(());
    }
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(PUT_ASIDE)?;
    transaction.commit()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn misnamed_file_is_the_folder_and_the_name_run_together() {
        assert_eq!(misnamed(Path::new("/x/data")), Some(PathBuf::from("/x/datarik.db")));
        assert_eq!(misnamed(Path::new("/x/data//")), Some(PathBuf::from("/x/datarik.db")));
        assert_eq!(misnamed(Path::new("/")), None);
    }
}
