//! The law of containers, as examples and as properties.

use proptest::prelude::*;

use super::*;
use crate::manifest::ContainerSpec;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_second(1_000_000 + seconds).unwrap()
}

fn named(name: &str) -> ContainerSpec {
    ContainerSpec { name: name.to_owned(), ..ContainerSpec::default() }
}

fn pod(inits: &[&str], mains: &[&str], restart_policy: RestartPolicy) -> WorkloadSpec {
    WorkloadSpec {
        init_containers: inits
            .iter()
            .map(|name| ContainerSpec {
                restart_policy: name.starts_with("side").then_some(RestartPolicy::Always),
                ..named(name)
            })
            .collect(),
        containers: mains.iter().map(|name| named(name)).collect(),
        restart_policy,
        ..WorkloadSpec::default()
    }
}

fn waits() -> ContainerStatus {
    ContainerStatus::waiting("c")
}

fn runs() -> ContainerStatus {
    ContainerStatus { phase: ContainerPhase::Running, started_at: Some(at(0)), ..waits() }
}

fn ended(code: i32, finished: i64, quick_ends: u32) -> ContainerStatus {
    ContainerStatus {
        phase: ContainerPhase::Exited,
        exit_code: Some(code),
        reason: (code != 0).then_some(Reason::NonZeroExit),
        started_at: Some(at(0)),
        finished_at: Some(at(finished)),
        quick_ends,
        restarts: quick_ends,
        ..waits()
    }
}

#[test]
fn init_containers_run_one_after_the_other_and_then_all_others() {
    let spec = pod(&["a", "b"], &["web", "helper"], RestartPolicy::Never);
    assert_eq!(first(&spec), [0]);
    let good = || ended(0, 1, 0);
    for (seen, expected) in [
        (vec![runs(), waits(), waits(), waits()], Course::Wait(None)),
        (vec![good(), waits(), waits(), waits()], Course::Start(vec![1])),
        (vec![good(), runs(), waits(), waits()], Course::Wait(None)),
        (vec![good(), good(), waits(), waits()], Course::Start(vec![2, 3])),
        (vec![good(), good(), runs(), runs()], Course::Wait(None)),
        (vec![good(), good(), good(), runs()], Course::Wait(None)),
        (vec![good(), good(), good(), good()], Course::Over),
        (vec![ended(1, 1, 0), waits(), waits(), waits()], Course::Over),
        (vec![good(), good(), ended(1, 1, 0), runs()], Course::End),
    ] {
        assert_eq!(course(&spec, &seen, at(2)), expected, "{seen:?}");
    }
}

#[test]
fn sidecar_starts_in_its_turn_and_is_ended_after_the_others() {
    let spec = pod(&["side", "a"], &["web"], RestartPolicy::OnFailure);
    assert_eq!(first(&spec), [0]);
    let good = || ended(0, 1, 0);
    for (seen, expected) in [
        (vec![runs(), waits(), waits()], Course::Start(vec![1])),
        (vec![runs(), good(), runs()], Course::Wait(None)),
        (vec![good(), good(), runs()], Course::Start(vec![0])),
        (vec![runs(), good(), good()], Course::End),
        (vec![good(), good(), good()], Course::Over),
    ] {
        assert_eq!(course(&spec, &seen, at(2)), expected, "{seen:?}");
    }
}

#[test]
fn sidecar_with_a_startup_probe_lets_others_begin_when_it_is_up() {
    let mut spec = pod(&["side"], &["web"], RestartPolicy::Never);
    let probe = r#"{"tcpSocket":{"port":1}}"#;
    spec.init_containers[0].startup_probe = Some(serde_json::from_str(probe).unwrap());
    assert_eq!(course(&spec, &[runs(), waits()], at(2)), Course::Wait(None));
    let up = ContainerStatus { ready: true, ..runs() };
    assert_eq!(course(&spec, &[up, waits()], at(2)), Course::Start(vec![1]));
}

