//! The example of a whole pod, as a person would work with it.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::process::{Command, Stdio};

use e2e::api::text;
use e2e::{LONG, Lab, SHORT, programs, story, wait_until};

const EXAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/src/examples/workloads/shop.yaml");

fn say(lab: &Lab, arguments: &[&str]) -> String {
    let said = lab.rikctl(arguments);
    assert_eq!(said.code, 0, "{arguments:?}: {said:?}");
    said.stdout
}

fn wait_log(lab: &Lab, words: &str) {
    wait_until(SHORT, "the helper's words", || {
        let log = lab.rikctl(&["logs", "shop", "-c", "helper"]).stdout;
        if log.contains(words) { Ok(()) } else { Err(log) }
    });
}

#[test]
fn whole_pod_is_run_looked_into_and_explained() {
    story(|lab| {
        let api = lab.cluster();
        say(lab, &["create", "secret", "shop", "--from-literal", "token=s3cret"]);
        say(lab, &["apply", "-f", EXAMPLE]);
        say(lab, &["create", "instance", "--workload-id", "shop", "--name", "shop", "--wait"]);
        wait_until(LONG, "the pod to be ready", || {
            let seen = api.instance("shop").unwrap_or_default();
            if seen["ready"] == true { Ok(()) } else { Err(seen.to_string()) }
        });
        assert!(lab.page("http://127.0.0.1:30080/").contains("RIK runs your container"));
        wait_log(lab, "helper begins with a token of 6 bytes");
        wait_log(lab, "heard the server");

        let inside = ["exec", "shop", "-c", "helper", "--", "/bin/busybox", "cat", "/data/state"];
        assert_eq!(say(lab, &inside), "prepared\n");
        let page = Lab::root().join("page");
        let target = page.display().to_string();
        say(lab, &["cp", "-c", "helper", "shop:/data/page", &target]);
        assert!(std::fs::read_to_string(&page).expect("it was copied").contains("RIK runs your container"));
        assert!(forwarded("8080").contains("RIK runs your container"));

        let eat = ["exec", "shop", "-c", "helper", "--", "/bin/busybox", "touch", "/data/eat"];
        say(lab, &eat);
        let explained = "container \"helper\" was ended because it used more memory than its limit of 32Mi";
        wait_until(LONG, "the limit to be hit", || {
            let seen = api.instance("shop").unwrap_or_default();
            let helper = &seen["containers"][2];
            let known = text(&helper["lastRun"]["message"]) == explained && helper["phase"] == "Running";
            if known { Ok(()) } else { Err(seen.to_string()) }
        });
        let sheet = say(lab, &["describe", "instance", "shop"]);
        assert!(sheet.contains(explained), "{sheet}");
        wait_log(lab, "helper begins");
        say(lab, &["delete", "instance", "shop", "--wait"]);
    });
}

/// What a port of the instance answers through a port of this machine.
fn forwarded(port: &str) -> String {
    let mut user = Command::new(programs::built("rikctl"))
        .args(["port-forward", "shop", &format!("0:{port}"), "--once"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("rikctl starts");
    let mut line = String::new();
    let out = user.stdout.as_mut().expect("a pipe");
    let mut byte = [0_u8; 1];
    while out.read(&mut byte).expect("it says where") == 1 && byte[0] != b'\n' {
        line.push(char::from(byte[0]));
    }
    let address = line.split(' ').next().expect("an address");
    let mut page = TcpStream::connect(address).expect("it listens");
    page.write_all(b"GET / HTTP/1.0\r\n\r\n").expect("it takes it");
    let mut answer = String::new();
    page.read_to_string(&mut answer).expect("it answers");
    assert!(user.wait().expect("it ends").success());
    answer
}
