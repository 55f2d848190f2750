//! The network of one node's pods.
//!
//! ```text
//!  Network (network) ── attach, detach, ensure, reconcile, teardown
//!   ├─ book ── pool ── subnet          pure: who has which address and port
//!   ├─ firewall                        state → rules → one atomic restore
//!   ├─ wiring ── namespace, link, tap  one pod: namespaces, veth, address, route; a microVM's device
//!   └─ node ── bridge, sysctl, ledger  once for all pods
//! ```
//!
//! *Guarantees.* Whatever this crate makes carries a mark: links an alias, rules a comment, `rik:<uid>`. Nothing
//! without one is changed or removed. What it made it finds again after a restart, and removes to the last trace.
//!
//! *Not here.* Names (DNS), IPv6, networks that span nodes.

mod attachment;
mod book;
mod bridge;
mod error;
pub mod firewall;
mod ledger;
mod link;
pub mod namespace;
mod netlink;
mod network;
mod node;
mod owner;
mod pool;
mod ports;
mod route;
mod sockets;
mod subnet;
mod sysctl;
mod tap;
mod wiring;

pub use attachment::{AttachRequest, Attachment};
pub use bridge::BridgeError;
pub use error::{AttachError, DetachError, NetworkError};
pub use firewall::{Backend, Destination, Publish};
pub use ledger::LedgerError;
pub use netlink::NetlinkError;
pub use network::{Network, NetworkConfig, Reconciled};
pub use node::Mended;
pub use owner::{Owner, OwnerError};
pub use pool::{AddressError, AddressPool};
pub use ports::{ListenersError, listener_on, listening};
pub use subnet::{Subnet, SubnetError, UnfitForPods};
pub use sysctl::SysctlError;
pub use tap::{GUEST_ADDRESS, TAP_LINK, TapOwner};
pub use wiring::WiringError;
