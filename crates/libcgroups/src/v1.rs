//! What libcontainer asks about the hierarchies of cgroup v1.

/// Where they are mounted.
pub mod util {
    use std::path::PathBuf;

    use rustix::{
        mount::{MountFlags, mount},
        process::{getpid, getppid},
    };

    use crate::{idle::Never, shown};

    /// The mount points of those that the container shall see.
    ///
    /// # Errors
    /// Never.
    pub fn list_subsystem_mount_points() -> Result<Vec<PathBuf>, Never<2>> {
        let shown = shown();
        if !shown.is_empty() {
            see_own_processes();
        }
        Ok(shown.to_vec())
    }

    /// Next, libcontainer looks this process up below `/proc` by its number, which is another one in a pid namespace than on
    /// the machine whose `/proc` is still there: that of the first process is always somebody's, but a process that joins
    /// others (`shareProcessNamespace`) would be told that it does not exist. So it gets the `/proc` of its namespace, for
    /// the moment until it leaves this root.
    fn see_own_processes() {
        if getpid().is_init() || getppid().is_some() {
            return;
        }
        let flags = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
        // Without it, libcontainer says what is missing.
        let _ = mount("proc", "/proc", "proc", flags, None);
    }
}
