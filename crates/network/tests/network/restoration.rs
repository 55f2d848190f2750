//! Other programs change the host; what is ours comes back, what is theirs stays.

use std::net::Ipv4Addr;

use network::{Backend, Mended};

use crate::{
    sandbox::{NEIGHBOUR, NODE, Namespace, Sandbox, at, on_a_node, shell, tcp},
    server::{Server, ask, is_silent},
};

async fn a_flush_by_another_program_is_undone(sandbox: Sandbox) {
    let network = sandbox.network().await;
    let web = network.attach(sandbox.request("web", &[tcp(8080)])).await.unwrap();
    let server = Server::within(&Namespace::of(&web), Ipv4Addr::UNSPECIFIED, 80);
    assert_eq!(network.ensure().await.unwrap(), Mended::default());
    let iptables = sandbox.iptables();
    for flush in ["-t nat -F", "-F", "-t raw -F", "-t nat -F RIKLET", "-t nat -D RIKLET 1", "-F FORWARD"] {
        shell(&format!("{iptables} {flush}"));
        assert!(network.ensure().await.unwrap().firewall, "{flush}");
        assert_eq!(network.ensure().await.unwrap(), Mended::default(), "{flush}");
        assert_eq!(sandbox.neighbour.run(|| ask(at(NODE, 8080))), Ok(NEIGHBOUR), "{flush}");
        // Nobody has changed a rule since: where the kernel says so, none is read.
        let runs = network.firewall_runs().await;
        assert_eq!(network.ensure().await.unwrap(), Mended::default(), "{flush}");
        let read = network.firewall_runs().await - runs;
        assert_eq!(read, u64::from(sandbox.backend == Backend::Legacy), "{flush}");
    }
    for table in ["nat", "filter", "raw"] {
        shell(&format!("{iptables} -t {table} -F && {iptables} -t {table} -X"));
    }
    assert!(sandbox.neighbour.run(|| is_silent(at(NODE, 8080))));
    assert!(network.ensure().await.unwrap().firewall);
    assert_eq!(sandbox.neighbour.run(|| ask(at(NODE, 8080))), Ok(NEIGHBOUR));
    drop(server);
    network.teardown().await.unwrap();
}

#[test]
fn a_flush_by_another_program_is_undone_on_nft() {
    on_a_node(Backend::Nft, a_flush_by_another_program_is_undone);
}

#[test]
fn a_flush_by_another_program_is_undone_on_legacy() {
    on_a_node(Backend::Legacy, a_flush_by_another_program_is_undone);
}

/// Rules such as other programs have, among them chains with names much like ours.
fn strangers(iptables: &str) {
    for rule in [
        "-N DOCKER-USER",
        "-N RIKLET-USER",
        "-N rik-x",
        "-P FORWARD DROP",
        "-A FORWARD -j DOCKER-USER",
        "-A FORWARD -m comment --comment 'not rik: at all \"x\"' -j RIKLET-USER",
        "-A RIKLET-USER -s 10.9.0.0/16 -m comment --comment 'rik:web' -j ACCEPT",
        "-A INPUT -p tcp -m multiport --dports 22,80 -j ACCEPT",
        "-A INPUT -m limit --limit 5/min -j rik-x",
        "-t nat -N RIKLET-X",
        "-t nat -A PREROUTING -p tcp --dport 4444 -j REDIRECT --to-ports 5555",
        "-t nat -A POSTROUTING -s 172.17.0.0/16 ! -o docker0 -j MASQUERADE",
        "-t raw -A PREROUTING -i lo -j ACCEPT",
        "-t mangle -A FORWARD -p tcp --syn -j TCPMSS --clamp-mss-to-pmtu",
    ] {
        shell(&format!("{iptables} {rule}"));
    }
}

