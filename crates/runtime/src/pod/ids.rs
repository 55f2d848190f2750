//! Which ids of the machine stand for those of each pod.
//!
//! Every pod has a range of its own, so that one that breaks out is nobody to the machine and to every other pod. The
//! ranges lie where no distribution gives ids away (systemd's list of them says unused). A pod's first try is found from
//! its uid, so a range that has just become free is seldom the next to be taken, and nodes on one machine seldom meet.

use std::{
    collections::BTreeMap,
    hash::{DefaultHasher, Hash, Hasher},
    sync::{Mutex, MutexGuard, PoisonError},
};

use userns::IdRange;

/// The machine's first id of all.
const FIRST: u32 = 0x7000_0000;
/// Ids of one pod: what images use, `nobody` (65534) included.
const IDS_OF_POD: u32 = 65_536;
/// How many ranges there are: more than a machine has pods.
const RANGES: u32 = 4_000;

/// The ranges of a node's pods.
#[derive(Debug, Default)]
pub struct Ranges {
    /// By number of the range.
    taken: Mutex<BTreeMap<u32, String>>,
}

impl Ranges {
    /// A range to try things out with.
    pub const ANY: IdRange = IdRange { first: FIRST, count: IDS_OF_POD };

    /// A range for a pod: the one that it has, or a free one. None if there is none.
    pub fn take(&self, uid: &str) -> Option<IdRange> {
        let mut taken = self.lock();
        let own = taken.iter().find_map(|(number, owner)| (owner == uid).then_some(*number));
        let mut hasher = DefaultHasher::new();
        uid.hash(&mut hasher);
        let start = u32::try_from(hasher.finish() % u64::from(RANGES)).unwrap_or(0);
        let mut free = (0..RANGES).map(|step| (start + step) % RANGES);
        let number = own.or_else(|| free.find(|number| !taken.contains_key(number)))?;
        taken.insert(number, uid.to_owned());
        Some(range(number))
    }

    /// Gives a pod the range that an earlier process gave it.
    pub fn keep(&self, uid: &str, ids: IdRange) {
        let number = ids.first.saturating_sub(FIRST) / IDS_OF_POD;
        self.lock().insert(number, uid.to_owned());
    }

    /// Takes a pod's range back.
    pub fn give_back(&self, uid: &str) {
        self.lock().retain(|_, owner| owner != uid);
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<u32, String>> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

const fn range(number: u32) -> IdRange {
    IdRange { first: FIRST + number * IDS_OF_POD, count: IDS_OF_POD }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_pod_has_a_range_of_its_own_until_it_gives_it_back() {
        let ranges = Ranges::default();
        let all: BTreeSet<IdRange> = (0..RANGES).filter_map(|pod| ranges.take(&pod.to_string())).collect();
        assert_eq!(all.len(), 4_000);
        assert!(all.iter().all(|own| own.first >= FIRST && own.first + own.count <= 0x7FFE_0000));
        assert_eq!(ranges.take("one more"), None);
        let first = ranges.take("7").unwrap();
        assert_eq!(ranges.take("7"), Some(first));
        ranges.give_back("7");
        assert_eq!(ranges.take("one more"), Some(first));
    }

    #[test]
    fn range_of_an_earlier_process_is_kept() {
        let (before, after) = (Ranges::default(), Ranges::default());
        let own = before.take("a").unwrap();
        after.keep("a", own);
        assert_eq!(after.take("a"), Some(own));
        assert_ne!(after.take("b"), Some(own));
    }
}
