//! Containers that run more than once, and those that run before or beside the others.

use std::io::Write;

use crate::node::{Node, in_namespaces, pod, script};
use model::{
    ContainerPhase, ContainerSpec, Reason,
    lifecycle::{Facts, Observed},
    manifest::{ResourceList, Resources, health::RestartPolicy},
    quantity::Memory,
};
use runtime::{InstanceSpec, Runtime, pod::PodRuntimeConfig};

fn with_policy(policy: RestartPolicy, containers: Vec<ContainerSpec>) -> InstanceSpec {
    let mut spec = pod(containers);
    spec.spec.restart_policy = policy;
    spec
}

fn exited(index: usize) -> impl Fn(&Facts) -> bool {
    move |facts| facts.containers[index].phase == ContainerPhase::Exited
}

async fn start(node: &Node, spec: &InstanceSpec, index: usize) {
    node.runtime.start(&spec.uid, &[index]).await.unwrap_or_else(|error| panic!("{}", error.sentence()));
}

#[test]
fn container_starts_again_with_a_fresh_file_system_and_a_log_of_its_own() {
    in_namespaces(
        "container_starts_again_with_a_fresh_file_system_and_a_log_of_its_own",
        |node| async move {
            let words =
                "if [ -e /mark ]; then echo stale; else echo fresh; fi; echo x > /mark; sleep 0.1; exit 5";
            let spec = with_policy(
                RestartPolicy::OnFailure,
                vec![script("web", words), script("other", "sleep 1000")],
            );
            node.run(&spec).await;
            let first = node.seen(&spec, exited(0)).await;
            let other = first.containers[1].pid;
            assert_eq!(first.containers[0].exit_code, Some(5));
            for run in 1..4 {
                start(&node, &spec, 0).await;
                let facts = node.seen(&spec, exited(0)).await;
                let web = &facts.containers[0];
                assert_eq!((web.restarts, web.quick_ends, facts.restarts), (run, run, run));
                assert_eq!(web.last_run.as_ref().unwrap().exit_code, Some(5));
                assert_eq!(node.output(&spec, "web"), ["fresh"]);
                assert_eq!(
                    (facts.containers[1].pid, facts.ip),
                    (other, first.ip),
                    "the rest of the pod noticed"
                );
            }
            let logs = node.state.join("logs").join(&spec.uid);
            let mut kept: Vec<_> =
                std::fs::read_dir(logs).unwrap().map(|entry| entry.unwrap().file_name()).collect();
            kept.sort();
            assert_eq!(kept, ["0.2.log", "0.3.log", "1.log"]);
            node.take_down().await;
        },
    );
}

#[test]
fn start_of_what_runs_or_has_not_been_seen_to_end_changes_nothing() {
    in_namespaces(
        "restarts::start_of_what_runs_or_has_not_been_seen_to_end_changes_nothing",
        |node| async move {
            let spec = with_policy(RestartPolicy::Always, vec![script("web", "sleep 1000")]);
            node.run(&spec).await;
            let before = node.running(&spec).await;
            start(&node, &spec, 0).await;
            assert_eq!(node.running(&spec).await, before);
            node.take_down().await;
        },
    );
}

#[test]
fn pod_between_two_runs_is_the_same_to_a_new_agent_and_can_be_stopped() {
    in_namespaces(
        "restarts::pod_between_two_runs_is_the_same_to_a_new_agent_and_can_be_stopped",
        |node| async move {
            let spec = with_policy(RestartPolicy::Always, vec![script("web", "exit 0")]);
            node.run(&spec).await;
            node.seen(&spec, exited(0)).await;
            start(&node, &spec, 0).await;
            let before = node.seen(&spec, exited(0)).await;
            assert_eq!(before.restarts, 1);
            let node = node.reopen().await;
            assert_eq!(node.running(&spec).await, before);
            node.runtime.stop(&spec.uid).await.unwrap();
            assert_eq!(node.ended(&spec).await.exit_code, Some(0));
            assert!(
                node.runtime.start(&spec.uid, &[0]).await.is_err(),
                "it was started after its end was asked for"
            );
            node.take_down().await;
        },
    );
}

