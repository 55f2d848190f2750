//! `logs`: every byte to a program, nothing dangerous to a person.

use std::{
    io::{self, Write},
    sync::{Arc, Mutex},
};

use rikctl::{Exit, Reader, Terminal};
use serde_json::json;

use crate::{
    Desk,
    controller::{Controller, answer},
    instance, page,
};

const LOG: &[u8] = b"one\r\n\x1b[2Jtwo\xff\tthree \xf0\x9f\xa6\x80\nrest";

fn writing() -> Controller {
    Controller::start()
        .says("GET /instances", 200, page(&[instance("web-1", "Running", json!({}))]))
        .speaks("GET /instances/web-1/logs", |stream| answer(stream, 200, "text/plain", LOG))
}

#[test]
fn a_program_gets_every_byte() {
    let controller = writing();
    let output = Desk::of(&controller).command("logs web-1").output().unwrap();
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), LOG));
}

#[test]
fn options_are_passed_on_and_a_beginning_is_resolved() {
    let controller = writing();
    Desk::of(&controller).run("logs web -f -c a --tail 5 --timestamps");
    insta::assert_snapshot!(controller.lines(), @r#"
    GET /instances/web/logs?container=a&follow=true&tail=5&timestamps=true
    GET /instances/web
    GET /instances?limit=500
    GET /instances/web-1/logs?container=a&follow=true&tail=5&timestamps=true
    "#);
}

#[derive(Clone, Default)]
struct Paper(Arc<Mutex<Vec<u8>>>);

impl Write for Paper {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn h_wl_15_a_person_sees_control_characters_spelled_out() {
    let controller = writing();
    let (out, err) = (Paper::default(), Paper::default());
    let mut terminal = Terminal::new(Box::new(out.clone()), Box::new(err.clone()), Reader::Person);
    let line = ["rikctl", "--server", &controller.url(), "logs", "web-1"].map(Into::into);
    assert_eq!(rikctl::run(line, &mut terminal), Exit::Done);
    let seen = String::from_utf8(out.0.lock().unwrap().clone()).unwrap();
    assert_eq!(seen, "one\n\\u{1b}[2Jtwo\u{fffd}\tthree 🦀\nrest");
    assert!(err.0.lock().unwrap().is_empty());
}

#[test]
fn logs_of_nothing_are_an_error() {
    insta::assert_snapshot!(Desk::of(&writing()).run("logs nothing"), @r#"
    exit 1
    stderr:
      error: there is no instance "nothing"
      hint: rikctl logs --deleted nothing, if it is gone
    "#);
}
