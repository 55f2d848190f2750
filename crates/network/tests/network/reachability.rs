//! Who reaches a pod, and whom a pod reaches.

use std::net::Ipv4Addr;

use model::Protocol;
use network::Backend;

use crate::{
    sandbox::{Forward, NEIGHBOUR, NODE, Namespace, Sandbox, at, on_a_node, tcp},
    server::{Server, ask, ask_by_datagram},
};

/// The three origins: the node's loopback, the node's own address, another host. And what pods themselves may do.
async fn everybody_reaches_a_published_port(sandbox: Sandbox, policy: Forward) {
    sandbox.forward(policy);
    let network = sandbox.network().await;
    let web = network.attach(sandbox.request("web", &[tcp(8080)])).await.unwrap();
    let other = network.attach(sandbox.request("other", &[])).await.unwrap();
    let (in_web, in_other) = (Namespace::of(&web), Namespace::of(&other));
    let gateway: Ipv4Addr = [10, 42, 0, 1].into();
    let server = Server::within(&in_web, Ipv4Addr::UNSPECIFIED, 80);

    assert_eq!(ask(at([127, 0, 0, 1], 8080)), Ok(gateway), "from the node's loopback");
    assert_eq!(ask(at(NODE, 8080)), Ok(NODE), "from the node by its own address");
    assert_eq!(ask(at(web.ip, 80)), Ok(gateway), "from the node by the pod's address");
    let from_outside = sandbox.neighbour.run(|| ask(at(NODE, 8080)));
    assert_eq!(from_outside, Ok(NEIGHBOUR), "from another host, which keeps its address");

    assert_eq!(in_other.run(|| ask(at(web.ip, 80))), Ok(other.ip), "from pod to pod");
    assert_eq!(in_other.run(|| ask(at(NODE, 8080))), Ok(gateway), "from a pod by the node's port");
    assert_eq!(in_other.run(|| ask(at(gateway, 8080))), Ok(gateway), "from a pod by the gateway's port");
    assert_eq!(in_web.run(|| ask(at(NODE, 8080))), Ok(gateway), "from a pod to itself by the node's port");

    let outside = Server::within(&sandbox.neighbour, NEIGHBOUR, 7000);
    assert_eq!(in_other.run(|| ask(at(NEIGHBOUR, 7000))), Ok(NODE), "from a pod to the world, by NAT");
    drop((server, outside));
    network.teardown().await.unwrap();
}

#[test]
fn a_published_port_is_reached_from_everywhere_with_forward_accept_on_nft() {
    on_a_node(Backend::Nft, |node| everybody_reaches_a_published_port(node, Forward::Accept));
}

#[test]
fn a_published_port_is_reached_from_everywhere_with_forward_drop_on_nft() {
    on_a_node(Backend::Nft, |node| everybody_reaches_a_published_port(node, Forward::Drop));
}

#[test]
fn a_published_port_is_reached_from_everywhere_with_forward_accept_on_legacy() {
    on_a_node(Backend::Legacy, |node| everybody_reaches_a_published_port(node, Forward::Accept));
}

#[test]
fn a_published_port_is_reached_from_everywhere_with_forward_drop_on_legacy() {
    on_a_node(Backend::Legacy, |node| everybody_reaches_a_published_port(node, Forward::Drop));
}

#[test]
fn a_published_port_is_reached_from_everywhere_where_bridged_packets_pass_no_rules() {
    on_a_node(Backend::Host, async |node| {
        crate::sandbox::shell("sysctl -qw net.bridge.bridge-nf-call-iptables=0");
        everybody_reaches_a_published_port(node, Forward::Drop).await;
    });
}

#[test]
fn a_published_udp_port_answers_node_and_neighbour() {
    on_a_node(Backend::Host, async |sandbox| {
        let network = sandbox.network().await;
        let mut port = tcp(5353);
        port.protocol = Protocol::Udp;
        let dns = network.attach(sandbox.request("dns", &[port])).await.unwrap();
        let server = Server::within(&Namespace::of(&dns), Ipv4Addr::UNSPECIFIED, 80);
        assert_eq!(ask_by_datagram(at([127, 0, 0, 1], 5353)), Ok([10, 42, 0, 1].into()));
        assert_eq!(sandbox.neighbour.run(|| ask_by_datagram(at(NODE, 5353))), Ok(NEIGHBOUR));
        drop(server);
        network.teardown().await.unwrap();
    });
}

#[test]
fn egress_leaves_by_the_uplink_that_the_operator_named() {
    on_a_node(Backend::Host, async |sandbox| {
        sandbox.forward(Forward::Drop);
        let mut config = sandbox.config();
        config.uplink = Some("up0".into());
        let network = network::Network::open(config).await.unwrap();
        network.reconcile(&[]).await.unwrap();
        let web = network.attach(sandbox.request("web", &[tcp(8080)])).await.unwrap();
        let server = Server::within(&Namespace::of(&web), Ipv4Addr::UNSPECIFIED, 80);
        let outside = Server::within(&sandbox.neighbour, NEIGHBOUR, 7000);
        assert_eq!(Namespace::of(&web).run(|| ask(at(NEIGHBOUR, 7000))), Ok(NODE));
        assert_eq!(sandbox.neighbour.run(|| ask(at(NODE, 8080))), Ok(NEIGHBOUR));
        drop((server, outside));
        network.teardown().await.unwrap();
    });
}

#[test]
fn a_pod_has_its_host_name_its_address_and_no_ipv6() {
    on_a_node(Backend::Host, async |sandbox| {
        let network = sandbox.network().await;
        let web = network.attach(sandbox.request("web", &[])).await.unwrap();
        let pod = Namespace::of(&web);
        let uts = web.uts_namespace();
        assert_eq!(
            crate::sandbox::shell(&format!("nsenter --uts={} hostname", uts.display())).trim(),
            "host-web"
        );
        let addresses = pod.shell("ip -br addr show dev eth0");
        assert!(addresses.contains(&format!("{}/24", web.ip)), "{addresses}");
        assert!(!addresses.contains("fe80"), "{addresses}");
        assert_eq!(pod.shell("ip route show default").trim(), "default via 10.42.0.1 dev eth0 proto static");
        assert_eq!(pod.shell("cat /proc/sys/net/ipv6/conf/eth0/accept_ra").trim(), "0");
        let host =
            crate::sandbox::shell("ip -br -6 addr show dev rik0; ip -br -6 addr show type bridge_slave");
        assert!(!host.contains("fe80"), "{host}");
        network.teardown().await.unwrap();
    });
}
