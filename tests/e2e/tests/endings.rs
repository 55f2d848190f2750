//! How instances end: by themselves, by a signal, by a limit, by request; and what is left of them.

use e2e::api::{pids, text};
use e2e::ledger::Ledger;
use e2e::manifest::{container, pod, script, shell, sleeper};
use e2e::{Api, LONG, SHORT, probe, story, wait_until};
use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

fn wait_end(api: Api, id: &str) -> Value {
    wait_until(LONG, &format!("{id} to end"), || match api.instance(id) {
        Some(instance) if instance["status"] == "Failed" || instance["status"] == "Terminated" => {
            Ok(instance)
        }
        other => Err(format!("{other:?}")),
    })
}

fn start(api: Api, manifest: &Value) -> Value {
    let name = text(&manifest["name"]);
    let workload = api.create_workload(manifest);
    api.create_instance(&workload, &name);
    wait_end(api, &name)
}

/// C-24: an exit is noticed at once; code, signal and lack of memory are told apart.
#[test]
fn c24_exit_code_signal_and_lack_of_memory_are_told_apart() {
    story(|lab| {
        let api = lab.cluster();
        let ended = start(api, &script("good", "exit 0"));
        assert_eq!((&ended["status"], &ended["exitCode"]), (&json!("Terminated"), &json!(0)), "{ended}");

        let ended = start(api, &script("three", "exit 3"));
        assert_eq!((&ended["status"], &ended["exitCode"]), (&json!("Failed"), &json!(3)), "{ended}");
        assert_eq!(ended["reason"], "NonZeroExit", "{ended}");

        // The first process of a container gets no signal that it does not handle, but for this one from outside.
        kill(pids(&api.run(&sleeper("killed")))[0], Signal::KILL);
        let ended = wait_end(api, "killed");
        assert_eq!((&ended["status"], &ended["exitCode"]), (&json!("Failed"), &json!(137)), "{ended}");
        assert_eq!(ended["reason"], "Signaled", "{ended}");
        assert_eq!(ended["containers"][0]["signal"], 9, "{ended}");

        let mut hungry = shell("main", "busybox tail /dev/zero");
        hungry["resources"] = json!({ "limits": { "memory": "24Mi" } });
        let ended = start(api, &pod("hungry", &[hungry]));
        assert_eq!(ended["status"], "Failed", "{ended}");
        assert_eq!(ended["reason"], "OutOfMemory", "{ended}");
        for id in ["good", "three", "killed", "hungry"] {
            assert!(api.instance(id).is_some(), "{id} is kept until it is deleted");
        }
    });
}

#[test]
fn command_that_does_not_exist_is_named() {
    story(|lab| {
        let api = lab.cluster();
        let mut wrong = container("main", "busybox:1");
        wrong["command"] = json!(["/bin/no-such-program"]);
        let ended = start(api, &pod("wrong", &[wrong]));
        assert_eq!(
            (&ended["status"], &ended["reason"]),
            (&json!("Failed"), &json!("StartFailed")),
            "{ended}"
        );
        assert!(text(&ended["message"]).contains("no-such-program"), "{ended}");
    });
}

/// C-37: when one container of a pod fails, the others do not stay behind.
#[test]
fn c37_failure_of_one_container_ends_its_pod() {
    story(|lab| {
        let api = lab.cluster();
        let failing = shell("bad", "busybox sleep 1; exit 9");
        let ended = start(api, &pod("pair", &[shell("good", "exec busybox sleep 4321"), failing]));
        assert_eq!((&ended["status"], &ended["exitCode"]), (&json!("Failed"), &json!(9)), "{ended}");
        wait_until(SHORT, "the other container to end", || match probe::processes("sleep 4321") {
            pids if pids.is_empty() => Ok(()),
            pids => Err(format!("{pids:?}")),
        });
    });
}

/// C-23: a deleted pod leaves no container, and nothing else on the host.
#[test]
fn c23_deleted_pod_leaves_nothing() {
    story(|lab| {
        let api = lab.cluster();
        // The first pod of a node makes what all share: its bridge, its part of the firewall.
        api.run(&e2e::manifest::web("first", 30081));
        let before = Ledger::of_lab();
        let running = api.run(&e2e::manifest::web("second", 30082));
        let pid = pids(&running)[0];
        let _ = lab.page("http://127.0.0.1:30082/");
        api.delete_instance("second");
        api.wait_gone("second");
        assert!(!probe::is_alive(pid), "the row is gone, the container is not");
        before.assert_restored();
        assert!(lab.page("http://127.0.0.1:30081/").contains("RIK"), "the first pod is untouched");
    });
}

/// C-27: a failed instance can be deleted.
#[test]
fn c27_failed_instance_can_be_deleted() {
    story(|lab| {
        let api = lab.cluster();
        api.run(&sleeper("stays"));
        let before = Ledger::of_lab();
        start(api, &script("fails", "exit 1"));
        api.delete_instance("fails");
        api.wait_gone("fails");
        before.assert_restored();
    });
}

#[test]
fn container_that_ignores_the_request_is_ended_by_force() {
    story(|lab| {
        let api = lab.cluster();
        let mut deaf = script("deaf", "trap '' TERM; while true; do busybox sleep 1; done");
        deaf["spec"]["terminationGracePeriodSeconds"] = 1.into();
        let pid = pids(&api.run(&deaf))[0];
        api.delete_instance("deaf");
        api.wait_gone("deaf");
        assert!(!probe::is_alive(pid));
    });
}

#[test]
fn logs_of_an_ended_container_can_be_read() {
    story(|lab| {
        let api = lab.cluster();
        start(api, &script("last-words", "echo out; echo err >&2; exit 1"));
        let log = lab.rikctl(&["logs", "last-words"]).good();
        assert!(log.contains("out") && log.contains("err"), "{log}");
    });
}

fn kill(pid: u32, signal: Signal) {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).expect("a process id");
    kill_process(pid, signal).expect("the process runs");
}
