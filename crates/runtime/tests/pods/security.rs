//! What a container can see and do, told by a program inside it. The names are those of the table in
//! `docs/src/riklet/containers.md`.

use model::{
    ContainerSpec, Reason,
    manifest::security::{
        Capabilities, Capability, PodSecurityContext, SeccompProfile, SeccompSource, SecurityContext,
    },
};
use runtime::{InstanceSpec, Runtime};

use crate::node::{Node, in_namespaces, in_namespaces_of_rik, plain, pod, script};

/// A pod whose only container tries these things.
pub fn probing(image: String, words: &[&str]) -> InstanceSpec {
    let command = ["/bin/probe"].iter().chain(words).map(|word| (*word).to_owned()).collect();
    pod(vec![ContainerSpec { image, command, ..plain("probe") }])
}

/// What the probe says in a pod of its own.
pub async fn probe(node: &Node, words: &[&str]) -> Vec<String> {
    let spec = probing(node.load_probe().await, words);
    node.run(&spec).await;
    let facts = node.ended(&spec).await;
    assert_eq!(facts.exit_code, Some(0), "{facts:?} {:?}", node.output(&spec, "probe"));
    node.output(&spec, "probe")
}

#[test]
fn s_pod_04_dangerous_calls_are_refused_and_unknown_ones_absent() {
    in_namespaces(
        "security::s_pod_04_dangerous_calls_are_refused_and_unknown_ones_absent",
        |node| async move {
            let expected = [
                "NoNewPrivs: 1",
                "Seccomp: 2",
                "Seccomp_filters: 2",
                "add_key: EPERM",
                "bpf: EPERM",
                "clone3: ENOSYS",
                "finit_module: EPERM",
                "fsopen: EPERM",
                "io_uring_setup: EPERM",
                "kexec_load: EPERM",
                "keyctl: EPERM",
                "mount: EPERM",
                "move_mount: EPERM",
                "open_by_handle_at: EPERM",
                "perf_event_open: EPERM",
                "personality: EPERM",
                "pivot_root: EPERM",
                "process_vm_readv: EPERM",
                "ptrace: EPERM",
                "reboot: EPERM",
                "request_key: EPERM",
                "setns: EPERM",
                "socket AF_ALG: EPERM",
                "socket AF_INET: done",
                "socket AF_VSOCK: EPERM",
                "umount2: EPERM",
                "unknown: ENOSYS",
                "unshare: EPERM",
                "unshare NEWUSER: EPERM",
                "userfaultfd: EPERM",
                "thread: ended",
                "child: Some(3)",
            ];
            let mut said = probe(&node, &["filter", "calls", "threads"]).await;
            if !node.has_own_runtime() {
                // It makes one program of what we make two of.
                said.iter_mut().for_each(|line| *line = line.replace("filters: 1", "filters: 2"));
            }
            assert_eq!(said, expected);
            node.take_down().await;
        },
    );
}

#[test]
fn s_pod_04_container_without_its_filter_never_begins() {
    in_namespaces_of_rik("security::s_pod_04_container_without_its_filter_never_begins", |node| async move {
        let image = node.load_probe().await;
        for left in [None, Some(""), Some("rik seccomp 1\n")] {
            let spec = probing(image.clone(), &["filter"]);
            node.runtime.prepare(&spec, &|_| {}).await.unwrap();
            let filter = node.state.join("run").join(&spec.uid).join("c/0/seccomp");
            match left {
                None => std::fs::remove_file(filter).unwrap(),
                Some(text) => std::fs::write(filter, text).unwrap(),
            }
            node.runtime.start(&spec.uid, &[0]).await.unwrap();
            let facts = node.ended(&spec).await;
            let words = facts.message.unwrap_or_default();
            assert!(
                words.contains("could not be started") && words.contains("its seccomp filter"),
                "{words}"
            );
            assert_eq!(node.output(&spec, "probe"), [""; 0]);
        }
        node.take_down().await;
    });
}

/// A pod of one container with these rights that says what it is and tries to write.
fn asking(context: SecurityContext) -> InstanceSpec {
    let words = "grep -E '^(Uid|Gid|Groups|Cap[PEB])' /proc/self/status; echo x > /new && echo wrote";
    let container = script("main", words);
    pod(vec![ContainerSpec { security_context: Some(context), ..container }])
}

async fn answer(node: &Node, spec: &InstanceSpec) -> Vec<String> {
    node.run(spec).await;
    node.ended(spec).await;
    node.output(spec, "main").iter().map(|line| line.replace('\t', " ").trim().to_owned()).collect()
}

