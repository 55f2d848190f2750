//! `get`, `ps` and `describe`: the documented tables, other forms, and what follows changes.

use std::{
    io::{BufRead as _, BufReader},
    os::unix::process::ExitStatusExt as _,
};

use serde_json::json;

use crate::{
    Desk, WORKLOAD_ID, change, cluster,
    controller::{Controller, event_stream, messages},
    finished, instance, minutes_ago, node, page, signal, workload,
};

fn pull_failed() -> serde_json::Value {
    json!({ "reason": "ImagePullFailed", "message": "alpine:nope: the registry has no such tag", "node": "n1" })
}

fn three_instances() -> Controller {
    let running = json!({
        "node": "n1", "ip": "10.42.1.2", "restarts": 2,
        "ports": [{ "port": 8080, "targetPort": 80, "protocol": "TCP" }],
    });
    Controller::start()
        .says(
            "GET /instances",
            200,
            page(&[
                instance("web-1", "Running", running.clone()),
                instance("web-10", "Failed", pull_failed()),
                instance("worker", "Creating", json!({ "reason": "ImagePulling" })),
            ]),
        )
        .says("GET /instances/web-1", 200, instance("web-1", "Running", running))
        .says("GET /instances/web-10", 200, instance("web-10", "Failed", pull_failed()))
}

