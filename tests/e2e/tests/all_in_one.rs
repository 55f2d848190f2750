//! `rik up`: every part in one program, with one node or several.

use std::collections::BTreeMap;
use std::process::Command;

use e2e::api::{pids, text};
use e2e::manifest::{sleeper, web};
use e2e::{Api, LONG, Lab, image, programs, rikctl, story, wait_until};

fn up(lab: &mut Lab, more: &[&str]) -> Api {
    let mut command = Command::new(programs::built("rik"));
    command.args(["up", "--port", "5000"]).arg("--data-dir").arg(Lab::state().join("rik")).args(more);
    lab.start("rik", command.current_dir(Lab::root()));
    let api = lab.api();
    api.wait_up();
    api
}

fn down(lab: &mut Lab) {
    lab.api().delete_everything();
    assert_eq!(lab.stop("rik").code(), Some(0));
    let mut command = Command::new(programs::built("rik"));
    let said = rikctl::say(command.arg("down").arg("--data-dir").arg(Lab::state().join("rik")));
    assert_eq!(said.code, 0, "{said:?}");
}

fn wait_ready(api: Api, count: usize) {
    wait_until(LONG, &format!("{count} nodes to be ready"), || {
        let nodes = api.nodes();
        let ready = nodes.iter().filter(|node| node["status"] == "Ready").count();
        if ready == count { Ok(()) } else { Err(serde_json::Value::from(nodes).to_string()) }
    });
}

#[test]
fn rik_up_runs_a_workload_and_rik_down_leaves_nothing() {
    story(|lab| {
        let api = up(lab, &[]);
        wait_ready(api, 1);
        lab.load(&image::hello("hello:1"));
        api.run(&web("shop", 30080));
        assert!(lab.page("http://127.0.0.1:30080/").contains("RIK runs your container"));
        down(lab);
    });
}

#[test]
fn rik_up_with_three_nodes_spreads_thirty_instances() {
    story(|lab| {
        let api = up(lab, &["--nodes", "3"]);
        wait_ready(api, 3);
        lab.load(&image::busybox("busybox:1"));
        let workload = api.create_workload(&sleeper("many"));
        let mut counts: BTreeMap<String, usize> = BTreeMap::new();
        for id in api.create_instances(&workload, 30) {
            *counts.entry(text(&api.wait_status(&id, "Running")["node"])).or_default() += 1;
        }
        assert_eq!(counts.values().copied().collect::<Vec<_>>(), [10, 10, 10], "{counts:?}");
        down(lab);
    });
}

#[test]
fn rik_up_that_was_killed_takes_its_nodes_along_and_their_containers_go_on() {
    story(|lab| {
        let api = up(lab, &["--nodes", "2"]);
        wait_ready(api, 2);
        lab.load(&image::busybox("busybox:1"));
        let workload = api.create_workload(&sleeper("steady"));
        let process = |id: &String| pids(&api.wait_status(id, "Running"))[0];
        let ids = api.create_instances(&workload, 2);
        let before: Vec<u32> = ids.iter().map(process).collect();
        lab.kill("rik");
        let api = up(lab, &["--nodes", "2"]);
        wait_ready(api, 2);
        assert_eq!(ids.iter().map(process).collect::<Vec<_>>(), before, "the same containers");
        // The new nodes serve them: they end what they are told to end, and begin new ones.
        api.run(&sleeper("newcomer"));
        down(lab);
    });
}
