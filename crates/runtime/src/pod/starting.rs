//! Starts of containers: the first one and every further one.
//!
//! ```text
//!  look ─▶ mark in the record (run n has begun) ─▶ files of run n-1 go, fresh root file system ─▶ one call to the shim
//! ```
//! *Guarantee*: the mark is on disk before anything of the run exists, and files carry the number of their run; so
//! whatever dies in between, a run is begun once, and an earlier run's end is never taken for its own.

use std::{fs, io, time::Duration};

use images::{Image, Reference};
use jiff::Timestamp;
use model::{
    ContainerPhase, ContainerSpec, ContainerStatus, Kind, PastRun, Reason,
    lifecycle::{Facts, Observed, containers},
};
use network::namespace;
use tokio::time::Instant;

use super::{
    PodRuntime, blocking, fault,
    files::{EXIT_FILE, ExitFile, PROCESS_FILE, read_whole, write_whole},
    function, given,
    limits::Limits,
    link::LinkError,
    prepare::{START_FILE, StartFile},
    record::{PodPlace, Record, Runs, Stage},
    shim::{
        log,
        wire::{Answer, ContainerOrder, Request, SharedPids},
    },
};
use crate::RuntimeError;

/// Runs whose logs are kept: the present one and the one before.
const KEPT_RUNS: u32 = 2;

impl PodRuntime {
    /// Starts containers, to the end even if nobody waits.
    pub(super) async fn start_containers(&self, uid: &str, which: &[usize]) -> Result<(), RuntimeError> {
        let _at_work = self.shared.busy.work_on(uid).await;
        let (record, observed) = self.observe(uid).await?;
        let (mut record, facts) = match (record, observed) {
            (Some(record), Observed::Prepared) => (record, Facts::default()),
            (Some(record), Observed::Running(facts)) if record.stage == Stage::Started => (record, facts),
            _ => {
                let operation = format!("start instance {uid}");
                return Err(fault::words(
                    operation,
                    Reason::StartFailed,
                    "it is not prepared, or over already",
                ));
            }
        };
        let place = self.place(uid)?;
        let due = mark(&mut record, which, &facts.containers);
        if due.is_empty() {
            return Ok(());
        }
        record.stage = Stage::Started;
        place.write(&record).map_err(|error| fault::record(uid, error))?;
        let mut orders = Vec::with_capacity(due.len());
        for index in due {
            match self.ready_for_run(&place, &record, index).await {
                Ok(order) => orders.push(order),
                Err(error) => could_not_begin(&place, &record, index, &error.sentence())?,
            }
        }
        if orders.is_empty() {
            return Ok(());
        }
        match self.shared.link.call(Request::Start { pod: uid.to_owned(), containers: orders }).await {
            // Why one could not start is in its files.
            Ok(Answer::Started | Answer::StartFailed { .. }) => Ok(()),
            Ok(_) => Err(self.start_lost(uid, LinkError::Lost).await),
            Err(error) => Err(self.start_lost(uid, error).await),
        }
    }

    /// Nobody knows how far a start came: nothing of it may stay.
    async fn start_lost(&self, uid: &str, error: LinkError) -> RuntimeError {
        if let Err(left) = self.kill(uid).await {
            tracing::warn!(
                instance.uid = uid,
                error = left.sentence(),
                "a start that failed left something running"
            );
        }
        RuntimeError { transient: false, ..fault::link("start the containers", Reason::StartFailed, error) }
    }

    /// Makes a container ready for its present run, and says what the shim has to know.
    async fn ready_for_run(
        &self,
        place: &PodPlace,
        record: &Record,
        index: usize,
    ) -> Result<ContainerOrder, RuntimeError> {
        let run = record.runs.get(index).and_then(Runs::present).unwrap_or_default();
        if run > 0 {
            self.furnish_again(place, record, index, run).await?;
        }
        let Some(container) = record.spec.spec.all_containers().nth(index) else {
            return Err(fault::files(io::ErrorKind::NotFound.into()));
        };
        if record.spec.kind == Kind::Function {
            self.tell_function(place, record, index).await?;
        }
        let start: Option<StartFile> =
            read_whole(&place.container(index).join(START_FILE)).map_err(fault::files)?;
        let start = start.ok_or_else(|| fault::files(io::ErrorKind::NotFound.into()))?;
        let uid = &record.spec.uid;
        Ok(ContainerOrder {
            index: u32::try_from(index).map_err(|error| fault::files(io::Error::other(error)))?,
            run,
            dir: place.container(index),
            log: place.log(index, run),
            oci_root: place.oci(),
            owner: start.owner,
            scaffold: start.scaffold,
            terminal: container.tty,
            stdin_once: container.stdin_once,
            stop_signal: start.stop_signal,
            groups: self.shared.cgroups.container(uid, index),
            memory_dir: self.shared.cgroups.memory_dir(uid, index),
            says_itself: start.says_itself,
            runtime: start.runtime,
            host_pids: record.spec.spec.host_pid,
            shared_pids: record.spec.spec.share_process_namespace.then(|| self.shared_pids(place, record)),
        })
    }

    fn shared_pids(&self, place: &PodPlace, record: &Record) -> SharedPids {
        let keeper = record.spec.spec.all_containers().count();
        SharedPids {
            namespace: namespace::pid_path(&place.ns()),
            keeper: place.keeper(),
            user: record.ids.map(|_| namespace::user_path(&place.ns())),
            groups: self.shared.cgroups.container(&record.spec.uid, keeper),
        }
    }

