//! Laws of watches: order, completeness, handover, falling behind.

use std::time::Duration;

use model::Revision;
use store::{Bounds, WatchError};

use super::{Make, fill, next, put, txn};

/// So small a tail that a watch falls behind it at once.
const SHORT_TAIL: Bounds = Bounds { log_entries: 100_000, tail_entries: 4, tail_bytes: 1 << 20 };

pub(crate) async fn a_watch_from_zero_sees_everything_in_order(make: Make) {
    let bed = make(Bounds::default());
    put(&*bed.store, "/a/x", "1").await;
    put(&*bed.store, "/a/x", "2").await;
    let mut watch = bed.store.watch("", Revision::ZERO).await.unwrap();
    assert_eq!(next(&mut watch).await, ["1 /a/x=1"]);
    assert_eq!(next(&mut watch).await, ["2 /a/x=2"]);
    bed.store.commit(txn().delete("/a/x")).await.unwrap();
    assert_eq!(next(&mut watch).await, ["3 /a/x deleted"]);
}

pub(crate) async fn a_watch_from_the_middle_sees_only_what_follows(make: Make) {
    for bounds in [Bounds::default(), SHORT_TAIL] {
        let bed = make(bounds);
        for n in 1..=20 {
            put(&*bed.store, "/a/x", &n.to_string()).await;
        }
        let mut watch = bed.store.watch("/a/", Revision(7)).await.unwrap();
        for n in 8..=20 {
            assert_eq!(next(&mut watch).await, [format!("{n} /a/x={n}")]);
        }
    }
}

pub(crate) async fn changes_of_one_transaction_arrive_together(make: Make) {
    for bounds in [Bounds::default(), SHORT_TAIL] {
        let bed = make(bounds);
        let mut live = bed.store.watch("/a/", Revision::ZERO).await.unwrap();
        let six = (0..6).fold(txn(), |txn, n| txn.put(format!("/a/{n}"), "1").put(format!("/b/{n}"), "1"));
        bed.store.commit(six).await.unwrap();
        let mut late = bed.store.watch("/a/", Revision::ZERO).await.unwrap();
        for watch in [&mut live, &mut late] {
            let changes = watch.next().await.unwrap();
            assert_eq!(changes.len(), 6);
            let places: Vec<_> = changes.iter().map(|change| change.index).collect();
            assert_eq!(places, [0, 2, 4, 6, 8, 10]);
        }
    }
}

pub(crate) async fn a_watch_of_a_prefix_sees_only_its_keys(make: Make) {
    let bed = make(Bounds::default());
    let mut watch = bed.store.watch("/a_/", Revision::ZERO).await.unwrap();
    for key in ["/a_", "/ab/x", "/a_/x", "/b/x"] {
        put(&*bed.store, key, "1").await;
    }
    put(&*bed.store, "/a_/y", "1").await;
    assert_eq!(next(&mut watch).await, ["3 /a_/x=1"]);
    assert_eq!(next(&mut watch).await, ["5 /a_/y=1"]);
}

pub(crate) async fn handover_from_log_to_live_has_no_gap_and_no_repeat(make: Make) {
    const WRITERS: u64 = 4;
    const EACH: u64 = 100;
    for bounds in [Bounds::default(), SHORT_TAIL] {
        let bed = make(bounds);
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let store = bed.store.clone();
                tokio::spawn(async move {
                    for n in 0..EACH {
                        put(&*store, &format!("/a/{writer}"), &n.to_string()).await;
                    }
                })
            })
            .collect();
        let mut watchers = Vec::new();
        for start in [0, 1, 50, 200, WRITERS * EACH] {
            while bed.store.revision().await.unwrap() < Revision(start) {
                tokio::task::yield_now().await;
            }
            let mut watch = bed.store.watch("", Revision(start)).await.unwrap();
            watchers.push(tokio::spawn(async move {
                for expected in start + 1..=WRITERS * EACH {
                    let changes = watch.next().await.unwrap();
                    assert_eq!(changes.len(), 1);
                    assert_eq!(changes[0].revision, Revision(expected));
                }
            }));
        }
        for task in writers.into_iter().chain(watchers) {
            task.await.unwrap();
        }
    }
}

pub(crate) async fn a_slow_watch_catches_up_from_the_log(make: Make) {
    let bed = make(SHORT_TAIL);
    let mut watch = bed.store.watch("/a/", Revision::ZERO).await.unwrap();
    put(&*bed.store, "/a/x", "1").await;
    assert_eq!(next(&mut watch).await, ["1 /a/x=1"]);
    // More than one stretch of other keys, and more than the tail.
    fill(&*bed.store, 600).await;
    put(&*bed.store, "/a/x", "2").await;
    assert_eq!(next(&mut watch).await, ["601 /a/x=2"]);
    put(&*bed.store, "/a/x", "3").await;
    assert_eq!(next(&mut watch).await, ["602 /a/x=3"]);
}

pub(crate) async fn a_slow_watch_whose_log_is_gone_is_told_so(make: Make) {
    let bed = make(Bounds::default());
    let mut slow = bed.store.watch("", Revision::ZERO).await.unwrap();
    let mut quick = bed.store.watch("", Revision::ZERO).await.unwrap();
    for n in 1..=5 {
        put(&*bed.store, "/a/x", &n.to_string()).await;
        assert_eq!(next(&mut quick).await, [format!("{n} /a/x={n}")]);
    }
    bed.store.compact(Revision(3)).await.unwrap();
    for _ in 0..2 {
        let told = slow.next().await;
        assert!(matches!(told, Err(WatchError::Compacted { oldest: Revision(3) })), "{told:?}");
    }
    bed.store.compact(Revision(5)).await.unwrap();
    put(&*bed.store, "/a/x", "6").await;
    assert_eq!(next(&mut quick).await, ["6 /a/x=6"]);
}

pub(crate) async fn a_watch_from_a_compacted_revision_is_refused(make: Make) {
    let bed = make(Bounds::default());
    fill(&*bed.store, 5).await;
    bed.store.compact(Revision(4)).await.unwrap();
    let refused = bed.store.watch("", Revision(3)).await;
    assert!(matches!(refused, Err(WatchError::Compacted { oldest: Revision(4) })), "{refused:?}");
    let mut watch = bed.store.watch("", Revision(4)).await.unwrap();
    assert_eq!(next(&mut watch).await, ["5 /filler/x={}"]);
}

pub(crate) async fn a_watch_from_the_future_is_refused(make: Make) {
    let bed = make(Bounds::default());
    fill(&*bed.store, 2).await;
    let refused = bed.store.watch("", Revision(3)).await;
    assert!(matches!(refused, Err(WatchError::Ahead { newest: Revision(2) })), "{refused:?}");
    assert!(bed.store.watch("", Revision(u64::MAX)).await.is_err());
}

pub(crate) async fn a_watch_that_is_cut_short_loses_nothing(make: Make) {
    let bed = make(SHORT_TAIL);
    let mut watch = bed.store.watch("", Revision::ZERO).await.unwrap();
    let store = bed.store.clone();
    let writer = tokio::spawn(async move { fill(&*store, 300).await });
    let mut expected = 1;
    while expected <= 300 {
        // Cut anywhere: at the first poll, or some way into a read.
        let cut = Duration::from_micros(expected % 3 * 50);
        if let Ok(changes) = tokio::time::timeout(cut, watch.next()).await {
            assert_eq!(changes.unwrap()[0].revision, Revision(expected));
            expected += 1;
        }
    }
    writer.await.unwrap();
}
