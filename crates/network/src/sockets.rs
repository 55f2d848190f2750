//! Sockets that wait for somebody, as the kernel tells of them (`sock_diag`).
//!
//! Its tables below `/proc/net` tell of all sockets: to write one, the kernel walks every bucket of the machine's
//! connections, hundreds of thousands where there is much memory. Asked like this, it looks at those that wait and no
//! others. A kernel may be without (`inet_diag`, `udp_diag`); then there are the tables.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use model::Protocol;
use rustix::net::{AddressFamily, RecvFlags, netlink, recv};

use crate::netlink::{HEAD, ask};

/// `SOCK_DIAG_BY_FAMILY` of linux/sock_diag.h: what is asked for, and the kind of each answer.
const BY_FAMILY: u16 = 20;
/// `NLMSG_ERROR` and `NLMSG_DONE` of linux/netlink.h.
const ERROR: u16 = 2;
const DONE: u16 = 3;
/// `NLM_F_REQUEST | NLM_F_DUMP`.
const LIST: u16 = 0x301;
/// Bytes of the question (`inet_diag_req_v2`) and of an answer (`inet_diag_msg`).
const QUESTION: usize = 56;
const ANSWER: usize = 72;
/// Numbers of the protocols (linux/in.h).
const TCP: u8 = 6;
const UDP: u8 = 17;
/// States, as bits: TCP that listens, and UDP that is not connected.
const LISTENS: u32 = 1 << 10;
const UNCONNECTED: u32 = 1 << 7;
/// Bytes of answers that are taken at once.
const BUFFER_BYTES: usize = 32 << 10;
/// Most sockets that are told of: more than any host has waiting.
const SOCKETS_MAX: usize = 65_536;

/// A socket that waits for somebody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Listener {
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) inode: u64,
}

/// Those of this thread's network namespace.
///
/// # Errors
/// The kernel cannot say.
pub(crate) fn listeners(protocol: Protocol) -> io::Result<Vec<Listener>> {
    let mut found = Vec::new();
    let mut buffer = vec![0; BUFFER_BYTES];
    for family in [AddressFamily::INET, AddressFamily::INET6] {
        let socket = ask(netlink::SOCK_DIAG, BY_FAMILY, LIST, &question(family, protocol))?;
        loop {
            // The kernel makes each part of its answer when it is taken.
            let (_, count) = recv(&socket, buffer.as_mut_slice(), RecvFlags::DONTWAIT)?;
            let whole = read(buffer.get(..count).unwrap_or_default(), &mut found)?;
            if whole || found.len() > SOCKETS_MAX {
                break;
            }
        }
    }
    Ok(found)
}

fn question(family: AddressFamily, protocol: Protocol) -> [u8; QUESTION] {
    let (number, states) = match protocol {
        Protocol::Tcp => (TCP, LISTENS),
        Protocol::Udp => (UDP, UNCONNECTED),
    };
    // What stays 0: whichever addresses, ports and interface.
    let mut bytes = [0; QUESTION];
    // Both families have numbers of one byte.
    [bytes[0], bytes[1]] = [family.as_raw().to_le_bytes()[0], number];
    bytes[4..8].copy_from_slice(&states.to_ne_bytes());
    bytes
}

/// Reads a part of the answer. Gives whether it was the last.
fn read(mut part: &[u8], found: &mut Vec<Listener>) -> io::Result<bool> {
    let torn = || io::Error::new(io::ErrorKind::InvalidData, "an answer about sockets is not understood");
    while !part.is_empty() {
        let number = |at: usize| part.get(at..)?.first_chunk().copied().map(u32::from_ne_bytes);
        let length = number(0).and_then(|own| usize::try_from(own).ok()).filter(|own| *own >= HEAD);
        let (length, kind) = (length.ok_or_else(torn)?, part.get(4..).and_then(|own| own.first_chunk()));
        match u16::from_ne_bytes(*kind.ok_or_else(torn)?) {
            DONE => return Ok(true),
            ERROR => {
                let code = number(HEAD).ok_or_else(torn)?.cast_signed();
                return Err(io::Error::from_raw_os_error(code.wrapping_neg()));
            }
            BY_FAMILY => {
                let own = part.get(HEAD..length).and_then(<[u8]>::first_chunk).ok_or_else(torn)?;
                found.extend(understand(own));
            }
            _ => {}
        }
        part = part.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    Ok(false)
}

/// Reads one socket: family, state and others, then the port and address of its own side; last of all its inode.
fn understand(own: &[u8; ANSWER]) -> Option<Listener> {
    let address = match u16::from(own[0]) {
        family if family == AddressFamily::INET.as_raw() => {
            IpAddr::V4(Ipv4Addr::from(*own.get(8..)?.first_chunk::<4>()?))
        }
        family if family == AddressFamily::INET6.as_raw() => {
            IpAddr::V6(Ipv6Addr::from(*own.get(8..)?.first_chunk::<16>()?))
        }
        _ => return None,
    };
    let port = u16::from_be_bytes(*own.get(4..)?.first_chunk()?);
    let inode = u32::from_ne_bytes(*own.last_chunk()?);
    Some(Listener { address, port, inode: inode.into() })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use rustix::io::Errno;

    use super::*;

    #[test]
    fn sockets_that_wait_are_told_and_those_that_are_connected_are_not() {
        let waits = TcpListener::bind("127.0.0.1:0").unwrap();
        let on_v6 = TcpListener::bind("[::1]:0").unwrap();
        let (open, connected) =
            (UdpSocket::bind("0.0.0.0:0").unwrap(), UdpSocket::bind("127.0.0.1:0").unwrap());
        connected.connect(open.local_addr().unwrap().to_string().replace("0.0.0.0", "127.0.0.1")).unwrap();
        let client = std::net::TcpStream::connect(waits.local_addr().unwrap()).unwrap();
        let ports = |protocol| -> Vec<(IpAddr, u16)> {
            listeners(protocol).unwrap().iter().map(|one| (one.address, one.port)).collect()
        };
        let at = |address: std::net::SocketAddr| (address.ip(), address.port());
        let (tcp, udp) = (ports(Protocol::Tcp), ports(Protocol::Udp));
        assert!(
            tcp.contains(&at(waits.local_addr().unwrap())) && tcp.contains(&at(on_v6.local_addr().unwrap()))
        );
        assert!(!tcp.contains(&at(client.local_addr().unwrap())));
        assert!(udp.contains(&at(open.local_addr().unwrap())));
        assert!(!udp.contains(&at(connected.local_addr().unwrap())));
    }

    #[test]
    fn kernel_that_cannot_say_is_an_error_and_so_is_what_is_not_understood() {
        let message = |kind: u16, body: &[u8]| {
            let length = u32::try_from(HEAD + body.len()).unwrap();
            [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &[0; 10], body].concat()
        };
        let mut found = Vec::new();
        let refused =
            read(&message(ERROR, &(-Errno::NOENT.raw_os_error()).to_ne_bytes()), &mut found).unwrap_err();
        assert_eq!(refused.raw_os_error(), Some(Errno::NOENT.raw_os_error()));
        for torn in [&[1, 2, 3][..], &[0; 16], &message(BY_FAMILY, &[0; 8])] {
            assert!(read(torn, &mut found).is_err(), "{torn:?}");
        }
        assert!(read(&message(DONE, &[0; 4]), &mut found).unwrap());
        assert!(!read(&message(77, &[0; 4]), &mut found).unwrap());
        assert!(found.is_empty());
    }
}
