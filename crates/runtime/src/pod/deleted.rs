//! What instances wrote that are gone: kept for a while, so that the reason of an end can be read after it.
//!
//! ```text
//!  logs/<uid>/  ── removed ──▶ deleted/<uid>/   its logs, and about.json: who it was and how it ended
//! ```
//! *Guarantees*: nothing is kept longer than the operator said; at most [`MAX_BYTES`] and [`MAX_KEPT`] are kept for longer
//! than a minute, the newest ones.

use std::{
    fs, io,
    path::{Path, PathBuf},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use jiff::Timestamp;
use model::ContainerStatus;
use serde::{Deserialize, Serialize};

use super::{
    PodRuntime,
    files::{read_whole, write_whole},
    record::{PodPlace, Record, Runs, log_name},
    remove_dir,
};

/// How long they are kept unless the operator says otherwise.
pub const KEEP_LOGS: Duration = Duration::from_secs(24 * 60 * 60);
/// Most bytes of all that are kept on a node.
pub const MAX_BYTES: u64 = 256 << 20;
/// Most instances whose logs are kept on a node.
pub const MAX_KEPT: usize = 1_000;
/// Name of the file that says who it was.
const ABOUT_FILE: &str = "about.json";
/// Pause between two looks for what is too old.
const CLEAN_EVERY: Duration = Duration::from_secs(60);

/// An instance that is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DeletedInstance {
    /// Its id.
    pub id: String,
    /// Its uid.
    pub uid: String,
    /// When it was removed.
    pub deleted_at: Timestamp,
    /// Its containers as they were at the end.
    pub containers: Vec<ContainerStatus>,
    /// The last run of each container, if it was ever begun.
    pub last_runs: Vec<Option<u32>>,
}

/// The logs of instances that are gone.
#[derive(Debug)]
pub(super) struct Deleted {
    dir: PathBuf,
    keep: Duration,
    cleaned: Mutex<Option<Instant>>,
}

impl Deleted {
    pub(super) fn new(dir: PathBuf, keep: Duration) -> Self {
        Self { dir, keep, cleaned: Mutex::default() }
    }

    /// Takes the logs of an instance over, or removes them if there is nothing in them. Ok if there are none.
    pub(super) fn keep(
        &self,
        place: &PodPlace,
        record: Option<&Record>,
        containers: Vec<ContainerStatus>,
    ) -> io::Result<()> {
        let logs = place.logs();
        let Some(record) = record.filter(|_| !self.keep.is_zero() && bytes_in(logs) > 0) else {
            return remove_dir(logs);
        };
        let about = DeletedInstance {
            id: record.spec.id.clone(),
            uid: record.spec.uid.clone(),
            deleted_at: Timestamp::now(),
            containers,
            last_runs: record.runs.iter().map(Runs::present).collect(),
        };
        write_whole(&logs.join(ABOUT_FILE), &about)?;
        let kept = self.dir.join(&about.uid);
        remove_dir(&kept)?;
        fs::create_dir_all(&self.dir)?;
        fs::rename(logs, kept)
    }

    /// All that are kept, the newest first. What is not understood is left out.
    fn list(&self) -> Vec<DeletedInstance> {
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let about = entries.filter_map(|entry| read_whole(&entry.path().join(ABOUT_FILE)).ok().flatten());
        let mut all: Vec<DeletedInstance> = about.collect();
        all.sort_by_key(|own| std::cmp::Reverse(own.deleted_at));
        all
    }

    /// Removes what is too old or too much, if it has not been looked for lately.
    pub(super) fn clean_now_and_then(&self) {
        let mut cleaned = self.cleaned.lock().unwrap_or_else(PoisonError::into_inner);
        if cleaned.is_some_and(|at| at.elapsed() < CLEAN_EVERY) {
            return;
        }
        *cleaned = Some(Instant::now());
        drop(cleaned);
        self.clean(Timestamp::now());
    }

    fn clean(&self, now: Timestamp) {
        let (mut count, mut bytes) = (0_usize, 0_u64);
        let mut known = Vec::new();
        for own in self.list() {
            let dir = self.dir.join(&own.uid);
            count += 1;
            bytes = bytes.saturating_add(bytes_in(&dir));
            let age = Duration::try_from(now.duration_since(own.deleted_at)).unwrap_or_default();
            if age <= self.keep && count <= MAX_KEPT && bytes <= MAX_BYTES {
                known.push(own.uid);
            }
        }
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let kept = entry.file_name().into_string().is_ok_and(|name| known.contains(&name));
            if !kept && let Err(error) = remove_dir(&entry.path()) {
                tracing::warn!(path = %entry.path().display(), %error, "logs of a deleted instance stay");
            }
        }
    }
}

