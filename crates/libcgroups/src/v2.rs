//! What libcontainer asks about the unified hierarchy.

/// Where it is mounted.
pub mod util {
    use std::path::PathBuf;

    use crate::idle::{DEFAULT_CGROUP_ROOT, Never};

    /// The mount point of the unified hierarchy.
    ///
    /// # Errors
    /// Never.
    pub fn get_unified_mount_point() -> Result<PathBuf, Never<3>> {
        Ok(PathBuf::from(DEFAULT_CGROUP_ROOT))
    }
}
