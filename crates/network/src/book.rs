//! Who has which address and port of the node. Pure: what the kernel has to say about it is the callers' affair.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    net::{Ipv4Addr, SocketAddrV4},
};

use model::{PortSpec, Protocol};

use crate::{
    AddressError, AddressPool, AttachRequest, Attachment, Owner, Subnet, UnfitForPods, firewall::Publish,
};

/// The pods of the node, and what they hold.
#[derive(Debug)]
pub(crate) struct Book {
    pool: AddressPool,
    published: BTreeMap<Owner, Vec<Publish>>,
    attached: BTreeMap<Owner, Attachment>,
    /// For each owner, who attaches or detaches it: the first now, the others one after another.
    lines: BTreeMap<Owner, VecDeque<Ticket>>,
    next_ticket: u64,
    is_open: bool,
}

/// A place in the line of those who want to attach or detach one owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ticket(u64);

/// What a request was granted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Grant {
    pub(crate) address: Ipv4Addr,
    pub(crate) published: Vec<Publish>,
}

/// Why a request was not granted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Address(AddressError),
    Port { protocol: Protocol, port: u16, by: String },
}

impl Book {
    pub(crate) fn new(subnet: Subnet) -> Result<Self, UnfitForPods> {
        Ok(Self {
            pool: AddressPool::new(subnet)?,
            published: BTreeMap::new(),
            attached: BTreeMap::new(),
            lines: BTreeMap::new(),
            next_ticket: 0,
            is_open: false,
        })
    }

    /// Whether the pods of an earlier run are known, so that addresses and ports may be given.
    pub(crate) fn is_open(&self) -> bool {
        self.is_open
    }

    pub(crate) fn open(&mut self) {
        self.is_open = true;
    }

    /// Lines up for an owner: first come, first served, so that a detach undoes every attach before it.
    pub(crate) fn line_up(&mut self, owner: &Owner) -> Ticket {
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        self.lines.entry(owner.clone()).or_default().push_back(ticket);
        ticket
    }

    /// Whether it is this one's turn.
    pub(crate) fn is_first(&self, owner: &Owner, ticket: Ticket) -> bool {
        self.lines.get(owner).and_then(VecDeque::front) == Some(&ticket)
    }

    /// Leaves the line, served or not.
    pub(crate) fn leave(&mut self, owner: &Owner, ticket: Ticket) {
        if let Some(line) = self.lines.get_mut(owner) {
            line.retain(|other| *other != ticket);
            if line.is_empty() {
                self.lines.remove(owner);
            }
        }
    }

    pub(crate) fn attachment(&self, owner: &Owner) -> Option<&Attachment> {
        self.attached.get(owner)
    }

    pub(crate) fn attachments(&self) -> impl Iterator<Item = &Attachment> {
        self.attached.values()
    }

    /// Every published port.
    pub(crate) fn published(&self) -> BTreeSet<Publish> {
        self.published.values().flatten().cloned().collect()
    }

    /// Gives an owner an address and its ports, or nothing of it.
    pub(crate) fn grant(&mut self, request: &AttachRequest) -> Result<Grant, Refusal> {
        for (at, spec) in request.publish.iter().enumerate() {
            let refuse = |by: String| Refusal::Port { protocol: spec.protocol, port: spec.port, by };
            if let Some(owner) = self.publisher(spec) {
                return Err(refuse(format!("pod {owner}")));
            }
            if request.publish[..at].iter().any(|other| overlap(spec, other)) {
                return Err(refuse("another port of the same pod".to_owned()));
            }
        }
        let address = self.pool.allocate(&request.owner).map_err(Refusal::Address)?;
        let publish = |spec: &PortSpec| Publish {
            host_port: spec.port,
            protocol: spec.protocol,
            host_address: some_address(spec.host_address),
            owner: request.owner.clone(),
            target: SocketAddrV4::new(address, spec.target()),
        };
        let published: Vec<Publish> = request.publish.iter().map(publish).collect();
        self.published.insert(request.owner.clone(), published.clone());
        Ok(Grant { address, published })
    }

    /// Notes that what was granted is in place.
    pub(crate) fn confirm(&mut self, attachment: Attachment) {
        self.attached.insert(attachment.owner.clone(), attachment);
    }

    /// Takes over what an earlier run granted.
    pub(crate) fn adopt(&mut self, attachment: &Attachment) -> Result<(), AddressError> {
        self.pool.adopt(&attachment.owner, attachment.ip)?;
        self.published.insert(attachment.owner.clone(), attachment.published.clone());
        self.attached.insert(attachment.owner.clone(), attachment.clone());
        Ok(())
    }

