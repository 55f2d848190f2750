//! Opening: directory, lock, then the file, which is checked whole before anything is written to it.
//!
//! ```text
//! rik.db   absent, alone ──▶ the misnamed file of 2023? take it over : make a new one, aside, and rename it
//!          absent, but its write-ahead log is there ─▶ refused
//!          there ──▶ a file? not empty? SQLite's? whole? ours, and not too new? ──▶ writer connection
//! ```
//!
//! *Guarantee*: wherever a database existed, an empty one never takes its place. A new one appears under its name only
//! when it is complete, so an empty file is damage and not a beginning.

use std::fs::{self, DirBuilder, File, OpenOptions, Permissions};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rusqlite::{Connection, ErrorCode};

use super::fault::fault;
use super::legacy::{self, LegacyRow};
use super::lock::{Lock, LockError, lock};
use super::schema::{self, Log, OLDEST_SQLITE, SCHEMA_VERSION};
use super::wal::{self, WalFault};
use crate::error::Fault;

/// The file of the database.
const DATABASE: &str = "rik.db";

/// Where a new database is made.
const FRESH: &str = "rik.db.new";

/// The file that is locked.
const LOCK: &str = "rik.lock";

/// What SQLite keeps beside a database.
const COMPANIONS: [&str; 3] = ["-wal", "-shm", "-journal"];

/// What every SQLite database begins with. SQLite itself takes a file too short for that as a new database.
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Nobody else reads what may hold secrets.
const FILE_MODE: u32 = 0o600;
const DIR_MODE: u32 = 0o700;

/// A database that was found whole.
pub(super) struct Database {
    pub(super) file: PathBuf,
    pub(super) connection: Connection,
    pub(super) lock: Lock,
    pub(super) log: Log,
    pub(super) legacy: Vec<LegacyRow>,
}

/// Why the store could not be opened. Each names the path and what to do.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory may not be made or used.
    #[error(
        "use {} for the database: permission denied; run as root, or point DATABASE_LOCATION to another folder",
        .path.display()
    )]
    Denied {
        /// The directory, or the file in it.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// A path could not be used.
    #[error("use {} for the database", .path.display())]
    UsePath {
        /// The path.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The place of the directory is taken.
    #[error(
        "use {} for the database: it is not a folder; point DATABASE_LOCATION to another one",
        .path.display()
    )]
    NotADirectory {
        /// The path.
        path: PathBuf,
    },
    /// Another process has the store.
    #[error(
        "open the database in {}: already running{}; stop that process first, or use another DATABASE_LOCATION",
        .dir.display(),
        .pid.map_or_else(String::new, |pid| format!(" (pid {pid})"))
    )]
    AlreadyRunning {
        /// The directory.
        dir: PathBuf,
        /// The process.
        pid: Option<u32>,
    },
    /// The SQLite of this program may damage files.
    #[error("use SQLite {found}: it can damage a database, 3.51.3 or later is needed")]
    OldSqlite {
        /// Its version.
        found: &'static str,
    },
    /// The file is not a whole database.
    #[error("open {}: {problem}; {}", .file.display(), restore(.file))]
    Damaged {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        problem: String,
    },
    /// The file is gone, but not its companions.
    #[error("open {}: the file is missing, but {} is there; {}", .file.display(), .left.display(), restore(.file))]
    Missing {
        /// The file.
        file: PathBuf,
        /// What is left of it.
        left: PathBuf,
    },
    /// The write-ahead log beside the file is damaged, and transactions in it can no longer be read.
    #[error(
        "open {}: {} is damaged ({place}), so acknowledged changes are missing; put a backup in place of both, or \
         accept the loss with `sqlite3 {} 'PRAGMA wal_checkpoint(TRUNCATE)'`",
        .file.display(), .wal.display(), .file.display()
    )]
    DamagedWal {
        /// The file.
        file: PathBuf,
        /// Its write-ahead log.
        wal: PathBuf,
        /// Where the damage begins.
        place: String,
    },
    /// The file is a database of something else.
    #[error("open {}: it is not a database of RIK; move it away, or use another DATABASE_LOCATION", .file.display())]
    Foreign {
        /// The file.
        file: PathBuf,
    },
    /// A newer RIK wrote the file.
    #[error(
        "open {}: it was written by a newer RIK (schema {found}, this one knows {SCHEMA_VERSION}); use that RIK",
        .file.display()
    )]
    NewerSchema {
        /// The file.
        file: PathBuf,
        /// Its schema version.
        found: i64,
    },
    /// The file system cannot do what the write-ahead log needs.
    #[error("open {}: its file system does not support write-ahead logging; use one on a local disk", .file.display())]
    NoWal {
        /// The file.
        file: PathBuf,
    },
    /// Something failed on the way.
    #[error("open {}", .file.display())]
    Open {
        /// The file.
        file: PathBuf,
        /// Why.
        #[source]
        source: Fault,
    },
    /// The file of 2023 could not be moved to its place.
    #[error("move {} to {}; move it by hand, with nothing using it", .from.display(), .to.display())]
    TakeOver {
        /// Where it is.
        from: PathBuf,
        /// Where it belongs.
        to: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// There is no thread for the writer.
    #[error("start the writer thread of the database")]
    SpawnWriter(#[source] io::Error),
}

fn restore(file: &Path) -> String {
    let file = file.display();
    format!(
        "nothing was changed. To restore: move {file}, {file}-wal and {file}-shm away together and put a backup at \
         {file}; `sqlite3 {file} .recover` prints what is still readable"
    )
}

impl OpenError {
    /// Sorts an error of the file system.
    pub(super) fn io(path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem => {
                Self::Denied { path, source }
            }
            io::ErrorKind::NotADirectory => Self::NotADirectory { path },
            _ => Self::UsePath { path, source },
        }
    }

    /// Sorts an error of SQLite.
    pub(super) fn sqlite(file: &Path, error: rusqlite::Error) -> Self {
        let file = file.to_owned();
        match error.sqlite_error_code() {
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => {
                Self::Damaged { file, problem: error.to_string() }
            }
            _ => Self::Open { file, source: fault(error) },
        }
    }
}

