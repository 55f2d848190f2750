//! Restarts, repetition, crowds, and leaving nothing behind.

use std::net::Ipv4Addr;

use futures::future::join_all;
use network::{AttachError, Backend, Network};

use crate::{
    sandbox::{NEIGHBOUR, NODE, Namespace, Sandbox, assert_same, at, inventory, on_a_node, shell, tcp},
    server::{Server, ask},
};

/// Enough runs for every one of 100 to wait for a few others; far from one run each.
const FEW_RUNS: u64 = 40;

async fn a_hundred_pods_at_once_leave_nothing(sandbox: Sandbox) {
    let network = sandbox.network().await;
    let before = inventory(&sandbox);
    let runs = network.firewall_runs().await;
    let names: Vec<String> = (0..100).map(|number| format!("pod-{number}")).collect();
    let attach =
        names.iter().zip(8000..).map(|(name, port)| network.attach(sandbox.request(name, &[tcp(port)])));
    let attached: Vec<_> = join_all(attach).await.into_iter().map(|outcome| outcome.unwrap()).collect();
    let runs = network.firewall_runs().await - runs;
    assert!(runs < FEW_RUNS, "{runs} runs of iptables-restore for 100 pods");

    let mut addresses: Vec<_> = attached.iter().map(|attachment| attachment.ip).collect();
    addresses.sort();
    addresses.dedup();
    assert_eq!(addresses.len(), 100);
    let last = Server::within(&Namespace::of(&attached[99]), Ipv4Addr::UNSPECIFIED, 80);
    assert_eq!(sandbox.neighbour.run(|| ask(at(NODE, 8099))), Ok(NEIGHBOUR));
    drop(last);
    assert!(!network.ensure().await.unwrap().anything());

    let detach = attached.iter().map(|attachment| network.detach(&attachment.owner, &attachment.ns_dir));
    for outcome in join_all(detach).await {
        outcome.unwrap();
    }
    assert_same(&inventory(&sandbox), &before);
    network.teardown().await.unwrap();
}

#[test]
fn a_hundred_pods_at_once_leave_nothing_on_nft() {
    on_a_node(Backend::Nft, a_hundred_pods_at_once_leave_nothing);
}

#[test]
fn a_hundred_pods_at_once_leave_nothing_on_legacy() {
    on_a_node(Backend::Legacy, a_hundred_pods_at_once_leave_nothing);
}

#[test]
fn teardown_leaves_the_node_as_it_was() {
    on_a_node(Backend::Host, async |sandbox| {
        shell("sysctl -qw net.ipv4.ip_forward=0");
        let before = inventory(&sandbox);
        let network = sandbox.network().await;
        for name in ["a", "b"] {
            network.attach(sandbox.request(name, &[])).await.unwrap();
        }
        assert_ne!(inventory(&sandbox), before);
        network.teardown().await.unwrap();
        assert_same(&inventory(&sandbox), &before);
        network.teardown().await.unwrap();
    });
}

#[test]
fn what_a_killed_riklet_left_is_erased_without_opening_it() {
    on_a_node(Backend::Host, async |sandbox| {
        shell("sysctl -qw net.ipv4.ip_forward=0");
        let before = inventory(&sandbox);
        let network = sandbox.network().await;
        network.attach(sandbox.request("web", &[tcp(8080)])).await.unwrap();
        drop(network);
        Network::erase(sandbox.config()).await.unwrap();
        assert_same(&inventory(&sandbox), &before);
        Network::erase(sandbox.config()).await.unwrap();
    });
}

