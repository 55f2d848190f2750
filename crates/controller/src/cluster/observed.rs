//! What comes back from the scheduler and the nodes: bindings, explanations, reports.
//!
//! Each is held against the record as it is now; what was decided from an older state is refused and decided again
//! by whoever decided it.

use std::collections::{BTreeMap, BTreeSet};

use model::{
    Instance, Reason, Status,
    api::Versioned,
    key,
    lifecycle::{Accepted, accept},
};
use proto::{
    link::{Binding, Decisions, Unplaced},
    node::{Ack, Numbered},
};

use store::{Expect, Txn};

use super::{Cluster, ClusterError, MAX_TRIES, to_json};

impl Cluster {
    /// Records a plan. Returns the uids of instances that had changed since: they have to be decided about again.
    pub(crate) async fn commit_plan(&self, plan: &Decisions) -> Result<Vec<String>, ClusterError> {
        let mut refused = Vec::new();
        if !plan.bindings.is_empty() && !self.commit_bindings(plan).await? {
            // Somebody changed one of them: each for itself, so that the others are not held up.
            let each =
                plan.bindings.iter().map(async |binding| (binding, self.commit_binding(binding).await));
            for (binding, bound) in futures::future::join_all(each).await {
                if !bound? {
                    refused.push(binding.uid.clone());
                }
            }
        }
        let each = plan.unplaced.iter().map(async |one| (one, self.explain(one).await));
        for (one, explained) in futures::future::join_all(each).await {
            if !explained? {
                refused.push(one.uid.clone());
            }
        }
        Ok(refused)
    }

    /// All bindings in one transaction; false if one of them was refused.
    async fn commit_bindings(&self, plan: &Decisions) -> Result<bool, ClusterError> {
        let mut txn = self.txn();
        let mut volumes = BTreeMap::<&str, BTreeSet<String>>::new();
        for binding in &plan.bindings {
            let Some(bound) = self.bound(binding) else { return Ok(false) };
            let value = to_json("an instance", &bound)?;
            txn = txn.replace(key::instance(binding.kind, &binding.id), binding.revision, value);
            let own = bound.spec.local_volumes().map(str::to_owned);
            volumes.entry(&binding.node).or_default().extend(own);
        }
        for (node, volumes) in volumes {
            let Some(with_node) = self.note_volumes(txn, node, volumes)? else { return Ok(false) };
            txn = with_node;
        }
        Ok(self.commit(txn).await?.is_some())
    }

    async fn commit_binding(&self, binding: &Binding) -> Result<bool, ClusterError> {
        for _ in 0..MAX_TRIES {
            let Some(bound) = self.bound(binding) else { return Ok(false) };
            let value = to_json("an instance", &bound)?;
            let txn = self.txn().replace(key::instance(binding.kind, &binding.id), binding.revision, value);
            let volumes: BTreeSet<String> = bound.spec.local_volumes().map(str::to_owned).collect();
            // Bindings of one plan that give the same node volumes write its record one after the other.
            let contended = !volumes.is_empty();
            let Some(txn) = self.note_volumes(txn, &binding.node, volumes)? else { return Ok(false) };
            let done = self.commit(txn).await?.is_some();
            if done || !contended {
                return Ok(done);
            }
        }
        Ok(false)
    }

    /// Has the same transaction record that a node has these volumes from now on; None if another node has one of them,
    /// or this one is gone.
    fn note_volumes(
        &self,
        txn: Txn,
        node: &str,
        volumes: BTreeSet<String>,
    ) -> Result<Option<Txn>, ClusterError> {
        if volumes.is_empty() {
            return Ok(Some(txn));
        }
        let state = self.mirror().read();
        let Some(old) = state.nodes.get(node) else { return Ok(None) };
        let new: BTreeSet<String> = volumes.difference(&old.object.volumes).cloned().collect();
        if new.is_empty() {
            // Nobody may forget one of them meanwhile.
            return Ok(Some(txn.guard(key::node(node), Expect::At(old.revision))));
        }
        if state.nodes.values().any(|other| !other.object.volumes.is_disjoint(&new)) {
            return Ok(None);
        }
        let mut record = old.object.clone();
        record.volumes.extend(new);
        Ok(Some(txn.replace(key::node(node), old.revision, to_json("a node", &record)?)))
    }

