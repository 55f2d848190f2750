//! The watch: no gap, resumable, bounded.

use std::time::Duration;

use controller::http::Limits;
use insta::assert_snapshot;
use store::Store;

use crate::{
    bed::{Bed, WEB},
    wire::{Wire, soon},
};

/// The revisions in the `data` of a stream's text.
fn revisions(text: &str) -> Vec<u64> {
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.map(|data| serde_json::from_str::<serde_json::Value>(data).unwrap()["revision"].as_u64().unwrap())
        .collect()
}

async fn opened(bed: &Bed, path: &str) -> Wire {
    let mut wire = bed.ask("GET", path).open().await;
    assert_eq!(wire.head().await.status, 200);
    assert_eq!(wire.chunks_until("\n\n").await, ": watching\n\n");
    wire
}

#[tokio::test]
async fn changes_are_told_as_they_happen() {
    let bed = Bed::start().await;
    let mut wire = bed.ask("GET", "/api/v1/watch").open().await;
    assert_snapshot!(wire.head().await, @"
    200
    content-type: text/event-stream
    ");
    assert_eq!(wire.chunks_until("\n\n").await, ": watching\n\n");
    bed.web().await;
    assert_snapshot!(wire.chunks_until("\n\n").await, @r#"
    id: 2
    data: {"revision":2,"action":"created","object":"workload","name":"web","value":{"id":"b7e1e158-6721-4173-bb2b-2203a8a4fd91","createdAt":"2026-01-02T03:04:05Z","apiVersion":"v1","kind":"Pod","name":"web","replicas":1,"spec":{"containers":[{"name":"web","image":"nginx:1"}],"terminationGracePeriodSeconds":10}}}
    "#);
    bed.delete("/api/v1/workloads/web").await;
    let told = wire.chunks_until("\n\n").await + &wire.chunks_until("\n\n").await;
    assert!(told.contains(r#""action":"changed""#) && told.contains(r#""action":"deleted""#), "{told}");
}

#[tokio::test]
async fn a_watch_from_a_list_misses_nothing_and_can_go_on_from_the_last_id() {
    let bed = Bed::start().await;
    bed.web().await;
    let listed = bed.get("/api/v1/instances").await.json()["revision"].as_u64().unwrap();
    bed.instance("a").await;
    bed.instance("b").await;
    let mut wire = opened(&bed, &format!("/api/v1/watch?after={listed}&object=instance")).await;
    let text = wire.chunks_until("\n\n").await + &wire.chunks_until("\n\n").await;
    assert_eq!(revisions(&text), [listed + 1, listed + 2]);
    assert!(text.contains(&format!("id: {}\n", listed + 2)));
    let mut again =
        bed.ask("GET", "/api/v1/watch?after=0").with("last-event-id", (listed + 1).to_string()).open().await;
    assert_eq!(again.head().await.status, 200);
    again.until(": watching\n\n").await;
    let text = again.until("\n\n").await;
    assert!(text.contains(&format!("id: {}\n", listed + 2)), "{text}");
}

#[tokio::test]
async fn the_id_stands_with_the_last_change_of_a_revision_only() {
    let bed = Bed::start().await;
    bed.web().await;
    let mut wire = opened(&bed, "/api/v1/watch").await;
    bed.post("/api/v1/instances", r#"{"workload":"web","replicas":3}"#).await;
    let text = wire.chunks_until("\n\n").await;
    let (first, rest) = text.split_once("id: ").unwrap();
    assert_eq!((revisions(first).len(), revisions(rest).len()), (2, 1), "{text}");
}

#[tokio::test]
async fn only_the_wanted_sort_is_told() {
    let bed = Bed::start().await;
    let mut wire = opened(&bed, "/api/v1/watch?object=workload").await;
    bed.web().await;
    bed.instance("web-1").await;
    bed.post("/api/v1/workloads", &WEB.replace("web", "other")).await;
    let text = wire.chunks_until("\n\n").await + &wire.chunks_until("\n\n").await;
    assert!(!text.contains("web-1") && text.contains(r#""name":"other""#), "{text}");
}

#[tokio::test]
async fn a_quiet_watch_shows_that_it_lives_and_where_it_is() {
    let bed = Bed::with(Limits { keep_alive: Duration::from_millis(20), ..Limits::default() }).await;
    bed.web().await;
    bed.instance("web-1").await;
    let newest = bed.cluster.overview().revision;
    let mut wire = opened(&bed, "/api/v1/watch?object=node&after=0").await;
    let mut last = String::new();
    while last != format!(": still here\nid: {newest}\n\n") {
        last = wire.chunks_until("\n\n").await;
        assert!(last.starts_with(": still here\nid: "), "{last}");
    }
}

#[tokio::test]
async fn history_that_is_gone_is_told_before_the_stream_begins() {
    let bed = Bed::start().await;
    bed.web().await;
    bed.instance("web-1").await;
    bed.store.compact(bed.cluster.overview().revision).await.unwrap();
    assert_snapshot!(bed.get("/api/v1/watch?after=1").await, @r#"
    410
    content-type: application/problem+json

    {"code":"compacted","title":"The history does not go back so far","status":410,"detail":"the history before revision 3 is gone","hint":"list again, then watch from the list's revision","request":"r1"}
    "#);
    assert_snapshot!(bed.get("/api/v1/watch?after=1000000").await, @r#"
    410
    content-type: application/problem+json

    {"code":"revision-ahead","title":"The revision does not exist yet","status":410,"detail":"the newest revision is 3","hint":"list again, then watch from the list's revision","request":"r1"}
    "#);
    for query in ["after=-1", "after=x", "object=pod", "objects=node"] {
        assert_eq!(bed.get(&format!("/api/v1/watch?{query}")).await.code(), "parameter-invalid", "{query}");
    }
    let broken = bed.ask("GET", "/api/v1/watch").with("last-event-id", "x").answer().await;
    assert_eq!(broken.code(), "parameter-invalid");
}

#[tokio::test]
async fn h_rest_22_watches_are_counted_and_their_places_given_back() {
    let bed = Bed::with(Limits { streams_per_client: 3, ..Limits::default() }).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(opened(&bed, "/api/v1/watch").await);
    }
    assert_snapshot!(bed.get("/api/v1/watch").await, @r#"
    429
    content-type: application/problem+json
    retry-after: 1

    {"code":"too-many","title":"A bound was reached","status":429,"detail":"3 watches and logs are open already, and more are not allowed","hint":"close one, or try again later","request":"r1"}
    "#);
    // Ordinary requests go on.
    assert_eq!(bed.get("/health").await.status, 200);
    held.clear();
    soon(async {
        while bed.ask("GET", "/api/v1/watch").open().await.head().await.status != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

#[tokio::test]
async fn h_rest_22_a_watcher_that_never_reads_is_dropped() {
    let limits = Limits { stall: Duration::from_millis(200), streams_per_client: 1, ..Limits::default() };
    let bed = Bed::with(limits).await;
    let large = format!(
        r#"{{"kind":"Pod","name":"web","spec":{{"containers":[{{"name":"a","image":"a","args":["{}"]}}]}}}}"#,
        "x".repeat(500_000)
    );
    assert_eq!(bed.post("/api/v1/workloads", &large).await.status, 201);
    let mut wire = opened(&bed, "/api/v1/watch").await;
    // More than the sockets between hold; nobody reads it.
    for number in 0..40 {
        bed.instance(&format!("web-{number}")).await;
    }
    soon(async {
        while bed.ask("GET", "/api/v1/watch").open().await.head().await.status != 200 {
            tokio::task::yield_now().await;
        }
    })
    .await;
    // What was sent can still be read; then the connection ends in the middle.
    while wire.chunk_or_end().await {}
}

#[tokio::test]
async fn a_watch_ends_with_the_server() {
    let bed = Bed::start().await;
    let mut wire = opened(&bed, "/api/v1/watch").await;
    bed.shutdown.cancel();
    assert_eq!(wire.chunk().await, None);
    soon(bed.server).await.unwrap();
}
