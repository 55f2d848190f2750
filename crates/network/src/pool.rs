//! The addresses of one node's pods: who has which, and which one comes next.
//!
//! Pure and deterministic. The next address is searched onward from the last one given and wraps round at the end,
//! so that a freed address is reused as late as possible: a late packet or a stale ARP entry of the old pod then
//! finds nobody instead of somebody else.

use std::{collections::BTreeMap, net::Ipv4Addr};

use crate::{
    Owner,
    subnet::{Subnet, UnfitForPods},
};

/// Addresses of a subnet, each free or held by one owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddressPool {
    subnet: Subnet,
    by_address: BTreeMap<u32, Owner>,
    by_owner: BTreeMap<Owner, u32>,
    next: u32,
}

/// Why no address could be given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// Every address is held.
    #[error("find a free address in {subnet}: all {in_use} are in use")]
    Exhausted {
        /// The pool's subnet.
        subnet: Subnet,
        /// How many addresses are held.
        in_use: usize,
    },
    /// The address is none that pods of this pool may have.
    #[error("adopt address {address}: it is no pod address of {subnet}")]
    Outside {
        /// The address.
        address: Ipv4Addr,
        /// The pool's subnet.
        subnet: Subnet,
    },
    /// The address belongs to another owner, or the owner to another address.
    #[error("adopt address {address} for {owner}: it clashes with {holder}, which has {held}")]
    Taken {
        /// The address.
        address: Ipv4Addr,
        /// Who asked.
        owner: Owner,
        /// Who holds what stands in the way.
        holder: Owner,
        /// What that one holds.
        held: Ipv4Addr,
    },
}

impl AddressPool {
    /// A pool with every address free.
    ///
    /// # Errors
    /// [`UnfitForPods`] when the subnet has no room for pods.
    pub fn new(subnet: Subnet) -> Result<Self, UnfitForPods> {
        let subnet = subnet.fit_for_pods()?;
        let next = first(subnet);
        Ok(Self { subnet, by_address: BTreeMap::new(), by_owner: BTreeMap::new(), next })
    }

    /// The subnet.
    #[must_use]
    pub fn subnet(&self) -> Subnet {
        self.subnet
    }

    /// How many pods can have an address at the same time.
    #[must_use]
    pub fn capacity(&self) -> usize {
        let room = last(self.subnet) - first(self.subnet) + 1;
        usize::try_from(room).unwrap_or(usize::MAX)
    }

    /// How many addresses are held.
    #[must_use]
    pub fn in_use(&self) -> usize {
        self.by_address.len()
    }

    /// Who holds an address.
    #[must_use]
    pub fn holder(&self, address: Ipv4Addr) -> Option<&Owner> {
        self.by_address.get(&address.to_bits())
    }

    /// Gives the owner an address; the one it already has, if it has one.
    ///
    /// # Errors
    /// [`AddressError::Exhausted`] when none is free.
    pub fn allocate(&mut self, owner: &Owner) -> Result<Ipv4Addr, AddressError> {
        if let Some(held) = self.by_owner.get(owner) {
            return Ok(Ipv4Addr::from_bits(*held));
        }
        if self.in_use() >= self.capacity() {
            return Err(AddressError::Exhausted { subnet: self.subnet, in_use: self.in_use() });
        }
        let address = self.next_free();
        self.hold(owner, address);
        self.next = self.after(address);
        Ok(Ipv4Addr::from_bits(address))
    }

    /// Frees the owner's address and says which it was.
    pub fn release(&mut self, owner: &Owner) -> Option<Ipv4Addr> {
        let address = self.by_owner.remove(owner)?;
        self.by_address.remove(&address);
        Some(Ipv4Addr::from_bits(address))
    }

    /// Notes that the owner already has this address, as found after a restart.
    ///
    /// # Errors
    /// [`AddressError::Outside`] or [`AddressError::Taken`]; nothing changes then.
    pub fn adopt(&mut self, owner: &Owner, address: Ipv4Addr) -> Result<(), AddressError> {
        let bits = address.to_bits();
        if !(first(self.subnet)..=last(self.subnet)).contains(&bits) {
            return Err(AddressError::Outside { address, subnet: self.subnet });
        }
        let taken = |holder: &Owner, held: u32| AddressError::Taken {
            address,
            owner: owner.clone(),
            holder: holder.clone(),
            held: Ipv4Addr::from_bits(held),
        };
        match (self.by_address.get(&bits), self.by_owner.get(owner)) {
            (Some(holder), _) if holder != owner => Err(taken(holder, bits)),
            (_, Some(held)) if *held != bits => Err(taken(owner, *held)),
            _ => {
                self.hold(owner, bits);
                // Addresses before an adopted one were given earlier, so they are the last to be given again.
                self.next = self.next.max(self.after(bits));
                Ok(())
            }
        }
    }

    fn hold(&mut self, owner: &Owner, address: u32) {
        self.by_address.insert(address, owner.clone());
        self.by_owner.insert(owner.clone(), address);
    }

