//! The network of pods: reached from everywhere, reaching out, and leaving other people's rules alone.

use e2e::api::text;
use e2e::manifest::{script, web};
use e2e::network::{HOST_ADDRESS, Host};
use e2e::{LONG, SHORT, programs, story, wait_until};

#[test]
fn published_port_answers_from_everywhere() {
    story(|lab| {
        let outside = lab.add_host("outside");
        let api = lab.cluster();
        let running = api.run(&web("shop", 30080));
        for url in ["http://127.0.0.1:30080/", &format!("http://{HOST_ADDRESS}:30080/")] {
            assert!(lab.page(url).contains("<b>"), "{url}");
        }
        let page = wait_until(SHORT, "the other host to be answered", || {
            outside.fetch(&format!("http://{HOST_ADDRESS}:30080/"))
        });
        assert!(page.contains("RIK runs your container"), "{page}");
        let address = text(&running["ip"]);
        assert!(lab.page(&format!("http://{address}:8080/healthz")).contains("ok"));
    });
}

/// C-36: pods have a way out.
#[test]
fn c36_pod_reaches_other_hosts() {
    story(|lab| {
        let outside = lab.add_host("outside");
        let api = lab.cluster();
        let mut listener = outside.command(programs::needed("busybox"));
        lab.start("listener", listener.args(["nc", "-ll", "-p", "7000", "-e", "echo", "reached"]));
        // A pod may not send raw packets, so it does not ping.
        let visit = format!(
            "until busybox nc -w 5 {} 7000 < /dev/null; do busybox usleep 100000; done; busybox sleep 600",
            outside.address
        );
        api.run(&script("traveller", &visit));
        wait_until(SHORT, "the pod to reach the other host", || {
            let log = lab.rikctl(&["logs", "traveller"]).stdout;
            if log.contains("reached") { Ok(()) } else { Err(log) }
        });
    });
}

#[test]
fn port_that_is_taken_is_a_clear_error() {
    story(|lab| {
        let own = std::net::TcpListener::bind("127.0.0.1:30099").expect("the port is free");
        let api = lab.cluster();
        api.run(&web("first", 30080));
        for (name, port) in [("second", 30080), ("third", 5000)] {
            let workload = api.create_workload(&web(name, port));
            api.create_instance(&workload, name);
            let refused = wait_until(LONG, "the second to be refused", || match api.instance(name) {
                Some(instance)
                    if instance["reason"] == "PortInUse" || instance["reason"] == "Unplaceable" =>
                {
                    Ok(instance)
                }
                other => Err(format!("{other:?}")),
            });
            assert!(text(&refused["message"]).contains(&port.to_string()), "{refused}");
        }
        // A program that was there before the node is known before anything is placed: nothing is begun.
        let fourth = api.create_instance(&api.create_workload(&web("fourth", 30099)), "fourth");
        let waits = wait_until(LONG, "the fourth to wait", || match api.instance(&fourth) {
            Some(instance) if instance["reason"] == "Unplaceable" => Ok(instance),
            other => Err(format!("{other:?}")),
        });
        assert!(
            text(&waits["message"]).contains("a program of the machine listens on TCP port 30099"),
            "{waits}"
        );
        // It goes, and the node says so with its next heartbeats.
        drop(own);
        api.wait_status(&fourth, "Running");
        assert!(lab.page("http://127.0.0.1:30080/").contains("RIK"), "the first is untouched");
    });
}

#[test]
fn other_peoples_rules_stay_and_ours_come_back() {
    story(|lab| {
        let here = Host::here();
        let foreign = ["-t", "nat", "-A", "OUTPUT", "-p", "tcp", "--dport", "9", "-j", "RETURN"];
        here.run("iptables", &foreign);
        let api = lab.cluster();
        api.run(&web("shop", 30080));
        let _ = lab.page("http://127.0.0.1:30080/");
        let saved = here.run("iptables-save", &["-t", "nat"]);
        assert!(saved.contains("--dport 9 -j RETURN") && saved.contains(":RIKLET"), "{saved}");
        here.run("iptables", &["-t", "nat", "-F"]);
        wait_until(LONG, "the port to answer again", || here.fetch("http://127.0.0.1:30080/"));
        here.run("iptables", &foreign);
        api.delete_instance("shop");
        api.wait_gone("shop");
        let saved = here.run("iptables-save", &["-t", "nat"]);
        assert!(saved.contains("--dport 9 -j RETURN") && !saved.contains("30080"), "{saved}");
        here.run("iptables", &["-t", "nat", "-D", "OUTPUT", "-p", "tcp", "--dport", "9", "-j", "RETURN"]);
    });
}

/// Container firewalls often drop what they do not know: pods work there too.
#[test]
fn pod_is_reached_where_forwarding_is_dropped() {
    story(|lab| {
        let outside = lab.add_host("outside");
        Host::here().run("iptables", &["-P", "FORWARD", "DROP"]);
        let api = lab.cluster();
        api.run(&web("shop", 30080));
        wait_until(SHORT, "the other host to be answered", || {
            outside.fetch(&format!("http://{HOST_ADDRESS}:30080/"))
        });
        api.delete_everything();
        Host::here().run("iptables", &["-P", "FORWARD", "ACCEPT"]);
    });
}
