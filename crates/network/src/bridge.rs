//! The bridge that the pods of a node are joined to; its address is their gateway.

use std::net::{IpAddr, Ipv4Addr};

use futures::TryStreamExt;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressMessage},
    link::InfoKind,
};
use rtnetlink::{Handle, LinkBridge, LinkBridgePort, LinkUnspec};

use crate::{
    Subnet,
    link::{self, Link},
    netlink::{self, Doing, NetlinkError},
    owner::BRIDGE_MARK,
};

/// First two bytes of our hardware addresses: local (bit 1 of the first byte), and "R". The IPv4 address follows, so
/// that an address and its hardware address are reused together and no neighbour's memory of them is ever wrong.
const HARDWARE_PREFIX: [u8; 2] = [0x02, 0x52];

/// What the bridge should be.
#[derive(Clone, Debug)]
pub(crate) struct BridgeSpec {
    pub(crate) name: String,
    /// What marks it as this riklet's.
    pub(crate) alias: String,
    pub(crate) subnet: Subnet,
    pub(crate) mtu: u32,
}

/// A bridge that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bridge {
    pub(crate) index: u32,
    /// Whether it was missing or not as it should be.
    pub(crate) was_mended: bool,
}

/// Why there is no bridge.
#[derive(Debug, thiserror::Error)]
pub enum BridgeError {
    /// Something of this name exists that RIK did not make.
    #[error(
        "use the bridge {name}: a link of this name exists that RIK did not make{alias}; give RIK another bridge name, \
         or remove that link",
        alias = alias.as_ref().map(|alias| format!(" (its alias is {alias:?})")).unwrap_or_default()
    )]
    NotOurs {
        /// The name.
        name: String,
        /// The stranger's alias.
        alias: Option<String>,
    },
    /// Another riklet has its pods in this network namespace.
    #[error(
        "prepare the bridge {name}: another riklet keeps bridge {other} here (state directory {state_dir}); only one \
         can run in a network namespace: stop that one and run `riklet reset` with its state directory, or give each \
         a namespace of its own"
    )]
    AnotherRiklet {
        /// Our bridge.
        name: String,
        /// The other's.
        other: String,
        /// The other's state directory.
        state_dir: String,
    },
    /// The kernel refused.
    #[error("prepare the bridge {name}")]
    Kernel {
        /// The name.
        name: String,
        /// Why.
        #[source]
        source: NetlinkError,
    },
}

/// The hardware address that goes with an address.
pub(crate) fn hardware_address(address: Ipv4Addr) -> Vec<u8> {
    [HARDWARE_PREFIX.as_slice(), &address.octets()].concat()
}

/// The riklet's bridge, if there is one.
pub(crate) async fn find_ours(
    handle: &Handle,
    name: &str,
    alias: &str,
    unmarked: Unmarked,
) -> Result<Option<Link>, BridgeError> {
    let links = link::list(handle).await.map_err(|source| kernel(name, source))?;
    let mut ours = None;
    for link in links {
        let mark = link.alias.as_deref();
        let is_ours = mark == Some(alias) || (mark.is_none() && unmarked == Unmarked::MayBeOurs);
        let others = mark.and_then(|mark| mark.strip_prefix(BRIDGE_MARK)).filter(|_| !is_ours);
        if let Some(state_dir) = others {
            let (name, state_dir) = (name.to_owned(), state_dir.to_owned());
            return Err(BridgeError::AnotherRiklet { name, other: link.name, state_dir });
        }
        if link.name == name {
            if !(is_ours && link.kind == Some(InfoKind::Bridge)) {
                return Err(BridgeError::NotOurs { name: link.name, alias: link.alias });
            }
            ours = Some(link);
        }
    }
    Ok(ours)
}

/// What a bridge without a mark is taken for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Unmarked {
    /// Ours: the ledger says that we were about to make it, and died before we marked it.
    MayBeOurs,
    /// Somebody else's.
    IsForeign,
}

/// Makes the bridge be as it should, whatever of it is there.
pub(crate) async fn ensure(
    handle: &Handle,
    spec: &BridgeSpec,
    unmarked: Unmarked,
) -> Result<Bridge, BridgeError> {
    let found = find_ours(handle, &spec.name, &spec.alias, unmarked).await?;
    mend(handle, spec, found).await.map_err(|source| kernel(&spec.name, source))
}

/// Joins an existing link to the bridge, as a port that a pod can also reach itself through.
pub(crate) async fn join(handle: &Handle, link: &Link, bridge: u32) -> Result<(), NetlinkError> {
    let join = LinkUnspec::new_with_index(link.index).controller(bridge).up().build();
    netlink::change(handle, join).await.doing(|| format!("join link {} to the bridge", link.name))?;
    let port = LinkBridgePort::new(link.index).hairpin(true).build();
    netlink::change(handle, port).await.doing(|| format!("set the bridge port of {}", link.name))
}

async fn mend(handle: &Handle, spec: &BridgeSpec, found: Option<Link>) -> Result<Bridge, NetlinkError> {
    let name = &spec.name;
    let mut was_mended = false;
    let link = match found {
        Some(link) => link,
        None => {
            was_mended = true;
            let address = hardware_address(spec.subnet.gateway());
            let create = LinkBridge::new(name).address(address).mtu(spec.mtu).build();
            handle.link().add(create).execute().await.doing(|| format!("create bridge {name}"))?;
            let created = link::find(handle, name).await?;
            created.ok_or_else(|| NetlinkError::vanished(name))?
        }
    };
    if link.alias.is_none() || !link.is_up || link.mtu != spec.mtu {
        was_mended = true;
        let change = LinkUnspec::new_with_index(link.index).alias(&spec.alias).mtu(spec.mtu).up().build();
        netlink::change(handle, change).await.doing(|| format!("bring up bridge {name}"))?;
    }
    was_mended |= mend_addresses(handle, spec, link.index).await?;
    Ok(Bridge { index: link.index, was_mended })
}

/// Gives the bridge its address and takes away others, which an earlier run with another subnet left.
async fn mend_addresses(handle: &Handle, spec: &BridgeSpec, index: u32) -> Result<bool, NetlinkError> {
    let wanted = (spec.subnet.gateway(), spec.subnet.prefix());
    let addresses = handle.address().get().set_link_index_filter(index).execute();
    let found: Vec<AddressMessage> =
        addresses.try_collect().await.doing(|| format!("look at {}", spec.name))?;
    let mut is_there = false;
    let mut was_mended = false;
    for message in found.into_iter().filter(|message| message.header.family == AddressFamily::Inet) {
        let address = message.attributes.iter().find_map(|attribute| match attribute {
            AddressAttribute::Local(IpAddr::V4(address)) => Some(*address),
            _ => None,
        });
        if address == Some(wanted.0) && message.header.prefix_len == wanted.1 {
            is_there = true;
        } else {
            was_mended = true;
            handle
                .address()
                .del(message)
                .execute()
                .await
                .doing(|| format!("remove an address of {}", spec.name))?;
        }
    }
    if !is_there {
        was_mended = true;
        let add = handle.address().add(index, IpAddr::V4(wanted.0), wanted.1);
        add.execute().await.doing(|| format!("give {} the address {}/{}", spec.name, wanted.0, wanted.1))?;
    }
    Ok(was_mended)
}

fn kernel(name: &str, source: NetlinkError) -> BridgeError {
    BridgeError::Kernel { name: name.to_owned(), source }
}
