//! Configs and secrets over the API: what is shown of them, and what never is.

use serde_json::json;

use crate::bed::{Bed, Scheduler};

const CANARY: &str = "hunter2-canary";

fn secret(value: &str) -> String {
    json!({ "name": "db", "data": { "password": value }, "binaryData": { "raw": "/w==" } }).to_string()
}

#[tokio::test]
async fn config_is_created_shown_replaced_and_deleted() {
    let bed = Bed::start().await;
    let body = json!({ "name": "app", "data": { "MODE": "fast" } }).to_string();
    let created = bed.post("/api/v1/configs", &body).await;
    assert_eq!((created.status, created.json()["data"]["MODE"].as_str()), (201, Some("fast")));
    assert_eq!(bed.post("/api/v1/configs", &body).await.json()["code"], "name-taken");
    let listed = bed.get("/api/v1/configs").await.json();
    assert_eq!(listed["items"][0]["keys"], json!({ "MODE": 4 }));
    assert!(listed["items"][0].get("data").is_none(), "a list has no values: {listed}");
    let tag = format!("\"{}\"", created.json()["revision"]);
    let slow = json!({ "data": { "MODE": "slow" } }).to_string();
    let replace = |tag: String, body: String| {
        let bed = &bed;
        async move { bed.ask("PUT", "/api/v1/configs/app").json(body).with("if-match", &tag).answer().await }
    };
    assert_eq!(replace(tag.clone(), slow.clone()).await.status, 200);
    assert_eq!(replace(tag, slow).await.status, 412, "it has changed since");
    assert_eq!(bed.get("/api/v1/configs/app").await.json()["data"]["MODE"], "slow");
    assert_eq!(bed.delete("/api/v1/configs/app").await.status, 204);
    assert_eq!(bed.get("/api/v1/configs/app").await.json()["code"], "config-not-found");
}

#[tokio::test]
async fn values_of_a_secret_never_come_back_and_are_stored_sealed() {
    let bed = Bed::start().await;
    let created = bed.post("/api/v1/secrets", &secret(CANARY)).await;
    assert_eq!(created.status, 201);
    let shown = [
        created.json(),
        bed.get("/api/v1/secrets/db").await.json(),
        bed.get("/api/v1/secrets").await.json(),
        bed.get("/api/v1/events").await.json(),
        bed.ask("PUT", "/api/v1/secrets/db").json(secret(CANARY)).answer().await.json(),
    ];
    for answer in shown {
        assert!(!answer.to_string().contains(CANARY), "{answer}");
    }
    assert_eq!(bed.get("/api/v1/secrets/db").await.json()["keys"], json!({ "password": 14, "raw": 1 }));
    let stored = store::Store::get(&bed.store, "/secret/default/db").await.unwrap().unwrap();
    assert!(stored.value.contains("sealed") && !stored.value.contains(CANARY), "{}", stored.value);
}

#[tokio::test]
async fn what_is_no_config_is_refused_with_what_is_allowed() {
    let bed = Bed::start().await;
    let large = "x".repeat((1 << 20) - 200);
    for (body, status, words) in [
        (json!({ "name": "Upper", "data": {} }), 400, "lower-case letters"),
        (json!({ "name": "", "data": {} }), 400, "lower-case letters"),
        (json!({ "name": "a", "data": { "../x": "" } }), 400, "a key has"),
        (json!({ "name": "a", "data": { "..": "" } }), 400, "a key has"),
        (json!({ "name": "a", "binaryData": { "k": "%" } }), 400, "no base64"),
        (json!({ "name": "a", "data": { "k": "" }, "binaryData": { "k": "" } }), 400, "in data and in"),
        (json!({ "name": "a", "date": {} }), 400, "unknown field"),
        (json!({ "name": "a", "data": { "k": large, "l": "x".repeat(400) } }), 413, "bytes"),
    ] {
        let answer = bed.post("/api/v1/configs", &body.to_string()).await;
        assert_eq!(answer.status, status, "{}", answer.json());
        assert!(answer.json()["detail"].as_str().unwrap().contains(words), "{}", answer.json());
    }
}

#[tokio::test]
async fn instance_is_given_what_it_names_once_it_has_a_node() {
    let bed = Bed::start().await;
    bed.post("/api/v1/secrets", &secret(CANARY)).await;
    let manifest = json!({ "kind": "Pod", "name": "web", "spec": {
        "containers": [{ "name": "web", "image": "nginx", "envFrom": [{ "secretRef": { "name": "db", "optional": true } }] }],
    } });
    assert_eq!(bed.post("/api/v1/workloads", &manifest.to_string()).await.status, 201);
    bed.instance("web-1").await;
    let mut scheduler = Scheduler::connect(&bed).await;
    scheduler.node("n1").await;
    scheduler.bind("web-1", "n1").await;
    let given = scheduler.given("web-1").await;
    let contents = given.objects.values().next().unwrap();
    assert_eq!(contents["password"], CANARY.as_bytes());
    assert_eq!(contents["raw"], b"\xff");
}
