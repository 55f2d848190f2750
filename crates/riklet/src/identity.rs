//! Who this node is: its uid, its cluster, and the newest controller that it has obeyed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use proto::Epoch;
use serde::{Deserialize, Serialize};

/// The record of the node, in `node.json` of the state directory.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Identity {
    /// Made with the state directory.
    pub uid: String,
    /// Cluster that it has joined.
    #[serde(default)]
    pub cluster: Option<String>,
    /// Newest epoch that it has obeyed.
    #[serde(default)]
    pub epoch: Epoch,
    /// Name that it goes by: its control groups are named for it.
    #[serde(default)]
    pub name: Option<String>,
    /// Addresses that the cluster gave it.
    #[serde(default)]
    pub pod_subnet: Option<String>,
}

/// The record on disk.
#[derive(Debug)]
pub struct IdentityFile {
    path: PathBuf,
    record: Identity,
}

/// The record could not be read or written.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// Reading.
    #[error("read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The file is damaged.
    #[error("understand {path}; if it is damaged, `riklet reset` starts over")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// Writing.
    #[error("write {path}")]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl IdentityFile {
    /// Reads the record, or makes one with the uid that `uid` gives.
    ///
    /// # Errors
    /// The file cannot be read, understood or written.
    pub fn open(directory: &Path, uid: impl FnOnce() -> String) -> Result<Self, IdentityError> {
        let path = directory.join("node.json");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let record = serde_json::from_str(&text);
                let record = record.map_err(|source| IdentityError::Parse { path: path.clone(), source })?;
                Ok(Self { path, record })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                let record =
                    Identity { uid: uid(), cluster: None, epoch: Epoch(0), name: None, pod_subnet: None };
                let file = Self { path, record };
                file.write()?;
                Ok(file)
            }
            Err(source) => Err(IdentityError::Read { path, source }),
        }
    }

    /// The record.
    #[must_use]
    pub fn get(&self) -> &Identity {
        &self.record
    }

    /// Changes the record; writes only if it differs.
    ///
    /// # Errors
    /// The file cannot be written; the record is as before.
    pub fn change(&mut self, change: impl FnOnce(&mut Identity)) -> Result<(), IdentityError> {
        let mut new = self.record.clone();
        change(&mut new);
        if new == self.record {
            return Ok(());
        }
        let old = std::mem::replace(&mut self.record, new);
        self.write().inspect_err(|_| self.record = old)
    }

    fn write(&self) -> Result<(), IdentityError> {
        let error = |source| IdentityError::Write { path: self.path.clone(), source };
        let text = serde_json::to_string_pretty(&self.record).map_err(|json| error(json.into()))?;
        let temporary = self.path.with_extension("json.new");
        fs::write(&temporary, text).map_err(error)?;
        // Synced, because a uid that changed would make this a stranger to its own cluster.
        fs::File::open(&temporary).and_then(|file| file.sync_all()).map_err(error)?;
        fs::rename(&temporary, &self.path).map_err(error)
    }
}