/// Bytes of the files right in a directory; 0 if there is none.
fn bytes_in(dir: &Path) -> u64 {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.metadata().ok()).map(|found| found.len()).sum()
}

impl PodRuntime {
    /// Instances that are gone and whose logs are still here, the newest first.
    #[must_use]
    pub fn deleted(&self) -> Vec<DeletedInstance> {
        self.shared.deleted.list()
    }

    /// The log of a container of an instance that is gone: of its last run, or of the `back`-th one before it. Without a
    /// name, of the only container that lasted.
    ///
    /// # Errors
    /// What is not here.
    pub fn deleted_log(&self, uid: &str, container: Option<&str>, back: u32) -> Result<PathBuf, String> {
        let gone = || "there is no log of it any more".to_owned();
        let place = self.shared.places.pod(uid).map_err(|_unusual| gone())?;
        let dir = self.shared.deleted.dir.join(place.uid());
        let about: Option<DeletedInstance> = read_whole(&dir.join(ABOUT_FILE)).ok().flatten();
        let about = about.ok_or_else(gone)?;
        let all = || about.containers.iter().map(|own| own.name.as_str()).collect::<Vec<_>>().join(", ");
        let mut lasting = about.containers.iter().filter(|own| !own.init);
        let name = match (container, lasting.next(), lasting.next()) {
            (Some(name), _, _) => name,
            (None, Some(only), None) => &only.name,
            (None, _, _) => return Err(format!("it had several containers; name one of them: {}", all())),
        };
        let index = about.containers.iter().position(|own| own.name == name);
        let index = index.ok_or_else(|| format!("it had no container {name:?}; it had {}", all()))?;
        let last = about.last_runs.get(index).copied().flatten();
        let run = last.and_then(|last| last.checked_sub(back));
        let path = run.map(|run| dir.join(log_name(index, run))).filter(|path| path.exists());
        path.ok_or_else(|| "the container wrote nothing in that run".to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pod::record::{Places, nameless};

    const UIDS: [&str; 3] = [
        "3f2c1d5e-0a4b-4c6d-8e7f-90a1b2c3d4e5",
        "4f2c1d5e-0a4b-4c6d-8e7f-90a1b2c3d4e5",
        "5f2c1d5e-0a4b-4c6d-8e7f-90a1b2c3d4e5",
    ];

    #[test]
    fn logs_are_kept_until_they_are_too_old_and_empty_ones_not_at_all() {
        let state = tempfile::tempdir().unwrap();
        let places = Places::new(state.path().to_owned());
        let deleted = Deleted::new(places.deleted(), Duration::from_secs(60));
        for (uid, text) in UIDS.into_iter().zip(["one", "two", ""]) {
            let place = places.pod(uid).unwrap();
            fs::create_dir_all(place.logs()).unwrap();
            fs::write(place.log(0, 0), text).unwrap();
            let record = Record::new(nameless(uid), "boot".to_owned());
            deleted.keep(&place, Some(&record), Vec::new()).unwrap();
            deleted.keep(&place, Some(&record), Vec::new()).unwrap();
            assert!(!place.logs().exists());
        }
        let uids = |deleted: &Deleted| deleted.list().into_iter().map(|own| own.uid).collect::<Vec<_>>();
        assert_eq!(uids(&deleted), [UIDS[1], UIDS[0]]);
        fs::write(places.deleted().join("stray"), "").unwrap();
        deleted.clean(Timestamp::now());
        assert_eq!(uids(&deleted).len(), 2);
        deleted.clean(Timestamp::now() + Duration::from_secs(120));
        assert!(uids(&deleted).is_empty());
        let none = Deleted::new(places.deleted(), Duration::ZERO);
        let place = places.pod(UIDS[0]).unwrap();
        fs::create_dir_all(place.logs()).unwrap();
        fs::write(place.log(0, 0), "one").unwrap();
        none.keep(&place, Some(&Record::new(nameless(UIDS[0]), "boot".to_owned())), Vec::new()).unwrap();
        assert!(none.list().is_empty() && !place.logs().exists());
    }
}
