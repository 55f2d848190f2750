//! Several nodes: spread, a node that is lost and found, and a delete that goes to the right one.

use std::collections::BTreeMap;

use e2e::api::{pids, text};
use e2e::manifest::{container, pod, sleeper};
use e2e::{Api, LONG, probe, story, wait_until};

/// How many instances each node has.
fn spread(api: Api, ids: &[String]) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for id in ids {
        *counts.entry(text(&api.wait_status(id, "Running")["node"])).or_default() += 1;
    }
    counts
}

/// C-15, C-16, C-30: three riklets on one host, thirty instances evenly spread, each deleted where it runs.
#[test]
fn c15_thirty_instances_spread_evenly_over_three_nodes() {
    story(|lab| {
        let api = lab.cluster_of(3);
        let workload = api.create_workload(&sleeper("many"));
        let ids = api.create_instances(&workload, 30);
        let expected: BTreeMap<String, usize> = ["n1", "n2", "n3"].map(|name| (name.to_owned(), 10)).into();
        assert_eq!(spread(api, &ids), expected);
        ids.iter().for_each(|id| api.delete_instance(id));
        ids.iter().for_each(|id| api.wait_gone(id));
        assert_eq!(probe::processes("sleep 3600"), Vec::<u32>::new());
    });
}

/// C-17, C-18: a node that is killed is noticed by itself, its instances say so; back again, nothing was stopped.
#[test]
fn c17_lost_node_is_seen_and_comes_back_with_its_containers() {
    story(|lab| {
        let api = lab.cluster_of(2);
        let workload = api.create_workload(&sleeper("many"));
        let ids = api.create_instances(&workload, 6);
        spread(api, &ids);
        let on_lost: BTreeMap<String, u32> = ids
            .iter()
            .filter_map(|id| api.instance(id))
            .filter(|instance| instance["node"] == "n1")
            .map(|instance| (text(&instance["id"]), pids(&instance)[0]))
            .collect();
        assert_eq!(on_lost.len(), 3);
        lab.kill("n1");
        api.wait_node("n1", "Unreachable");
        let table = lab.rikctl(&["get", "nodes"]).good();
        assert!(table.contains("Unreachable"), "{table}");
        for id in on_lost.keys() {
            let instance = wait_until(LONG, "the instance to say so", || match api.instance(id) {
                Some(instance) if instance["reason"] == "NodeLost" => Ok(instance),
                other => Err(format!("{other:?}")),
            });
            assert!(text(&instance["message"]).contains("n1"), "{instance}");
        }
        // What is created now goes to the node that is left.
        let more = api.create_instances(&workload, 2);
        assert_eq!(spread(api, &more).into_keys().collect::<Vec<_>>(), ["n2"]);

        lab.start_node("n1");
        api.wait_node("n1", "Ready");
        for (id, pid) in &on_lost {
            let instance = wait_until(LONG, "the instance to be well again", || match api.instance(id) {
                Some(instance) if instance["status"] == "Running" && instance["reason"].is_null() => {
                    Ok(instance)
                }
                other => Err(format!("{other:?}")),
            });
            assert_eq!(pids(&instance), [*pid], "never stopped");
        }
    });
}

/// C-17: a riklet that is stopped but not dead is as lost as a dead one.
#[test]
fn c17_frozen_riklet_is_unreachable() {
    story(|lab| {
        let api = lab.cluster_of(1);
        lab.daemon("n1").signal(rustix::process::Signal::STOP);
        api.wait_node("n1", "Unreachable");
        lab.daemon("n1").signal(rustix::process::Signal::CONT);
        api.wait_node("n1", "Ready");
    });
}

#[test]
fn instance_waits_with_a_reason_until_a_node_fits() {
    story(|lab| {
        let api = lab.cluster_of(1);
        // A new node fetches what it lacks.
        let reference = lab.registry().push(&e2e::image::busybox("busybox:1"));
        let mut picky = pod("picky", &[container("main", &reference)]);
        picky["spec"]["nodeSelector"] = serde_json::json!({ "node": "n0" });
        let workload = api.create_workload(&picky);
        api.create_instance(&workload, "picky");
        let pending = wait_until(LONG, "the reason", || match api.instance("picky") {
            Some(instance) if instance["reason"] == "Unplaceable" => Ok(instance),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(pending["status"], "Pending");
        assert!(text(&pending["message"]).contains("1 node"), "{pending}");
        lab.start_node(e2e::lab::NODE);
        assert_eq!(api.wait_status("picky", "Running")["node"], "n0");
    });
}

/// C-22: what nodes measure can be read, in the documented form.
#[test]
fn c22_node_metrics_are_there_to_be_read() {
    story(|lab| {
        let api = lab.cluster_of(1);
        wait_until(LONG, "the metrics", || {
            let node = api.wait_node("n1", "Ready");
            let metrics = &node["metrics"];
            let total = metrics["memory"]["total"].as_f64().unwrap_or_default();
            let cores = metrics["cpu"]["total"].as_f64().unwrap_or_default();
            let disks = metrics["disks"].as_array().map(Vec::len).unwrap_or_default();
            if total > 0.0 && cores >= 1.0 && disks > 0 { Ok(()) } else { Err(node.to_string()) }
        });
    });
}
