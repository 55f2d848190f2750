//! Local volumes: directories that RIK keeps on this node, and that outlive the instances that use them.
//!
//! ```text
//!  <state-dir>/volumes/<name>/volume.json   when it was made
//!                             data/         what is in it
//!                      .gone.<name>         one that is being removed
//! ```
//! *Guarantees*: one that an instance uses is not removed, and an instance never gets one that is being removed; a name
//! that is not that of an object never becomes a path.

use std::{
    fs::{self, DirBuilder, Permissions},
    io,
    os::unix::fs::{DirBuilderExt, PermissionsExt},
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
};

use jiff::Timestamp;
use model::manifest::names::object_name;
use serde::{Deserialize, Serialize};

use super::{
    PodRuntime, blocking,
    files::{read_whole, write_whole},
    record::{Found, Stage},
    remove_dir,
};

/// Name of the file that says what a volume is.
const VOLUME_FILE: &str = "volume.json";
/// Name of the directory with what is in it.
const DATA: &str = "data";
/// What the names of those begin with that are being removed.
const GONE: &str = ".gone.";

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
struct VolumeFile {
    created_at: Timestamp,
}

/// A local volume on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LocalVolumeOnNode {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// Ids of the instances that use it.
    pub instances: Vec<String>,
}

/// Why a local volume was not removed.
#[derive(Debug, thiserror::Error)]
pub enum VolumeNotRemoved {
    /// There is none of that name.
    #[error("there is no volume {0:?} on this node")]
    Absent(String),
    /// Instances use it.
    #[error("volume {name:?} is used by {}", .users.join(", "))]
    InUse {
        /// Its name.
        name: String,
        /// Ids of the instances.
        users: Vec<String>,
    },
    /// The disk said no.
    #[error("remove the volume")]
    Disk {
        /// What it said.
        #[source]
        source: io::Error,
    },
}

/// The local volumes of one node.
#[derive(Debug)]
pub(super) struct LocalVolumes {
    dir: PathBuf,
    /// Held while one is made or taken away, so that neither happens to the other.
    turn: Mutex<()>,
}

impl LocalVolumes {
    pub(super) fn new(dir: PathBuf) -> Self {
        Self { dir, turn: Mutex::default() }
    }

    /// Makes the volume if it is not there.
    pub(super) fn make(&self, name: &str) -> io::Result<()> {
        let unfit = |allowed| io::Error::new(io::ErrorKind::InvalidInput, allowed);
        object_name(name).map_err(unfit)?;
        let data = data(&self.dir, name);
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if data.is_dir() {
            return Ok(());
        }
        let own = self.dir.join(name);
        DirBuilder::new().recursive(true).mode(0o700).create(&own)?;
        write_whole(&own.join(VOLUME_FILE), &VolumeFile { created_at: Timestamp::now() })?;
        DirBuilder::new().mode(0o700).create(&data)?;
        // For containers of any user; nobody else gets here, because the directories above are root's alone.
        fs::set_permissions(&data, Permissions::from_mode(0o777))
    }

    fn has(&self, name: &str) -> bool {
        object_name(name).is_ok() && data(&self.dir, name).is_dir()
    }

    /// Name and age of each, ordered by name.
    fn list(&self) -> io::Result<Vec<(String, Timestamp)>> {
        let entries = match fs::read_dir(&self.dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut found = Vec::new();
        for entry in entries {
            let Ok(name) = entry?.file_name().into_string() else { continue };
            if self.has(&name) {
                let file: Option<VolumeFile> = read_whole(&self.dir.join(&name).join(VOLUME_FILE))?;
                found.push((name, file.map_or(Timestamp::UNIX_EPOCH, |file| file.created_at)));
            }
        }
        found.sort_unstable();
        Ok(found)
    }

    /// Takes the volume away unless somebody uses it: nobody finds it any more when this returns.
    fn remove(&self, name: &str, users: impl FnOnce() -> Vec<String>) -> Result<PathBuf, VolumeNotRemoved> {
        let disk = |source| VolumeNotRemoved::Disk { source };
        let absent = || VolumeNotRemoved::Absent(name.to_owned());
        let _turn = self.turn.lock().unwrap_or_else(PoisonError::into_inner);
        if !self.has(name) {
            return Err(absent());
        }
        let users = users();
        if !users.is_empty() {
            return Err(VolumeNotRemoved::InUse { name: name.to_owned(), users });
        }
        let gone = self.dir.join(format!("{GONE}{name}"));
        remove_dir(&gone).map_err(disk)?;
        fs::rename(self.dir.join(name), &gone).map_err(disk)?;
        Ok(gone)
    }

    /// Removes what an earlier process had begun to remove.
    pub(super) fn clear_gone(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let gone = entry.file_name().to_string_lossy().starts_with(GONE);
            if gone && let Err(error) = remove_dir(&entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "a volume that was removed stays");
            }
        }
    }
}

