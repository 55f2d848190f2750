//! Brings up the machine's network by netlink, the way the kernel wants to be asked.

use std::{io, net::IpAddr};

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_CREATE, NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::{
    AddressFamily, RouteNetlinkMessage,
    address::{AddressAttribute, AddressMessage},
    link::{LinkAttribute, LinkFlags, LinkMessage},
    route::{RouteAddress, RouteAttribute, RouteMessage, RouteProtocol, RouteScope, RouteType},
};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::order::Network;

/// Index of `lo` in every network.
const LOOPBACK: u32 = 1;
/// Name of the link to the outside.
const LINK: &str = "eth0";
/// Largest answer of the kernel.
const ANSWER_BYTES: usize = 64 << 10;

/// Brings up `lo` and, if there is a network, `eth0` with its address and the way out.
pub(super) fn bring_up(network: Option<&Network>) -> Result<(), String> {
    let at = |what: &'static str| move |error: io::Error| format!("{what}: {error}");
    let mut kernel = Kernel::open().map_err(at("talking to the kernel about the network"))?;
    kernel.up(LOOPBACK, None).map_err(at("bringing up lo"))?;
    let Some(network) = network else { return Ok(()) };
    let index = std::fs::read_to_string(format!("/sys/class/net/{LINK}/ifindex"));
    let index = index.ok().and_then(|text| text.trim().parse().ok());
    let index: u32 = index.ok_or("eth0 does not appear: the kernel has no driver for it")?;
    kernel.up(index, Some(network.mtu)).map_err(at("bringing up eth0"))?;
    kernel.address(index, network).map_err(at("giving eth0 its address"))?;
    kernel.route(network).map_err(at("the way out"))
}

struct Kernel {
    socket: Socket,
    number: u32,
}

impl Kernel {
    fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        socket.bind_auto()?;
        socket.connect(&SocketAddr::new(0, 0))?;
        Ok(Self { socket, number: 0 })
    }

    fn up(&mut self, index: u32, mtu: Option<u32>) -> io::Result<()> {
        let mut link = LinkMessage::default();
        link.header.index = index;
        link.header.flags = LinkFlags::Up;
        link.header.change_mask = LinkFlags::Up;
        link.attributes.extend(mtu.map(LinkAttribute::Mtu));
        self.ask(RouteNetlinkMessage::SetLink(link), 0)
    }

    fn address(&mut self, index: u32, network: &Network) -> io::Result<()> {
        let own = IpAddr::V4(network.address);
        let mut address = AddressMessage::default();
        address.header.family = AddressFamily::Inet;
        address.header.index = index;
        address.header.prefix_len = network.prefix;
        address.attributes.extend([AddressAttribute::Address(own), AddressAttribute::Local(own)]);
        self.ask(RouteNetlinkMessage::NewAddress(address), NLM_F_CREATE)
    }

    fn route(&mut self, network: &Network) -> io::Result<()> {
        let mut route = RouteMessage::default();
        route.header.address_family = AddressFamily::Inet;
        route.header.table = libc::RT_TABLE_MAIN;
        route.header.protocol = RouteProtocol::Boot;
        route.header.scope = RouteScope::Universe;
        route.header.kind = RouteType::Unicast;
        route.attributes.push(RouteAttribute::Gateway(RouteAddress::Inet(network.gateway)));
        self.ask(RouteNetlinkMessage::NewRoute(route), NLM_F_CREATE)
    }

    /// Asks for something, and waits until it is done.
    fn ask(&mut self, message: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.number += 1;
        let mut header = NetlinkHeader::default();
        header.flags = NLM_F_REQUEST | NLM_F_ACK | flags;
        header.sequence_number = self.number;
        let mut packet = NetlinkMessage::new(header, NetlinkPayload::from(message));
        packet.finalize();
        let mut bytes = vec![0_u8; packet.buffer_len()];
        packet.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        let mut answer = Vec::with_capacity(ANSWER_BYTES);
        let count = self.socket.recv(&mut answer, 0)?;
        let read =
            NetlinkMessage::<RouteNetlinkMessage>::deserialize(answer.get(..count).unwrap_or_default());
        match read.map_err(io::Error::other)?.payload {
            NetlinkPayload::Error(error) if error.code.is_some() => Err(error.to_io()),
            _ => Ok(()),
        }
    }
}