    /// Takes away what an earlier run left, and gives the container a fresh root file system and control group.
    async fn furnish_again(
        &self,
        place: &PodPlace,
        record: &Record,
        index: usize,
        run: u32,
    ) -> Result<(), RuntimeError> {
        let dir = place.container(index);
        for file in [PROCESS_FILE, EXIT_FILE] {
            remove_file(&dir.join(file)).map_err(fault::files)?;
        }
        if let Some(old) = run.checked_sub(KEPT_RUNS) {
            for number in 0..log::FILES {
                remove_file(&log::rotated(&place.log(index, old), number)).map_err(fault::files)?;
            }
        }
        let Some(container) = record.spec.spec.all_containers().nth(index) else { return Ok(()) };
        let (cgroups, uid) = (self.shared.cgroups.clone(), record.spec.uid.clone());
        let limits = Limits::of_container(&record.spec.spec, container, record.default_memory);
        let limits = function::limits(&record.spec, limits);
        let made = blocking(move || cgroups.make_container_anew(&uid, index, &limits)).await;
        made.map_err(fault::files)?.map_err(fault::group)?;
        if record.spec.kind == Kind::Function {
            let content = self.content_of_run(place, record, index, container).await?;
            self.shared.images.unmount_rootfs(place.rootfs(index)).await.map_err(fault::snapshot)?;
            return self.furnish_function(place, record, (index, container), content).await.map(drop);
        }
        // Before the root file system that stands on it goes: from here on somebody holds it.
        let image = self.image_of_run(place, record, index, container).await?;
        self.shared.images.unmount_rootfs(place.rootfs(index)).await.map_err(fault::snapshot)?;
        self.furnish_container(place, record, (index, container), image).await.map(drop)
    }

    /// The image that the container was first made from, which its mount kept on this machine; it is fetched again if it
    /// is gone all the same.
    async fn image_of_run(
        &self,
        place: &PodPlace,
        record: &Record,
        index: usize,
        container: &ContainerSpec,
    ) -> Result<std::sync::Arc<Image>, RuntimeError> {
        let reference: Reference = container.image.parse().map_err(|error: images::ReferenceError| {
            fault::words("find the image".to_owned(), Reason::ImagePullFailed, &error.to_string())
        })?;
        let first = record.image_digests.get(index).cloned().flatten();
        let by_digest = first.and_then(|digest| Some(reference.by_digest(digest.parse().ok()?)));
        let images = &self.shared.images;
        if let Some(image) = by_digest.and_then(|pinned| images.get(&pinned)) {
            return Ok(image);
        }
        let spec = &record.spec.spec;
        let given = given::load(place, spec).map_err(fault::files)?;
        self.fetch(container, spec, &given, &|_| {}).await
    }

    /// Ends one container for a reason of its own: asks it, and kills it when its grace period is over.
    pub(super) async fn end_condemned(
        &self,
        uid: &str,
        index: usize,
        (reason, why): (Reason, &str),
    ) -> Result<(), RuntimeError> {
        let at_work = self.shared.busy.work_on(uid).await;
        let place = self.place(uid)?;
        let super::record::Found::Record(mut record) = place.read() else { return Ok(()) };
        if let Some(runs) = record.runs.get_mut(index)
            && record.stage == Stage::Started
        {
            runs.condemned = Some(why.to_owned());
            runs.condemned_for = Some(reason);
            place.write(&record).map_err(|error| fault::record(uid, error))?;
        }
        drop(at_work);
        let spec = &record.spec.spec;
        let only = [u32::try_from(index).unwrap_or(u32::MAX)];
        let until = Instant::now() + Duration::from_secs(spec.termination_grace_period_seconds.into());
        self.run_hooks(uid, spec, &only, until).await;
        self.end_some(uid, &only, until.saturating_duration_since(Instant::now())).await
    }
}

/// Marks those of `which` that may be begun as begun, and says which they are.
fn mark(record: &mut Record, which: &[usize], seen: &[ContainerStatus]) -> Vec<usize> {
    let backoff = record.spec.spec.restart_backoff;
    let mut due = Vec::new();
    for index in which {
        let Some(runs) = record.runs.get_mut(*index) else { continue };
        match seen.get(*index).filter(|_| runs.begun > 0) {
            None if runs.begun == 0 => {}
            Some(status) if status.phase == ContainerPhase::Exited => {
                runs.quick_ends = containers::quick_ends(&backoff, status).saturating_add(1);
                runs.last = Some(past(status));
            }
            _ => continue,
        }
        runs.begun = runs.begun.saturating_add(1);
        (runs.condemned, runs.condemned_for) = (None, None);
        due.push(*index);
    }
    due
}

fn past(status: &ContainerStatus) -> PastRun {
    PastRun {
        exit_code: status.exit_code,
        reason: status.reason,
        message: status.message.clone(),
        started_at: status.started_at,
        finished_at: status.finished_at,
    }
}

/// Writes down that a run could not even be handed to the shim.
fn could_not_begin(place: &PodPlace, record: &Record, index: usize, why: &str) -> Result<(), RuntimeError> {
    let exit = ExitFile {
        start_error: Some(why.to_owned()),
        finished_at: Some(Timestamp::now()),
        run: record.runs.get(index).and_then(Runs::present).unwrap_or_default(),
        ..ExitFile::default()
    };
    write_whole(&place.container(index).join(EXIT_FILE), &exit).map_err(fault::files)
}

fn remove_file(path: &std::path::Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
