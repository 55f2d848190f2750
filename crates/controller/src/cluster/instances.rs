//! Instances: asking for them and ending them.

use std::{collections::BTreeSet, ops::Bound, sync::Arc};

use model::{
    Instance, Kind, Reason, Revision, Status, WorkloadRecord,
    api::{CreateInstances, Page, Versioned},
    key,
    manifest::{MAX_REPLICAS, function::NODE_PORTS, names},
};
use store::{Expect, Txn};

use super::{Cluster, ClusterError, IdempotencyKey, MAX_TRIES, expect_revision, guard_free, to_json};

/// An instance of the mirror.
type Shared = Arc<Versioned<Instance>>;

/// How an instance is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Deletion {
    /// The node ends it; the row goes when nothing of it is left.
    Graceful,
    /// The row goes at once. A node that still runs it removes it when it is next heard from.
    Force,
}

/// Which instances to list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct InstanceFilter {
    /// Only those of this workload, by id or name.
    pub workload: Option<String>,
    /// Only those on this node.
    pub node: Option<String>,
    /// Only those that stand here.
    pub status: Option<Status>,
}

impl InstanceFilter {
    fn holds(&self, instance: &Instance) -> bool {
        let workload = |wanted: &String| *wanted == instance.workload_id || *wanted == instance.workload;
        self.workload.as_ref().is_none_or(workload)
            && self.node.as_ref().is_none_or(|wanted| instance.node.as_ref() == Some(wanted))
            && self.status.is_none_or(|wanted| instance.status == wanted)
    }
}

impl Cluster {
    /// Makes instances of a workload, all of them or none. They are visible when this returns.
    ///
    /// # Errors
    /// The workload is unknown, the name is taken or no name, too many are asked for, or the store failed.
    pub async fn create_instances(
        &self,
        request: CreateInstances,
        key: Option<IdempotencyKey>,
    ) -> Result<Vec<String>, ClusterError> {
        let count = check(&request)?;
        for _ in 0..MAX_TRIES {
            if let Some(ids) = self.answered(key.as_ref()).await? {
                return Ok(ids);
            }
            let found = self.workload(&request.workload);
            let workload =
                found.ok_or_else(|| ClusterError::WorkloadNotFound { name: request.workload.clone() })?;
            let names = self.free_names(&workload.object, request.name.as_deref(), count)?;
            let mut txn = self.txn().guard(
                key::workload(workload.object.manifest.kind, &workload.object.manifest.name),
                Expect::At(workload.revision),
            );
            let wants_port = wants_port(&workload.object);
            // Whoever chooses sees what was chosen before.
            let _alone = if wants_port { Some(self.0.choosing.lock().await) } else { None };
            let mut ports = if wants_port { self.free_ports() } else { Vec::new().into_iter() };
            for id in &names {
                let instance = self.new_instance(&workload.object, id, &mut ports);
                txn = txn.create(key::instance(instance.kind, id), to_json("an instance", &instance)?);
            }
            if let Some(name) = &request.name {
                txn = guard_free(txn, workload.object.manifest.kind, name);
            }
            let txn = self.remember(txn, key.as_ref(), &names)?;
            if self.commit(txn).await?.is_some() {
                for id in &names {
                    tracing::info!(
                        instance.id = id,
                        workload.name = workload.object.manifest.name,
                        "instance asked for"
                    );
                }
                return Ok(names);
            }
        }
        Err(ClusterError::Contended { tries: MAX_TRIES })
    }

    /// Ends an instance. Ok if that was asked for already.
    ///
    /// # Errors
    /// There is none, it is not at the expected revision, or the store failed.
    pub async fn delete_instance(
        &self,
        id: &str,
        how: Deletion,
        expected: Option<Revision>,
    ) -> Result<(), ClusterError> {
        for _ in 0..MAX_TRIES {
            let old =
                self.instance(id).ok_or_else(|| ClusterError::InstanceNotFound { id: id.to_owned() })?;
            expect_revision(&old, expected)?;
            // An instance that no node was told of has left nothing anywhere.
            let at_once = how == Deletion::Force || old.object.node.is_none();
            if old.object.is_deleting() && !at_once {
                return Ok(());
            }
            let element = key::instance(old.object.kind, id);
            let txn =
                if at_once { self.txn().remove(element, old.revision) } else { self.marked(element, &old)? };
            if self.commit(txn).await?.is_some() {
                tracing::info!(instance.id = id, "the end of the instance was asked for");
                return Ok(());
            }
        }
        Err(ClusterError::Contended { tries: MAX_TRIES })
    }

    fn marked(&self, element: String, old: &Versioned<Instance>) -> Result<Txn, ClusterError> {
        let marked = Instance {
            status: Status::Destroying,
            reason: Some(Reason::Deleted),
            message: Some("its deletion was asked for".to_owned()),
            deleted_at: Some(self.now()),
            ..old.object.clone()
        };
        Ok(self.txn().replace(element, old.revision, to_json("an instance", &marked)?))
    }

