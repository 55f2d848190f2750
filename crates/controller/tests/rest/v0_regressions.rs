//! Failures of RIK 2023 that its REST side had, each with its id: they must not come back.

use std::collections::BTreeSet;

use controller::http::Limits;
use store::CommitFailure;

use crate::bed::{Bed, Scheduler, WEB};

fn named(name: &str) -> String {
    WEB.replace("web", name)
}

#[tokio::test]
async fn c01_deleting_a_workload_ends_its_instances_and_the_controller_lives() {
    let bed = Bed::start().await;
    let id = bed.web().await;
    bed.instance("free").await;
    bed.instance("bound").await;
    let mut scheduler = Scheduler::connect(&bed).await;
    scheduler.node("n1").await;
    scheduler.bind("bound", "n1").await;
    assert_eq!(bed.post("/api/v0/workloads.delete", &format!(r#"{{"id":"{id}"}}"#)).await.status, 204);
    let left = bed.get("/api/v0/instances.list").await.json();
    let left: Vec<_> =
        left.as_array().unwrap().iter().map(|one| (&one["id"], &one["value"]["status"])).collect();
    assert_eq!(left, [(&"bound".into(), &"Destroying".into())]);
    assert_eq!(bed.post("/api/v0/instances.delete", r#"{"id":"bound"}"#).await.status, 204);
}

#[tokio::test]
async fn c02_c03_everything_works_while_the_scheduler_is_away() {
    let bed = Bed::start().await;
    let id = bed.web().await;
    let made = bed.post("/api/v0/instances.create", &format!(r#"{{"workload_id":"{id}"}}"#)).await;
    assert_eq!(made.status, 201);
    let list = bed.get("/api/v0/instances.list").await.json();
    assert_eq!(list[0]["value"]["status"], "Pending");
    assert_eq!(bed.get("/health").await.json()["schedulerConnected"], false);
}

#[tokio::test]
async fn c05_a_tenant_that_is_no_json_is_refused_and_the_list_goes_on_working() {
    let bed = Bed::start().await;
    let broken = r#"{"id":"x","name":"/tenant/x","value":"{not json"}"#;
    assert_eq!(bed.post("/api/v0/tenants.create", broken).await.status, 400);
    for _ in 0..8 {
        assert_eq!(bed.get("/api/v0/tenants.list").await.status, 200);
    }
}

#[tokio::test]
async fn c06_names_are_compared_whole() {
    let bed = Bed::start().await;
    for name in ["probe", "prob", "probes"] {
        assert_eq!(bed.post("/api/v0/workloads.create", &named(name)).await.status, 200, "{name}");
    }
    let id = bed.web().await;
    for name in ["web-10", "web-1", "web-100", "a_b", "axb", "a"] {
        let body = format!(r#"{{"workload_id":"{id}","name":"{name}"}}"#);
        assert_eq!(bed.post("/api/v0/instances.create", &body).await.status, 201, "{name}");
    }
    for name in ["web-", "web-1%", "web_1", "%", "_", ""] {
        let body = format!(r#"{{"id":"{name}"}}"#);
        assert_eq!(bed.post("/api/v0/instances.delete", &body).await.status, 404, "{name}");
    }
    assert_eq!(bed.post("/api/v0/instances.delete", r#"{"id":"web-1"}"#).await.status, 204);
    let left = bed.get("/api/v0/instances.list").await.json();
    let left: Vec<_> = left.as_array().unwrap().iter().map(|one| one["id"].as_str().unwrap()).collect();
    assert_eq!(left, ["a", "a_b", "axb", "web-10", "web-100"]);
}

#[tokio::test]
async fn c07_quotes_are_text() {
    let bed = Bed::start().await;
    bed.web().await;
    assert_eq!(bed.post("/api/v0/workloads.create", &named("it's")).await.status, 400);
    for hostile in ["' OR 1=1 --", "x' UNION SELECT * FROM element --", "';DROP TABLE element;--", "web'"] {
        let body = serde_json::json!({ "workload_id": hostile }).to_string();
        assert_eq!(bed.post("/api/v0/instances.create", &body).await.status, 404, "{hostile}");
        let body = serde_json::json!({ "id": hostile }).to_string();
        assert_eq!(bed.post("/api/v0/workloads.delete", &body).await.status, 404, "{hostile}");
    }
    assert_eq!(bed.get("/api/v0/workloads.list").await.json().as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn c09_an_instance_is_listed_as_soon_as_the_answer_is_there() {
    let bed = Bed::start().await;
    let id = bed.web().await;
    for number in 1..=50 {
        bed.post("/api/v0/instances.create", &format!(r#"{{"workload_id":"{id}"}}"#)).await;
        let list = bed.get(&format!("/api/v0/workloads.instances/{id}")).await.json();
        assert_eq!(list["instances"].as_array().unwrap().len(), number);
    }
}

#[tokio::test]
async fn c11_queries_and_slashes_at_the_end_do_not_matter() {
    let bed = Bed::start().await;
    let id = bed.web().await;
    bed.instance("web-1").await;
    for path in [
        "/api/v0/workloads.list/".to_owned(),
        "/api/v0/workloads.list?x=y".to_owned(),
        "/api/v0/instances.list/?limit=5&x".to_owned(),
        "/api/v0/tenants.list///".to_owned(),
        format!("/api/v0/workloads.instances/{id}/"),
        format!("/api/v0/workloads.instances/{id}?a=b"),
        "/api/v1/workloads/".to_owned(),
        "/api/v1/workloads/web/".to_owned(),
    ] {
        assert_eq!(bed.get(&path).await.status, 200, "{path}");
        let head = bed.ask("HEAD", &path).answer().await;
        assert_eq!((head.status, head.body.len()), (200, 0), "{path}");
    }
    assert_eq!(bed.post("/api/v0/workloads.create/?x", &named("other")).await.status, 200);
}

#[tokio::test]
async fn c13_a_write_that_failed_is_never_answered_as_done() {
    let bed = Bed::start().await;
    let id = bed.web().await;
    bed.store.fail_next_commit(CommitFailure::BeforeApplying);
    let failed = bed.post("/api/v0/instances.create", &format!(r#"{{"workload_id":"{id}"}}"#)).await;
    assert_eq!((failed.status, failed.header("content-type")), (500, Some("text/plain; charset=UTF-8")));
    assert_eq!(bed.get("/api/v0/instances.list").await.json().as_array().unwrap().len(), 0);
    bed.store.fail_next_commit(CommitFailure::BeforeApplying);
    let failed = bed.post("/api/v0/workloads.delete", &format!(r#"{{"id":"{id}"}}"#)).await;
    assert_eq!(failed.status, 500);
    assert_eq!(bed.get("/api/v0/workloads.list").await.json().as_array().unwrap().len(), 1);
}

#[tokio::test]
async fn c14_generated_ids_are_all_different() {
    let bed = Bed::start().await;
    let id = bed.web().await;
    let mut ids = BTreeSet::new();
    for _ in 0..3 {
        let made = bed
            .post("/api/v0/instances.create", &format!(r#"{{"workload_id":"{id}","replicas":1000}}"#))
            .await;
        ids.extend(made.json().as_array().unwrap().iter().map(|id| id.as_str().unwrap().to_owned()));
    }
    assert_eq!(ids.len(), 3_000);
    assert_eq!(bed.get("/api/v0/instances.list").await.json().as_array().unwrap().len(), 3_000);
}

#[tokio::test]
async fn f70_the_same_name_many_times_at_once_is_created_once() {
    let bed = Bed::with(Limits { connections_per_client: 200, ..Limits::default() }).await;
    let all = futures::future::join_all((0..100).map(|_| bed.post("/api/v0/workloads.create", WEB))).await;
    let created = all.iter().filter(|answer| answer.status == 200).count();
    let taken = all.iter().filter(|answer| answer.status == 409).count();
    assert_eq!((created, taken), (1, 99));
}
