//! One pod's namespaces and its link: made in one go by one short-lived thread.
//!
//! ```text
//!  node namespace              │ pod namespace
//!  bridge ── rik… (host end) ──┼── eth0  address/prefix, default route by the gateway
//!  marked rik:<uid>            │   lo
//! ```
//!
//! The thread opens a netlink socket on the node's side, moves into the pod's network namespace, opens a second socket
//! there, and ends. No thread that serves others ever changes its namespace.
//!
//! *Guarantees.* When it fails, nothing is left. IPv6 is off on both ends, so that there is no way around the rules.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr},
    os::fd::{AsRawFd, OwnedFd},
    path::PathBuf,
    thread,
};

use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoData, InfoVeth, LinkAttribute, LinkMessage,
};
use rtnetlink::{Handle, LinkBridgePort, LinkMessageBuilder, LinkUnspec, LinkVeth, RouteMessageBuilder};
use tokio::sync::oneshot;

use crate::{
    Owner, TapOwner,
    bridge::hardware_address,
    link,
    namespace::{self, NamespaceError},
    netlink::{self, Doing, NetlinkError},
    owner::LINK_NAME_ATTEMPTS,
    sysctl::{self, SysctlError},
    tap,
};

/// Index of `lo` in every new network namespace.
const LOOPBACK_INDEX: u32 = 1;

/// Name of the pod's end.
pub(crate) const POD_LINK: &str = "eth0";

/// Stack of the thread: it calls the kernel and little else.
const STACK_BYTES: usize = 512 << 10;

/// What a pod's wiring should be.
#[derive(Clone, Debug)]
pub(crate) struct WiringSpec {
    pub(crate) owner: Owner,
    pub(crate) hostname: String,
    pub(crate) ns_dir: PathBuf,
    pub(crate) has_namespaces: bool,
    pub(crate) tap: Option<TapOwner>,
    pub(crate) bridge: u32,
    pub(crate) address: Ipv4Addr,
    pub(crate) prefix: u8,
    pub(crate) gateway: Ipv4Addr,
    pub(crate) mtu: u32,
}

