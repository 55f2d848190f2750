//! Containers that end are started again, those that are unwell are ended, and the order of a pod's life is kept.

use e2e::api::{pids, text};
use e2e::lab::NODE;
use e2e::manifest::{pod, shell};
use e2e::{Api, LONG, story, wait_until};
use serde_json::{Value, json};

fn with(mut manifest: Value, field: &str, value: Value) -> Value {
    manifest["spec"][field] = value;
    manifest
}

/// Creates workload and instance, both of the manifest's name, and gives that.
fn begin(api: Api, manifest: &Value) -> String {
    api.create_instance(&api.create_workload(manifest), &text(&manifest["name"]))
}

/// Waits until the instance is as wished, and gives it.
fn wait_for(api: Api, id: &str, what: &str, wished: impl Fn(&Value) -> bool) -> Value {
    let mut found = Value::Null;
    wait_until(LONG, what, || {
        found = api.instance(id).unwrap_or(Value::Null);
        if wished(&found) { Ok(()) } else { Err(found.to_string()) }
    });
    found
}

#[test]
fn container_that_keeps_failing_is_started_again_and_the_instance_says_so() {
    story(|lab| {
        let api = lab.cluster();
        let crashing = pod("crash", &[shell("main", "echo run; busybox sleep 0.2; exit 3")]);
        let crashing = with(crashing, "restartPolicy", "OnFailure".into());
        let id =
            begin(api, &with(crashing, "restartBackoff", json!({ "initialSeconds": 1, "maxSeconds": 2 })));
        let seen = wait_for(api, &id, "a crash loop", |one| {
            one["reason"] == "CrashLoop" && one["restarts"].as_u64() >= Some(2)
        });
        assert_eq!(seen["status"], "Running", "the instance stays: {seen}");
        assert!(text(&seen["message"]).contains("ended with exit code 3, for the"), "{seen}");
        let container = &seen["containers"][0];
        assert_eq!(container["lastRun"]["exitCode"], 3, "{seen}");
        assert_eq!(container["ready"], false, "{seen}");
        assert_eq!(lab.rikctl(&["logs", "crash"]).stdout, "run\n", "each run has a log of its own");
        let sheet = lab.rikctl(&["describe", "instance", "crash"]).stdout;
        assert!(sheet.contains("CrashLoop") && sheet.contains("Restarts"), "{sheet}");
    });
}

#[test]
fn container_that_has_done_its_work_is_not_started_again_on_failure_alone() {
    story(|lab| {
        let api = lab.cluster();
        let done = with(pod("done", &[shell("main", "exit 0")]), "restartPolicy", "OnFailure".into());
        let ended = api.wait_status(&begin(api, &done), "Terminated");
        assert_eq!((&ended["exitCode"], &ended["restarts"]), (&json!(0), &json!(0)), "{ended}");
        let always = with(pod("again", &[shell("main", "exit 0")]), "restartPolicy", "Always".into());
        let id = begin(api, &always);
        wait_for(api, &id, "a new start after a good end", |one| one["restarts"].as_u64() >= Some(1));
    });
}

#[test]
fn riklet_that_was_killed_goes_on_with_the_starts_and_counts_on() {
    story(|lab| {
        let api = lab.cluster();
        let once = pod("loop", &[shell("main", "busybox sleep 1; exit 1")]);
        let id = begin(api, &with(once, "restartPolicy", "Always".into()));
        let before = wait_for(api, &id, "the first new start", |one| one["restarts"].as_u64() >= Some(1));
        lab.kill(NODE);
        lab.start_node(NODE);
        let restarts = before["restarts"].as_u64();
        wait_for(api, &id, "a start by the next riklet", |one| one["restarts"].as_u64() > restarts);
    });
}

#[test]
fn init_containers_run_first_and_each_to_its_end() {
    story(|lab| {
        let api = lab.cluster();
        let main = shell("main", "echo main; busybox sleep 600");
        let slow = shell("slow", "busybox sleep 1; echo prepared");
        let waiting = with(pod("ordered", std::slice::from_ref(&main)), "initContainers", json!([slow]));
        let id = begin(api, &waiting);
        let seen = wait_for(api, &id, "the init container at work", |one| {
            text(&one["message"]).contains("init container \"slow\" (1 of 1) is at work")
        });
        assert_eq!(seen["status"], "Creating", "{seen}");
        let running = api.wait_status(&id, "Running");
        assert_eq!(running["containers"][0]["init"], true, "{running}");
        assert_eq!(running["containers"][0]["exitCode"], 0, "{running}");
        assert!(running["containers"][1]["pid"].is_u64(), "{running}");
        let failing = shell("broken", "exit 4");
        let broken = with(pod("broken", &[main]), "initContainers", json!([failing]));
        let ended = api.wait_status(&begin(api, &broken), "Failed");
        assert!(text(&ended["message"]).contains("container \"broken\" ended with exit code 4"), "{ended}");
    });
}

