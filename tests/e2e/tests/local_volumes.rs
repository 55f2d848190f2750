//! Local volumes: data that is there for the next instance, where it can be found, and how it goes.

use e2e::api::text;
use e2e::lab::NODE;
use e2e::manifest::{pod, shell};
use e2e::{Lab, SHORT, story, wait_until};
use serde_json::{Value, json};

fn on_volumes(name: &str, volumes: Value, script: &str, mounts: Value) -> Value {
    let mut container = shell("main", script);
    container["volumeMounts"] = mounts;
    let mut manifest = pod(name, &[container]);
    manifest["spec"]["volumes"] = volumes;
    manifest
}

fn wait_log(lab: &Lab, instance: &str, words: &str) {
    wait_until(SHORT, "the container's words", || {
        let log = lab.rikctl(&["logs", instance]).stdout;
        if log.contains(words) { Ok(()) } else { Err(log) }
    });
}

#[test]
fn volume_outlives_its_instances_and_goes_only_by_hand() {
    story(|lab| {
        let api = lab.cluster();
        let volumes = json!([{ "name": "data", "local": { "name": "db" } }]);
        let mounts = json!([{ "name": "data", "mountPath": "/data" }]);
        let words = "busybox cat /data/rows; echo row >> /data/rows; busybox stat -c %u:%g /data/rows; busybox sleep 600";
        let mut manifest = on_volumes("db", volumes, words, mounts);
        manifest["spec"]["securityContext"] = json!({ "runAsUser": 1000, "runAsGroup": 1000 });
        let workload = api.create_workload(&manifest);
        api.create_instance(&workload, "first");
        wait_log(lab, "first", "1000:1000");
        api.delete_instance("first");
        api.wait_gone("first");
        let data = Lab::node_state(NODE).join("volumes/db/data/rows");
        assert_eq!(std::fs::read_to_string(&data).expect("it is kept"), "row\n");
        // The next instance has another range of ids, and its files all the same.
        api.create_instance(&workload, "second");
        wait_log(lab, "second", "row\n1000:1000");
        let listed = lab.rikctl(&["volume", "ls"]).stdout;
        assert!(listed.contains("NODE") && listed.contains("db") && listed.contains("second"), "{listed}");
        let refused = lab.rikctl(&["volume", "rm", "db"]);
        assert_eq!(refused.code, 1);
        assert!(refused.stderr.contains("volume \"db\" is used by second"), "{}", refused.stderr);
        let kept = lab.try_reset(NODE);
        assert!(kept.stderr.contains("db") && kept.stderr.contains("--volumes"), "{}", kept.stderr);
        api.delete_instance("second");
        api.wait_gone("second");
        let removed = lab.rikctl(&["volume", "rm", "db"]);
        assert_eq!(removed.stdout, format!("volume db removed from node {NODE}\n"));
        assert!(!data.exists());
        let absent = lab.rikctl(&["volume", "rm", "db"]);
        assert!(absent.stderr.contains("there is no volume \"db\""), "{}", absent.stderr);
        let node = &api.nodes()[0];
        assert!(node.get("volumes").is_none(), "{node}");
    });
}

#[test]
fn instance_follows_its_volume_and_waits_for_the_node_that_has_it() {
    story(|lab| {
        let api = lab.cluster_of(2);
        let volumes = json!([{ "name": "data", "local": { "name": "kept" } }]);
        let mounts = json!([{ "name": "data", "mountPath": "/data" }]);
        let manifest = on_volumes("kept", volumes, "busybox sleep 600", mounts);
        let workload = api.create_workload(&manifest);
        let ids = api.create_instances(&workload, 4);
        let places: Vec<Value> =
            ids.iter().map(|id| api.wait_status(id, "Running")["node"].clone()).collect();
        assert!(places.iter().all(|place| *place == places[0]), "{places:?}");
        let holder = text(&places[0]);
        ids.iter().for_each(|id| api.delete_instance(id));
        ids.iter().for_each(|id| api.wait_gone(id));
        lab.kill(&holder);
        api.wait_node(&holder, "Unreachable");
        api.create_instance(&workload, "later");
        wait_until(SHORT, "the reason", || {
            let waits = api.instance("later").expect("it is there");
            let why = waits["message"].as_str().unwrap_or_default().to_owned();
            let whole = why.contains("1 node: not heard from")
                && why.contains(&format!("1 node: volume \"kept\" is on node {holder}"));
            if whole { Ok(()) } else { Err(waits.to_string()) }
        });
        lab.start_node(&holder);
        assert_eq!(text(&api.wait_status("later", "Running")["node"]), holder);
    });
}

#[test]
fn part_of_a_volume_is_mounted_and_never_what_a_link_leads_to() {
    story(|lab| {
        let api = lab.cluster();
        lab.rikctl(&[
            "create",
            "config",
            "page",
            "--from-literal",
            "index=hello",
            "--from-literal",
            "other=x",
        ]);
        let volumes = json!([{ "name": "data", "local": { "name": "parts" } }, { "name": "page", "config": { "name": "page" } }]);
        let mounts = json!([
            { "name": "data", "mountPath": "/a", "subPath": "one/two" },
            { "name": "data", "mountPath": "/all" },
            { "name": "page", "mountPath": "/etc/index", "subPath": "index" },
        ]);
        let words = "echo deep > /a/file; busybox find /all; busybox cat /etc/index; busybox ls /etc; \
                     busybox ln -s /etc /all/out; busybox ln -s ../../.. /all/up; busybox ln -s one /all/in; busybox sleep 600";
        api.create_instance(
            &api.create_workload(&on_volumes("parts", volumes.clone(), words, mounts)),
            "parts",
        );
        for line in ["/all/one/two/file\n", "hello", "hosts\n"] {
            wait_log(lab, "parts", line);
        }
        wait_until(SHORT, "the links", || {
            let links = Lab::node_state(NODE).join("volumes/parts/data/in");
            std::fs::symlink_metadata(links).map(drop).map_err(|error| error.to_string())
        });
        for (name, part, good) in [
            ("out", "out/ssl", false),
            ("up", "up", false),
            ("in", "in/two/file", true),
            ("absent", "up/x", false),
        ] {
            let mounts = json!([{ "name": "data", "mountPath": "/a", "subPath": part }]);
            let manifest = on_volumes(name, volumes.clone(), "busybox cat /a; busybox sleep 600", mounts);
            api.create_instance(&api.create_workload(&manifest), name);
            if good {
                wait_log(lab, name, "deep");
            } else {
                let failed = api.wait_status(name, "Failed");
                assert_eq!(failed["reason"], "NotAllowed", "{failed}");
                assert!(text(&failed["message"]).contains("leads out of it by a link"), "{failed}");
            }
        }
        let mounts = json!([{ "name": "page", "mountPath": "/x", "subPath": "third" }]);
        api.create_instance(
            &api.create_workload(&on_volumes("third", volumes, "busybox true", mounts)),
            "third",
        );
        let failed = api.wait_status("third", "Failed");
        assert_eq!(failed["reason"], "ObjectMissing", "{failed}");
    });
}
