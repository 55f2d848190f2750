//! Whole pods on a node of its own: real images, namespaces, groups and containers, from the first step to the last.

use std::{
    collections::BTreeMap,
    fs,
    time::{Duration, Instant},
};

use crate::node::{in_namespaces, plain, pod, script};
use model::{
    ContainerPhase, PortSpec, Protocol, Reason,
    lifecycle::Observed,
    manifest::{EnvVar, ExposureKind, ResourceList, Resources},
    quantity::{Cpu, Memory},
};
use runtime::{Runtime, pod::PodRuntimeConfig};

fn limits(memory: u64, pids: u32) -> Option<Resources> {
    let limits = ResourceList {
        cpu: Some(Cpu(500)),
        memory: Some(Memory(memory)),
        pids: Some(pids),
        ..ResourceList::default()
    };
    Some(Resources { requests: None, limits: Some(limits) })
}

fn port(port: u16, target: u16) -> PortSpec {
    PortSpec {
        port,
        target_port: Some(target),
        protocol: Protocol::Tcp,
        exposure: ExposureKind::NodePort,
        host_address: None,
    }
}

#[test]
fn pod_lives_from_absent_to_absent() {
    in_namespaces("lives::pod_lives_from_absent_to_absent", |node| async move {
        let spec = pod(vec![script("web", "echo hello; exit 3")]);
        assert_eq!(node.runtime.inspect(&spec.uid).await.unwrap(), Observed::Absent);
        node.run(&spec).await;
        let facts = node.ended(&spec).await;
        assert_eq!((facts.exit_code, facts.reason), (Some(3), Some(Reason::NonZeroExit)));
        assert!(facts.started_at.is_some() && facts.finished_at >= facts.started_at, "{facts:?}");
        assert!(facts.containers[0].image_digest.as_ref().unwrap().starts_with("sha256:"));
        assert!(node.runtime.start(&spec.uid, &[0]).await.is_err(), "it was started twice");
        node.runtime.release(&spec.uid).await.unwrap();
        node.runtime.release(&spec.uid).await.unwrap();
        let Observed::Released(facts) = node.runtime.inspect(&spec.uid).await.unwrap() else {
            panic!("not released")
        };
        assert_eq!((facts.exit_code, facts.ip), (Some(3), None));
        assert_eq!(node.output(&spec, "web"), ["hello"]);
        node.runtime.remove(&spec.uid).await.unwrap();
        node.runtime.remove(&spec.uid).await.unwrap();
        assert_eq!(node.runtime.inspect(&spec.uid).await.unwrap(), Observed::Absent);
        node.take_down().await;
    });
}

#[test]
fn container_sees_what_it_should_and_no_more() {
    const LOOK: &str = r#"
        grep -E "^(Cap|NoNewPrivs)" /proc/self/status | tr '\t' ' '
        echo "pid $$ cwd $PWD from $FROM own $OWN home $HOME host $(hostname) $HOSTNAME id $(id -u):$(id -g)"
        echo "fds $(ls /proc/self/fd | tr '\n' ' ')"
        touch /sys/x 2>/dev/null && echo "sys is writable"
        echo 1 > /proc/sys/kernel/panic 2>/dev/null && echo "proc is writable"
        [ -s /proc/kcore ] || echo "kcore is hidden"
        [ -z "$(cat /proc/keys 2>/dev/null)" ] && echo "keys are hidden"
        mknod /null c 1 3 2>/dev/null && echo "devices can be made"
        mount -t tmpfs none /srv 2>/dev/null && echo "mounts can be made"
        echo "sigpipe $(grep SigIgn /proc/self/status | cut -f2)"
        grep web-1 /etc/hosts; cat /etc/hostname; echo test > /dev/stdout
        echo "limit $(cat /sys/fs/cgroup/memory/memory.limit_in_bytes) $(cat /sys/fs/cgroup/pids/pids.max)"
    "#;
    in_namespaces("lives::container_sees_what_it_should_and_no_more", |node| async move {
        let mut container = script("look", LOOK);
        container.env = vec![EnvVar { name: "OWN".to_owned(), value: "v".to_owned(), ..EnvVar::default() }];
        container.resources = limits(64 << 20, 40);
        let spec = pod(vec![container]);
        node.run(&spec).await;
        let facts = node.ended(&spec).await;
        let ip = facts.ip.unwrap();
        // chown, dac_override, fowner, fsetid, kill, setgid, setuid, setpcap, net_bind_service, sys_chroot, setfcap
        let expected = [
            "CapInh: 0000000000000000",
            "CapPrm: 00000000800405fb",
            "CapEff: 00000000800405fb",
            "CapBnd: 00000000800405fb",
            "CapAmb: 0000000000000000",
            "NoNewPrivs: 1",
            "pid 1 cwd /srv/work from image own v home /root host web-1 web-1 id 0:0",
            "fds 0 1 2 3 ",
            "kcore is hidden",
            "keys are hidden",
            "sigpipe 0000000000000000",
            &format!("{ip}\tweb-1"),
            "web-1",
            "test",
            "limit 67108864 40",
        ];
        assert_eq!(node.output(&spec, "look"), expected, "{facts:?}");
        node.take_down().await;
    });
}

