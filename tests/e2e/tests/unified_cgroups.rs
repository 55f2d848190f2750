//! A machine that has control groups of version 2 alone, as most have: what is promised of limits, ends and cleaning up
//! holds there too. Played on a virtual machine, as the machine under the tests need not be one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use e2e::api::{pids, text};
use e2e::ledger::Ledger;
use e2e::manifest::{container, pod, script, shell, web};
use e2e::{Api, LONG, Lab, SHORT, guest, http, image, probe, programs, rikctl, wait_until};
use serde_json::{Value, json};

/// Where the one hierarchy is.
const ROOT: &str = "/sys/fs/cgroup";
/// The group that RIK is started in, as a service manager would have one for it.
const SERVICE: &str = "/sys/fs/cgroup/service";
/// The capability to make devices (linux/capability.h).
const CAP_MKNOD: u32 = 27;

/// In one story, since a virtual machine is dear.
#[test]
fn pods_of_a_machine_with_unified_control_groups_are_limited_adopted_and_removed() {
    guest::story("cgroup_no_v1=all", |lab| {
        assert_eq!(
            hierarchies(),
            ["cgroup2 /sys/fs/cgroup"],
            "the machine is not of the kind that is tested"
        );
        let switched_on = read(ROOT, "cgroup.subtree_control");
        fs::create_dir(SERVICE).expect("the service's group can be made");
        let api = up(lab, SERVICE);
        lab.load(&image::hello("hello:1"));
        lab.load(&image::busybox("busybox:1"));

        let shop = pids(&api.run(&shop()))[0];
        let started = probe::started(shop);
        assert_page(30080);
        let before = Ledger::of_lab();
        limits_are_set_and_hold(lab, api);
        ends_are_told_apart(api);
        container_reaches_no_device_and_no_limit(lab, api);
        programs_restarts_and_volumes_are_as_elsewhere(lab, api);

        for id in ["busy", "three", "hungry", "hungry-pod", "curious"] {
            api.delete_instance(id);
            api.wait_gone(id);
        }
        before.assert_restored();

        lab.kill("rik");
        // The kernel takes a killed process out of its group a moment after it has told of its end.
        wait_until(SHORT, "nothing of RIK's to be left in the group that it was started in", || {
            fs::remove_dir(SERVICE).map_err(|error| error.to_string())
        });
        let api = up(lab, ROOT);
        let again = api.wait_status("shop", "Running");
        assert_eq!((pids(&again), probe::started(shop)), (vec![shop], started), "the container was adopted");
        assert_page(30080);
        let log = lab.rikctl(&["logs", "shop"]).good();
        assert!(log.contains("GET / "), "its log can be read: {log}");

        api.delete_everything();
        assert_eq!(lab.stop("rik").code(), Some(0));
        let mut down = Command::new(programs::built("rik"));
        let said = rikctl::say(down.arg("down").arg("--data-dir").arg(data()));
        assert_eq!(said.code, 0, "{said:?}");
        assert_eq!(read(ROOT, "cgroup.subtree_control"), switched_on, "as it was before");
    });
}

fn data() -> PathBuf {
    Lab::state().join("rik")
}

/// Starts RIK in the group of a service.
fn up(lab: &mut Lab, group: &str) -> Api {
    let mut command = Command::new(programs::needed("busybox"));
    let start = format!("echo 0 > {group}/cgroup.procs && exec \"$@\"");
    command.args(["sh", "-c", &start, "sh"]).arg(programs::built("rik"));
    command.args(["up", "--port", "5000", "--data-dir"]).arg(data());
    lab.start("rik", command.current_dir(Lab::root()));
    let api = lab.api();
    api.wait_up();
    api.wait_node("guest", "Ready");
    api
}

/// The web server, with a container beside it that has other limits.
fn shop() -> Value {
    let mut shop = web("shop", 30080);
    shop["spec"]["containers"][0]["resources"] = json!({ "limits": { "memory": "64Mi", "cpu": "500m" } });
    shop
}

