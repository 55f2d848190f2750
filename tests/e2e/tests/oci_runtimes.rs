//! Containers that another program makes, by the word of the node's operator.

use e2e::api::text;
use e2e::lab::{Lab, NODE, configuration};
use e2e::manifest::{container, pod, shell, web};
use e2e::{LONG, story, wait_until};
use serde_json::json;

#[test]
fn node_whose_containers_runc_makes_is_used_as_any_other() {
    story(|lab| {
        std::fs::write(configuration(NODE), "oci_runtime = [\"runc\"]\n").expect("a file");
        let api = lab.cluster();
        let sheet = lab.rikctl(&["describe", "node", NODE]).good();
        assert!(sheet.contains("runc version") && sheet.contains(", rik"), "{sheet}");
        let made_by_runc = |uid: &str| {
            let state = Lab::node_state(NODE).join("run").join(uid).join("oci/0/state.json");
            std::fs::read_to_string(state).is_ok_and(|text| text.contains("init_process_start"))
        };
        let page = api.run(&web("page", 8080));
        assert!(made_by_runc(&text(&page["uid"])), "{page}");
        assert!(lab.page("http://127.0.0.1:8080/").contains("RIK"));
        let words = "until busybox test -e /srv/end; do busybox sleep 0.1; done; exit 7";
        let mut own = shell("main", words);
        (own["stdin"], own["tty"]) = (json!(true), json!(true));
        let mut manifest = pod("talk", &[own]);
        manifest["spec"]["restartPolicy"] = json!("Always");
        let uid = text(&api.run(&manifest)["uid"]);
        assert!(made_by_runc(&uid));
        let said = lab.rikctl(&["exec", "talk", "--", "/bin/busybox", "sh", "-c", "busybox tty; exit 3"]);
        assert_eq!(said.code, 3, "{said:?}");
        let file = Lab::root().join("note");
        std::fs::write(&file, "a note\n").expect("there is room");
        assert_eq!(lab.rikctl(&["cp", file.to_str().expect("words"), "talk:/srv/note"]).good(), "");
        assert_eq!(
            lab.rikctl(&["exec", "talk", "--", "/bin/busybox", "cat", "/srv/note"]).good(),
            "a note\n"
        );
        // When it has ended it is begun again, by the same runtime and with fresh files.
        let touch = lab.rikctl(&["exec", "talk", "--", "/bin/busybox", "touch", "/srv/end"]);
        assert_eq!(touch.good(), "");
        wait_until(LONG, "another start", || match api.instance("talk").unwrap_or_default() {
            one if one["restarts"] == 1 && one["containers"][0]["phase"] == "Running" => Ok(()),
            one => Err(one.to_string()),
        });
        assert!(made_by_runc(&uid));
        assert_ne!(lab.rikctl(&["exec", "talk", "--", "/bin/busybox", "cat", "/srv/note"]).code, 0);
    });
}

#[test]
fn pod_chooses_among_the_runtimes_that_its_node_has() {
    story(|lab| {
        std::fs::write(configuration(NODE), "oci_runtime = [\"rik\", \"runc\"]\n").expect("a file");
        let api = lab.cluster();
        let asking = |name: &str, class: &str| {
            let mut manifest = pod(name, &[container("main", "busybox:1")]);
            manifest["spec"]["runtimeClassName"] = json!(class);
            manifest
        };
        let state = |uid: &str| {
            let state = Lab::node_state(NODE).join("run").join(uid).join("oci/0/state.json");
            std::fs::read_to_string(state).unwrap_or_default()
        };
        for (name, class) in [("usual", ""), ("own", "rik"), ("other", "runc")] {
            let mut manifest = asking(name, class);
            if class.is_empty() {
                manifest["spec"].as_object_mut().expect("an object").remove("runtimeClassName");
            }
            let uid = text(&api.run(&manifest)["uid"]);
            assert_eq!(state(&uid).contains("init_process_start"), class == "runc", "{name}");
        }
        let id = api.create_instance(&api.create_workload(&asking("none", "kata")), "none");
        let failed = api.wait_status(&id, "Failed");
        assert_eq!(failed["reason"], "NotAllowed", "{failed}");
        assert!(
            text(&failed["message"]).contains("rik, runc and not \"kata\" (riklet --oci-runtime)"),
            "{failed}"
        );
    });
}
