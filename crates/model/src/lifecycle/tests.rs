//! The laws of the lifecycle, as properties.

use proptest::prelude::*;

use super::*;
use crate::{ContainerPhase, Kind, WorkloadSpec};

fn step(desired: Desired, observed: &Observed, history: History) -> Step {
    next_step(desired, observed, history, &WorkloadSpec::default(), Timestamp::UNIX_EPOCH)
}

fn instance(status: Status) -> Instance {
    Instance {
        id: "web-1".to_owned(),
        uid: "u1".to_owned(),
        workload_id: "w".to_owned(),
        workload: "web".to_owned(),
        namespace: "default".to_owned(),
        kind: Kind::Pod,
        status,
        node: Some("n1".to_owned()),
        reason: None,
        message: None,
        ip: None,
        ports: Vec::new(),
        exit_code: None,
        restarts: 0,
        start_times: None,
        ready: false,
        containers: Vec::new(),
        created_at: Timestamp::UNIX_EPOCH,
        started_at: None,
        finished_at: None,
        deleted_at: None,
        spec: WorkloadSpec::default(),
    }
}

fn report(said: Said) -> Report {
    Report { id: "web-1".to_owned(), uid: "u1".to_owned(), said }
}

fn any_status() -> impl Strategy<Value = Status> {
    prop::sample::select(Status::ALL.to_vec())
}

fn any_said() -> impl Strategy<Value = Said> {
    prop_oneof![
        (any_status(), any::<Option<i32>>()).prop_map(|(status, exit_code)| {
            Said::Status(status, Box::new(Facts { exit_code, ..Facts::default() }))
        }),
        Just(Said::Removing(Facts::default())),
        Just(Said::Gone),
    ]
}

proptest! {
    #[test]
    fn states_never_move_backward(first in any_status(), said in prop::collection::vec(any_said(), 0..40)) {
        let mut record = instance(first);
        for said in said {
            match accept(&record, "n1", &report(said)) {
                Accepted::Changed(new) => {
                    prop_assert!(new.status == record.status || record.status.may_become(new.status));
                    record = *new;
                }
                Accepted::Removed => {
                    prop_assert_eq!(record.status, Status::Destroying);
                    break;
                }
                Accepted::Unchanged | Accepted::Refused(_) => {}
            }
        }
    }

    #[test]
    fn a_repeated_report_changes_nothing(first in any_status(), said in any_said()) {
        let report = report(said);
        if let Accepted::Changed(new) = accept(&instance(first), "n1", &report) {
            prop_assert_eq!(accept(&new, "n1", &report), Accepted::Unchanged);
        }
    }

    #[test]
    fn only_the_node_that_owns_an_instance_is_believed(first in any_status(), said in any_said()) {
        let record = instance(first);
        prop_assert_eq!(accept(&record, "n2", &report(said.clone())), Accepted::Refused(Refusal::OtherNode));
        let other = Report { uid: "u2".to_owned(), ..report(said) };
        prop_assert_eq!(accept(&record, "n1", &other), Accepted::Refused(Refusal::OtherIncarnation));
    }
}

#[test]
fn an_ended_instance_never_runs_again() {
    for ended in [Status::Failed, Status::Terminated, Status::Destroying] {
        for next in [Status::Pending, Status::Creating, Status::Running] {
            assert!(!ended.may_become(next), "{ended} to {next}");
        }
    }
    let over = [Observed::Absent, Observed::Partial, Observed::Prepared];
    for observed in over {
        let step = step(Desired::Run, &observed, History::Over);
        assert!(!matches!(step, Step::Prepare | Step::Start(_)), "{observed:?}: {step:?}");
    }
}

#[test]
fn what_is_to_be_destroyed_is_never_started() {
    let facts = Facts::default;
    let all = [
        Observed::Absent,
        Observed::Partial,
        Observed::Prepared,
        Observed::Running(facts()),
        Observed::Ended(facts()),
        Observed::Released(facts()),
    ];
    for observed in all {
        for history in [History::Fresh, History::Begun, History::Over] {
            let step = step(Desired::Destroy, &observed, history);
            assert!(matches!(step, Step::Stop | Step::Remove | Step::ReportGone), "{observed:?}: {step:?}");
        }
    }
}

#[test]
fn a_node_that_forgot_an_instance_does_not_begin_it_again() {
    assert_eq!(step(Desired::Run, &Observed::Absent, History::Begun), Step::Forgotten);
    assert_eq!(step(Desired::Run, &Observed::Absent, History::Fresh), Step::Prepare);
}

#[test]
fn status_strings_are_the_documented_six() {
    let names: Vec<String> =
        Status::ALL.iter().map(|status| serde_json::to_string(status).unwrap()).collect();
    assert_eq!(
        names,
        [
            r#""Pending""#,
            r#""Creating""#,
            r#""Running""#,
            r#""Failed""#,
            r#""Terminated""#,
            r#""Destroying""#
        ]
    );
}

#[test]
fn the_failure_of_one_container_ends_its_pod() {
    let container = |phase, reason| ContainerStatus { phase, reason, ..ContainerStatus::waiting("a") };
    let running = container(ContainerPhase::Running, None);
    let pod =
        |other| Observed::Running(Facts { containers: vec![running.clone(), other], ..Facts::default() });
    let step = |observed| step(Desired::Run, &observed, History::Begun);
    assert_eq!(step(pod(container(ContainerPhase::Exited, Some(Reason::NonZeroExit)))), Step::Stop);
    assert_eq!(step(pod(container(ContainerPhase::Exited, None))), Step::Watch(None));
}