async fn rules_of_others_are_byte_identical_after_churn(sandbox: Sandbox) {
    strangers(sandbox.iptables());
    let before = sandbox.rules();
    let network = sandbox.network().await;
    let theirs = |rules: &str| -> Vec<String> {
        let ours = [
            "rik:node/",
            "RIKLET ",
            "RIKLET-RAW ",
            "RIKLET-IN ",
            "RIKLET-FWD ",
            "RIKLET-END ",
            "RIKLET-POST ",
        ];
        let is_ours = |line: &&str| ours.iter().any(|mark| format!("{line} ").contains(mark));
        rules.lines().filter(|line| !is_ours(line)).map(str::to_owned).collect()
    };
    for round in 0..3_u16 {
        for pod in 0..4_u16 {
            let ports = [tcp(8000 + pod), tcp(9000 + pod)];
            network.attach(sandbox.request(&format!("pod-{pod}"), &ports)).await.unwrap();
            shell(&format!("{} -A INPUT -s 10.9.{round}.{pod} -j ACCEPT", sandbox.iptables()));
        }
        network.ensure().await.unwrap();
        for pod in 0..4_u16 {
            let owner = format!("pod-{pod}");
            network.detach(&owner.parse().unwrap(), &sandbox.ns_dir(&owner)).await.unwrap();
            shell(&format!("{} -D INPUT -s 10.9.{round}.{pod} -j ACCEPT", sandbox.iptables()));
        }
        let now = sandbox.rules();
        assert_eq!(theirs(&now), theirs(&before));
        assert!(!now.contains("rik:pod-"), "{now}");
    }
    network.teardown().await.unwrap();
    assert_eq!(sandbox.rules(), before);
}

#[test]
fn rules_of_others_are_byte_identical_after_churn_on_nft() {
    on_a_node(Backend::Nft, rules_of_others_are_byte_identical_after_churn);
}

#[test]
fn rules_of_others_are_byte_identical_after_churn_on_legacy() {
    on_a_node(Backend::Legacy, rules_of_others_are_byte_identical_after_churn);
}

#[test]
fn a_guarding_rule_is_moved_back_to_the_front() {
    on_a_node(Backend::Host, async |sandbox| {
        let network = sandbox.network().await;
        let web = network.attach(sandbox.request("web", &[])).await.unwrap();
        let service = Server::here(Ipv4Addr::UNSPECIFIED, 9000);
        shell(&format!("{} -I INPUT 1 -p tcp --dport 9000 -j ACCEPT", sandbox.iptables()));
        let pod = Namespace::of(&web);
        assert!(pod.run(|| ask(at(NODE, 9000))).is_ok());
        assert!(network.ensure().await.unwrap().firewall);
        assert!(pod.run(|| is_silent(at(NODE, 9000))));
        drop(service);
        network.teardown().await.unwrap();
    });
}

#[test]
fn a_bridge_that_somebody_removed_comes_back_with_its_pods() {
    on_a_node(Backend::Host, async |sandbox| {
        let network = sandbox.network().await;
        let web = network.attach(sandbox.request("web", &[tcp(8080)])).await.unwrap();
        let server = Server::within(&Namespace::of(&web), Ipv4Addr::UNSPECIFIED, 80);
        shell("ip link del rik0");
        let mended = network.ensure().await.unwrap();
        assert!(mended.bridge && mended.settings, "{mended:?}");
        assert_eq!(sandbox.neighbour.run(|| ask(at(NODE, 8080))), Ok(NEIGHBOUR));
        assert_eq!(ask(at(Ipv4Addr::LOCALHOST, 8080)), Ok([10, 42, 0, 1].into()));
        assert!(Namespace::of(&web).run(|| ask(at(NODE, 8080))).is_ok(), "hairpin");
        let late = network.attach(sandbox.request("late", &[])).await.unwrap();
        assert_eq!(Namespace::of(&late).run(|| ask(at(web.ip, 80))), Ok(late.ip));
        drop(server);
        network.teardown().await.unwrap();
    });
}

#[test]
fn settings_that_somebody_changed_are_set_again() {
    on_a_node(Backend::Host, async |sandbox| {
        let network = sandbox.network().await;
        for setting in ["net.ipv4.ip_forward", "net.ipv4.conf.rik0.route_localnet"] {
            shell(&format!("sysctl -qw {setting}=0"));
            assert!(network.ensure().await.unwrap().settings, "{setting}");
            assert_eq!(shell(&format!("sysctl -n {setting}")).trim(), "1");
        }
        assert!(!network.ensure().await.unwrap().anything());
        network.teardown().await.unwrap();
    });
}
