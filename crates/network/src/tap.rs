//! TAP devices: the link of a microVM, as its VMM holds it.
//!
//! ```text
//!  bridge of the node ── eth0 │ pod namespace │ tap0 ── microVM
//!                             └── forwards ───┘
//! ```
//! The namespace is a router of one address: it answers for the microVM on one side and for everybody else on the other.
//! So the microVM is on no network but its own: it cannot speak with another's address, on either level, and its VMM
//! holds nothing but a device.

#![expect(unsafe_code, reason = "the kernel has no other way to make such a device than by calls on it")]

use std::{fs::OpenOptions, io, net::Ipv4Addr, os::fd::AsFd};

use netlink_packet_route::{neighbour::NeighbourState, route::RouteScope};
use rtnetlink::{Handle, LinkUnspec, RouteMessageBuilder};
use rustix::ioctl::{IntegerSetter, Opcode, Setter, ioctl};
use serde::{Deserialize, Serialize};

use crate::{
    bridge::hardware_address,
    link,
    netlink::{self, Doing, NetlinkError},
    sysctl::{self, IP_FORWARD, SysctlError},
    wiring::{POD_LINK, WiringSpec},
};

/// Name of the device in the namespace.
pub const TAP_LINK: &str = "tap0";
/// Hardware address of every microVM: each is alone on its link.
pub const GUEST_ADDRESS: [u8; 6] = [0x02, 0x52, 0, 0, 0, 1];
/// The kernel's maker of such devices.
const TUN_DEVICE: &str = "/dev/net/tun";
/// A device of frames, without a header of its own, with one for offloading (linux/if_tun.h).
const FLAGS: u16 = 0x0002 | 0x1000 | 0x4000;

/// Who may hold a TAP device: ids of the machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TapOwner {
    /// User.
    pub user: u32,
    /// Group.
    pub group: u32,
}

/// Codes of linux/if_tun.h.
const TUNSETIFF: Opcode = 0x4004_54ca;
const TUNSETPERSIST: Opcode = 0x4004_54cb;
const TUNSETOWNER: Opcode = 0x4004_54cc;
const TUNSETGROUP: Opcode = 0x4004_54ce;

/// `struct ifreq` as this call reads it.
#[repr(C)]
struct Request {
    name: [u8; 16],
    flags: u16,
    rest: [u8; 22],
}

/// Makes the device in the network namespace that this thread is in. It stays when nobody holds it.
pub(crate) fn create(owner: TapOwner) -> io::Result<()> {
    let device = OpenOptions::new().read(true).write(true).open(TUN_DEVICE)?;
    let mut request = Request { name: [0; 16], flags: FLAGS, rest: [0; 22] };
    for (to, from) in request.name.iter_mut().zip(TAP_LINK.bytes()) {
        *to = from;
    }
    let device = device.as_fd();
    let (user, group) = (usize::try_from(owner.user), usize::try_from(owner.group));
    let (user, group) = (user.map_err(io::Error::other)?, group.map_err(io::Error::other)?);
    // SAFETY: the codes are those of linux/if_tun.h; the first takes a `struct ifreq`, the others a number.
    unsafe {
        ioctl(device, Setter::<TUNSETIFF, Request>::new(request))?;
        ioctl(device, IntegerSetter::<TUNSETOWNER>::new_usize(user))?;
        ioctl(device, IntegerSetter::<TUNSETGROUP>::new_usize(group))?;
        ioctl(device, IntegerSetter::<TUNSETPERSIST>::new_usize(1))?;
    }
    Ok(())
}

/// Makes the namespace a router between the device and the pod's link, both of which are there.
pub(crate) async fn configure(pod: &Handle, spec: &WiringSpec) -> Result<(), NetlinkError> {
    let microvm = spec.address;
    for name in [POD_LINK, TAP_LINK] {
        let up = LinkUnspec::new_with_name(name).mtu(spec.mtu).up().build();
        netlink::change(pod, up).await.doing(|| format!("bring up {name}"))?;
    }
    let outer = index_of(pod, POD_LINK).await?;
    let inner = index_of(pod, TAP_LINK).await?;
    // Nobody in this namespace has an address to ask with; and nobody has to be asked.
    for (index, address, hardware) in
        [(outer, spec.gateway, hardware_address(spec.gateway)), (inner, microvm, GUEST_ADDRESS.to_vec())]
    {
        let mut add = pod.neighbours().add(index, address.into()).link_layer_address(&hardware);
        add.message_mut().header.state = NeighbourState::Permanent;
        add.execute().await.doing(|| format!("say where {address} is"))?;
    }
    let to_gateway = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(spec.gateway, 32)
        .output_interface(outer)
        .scope(RouteScope::Link);
    let to_microvm = RouteMessageBuilder::<Ipv4Addr>::new()
        .destination_prefix(microvm, 32)
        .output_interface(inner)
        .scope(RouteScope::Link);
    let out = RouteMessageBuilder::<Ipv4Addr>::new().gateway(spec.gateway).output_interface(outer);
    for route in [to_gateway, to_microvm, out] {
        pod.route().add(route.build()).execute().await.doing(|| format!("make routes for {microvm}"))?;
    }
    Ok(())
}

async fn index_of(pod: &Handle, name: &str) -> Result<u32, NetlinkError> {
    let found = link::find(pod, name).await?;
    Ok(found.ok_or_else(|| NetlinkError::vanished(name))?.index)
}

/// Settings of the namespace, which this thread is in.
pub(crate) fn set_router() -> Result<(), SysctlError> {
    sysctl::set(IP_FORWARD, "1")?;
    for name in [POD_LINK, TAP_LINK] {
        sysctl::set(&format!("net/ipv4/conf/{name}/proxy_arp"), "1")?;
        // The kernel's habit is to wait for up to 0.8 s, in case somebody else answers: nobody will.
        sysctl::set(&format!("net/ipv4/neigh/{name}/proxy_delay"), "0")?;
        sysctl::set(&format!("net/ipv4/conf/{name}/send_redirects"), "0")?;
    }
    // From the microvm nothing but its own address.
    sysctl::set(&format!("net/ipv4/conf/{TAP_LINK}/rp_filter"), "1")?;
    Ok(())
}