#[test]
fn s_pod_01_container_has_the_capabilities_that_it_asked_for() {
    in_namespaces("security::s_pod_01_container_has_the_capabilities_that_it_asked_for", |node| async move {
        // Bits of include/uapi/linux/capability.h: 0 1 3 4 5 6 7 8 10 18 31.
        let usual = "00000000800405fb";
        let usually = answer(&node, &asking(SecurityContext::default())).await;
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert!(usually.contains(&format!("{set}: {usual}")), "{usually:?}");
        }
        let capabilities = Capabilities { add: vec![Capability::NetRaw], drop: vec![Capability::All] };
        let only = SecurityContext { capabilities: Some(capabilities), ..SecurityContext::default() };
        let only = answer(&node, &asking(only)).await;
        for set in ["CapPrm", "CapEff", "CapBnd"] {
            assert!(only.contains(&format!("{set}: 0000000000002000")), "{only:?}");
        }
        node.take_down().await;
    });
}

#[test]
fn s_pod_05_container_runs_as_the_user_that_it_asked_for() {
    in_namespaces("security::s_pod_05_container_runs_as_the_user_that_it_asked_for", |node| async move {
        let mut spec = asking(SecurityContext { run_as_user: Some(101), ..SecurityContext::default() });
        let groups = PodSecurityContext { supplemental_groups: vec![4_000], ..PodSecurityContext::default() };
        spec.spec.security_context = Some(groups);
        let said = answer(&node, &spec).await;
        for line in ["Uid: 101 101 101 101", "Gid: 102 102 102 102", "Groups: 102 200 4000"] {
            assert!(said.contains(&line.to_owned()), "{said:?}");
        }
        assert!(said.contains(&"CapEff: 0000000000000000".to_owned()), "{said:?}");
        assert!(!said.contains(&"wrote".to_owned()), "{said:?}");
        let refused = asking(SecurityContext { run_as_non_root: Some(true), ..SecurityContext::default() });
        let error = node.runtime.prepare(&refused, &|_| {}).await.unwrap_err();
        assert!(error.sentence().contains("runAsNonRoot") && !error.transient, "{}", error.sentence());
        assert_eq!(error.reason, Reason::StartFailed);
        node.take_down().await;
    });
}

#[test]
fn read_only_root_filesystem_leaves_volumes_to_write_to() {
    in_namespaces("security::read_only_root_filesystem_leaves_volumes_to_write_to", |node| async move {
        let context = SecurityContext { read_only_root_filesystem: Some(true), ..SecurityContext::default() };
        assert!(!answer(&node, &asking(context)).await.contains(&"wrote".to_owned()));
        assert!(answer(&node, &asking(SecurityContext::default())).await.contains(&"wrote".to_owned()));
        node.take_down().await;
    });
}

fn filtered(image: &str, source: SeccompSource, file: Option<&str>) -> InstanceSpec {
    let mut spec = probing(image.to_owned(), &["filter", "calls"]);
    let profile = SeccompProfile { source, localhost_profile: file.map(str::to_owned) };
    spec.spec.security_context =
        Some(PodSecurityContext { seccomp_profile: Some(profile), ..PodSecurityContext::default() });
    spec
}

