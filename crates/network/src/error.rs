//! What can go wrong with the network: of a node, of attaching a pod, of detaching one.

use std::{io, path::PathBuf};

use model::Protocol;

use crate::{
    AddressError, Owner, Subnet, UnfitForPods, bridge::BridgeError, firewall::FirewallError,
    ledger::LedgerError, namespace::NamespaceError, netlink::NetlinkError, ports::ListenersError,
    sysctl::SysctlError, wiring::WiringError,
};

/// Why a node's network could not be opened, kept or removed.
#[derive(Debug, thiserror::Error)]
pub enum NetworkError {
    /// A name that no link can have.
    #[error("use {name:?} as the name of a link: it must be 1 to 15 letters, digits, '-', '_' or '.'")]
    LinkName {
        /// The name.
        name: String,
    },
    /// The subnet has no room for pods.
    #[error("use the pod subnet")]
    Subnet {
        /// Why.
        #[source]
        source: UnfitForPods,
    },
    /// The host reaches somebody else by these addresses.
    #[error(
        "use {subnet} for pods: the host has a route {route}, which shares addresses with it; choose a subnet that no \
         route of `ip route` covers, for example one in 10.0.0.0/8 or 172.16.0.0/12"
    )]
    SubnetInUse {
        /// The pods' subnet.
        subnet: Subnet,
        /// The route.
        route: String,
    },
    /// There is no such interface.
    #[error("use the interface {name}: the host has {present}", present = present.join(", "))]
    UplinkMissing {
        /// The interface.
        name: String,
        /// Those that there are.
        present: Vec<String>,
    },
    /// The directory of the pods could not be read.
    #[error("list {path}", path = path.display())]
    ListPods {
        /// The directory.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The record of what is to be put back.
    #[error("keep the record of the node's network")]
    Ledger {
        /// Why.
        #[source]
        source: LedgerError,
    },
    /// Kernel settings.
    #[error("prepare the node's kernel settings")]
    Sysctl {
        /// Why.
        #[source]
        source: SysctlError,
    },
    /// The bridge.
    #[error("prepare the pods' bridge")]
    Bridge {
        /// Why.
        #[source]
        source: BridgeError,
    },
    /// Links and routes.
    #[error("look at the node's links and routes")]
    Netlink {
        /// Why.
        #[source]
        source: NetlinkError,
    },
    /// Mounts.
    #[error("keep the pods' namespaces")]
    Namespace {
        /// Why.
        #[source]
        source: NamespaceError,
    },
    /// Rules.
    #[error("keep the node's firewall rules")]
    Firewall {
        /// Why.
        #[source]
        source: FirewallError,
    },
    /// A pod could not be detached.
    #[error("detach pod {owner}")]
    Detach {
        /// The pod.
        owner: Owner,
        /// Why.
        #[source]
        source: DetachError,
    },
}

/// Why a pod has no network.
#[derive(Debug, thiserror::Error)]
pub enum AttachError {
    /// The pods of an earlier run are not known yet.
    #[error("attach pod {owner}: the network has not been reconciled yet")]
    NotReconciled {
        /// The pod.
        owner: Owner,
    },
    /// The pod has a place already, and it differs from what is asked for.
    #[error("attach pod {owner}: it is attached already, with other ports, host name or directory")]
    AlreadyAttached {
        /// The pod.
        owner: Owner,
    },
    /// No address is left.
    #[error("give pod {owner} an address")]
    Address {
        /// The pod.
        owner: Owner,
        /// Why.
        #[source]
        source: AddressError,
    },
    /// Port 0 was asked for.
    #[error("publish port 0 of pod {owner}: ports are 1 to 65535")]
    PortZero {
        /// The pod.
        owner: Owner,
    },
    /// Somebody else has the port.
    #[error("publish port {port}/{protocol}: it is in use by {by}")]
    PortInUse {
        /// The protocol.
        protocol: Protocol,
        /// The port of the node.
        port: u16,
        /// Who has it.
        by: String,
    },
    /// Whether the port is free could not be found out.
    #[error("find out who listens on port {port}/{protocol}")]
    Listeners {
        /// The protocol.
        protocol: Protocol,
        /// The port of the node.
        port: u16,
        /// Why.
        #[source]
        source: ListenersError,
    },
    /// Namespaces, link, address.
    #[error("connect pod {owner} to the node")]
    Wiring {
        /// The pod.
        owner: Owner,
        /// Why.
        #[source]
        source: WiringError,
    },
    /// Rules.
    #[error("publish the ports of pod {owner}")]
    Firewall {
        /// The pod.
        owner: Owner,
        /// Why.
        #[source]
        source: FirewallError,
    },
    /// The task that did the work died.
    #[error("attach pod {owner}: the task was ended")]
    Ended {
        /// The pod.
        owner: Owner,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl AttachError {
    /// Whether the same request may succeed later without anybody changing it.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NotReconciled { .. }
            | Self::Address { .. }
            | Self::Wiring { .. }
            | Self::Firewall { .. }
            | Self::Listeners { .. }
            | Self::Ended { .. } => true,
            Self::AlreadyAttached { .. } | Self::PortZero { .. } | Self::PortInUse { .. } => false,
        }
    }
}

/// Why something of a pod may still be there. Detaching again tries again.
#[derive(Debug, thiserror::Error)]
pub enum DetachError {
    /// Namespaces and link.
    #[error("disconnect pod {owner} from the node")]
    Wiring {
        /// The pod.
        owner: Owner,
        /// Why.
        #[source]
        source: WiringError,
    },
    /// Rules.
    #[error("unpublish the ports of pod {owner}")]
    Firewall {
        /// The pod.
        owner: Owner,
        /// Why.
        #[source]
        source: FirewallError,
    },
    /// The task that did the work died.
    #[error("detach pod {owner}: the task was ended")]
    Ended {
        /// The pod.
        owner: Owner,
        /// Why.
        #[source]
        source: io::Error,
    },
}

impl From<LedgerError> for NetworkError {
    fn from(source: LedgerError) -> Self {
        Self::Ledger { source }
    }
}

impl From<SysctlError> for NetworkError {
    fn from(source: SysctlError) -> Self {
        Self::Sysctl { source }
    }
}

impl From<BridgeError> for NetworkError {
    fn from(source: BridgeError) -> Self {
        Self::Bridge { source }
    }
}

impl From<NetlinkError> for NetworkError {
    fn from(source: NetlinkError) -> Self {
        Self::Netlink { source }
    }
}

impl From<NamespaceError> for NetworkError {
    fn from(source: NamespaceError) -> Self {
        Self::Namespace { source }
    }
}

impl From<FirewallError> for NetworkError {
    fn from(source: FirewallError) -> Self {
        Self::Firewall { source }
    }
}

impl From<UnfitForPods> for NetworkError {
    fn from(source: UnfitForPods) -> Self {
        Self::Subnet { source }
    }
}