#[test]
fn known_pods_go_on_over_a_restart_and_unknown_ones_are_removed() {
    on_a_node(Backend::Host, async |sandbox| {
        let network = sandbox.network().await;
        let mut pods = Vec::new();
        for (name, port) in [("a", 8001), ("b", 8002), ("c", 8003)] {
            pods.push(network.attach(sandbox.request(name, &[tcp(port)])).await.unwrap());
        }
        let server = Server::within(&Namespace::of(&pods[0]), Ipv4Addr::UNSPECIFIED, 80);
        drop(network);

        let network = Network::open(sandbox.config()).await.unwrap();
        assert_eq!(sandbox.neighbour.run(|| ask(at(NODE, 8001))), Ok(NEIGHBOUR), "before reconciling");
        let early = network.attach(sandbox.request("early", &[])).await;
        assert!(matches!(early, Err(AttachError::NotReconciled { .. })));
        let json = serde_json::to_string(&pods[..2]).unwrap();
        let known: Vec<network::Attachment> = serde_json::from_str(&json).unwrap();
        let found = network.reconcile(&known).await.unwrap();
        assert_eq!(found.adopted.len(), 2);
        assert_eq!(found.lost, []);
        assert_eq!(found.removed, [format!("link {}", pods[2].link), "namespaces of pod c".to_owned()]);
        assert_eq!(sandbox.neighbour.run(|| ask(at(NODE, 8001))), Ok(NEIGHBOUR));
        assert!(!sandbox.rules().contains("rik:c\""));

        let late = network.attach(sandbox.request("late", &[tcp(8003)])).await.unwrap();
        assert!(pods[..2].iter().all(|pod| pod.ip != late.ip));
        assert_eq!(Namespace::of(&late).run(|| ask(at(pods[0].ip, 80))), Ok(late.ip));
        let taken = network.attach(sandbox.request("thief", &[tcp(8001)])).await;
        assert!(matches!(taken, Err(AttachError::PortInUse { .. })));
        drop(server);
        network.teardown().await.unwrap();
    });
}

#[test]
fn a_known_pod_whose_link_is_gone_is_lost_and_can_be_attached_anew() {
    on_a_node(Backend::Host, async |sandbox| {
        let network = sandbox.network().await;
        let web = network.attach(sandbox.request("web", &[tcp(8080)])).await.unwrap();
        drop(network);
        shell(&format!("ip link del {}", web.link));
        let network = Network::open(sandbox.config()).await.unwrap();
        let found = network.reconcile(std::slice::from_ref(&web)).await.unwrap();
        assert_eq!(found.lost, [(web.owner.clone(), "its link or namespaces are gone".to_owned())]);
        assert!(!sandbox.rules().contains("rik:web"));
        let web = network.attach(sandbox.request("web", &[tcp(8080)])).await.unwrap();
        let server = Server::within(&Namespace::of(&web), Ipv4Addr::UNSPECIFIED, 80);
        assert_eq!(sandbox.neighbour.run(|| ask(at(NODE, 8080))), Ok(NEIGHBOUR));
        drop(server);
        network.teardown().await.unwrap();
    });
}

#[test]
fn a_link_that_was_made_but_not_yet_marked_is_found_again() {
    on_a_node(Backend::Host, async |sandbox| {
        let network = sandbox.network().await;
        let web = network.attach(sandbox.request("web", &[])).await.unwrap();
        drop(network);
        // As if the riklet had died between the two messages.
        shell(&format!("ip link set dev {} alias ''", web.link));
        let network = Network::open(sandbox.config()).await.unwrap();
        let found = network.reconcile(&[]).await.unwrap();
        assert!(found.removed.contains(&format!("link {}", web.link)), "{found:?}");
        network.teardown().await.unwrap();
    });
}

#[test]
fn attaching_and_detaching_may_be_repeated() {
    on_a_node(Backend::Host, async |sandbox| {
        let network = sandbox.network().await;
        let before = inventory(&sandbox);
        let owner = "web".parse().unwrap();
        let first = network.attach(sandbox.request("web", &[tcp(8080)])).await.unwrap();
        assert_eq!(network.attach(sandbox.request("web", &[tcp(8080)])).await.unwrap(), first);
        let other = network.attach(sandbox.request("web", &[tcp(8081)])).await;
        assert!(matches!(other, Err(AttachError::AlreadyAttached { .. })));
        network.detach(&owner, &first.ns_dir).await.unwrap();
        network.detach(&owner, &first.ns_dir).await.unwrap();
        network.detach(&"stranger".parse().unwrap(), &sandbox.ns_dir("stranger")).await.unwrap();
        assert_same(&inventory(&sandbox), &before);
        network.teardown().await.unwrap();
    });
}

