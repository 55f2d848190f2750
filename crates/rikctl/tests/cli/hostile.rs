//! A controller that means harm, or is none (H-CLI-01, H-WL-15).

use std::{io::Write as _, time::Instant};

use serde_json::json;

use crate::{
    Desk, cluster,
    controller::{Controller, answer},
    finished, instance, page,
};

const EVIL: &str = "a\u{1b}[2J\u{9b}31m\r\nINSTANCE-2\u{202e}\u{2028}";

#[test]
fn h_wl_15_hostile_text_is_spelled_out_in_every_form() {
    let more = json!({ "workload": EVIL, "reason": "StartFailed", "message": EVIL, "node": EVIL });
    let controller = Controller::start()
        .says("GET /instances", 200, page(&[instance(EVIL, "Failed", more.clone())]))
        .says("GET /instances/x", 200, instance(EVIL, "Failed", more))
        .says("GET /events", 200, page(&[]));
    let desk = Desk::of(&controller);
    insta::assert_snapshot!(desk.run("get instances"), @r#"
    exit 0
    stdout:
       ID                                                 NAME                                               STATUS·
       a\u{1b}[2J\u{9b}31m\r\nINSTANCE-2\u{202e}\u{2028}  a\u{1b}[2J\u{9b}31m\r\nINSTANCE-2\u{202e}\u{2028}  Failed·
    stderr:
      a\u{1b}[2J\u{9b}31m\r\nINSTANCE-2\u{202e}\u{2028}: StartFailed: a\u{1b}[2J\u{9b}31m\r\nINSTANCE-2\u{202e}\u{2028}
    "#);
    for line in [
        "get instances -o wide",
        "get instances -o json",
        "get instances -o yaml",
        "get instances -o name",
        "get instances -q",
        "describe instance x",
    ] {
        let told = desk.run(line);
        let harmless = |character: char| {
            character == '\n' || !(character.is_control() || "\u{202e}\u{2028}".contains(character))
        };
        assert!(told.starts_with("exit 0") && told.chars().all(harmless), "{line}: {told:?}");
    }
}

#[test]
fn hostile_problems_are_told_harmlessly() {
    let controller = Controller::start().refuses_with(
        "GET /instances",
        json!({ "code": EVIL, "title": EVIL, "status": 500, "detail": EVIL, "hint": EVIL, "request": EVIL,
            "faults": [{ "path": EVIL, "line": 3, "message": EVIL }] }),
    );
    insta::assert_snapshot!(Desk::of(&controller).run("get instances"), @r#"
    exit 1
    stderr:
      error: a\u{1b}[2J\u{9b}31m\r\nINSTANCE-2\u{202e}\u{2028}
        line 3: a\u{1b}[2J\u{9b}31m\r\nINSTANCE-2\u{202e}\u{2028}: a\u{1b}[2J\u{9b}31m\r\nINSTANCE-2\u{202e}\u{2028}
        request a\u{1b}[2J\u{9b}31m\r\nINSTANCE-2\u{202e}\u{2028} in the controller's log
      hint: a\u{1b}[2J\u{9b}31m\r\nINSTANCE-2\u{202e}\u{2028}
    "#);
}

#[test]
fn h_cli_01_ten_gigabytes_are_not_read() {
    let declared = |stream: &mut std::net::TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 10000000000\r\n\r\n");
        pour(stream);
    };
    let endless = |stream: &mut std::net::TcpStream| {
        let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
        pour(stream);
    };
    let desk = Desk::of(&Controller::start().speaks("GET /instances", declared));
    insta::assert_snapshot!(desk.run("get instances"), @r#"
    exit 1
    stderr:
      error: the answer of SERVER is larger than 64 MiB
      hint: see with `rikctl version` whether a RIK controller of this version answers there
    "#);
    let desk = Desk::of(&Controller::start().speaks("GET /instances", endless));
    insta::assert_snapshot!(desk.run("get instances"), @r#"
    exit 1
    stderr:
      error: the answer of SERVER is larger than 64 MiB
      hint: see with `rikctl version` whether a RIK controller of this version answers there
    "#);
}

fn pour(stream: &mut std::net::TcpStream) {
    let megabyte = vec![b' '; 1 << 20];
    for _ in 0..10_000 {
        if stream.write_all(&megabyte).is_err() {
            return;
        }
    }
}

#[test]
fn pages_without_end_end() {
    let controller = Controller::start().says(
        "GET /instances",
        200,
        json!({ "items": [], "revision": 1, "continue": "x" }),
    );
    assert!(Desk::of(&controller).run("get instances").starts_with("exit 0"));
    assert_eq!(controller.requests().len(), 1);
}

#[test]
fn h_cli_01_a_redirect_is_not_followed() {
    let elsewhere = Controller::start().says("GET /instances", 200, page(&[]));
    let location = format!("{}/api/v1/instances", elsewhere.url());
    let controller = Controller::start().speaks("GET /instances", move |stream| {
        let _ = write!(stream, "HTTP/1.1 307 Go\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
    });
    let told = Desk::of(&controller).run("get instances").replace(&elsewhere.url(), "ELSEWHERE");
    insta::assert_snapshot!(told, @r#"
    exit 1
    stderr:
      error: SERVER answers GET /api/v1/instances?limit=500 with a redirect to "ELSEWHERE/api/v1/instances", which is not followed
      hint: see with `rikctl version` whether a RIK controller of this version answers there
    "#);
    assert_eq!(elsewhere.lines(), "");
}

#[test]
fn what_is_no_controller_is_told_as_such() {
    let page = b"<html><body>\x1b[31mIt works!</body></html>";
    let web = Controller::start().speaks("GET /instances", |stream| answer(stream, 200, "text/html", page));
    insta::assert_snapshot!(Desk::of(&web).run("get instances"), @r#"
    exit 1
    stderr:
      error: the answer of SERVER to GET /api/v1/instances?limit=500 is not understood: expected value at line 1 column 1
      hint: see with `rikctl version` whether a RIK controller of this version answers there
    "#);
    let missing =
        Controller::start().speaks("GET /instances", |stream| answer(stream, 404, "text/html", page));
    insta::assert_snapshot!(Desk::of(&missing).run("get instances"), @r#"
    exit 1
    stderr:
      error: SERVER answers GET /api/v1/instances?limit=500 with 404: <html><body>\u{1b}[31mIt works!</body></html>
      hint: see with `rikctl version` whether a RIK controller of this version answers there
    "#);
    let noise = Controller::start().speaks("GET /instances", |stream| {
        let _ = stream.write_all(b"SSH-2.0-OpenSSH_9.2\r\n");
    });
    insta::assert_snapshot!(Desk::of(&noise).run("get instances"), @r#"
    exit 1
    stderr:
      error: what answers at SERVER does not speak HTTP properly: protocol: http parse fail: invalid HTTP version
      hint: see with `rikctl version` whether a RIK controller of this version answers there
    "#);
}

#[test]
fn h_cli_01_a_flood_of_interim_answers_ends() {
    let controller = Controller::start().speaks("GET /instances", |stream| {
        while stream.write_all(b"HTTP/1.1 103 Early Hints\r\n\r\n").is_ok() {}
    });
    let start = Instant::now();
    let desk = Desk::of(&controller);
    let output = finished(desk.command("get instances").spawn().unwrap());
    assert_eq!(output.status.code(), Some(1), "after {:?}", start.elapsed());
}

#[test]
fn deeply_nested_json_is_refused() {
    let deep = format!("{}{}", "[".repeat(100_000), "]".repeat(100_000));
    let controller = Controller::start()
        .speaks("GET /instances", move |stream| answer(stream, 200, "application/json", deep.as_bytes()));
    assert!(Desk::of(&controller).run("get instances").starts_with("exit 1"));
}

#[test]
fn a_history_that_is_always_compacted_is_not_asked_for_without_pause() {
    let controller = Controller::start()
        .says("GET /cluster", 200, cluster(true))
        .says("GET /instances/web-1", 200, instance("web-1", "Running", json!({})))
        .refuses("GET /watch", 410, "compacted", "revision 40 is compacted");
    let told = Desk::of(&controller).run("wait instance web-1 --for ended --timeout 1s");
    assert!(told.starts_with("exit 3"), "{told}");
    let watches =
        controller.requests().iter().filter(|request| request.line.starts_with("GET /watch")).count();
    assert!((1..=11).contains(&watches), "{watches} in a second");
}