/// Opens the database in this directory, and makes what is missing.
pub(super) fn open(dir: &Path) -> Result<Database, OpenError> {
    if rusqlite::version_number() < OLDEST_SQLITE {
        return Err(OpenError::OldSqlite { found: rusqlite::version() });
    }
    make_dir(dir)?;
    let lock = take_lock(dir)?;
    let file = dir.join(DATABASE);
    if !exists(&file)? {
        if let Some(left) = companion(&file)? {
            return Err(OpenError::Missing { file, left });
        }
        if !legacy::take_over(dir, &file)? {
            create(dir, &file)?;
        }
    }
    check_file(&file)?;
    check_wal(&file)?;
    let (connection, log, legacy) = open_checked(&file)?;
    Ok(Database { file, connection, lock, log, legacy })
}

fn make_dir(dir: &Path) -> Result<(), OpenError> {
    match fs::metadata(dir) {
        Ok(found) if found.is_dir() => Ok(()),
        Ok(_) => Err(OpenError::NotADirectory { path: dir.to_owned() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let made = DirBuilder::new().recursive(true).mode(DIR_MODE).create(dir);
            made.map_err(|error| OpenError::io(dir, error))?;
            sync_parent(dir)
        }
        Err(error) => Err(OpenError::io(dir, error)),
    }
}

fn take_lock(dir: &Path) -> Result<Lock, OpenError> {
    let path = dir.join(LOCK);
    lock(&path).map_err(|error| match error {
        LockError::Held(pid) => OpenError::AlreadyRunning { dir: dir.to_owned(), pid },
        LockError::Io(error) if error.kind() == io::ErrorKind::PermissionDenied => OpenError::io(dir, error),
        LockError::Io(error) => OpenError::io(&path, error),
    })
}

/// Whether something has this name, be it a link that leads nowhere.
fn exists(path: &Path) -> Result<bool, OpenError> {
    match fs::symlink_metadata(path) {
        Ok(_) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(OpenError::io(path, error)),
    }
}

/// The path of a companion of this database.
fn beside(file: &Path, suffix: &str) -> PathBuf {
    let mut path = file.as_os_str().to_owned();
    path.push(suffix);
    PathBuf::from(path)
}

fn companion(file: &Path) -> Result<Option<PathBuf>, OpenError> {
    for suffix in COMPANIONS {
        let path = beside(file, suffix);
        if exists(&path)? {
            return Ok(Some(path));
        }
    }
    Ok(None)
}

/// Makes an empty database aside, complete and on disk, before it gets its name.
fn create(dir: &Path, file: &Path) -> Result<(), OpenError> {
    let fresh = dir.join(FRESH);
    for leftover in COMPANIONS.iter().map(|suffix| beside(&fresh, suffix)).chain([fresh.clone()]) {
        match fs::remove_file(&leftover) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(OpenError::io(&leftover, error)),
        }
    }
    let made = OpenOptions::new().write(true).create_new(true).mode(FILE_MODE).open(&fresh);
    let made = made.map_err(|error| OpenError::io(&fresh, error))?;
    write_tables(&fresh).map_err(|error| OpenError::sqlite(&fresh, error))?;
    let placed = made.sync_all().and_then(|()| fs::rename(&fresh, file));
    placed.map_err(|error| OpenError::io(file, error))?;
    sync_parent(file)
}

fn write_tables(file: &Path) -> rusqlite::Result<()> {
    let connection = schema::open_writer(file)?;
    create_tables(&connection)?;
    connection.close().map_err(|(_connection, error)| error)
}

