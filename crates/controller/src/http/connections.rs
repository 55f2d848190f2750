//! Who is connected, and who has to go when there is no room.
//!
//! A client address may hold so many connections. When it opens one more, the oldest of its connections on which no
//! request is at work is closed for it: so a client that only opens connections, or feeds them a byte at a time, pushes
//! out nobody but itself, and its next honest request still gets through. Only if all of them are at work is the new
//! one refused. The bound over all clients works the same way, on the client with the most connections.

use std::{
    collections::BTreeMap,
    net::IpAddr,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    task::{Context, Poll},
};

use axum::body::Bytes;
use hyper::body::{Body, Frame, SizeHint};
use tokio_util::sync::CancellationToken;

use super::{
    limits::Limits,
    place::{AtWork, Load},
};

/// Whom a connection or stream is counted for: an address, or the network that one IPv6 host can have for itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Client(IpAddr);

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V6(address) => Self(IpAddr::V6((u128::from(address) >> 64 << 64).into())),
            address @ IpAddr::V4(_) => Self(address),
        }
    }
}

/// The connections that are open.
#[derive(Debug)]
pub(crate) struct Connections {
    most: usize,
    most_per_client: usize,
    open: Mutex<Open>,
}

#[derive(Debug, Default)]
struct Open {
    /// Counts connections; the key of each, so that the oldest comes first.
    admitted: u64,
    count: usize,
    by_client: BTreeMap<Client, BTreeMap<u64, Slot>>,
}

#[derive(Clone, Debug, Default)]
struct Slot {
    load: Load,
    evicted: CancellationToken,
}

impl Slot {
    fn is_idle(&self) -> bool {
        self.load.is_none()
    }
}

impl Open {
    fn evict_idle(&mut self, client: Client) -> bool {
        let Some(slots) = self.by_client.get_mut(&client) else { return false };
        let Some(oldest) = slots.iter().find(|(_, slot)| slot.is_idle()).map(|(number, _)| *number) else {
            return false;
        };
        self.remove(client, oldest);
        true
    }

    fn evict_idle_of_largest(&mut self) -> bool {
        let mut clients: Vec<_> =
            self.by_client.iter().map(|(client, slots)| (slots.len(), *client)).collect();
        clients.sort_unstable_by(|one, other| other.cmp(one));
        clients.into_iter().any(|(_, client)| self.evict_idle(client))
    }

    fn remove(&mut self, client: Client, number: u64) {
        let Some(slots) = self.by_client.get_mut(&client) else { return };
        if let Some(slot) = slots.remove(&number) {
            slot.evicted.cancel();
            self.count -= 1;
        }
        if slots.is_empty() {
            self.by_client.remove(&client);
        }
    }
}

impl Connections {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            most: limits.connections,
            most_per_client: limits.connections_per_client,
            open: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Open> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more connection of `client`, or none.
    pub(crate) fn admit(self: &Arc<Self>, client: Client) -> Option<Ticket> {
        let mut open = self.lock();
        let of_client = open.by_client.get(&client).map_or(0, BTreeMap::len);
        let has_room = of_client < self.most_per_client || open.evict_idle(client);
        if !has_room || (open.count >= self.most && !open.evict_idle_of_largest()) {
            return None;
        }
        open.admitted += 1;
        open.count += 1;
        let (number, slot) = (open.admitted, Slot::default());
        open.by_client.entry(client).or_default().insert(number, slot.clone());
        Some(Ticket { connections: Arc::clone(self), client, number, slot })
    }
}

/// A connection's place among the open ones; given back when dropped.
#[derive(Debug)]
pub(crate) struct Ticket {
    connections: Arc<Connections>,
    client: Client,
    number: u64,
    slot: Slot,
}

impl Ticket {
    /// Ends when the connection has to make room.
    pub(crate) fn evicted(&self) -> CancellationToken {
        self.slot.evicted.clone()
    }

    /// What the connection works on.
    pub(crate) const fn load(&self) -> &Load {
        &self.slot.load
    }
}

impl Drop for Ticket {
    fn drop(&mut self) {
        self.connections.lock().remove(self.client, self.number);
    }
}

/// A body whose connection is at work until its last byte has been handed over.
#[derive(Debug)]
pub(crate) struct WorkingBody {
    body: axum::body::Body,
    _work: AtWork,
}

