//! Manifests for stories, as values that a story changes to its taste.

use serde_json::{Value, json};

/// A Pod with the given containers.
#[must_use]
pub fn pod(name: &str, containers: &[Value]) -> Value {
    json!({ "apiVersion": "v1", "kind": "Pod", "name": name, "spec": { "containers": containers } })
}

/// A container of an image, as it is.
#[must_use]
pub fn container(name: &str, image: &str) -> Value {
    json!({ "name": name, "image": image })
}

/// A container that runs a line of shell in the busybox image.
#[must_use]
pub fn shell(name: &str, script: &str) -> Value {
    json!({ "name": name, "image": "busybox:1", "command": ["/bin/busybox", "sh", "-c"], "args": [script] })
}

/// A Pod of one container that runs a line of shell, both called `name`.
#[must_use]
pub fn script(name: &str, script: &str) -> Value {
    pod(name, &[shell(name, script)])
}

/// A Pod of one container that sleeps until it is asked to end.
#[must_use]
pub fn sleeper(name: &str) -> Value {
    pod(name, &[container(name, "busybox:1")])
}

/// A Pod of the web server, published on `port` of its node.
#[must_use]
pub fn web(name: &str, port: u16) -> Value {
    let mut container = container("web", "hello:1");
    container["ports"] = json!({ "port": port, "target_port": 8080, "type": "NodePort" });
    pod(name, &[container])
}

/// A Function of one container that runs a line of shell, both called `name`.
#[must_use]
pub fn function(name: &str, script: &str) -> Value {
    let mut manifest = pod(name, &[shell(name, script)]);
    manifest["kind"] = "Function".into();
    manifest
}
