//! The record of an instance on disk, and where everything of it lies.
//!
//! ```text
//!  <state-dir>/pods/<uid>/record.json        the record
//!                         v/<name>           its volumes that are on the disk
//!                         <index>/           the writable layer of one container
//!  <state-dir>/run/<uid>/                     all that a boot of the machine ends, in memory:
//!                         ns/                files that hold its namespaces
//!                         etc/               hosts, hostname, resolv.conf
//!                         oci/               libcontainer's own state
//!                         m/<name>           its volumes that are mounts; s/<index>.<number> a part of one, as a
//!                                            container sees it
//!                         g/                 configs and secrets that it was given
//!                         keeper.json        who its first process is, if its containers share them
//!                         x/<id>/            one further program in a container: pipes or terminal, exit.json
//!                         c/<index>/         one container: rootfs, config.json, pipes, process.json, exit.json
//!  <state-dir>/volumes/<name>/                volumes that outlive instances (`local`)
//!  <state-dir>/deleted/<uid>/                 logs of instances that are gone (`deleted`)
//!  <state-dir>/logs/<uid>/<index>.log        what a container wrote in its first run
//!                         <index>.<run>.log  and in a later one; the last two are kept
//! ```
//! What is in memory costs no disk, and a machine that went down has left nothing of it.
//!
//! *Guarantees*: the record is the first thing that is made and the last that is removed; it is whole at every instant;
//! a uid that is not a uuid never becomes a path.

use std::{
    collections::BTreeSet,
    fs::{self, DirBuilder},
    io,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use images::RootfsPlace;
use jiff::Timestamp;
use model::{Kind, PastRun, Reason, StartTimes, WorkloadSpec, lifecycle::Facts, quantity::Memory};
use network::{Attachment, namespace};
use serde::{Deserialize, Serialize};
use userns::IdRange;
use uuid::Uuid;

use super::files::{EXIT_FILE, ExitFile, PROCESS_FILE, ProcessFile, append, read_last, read_whole};
use super::{
    function,
    memory::{self, InMemory},
    observed::ContainerFiles,
    remove_dir, volumes,
};
use crate::InstanceSpec;

/// Name of the directory, below the state directory, of what lives no longer than a boot of the machine.
pub const RUN_DIR: &str = "run";
/// Where that is. Devices are those that a microVM is shown. A file that a container can write to, as `/etc/hosts`, counts
/// as its memory.
const RUN_IN: InMemory = InMemory { mode: "0700", bytes: None, stays: false, programs: false, devices: true };
/// Name of the directory, in memory, of a pod's containers.
const CONTAINERS: &str = "c";

/// How far an instance has come. It only advances.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Stage {
    /// Recorded; what it needs is being made.
    Preparing,
    /// Everything that it needs is there.
    Prepared,
    /// Its start has begun. How often each container was begun is in the record.
    Started,
    /// Its end was asked for: nothing of it is begun any more.
    Ending,
    /// It is over, and only record and logs are left.
    Released,
}

/// The runs of one container.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Runs {
    /// How often it was begun.
    pub begun: u32,
    /// Runs before the present one, in a row, that ended soon.
    pub quick_ends: u32,
    /// Why the present run is being ended, if we end it before the others.
    pub condemned: Option<String>,
    /// The code for that.
    pub condemned_for: Option<Reason>,
    /// How the run before the present one ended.
    pub last: Option<PastRun>,
}

impl Runs {
    /// Number of the present run, from 0; None if it was never begun.
    #[must_use]
    pub const fn present(&self) -> Option<u32> {
        self.begun.checked_sub(1)
    }
}

/// The record of one instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// What it is.
    pub spec: InstanceSpec,
    /// How far it has come.
    pub stage: Stage,
    /// Start of the machine in which it came so far.
    pub boot_id: String,
    /// When it was recorded.
    pub recorded_at: Timestamp,
    /// Digest of each container's image, once known.
    #[serde(default)]
    pub image_digests: Vec<Option<String>>,
    /// The runs of each container.
    #[serde(default)]
    pub runs: Vec<Runs>,
    /// Ids of its user namespace, if it has one.
    #[serde(default)]
    pub ids: Option<IdRange>,
    /// Memory that its node gave each container for which nobody says anything.
    #[serde(default)]
    pub default_memory: Option<Memory>,
    /// Its place in the network, while it has one.
    #[serde(default)]
    pub attachment: Option<Attachment>,
    /// Where the time of its preparation went, and when it was over.
    #[serde(default)]
    pub prepared: Option<(StartTimes, Timestamp)>,
    /// What was known about it when it was released.
    #[serde(default)]
    pub facts: Option<Facts>,
}

