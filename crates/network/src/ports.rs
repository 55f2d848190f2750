//! Which programs of the host listen on a port, so that a published port never captures what the host serves.
//!
//! Asked by binding the port for a moment, which is cheap and as exact as the kernel. Only when that fails is the kernel
//! asked for the listener, to name it.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddrV4},
};

use model::{Protocol, node::ListeningPort};
use rustix::{
    io::Errno,
    net::{AddressFamily, SocketFlags, SocketType, sockopt},
};

use crate::sockets::{self, Listener};

/// How many processes are looked at to find a listener's name. More than any host runs; only the message is poorer
/// beyond it.
const PROCESS_LIMIT: usize = 100_000;

/// The kernel's tables of TCP sockets.
const TCP_TABLES: [&str; 2] = ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"];
/// The kernel's tables of UDP sockets.
const UDP_TABLES: [&str; 2] = ["/proc/thread-self/net/udp", "/proc/thread-self/net/udp6"];

/// Why the listeners could not be listed.
#[derive(Debug, thiserror::Error)]
#[error("read the listening sockets from {path}")]
pub struct ListenersError {
    /// The file.
    pub path: &'static str,
    /// Why.
    #[source]
    pub source: io::Error,
}

/// Most listening ports that are listed: more than any host has.
const LISTED_MAX: usize = 4_096;

/// Every port that programs of the host listen on, with the address if it is one alone. What cannot be read is left out.
#[must_use]
pub fn listening() -> Vec<ListeningPort> {
    let mut all = Vec::new();
    for protocol in [Protocol::Tcp, Protocol::Udp] {
        all.extend(listeners(protocol).unwrap_or_default().into_iter().filter_map(|listener| {
            let address = on_ipv4(listener.address)?;
            let address = Some(address).filter(|address| !address.is_unspecified());
            Some(ListeningPort { protocol, port: listener.port, address })
        }));
    }
    all.sort_unstable();
    all.dedup();
    all.truncate(LISTED_MAX);
    all
}

/// Who listens on a port of the host so that publishing it, on one address or on all, would take the port away.
///
/// # Errors
/// [`ListenersError`] when the kernel's tables cannot be read.
pub fn listener_on(
    protocol: Protocol,
    port: u16,
    address: Option<Ipv4Addr>,
) -> Result<Option<String>, ListenersError> {
    if can_bind(protocol, SocketAddrV4::new(address.unwrap_or(Ipv4Addr::UNSPECIFIED), port)) {
        return Ok(None);
    }
    let clash = |listener: &&Listener| listener.port == port && clashes(listener.address, address);
    Ok(listeners(protocol)?.iter().find(clash).map(describe))
}

/// All sockets of the host that wait for somebody.
fn listeners(protocol: Protocol) -> Result<Vec<Listener>, ListenersError> {
    if let Ok(found) = sockets::listeners(protocol) {
        return Ok(found);
    }
    let tables = match protocol {
        Protocol::Tcp => TCP_TABLES,
        Protocol::Udp => UDP_TABLES,
    };
    let mut found = Vec::new();
    for path in tables {
        match fs::read_to_string(path) {
            Ok(text) => found.extend(text.lines().skip(1).filter_map(|line| read_line(line, protocol))),
            // A kernel without IPv6 has no such table.
            Err(source) if source.kind() == io::ErrorKind::NotFound => {}
            Err(source) => return Err(ListenersError { path, source }),
        }
    }
    Ok(found)
}

/// Whether nobody is in the way. A failure for any other reason proves nothing, so that it is no.
fn can_bind(protocol: Protocol, address: SocketAddrV4) -> bool {
    let kind = match protocol {
        Protocol::Tcp => SocketType::STREAM,
        Protocol::Udp => SocketType::DGRAM,
    };
    let bind = || -> Result<(), Errno> {
        let socket = rustix::net::socket_with(AddressFamily::INET, kind, SocketFlags::CLOEXEC, None)?;
        if protocol == Protocol::Tcp {
            // Then connections that have ended do not count, but listeners still do.
            sockopt::set_socket_reuseaddr(&socket, true)?;
        }
        rustix::net::bind(&socket, &address)
    };
    bind().is_ok()
}

/// Whether rules for `wanted` (or, without it, every address of the host) would capture packets for a listener.
fn clashes(listening: IpAddr, wanted: Option<Ipv4Addr>) -> bool {
    on_ipv4(listening).is_some_and(|listening| {
        listening.is_unspecified() || wanted.is_none_or(|wanted| wanted == listening)
    })
}

/// The IPv4 address that a listener has as well, if it has one.
fn on_ipv4(listening: IpAddr) -> Option<Ipv4Addr> {
    match listening {
        IpAddr::V4(address) => Some(address),
        IpAddr::V6(address) => match address.to_ipv4_mapped() {
            Some(address) => Some(address),
            // Listens on IPv4 as well, unless told otherwise.
            None if address.is_unspecified() => Some(Ipv4Addr::UNSPECIFIED),
            None => None,
        },
    }
}

