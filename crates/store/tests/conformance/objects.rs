//! Laws of objects: guards, atomicity, revisions, keys and pages.

use std::collections::BTreeMap;
use std::sync::Arc;

use model::Revision;
use store::{
    Bounds, CommitError, Expect, MAX_KEY_BYTES, MAX_PAGE_BYTES, MAX_TXN_BYTES, MAX_TXN_OPS, MAX_VALUE_BYTES,
    Page, TxnFault,
};

use super::{Make, put, txn};

pub(crate) async fn a_new_store_is_at_revision_zero_and_empty(make: Make) {
    let bed = make(Bounds::default());
    assert_eq!(bed.store.revision().await.unwrap(), Revision::ZERO);
    assert_eq!(bed.store.get("/a/b").await.unwrap(), None);
    let listing = bed.store.list("", Page::first()).await.unwrap();
    assert!(listing.objects.is_empty() && !listing.more);
    assert_eq!(listing.revision, Revision::ZERO);
}

pub(crate) async fn an_object_comes_back_as_it_was_written(make: Make) {
    let bed = make(Bounds::default());
    let revision = bed.store.commit(txn().create("/workload/pods/default/web", "{\"a\":1}")).await.unwrap();
    let object = bed.store.get("/workload/pods/default/web").await.unwrap().unwrap();
    assert_eq!(revision, Revision(1));
    assert_eq!(object.key, "/workload/pods/default/web");
    assert_eq!(&*object.value, "{\"a\":1}");
    assert_eq!((object.revision, object.created), (revision, revision));
}

pub(crate) async fn replacing_keeps_the_creation_and_moves_the_revision(make: Make) {
    let bed = make(Bounds::default());
    let first = put(&*bed.store, "/a/x", "1").await;
    let second = bed.store.commit(txn().replace("/a/x", first, "2")).await.unwrap();
    let object = bed.store.get("/a/x").await.unwrap().unwrap();
    assert_eq!((object.revision, object.created, &*object.value), (second, first, "2"));
}

pub(crate) async fn a_guard_that_fails_names_its_key_and_what_is_there(make: Make) {
    let bed = make(Bounds::default());
    let seen = put(&*bed.store, "/a/x", "1").await;
    let now = put(&*bed.store, "/a/x", "2").await;
    let cases = [
        ("/a/x", Expect::Absent, Some(now)),
        ("/a/x", Expect::At(seen), Some(now)),
        ("/a/none", Expect::Present, None),
        ("/a/none", Expect::At(seen), None),
    ];
    for (guarded, expect, there) in cases {
        let refused = bed.store.commit(txn().guard(guarded, expect).put("/a/y", "1")).await.unwrap_err();
        let CommitError::Conflict { key, expected, found } = refused else { panic!("{refused}") };
        assert_eq!((key.as_str(), expected, found), (guarded, expect, there));
    }
    for (guarded, expect) in
        [("/a/x", Expect::Present), ("/a/x", Expect::At(now)), ("/a/none", Expect::Absent)]
    {
        bed.store.commit(txn().guard(guarded, expect).put("/a/y", "1")).await.unwrap();
    }
}

pub(crate) async fn one_failed_guard_leaves_every_write_undone(make: Make) {
    let bed = make(Bounds::default());
    put(&*bed.store, "/a/taken", "1").await;
    let many = txn().put("/a/new", "1").delete("/a/gone").create("/a/other", "1").create("/a/taken", "2");
    assert!(matches!(bed.store.commit(many).await, Err(CommitError::Conflict { .. })));
    assert_eq!(&*bed.store.get("/a/taken").await.unwrap().unwrap().value, "1");
    assert_eq!(bed.store.list("", Page::first()).await.unwrap().objects.len(), 1);
    assert_eq!(bed.store.revision().await.unwrap(), Revision(1));
}

pub(crate) async fn guards_without_writes_take_no_revision(make: Make) {
    let bed = make(Bounds::default());
    let at = put(&*bed.store, "/a/x", "1").await;
    assert_eq!(bed.store.commit(txn().guard("/a/x", Expect::At(at))).await.unwrap(), at);
    assert!(bed.store.commit(txn().guard("/a/x", Expect::Absent)).await.is_err());
    assert_eq!(bed.store.revision().await.unwrap(), at);
}