    /// The instance of this id.
    #[must_use]
    pub fn instance(&self, id: &str) -> Option<Shared> {
        self.mirror().read().instances.get(id).cloned()
    }

    /// A page of the instances, ordered by id; `after` is the continuation of the page before.
    #[must_use]
    pub fn instances(&self, filter: &InstanceFilter, after: Option<&str>, limit: usize) -> Page<Shared> {
        let state = self.mirror().read();
        let mut items: Vec<Shared> = match &filter.workload {
            // The index by workload, because clients ask for these in a hurry.
            Some(wanted) => {
                let known = state.workload(wanted).map_or(wanted, |workload| &workload.object.id);
                let all = state
                    .instances_of(known)
                    .filter(|one| after.is_none_or(|after| one.object.id.as_str() > after));
                all.filter(|instance| filter.holds(&instance.object)).take(limit + 1).cloned().collect()
            }
            None => {
                let start = after.map_or(Bound::Unbounded, Bound::Excluded);
                let all =
                    state.instances.range::<str, _>((start, Bound::Unbounded)).map(|(_, instance)| instance);
                all.filter(|instance| filter.holds(&instance.object)).take(limit + 1).cloned().collect()
            }
        };
        let more = items.len() > limit;
        items.truncate(limit);
        let next = items.last().filter(|_| more).map(|last| last.object.id.clone());
        Page { items, revision: state.revision, next }
    }

    /// Names for new instances: the one that was asked for, or made ones that are free.
    fn free_names(
        &self,
        workload: &WorkloadRecord,
        asked: Option<&str>,
        count: usize,
    ) -> Result<Vec<String>, ClusterError> {
        let state = self.mirror().read();
        if let Some(name) = asked {
            let taken = state.instances.contains_key(name);
            let error = || ClusterError::NameTaken { kind: "instance", name: name.to_owned() };
            return if taken { Err(error()) } else { Ok(vec![name.to_owned()]) };
        }
        let mut names = BTreeSet::new();
        while names.len() < count {
            let name = self.0.ids.instance_name(&workload.manifest.name);
            if !state.instances.contains_key(&name) {
                names.insert(name);
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Ports of the node for new instances of Functions that name none: those that no instance has, and no program of a
    /// node as far as is known; from anywhere among them on.
    fn free_ports(&self) -> std::vec::IntoIter<u16> {
        let state = self.mirror().read();
        let published = state.instances.values().flat_map(|one| one.object.spec.published());
        let live = self.live();
        let measured = live.heard.values().filter_map(|heard| heard.metrics.as_ref());
        let listening = measured.flat_map(|metrics| &metrics.listening).map(|own| own.port);
        let taken: BTreeSet<u16> = published.map(|port| port.port).chain(listening).collect();
        let first = self.0.ids.number(NODE_PORTS);
        let all = (first..=*NODE_PORTS.end()).chain(*NODE_PORTS.start()..first);
        all.filter(|port| !taken.contains(port)).collect::<Vec<_>>().into_iter()
    }

    fn new_instance(
        &self,
        workload: &WorkloadRecord,
        id: &str,
        ports: &mut impl Iterator<Item = u16>,
    ) -> Instance {
        let manifest = &workload.manifest;
        Instance {
            id: id.to_owned(),
            uid: self.0.ids.uuid(),
            workload_id: workload.id.clone(),
            workload: manifest.name.clone(),
            namespace: key::NAMESPACE.to_owned(),
            kind: manifest.kind,
            status: Status::Pending,
            node: None,
            reason: None,
            message: None,
            ip: None,
            ports: Vec::new(),
            exit_code: None,
            restarts: 0,
            start_times: None,
            ready: false,
            containers: Vec::new(),
            created_at: self.now(),
            started_at: None,
            finished_at: None,
            deleted_at: None,
            spec: match manifest.kind {
                Kind::Pod => manifest.spec.clone(),
                Kind::Function => manifest.spec.of_function(ports.next()),
            },
        }
    }
}

fn wants_port(workload: &WorkloadRecord) -> bool {
    workload.manifest.kind == Kind::Function && workload.manifest.spec.wants_port()
}

fn check(request: &CreateInstances) -> Result<usize, ClusterError> {
    let replicas = request.replicas.unwrap_or(1);
    if replicas > MAX_REPLICAS {
        let what = format!("{replicas} replicas were asked for in one request");
        return Err(ClusterError::TooMany { what, limit: MAX_REPLICAS as usize });
    }
    if let Some(name) = &request.name {
        if replicas != 1 {
            let detail = format!(
                "one name cannot be given to {replicas} instances; leave out the name or the replicas"
            );
            return Err(ClusterError::InvalidRequest { detail });
        }
        names::name(name)
            .map_err(|allowed| ClusterError::InvalidRequest { detail: format!("{name:?}: {allowed}") })?;
    }
    Ok(replicas as usize)
}