/// Where the files of a volume are. The name has been checked.
pub(super) fn data(dir: &Path, name: &str) -> PathBuf {
    dir.join(name).join(DATA)
}

impl PodRuntime {
    /// The local volumes on this node, ordered by name.
    ///
    /// # Errors
    /// What the disk says.
    pub async fn local_volumes(&self) -> io::Result<Vec<LocalVolumeOnNode>> {
        let runtime = self.clone();
        blocking(move || {
            let volumes = runtime.shared.volumes.list()?.into_iter().map(|(name, created_at)| {
                let instances = runtime.users_of_volume(&name);
                LocalVolumeOnNode { name, created_at, instances }
            });
            Ok(volumes.collect())
        })
        .await?
    }

    /// Removes a local volume with all that is in it.
    ///
    /// # Errors
    /// An instance uses it, or there is none, or the disk said no.
    pub async fn remove_local_volume(&self, name: &str) -> Result<(), VolumeNotRemoved> {
        let (runtime, name) = (self.clone(), name.to_owned());
        let work = move || {
            let gone = runtime.shared.volumes.remove(&name, || runtime.users_of_volume(&name))?;
            remove_dir(&gone).map_err(|source| VolumeNotRemoved::Disk { source })
        };
        blocking(work).await.map_err(|source| VolumeNotRemoved::Disk { source })?
    }

    /// Ids of instances that use a volume: they are recorded before they are given it.
    fn users_of_volume(&self, name: &str) -> Vec<String> {
        let uids = self.shared.places.uids().unwrap_or_default();
        let users = uids.iter().filter_map(|uid| match self.place(uid).ok()?.read() {
            Found::Record(record) => {
                let uses = record.spec.spec.local_volumes().any(|own| own == name);
                (record.stage < Stage::Released && uses).then_some(record.spec.id)
            }
            Found::Torn { .. } | Found::Nothing => None,
        });
        users.collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn volume_is_kept_until_it_is_removed_and_only_if_nobody_uses_it() {
        let state = tempfile::tempdir().unwrap();
        let volumes = LocalVolumes::new(state.path().join("volumes"));
        assert!(volumes.list().unwrap().is_empty());
        volumes.make("db").unwrap();
        let file = data(&volumes.dir, "db").join("rows");
        fs::write(&file, "1").unwrap();
        volumes.make("db").unwrap();
        assert_eq!(fs::read_to_string(&file).unwrap(), "1");
        let used = volumes.remove("db", || vec!["web-1".to_owned()]).unwrap_err();
        assert_eq!(used.to_string(), "volume \"db\" is used by web-1");
        assert_eq!(volumes.list().unwrap().len(), 1);
        volumes.remove("db", Vec::new).unwrap();
        assert!(volumes.list().unwrap().is_empty());
        assert!(matches!(volumes.remove("db", Vec::new), Err(VolumeNotRemoved::Absent(_))));
        volumes.clear_gone();
        assert_eq!(fs::read_dir(&volumes.dir).unwrap().count(), 0);
    }

    #[test]
    fn name_that_is_none_never_becomes_a_path() {
        let state = tempfile::tempdir().unwrap();
        let volumes = LocalVolumes::new(state.path().join("volumes"));
        for name in ["", ".", "..", "../x", "a/b", ".gone.db", "A"] {
            assert!(volumes.make(name).is_err(), "{name:?}");
            assert!(matches!(volumes.remove(name, Vec::new), Err(VolumeNotRemoved::Absent(_))), "{name:?}");
        }
        assert!(!volumes.dir.exists());
    }
}