#[test]
fn containers_of_a_pod_share_network_ipc_and_name_and_nothing_else() {
    let show = "for n in net ipc uts pid mnt cgroup; do readlink /proc/self/ns/$n; done; sleep 1000";
    in_namespaces(
        "lives::containers_of_a_pod_share_network_ipc_and_name_and_nothing_else",
        |node| async move {
            let serve = "mkdir /www; echo from-web > /www/index.html; httpd -f -p 8080 -h /www";
            let spec = pod(vec![script("a", show), script("b", show), script("web", serve)]);
            node.run(&spec).await;
            let facts = node.running(&spec).await;
            assert!(
                facts.containers.iter().all(|own| own.phase == ContainerPhase::Running && own.pid.is_some())
            );
            let host =
                |name: &str| fs::read_link(format!("/proc/self/ns/{name}")).unwrap().display().to_string();
            let (a, b) = loop {
                let (a, b) = (node.output(&spec, "a"), node.output(&spec, "b"));
                if a.len() == 6 && b.len() == 6 {
                    break (a, b);
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            };
            for (at, name) in ["net", "ipc", "uts"].into_iter().enumerate() {
                assert_eq!(a[at], b[at], "{name} is not shared");
                assert_ne!(a[at], host(name), "{name} is the node's");
            }
            for (at, name) in ["pid", "mnt", "cgroup"].into_iter().enumerate() {
                assert_ne!(a[at + 3], b[at + 3], "{name} is shared");
            }
            let page = loop {
                let url = format!("http://{}:8080/", facts.ip.unwrap());
                let got = tokio::process::Command::new("busybox")
                    .args(["wget", "-qO-", &url])
                    .output()
                    .await
                    .unwrap();
                if got.status.success() {
                    break String::from_utf8_lossy(&got.stdout).into_owned();
                }
            };
            assert_eq!(page, "from-web\n");
            let stopped = Instant::now();
            node.runtime.stop(&spec.uid).await.unwrap();
            // `sh` and `sleep` as first processes cannot hear TERM: nobody waits for them.
            assert!(stopped.elapsed() < Duration::from_secs(8), "{:?}", stopped.elapsed());
            assert!(matches!(node.runtime.inspect(&spec.uid).await.unwrap(), Observed::Ended(_)));
            node.take_down().await;
        },
    );
}

#[test]
fn every_end_is_told_apart() {
    in_namespaces("lives::every_end_is_told_apart", |node| async move {
        let mut hungry = script("hungry", "dd if=/dev/zero of=/dev/null bs=64M count=1");
        hungry.resources = limits(16 << 20, 100);
        let mut nope = plain("nope");
        nope.command = vec!["/bin/nope".to_owned()];
        let cases = [
            (script("ok", "true"), None, Some(0)),
            (script("code", "exit 5"), Some(Reason::NonZeroExit), Some(5)),
            (script("abort", "trap - ABRT; (kill -9 1); exec sleep 0"), None, Some(0)),
            (hungry, Some(Reason::OutOfMemory), Some(137)),
        ];
        for (container, reason, code) in cases {
            let spec = pod(vec![container]);
            node.run(&spec).await;
            let facts = node.ended(&spec).await;
            assert_eq!((facts.reason, facts.exit_code), (reason, code), "{facts:?}");
        }
        let killed = pod(vec![script("killed", "sleep 1000")]);
        node.run(&killed).await;
        let pid = node.running(&killed).await.containers[0].pid.unwrap();
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let facts = node.ended(&killed).await;
        assert_eq!((facts.reason, facts.containers[0].signal), (Some(Reason::Signaled), Some(9)));
        let missing = pod(vec![script("good", "sleep 1000"), nope]);
        node.runtime.prepare(&missing, &|_| {}).await.unwrap();
        node.runtime.start(&missing.uid, &[0, 1]).await.unwrap();
        let facts = node.running(&missing).await;
        assert_eq!(facts.containers[1].reason, Some(Reason::StartFailed), "{facts:?}");
        // What follows for the others is not the runtime's to decide.
        node.runtime.stop(&missing.uid).await.unwrap();
        let facts = node.ended(&missing).await;
        assert_eq!(facts.reason, Some(Reason::StartFailed), "{facts:?}");
        let why = match node.has_own_runtime() {
            true => "\"/bin/nope\" not found in the image",
            false => "exec: \"/bin/nope\": stat /bin/nope: no such file or directory",
        };
        let message = facts.message.unwrap();
        assert!(message.starts_with("container \"nope\" could not be started: "), "{message}");
        assert!(message.ends_with(why), "{message}");
        node.take_down().await;
    });
}

/// The first of many numbers in a row that no process of the machine has.
fn unused_numbers() -> u32 {
    const MANY: u32 = 60;
    let mut last = 300;
    let mut used: Vec<u32> = fs::read_dir("/proc")
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok())
        .collect();
    used.sort_unstable();
    for number in used.into_iter().filter(|number| *number > 300) {
        if number - last > MANY {
            break;
        }
        last = number;
    }
    last + 1
}

