//! What must hold: during a history, and when the cluster has been left in peace.

use std::collections::{BTreeMap, BTreeSet};

use model::{Instance, Revision, Status, key};
use runtime::fake::FakeHost;
use store::{MemoryStore, Op, Page, Store};

/// What was acknowledged to the users.
#[derive(Debug, Default)]
pub struct Ledger {
    created: BTreeMap<String, String>,
    deleted: BTreeSet<String>,
    doubtful: BTreeSet<String>,
    faults: Vec<String>,
}

impl Ledger {
    /// The creation of an instance was acknowledged.
    pub fn created(&mut self, id: &str, uid: &str) {
        self.created.insert(id.to_owned(), uid.to_owned());
    }

    /// The deletion of an instance was acknowledged.
    pub fn deleted(&mut self, id: &str) {
        self.deleted.insert(id.to_owned());
    }

    /// The deletion of an instance was asked for and not acknowledged: both ends are right.
    pub fn doubtful(&mut self, id: &str) {
        self.doubtful.insert(id.to_owned());
    }

    /// Something was wrong at once.
    pub fn fault(&mut self, what: String) {
        self.faults.push(what);
    }

    /// Instances that were created and, as far as the users know, not deleted.
    #[must_use]
    pub fn alive(&self) -> Vec<String> {
        let alive =
            self.created.keys().filter(|id| !self.deleted.contains(*id) && !self.doubtful.contains(*id));
        alive.cloned().collect()
    }
}

/// Holds at every instant: nothing was started twice, on one machine or on two.
///
/// # Errors
/// What was broken.
pub fn during(hosts: &[FakeHost]) -> Result<(), String> {
    let mut starts: BTreeMap<String, u32> = BTreeMap::new();
    for host in hosts {
        for (uid, count) in host.started() {
            *starts.entry(uid).or_default() += count;
        }
    }
    match starts.into_iter().find(|(_, count)| *count > 1) {
        Some((uid, count)) => Err(format!("{uid} was started {count} times")),
        None => Ok(()),
    }
}

/// Holds once the cluster has settled: what was acknowledged is so, and the machines are as the records say.
///
/// # Errors
/// What does not hold yet.
pub async fn settled(store: &MemoryStore, hosts: &[FakeHost], ledger: &Ledger) -> Result<(), String> {
    if let Some(fault) = ledger.faults.first() {
        return Err(fault.clone());
    }
    let rows = rows(store).await?;
    for (id, uid) in &ledger.created {
        let row = rows.get(id).filter(|row| row.uid == *uid);
        let deleted = ledger.deleted.contains(id);
        match row {
            Some(row) if deleted => return Err(format!("{id} was deleted and is {}", row.status)),
            None if !deleted && !ledger.doubtful.contains(id) => {
                return Err(format!("{id} was acknowledged and is not there"));
            }
            _ => {}
        }
    }
    for row in rows.values() {
        let done = matches!(row.status, Status::Running | Status::Failed | Status::Terminated);
        let full = row.status == Status::Pending && row.reason == Some(model::Reason::Unplaceable);
        if !done && !full {
            return Err(format!("{} is still {}", row.id, row.status));
        }
    }
    for (index, host) in hosts.iter().enumerate() {
        check_host(&format!("n{index}"), host, &rows)?;
    }
    Ok(())
}

fn check_host(node: &str, host: &FakeHost, rows: &BTreeMap<String, Instance>) -> Result<(), String> {
    let running: BTreeSet<String> = host.running().into_iter().collect();
    for uid in host.present() {
        let row = rows.values().find(|row| row.uid == uid);
        match row {
            None => return Err(format!("{uid} is left on {node} and nobody knows it")),
            Some(row) if row.node.as_deref() != Some(node) => {
                return Err(format!("{} is on {node} by mistake", row.id));
            }
            Some(_) => {}
        }
    }
    for row in rows.values().filter(|row| row.node.as_deref() == Some(node)) {
        let runs = running.contains(&row.uid);
        if runs != (row.status == Status::Running) {
            return Err(format!(
                "{} is recorded as {}, and it {}",
                row.id,
                row.status,
                if runs { "runs" } else { "does not run" }
            ));
        }
    }
    Ok(())
}

async fn rows(store: &MemoryStore) -> Result<BTreeMap<String, Instance>, String> {
    let mut rows = BTreeMap::new();
    let mut page = Page::first();
    loop {
        let listing = store.list(key::INSTANCES, page).await.map_err(|error| error.to_string())?;
        for object in &listing.objects {
            let instance: Instance = serde_json_from(&object.value)?;
            rows.insert(instance.id.clone(), instance);
        }
        match listing.objects.last() {
            Some(last) if listing.more => page = Page::after(last.key.clone()),
            _ => return Ok(rows),
        }
    }
}

fn serde_json_from(text: &str) -> Result<Instance, String> {
    serde_json::from_str(text).map_err(|error| format!("a row cannot be read: {error}"))
}

/// Follows the store's whole history.
pub struct Watching(tokio::task::JoinHandle<()>, std::sync::Arc<std::sync::Mutex<Option<String>>>);

/// Begins to follow the store: no instance's state may ever go backward, and a binding never changes.
pub async fn watch_history(store: &MemoryStore) -> Watching {
    let broken = std::sync::Arc::new(std::sync::Mutex::new(None));
    let (store, verdict) = (store.clone(), broken.clone());
    let task = tokio::spawn(async move {
        let Ok(mut watch) = store.watch(key::INSTANCES, Revision::ZERO).await else { return };
        let mut last: BTreeMap<String, (Status, Option<String>)> = BTreeMap::new();
        while let Ok(changes) = watch.next().await {
            for change in changes {
                let Op::Put { value, .. } = &change.op else { continue };
                let Ok(now) = serde_json_from(value) else { continue };
                let old = last.insert(now.uid.clone(), (now.status, now.node.clone()));
                let Some((status, node)) = old else { continue };
                let backward = status != now.status && !status.may_become(now.status);
                let moved = node.is_some() && node != now.node;
                if backward || moved {
                    let what = format!(
                        "{} went from {status} on {node:?} to {} on {:?}",
                        now.id, now.status, now.node
                    );
                    verdict.lock().unwrap_or_else(std::sync::PoisonError::into_inner).get_or_insert(what);
                }
            }
        }
    });
    Watching(task, broken)
}

impl Watching {
    /// Ends the watching.
    ///
    /// # Errors
    /// What was seen that must not be.
    pub fn judge(self) -> Result<(), String> {
        self.0.abort();
        let broken = self.1.lock().unwrap_or_else(std::sync::PoisonError::into_inner).take();
        broken.map_or(Ok(()), Err)
    }
}
