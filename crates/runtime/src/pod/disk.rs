//! What instances take of the disk: measured now and then, and ended if it is more than they may.
//!
//! ```text
//!  every 10 s, on a thread: each running pod ─▶ writable layers, logs, emptyDirs ─▶ numbers for the metrics
//!                                                                               └▶ over its limit: ended, OutOfDisk
//! ```
//! A quota of the file system would be exact, but few are mounted with one. What is written between two looks can be more
//! than the limit; the disk's own reserve has to hold it.
//!
//! *Guarantees*: no link is followed, whatever a container makes of its files while they are counted; a walk is bounded in
//! depth and number.

use std::{
    collections::HashMap,
    io,
    os::fd::OwnedFd,
    path::Path,
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use model::{ContainerPhase, Reason, WorkloadSpec, lifecycle::Observed};
use rustix::{
    fs::{AtFlags, CWD, Dir, FileType, Mode, OFlags, openat, statat},
    io::Errno,
};

use super::{
    PodRuntime, blocking,
    fetching::size,
    record::{Found, PodPlace, Record, Stage},
};

/// What a container whose manifest does not say may take with its writable layer and its logs: far more than a program
/// that keeps its data in volumes needs, far less than a disk.
pub const DEFAULT_DISK_BYTES: u64 = 10 << 30;
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_secs(10);
/// Most files that one look counts in one tree: about a second of work. What is beyond counts as nothing.
const MAX_FILES: usize = 500_000;
/// Deepest directory that is looked into: each is a descriptor while what is below is counted.
const MAX_DEPTH: usize = 256;

/// What a pod takes, in bytes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct PodDisk {
    /// Writable layer and logs of each container.
    containers: Vec<u64>,
    /// Each `emptyDir` on disk, by name.
    volumes: HashMap<String, u64>,
}

/// The last look.
#[derive(Debug, Default)]
pub(super) struct Disk {
    seen: Mutex<HashMap<String, PodDisk>>,
    looked: Mutex<Option<Instant>>,
    at_work: AtomicBool,
}

impl Disk {
    /// What a container took at the last look.
    pub(super) fn of_container(&self, uid: &str, index: usize) -> u64 {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.get(uid).and_then(|pod| pod.containers.get(index)).copied().unwrap_or_default()
    }

    /// Whether it is time for another look; if so, it has begun.
    fn due(&self) -> bool {
        let mut looked = self.looked.lock().unwrap_or_else(PoisonError::into_inner);
        if looked.is_some_and(|at| at.elapsed() < LOOK_EVERY) || self.at_work.swap(true, Ordering::AcqRel) {
            return false;
        }
        *looked = Some(Instant::now());
        true
    }
}

impl PodRuntime {
    /// Looks at the disk if it is time, and ends what takes more than it may. Nobody waits for it.
    pub(super) fn look_at_disk(&self) {
        if !self.shared.disk.due() {
            return;
        }
        let runtime = self.clone();
        drop(tokio::spawn(async move {
            let own = runtime.clone();
            // Without a thread there is nothing to say, and another look follows.
            let over = blocking(move || own.measure_disk()).await.unwrap_or_default();
            for (uid, index, why) in over {
                if let Err(error) = runtime.end_over_disk(&uid, index, &why).await {
                    tracing::warn!(
                        instance.uid = uid,
                        error = error.sentence(),
                        "it takes more of the disk than it may"
                    );
                }
            }
            runtime.shared.disk.at_work.store(false, Ordering::Release);
        }));
    }

    /// Measures every pod that runs. Gives the containers that take more than they may, and why.
    fn measure_disk(&self) -> Vec<(String, usize, String)> {
        let mut seen = HashMap::new();
        let mut over = Vec::new();
        for uid in self.shared.cgroups.pods() {
            let Ok(place) = self.place(&uid) else { continue };
            let Found::Record(record) = place.read() else { continue };
            if record.stage != Stage::Started {
                continue;
            }
            let disk = measure(&place, &record.spec.spec);
            over.extend(too_much(&record, &disk).into_iter().map(|(index, why)| (uid.clone(), index, why)));
            seen.insert(uid, disk);
        }
        *self.shared.disk.seen.lock().unwrap_or_else(PoisonError::into_inner) = seen;
        over
    }