impl Record {
    /// The record of an instance of which there is nothing yet.
    #[must_use]
    pub fn new(spec: InstanceSpec, boot_id: String) -> Self {
        let count = spec.spec.all_containers().count();
        Self {
            spec,
            stage: Stage::Preparing,
            boot_id,
            recorded_at: Timestamp::now(),
            image_digests: vec![None; count],
            runs: vec![Runs::default(); count],
            ids: None,
            default_memory: None,
            attachment: None,
            prepared: None,
            facts: None,
        }
    }
}

impl Record {
    /// A record as this version has it: one of a version that began each container once has no runs.
    fn whole(mut self) -> Self {
        let begun = u32::from(self.stage >= Stage::Started);
        let count = self.spec.spec.all_containers().count();
        self.runs.resize(count, Runs { begun, ..Runs::default() });
        self
    }
}

/// What was found where a record should be.
#[derive(Debug)]
pub enum Found {
    /// Nothing at all.
    Nothing,
    /// A record.
    Record(Box<Record>),
    /// A directory without a record that can be understood.
    Torn {
        /// What is wrong with it.
        why: io::Error,
    },
}

/// The places of all instances of one node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Places {
    state_dir: PathBuf,
}

impl Places {
    /// The places below `state_dir`.
    #[must_use]
    pub fn new(state_dir: PathBuf) -> Self {
        Self { state_dir }
    }

    /// Directory of the shim.
    #[must_use]
    pub fn shim(&self) -> PathBuf {
        self.state_dir.join("shim")
    }

    /// Directory of all pods.
    #[must_use]
    pub fn pods(&self) -> PathBuf {
        self.state_dir.join("pods")
    }

    /// Directory, in memory, of what lives no longer than a boot of the machine.
    #[must_use]
    pub fn run(&self) -> PathBuf {
        self.state_dir.join(RUN_DIR)
    }

    /// Directory, in memory, of what says which containers stand on which image.
    #[must_use]
    pub fn leases(&self) -> PathBuf {
        self.run().join("leases")
    }

    /// Makes the directory in memory, unless it is there. Before, mounts below the state directory become this node's alone.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn mount_run(&self) -> io::Result<()> {
        namespace::keep_mounts_private(&self.state_dir).map_err(io::Error::other)?;
        memory::mount(&self.run(), RUN_IN)
    }

    /// Takes away what is mounted on the disk's side: pods of a riklet from before there was one in memory had it there.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn unmount_former(&self) -> io::Result<()> {
        let pods = fs::canonicalize(self.pods())?;
        // The inner ones first.
        namespace::mount_points()?
            .iter()
            .rev()
            .filter(|point| point.starts_with(&pods))
            .try_for_each(|point| volumes::unmount_all(point))
    }

    /// Takes the directory in memory away.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn unmount_run(&self) -> io::Result<()> {
        volumes::take_away(&self.run())
    }

    /// Directory of the volumes that outlive pods.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.state_dir.join("volumes")
    }

    /// Directory of the logs of pods that are gone.
    #[must_use]
    pub fn deleted(&self) -> PathBuf {
        self.state_dir.join("deleted")
    }

    /// Directory of all logs.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.state_dir.join("logs")
    }

    /// The place of one pod.
    ///
    /// # Errors
    /// If `uid` is not a uuid in its usual form.
    pub fn pod(&self, uid: &str) -> io::Result<PodPlace> {
        let usual = Uuid::try_parse(uid).is_ok_and(|parsed| parsed.as_hyphenated().to_string() == uid);
        if !usual {
            let why = format!("{uid:?} is not a uuid in its usual form");
            return Err(io::Error::new(io::ErrorKind::InvalidInput, why));
        }
        Ok(PodPlace {
            dir: self.pods().join(uid),
            run: self.run().join(uid),
            logs: self.logs().join(uid),
            local_volumes: self.volumes(),
        })
    }

    /// Uids of all pods that have a directory. Others than pods' directories are left out.
    ///
    /// # Errors
    /// What the file system says.
    pub fn uids(&self) -> io::Result<Vec<String>> {
        let entries = match fs::read_dir(self.pods()) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut uids = Vec::new();
        for entry in entries {
            match entry?.file_name().into_string() {
                Ok(name) if self.pod(&name).is_ok() => uids.push(name),
                Ok(name) => tracing::warn!(name, "not a pod's directory; left alone"),
                Err(name) => tracing::warn!(?name, "not a pod's directory; left alone"),
            }
        }
        uids.sort_unstable();
        Ok(uids)
    }
}

