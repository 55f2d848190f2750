//! One process at a time: an advisory lock on `rik.lock` beside the database, with the pid of its holder inside.
//!
//! The kernel releases the lock with the process, however it ends, so the file may stay.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;

/// The held lock; dropping it releases it.
#[derive(Debug)]
pub(super) struct Lock {
    _file: File,
}

/// Why there is no lock.
pub(super) enum LockError {
    /// Another process has it. Its pid, where it could be read.
    Held(Option<u32>),
    /// The file could not be used.
    Io(io::Error),
}

/// Takes the lock, or says who has it.
pub(super) fn lock(path: &Path) -> Result<Lock, LockError> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(0o600);
    let mut file = options.open(path).map_err(LockError::Io)?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(LockError::Held(holder(&mut file))),
        Err(TryLockError::Error(error)) => return Err(LockError::Io(error)),
    }
    let named = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
    named.map_err(LockError::Io)?;
    Ok(Lock { _file: file })
}

fn holder(file: &mut File) -> Option<u32> {
    let mut text = String::new();
    // A pid has at most ten digits; whatever else is in the file is not read.
    file.take(16).read_to_string(&mut text).ok()?;
    text.trim().parse().ok()
}