/// A process count that is reached, and a processor share that is used up.
fn limits_are_set_and_hold(lab: &Lab, api: Api) {
    let fork = "(for i in $(busybox seq 40); do busybox sleep 4000 & done) 2>/dev/null; echo forked";
    let mut busy = shell("main", &format!("{fork}; while :; do :; done"));
    busy["resources"] = json!({
        "limits": { "memory": "32Mi", "cpu": "200m", "pids": 20 }, "requests": { "cpu": "100m" },
    });
    let mut idle = container("beside", "busybox:1");
    idle["resources"] = json!({ "limits": { "memory": "16Mi", "cpu": "300m", "pids": 10 } });
    let running = api.run(&pod("busy", &[busy, idle]));

    let names: Vec<String> =
        running["containers"].as_array().into_iter().flatten().map(|one| text(&one["name"])).collect();
    assert_eq!(names, ["main", "beside"], "{running}");
    let of_main = group(pids(&running)[1]);
    assert_eq!(read(&of_main, "memory.max"), (32 << 20).to_string());
    assert_eq!(read(&of_main, "memory.swap.max"), "0", "swap would add to the memory");
    assert_eq!(read(&of_main, "cpu.max"), "20000 100000");
    assert_eq!(read(&of_main, "cpu.weight"), "4");
    assert_eq!(read(&of_main, "pids.max"), "20");
    let of_pod = of_main.parent().expect("the pod's group is above");
    assert_eq!(read(of_pod, "memory.max"), (48 << 20).to_string());
    assert_eq!(read(of_pod, "memory.swap.max"), "0");
    assert_eq!(read(of_pod, "cpu.max"), "50000 100000");
    assert_eq!(read(of_pod, "pids.max"), "30");
    assert_eq!(read(of_pod, "cgroup.procs"), "", "processes are in the groups of the containers alone");

    wait_log(lab, "busy", "forked");
    let refused = counted(&of_main, "pids.events", "max");
    let there: u64 = read(&of_main, "pids.current").parse().expect("a number");
    assert!(refused > 0 && there <= 20, "{there} processes, {refused} refused");
    wait_until(SHORT, "the busy container to be throttled", || {
        match counted(&of_main, "cpu.stat", "nr_throttled") {
            0 => Err(read(&of_main, "cpu.stat")),
            _ => Ok(()),
        }
    });
}

/// A container that ends and starts again beside one that goes on and sees its processes; data that outlives both; a
/// program run inside, in the container's own group.
fn programs_restarts_and_volumes_are_as_elsewhere(lab: &Lab, api: Api) {
    let mut brief = shell("brief", "busybox cat /data/rows; echo row >> /data/rows; busybox sleep 1; exit 1");
    brief["volumeMounts"] = json!([{ "name": "data", "mountPath": "/data", "subPath": "deep/er" }]);
    let mut manifest = pod("kept", &[shell("lasting", "exec busybox sleep 600"), brief]);
    manifest["spec"]["restartPolicy"] = "OnFailure".into();
    manifest["spec"]["shareProcessNamespace"] = true.into();
    manifest["spec"]["volumes"] = json!([{ "name": "data", "local": { "name": "unified" } }]);
    let running = api.run(&manifest);
    let lasting = running["containers"].as_array().into_iter().flatten().find(|one| one["name"] == "lasting");
    let first =
        lasting.and_then(|one| one["pid"].as_u64()).and_then(|pid| u32::try_from(pid).ok()).expect("it runs");
    wait_until(LONG, "a second run", || match api.instance("kept") {
        Some(now) if now["restarts"].as_u64() >= Some(1) => Ok(()),
        other => Err(format!("{other:?}")),
    });
    let seen = lab.rikctl(&["exec", "kept", "-c", "lasting", "--", "/bin/busybox", "ps"]).good();
    assert!(seen.lines().any(|line| line.ends_with(" pod")), "{seen}");
    assert!(seen.contains("busybox sleep 600"), "{seen}");
    let inside = ["exec", "kept", "-c", "lasting", "--", "/bin/busybox", "cat", "/proc/self/cgroup"];
    assert_eq!(lab.rikctl(&inside).good(), "0::/\n", "the program is in the container's own group");
    assert!(probe::is_alive(first), "the other container goes on");
    let kept = data().join("node/volumes/unified/data/deep/er/rows");
    assert!(fs::read_to_string(kept).expect("the volume has it").starts_with("row\n"));
    api.delete_instance("kept");
    api.wait_gone("kept");
    assert!(lab.rikctl(&["volume", "rm", "unified"]).good().contains("removed"));
}

