//! `wait`: reached, lost, timed out, gone.

use serde_json::json;

use crate::{
    Desk, change, cluster,
    controller::{Controller, answer},
    instance, page,
};

fn pending() -> Controller {
    Controller::start().says("GET /cluster", 200, cluster(true)).says("GET /instances", 200, page(&[])).says(
        "GET /instances/web-1",
        200,
        instance(
            "web-1",
            "Pending",
            json!({ "reason": "Unplaceable", "message": "2 nodes: needs 512 MiB memory" }),
        ),
    )
}

#[test]
fn waiting_for_what_is_so_already_ends_at_once() {
    let controller = pending().says("GET /instances/web-1", 200, instance("web-1", "Running", json!({})));
    insta::assert_snapshot!(Desk::of(&controller).run("wait instance web-1 --for running"), @r#"
    exit 0
    stderr:
      instance/web-1 is running
    "#);
}

#[test]
fn waiting_for_what_cannot_come_any_more_fails_with_the_reason() {
    let failed = instance(
        "web-1",
        "Failed",
        json!({ "reason": "NonZeroExit", "message": "container \"a\" ended with code 3", "exitCode": 3 }),
    );
    let controller = pending().watch("GET /watch", &[change(41, "changed", "web-1", failed)]);
    insta::assert_snapshot!(Desk::of(&controller).run("wait instance/web-1 --for running"), @r#"
    exit 1
    stderr:
      web-1: Pending (Unplaceable)
      error: instance "web-1" is Failed and will not be running
        web-1: NonZeroExit: container "a" ended with code 3
        exit code 3
      hint: rikctl logs web-1
    "#);
}

#[test]
fn the_end_of_the_time_is_exit_code_3() {
    let controller = pending().watch("GET /watch", &[]);
    insta::assert_snapshot!(Desk::of(&controller).run("wait instance web-1 --for running --timeout 300ms"), @r#"
    exit 3
    stderr:
      web-1: Pending (Unplaceable)
      error: 1 of 1 instance not running after 300ms
        web-1: Pending: Unplaceable: 2 nodes: needs 512 MiB memory
      hint: rikctl describe instance web-1; or wait longer with --timeout
    "#);
}

#[test]
fn what_is_gone_is_deleted_and_a_successor_of_its_name_is_another() {
    let controller = pending().watch("GET /watch", &[change(41, "deleted", "web-1", json!(null))]);
    let desk = Desk::of(&controller);
    insta::assert_snapshot!(desk.run("wait instance web-1 never-was --for deleted"), @r#"
    exit 0
    stderr:
      web-1: Pending (Unplaceable)
      instance/web-1 is deleted
    "#);
    let successor = instance("web-1", "Pending", json!({ "uid": "another" }));
    let controller = pending().watch("GET /watch", &[change(45, "created", "web-1", successor)]);
    assert!(Desk::of(&controller).run("wait instance web-1 --for deleted").starts_with("exit 0"));
}

#[test]
fn a_history_that_is_compacted_is_looked_at_anew() {
    let controller = pending()
        .says("GET /instances/web-1", 200, instance("web-1", "Terminated", json!({})))
        .refuses("GET /watch", 410, "compacted", "revision 40 is compacted")
        .speaks_times(2, "GET /instances/web-1", |stream| {
            answer(
                stream,
                200,
                "application/json",
                instance("web-1", "Running", json!({})).to_string().as_bytes(),
            );
        });
    insta::assert_snapshot!(Desk::of(&controller).run("wait instance web-1 --for terminated"), @r#"
    exit 0
    stderr:
      web-1: Running
      instance/web-1 is terminated
    "#);
}
