//! What pods, and neighbours of the node, must not reach. Each refusal has its counterpart: the same packet gets
//! through when the rule in question is away, so that the silence is the rule's doing.

use std::{
    net::{Ipv4Addr, UdpSocket},
    time::Duration,
};

use network::{Backend, Destination, Network};

use crate::{
    sandbox::{Forward, NEIGHBOUR, NODE, Namespace, Sandbox, at, on_a_node, shell, tcp},
    server::{Server, ask, is_silent},
};

const LOOPBACK: Ipv4Addr = Ipv4Addr::LOCALHOST;

/// Makes a host send packets for 127.0.0.1 out by a link, as an attacker would.
fn send_loopback_out(by: &Namespace, link: &str, gateway: Ipv4Addr, source: Ipv4Addr) {
    by.shell(&format!(
        "sysctl -qw net.ipv4.conf.all.route_localnet=1 && ip addr del 127.0.0.1/8 dev lo \
         && ip route add 127.0.0.1/32 via {gateway} dev {link} src {source}"
    ));
}

async fn a_pod_reaches_no_service_of_the_node(sandbox: Sandbox) {
    let network = sandbox.network().await;
    let everywhere = Server::here(Ipv4Addr::UNSPECIFIED, 9000);
    let loopback = Server::here(LOOPBACK, 9001);
    let web = network.attach(sandbox.request("web", &[])).await.unwrap();
    let pod = Namespace::of(&web);
    let gateway: Ipv4Addr = [10, 42, 0, 1].into();
    send_loopback_out(&pod, "eth0", gateway, web.ip);

    assert!(pod.run(|| is_silent(at(NODE, 9000))));
    assert!(pod.run(|| is_silent(at(gateway, 9000))));
    assert!(pod.run(|| is_silent(at(LOOPBACK, 9001))));
    assert_eq!(ask(at(NODE, 9000)), Ok(NODE), "the node's own callers are not concerned");
    assert_eq!(sandbox.neighbour.run(|| ask(at(NODE, 9000))), Ok(NEIGHBOUR), "nor are neighbours");

    let iptables = sandbox.iptables();
    shell(&format!("{iptables} -F RIKLET-IN"));
    assert_eq!(pod.run(|| ask(at(NODE, 9000))), Ok(web.ip), "it is the rule of INPUT");
    assert!(pod.run(|| is_silent(at(LOOPBACK, 9001))), "and 127.0.0.1 has one more");
    shell(&format!("{iptables} -t raw -F RIKLET-RAW"));
    assert_eq!(pod.run(|| ask(at(LOOPBACK, 9001))), Ok(web.ip), "which is this one");

    assert!(network.ensure().await.unwrap().firewall);
    assert!(pod.run(|| is_silent(at(NODE, 9000))));
    assert!(pod.run(|| is_silent(at(LOOPBACK, 9001))));
    drop((everywhere, loopback));
    network.teardown().await.unwrap();
}

#[test]
fn a_pod_reaches_no_service_of_the_node_on_nft() {
    on_a_node(Backend::Nft, a_pod_reaches_no_service_of_the_node);
}

#[test]
fn a_pod_reaches_no_service_of_the_node_on_legacy() {
    on_a_node(Backend::Legacy, a_pod_reaches_no_service_of_the_node);
}

#[test]
fn a_neighbour_that_sends_to_127_0_0_1_gets_no_answer() {
    on_a_node(Backend::Host, async |sandbox| {
        let network = sandbox.network().await;
        let mut local = tcp(8081);
        local.host_address = Some(LOOPBACK);
        let web = network.attach(sandbox.request("web", &[tcp(8080), local])).await.unwrap();
        let server = Server::within(&Namespace::of(&web), Ipv4Addr::UNSPECIFIED, 80);
        let service = Server::here(LOOPBACK, 9001);
        send_loopback_out(&sandbox.neighbour, "wire", NODE, NEIGHBOUR);
        for port in [8080, 8081, 9001] {
            assert!(sandbox.neighbour.run(|| is_silent(at(LOOPBACK, port))), "port {port}");
        }
        assert_eq!(shell("cat /proc/sys/net/ipv4/conf/all/route_localnet").trim(), "0");
        assert_eq!(shell("cat /proc/sys/net/ipv4/conf/up0/route_localnet").trim(), "0");
        // With another program's setting the node's own service is open; ports of pods stay closed even then.
        shell("sysctl -qw net.ipv4.conf.up0.route_localnet=1");
        assert_eq!(sandbox.neighbour.run(|| ask(at(LOOPBACK, 9001))), Ok(NEIGHBOUR));
        assert!(sandbox.neighbour.run(|| is_silent(at(LOOPBACK, 8080))));
        assert!(sandbox.neighbour.run(|| is_silent(at(LOOPBACK, 8081))));
        drop((server, service));
        network.teardown().await.unwrap();
    });
}

#[test]
fn only_published_ports_are_open_to_neighbours_even_where_forward_is_accept() {
    on_a_node(Backend::Host, async |sandbox| {
        sandbox.forward(Forward::Accept);
        let network = sandbox.network().await;
        let mut local = tcp(8081);
        local.host_address = Some(LOOPBACK);
        let web = network.attach(sandbox.request("web", &[tcp(8080), local])).await.unwrap();
        let pod = Namespace::of(&web);
        let servers = [80, 81].map(|port| Server::within(&pod, Ipv4Addr::UNSPECIFIED, port));
        sandbox.neighbour.shell("ip route add 10.42.0.0/24 via 198.51.100.1");

        assert_eq!(ask(at(LOOPBACK, 8081)), Ok([10, 42, 0, 1].into()));
        assert!(sandbox.neighbour.run(|| is_silent(at(NODE, 8081))), "published on 127.0.0.1 only");
        assert!(sandbox.neighbour.run(|| is_silent(at(web.ip, 80))), "by a route to the pod's address");
        assert!(sandbox.neighbour.run(|| is_silent(at(web.ip, 81))), "a port that is not published");
        assert_eq!(sandbox.neighbour.run(|| ask(at(NODE, 8080))), Ok(NEIGHBOUR));
        drop(servers);
        network.teardown().await.unwrap();
    });
}

