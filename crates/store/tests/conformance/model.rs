//! Any history of operations gives what a plain map gives.

use std::collections::BTreeMap;

use ::model::Revision;
use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use proptest::test_runner::TestRunner;
use store::{Bounds, CommitError, Expect, Object, Op, Page, Store, Txn, Write};

use super::{Make, txn};

/// Histories per backend; each is up to 60 transactions.
const HISTORIES: u32 = 40;

#[derive(Clone, Debug)]
enum Step {
    Commit { guards: Vec<(u8, Expected)>, writes: Vec<(u8, Option<u8>)> },
    Compact(u8),
}

/// A guard, relative to what is there: most of them should hold.
#[derive(Clone, Copy, Debug)]
enum Expected {
    Current,
    Absent,
    Present,
    Stale,
}

fn step() -> impl Strategy<Value = Step> {
    let expected = prop_oneof![
        6 => Just(Expected::Current),
        1 => Just(Expected::Absent),
        1 => Just(Expected::Present),
        1 => Just(Expected::Stale),
    ];
    let guards = prop::collection::vec((0..6u8, expected), 0..3);
    let writes = prop::collection::btree_map(0..6u8, prop::option::weighted(0.7, any::<u8>()), 0..4);
    prop_oneof![
        20 => (guards, writes).prop_map(|(guards, writes)| {
            Step::Commit { guards, writes: writes.into_iter().collect() }
        }),
        1 => any::<u8>().prop_map(Step::Compact),
    ]
}

/// Keys that a careless prefix query would mix up.
fn key(n: u8) -> String {
    ["/a/x", "/a/y", "/a%/x", "/a_/x", "/b/'x'", "/b"][usize::from(n)].to_owned()
}

/// What the store should hold.
#[derive(Default)]
struct Model {
    objects: BTreeMap<String, Object>,
    log: Vec<(Revision, String, Option<String>)>,
    revision: Revision,
    compacted: Revision,
}

impl Model {
    fn txn(&self, guards: &[(u8, Expected)], writes: &[(u8, Option<u8>)]) -> Txn {
        let guarded = guards.iter().fold(txn(), |txn, (n, expected)| {
            let now = self.objects.get(&key(*n)).map(|object| object.revision);
            let expect = match expected {
                Expected::Current => now.map_or(Expect::Absent, Expect::At),
                Expected::Absent => Expect::Absent,
                Expected::Present => Expect::Present,
                Expected::Stale => Expect::At(Revision(now.map_or(1, |now| now.0 - 1))),
            };
            txn.guard(key(*n), expect)
        });
        writes.iter().fold(guarded, |txn, (n, value)| match value {
            Some(value) => txn.put(key(*n), value.to_string()),
            None => txn.delete(key(*n)),
        })
    }

    fn commit(&mut self, txn: &Txn) -> Result<Revision, String> {
        for guard in &txn.guards {
            let found = self.objects.get(&guard.key).map(|object| object.revision);
            let holds = match guard.expect {
                Expect::Absent => found.is_none(),
                Expect::Present => found.is_some(),
                Expect::At(revision) => found == Some(revision),
            };
            if !holds {
                return Err(guard.key.clone());
            }
        }
        let revision = self.revision.next();
        for write in &txn.writes {
            match write {
                Write::Put { key, value } => {
                    let created = self.objects.get(key).map_or(revision, |object| object.created);
                    let object = Object { key: key.clone(), value: value.clone(), revision, created };
                    self.objects.insert(key.clone(), object);
                    self.log.push((revision, key.clone(), Some(value.to_string())));
                }
                Write::Delete { key } => {
                    if self.objects.remove(key).is_some() {
                        self.log.push((revision, key.clone(), None));
                    }
                }
            }
        }
        if self.log.last().is_some_and(|(newest, ..)| *newest == revision) {
            self.revision = revision;
        }
        Ok(self.revision)
    }

    fn log_after(&self, after: Revision, prefix: &str) -> Vec<(Revision, String, Option<String>)> {
        let kept = self.log.iter().filter(|(revision, key, _)| *revision > after && key.starts_with(prefix));
        kept.cloned().collect()
    }
}

pub(crate) async fn any_history_matches_the_model(make: Make) {
    let mut runner = TestRunner::deterministic();
    let histories = prop::collection::vec(step(), 1..60);
    for _ in 0..HISTORIES {
        let history = histories.new_tree(&mut runner).unwrap().current();
        let bed = make(Bounds { tail_entries: 8, ..Bounds::default() });
        replay(&*bed.store, &history).await;
    }
}

async fn replay(store: &dyn Store, history: &[Step]) {
    let mut model = Model::default();
    for step in history {
        match step {
            Step::Commit { guards, writes } => {
                let txn = model.txn(guards, writes);
                let expected = model.commit(&txn);
                let got = store.commit(txn).await.map_err(|error| match error {
                    CommitError::Conflict { key, .. } => key,
                    other => panic!("{other}"),
                });
                assert_eq!(got, expected, "{history:?}");
            }
            Step::Compact(share) => {
                let through = Revision(model.revision.0 * u64::from(*share) / 256);
                store.compact(through).await.unwrap();
                model.compacted = model.compacted.max(through);
            }
        }
    }
    for prefix in ["", "/a", "/a/", "/a%", "/a_/", "/b/"] {
        compare(store, &model, prefix).await;
    }
}

async fn compare(store: &dyn Store, model: &Model, prefix: &str) {
    assert_eq!(store.revision().await.unwrap(), model.revision);
    let objects: Vec<_> =
        model.objects.values().filter(|object| object.key.starts_with(prefix)).cloned().collect();
    let listing = store.list(prefix, Page::first()).await.unwrap();
    assert_eq!((listing.objects, listing.revision), (objects, model.revision));
    for object in model.objects.values() {
        assert_eq!(store.get(&object.key).await.unwrap().as_ref(), Some(object));
    }

    let expected = model.log_after(model.compacted, prefix);
    let mut past: Vec<_> = store.history(prefix, None, 1_000).await.unwrap().changes;
    past.reverse();
    assert_eq!(past.into_iter().map(flat).collect::<Vec<_>>(), expected);

    let mut watch = store.watch(prefix, model.compacted).await.unwrap();
    let mut watched = Vec::new();
    while watched.len() < expected.len() {
        watched.extend(watch.next().await.unwrap().into_iter().map(flat));
    }
    assert_eq!(watched, expected);
}

fn flat(change: store::Change) -> (Revision, String, Option<String>) {
    let value = match change.op {
        Op::Put { value, .. } => Some(value.to_string()),
        Op::Delete { .. } => None,
    };
    (change.revision, change.key, value)
}
