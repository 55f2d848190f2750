//! The end of a pod: its containers end, what it held is given back, every trace goes.
//!
//! ```text
//!  stop     own signal ─▶ grace ─▶ KILL          a container that cannot hear its signal is killed at once
//!  release  network, mounts, groups ─▶ record: Released ─▶ files of the containers
//!  remove   all of that ─▶ logs ─▶ everything but the record ─▶ the record
//! ```
//! *Guarantee*: each may be repeated from wherever it stopped; the record is the last to go, so nothing is forgotten.

use std::{fs, io, time::Duration};

use model::{
    Reason,
    lifecycle::{Facts, Observed},
};
use network::Owner;
use tokio::time::{Instant, timeout_at};

use super::{
    OpenError, PodRuntime, blocking, fault,
    record::{Found, PodPlace, Stage},
    remove_dir,
    shim::wire::{Answer, Request},
};
use crate::RuntimeError;

/// How long killed processes may take to vanish. One that waits for a disk or a server that is gone takes longer: the
/// removal is tried again, and says so.
const KILL_DEADLINE: Duration = Duration::from_secs(10);

impl PodRuntime {
    pub(super) async fn stop_pod(&self, uid: &str) -> Result<(), RuntimeError> {
        let place = self.place(uid)?;
        let grace = match place.read() {
            Found::Nothing => return Ok(()),
            Found::Torn { .. } => 0,
            Found::Record(record) => record.spec.spec.termination_grace_period_seconds,
        };
        let asked = self.shared.link.call(Request::End { pod: uid.to_owned() }).await;
        let failed = |error| fault::link("end the containers", Reason::RemovalFailed, error);
        let hearing = match asked.map_err(failed)? {
            Answer::Signalled { hearing, .. } => hearing,
            _ => 0,
        };
        let grace = Duration::from_secs(if hearing == 0 { 0 } else { grace.into() });
        if grace > Duration::ZERO && self.wait_until_ended(uid, grace).await? {
            return Ok(());
        }
        self.kill(uid).await
    }

    async fn kill_if_running(&self, uid: &str) -> Result<(), RuntimeError> {
        let look = self.look(uid).await;
        let look =
            look.map_err(|error| fault::link("look at the containers", Reason::RemovalFailed, error))?;
        if look.starting || !look.running.is_empty() { self.kill(uid).await } else { Ok(()) }
    }

    /// Ends the containers by force.
    pub(super) async fn kill(&self, uid: &str) -> Result<(), RuntimeError> {
        let request = Request::Signal { pod: uid.to_owned(), signal: libc::SIGKILL };
        let failed = |error| fault::link("kill the containers", Reason::RemovalFailed, error);
        self.shared.link.call(request).await.map_err(failed)?;
        if self.wait_until_ended(uid, KILL_DEADLINE).await? {
            return Ok(());
        }
        let why = format!("its processes do not end, {} s after they were killed", KILL_DEADLINE.as_secs());
        let error = fault::words(format!("end instance {uid}"), Reason::RemovalFailed, &why);
        Err(RuntimeError { transient: true, ..error })
    }

    /// Whether all containers of the pod end within this time.
    async fn wait_until_ended(&self, uid: &str, within: Duration) -> Result<bool, RuntimeError> {
        let until = Instant::now() + within;
        let mut counter = self.shared.news.counter(uid);
        loop {
            counter.mark_unchanged();
            let look = self.look(uid).await;
            let look =
                look.map_err(|error| fault::link("see the containers end", Reason::RemovalFailed, error))?;
            if look.running.is_empty() && !look.starting {
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
            record.facts = Some(Facts { ip: None, ports: Vec::new(), ..facts });
            place.write(&record).map_err(|error| fault::record(uid, error))?;
        }
        let removed = blocking(move || remove_parts(&place)).await.and_then(|removed| removed);
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
        self.give_back(uid, &place).await?;
        let work = move || {
            remove_parts(&place)?;
            remove_dir(place.logs())?;
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
            for container in containers_of(place) {
                let unmounted = self.shared.images.unmount_rootfs(&container).await;
                unmounted.map_err(|error| fault::removal("a root file system", error))?;
            }
            Ok(())
        };
        tokio::try_join!(network, rest).map(|_| ())
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
        shared.network.teardown().await.map_err(|source| OpenError::Network { source })?;
        for path in [
            shared.places.pods(),
            shared.places.logs(),
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

fn containers_of(place: &PodPlace) -> Vec<std::path::PathBuf> {
    let Ok(entries) = fs::read_dir(place.dir().join("c")) else { return Vec::new() };
    entries.flatten().map(|entry| entry.path()).collect()
}

/// Removes all files of the pod but its record.
fn remove_parts(place: &PodPlace) -> io::Result<()> {
    for part in [place.dir().join("c"), place.oci(), place.etc(), place.ns()] {
        remove_dir(&part)?;
    }
    Ok(())
}
