//! User namespaces of pods.
//!
//! ```text
//!  IdRange ─▶ Namespaces::make ─▶ a process that sleeps in new namespaces ─▶ files hold them ─▶ it ends
//!     │                                                     │
//!     └─ ids of the machine that stand for 0…65535 inside   └─▶ mapped: a mount whose owners are seen by that map
//! ```
//! Root inside is a user without any rights outside: what breaks out of a container is nobody. Layers and volumes are not
//! copied or given away for that; the kernel shows them with mapped owners (idmapped mounts).
//!
//! *Guarantees*: the process that holds new namespaces runs nothing and ends with the thread that made it.

mod newborn;
mod probe;
mod tree;

pub use newborn::{Kind, Newborn};
pub use probe::{Unavailable, probe};
use serde::{Deserialize, Serialize};
pub use tree::{mapped, mapped_inert, protected};

/// Ids of the machine that stand for those of a pod, from its 0 on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct IdRange {
    /// The machine's id of the pod's root.
    pub first: u32,
    /// How many ids there are.
    pub count: u32,
}

impl IdRange {
    /// The machine's id of an id inside; None if the pod does not have it.
    #[must_use]
    pub const fn outside(self, id: u32) -> Option<u32> {
        if id < self.count { self.first.checked_add(id) } else { None }
    }
}
