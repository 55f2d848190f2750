//! The mirror: the store's objects in memory, parsed and indexed.
//!
//! It lists once and then follows the store's changes, in order. Readers take a short lock and get shared values; a
//! writer that needs to read its own write waits for the mirror to reach the revision of its commit.
//!
//! *Guarantee*: the mirror is the store at some revision, never a mixture of two.
//! *Not here*: writing. The store is the only truth.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, RwLock, RwLockReadGuard},
};

use model::{Instance, Node, Revision, WorkloadRecord, api::Versioned, key};
use serde::de::DeserializeOwned;
use store::{Change, Op, Page, Store, StoreError, WatchError};
use tokio::sync::watch;

/// An object of the store, parsed, with its revision.
pub type Shared<T> = Arc<Versioned<T>>;

/// What the mirror holds at one revision.
#[derive(Debug, Default)]
pub struct State {
    /// Revision that this is the state of.
    pub revision: Revision,
    /// Workloads by key.
    pub workloads: BTreeMap<String, Shared<WorkloadRecord>>,
    /// Instances by id.
    pub instances: BTreeMap<String, Shared<Instance>>,
    /// Nodes by name.
    pub nodes: BTreeMap<String, Shared<Node>>,
    workload_keys: BTreeMap<String, String>,
    by_workload: BTreeMap<String, BTreeSet<String>>,
    by_node: BTreeMap<String, BTreeSet<String>>,
}

/// The store's objects in memory.
#[derive(Debug)]
pub struct Mirror {
    state: RwLock<State>,
    reached: watch::Sender<Revision>,
}