/// `sl local_address rem_address st … inode`, numbers in hexadecimal, addresses as the host orders bytes.
fn read_line(line: &str, protocol: Protocol) -> Option<Listener> {
    /// TCP LISTEN, and for UDP "not connected".
    const LISTENS: &str = "0A";
    const UNCONNECTED: &str = "07";
    let fields: Vec<&str> = line.split_whitespace().collect();
    let waits = match protocol {
        Protocol::Tcp => LISTENS,
        Protocol::Udp => UNCONNECTED,
    };
    if *fields.get(3)? != waits {
        return None;
    }
    let (address, port) = fields.get(1)?.split_once(':')?;
    Some(Listener {
        address: read_address(address)?,
        port: u16::from_str_radix(port, 16).ok()?,
        inode: fields.get(9)?.parse().ok()?,
    })
}

fn read_address(hex: &str) -> Option<IpAddr> {
    let word = |at: usize| u32::from_str_radix(hex.get(at * 8..at * 8 + 8)?, 16).ok().map(u32::to_ne_bytes);
    match hex.len() {
        8 => Some(Ipv4Addr::from(word(0)?).into()),
        32 => {
            let bytes: Vec<u8> = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
            Some(Ipv6Addr::from(<[u8; 16]>::try_from(bytes).ok()?).into())
        }
        _ => None,
    }
}

fn describe(listener: &Listener) -> String {
    let process = match process_of(listener.inode) {
        Some((id, name)) => format!("{name}, process {id}"),
        None => "a program".to_owned(),
    };
    match listener.address {
        IpAddr::V4(address) => format!("{process}, on {address}:{}", listener.port),
        IpAddr::V6(address) => format!("{process}, on [{address}]:{}", listener.port),
    }
}

/// Id and name of a process that has the socket open.
fn process_of(inode: u64) -> Option<(u32, String)> {
    let socket = format!("socket:[{inode}]");
    let ids = fs::read_dir("/proc").ok()?.take(PROCESS_LIMIT);
    let mut ids = ids.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    let id = ids.find(|id| {
        let Ok(open) = fs::read_dir(format!("/proc/{id}/fd")) else { return false };
        open.flatten()
            .any(|entry| fs::read_link(entry.path()).is_ok_and(|to| to.as_os_str() == socket.as_str()))
    })?;
    let name = fs::read_to_string(format!("/proc/{id}/comm")).ok()?;
    Some((id, name.trim().to_owned()))
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    #[test]
    fn a_listening_program_is_found_and_named() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let by = listener_on(Protocol::Tcp, port, None).unwrap().unwrap();
        assert!(by.contains(&format!("process {}", std::process::id())), "{by}");
        assert!(by.ends_with(&format!("on 127.0.0.1:{port}")), "{by}");
        assert!(listener_on(Protocol::Tcp, port, Some(Ipv4Addr::new(192, 0, 2, 1))).unwrap().is_none());
        assert!(listener_on(Protocol::Tcp, port, Some(Ipv4Addr::LOCALHOST)).unwrap().is_some());
        let listed = ListeningPort { protocol: Protocol::Tcp, port, address: Some(Ipv4Addr::LOCALHOST) };
        assert!(listening().contains(&listed));
        assert!(listener_on(Protocol::Udp, port, Some(Ipv4Addr::new(192, 0, 2, 1))).unwrap().is_none());
    }

    #[test]
    fn an_unconnected_udp_socket_holds_its_port() {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert!(listener_on(Protocol::Udp, port, Some(Ipv4Addr::new(192, 0, 2, 1))).unwrap().is_some());
    }

    #[test]
    fn a_listener_on_every_ipv6_address_holds_the_port_of_ipv4_too() {
        assert!(clashes(IpAddr::V6(Ipv6Addr::UNSPECIFIED), Some(Ipv4Addr::LOCALHOST)));
        assert!(!clashes(IpAddr::V6(Ipv6Addr::LOCALHOST), None));
        assert!(clashes("::ffff:192.0.2.1".parse().unwrap(), Some(Ipv4Addr::new(192, 0, 2, 1))));
    }

    #[test]
    fn lines_of_established_connections_are_no_listeners() {
        let line = "0: 0100007F:1F90 0100007F:C350 01 00000000:00000000 00:00000000 00000000 0 0 4242 1 0 20 4 30 10 -1";
        assert_eq!(read_line(line, Protocol::Tcp), None);
        let line = line.replacen(" 01 ", " 0A ", 1);
        let expected = Listener { address: IpAddr::V4(Ipv4Addr::LOCALHOST), port: 8080, inode: 4242 };
        assert_eq!(read_line(&line, Protocol::Tcp), Some(expected));
    }
}
