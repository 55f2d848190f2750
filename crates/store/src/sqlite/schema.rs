//! The tables, as documented, and the connections that see them.

use std::path::Path;
use std::time::Duration;

use model::Revision;
use rusqlite::config::DbConfig;
use rusqlite::{Connection, OpenFlags, OptionalExtension as _};

/// The version of the tables below. A newer one is refused; an older one would be brought up here.
pub(super) const SCHEMA_VERSION: i64 = 1;

/// The oldest SQLite without the WAL-reset defect (3.7.0 to 3.51.2), which can damage a database that has two
/// connections.
pub(super) const OLDEST_SQLITE: i32 = 3_051_003;

/// How long a statement waits for another program that holds the database, before it fails as busy.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Pages that the writer keeps in memory, in KiB: the objects of some thousand instances, so that changing one mostly
/// reads nothing from the file. Taken as it is needed.
const WRITER_CACHE_KIB: i64 = 8 << 10;

/// Statements that a connection keeps prepared: more than there are.
const STATEMENT_CACHE: usize = 32;

pub(super) const CREATE: &str = "
CREATE TABLE element (
    element_id      TEXT PRIMARY KEY NOT NULL,
    element_type    TEXT NOT NULL,
    revision        INTEGER NOT NULL,
    create_revision INTEGER NOT NULL,
    value           TEXT NOT NULL
) STRICT;
CREATE TABLE event (
    revision        INTEGER NOT NULL,
    position        INTEGER NOT NULL,
    at              TEXT NOT NULL,
    op              TEXT NOT NULL,
    element_id      TEXT NOT NULL,
    create_revision INTEGER,
    value           TEXT,
    PRIMARY KEY (revision, position)
) STRICT;
CREATE TABLE meta (
    name  TEXT PRIMARY KEY NOT NULL,
    value INTEGER NOT NULL
) STRICT;
INSERT INTO meta (name, value) VALUES ('schema', 1), ('compacted', 0);
";

const NEWEST: &str = "SELECT max(revision) FROM event";
const COMPACTED: &str = "SELECT value FROM meta WHERE name = 'compacted'";

/// Where the log stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Log {
    /// The newest revision.
    pub(super) newest: Revision,
    /// Entries up to here are forgotten, even where their rows are still to be deleted.
    pub(super) compacted: Revision,
    /// Rows in the log.
    pub(super) entries: usize,
    /// Whether forgotten rows may be left.
    pub(super) backlog: bool,
}

/// Opens an existing file for writing.
pub(super) fn open_writer(file: &Path) -> rusqlite::Result<Connection> {
    let connection = open(file, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
    connection.pragma_update(None, "cache_size", -WRITER_CACHE_KIB)?;
    connection.pragma_update(None, "synchronous", "FULL")?;
    Ok(connection)
}

/// Opens an existing file for reading.
pub(super) fn open_reader(file: &Path) -> rusqlite::Result<Connection> {
    open(file, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn open(file: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    // No URI: a path is a path, whatever characters it has. No mutex: every connection has one user at a time.
    let connection = Connection::open_with_flags(file, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(BUSY_TIMEOUT)?;
    connection.set_prepared_statement_cache_capacity(STATEMENT_CACHE);
    connection.pragma_update(None, "mmap_size", 0)?;
    connection.pragma_update(None, "cell_size_check", true)?;
    Ok(connection)
}

/// Whether closing the last connection moves the write-ahead log into the database. Off while a file is looked at that
/// may be damaged: it is left as it was found.
pub(super) fn checkpoint_on_close(connection: &Connection, on: bool) -> rusqlite::Result<()> {
    connection.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, !on).map(|_now| ())
}

/// Switches to write-ahead logging; returns whether it is on.
pub(super) fn use_wal(connection: &Connection) -> rusqlite::Result<bool> {
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    Ok(mode.eq_ignore_ascii_case("wal"))
}

pub(super) fn has_table(connection: &Connection, name: &str) -> rusqlite::Result<bool> {
    connection
        .query_row("SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = ?1", [name], |_row| Ok(()))
        .optional()
        .map(|found| found.is_some())
}

/// The schema version that the file says it has.
pub(super) fn version(connection: &Connection) -> rusqlite::Result<Option<i64>> {
    connection.query_row("SELECT value FROM meta WHERE name = 'schema'", [], |row| row.get(0)).optional()
}

/// The newest revision, and the one through which the log is forgotten. Every revision has an entry in the log, so the
/// newest one is the last entry's, or the forgotten one if there is none.
pub(super) fn ends(connection: &Connection) -> rusqlite::Result<(Revision, Revision)> {
    let newest: Option<i64> = connection.prepare_cached(NEWEST)?.query_row([], |row| row.get(0))?;
    let compacted: i64 = connection.prepare_cached(COMPACTED)?.query_row([], |row| row.get(0))?;
    let newest = newest.unwrap_or(0).max(compacted);
    Ok((from_sql(newest), from_sql(compacted)))
}

/// Where the log stands, counted row by row: for the start.
pub(super) fn survey(connection: &Connection) -> rusqlite::Result<Log> {
    let (newest, compacted) = ends(connection)?;
    let objects: Option<i64> =
        connection.query_row("SELECT max(revision) FROM element", [], |row| row.get(0))?;
    let entries: i64 = connection.query_row("SELECT count(*) FROM event", [], |row| row.get(0))?;
    Ok(Log {
        // An object beyond the log means that somebody emptied the log by hand; revisions must not run twice.
        newest: newest.max(from_sql(objects.unwrap_or(0))),
        compacted,
        entries: usize::try_from(entries).unwrap_or(0),
        backlog: true,
    })
}

/// A revision as SQLite stores it. No store lives to see the bound: at a million a second it is 290,000 years away.
pub(super) fn to_sql(revision: Revision) -> i64 {
    i64::try_from(revision.0).unwrap_or(i64::MAX)
}

pub(super) fn from_sql(revision: i64) -> Revision {
    Revision(u64::try_from(revision).unwrap_or(0))
}