/// The mirror could not be filled or kept up to date.
#[derive(Debug, thiserror::Error)]
pub enum MirrorError {
    /// The first list failed.
    #[error("read the state of the cluster")]
    List(#[source] StoreError),
    /// Following the changes failed.
    #[error("follow the changes of the store")]
    Watch(#[source] WatchError),
}

impl Mirror {
    /// Reads everything once.
    ///
    /// # Errors
    /// The store could not be read.
    pub async fn fill(store: &dyn Store) -> Result<Self, MirrorError> {
        let mut state = State::default();
        let mut page = Page::first();
        let mut first = None;
        loop {
            let listing = store.list("", page).await.map_err(MirrorError::List)?;
            first.get_or_insert(listing.revision);
            for object in &listing.objects {
                if let Some(object) = Parsed::read(&object.key, &object.value, object.revision) {
                    state.put(object);
                }
            }
            match listing.objects.last() {
                Some(last) if listing.more => page = Page::after(last.key.clone()),
                _ => break,
            }
        }
        state.revision = first.unwrap_or(Revision::ZERO);
        let (reached, _) = watch::channel(state.revision);
        Ok(Self { state: RwLock::new(state), reached })
    }

    /// Follows the store until that fails. Run once, as long as the mirror is used.
    ///
    /// # Errors
    /// The store could not be watched: the mirror is of no more use.
    pub async fn follow(&self, store: &dyn Store) -> Result<std::convert::Infallible, MirrorError> {
        let from = self.read().revision;
        let mut watch = store.watch("", from).await.map_err(MirrorError::Watch)?;
        loop {
            let mut news = News::default();
            news.read(&watch.next().await.map_err(MirrorError::Watch)?);
            // What was committed together is shown together: readers are locked out once, and waiters woken once.
            while let Some(changes) = watch.ready() {
                news.read(&changes);
            }
            let revision = news.revision;
            let mut state = self.state.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            state.apply(news);
            drop(state);
            self.reached.send_replace(revision);
        }
    }

    /// The state as it is now. Hold it shortly, and never over an `await`.
    pub fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Waits until the mirror has reached `revision`: what was committed there can then be read here.
    pub async fn reached(&self, revision: Revision) {
        // The sender lives as long as this mirror, so the wait can only end by reaching the revision.
        let _ = self.reached.subscribe().wait_for(|reached| *reached >= revision).await;
    }

    /// Waits until the mirror is beyond `seen`.
    pub async fn passed(&self, seen: Revision) {
        self.reached(seen.next()).await;
    }
}

impl State {
    /// The workload of this id or name. A name that two kinds share means the Pod.
    #[must_use]
    pub fn workload(&self, name_or_id: &str) -> Option<&Shared<WorkloadRecord>> {
        let found =
            self.workload_keys.get(name_or_id).and_then(|key| self.workloads.get(key)).or_else(|| {
                model::Kind::ALL.iter().find_map(|kind| self.workloads.get(&key::workload(*kind, name_or_id)))
            });
        found.filter(|workload| workload.object.deleted_at.is_none())
    }

    /// The instances of a workload.
    pub fn instances_of(&self, workload_id: &str) -> impl Iterator<Item = &Shared<Instance>> {
        self.pick(self.by_workload.get(workload_id))
    }

    /// The instances that are bound to a node.
    pub fn instances_on(&self, node: &str) -> impl Iterator<Item = &Shared<Instance>> {
        self.pick(self.by_node.get(node))
    }

    fn pick<'a>(&'a self, ids: Option<&'a BTreeSet<String>>) -> impl Iterator<Item = &'a Shared<Instance>> {
        ids.into_iter().flatten().filter_map(|id| self.instances.get(id))
    }

    fn apply(&mut self, news: News) {
        for change in news.changes {
            match change {
                Step::Put(object) => self.put(object),
                Step::Delete(key) => self.delete(&key),
            }
        }
        self.revision = news.revision;
    }

    fn put(&mut self, object: Parsed) {
        match object {
            Parsed::Workload(key, workload) => {
                self.workload_keys.insert(workload.object.id.clone(), key.clone());
                self.workloads.insert(key, workload);
            }
            Parsed::Instance(instance) => {
                let Instance { id, workload_id, node, .. } = &instance.object;
                // Neither its workload nor its node ever changes, once it is there.
                let old = self.instances.get(id).map(|old| &old.object);
                if old.is_none_or(|old| old.workload_id != *workload_id) {
                    self.by_workload.entry(workload_id.clone()).or_default().insert(id.clone());
                }
                if let Some(node) = node.as_ref().filter(|_| old.is_none_or(|old| old.node != *node)) {
                    self.by_node.entry(node.clone()).or_default().insert(id.clone());
                }
                self.instances.insert(id.clone(), instance);
            }
            Parsed::Node(node) => {
                self.nodes.insert(node.object.name.clone(), node);
            }
        }
    }

    fn delete(&mut self, key: &str) {
        let name = key.rsplit('/').next().unwrap_or_default();
        if key.starts_with(key::WORKLOADS) {
            if let Some(workload) = self.workloads.remove(key) {
                self.workload_keys.remove(&workload.object.id);
            }
        } else if key.starts_with(key::INSTANCES) {
            if let Some(instance) = self.instances.remove(name) {
                forget(&mut self.by_workload, &instance.object.workload_id, name);
                if let Some(node) = &instance.object.node {
                    forget(&mut self.by_node, node, name);
                }
            }
        } else if key.starts_with(key::NODES) {
            self.nodes.remove(name);
        }
    }
}

fn forget(index: &mut BTreeMap<String, BTreeSet<String>>, group: &str, id: &str) {
    if let Some(ids) = index.get_mut(group) {
        ids.remove(id);
        if ids.is_empty() {
            index.remove(group);
        }
    }
}

/// What follows the state, read before anybody is locked out.
#[derive(Default)]
struct News {
    revision: Revision,
    changes: Vec<Step>,
}

enum Step {
    Put(Parsed),
    Delete(String),
}

/// An object of the store that the mirror shows.
enum Parsed {
    Workload(String, Shared<WorkloadRecord>),
    Instance(Shared<Instance>),
    Node(Shared<Node>),
}

impl News {
    fn read(&mut self, changes: &[Change]) {
        self.revision = changes.last().map_or(self.revision, |change| change.revision);
        self.changes.extend(changes.iter().filter_map(|change| match &change.op {
            Op::Put { value, .. } => Parsed::read(&change.key, value, change.revision).map(Step::Put),
            Op::Delete { .. } => Some(Step::Delete(change.key.clone())),
        }));
    }
}

impl Parsed {
    fn read(key: &str, value: &str, revision: Revision) -> Option<Self> {
        if key.starts_with(key::WORKLOADS) {
            parse(key, value, revision).map(|workload| Self::Workload(key.to_owned(), workload))
        } else if key.starts_with(key::INSTANCES) {
            parse(key, value, revision).map(Self::Instance)
        } else if key.starts_with(key::NODES) {
            parse(key, value, revision).map(Self::Node)
        } else {
            None
        }
    }
}

fn parse<T: DeserializeOwned>(key: &str, value: &str, revision: Revision) -> Option<Shared<T>> {
    match serde_json::from_str(value) {
        Ok(object) => Some(Arc::new(Versioned { revision, object })),
        Err(error) => {
            tracing::error!(element.id = key, %error, "the store holds an object that cannot be read; it is left alone");
            None
        }
    }
}
