//! Laws under concurrent writers.

use model::Revision;
use store::{Bounds, CommitError, Store};

use super::{Make, put, txn};

pub(crate) async fn of_a_hundred_duplicate_creates_exactly_one_wins(make: Make) {
    let bed = make(Bounds::default());
    let creators: Vec<_> = (0..100)
        .map(|n| {
            let store = bed.store.clone();
            tokio::spawn(async move { store.commit(txn().create("/a/same", n.to_string())).await })
        })
        .collect();
    let mut winners = Vec::new();
    for (n, creator) in creators.into_iter().enumerate() {
        match creator.await.unwrap() {
            Ok(revision) => winners.push((n.to_string(), revision)),
            Err(CommitError::Conflict { found, .. }) => assert_eq!(found, Some(Revision(1))),
            Err(other) => panic!("{other}"),
        }
    }
    let object = bed.store.get("/a/same").await.unwrap().unwrap();
    assert_eq!(winners, [(object.value.to_string(), object.revision)]);
}

pub(crate) async fn concurrent_replacements_never_lose_an_update(make: Make) {
    const WRITERS: u64 = 8;
    const EACH: u64 = 25;
    let bed = make(Bounds::default());
    put(&*bed.store, "/a/counter", "0").await;
    let writers: Vec<_> = (0..WRITERS)
        .map(|_| {
            let store = bed.store.clone();
            tokio::spawn(async move {
                for _ in 0..EACH {
                    while !count_up(&*store).await {}
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let counter = bed.store.get("/a/counter").await.unwrap().unwrap();
    assert_eq!(&*counter.value, (WRITERS * EACH).to_string());
    assert_eq!(counter.revision, Revision(WRITERS * EACH + 1));
}

/// Adds one, unless somebody else was quicker.
async fn count_up(store: &dyn Store) -> bool {
    let seen = store.get("/a/counter").await.unwrap().unwrap();
    let next: u64 = seen.value.parse::<u64>().unwrap() + 1;
    match store.commit(txn().replace("/a/counter", seen.revision, next.to_string())).await {
        Ok(_) => true,
        Err(CommitError::Conflict { .. }) => false,
        Err(other) => panic!("{other}"),
    }
}

pub(crate) async fn what_is_acknowledged_is_read_at_once(make: Make) {
    let bed = make(Bounds::default());
    let writers: Vec<_> = (0..8)
        .map(|writer| {
            let store = bed.store.clone();
            tokio::spawn(async move {
                for n in 0..50 {
                    let key = format!("/a/{writer}");
                    let revision = put(&*store, &key, &n.to_string()).await;
                    assert!(store.revision().await.unwrap() >= revision);
                    let object = store.get(&key).await.unwrap().unwrap();
                    assert_eq!((object.revision, &*object.value), (revision, n.to_string().as_str()));
                    let listing = store.list(&key, store::Page::first()).await.unwrap();
                    assert_eq!(listing.objects, [object]);
                    assert!(listing.revision >= revision);
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}
