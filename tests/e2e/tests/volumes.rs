//! Volumes: what containers share, what outlives their runs, and what a node does not give.

use e2e::api::{pids, text};
use e2e::lab::{NODE, configuration};
use e2e::manifest::{pod, shell};
use e2e::{LONG, Lab, SHORT, probe, story, wait_until};
use serde_json::{Value, json};

fn with_volumes(name: &str, volumes: Value, containers: &[Value]) -> Value {
    let mut manifest = pod(name, containers);
    manifest["spec"]["volumes"] = volumes;
    manifest
}

fn mounting(mut container: Value, mounts: Value) -> Value {
    container["volumeMounts"] = mounts;
    container
}

fn wait_log(lab: &Lab, arguments: &[&str], words: &str) {
    wait_until(SHORT, "the container's words", || {
        let log = lab.rikctl(arguments).stdout;
        if log.contains(words) { Ok(()) } else { Err(log) }
    });
}

#[test]
fn containers_share_an_empty_directory_that_outlives_their_runs() {
    story(|lab| {
        let api = lab.cluster();
        let mounts = json!([{ "name": "data", "mountPath": "/data" }]);
        let writer =
            "busybox ls -ld /data; echo run >> /data/runs; busybox cat /data/runs; busybox sleep 1; exit 1";
        let reader =
            "while ! busybox test -s /data/runs; do busybox sleep 0.1; done; echo seen; busybox sleep 600";
        let containers =
            [mounting(shell("writer", writer), mounts.clone()), mounting(shell("reader", reader), mounts)];
        let mut manifest = with_volumes("shared", json!([{ "name": "data", "emptyDir": {} }]), &containers);
        manifest["spec"]["restartPolicy"] = "OnFailure".into();
        api.create_instance(&api.create_workload(&manifest), "shared");
        wait_log(lab, &["logs", "shared", "-c", "reader"], "seen");
        wait_log(lab, &["logs", "shared", "-c", "writer"], "run\nrun\n");
        wait_log(lab, &["logs", "shared", "-c", "writer"], "drwxrwxrwx");
    });
}

#[test]
fn directory_in_memory_holds_no_more_than_it_may() {
    story(|lab| {
        let api = lab.cluster();
        let words = "busybox dd if=/dev/zero of=/dev/shm/x bs=64k count=100; busybox sleep 600";
        let container = mounting(shell("main", words), json!([{ "name": "fast", "mountPath": "/dev/shm" }]));
        let volumes = json!([{ "name": "fast", "emptyDir": { "medium": "Memory", "sizeLimit": "1Mi" } }]);
        let running = api.run(&with_volumes("fast", volumes, &[container]));
        wait_log(lab, &["logs", "fast"], "No space left on device");
        let mounts = std::fs::read_to_string(format!("/proc/{}/mounts", pids(&running)[0])).expect("it runs");
        // What a container has there by itself is below it.
        let own = mounts.lines().rfind(|line| line.contains(" /dev/shm ")).expect("it is mounted");
        assert!(["tmpfs", "nosuid", "nodev", "size=1024k"].iter().all(|word| own.contains(word)), "{own}");
    });
}

#[test]
fn directory_of_the_node_needs_its_operators_word() {
    story(|lab| {
        let open = Lab::state().join("open");
        std::fs::create_dir_all(&open).expect("a directory");
        std::fs::write(open.join("page"), "of the node\n").expect("a file");
        let allowed = format!("hostpath_allow = [{:?}]\n", open.display().to_string());
        std::fs::write(configuration(NODE), allowed).expect("a file");
        let api = lab.cluster();
        let words = "busybox cat /page/page; echo no > /page/page; echo wrote $?; busybox sleep 600";
        let mounts = json!([{ "name": "page", "mountPath": "/page", "readOnly": true }]);
        let container = mounting(shell("main", words), mounts);
        let at = |path: &str| json!([{ "name": "page", "hostPath": { "path": path } }]);
        let good = with_volumes("page", at(&open.display().to_string()), std::slice::from_ref(&container));
        api.run(&good);
        wait_log(lab, &["logs", "page"], "of the node\n");
        wait_log(lab, &["logs", "page"], "Read-only file system");
        wait_log(lab, &["logs", "page"], "wrote 1\n");
        for (name, path) in [("etc", "/etc"), ("up", "/"), ("proc", "/proc")] {
            let manifest = with_volumes(name, at(path), std::slice::from_ref(&container));
            let id = api.create_instance(&api.create_workload(&manifest), name);
            let failed = api.wait_status(&id, "Failed");
            assert_eq!(failed["reason"], "NotAllowed", "{failed}");
            assert!(text(&failed["message"]).contains("riklet --hostpath-allow"), "{failed}");
        }
        api.delete_instance("page");
        api.wait_gone("page");
        let kept = std::fs::read_to_string(open.join("page")).expect("the node's file is left alone");
        assert_eq!(kept, "of the node\n");
    });
}