/// The place of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PodPlace {
    dir: PathBuf,
    run: PathBuf,
    logs: PathBuf,
    local_volumes: PathBuf,
}

impl PodPlace {
    /// Uid of the pod.
    #[must_use]
    pub fn uid(&self) -> String {
        self.dir.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Its directory on the disk.
    #[must_use]
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Its directory in memory.
    #[must_use]
    pub fn run(&self) -> &Path {
        &self.run
    }

    /// Its logs' directory.
    #[must_use]
    pub fn logs(&self) -> &Path {
        &self.logs
    }

    /// Files that hold its namespaces.
    #[must_use]
    pub fn ns(&self) -> PathBuf {
        self.run.join("ns")
    }

    /// Files that its containers find in `/etc`.
    #[must_use]
    pub fn etc(&self) -> PathBuf {
        self.run.join("etc")
    }

    /// libcontainer's own state.
    #[must_use]
    pub fn oci(&self) -> PathBuf {
        self.run.join("oci")
    }

    /// File that says who its first process is, if its containers share their processes.
    #[must_use]
    pub fn keeper(&self) -> PathBuf {
        self.run.join("keeper.json")
    }

    /// Directory of further programs in the containers.
    #[must_use]
    pub fn execs(&self) -> PathBuf {
        self.run.join("x")
    }

    /// Directory of the volumes that are plain directories.
    #[must_use]
    pub fn volumes(&self) -> PathBuf {
        self.dir.join("v")
    }

    /// Directory of the volumes that are mounts.
    #[must_use]
    pub fn mounted_volumes(&self) -> PathBuf {
        self.run.join("m")
    }

    /// Directory of the volumes that outlive it.
    #[must_use]
    pub fn local_volumes(&self) -> &Path {
        &self.local_volumes
    }

    /// Directory of the parts of volumes that containers see instead of the whole.
    #[must_use]
    pub fn volume_parts(&self) -> PathBuf {
        self.run.join("s")
    }

    /// Directory, in memory, of the configs and secrets that it was given.
    #[must_use]
    pub fn given(&self) -> PathBuf {
        self.run.join("g")
    }

    /// Directory of one container.
    #[must_use]
    pub fn container(&self, index: usize) -> PathBuf {
        self.run.join(CONTAINERS).join(index.to_string())
    }

    /// Where the root file system of one container is.
    #[must_use]
    pub fn rootfs(&self, index: usize) -> RootfsPlace {
        RootfsPlace { mount: self.container(index), layer: self.dir.join(index.to_string()) }
    }

    /// Indices of the containers of which something is there.
    #[must_use]
    pub fn containers(&self) -> BTreeSet<usize> {
        let entries = [fs::read_dir(&self.dir), fs::read_dir(self.run.join(CONTAINERS))];
        let names = entries.into_iter().flatten().flatten().flatten().map(|entry| entry.file_name());
        names.filter_map(|name| name.to_str()?.parse().ok()).collect()
    }

    /// Removes all files of the pod but its record. Its volumes must be gone: nothing is removed below where they were.
    ///
    /// # Errors
    /// What the file system says.
    pub fn remove_parts(&self) -> io::Result<()> {
        for index in self.containers() {
            remove_dir(&self.rootfs(index).layer)?;
        }
        for part in [self.run.join(CONTAINERS), self.execs(), self.oci(), self.etc(), self.ns()] {
            remove_dir(&part)?;
        }
        for removed in [fs::remove_file(self.keeper()), fs::remove_dir(&self.run)] {
            match removed {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        Ok(())
    }

    /// Log of one run of a container.
    #[must_use]
    pub fn log(&self, index: usize, run: u32) -> PathBuf {
        self.logs.join(log_name(index, run))
    }

    fn record(&self) -> PathBuf {
        self.dir.join("record.json")
    }

    /// Reads the record.
    #[must_use]
    pub fn read(&self) -> Found {
        match read_last(&self.record()) {
            Ok(Some(record)) => Found::Record(Box::new(Record::whole(record))),
            Ok(None) if !self.dir.exists() => Found::Nothing,
            Ok(None) => {
                Found::Torn { why: io::Error::new(io::ErrorKind::NotFound, "there is no record.json") }
            }
            Err(why) => Found::Torn { why },
        }
    }

    /// Writes the record.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        match append(&self.record(), record) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                DirBuilder::new().recursive(true).mode(0o700).create(&self.dir)?;
                append(&self.record(), record)
            }
            other => other,
        }
    }