#[test]
fn a_pod_reaches_neither_the_metadata_service_nor_what_the_operator_closed() {
    on_a_node(Backend::Host, async |sandbox| {
        let metadata: Ipv4Addr = [169, 254, 169, 254].into();
        sandbox.neighbour.shell("ip addr add 169.254.169.254/32 dev wire");
        shell("ip route add 169.254.169.254/32 via 198.51.100.2");
        let servers =
            [80, 5000, 5001].map(|port| Server::within(&sandbox.neighbour, Ipv4Addr::UNSPECIFIED, port));
        let mut config = sandbox.config();
        config.forbidden =
            [Destination { network: "198.51.100.2/32".parse().unwrap(), tcp_port: Some(5000) }].into();
        let network = Network::open(config).await.unwrap();
        network.reconcile(&[]).await.unwrap();
        let web = network.attach(sandbox.request("web", &[])).await.unwrap();
        let pod = Namespace::of(&web);

        assert!(ask(at(metadata, 80)).is_ok(), "the node itself may");
        assert!(pod.run(|| is_silent(at(metadata, 80))));
        assert!(pod.run(|| is_silent(at(NEIGHBOUR, 5000))));
        assert_eq!(pod.run(|| ask(at(NEIGHBOUR, 5001))), Ok(NODE));
        drop(servers);
        network.teardown().await.unwrap();
    });
}

#[test]
fn packets_with_a_source_that_no_pod_has_do_not_leave() {
    on_a_node(Backend::Host, async |sandbox| {
        let network = sandbox.network().await;
        let web = network.attach(sandbox.request("web", &[])).await.unwrap();
        let pod = Namespace::of(&web);
        pod.shell("ip addr add 203.0.113.7/32 dev eth0");
        let ear = sandbox.neighbour.run(|| UdpSocket::bind((NEIGHBOUR, 7000)).unwrap());
        ear.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        let say = |source: Ipv4Addr, word: &[u8]| {
            pod.run(|| UdpSocket::bind((source, 0)).unwrap().send_to(word, at(NEIGHBOUR, 7000)).unwrap());
        };
        // Datagrams keep their order here, so that the honest one arriving alone proves that the other was dropped.
        say([203, 0, 113, 7].into(), b"forged");
        say(web.ip, b"honest");
        let mut word = [0; 16];
        let (length, from) = ear.recv_from(&mut word).unwrap();
        assert_eq!((&word[..length], from.ip()), (b"honest".as_slice(), NODE.into()));
        shell(&format!("{} -t raw -F RIKLET-RAW", sandbox.iptables()));
        say([203, 0, 113, 7].into(), b"forged");
        assert_eq!(
            ear.recv_from(&mut word).unwrap().1.ip(),
            Ipv4Addr::new(203, 0, 113, 7),
            "it is that rule"
        );
        network.teardown().await.unwrap();
    });
}

/// A second neighbour, and whether the node forwards packets from the first one to it.
fn second_neighbour(sandbox: &Sandbox) -> (Namespace, Server) {
    let second = Namespace::new();
    second.join_node("up1", "198.51.101");
    second.shell("ip route add default via 198.51.101.1");
    sandbox.neighbour.shell("ip route add 198.51.101.0/24 via 198.51.100.1");
    let server = Server::within(&second, Ipv4Addr::UNSPECIFIED, 7000);
    (second, server)
}

#[test]
fn a_node_that_was_no_router_does_not_become_one_for_strangers() {
    on_a_node(Backend::Host, async |sandbox| {
        shell("sysctl -qw net.ipv4.ip_forward=0");
        sandbox.forward(Forward::Accept);
        let (_second, server) = second_neighbour(&sandbox);
        let network = sandbox.network().await;
        let beyond = at([198, 51, 101, 2], 7000);
        assert!(sandbox.neighbour.run(|| is_silent(beyond)));
        // What another program accepts is its affair.
        shell(&format!("{} -I FORWARD -i up0 -o up1 -j ACCEPT", sandbox.iptables()));
        shell(&format!("{} -I FORWARD -i up1 -o up0 -j ACCEPT", sandbox.iptables()));
        assert_eq!(sandbox.neighbour.run(|| ask(beyond)), Ok(NEIGHBOUR));
        network.ensure().await.unwrap();
        assert_eq!(sandbox.neighbour.run(|| ask(beyond)), Ok(NEIGHBOUR));
        drop(server);
        network.teardown().await.unwrap();
        assert_eq!(shell("cat /proc/sys/net/ipv4/ip_forward").trim(), "0");
    });
}

#[test]
fn a_node_that_was_a_router_goes_on_being_one() {
    on_a_node(Backend::Host, async |sandbox| {
        shell("sysctl -qw net.ipv4.ip_forward=1");
        let (_second, server) = second_neighbour(&sandbox);
        let network = sandbox.network().await;
        assert_eq!(sandbox.neighbour.run(|| ask(at([198, 51, 101, 2], 7000))), Ok(NEIGHBOUR));
        drop(server);
        network.teardown().await.unwrap();
        assert_eq!(shell("cat /proc/sys/net/ipv4/ip_forward").trim(), "1");
    });
}
