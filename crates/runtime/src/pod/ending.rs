//! The end of a pod: its containers end, what it held is given back, every trace goes.
//!
//! ```text
//!  stop     hooks ─▶ own signal ─▶ grace ─▶ KILL   a container that cannot hear its signal is killed at once
//!  release  network, mounts, groups ─▶ record: Released ─▶ files of the containers
//!  remove   all of that ─▶ logs ─▶ everything but the record ─▶ the record
//! ```
//! *Guarantee*: each may be repeated from wherever it stopped; the record is the last to go, so nothing is forgotten.

use std::{fs, time::Duration};

use model::{
    Reason, WorkloadSpec,
    lifecycle::{Facts, Observed},
};
use network::Owner;
use tokio::time::{Instant, timeout_at};

use super::{
    OpenError, PodRuntime, blocking, fault,
    record::{Found, PodPlace, Stage},
    remove_dir,
    shim::wire::{Answer, Request},
    volumes,
};
use crate::RuntimeError;

/// How long killed processes may take to vanish. One that waits for a disk or a server that is gone takes longer: the
/// removal is tried again, and says so.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

impl PodRuntime {
    pub(super) async fn stop_pod(&self, uid: &str) -> Result<(), RuntimeError> {
        let place = self.place(uid)?;
        let record = match place.read() {
            Found::Nothing => return Ok(()),
            Found::Torn { .. } => return self.kill(uid).await,
            Found::Record(mut record) => {
                if record.stage == Stage::Started {
                    record.stage = Stage::Ending;
                    place.write(&record).map_err(|error| fault::record(uid, error))?;
                }
                record
            }
        };
        let spec = &record.spec.spec;
        let until = Instant::now() + Duration::from_secs(spec.termination_grace_period_seconds.into());
        for turn in turns(spec) {
            self.run_hooks(uid, spec, &turn, until).await;
            self.end_some(uid, &turn, until.saturating_duration_since(Instant::now())).await?;
        }
        // What was being started meanwhile, and what has no turn.
        self.kill_if_running(uid).await
    }

    /// Runs what containers want to have run before they are asked to end, all if none is named; until `until` at most.
    pub(super) async fn run_hooks(&self, uid: &str, spec: &WorkloadSpec, only: &[u32], until: Instant) {
        let meant = |index: usize| only.is_empty() || only.iter().any(|own| *own as usize == index);
        let hooks = spec.all_containers().enumerate().filter(|(index, _)| meant(*index));
        let hooks = hooks.filter_map(|(index, container)| {
            let action = container.lifecycle.as_ref()?.pre_stop.as_ref()?.action()?;
            Some(async move {
                let within = until.saturating_duration_since(Instant::now());
                if let Err(fault) = self.ask_container(uid, index, action, within).await {
                    let name = &container.name;
                    tracing::info!(instance.uid = uid, container = name, fault, "its preStop hook failed");
                }
            })
        });
        futures::future::join_all(hooks).await;
    }

    /// Asks containers to end, all that run if none is named, and kills what is still there after `grace`.
    pub(super) async fn end_some(
        &self,
        uid: &str,
        only: &[u32],
        grace: Duration,
    ) -> Result<(), RuntimeError> {
        let asked = self.shared.link.call(Request::End { pod: uid.to_owned(), only: only.to_vec() }).await;
        let failed = |error| fault::link("end the containers", Reason::RemovalFailed, error);
        let Answer::Signalled { running, hearing } = asked.map_err(failed)? else { return Ok(()) };
        let heard = hearing > 0 && !grace.is_zero();
        if running == 0 || (heard && self.wait_until_ended(uid, only, grace).await?) {
            return Ok(());
        }
        self.kill_some(uid, only).await
    }

    async fn kill_if_running(&self, uid: &str) -> Result<(), RuntimeError> {
        let look = self.look(uid).await;
        let look =
            look.map_err(|error| fault::link("look at the containers", Reason::RemovalFailed, error))?;
        if look.starting || !look.running.is_empty() { self.kill(uid).await } else { Ok(()) }
    }

