//! Being there while a container runs: terminals, input that ends, output that is not lost.

use std::io::{Read, Write};
use std::process::{Command, Stdio};

use e2e::lab::NODE;
use e2e::manifest::{pod, shell};
use e2e::terminal::Typed;
use e2e::{Lab, SHORT, programs, story, wait_until};
use serde_json::Value;

fn rikctl(arguments: &[&str]) -> Command {
    let mut command = Command::new(programs::built("rikctl"));
    command.args(arguments).env("RIK_CLUSTER_SERVER", "http://127.0.0.1:5000");
    command
}

fn shell_of(name: &str, words: &str, extra: &[&str]) -> Value {
    let mut container = shell("main", words);
    for field in extra {
        container[*field] = true.into();
    }
    pod(name, &[container])
}

#[test]
fn image_runs_in_this_terminal_from_its_first_word_to_its_code() {
    story(|lab| {
        let api = lab.cluster();
        let line = ["run", "-it", "--rm", "--name", "desk", "busybox:1", "--", "/bin/busybox", "sh"];
        let mut person = Typed::start(rikctl(&line), 33, 101);
        // The prompt comes before anything is typed, and before anybody is attached.
        person.wait_for("# ");
        person.press("busybox stty size; busybox tty; echo $TERM\r");
        person.wait_for("33 101\r\n/dev/pts/0\r\nxterm");
        // Ctrl-C ends the program that runs, and not the shell.
        person.press("busybox sleep 600\r");
        person.wait_for("sleep 600\r\n");
        person.press("\x03");
        person.press("echo on and $((40+2))\r");
        person.wait_for("on and 42");
        person.press("exit 7\r");
        assert_eq!(person.code(), Some(7));
        wait_until(SHORT, "the workload to go", || match api.workloads().len() {
            0 => Ok(()),
            more => Err(format!("{more} workloads")),
        });
    });
}

#[test]
fn terminal_is_left_and_found_again_even_after_an_upgrade() {
    story(|lab| {
        let api = lab.cluster();
        api.run(&shell_of("desk", "busybox sh -i", &["tty", "stdin"]));
        let mut person = Typed::start(rikctl(&["attach", "desk"]), 24, 80);
        person.press("echo one $((1+1))\r");
        person.wait_for("one 2");
        person.press("\x10\x11");
        person.wait_for("detached");
        assert_eq!(person.code(), Some(0));
        lab.kill(NODE);
        // The shim becomes another program, and keeps the terminal open.
        let newer = Lab::root().join("riklet-of-another-build");
        std::fs::copy(programs::built("riklet"), &newer).expect("there is room");
        lab.start_node_as(NODE, &newer);
        wait_until(SHORT, "the node to answer", || {
            let said = lab.rikctl(&["exec", "desk", "--", "/bin/busybox", "true"]);
            if said.code == 0 { Ok(()) } else { Err(said.stderr) }
        });
        let mut again = Typed::start(rikctl(&["attach", "desk"]), 24, 80);
        again.press("echo two $((2+2))\r");
        again.wait_for("two 4");
        assert!(lab.rikctl(&["logs", "desk"]).stdout.contains("two 4"));
        again.press("exit 3\r");
        assert_eq!(again.code(), Some(3));
    });
}

#[test]
fn input_ends_when_the_first_who_attached_has_said_all_and_nothing_is_lost() {
    story(|lab| {
        lab.cluster();
        let line = ["run", "-i", "--rm", "busybox:1", "--", "/bin/busybox", "cat"];
        let mut cat =
            rikctl(&line).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().expect("rikctl starts");
        let bytes: Vec<u8> = (0..6_000_000_u32).map(|at| (at % 251) as u8).collect();
        let (mut input, sent) = (cat.stdin.take().expect("a pipe"), bytes.clone());
        let typing = std::thread::spawn(move || input.write_all(&sent).expect("rikctl takes it"));
        let mut heard = Vec::new();
        cat.stdout.take().expect("a pipe").read_to_end(&mut heard).expect("rikctl gives it");
        typing.join().expect("all was typed");
        assert!(cat.wait().expect("rikctl ends").success());
        assert!(heard == bytes, "{} of {} bytes came back whole", heard.len(), bytes.len());
        // One that has ended before anybody could be there.
        let said = lab.rikctl(&[
            "run",
            "-i",
            "--rm",
            "busybox:1",
            "--",
            "/bin/busybox",
            "sh",
            "-c",
            "echo hi; exit 4",
        ]);
        assert_eq!((said.code, said.stdout.as_str()), (4, "hi\n"), "{said:?}");
    });
}

#[test]
fn service_and_node_do_not_wait_for_one_who_listens_and_never_reads() {
    story(|lab| {
        let api = lab.cluster();
        let words =
            "read go; busybox yes 0123456789 | busybox head -c 30000000; echo done; busybox sleep 600";
        api.run(&shell_of("loud", words, &["stdin"]));
        // He listens and never reads.
        let mut deaf = rikctl(&["attach", "--no-stdin", "loud"]);
        let mut deaf = deaf
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("rikctl starts");
        let mut typist = rikctl(&["attach", "loud"]);
        let mut typist = typist
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("rikctl starts");
        typist.stdin.as_mut().expect("a pipe").write_all(b"go\n").expect("rikctl takes it");
        wait_until(SHORT, "the last word", || {
            let log = lab.rikctl(&["logs", "loud", "--tail", "1"]).stdout;
            if log.ends_with("done\n") { Ok(()) } else { Err(log) }
        });
        let mut heard = Vec::new();
        deaf.stdout.take().expect("a pipe").read_to_end(&mut heard).expect("rikctl gives it");
        let done = deaf.wait_with_output().expect("rikctl ends");
        let words = String::from_utf8_lossy(&done.stderr);
        assert!(words.contains("did not keep up") && words.contains("rikctl logs"), "{words}");
        assert!(heard.len() < 30_000_000, "{} bytes", heard.len());
        typist.kill().expect("it is ours");
        typist.wait().expect("it ends");
        assert_eq!(api.instance("loud").expect("it is there")["status"], "Running");
        let refused = lab.rikctl(&["attach", "absent"]).bad(1);
        assert!(refused.contains("absent"), "{refused}");
    });
}

#[test]
fn program_of_a_terminal_gets_a_shell_too() {
    story(|lab| {
        let api = lab.cluster();
        api.run(&shell_of("box", "busybox sleep 600", &[]));
        let line = ["exec", "-it", "box", "--", "/bin/busybox", "sh"];
        let mut person = Typed::start(rikctl(&line), 40, 120);
        person.wait_for("# ");
        person.press("busybox stty size\r");
        person.wait_for("40 120");
        person.press("exit 5\r");
        assert_eq!(person.code(), Some(5));
    });
}
