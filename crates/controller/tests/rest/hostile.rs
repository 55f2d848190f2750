//! Hostile requests: each is refused clearly, changes nothing, and leaves the controller as it was.

use std::time::Duration;

use controller::http::Limits;
use insta::assert_snapshot;

use crate::{
    bed::{Bed, WEB},
    wire::Wire,
};

/// The controller still works, and nothing was created.
async fn unharmed(bed: &Bed) {
    let list = bed.get("/api/v1/workloads").await;
    assert_eq!((list.status, list.json()["items"].as_array().unwrap().len()), (200, 0));
}

fn head(method: &str, path: &str, fields: &str) -> Vec<u8> {
    format!("{method} {path} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\nx-request-id: r1\r\n{fields}\r\n")
        .into_bytes()
}

#[tokio::test]
async fn h_rest_02_a_host_that_is_not_ours_is_misdirected() {
    let bed = Bed::start().await;
    let evil = bed.ask("GET", "/api/v1/workloads").with("host", "evil.example").answer().await;
    assert_snapshot!(evil, @r#"
    421
    content-type: application/problem+json

    {"code":"host-not-allowed","title":"The host is not this server","status":421,"detail":"\"evil.example\" is not a name of this server","hint":"use its address or localhost, or add the name to the allowed hosts of the controller","request":"r1"}
    "#);
    for host in ["localhost:5000", "127.0.0.1", "[::1]:5000", "rik.example"] {
        assert_eq!(bed.ask("GET", "/health").with("host", host).answer().await.status, 200, "{host}");
    }
    let absolute = bed.raw(b"GET http://evil.example/health HTTP/1.1\r\nhost: localhost\r\n\r\n").await;
    assert_eq!(absolute.status, 421);
    assert_eq!(bed.raw(b"GET http://localhost/health HTTP/1.1\r\nhost: localhost\r\n\r\n").await.status, 200);
    assert_eq!(bed.raw(b"GET /health HTTP/1.1\r\n\r\n").await.status, 400);
}

#[tokio::test]
async fn h_rest_03_pages_of_other_origins_change_nothing() {
    let bed = Bed::start().await;
    for path in ["/api/v1/workloads", "/api/v0/workloads.create"] {
        let evil = bed.ask("POST", path).json(WEB).with("origin", "https://evil.example").answer().await;
        assert_eq!(evil.status, 403, "{path}");
        assert_eq!(evil.header("access-control-allow-origin"), None);
        let form = bed
            .ask("POST", path)
            .json(WEB)
            .with("origin", "null")
            .with("content-type", "text/plain")
            .answer()
            .await;
        assert_eq!(form.status, 403, "{path}");
    }
    let text =
        bed.ask("POST", "/api/v1/workloads").json(WEB).with("content-type", "text/plain").answer().await;
    assert_eq!(text.status, 415);
    let preflight = bed.ask("OPTIONS", "/api/v1/workloads").with("origin", "https://evil.example");
    let preflight = preflight.with("access-control-request-method", "PUT").answer().await;
    assert_eq!((preflight.status, preflight.header("access-control-allow-origin")), (405, None));
    unharmed(&bed).await;
    let own =
        bed.ask("POST", "/api/v1/workloads").json(WEB).with("origin", "http://localhost").answer().await;
    assert_eq!(own.status, 201);
}

#[tokio::test]
async fn h_rest_10_bodies_are_bounded_before_they_are_held() {
    let bed = Bed::start().await;
    for (size, status) in [(0, 400), (1, 400), (1 << 20, 400), ((1 << 20) + 1, 413)] {
        let answer = bed.ask("POST", "/api/v1/workloads").json(vec![b' '; size]).answer().await;
        assert_eq!(answer.status, status, "{size}");
    }
    let declared = head("POST", "/api/v1/workloads", "content-length: 10000000000\r\n");
    assert_snapshot!(bed.raw(&declared).await, @r#"
    413
    content-type: application/problem+json

    {"code":"body-too-large","title":"The body is too large","status":413,"detail":"the body has more than the 1048576 bytes that are allowed","request":"r1"}
    "#);
    assert_eq!(
        bed.raw(&head("POST", "/api/v0/workloads.create", "content-length: 10000000000\r\n")).await.status,
        413
    );
    let absurd =
        bed.raw(&head("POST", "/api/v1/workloads", "content-length: 99999999999999999999\r\n")).await;
    assert_eq!(absurd.status, 400);
    unharmed(&bed).await;
}

#[tokio::test]
async fn h_rest_10_a_body_without_end_is_cut_off() {
    let bed = Bed::start().await;
    let mut wire = Wire::open(bed.address).await;
    wire.send(&head("POST", "/api/v1/workloads", "transfer-encoding: chunked\r\n")).await;
    let chunk = [b"10000\r\n".to_vec(), vec![b' '; 0x10000], b"\r\n".to_vec()].concat();
    let mut sent = 0;
    while wire.send(&chunk).await && sent < 64 {
        sent += 1;
    }
    assert_eq!(wire.answer(false).await.status, 413);
    unharmed(&bed).await;
}

#[tokio::test]
async fn h_rest_11_only_json_is_json() {
    let bed = Bed::start().await;
    let deep = "[".repeat(100_000);
    let deep_value = format!(r#"{{"workload":{}"#, "[".repeat(100_000));
    let keys = (0..20_000).map(|key| format!("\"k{key}\":0")).collect::<Vec<_>>().join(",");
    let keys = format!("{{{keys}}}");
    let items = format!(r#"{{"workload":[{}0]}}"#, "0,".repeat(100_000));
    let web = |change: &str, to: &str| WEB.replace(change, to).into_bytes();
    let bodies: [(&str, Vec<u8>); 14] = [
        ("depth", deep.into_bytes()),
        ("depth in a value", deep_value.into_bytes()),
        ("many keys", keys.into_bytes()),
        ("many elements", items.into_bytes()),
        ("a key twice", web("\"kind\":\"Pod\"", "\"kind\":\"Pod\",\"kind\":\"Pod\"")),
        ("a huge number", web("\"kind\"", "\"replicas\":1e9999,\"kind\"")),
        ("NaN", web("\"kind\"", "\"replicas\":NaN,\"kind\"")),
        ("a lone surrogate", web("\"nginx:1\"", "\"\\ud800\"")),
        ("BOM", [b"\xef\xbb\xbf".to_vec(), WEB.as_bytes().to_vec()].concat()),
        ("UTF-16", WEB.encode_utf16().flat_map(u16::to_le_bytes).collect()),
        ("NUL", web("nginx:1", "ngi\u{0}nx")),
        ("no UTF-8", [&WEB.as_bytes()[..20], &[0xff, 0xfe], &WEB.as_bytes()[20..]].concat()),
        ("trailing garbage", [WEB.as_bytes(), b"x"].concat()),
        ("cut off", WEB.as_bytes()[..WEB.len() - 1].to_vec()),
    ];
    for (what, body) in bodies {
        for path in
            ["/api/v1/workloads", "/api/v1/instances", "/api/v0/workloads.create", "/api/v0/instances.create"]
        {
            let answer = bed.ask("POST", path).json(body.clone()).answer().await;
            assert_eq!(answer.status, 400, "{what} to {path}: {}", answer.text());
            assert!(answer.body.len() < 64 << 10, "{what} to {path} is told in {} bytes", answer.body.len());
        }
    }
    unharmed(&bed).await;
}

#[tokio::test]
async fn h_rest_12_yaml_bombs_are_refused() {
    let bed = Bed::start().await;
    let mut laughs = "a: &a [x,x,x,x,x,x,x,x,x]\n".to_owned();
    for (this, last) in ('b'..='i').zip('a'..) {
        laughs.push_str(&format!("{this}: &{this} [{}]\n", vec![format!("*{last}"); 9].join(",")));
    }
    let deep = "- ".repeat(100_000);
    for body in [
        laughs.as_str(),
        &deep,
        "a: &a [*a]\n",
        "!!python/object/apply:os.system [id]",
        "a: b\na: c\n",
        "---\n---\n",
    ] {
        let answer = bed
            .ask("POST", "/api/v1/workloads")
            .json(body)
            .with("content-type", "application/yaml")
            .answer()
            .await;
        assert_eq!(answer.status, 400, "{}", &body[..body.len().min(30)]);
    }
    unharmed(&bed).await;
}

#[tokio::test]
async fn h_rest_13_odd_requests_get_plain_refusals() {
    let bed = Bed::start().await;
    let long = "a".repeat(65_536);
    let many: String = (0..10_000).map(|number| format!("x-{number}: y\r\n")).collect();
    let hundred = format!("x: {}\r\n", "y".repeat(100 << 10));
    let wide = format!("x: {}\r\n", "y".repeat(40 << 10));
    for (what, request, statuses) in [
        ("a long URL", head("GET", &format!("/{long}"), ""), &[414][..]),
        ("a rather long URL", head("GET", &format!("/{}", &long[..9000]), ""), &[414]),
        ("a long query", head("GET", &format!("/api/v1/instances?x={}", &long[..9000]), ""), &[414]),
        ("many fields", head("GET", "/health", &many), &[431]),
        ("a large field", head("GET", "/health", &hundred), &[431]),
        ("a rather large field", head("GET", "/health", &wide), &[431]),
        ("NUL in the path", head("GET", "/api/v1/workloads/%00", ""), &[404]),
        ("no UTF-8 in the path", head("GET", "/api/v1/workloads/%ff", ""), &[400]),
        ("dots", head("GET", "/api/v1/workloads/%2e%2e/%2e%2e/etc", ""), &[404]),
        ("plain dots", head("GET", "/../../etc/passwd", ""), &[404]),
        ("slashes", head("GET", "//api//v1//workloads", ""), &[404]),
        ("a folded field", head("GET", "/health", "x: a\r\n b\r\n"), &[400]),
        ("a space before the colon", head("GET", "/health", "x : a\r\n"), &[400]),
        ("a method of its own", head("BREW", "/health", ""), &[405]),
        ("TRACE", head("TRACE", "/health", ""), &[405]),
        (
            "two lengths",
            head("POST", "/api/v1/workloads", "content-length: 1\r\ncontent-length: 2\r\n"),
            &[400],
        ),
        ("an odd coding", head("POST", "/api/v1/workloads", "transfer-encoding: gzip\r\n"), &[400]),
        (
            "a bad chunk",
            [head("POST", "/api/v1/workloads", "transfer-encoding: chunked\r\n"), b"zz\r\n".to_vec()]
                .concat(),
            &[400],
        ),
        ("two hosts", head("GET", "/health", "host: localhost\r\n"), &[400]),
        ("no request", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n".to_vec(), &[400]),
        ("HTTP/0.9", b"GET /\r\n\r\n".to_vec(), &[400]),
    ] {
        let answer = bed.raw(&request).await;
        assert!(statuses.contains(&answer.status), "{what}: {}", answer.status);
    }
    unharmed(&bed).await;
}

#[tokio::test]
async fn h_rest_13_nothing_is_smuggled_behind_a_body_with_two_lengths() {
    let bed = Bed::start().await;
    let smuggled = b"0\r\n\r\nGET /api/v1/workloads HTTP/1.1\r\nhost: localhost\r\n\r\n";
    let fields = format!("content-length: {}\r\ntransfer-encoding: chunked\r\n", smuggled.len());
    let mut wire = Wire::open(bed.address).await;
    wire.send(&[head("POST", "/api/v1/workloads", &fields), smuggled.to_vec()].concat()).await;
    assert_eq!(wire.answer(false).await.status, 400);
    assert!(wire.is_closed().await, "what follows such a body is not answered");
}

#[tokio::test]
async fn h_rest_14_names_are_literal() {
    let bed = Bed::start().await;
    bed.web().await;
    for name in ["we%25", "we_", "%27%20OR%201%3D1%20--", "WEB", "web%2F", "web%00"] {
        assert_eq!(bed.get(&format!("/api/v1/workloads/{name}")).await.status, 404, "{name}");
    }
}

#[tokio::test]
async fn h_rest_15_ids_of_every_kind_are_just_unknown() {
    let bed = Bed::start().await;
    for id in ["18446744073709551615", "-1", "\u{661}\u{662}", "\u{202e}abc", "\u{1f600}"] {
        let body = serde_json::json!({ "id": id }).to_string();
        assert_eq!(bed.post("/api/v0/instances.delete", &body).await.status, 404, "{id}");
    }
    for body in [r#"{"id":7}"#, r#"{"id":null}"#, r#"{"id":["a"]}"#, r#"{"id":{}}"#] {
        assert_eq!(bed.post("/api/v0/instances.delete", body).await.status, 400, "{body}");
    }
    let long = serde_json::json!({ "id": "x".repeat(1_000_000) }).to_string();
    assert_eq!(bed.post("/api/v0/instances.delete", &long).await.status, 404);
}

#[tokio::test]
async fn h_wl_01_hostile_names_are_no_names() {
    let bed = Bed::start().await;
    let long = "a".repeat(64);
    let huge = "a".repeat(900_000);
    for name in [
        "../../etc",
        "/abs",
        ".",
        "..",
        "",
        &long,
        &huge,
        "Upper",
        "a b",
        "-rf",
        "--help",
        "a\0b",
        "a\nb",
        "\u{202e}a",
        "раypal",
        "\u{1f600}",
        "%2e%2e",
        "a.",
        "it's",
        "a;b",
        "$(id)",
        "a\u{1b}[31m",
    ] {
        let body = serde_json::json!({"kind": "Pod", "name": name, "spec": {"containers": [{"name": "a", "image": "a"}]}});
        for path in ["/api/v1/workloads", "/api/v0/workloads.create"] {
            let answer = bed.post(path, &body.to_string()).await;
            assert_eq!(answer.status, 400, "{name:?} to {path}");
            let text = answer.text();
            assert!(
                !text.contains('\u{1b}') && !text.contains('\0'),
                "{name:?} to {path} comes back raw: {text:?}"
            );
        }
    }
    unharmed(&bed).await;
}

#[tokio::test]
async fn h_wl_05_kinds_and_fields_that_nobody_knows_are_named() {
    let bed = Bed::start().await;
    for (body, path) in [
        (r#"{"kind":"Deployment","name":"a","spec":{}}"#, "kind"),
        (r#"{"kind":"Pod","name":"a","spec":{"containers":[]}}"#, "spec.containers"),
        (
            r#"{"kind":"Pod","name":"a","hostNetwork":true,"spec":{"containers":[{"name":"a","image":"a"}]}}"#,
            "hostNetwork",
        ),
        (
            r#"{"kind":"Pod","name":"a","spec":{"containers":[{"name":"a","image":"a","privileged":true}]}}"#,
            "spec.containers[0].privileged",
        ),
        (
            r#"{"kind":"Pod","name":"a","spec":{"containers":[{"name":"a","image":"a","ports":[{"port":70000}]}]}}"#,
            "spec.containers[0].ports[0].port",
        ),
    ] {
        let answer = bed.post("/api/v1/workloads", body).await;
        assert_eq!(answer.code(), "manifest-invalid", "{body}");
        assert_eq!(answer.json()["faults"][0]["path"], path, "{body}");
    }
}

#[tokio::test]
async fn f72_a_client_that_leaves_after_its_body_finds_the_thing_done() {
    let bed = Bed::start().await;
    let seen = bed.cluster.mirror().read().revision;
    drop(bed.ask("POST", "/api/v1/workloads").json(WEB).open().await);
    crate::wire::soon(bed.cluster.mirror().passed(seen)).await;
    assert_eq!(bed.get("/api/v1/workloads/web").await.status, 200);
}

#[tokio::test]
async fn h_rest_20_a_slow_head_and_a_slow_body_run_out_of_time() {
    let quick =
        Limits { head: Duration::from_millis(200), body: Duration::from_millis(200), ..Limits::default() };
    let bed = Bed::with(quick).await;
    let mut wire = Wire::open(bed.address).await;
    wire.send(b"GET /health HTTP/1.1\r\nhost: local").await;
    assert!(wire.is_closed().await);
    let mut idle = Wire::open(bed.address).await;
    assert!(idle.is_closed().await);
    let mut slow = Wire::open(bed.address).await;
    slow.send(&head("POST", "/api/v1/workloads", "content-length: 10\r\n")).await;
    slow.send(b"{").await;
    assert_snapshot!(slow.answer(false).await, @r#"
    408
    content-type: application/problem+json

    {"code":"body-slow","title":"The body did not arrive in time","status":408,"detail":"the body did not arrive within 200ms","request":"r1"}
    "#);
    unharmed(&bed).await;
}