#[test]
fn container_joins_processes_whose_numbers_are_nobodys_on_the_machine() {
    let name = "lives::container_joins_processes_whose_numbers_are_nobodys_on_the_machine";
    in_namespaces(name, |node| async move {
        let until = unused_numbers();
        let words =
            format!("until [ $(sh -c 'echo $$') -ge {until} ]; do :; done; echo there; exec sleep 600");
        let mut spec = pod(vec![script("first", &words), script("second", "echo $$")]);
        spec.spec.share_process_namespace = true;
        node.runtime.prepare(&spec, &|_| {}).await.unwrap();
        node.runtime.start(&spec.uid, &[0]).await.unwrap();
        while node.output(&spec, "first").is_empty() {
            tokio::task::yield_now().await;
        }
        node.runtime.start(&spec.uid, &[1]).await.unwrap();
        let seen = node.seen(&spec, |facts| facts.containers[1].phase == ContainerPhase::Exited).await;
        assert_eq!(seen.containers[1].exit_code, Some(0), "{seen:?}");
        let number: u32 = node.output(&spec, "second")[0].parse().unwrap();
        assert!(number >= until, "{number}");
        node.take_down().await;
    });
}

#[test]
fn container_for_which_nobody_says_anything_has_the_memory_that_its_node_gives() {
    let name = "lives::container_for_which_nobody_says_anything_has_the_memory_that_its_node_gives";
    in_namespaces(name, |node| async move {
        let show = "cat /sys/fs/cgroup/memory/memory.limit_in_bytes";
        let spec = pod(vec![script("show", show)]);
        node.run(&spec).await;
        node.ended(&spec).await;
        assert_eq!(node.output(&spec, "show"), ["536870912"]);
        let little = Some(Memory(16 << 20));
        let node = node.reopen_as(|config| PodRuntimeConfig { default_memory: little, ..config }).await;
        let spec = pod(vec![script("hungry", "dd if=/dev/zero of=/dev/null bs=64M count=1")]);
        node.run(&spec).await;
        let message = node.ended(&spec).await.message.unwrap_or_default();
        assert!(message.contains("limit of 16Mi, which nodes give containers without one"), "{message}");
        node.take_down().await;
    });
}

#[test]
fn documented_shell_without_input_stays_running() {
    in_namespaces("lives::documented_shell_without_input_stays_running", |node| async move {
        let spec = pod(vec![plain("shell")]);
        node.run(&spec).await;
        // It would have ended by now if its input had an end.
        let quiet = tokio::time::timeout(Duration::from_millis(500), node.ended(&spec)).await;
        assert!(quiet.is_err(), "{quiet:?}");
        node.runtime.stop(&spec.uid).await.unwrap();
        node.take_down().await;
    });
}

