//! What describes the API is true: it lists what is served, and what it refers to is there.

use std::collections::BTreeSet;

use insta::assert_snapshot;
use serde_json::Value;

use crate::bed::Bed;

const METHODS: [&str; 4] = ["get", "post", "put", "delete"];

fn operations(document: &Value) -> Vec<(String, String, &Value)> {
    let paths = document["paths"].as_object().unwrap();
    let all = paths.iter().flat_map(|(path, item)| {
        METHODS
            .iter()
            .filter_map(move |method| Some((method.to_uppercase(), path.clone(), item.get(method)?)))
    });
    all.collect()
}

#[tokio::test]
async fn the_document_lists_every_route() {
    let bed = Bed::start().await;
    let document = bed.get("/api/v1/openapi.json").await.json();
    let lines: String = operations(&document)
        .into_iter()
        .map(|(method, path, operation)| {
            let answers: Vec<_> =
                operation["responses"].as_object().unwrap().keys().map(String::as_str).collect();
            format!("{method} {path} {} {}\n", operation["operationId"].as_str().unwrap(), answers.join(","))
        })
        .collect();
    assert_snapshot!(lines, @r#"
    GET / get_root 303,default
    POST /api/v0/instances.create v0_create_instances 201,default
    POST /api/v0/instances.delete v0_delete_instance 204,default
    GET /api/v0/instances.list v0_list_instances 200,default
    POST /api/v0/tenants.create v0_create_tenant 200,default
    POST /api/v0/tenants.delete v0_delete_tenant 204,default
    GET /api/v0/tenants.list v0_list_tenants 200,default
    POST /api/v0/workloads.create v0_create_workload 200,default
    POST /api/v0/workloads.delete v0_delete_workload 204,default
    GET /api/v0/workloads.instances/{id} v0_list_workload_instances 200,204,default
    GET /api/v0/workloads.list v0_list_workloads 200,default
    GET /api/v1/cluster get_cluster 200,default
    GET /api/v1/configs list_configs 200,default
    POST /api/v1/configs create_config 201,default
    GET /api/v1/configs/{name} get_config 200,default
    PUT /api/v1/configs/{name} replace_config 200,201,default
    DELETE /api/v1/configs/{name} delete_config 204,default
    GET /api/v1/docs get_docs 200,default
    GET /api/v1/docs.css get_docs_style 200,default
    GET /api/v1/events list_events 200,default
    GET /api/v1/instances list_instances 200,default
    POST /api/v1/instances create_instances 201,default
    GET /api/v1/instances/{id} get_instance 200,default
    DELETE /api/v1/instances/{id} delete_instance 202,204,default
    GET /api/v1/instances/{id}/attach attach 101,default
    GET /api/v1/instances/{id}/copy copy 101,default
    GET /api/v1/instances/{id}/exec exec 101,default
    GET /api/v1/instances/{id}/logs get_logs 200,default
    GET /api/v1/instances/{id}/ports/{port} connect_port 101,default
    GET /api/v1/nodes list_nodes 200,default
    GET /api/v1/nodes/{name} get_node 200,default
    DELETE /api/v1/nodes/{name} delete_node 204,default
    GET /api/v1/nodes/{name}/deleted list_deleted 200,default
    GET /api/v1/nodes/{name}/deleted/{uid}/logs get_deleted_logs 200,default
    GET /api/v1/nodes/{name}/images list_images 200,default
    POST /api/v1/nodes/{name}/images load_image 200,default
    DELETE /api/v1/nodes/{name}/images remove_images 200,default
    GET /api/v1/nodes/{name}/images/archive save_image 200,default
    POST /api/v1/nodes/{name}/images/pull pull_image 200,default
    GET /api/v1/nodes/{name}/volumes list_volumes 200,default
    DELETE /api/v1/nodes/{name}/volumes/{volume} remove_volume 204,default
    GET /api/v1/openapi.json get_openapi 200,default
    GET /api/v1/schema/workload-v1.json get_schema 200,default
    GET /api/v1/secrets list_secrets 200,default
    POST /api/v1/secrets create_secret 201,default
    GET /api/v1/secrets/{name} get_secret 200,default
    PUT /api/v1/secrets/{name} replace_secret 200,201,default
    DELETE /api/v1/secrets/{name} delete_secret 204,default
    GET /api/v1/watch watch 200,default
    GET /api/v1/workloads list_workloads 200,default
    POST /api/v1/workloads create_workload 201,default
    PUT /api/v1/workloads apply_workload 200,201,default
    GET /api/v1/workloads/{name} get_workload 200,default
    DELETE /api/v1/workloads/{name} delete_workload 204,default
    GET /health get_health 200,default
    GET /metrics get_metrics 200,default
    "#);
}

#[tokio::test]
async fn every_listed_route_is_served() {
    let bed = Bed::start().await;
    let document = bed.get("/api/v1/openapi.json").await.json();
    for (method, path, _) in operations(&document) {
        let asked = path.replace("{name}", "nope").replace("{id}", "nope");
        let mut wire = bed.ask(&method, &asked).open().await;
        let head = wire.head().await;
        // What is there but has no such object says so with a code of its own.
        let is_known = match head.status {
            405 => false,
            404 if path.starts_with("/api/v0/") => false,
            404 => {
                let length = head.header("content-length").unwrap().parse::<usize>().unwrap();
                let body = wire.until("}").await;
                assert!(body.len() <= length);
                !body.contains("route-not-found")
            }
            _ => true,
        };
        assert!(is_known, "{method} {path}: {}", head.status);
    }
}

#[tokio::test]
async fn the_document_is_whole() {
    let bed = Bed::start().await;
    let document = bed.get("/api/v1/openapi.json").await.json();
    assert!(document["openapi"].as_str().unwrap().starts_with("3.1"));
    let mut ids = BTreeSet::new();
    for (method, path, operation) in operations(&document) {
        assert!(
            ids.insert(operation["operationId"].as_str().unwrap().to_owned()),
            "{method} {path}: its id is taken"
        );
        assert!(
            operation["summary"].as_str().is_some_and(|text| !text.is_empty()),
            "{method} {path}: no summary"
        );
        assert_eq!(operation["tags"].as_array().unwrap().len(), 1, "{method} {path}");
        let named: BTreeSet<_> =
            path.split('{').skip(1).map(|part| part.split('}').next().unwrap()).collect();
        let given =
            operation["parameters"].as_array().into_iter().flatten().filter(|one| one["in"] == "path");
        let given: BTreeSet<_> = given.map(|one| one["name"].as_str().unwrap()).collect();
        assert_eq!(named, given, "{method} {path}: parameters of the path");
        for (status, response) in operation["responses"].as_object().unwrap() {
            assert!(status == "default" || status.parse::<u16>().is_ok());
            assert!(response["description"].is_string(), "{method} {path} {status}: no description");
        }
    }
    let schemas = &document["components"]["schemas"];
    fn visit(value: &Value, schemas: &Value) {
        match value {
            Value::Object(fields) => {
                if let Some(target) = fields.get("$ref").and_then(Value::as_str) {
                    let name = target.strip_prefix("#/components/schemas/").unwrap();
                    assert!(schemas.get(name).is_some(), "{target} is nowhere");
                }
                fields.values().for_each(|value| visit(value, schemas));
            }
            Value::Array(items) => items.iter().for_each(|value| visit(value, schemas)),
            _ => {}
        }
    }
    visit(&document, schemas);
}

#[tokio::test]
async fn the_schema_of_manifests_is_served() {
    let bed = Bed::start().await;
    let answer = bed.get("/api/v1/schema/workload-v1.json").await;
    assert_eq!((answer.status, answer.header("content-type")), (200, Some("application/schema+json")));
    assert_eq!(answer.json()["title"], "Workload-v1");
}

#[tokio::test]
async fn the_page_needs_nothing_from_elsewhere() {
    let bed = Bed::start().await;
    let page = bed.get("/api/v1/docs").await;
    assert_eq!((page.status, page.header("content-type")), (200, Some("text/html; charset=utf-8")));
    assert_eq!(page.header("x-frame-options"), Some("DENY"));
    let policy = page.header("content-security-policy").unwrap();
    assert!(policy.contains("default-src 'none'") && policy.contains("frame-ancestors 'none'"), "{policy}");
    let text = page.text();
    assert!(!text.contains("<script") && !text.contains("http://") && !text.contains("https://"));
    let document = bed.get("/api/v1/openapi.json").await.json();
    for (method, path, operation) in operations(&document) {
        let id = operation["operationId"].as_str().unwrap();
        assert!(text.contains(&format!("<h3 id=\"{id}\">")), "{method} {path} is not on the page");
    }
    for target in text.split("href=\"#").skip(1).map(|rest| rest.split('"').next().unwrap()) {
        assert!(text.contains(&format!("id=\"{target}\"")), "#{target} leads nowhere");
    }
    assert_eq!(bed.get("/api/v1/docs.css").await.header("content-type"), Some("text/css; charset=utf-8"));
}