    /// Ends a container that takes too much, if it still runs.
    async fn end_over_disk(&self, uid: &str, index: usize, why: &str) -> Result<(), crate::RuntimeError> {
        let (_, observed) = self.observe(uid).await?;
        let Observed::Running(facts) = observed else { return Ok(()) };
        let runs = facts.containers.get(index).is_some_and(|own| own.phase == ContainerPhase::Running);
        if runs { self.end_condemned(uid, index, (Reason::OutOfDisk, why)).await } else { Ok(()) }
    }
}

fn measure(place: &PodPlace, spec: &WorkloadSpec) -> PodDisk {
    let containers = (0..spec.all_containers().count()).map(|index| {
        let logs = bytes_below(place.logs(), |name| {
            name.split(|byte| *byte == b'.').next() == Some(index.to_string().as_bytes())
        });
        bytes_below(&place.rootfs(index).layer.join("upper"), |_| true).saturating_add(logs)
    });
    let on_disk = spec.volumes.iter().filter(|own| own.empty_dir.is_some_and(|empty| empty.medium.is_none()));
    let volumes =
        on_disk.map(|own| (own.name.clone(), bytes_below(&place.volumes().join(&own.name), |_| true)));
    PodDisk { containers: containers.collect(), volumes: volumes.collect() }
}

/// The containers that take more than they may. One that is being ended already is left out.
fn too_much(record: &Record, disk: &PodDisk) -> Vec<(usize, String)> {
    let spec = &record.spec.spec;
    let mut over = Vec::new();
    for (index, container) in spec.all_containers().enumerate() {
        if record.runs.get(index).is_none_or(|runs| runs.begun == 0 || runs.condemned.is_some()) {
            continue;
        }
        let limits = container.resources.as_ref().and_then(|own| own.limits).unwrap_or_default();
        let limit = limits.ephemeral_storage.map_or(DEFAULT_DISK_BYTES, |limit| limit.0);
        let taken = disk.containers.get(index).copied().unwrap_or_default();
        if taken > limit {
            let words = format!(
                "its files and logs take {} of the disk, and {} are allowed",
                size(taken),
                size(limit)
            );
            over.push((index, words));
            continue;
        }
        let full = container.volume_mounts.iter().find_map(|mount| {
            let volume = spec.volumes.iter().find(|volume| volume.name == mount.name)?;
            let limit = volume.empty_dir.filter(|empty| empty.medium.is_none())?.size_limit?.0;
            let taken = *disk.volumes.get(&volume.name)?;
            (taken > limit).then(|| {
                format!("volume {:?} takes {}, and {} are allowed", volume.name, size(taken), size(limit))
            })
        });
        over.extend(full.map(|why| (index, why)));
    }
    over
}

/// Bytes that the files of a tree take on the disk, of those at its top that are `meant`. What cannot be read counts as
/// nothing.
fn bytes_below(top: &Path, meant: impl Fn(&[u8]) -> bool) -> u64 {
    let mut walk = Walk { files: 0, bytes: 0 };
    // Nothing is there yet, or any more.
    if let Ok(directory) = open_directory(CWD, top) {
        let _ = walk.count(&directory, &meant, 0);
    }
    walk.bytes
}

struct Walk {
    files: usize,
    bytes: u64,
}