#[test]
fn d10_instances_are_the_documented_table_and_troubles_stand_beside_it() {
    let desk = Desk::of(&three_instances());
    insta::assert_snapshot!(desk.run("get instances"), @r#"
    exit 0
    stdout:
       ID      NAME    STATUS···
       web-1   web-1   Running··
       web-10  web-10  Failed···
       worker  worker  Creating·
    stderr:
      web-10: ImagePullFailed: alpine:nope: the registry has no such tag
    "#);
    assert_eq!(desk.run("get instances"), desk.run("get INSTANCE"));
    assert_eq!(desk.run("get instances"), desk.run("ps"));
    insta::assert_snapshot!(desk.run("get inst --no-headers -q"), @r#"
    exit 0
    stdout:
      web-1
      web-10
      worker
    "#);
    insta::assert_snapshot!(desk.run("get instances -o name"), @r#"
    exit 0
    stdout:
      instance/web-1
      instance/web-10
      instance/worker
    "#);
    insta::assert_snapshot!(desk.run("get instances -o wide"), @r#"
    exit 0
    stdout:
       ID      NAME    STATUS    WORKLOAD  NODE  IP         PORTS         READY  RESTARTS  AGE  REASON           MESSAGE
       web-1   web-1   Running   alpine    n1    10.42.1.2  8080->80/TCP  0/1    2         5m   -
       web-10  web-10  Failed    alpine    n1    -          -             0/1    0         5m   ImagePullFailed  alpine:nope: the registry has no such tag
       worker  worker  Creating  alpine    -     -          -             0/1    0         5m   ImagePulling
    "#);
}

#[test]
fn an_empty_list_is_the_header_and_one_blank_row() {
    let controller =
        Controller::start().says("GET /instances", 200, page(&[])).says("GET /workloads", 200, page(&[]));
    let desk = Desk::of(&controller);
    insta::assert_snapshot!(desk.run("get instances"), @r#"
    exit 0
    stdout:
       ID  NAME  STATUS·
      ··················
    "#);
    insta::assert_snapshot!(desk.run("get workloads"), @r#"
    exit 0
    stdout:
       ID  NAME  KIND  CONTAINERS·
      ····························
    "#);
    insta::assert_snapshot!(desk.run("get workloads --no-headers -o json"), @r#"
    exit 0
    stdout:
      []
    "#);
}

#[test]
fn workloads_are_the_documented_table() {
    let controller = Controller::start().says("GET /workloads", 200, page(&[workload("alpine")]));
    let desk = Desk::of(&controller);
    insta::assert_snapshot!(desk.run("get workloads"), @r#"
    exit 0
    stdout:
       ID                                    NAME    KIND  CONTAINERS·
       0e4c1da4-0277-4088-9f37-8f445cbe8e46  alpine  Pod   1··········
    "#);
    insta::assert_snapshot!(desk.run("get wl -o wide"), @r#"
    exit 0
    stdout:
       ID                                    NAME    KIND  CONTAINERS  REPLICAS  IMAGES         AGE
       0e4c1da4-0277-4088-9f37-8f445cbe8e46  alpine  Pod   1           1         alpine:latest  90m
    "#);
}

#[test]
fn nodes_and_events_are_tables_too() {
    let events = json!({ "items": [
        { "revision": 9, "time": minutes_ago(2), "action": "changed", "object": "instance", "name": "web-1",
          "kind": "Pod", "status": "Failed", "node": "n1", "reason": "NonZeroExit", "message": "exit code 3" },
        { "revision": 8, "time": minutes_ago(3), "action": "created", "object": "workload", "name": "alpine" },
    ], "revision": 9 });
    let controller = Controller::start()
        .says("GET /nodes", 200, page(&[node("n1", "Ready"), node("n2", "Unreachable")]))
        .says("GET /events", 200, events);
    let desk = Desk::of(&controller);
    insta::assert_snapshot!(desk.run("get nodes"), @r#"
    exit 0
    stdout:
       NAME  STATUS       INSTANCES  AGE·
       n1    Ready        3          2d··
       n2    Unreachable  3          2d··
    "#);
    insta::assert_snapshot!(desk.run("get no -o wide"), @r#"
    exit 0
    stdout:
       NAME  STATUS       INSTANCES  AGE  ADDRESS    CPU  MEMORY   SUBNET        ARCH    OS                   KERNEL  VERSION
       n1    Ready        3          2d   192.0.2.7  2    4.0 GiB  10.42.1.0/24  x86_64  Debian GNU/Linux 12  6.1.0   0.1.0
       n2    Unreachable  3          2d   192.0.2.7  2    4.0 GiB  10.42.1.0/24  x86_64  Debian GNU/Linux 12  6.1.0   0.1.0
    "#);
    insta::assert_snapshot!(desk.run("get events"), @r#"
    exit 0
    stdout:
       AGE  OBJECT           ACTION   STATUS  REASON       MESSAGE
       3m   workload/alpine  created  -       -
       2m   instance/web-1   changed  Failed  NonZeroExit  exit code 3
    "#);
    insta::assert_snapshot!(desk.run("get ev workload/alpine"), @r#"
    exit 0
    stdout:
       AGE  OBJECT           ACTION   STATUS  REASON  MESSAGE
       3m   workload/alpine  created  -       -
    "#);
}

#[test]
fn json_is_what_the_controller_sent_unknown_fields_included() {
    let controller = Controller::start().says("GET /instances/web-1", 200, json!({
        "revision": 7, "id": "web-1", "uid": "u", "workloadId": WORKLOAD_ID, "workload": "alpine", "kind": "Pod",
        "namespace": "default", "status": "Running", "createdAt": "2026-01-02T03:04:05Z", "spec": {}, "later": [1],
    }));
    let desk = Desk::of(&controller);
    insta::assert_snapshot!(desk.run("get instance web-1 -o json"), @r#"
    exit 0
    stdout:
      {
        "createdAt": "2026-01-02T03:04:05Z",
        "id": "web-1",
        "kind": "Pod",
        "later": [
          1
        ],
        "namespace": "default",
        "revision": 7,
        "spec": {},
        "status": "Running",
        "uid": "u",
        "workload": "alpine",
        "workloadId": "0e4c1da4-0277-4088-9f37-8f445cbe8e46"
      }
    "#);
    insta::assert_snapshot!(desk.run("get instance/web-1 -o yaml"), @r#"
    exit 0
    stdout:
      createdAt: "2026-01-02T03:04:05Z"
      id: web-1
      kind: Pod
      later:
      - 1
      namespace: default
      revision: 7
      spec: {}
      status: Running
      uid: u
      workload: alpine
      workloadId: 0e4c1da4-0277-4088-9f37-8f445cbe8e46
    "#);
}

#[test]
fn a_list_is_read_page_after_page() {
    let first = json!({ "items": [instance("a", "Running", json!({}))], "revision": 5, "continue": "a/b" });
    let controller = Controller::start()
        .says("GET /instances", 200, page(&[instance("b", "Running", json!({}))]))
        .says("GET /instances?limit=500", 200, first)
        .says("GET /instances?limit=500&continue=a%2Fb", 200, page(&[instance("b", "Running", json!({}))]));
    insta::assert_snapshot!(Desk::of(&controller).run("get instances"), @r#"
    exit 0
    stdout:
       ID  NAME  STATUS··
       a   a     Running·
       b   b     Running·
    "#);
}

#[test]
fn filters_are_resolved_and_sent() {
    let controller = Controller::start()
        .says("GET /workloads", 200, page(&[workload("alpine")]))
        .says("GET /nodes/n1", 200, node("n1", "Ready"))
        .says("GET /instances", 200, page(&[]));
    Desk::of(&controller).run("get instances --workload alp --node n1 --status running");
    insta::assert_snapshot!(controller.lines(), @r#"
    GET /workloads/alp
    GET /workloads?limit=500
    GET /nodes/n1
    GET /instances?limit=500&workload=0e4c1da4-0277-4088-9f37-8f445cbe8e46&node=n1&status=Running
    "#);
}

#[test]
fn a_beginning_means_the_one_object_that_has_it() {
    let desk = Desk::of(&three_instances());
    assert!(desk.run("get instance wor -o name").contains("instance/worker"));
    assert!(desk.run("get instance uid-wor -o name").contains("instance/worker"));
    insta::assert_snapshot!(desk.run("get instance web-1 -o name"), @r#"
    exit 0
    stdout:
      instance/web-1
    "#);
    insta::assert_snapshot!(desk.run("get instances we workre -o name"), @r#"
    exit 1
    stderr:
      error: "we" may mean any of 2 instances
        web-1 (uid-web-1)
        web-10 (uid-web-10)
      hint: type more of the name, or the id
      error: there is no instance "workre"
      hint: did you mean "worker"?
    "#);
}

#[test]
fn what_is_pending_without_reason_points_at_a_scheduler_that_is_away() {
    let controller = Controller::start()
        .says("GET /instances", 200, page(&[instance("web-1", "Pending", json!({}))]))
        .says("GET /cluster", 200, cluster(false));
    insta::assert_snapshot!(Desk::of(&controller).run("get instances"), @r#"
    exit 0
    stdout:
       ID     NAME   STATUS··
       web-1  web-1  Pending·
    stderr:
      note: the scheduler is not connected; what is Pending waits for it
    "#);
}

#[test]
fn describing_an_instance_tells_everything_and_what_to_do_next() {
    let failed = json!({
        "node": "n1", "reason": "NonZeroExit", "message": "container \"alpine\" ended with code 3", "exitCode": 3,
        "startedAt": minutes_ago(4), "finishedAt": minutes_ago(3), "createdAt": minutes_ago(5),
        "containers": [{ "name": "alpine", "phase": "Exited", "exitCode": 3, "reason": "NonZeroExit", "imageDigest": "sha256:12" }],
    });
    let event = json!({
        "revision": 9, "time": minutes_ago(3), "action": "changed", "object": "instance", "name": "web-1",
        "status": "Failed", "reason": "NonZeroExit", "message": "exit code 3",
    });
    let controller = Controller::start()
        .says("GET /instances/web-1", 200, instance("web-1", "Failed", failed))
        .says("GET /events", 200, page(&[event]));
    insta::with_settings!({ filters => vec![(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME")] }, {
        insta::assert_snapshot!(Desk::of(&controller).run("describe instance web-1"), @r#"
        exit 0
        stdout:
          Name:          web-1
          Uid:           uid-web-1
          Workload:      alpine (0e4c1da4-0277-4088-9f37-8f445cbe8e46)
          Kind:          Pod
          Status:        Failed
          Reason:        NonZeroExit
          Message:       container "alpine" ended with code 3
          Node:          n1
          Exit code:     3
          Restarts:      0
          Created:       TIME (5m ago)
          Started:       TIME (4m ago)
          Finished:      TIME (3m ago)
          Grace period:  10s
          Requests:      10m cpu, 16.0 MiB memory
          Container alpine:
            Image:         alpine:latest
            Digest:        sha256:12
            Env:           MODE=a b
            Port:          8080->80/TCP
            Phase:         Exited
            Reason:        NonZeroExit
            Exit code:     3
            Ready:         no
            Restarts:      0
          Events:
            AGE  ACTION   STATUS  REASON       MESSAGE
            3m   changed  Failed  NonZeroExit  exit code 3
        stderr:
          hint: rikctl logs web-1
        "#);
    });
}

#[test]
fn describing_workloads_and_nodes_lists_their_instances() {
    let controller = Controller::start()
        .says("GET /workloads/alpine", 200, workload("alpine"))
        .says("GET /nodes/n1", 200, node("n1", "Ready"))
        .says("GET /events", 200, page(&[]))
        .says("GET /instances", 200, page(&[instance("web-1", "Running", json!({ "node": "n1" }))]));
    let desk = Desk::of(&controller);
    insta::with_settings!({ filters => vec![(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", "TIME")] }, {
        insta::assert_snapshot!(desk.run("describe workload alpine"), @r#"
        exit 0
        stdout:
          Name:          alpine
          Id:            0e4c1da4-0277-4088-9f37-8f445cbe8e46
          Kind:          Pod
          Api version:   v1
          Replicas:      1 expected; creating instances deploys them
          Created:       TIME (90m ago)
          Grace period:  10s
          Requests:      10m cpu, 16.0 MiB memory
          Container alpine:
            Image:         alpine:latest
            Env:           MODE=a b
            Port:          8080->80/TCP
          1 instance:
            NAME   STATUS   NODE  AGE  REASON
            web-1  Running  n1    5m
        "#);
        insta::assert_snapshot!(desk.run("describe node/n1"), @r#"
        exit 0
        stdout:
          Name:          n1
          Uid:           uid-n1
          Status:        Ready for 30m
          Last heard:    TIME (2m ago)
          Address:       192.0.2.7
          Pod subnet:    10.42.1.0/24
          System:        Debian GNU/Linux 12, kernel 6.1.0, x86_64
          Riklet:        0.1.0
          Cgroups:       v2
          Kinds:         Pod
          Labels:        disk=ssd
          Allocatable:   2 cores, 4.0 GiB memory, 250 instances
          Cpu:           87 % free of 2 cores
          Memory:        1.0 GiB free of 4.0 GiB
          Disk:          / 5.0 GiB free of 10.0 GiB
          Created:       TIME (2d ago)
          1 instance:
            NAME   STATUS   NODE  AGE  REASON
            web-1  Running  n1    5m
        "#);
    });
    insta::assert_snapshot!(desk.run("describe node"), @r#"
    exit 2
    stderr:
      error: no node is named
      hint: rikctl describe node NAME; rikctl get nodes lists them
    "#);
}

#[test]
fn a_watch_prints_changes_once_though_its_connection_breaks() {
    let creating = change(41, "changed", "web-1", instance("web-1", "Creating", json!({})));
    let other = change(41, "created", "web-2", instance("web-2", "Pending", json!({})));
    let failed = change(43, "changed", "web-1", instance("web-1", "Failed", pull_failed()));
    let gone = change(44, "deleted", "web-1", instance("web-1", "Failed", pull_failed()));
    let broken = messages(std::slice::from_ref(&creating));
    let controller = Controller::start()
        .says(
            "GET /instances",
            200,
            page(&[instance("web-1", "Pending", json!({ "reason": "Unplaceable" }))]),
        )
        .watch("GET /watch", &[creating, other, failed, gone])
        .speaks_times(1, "GET /watch", move |stream| event_stream(stream, &broken));
    let desk = Desk::of(&controller);
    // The rows are read until the last change has been told; then Ctrl-C ends the watch.
    let mut child = desk.command("get instances -w").spawn().unwrap();
    let mut words = BufReader::new(child.stderr.take().unwrap()).lines();
    let told: Vec<_> =
        words.by_ref().map(Result::unwrap).take_while(|line| !line.contains("is deleted")).collect();
    signal(child.id(), "INT");
    insta::assert_snapshot!(told.join("\n"), @r#"web-1: ImagePullFailed: alpine:nope: the registry has no such tag"#);
    insta::assert_snapshot!(desk.told(finished(child)), @r#"
    signal: 2 (SIGINT)
    stdout:
       ID     NAME   STATUS··
       web-1  web-1  Pending·
       web-1  web-1  Creating·
       web-2  web-2  Pending·
       web-1  web-1  Failed··
    "#);
    insta::assert_snapshot!(controller.lines(), @r#"
    GET /instances?limit=500
    GET /watch?after=40&object=instance
    GET /watch?after=40&object=instance
    "#);
}

#[test]
fn a_watch_for_programs_is_one_change_a_line() {
    let gone = change(44, "deleted", "web-1", json!({ "id": "web-1" }));
    let controller = Controller::start()
        .says(
            "GET /instances",
            200,
            page(&[json!({ "revision": 7, "id": "web-1", "uid": "u", "workloadId": WORKLOAD_ID,
            "workload": "alpine", "kind": "Pod", "namespace": "default", "status": "Running",
            "createdAt": "2026-01-02T03:04:05Z", "spec": {} })]),
        )
        .watch("GET /watch", &[gone]);
    let desk = Desk::of(&controller);
    let mut child = desk.command("get instances -w -o json").spawn().unwrap();
    let lines: Vec<_> =
        BufReader::new(child.stdout.take().unwrap()).lines().take(2).map(Result::unwrap).collect();
    signal(child.id(), "INT");
    insta::assert_snapshot!(lines.join("\n"), @r#"
    {"revision":7,"action":"created","object":"instance","name":"web-1","value":{"createdAt":"2026-01-02T03:04:05Z","id":"web-1","kind":"Pod","namespace":"default","revision":7,"spec":{},"status":"Running","uid":"u","workload":"alpine","workloadId":"0e4c1da4-0277-4088-9f37-8f445cbe8e46"}}
    {"revision":44,"action":"deleted","object":"instance","name":"web-1","value":{"id":"web-1"}}
    "#);
    assert_eq!(finished(child).status.signal(), Some(2));
}

#[test]
fn a_quiet_watch_goes_on_from_where_it_was_told_that_nothing_happened() {
    let gone = change(90, "deleted", "web-1", json!(null));
    let controller = Controller::start()
        .says("GET /instances", 200, page(&[instance("web-1", "Running", json!({}))]))
        .watch("GET /watch", &[gone])
        .speaks_times(1, "GET /watch", |stream| event_stream(stream, ": still here\nid: 77\n\n"));
    let desk = Desk::of(&controller);
    let mut child = desk.command("get instances -w").spawn().unwrap();
    let told: Vec<_> =
        BufReader::new(child.stderr.take().unwrap()).lines().take(1).map(Result::unwrap).collect();
    signal(child.id(), "INT");
    finished(child);
    assert_eq!(told, ["instance/web-1 is deleted"]);
    assert!(controller.lines().ends_with("GET /watch?after=77&object=instance\n"), "{}", controller.lines());
}
