//! What is refused, and how the refusal explains itself.

use std::{error::Error, net::Ipv4Addr};

use network::{AttachError, Backend, Network, NetworkError};

use crate::{
    sandbox::{Sandbox, assert_same, inventory, on_a_node, shell, tcp},
    server::Server,
};

/// The error and its sources, as the outermost layer prints them.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

async fn refused_to_open(sandbox: &Sandbox) -> String {
    let before = inventory(sandbox);
    let error = Network::open(sandbox.config()).await.unwrap_err();
    assert_same(&inventory(sandbox), &before);
    chain(&error)
}

#[test]
fn a_port_that_a_program_listens_on_is_refused_with_its_name() {
    on_a_node(Backend::Host, async |sandbox| {
        let network = sandbox.network().await;
        let before = inventory(&sandbox);
        let server = Server::here(Ipv4Addr::LOCALHOST, 8080);
        let error = network.attach(sandbox.request("web", &[tcp(8080)])).await.unwrap_err();
        assert!(!error.is_transient());
        let id = std::process::id();
        let text = error.to_string();
        assert!(text.starts_with("publish port 8080/TCP: it is in use by "), "{text}");
        assert!(text.ends_with(&format!("process {id}, on 127.0.0.1:8080")), "{text}");
        assert_same(&inventory(&sandbox), &before);
        drop(server);
        network.attach(sandbox.request("web", &[tcp(8080)])).await.unwrap();
        let error = network.attach(sandbox.request("other", &[tcp(8080)])).await.unwrap_err();
        assert_eq!(error.to_string(), "publish port 8080/TCP: it is in use by pod web");
        assert_eq!(network.port_in_use(&tcp(8080)).unwrap(), Some("pod web".to_owned()));
        assert_eq!(network.port_in_use(&tcp(8081)).unwrap(), None);
        network.teardown().await.unwrap();
    });
}

#[test]
fn a_pool_that_is_empty_says_so_and_resumes_when_an_address_is_freed() {
    on_a_node(Backend::Host, async |sandbox| {
        let mut config = sandbox.config();
        config.subnet = "10.42.0.0/29".parse().unwrap();
        let network = Network::open(config).await.unwrap();
        network.reconcile(&[]).await.unwrap();
        for number in 0..5 {
            network.attach(sandbox.request(&format!("pod-{number}"), &[])).await.unwrap();
        }
        let error = network.attach(sandbox.request("late", &[])).await.unwrap_err();
        assert!(error.is_transient());
        let text = chain(&error);
        assert_eq!(text, "give pod late an address: find a free address in 10.42.0.0/29: all 5 are in use");
        network.detach(&"pod-3".parse().unwrap(), &sandbox.ns_dir("pod-3")).await.unwrap();
        let late = network.attach(sandbox.request("late", &[])).await.unwrap();
        assert_eq!(late.ip, Ipv4Addr::new(10, 42, 0, 5));
        network.teardown().await.unwrap();
    });
}

#[test]
fn a_subnet_that_the_host_has_a_route_to_is_refused_with_the_route() {
    on_a_node(Backend::Host, async |sandbox| {
        shell("ip route add 10.42.0.0/16 via 198.51.100.2 dev up0");
        let text = refused_to_open(&sandbox).await;
        assert!(text.contains("the host has a route 10.42.0.0/16 dev up0"), "{text}");
        assert!(text.contains("choose a subnet"), "{text}");
    });
}

#[test]
fn an_uplink_that_does_not_exist_is_refused_with_those_that_do() {
    on_a_node(Backend::Host, async |sandbox| {
        let mut config = sandbox.config();
        config.uplink = Some("eth9".into());
        let error = Network::open(config).await.unwrap_err();
        assert_eq!(error.to_string(), "use the interface eth9: the host has lo, up0");
    });
}

#[test]
fn a_bridge_of_somebody_else_is_left_alone() {
    on_a_node(Backend::Host, async |sandbox| {
        shell("ip link add rik0 type bridge");
        let text = refused_to_open(&sandbox).await;
        assert!(text.contains("a link of this name exists that RIK did not make"), "{text}");
    });
}

#[test]
fn a_second_riklet_in_the_same_namespace_is_refused() {
    on_a_node(Backend::Host, async |sandbox| {
        let network = sandbox.network().await;
        for bridge in ["rik0", "rik1"] {
            let mut config = sandbox.config();
            config.state_dir = sandbox.state_dir.with_file_name("second");
            config.bridge = bridge.into();
            let text = chain(&Network::open(config).await.unwrap_err());
            assert!(text.contains("another riklet keeps bridge rik0 here"), "{text}");
            assert!(text.contains(sandbox.state_dir.to_str().unwrap()), "{text}");
        }
        network.teardown().await.unwrap();
    });
}

#[test]
fn settings_that_cannot_be_written_are_an_error_that_says_so() {
    on_a_node(Backend::Host, async |sandbox| {
        shell("mount --bind /proc/sys /proc/sys && mount -o remount,ro,bind /proc/sys");
        let error = match Network::open(sandbox.config()).await {
            Ok(network) => network.reconcile(&[]).await.unwrap_err(),
            Err(error) => error,
        };
        let text = chain(&error);
        assert!(text.contains("set the kernel setting net."), "{text}");
        assert!(text.contains("/proc/sys is not writable here"), "{text}");
        shell("umount /proc/sys");
        Network::erase(sandbox.config()).await.unwrap();
    });
}

#[test]
fn a_host_without_iptables_is_told_which_package_to_install() {
    on_a_node(Backend::Host, async |sandbox| {
        let network = Network::open(sandbox.config()).await.unwrap();
        hide_programs();
        let error = network.reconcile(&[]).await.unwrap_err();
        assert!(matches!(error, NetworkError::Firewall { .. }));
        let text = chain(&error);
        assert!(text.contains("install the package \"iptables\""), "{text}");
        show_programs();
        network.reconcile(&[]).await.unwrap();
        network.teardown().await.unwrap();
    });
}

#[test]
fn a_failed_attach_leaves_nothing_and_may_be_repeated() {
    on_a_node(Backend::Host, async |sandbox| {
        let network = sandbox.network().await;
        let before = inventory(&sandbox);
        hide_programs();
        let error = network.attach(sandbox.request("web", &[tcp(8080)])).await.unwrap_err();
        assert!(matches!(error, AttachError::Firewall { .. }), "{error:?}");
        show_programs();
        network.ensure().await.unwrap();
        assert_same(&inventory(&sandbox), &before);

        let mut request = sandbox.request("web", &[tcp(8080)]);
        request.hostname = "x".repeat(65);
        let error = network.attach(request).await.unwrap_err();
        assert!(chain(&error).contains("make namespaces for host name"), "{error:?}");
        assert_same(&inventory(&sandbox), &before);
        network.attach(sandbox.request("web", &[tcp(8080)])).await.unwrap();
        network.teardown().await.unwrap();
    });
}

/// Hides the programs for administration, in this test's mount namespace alone.
fn hide_programs() {
    shell("mount -t tmpfs tmpfs /usr/sbin");
}

fn show_programs() {
    shell("umount /usr/sbin");
}