#[test]
fn attach_and_detach_of_one_pod_at_the_same_time_do_not_mix() {
    on_a_node(Backend::Host, async |sandbox| {
        let network = sandbox.network().await;
        let before = inventory(&sandbox);
        let owner: network::Owner = "web".parse().unwrap();
        let ns_dir = sandbox.ns_dir("web");
        for _ in 0..5 {
            let attach = join_all((0..3).map(|_| network.attach(sandbox.request("web", &[tcp(8080)]))));
            let detach = join_all((0..3).map(|_| network.detach(&owner, &ns_dir)));
            let (attached, detached) = tokio::join!(attach, detach);
            assert!(attached.iter().all(Result::is_ok), "{attached:?}");
            assert!(detached.iter().all(Result::is_ok), "{detached:?}");
        }
        network.detach(&owner, &ns_dir).await.unwrap();
        assert_same(&inventory(&sandbox), &before);
        network.teardown().await.unwrap();
    });
}

#[test]
fn an_attach_that_nobody_waits_for_is_undone_by_detach() {
    on_a_node(Backend::Host, async |sandbox| {
        let network = sandbox.network().await;
        let before = inventory(&sandbox);
        let mut attach = Box::pin(network.attach(sandbox.request("web", &[tcp(8080)])));
        assert!(futures::poll!(&mut attach).is_pending());
        drop(attach);
        network.detach(&"web".parse().unwrap(), &sandbox.ns_dir("web")).await.unwrap();
        assert_same(&inventory(&sandbox), &before);
        network.teardown().await.unwrap();
    });
}

#[test]
fn a_namespace_that_is_still_in_use_does_not_hold_up_its_removal() {
    on_a_node(Backend::Host, async |sandbox| {
        let network = sandbox.network().await;
        let web = network.attach(sandbox.request("web", &[])).await.unwrap();
        let user = Namespace::of(&web);
        network.detach(&web.owner, &web.ns_dir).await.unwrap();
        assert!(!web.ns_dir.exists());
        assert!(!user.shell("ip -br link").contains("eth0"));
        network.teardown().await.unwrap();
    });
}

#[test]
fn mounts_of_namespaces_stay_where_they_were_made() {
    on_a_node(Backend::Host, async |sandbox| {
        // As systemd does with the whole tree.
        shell("mount --make-rshared /");
        let network = sandbox.network().await;
        let copies = crate::sandbox::MountNamespace::copy_of_here();
        let web = network.attach(sandbox.request("web", &[])).await.unwrap();
        let table = copies.mount_table();
        assert!(!table.contains(web.ns_dir.to_str().unwrap()), "{table}");
        network.teardown().await.unwrap();
    });
}

#[test]
fn two_riklets_in_two_namespaces_do_not_disturb_each_other() {
    on_a_node(Backend::Host, async |sandbox| {
        let network = sandbox.network().await;
        let web = network.attach(sandbox.request("web", &[tcp(8080)])).await.unwrap();
        let server = Server::within(&Namespace::of(&web), Ipv4Addr::UNSPECIFIED, 80);
        let state_dir = sandbox.state_dir.with_file_name("other-state");
        let mut config = sandbox.config();
        config.state_dir = state_dir.clone();
        sandbox.neighbour.run(|| {
            let runtime = tokio::runtime::Runtime::new().unwrap();
            runtime.block_on(async {
                let other = Network::open(config).await.unwrap();
                other.reconcile(&[]).await.unwrap();
                let mut request = sandbox.request("web", &[tcp(8080)]);
                request.ns_dir = state_dir.join("pods/web/ns");
                other.attach(request).await.unwrap();
                other.teardown().await.unwrap();
            });
        });
        assert_eq!(network.ensure().await.unwrap(), network::Mended::default());
        assert_eq!(sandbox.neighbour.run(|| ask(at(NODE, 8080))), Ok(NEIGHBOUR));
        drop(server);
        network.teardown().await.unwrap();
    });
}

#[test]
fn the_namespace_that_a_test_starts_from_is_untouched() {
    let look = || {
        let settings = "sysctl -n net.ipv4.ip_forward; sysctl -n net.ipv4.conf.all.route_localnet; hostname";
        shell(&format!("ip -br link; iptables-save; iptables-legacy-save; ip route; {settings}"))
    };
    Namespace::new().run(|| {
        let before = look();
        on_a_node(Backend::Host, async |sandbox| {
            let network = sandbox.network().await;
            network.attach(sandbox.request("web", &[tcp(8080)])).await.unwrap();
            network.teardown().await.unwrap();
        });
        assert_same(&look(), &before);
    });
}
