//! What is the node's own goes to pods only by the word of the node's operator.

use e2e::api::text;
use e2e::lab::{NODE, configuration};
use e2e::manifest::{container, pod, web};
use e2e::{SHORT, story, wait_until};
use serde_json::json;

#[test]
fn what_is_the_nodes_is_refused_until_its_operator_allows_it() {
    story(|lab| {
        let api = lab.cluster();
        let mut asking = vec![];
        for field in ["hostNetwork", "hostPID", "hostIPC"] {
            let mut manifest = pod(&field.to_lowercase(), &[container("main", "busybox:1")]);
            manifest["spec"][field] = json!(true);
            asking.push((field, manifest));
        }
        let mut own = container("main", "busybox:1");
        own["securityContext"] = json!({ "privileged": true });
        asking.push(("privileged", pod("privileged", &[own])));
        for (field, manifest) in &asking {
            let id = api.create_instance(&api.create_workload(manifest), &text(&manifest["name"]));
            let failed = api.wait_status(&id, "Failed");
            assert_eq!(failed["reason"], "NotAllowed", "{failed}");
            let message = text(&failed["message"]);
            assert!(message.contains(field) && message.contains("riklet --allow-privileged"), "{failed}");
        }
        api.delete_everything();
        lab.stop(NODE);
        std::fs::write(configuration(NODE), "allow_privileged = true\n").expect("a file");
        lab.start_node(NODE);
        api.wait_node(NODE, "Ready");
        for (_, manifest) in &asking {
            api.run(manifest);
        }
    });
}

#[test]
fn pod_in_the_network_of_its_node_answers_there_and_passes_its_probe() {
    story(|lab| {
        std::fs::write(configuration(NODE), "allow_privileged = true\n").expect("a file");
        let api = lab.cluster();
        let mut manifest = web("page", 8080);
        manifest["spec"]["hostNetwork"] = json!(true);
        manifest["spec"]["containers"][0]["readinessProbe"] =
            json!({ "httpGet": { "path": "/motd", "port": 8080 }, "periodSeconds": 1 });
        manifest["spec"]["containers"][0]["ports"] = json!([{ "port": 8080 }]);
        let id = text(&api.run(&manifest)["id"]);
        wait_until(SHORT, "its probe", || {
            let found = api.instance(&id).unwrap_or_default();
            if found["containers"][0]["ready"] == true { Ok(()) } else { Err(found.to_string()) }
        });
        let page = lab.page("http://127.0.0.1:8080/");
        assert!(page.contains("RIK"), "{page}");
        let said = lab.rikctl(&["get", "instances"]).good();
        assert!(said.contains("page"), "{said}");
        let said = lab.rikctl(&["describe", "instance", "page"]).good();
        assert!(said.contains("8080"), "{said}");
        manifest["spec"]["containers"][0]["ports"] = json!([{ "port": 80, "targetPort": 8080 }]);
        let refused = api.send("POST", "/api/v1/workloads", &manifest.to_string());
        assert!(refused.status == 400 && refused.body.contains("the node's ports are"), "{refused:?}");
    });
}
