//! The REST API that clients of the first RIK rely on: shapes, codes, and what once went wrong in it.
//!
//! No story here needs a container, so only the controller runs.

use std::collections::BTreeSet;
use std::sync::Barrier;
use std::thread;

use e2e::api::text;
use e2e::manifest::sleeper;
use e2e::{Api, Lab, story};
use serde_json::{Value, json};

fn controller(lab: &mut Lab) -> Api {
    lab.start_controller();
    lab.api().wait_up();
    lab.api()
}

#[test]
fn answers_have_the_shapes_that_clients_decode() {
    story(|lab| {
        let api = controller(lab);
        assert_eq!(api.json("GET", "/api/v0/workloads.list", &Value::Null, 200), json!([]));
        let created = api.json("POST", "/api/v0/workloads.create", &sleeper("web"), 200);
        let keys: Vec<&String> = created.as_object().into_iter().flat_map(|object| object.keys()).collect();
        assert_eq!(keys, ["id"], "a strict decoder refuses any other key");
        let id = text(&created["id"]);
        let none = api.send("GET", &format!("/api/v0/workloads.instances/{id}"), "");
        assert_eq!((none.status, none.body.as_str()), (204, ""));
        let element = &api.workloads()[0];
        assert_eq!((&element["id"], &element["name"]), (&json!(id), &json!("web")));
        assert_eq!(element["value"]["replicas"], 1);
        assert_eq!(element["value"]["spec"]["function"], Value::Null);
        assert_eq!(element["value"]["spec"]["containers"][0]["env"], Value::Null);

        let empty = json!({ "workload_id": id, "replicas": 0 });
        assert_eq!(api.json("POST", "/api/v0/instances.create", &empty, 201), json!([]));
        api.create_instance(&id, "web-1");
        let instances = api.json("GET", &format!("/api/v0/workloads.instances/{id}"), &Value::Null, 200);
        let instance = &instances["instances"][0];
        assert_eq!((&instance["id"], &instance["namespace"]), (&json!("web-1"), &json!("default")));
        assert_eq!((&instance["kind"], &instance["status"]), (&json!("Pod"), &json!("Pending")));

        let refused = api.send("POST", "/api/v0/workloads.delete", "{\"id\":\"unknown\"}");
        assert_eq!(refused.status, 404);
        assert!(
            refused.header("content-type").is_some_and(|kind| kind.starts_with("text/plain")),
            "{refused:?}"
        );
        let unknown = api.send("GET", "/api/v0/nothing.here", "");
        assert_eq!((unknown.status, unknown.body.as_str()), (404, ""));
    });
}

/// C-05: what one request breaks, no other feels.
#[test]
fn c05_tenant_with_odd_value_does_not_break_the_list() {
    story(|lab| {
        let api = controller(lab);
        let odd = json!({ "id": "t", "name": "/tenant/odd", "value": "not json" });
        let _ = api.send("POST", "/api/v0/tenants.create", &odd.to_string());
        for _ in 0..8 {
            assert_eq!(api.send("GET", "/api/v0/tenants.list", "").status, 200);
        }
    });
}

/// C-06, C-08: names are compared whole, and without wildcards.
#[test]
fn c06_names_that_begin_alike_are_different_names() {
    story(|lab| {
        let api = controller(lab);
        let probe = api.create_workload(&sleeper("probe"));
        let _ = api.create_workload(&sleeper("prob"));
        api.create_instance(&probe, "web-10");
        api.create_instance(&probe, "web-1");
        for (one, other) in [("a_b", "axb"), ("a.b", "acb")] {
            let _ = api.create_workload(&sleeper(one));
            let _ = api.create_workload(&sleeper(other));
        }
        let again = json!({ "workload_id": probe, "name": "web-1" }).to_string();
        let status = api.send("POST", "/api/v0/instances.create", &again).status;
        assert!(status == 404 || status == 409, "{status}");
    });
}

/// C-07: text is text: quotes reach no query language.
#[test]
fn c07_quotes_are_text() {
    story(|lab| {
        let api = controller(lab);
        let id = api.create_workload(&sleeper("safe"));
        for hostile in ["' OR 1=1 --", "x'; DROP TABLE element; --", "%", "_"] {
            let request = json!({ "workload_id": hostile }).to_string();
            assert_eq!(api.send("POST", "/api/v0/instances.create", &request).status, 404, "{hostile}");
        }
        assert_eq!(text(&api.workloads()[0]["id"]), id);
    });
}