#[test]
fn policy_says_who_is_started_again() {
    for (policy, code, expected) in [
        (RestartPolicy::Never, 0, Course::Over),
        (RestartPolicy::Never, 1, Course::Over),
        (RestartPolicy::OnFailure, 0, Course::Over),
        (RestartPolicy::OnFailure, 1, Course::Start(vec![0])),
        (RestartPolicy::Always, 0, Course::Start(vec![0])),
        (RestartPolicy::Always, 1, Course::Start(vec![0])),
    ] {
        let spec = pod(&[], &["web"], policy);
        assert_eq!(course(&spec, &[ended(code, 1, 0)], at(2)), expected, "{policy:?} {code}");
    }
}

#[test]
fn pause_doubles_and_is_the_first_again_after_a_long_run() {
    let spec = pod(&[], &["web"], RestartPolicy::Always);
    for (quick, pause) in [(0, 1), (1, 2), (5, 32), (9, 300), (200, 300)] {
        let seen = [ended(1, 10, quick)];
        assert_eq!(course(&spec, &seen, at(10)), Course::Wait(Some(at(10 + pause))));
        assert_eq!(course(&spec, &seen, at(10 + pause)), Course::Start(vec![0]));
    }
    let seen = [ended(1, 600, 9)];
    assert_eq!(quick_ends(&spec.restart_backoff, &seen[0]), 0);
    assert_eq!(course(&spec, &seen, at(600)), Course::Wait(Some(at(601))));
}

#[test]
fn clock_that_was_set_back_makes_no_pause_longer() {
    let spec = pod(&[], &["web"], RestartPolicy::Always);
    assert_eq!(course(&spec, &[ended(1, 1_000, 0)], at(0)), Course::Wait(Some(at(1))));
}

#[test]
fn crash_loop_is_told_with_its_pause() {
    let spec = pod(&["a"], &["web"], RestartPolicy::Always);
    let tell = |containers| told(&spec, Facts { containers, ..Facts::default() });
    let init = |own| ContainerStatus { init: true, ..own };
    let (status, facts) = tell(vec![init(runs()), waits()]);
    assert_eq!(status, Status::Creating);
    assert_eq!(facts.message.unwrap(), "init container \"c\" (1 of 1) is at work");
    let (status, facts) = tell(vec![init(ended(0, 1, 0)), ended(1, 1, 2)]);
    assert_eq!((status, facts.reason), (Status::Running, Some(Reason::CrashLoop)));
    assert_eq!(
        facts.message.unwrap(),
        "container \"c\" ended, for the 3rd time in a row; it is started again after 4 s"
    );
    let (status, facts) = tell(vec![init(ended(0, 1, 0)), runs()]);
    assert_eq!((status, facts.reason, facts.message), (Status::Running, None, None));
}

fn any_status() -> impl Strategy<Value = ContainerStatus> {
    prop_oneof![
        Just(waits()),
        Just(runs()),
        (0..2_i32, 0..700_i64, 0..12_u32).prop_map(|(code, finished, quick)| ended(code, finished, quick)),
    ]
}

proptest! {
    #[test]
    fn nothing_that_runs_is_started_and_never_means_once(
        seen in proptest::collection::vec(any_status(), 4),
        policy in prop_oneof![
            Just(RestartPolicy::Never), Just(RestartPolicy::OnFailure), Just(RestartPolicy::Always)
        ],
        now in 0..2_000_i64,
    ) {
        let spec = pod(&["a", "side"], &["web", "helper"], policy);
        match course(&spec, &seen, at(now)) {
            Course::Start(which) => {
                prop_assert!(!which.is_empty());
                for index in which {
                    prop_assert_ne!(seen[index].phase, ContainerPhase::Running);
                    if policy == RestartPolicy::Never && index != 1 {
                        prop_assert_eq!(seen[index].phase, ContainerPhase::Waiting);
                    }
                }
            }
            Course::Wait(Some(until)) => prop_assert!(until > at(now)),
            Course::Wait(None) => {
                prop_assert!(seen.iter().any(|own| own.phase == ContainerPhase::Running));
            }
            Course::End => prop_assert!(seen.iter().any(|own| own.phase == ContainerPhase::Running)),
            Course::Over => {
                prop_assert!(seen.iter().all(|own| own.phase != ContainerPhase::Running));
                prop_assert!(is_over(&spec, &seen));
            }
        }
    }
}
