//! The number that the kernel has for the state of its rules (nf_tables): as long as it is the same, so are they.
//!
//! Asking for it costs two system calls; looking at the rules costs a program that reads them all. A kernel, or an
//! `iptables`, without nf_tables has no such number.

use rustix::net::{RecvFlags, netlink, recv};

use crate::netlink::{HEAD, ask};

/// `NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN` of linux/netfilter: what is asked for.
const GET_GENERATION: u16 = 10 << 8 | 16;
/// The answer (`NFT_MSG_NEWGEN`).
const GENERATION: u16 = 10 << 8 | 15;
/// `NLM_F_REQUEST`.
const REQUEST: u16 = 1;
/// Bytes of the head of its kind (`nfgenmsg`).
const KIND_HEAD: usize = 4;
/// The attribute with the number (`NFTA_GEN_ID`), and bytes of an attribute's head.
const ID: u16 = 1;
const ATTRIBUTE_HEAD: usize = 4;

/// The number as it is now in this thread's network namespace; None if there is none.
pub(super) fn read() -> Option<u32> {
    // Of any family.
    let socket = ask(netlink::NETFILTER, GET_GENERATION, REQUEST, &[0; KIND_HEAD]).ok()?;
    let mut answer = [0; 1024];
    // It is there when the question has been taken.
    let (_, count) = recv(&socket, &mut answer, RecvFlags::DONTWAIT).ok()?;
    understand(answer.get(..count)?)
}

fn understand(answer: &[u8]) -> Option<u32> {
    let kind = u16::from_ne_bytes(*answer.get(4..)?.first_chunk()?);
    if kind != GENERATION {
        return None;
    }
    let mut rest = answer.get(HEAD + KIND_HEAD..)?;
    loop {
        let length = usize::from(u16::from_ne_bytes(*rest.first_chunk()?));
        let kind = u16::from_ne_bytes(*rest.get(2..)?.first_chunk()?);
        if kind == ID {
            return Some(u32::from_be_bytes(*rest.get(ATTRIBUTE_HEAD..length)?.first_chunk()?));
        }
        rest = rest.get(length.max(ATTRIBUTE_HEAD).next_multiple_of(4)..)?;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn number_is_found_among_the_attributes_and_what_is_no_answer_has_none() {
        let answer = |kind: u16, attributes: &[&[u8]]| {
            let mut bytes = vec![0; HEAD + KIND_HEAD];
            bytes[4..6].copy_from_slice(&kind.to_ne_bytes());
            attributes.iter().for_each(|attribute| bytes.extend_from_slice(attribute));
            bytes
        };
        let attribute = |kind: u16, value: &[u8]| {
            let length = u16::try_from(ATTRIBUTE_HEAD + value.len()).unwrap();
            let mut bytes = [length.to_ne_bytes(), kind.to_ne_bytes()].concat();
            bytes.extend_from_slice(value);
            bytes.resize(bytes.len().next_multiple_of(4), 0);
            bytes
        };
        let (name, id) = (attribute(3, b"odd"), attribute(ID, &7_u32.to_be_bytes()));
        assert_eq!(understand(&answer(GENERATION, &[&name, &id])), Some(7));
        assert_eq!(understand(&answer(GENERATION, &[&name])), None);
        assert_eq!(understand(&answer(2, &[&id])), None);
        assert_eq!(understand(&answer(GENERATION, &[&[0, 0, 0, 0], &id])), Some(7));
        assert_eq!(understand(&answer(GENERATION, &[&[255, 255, 1, 0]])), None);
        assert_eq!(understand(&[]), None);
    }
}
