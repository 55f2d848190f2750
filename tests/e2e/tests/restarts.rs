//! Any process may be killed at any instant: containers run on, and everybody knows the truth again soon after.

use std::collections::BTreeMap;

use e2e::api::{pids, text};
use e2e::lab::NODE;
use e2e::ledger::Ledger;
use e2e::manifest::{script, sleeper, web};
use e2e::{Api, LONG, Lab, SHORT, probe, story, wait_until};
use rustix::process::{Pid, Signal, kill_process};

/// How many containers run through every restart.
const COUNT: u32 = 10;

/// The running instances: id, and the identity of its process (pid and time of start).
type Running = BTreeMap<String, (u32, Option<u64>)>;

fn running(api: Api) -> Running {
    let ids: Vec<String> = api.instances().iter().map(|instance| text(&instance["id"])).collect();
    ids.into_iter()
        .map(|id| {
            let pid = pids(&api.wait_status(&id, "Running"))[0];
            (id, (pid, probe::started(pid)))
        })
        .collect()
}

fn ten_containers(lab: &mut Lab) -> (Api, Running) {
    let api = lab.cluster();
    let workload = api.create_workload(&sleeper("ten"));
    assert_eq!(api.create_instances(&workload, COUNT).len(), COUNT as usize);
    let running = running(api);
    assert_eq!(running.len(), COUNT as usize);
    (api, running)
}

/// After a restart: the same processes as before, the right statuses, and new work is done.
fn assert_unharmed(api: Api, before: &Running, newcomer: &str) {
    api.wait_up();
    api.wait_node(NODE, "Ready");
    assert_eq!(&running(api), before, "the same containers, never stopped");
    for (pid, started) in before.values() {
        assert_eq!(probe::started(*pid), *started);
    }
    let workload = text(&api.workloads()[0]["id"]);
    api.create_instance(&workload, newcomer);
    api.wait_status(newcomer, "Running");
    api.delete_instance(newcomer);
    api.wait_gone(newcomer);
}

/// C-29: a riklet killed with -9 starts again by itself, with what it left.
#[test]
fn c29_riklet_killed_keeps_its_containers() {
    story(|lab| {
        let (api, before) = ten_containers(lab);
        lab.kill(NODE);
        lab.start_node(NODE);
        assert_unharmed(api, &before, "newcomer");
    });
}

/// An upgrade of a node: the shim becomes the new program, and no container notices.
#[test]
fn riklet_of_another_build_takes_the_shim_along() {
    story(|lab| {
        let (api, before) = ten_containers(lab);
        let (id, (pid, _)) = before.iter().next().expect("there are ten");
        let shim: u32 = probe::status(*pid, "PPid").parse().expect("a number");
        let program = |pid: u32| std::fs::read_link(format!("/proc/{pid}/exe")).expect("the process exists");
        assert_eq!(program(shim), e2e::programs::built("riklet"));
        lab.kill(NODE);
        let newer = Lab::root().join("riklet-of-another-build");
        std::fs::copy(e2e::programs::built("riklet"), &newer).expect("there is room");
        lab.start_node_as(NODE, &newer);
        assert_unharmed(api, &before, "newcomer");
        assert_eq!(program(shim), newer, "the same process, another program");
        // Each is the shim's child still: so the code is the kernel's word.
        let pid = Pid::from_raw(pid.cast_signed()).expect("a number of a process");
        kill_process(pid, Signal::KILL).expect("the process runs");
        let ended = api.wait_status(id, "Failed");
        assert_eq!(ended["exitCode"], 137, "{ended}");
    });
}

/// C-04: a scheduler that starts again hears of everything, and is heard.
#[test]
fn c04_scheduler_killed_keeps_everything() {
    story(|lab| {
        let (api, before) = ten_containers(lab);
        lab.kill("scheduler");
        lab.start_scheduler();
        assert_unharmed(api, &before, "newcomer");
    });
}

