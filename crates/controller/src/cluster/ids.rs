//! Where ids come from: random in production, seeded in a simulation.

use std::sync::{Arc, Mutex, PoisonError};

use model::manifest::names::MAX_NAME;

/// Letters of a generated name's ending: no vowels and no look-alikes, so that it spells nothing and is read right.
const LETTERS: &[u8] = b"bcdfghjkmnpqrstvwxz2456789";
/// Letters in that ending: 26^5 is twelve million, and a name that is taken is drawn again.
const ENDING: usize = 5;

/// A source of ids.
#[derive(Clone, Debug)]
pub struct Ids(Arc<Mutex<fastrand::Rng>>);

impl Ids {
    /// Ids that nobody can foresee by accident.
    #[must_use]
    pub fn random() -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::new())))
    }

    /// The same ids for the same seed.
    #[must_use]
    pub fn seeded(seed: u64) -> Self {
        Self(Arc::new(Mutex::new(fastrand::Rng::with_seed(seed))))
    }

    /// A new uuid (version 4).
    #[must_use]
    pub fn uuid(&self) -> String {
        let bits = self.0.lock().unwrap_or_else(PoisonError::into_inner).u128(..);
        uuid::Builder::from_random_bytes(bits.to_be_bytes()).into_uuid().to_string()
    }

    /// A number of a range.
    #[must_use]
    pub fn number(&self, range: std::ops::RangeInclusive<u16>) -> u16 {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).u16(range)
    }

    /// A name for an instance of `workload`: its name and a random ending.
    #[must_use]
    pub fn instance_name(&self, workload: &str) -> String {
        let mut random = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let ending: String =
            (0..ENDING).map(|_| char::from(LETTERS[random.usize(..LETTERS.len())])).collect();
        let room = MAX_NAME - ENDING - 1;
        let stem: String = workload.chars().take(room).collect();
        let stem = stem.trim_end_matches(|last: char| !last.is_ascii_alphanumeric());
        format!("{stem}-{ending}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generated_names_obey_the_rule_for_names() {
        let ids = Ids::seeded(7);
        for workload in ["web", "fn:v1", &"a".repeat(63), &format!("{}.b", "a".repeat(56))] {
            let name = ids.instance_name(workload);
            assert_eq!(model::manifest::names::name(&name), Ok(()), "{name}");
        }
    }
}
