//! An IPv4 network in CIDR form: the range that a node's pods get their addresses from.
//!
//! Pure. The first address is the gateway (the bridge), the last one is the broadcast address, pods get the rest.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};

/// An IPv4 network. Its address has no host bits set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Subnet {
    address: Ipv4Addr,
    prefix: u8,
}

/// Why a text is no usable subnet.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SubnetError {
    /// Not of the form `a.b.c.d/prefix`.
    #[error("read {found:?} as an IPv4 network: it must look like 10.42.0.0/24")]
    Malformed {
        /// What was given.
        found: String,
    },
    /// The address has bits set behind the prefix.
    #[error("read {found:?} as an IPv4 network: its first address is {first}")]
    HostBits {
        /// What was given.
        found: String,
        /// The network that was probably meant.
        first: Ipv4Addr,
    },
}

/// Why a subnet, though valid, cannot serve pods.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "give pods addresses of {subnet}: the prefix must be between /{} and /{}",
    Subnet::WIDEST_FOR_PODS,
    Subnet::NARROWEST_FOR_PODS
)]
pub struct UnfitForPods {
    /// The subnet.
    pub subnet: Subnet,
}

impl Subnet {
    /// Widest prefix that makes sense for the pods of one node: 10.0.0.0/8 whole.
    pub const WIDEST_FOR_PODS: u8 = 8;
    /// Narrowest prefix with room for a gateway, one pod and the two reserved addresses.
    pub const NARROWEST_FOR_PODS: u8 = 30;

    /// The network of `prefix` bits that `address` lies in; prefixes over 32 mean 32.
    #[must_use]
    pub fn containing(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = prefix.min(32);
        Self { address: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix }
    }

    /// The network address.
    #[must_use]
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// Length of the prefix in bits.
    #[must_use]
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// The last address: broadcast.
    #[must_use]
    pub fn last(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | !mask(self.prefix))
    }

    /// The first usable address: the bridge's own.
    #[must_use]
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits().saturating_add(1))
    }

    /// Whether an address lies inside.
    #[must_use]
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.address.to_bits()
    }

    /// Whether two networks share an address.
    #[must_use]
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// Refuses networks that have no room for pods.
    ///
    /// # Errors
    /// [`UnfitForPods`] when the prefix is too wide or too narrow.
    pub fn fit_for_pods(self) -> Result<Self, UnfitForPods> {
        if (Self::WIDEST_FOR_PODS..=Self::NARROWEST_FOR_PODS).contains(&self.prefix) {
            Ok(self)
        } else {
            Err(UnfitForPods { subnet: self })
        }
    }
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Subnet {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Subnet {
    type Err = SubnetError;

    fn from_str(text: &str) -> Result<Self, SubnetError> {
        let malformed = || SubnetError::Malformed { found: text.to_owned() };
        let (address, prefix) = text.split_once('/').ok_or_else(malformed)?;
        let address: Ipv4Addr = address.parse().map_err(|_| malformed())?;
        let prefix: u8 = prefix.parse().ok().filter(|bits| *bits <= 32).ok_or_else(malformed)?;
        let subnet = Self::containing(address, prefix);
        if subnet.address != address {
            return Err(SubnetError::HostBits { found: text.to_owned(), first: subnet.address });
        }
        Ok(subnet)
    }
}

impl TryFrom<String> for Subnet {
    type Error = SubnetError;

    fn try_from(text: String) -> Result<Self, SubnetError> {
        text.parse()
    }
}

impl From<Subnet> for String {
    fn from(subnet: Subnet) -> Self {
        subnet.to_string()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn subnet(text: &str) -> Subnet {
        text.parse().unwrap()
    }

    #[test]
    fn a_subnet_knows_its_edges() {
        let net = subnet("10.42.7.0/24");
        assert_eq!(net.gateway(), Ipv4Addr::new(10, 42, 7, 1));
        assert_eq!(net.last(), Ipv4Addr::new(10, 42, 7, 255));
        assert!(net.contains(Ipv4Addr::new(10, 42, 7, 200)));
        assert!(!net.contains(Ipv4Addr::new(10, 42, 8, 1)));
    }

    #[test]
    fn overlap_is_seen_from_both_sides() {
        assert!(subnet("10.0.0.0/8").overlaps(subnet("10.42.0.0/24")));
        assert!(subnet("10.42.0.0/24").overlaps(subnet("10.0.0.0/8")));
        assert!(!subnet("10.42.0.0/24").overlaps(subnet("10.42.1.0/24")));
        assert!(subnet("0.0.0.0/0").overlaps(subnet("192.168.0.0/16")));
    }

    #[test]
    fn a_text_that_is_no_network_is_refused_with_the_reason() {
        for text in ["", "10.0.0.0", "10.0.0.0/33", "10.0.0/8", "fd00::/64", "10.0.0.0/-1"] {
            assert!(matches!(text.parse::<Subnet>(), Err(SubnetError::Malformed { .. })), "{text}");
        }
        assert_eq!(
            "10.42.0.5/24".parse::<Subnet>().unwrap_err().to_string(),
            "read \"10.42.0.5/24\" as an IPv4 network: its first address is 10.42.0.0"
        );
    }

    #[test]
    fn subnets_without_room_for_pods_are_refused() {
        for text in ["0.0.0.0/0", "10.0.0.0/31", "10.0.0.1/32"] {
            assert!(subnet(text).fit_for_pods().is_err(), "{text}");
        }
        assert!(subnet("10.0.0.0/30").fit_for_pods().is_ok());
    }

    proptest! {
        #[test]
        fn printing_and_reading_gives_the_same_subnet(bits: u32, prefix in 0_u8..=32) {
            let net = Subnet::containing(Ipv4Addr::from_bits(bits), prefix);
            prop_assert_eq!(net.to_string().parse::<Subnet>(), Ok(net));
            let json = serde_json::to_string(&net).unwrap();
            prop_assert_eq!(serde_json::from_str::<Subnet>(&json).unwrap(), net);
            prop_assert!(net.contains(Ipv4Addr::from_bits(bits)));
        }
    }
}