    /// The instance with its node, if it is still the one that the scheduler decided about.
    fn bound(&self, binding: &Binding) -> Option<Instance> {
        let old = self.instance(&binding.id).filter(|old| {
            old.object.uid == binding.uid
                && old.revision == binding.revision
                && old.object.status == Status::Pending
                && old.object.node.is_none()
        })?;
        Some(Instance { node: Some(binding.node.clone()), reason: None, message: None, ..old.object.clone() })
    }

    /// Records why an instance is not placed; false if it had changed since.
    async fn explain(&self, one: &Unplaced) -> Result<bool, ClusterError> {
        let decided = |old: &Versioned<Instance>| {
            old.revision == one.revision && old.object.uid == one.uid && old.object.node.is_none()
        };
        let Some(old) = self.instance(&one.id).filter(|old| decided(old)) else { return Ok(false) };
        if old.object.message.as_ref() == Some(&one.message) {
            return Ok(true);
        }
        let new = Instance {
            reason: Some(Reason::Unplaceable),
            message: Some(one.message.clone()),
            ..old.object.clone()
        };
        let value = to_json("an instance", &new)?;
        let txn = self.txn().replace(key::instance(one.kind, &one.id), old.revision, value);
        Ok(self.commit(txn).await?.is_some())
    }

    /// Records what a node says. Returns what it need not say again.
    pub(crate) async fn record_reports(
        &self,
        node: &str,
        reports: &[Numbered],
    ) -> Result<Vec<Ack>, ClusterError> {
        let each = reports.iter().map(async |numbered| {
            self.record_report(node, numbered).await?;
            Ok(Ack { uid: numbered.report.uid.clone(), sequence: numbered.sequence })
        });
        futures::future::join_all(each).await.into_iter().collect()
    }

    async fn record_report(&self, node: &str, numbered: &Numbered) -> Result<(), ClusterError> {
        let report = &numbered.report;
        for _ in 0..MAX_TRIES {
            // Of an instance that is gone there is nothing to record; the node learns it from what it is assigned.
            let Some(old) = self.instance(&report.id) else { return Ok(()) };
            let element = key::instance(old.object.kind, &report.id);
            let txn = match accept(&old.object, node, report) {
                Accepted::Unchanged => return Ok(()),
                Accepted::Refused(why) => {
                    tracing::debug!(
                        instance.id = report.id,
                        node.name = node,
                        ?why,
                        "a report was not believed"
                    );
                    return Ok(());
                }
                Accepted::Changed(new) => {
                    if new.status != old.object.status {
                        tell(&new);
                    }
                    self.txn().replace(element, old.revision, to_json("an instance", &*new)?)
                }
                Accepted::Removed => {
                    tracing::info!(
                        instance.id = report.id,
                        node.name = node,
                        "nothing of the instance is left"
                    );
                    self.txn().remove(element, old.revision)
                }
            };
            if self.commit(txn).await?.is_some() {
                return Ok(());
            }
        }
        Err(ClusterError::Contended { tries: MAX_TRIES })
    }
}

fn tell(instance: &Instance) {
    let node = instance.node.as_deref().unwrap_or_default();
    match (instance.reason, &instance.message) {
        (Some(reason), Some(message)) => {
            tracing::info!(instance.id = instance.id, node.name = node, %reason, message, "instance is {}", instance.status);
        }
        _ => tracing::info!(instance.id = instance.id, node.name = node, "instance is {}", instance.status),
    }
}