#[test]
fn volumes_of_a_pod_are_gone_with_it_and_survive_its_riklet() {
    story(|lab| {
        let api = lab.cluster();
        let mounts = json!([{ "name": "a", "mountPath": "/a" }, { "name": "b", "mountPath": "/a/b" }]);
        let container = mounting(shell("main", "echo x > /a/b/x; busybox sleep 600"), mounts);
        let volumes =
            json!([{ "name": "a", "emptyDir": {} }, { "name": "b", "emptyDir": { "medium": "Memory" } }]);
        let running = api.run(&with_volumes("kept", volumes, &[container]));
        let pid = pids(&running)[0];
        let inside = format!("/proc/{pid}/root/a/b/x");
        wait_until(SHORT, "the file", || std::fs::metadata(&inside).map(drop).map_err(|e| e.to_string()));
        lab.kill(NODE);
        lab.start_node(NODE);
        assert!(probe::is_alive(pid) && std::fs::metadata(&inside).is_ok(), "the volume is still there");
        api.wait_node(NODE, "Ready");
        api.delete_instance("kept");
        api.wait_gone("kept");
        assert_eq!(Lab::left_of_pods(NODE), Vec::<std::path::PathBuf>::new());
    });
}

#[test]
fn what_takes_more_of_the_disk_than_it_may_is_ended_and_says_so() {
    story(|lab| {
        let api = lab.cluster();
        let words = "busybox dd if=/dev/zero of=/srv/big bs=64k count=64; busybox sleep 600";
        let mut layer = shell("main", words);
        layer["resources"] = json!({ "limits": { "ephemeral-storage": "1Mi" } });
        api.create_instance(&api.create_workload(&pod("layer", &[layer])), "layer");
        let words = "busybox dd if=/dev/zero of=/cache/big bs=64k count=64; busybox sleep 600";
        let mounts = json!([{ "name": "cache", "mountPath": "/cache" }]);
        let volumes = json!([{ "name": "cache", "emptyDir": { "sizeLimit": "1Mi" } }]);
        let manifest = with_volumes("cache", volumes, &[mounting(shell("main", words), mounts)]);
        api.create_instance(&api.create_workload(&manifest), "cache");
        let kept = "busybox dd if=/dev/zero of=/srv/some bs=64k count=8; busybox sleep 600";
        api.run(&pod("kept", &[shell("main", kept)]));
        for (name, what) in [("layer", "its files and logs take"), ("cache", "volume \"cache\" takes")] {
            let failed = wait_until(LONG, "its end", || match api.instance(name) {
                Some(now) if now["status"] == "Failed" => Ok(now),
                other => Err(format!("{other:?}")),
            });
            assert_eq!(failed["reason"], "OutOfDisk", "{failed}");
            let message = text(&failed["message"]);
            assert!(message.contains(what) && message.contains("1.0 MiB are allowed"), "{message}");
        }
        wait_until(LONG, "the disk in the metrics", || {
            let top = lab.rikctl(&["top", "--containers"]).stdout;
            let own = top.lines().find(|line| line.contains("kept")).unwrap_or_default();
            // Half a mebibyte, and the directories.
            let disk = own.trim_end().rsplit("  ").next().unwrap_or_default();
            if disk.starts_with('5') && disk.ends_with("KiB") { Ok(()) } else { Err(top) }
        });
        assert_eq!(api.instance("kept").expect("it is there")["status"], "Running");
    });
}