pub(crate) async fn deleting_what_is_absent_changes_nothing(make: Make) {
    let bed = make(Bounds::default());
    put(&*bed.store, "/a/x", "1").await;
    assert_eq!(bed.store.commit(txn().delete("/a/none")).await.unwrap(), Revision(1));
    assert_eq!(bed.store.commit(txn().delete("/a/none").delete("/a/x")).await.unwrap(), Revision(2));
    assert_eq!(bed.store.history("", None, 10).await.unwrap().changes.len(), 2);
}

pub(crate) async fn an_object_created_again_is_a_new_one(make: Make) {
    let bed = make(Bounds::default());
    let first = put(&*bed.store, "/a/x", "1").await;
    bed.store.commit(txn().remove("/a/x", first)).await.unwrap();
    assert_eq!(bed.store.get("/a/x").await.unwrap(), None);
    let again = bed.store.commit(txn().create("/a/x", "1")).await.unwrap();
    assert_eq!(bed.store.get("/a/x").await.unwrap().unwrap().created, again);
}

pub(crate) async fn revisions_have_no_gaps(make: Make) {
    let bed = make(Bounds::default());
    for expected in 1..=50 {
        let key = format!("/a/{}", expected % 7);
        // Whatever is refused in between takes no revision.
        let _refused = bed.store.commit(txn().create("/a/0", "1").guard("/a/none", Expect::Present)).await;
        assert_eq!(put(&*bed.store, &key, "1").await, Revision(expected));
    }
}

pub(crate) async fn transactions_beyond_a_bound_are_refused_unseen(make: Make) {
    let bed = make(Bounds::default());
    let too_many = (0..=MAX_TXN_OPS).fold(txn(), |txn, n| txn.delete(format!("/a/{n}")));
    let large: Arc<str> = "x".repeat(MAX_VALUE_BYTES).into();
    let too_large =
        (0..=MAX_TXN_BYTES / MAX_VALUE_BYTES).fold(txn(), |txn, n| txn.put(format!("/a/{n}"), large.clone()));
    let long_key = format!("/{}", "k".repeat(MAX_KEY_BYTES));
    let cases = [
        (too_many, "operations in one transaction"),
        (too_large, "bytes in one transaction"),
        (txn().put("/a/x", format!("{large}x")), "the value of /a/x"),
        (txn().put(long_key, "1"), "a key of 1025 bytes"),
        (txn().put("", "1"), "\"\" is not a key"),
        (txn().put("/", "1"), "\"/\" is not a key"),
        (txn().put("a/x", "1"), "\"a/x\" is not a key"),
        (txn().guard("/a\0", Expect::Absent), "\"/a\\0\" is not a key"),
        (txn().put("/a/x", "1").delete("/a/x"), "/a/x is written twice"),
    ];
    for (refused, reason) in cases {
        let error = bed.store.commit(refused).await.unwrap_err();
        let CommitError::Refused(fault) = error else { panic!("{error}") };
        assert!(fault.to_string().contains(reason), "{fault}");
    }
    let twice = bed.store.commit(txn().put("/a/x", "1").put("/a/x", "2")).await;
    assert!(matches!(twice, Err(CommitError::Refused(TxnFault::WrittenTwice { .. }))));
    assert_eq!(bed.store.revision().await.unwrap(), Revision::ZERO);
}

pub(crate) async fn the_largest_transaction_is_accepted(make: Make) {
    let bed = make(Bounds::default());
    let replicas = (0..MAX_TXN_OPS / 2).fold(txn(), |txn, n| txn.create(format!("/a/{n:04}"), "{}"));
    assert_eq!(bed.store.commit(replicas).await.unwrap(), Revision(1));
    let listing = bed.store.list("/a/", Page::first()).await.unwrap();
    assert_eq!(listing.objects.len(), 1_000);
    assert!(listing.more && listing.objects.iter().all(|object| object.revision == Revision(1)));
}

pub(crate) async fn prefixes_are_literal(make: Make) {
    let bed = make(Bounds::default());
    let keys =
        ["/a%/x", "/a_/x", "/ab/x", "/a/x", "/a", "/A/x", "/ä/x", "/a\u{10ffff}/x", "/a*/x", "/a[b]/x"];
    for key in keys {
        put(&*bed.store, key, "1").await;
    }
    for prefix in
        ["", "/", "/a", "/a%", "/a_", "/a/", "/A", "/ä", "/a\u{10ffff}", "/a*", "/a[", "/b", "a", "%"]
    {
        let mut expected: Vec<_> = keys.into_iter().filter(|key| key.starts_with(prefix)).collect();
        expected.sort_unstable();
        let listing = bed.store.list(prefix, Page::first()).await.unwrap();
        let listed: Vec<_> = listing.objects.iter().map(|object| object.key.as_str()).collect();
        assert_eq!(listed, expected, "prefix {prefix:?}");
    }
}

