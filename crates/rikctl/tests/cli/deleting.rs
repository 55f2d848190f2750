//! `delete`: names what it deletes, goes on after a failure, and waits if so wished.

use serde_json::json;

use crate::{
    Desk, WORKLOAD_ID, change, cluster,
    controller::{Controller, answer},
    instance, page, workload,
};

#[test]
fn deleting_addresses_what_was_found_and_goes_on_after_a_failure() {
    let controller = Controller::start()
        .says("GET /instances", 200, page(&[instance("web-1", "Running", json!({}))]))
        .says("GET /instances/web-2", 200, instance("web-2", "Failed", json!({})))
        .speaks("DELETE /instances/web-1", |stream| answer(stream, 202, "text/plain", b""))
        .speaks("DELETE /instances/web-2", |stream| answer(stream, 204, "text/plain", b""));
    let desk = Desk::of(&controller);
    insta::assert_snapshot!(desk.run("delete instance web-1 nothing instance/web-2 --force"), @r#"
    exit 1
    stdout:
      instance/web-1 is being deleted
      instance/web-2 deleted
    stderr:
      error: there is no instance "nothing"
      hint: rikctl get instances lists what there is
    "#);
    assert!(controller.lines().contains("DELETE /instances/web-1?force=true\n"), "{}", controller.lines());
}

#[test]
fn deleting_a_workload_goes_by_its_id_and_waits_for_its_instances() {
    let controller = Controller::start()
        .says("GET /workloads/alpine", 200, workload("alpine"))
        .says("GET /instances", 200, page(&[instance("web-1", "Running", json!({}))]))
        .says("GET /instances/web-1", 200, instance("web-1", "Destroying", json!({})))
        .says("GET /cluster", 200, cluster(true))
        .speaks(&format!("DELETE /workloads/{WORKLOAD_ID}"), |stream| answer(stream, 202, "text/plain", b""))
        .watch("GET /watch", &[change(41, "deleted", "web-1", json!(null))]);
    insta::assert_snapshot!(Desk::of(&controller).run("rm workload alpine --wait"), @r#"
    exit 0
    stdout:
      workload/alpine is being deleted
    stderr:
      web-1: Destroying
    "#);
}

#[test]
fn deleting_by_file_means_the_workload_of_that_name_and_kind() {
    let controller = Controller::start()
        .says("GET /workloads", 200, page(&[workload("alpine")]))
        .speaks(&format!("DELETE /workloads/{WORKLOAD_ID}"), |stream| answer(stream, 204, "text/plain", b""));
    let desk = Desk::of(&controller);
    let manifest =
        |kind: &str| format!("kind: {kind}\nname: alpine\nspec: {{containers: [{{name: a, image: a}}]}}\n");
    insta::assert_snapshot!(desk.run_with_input("delete -f -", &manifest("Pod")), @r#"
    exit 0
    stdout:
      workload/alpine deleted
    "#);
    desk.file("other.yaml", "kind: Pod\nname: other\nspec: {containers: [{name: a, image: a}]}\n");
    insta::assert_snapshot!(desk.run("delete -f other.yaml"), @r#"
    exit 1
    stderr:
      error: there is no workload "other" of kind Pod
      hint: rikctl get workloads
    "#);
}

#[test]
fn deleting_nothing_is_a_usage_error() {
    let desk = Desk::without_cluster();
    insta::assert_snapshot!(desk.run("delete instances"), @r#"
    exit 2
    stderr:
      error: no instance is named, and nothing is deleted
      hint: rikctl delete instance NAME; rikctl get instances lists them
    "#);
}

#[test]
fn deleting_a_workload_by_force_forces_its_instances() {
    let controller = Controller::start()
        .says("GET /workloads/alpine", 200, workload("alpine"))
        .says(
            "GET /instances",
            200,
            page(&[instance("web-1", "Running", json!({})), instance("web-2", "Running", json!({}))]),
        )
        .speaks(&format!("DELETE /workloads/{WORKLOAD_ID}"), |stream| answer(stream, 204, "text/plain", b""))
        .speaks("DELETE /instances/web-1?force=true", |stream| answer(stream, 204, "text/plain", b""));
    insta::assert_snapshot!(Desk::of(&controller).run("delete workload alpine --force"), @"
    exit 0
    stdout:
      workload/alpine deleted
      instance/web-1 deleted
    ");
}
