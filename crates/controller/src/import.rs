//! Taking over the rows of a store of 2023.
//!
//! Its table held workloads, instances, workers and tenants under names with `Pod` and `Function` in them. Workloads
//! and tenants come along with their ids. Its instances cannot be running any more, and its workers register anew, so
//! both are left behind, and the log says so.

use model::{
    WorkloadRecord, key,
    manifest::read::{Strictness, workload},
};
use serde_json::json;
use store::{LegacyRow, Store, Txn};

use crate::cluster::ClusterError;

/// What came over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Imported {
    /// Workloads that were taken over.
    pub workloads: usize,
    /// Tenants that were taken over.
    pub tenants: usize,
    /// Rows that were left behind.
    pub left: usize,
}

/// Commits what can be taken over of `rows`. Safe to repeat: what is there already is not touched.
///
/// # Errors
/// The store could not be written.
pub async fn import(
    store: &dyn Store,
    rows: &[LegacyRow],
    now: jiff::Timestamp,
) -> Result<Imported, ClusterError> {
    let mut imported = Imported::default();
    for row in rows {
        let Some((element, value)) = converted(row, now) else {
            imported.left += 1;
            tracing::warn!(row.id, row.name, "a row of the old store is left behind");
            continue;
        };
        match store.commit(Txn::new(now).create(element.clone(), value)).await {
            Ok(_) | Err(store::CommitError::Conflict { .. }) => {}
            Err(error) => return Err(ClusterError::Write(error)),
        }
        if element.starts_with(key::WORKLOADS) {
            imported.workloads += 1;
        } else {
            imported.tenants += 1;
        }
    }
    Ok(imported)
}

/// The row in today's form.
fn converted(row: &LegacyRow, now: jiff::Timestamp) -> Option<(String, String)> {
    let value = std::str::from_utf8(&row.value).ok()?;
    if row.name.starts_with("/workload/") {
        let manifest = workload(value, Strictness::Lenient).ok()?;
        let element = key::workload(manifest.kind, &manifest.name);
        let record = WorkloadRecord { id: row.id.clone(), created_at: now, deleted_at: None, manifest };
        return Some((element, serde_json::to_string(&record).ok()?));
    }
    if row.name.starts_with("/tenant") {
        let tenant = serde_json::from_str::<serde_json::Value>(value).ok()?;
        return Some((
            format!("{}{}", key::TENANTS, row.id),
            json!({ "name": row.name, "value": tenant }).to_string(),
        ));
    }
    None
}
