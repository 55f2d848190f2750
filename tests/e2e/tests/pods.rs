//! What a container of a pod is given, and what it is kept from.

use e2e::api::pids;
use e2e::manifest::{container, pod, script, shell, sleeper};
use e2e::{SHORT, image, probe, story, wait_until};
use serde_json::json;

/// C-36: environment, command, arguments, working directory, limits and ports reach the container.
#[test]
fn c36_manifest_is_applied_to_the_container() {
    story(|lab| {
        let api = lab.cluster();
        let mut chosen = shell("main", "pwd; echo $FLAVOUR $ADDED; busybox sleep 600");
        chosen["env"] =
            json!([{ "name": "FLAVOUR", "value": "manifest" }, { "name": "ADDED", "value": "yes" }]);
        chosen["workingDir"] = "/srv".into();
        chosen["resources"] = json!({ "limits": { "memory": "64Mi", "pids": 40 } });
        let running = api.run(&pod("given", &[chosen]));
        wait_until(SHORT, "the container's words", || {
            let log = lab.rikctl(&["logs", "given"]).stdout;
            if log.contains("/srv\nmanifest yes") { Ok(()) } else { Err(log) }
        });
        let environment = probe::environment(pids(&running)[0]);
        assert!(
            environment.contains(&"PATH=/bin".to_owned()),
            "the image's environment is kept: {environment:?}"
        );
    });
}

#[test]
fn image_configuration_is_honoured_where_the_manifest_is_silent() {
    story(|lab| {
        let api = lab.cluster();
        let mut spec = image::busybox("careful:1");
        spec.cmd = ["/bin/busybox", "sh", "-c", "busybox id -u; pwd; echo $FLAVOUR; busybox sleep 600"]
            .map(String::from)
            .to_vec();
        spec.user = "user".into();
        spec.working_dir = "/srv".into();
        lab.load(&spec);
        api.run(&pod("careful", &[container("main", "careful:1")]));
        wait_until(SHORT, "the container's words", || {
            let log = lab.rikctl(&["logs", "careful"]).stdout;
            if log.contains("1000\n/srv\nimage") { Ok(()) } else { Err(log) }
        });
    });
}

#[test]
fn containers_of_a_pod_share_network_ipc_and_name_and_nothing_else() {
    story(|lab| {
        let api = lab.cluster();
        let other = shell("other", "while true; do busybox nc -l -p 7000 -e busybox echo here; done");
        let running = api.run(&pod("pair", &[container("one", "busybox:1"), other]));
        let pids = pids(&running);
        for kind in ["net", "ipc", "uts"] {
            assert_eq!(probe::namespace(pids[0], kind), probe::namespace(pids[1], kind), "{kind}");
            assert_ne!(probe::namespace(pids[0], kind), probe::namespace(std::process::id(), kind), "{kind}");
        }
        for kind in ["mnt", "pid"] {
            assert_ne!(probe::namespace(pids[0], kind), probe::namespace(pids[1], kind), "{kind}");
        }
        let limits =
            std::fs::read_to_string(format!("/proc/{}/cgroup", pids[0])).expect("the process exists");
        let others =
            std::fs::read_to_string(format!("/proc/{}/cgroup", pids[1])).expect("the process exists");
        let parent = |text: &str| -> Option<String> {
            let path = text.lines().find(|line| line.contains("memory") || line.starts_with("0::"))?;
            path.rsplit_once('/').map(|(parent, _)| parent.to_owned())
        };
        assert_eq!(parent(&limits), parent(&others), "one parent cgroup for the pod");
    });
}

/// C-35: what one instance writes, no other sees.
#[test]
fn c35_instances_of_one_image_have_a_writable_layer_each() {
    story(|lab| {
        let api = lab.cluster();
        api.run(&script("first", "echo first > /srv/motd; busybox cat /srv/motd; busybox sleep 600"));
        wait_until(SHORT, "the first to write", || {
            let log = lab.rikctl(&["logs", "first"]).stdout;
            if log.contains("first") { Ok(()) } else { Err(log) }
        });
        api.run(&script("second", "busybox cat /srv/motd; busybox sleep 600"));
        wait_until(SHORT, "the second to read", || {
            let log = lab.rikctl(&["logs", "second"]).stdout;
            if log.contains("from the image") { Ok(()) } else { Err(log) }
        });
    });
}

/// C-25: output never blocks a container, and can be read.
#[test]
fn c25_flood_of_output_blocks_nobody_and_can_be_read() {
    story(|lab| {
        let api = lab.cluster();
        let lines = 20_000;
        api.run(&script("flood", &format!("busybox seq 1 {lines}; echo done; busybox sleep 600")));
        wait_until(SHORT, "the last line", || {
            let log = lab.rikctl(&["logs", "flood"]).stdout;
            if log.ends_with(&format!("{lines}\ndone\n")) {
                Ok(())
            } else {
                Err(format!("{} bytes", log.len()))
            }
        });
    });
}

