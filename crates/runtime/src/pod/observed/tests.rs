//! What files of a pod mean, as examples.

use jiff::Timestamp;
use model::{ContainerSpec, Kind, WorkloadSpec};

use super::*;
use crate::InstanceSpec;

fn record(stage: Stage, names: &[&str]) -> Record {
    let container = |name: &&str| ContainerSpec { name: (*name).to_owned(), ..ContainerSpec::default() };
    let spec = WorkloadSpec { containers: names.iter().map(container).collect(), ..WorkloadSpec::default() };
    let spec = InstanceSpec {
        id: "web".to_owned(),
        uid: "uid".to_owned(),
        kind: Kind::Pod,
        spec,
        given: Default::default(),
    };
    let mut record = Record { stage, boot_id: "now".to_owned(), ..Record::new(spec, String::new()) };
    if stage >= Stage::Started {
        record.runs.iter_mut().for_each(|runs| runs.begun = 1);
    }
    record
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn process(second: i64) -> Option<ProcessFile> {
    Some(ProcessFile {
        pid: 42,
        start_ticks: 1,
        boot_id: "now".to_owned(),
        created_at: at(second),
        log: "/l".into(),
        stop_signal: 15,
        memory_dir: None,
        run: 0,
        stdin_once: false,
        group: None,
    })
}

fn running() -> ContainerFiles {
    ContainerFiles { process: process(1), exit: None, said: None }
}

fn over(second: i64, exit: ExitFile) -> ContainerFiles {
    ContainerFiles {
        process: process(1),
        exit: Some(ExitFile { finished_at: Some(at(second)), ..exit }),
        said: None,
    }
}

fn code(code: i32) -> ExitFile {
    ExitFile { code: Some(code), ..ExitFile::default() }
}

fn look(record: &Record, files: &[ContainerFiles]) -> Observed {
    observe(record, files, Circumstances { boot_id: "now", starting: false })
}

fn ended(record: &Record, files: &[ContainerFiles]) -> Facts {
    match look(record, files) {
        Observed::Ended(facts) => facts,
        other => panic!("not ended: {other:?}"),
    }
}

#[test]
fn pod_runs_while_one_of_its_containers_does() {
    let record = record(Stage::Started, &["a", "b"]);
    let Observed::Running(facts) = look(&record, &[over(5, code(3)), running()]) else {
        panic!("not running")
    };
    assert_eq!((facts.reason, facts.exit_code, facts.finished_at), (None, None, None));
    assert_eq!(facts.containers[0].reason, Some(Reason::NonZeroExit));
    assert_eq!((facts.containers[1].pid, facts.containers[1].phase), (Some(42), ContainerPhase::Running));
}

#[test]
fn pod_that_ended_tells_of_the_container_that_failed_first() {
    let record = record(Stage::Started, &["a", "b", "c"]);
    let killed = ExitFile { signal: Some(9), ..ExitFile::default() };
    let facts = ended(&record, &[over(9, code(0)), over(8, killed), over(7, code(3))]);
    assert_eq!((facts.reason, facts.exit_code), (Some(Reason::NonZeroExit), Some(3)));
    assert_eq!(facts.message.as_deref(), Some("container \"c\" ended with exit code 3"));
    assert_eq!((facts.started_at, facts.finished_at), (Some(at(1)), Some(at(9))));
}

#[test]
fn every_kind_of_end_has_its_reason() {
    let oom = ExitFile { signal: Some(9), out_of_memory: true, ..ExitFile::default() };
    let start = ExitFile { start_error: Some("no such thing".to_owned()), ..ExitFile::default() };
    let cases = [
        (code(0), None, Some(0)),
        (code(3), Some(Reason::NonZeroExit), Some(3)),
        (ExitFile { signal: Some(15), ..ExitFile::default() }, Some(Reason::Signaled), Some(143)),
        (oom, Some(Reason::OutOfMemory), Some(137)),
        (ExitFile { out_of_memory: true, ..code(0) }, None, Some(0)),
        (ExitFile::default(), Some(Reason::ExitUnknown), None),
        (start, Some(Reason::StartFailed), None),
    ];
    for (exit, reason, exit_code) in cases {
        let facts = ended(&record(Stage::Started, &["a"]), &[over(2, exit.clone())]);
        assert_eq!((facts.reason, facts.exit_code), (reason, exit_code), "{exit:?}");
        assert_eq!(facts.message.is_some(), reason.is_some());
    }
}

#[test]
fn start_that_was_cut_off_is_over_unless_the_shim_is_at_it() {
    let record = record(Stage::Started, &["a"]);
    let mut files = [ContainerFiles::default()];
    assert!(is_unclear(&record, &files, "now"));
    let starting = PodLook { starting: true, ..PodLook::default() };
    end_unwatched(&record, &mut files, &starting);
    assert!(matches!(look(&record, &files), Observed::Running(_)));
    end_unwatched(&record, &mut files, &PodLook::default());
    assert_eq!(ended(&record, &files).reason, Some(Reason::StartFailed));
}

#[test]
fn container_whose_end_could_not_be_written_down_does_not_run_for_ever() {
    let record = record(Stage::Started, &["a", "b"]);
    let mut files = [running(), running()];
    assert!(is_unclear(&record, &files, "now"), "no process has such a start time");
    end_unwatched(&record, &mut files, &PodLook { running: vec![1], ..PodLook::default() });
    let Observed::Running(facts) = look(&record, &files) else { panic!("not running") };
    assert_eq!(facts.containers[0].reason, Some(Reason::ExitUnknown));
    assert_eq!(facts.containers[1].phase, ContainerPhase::Running);
}

#[test]
fn after_a_boot_nothing_runs_and_what_had_ended_before_keeps_its_end() {
    let later = |record: &Record, files: &[ContainerFiles]| {
        observe(record, files, Circumstances { boot_id: "later", starting: false })
    };
    let Observed::Ended(facts) = later(&record(Stage::Started, &["a"]), &[running()]) else {
        panic!("not ended")
    };
    assert_eq!((facts.reason, facts.containers[0].pid), (Some(Reason::NodeRestarted), None));
    let Observed::Ended(facts) = later(&record(Stage::Started, &["a"]), &[over(2, code(0))]) else {
        panic!("not ended")
    };
    assert_eq!((facts.reason, facts.exit_code), (None, Some(0)));
    let Observed::Ended(facts) = later(&record(Stage::Prepared, &["a"]), &[]) else { panic!("not ended") };
    assert_eq!(facts.reason, Some(Reason::NodeRestarted));
    assert_eq!(later(&record(Stage::Preparing, &["a"]), &[]), Observed::Partial);
}