#[test]
fn readiness_is_shown_and_ends_nothing() {
    story(|lab| {
        let api = lab.cluster();
        let mut main = shell("main", "busybox sleep 1; busybox httpd -f -p 8080 -h /srv");
        main["readinessProbe"] = json!({ "httpGet": { "port": 8080, "path": "/motd" }, "periodSeconds": 1, "failureThreshold": 1 });
        let id = begin(api, &pod("web", &[main]));
        let running = api.wait_status(&id, "Running");
        assert_eq!(running["ready"], false, "{running}");
        let ready = wait_for(api, &id, "readiness", |one| one["ready"] == true);
        assert_eq!(ready["restarts"], 0, "{ready}");
        assert_eq!(pids(&ready), pids(&running), "nothing was ended");
    });
}

#[test]
fn container_that_is_unwell_is_ended_and_started_again() {
    story(|lab| {
        let api = lab.cluster();
        let mut main =
            shell("main", "busybox timeout 3 busybox nc -lk -p 7000 -e busybox true; busybox sleep 600");
        main["livenessProbe"] = json!({ "tcpSocket": { "port": 7000 }, "periodSeconds": 1, "failureThreshold": 2,
            "initialDelaySeconds": 1 });
        let mut unwell = with(pod("unwell", &[main]), "restartPolicy", "Always".into());
        unwell["spec"]["terminationGracePeriodSeconds"] = 1.into();
        let id = begin(api, &unwell);
        let again = wait_for(api, &id, "a new start", |one| one["restarts"].as_u64() >= Some(1));
        let last = &again["containers"][0]["lastRun"];
        assert_eq!(last["reason"], "Unhealthy", "{again}");
        assert!(text(&last["message"]).contains("its liveness probe failed 2 times: port 7000"), "{again}");
    });
}

#[test]
fn container_that_never_comes_up_is_ended_by_its_startup_probe() {
    story(|lab| {
        let api = lab.cluster();
        let mut main = shell("main", "busybox sleep 600");
        main["startupProbe"] = json!({ "httpGet": { "port": 1 }, "periodSeconds": 1, "failureThreshold": 2 });
        main["readinessProbe"] = json!({ "tcpSocket": { "port": 2 } });
        let mut never = pod("never", &[main]);
        never["spec"]["terminationGracePeriodSeconds"] = 0.into();
        let ended = api.wait_status(&begin(api, &never), "Failed");
        assert_eq!(ended["reason"], "Unhealthy", "{ended}");
        assert!(text(&ended["message"]).contains("startup probe failed 2 times"), "{ended}");
    });
}

#[test]
fn sidecar_is_up_before_the_others_and_ends_with_them() {
    story(|lab| {
        let api = lab.cluster();
        let mut sidecar = shell("proxy", "trap 'exit 0' TERM; while true; do busybox sleep 0.1; done");
        sidecar["restartPolicy"] = "Always".into();
        let job = shell("job", "busybox sleep 1; exit 0");
        let ended = api.wait_status(
            &begin(api, &with(pod("job", &[job]), "initContainers", json!([sidecar]))),
            "Terminated",
        );
        assert_eq!(ended["exitCode"], 0, "the sidecar's end is not the pod's: {ended}");
    });
}

#[test]
fn command_inside_tells_whether_a_container_can_serve() {
    story(|lab| {
        let api = lab.cluster();
        let mut main = shell("main", "busybox sleep 1; echo up > /srv/up; busybox sleep 600");
        let question = json!(["/bin/busybox", "cat", "/srv/up"]);
        main["readinessProbe"] = json!({ "exec": { "command": question }, "periodSeconds": 1 });
        main["livenessProbe"] =
            json!({ "exec": { "command": ["/bin/busybox", "true"] }, "periodSeconds": 1 });
        let id = begin(api, &pod("asked", &[main]));
        assert_eq!(api.wait_status(&id, "Running")["ready"], false);
        wait_for(api, &id, "readiness", |one| one["ready"] == true);
        assert_eq!(lab.rikctl(&["logs", "asked"]).stdout, "", "its answers are no words of the container");
    });
}

#[test]
fn hook_runs_before_its_container_is_asked_to_end() {
    story(|lab| {
        let api = lab.cluster();
        let mut main =
            shell("main", "trap 'echo asked; exit 0' TERM; while true; do busybox sleep 0.1; done");
        let hook = json!(["/bin/busybox", "sh", "-c", "echo hook > /proc/1/fd/1; busybox sleep 0.3"]);
        main["lifecycle"] = json!({ "preStop": { "exec": { "command": hook } } });
        let mut failing = shell("other", "exit 1");
        failing["args"] = json!(["busybox sleep 1; exit 1"]);
        let id = begin(api, &pod("polite", &[main, failing]));
        // The failure of one ends the other, and its log stays to be read.
        api.wait_status(&id, "Failed");
        let log = lab.rikctl(&["logs", "polite", "-c", "main"]).stdout;
        assert_eq!(log, "hook\nasked\n");
    });
}