#[test]
fn container_has_no_more_rights_than_it_needs() {
    story(|lab| {
        let api = lab.cluster();
        let pid = pids(&api.run(&sleeper("plain")))[0];
        assert_eq!(probe::status(pid, "NoNewPrivs"), "1");
        let capabilities = u64::from_str_radix(&probe::status(pid, "CapBnd"), 16).expect("a mask in hex");
        for (name, bit) in
            [("SYS_ADMIN", 21), ("SYS_MODULE", 16), ("SYS_PTRACE", 19), ("NET_ADMIN", 12), ("SYS_TIME", 25)]
        {
            assert_eq!(capabilities & (1 << bit), 0, "the container has CAP_{name}");
        }
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process exists").flatten();
        let names: Vec<String> =
            descriptors.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        assert!(names.iter().all(|name| ["0", "1", "2", "10"].contains(&name.as_str())), "{names:?}");
    });
}

/// What the kernel tells about the machine, which is no business of a container.
const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/firmware",
];
/// What steers the machine.
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

#[test]
fn container_learns_nothing_of_the_machine_and_steers_nothing() {
    story(|lab| {
        let api = lab.cluster();
        // No kernel has all of them, and every kernel has some.
        let known = |paths: &[&'static str]| -> Vec<&str> {
            paths.iter().copied().filter(|path| std::path::Path::new(path).exists()).collect()
        };
        let (masked, read_only) = (known(&MASKED), known(&READ_ONLY));
        assert!(masked.contains(&"/proc/interrupts") && read_only.contains(&"/proc/sys"));
        let look = format!(
            "for p in {}; do if [ -d $p ]; then busybox ls -A $p; else busybox cat $p; fi; done; \
             for n in /proc/sys/kernel/domainname /proc/sys/vm/drop_caches; do (echo 1 > $n) 2> /dev/null && echo $n; \
             done; echo end; busybox sleep 600",
            masked.join(" ")
        );
        let pid = pids(&api.run(&script("curious", &look)))[0];
        let log = wait_until(SHORT, "the container's words", || {
            let log = lab.rikctl(&["logs", "curious"]).stdout;
            if log.ends_with("end\n") { Ok(log) } else { Err(log) }
        });
        assert_eq!(log, "end\n", "a container reads or writes what it must not");
        let mounts = std::fs::read_to_string(format!("/proc/{pid}/mountinfo")).expect("the process exists");
        let options = |path: &str| -> String {
            let line = mounts.lines().find(|line| line.split(' ').nth(4) == Some(path));
            line.and_then(|line| line.split(' ').nth(5)).unwrap_or_default().to_owned()
        };
        for path in masked {
            assert_ne!(options(path), "", "{path} is open:\n{mounts}");
        }
        for path in read_only {
            assert!(options(path).starts_with("ro"), "{path} can be written:\n{mounts}");
        }
    });
}

#[test]
fn container_reads_its_limits_and_cannot_widen_them() {
    story(|lab| {
        let api = lab.cluster();
        // By cgroup v1 and v2.
        let look = "for f in memory/memory.limit_in_bytes memory.max pids/pids.max pids.max; do \
             f=/sys/fs/cgroup/$f; [ -e $f ] || continue; busybox cat $f; (echo 1000000000 > $f) 2> /dev/null && echo $f; \
             busybox cat $f; done; \
             (busybox mknod /tmp/disk b 254 0 && busybox head -c 1 /tmp/disk) 2> /dev/null && echo disk; \
             echo end; busybox sleep 600";
        let mut limited = shell("main", look);
        limited["resources"] = json!({ "limits": { "memory": "64Mi", "pids": 40 } });
        api.run(&pod("limited", &[limited]));
        let log = wait_until(SHORT, "the container's words", || {
            let log = lab.rikctl(&["logs", "limited"]).stdout;
            if log.ends_with("end\n") { Ok(log) } else { Err(log) }
        });
        assert_eq!(log, "67108864\n67108864\n40\n40\nend\n");
    });
}

/// C-26: a hundred containers later, the riklet holds no more descriptors than before.
#[test]
fn c26_riklet_holds_no_descriptor_of_containers_that_are_gone() {
    story(|lab| {
        let api = lab.cluster();
        let descriptors = |lab: &mut e2e::Lab| {
            let pid = lab.daemon(e2e::lab::NODE).pid();
            std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the riklet runs").count()
        };
        let workload = api.create_workload(&sleeper("churn"));
        let round = |lab: &mut e2e::Lab| {
            let ids = api.create_instances(&workload, 10);
            ids.iter().for_each(|id| drop(api.wait_status(id, "Running")));
            ids.iter().for_each(|id| api.delete_instance(id));
            ids.iter().for_each(|id| api.wait_gone(id));
            descriptors(lab)
        };
        let before = round(lab);
        let after = (0..3).map(|_| round(lab)).last().expect("three rounds were made");
        // Connections and timers come and go; a leak of two for each container would be sixty.
        assert!(after <= before + 10, "{before} descriptors before, {after} after thirty more containers");
    });
}
