//! The shim with real containers: it starts them, logs them, tells how they ended, and may die at any time.

mod bench;

use std::time::Duration;

use bench::{Bench, read_log};
use runtime::pod::shim::wire::{Answer, Request};

#[test]
fn container_runs_logs_and_ends_with_its_code() {
    let bench = Bench::new();
    bench.begin_shim();
    let pod = bench.pod(&["echo out; echo err >&2; printf last; exit 7"]);
    let mut caller = bench.caller();
    assert_eq!(caller.ask(bench.start(&pod)), Answer::Started);
    let exit = bench.wait_for_exit(&pod, 0);
    assert_eq!((exit.code, exit.signal, exit.out_of_memory), (Some(7), None, false));
    let log = read_log(&pod.log(0));
    assert_eq!(log, ["stdout F out", "stderr F err", "stdout F last"]);
    let again = caller.ask(bench.start(&pod));
    assert!(matches!(again, Answer::Refused { .. }), "{again:?}");
    assert_eq!(caller.ask(Request::Shutdown), Answer::Done);
}

#[test]
fn program_that_cannot_run_is_explained_and_the_others_of_its_pod_go_on() {
    let bench = Bench::new();
    bench.begin_shim();
    let mut pod = bench.pod(&["sleep 1000", "true"]);
    pod.set_args(1, &["/bin/nope"]);
    let mut caller = bench.caller();
    let answer = caller.ask(bench.start(&pod));
    let why = "\"/bin/nope\" not found in the image".to_owned();
    assert_eq!(answer, Answer::StartFailed { index: 1, why: why.clone() });
    assert_eq!(bench.wait_for_exit(&pod, 1).start_error, Some(why));
    let kill = Request::Signal { pod: pod.uid.clone(), only: vec![0], signal: 9 };
    assert_eq!(caller.ask(kill), Answer::Signalled { running: 1, hearing: 1 });
    assert_eq!(bench.wait_for_exit(&pod, 0).signal, Some(9));
    let mut text = bench.pod(&["true"]);
    text.set_args(0, &["/etc/words"]);
    let answer = caller.ask(bench.start(&text));
    let Answer::StartFailed { why, .. } = answer else { panic!("{answer:?}") };
    assert!(why.contains("wrong format"), "{why}");
    assert_eq!(caller.ask(Request::Shutdown), Answer::Done);
}

#[test]
fn killed_shim_breaks_no_container_and_the_next_one_takes_over() {
    let bench = Bench::new();
    bench.begin_shim();
    // Writes on and on, more than a pipe holds, and ends when it is told to.
    let script = "trap 'exit 5' TERM; n=0; while :; do n=$((n+1)); echo line $n; sleep 0.01; done";
    let pod = bench.pod(&[script]);
    let mut caller = bench.caller();
    assert_eq!(caller.ask(bench.start(&pod)), Answer::Started);
    let Answer::Version { pid, .. } = caller.ask(Request::Version) else { panic!("no version") };
    let container = bench.process(&pod, 0).pid;
    bench.kill(pid);
    bench.begin_shim();
    let mut caller = bench.caller();
    let Answer::Pods(pods) = caller.ask(Request::List) else { panic!("no list") };
    assert_eq!(pods.iter().map(|pod| pod.running.len()).sum::<usize>(), 1);
    assert_eq!(bench.process(&pod, 0).pid, container);
    let before = read_log(&pod.log(0)).len();
    bench.wait_until("it logs again", Duration::from_secs(20), || read_log(&pod.log(0)).len() > before + 10);
    let lines = read_log(&pod.log(0));
    let expected: Vec<String> = (1..=lines.len()).map(|n| format!("stdout F line {n}")).collect();
    assert_eq!(lines, expected, "lines were lost or torn");
    let signal = Request::Signal { pod: pod.uid.clone(), only: Vec::new(), signal: 15 };
    assert_eq!(caller.ask(signal), Answer::Signalled { running: 1, hearing: 1 });
    let exit = bench.wait_for_exit(&pod, 0);
    // It was not this shim's child: if its new parent was quicker on an older kernel, the code is honestly unknown.
    assert!(matches!(exit.code, Some(5) | None), "{exit:?}");
    assert_eq!(caller.ask(Request::Shutdown), Answer::Done);
}

#[test]
fn container_that_ended_while_no_shim_was_there_is_found_ended() {
    let bench = Bench::new();
    bench.begin_shim();
    let pod = bench.pod(&["echo begun; read line; sleep 1000"]);
    let mut caller = bench.caller();
    assert_eq!(caller.ask(bench.start(&pod)), Answer::Started);
    let Answer::Version { pid, .. } = caller.ask(Request::Version) else { panic!("no version") };
    let container = bench.process(&pod, 0).pid;
    // What is still in a pipe goes with the last who holds it: so it has to be in the log before both are gone.
    bench.wait_until("it logs", Duration::from_secs(20), || !read_log(&pod.log(0)).is_empty());
    bench.kill(pid);
    bench.kill(container);
    bench.begin_shim();
    let exit = bench.wait_for_exit(&pod, 0);
    // Known as long as nobody has reaped it.
    assert!(matches!((exit.code, exit.signal), (None, Some(9) | None)), "{exit:?}");
    assert_eq!(read_log(&pod.log(0)), ["stdout F begun"]);
    assert_eq!(bench.caller().ask(Request::Shutdown), Answer::Done);
}

