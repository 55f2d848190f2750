//! Configs and secrets: what instances are given as variables and files, and what nobody else ever sees.

use std::{fs, os::unix::fs::MetadataExt, path::Path};

use e2e::api::{pids, text};
use e2e::lab::NODE;
use e2e::manifest::{pod, shell};
use e2e::{Lab, SHORT, story, wait_until};
use serde_json::{Value, json};

/// A value that is nowhere but where it has to be.
const CANARY: &str = "canary-5f1e0c77-of-the-secret";

fn environment(pid: u32) -> Vec<String> {
    let bytes = fs::read(format!("/proc/{pid}/environ")).expect("the container runs");
    bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
}

fn make_objects(lab: &Lab) {
    let file = Lab::state().join("motd");
    fs::write(&file, "hello\nworld\n").expect("a file");
    let from_file = format!("motd={}", file.display());
    let config = ["create", "config", "app", "--from-literal", "MODE=fast", "--from-file", &from_file];
    assert_eq!(lab.rikctl(&config).good(), "config/app created\n");
    let password = format!("password={CANARY}");
    let secret = ["create", "secret", "db", "--from-literal", &password, "--from-literal", "user=admin"];
    assert_eq!(lab.rikctl(&secret).good(), "secret/db created\n");
}

fn using(name: &str) -> Value {
    let mut container = shell("main", "busybox sleep 600");
    container["env"] = json!([
        { "name": "PLAIN", "value": "own" },
        { "name": "PASSWORD", "valueFrom": { "secretKeyRef": { "name": "db", "key": "password" } } },
        { "name": "MODE", "valueFrom": { "configMapKeyRef": { "name": "app", "key": "MODE" } } },
        { "name": "NONE", "valueFrom": { "configKeyRef": { "name": "absent", "key": "x", "optional": true } } },
    ]);
    container["envFrom"] = json!([{ "prefix": "DB_", "secretRef": { "name": "db" } }]);
    container["volumeMounts"] =
        json!([{ "name": "keys", "mountPath": "/keys" }, { "name": "etc", "mountPath": "/etc/app" }]);
    let mut manifest = pod(name, &[container]);
    manifest["spec"]["volumes"] = json!([
        { "name": "keys", "secret": { "name": "db" } },
        { "name": "etc", "config": { "name": "app", "items": [{ "key": "motd", "path": "text/motd" }] } },
    ]);
    manifest
}

/// Every file below `directory` that is on the disk and holds the canary. Mounts are left out.
fn leaks(directory: &Path) -> Vec<String> {
    let mut found = Vec::new();
    let device = fs::metadata(directory).expect("a directory").dev();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs::read_dir(&next).into_iter().flatten().flatten() {
            let path = entry.path();
            let Ok(kind) = fs::symlink_metadata(&path) else { continue };
            if kind.dev() != device || kind.is_symlink() {
                continue;
            }
            if kind.is_dir() {
                waiting.push(path);
            } else if kind.is_file() {
                let bytes = fs::read(&path).unwrap_or_default();
                if bytes.windows(CANARY.len()).any(|part| part == CANARY.as_bytes()) {
                    found.push(path.display().to_string());
                }
            }
        }
    }
    found
}

#[test]
fn containers_are_given_configs_and_secrets_as_variables_and_files() {
    story(|lab| {
        let api = lab.cluster();
        make_objects(lab);
        let pid = pids(&api.run(&using("given")))[0];
        let variables = environment(pid);
        let password = format!("PASSWORD={CANARY}");
        let from = format!("DB_password={CANARY}");
        for wanted in ["PLAIN=own", &password, "MODE=fast", &from, "DB_user=admin"] {
            assert!(variables.iter().any(|variable| variable == wanted), "{wanted}: {variables:?}");
        }
        assert!(!variables.iter().any(|variable| variable.starts_with("NONE=")), "{variables:?}");
        let inside = |path: &str| format!("/proc/{pid}/root{path}");
        assert_eq!(fs::read_to_string(inside("/keys/password")).expect("a file"), CANARY);
        assert_eq!(fs::read_to_string(inside("/etc/app/text/motd")).expect("a file"), "hello\nworld\n");
        assert_eq!(fs::metadata(inside("/keys/password")).expect("a file").mode() & 0o7777, 0o400);
        let mounts = fs::read_to_string(format!("/proc/{pid}/mounts")).expect("it runs");
        for place in [" /keys ", " /etc/app "] {
            let own = mounts.lines().find(|line| line.contains(place)).expect("it is mounted");
            let safe = ["tmpfs", "ro,", "nosuid", "nodev"].iter().all(|word| own.contains(word));
            assert!(safe, "{own}");
        }
        assert_eq!(leaks(&Lab::state()), Vec::<String>::new(), "the secret is on no disk and in no log");
        api.delete_instance("given");
        api.wait_gone("given");
        assert_eq!(Lab::left_of_pods(NODE), Vec::<std::path::PathBuf>::new());
    });
}

#[test]
fn container_that_starts_anew_is_given_the_same_also_after_its_riklet() {
    story(|lab| {
        let api = lab.cluster();
        make_objects(lab);
        let mut manifest = using("again");
        manifest["spec"]["restartPolicy"] = "Always".into();
        let first = pids(&api.run(&manifest))[0];
        lab.kill(NODE);
        lab.start_node(NODE);
        api.wait_node(NODE, "Ready");
        kill(first);
        wait_until(SHORT, "the container's next run", || {
            let instance = api.instance("again").ok_or("it is gone")?;
            let restarted = instance["restarts"] == 1 && instance["status"] == "Running";
            if restarted { Ok(()) } else { Err(instance.to_string()) }
        });
        let second = pids(&api.instance("again").expect("it is there"))[0];
        let password = format!("PASSWORD={CANARY}");
        assert!(environment(second).contains(&password), "{:?}", environment(second));
        let file = fs::read_to_string(format!("/proc/{second}/root/keys/password")).expect("a file");
        assert_eq!(file, CANARY);
    });
}

/// Ends one process of this story.
fn kill(pid: u32) {
    let ended = std::process::Command::new("kill").args(["-KILL", &pid.to_string()]).status();
    assert!(ended.expect("kill runs").success());
}

#[test]
fn what_is_missing_is_said_and_secrets_are_never_shown() {
    story(|lab| {
        let api = lab.cluster();
        let id = api.create_instance(&api.create_workload(&using("early")), "early");
        let failed = api.wait_status(&id, "Failed");
        assert_eq!(failed["reason"], "ObjectMissing", "{failed}");
        assert!(text(&failed["message"]).contains("there is no secret \"db\""), "{failed}");
        make_objects(lab);
        for arguments in [
            ["get", "secrets", "-o", "json"].as_slice(),
            &["get", "secret", "db", "-o", "yaml"],
            &["describe", "secret", "db"],
            &["get", "events", "-o", "json"],
        ] {
            let shown = lab.rikctl(arguments).good();
            assert!(!shown.contains(CANARY), "{arguments:?}: {shown}");
        }
        assert!(lab.rikctl(&["describe", "config", "app"]).good().contains("fast"));
        assert_eq!(lab.rikctl(&["delete", "secret", "db"]).good(), "secret/db deleted\n");
        assert!(lab.rikctl(&["get", "secret", "db"]).bad(1).contains("db"));
    });
}
