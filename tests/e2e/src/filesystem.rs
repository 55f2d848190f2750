//! What an enclosure sees of the machine's files: everything may be read, nothing outside of the test's folder written.
//!
//! | tree | inside |
//! |---|---|
//! | `/run`, `/tmp`, `/dev/shm` | empty, of the enclosure's own |
//! | `/etc`, `/var`, `/root` | as outside; what is written stays inside and goes with the enclosure |
//! | everything else | as outside, read-only |
//! | `/tmp/lab` | the test's folder below `target/e2e` |
//!
//! So a program under test that falls back on its default folders finds them, and the machine's own are never touched.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use rustix::mount::{MountFlags, UnmountFlags, mount, mount_bind, mount_remount, unmount};

use crate::{lab, programs};

/// Trees that are empty at the start.
pub const EMPTY: [&str; 3] = ["/run", "/tmp", "/dev/shm"];
/// Trees that programs write to by default.
const LAYERED: [&str; 3] = ["/etc", "/var", "/root"];
/// Where the layers are while they are mounted. Nobody sees them afterwards.
const LAYERS: &str = "/tmp/layers";

/// Makes the enclosure's own view; `folder` is the test's.
///
/// # Errors
/// When a mount is refused.
pub fn prepare(folder: &Path) -> Result<()> {
    for tree in EMPTY {
        keeping_visible(tree, || Ok(mount("tmpfs", tree, "tmpfs", EMPTY_FLAGS, Some(c"mode=1777"))?))?;
    }
    fs::create_dir_all(lab::ROOT)?;
    mount_bind(folder, lab::ROOT).with_context(|| format!("failed to bind {}", folder.display()))?;
    layer_trees().context("failed to put layers over the machine's folders")?;
    // The flag belongs to this mount of the root in this namespace, not to the file system.
    mount_remount("/", MountFlags::BIND | MountFlags::RDONLY, "").context("failed to make / read-only")
}

const EMPTY_FLAGS: MountFlags = MountFlags::NOSUID.union(MountFlags::NODEV);

fn layer_trees() -> Result<()> {
    fs::create_dir(LAYERS)?;
    mount("tmpfs", LAYERS, "tmpfs", EMPTY_FLAGS, Some(c"mode=700"))?;
    for tree in LAYERED {
        keeping_visible(tree, || layer(tree))?;
    }
    unmount(LAYERS, UnmountFlags::DETACH)?;
    Ok(fs::remove_dir(LAYERS)?)
}

fn layer(tree: &str) -> Result<()> {
    let layers = format!("{LAYERS}{tree}");
    let (upper, work) = (format!("{layers}/upper"), format!("{layers}/work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir(&work)?;
    fs::set_permissions(&upper, fs::metadata(tree)?.permissions())?;
    let options = std::ffi::CString::new(format!("lowerdir={tree},upperdir={upper},workdir={work}"))?;
    mount("overlay", tree, "overlay", MountFlags::empty(), Some(options.as_c_str()))
        .with_context(|| format!("failed to mount over {tree}"))
}

/// Mounts something over `tree`. The workspace and its build folder stay visible where they lie below it, as they do
/// for somebody who tries this project out in `/tmp`.
fn keeping_visible(tree: &str, mount: impl FnOnce() -> Result<()>) -> Result<()> {
    let hidden: Vec<(PathBuf, File)> = [programs::target_folder(), programs::workspace_folder()]
        .into_iter()
        .filter(|path| path.starts_with(tree))
        .map(|path| File::open(&path).map(|file| (path, file)))
        .collect::<io::Result<_>>()?;
    mount()?;
    for (path, file) in hidden {
        fs::create_dir_all(&path)?;
        mount_bind(format!("/proc/self/fd/{}", file.as_raw_fd()), &path)
            .with_context(|| format!("failed to keep {} visible", path.display()))?;
    }
    Ok(())
}
