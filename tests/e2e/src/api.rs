//! The controller's REST API, as a client that believes nothing: status and body of every answer are looked at.

use std::net::SocketAddr;

use serde_json::{Value, json};

use crate::http::{self, Answer};
use crate::wait::{LONG, SHORT, wait_until};

/// A client of one controller.
#[derive(Clone, Copy, Debug)]
pub struct Api {
    /// Where the controller listens.
    pub server: SocketAddr,
}

impl Api {
    /// Sends a request, whatever comes back.
    ///
    /// # Panics
    /// When the controller cannot be reached.
    #[track_caller]
    #[must_use]
    pub fn send(&self, method: &str, path: &str, body: &str) -> Answer {
        let headers: &[(&str, &str)] =
            if body.is_empty() { &[] } else { &[("Content-Type", "application/json")] };
        http::request(self.server, method, path, headers, body.as_bytes())
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Sends a request and reads the JSON that comes back with status `expected`.
    ///
    /// # Panics
    /// When something else comes back.
    #[track_caller]
    #[must_use]
    pub fn json(&self, method: &str, path: &str, body: &Value, expected: u16) -> Value {
        let text = if body.is_null() { String::new() } else { body.to_string() };
        let answer = self.send(method, path, &text);
        assert_eq!(answer.status, expected, "{method} {path} answered {}: {}", answer.status, answer.body);
        if answer.body.is_empty() {
            return Value::Null;
        }
        serde_json::from_str(&answer.body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}: {}", answer.body))
    }

    /// Whether the controller serves requests.
    #[must_use]
    pub fn is_up(&self) -> bool {
        http::request(self.server, "GET", "/api/v0/workloads.list", &[], b"")
            .is_ok_and(|answer| answer.status == 200)
    }

    /// Creates a workload from its manifest; gives its id.
    #[track_caller]
    #[must_use]
    pub fn create_workload(&self, manifest: &Value) -> String {
        let answer = self.json("POST", "/api/v0/workloads.create", manifest, 200);
        text(&answer["id"])
    }

    /// Creates one instance of a workload, named `name`, and gives that name.
    #[track_caller]
    pub fn create_instance(&self, workload: &str, name: &str) -> String {
        let request = json!({ "workload_id": workload, "name": name });
        let answer = self.json("POST", "/api/v0/instances.create", &request, 201);
        assert_eq!(answer, json!([name]));
        name.to_owned()
    }

    /// Creates `replicas` instances of a workload; gives their ids.
    #[track_caller]
    #[must_use]
    pub fn create_instances(&self, workload: &str, replicas: u32) -> Vec<String> {
        let request = json!({ "workload_id": workload, "replicas": replicas });
        let answer = self.json("POST", "/api/v0/instances.create", &request, 201);
        answer.as_array().into_iter().flatten().map(text).collect()
    }

    /// Workload and instance from one manifest, both called `name`, running.
    #[track_caller]
    pub fn run(&self, manifest: &Value) -> Value {
        let name = text(&manifest["name"]);
        let workload = self.create_workload(manifest);
        self.create_instance(&workload, &name);
        self.wait_status(&name, "Running")
    }

    /// Asks for the end of an instance.
    #[track_caller]
    pub fn delete_instance(&self, id: &str) {
        let _ = self.json("POST", "/api/v0/instances.delete", &json!({ "id": id }), 204);
    }

    /// Deletes a workload.
    #[track_caller]
    pub fn delete_workload(&self, id: &str) {
        let _ = self.json("POST", "/api/v0/workloads.delete", &json!({ "id": id }), 204);
    }

    /// Every instance as v0 gives it: the value of each element.
    #[track_caller]
    #[must_use]
    pub fn instances(&self) -> Vec<Value> {
        self.values("/api/v0/instances.list")
    }

    /// Every workload as v0 gives it: whole elements.
    #[track_caller]
    #[must_use]
    pub fn workloads(&self) -> Vec<Value> {
        list(&self.json("GET", "/api/v0/workloads.list", &Value::Null, 200))
    }

    fn values(&self, path: &str) -> Vec<Value> {
        list(&self.json("GET", path, &Value::Null, 200))
            .into_iter()
            .map(|element| element["value"].clone())
            .collect()
    }

    /// One instance with everything that v1 knows of it, if it exists.
    #[track_caller]
    #[must_use]
    pub fn instance(&self, id: &str) -> Option<Value> {
        let answer = self.send("GET", &format!("/api/v1/instances/{id}"), "");
        match answer.status {
            404 => None,
            200 => Some(
                serde_json::from_str(&answer.body).unwrap_or_else(|error| panic!("instance {id}: {error}")),
            ),
            status => panic!("instance {id}: {status}: {}", answer.body),
        }
    }

    /// Every node with how it fares.
    #[track_caller]
    #[must_use]
    pub fn nodes(&self) -> Vec<Value> {
        list(&self.json("GET", "/api/v1/nodes", &Value::Null, 200)["items"])
    }

    /// Waits until the instance has the status, and gives it as it is then.
    #[track_caller]
    pub fn wait_status(&self, id: &str, status: &str) -> Value {
        wait_until(LONG, &format!("instance {id} to be {status}"), || match self.instance(id) {
            Some(instance) if instance["status"] == status => Ok(instance),
            Some(instance) if is_final(&instance) => panic!("{id} ended, and is not {status}: {instance}"),
            Some(instance) => Err(instance.to_string()),
            None => Err("no such instance".into()),
        })
    }

    /// Waits until the instance is gone.
    #[track_caller]
    pub fn wait_gone(&self, id: &str) {
        wait_until(LONG, &format!("instance {id} to be gone"), || match self.instance(id) {
            None => Ok(()),
            Some(instance) => Err(instance.to_string()),
        });
    }

    /// Waits until the node has the status, and gives it as it is then.
    #[track_caller]
    pub fn wait_node(&self, name: &str, status: &str) -> Value {
        wait_until(LONG, &format!("node {name} to be {status}"), || {
            let nodes = self.nodes();
            match nodes.iter().find(|node| node["name"] == name) {
                Some(node) if node["status"] == status => Ok(node.clone()),
                _ => Err(Value::from(nodes).to_string()),
            }
        })
    }

    /// Deletes every instance and waits until all are gone, then every workload.
    #[track_caller]
    pub fn delete_everything(&self) {
        let ids: Vec<String> = self.instances().iter().map(|instance| text(&instance["id"])).collect();
        for id in &ids {
            // One that is gone already is what we want.
            let _ = self.send("POST", "/api/v0/instances.delete", &json!({ "id": id }).to_string());
        }
        ids.iter().for_each(|id| self.wait_gone(id));
        for workload in self.workloads() {
            self.delete_workload(&text(&workload["id"]));
        }
    }

    /// Waits until the controller serves requests.
    #[track_caller]
    pub fn wait_up(&self) {
        wait_until(SHORT, "the controller to serve requests", || {
            if self.is_up() { Ok(()) } else { Err("no answer") }
        });
    }
}

/// The process ids of an instance's containers, in order of their names.
///
/// # Panics
/// When a container has none.
#[must_use]
pub fn pids(instance: &Value) -> Vec<u32> {
    let containers = instance["containers"].as_array().into_iter().flatten();
    let mut named: Vec<(String, u32)> = containers
        .map(|container| {
            let pid = container["pid"].as_u64().and_then(|pid| u32::try_from(pid).ok());
            (text(&container["name"]), pid.unwrap_or_else(|| panic!("a container has no pid: {instance}")))
        })
        .collect();
    named.sort();
    named.into_iter().map(|(_, pid)| pid).collect()
}

/// Text of a JSON value; empty where it is none.
#[must_use]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn is_final(instance: &Value) -> bool {
    instance["status"] == "Failed" || instance["status"] == "Terminated"
}