#[test]
fn shim_becomes_another_program_and_keeps_its_children_their_codes_and_their_lines() {
    const UPGRADES: usize = 6;
    let bench = Bench::new();
    bench.begin_shim();
    let script = "trap 'exit 5' TERM; n=0; while :; do n=$((n+1)); echo line $n; sleep 0.01; done";
    let steady = bench.pod(&[script]);
    let mut caller = bench.caller();
    assert_eq!(caller.ask(bench.start(&steady)), Answer::Started);
    let Answer::Version { pid, .. } = caller.ask(Request::Version) else { panic!("no version") };
    let container = bench.process(&steady, 0).pid;
    let mut brief = Vec::new();
    for number in 0..UPGRADES {
        // It ends at about the time at which the shim is neither the one program nor the other.
        let pod = bench.pod(&[&format!("sleep 0.0{number}; exit {}", 10 + number)]);
        assert_eq!(bench.caller().ask(bench.start(&pod)), Answer::Started);
        brief.push(pod);
        let program = bench.copy_program(&format!("program-{number}"));
        bench.upgrade(&program).unwrap();
        // The socket was there all the time.
        let Answer::Version { pid: now, .. } = bench.caller().ask(Request::Version) else {
            panic!("no version")
        };
        assert_eq!(now, pid, "another process");
        assert_eq!(std::fs::read_link(format!("/proc/{pid}/exe")).unwrap(), program);
        assert_eq!(bench.try_begin_shim().code(), Some(3), "the lock was let go");
    }
    for (number, pod) in brief.iter().enumerate() {
        let code = i32::try_from(10 + number).unwrap();
        assert_eq!(bench.wait_for_exit(pod, 0).code, Some(code));
    }
    let before = read_log(&steady.log(0)).len();
    bench.wait_until("it logs again", Duration::from_secs(20), || {
        read_log(&steady.log(0)).len() > before + 10
    });
    let lines: Vec<String> = read_log(&steady.log(0));
    let expected: Vec<String> = (1..=lines.len()).map(|n| format!("stdout F line {n}")).collect();
    assert_eq!(lines, expected, "lines were lost or torn");
    assert_eq!(bench.process(&steady, 0).pid, container);
    let mut caller = bench.caller();
    let signal = Request::Signal { pod: steady.uid.clone(), only: Vec::new(), signal: 15 };
    assert_eq!(caller.ask(signal), Answer::Signalled { running: 1, hearing: 1 });
    assert_eq!(bench.wait_for_exit(&steady, 0).code, Some(5), "its own child's code is always known");
    assert_eq!(caller.ask(Request::Shutdown), Answer::Done);
}

#[test]
fn shim_that_cannot_become_another_program_goes_on_as_before() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    bench.begin_shim();
    let pod = bench.pod(&["echo begun; trap 'exit 5' TERM; while :; do sleep 0.01; done"]);
    assert_eq!(bench.caller().ask(bench.start(&pod)), Answer::Started);
    bench.wait_until("it logs", Duration::from_secs(20), || !read_log(&pod.log(0)).is_empty());
    let program = bench.copy_program("gone");
    // The caller runs, and its file can no longer be executed.
    let caller = program.clone();
    let socket = bench.socket();
    let mut asking = std::process::Command::new("/bin/sh");
    asking.arg("-c").arg("exec \"$0\" upgrade \"$1\"").arg(&caller).arg(&socket);
    let hold = bench.hold_shim();
    let asked = asking.stdout(std::process::Stdio::piped()).spawn().unwrap();
    bench.wait_until("the caller runs", Duration::from_secs(20), || {
        std::fs::read_link(format!("/proc/{}/exe", asked.id())).is_ok_and(|path| path == program)
    });
    std::fs::set_permissions(&program, std::fs::Permissions::from_mode(0o600)).unwrap();
    drop(hold);
    let output = asked.wait_with_output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(!output.status.success() && said.contains("executing the caller's program"), "{said}");
    let mut caller = bench.caller();
    caller.ask(Request::Signal { pod: pod.uid.clone(), only: Vec::new(), signal: 15 });
    assert_eq!(bench.wait_for_exit(&pod, 0).code, Some(5));
    assert_eq!(caller.ask(Request::Shutdown), Answer::Done);
}

#[test]
fn flood_of_output_is_bounded_and_delays_nobody() {
    let bench = Bench::new();
    bench.begin_shim();
    let flood = bench.pod(&["yes 0123456789012345678901234567890123456789", "tr '\\0' x < /dev/zero"]);
    let mut caller = bench.caller();
    assert_eq!(caller.ask(bench.start(&flood)), Answer::Started);
    let calm = bench.pod(&["echo calm; exit 0"]);
    assert_eq!(caller.ask(bench.start(&calm)), Answer::Started);
    assert_eq!(bench.wait_for_exit(&calm, 0).code, Some(0));
    assert_eq!(read_log(&calm.log(0)), ["stdout F calm"]);
    bench.wait_until("both logs are rotated", Duration::from_secs(60), || {
        [0, 1].iter().all(|index| runtime::pod::shim::log::rotated(&flood.log(*index), 2).exists())
    });
    let Answer::Version { pid, .. } = caller.ask(Request::Version) else { panic!("no version") };
    assert!(bench.anonymous_kib(pid) < 8 << 10, "the shim grew to {} KiB", bench.anonymous_kib(pid));
    let total: u64 =
        std::fs::read_dir(flood.logs()).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
    assert!(total < (2 * (3 * 10 + 2)) << 20, "{total} bytes of logs");
    caller.ask(Request::Signal { pod: flood.uid.clone(), only: Vec::new(), signal: 9 });
    assert_eq!(bench.wait_for_exit(&flood, 0).signal, Some(9));
    bench.wait_for_exit(&flood, 1);
    assert_eq!(caller.ask(Request::Shutdown), Answer::Done);
}

#[test]
fn second_shim_of_a_directory_steps_back() {
    let bench = Bench::new();
    bench.begin_shim();
    assert_eq!(bench.try_begin_shim().code(), Some(3));
    assert_eq!(bench.caller().ask(Request::Shutdown), Answer::Done);
}