impl Walk {
    fn count(&mut self, directory: &OwnedFd, meant: &dyn Fn(&[u8]) -> bool, depth: usize) -> io::Result<()> {
        for entry in Dir::read_from(directory)? {
            let entry = entry?;
            let name = entry.file_name();
            if matches!(name.to_bytes(), b"." | b"..") || !meant(name.to_bytes()) {
                continue;
            }
            self.files += 1;
            if self.files > MAX_FILES {
                return Ok(());
            }
            let Ok(found) = statat(directory, name, AtFlags::SYMLINK_NOFOLLOW) else { continue };
            // Blocks have 512 bytes, whatever the file system's own are (stat(2)).
            let blocks = u64::try_from(found.st_blocks).unwrap_or_default();
            self.bytes = self.bytes.saturating_add(blocks.saturating_mul(512));
            if FileType::from_raw_mode(found.st_mode) == FileType::Directory
                && depth < MAX_DEPTH
                && let Ok(below) = open_directory(directory, name)
            {
                // What cannot be read of it is left out.
                let _ = self.count(&below, &|_| true, depth + 1);
            }
        }
        Ok(())
    }
}

fn open_directory(parent: impl std::os::fd::AsFd, name: impl rustix::path::Arg) -> Result<OwnedFd, Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    openat(parent, name, flags, Mode::empty())
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::symlink};

    use model::{
        ContainerSpec,
        manifest::{
            ResourceList, Resources,
            volume::{EmptyDir, Volume, VolumeMount},
        },
        quantity::Memory,
    };

    use super::*;
    use crate::pod::record::{Runs, nameless};

    #[test]
    fn files_are_counted_and_links_are_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        let (inside, outside) = (dir.path().join("in"), dir.path().join("out"));
        fs::create_dir_all(inside.join("a/b")).unwrap();
        fs::create_dir_all(&outside).unwrap();
        fs::write(inside.join("a/b/file"), vec![1; 1 << 20]).unwrap();
        fs::write(outside.join("file"), vec![1; 8 << 20]).unwrap();
        symlink(&outside, inside.join("a/link")).unwrap();
        let bytes = bytes_below(&inside, |_| true);
        assert!((1 << 20..2 << 20).contains(&bytes), "{bytes}");
        assert!(bytes_below(&inside, |name| name == b"b") < 1 << 16);
        assert_eq!(bytes_below(&dir.path().join("absent"), |_| true), 0);
        symlink(&outside, dir.path().join("top")).unwrap();
        assert_eq!(bytes_below(&dir.path().join("top"), |_| true), 0);
    }

    #[test]
    fn container_is_over_by_its_own_limit_or_by_that_of_a_volume_it_mounts() {
        let limits = ResourceList { ephemeral_storage: Some(Memory(100)), ..ResourceList::default() };
        let mount = VolumeMount { name: "v".to_owned(), ..VolumeMount::default() };
        let limited = ContainerSpec {
            resources: Some(Resources { limits: Some(limits), requests: None }),
            ..ContainerSpec::default()
        };
        let mounting = ContainerSpec { volume_mounts: vec![mount], ..ContainerSpec::default() };
        let empty = EmptyDir { medium: None, size_limit: Some(Memory(50)) };
        let mut spec = nameless("u");
        spec.spec.containers = vec![limited, mounting, ContainerSpec::default()];
        spec.spec.volumes =
            vec![Volume { name: "v".to_owned(), empty_dir: Some(empty), ..Volume::default() }];
        let mut record = Record::new(spec, "boot".to_owned());
        record.runs.fill(Runs { begun: 1, ..Runs::default() });
        let disk = |containers: [u64; 3], volume| PodDisk {
            containers: containers.to_vec(),
            volumes: HashMap::from([("v".to_owned(), volume)]),
        };
        let over = |record: &Record, disk: &PodDisk| {
            too_much(record, disk).into_iter().map(|(index, _)| index).collect::<Vec<_>>()
        };
        assert_eq!(over(&record, &disk([100, 101, 101], 50)), [0_usize; 0]);
        assert_eq!(over(&record, &disk([101, 1 << 20, 11 << 30], 51)), [0, 1, 2]);
        record.runs[1].condemned = Some("why".to_owned());
        assert_eq!(over(&record, &disk([0, 0, 0], 51)), [0_usize; 0]);
    }
}