/// C-19: no part forgets what runs; after all restarts each instance can still be deleted.
#[test]
fn c19_controller_killed_keeps_everything() {
    story(|lab| {
        let (api, before) = ten_containers(lab);
        lab.kill("controller");
        lab.start_controller();
        assert_unharmed(api, &before, "newcomer");
        api.delete_everything();
        for (pid, _) in before.values() {
            assert!(!probe::is_alive(*pid), "deleted, and still running");
        }
    });
}

#[test]
fn everything_killed_at_once_comes_back_as_it_was() {
    story(|lab| {
        let (api, before) = ten_containers(lab);
        for name in ["controller", "scheduler", NODE] {
            lab.kill(name);
        }
        // The other way round than usual: who starts first waits.
        lab.start_node(NODE);
        lab.start_controller();
        lab.start_scheduler();
        assert_unharmed(api, &before, "newcomer");
    });
}

/// C-32: a riklet that is asked to end leaves its containers running, and knows them afterwards.
#[test]
fn c32_riklet_stopped_and_started_knows_its_containers() {
    story(|lab| {
        let (api, before) = ten_containers(lab);
        assert_eq!(lab.stop(NODE).code(), Some(0));
        for (pid, _) in before.values() {
            assert!(probe::is_alive(*pid));
        }
        lab.start_node(NODE);
        assert_unharmed(api, &before, "newcomer");
    });
}

#[test]
fn exit_while_the_riklet_is_away_is_known_afterwards() {
    story(|lab| {
        let api = lab.cluster();
        let gate = "while ! busybox test -e /tmp/go; do busybox usleep 50000; done; exit 7";
        let pid = pids(&api.run(&script("ends", gate)))[0];
        lab.kill(NODE);
        let go = format!("/proc/{pid}/root/tmp");
        std::fs::create_dir_all(&go).expect("the container's files can be reached");
        std::fs::write(format!("{go}/go"), "").expect("the container's files can be written");
        wait_until(
            SHORT,
            "the container to end",
            || if probe::is_alive(pid) { Err("alive") } else { Ok(()) },
        );
        lab.start_node(NODE);
        let ended = wait_until(LONG, "the end to be known", || match api.instance("ends") {
            Some(instance) if instance["status"] == "Failed" => Ok(instance),
            other => Err(format!("{other:?}")),
        });
        assert_eq!(ended["exitCode"], 7, "{ended}");
    });
}

/// C-16: a delete reaches the node that runs the instance, also when that node was away at the time.
#[test]
fn c16_delete_while_the_node_is_away_is_done_when_it_is_back() {
    story(|lab| {
        let api = lab.cluster();
        let pid = pids(&api.run(&web("shop", 30080)))[0];
        lab.kill(NODE);
        api.delete_instance("shop");
        let waiting = api.instance("shop").expect("it is there until the node has said that it is gone");
        assert_eq!(waiting["status"], "Destroying");
        lab.start_node(NODE);
        api.wait_gone("shop");
        assert!(!probe::is_alive(pid));
    });
}

/// C-01: a deleted workload takes its instances along, also when the controller is killed right after its answer.
#[test]
fn c01_workload_with_instances_can_be_deleted_safely() {
    story(|lab| {
        let api = lab.cluster();
        api.run(&sleeper("other"));
        let other = text(&api.workloads()[0]["id"]);
        let before = Ledger::of_lab();
        let workload = api.create_workload(&sleeper("ten"));
        let ids = api.create_instances(&workload, COUNT);
        let pids: Vec<u32> = ids.iter().map(|id| pids(&api.wait_status(id, "Running"))[0]).collect();
        api.delete_workload(&workload);
        lab.kill("controller");
        lab.start_controller();
        api.wait_up();
        let left: Vec<String> = api.workloads().iter().map(|workload| text(&workload["id"])).collect();
        assert_eq!(left, [other], "the row of the workload is gone, and no other");
        for id in &ids {
            let instance = api.instance(id).map(|instance| text(&instance["status"]));
            assert!(instance.as_deref().is_none_or(|status| status == "Destroying"), "{id} is {instance:?}");
        }
        ids.iter().for_each(|id| api.wait_gone(id));
        for pid in pids {
            assert!(!probe::is_alive(pid), "the row is gone, the container is not");
        }
        api.wait_status("other", "Running");
        before.assert_restored();
    });
}
