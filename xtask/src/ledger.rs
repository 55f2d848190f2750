//! Everything on this machine that RIK could leave behind, as lines of text that can be compared.
//!
//! The reading itself is done by `harness ledger` (in `tests/e2e/src/ledger.rs`, where it is described), which is the
//! same that every end-to-end test uses.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Context, Result, bail};

use crate::root;

/// What the names of test labs begin with. Each run removes what a killed earlier run left of its labs.
const LAB: &str = "/rik-e2e-";

/// What was there at one moment.
pub(crate) struct Ledger(String);

impl Ledger {
    /// Reads the machine with the `harness` that is among `programs`.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn take(programs: &Path) -> Result<Self> {
        let harness = programs.join("harness");
        let output = root::command(&harness)
            .arg("ledger")
            .output()
            .with_context(|| format!("failed to run {}", harness.display()))?;
        if !output.status.success() {
            bail!("the machine's state cannot be read: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(Self(String::from_utf8_lossy(&output.stdout).into_owned()))
    }

    /// The lines that came since (`left behind: …`) and those that went (`missing: …`). The remains of a killed earlier
    /// run are expected to go.
    pub(crate) fn differences(&self, later: &Self) -> Vec<String> {
        let mut count: BTreeMap<&str, i64> = BTreeMap::new();
        later.0.lines().for_each(|line| *count.entry(line).or_default() += 1);
        self.0.lines().for_each(|line| *count.entry(line).or_default() -= 1);
        count
            .into_iter()
            .filter(|(line, balance)| *balance > 0 || (*balance < 0 && !line.contains(LAB)))
            .map(|(line, balance)| format!("{}: {line}", if balance > 0 { "left behind" } else { "missing" }))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_came_and_what_went_is_named() {
        let before = Ledger("link lo\nmount /a\nmount /a\n".into());
        let after = Ledger("link lo\nlink rik0\nmount /a\n".into());
        assert_eq!(before.differences(&after), ["left behind: link rik0", "missing: mount /a"]);
        assert!(before.differences(&before).is_empty());
        let stale = Ledger("cgroup /sys/fs/cgroup/pids/rik-e2e-1/test\nlink lo\n".into());
        let clean = Ledger("link lo\n".into());
        assert!(stale.differences(&clean).is_empty());
        assert_eq!(clean.differences(&stale).len(), 1);
    }
}