#[test]
fn profile_of_the_operator_holds_a_container_and_a_file_outside_is_none() {
    let name = "security::profile_of_the_operator_holds_a_container_and_a_file_outside_is_none";
    in_namespaces(name, |node| async move {
        let profiles = node.state.with_file_name("profiles");
        std::fs::create_dir_all(profiles.join("team")).unwrap();
        let profile = r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[
            {"names":["personality"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#;
        std::fs::write(profiles.join("team/odd.json"), profile).unwrap();
        std::fs::write(profiles.with_file_name("outside.json"), profile).unwrap();
        std::os::unix::fs::symlink("../outside.json", profiles.join("link.json")).unwrap();
        std::fs::write(profiles.join("torn.json"), "{").unwrap();
        let image = node.load_probe().await;
        let said = async |spec: InstanceSpec| {
            node.run(&spec).await;
            node.ended(&spec).await;
            node.output(&spec, "probe")
        };
        let own = said(filtered(&image, SeccompSource::Localhost, Some("team/odd.json"))).await;
        assert!(own.contains(&"personality: ENOSYS".to_owned()), "{own:?}");
        assert!(own.contains(&"Seccomp: 2".to_owned()), "{own:?}");
        let none = said(filtered(&image, SeccompSource::Unconfined, None)).await;
        assert!(
            none.contains(&"Seccomp: 0".to_owned()) && none.contains(&"NoNewPrivs: 1".to_owned()),
            "{none:?}"
        );
        for file in ["absent.json", "link.json", "torn.json", "team"] {
            let spec = filtered(&image, SeccompSource::Localhost, Some(file));
            let error = node.runtime.prepare(&spec, &|_| {}).await.unwrap_err();
            assert!(error.sentence().contains("seccomp profile") && !error.transient, "{}", error.sentence());
        }
        node.take_down().await;
    });
}

/// What a process of this test has: the machine's, as seen from here.
fn own_status(field: &str) -> String {
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    status.lines().find(|line| line.starts_with(field)).unwrap().replace('\t', " ")
}

#[test]
fn privileged_container_has_what_the_machine_has_and_its_neighbour_does_not() {
    let name = "security::privileged_container_has_what_the_machine_has_and_its_neighbour_does_not";
    in_namespaces(name, |node| async move {
        let words = "grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status; \
                     mkdir -p /m && mount -t tmpfs none /m && echo mounted; \
                     find /dev -type b -o -type c | grep -vE '/(pts|null|zero|full|random|urandom|tty|ptmx|console)' | sort; \
                     grep -q ' /proc/sys ' /proc/self/mountinfo || echo open";
        let mut main = script("main", words);
        main.security_context =
            Some(SecurityContext { privileged: Some(true), ..SecurityContext::default() });
        let spec = pod(vec![main, script("side", words)]);
        node.run(&spec).await;
        node.ended(&spec).await;
        let said = |container| -> Vec<String> {
            node.output(&spec, container).iter().map(|line| line.replace('\t', " ")).collect()
        };
        let (main, side) = (said("main"), said("side"));
        for line in [&own_status("CapEff:"), "NoNewPrivs: 0", "Seccomp: 0", "mounted", "open"] {
            assert!(main.iter().any(|own| own == line), "{line}: {main:?}");
        }
        let devices: Vec<&String> = main.iter().filter(|line| line.starts_with("/dev/")).collect();
        for device in &devices {
            assert!(std::fs::metadata(device).is_ok(), "{device} is not the machine's");
        }
        let has_more = std::fs::read_dir("/dev").unwrap().flatten().any(|entry| entry.file_name() == "fuse");
        assert!(!has_more || devices.iter().any(|device| *device == "/dev/fuse"), "{devices:?}");
        for line in ["CapEff: 00000000800405fb", "NoNewPrivs: 1", "Seccomp: 2"] {
            assert!(side.iter().any(|own| own == line), "{line}: {side:?}");
        }
        assert!(
            side.len() == 3,
            "it mounts nothing, has no device, and the settings are closed to it: {side:?}"
        );
        node.take_down().await;
    });
}

#[test]
fn pod_in_namespaces_of_the_node_is_where_the_node_is_and_all_of_it_ends() {
    let name = "security::pod_in_namespaces_of_the_node_is_where_the_node_is_and_all_of_it_ends";
    in_namespaces(name, |node| async move {
        let words = "sleep 6543 & for kind in net ipc uts pid user; do readlink /proc/self/ns/$kind; done; hostname; \
                     cat /etc/hostname; grep -c . /proc/net/dev";
        let mut spec = pod(vec![script("main", words)]);
        (spec.spec.host_network, spec.spec.host_pid, spec.spec.host_ipc) = (true, true, true);
        node.run(&spec).await;
        let facts = node.ended(&spec).await;
        assert_eq!(facts.exit_code, Some(0), "{facts:?}");
        let said = node.output(&spec, "main");
        for (kind, line) in ["net", "ipc", "uts", "pid", "user"].iter().zip(&said) {
            let own = std::fs::read_link(format!("/proc/self/ns/{kind}")).unwrap();
            assert_eq!(Some(line.as_str()), own.to_str(), "{kind}");
        }
        let hostname = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
        assert_eq!([said[5].trim(), said[6].trim()], [hostname.trim(); 2]);
        let sleeps = || {
            let all = std::fs::read_dir("/proc").unwrap().flatten();
            let lines = all.filter_map(|entry| std::fs::read(entry.path().join("cmdline")).ok());
            lines.filter(|line| line.starts_with(b"sleep\x006543")).count()
        };
        // Its first process is over, and nobody but us ends what that left behind among the node's processes.
        let until = std::time::Instant::now() + std::time::Duration::from_secs(10);
        while sleeps() > 0 {
            assert!(std::time::Instant::now() < until, "what it began goes on");
            tokio::task::yield_now().await;
        }
        node.take_down().await;
    });
}
