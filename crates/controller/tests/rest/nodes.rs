//! Nodes, and what is relayed to and from them: logs and images.

use insta::assert_snapshot;
use model::session::{CONTROL, INPUT};
use proto::relay::{Frame, MAX_DATA_BYTES, RelayFailure, StreamRequest};

use crate::{
    bed::{Bed, Scheduler, nodes_of},
    wire::{Wire, soon},
};

fn data(text: &str) -> Frame {
    Frame::Data(text.as_bytes().to_vec())
}

fn failed(code: &str) -> Frame {
    Frame::Failed(RelayFailure { code: code.to_owned(), message: "as asked".to_owned() })
}

async fn with_instance(bed: &Bed) {
    bed.web().await;
    bed.instance("web-1").await;
    let mut scheduler = Scheduler::connect(bed).await;
    scheduler.node("n1").await;
    scheduler.bind("web-1", "n1").await;
}

#[tokio::test]
async fn nodes_are_listed_read_and_removed_when_they_are_gone() {
    let bed = Bed::start().await;
    let mut scheduler = Scheduler::connect(&bed).await;
    scheduler.node("n1").await;
    scheduler.node("n2").await;
    assert_snapshot!(bed.get("/api/v1/nodes/n1").await, @r#"
    200
    content-type: application/json
    etag: "2"

    {"name":"n1","uid":"uid-n1","status":"Ready","statusSince":"2026-01-02T03:04:05Z","createdAt":"2026-01-02T03:04:05Z","podSubnet":"10.42.1.0/24","address":"192.0.2.1","architecture":"x86_64","os":"Debian GNU/Linux 12","kernel":"6.1.0","version":"0.1.0","cgroups":"v2","userNamespaces":"yes","runtimes":"","microvms":"","kinds":["Pod"],"labels":{},"cpu":"2","memory":"1Gi","maxInstances":20,"instances":0}
    "#);
    let page = bed.get("/api/v1/nodes?limit=1").await.json();
    let next = bed
        .get(&format!("/api/v1/nodes?limit=1&continue={}", page["continue"].as_str().unwrap()))
        .await
        .json();
    assert_eq!((&page["items"][0]["name"], &next["items"][0]["name"]), (&"n1".into(), &"n2".into()));
    assert_eq!(next.get("continue"), None);
    assert_snapshot!(bed.get("/api/v1/nodes/n3").await, @r#"
    404
    content-type: application/problem+json

    {"code":"node-not-found","title":"There is no such node","status":404,"detail":"there is no node \"n3\"","hint":"rikctl get nodes","request":"r1"}
    "#);
    assert_snapshot!(bed.delete("/api/v1/nodes/n1").await, @r#"
    409
    content-type: application/problem+json

    {"code":"node-in-use","title":"The node still takes part","status":409,"detail":"node \"n1\" is in use: it is heard from; stop its riklet first","request":"r1"}
    "#);
    scheduler.lose("n1").await;
    assert_eq!(bed.get("/api/v1/nodes/n1").await.json()["status"], "Unreachable");
    assert_snapshot!(bed.delete("/api/v1/nodes/n1").await, @"204");
    assert_eq!(bed.delete("/api/v1/nodes/n1").await.code(), "node-not-found");
}

#[tokio::test]
async fn a_log_is_passed_on_as_it_comes() {
    let bed = Bed::start().await;
    with_instance(&bed).await;
    let mut ends = nodes_of(&bed);
    let path = "/api/v1/instances/web-1/logs?follow=true&tail=5&sinceSeconds=90&timestamps=true";
    let mut wire = bed.ask("GET", path).open().await;
    let end = soon(ends.recv()).await.unwrap();
    let uid = bed.cluster.instance("web-1").unwrap().object.uid.clone();
    let expected = StreamRequest::Logs {
        uid,
        container: "web".to_owned(),
        follow: true,
        tail: Some(5),
        since_seconds: Some(90),
        previous: false,
        timestamps: true,
    };
    assert_eq!(end.request, expected);
    end.send.send(data("one\n")).await.unwrap();
    let head = wire.head().await;
    assert_eq!((head.status, head.header("content-type")), (200, Some("text/plain; charset=utf-8")));
    assert_eq!(wire.chunks_until("one\n").await, "one\n");
    end.send.send(data("two\n")).await.unwrap();
    assert_eq!(wire.chunks_until("two\n").await, "two\n");
    end.send.send(Frame::End).await.unwrap();
    assert_eq!(wire.chunk().await, None);
}

#[tokio::test]
async fn a_followed_log_without_lines_begins_all_the_same() {
    let bed = Bed::start().await;
    with_instance(&bed).await;
    let mut ends = nodes_of(&bed);
    let mut wire = bed.ask("GET", "/api/v1/instances/web-1/logs?follow").open().await;
    let end = soon(ends.recv()).await.unwrap();
    assert_eq!(wire.head().await.status, 200);
    end.send.send(Frame::End).await.unwrap();
    assert_eq!(wire.chunk().await, None);
}

#[tokio::test]
async fn h_rest_23_the_stream_ends_when_the_client_goes() {
    let bed = Bed::start().await;
    with_instance(&bed).await;
    let mut ends = nodes_of(&bed);
    let mut wire = bed.ask("GET", "/api/v1/instances/web-1/logs?follow").open().await;
    let end = soon(ends.recv()).await.unwrap();
    end.send.send(data("one\n")).await.unwrap();
    wire.until("one\n").await;
    drop(wire);
    soon(end.send.closed()).await;
}

#[tokio::test]
async fn a_client_that_does_not_read_slows_the_node_down() {
    let bed = Bed::start().await;
    with_instance(&bed).await;
    let mut ends = nodes_of(&bed);
    let _wire = bed.ask("GET", "/api/v1/instances/web-1/logs?follow").open().await;
    let end = soon(ends.recv()).await.unwrap();
    // Far more than all sockets and channels between here and there hold.
    let most = (64 << 20) / MAX_DATA_BYTES;
    let mut sent = 0;
    while sent < most {
        let piece = Frame::Data(vec![b'x'; MAX_DATA_BYTES]);
        let taken = tokio::time::timeout(std::time::Duration::from_millis(500), end.send.send(piece)).await;
        if taken.is_err() {
            break;
        }
        sent += 1;
    }
    assert!(sent < most, "everything was taken although nobody reads");
}

#[tokio::test]
async fn a_client_that_is_still_sending_hears_how_its_session_ended() {
    let bed = Bed::start().await;
    with_instance(&bed).await;
    let mut ends = nodes_of(&bed);
    let mut wire = Wire::open(bed.address).await;
    let upgrade = format!(
        "GET /api/v1/instances/web-1/copy HTTP/1.1\r\nHost: {}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
        bed.address
    );
    assert!(wire.send(upgrade.as_bytes()).await);
    assert_eq!(wire.head().await.status, 101);
    let request = br#"{"path":"/no/where","direction":"in"}"#;
    assert!(wire.send(&frame_of_client(0x81, request)).await);
    let end = soon(ends.recv()).await.unwrap();
    let outcome = [&[CONTROL], br#"{"exit":1}"#.as_slice()].concat();
    end.send.send(Frame::Data(outcome)).await.unwrap();
    end.send.send(Frame::End).await.unwrap();
    let piece = frame_of_client(0x82, &[INPUT; 30_000]);
    for _ in 0..200 {
        assert!(wire.send(&piece).await, "it is closed in the middle of what is sent");
    }
    wire.until(r#"{"exit":1}"#).await;
}

/// A WebSocket's frame, masked with zeros; `head` is its first byte.
fn frame_of_client(head: u8, bytes: &[u8]) -> Vec<u8> {
    let length = u16::try_from(bytes.len()).unwrap().to_be_bytes();
    [&[head, 0x80 | 126], length.as_slice(), &[0; 4], bytes].concat()
}

#[tokio::test]
async fn logs_are_refused_with_a_reason() {
    let bed = Bed::start().await;
    with_instance(&bed).await;
    let two = r#"{"kind":"Pod","name":"two","spec":{"containers":[{"name":"a","image":"a"},{"name":"b","image":"b"}]}}"#;
    bed.post("/api/v1/workloads", two).await;
    bed.post("/api/v1/instances", r#"{"workload":"two","name":"two-1"}"#).await;
    assert_snapshot!(bed.get("/api/v1/instances/nope/logs").await, @r#"
    404
    content-type: application/problem+json

    {"code":"instance-not-found","title":"There is no such instance","status":404,"detail":"there is no instance \"nope\"","hint":"rikctl get instances","request":"r1"}
    "#);
    assert_snapshot!(bed.get("/api/v1/instances/two-1/logs").await, @r#"
    400
    content-type: application/problem+json

    {"code":"request-invalid","title":"The request makes no sense","status":400,"detail":"instance \"two-1\" has several containers","hint":"name one of them: a, b","request":"r1"}
    "#);
    assert_snapshot!(bed.get("/api/v1/instances/two-1/logs?container=..%2F..%2Fetc").await, @r#"
    404
    content-type: application/problem+json

    {"code":"container-not-found","title":"There is no such container","status":404,"detail":"instance \"two-1\" has no container \"../../etc\"; it has a, b","request":"r1"}
    "#);
    assert_snapshot!(bed.get("/api/v1/instances/two-1/logs?container=a").await, @r#"
    409
    content-type: application/problem+json

    {"code":"not-placed","title":"The instance has no node yet","status":409,"detail":"instance \"two-1\" has no node yet, so it has no log","hint":"rikctl describe instance two-1","request":"r1"}
    "#);
    assert_snapshot!(bed.get("/api/v1/instances/web-1/logs").await, @r#"
    503
    content-type: application/problem+json
    retry-after: 1

    {"code":"scheduler-away","title":"The scheduler is not connected","status":503,"detail":"the scheduler is not connected","hint":"start the scheduler, or look at SCHEDULER_URL","request":"r1"}
    "#);
    assert_eq!(bed.get("/api/v1/instances/web-1/logs?tail=-1").await.code(), "parameter-invalid");
    assert_eq!(bed.get("/api/v1/instances/web-1/logs?folow").await.code(), "parameter-invalid");
}

#[tokio::test]
async fn a_node_that_fails_is_told_with_what_it_said() {
    let bed = Bed::start().await;
    with_instance(&bed).await;
    let mut ends = nodes_of(&bed);
    for (frame, status, code) in [
        (Some(failed("container-not-found")), 404, "container-not-found"),
        (Some(failed("no-log")), 404, "no-log"),
        (Some(failed("node-not-ready")), 503, "node-not-ready"),
        (Some(failed("some-new-code")), 502, "node-failed"),
        (Some(failed("internal")), 502, "node-failed"),
        (None, 503, "node-unreachable"),
    ] {
        let (answer, ()) = tokio::join!(bed.get("/api/v1/instances/web-1/logs"), async {
            let end = soon(ends.recv()).await.unwrap();
            if let Some(frame) = frame {
                end.send.send(frame).await.unwrap();
            }
        });
        assert_eq!((answer.status, answer.code().as_str()), (status, code));
    }
}

#[tokio::test]
async fn images_are_listed_by_reference() {
    let bed = Bed::start().await;
    with_instance(&bed).await;
    let mut ends = nodes_of(&bed);
    let image = |reference: &str| {
        format!(
            r#"{{"node":"n1","reference":"{reference}","digest":"sha256:00","size":7,"pulledAt":"2026-01-02T03:04:05Z"}}"#
        )
    };
    let list = format!("[{},{}]", image("b:1"), image("a:1"));
    let (answer, ()) = tokio::join!(bed.get("/api/v1/nodes/n1/images"), async {
        let end = soon(ends.recv()).await.unwrap();
        assert_eq!(end.request, StreamRequest::Images);
        // In pieces, as a long list comes.
        end.send.send(data(&list[..10])).await.unwrap();
        end.send.send(data(&list[10..])).await.unwrap();
        end.send.send(Frame::End).await.unwrap();
    });
    assert_snapshot!(answer, @r#"
    200
    content-type: application/json

    {"items":[{"node":"n1","reference":"a:1","digest":"sha256:00","size":7,"pulledAt":"2026-01-02T03:04:05Z","containers":0,"usedAt":null},{"node":"n1","reference":"b:1","digest":"sha256:00","size":7,"pulledAt":"2026-01-02T03:04:05Z","containers":0,"usedAt":null}],"revision":5}
    "#);
    assert_eq!(bed.get("/api/v1/nodes/nope/images").await.code(), "node-not-found");
    let (answer, ()) = tokio::join!(bed.get("/api/v1/nodes/n1/images"), async {
        let end = soon(ends.recv()).await.unwrap();
        end.send.send(data("nonsense")).await.unwrap();
        end.send.send(Frame::End).await.unwrap();
    });
    assert_eq!(answer.code(), "node-failed");
}

#[tokio::test]
async fn an_image_is_passed_on_whatever_its_size() {
    let bed = Bed::start().await;
    with_instance(&bed).await;
    let mut ends = nodes_of(&bed);
    let size = 5 << 20;
    let archive: Vec<u8> = (0..size).map(|index: u32| index.to_le_bytes()[0]).collect();
    let load = bed
        .ask("POST", "/api/v1/nodes/n1/images")
        .json(archive.clone())
        .with("content-type", "application/x-tar");
    let (answer, received) = tokio::join!(load.answer(), async {
        let mut end = soon(ends.recv()).await.unwrap();
        assert_eq!(end.request, StreamRequest::LoadImage);
        let mut received = Vec::new();
        while let Frame::Data(piece) = soon(end.receive.recv()).await.unwrap() {
            assert!(piece.len() <= MAX_DATA_BYTES);
            received.extend(piece);
        }
        end.send.send(data(r#"["hello:latest"]"#)).await.unwrap();
        end.send.send(Frame::End).await.unwrap();
        received
    });
    assert_snapshot!(answer, @r#"
    200
    content-type: application/json

    ["hello:latest"]
    "#);
    assert!(received == archive, "the archive is not the one that was sent");
}

#[tokio::test]
async fn an_image_that_its_node_refuses_is_refused_while_it_is_being_sent() {
    let bed = Bed::start().await;
    with_instance(&bed).await;
    let mut ends = nodes_of(&bed);
    let load = bed
        .ask("POST", "/api/v1/nodes/n1/images")
        .json(vec![7; 4 << 20])
        .with("content-type", "application/x-tar");
    let (answer, ()) = tokio::join!(load.answer(), async {
        let mut end = soon(ends.recv()).await.unwrap();
        assert!(matches!(soon(end.receive.recv()).await, Some(Frame::Data(_))));
        end.send.send(failed("image-not-loaded")).await.unwrap();
    });
    assert_snapshot!(answer, @r#"
    400
    content-type: application/problem+json

    {"code":"image-not-loaded","title":"The image could not be loaded","status":400,"detail":"node \"n1\" answered: as asked","request":"r1"}
    "#);
    let text = bed
        .ask("POST", "/api/v1/nodes/n1/images")
        .json("x")
        .with("content-type", "text/plain")
        .answer()
        .await;
    assert_snapshot!(text, @r#"
    415
    content-type: application/problem+json

    {"code":"content-type-unsupported","title":"The type of the body is not read here","status":415,"detail":"the Content-Type is \"text/plain\"","hint":"send one of application/x-tar, application/octet-stream, application/gzip, application/zstd","request":"r1"}
    "#);
}
