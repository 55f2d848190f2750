//! What must be remembered over a restart to be put back at the end: written before anything on the host changes.

use std::{
    fs::{self, File},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

/// Name of the file in the state directory.
const FILE: &str = "network.json";

/// Version of the file's form.
const VERSION: u32 = 1;

/// Largest file that is read. It has a few hundred bytes; anything else is not ours.
const LARGEST_BYTES: u64 = 64 << 10;

/// The node's network as it was before, and the bridge that we made or were about to make.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Ledger {
    version: u32,
    /// The bridge.
    pub(crate) bridge: String,
    /// Whether the namespace forwarded packets before RIK asked it to.
    pub(crate) forwarded_before: bool,
    /// Kernel settings are gone after a reboot, and each network namespace has its own.
    pub(crate) place: Place,
}

/// One network namespace of one boot.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Place {
    boot: String,
    namespace: u64,
}

/// Why the ledger could not be used.
#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    /// Which boot and namespace this is could not be found out.
    #[error("read {path}")]
    Place {
        /// The file.
        path: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Reading failed.
    #[error("read {path}", path = path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file has another form.
    #[error("understand {path}; if it is damaged, remove it: only the value that ip_forward had is lost", path = path.display())]
    Understand {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Writing failed.
    #[error("write {path}", path = path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl Place {
    /// Where the calling thread is.
    pub(crate) fn here() -> Result<Self, LedgerError> {
        const BOOT: &str = "/proc/sys/kernel/random/boot_id";
        const NAMESPACE: &str = "/proc/thread-self/ns/net";
        let failed = |path| move |source| LedgerError::Place { path, source };
        let boot = fs::read_to_string(BOOT).map_err(failed(BOOT))?;
        let namespace = fs::metadata(NAMESPACE).map_err(failed(NAMESPACE))?.ino();
        Ok(Self { boot: boot.trim().to_owned(), namespace })
    }
}

impl Ledger {
    pub(crate) fn new(bridge: &str, forwarded_before: bool, place: Place) -> Self {
        Self { version: VERSION, bridge: bridge.to_owned(), forwarded_before, place }
    }

    /// Reads the ledger of a state directory, if there is one.
    pub(crate) fn read(state_dir: &Path) -> Result<Option<Self>, LedgerError> {
        let path = state_dir.join(FILE);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(source) if source.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(source) => return Err(LedgerError::Read { path, source }),
        };
        let text = io::read_to_string(io::Read::take(file, LARGEST_BYTES))
            .map_err(|source| LedgerError::Read { path: path.clone(), source })?;
        serde_json::from_str(&text).map(Some).map_err(|source| LedgerError::Understand { path, source })
    }

    /// Writes the ledger: whole or not at all, and on disk when this returns.
    pub(crate) fn write(&self, state_dir: &Path) -> Result<(), LedgerError> {
        let path = state_dir.join(FILE);
        let write = || -> io::Result<()> {
            fs::create_dir_all(state_dir)?;
            let next = state_dir.join(format!("{FILE}.new"));
            let mut file = File::create(&next)?;
            file.write_all(&serde_json::to_vec(self)?)?;
            file.sync_all()?;
            fs::rename(&next, &path)?;
            File::open(state_dir)?.sync_all()
        };
        write().map_err(|source| LedgerError::Write { path: path.clone(), source })
    }

    /// Removes the ledger of a state directory, if there is one.
    pub(crate) fn remove(state_dir: &Path) -> Result<(), LedgerError> {
        let path = state_dir.join(FILE);
        match fs::remove_file(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => {
                Err(LedgerError::Write { path, source })
            }
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ledger_is_read_as_it_was_written_and_gone_when_removed() {
        let dir = tempfile::tempdir().unwrap();
        let state_dir = dir.path().join("state");
        assert_eq!(Ledger::read(&state_dir).unwrap(), None);
        let ledger = Ledger::new("rik0", true, Place::here().unwrap());
        ledger.write(&state_dir).unwrap();
        assert_eq!(Ledger::read(&state_dir).unwrap(), Some(ledger));
        Ledger::remove(&state_dir).unwrap();
        Ledger::remove(&state_dir).unwrap();
        assert_eq!(Ledger::read(&state_dir).unwrap(), None);
    }

    #[test]
    fn a_damaged_ledger_is_an_error_that_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join(FILE), "{").unwrap();
        let error = Ledger::read(dir.path()).unwrap_err().to_string();
        assert!(error.contains("remove it"), "{error}");
    }

    #[test]
    fn the_form_of_the_ledger_is_this() {
        let place = Place { boot: "b".into(), namespace: 7 };
        let json = serde_json::to_string(&Ledger::new("rik0", false, place)).unwrap();
        insta::assert_snapshot!(json, @r#"{"version":1,"bridge":"rik0","forwardedBefore":false,"place":{"boot":"b","namespace":7}}"#);
    }
}
