//! Mounts an overlay of up to 128 lower layers.
//!
//! The way by a mount context takes each layer by itself, so their number and the length of their paths matter little.
//! Kernels before 6.7 want all in one page: there each layer is named by a descriptor, which is short.

use std::ffi::CString;
use std::fmt::Write as _;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, fsconfig_create,
    fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount, move_mount,
};

/// A value that a mount context takes, in bytes, with its end.
const VALUE_BYTES_MAX: usize = 256;
/// Characters that option parsers treat specially.
const SPECIAL: &[u8] = br":,\";

/// What is laid over what.
pub(crate) struct Overlay<'a> {
    /// Lowest first.
    pub(crate) lower: &'a [PathBuf],
    pub(crate) upper: &'a Path,
    pub(crate) work: &'a Path,
}

/// Why the kernel refused.
#[derive(Debug)]
pub(crate) struct MountFault {
    pub(crate) reason: String,
    pub(crate) errno: Errno,
}

impl From<Errno> for MountFault {
    fn from(errno: Errno) -> Self {
        Self { reason: String::new(), errno }
    }
}

impl Overlay<'_> {
    /// Mounts at `target`, with device nodes inert.
    pub(crate) fn mount(&self, target: &Path) -> Result<(), MountFault> {
        match self.mount_by_context(target) {
            // No mount contexts, or none that take layers one by one.
            Err(MountFault { errno: Errno::NOSYS | Errno::INVAL, .. }) => self.mount_by_options(target),
            done => done,
        }
    }

    fn mount_by_context(&self, target: &Path) -> Result<(), MountFault> {
        let context = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
        let explained = |errno| MountFault { reason: explanation(&context), errno };
        let set = |key: &str, path: &Path| -> Result<(), MountFault> {
            let (name, _held) = option_name(path)?;
            fsconfig_set_string(&context, key, name.as_slice()).map_err(explained)
        };
        fsconfig_set_string(&context, "source", "overlay").map_err(explained)?;
        for layer in self.lower.iter().rev() {
            set("lowerdir+", layer)?;
        }
        set("upperdir", self.upper)?;
        set("workdir", self.work)?;
        fsconfig_set_flag(&context, "volatile").map_err(explained)?;
        for key in ["metacopy", "index"] {
            fsconfig_set_string(&context, key, "off").map_err(explained)?;
        }
        fsconfig_create(&context).map_err(explained)?;
        let mounted = fsmount(&context, FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::MOUNT_ATTR_NODEV)?;
        Ok(move_mount(&mounted, "", CWD, target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?)
    }

    fn mount_by_options(&self, target: &Path) -> Result<(), MountFault> {
        let mut held = Vec::new();
        let mut by_descriptor = |path: &Path| -> Result<String, Errno> {
            let descriptor = hold(path)?;
            let name = format!("/proc/self/fd/{}", descriptor.as_raw_fd());
            held.push(descriptor);
            Ok(name)
        };
        let lower: Vec<String> =
            self.lower.iter().rev().map(|layer| by_descriptor(layer)).collect::<Result<_, _>>()?;
        let mut options = format!("lowerdir={}", lower.join(":"));
        for (key, path) in [("upperdir", self.upper), ("workdir", self.work)] {
            let _ = write!(options, ",{key}={}", by_descriptor(path)?);
        }
        options.push_str(",volatile,metacopy=off,index=off");
        let options = CString::new(options).map_err(|_| Errno::INVAL)?;
        Ok(mount("overlay", target, "overlay", MountFlags::NODEV, Some(options.as_c_str()))?)
    }
}

/// A name for `path` that fits a mount context: itself, or that of a descriptor to be held while it is used.
fn option_name(path: &Path) -> Result<(Vec<u8>, Option<OwnedFd>), Errno> {
    let bytes = path.as_os_str().as_bytes();
    if bytes.len() < VALUE_BYTES_MAX && !bytes.iter().any(|byte| SPECIAL.contains(byte)) {
        return Ok((bytes.to_vec(), None));
    }
    let descriptor = hold(path)?;
    Ok((format!("/proc/self/fd/{}", descriptor.as_raw_fd()).into_bytes(), Some(descriptor)))
}

fn hold(path: &Path) -> Result<OwnedFd, Errno> {
    open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}

/// What the kernel wrote into the context's log.
fn explanation(context: &OwnedFd) -> String {
    let mut texts = Vec::new();
    let mut buffer = [0; 1024];
    while let Ok(count) = rustix::io::read(context, &mut buffer) {
        if count == 0 {
            break;
        }
        texts.push(String::from_utf8_lossy(&buffer[..count]).trim().to_owned());
    }
    texts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::mount::{UnmountFlags, unmount};

    /// Unmounts also if the test fails.
    struct Mounted(PathBuf);

    impl Drop for Mounted {
        fn drop(&mut self) {
            let _ = unmount(&self.0, UnmountFlags::DETACH);
        }
    }

    fn lab(depth: usize, prefix: &str) -> (tempfile::TempDir, Vec<PathBuf>, PathBuf) {
        let scratch = tempfile::tempdir().unwrap();
        let base = scratch.path().join(prefix);
        let lower: Vec<PathBuf> = (0..depth).map(|at| base.join(format!("{at:064}"))).collect();
        for (at, layer) in lower.iter().enumerate() {
            std::fs::create_dir_all(layer).unwrap();
            std::fs::write(layer.join(format!("own-{at}")), at.to_string()).unwrap();
            std::fs::write(layer.join("top"), at.to_string()).unwrap();
        }
        for name in ["upper", "work", "rootfs"] {
            std::fs::create_dir(base.join(name)).unwrap();
        }
        (scratch, lower, base)
    }

    #[test]
    fn layers_lie_in_order_by_either_way_of_mounting() {
        let long = format!("{}/a:b,c", "x".repeat(200));
        for (depth, prefix) in [(1, "p"), (128, "p"), (3, long.as_str())] {
            for by_context in [true, false] {
                let (_scratch, lower, base) = lab(depth, prefix);
                let (upper, work, rootfs) = (base.join("upper"), base.join("work"), base.join("rootfs"));
                let overlay = Overlay { lower: &lower, upper: &upper, work: &work };
                let _mounted = Mounted(rootfs.clone());
                let done = if by_context {
                    overlay.mount_by_context(&rootfs)
                } else {
                    overlay.mount_by_options(&rootfs)
                };
                done.unwrap_or_else(|fault| panic!("{depth} {by_context} {fault:?}"));
                let top = std::fs::read_to_string(rootfs.join("top")).unwrap();
                assert_eq!(top, (depth - 1).to_string());
                assert_eq!(std::fs::read_dir(&rootfs).unwrap().count(), depth + 1);
                std::fs::write(rootfs.join("top"), "changed").unwrap();
                assert_ne!(std::fs::read_to_string(lower[depth - 1].join("top")).unwrap(), "changed");
            }
        }
    }

    #[test]
    fn a_missing_layer_is_a_fault_with_a_reason() {
        let (_scratch, mut lower, base) = lab(2, "p");
        lower.push(base.join("missing"));
        let (upper, work) = (base.join("upper"), base.join("work"));
        let overlay = Overlay { lower: &lower, upper: &upper, work: &work };
        let fault = overlay.mount(&base.join("rootfs")).unwrap_err();
        assert_eq!(fault.errno, Errno::NOENT);
    }
}