    /// Ends the containers by force.
    pub(super) async fn kill(&self, uid: &str) -> Result<(), RuntimeError> {
        self.kill_some(uid, &[]).await
    }

    async fn kill_some(&self, uid: &str, only: &[u32]) -> Result<(), RuntimeError> {
        let request = Request::Signal { pod: uid.to_owned(), only: only.to_vec(), signal: libc::SIGKILL };
        let failed = |error| fault::link("kill the containers", Reason::RemovalFailed, error);
        self.shared.link.call(request).await.map_err(failed)?;
        if self.wait_until_ended(uid, only, KILL_DEADLINE).await? {
            return Ok(());
        }
        let why = format!("its processes do not end, {} s after they were killed", KILL_DEADLINE.as_secs());
        let error = fault::words(format!("end instance {uid}"), Reason::RemovalFailed, &why);
        Err(RuntimeError { transient: true, ..error })
    }

    /// Whether these containers of the pod, all if none is named, end within this time.
    async fn wait_until_ended(
        &self,
        uid: &str,
        only: &[u32],
        within: Duration,
    ) -> Result<bool, RuntimeError> {
        let until = Instant::now() + within;
        let mut counter = self.shared.news.counter(uid);
        loop {
            counter.mark_unchanged();
            let look = self.look(uid).await;
            let look =
                look.map_err(|error| fault::link("see the containers end", Reason::RemovalFailed, error))?;
            let meant = |index: &u32| only.is_empty() || only.contains(index);
            let coming = look.starting && only.is_empty();
            if !coming && !look.running.iter().any(meant) {
                return Ok(true);
            }
            if timeout_at(until, counter.changed()).await.is_err() {
                return Ok(false);
            }
        }
    }

    pub(super) async fn release_pod(&self, uid: &str) -> Result<(), RuntimeError> {
        let _alone = self.shared.busy.alone_with(uid).await;
        let (record, observed) = self.observe(uid).await?;
        let facts = match observed {
            Observed::Absent | Observed::Released(_) => return Ok(()),
            Observed::Running(_) => {
                return Err(fault::words(format!("release instance {uid}"), Reason::Other, "it runs"));
            }
            Observed::Ended(facts) => facts,
            Observed::Partial | Observed::Prepared => Facts::default(),
        };
        let place = self.place(uid)?;
        self.give_back(uid, &place).await?;
        if let Some(mut record) = record {
            record.stage = Stage::Released;
            record.attachment = None;
            record.ids = None;
            record.facts = Some(Facts { ip: None, ports: Vec::new(), ..facts });
            place.write(&record).map_err(|error| fault::record(uid, error))?;
        }
        let removed = blocking(move || place.remove_parts()).await.and_then(|removed| removed);
        removed.map_err(|error| fault::removal("the pod's files", error))
    }

    pub(super) async fn remove_pod(&self, uid: &str) -> Result<(), RuntimeError> {
        let place = self.place(uid)?;
        if matches!(place.read(), Found::Nothing) && !place.logs().exists() {
            self.shared.news.forget(uid);
            return Ok(());
        }
        // Before, so that a start that hangs does not hold it up; and after, for one that had only begun.
        self.kill_if_running(uid).await?;
        let _alone = self.shared.busy.alone_with(uid).await;
        self.kill_if_running(uid).await?;
        let (record, observed) = self.observe(uid).await?;
        let containers = match observed {
            Observed::Ended(facts) | Observed::Released(facts) | Observed::Running(facts) => facts.containers,
            Observed::Absent | Observed::Partial | Observed::Prepared => Vec::new(),
        };
        self.give_back(uid, &place).await?;
        let shared = std::sync::Arc::clone(&self.shared);
        let work = move || {
            place.remove_parts()?;
            shared.deleted.keep(&place, record.as_deref(), containers)?;
            // The record is in there, and all else is gone.
            remove_dir(place.dir())
        };
        let removed = blocking(work).await.and_then(|removed| removed);
        removed.map_err(|error| fault::removal("the pod's files", error))?;
        self.shared.news.forget(uid);
        Ok(())
    }