#[test]
fn container_that_starts_again_keeps_its_user_namespace_though_the_agent_finds_none_for_new_ones() {
    in_namespaces(
        "restarts::container_that_starts_again_keeps_its_user_namespace_though_the_agent_finds_none_for_new_ones",
        |node| async move {
            let words = "cat /proc/self/uid_map";
            let spec = with_policy(RestartPolicy::Always, vec![script("web", words)]);
            node.run(&spec).await;
            node.seen(&spec, exited(0)).await;
            let before = node.output(&spec, "web");
            let node = node.reopen_as(|config| PodRuntimeConfig { user_namespaces: false, ..config }).await;
            start(&node, &spec, 0).await;
            node.seen(&spec, |facts| facts.restarts == 1 && exited(0)(facts)).await;
            assert_eq!(node.output(&spec, "web"), before);
            let other = pod(vec![script("web", words)]);
            node.run(&other).await;
            node.ended(&other).await;
            assert_ne!(node.output(&other, "web"), before, "a new one has none");
            node.take_down().await;
        },
    );
}

#[test]
fn memory_that_one_run_used_is_not_held_against_the_next() {
    in_namespaces("restarts::memory_that_one_run_used_is_not_held_against_the_next", |node| async move {
        let mut container = script("greedy", "read go; exec dd if=/dev/zero of=/dev/null bs=200M");
        let limits = ResourceList { memory: Some(Memory(24 << 20)), ..ResourceList::default() };
        container.resources = Some(Resources { requests: None, limits: Some(limits) });
        let spec = with_policy(RestartPolicy::Always, vec![container]);
        node.run(&spec).await;
        let input = node.state.join("run").join(&spec.uid).join("c/0/stdin");
        std::fs::OpenOptions::new().write(true).open(input).unwrap().write_all(b"go\n").unwrap();
        let facts = node.seen(&spec, exited(0)).await;
        assert_eq!(facts.containers[0].reason, Some(Reason::OutOfMemory));
        start(&node, &spec, 0).await;
        let pid = node.running(&spec).await.containers[0].pid.unwrap();
        let pid = rustix::process::Pid::from_raw(pid.cast_signed()).unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
        let facts = node.seen(&spec, exited(0)).await;
        assert_eq!(facts.containers[0].reason, Some(Reason::Signaled));
        node.take_down().await;
    });
}

#[test]
fn init_containers_come_first_and_sidecars_end_last() {
    in_namespaces("restarts::init_containers_come_first_and_sidecars_end_last", |node| async move {
        let ends = |name: &str| {
            format!("trap 'echo {name} ended; exit 0' TERM; echo up; while :; do sleep 0.05; done")
        };
        let mut spec = pod(vec![script("web", &ends("web"))]);
        let mut sidecar = script("proxy", &ends("proxy"));
        sidecar.restart_policy = Some(RestartPolicy::Always);
        spec.spec.init_containers = vec![script("migrate", "echo done"), sidecar];
        node.run(&spec).await;
        let facts = node.seen(&spec, exited(0)).await;
        assert_eq!(facts.containers[0].exit_code, Some(0));
        assert!(facts.containers[0].init && !facts.containers[2].init);
        assert_eq!(facts.containers[2].phase, ContainerPhase::Waiting);
        assert_eq!(facts.started_at, None);
        start(&node, &spec, 1).await;
        start(&node, &spec, 2).await;
        let facts = node.running(&spec).await;
        assert!(facts.started_at.is_some());
        for name in ["web", "proxy"] {
            while node.output(&spec, name) != ["up"] {
                tokio::time::sleep(std::time::Duration::from_millis(10)).await;
            }
        }
        node.runtime.stop(&spec.uid).await.unwrap();
        let facts = node.ended(&spec).await;
        assert_eq!((facts.reason, facts.exit_code), (None, Some(0)), "{facts:?}");
        // When its last word came.
        let ended = |name: &str| -> jiff::Timestamp {
            let log = node.runtime.logs(&spec.uid, Some(name)).unwrap().remove(0);
            let text = std::fs::read_to_string(log).unwrap();
            let line = text.lines().find(|line| line.contains("ended")).unwrap();
            line.split(' ').next().unwrap().parse().unwrap()
        };
        assert!(ended("web") < ended("proxy"), "the sidecar ended first");
        assert!(matches!(node.runtime.inspect(&spec.uid).await.unwrap(), Observed::Ended(_)));
        node.take_down().await;
    });
}