    /// The first free address at or after `next`, wrapping round. There is one: the caller has counted.
    fn next_free(&self) -> u32 {
        let mut candidate = self.next;
        for held in self.by_address.range(self.next..).map(|(address, _)| *address) {
            if held != candidate {
                return candidate;
            }
            candidate += 1;
        }
        if candidate <= last(self.subnet) {
            return candidate;
        }
        candidate = first(self.subnet);
        for held in self.by_address.range(..self.next).map(|(address, _)| *address) {
            if held != candidate {
                break;
            }
            candidate += 1;
        }
        candidate
    }

    fn after(&self, address: u32) -> u32 {
        if address >= last(self.subnet) { first(self.subnet) } else { address + 1 }
    }
}

/// First pod address: behind network address and gateway.
fn first(subnet: Subnet) -> u32 {
    subnet.gateway().to_bits() + 1
}

/// Last pod address: before broadcast.
fn last(subnet: Subnet) -> u32 {
    subnet.last().to_bits() - 1
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pool(text: &str) -> AddressPool {
        AddressPool::new(text.parse().unwrap()).unwrap()
    }

    fn owner(number: impl std::fmt::Display) -> Owner {
        format!("pod-{number}").parse().unwrap()
    }

    #[test]
    fn the_first_pod_gets_the_address_after_the_gateway() {
        assert_eq!(pool("10.42.0.0/24").allocate(&owner(1)), Ok(Ipv4Addr::new(10, 42, 0, 2)));
    }

    #[test]
    fn a_freed_address_is_given_again_only_after_all_others() {
        let mut pool = pool("10.42.0.0/29");
        let freed = pool.allocate(&owner(0)).unwrap();
        pool.release(&owner(0));
        let later: Vec<_> = (1..=4).map(|number| pool.allocate(&owner(number)).unwrap()).collect();
        assert!(!later.contains(&freed), "{later:?}");
        assert_eq!(pool.allocate(&owner(5)), Ok(freed));
    }

    #[test]
    fn an_exhausted_pool_says_how_many_are_in_use() {
        let mut pool = pool("10.42.0.0/24");
        for number in 0..253 {
            pool.allocate(&owner(number)).unwrap();
        }
        let error = pool.allocate(&owner("late")).unwrap_err();
        assert_eq!(error.to_string(), "find a free address in 10.42.0.0/24: all 253 are in use");
        pool.release(&owner(17));
        assert_eq!(pool.allocate(&owner("late")), Ok(Ipv4Addr::new(10, 42, 0, 19)));
    }

    #[test]
    fn an_adopted_address_is_refused_to_others_and_outside_the_subnet() {
        let mut pool = pool("10.42.0.0/24");
        let address = Ipv4Addr::new(10, 42, 0, 9);
        pool.adopt(&owner(1), address).unwrap();
        pool.adopt(&owner(1), address).unwrap();
        assert!(matches!(pool.adopt(&owner(2), address), Err(AddressError::Taken { .. })));
        let other = Ipv4Addr::new(10, 42, 0, 10);
        assert!(matches!(pool.adopt(&owner(1), other), Err(AddressError::Taken { .. })));
        for outside in [[10, 42, 0, 0], [10, 42, 0, 1], [10, 42, 0, 255], [10, 43, 0, 2]] {
            let refused = pool.adopt(&owner(3), Ipv4Addr::from(outside));
            assert!(matches!(refused, Err(AddressError::Outside { .. })), "{outside:?}");
        }
        assert_eq!(pool.in_use(), 1);
    }

    #[derive(Clone, Debug)]
    enum Step {
        Allocate(u8),
        Release(u8),
        Adopt(u8, u8),
    }

    fn steps() -> impl Strategy<Value = Vec<Step>> {
        let step = prop_oneof![
            (0_u8..20).prop_map(Step::Allocate),
            (0_u8..20).prop_map(Step::Release),
            (0_u8..20, 0_u8..16).prop_map(|(who, what)| Step::Adopt(who, what)),
        ];
        prop::collection::vec(step, 0..120)
    }

    proptest! {
        #[test]
        fn no_address_ever_has_two_owners_and_none_is_lost(steps in steps()) {
            let mut pool = pool("10.42.0.0/28");
            let mut held: BTreeMap<Owner, Ipv4Addr> = BTreeMap::new();
            for step in steps {
                match step {
                    Step::Allocate(who) => match pool.allocate(&owner(who)) {
                        Ok(address) => {
                            let before = held.insert(owner(who), address);
                            prop_assert!(before.is_none_or(|old| old == address));
                        }
                        Err(_) => prop_assert_eq!(held.len(), pool.capacity()),
                    },
                    Step::Release(who) => prop_assert_eq!(pool.release(&owner(who)), held.remove(&owner(who))),
                    Step::Adopt(who, what) => {
                        let address = Ipv4Addr::new(10, 42, 0, what);
                        if pool.adopt(&owner(who), address).is_ok() {
                            held.insert(owner(who), address);
                        }
                    }
                }
                let mut addresses: Vec<_> = held.values().collect();
                addresses.sort();
                addresses.dedup();
                prop_assert_eq!(addresses.len(), held.len());
                prop_assert_eq!(pool.in_use(), held.len());
                for (owner, address) in &held {
                    prop_assert_eq!(pool.holder(*address), Some(owner));
                    prop_assert!(pool.subnet().contains(*address));
                    prop_assert_ne!(*address, pool.subnet().gateway());
                    prop_assert_ne!(*address, pool.subnet().last());
                }
            }
        }
    }
}
