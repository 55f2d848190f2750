//! Whose a thing on the host is: the identity of a pod and the marks that it leaves on links and rules.
//!
//! Everything that this crate creates carries such a mark, and nothing without one is ever changed or removed.

use std::{fmt, path::Path, str::FromStr};

use serde::{Deserialize, Serialize};

/// Comments of rules and aliases of links that are ours begin with this.
pub(crate) const MARK: &str = "rik:";

/// Aliases of bridges begin with this; the state directory of the riklet follows. No owner can be called so, because
/// of the slash.
pub(crate) const BRIDGE_MARK: &str = "rik:node/bridge ";

/// Longest path that a bridge's alias holds as it is: aliases end at 255 bytes.
const LONGEST_PATH_IN_ALIAS: usize = 200;

/// Longest owner: a DNS label, and with the mark well below the 255 bytes that link aliases and comments may have.
const LONGEST: usize = 63;

/// First letters of the host end of a pod's link.
const LINK_PREFIX: &str = "rik";

/// Letters behind the prefix: five bits each, and with it exactly the 15 bytes that the kernel allows.
const LINK_LETTERS: usize = 12;

/// What the letters are taken from.
const LINK_ALPHABET: &[u8; 32] = b"abcdefghijklmnopqrstuvwxyz234567";

/// How many names are tried for a pod's link before giving up. Two of one node's pods meet in the first one with
/// a probability of 2^-60; more than a few tries mean that somebody takes the names on purpose.
pub(crate) const LINK_NAME_ATTEMPTS: u8 = 4;

/// The uid of a pod: letters, digits, `-`, `_` and `.`, beginning with a letter or digit, at most 63 bytes.
///
/// Safe to stand in a path, a firewall comment and a link alias.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Owner(String);

/// Why a text cannot name an owner.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "name an owner {found:?}: it must be 1 to {LONGEST} letters, digits, '-', '_' or '.', a letter or digit first"
)]
pub struct OwnerError {
    /// What was given.
    pub found: String,
}

impl Owner {
    /// The uid.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// What marks a rule or a link as this owner's.
    pub(crate) fn mark(&self) -> String {
        format!("{MARK}{}", self.0)
    }

    /// Whose a link is, if its alias is a mark of ours.
    pub(crate) fn from_mark(alias: &str) -> Option<Self> {
        alias.strip_prefix(MARK)?.parse().ok()
    }

    /// Name of the host end of the owner's link: the same one for the same owner on every run. Later attempts
    /// give other names, for the case that a stranger has the first.
    pub(crate) fn link_name(&self, attempt: u8) -> String {
        let hash = fnv1a(self.0.bytes().chain(std::iter::once(attempt)));
        let letters = (0..LINK_LETTERS).map(|at| char::from(LINK_ALPHABET[(hash >> (5 * at)) as usize & 31]));
        LINK_PREFIX.chars().chain(letters).collect()
    }
}

/// Whether a name has the form of those that [`Owner::link_name`] gives.
pub(crate) fn is_link_name(name: &str) -> bool {
    let letters = name.strip_prefix(LINK_PREFIX).unwrap_or_default();
    letters.len() == LINK_LETTERS && letters.bytes().all(|byte| LINK_ALPHABET.contains(&byte))
}

/// Alias of the bridge of the riklet that has this state directory: two riklets in one network namespace must not
/// take each other's pods for their own.
pub(crate) fn bridge_alias(state_dir: &Path) -> String {
    let path = state_dir.to_string_lossy();
    if path.len() <= LONGEST_PATH_IN_ALIAS {
        format!("{BRIDGE_MARK}{path}")
    } else {
        format!("{BRIDGE_MARK}{:016x}", fnv1a(path.bytes()))
    }
}

/// FNV-1a, 64 bits: stable over versions of the compiler, which the standard library's hasher is not.
fn fnv1a(bytes: impl Iterator<Item = u8>) -> u64 {
    bytes.fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

impl fmt::Display for Owner {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl FromStr for Owner {
    type Err = OwnerError;

    fn from_str(text: &str) -> Result<Self, OwnerError> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.');
        let fits = (1..=LONGEST).contains(&text.len());
        if fits && text.bytes().all(allowed) && text.as_bytes()[0].is_ascii_alphanumeric() {
            Ok(Self(text.to_owned()))
        } else {
            Err(OwnerError { found: text.to_owned() })
        }
    }
}

impl TryFrom<String> for Owner {
    type Error = OwnerError;

    fn try_from(text: String) -> Result<Self, OwnerError> {
        text.parse()
    }
}

impl From<Owner> for String {
    fn from(owner: Owner) -> Self {
        owner.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_name_is_stable_and_fits_the_kernel() {
        let owner: Owner = "2f1c9a04-7c55-4a0b-9e57-6f0f6f0f6f0f".parse().unwrap();
        assert_eq!(owner.link_name(0), owner.link_name(0));
        assert_ne!(owner.link_name(0), owner.link_name(1));
        assert_eq!(owner.link_name(0).len(), 15);
        assert!(is_link_name(&owner.link_name(0)));
        assert!(!is_link_name("rik0"));
    }

    #[test]
    fn ten_thousand_owners_have_ten_thousand_link_names() {
        let names: std::collections::BTreeSet<_> =
            (0..10_000).map(|number| Owner(format!("pod-{number}")).link_name(0)).collect();
        assert_eq!(names.len(), 10_000);
    }

    #[test]
    fn the_alias_of_a_bridge_names_the_state_directory_and_fits_the_kernel() {
        assert_eq!(bridge_alias(Path::new("/var/lib/rik")), "rik:node/bridge /var/lib/rik");
        let deep = "/x".repeat(300);
        assert!(bridge_alias(Path::new(&deep)).len() < 255);
        assert_ne!(bridge_alias(Path::new(&deep)), bridge_alias(Path::new(&deep[2..])));
    }

    #[test]
    fn an_owner_that_could_break_out_of_a_rule_or_a_path_is_refused() {
        for text in ["", ".", "..", "a/b", "a b", "a\nb", "a\"b", "-x", "ü", &"x".repeat(64)] {
            assert!(text.parse::<Owner>().is_err(), "{text:?}");
        }
        assert!("a.b_c-9".parse::<Owner>().is_ok());
    }

    #[test]
    fn the_mark_of_an_owner_leads_back_to_it_and_the_bridge_is_nobodys() {
        let owner: Owner = "web-1".parse().unwrap();
        assert_eq!(Owner::from_mark(&owner.mark()), Some(owner));
        assert_eq!(Owner::from_mark(&bridge_alias(Path::new("/var/lib/rik"))), None);
        assert_eq!(Owner::from_mark("uplink to office"), None);
    }
}