pub(crate) async fn keys_and_values_may_hold_any_text(make: Make) {
    let bed = make(Bounds::default());
    let texts = [
        "/a/it's",
        "/a/\"quoted\"",
        "/a/back\\slash",
        "/a/; DROP TABLE element; --",
        "/a/ space ",
        "/a/ключ",
        "/a/🦀",
        "/a/?1",
        "/a/:name",
        "/a//",
        "/a/..",
        "//",
    ];
    for text in texts {
        let revision = put(&*bed.store, text, text).await;
        let object = bed.store.get(text).await.unwrap().unwrap();
        assert_eq!((object.key.as_str(), &*object.value, object.revision), (text, text, revision));
        let changes = bed.store.history(text, None, 1).await.unwrap().changes;
        assert_eq!((changes[0].key.as_str(), changes[0].at), (text, super::noon()));
    }
    assert_eq!(bed.store.list("", Page::first()).await.unwrap().objects.len(), texts.len());
}

pub(crate) async fn pages_join_to_the_whole_list(make: Make) {
    let bed = make(Bounds::default());
    for n in 0..25 {
        put(&*bed.store, &format!("/a/{n:02}"), "1").await;
    }
    put(&*bed.store, "/b/x", "1").await;
    let whole = bed.store.list("/a/", Page::first()).await.unwrap();
    assert!(whole.objects.len() == 25 && !whole.more);
    for limit in [1, 7, 24, 25, 26] {
        let mut joined = Vec::new();
        let mut page = Page::first().limit(limit);
        loop {
            let listing = bed.store.list("/a/", page).await.unwrap();
            assert!(listing.objects.len() <= limit as usize);
            joined.extend(listing.objects);
            if !listing.more {
                break;
            }
            page = Page::after(joined.last().unwrap().key.clone()).limit(limit);
        }
        assert_eq!(joined, whole.objects, "pages of {limit}");
    }
    let beyond = bed.store.list("/a/", Page::after("/b/x")).await.unwrap();
    assert!(beyond.objects.is_empty() && !beyond.more);
    let before = bed.store.list("/a/", Page::after("/")).await.unwrap();
    assert_eq!(before.objects.len(), 25);
}

pub(crate) async fn pages_are_bounded_in_bytes_too(make: Make) {
    let bed = make(Bounds::default());
    let value: Arc<str> = "x".repeat(MAX_VALUE_BYTES).into();
    for n in 0..6 {
        bed.store.commit(txn().put(format!("/a/{n}"), value.clone())).await.unwrap();
    }
    let listing = bed.store.list("/a/", Page::first()).await.unwrap();
    assert_eq!(listing.objects.len(), MAX_PAGE_BYTES / MAX_VALUE_BYTES);
    assert!(listing.more);
}

pub(crate) async fn an_object_that_stays_is_seen_once_while_its_neighbours_come_and_go(make: Make) {
    let bed = make(Bounds::default());
    for n in 0..40 {
        put(&*bed.store, &format!("/a/{n:02}-stays"), "1").await;
    }
    let writer = bed.store.clone();
    let churn = tokio::spawn(async move {
        for n in 0..200 {
            let key = format!("/a/{:02}-moves", n % 40);
            writer.commit(txn().put(key.clone(), "1")).await.unwrap();
            writer.commit(txn().delete(key)).await.unwrap();
        }
    });
    while !churn.is_finished() {
        let mut seen = BTreeMap::new();
        let mut page = Page::first().limit(3);
        loop {
            let listing = bed.store.list("/a/", page).await.unwrap();
            assert!(listing.objects.iter().all(|object| object.revision <= listing.revision));
            for object in &listing.objects {
                *seen.entry(object.key.clone()).or_insert(0) += 1;
            }
            let Some(last) = listing.objects.last().filter(|_| listing.more) else { break };
            page = Page::after(last.key.clone()).limit(3);
        }
        let stayed = seen.iter().filter(|(key, _)| key.ends_with("stays")).count();
        assert_eq!(stayed, 40);
        assert!(seen.values().all(|times| *times == 1));
    }
    churn.await.unwrap();
}
