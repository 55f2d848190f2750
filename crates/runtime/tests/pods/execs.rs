//! Further programs in running containers.

use std::time::Duration;

use crate::node::{Node, in_namespaces, pod, script};
use runtime::{
    InstanceSpec, Runtime,
    pod::exec::{Done, ExecSession, ExecSpec, Streams},
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

fn shell(words: &str) -> ExecSpec {
    let command = ["sh", "-c", words].map(str::to_owned).to_vec();
    ExecSpec { command, ..ExecSpec::default() }
}

async fn begin(node: &Node, spec: &InstanceSpec, wanted: ExecSpec) -> ExecSession {
    node.runtime.exec(&spec.uid, 0, wanted).await.unwrap_or_else(|error| panic!("{}", error.sentence()))
}

async fn run(node: &Node, spec: &InstanceSpec, words: &str) -> Done {
    begin(node, spec, shell(words)).await.run().await.unwrap()
}

async fn sleeping(node: &Node) -> InstanceSpec {
    let spec = pod(vec![script("main", "echo main > /mark; exec sleep 1000")]);
    node.run(&spec).await;
    while run(node, &spec, "cat /mark").await.exit.code != Some(0) {}
    spec
}

#[test]
fn program_has_what_the_container_has_and_no_more() {
    in_namespaces("execs::program_has_what_the_container_has_and_no_more", |node| async move {
        let spec = sleeping(&node).await;
        let own =
            run(&node, &spec, "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:)' /proc/self/status").await;
        let of_main =
            run(&node, &spec, "grep -E '^(Uid|Gid|Groups|Cap|NoNewPrivs|Seccomp:)' /proc/1/status").await;
        assert_eq!(own.output, of_main.output);
        assert!(own.output.contains("NoNewPrivs:\t1"), "{}", own.output);
        for kind in ["net", "ipc", "uts", "mnt", "pid", "cgroup", "user"] {
            let same = format!("test $(readlink /proc/self/ns/{kind}) = $(readlink /proc/1/ns/{kind})");
            assert_eq!(run(&node, &spec, &same).await.exit.code, Some(0), "{kind}");
        }
        let groups = run(&node, &spec, "cat /proc/self/cgroup").await.output;
        assert_eq!(groups, run(&node, &spec, "cat /proc/1/cgroup").await.output);
        // The shell itself opens one more to read the directory.
        assert_eq!(run(&node, &spec, "cd /proc/self/fd; echo *").await.output.trim(), "0 1 2 3");
        assert_eq!(run(&node, &spec, "pwd; cat /mark; echo $HOME").await.output, "/srv/work\nmain\n/root\n");
        let with = ExecSpec {
            env: vec!["A=b".to_owned()],
            working_dir: Some("/etc".into()),
            ..shell("pwd; echo $A")
        };
        assert_eq!(begin(&node, &spec, with).await.run().await.unwrap().output, "/etc\nb\n");
        node.take_down().await;
    });
}

#[test]
fn codes_signals_and_refusals_come_back() {
    in_namespaces("execs::codes_signals_and_refusals_come_back", |node| async move {
        let spec = sleeping(&node).await;
        assert_eq!(run(&node, &spec, "exit 7").await.exit.code, Some(7));
        assert_eq!(run(&node, &spec, "kill -9 $$").await.exit.signal, Some(9));
        for (command, words) in
            [("/bin/nope", "\"/bin/nope\" not found in the image"), ("/etc", "is a directory, not a program")]
        {
            let wanted = ExecSpec { command: vec![command.to_owned()], ..ExecSpec::default() };
            let error = node.runtime.exec(&spec.uid, 0, wanted).await.unwrap_err();
            assert!(error.sentence().contains(words), "{}", error.sentence());
        }
        let nowhere = ExecSpec { working_dir: Some("/nowhere".into()), ..shell("true") };
        let error = node.runtime.exec(&spec.uid, 0, nowhere).await.unwrap_err();
        assert!(error.sentence().contains("the directory /nowhere"), "{}", error.sentence());
        node.runtime.stop(&spec.uid).await.unwrap();
        let error = node.runtime.exec(&spec.uid, 0, shell("true")).await.unwrap_err();
        assert!(error.sentence().contains("does not run"), "{}", error.sentence());
        node.take_down().await;
    });
}

#[test]
fn input_reaches_the_program_and_its_end_as_well() {
    in_namespaces("execs::input_reaches_the_program_and_its_end_as_well", |node| async move {
        let spec = sleeping(&node).await;
        let mut session = begin(&node, &spec, shell("wc -c; echo err >&2")).await;
        let Streams::Pipes { input, output, errors } = &mut session.streams else { panic!("pipes") };
        let mut sender = input.take().unwrap();
        let count = 300_000;
        sender.write_all(&vec![b'x'; count]).await.unwrap();
        drop(sender);
        let (mut said, mut complained) = (String::new(), String::new());
        output.read_to_string(&mut said).await.unwrap();
        errors.read_to_string(&mut complained).await.unwrap();
        assert_eq!((said.trim(), complained.as_str()), (count.to_string().as_str(), "err\n"));
        assert_eq!(session.handle.ended().await.unwrap().code, Some(0));
        node.take_down().await;
    });
}

#[test]
fn session_that_is_dropped_ends_its_program_and_leaves_no_file() {
    in_namespaces("execs::session_that_is_dropped_ends_its_program_and_leaves_no_file", |node| async move {
        let spec = sleeping(&node).await;
        let words = "trap '' PIPE HUP TERM; echo $$ > /pid; while :; do sleep 0.1; done";
        let session = begin(&node, &spec, shell(words)).await;
        let there = "test -s /pid && test -d /proc/$(cat /pid)";
        while run(&node, &spec, there).await.exit.code != Some(0) {}
        drop(session);
        while run(&node, &spec, there).await.exit.code == Some(0) {}
        let dir = node.state.join("run").join(&spec.uid).join("x");
        while std::fs::read_dir(&dir).unwrap().count() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        node.take_down().await;
    });
}

#[test]
fn terminal_is_of_the_container_and_has_its_size() {
    in_namespaces("execs::terminal_is_of_the_container_and_has_its_size", |node| async move {
        let spec = sleeping(&node).await;
        let words = "trap 'stty size; exit 4' WINCH; tty; stty size; read line; echo got $line; while :; do sleep 0.05; done";
        let wanted = ExecSpec { terminal: Some((10, 40)), ..shell(words) };
        let session = begin(&node, &spec, wanted).await;
        let Streams::Terminal(terminal) = &session.streams else { panic!("a terminal") };
        let mut seen = String::new();
        let mut buffer = [0_u8; 1024];
        let mut typed = false;
        loop {
            let count = terminal.read(&mut buffer).await.unwrap();
            if count == 0 {
                break;
            }
            seen.push_str(&String::from_utf8_lossy(&buffer[..count]));
            if !typed && seen.contains("10 40") {
                typed = true;
                terminal.write(b"hello\n").await.unwrap();
            }
            if seen.contains("got hello") {
                terminal.resize(20, 60).unwrap();
            }
        }
        assert!(seen.starts_with("/dev/pts/0\r\n10 40\r\n"), "{seen:?}");
        assert!(seen.contains("got hello") && seen.contains("20 60"), "{seen:?}");
        assert_eq!(session.handle.ended().await.unwrap().code, Some(4));
        node.take_down().await;
    });
}