#[test]
fn stopping_waits_for_those_who_hear_and_kills_those_who_ignore() {
    in_namespaces("lives::stopping_waits_for_those_who_hear_and_kills_those_who_ignore", |node| async move {
        let polite = pod(vec![script(
            "polite",
            "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.1; done",
        )]);
        let mut deaf = pod(vec![script("deaf", "trap '' TERM; echo ready; while :; do sleep 0.1; done")]);
        deaf.spec.termination_grace_period_seconds = 1;
        for (spec, name) in [(&polite, "polite"), (&deaf, "deaf")] {
            node.run(spec).await;
            while node.output(spec, name).is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
        node.runtime.stop(&polite.uid).await.unwrap();
        let facts = node.ended(&polite).await;
        assert_eq!((facts.exit_code, facts.reason), (Some(0), None), "{facts:?}");
        assert_eq!(node.output(&polite, "polite"), ["ready", "bye"]);
        let begun = Instant::now();
        node.runtime.stop(&deaf.uid).await.unwrap();
        assert!(begun.elapsed() >= Duration::from_secs(1), "the grace was not given");
        assert_eq!(node.ended(&deaf).await.containers[0].signal, Some(9));
        node.take_down().await;
    });
}

#[test]
fn published_port_that_is_taken_is_a_clear_error() {
    in_namespaces("lives::published_port_that_is_taken_is_a_clear_error", |node| async move {
        let mut first = script("web", "sleep 1000");
        first.ports = vec![port(18_080, 80)];
        let first = pod(vec![first]);
        node.run(&first).await;
        assert_eq!(node.running(&first).await.ports[0].port, 18_080);
        let mut second = script("web", "sleep 1000");
        second.ports = vec![port(18_080, 80)];
        let second = pod(vec![second]);
        let error = node.runtime.prepare(&second, &|_| {}).await.unwrap_err();
        assert_eq!((error.reason, error.transient), (Reason::PortInUse, false), "{}", error.sentence());
        assert_eq!(node.runtime.inspect(&second.uid).await.unwrap(), Observed::Partial);
        node.runtime.release(&second.uid).await.unwrap();
        node.runtime.remove(&second.uid).await.unwrap();
        node.take_down().await;
    });
}

#[test]
fn restarted_agent_finds_everything_as_it_is_now() {
    in_namespaces("lives::restarted_agent_finds_everything_as_it_is_now", |node| async move {
        let runs = pod(vec![script("runs", "sleep 1000")]);
        let ends = pod(vec![script("ends", "sleep 0.3; exit 4")]);
        let prepared = pod(vec![script("later", "exit 0")]);
        node.run(&runs).await;
        node.run(&ends).await;
        node.runtime.prepare(&prepared, &|_| {}).await.unwrap();
        let torn = pod(vec![]);
        let of_torn = node.state.join("pods").join(&torn.uid);
        // As riklets had it that kept everything on the disk.
        let former = of_torn.join("c/0/rootfs");
        fs::create_dir_all(&former).unwrap();
        rustix::mount::mount("rik-test", &former, "tmpfs", rustix::mount::MountFlags::empty(), None).unwrap();
        fs::write(of_torn.join("record.json"), "{").unwrap();
        let before = node.running(&runs).await;
        let node = node.reopen().await;
        assert_eq!(node.running(&runs).await, before);
        let facts = node.ended(&ends).await;
        assert_eq!((facts.exit_code, facts.reason), (Some(4), Some(Reason::NonZeroExit)));
        assert_eq!(node.runtime.inspect(&prepared.uid).await.unwrap(), Observed::Prepared);
        node.runtime.start(&prepared.uid, &[0]).await.unwrap();
        assert_eq!(node.ended(&prepared).await.exit_code, Some(0));
        assert_eq!(node.runtime.inspect(&torn.uid).await.unwrap(), Observed::Partial);
        let listed: Vec<String> =
            node.runtime.list().await.unwrap().into_iter().map(|spec| spec.uid).collect();
        assert_eq!(listed.len(), 4);
        assert!(listed.contains(&torn.uid));
        node.take_down().await;
    });
}

/// What is in memory is gone then, and every process and mount; the disk is as it was.
#[test]
fn instance_that_a_boot_of_the_machine_ended_is_told_and_leaves_nothing() {
    in_namespaces(
        "lives::instance_that_a_boot_of_the_machine_ended_is_told_and_leaves_nothing",
        |node| async move {
            use rustix::process::{Pid, Signal, kill_process};
            let spec = pod(vec![script("runs", "echo said; echo written > /srv/file; sleep 1000")]);
            node.run(&spec).await;
            while node.output(&spec, "runs").is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            let facts = node.running(&spec).await;
            let process = facts.containers[0].pid.and_then(|pid| Pid::from_raw(pid.cast_signed()));
            for pid in [node.shim(), process] {
                kill_process(pid.expect("it runs"), Signal::KILL).unwrap();
            }
            let record = node.state.join("pods").join(&spec.uid).join("record.json");
            let text = fs::read_to_string(&record).unwrap();
            let last: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
            let boot = last["bootId"].as_str().unwrap();
            fs::write(&record, text.replace(boot, "5d1f4bb0-1f0e-4b7e-9d0e-0c3a4d1b2c3d")).unwrap();
            let run = node.state.join("run");
            for point in
                network::namespace::mount_points().unwrap().iter().rev().filter(|at| at.starts_with(&run))
            {
                let _ = rustix::mount::unmount(point, rustix::mount::UnmountFlags::DETACH);
            }
            let layer = node.state.join("pods").join(&spec.uid).join("0/upper/srv/file");
            assert!(layer.exists() && fs::read_dir(&run).unwrap().next().is_none());
            let node = node.reopen().await;
            let facts = node.ended(&spec).await;
            assert_eq!((facts.reason, facts.exit_code), (Some(Reason::NodeRestarted), None), "{facts:?}");
            assert_eq!(node.output(&spec, "runs"), ["said"], "its log is kept");
            node.runtime.release(&spec.uid).await.unwrap_or_else(|error| panic!("{}", error.sentence()));
            assert!(!layer.exists(), "its writable layer is not");
            node.take_down().await;
        },
    );
}

#[test]
fn shim_that_is_killed_is_replaced_and_no_container_notices() {
    in_namespaces("lives::shim_that_is_killed_is_replaced_and_no_container_notices", |node| async move {
        let spec = pod(vec![script("runs", "trap 'exit 6' TERM; while :; do sleep 0.1; done")]);
        node.run(&spec).await;
        let before = node.running(&spec).await;
        let shim = node.shim().expect("there is a shim");
        rustix::process::kill_process(shim, rustix::process::Signal::KILL).unwrap();
        // The loss itself is news: whoever waits looks again.
        node.runtime.changed(&spec.uid).await;
        assert_eq!(node.running(&spec).await, before);
        assert_ne!(node.shim(), Some(shim));
        node.runtime.stop(&spec.uid).await.unwrap();
        let facts = node.ended(&spec).await;
        let honest = [(Some(6), Some(Reason::NonZeroExit)), (None, Some(Reason::ExitUnknown))];
        assert!(honest.contains(&(facts.exit_code, facts.reason)), "{facts:?}");
        node.take_down().await;
    });
}

#[test]
fn twenty_pods_at_once_all_run_and_all_go() {
    in_namespaces("lives::twenty_pods_at_once_all_run_and_all_go", |node| async move {
        let specs: Vec<_> =
            (0..20).map(|n| pod(vec![script("web", &format!("echo {n}; sleep 1000"))])).collect();
        futures::future::join_all(specs.iter().map(|spec| node.run(spec))).await;
        let mut addresses = BTreeMap::new();
        for spec in &specs {
            addresses.insert(node.running(spec).await.ip.unwrap(), &spec.uid);
        }
        assert_eq!(addresses.len(), specs.len());
        futures::future::join_all(specs.iter().map(|spec| async {
            node.runtime.stop(&spec.uid).await.unwrap();
            node.runtime.remove(&spec.uid).await.unwrap_or_else(|error| panic!("{}", error.sentence()));
        }))
        .await;
        assert!(node.runtime.list().await.unwrap().is_empty());
        node.take_down().await;
    });
}

#[test]
fn user_of_the_image_runs_it_without_privileges_and_may_write_to_its_output() {
    const LOOK: &str =
        "id; grep CapEff /proc/self/status | tr '\\t' ' '; echo seen > /dev/stdout; touch /x || echo no";
    in_namespaces(
        "user_of_the_image_runs_it_without_privileges_and_may_write_to_its_output",
        |node| async move {
            let mut container = script("web", LOOK);
            container.image = node.load_image("user:1", "web").await;
            let spec = pod(vec![container]);
            node.run(&spec).await;
            assert_eq!(node.ended(&spec).await.exit_code, Some(0));
            let groups = "uid=101(web) gid=102(web) groups=102(web),200(extra)";
            assert_eq!(node.output(&spec, "web"), [groups, "CapEff: 0000000000000000", "seen", "no"]);
            let mut nobody = script("web", LOOK);
            nobody.image = node.load_image("user:2", "nobody-knows").await;
            let spec = pod(vec![nobody]);
            let error = node.runtime.prepare(&spec, &|_| {}).await.unwrap_err();
            let sentence =
                "set up container \"web\": user \"nobody-knows\" of the image is not in its /etc/passwd";
            assert_eq!((error.sentence().as_str(), error.reason), (sentence, Reason::StartFailed));
            node.take_down().await;
        },
    );
}

#[test]
fn image_that_cannot_be_had_is_a_clear_error() {
    in_namespaces("lives::image_that_cannot_be_had_is_a_clear_error", |node| async move {
        let mut container = plain("web");
        container.image = "127.0.0.1:1/nowhere:1".to_owned();
        let spec = pod(vec![container]);
        let told = std::sync::Mutex::new(Vec::new());
        let error = node.runtime.prepare(&spec, &|facts| told.lock().unwrap().push(facts)).await.unwrap_err();
        assert_eq!(error.reason, Reason::ImagePullFailed);
        assert!(error.sentence().starts_with("fetch an image: "), "{}", error.sentence());
        let told = told.into_inner().unwrap();
        assert_eq!(told[0].reason, Some(Reason::ImagePulling));
        assert_eq!(told[0].message.as_deref(), Some("fetching image 127.0.0.1:1/nowhere:1"));
        node.take_down().await;
    });
}

#[test]
fn work_that_nobody_waits_for_any_more_leaves_nothing() {
    in_namespaces("lives::work_that_nobody_waits_for_any_more_leaves_nothing", |node| async move {
        for step in 0..24_u64 {
            let spec = pod(vec![script("a", "sleep 1000"), script("b", "sleep 1000")]);
            let all = async {
                node.runtime.prepare(&spec, &|_| {}).await.unwrap();
                node.runtime.start(&spec.uid, &[0, 1]).await.unwrap();
            };
            // Dropped at some instant between the first step and the last.
            let _ = tokio::time::timeout(Duration::from_millis(step * 4), all).await;
            node.runtime.remove(&spec.uid).await.unwrap_or_else(|error| panic!("{}", error.sentence()));
            assert_eq!(node.runtime.inspect(&spec.uid).await.unwrap(), Observed::Absent);
        }
        node.take_down().await;
    });
}

#[test]
fn containers_that_share_their_processes_see_each_other_and_outlive_each_other() {
    let name = "lives::containers_that_share_their_processes_see_each_other_and_outlive_each_other";
    in_namespaces(name, |node| async move {
        // What it leaves in the background ends with it, although it is not the first process; what nobody waits for
        // is reaped by the one that is.
        let words =
            "sh -c 'while :; do sleep 1; done; : leftover' & (sh -c 'exit 0' & exit 0); echo $$; sleep 1";
        let brief = script("brief", words);
        let words = "seen() { ps | grep 'left[o]ver'; }; \
                     until seen >/dev/null; do :; done; echo seen; \
                     while seen >/dev/null; do :; done; echo gone; \
                     while grep -q zombie /proc/[0-9]*/status; do :; done; \
                     grep -h State /proc/[0-9]*/status; cat /proc/1/cmdline; echo; \
                     cat /proc/1/maps >/dev/null || echo closed; ls /proc/1/fd || echo closed";
        let watcher = script("watcher", words);
        let mut spec = pod(vec![brief, watcher, script("idle", "exec sleep 600")]);
        spec.spec.share_process_namespace = true;
        node.run(&spec).await;
        node.seen(&spec, |facts| facts.containers[1].phase == ContainerPhase::Exited).await;
        let said = node.output(&spec, "watcher");
        assert_eq!(said.iter().filter(|line| *line == "closed").count(), 2, "{said:?}");
        for line in ["seen", "gone", "pod"] {
            assert!(said.iter().any(|own| own.trim_matches('\0') == line), "{said:?}");
        }
        assert!(!said.iter().any(|line| line.contains("zombie") || line.contains("shim")), "{said:?}");
        let brief = node.output(&spec, "brief");
        assert_ne!(brief[0], "1", "{brief:?}");
        // It is not the first process, so the signal ends it as it would anywhere.
        node.runtime.stop(&spec.uid).await.unwrap();
        let facts = node.ended(&spec).await;
        assert_eq!(facts.containers[2].signal, Some(15), "{facts:?}");
        node.take_down().await;
    });
}
