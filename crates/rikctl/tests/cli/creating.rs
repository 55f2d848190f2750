//! `create` and `apply`: the documented lines to the letter, and manifests that are checked before they are sent.

use serde_json::json;

use crate::{Desk, WORKLOAD_ID, change, cluster, controller::Controller, finished, instance, page, workload};

const MANIFEST: &str = r#"{"apiVersion":"v1","kind":"Pod","name":"alpine","replicas":1,
    "spec":{"containers":[{"name":"alpine","image":"alpine:latest","env":[{"name":"A","value":"b"}],
    "ports":{"port":8080,"target_port":80,"type":"NodePort"}}]}}"#;

fn with_workload() -> Controller {
    Controller::start()
        .says(&format!("GET /workloads/{WORKLOAD_ID}"), 200, workload("alpine"))
        .says("GET /workloads/alpine", 200, workload("alpine"))
        .says("GET /workloads", 200, page(&[workload("alpine")]))
}

#[test]
fn d08_creating_a_workload_prints_the_documented_line() {
    let controller = Controller::start().says("POST /workloads", 201, workload("alpine"));
    let desk = Desk::of(&controller);
    desk.file("w.json", MANIFEST);
    insta::assert_snapshot!(desk.run("create workload --file w.json"), @r#"
    exit 0
    stdout:
      Workload alpine has been successfully created with ID : "0e4c1da4-0277-4088-9f37-8f445cbe8e46"
    "#);
    for line in ["create workloads -f w.json -q", "create WORKLOAD --file w.json --quiet"] {
        assert_eq!(desk.run(line), format!("exit 0\nstdout:\n  {WORKLOAD_ID}\n"));
    }
}

#[test]
fn c44_a_workload_is_sent_whole() {
    let controller = Controller::start().says("POST /workloads", 201, workload("alpine"));
    let desk = Desk::of(&controller);
    desk.run_with_input("create workload -f -", MANIFEST);
    let sent: serde_json::Value = serde_json::from_slice(&controller.requests()[0].body).unwrap();
    insta::assert_snapshot!(sent, @r#"{"apiVersion":"v1","kind":"Pod","name":"alpine","replicas":1,"spec":{"containers":[{"env":[{"name":"A","value":"b"}],"image":"alpine:latest","name":"alpine","ports":[{"port":8080,"protocol":"TCP","targetPort":80,"type":"NodePort"}]}],"terminationGracePeriodSeconds":10}}"#);
}

#[test]
fn c43_a_workload_of_a_used_name_is_refused_with_the_controllers_words() {
    let controller = Controller::start().refuses_with(
        "POST /workloads",
        json!({
            "code": "workload-exists", "title": "the name is taken", "status": 409,
            "detail": "a workload \"alpine\" of kind Pod exists already", "hint": "rikctl apply -f changes it",
        }),
    );
    let desk = Desk::of(&controller);
    desk.file("w.json", MANIFEST);
    insta::assert_snapshot!(desk.run("create workload --file w.json"), @r#"
    exit 1
    stderr:
      error: a workload "alpine" of kind Pod exists already
      hint: rikctl apply -f changes it
    "#);
}

#[test]
fn every_fault_of_a_manifest_is_told_before_anything_is_sent() {
    let controller = Controller::start();
    let desk = Desk::of(&controller);
    desk.file("bad.yaml", "kind: pod\nname: Web\nspec:\n  containers:\n    - name: a\n      imag: x\n");
    desk.file("worse.json", "{");
    desk.file("binary", b"\xff\xfe");
    insta::assert_snapshot!(desk.run("create workload -f bad.yaml"), @r#"
    exit 1
    stderr:
      error: bad.yaml has 4 faults
        line 1: kind: found "pod"; allowed is Pod or Function; did you mean "Pod"?
        line 2: name: found "Web"; a name has 1 to 63 lower-case letters, digits, '-', '.', '_' or ':', and starts and ends with a letter or digit
        line 5: spec.containers[0].image: is required and missing
        line 6: spec.containers[0].imag: is unknown; did you mean "image"?
      hint: correct this and run the same command again; nothing was sent to the cluster
    "#);
    insta::assert_snapshot!(desk.run("apply -f bad.yaml worse.json binary absent.json"), @r#"
    exit 1
    stderr:
      error: 4 of 4 files cannot be used
        bad.yaml has 4 faults
          line 1: kind: found "pod"; allowed is Pod or Function; did you mean "Pod"?
          line 2: name: found "Web"; a name has 1 to 63 lower-case letters, digits, '-', '.', '_' or ':', and starts and ends with a letter or digit
          line 5: spec.containers[0].image: is required and missing
          line 6: spec.containers[0].imag: is unknown; did you mean "image"?
        worse.json has 1 fault
          line 1: not valid JSON: EOF while parsing an object at line 1 column 1
        binary is no text: byte 0 is not UTF-8
        absent.json cannot be read: no such file or directory
      hint: correct this and run the same command again; nothing was sent to the cluster
    "#);
    assert_eq!(controller.lines(), "");
}

#[test]
fn c44_a_function_without_containers_is_accepted() {
    let controller = Controller::start().says("POST /workloads", 201, workload("fn"));
    let desk = Desk::of(&controller);
    let manifest = r#"{"kind":"Function","name":"fn:v1","spec":{"function":{"execution":{"rootfs":"http://127.0.0.1/f.ext4"}}}}"#;
    assert!(desk.run_with_input("create workload -f -", manifest).starts_with("exit 0"));
}

#[test]
fn d09_creating_instances_prints_the_documented_lines() {
    let controller = with_workload().says("POST /instances", 201, json!({ "ids": ["brave-otter-1234"] }));
    let desk = Desk::of(&controller);
    insta::assert_snapshot!(desk.run(&format!("create instance --workload-id {WORKLOAD_ID}")), @r#"
    exit 0
    stdout:
      Create an instance of a workload
      Instance has been successfully created for workload : 0e4c1da4-0277-4088-9f37-8f445cbe8e46
    stderr:
      instance/brave-otter-1234
    "#);
    insta::assert_snapshot!(desk.run("create instances -w alp -r 2 -q"), @r#"
    exit 0
    stdout:
      brave-otter-1234
    "#);
    let sent: Vec<_> =
        controller.requests().into_iter().filter(|request| request.line == "POST /instances").collect();
    let bodies: Vec<_> =
        sent.iter().map(|request| String::from_utf8(request.body.clone()).unwrap()).collect();
    assert_eq!(
        bodies,
        [
            format!(r#"{{"workload":"{WORKLOAD_ID}"}}"#),
            format!(r#"{{"replicas":2,"workload":"{WORKLOAD_ID}"}}"#),
        ]
    );
    let keys: Vec<_> = sent.iter().map(|request| request.headers["idempotency-key"].clone()).collect();
    assert!(keys[0].len() >= 32 && keys[0] != keys[1], "{keys:?}");
}

#[test]
fn c43_an_instance_of_an_unknown_workload_is_an_error() {
    let controller = Controller::start().says("GET /workloads", 200, page(&[workload("alpine")]));
    let desk = Desk::of(&controller);
    insta::assert_snapshot!(desk.run("create instance --workload-id nonsense"), @r#"
    exit 1
    stderr:
      error: there is no workload "nonsense"
      hint: rikctl get workloads lists what there is
    "#);
    insta::assert_snapshot!(desk.run("create instance --workload-id alpin3"), @r#"
    exit 1
    stderr:
      error: there is no workload "alpin3"
      hint: did you mean "alpine"?
    "#);
    assert!(!controller.lines().contains("POST"), "{}", controller.lines());
}

#[test]
fn an_answer_that_is_lost_is_asked_for_again_with_the_same_key() {
    let controller = with_workload().says("POST /instances", 201, json!({ "ids": ["web-1"] })).speaks_times(
        1,
        "POST /instances",
        |_| {},
    );
    let desk = Desk::of(&controller);
    assert!(desk.run("create instance -w alpine").starts_with("exit 0"));
    let requests = controller.requests();
    let keys: Vec<_> = requests.iter().filter_map(|request| request.headers.get("idempotency-key")).collect();
    assert!(keys.len() == 2 && keys[0] == keys[1], "{keys:?}");
}

#[test]
fn creating_with_wait_ends_when_the_instance_runs() {
    let controller = with_workload()
        .says("POST /instances", 201, json!({ "ids": ["web-1"] }))
        .says("GET /cluster", 200, cluster(true))
        .says("GET /instances/web-1", 200, instance("web-1", "Pending", json!({})))
        .watch(
            "GET /watch?after=40&object=instance",
            &[
                change(
                    41,
                    "changed",
                    "web-1",
                    instance("web-1", "Creating", json!({ "reason": "ImagePulling" })),
                ),
                change(42, "changed", "web-1", instance("web-1", "Running", json!({}))),
            ],
        );
    insta::assert_snapshot!(Desk::of(&controller).run("create instance -w alpine --name web-1 --wait"), @r#"
    exit 0
    stdout:
      Create an instance of a workload
      Instance has been successfully created for workload : 0e4c1da4-0277-4088-9f37-8f445cbe8e46
    stderr:
      instance/web-1
      web-1: Pending
      web-1: Creating (ImagePulling)
    "#);
}

#[test]
fn a_name_for_several_instances_is_a_usage_error() {
    let controller = with_workload();
    insta::assert_snapshot!(Desk::of(&controller).run("create instance -w alpine --name web -r 3"), @r#"
    exit 2
    stderr:
      error: --name gives one name, and --replicas asks for several instances
      hint: leave --name out, and names are made
    "#);
}

#[test]
fn applying_says_what_changed() {
    let controller =
        Controller::start().says("PUT /workloads", 200, json!({ "id": WORKLOAD_ID, "result": "configured" }));
    let desk = Desk::of(&controller);
    desk.file("w.json", MANIFEST);
    insta::assert_snapshot!(desk.run("apply -f w.json"), @r#"
    exit 0
    stdout:
      workload/alpine configured
    "#);
    let two = "kind: Pod\nname: a\nspec: {containers: [{name: a, image: a}]}\n---\nkind: Pod\nname: b\nspec: {containers: [{name: b, image: b}]}\n";
    desk.file("two.yaml", two);
    insta::assert_snapshot!(desk.run("apply -f two.yaml"), @r#"
    exit 0
    stdout:
      workload/a configured
      workload/b configured
    "#);
    desk.file("torn.yaml", two.replace("image: b", "imag: b"));
    insta::assert_snapshot!(desk.run("apply -f torn.yaml"), @r#"
    exit 1
    stderr:
      error: torn.yaml has 2 faults
        line 7: spec.containers[0].image: is required and missing
        line 7: spec.containers[0].imag: is unknown; did you mean "image"?
      hint: correct this and run the same command again; nothing was sent to the cluster
    "#);
}

#[test]
fn x01_both_numbers_of_every_noun_are_accepted() {
    let controller = with_workload()
        .says("POST /workloads", 201, workload("alpine"))
        .says("POST /instances", 201, json!({ "ids": ["web-1"] }))
        .says("GET /instances", 200, page(&[]));
    let desk = Desk::of(&controller);
    desk.file("w.json", MANIFEST);
    let id = WORKLOAD_ID;
    for line in [
        "create workload -f w.json".to_owned(),
        "create workloads -f w.json".to_owned(),
        format!("create instance -w {id}"),
        format!("create instances -w {id}"),
        "get workload".to_owned(),
        "get workloads".to_owned(),
        "get instance".to_owned(),
        "get instances".to_owned(),
    ] {
        let told = desk.run(&line);
        assert!(told.starts_with("exit 0"), "{line}: {told}");
    }
}

#[test]
fn d07_the_documented_example_files_are_understood() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../..");
    let controller = Controller::start().says("POST /workloads", 201, workload("alpine"));
    let desk = Desk::of(&controller);
    for file in ["examples/workload-1.json", "docs/src/examples/workloads/workload-1.json"] {
        let told = desk.run(&format!("create workload --file {root}/{file}"));
        assert!(told.contains("Workload alpine has been successfully created"), "{file}: {told}");
    }
    for file in ["examples/config.json", "docs/src/examples/config.json"] {
        let child = desk.command("config view").env("RIKCONFIG", format!("{root}/{file}")).spawn().unwrap();
        let told = desk.told(finished(child));
        assert!(told.contains("name: default\n    server: http://127.0.0.1:5000\n"), "{file}: {told}");
    }
}