impl WorkingBody {
    pub(crate) const fn new(body: axum::body::Body, work: AtWork) -> Self {
        Self { body, _work: work }
    }
}

impl Body for WorkingBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The watch and log streams that are open.
#[derive(Debug)]
pub(crate) struct Streams {
    most: usize,
    most_per_client: usize,
    open: Mutex<BTreeMap<Client, usize>>,
}

impl Streams {
    pub(crate) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            most: limits.streams,
            most_per_client: limits.streams_per_client,
            open: Mutex::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<Client, usize>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Room for one more stream of `client`, or else the bound that was reached.
    pub(crate) fn admit(self: &Arc<Self>, client: Client) -> Result<StreamTicket, usize> {
        let mut open = self.lock();
        if open.get(&client).is_some_and(|count| *count >= self.most_per_client) {
            return Err(self.most_per_client);
        }
        if open.values().sum::<usize>() >= self.most {
            return Err(self.most);
        }
        *open.entry(client).or_default() += 1;
        Ok(StreamTicket { streams: Arc::clone(self), client })
    }
}

/// A stream's place among the open ones; given back when dropped.
#[derive(Debug)]
pub(crate) struct StreamTicket {
    streams: Arc<Streams>,
    client: Client,
}

impl Drop for StreamTicket {
    fn drop(&mut self) {
        let mut open = self.streams.lock();
        if let Some(count) = open.get_mut(&self.client) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.client);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HONEST: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 1));
    const GREEDY: IpAddr = IpAddr::V4(std::net::Ipv4Addr::new(192, 0, 2, 2));

    fn connections() -> Arc<Connections> {
        Connections::new(&Limits { connections: 4, connections_per_client: 3, ..Limits::default() })
    }

    #[test]
    fn an_idle_connection_makes_room_for_the_same_client_only() {
        let connections = connections();
        let honest = connections.admit(HONEST.into()).unwrap();
        let greedy: Vec<_> = (0..5).map(|_| connections.admit(GREEDY.into()).unwrap()).collect();
        let evicted: Vec<_> = greedy.iter().map(|ticket| ticket.evicted().is_cancelled()).collect();
        assert_eq!(evicted, [true, true, false, false, false]);
        assert!(!honest.evicted().is_cancelled());
    }

    #[test]
    fn a_connection_at_work_is_never_closed_for_another() {
        let connections = connections();
        let held: Vec<_> = (0..3).map(|_| connections.admit(GREEDY.into()).unwrap()).collect();
        let work: Vec<_> = held.iter().map(|ticket| ticket.load().mark()).collect();
        assert!(connections.admit(GREEDY.into()).is_none());
        drop(work);
        assert!(connections.admit(GREEDY.into()).is_some());
    }

    #[test]
    fn when_all_room_is_taken_the_largest_client_gives_way() {
        let connections = connections();
        let greedy: Vec<_> = (0..3).map(|_| connections.admit(GREEDY.into()).unwrap()).collect();
        let _first = connections.admit(HONEST.into()).unwrap();
        let _second = connections.admit(HONEST.into()).unwrap();
        assert!(greedy[0].evicted().is_cancelled());
        drop(greedy);
        assert_eq!(connections.lock().count, 2);
    }

    #[test]
    fn streams_are_counted_for_each_client_and_given_back() {
        let streams = Streams::new(&Limits { streams: 3, streams_per_client: 2, ..Limits::default() });
        let held: Vec<_> = (0..2).map(|_| streams.admit(GREEDY.into()).unwrap()).collect();
        assert_eq!(streams.admit(GREEDY.into()).unwrap_err(), 2);
        let _honest = streams.admit(HONEST.into()).unwrap();
        assert_eq!(streams.admit(HONEST.into()).unwrap_err(), 3);
        drop(held);
        assert!(streams.admit(GREEDY.into()).is_ok());
    }

    #[test]
    fn addresses_of_one_ipv6_network_are_one_client() {
        let one: IpAddr = "2001:db8::1".parse().unwrap();
        let other: IpAddr = "2001:db8::ffff".parse().unwrap();
        assert_eq!(Client::from(one), Client::from(other));
        let mapped: IpAddr = "::ffff:192.0.2.1".parse().unwrap();
        assert_eq!(Client::from(mapped), Client::from(HONEST));
    }
}
