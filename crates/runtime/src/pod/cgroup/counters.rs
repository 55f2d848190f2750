//! What the kernel has counted for a container: the same numbers in both layouts.

use std::{
    fs,
    path::{Path, PathBuf},
};

use super::{Cgroups, TOP};

impl Cgroups {
    /// Processor time of a container's present run, in microseconds; None if it has no group.
    #[must_use]
    pub fn cpu_micros(&self, uid: &str, index: usize) -> Option<u64> {
        if self.is_unified() {
            return field(&self.counted("cpu", uid, index)?.join("cpu.stat"), "usage_usec");
        }
        // In nanoseconds.
        Some(number(&self.counted("cpuacct", uid, index)?.join("cpuacct.usage"))? / 1000)
    }

    /// Memory of a container in bytes, without files that the kernel could let go; None if it has no group.
    #[must_use]
    pub fn memory_bytes(&self, uid: &str, index: usize) -> Option<u64> {
        let dir = self.counted("memory", uid, index)?;
        let (all, inactive) = if self.is_unified() {
            ("memory.current", "inactive_file")
        } else {
            ("memory.usage_in_bytes", "total_inactive_file")
        };
        let held = field(&dir.join("memory.stat"), inactive).unwrap_or(0);
        Some(number(&dir.join(all))?.saturating_sub(held))
    }

    fn counted(&self, controller: &str, uid: &str, index: usize) -> Option<PathBuf> {
        Some(self.dir_of(controller)?.join(TOP).join(&self.node).join(uid).join(index.to_string()))
    }
}

fn number(path: &Path) -> Option<u64> {
    fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// A number in a file of lines with a name and a number.
fn field(path: &Path, name: &str) -> Option<u64> {
    let text = fs::read_to_string(path).ok()?;
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}
