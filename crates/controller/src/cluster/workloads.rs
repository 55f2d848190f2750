//! Workloads: defining, changing and deleting them.
//!
//! Deleting a workload destroys its instances. That is several transactions, so the workload is marked first and goes
//! last; a controller that is killed in between finishes it at its next start.

use std::{ops::Bound, sync::Arc};

use model::{
    Revision, Workload, WorkloadRecord,
    api::{Applied, ApplyResult, Page, Versioned},
    key,
};

use super::{Cluster, ClusterError, Deletion, IdempotencyKey, MAX_TRIES, expect_revision, to_json};

/// A workload of the mirror.
type Shared = Arc<Versioned<WorkloadRecord>>;

impl Cluster {
    /// Defines a workload. Its name must be free among those of its kind.
    ///
    /// # Errors
    /// The name is taken, the key was used for something else, or the store failed.
    pub async fn create_workload(
        &self,
        manifest: Workload,
        key: Option<IdempotencyKey>,
    ) -> Result<Shared, ClusterError> {
        let element = key::workload(manifest.kind, &manifest.name);
        for _ in 0..MAX_TRIES {
            if let Some(ids) = self.answered(key.as_ref()).await? {
                let id = ids.into_iter().next().unwrap_or_default();
                return self.workload(&id).ok_or(ClusterError::WorkloadNotFound { name: id });
            }
            if self.mirror().read().workloads.contains_key(&element) {
                return Err(ClusterError::NameTaken { kind: "workload", name: manifest.name });
            }
            let record = self.new_record(manifest.clone());
            let txn = self.txn().create(element.clone(), to_json("a workload", &record)?);
            let txn = self.remember(txn, key.as_ref(), std::slice::from_ref(&record.id))?;
            if let Some(revision) = self.commit(txn).await? {
                tracing::info!(
                    workload.name = record.manifest.name,
                    workload.id = record.id,
                    "workload defined"
                );
                return Ok(Arc::new(Versioned { revision, object: record }));
            }
        }
        Err(ClusterError::Contended { tries: MAX_TRIES })
    }

    /// Defines a workload, or changes the one of the same kind and name. Running instances keep what they run.
    ///
    /// # Errors
    /// The workload is not at the expected revision, is being deleted, or the store failed.
    pub async fn apply_workload(
        &self,
        manifest: Workload,
        expected: Option<Revision>,
    ) -> Result<ApplyResult, ClusterError> {
        let element = key::workload(manifest.kind, &manifest.name);
        for _ in 0..MAX_TRIES {
            let old = self.mirror().read().workloads.get(&element).cloned();
            let Some(old) = old else {
                if let Some(expected) = expected {
                    return Err(ClusterError::RevisionMismatch { expected, found: Revision::ZERO });
                }
                let record = self.new_record(manifest.clone());
                let txn = self.txn().create(element.clone(), to_json("a workload", &record)?);
                if self.commit(txn).await?.is_some() {
                    return Ok(ApplyResult { id: record.id, result: Applied::Created });
                }
                continue;
            };
            expect_revision(&old, expected)?;
            if old.object.deleted_at.is_some() {
                return Err(ClusterError::NameTaken {
                    kind: "workload that is being deleted",
                    name: manifest.name,
                });
            }
            if old.object.manifest == manifest {
                return Ok(ApplyResult { id: old.object.id.clone(), result: Applied::Unchanged });
            }
            let record = WorkloadRecord { manifest: manifest.clone(), ..old.object.clone() };
            let txn = self.txn().replace(element.clone(), old.revision, to_json("a workload", &record)?);
            if self.commit(txn).await?.is_some() {
                return Ok(ApplyResult { id: record.id, result: Applied::Configured });
            }
        }
        Err(ClusterError::Contended { tries: MAX_TRIES })
    }

    /// Deletes a workload and destroys its instances.
    ///
    /// # Errors
    /// There is none, it is not at the expected revision, or the store failed.
    pub async fn delete_workload(
        &self,
        name_or_id: &str,
        expected: Option<Revision>,
    ) -> Result<(), ClusterError> {
        for _ in 0..MAX_TRIES {
            let found = self.workload(name_or_id);
            let old = found.ok_or_else(|| ClusterError::WorkloadNotFound { name: name_or_id.to_owned() })?;
            expect_revision(&old, expected)?;
            let marked = WorkloadRecord { deleted_at: Some(self.now()), ..old.object.clone() };
            let element = key::workload(marked.manifest.kind, &marked.manifest.name);
            let txn = self.txn().replace(element, old.revision, to_json("a workload", &marked)?);
            if self.commit(txn).await?.is_some() {
                tracing::info!(
                    workload.name = marked.manifest.name,
                    workload.id = marked.id,
                    "workload deleted"
                );
                return self.finish_deletion(&marked).await;
            }
        }
        Err(ClusterError::Contended { tries: MAX_TRIES })
    }

    /// Finishes the deletions that an earlier controller had begun.
    pub(super) async fn resume_deletions(&self) -> Result<(), ClusterError> {
        let marked: Vec<Shared> = {
            let state = self.mirror().read();
            state
                .workloads
                .values()
                .filter(|workload| workload.object.deleted_at.is_some())
                .cloned()
                .collect()
        };
        for workload in marked {
            self.finish_deletion(&workload.object).await?;
        }
        Ok(())
    }

    /// Destroys what is left of a marked workload's instances, then removes its row. New ones cannot appear: creating
    /// an instance requires the unmarked row.
    async fn finish_deletion(&self, workload: &WorkloadRecord) -> Result<(), ClusterError> {
        let ids: Vec<String> = {
            let state = self.mirror().read();
            state.instances_of(&workload.id).map(|instance| instance.object.id.clone()).collect()
        };
        let deletions = ids.iter().map(|id| self.delete_instance(id, Deletion::Graceful, None));
        for deleted in futures::future::join_all(deletions).await {
            match deleted {
                Ok(()) | Err(ClusterError::InstanceNotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        let element = key::workload(workload.manifest.kind, &workload.manifest.name);
        self.commit(self.txn().delete(element)).await.map(drop)
    }

    /// The workload of this id or name.
    #[must_use]
    pub fn workload(&self, name_or_id: &str) -> Option<Shared> {
        self.mirror().read().workload(name_or_id).cloned()
    }

    /// A page of the workloads, ordered by kind and name; `after` is the continuation of the page before.
    #[must_use]
    pub fn workloads(&self, after: Option<&str>, limit: usize) -> Page<Shared> {
        let state = self.mirror().read();
        let start = after.map_or(Bound::Unbounded, Bound::Excluded);
        let alive = state.workloads.range::<str, _>((start, Bound::Unbounded));
        let mut alive = alive.filter(|(_, workload)| workload.object.deleted_at.is_none());
        let items: Vec<(&String, &Shared)> = alive.by_ref().take(limit).collect();
        let next = alive.next().and_then(|_| items.last()).map(|(key, _)| (*key).clone());
        Page {
            items: items.into_iter().map(|(_, workload)| workload.clone()).collect(),
            revision: state.revision,
            next,
        }
    }

    fn new_record(&self, manifest: Workload) -> WorkloadRecord {
        WorkloadRecord { id: self.0.ids.uuid(), created_at: self.now(), deleted_at: None, manifest }
    }
}