/// C-09: the row is visible when the answer arrives.
#[test]
fn c09_row_is_there_when_the_answer_arrives() {
    story(|lab| {
        let api = controller(lab);
        let id = api.create_workload(&sleeper("quick"));
        for number in 0..50 {
            let name = api.create_instance(&id, &format!("quick-{number}"));
            assert!(api.instances().iter().any(|instance| instance["id"] == *name), "{name} is missing");
        }
    });
}

/// C-11: a query string or a slash at the end changes nothing.
#[test]
fn c11_query_and_trailing_slash_are_accepted() {
    story(|lab| {
        let api = controller(lab);
        for path in ["/api/v0/workloads.list?x=1", "/api/v0/workloads.list/", "/api/v0/instances.list/?y"] {
            assert_eq!(api.send("GET", path, "").status, 200, "{path}");
        }
    });
}

/// C-12: many writers at once: nobody is turned away, nothing is lost, and one name is taken once.
#[test]
fn c12_parallel_writers_lose_nothing() {
    story(|lab| {
        let api = controller(lab);
        let start = Barrier::new(8);
        let won: usize = thread::scope(|scope| {
            let writers: Vec<_> = (0..8)
                .map(|writer| {
                    let start = &start;
                    scope.spawn(move || {
                        start.wait();
                        let contested =
                            api.send("POST", "/api/v0/workloads.create", &sleeper("one").to_string());
                        for number in 0..10 {
                            let _ = api.create_workload(&sleeper(&format!("own-{writer}-{number}")));
                        }
                        usize::from(contested.status == 200)
                    })
                })
                .collect();
            writers.into_iter().map(|writer| writer.join().expect("a writer does not panic")).sum()
        });
        assert_eq!(won, 1, "exactly one writer gets the name");
        assert_eq!(api.workloads().len(), 81);
        lab.kill("controller");
        lab.start_controller();
        api.wait_up();
        assert_eq!(api.workloads().len(), 81, "acknowledged is kept");
    });
}

/// C-13: a good answer means that it is done or will be: nothing is swallowed.
#[test]
fn c13_accepted_delete_is_visible_until_it_is_done() {
    story(|lab| {
        let api = controller(lab);
        let id = api.create_workload(&sleeper("gone"));
        api.create_instance(&id, "gone");
        api.delete_instance("gone");
        // Never placed, so there is nothing to wait for.
        api.wait_gone("gone");
        let again = api.send("POST", "/api/v0/instances.delete", "{\"id\":\"gone\"}");
        assert_eq!(again.status, 404);
    });
}

/// C-14, C-21: a thousand generated names are a thousand names, round after round.
#[test]
fn c14_generated_names_are_unique() {
    story(|lab| {
        let api = controller(lab);
        let id = api.create_workload(&sleeper("many"));
        let mut seen = BTreeSet::new();
        for _ in 0..3 {
            seen.extend(api.create_instances(&id, 1000));
        }
        assert_eq!(seen.len(), 3000);
        let too_many = json!({ "workload_id": id, "replicas": 70_000 }).to_string();
        assert_eq!(api.send("POST", "/api/v0/instances.create", &too_many).status, 400);
    });
}

/// C-42: a function without its description is refused at once.
#[test]
fn c42_function_without_function_is_refused() {
    story(|lab| {
        let api = controller(lab);
        let manifest = json!({ "apiVersion": "v1", "kind": "Function", "name": "empty", "spec": {} });
        let refused = api.send("POST", "/api/v0/workloads.create", &manifest.to_string());
        assert_eq!(refused.status, 400);
        assert!(refused.body.contains("function"), "{refused:?}");
    });
}

#[test]
fn old_client_of_functions_is_served_as_it_expects() {
    story(|lab| {
        let api = controller(lab);
        let manifest = json!({
            "apiVersion": "v0", "kind": "Function", "name": "fn:v1",
            "spec": { "function": { "execution": { "rootfs": "http://127.0.0.1:8000/rootfs.ext4" },
                                    "exposure": { "port": 45001, "targetPort": 8080, "type": "NodePort" } } }
        });
        let id = api.create_workload(&manifest);
        let created = api.json("POST", "/api/v0/instances.create", &json!({ "workload_id": id }), 201);
        assert_eq!(created.as_array().map(Vec::len), Some(1));
        let list = api.json("GET", &format!("/api/v0/workloads.instances/{id}"), &Value::Null, 200);
        assert_eq!(list["instances"][0]["spec"]["function"]["exposure"]["port"], 45001);
        assert_eq!(api.workloads()[0]["value"]["spec"]["containers"], json!([]));
    });
}
