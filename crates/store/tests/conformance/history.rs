//! Laws of the log: reading it backward, compaction, its bound.

use model::Revision;
use store::{Bounds, Op, Page, Position};

use super::{Make, fill, put, summary, txn};

pub(crate) async fn history_reads_backward_in_pages(make: Make) {
    let bed = make(Bounds::default());
    for n in 0..5 {
        let pair = txn().put(format!("/a/{n}"), "1").put(format!("/b/{n}"), "1");
        bed.store.commit(pair).await.unwrap();
    }
    let mut positions = Vec::new();
    let mut before = None;
    loop {
        let history = bed.store.history("", before, 3).await.unwrap();
        positions.extend(history.changes.iter().map(store::Change::position));
        before = positions.last().copied();
        if !history.more {
            break;
        }
        assert_eq!(history.changes.len(), 3);
    }
    let expected: Vec<_> =
        (1..=5).rev().flat_map(|n| [1, 0].map(|index| Position { revision: Revision(n), index })).collect();
    assert_eq!(positions, expected);
}

pub(crate) async fn history_knows_creation_replacement_and_deletion(make: Make) {
    let bed = make(Bounds::default());
    put(&*bed.store, "/a/x", "1").await;
    put(&*bed.store, "/a/x", "2").await;
    bed.store.commit(txn().delete("/a/x")).await.unwrap();
    let ops: Vec<_> =
        bed.store.history("", None, 10).await.unwrap().changes.into_iter().map(|change| change.op).collect();
    let expected = [
        Op::Delete { last: Some("2".into()) },
        Op::Put { value: "2".into(), created: Revision(1) },
        Op::Put { value: "1".into(), created: Revision(1) },
    ];
    assert_eq!(ops, expected);
}

pub(crate) async fn history_of_a_prefix_leaves_out_the_rest(make: Make) {
    let bed = make(Bounds::default());
    for key in ["/a/x", "/a%/x", "/b/x", "/a/x"] {
        put(&*bed.store, key, "1").await;
    }
    let history = bed.store.history("/a/", None, 1).await.unwrap();
    assert_eq!(summary(&history.changes), ["4 /a/x=1"]);
    assert!(history.more);
    let older = bed.store.history("/a/", Some(history.changes[0].position()), 1).await.unwrap();
    assert_eq!(summary(&older.changes), ["1 /a/x=1"]);
    assert!(!older.more);
    assert!(bed.store.history("a", None, 10).await.unwrap().changes.is_empty());
}

pub(crate) async fn compaction_forgets_the_log_and_keeps_the_objects(make: Make) {
    let bed = make(Bounds::default());
    for n in 1..=5 {
        put(&*bed.store, &format!("/a/{n}"), "1").await;
    }
    bed.store.compact(Revision(3)).await.unwrap();
    // Compacting less than that is nothing new.
    bed.store.compact(Revision(1)).await.unwrap();
    let history = bed.store.history("", None, 10).await.unwrap();
    assert_eq!(summary(&history.changes), ["5 /a/5=1", "4 /a/4=1"]);
    assert!(!history.more);
    assert_eq!(bed.store.list("", Page::first()).await.unwrap().objects.len(), 5);
    assert_eq!(put(&*bed.store, "/a/6", "1").await, Revision(6));
}

pub(crate) async fn compaction_beyond_the_newest_revision_forgets_all_and_no_more(make: Make) {
    let bed = make(Bounds::default());
    put(&*bed.store, "/a/x", "1").await;
    bed.store.compact(Revision(u64::MAX)).await.unwrap();
    assert!(bed.store.history("", None, 10).await.unwrap().changes.is_empty());
    assert_eq!(bed.store.revision().await.unwrap(), Revision(1));
    assert_eq!(put(&*bed.store, "/a/x", "2").await, Revision(2));
    assert_eq!(summary(&bed.store.history("", None, 10).await.unwrap().changes), ["2 /a/x=2"]);
}

pub(crate) async fn the_log_stays_within_its_bound(make: Make) {
    let bounds = Bounds { log_entries: 200, ..Bounds::default() };
    let bed = make(bounds);
    fill(&*bed.store, 1_000).await;
    let history = bed.store.history("", None, 1_000).await.unwrap();
    assert!((200..=202).contains(&history.changes.len()), "{} entries", history.changes.len());
    assert_eq!(history.changes[0].revision, Revision(1_000));
    assert!(bed.store.watch("", Revision(700)).await.is_err());
    assert!(bed.store.watch("", Revision(801)).await.is_ok());
}
