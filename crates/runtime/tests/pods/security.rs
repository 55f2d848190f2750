//! What a container can see and do, told by a program inside it. The names are those of the table in
//! `docs/src/riklet/containers.md`.

use model::ContainerSpec;
use runtime::{InstanceSpec, Runtime};

use crate::node::{Node, in_namespaces, plain, pod};

/// A pod whose only container tries these things.
fn probing(image: String, words: &[&str]) -> InstanceSpec {
    let command = ["/bin/probe"].iter().chain(words).map(|word| (*word).to_owned()).collect();
    pod(vec![ContainerSpec { image, command, ..plain("probe") }])
}

/// What the probe says in a pod of its own.
async fn probe(node: &Node, words: &[&str]) -> Vec<String> {
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
            assert_eq!(probe(&node, &["filter", "calls", "threads"]).await, expected);
            node.take_down().await;
        },
    );
}

#[test]
fn s_pod_04_container_without_its_filter_never_begins() {
    in_namespaces("security::s_pod_04_container_without_its_filter_never_begins", |node| async move {
        let image = node.load_probe().await;
        for left in [None, Some(""), Some("rik seccomp 1\n")] {
            let spec = probing(image.clone(), &["filter"]);
            node.runtime.prepare(&spec, &|_| {}).await.unwrap();
            let filter = node.state.join("pods").join(&spec.uid).join("c/0/seccomp");
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
