//! Every v0 route: the shapes and codes that clients of RIK 2023 decode.

use insta::assert_snapshot;

use crate::bed::{Bed, WEB};

#[tokio::test]
async fn workloads_are_created_listed_and_deleted() {
    let bed = Bed::start().await;
    assert_snapshot!(bed.get("/api/v0/workloads.list").await, @"
    200
    content-type: application/json

    []
    ");
    let created = bed.post("/api/v0/workloads.create", WEB).await;
    assert_snapshot!(created, @r#"
    200
    content-type: application/json

    {"id":"b7e1e158-6721-4173-bb2b-2203a8a4fd91"}
    "#);
    assert_snapshot!(bed.get("/api/v0/workloads.list").await, @r#"
    200
    content-type: application/json

    [{"id":"b7e1e158-6721-4173-bb2b-2203a8a4fd91","name":"web","value":{"apiVersion":"v1","createdAt":"2026-01-02T03:04:05Z","kind":"Pod","name":"web","replicas":1,"revision":2,"spec":{"containers":[{"env":null,"image":"nginx:1","name":"web","ports":null}],"function":null,"terminationGracePeriodSeconds":10}}}]
    "#);
    let id = created.json()["id"].as_str().unwrap().to_owned();
    assert_snapshot!(bed.post("/api/v0/workloads.delete", &format!(r#"{{"id":"{id}"}}"#)).await, @"204");
    assert_snapshot!(bed.get("/api/v0/workloads.list").await, @"
    200
    content-type: application/json

    []
    ");
    assert_snapshot!(bed.post("/api/v0/workloads.delete", &format!(r#"{{"id":"{id}"}}"#)).await, @r#"
    404
    content-type: text/plain; charset=UTF-8

    there is no workload "b7e1e158-6721-4173-bb2b-2203a8a4fd91"
    hint: rikctl get workloads
    "#);
}

#[tokio::test]
async fn a_definition_is_listed_with_everything_that_it_has() {
    let bed = Bed::start().await;
    let full = r#"{"apiVersion":"v0","kind":"Pod","name":"full","replicas":3,"labels":{"a":"b"},"unknown":[1],"spec":{
        "containers":[{"name":"a","image":"reg.example:5000/a:1","command":["/a"],"args":["-b"],"workingDir":"/srv",
            "env":[{"name":"A","value":"1"}],"ports":[{"port":8080,"target_port":80},{"port":5353,"protocol":"udp"}],
            "resources":{"limits":{"memory":"64Mi"}}}],
        "nodeSelector":{"disk":"ssd"},"terminationGracePeriodSeconds":3}}"#;
    assert_eq!(bed.post("/api/v0/workloads.create", full).await.status, 200);
    assert_snapshot!(bed.get("/api/v0/workloads.list").await, @r#"
    200
    content-type: application/json

    [{"id":"b7e1e158-6721-4173-bb2b-2203a8a4fd91","name":"full","value":{"apiVersion":"v0","createdAt":"2026-01-02T03:04:05Z","kind":"Pod","labels":{"a":"b"},"name":"full","replicas":3,"revision":2,"spec":{"containers":[{"args":["-b"],"command":["/a"],"env":[{"name":"A","value":"1"}],"image":"reg.example:5000/a:1","morePorts":[{"port":5353,"protocol":"UDP","target_port":5353,"type":"NodePort"}],"name":"a","ports":{"port":8080,"protocol":"TCP","target_port":80,"type":"NodePort"},"resources":{"limits":{"memory":"64Mi"}},"workingDir":"/srv"}],"function":null,"nodeSelector":{"disk":"ssd"},"terminationGracePeriodSeconds":3}}}]
    "#);
}

#[tokio::test]
async fn a_function_as_morty_sends_it_is_accepted_and_its_instance_has_its_port_at_once() {
    let bed = Bed::start().await;
    let function = r#"{"apiVersion":"v0","kind":"Function","name":"fn:v0.0.1","spec":{"function":
        {"execution":{"rootfs":"http://127.0.0.1:8080/fn.ext4"},"exposure":{"port":45001,"targetPort":8080,"type":"NodePort"}}}}"#;
    let id = bed.post("/api/v0/workloads.create", function).await.json()["id"].as_str().unwrap().to_owned();
    assert_snapshot!(bed.get("/api/v0/workloads.list").await, @r#"
    200
    content-type: application/json

    [{"id":"b7e1e158-6721-4173-bb2b-2203a8a4fd91","name":"fn:v0.0.1","value":{"apiVersion":"v0","createdAt":"2026-01-02T03:04:05Z","kind":"Function","name":"fn:v0.0.1","replicas":1,"revision":2,"spec":{"containers":[],"function":{"execution":{"rootfs":"http://127.0.0.1:8080/fn.ext4"},"exposure":{"port":45001,"targetPort":8080,"type":"NodePort"}},"terminationGracePeriodSeconds":10}}}]
    "#);
    let made = bed.post("/api/v0/instances.create", &format!(r#"{{"workload_id":"{id}","name":"f"}}"#)).await;
    assert_snapshot!(made, @r#"
    201
    content-type: application/json

    ["f"]
    "#);
    assert_snapshot!(bed.get(&format!("/api/v0/workloads.instances/{id}")).await, @r#"
    200
    content-type: application/json

    {"instances":[{"createdAt":"2026-01-02T03:04:05Z","id":"f","kind":"Function","namespace":"default","restarts":0,"revision":3,"spec":{"containers":[],"function":{"execution":{"rootfs":"http://127.0.0.1:8080/fn.ext4"},"exposure":{"port":45001,"targetPort":8080,"type":"NodePort"}},"terminationGracePeriodSeconds":10},"status":"Pending","uid":"1dd1ac08-f9cb-4d2c-aa60-9fae38dfe509","workload":"fn:v0.0.1","workload_id":"b7e1e158-6721-4173-bb2b-2203a8a4fd91"}]}
    "#);
}

#[tokio::test]
async fn manifests_with_faults_are_told_all_of_them_as_text() {
    let bed = Bed::start().await;
    let faulty = r#"{"kind":"Pod","name":"Web","replicas":0,"spec":{"containers":[{"name":"a"}]}}"#;
    assert_snapshot!(bed.post("/api/v0/workloads.create", faulty).await, @r#"
    400
    content-type: text/plain; charset=UTF-8

    the manifest has 3 faults
    line 1: name: found "Web"; a name has 1 to 63 lower-case letters, digits, '-', '.', '_' or ':', and starts and ends with a letter or digit
    line 1: replicas: found 0; allowed is 1 to 1000
    line 1: spec.containers[0].image: is required and missing
    "#);
    for (body, said) in [
        ("", "the body is no JSON object"),
        ("{", "not valid JSON"),
        ("kind: Pod", "the body is no JSON object"),
        (r#"{"kind":"pod","name":"a","spec":{}}"#, "kind: found \"pod\"; allowed is Pod or Function"),
        (r#"{"kind":"Function","name":"a","spec":{}}"#, "a Function needs this"),
        (
            r#"{"kind":"Function","name":"a","spec":{"function":{"execution":{"rootfs":"ftp://x"}}}}"#,
            "a URL is",
        ),
        (r#"{"kind":"Pod","kind":"Pod","name":"a","spec":{}}"#, "stands twice"),
    ] {
        let answer = bed.post("/api/v0/workloads.create", body).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (400, Some("text/plain; charset=UTF-8")),
            "{body}"
        );
        assert!(answer.text().contains(said), "{body}: {}", answer.text());
    }
}

#[tokio::test]
async fn a_used_name_is_a_conflict() {
    let bed = Bed::start().await;
    bed.web().await;
    assert_snapshot!(bed.post("/api/v0/workloads.create", WEB).await, @r#"
    409
    content-type: text/plain; charset=UTF-8

    workload "web" exists already
    hint: choose another name, or delete the one that has it
    "#);
}

#[tokio::test]
async fn instances_are_created_listed_and_deleted() {
    let bed = Bed::start().await;
    let id = bed.web().await;
    assert_snapshot!(bed.get("/api/v0/instances.list").await, @"
    200
    content-type: application/json

    []
    ");
    assert_snapshot!(bed.get(&format!("/api/v0/workloads.instances/{id}")).await, @"204");
    let named =
        bed.post("/api/v0/instances.create", &format!(r#"{{"workload_id":"{id}","name":"web-1"}}"#)).await;
    assert_snapshot!(named, @r#"
    201
    content-type: application/json

    ["web-1"]
    "#);
    assert_snapshot!(bed.get("/api/v0/instances.list").await, @r#"
    200
    content-type: application/json

    [{"id":"web-1","name":"web-1","value":{"createdAt":"2026-01-02T03:04:05Z","id":"web-1","kind":"Pod","namespace":"default","restarts":0,"revision":3,"spec":{"containers":[{"env":null,"image":"nginx:1","name":"web","ports":null}],"function":null,"terminationGracePeriodSeconds":10},"status":"Pending","uid":"1dd1ac08-f9cb-4d2c-aa60-9fae38dfe509","workload":"web","workload_id":"b7e1e158-6721-4173-bb2b-2203a8a4fd91"}}]
    "#);
    assert_snapshot!(bed.get(&format!("/api/v0/workloads.instances/{id}")).await, @r#"
    200
    content-type: application/json

    {"instances":[{"createdAt":"2026-01-02T03:04:05Z","id":"web-1","kind":"Pod","namespace":"default","restarts":0,"revision":3,"spec":{"containers":[{"env":null,"image":"nginx:1","name":"web","ports":null}],"function":null,"terminationGracePeriodSeconds":10},"status":"Pending","uid":"1dd1ac08-f9cb-4d2c-aa60-9fae38dfe509","workload":"web","workload_id":"b7e1e158-6721-4173-bb2b-2203a8a4fd91"}]}
    "#);
    let three =
        bed.post("/api/v0/instances.create", &format!(r#"{{"workload_id":"{id}","replicas":3}}"#)).await;
    assert_eq!((three.status, three.json().as_array().unwrap().len()), (201, 3));
    assert_eq!(bed.get("/api/v0/instances.list").await.json().as_array().unwrap().len(), 4);
    assert_eq!(bed.get("/api/v0/instances.list?limit=2").await.json().as_array().unwrap().len(), 2);
    assert_snapshot!(bed.post("/api/v0/instances.delete", r#"{"id":"web-1"}"#).await, @"204");
    assert_snapshot!(bed.post("/api/v0/instances.delete", r#"{"id":"web-1"}"#).await, @r#"
    404
    content-type: text/plain; charset=UTF-8

    there is no instance "web-1"
    hint: rikctl get instances
    "#);
}

#[tokio::test]
async fn zero_replicas_are_an_empty_list() {
    let bed = Bed::start().await;
    let id = bed.web().await;
    let none =
        bed.post("/api/v0/instances.create", &format!(r#"{{"workload_id":"{id}","replicas":0}}"#)).await;
    assert_snapshot!(none, @"
    201
    content-type: application/json

    []
    ");
}

#[tokio::test]
async fn instances_are_refused_with_the_old_codes() {
    let bed = Bed::start().await;
    let id = bed.web().await;
    bed.instance("taken").await;
    for (body, status, said) in [
        (r#"{"workload_id":"nope"}"#.to_owned(), 404, "there is no workload \"nope\""),
        (r#"{"workload_id":"nope","replicas":0}"#.to_owned(), 404, "there is no workload"),
        (format!(r#"{{"workload_id":"{id}","name":"taken"}}"#), 409, "instance \"taken\" exists already"),
        (
            format!(r#"{{"workload_id":"{id}","name":"a","replicas":2}}"#),
            400,
            "one name cannot be given to 2 instances",
        ),
        (format!(r#"{{"workload_id":"{id}","name":"A B"}}"#), 400, "a name has 1 to 63 lower-case letters"),
        (format!(r#"{{"workload_id":"{id}","replicas":-1}}"#), 400, "invalid value"),
        (format!(r#"{{"workload_id":"{id}","replicas":1.5}}"#), 400, "invalid type"),
        (format!(r#"{{"workload_id":"{id}","replicas":"3"}}"#), 400, "invalid type"),
        (format!(r#"{{"workload_id":"{id}","replicas":1001}}"#), 400, "at most 1000"),
        (format!(r#"{{"workload_id":"{id}","replicas":4294967296}}"#), 400, "invalid value"),
        ("{}".to_owned(), 400, "missing field `workload_id`"),
        ("nonsense".to_owned(), 400, "the body cannot be used"),
        (String::new(), 400, "the body is empty"),
    ] {
        let answer = bed.post("/api/v0/instances.create", &body).await;
        assert_eq!(
            (answer.status, answer.header("content-type")),
            (status, Some("text/plain; charset=UTF-8")),
            "{body}"
        );
        assert!(answer.text().contains(said), "{body}: {}", answer.text());
    }
    assert_eq!(bed.cluster.mirror().read().instances.len(), 1);
}

#[tokio::test]
async fn the_go_client_of_2023_gets_the_shape_that_it_decodes() {
    let bed = Bed::start().await;
    bed.web().await;
    bed.instance("web-1").await;
    let list =
        |accept: &'static str| bed.ask("GET", "/api/v0/instances.list").with("accept", accept).answer();
    assert_eq!(list("text/plain").await.json()["instances"][0][0]["id"], "web-1");
    for accept in ["application/json", "text/plain, */*", "*/*"] {
        assert_eq!(list(accept).await.json()[0]["id"], "web-1", "{accept}");
    }
}

#[tokio::test]
async fn tenants_are_kept_as_they_come() {
    let bed = Bed::start().await;
    assert_snapshot!(bed.get("/api/v0/tenants.list").await, @"
    200
    content-type: application/json

    []
    ");
    let tenant = r#"{"id":"x","name":"/tenant/acme","value":"{\"quota\":3}"}"#;
    assert_snapshot!(bed.post("/api/v0/tenants.create", tenant).await, @r#"
    200
    content-type: application/json

    {"id":"x","name":"/tenant/acme","value":"{\"quota\":3}"}
    "#);
    let list = bed.get("/api/v0/tenants.list").await;
    assert_snapshot!(list, @r#"
    200
    content-type: application/json

    [{"id":"b7e1e158-6721-4173-bb2b-2203a8a4fd91","name":"acme","value":{"quota":3}}]
    "#);
    let id = list.json()[0]["id"].as_str().unwrap().to_owned();
    assert_snapshot!(bed.post("/api/v0/tenants.delete", &format!(r#"{{"id":"{id}"}}"#)).await, @"204");
    assert_snapshot!(bed.post("/api/v0/tenants.delete", &format!(r#"{{"id":"{id}"}}"#)).await, @r#"
    404
    content-type: text/plain; charset=UTF-8

    there is no tenant "b7e1e158-6721-4173-bb2b-2203a8a4fd91"
    "#);
    assert_snapshot!(bed.post("/api/v0/tenants.create", r#"{"id":"x","name":"y"}"#).await, @"
    400
    content-type: text/plain; charset=UTF-8

    the body cannot be used: missing field `value` at line 1 column 21
    ");
}

#[tokio::test]
async fn unknown_routes_are_404_with_an_empty_body() {
    let bed = Bed::start().await;
    for path in [
        "/api/v0",
        "/api/v0/nope",
        "/api/v0/workloads.instances",
        "/api/v0/workloads.instances/",
        "/api/v0/a/b",
    ] {
        let answer = bed.get(path).await.to_string();
        insta::allow_duplicates! {
            assert_snapshot!(answer, @"404");
        }
    }
    assert_snapshot!(bed.post("/api/v0/workloads.list", "{}").await, @"
    405
    allow: GET,HEAD
    ");
}

#[tokio::test]
async fn a_body_needs_no_content_type_as_old_clients_send_none() {
    let bed = Bed::start().await;
    for (kind, name) in
        [(None, "a"), (Some("text/plain"), "b"), (Some("application/x-www-form-urlencoded"), "c")]
    {
        let ask = bed
            .ask("POST", "/api/v0/workloads.create")
            .json(WEB.replace("web", name))
            .without("content-type");
        let ask = match kind {
            Some(kind) => ask.with("content-type", kind),
            None => ask,
        };
        assert_eq!(ask.answer().await.status, 200, "{kind:?}");
    }
}