/// Why a pod could not be wired, or its wiring not be removed.
#[derive(Debug, thiserror::Error)]
pub enum WiringError {
    /// No thread could be had, or it died.
    #[error("start a thread for the pod's namespaces")]
    Thread {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Namespaces.
    #[error("prepare the pod's namespaces")]
    Namespace {
        /// Why.
        #[source]
        source: NamespaceError,
    },
    /// Links, addresses, routes.
    #[error("prepare the pod's link")]
    Link {
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// Every name for the pod's link belongs to somebody else.
    #[error("name the pod's link: {names} exist and RIK did not make them for this pod", names = names.join(", "))]
    NamesTaken {
        /// The names.
        names: Vec<String>,
    },
    /// The device of a microVM.
    #[error("make the microVM's TAP device; it needs /dev/net/tun (modprobe tun)")]
    Tap {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// Kernel settings of the pod.
    #[error("prepare the pod's kernel settings")]
    Sysctl {
        /// Why.
        #[source]
        source: SysctlError,
    },
}

impl From<NetlinkError> for WiringError {
    fn from(source: NetlinkError) -> Self {
        Self::Link { source }
    }
}

impl From<NamespaceError> for WiringError {
    fn from(source: NamespaceError) -> Self {
        Self::Namespace { source }
    }
}

impl From<SysctlError> for WiringError {
    fn from(source: SysctlError) -> Self {
        Self::Sysctl { source }
    }
}

/// Wires a pod. Returns the name of the link's host end.
pub(crate) async fn wire(spec: WiringSpec) -> Result<String, WiringError> {
    let (done, outcome) = oneshot::channel();
    thread::Builder::new()
        .name("rik-wiring".to_owned())
        .stack_size(STACK_BYTES)
        .spawn(move || {
            // Nobody waits any more only while the process ends.
            let _ = done.send(wire_here(&spec));
        })
        .map_err(|source| WiringError::Thread { source })?;
    outcome.await.map_err(|died| WiringError::Thread { source: io::Error::other(died) })?
}

/// Removes a pod's link and namespaces, whatever of them is there.
pub(crate) async fn unwire(owner: Owner, ns_dir: PathBuf, bridge: Option<u32>) -> Result<(), WiringError> {
    netlink::elsewhere(move || {
        netlink::converse(async |handle| -> Result<(), WiringError> {
            for link in link::of_owner(&handle, &owner, bridge).await? {
                link::remove(&handle, &link).await?;
            }
            Ok(())
        })?;
        Ok(namespace::remove(&ns_dir)?)
    })
    .await
}

fn wire_here(spec: &WiringSpec) -> Result<String, WiringError> {
    netlink::converse(async |node: Handle| {
        let outcome = wire_with(&node, spec).await;
        if outcome.is_err() {
            undo(&node, spec).await;
        }
        outcome
    })
}

async fn wire_with(node: &Handle, spec: &WiringSpec) -> Result<String, WiringError> {
    if !spec.has_namespaces {
        namespace::make(&spec.ns_dir, &spec.hostname, None)?;
    }
    namespace::enter_net(&spec.ns_dir)?;
    set_pod_defaults()?;
    let here: OwnedFd = fs::File::open("/proc/thread-self/ns/net")
        .map_err(|source| NamespaceError::Create { path: namespace::net_path(&spec.ns_dir), source })?
        .into();
    let pod = netlink::connect()?;
    let name = create_link(node, spec, &here).await?;
    if let Some(owner) = spec.tap {
        tap::create(owner).map_err(|source| WiringError::Tap { source })?;
        tap::set_router()?;
    }
    let (marked, configured) = tokio::join!(mark_host_end(node, spec, &name), configure_pod_end(&pod, spec));
    marked?;
    configured?;
    Ok(name)
}

/// Settings of the new network namespace, which the thread is in by now.
fn set_pod_defaults() -> Result<(), SysctlError> {
    // For links to come: the pod's own ::1 stays.
    sysctl::disable_ipv6("default")?;
    // As container runtimes do: a pod has its ports to itself, so the low ones need no privilege, nor has ping.
    sysctl::set_if_known("net/ipv4/ip_unprivileged_port_start", "0")?;
    sysctl::set_if_known("net/ipv4/ping_group_range", "0\t2147483647")
}

/// Both ends at once: the host end joined to the bridge, the pod's end inside. A name that a dead riklet's remains
/// have is freed; one that a stranger has is left alone.
async fn create_link(node: &Handle, spec: &WiringSpec, pod: &OwnedFd) -> Result<String, WiringError> {
    let mut names = Vec::new();
    for attempt in 0..LINK_NAME_ATTEMPTS {
        let name = spec.owner.link_name(attempt);
        match add_link(node, spec, &name, pod).await {
            Err(error) if error.exists() => {}
            outcome => return outcome.map(|()| name).map_err(WiringError::from),
        }
        match link::find(node, &name).await? {
            Some(remains) if remains.is_of(&spec.owner, Some(spec.bridge)) => {
                link::remove(node, &remains).await?
            }
            None => {}
            Some(_) => {
                names.push(name);
                continue;
            }
        }
        add_link(node, spec, &name, pod).await?;
        return Ok(name);
    }
    Err(WiringError::NamesTaken { names })
}

async fn add_link(node: &Handle, spec: &WiringSpec, name: &str, pod: &OwnedFd) -> Result<(), NetlinkError> {
    let peer: LinkMessage = LinkMessageBuilder::<LinkUnspec>::new()
        .name(POD_LINK)
        .address(hardware_address(spec.address))
        .mtu(spec.mtu)
        .setns_by_fd(pod.as_raw_fd())
        .build();
    let message = LinkVeth::new(name, POD_LINK)
        .set_info_data(InfoData::Veth(InfoVeth::Peer(peer)))
        .mtu(spec.mtu)
        .controller(spec.bridge)
        .build();
    node.link().add(message).execute().await.doing(|| format!("create link {name}"))
}

/// The kernel takes neither alias nor port settings when it creates a link, hence a second message. The link comes up
/// only here, when IPv6 can no longer give it an address.
async fn mark_host_end(node: &Handle, spec: &WiringSpec, name: &str) -> Result<(), NetlinkError> {
    let mut mark = LinkBridgePort::new(0).hairpin(true).name(name).alias(spec.owner.mark()).up();
    if sysctl::has_ipv6() {
        let no_address = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
        mark = mark.append_extra_attribute(LinkAttribute::AfSpecUnspec(vec![no_address]));
    }
    netlink::change(node, mark.build()).await.doing(|| format!("mark and bring up link {name}"))
}

async fn configure_pod_end(pod: &Handle, spec: &WiringSpec) -> Result<(), NetlinkError> {
    let loopback = LinkUnspec::new_with_index(LOOPBACK_INDEX).up().build();
    netlink::change(pod, loopback).await.doing(|| "bring up lo".to_owned())?;
    if spec.tap.is_some() {
        return tap::configure(pod, spec).await;
    }
    // Not in the message that creates the pair: an end cannot come up before it has a peer.
    let eth0 = LinkUnspec::new_with_name(POD_LINK).up().build();
    netlink::change(pod, eth0).await.doing(|| format!("bring up {POD_LINK}"))?;
    let found = link::find(pod, POD_LINK).await?;
    let index = found.map_or(0, |link| link.index);
    let add = pod.address().add(index, IpAddr::V4(spec.address), spec.prefix);
    add.execute().await.doing(|| format!("give {POD_LINK} the address {}/{}", spec.address, spec.prefix))?;
    let route = RouteMessageBuilder::<Ipv4Addr>::new().gateway(spec.gateway).build();
    pod.route().add(route).execute().await.doing(|| format!("route by {}", spec.gateway))
}

/// Leaves nothing of a failed attempt. The attempt's own error is what matters, so those on the way back are only
/// logged.
async fn undo(node: &Handle, spec: &WiringSpec) {
    let removed = async {
        for link in link::of_owner(node, &spec.owner, Some(spec.bridge)).await? {
            link::remove(node, &link).await?;
        }
        Ok::<(), NetlinkError>(())
    };
    if let Err(error) = removed.await {
        tracing::warn!(owner = %spec.owner, %error, "a failed attempt left a link");
    }
    if let Err(error) = namespace::remove(&spec.ns_dir) {
        tracing::warn!(owner = %spec.owner, %error, "a failed attempt left a namespace");
    }
}
