//! Every v1 route about workloads, instances, events and the cluster: what it answers and how it refuses.

use insta::assert_snapshot;

use crate::bed::{Bed, Scheduler, WEB};

#[tokio::test]
async fn the_cluster_tells_what_it_is() {
    let bed = Bed::start().await;
    bed.web().await;
    bed.instance("web-1").await;
    assert_snapshot!(bed.get("/api/v1/cluster").await, @r#"
    200
    content-type: application/json

    {"cluster":"c5fc598e-707e-4291-b8f4-d74b451e8c20","version":"0.1.0","revision":3,"schedulerConnected":false,"instances":{"Pending":1}}
    "#);
    assert_snapshot!(bed.get("/health").await, @r#"
    200
    content-type: application/json

    {"status":"ok","schedulerConnected":false}
    "#);
    assert_snapshot!(bed.get("/").await, @"
    303
    location: /api/v1/docs
    ");
}

#[tokio::test]
async fn a_workload_is_created_read_and_deleted() {
    let bed = Bed::start().await;
    assert_snapshot!(bed.post("/api/v1/workloads", WEB).await, @r#"
    201
    content-type: application/json
    etag: "2"
    location: /api/v1/workloads/web

    {"revision":2,"id":"b7e1e158-6721-4173-bb2b-2203a8a4fd91","createdAt":"2026-01-02T03:04:05Z","apiVersion":"v1","kind":"Pod","name":"web","replicas":1,"spec":{"containers":[{"name":"web","image":"nginx:1"}],"terminationGracePeriodSeconds":10}}
    "#);
    assert_snapshot!(bed.get("/api/v1/workloads/web").await, @r#"
    200
    content-type: application/json
    etag: "2"

    {"revision":2,"id":"b7e1e158-6721-4173-bb2b-2203a8a4fd91","createdAt":"2026-01-02T03:04:05Z","apiVersion":"v1","kind":"Pod","name":"web","replicas":1,"spec":{"containers":[{"name":"web","image":"nginx:1"}],"terminationGracePeriodSeconds":10}}
    "#);
    let id = bed.get("/api/v1/workloads/web").await.json()["id"].as_str().unwrap().to_owned();
    assert_eq!(bed.get(&format!("/api/v1/workloads/{id}")).await.json()["name"], "web");
    assert_snapshot!(bed.get("/api/v1/workloads").await, @r#"
    200
    content-type: application/json

    {"items":[{"revision":2,"id":"b7e1e158-6721-4173-bb2b-2203a8a4fd91","createdAt":"2026-01-02T03:04:05Z","apiVersion":"v1","kind":"Pod","name":"web","replicas":1,"spec":{"containers":[{"name":"web","image":"nginx:1"}],"terminationGracePeriodSeconds":10}}],"revision":2}
    "#);
    assert_snapshot!(bed.delete("/api/v1/workloads/web").await, @"204");
    assert_snapshot!(bed.get("/api/v1/workloads/web").await, @r#"
    404
    content-type: application/problem+json

    {"code":"workload-not-found","title":"There is no such workload","status":404,"detail":"there is no workload \"web\"","hint":"rikctl get workloads","request":"r1"}
    "#);
    assert_snapshot!(bed.delete("/api/v1/workloads/web").await, @r#"
    404
    content-type: application/problem+json

    {"code":"workload-not-found","title":"There is no such workload","status":404,"detail":"there is no workload \"web\"","hint":"rikctl get workloads","request":"r1"}
    "#);
}

#[tokio::test]
async fn yaml_is_read_where_a_manifest_is() {
    let bed = Bed::start().await;
    let yaml = "kind: Pod\nname: web\nspec:\n  containers:\n    - {name: web, image: nginx}\n";
    for (kind, status) in [
        ("application/yaml", 201),
        ("text/yaml; charset=utf-8", 409),
        ("APPLICATION/X-YAML", 409),
        ("application/json", 400),
        ("text/plain", 415),
        ("application/yaml; charset=utf-16", 415),
        ("multipart/form-data; boundary=x", 415),
    ] {
        let ask = bed.ask("POST", "/api/v1/workloads").json(yaml).with("content-type", kind);
        assert_eq!(ask.answer().await.status, status, "{kind}");
    }
    let none = bed.ask("POST", "/api/v1/workloads").json(yaml).without("content-type").answer().await;
    assert_snapshot!(none, @r#"
    415
    content-type: application/problem+json

    {"code":"content-type-unsupported","title":"The type of the body is not read here","status":415,"detail":"the Content-Type is \"\"","hint":"send application/json, or application/yaml where a manifest is read","request":"r1"}
    "#);
}

#[tokio::test]
async fn a_manifest_is_told_all_of_its_faults() {
    let bed = Bed::start().await;
    let faulty =
        "kind: Pod\nname: web\nreplica: 2\nspec:\n  containers:\n    - name: web\n      ports: {port: 0}\n";
    let answer = bed
        .ask("POST", "/api/v1/workloads")
        .json(faulty)
        .with("content-type", "application/yaml")
        .answer()
        .await;
    assert_snapshot!(answer, @r#"
    400
    content-type: application/problem+json

    {"code":"manifest-invalid","title":"The manifest has faults","status":400,"detail":"the manifest has 3 faults","faults":[{"path":"replica","line":3,"message":"is unknown; did you mean \"replicas\"?"},{"path":"spec.containers[0].image","line":6,"message":"is required and missing"},{"path":"spec.containers[0].ports[0].port","line":7,"message":"found 0; allowed is 1 to 65535"}],"request":"r1"}
    "#);
}

#[tokio::test]
async fn applying_creates_changes_or_leaves_alone() {
    let bed = Bed::start().await;
    let apply = |body: String| async { bed.ask("PUT", "/api/v1/workloads").json(body).answer().await };
    assert_snapshot!(apply(WEB.to_owned()).await, @r#"
    201
    content-type: application/json

    {"id":"b7e1e158-6721-4173-bb2b-2203a8a4fd91","result":"created"}
    "#);
    assert_snapshot!(apply(WEB.to_owned()).await, @r#"
    200
    content-type: application/json

    {"id":"b7e1e158-6721-4173-bb2b-2203a8a4fd91","result":"unchanged"}
    "#);
    assert_snapshot!(apply(WEB.replace("nginx:1", "nginx:2")).await, @r#"
    200
    content-type: application/json

    {"id":"b7e1e158-6721-4173-bb2b-2203a8a4fd91","result":"configured"}
    "#);
}

#[tokio::test]
async fn a_change_can_be_tied_to_the_revision_that_was_seen() {
    let bed = Bed::start().await;
    bed.web().await;
    let tag = bed.get("/api/v1/workloads/web").await.header("etag").unwrap().to_owned();
    let other = WEB.replace("nginx:1", "nginx:2");
    let apply =
        |tag: String| bed.ask("PUT", "/api/v1/workloads").json(other.clone()).with("if-match", tag).answer();
    assert_snapshot!(apply("\"9999\"".to_owned()).await, @r#"
    412
    content-type: application/problem+json

    {"code":"revision-mismatch","title":"The object has changed","status":412,"detail":"the object is at revision 2, not at 9999","hint":"read it again, then decide again","request":"r1"}
    "#);
    assert_eq!(apply(tag.clone()).await.status, 200);
    let delete = |path: &'static str, tag: String| bed.ask("DELETE", path).with("if-match", tag).answer();
    assert_eq!(delete("/api/v1/workloads/web", tag.clone()).await.code(), "revision-mismatch");
    bed.instance("web-1").await;
    assert_eq!(delete("/api/v1/instances/web-1", tag).await.code(), "revision-mismatch");
    assert_snapshot!(delete("/api/v1/instances/web-1", "W/\"3\"".to_owned()).await, @r#"
    400
    content-type: application/problem+json

    {"code":"parameter-invalid","title":"A parameter cannot be used","status":400,"detail":"If-Match is \"W/\\\"3\\\"\"; allowed is one ETag as this API gives them, such as \"42\"","request":"r1"}
    "#);
    assert_eq!(delete("/api/v1/instances/web-1", "*".to_owned()).await.status, 204);
}

#[tokio::test]
async fn a_repeated_request_with_the_same_key_gets_the_same_answer() {
    let bed = Bed::start().await;
    let create = |key: &'static str, body: String| {
        bed.ask("POST", "/api/v1/workloads").json(body).with("idempotency-key", key).answer()
    };
    let first = create("one", WEB.to_owned()).await;
    let again = create("one", WEB.to_owned()).await;
    assert_eq!((first.status, again.status), (201, 201));
    assert_eq!(first.json(), again.json());
    assert_snapshot!(create("one", WEB.replace("nginx:1", "nginx:2")).await, @r#"
    422
    content-type: application/problem+json

    {"code":"key-reused","title":"The Idempotency-Key was used before","status":422,"detail":"this Idempotency-Key was used for another request","hint":"a new request needs a new key","request":"r1"}
    "#);
    assert_eq!(create("two", WEB.to_owned()).await.code(), "name-taken");
    let instances = |key: &'static str| {
        bed.ask("POST", "/api/v1/instances")
            .json(r#"{"workload":"web","replicas":2}"#)
            .with("idempotency-key", key)
            .answer()
    };
    let first = instances("three").await.json();
    assert_eq!(first, instances("three").await.json());
    assert_ne!(first, instances("four").await.json());
    assert_eq!(bed.cluster.mirror().read().instances.len(), 4);
    let long = "k".repeat(129);
    for key in ["", "a b", "a/b", long.as_str()] {
        let ask =
            bed.ask("POST", "/api/v1/instances").json(r#"{"workload":"web"}"#).with("idempotency-key", key);
        assert_eq!(ask.answer().await.code(), "parameter-invalid", "{key:?}");
    }
}

#[tokio::test]
async fn f70_the_same_key_many_times_at_once_creates_once() {
    let bed = Bed::start().await;
    bed.web().await;
    let create = || {
        bed.ask("POST", "/api/v1/instances")
            .json(r#"{"workload":"web"}"#)
            .with("idempotency-key", "k")
            .answer()
    };
    let all = futures::future::join_all((0..80).map(|_| create())).await;
    assert!(all.iter().all(|answer| answer.status == 201 && answer.body == all[0].body));
    assert_eq!(bed.cluster.mirror().read().instances.len(), 1);
}

#[tokio::test]
async fn an_instance_is_created_read_and_deleted() {
    let bed = Bed::start().await;
    bed.web().await;
    assert_snapshot!(bed.post("/api/v1/instances", r#"{"workload":"web","name":"web-1"}"#).await, @r#"
    201
    content-type: application/json

    {"ids":["web-1"]}
    "#);
    assert_snapshot!(bed.get("/api/v1/instances/web-1").await, @r#"
    200
    content-type: application/json
    etag: "3"

    {"revision":3,"id":"web-1","uid":"1dd1ac08-f9cb-4d2c-aa60-9fae38dfe509","workloadId":"b7e1e158-6721-4173-bb2b-2203a8a4fd91","workload":"web","namespace":"default","kind":"Pod","status":"Pending","restarts":0,"ready":false,"createdAt":"2026-01-02T03:04:05Z","spec":{"containers":[{"name":"web","image":"nginx:1"}],"terminationGracePeriodSeconds":10}}
    "#);
    assert_snapshot!(bed.delete("/api/v1/instances/web-1").await, @"204");
    assert_snapshot!(bed.get("/api/v1/instances/web-1").await, @r#"
    404
    content-type: application/problem+json

    {"code":"instance-not-found","title":"There is no such instance","status":404,"detail":"there is no instance \"web-1\"","hint":"rikctl get instances","request":"r1"}
    "#);
    assert_snapshot!(bed.delete("/api/v1/instances/web-1").await, @r#"
    404
    content-type: application/problem+json

    {"code":"instance-not-found","title":"There is no such instance","status":404,"detail":"there is no instance \"web-1\"","hint":"rikctl get instances","request":"r1"}
    "#);
}

#[tokio::test]
async fn an_instance_on_a_node_ends_in_its_time_unless_forced() {
    let bed = Bed::start().await;
    bed.web().await;
    bed.instance("web-1").await;
    let mut scheduler = Scheduler::connect(&bed).await;
    scheduler.node("n1").await;
    scheduler.bind("web-1", "n1").await;
    scheduler.run("web-1", "n1").await;
    assert_snapshot!(bed.delete("/api/v1/instances/web-1").await, @"202");
    assert_eq!(bed.delete("/api/v1/instances/web-1").await.status, 202);
    assert_eq!(bed.get("/api/v1/instances/web-1").await.json()["status"], "Destroying");
    assert_eq!(bed.delete("/api/v1/instances/web-1?force=maybe").await.code(), "parameter-invalid");
    assert_eq!(bed.delete("/api/v1/instances/web-1?force=false").await.status, 202);
    assert_eq!(bed.delete("/api/v1/instances/web-1?force").await.status, 204);
    assert_eq!(bed.get("/api/v1/instances/web-1").await.code(), "instance-not-found");
}

#[tokio::test]
async fn requests_for_instances_are_refused_with_a_reason() {
    let bed = Bed::start().await;
    bed.web().await;
    bed.instance("taken").await;
    for (body, code) in [
        (r#"{"workload":"nope"}"#, "workload-not-found"),
        (r#"{"workload":"web","name":"taken"}"#, "name-taken"),
        (r#"{"workload":"web","name":"a","replicas":2}"#, "request-invalid"),
        (r#"{"workload":"web","name":""}"#, "request-invalid"),
        (r#"{"workload":"web","name":"../../etc"}"#, "request-invalid"),
        (r#"{"workload":"web","replicas":0}"#, "request-invalid"),
        (r#"{"workload":"web","replicas":1001}"#, "request-invalid"),
        (r#"{"workload":"web","replicas":-1}"#, "body-invalid"),
        (r#"{"workload":"web","replica":1}"#, "body-invalid"),
        (r#"{"workload":"web","workload":"web"}"#, "body-invalid"),
        (r#"{"workload":7}"#, "body-invalid"),
        ("[]", "body-invalid"),
        ("", "body-invalid"),
    ] {
        assert_eq!(bed.post("/api/v1/instances", body).await.code(), code, "{body}");
    }
    assert_snapshot!(bed.post("/api/v1/instances", r#"{"workload":"web","replica":1}"#).await, @r#"
    400
    content-type: application/problem+json

    {"code":"body-invalid","title":"The body cannot be read","status":400,"detail":"the body cannot be used: unknown field `replica`, expected one of `workload`, `name`, `replicas` at line 1 column 27","request":"r1"}
    "#);
    let yaml =
        bed.ask("POST", "/api/v1/instances").json("workload: web").with("content-type", "application/yaml");
    assert_eq!(yaml.answer().await.code(), "content-type-unsupported");
}

#[tokio::test]
async fn lists_come_in_pages_that_miss_nothing() {
    let bed = Bed::start().await;
    bed.web().await;
    for name in ["a", "b", "c"] {
        bed.post("/api/v1/workloads", &WEB.replace("web", name)).await;
    }
    for number in 0..25 {
        bed.instance(&format!("web-{number:02}")).await;
    }
    for (path, count) in [("/api/v1/instances", 25), ("/api/v1/workloads", 4)] {
        for limit in [1, 7, 25, 1000] {
            let mut names = Vec::new();
            let mut next = String::new();
            loop {
                let page = bed.get(&format!("{path}?limit={limit}{next}")).await.json();
                let items = page["items"].as_array().unwrap();
                assert!(items.len() <= limit);
                names.extend(items.iter().map(|item| item["id"].as_str().unwrap().to_owned()));
                match page["continue"].as_str() {
                    Some(token) => next = format!("&continue={token}"),
                    None => break,
                }
            }
            let unique: std::collections::BTreeSet<_> = names.iter().collect();
            assert_eq!((names.len(), unique.len()), (count, count), "{path} by {limit}");
        }
    }
    for query in [
        "limit=0",
        "limit=-1",
        "limit=x",
        "limit=99999999999999999999",
        "continue=%00",
        "continue=a.b",
        "lmit=1",
    ] {
        assert_eq!(
            bed.get(&format!("/api/v1/instances?{query}")).await.code(),
            "parameter-invalid",
            "{query}"
        );
    }
    assert_eq!(
        bed.get("/api/v1/instances?limit=1000000000").await.json()["items"].as_array().unwrap().len(),
        25
    );
    assert_snapshot!(bed.get("/api/v1/workloads?lmit=1").await, @r#"
    400
    content-type: application/problem+json

    {"code":"parameter-invalid","title":"A parameter cannot be used","status":400,"detail":"the query cannot be used: lmit: unknown field `lmit`, expected `limit` or `continue`: lmit: unknown field `lmit`, expected `limit` or `continue`","request":"r1"}
    "#);
}

#[tokio::test]
async fn instances_are_filtered() {
    let bed = Bed::start().await;
    let id = bed.web().await;
    bed.post("/api/v1/workloads", &WEB.replace("web", "api")).await;
    bed.instance("web-1").await;
    bed.instance("web-2").await;
    bed.post("/api/v1/instances", r#"{"workload":"api","name":"api-1"}"#).await;
    let mut scheduler = Scheduler::connect(&bed).await;
    scheduler.node("n1").await;
    scheduler.bind("web-2", "n1").await;
    scheduler.run("web-2", "n1").await;
    for (query, expected) in [
        ("workload=api".to_owned(), vec!["api-1"]),
        (format!("workload={id}"), vec!["web-1", "web-2"]),
        ("workload=we".to_owned(), vec![]),
        ("node=n1".to_owned(), vec!["web-2"]),
        ("status=RUNNING".to_owned(), vec!["web-2"]),
        ("status=Pending&workload=web".to_owned(), vec!["web-1"]),
        ("node=%25".to_owned(), vec![]),
    ] {
        let page = bed.get(&format!("/api/v1/instances?{query}")).await.json();
        let ids: Vec<_> =
            page["items"].as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
        assert_eq!(ids, expected, "{query}");
    }
    assert_snapshot!(bed.get("/api/v1/instances?status=Gone").await, @r#"
    400
    content-type: application/problem+json

    {"code":"parameter-invalid","title":"A parameter cannot be used","status":400,"detail":"status is \"Gone\"; allowed are Pending, Creating, Running, Failed, Terminated, Destroying","request":"r1"}
    "#);
}

#[tokio::test]
async fn events_tell_the_history_newest_first_and_in_pages() {
    let bed = Bed::start().await;
    bed.web().await;
    bed.instance("web-1").await;
    bed.delete("/api/v1/instances/web-1").await;
    assert_snapshot!(bed.get("/api/v1/events").await, @r#"
    200
    content-type: application/json

    {"items":[{"revision":4,"time":"2026-01-02T03:04:05Z","action":"deleted","object":"instance","kind":"Pod","name":"web-1","status":"Pending"},{"revision":3,"time":"2026-01-02T03:04:05Z","action":"created","object":"instance","kind":"Pod","name":"web-1","status":"Pending"},{"revision":2,"time":"2026-01-02T03:04:05Z","action":"created","object":"workload","kind":"Pod","name":"web"}],"revision":4}
    "#);
    let mut told = Vec::new();
    let mut next = String::new();
    loop {
        let page = bed.get(&format!("/api/v1/events?limit=1{next}")).await.json();
        told.extend(page["items"].as_array().unwrap().iter().map(|one| one["revision"].as_u64().unwrap()));
        match page["continue"].as_str() {
            Some(token) => next = format!("&continue={token}"),
            None => break,
        }
    }
    assert!(told.is_sorted_by(|one, other| one > other) && told.len() == 3, "{told:?}");
    let before = bed.get(&format!("/api/v1/events?before={}", told[1])).await.json();
    assert_eq!(before["items"].as_array().unwrap().len(), 1);
    assert_snapshot!(bed.get("/api/v1/events?before=yesterday").await, @r#"
    400
    content-type: application/problem+json

    {"code":"parameter-invalid","title":"A parameter cannot be used","status":400,"detail":"\"yesterday\" is no continuation of a page of events","request":"r1"}
    "#);
}

#[tokio::test]
async fn every_answer_has_the_id_of_its_request() {
    let bed = Bed::start().await;
    for path in ["/health", "/api/v1/nope", "/api/v0/nope", "/api/v1/instances/nope", "/api/v1/docs"] {
        let given = bed.get(path).await;
        assert_eq!(given.header("x-request-id"), Some("r1"), "{path}");
        assert_eq!(given.header("x-content-type-options"), Some("nosniff"), "{path}");
        let hostile = bed.ask("GET", path).with("x-request-id", "a b").answer().await;
        let made = hostile.header("x-request-id").unwrap();
        assert_eq!(made.len(), 36, "{path}: {made}");
    }
    assert_eq!(bed.get("/api/v1/instances/nope").await.json()["request"], "r1");
}

#[tokio::test]
async fn unknown_paths_and_methods_are_problems() {
    let bed = Bed::start().await;
    assert_snapshot!(bed.get("/api/v1/nope").await, @r#"
    404
    content-type: application/problem+json

    {"code":"route-not-found","title":"There is no such path","status":404,"detail":"there is nothing at \"/api/v1/nope\"","hint":"/api/v1/docs lists every path","request":"r1"}
    "#);
    assert_snapshot!(bed.ask("PATCH", "/api/v1/workloads").answer().await, @r#"
    405
    content-type: application/problem+json
    allow: GET,HEAD,POST,PUT

    {"code":"method-not-allowed","title":"The path does not know this method","status":405,"detail":"this path does not know PATCH","hint":"/api/v1/docs lists every path and its methods","request":"r1"}
    "#);
    assert_eq!(bed.get("/nope").await.code(), "route-not-found");
    assert_eq!(bed.ask("OPTIONS", "/api/v1/workloads").answer().await.status, 405);
}
