//! Programs in running containers and ports of instances, from anywhere.

use std::io::{Read, Write};
use std::net::TcpStream;

use e2e::api::pids;
use e2e::lab::NODE;
use e2e::manifest::{pod, script, shell, web};
use e2e::rikctl::begin;
use e2e::{Lab, SHORT, story, wait_until};

#[test]
fn program_runs_in_a_container_and_its_code_comes_back() {
    story(|lab| {
        let api = lab.cluster();
        api.run(&script("box", "echo main > /srv/mark; busybox sleep 600"));
        let said = lab.rikctl(&[
            "exec",
            "box",
            "--",
            "/bin/busybox",
            "sh",
            "-c",
            "cat /srv/mark; echo no >&2; exit 7",
        ]);
        assert_eq!((said.code, said.stdout.as_str()), (7, "main\n"), "{said:?}");
        assert!(said.stderr.contains("no"), "{said:?}");
        let said = lab.rikctl(&["exec", "box", "--", "/bin/nope"]);
        assert_eq!(said.code, 1, "{said:?}");
        assert!(said.stderr.contains("\"/bin/nope\" not found in the image"), "{said:?}");
        let said = lab.rikctl(&["exec", "absent", "--", "true"]);
        assert!(said.code == 1 && said.stderr.contains("absent"), "{said:?}");
        let said = lab.rikctl(&["exec", "box", "-c", "other", "--", "true"]);
        assert!(said.stderr.contains("has no container \"other\"; it has box"), "{said:?}");
    });
}

#[test]
fn much_goes_in_and_comes_out_at_the_same_time() {
    story(|lab| {
        let api = lab.cluster();
        api.run(&script("echo", "busybox sleep 600"));
        let mut cat = begin(&["exec", "-i", "echo", "--", "/bin/busybox", "cat"]);
        let bytes: Vec<u8> = (0..8_000_000_u32).map(|at| (at % 251) as u8).collect();
        let mut input = cat.stdin.take().expect("a pipe");
        let sent = bytes.clone();
        let typing = std::thread::spawn(move || input.write_all(&sent).expect("rikctl takes it"));
        let mut heard = Vec::new();
        cat.stdout.take().expect("a pipe").read_to_end(&mut heard).expect("rikctl gives it");
        typing.join().expect("all was typed");
        let status = cat.wait().expect("rikctl ends");
        assert!(status.success(), "{status}");
        assert!(heard == bytes, "{} of {} bytes came back whole", heard.len(), bytes.len());
    });
}

#[test]
fn program_ends_when_its_user_goes() {
    story(|lab| {
        let api = lab.cluster();
        let pid = pids(&api.run(&script("left", "busybox sleep 600")))[0];
        let words = "trap '' HUP TERM PIPE; echo on; while true; do busybox sleep 0.1; done";
        let mut user = begin(&["exec", "left", "--", "/bin/busybox", "sh", "-c", words]);
        let mut first = [0_u8; 3];
        user.stdout.as_mut().expect("a pipe").read_exact(&mut first).expect("it runs");
        let inside = || {
            let tasks = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            let group = tasks.lines().find(|line| line.contains(":pids:")).unwrap_or_default();
            let path = group.rsplit(':').next().unwrap_or_default().to_owned();
            let list = std::fs::read_to_string(format!("/sys/fs/cgroup/pids{path}/cgroup.procs"));
            list.unwrap_or_default().lines().count()
        };
        assert!(inside() >= 2, "the program is in the container's group");
        user.kill().expect("it is ours");
        user.wait().expect("it ends");
        wait_until(SHORT, "the program to end", || match inside() {
            0 | 1 => Ok(()),
            more => Err(format!("{more} processes")),
        });
    });
}

#[test]
fn session_ends_with_a_word_when_its_node_goes() {
    story(|lab| {
        let api = lab.cluster();
        api.run(&script("cut", "busybox sleep 600"));
        let mut user =
            begin(&["exec", "cut", "--", "/bin/busybox", "sh", "-c", "echo on; busybox sleep 600"]);
        let mut first = [0_u8; 3];
        user.stdout.as_mut().expect("a pipe").read_exact(&mut first).expect("it runs");
        lab.kill(NODE);
        let done = user.wait_with_output().expect("rikctl ends");
        assert_eq!(done.status.code(), Some(1));
        let words = String::from_utf8_lossy(&done.stderr);
        assert!(words.contains("broke off") || words.contains("cannot be asked"), "{words}");
        lab.start_node(NODE);
        api.wait_node(NODE, "Ready");
    });
}

