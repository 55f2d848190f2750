//! What libcontainer asks about the hierarchies of cgroup v1.

/// Where they are mounted.
pub mod util {
    use std::path::PathBuf;

    use crate::{idle::Never, shown};

    /// The mount points of those that the container shall see.
    ///
    /// # Errors
    /// Never.
    pub fn list_subsystem_mount_points() -> Result<Vec<PathBuf>, Never<2>> {
        Ok(shown().to_vec())
    }
}
