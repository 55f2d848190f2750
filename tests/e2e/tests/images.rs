//! Where images come from, and what happens when they do not.

use std::net::TcpListener;

use e2e::api::text;
use e2e::manifest::{container, pod, sleeper};
use e2e::{Api, LONG, image, story, wait_until};
use images::archive::PackFile;
use serde_json::Value;

/// Waits until the instance has failed, and gives it.
fn failed(api: Api, manifest: &Value) -> Value {
    let name = text(&manifest["name"]);
    let workload = api.create_workload(manifest);
    api.create_instance(&workload, &name);
    wait_until(LONG, &format!("{name} to fail"), || match api.instance(&name) {
        Some(instance) if instance["status"] == "Failed" => Ok(instance),
        other => Err(format!("{other:?}")),
    })
}

/// C-28: no tag means `latest`, a registry with a port is not mistaken for a tag, and digests work.
#[test]
fn c28_references_without_tag_with_port_and_with_digest_are_understood() {
    story(|lab| {
        let api = lab.cluster();
        let registry = lab.registry();
        registry.push(&image::busybox("deep/er/tools:latest"));
        let untagged = registry.reference("deep/er/tools");
        api.run(&pod("untagged", &[container("main", &untagged)]));
        let instance = api.instance("untagged").expect("it runs");
        let digest = text(&instance["containers"][0]["imageDigest"]);
        assert!(digest.starts_with("sha256:"), "{instance}");
        api.run(&pod("by-digest", &[container("main", &format!("{untagged}@{digest}"))]));
    });
}

#[test]
fn image_that_does_not_exist_is_a_reason_for_people() {
    story(|lab| {
        let api = lab.cluster();
        let reference = lab.registry().reference("no/such:1");
        let instance = failed(api, &pod("missing", &[container("main", &reference)]));
        assert_eq!(instance["reason"], "ImagePullFailed", "{instance}");
        assert!(text(&instance["message"]).contains("no/such"), "{instance}");
        let words = lab.rikctl(&["describe", "instance", "missing"]).good();
        assert!(words.contains("no/such") && words.contains("ImagePullFailed"), "{words}");
    });
}

#[test]
fn registry_that_is_not_there_is_a_reason_for_people() {
    story(|lab| {
        let api = lab.cluster();
        let instance = failed(api, &pod("nobody", &[container("main", "127.0.0.1:9/x:1")]));
        assert_eq!(instance["reason"], "ImagePullFailed", "{instance}");
        assert!(text(&instance["message"]).contains("127.0.0.1:9"), "{instance}");
    });
}

#[test]
fn content_that_belies_its_digest_never_runs() {
    story(|lab| {
        let api = lab.cluster();
        // Content of its own: what the node has already it would not fetch.
        let mut spec = image::busybox("tampered:1");
        spec.files.push(PackFile {
            path: "/srv/own".into(),
            mode: 0o644,
            bytes: b"no other has this".to_vec(),
        });
        let reference = lab.registry().push(&spec);
        lab.registry().corrupt_blobs(100_000);
        let instance = failed(api, &pod("tampered", &[container("main", &reference)]));
        assert_eq!(instance["reason"], "ImagePullFailed", "{instance}");
        // An honest copy under the same name works afterwards: nothing of the lie was kept.
        api.delete_instance("tampered");
        api.wait_gone("tampered");
        spec.reference = reference;
        lab.load(&spec);
        let workload = text(&api.workloads()[0]["id"]);
        api.create_instance(&workload, "honest");
        api.wait_status("honest", "Running");
    });
}

/// C-33: a registry that hangs delays nobody else.
#[test]
fn c33_hanging_pull_does_not_delay_another_instance() {
    story(|lab| {
        let api = lab.cluster();
        let silent = TcpListener::bind("127.0.0.1:0").expect("loopback has a free port");
        let address = silent.local_addr().expect("it is bound");
        // The kernel takes connections for it, and nobody ever says a word.
        let workload = api.create_workload(&pod("hangs", &[container("main", &format!("{address}/x:1"))]));
        api.create_instance(&workload, "hangs");
        wait_until(LONG, "the pull to begin", || match api.instance("hangs") {
            Some(instance) if instance["status"] == "Creating" => Ok(()),
            other => Err(format!("{other:?}")),
        });
        api.run(&sleeper("swift"));
        let still = api.instance("hangs").expect("it is still there");
        assert_ne!(still["status"], "Running", "{still}");
        api.delete_instance("hangs");
        api.wait_gone("hangs");
    });
}

/// C-34: a pull that was cut off in the middle does not count as an image.
#[test]
fn c34_interrupted_pull_is_not_taken_for_an_image() {
    story(|lab| {
        let api = lab.cluster();
        let reference = lab.registry().push(&image::busybox("cut:1"));
        let workload = api.create_workload(&pod("cut", &[container("main", &reference)]));
        api.create_instance(&workload, "cut");
        lab.kill(e2e::lab::NODE);
        lab.start_node(e2e::lab::NODE);
        api.wait_status("cut", "Running");
    });
}

#[test]
fn loaded_images_are_listed() {
    story(|lab| {
        lab.cluster();
        let table = lab.rikctl(&["image", "ls"]).good();
        assert!(table.contains("hello:1") && table.contains("busybox:1"), "{table}");
    });
}