#[test]
fn port_of_an_instance_is_reached_through_a_port_of_this_machine() {
    story(|lab| {
        let api = lab.cluster();
        api.run(&pod("served", &[shell("main", "busybox httpd -f -p 8080 -h /srv")]));
        let mut user = begin(&["port-forward", "served", "0:8080"]);
        let mut line = Vec::new();
        let out = user.stdout.as_mut().expect("a pipe");
        let mut byte = [0_u8; 1];
        while out.read(&mut byte).expect("it says where") == 1 && byte[0] != b'\n' {
            line.push(byte[0]);
        }
        let line = String::from_utf8(line).expect("words");
        let address = line.split(' ').next().expect("an address").to_owned();
        assert!(line.ends_with("leads to port 8080 of served"), "{line}");
        for _ in 0..3 {
            let mut page = TcpStream::connect(&address).expect("it listens");
            page.write_all(b"GET /motd HTTP/1.0\r\n\r\n").expect("it takes it");
            let mut answer = String::new();
            page.read_to_string(&mut answer).expect("it answers");
            assert!(answer.contains(" 200 OK") && answer.contains("from the image"), "{answer}");
        }
        user.kill().expect("it is ours");
        user.wait().expect("it ends");
        let said = lab.rikctl(&["port-forward", "served", "70000"]);
        assert!(said.code == 2 && said.stderr.contains("is no port"), "{said:?}");
    });
}

#[test]
fn files_are_copied_in_and_out_without_a_program_of_the_image() {
    story(|lab| {
        let api = lab.cluster();
        api.run(&web("bare", 8080));
        let dir = Lab::root().join("copies");
        std::fs::create_dir_all(dir.join("tree/deep")).expect("there is room");
        let bytes: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 251) as u8).collect();
        std::fs::write(dir.join("tree/deep/bytes"), &bytes).expect("there is room");
        let at = |name: &str| dir.join(name).to_str().expect("words").to_owned();
        let exec = lab.rikctl(&["exec", "bare", "--", "tar"]);
        assert!(exec.stderr.contains("not found in the image"), "{exec:?}");
        assert_eq!(lab.rikctl(&["cp", &at("tree"), "bare:/"]).good(), "");
        assert_eq!(lab.rikctl(&["cp", "bare:/tree", &at("back")]).good(), "");
        assert!(std::fs::read(dir.join("back/deep/bytes")).expect("it is there") == bytes);
        assert_eq!(lab.rikctl(&["cp", &at("tree/deep/bytes"), "bare:/other"]).good(), "");
        assert_eq!(lab.rikctl(&["cp", "bare:other", &at("there")]).good(), "");
        assert!(std::fs::read(dir.join("there")).expect("it is there") == bytes);
        let said = lab.rikctl(&["cp", "bare:/nothing", &at("x")]).bad(1);
        assert!(said.contains("/nothing cannot be read: No such file"), "{said}");
        let said = lab.rikctl(&["cp", &at("there"), "bare:/no/where"]).bad(1);
        assert!(said.contains("there is no directory /no"), "{said}");
        let said = lab.rikctl(&["cp", "bare:/other", &at("no/where")]).bad(1);
        assert!(said.contains("there is no directory"), "{said}");
        let said = lab.rikctl(&["cp", &at("none"), "bare:/"]).bad(1);
        assert!(said.contains("cannot be read"), "{said}");
        assert_eq!(lab.rikctl(&["cp", "a", "b"]).code, 2);
    });
}

/// S-POD-12: a name in a container never means a file of the node.
#[test]
fn s_pod_12_link_in_a_container_leads_nowhere_but_into_the_container() {
    story(|lab| {
        let api = lab.cluster();
        let dir = Lab::root().join("outside");
        std::fs::create_dir_all(&dir).expect("there is room");
        std::fs::write(dir.join("secret"), "of the node").expect("there is room");
        let outside = dir.to_str().expect("words");
        let words = format!(
            "busybox mkdir -p /srv/l {outside}; echo mine > {outside}/secret; busybox rm -r /srv/l; \
             busybox ln -s {outside} /srv/l; busybox ln -s ../../../../../../..{outside}/secret /srv/s; \
             busybox sleep 600"
        );
        api.run(&script("linked", &words));
        wait_until(SHORT, "the links", || {
            match lab.rikctl(&["exec", "linked", "--", "/bin/busybox", "readlink", "/srv/s"]).code {
                0 => Ok(()),
                code => Err(code.to_string()),
            }
        });
        let to = Lab::root().join("fetched");
        let to = to.to_str().expect("words");
        for from in ["linked:/srv/l/secret", "linked:/srv/s", &format!("linked:{outside}/secret")] {
            assert_eq!(lab.rikctl(&["cp", from, to]).good(), "");
            assert_eq!(std::fs::read_to_string(to).expect("it is there"), "mine\n", "{from}");
        }
        std::fs::write(to, "hostile").expect("it is there");
        assert_eq!(lab.rikctl(&["cp", to, "linked:/srv/l/secret"]).good(), "");
        assert_eq!(std::fs::read_to_string(dir.join("secret")).expect("it is there"), "of the node");
    });
}