/// Too much memory for the container, too much for the pod, and an exit code.
fn ends_are_told_apart(api: Api) {
    let mut hungry = script("hungry", "busybox tail /dev/zero");
    hungry["spec"]["containers"][0]["resources"] = json!({ "limits": { "memory": "24Mi" } });
    let mut hungry_pod = script("hungry-pod", "busybox tail /dev/zero");
    hungry_pod["spec"]["resources"] = json!({ "limits": { "memory": "24Mi" } });
    for (manifest, reason, code) in [
        (hungry, "OutOfMemory", 137),
        (hungry_pod, "OutOfMemory", 137),
        (script("three", "exit 3"), "NonZeroExit", 3),
    ] {
        let id = text(&manifest["name"]);
        api.create_instance(&api.create_workload(&manifest), &id);
        let ended = wait_until(LONG, &format!("{id} to end"), || match api.instance(&id) {
            Some(instance) if instance["status"] == "Failed" => Ok(instance),
            other => Err(format!("{other:?}")),
        });
        assert_eq!((&ended["reason"], &ended["exitCode"]), (&json!(reason), &json!(code)), "{ended}");
    }
}

/// Without a list of devices, as version 1 has one, a container still gets at none; and its own limits it can only read.
fn container_reaches_no_device_and_no_limit(lab: &Lab, api: Api) {
    let disk = fs::read_to_string("/sys/class/block/nvme0n1/dev").expect("the machine has a disk");
    let (major, minor) = disk.trim().split_once(':').expect("a device has two numbers");
    let tries = format!(
        "busybox mknod /disk b {major} {minor} && busybox head -c 1 /disk >/dev/null && echo has read the disk
         busybox mknod /dev/disk b {major} {minor} && busybox head -c 1 /dev/disk >/dev/null && echo has read the disk
         busybox find / -xdev -type b; busybox find /dev -type b
         busybox cat /sys/fs/cgroup/memory.max
         echo max > /sys/fs/cgroup/memory.max && echo has no limit
         busybox find /sys/fs/cgroup -mindepth 1 -type d
         echo done; exec busybox sleep 4000"
    );
    let mut curious = shell("main", &tries);
    curious["resources"] = json!({ "limits": { "memory": "20Mi" } });
    let running = api.run(&pod("curious", &[curious]));
    let log = wait_log(lab, "curious", "done\n");
    assert!(log.contains(&format!("\n{}\n", 20 << 20)), "it sees its limit: {log}");
    // Paths are those of block devices, and of groups beside its own.
    for done in ["has read", "has no limit", "/"] {
        assert!(!log.lines().any(|line| line.starts_with(done)), "{done}: {log}");
    }
    let capabilities =
        u64::from_str_radix(&probe::status(pids(&running)[0], "CapEff"), 16).expect("a number");
    assert_eq!(capabilities & (1 << CAP_MKNOD), 0, "{capabilities:x}");
    assert_eq!(read(group(pids(&running)[0]), "memory.max"), (20 << 20).to_string());
}

fn wait_log(lab: &Lab, instance: &str, words: &str) -> String {
    wait_until(SHORT, &format!("{instance} to say {words:?}"), || {
        let said = lab.rikctl(&["logs", instance, "-c", "main"]);
        if said.stdout.contains(words) { Ok(said.stdout) } else { Err(format!("{said:?}")) }
    })
}

fn assert_page(port: u16) {
    let here = ([127, 0, 0, 1], port).into();
    wait_until(SHORT, "the published port to answer", || match http::request(here, "GET", "/", &[], b"") {
        Ok(answer) if answer.body.contains("RIK runs your container") => Ok(()),
        other => Err(format!("{other:?}")),
    });
}

/// The group of a process.
fn group(pid: u32) -> PathBuf {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).expect("the process exists");
    let path = text.trim().strip_prefix("0::/").unwrap_or_else(|| panic!("not of version 2 alone: {text}"));
    Path::new(ROOT).join(path)
}

fn read(group: impl AsRef<Path>, file: &str) -> String {
    let path = group.as_ref().join(file);
    let text = fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.trim().to_owned()
}

/// A number of a file with a name and a number in each line.
fn counted(group: &Path, file: &str, name: &str) -> u64 {
    let text = read(group, file);
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.and_then(|number| number.parse().ok()).unwrap_or_else(|| panic!("{file} has no {name}: {text}"))
}

/// Every hierarchy, with its kind.
fn hierarchies() -> Vec<String> {
    let all = e2e::cgroups::hierarchies().expect("the list of mounts can be read");
    all.iter().map(|one| format!("{} {}", one.filesystem, one.path.display())).collect()
}