    /// Takes an owner's ports. The address stays with it until [`Self::forget`]: its link may still be there.
    pub(crate) fn unpublish(&mut self, owner: &Owner) -> bool {
        self.published.remove(owner).is_some_and(|published| !published.is_empty())
    }

    /// Takes everything from an owner.
    pub(crate) fn forget(&mut self, owner: &Owner) {
        self.published.remove(owner);
        self.attached.remove(owner);
        self.pool.release(owner);
    }

    /// Who publishes a port that would clash with this one.
    pub(crate) fn publisher(&self, spec: &PortSpec) -> Option<&Owner> {
        let clash = |published: &Publish| {
            published.host_port == spec.port
                && published.protocol == spec.protocol
                && meet(published.host_address, spec.host_address)
        };
        self.published.iter().find(|(_, published)| published.iter().any(clash)).map(|(owner, _)| owner)
    }
}

fn overlap(left: &PortSpec, right: &PortSpec) -> bool {
    left.port == right.port && left.protocol == right.protocol && meet(left.host_address, right.host_address)
}

/// Whether two bindings share an address; none means all of them.
fn meet(left: Option<Ipv4Addr>, right: Option<Ipv4Addr>) -> bool {
    match (some_address(left), some_address(right)) {
        (Some(left), Some(right)) => left == right,
        _ => true,
    }
}

/// 0.0.0.0 says the same as nothing.
pub(crate) fn some_address(address: Option<Ipv4Addr>) -> Option<Ipv4Addr> {
    address.filter(|address| !address.is_unspecified())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn book() -> Book {
        Book::new("10.42.0.0/24".parse().unwrap()).unwrap()
    }

    fn request(owner: &str, ports: &[PortSpec]) -> AttachRequest {
        AttachRequest {
            owner: owner.parse().unwrap(),
            hostname: owner.to_owned(),
            ns_dir: "/nowhere".into(),
            has_namespaces: false,
            tap: None,
            publish: ports.to_vec(),
        }
    }

    fn port(port: u16, address: Option<[u8; 4]>) -> PortSpec {
        PortSpec {
            port,
            target_port: Some(80),
            protocol: Protocol::Tcp,
            exposure: model::manifest::ExposureKind::NodePort,
            host_address: address.map(Ipv4Addr::from),
        }
    }

    #[test]
    fn a_published_port_is_refused_to_the_next_pod_with_the_name_of_the_first() {
        let mut book = book();
        book.grant(&request("a", &[port(8080, None)])).unwrap();
        let refused = book.grant(&request("b", &[port(8080, Some([127, 0, 0, 1]))]));
        assert_eq!(refused, Err(Refusal::Port { protocol: Protocol::Tcp, port: 8080, by: "pod a".into() }));
        assert!(book.grant(&request("c", &[port(8081, None)])).is_ok());
    }

    #[test]
    fn one_port_on_two_addresses_is_two_ports() {
        let mut book = book();
        book.grant(&request("a", &[port(80, Some([192, 0, 2, 1]))])).unwrap();
        book.grant(&request("b", &[port(80, Some([192, 0, 2, 2]))])).unwrap();
        assert!(book.grant(&request("c", &[port(80, Some([0, 0, 0, 0]))])).is_err());
    }

    #[test]
    fn a_pod_that_asks_for_one_port_twice_gets_nothing() {
        let mut book = book();
        assert!(book.grant(&request("a", &[port(80, None), port(80, None)])).is_err());
        assert!(book.published().is_empty());
        assert_eq!(book.pool.in_use(), 0);
    }

    #[test]
    fn those_who_want_the_same_owner_are_served_in_the_order_in_which_they_came() {
        let mut book = book();
        let (web, other) = ("web".parse().unwrap(), "other".parse().unwrap());
        let [first, second, third] = [book.line_up(&web), book.line_up(&web), book.line_up(&web)];
        let elsewhere = book.line_up(&other);
        assert!(book.is_first(&web, first) && book.is_first(&other, elsewhere));
        book.leave(&web, second);
        assert!(!book.is_first(&web, third));
        book.leave(&web, first);
        assert!(book.is_first(&web, third));
        book.leave(&web, third);
        book.leave(&other, elsewhere);
        assert!(book.lines.is_empty());
    }

    #[test]
    fn what_is_forgotten_can_be_granted_again() {
        let mut book = book();
        book.grant(&request("a", &[port(80, None)])).unwrap();
        assert!(book.unpublish(&"a".parse().unwrap()));
        assert!(!book.unpublish(&"a".parse().unwrap()));
        assert_eq!(book.pool.in_use(), 1);
        book.forget(&"a".parse().unwrap());
        assert_eq!(book.pool.in_use(), 0);
        assert!(book.grant(&request("b", &[port(80, None)])).is_ok());
    }
}