fn create_tables(connection: &Connection) -> rusqlite::Result<()> {
    let transaction = connection.unchecked_transaction()?;
    transaction.execute_batch(schema::CREATE)?;
    transaction.commit()
}

/// Makes a new name durable.
pub(super) fn sync_parent(path: &Path) -> Result<(), OpenError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        Some(_) | None => Path::new("."),
    };
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(|error| OpenError::io(parent, error))
}

/// Checks what can be seen without SQLite, which would take an empty file for a new database.
pub(super) fn check_file(file: &Path) -> Result<(), OpenError> {
    let damaged = |problem: &str| OpenError::Damaged { file: file.to_owned(), problem: problem.to_owned() };
    let found = match fs::metadata(file) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(damaged("it is a link that leads nowhere"));
        }
        Err(error) => return Err(OpenError::io(file, error)),
    };
    if !found.is_file() {
        return Err(damaged("it is not a file"));
    }
    if found.len() == 0 {
        return Err(damaged("the file is empty"));
    }
    let opened = OpenOptions::new().read(true).write(true).open(file);
    let mut opened = opened.map_err(|error| OpenError::io(file, error))?;
    let mut magic = [0; MAGIC.len()];
    if opened.read_exact(&mut magic).is_err() || magic != *MAGIC {
        return Err(damaged("file is not a database"));
    }
    if found.permissions().mode() & 0o077 != 0 {
        let narrowed = fs::set_permissions(file, Permissions::from_mode(FILE_MODE));
        narrowed.map_err(|error| OpenError::io(file, error))?;
    }
    Ok(())
}

fn check_wal(file: &Path) -> Result<(), OpenError> {
    // SQLite keeps the log beside the file itself, not beside a link to it.
    let real = fs::canonicalize(file).map_err(|error| OpenError::io(file, error))?;
    let wal = beside(&real, "-wal");
    let place = match wal::check(&wal).map_err(|error| OpenError::io(&wal, error))? {
        None => return Ok(()),
        Some(WalFault::Header) => "in its header".to_owned(),
        Some(WalFault::Frame(number)) => format!("in frame {number}"),
    };
    Err(OpenError::DamagedWal { file: file.to_owned(), wal, place })
}

fn open_checked(file: &Path) -> Result<(Connection, Log, Vec<LegacyRow>), OpenError> {
    let sqlite = |error| OpenError::sqlite(file, error);
    let connection = schema::open_writer(file).map_err(sqlite)?;
    schema::checkpoint_on_close(&connection, false).map_err(sqlite)?;
    check_pages(file, &connection)?;
    check_tables(file, &connection)?;
    let legacy = legacy::rows(&connection).map_err(sqlite)?;
    if !schema::use_wal(&connection).map_err(sqlite)? {
        return Err(OpenError::NoWal { file: file.to_owned() });
    }
    let log = schema::survey(&connection).map_err(sqlite)?;
    schema::checkpoint_on_close(&connection, true).map_err(sqlite)?;
    Ok((connection, log, legacy))
}

/// Reads every page once.
pub(super) fn check_pages(file: &Path, connection: &Connection) -> Result<(), OpenError> {
    let report = connection.query_row("PRAGMA quick_check(1)", [], |row| row.get::<_, String>(0));
    let report = report.map_err(|error| OpenError::sqlite(file, error))?;
    if report == "ok" {
        return Ok(());
    }
    // The report may go over several lines, the first of which names the table.
    let problem = format!("it is damaged ({})", report.replace('\n', ", "));
    Err(OpenError::Damaged { file: file.to_owned(), problem })
}

/// Checks that the tables are ours and of our version; a database of 2023 gets them.
fn check_tables(file: &Path, connection: &Connection) -> Result<(), OpenError> {
    let sqlite = |error| OpenError::sqlite(file, error);
    if !schema::has_table(connection, "meta").map_err(sqlite)? {
        if !legacy::has_table(connection).map_err(sqlite)? {
            return Err(OpenError::Foreign { file: file.to_owned() });
        }
        return create_tables(connection).map_err(sqlite);
    }
    match schema::version(connection).map_err(sqlite)? {
        Some(SCHEMA_VERSION) => {}
        Some(found) if found > SCHEMA_VERSION => {
            return Err(OpenError::NewerSchema { file: file.to_owned(), found });
        }
        Some(_) | None => {
            let problem = "its schema version is not one that ever was".to_owned();
            return Err(OpenError::Damaged { file: file.to_owned(), problem });
        }
    }
    for table in ["element", "event"] {
        if !schema::has_table(connection, table).map_err(sqlite)? {
            let problem = format!("its table {table} is missing");
            return Err(OpenError::Damaged { file: file.to_owned(), problem });
        }
    }
    Ok(())
}