    /// Gives back network, mounts and groups, whatever of them is there.
    async fn give_back(&self, uid: &str, place: &PodPlace) -> Result<(), RuntimeError> {
        let network = async {
            match uid.parse::<Owner>() {
                Ok(owner) => self.shared.network.detach(&owner, &place.ns()).await.map_err(fault::detach),
                Err(_never_attached) => Ok(()),
            }
        };
        let rest = async {
            // Groups first: whatever still runs in them holds the mounts.
            let (cgroups, own) = (self.shared.cgroups.clone(), uid.to_owned());
            let removed = blocking(move || cgroups.remove_pod(&own)).await;
            let removed = removed.map_err(|error| fault::removal("the pod's control groups", error))?;
            removed.map_err(|error| fault::removal("the pod's control groups", error))?;
            for index in place.containers() {
                let unmounted = self.shared.images.unmount_rootfs(place.rootfs(index)).await;
                unmounted.map_err(|error| fault::removal("a root file system", error))?;
            }
            let own = place.clone();
            let cleared = blocking(move || volumes::clear(&own)).await.and_then(|cleared| cleared);
            cleared.map_err(|error| fault::removal("a volume", error))
        };
        tokio::try_join!(network, rest)?;
        self.shared.ids.give_back(uid);
        Ok(())
    }

    /// Takes down everything of this node: all instances, the shim, groups, network, images. For a node that leaves.
    ///
    /// # Errors
    /// If something stays; may be repeated.
    pub async fn teardown(&self) -> Result<(), OpenError> {
        let shared = &self.shared;
        let directory = |path: &std::path::Path| {
            let path = path.to_owned();
            move |source| OpenError::Directory { path, source }
        };
        for uid in shared.places.uids().map_err(directory(&shared.places.pods()))? {
            self.remove_pod(&uid).await.map_err(|source| OpenError::Remove { uid, source })?;
        }
        shared.link.shut_down().await.map_err(|source| OpenError::Shim { source })?;
        let cgroups = shared.cgroups.clone();
        let removed = blocking(move || cgroups.remove_all()).await.map_err(directory(&shared.state_dir))?;
        removed.map_err(|source| OpenError::Cgroups { source })?;
        shared.places.unmount_run().map_err(directory(&shared.places.run()))?;
        shared.network.teardown().await.map_err(|source| OpenError::Network { source })?;
        for path in [
            shared.places.pods(),
            shared.places.logs(),
            shared.places.deleted(),
            shared.places.shim(),
            shared.state_dir.join("images"),
        ] {
            remove_dir(&path).map_err(directory(&path))?;
        }
        // Others may keep files there.
        let _ = fs::remove_dir(&shared.state_dir);
        Ok(())
    }
}

/// Who is asked to end together, in the order of the turns: all but the sidecars, then each sidecar, the last first.
fn turns(spec: &WorkloadSpec) -> Vec<Vec<u32>> {
    let index = |place: usize| u32::try_from(place).unwrap_or(u32::MAX);
    let sidecar = |place: &usize| spec.init_containers.get(*place).is_some_and(|own| own.is_sidecar());
    let (sidecars, others): (Vec<usize>, Vec<usize>) =
        (0..spec.all_containers().count()).partition(|place| sidecar(place));
    if sidecars.is_empty() {
        // All, whatever is being started included.
        return vec![Vec::new()];
    }
    let others = others.into_iter().map(index).collect();
    std::iter::once(others).chain(sidecars.into_iter().rev().map(|place| vec![index(place)])).collect()
}