    /// What the files say about the present run of each container. A file that cannot be understood counts as absent,
    /// and is told of.
    #[must_use]
    pub fn container_files(&self, record: &Record) -> Vec<ContainerFiles> {
        let files = record.runs.iter().enumerate().map(|(index, runs)| {
            let Some(present) = runs.present() else { return ContainerFiles::default() };
            let dir = self.container(index);
            let process: Option<ProcessFile> = read_told(&dir.join(PROCESS_FILE));
            let exit: Option<ExitFile> = read_told(&dir.join(EXIT_FILE));
            let exit = exit.filter(|file| file.run == present);
            // Only a microVM's supervisor says more than a code.
            let said = exit.as_ref().filter(|_| record.spec.kind == Kind::Function);
            let said = said.and_then(|_| function::last_words(&dir));
            ContainerFiles { process: process.filter(|file| file.run == present), exit, said }
        });
        files.collect()
    }
}

/// Name of the log of one run of a container.
#[must_use]
pub fn log_name(index: usize, run: u32) -> String {
    if run == 0 { format!("{index}.log") } else { format!("{index}.{run}.log") }
}

fn read_told<T: serde::de::DeserializeOwned>(path: &Path) -> Option<T> {
    read_whole(path).unwrap_or_else(|error| {
        tracing::warn!(%error, path = %path.display(), "a container's file is not understood");
        None
    })
}

/// What stands for an instance whose record cannot be understood: enough to remove it.
#[must_use]
pub fn nameless(uid: &str) -> InstanceSpec {
    InstanceSpec {
        id: uid.to_owned(),
        uid: uid.to_owned(),
        kind: Kind::Pod,
        spec: WorkloadSpec::default(),
        given: Arc::default(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UID: &str = "3f2c1d5e-0a4b-4c6d-8e7f-90a1b2c3d4e5";

    #[test]
    fn uid_that_is_not_a_uuid_never_becomes_a_path() {
        let places = Places::new(PathBuf::from("/state"));
        for uid in
            ["", ".", "..", "../../etc", "a/b", "3F2C1D5E-0A4B-4C6D-8E7F-90A1B2C3D4E5", &UID.replace('-', "")]
        {
            assert!(places.pod(uid).is_err(), "{uid:?}");
        }
        assert_eq!(places.pod(UID).unwrap().dir(), Path::new("/state/pods").join(UID));
    }

    #[test]
    fn record_is_read_as_written_and_a_torn_one_is_told_of() {
        let state = tempfile::tempdir().unwrap();
        let places = Places::new(state.path().to_owned());
        let place = places.pod(UID).unwrap();
        assert!(matches!(place.read(), Found::Nothing));
        let record = Record::new(nameless(UID), "boot".to_owned());
        place.write(&record).unwrap();
        assert!(matches!(place.read(), Found::Record(found) if *found == record));
        assert_eq!(places.uids().unwrap(), [UID]);
        for torn in ["", "{", "[]", "{\"spec\":1}", "\0\0\0"] {
            fs::write(place.record(), torn).unwrap();
            assert!(matches!(place.read(), Found::Torn { .. }), "{torn:?}");
        }
        fs::remove_file(place.record()).unwrap();
        assert!(matches!(place.read(), Found::Torn { .. }));
    }

    #[test]
    fn container_that_an_earlier_version_began_is_not_begun_again() {
        let state = tempfile::tempdir().unwrap();
        let place = Places::new(state.path().to_owned()).pod(UID).unwrap();
        let mut spec = nameless(UID);
        spec.spec.containers = vec![model::ContainerSpec::default()];
        for (stage, begun) in [(Stage::Prepared, 0), (Stage::Started, 1)] {
            let record = Record { stage, ..Record::new(spec.clone(), "boot".to_owned()) };
            let mut old = serde_json::to_value(&record).unwrap();
            old.as_object_mut().unwrap().remove("runs");
            fs::create_dir_all(place.dir()).unwrap();
            fs::write(place.record(), old.to_string()).unwrap();
            let Found::Record(found) = place.read() else { panic!("no record") };
            assert_eq!(found.runs.iter().map(|runs| runs.begun).collect::<Vec<_>>(), [begun]);
        }
    }

    #[test]
    fn foreign_directory_among_the_pods_is_left_out() {
        let state = tempfile::tempdir().unwrap();
        fs::create_dir_all(state.path().join("pods/lost+found")).unwrap();
        assert!(Places::new(state.path().to_owned()).uids().unwrap().is_empty());
    }
}
