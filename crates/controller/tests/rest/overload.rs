//! More clients and requests than there is room for: the controller turns some away, and works on.

use std::time::{Duration, Instant};

use controller::http::Limits;

use crate::{
    bed::{Bed, WEB},
    wire::{Wire, soon},
};

/// Slow connections of a test: several times what one client may have, and few enough for the usual descriptors.
const SLOW: usize = 350;

/// Opens [`SLOW`] connections that each send `beginning` and no more; honest requests go on meanwhile.
async fn slow_clients(bed: &Bed, beginning: &str) {
    let mut slow = Vec::new();
    for number in 0..SLOW {
        let mut wire = Wire::open(bed.address).await;
        wire.send(beginning.as_bytes()).await;
        slow.push(wire);
        if number % 25 == 0 {
            let asked = Instant::now();
            assert_eq!(bed.get("/health").await.status, 200);
            let name = format!("w{number}");
            assert_eq!(bed.post("/api/v1/workloads", &WEB.replace("web", &name)).await.status, 201);
            assert!(asked.elapsed() < Duration::from_secs(1), "honest requests took {:?}", asked.elapsed());
        }
    }
    // The first ones had to make room.
    assert!(slow[0].is_closed().await);
}

#[tokio::test]
async fn h_rest_20_slow_heads_keep_nobody_out() {
    slow_clients(&Bed::start().await, "GET /health HTTP/1.1\r\nho").await;
}

#[tokio::test]
async fn h_rest_20_slow_bodies_keep_nobody_out() {
    let bed = Bed::with(Limits { in_flight: 4, ..Limits::default() }).await;
    let beginning = "POST /api/v1/instances HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 99\r\n\r\n{";
    slow_clients(&bed, beginning).await;
}

#[tokio::test]
async fn h_rest_20_connections_at_work_are_not_closed_for_new_ones() {
    let bed = Bed::with(Limits { connections_per_client: 2, ..Limits::default() }).await;
    let mut watches = Vec::new();
    for _ in 0..2 {
        let mut wire = bed.ask("GET", "/api/v1/watch").open().await;
        assert_eq!(wire.head().await.status, 200);
        watches.push(wire);
    }
    let mut third = bed.ask("GET", "/health").open().await;
    assert_eq!(third.head().await.status, 503);
    bed.cluster
        .create_workload(
            model::manifest::read::workload(WEB, model::manifest::read::Strictness::Strict).unwrap(),
            None,
        )
        .await
        .unwrap();
    for wire in &mut watches {
        wire.until(r#""name":"web""#).await;
    }
}

#[tokio::test]
async fn h_rest_21_a_flood_is_answered_or_shed_and_then_all_is_well() {
    let limits = Limits { connections_per_client: 400, in_flight: 16, ..Limits::default() };
    let bed = Bed::with(limits).await;
    bed.web().await;
    let flood =
        futures::future::join_all((0..300).map(|_| bed.post("/api/v1/instances", r#"{"workload":"web"}"#)))
            .await;
    let made = flood.iter().filter(|answer| answer.status == 201).count();
    let shed = flood.iter().filter(|answer| answer.status == 503).count();
    assert_eq!(made + shed, 300);
    assert_eq!(bed.cluster.mirror().read().instances.len(), made);
    assert_eq!(bed.post("/api/v1/instances", r#"{"workload":"web"}"#).await.status, 201);
}

#[tokio::test]
async fn h_rest_16_ten_thousand_objects_are_listed_whole() {
    let bed = Bed::start().await;
    let id = bed.web().await;
    for _ in 0..10 {
        let body = format!(r#"{{"workload_id":"{id}","replicas":1000}}"#);
        assert_eq!(bed.post("/api/v0/instances.create", &body).await.status, 201);
    }
    let list = bed.get("/api/v0/instances.list").await;
    assert_eq!(list.json().as_array().unwrap().len(), 10_000);
    let some = bed.get("/api/v0/instances.list?limit=1000000000").await;
    assert_eq!(some.json().as_array().unwrap().len(), 10_000);
}

#[tokio::test]
async fn shutdown_lets_requests_finish_and_does_not_wait_for_the_idle() {
    let bed = Bed::start().await;
    let mut idle = Wire::open(bed.address).await;
    let mut half = Wire::open(bed.address).await;
    half.send(b"POST /api/v1/workloads HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n")
        .await;
    half.send(format!("content-length: {}\r\n\r\n{}", WEB.len(), &WEB[..10]).as_bytes()).await;
    // The server has seen both when it answers this.
    assert_eq!(bed.get("/health").await.status, 200);
    bed.shutdown.cancel();
    assert!(idle.is_closed().await);
    half.send(&WEB.as_bytes()[10..]).await;
    let answer = half.answer(false).await;
    assert_eq!(answer.status, 201);
    soon(bed.server).await.unwrap();
}

#[tokio::test]
async fn shutdown_does_not_wait_for_ever() {
    let bed = Bed::with(Limits { drain: Duration::from_millis(100), ..Limits::default() }).await;
    let mut half = Wire::open(bed.address).await;
    half.send(b"POST /api/v1/workloads HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: 9\r\n\r\n")
        .await;
    assert_eq!(bed.get("/health").await.status, 200);
    bed.shutdown.cancel();
    soon(bed.server).await.unwrap();
    assert!(half.is_closed().await);
}
