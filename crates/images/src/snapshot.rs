//! Root filesystems: an overlay of an image's shared layers and a writable one, for each container its own.
//!
//! Below directories of the caller: `upper` and `work` are the writable layer, `rootfs` is where it is mounted; that may
//! be in memory. Layers are never written to, so any number of root filesystems share them. The writable layer lives as
//! long as the mount: it is mounted `volatile` (no syncing), because after a power loss its container is gone as well.
//!
//! A container in a user namespace sees the layers with mapped owners: for the time that the overlay takes to be mounted,
//! each layer is mounted once more, at no place if the kernel can stack such mounts. What is written belongs to the
//! namespace's own ids.
//!
//! A lease, in a file, says which directory stands on which image, so that a restarted agent still refuses to remove it.
//!
//! *Guarantees*: /dev, /proc, /sys and /etc of a mounted root filesystem are real directories; device nodes on it are
//! inert; unmounting twice is fine.
//!
//! *Not here*: what is mounted below the root filesystem; `no_new_privs`, which makes setuid programs inert.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, StatxAttributes, StatxFlags, Uid, chmodat, chownat, mkdirat,
    open, statat, statx,
};
use rustix::io::Errno;
use rustix::mount::{
    MoveMountFlags, OpenTreeFlags, UnmountFlags, mount_bind, move_mount, open_tree, unmount,
};
use serde::{Deserialize, Serialize};
use userns::IdRange;

use crate::index::write_whole;
use crate::overlay::{MountFault, Overlay};
use crate::removal::remove_tree;
use crate::store::{ImageStore, Inner};
use crate::{Digest, Image, Reference, StoreError};

/// Directories that a container's start mounts over or writes below: as links they would lead elsewhere.
const REAL_DIRECTORIES: [&str; 4] = ["dev", "proc", "sys", "etc"];
/// Files of those directories that are mounted over.
const MOUNTED_FILES: [&str; 3] = ["etc/hosts", "etc/hostname", "etc/resolv.conf"];
/// Where layers are mounted with mapped owners, for a moment.
const MAPPED_DIRECTORY: &str = "mapped";
/// Whether this kernel stacks only mounts that have a place; found out by the first that it refuses.
static NEEDS_PLACES: AtomicBool = AtomicBool::new(false);
/// Mounts on top of each other that one unmounting takes away: there is one, unless a crash came between.
const STACKED_MOUNTS_MAX: usize = 8;

/// Why a root filesystem could not be made or taken away.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum SnapshotError {
    /// There is one already.
    #[error("a root filesystem is mounted at {path:?} already")]
    AlreadyMounted {
        /// Where.
        path: PathBuf,
    },
    /// The image was removed meanwhile.
    #[error("image {reference} was removed")]
    ImageGone {
        /// Which image.
        reference: Reference,
    },
    /// The image's layout would lead mounts astray.
    #[error("the image has {found} at /{name}, which must be a directory")]
    NotADirectory {
        /// Name in the root.
        name: &'static str,
        /// What is there.
        found: &'static str,
    },
    /// The kernel refused the overlay.
    #[error("cannot mount the overlay at {path:?}{}", reason_text(.reason))]
    Mount {
        /// Where.
        path: PathBuf,
        /// What the kernel says beyond its error number; may be empty.
        reason: String,
        /// The kernel's error.
        #[source]
        source: Arc<io::Error>,
    },
    /// Owners cannot be mapped here.
    #[error("cannot mount layer {path:?} with mapped owners")]
    Map {
        /// Which layer.
        path: PathBuf,
        /// The kernel's error.
        #[source]
        source: Arc<io::Error>,
    },
    /// A directory or file could not be prepared or removed.
    #[error("cannot {doing} {path:?}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Arc<io::Error>,
    },
    /// The work ended without a result: this process is shutting down, or has a defect.
    #[error("the work was broken off")]
    BrokenOff,
}

fn reason_text(reason: &str) -> String {
    if reason.is_empty() { String::new() } else { format!(" ({reason})") }
}

fn failed(doing: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SnapshotError {
    let path = path.to_owned();
    move |source| SnapshotError::Io { doing, path, source: Arc::new(source) }
}

/// The user namespace that a root filesystem is for.
#[derive(Clone, Debug)]
pub struct Users {
    /// The namespace: its map is the one that owners are seen by.
    pub namespace: Arc<OwnedFd>,
    /// Its ids.
    pub ids: IdRange,
}

/// Where a root filesystem is: one directory for all of it, or two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RootfsPlace {
    /// Directory in which it is mounted, as `rootfs`.
    pub mount: PathBuf,
    /// Directory of its writable layer.
    pub layer: PathBuf,
}

impl From<&Path> for RootfsPlace {
    fn from(dir: &Path) -> Self {
        Self { mount: dir.to_owned(), layer: dir.to_owned() }
    }
}

impl From<&PathBuf> for RootfsPlace {
    fn from(dir: &PathBuf) -> Self {
        Self::from(dir.as_path())
    }
}

impl RootfsPlace {
    fn absolute(self) -> Result<Self, SnapshotError> {
        let absolute = |path: PathBuf| std::path::absolute(&path).map_err(failed("find", &path));
        Ok(Self { mount: absolute(self.mount)?, layer: absolute(self.layer)? })
    }

    fn rootfs(&self) -> PathBuf {
        self.mount.join("rootfs")
    }
}

impl ImageStore {
    /// Mounts a fresh root filesystem of `image` at `place` and gives the path of its root; for a user namespace, if there
    /// are `users`. The image stays in use until [`Self::unmount_rootfs`].
    ///
    /// # Errors
    /// One is mounted there already, the image is gone or unfit, or the kernel refused.
    pub async fn mount_rootfs(
        &self,
        image: &Image,
        place: impl Into<RootfsPlace>,
        users: Option<Users>,
    ) -> Result<PathBuf, SnapshotError> {
        let (inner, image, place) = (Arc::clone(&self.inner), image.clone(), place.into());
        let mounting = tokio::task::spawn_blocking(move || inner.mount_rootfs(&image, place, users.as_ref()));
        mounting.await.map_err(|_| SnapshotError::BrokenOff)?
    }

    /// Unmounts the root filesystem at `place` and removes its writable layer. Fine if there is none.
    ///
    /// # Errors
    /// Something of it could not be removed.
    pub async fn unmount_rootfs(&self, place: impl Into<RootfsPlace>) -> Result<(), SnapshotError> {
        let (inner, place) = (Arc::clone(&self.inner), place.into());
        let unmounting = tokio::task::spawn_blocking(move || inner.unmount_rootfs(&place.absolute()?));
        unmounting.await.map_err(|_| SnapshotError::BrokenOff)?
    }
}

impl Inner {
    fn mount_rootfs(
        &self,
        image: &Image,
        place: RootfsPlace,
        users: Option<&Users>,
    ) -> Result<PathBuf, SnapshotError> {
        let place = place.absolute()?;
        let rootfs = place.rootfs();
        if is_mount(&rootfs) {
            return Err(SnapshotError::AlreadyMounted { path: rootfs });
        }
        self.lease(image, &place.mount)?;
        // Below all layers, so that what an image has, or has removed, is as the image says.
        let lower: Vec<PathBuf> =
            std::iter::once(mount_points_path(&self.root)).chain(image.layers.clone()).collect();
        let mounted = mount_fresh(&lower, &place, &rootfs, users)
            .and_then(|()| real_directories(&rootfs, outside(users, 0)));
        match mounted {
            Ok(()) => Ok(rootfs),
            Err(fault) => {
                if let Err(fault) = self.unmount_rootfs(&place) {
                    tracing::warn!(path = %rootfs.display(), %fault, "half a root filesystem stays behind");
                }
                Err(fault)
            }
        }
    }

    fn lease(&self, image: &Image, dir: &Path) -> Result<(), SnapshotError> {
        let mut state = self.state();
        if !state.has_manifest(image.manifest) {
            return Err(SnapshotError::ImageGone { reference: image.reference.clone() });
        }
        state.leases.take(dir, image.manifest).map_err(failed("note the use of", dir))
    }

    fn unmount_rootfs(&self, place: &RootfsPlace) -> Result<(), SnapshotError> {
        let rootfs = place.rootfs();
        for _ in 0..STACKED_MOUNTS_MAX {
            if !is_mount(&rootfs) {
                break;
            }
            let plainly = unmount(&rootfs, UnmountFlags::NOFOLLOW);
            let done = match plainly {
                // Somebody's open file or mount in another namespace: it goes when they let go.
                Err(Errno::BUSY) => unmount(&rootfs, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH),
                other => other,
            };
            done.map_err(|fault| failed("unmount", &rootfs)(fault.into()))?;
        }
        match std::fs::remove_dir(&rootfs) {
            Err(fault) if fault.kind() != io::ErrorKind::NotFound => {
                return Err(failed("remove", &rootfs)(fault));
            }
            _ => {}
        }
        unmount_mapped(&place.mount)?;
        for name in ["upper", "work"] {
            let path = place.layer.join(name);
            remove_tree(&path).map_err(failed("remove", &path))?;
        }
        self.state().leases.release(&place.mount).map_err(failed("note the end of", &place.mount))
    }
}

/// The machine's id of an id of the image.
fn outside(users: Option<&Users>, id: u32) -> u32 {
    users.map_or(id, |users| users.ids.outside(id).unwrap_or(users.ids.first))
}

/// Directory of a store with what is mounted over in every root filesystem, so that none has to make it.
pub(crate) fn mount_points_path(root: &Path) -> PathBuf {
    root.join("mountpoints")
}

/// Makes it, unless it is there: root filesystems may stand on it.
pub(crate) fn make_mount_points(root: &Path) -> Result<(), StoreError> {
    let place = mount_points_path(root);
    if place.is_dir() {
        return Ok(());
    }
    let top = root.join("tmp/mountpoints");
    // Not by the mode of what makes them, which the process's umask would narrow.
    let allow = |path: &Path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode));
    let make_directory = |path: &Path| std::fs::create_dir(path).and_then(|()| allow(path, 0o755));
    let make_file = |path: &Path| std::fs::write(path, []).and_then(|()| allow(path, 0o644));
    for name in std::iter::once("").chain(REAL_DIRECTORIES) {
        make_directory(&top.join(name)).map_err(StoreError::io("create", top.join(name)))?;
    }
    for name in MOUNTED_FILES {
        make_file(&top.join(name)).map_err(StoreError::io("create", top.join(name)))?;
    }
    std::fs::rename(&top, &place).map_err(StoreError::io("move to", &place))
}

/// Mounts of the layers with mapped owners, at no place yet.
fn mapped_trees(layers: &[PathBuf], users: &Users) -> Result<Vec<OwnedFd>, SnapshotError> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let each = layers.iter().map(|layer| {
        let tree = open_tree(CWD, layer, flags).map_err(io::Error::from);
        let tree = tree.and_then(|tree| userns::mapped(&tree, &*users.namespace).map(|()| tree));
        tree.map_err(|fault| SnapshotError::Map { path: layer.clone(), source: Arc::new(fault) })
    });
    each.collect()
}

/// Gives mounts with mapped owners a place, and says where.
fn place_mapped(trees: &[OwnedFd], dir: &Path) -> Result<Vec<PathBuf>, SnapshotError> {
    let top = dir.join(MAPPED_DIRECTORY);
    make_private(&top)?;
    // One mount above them all, so that they go together.
    mount_bind(&top, &top).map_err(|fault| failed("mount", &top)(fault.into()))?;
    let each = trees.iter().enumerate().map(|(number, tree)| {
        let path = top.join(number.to_string());
        make_private(&path)?;
        let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
        move_mount(tree, "", CWD, &path, flags).map_err(|fault| failed("mount", &path)(fault.into()))?;
        Ok(path)
    });
    each.collect()
}

/// Takes the mounts with mapped owners away; what is mounted on them keeps them. Fine if there are none.
fn unmount_mapped(dir: &Path) -> Result<(), SnapshotError> {
    let top = dir.join(MAPPED_DIRECTORY);
    match unmount(&top, UnmountFlags::NOFOLLOW | UnmountFlags::DETACH) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => {}
        Err(fault) => return Err(failed("unmount", &top)(fault.into())),
    }
    // Empty directories, now that nothing is mounted on them.
    remove_tree(&top).map_err(failed("remove", &top))
}

fn mount_fresh(
    lower: &[PathBuf],
    place: &RootfsPlace,
    rootfs: &Path,
    users: Option<&Users>,
) -> Result<(), SnapshotError> {
    let (upper, work) = (place.layer.join("upper"), place.layer.join("work"));
    // What is left of a mount that a reboot took away must not be used again.
    make_anew(&upper)?;
    make_anew(&work)?;
    make_private(rootfs)?;
    // The root directory of an overlay looks like its upper one.
    let top = lower.last().map_or(rootfs, PathBuf::as_path);
    let stat = std::fs::metadata(top).map_err(failed("read", top))?;
    let owner = (outside(users, stat.uid()), outside(users, stat.gid()));
    chown(&upper, Some(owner.0), Some(owner.1)).map_err(failed("adapt", &upper))?;
    let mode = std::fs::Permissions::from_mode(stat.mode() & 0o7777);
    std::fs::set_permissions(&upper, mode).map_err(failed("adapt", &upper))?;
    let stack = |lower: &[PathBuf]| Overlay { lower, upper: &upper, work: &work }.mount(rootfs);
    let refused = |MountFault { reason, errno }: MountFault| SnapshotError::Mount {
        path: rootfs.to_owned(),
        reason,
        source: Arc::new(errno.into()),
    };
    let Some(users) = users else { return stack(lower).map_err(refused) };
    let trees = mapped_trees(lower, users)?;
    if !NEEDS_PLACES.load(Ordering::Relaxed) {
        match stack(&trees.iter().map(name_of).collect::<Vec<_>>()) {
            // Kernels before 6.15 take layers only from mounts that have a place.
            Err(MountFault { errno: Errno::INVAL, .. }) => NEEDS_PLACES.store(true, Ordering::Relaxed),
            done => return done.map_err(refused),
        }
    }
    // A try that was refused may have left there what no mount that does not sync takes.
    make_anew(&work)?;
    stack(&place_mapped(&trees, &place.mount)?).map_err(refused)?;
    unmount_mapped(&place.mount)
}

fn make_private(path: &Path) -> Result<(), SnapshotError> {
    let made = DirBuilder::new().mode(0o700).recursive(true).create(path);
    made.map_err(failed("create", path))
}

/// Makes an empty directory, whatever was there.
fn make_anew(path: &Path) -> Result<(), SnapshotError> {
    remove_tree(path).map_err(failed("clear", path))?;
    make_private(path)
}

/// A path to what a descriptor of this process stands for.
fn name_of(tree: &OwnedFd) -> PathBuf {
    format!("/proc/self/fd/{}", tree.as_raw_fd()).into()
}

/// Makes sure that /dev, /proc, /sys and /etc below `rootfs` are real directories: absent ones are made, anything else
/// is refused. A mounted root filesystem has passed already.
///
/// # Errors
/// One of them is something else, or could not be made.
pub fn check_rootfs(rootfs: &Path) -> Result<(), SnapshotError> {
    real_directories(rootfs, 0)
}

/// As [`check_rootfs`]; what is made belongs to `owner`.
fn real_directories(rootfs: &Path, owner: u32) -> Result<(), SnapshotError> {
    let io_fault = |fault: Errno| failed("check", rootfs)(fault.into());
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = open(rootfs, flags, Mode::empty()).map_err(io_fault)?;
    for name in REAL_DIRECTORIES {
        let found = match statat(&root, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => FileType::from_raw_mode(stat.st_mode),
            Err(Errno::NOENT) => {
                make_real_directory(&root, name, owner).map_err(io_fault)?;
                continue;
            }
            Err(fault) => return Err(io_fault(fault)),
        };
        let found = match found {
            FileType::Directory => continue,
            FileType::Symlink => "a symbolic link",
            FileType::RegularFile => "a file",
            _ => "a special file",
        };
        return Err(SnapshotError::NotADirectory { name, found });
    }
    Ok(())
}

fn make_real_directory(root: &OwnedFd, name: &str, owner: u32) -> rustix::io::Result<()> {
    mkdirat(root, name, Mode::RWXU)?;
    chownat(root, name, Some(Uid::from_raw(owner)), Some(Gid::from_raw(owner)), AtFlags::SYMLINK_NOFOLLOW)?;
    // Not by mkdir, which the process's umask would narrow.
    chmodat(root, name, Mode::from_raw_mode(0o755), AtFlags::empty())
}

/// Whether something is mounted at `path`.
fn is_mount(path: &Path) -> bool {
    let stat = statx(CWD, path, AtFlags::SYMLINK_NOFOLLOW | AtFlags::NO_AUTOMOUNT, StatxFlags::empty());
    stat.is_ok_and(|stat| stat.stx_attributes.contains(StatxAttributes::MOUNT_ROOT))
}

/// Which directories have a root filesystem of which image; each one is a small file, so that restarts know as well.
pub(crate) struct Leases {
    directory: PathBuf,
    held: BTreeMap<PathBuf, Digest>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LeaseRecord {
    dir: PathBuf,
    manifest: Digest,
}

impl Leases {
    /// Reads the leases; those whose mount is gone (a reboot took it) end here.
    pub(crate) fn read(directory: &Path) -> Result<Self, StoreError> {
        let mut held = BTreeMap::new();
        for entry in std::fs::read_dir(directory).map_err(StoreError::io("read", directory))? {
            let path = entry.map_err(StoreError::io("read", directory))?.path();
            let bytes = std::fs::read(&path).map_err(StoreError::io("read", &path))?;
            match serde_json::from_slice::<LeaseRecord>(&bytes) {
                Ok(lease) if is_mount(&lease.dir.join("rootfs")) => {
                    held.insert(lease.dir, lease.manifest);
                }
                _ => std::fs::remove_file(&path).map_err(StoreError::io("remove", &path))?,
            }
        }
        Ok(Self { directory: directory.to_owned(), held })
    }

    /// Root filesystems that stand on an image.
    pub(crate) fn users_of(&self, manifest: Digest) -> usize {
        self.held.values().filter(|held| **held == manifest).count()
    }

    fn take(&mut self, dir: &Path, manifest: Digest) -> io::Result<()> {
        let record = serde_json::to_vec(&LeaseRecord { dir: dir.to_owned(), manifest })?;
        // Needs no sync: what ends the page cache ends the mount as well.
        write_whole(&self.path_of(dir), &record, false)?;
        self.held.insert(dir.to_owned(), manifest);
        Ok(())
    }

    fn release(&mut self, dir: &Path) -> io::Result<()> {
        self.held.remove(dir);
        match std::fs::remove_file(self.path_of(dir)) {
            Err(fault) if fault.kind() != io::ErrorKind::NotFound => Err(fault),
            _ => Ok(()),
        }
    }

    fn path_of(&self, dir: &Path) -> PathBuf {
        self.directory.join(Digest::of(dir.as_os_str().as_bytes()).hex())
    }
}

#[cfg(test)]
mod tests {
    use userns::{Kind, Newborn};

    use super::*;
    use crate::RegistryConfig;
    use crate::archive::{PackFile, PackSpec, pack};

    #[tokio::test]
    async fn owners_are_mapped_whether_the_kernel_stacks_mounts_without_a_place_or_not() {
        let scratch = tempfile::tempdir().unwrap();
        let store = ImageStore::open(&scratch.path().join("store"), RegistryConfig::default()).unwrap();
        let file = PackFile { path: "own".to_owned(), mode: 0o644, bytes: b"own".to_vec() };
        let reference = "127.0.0.1:1/a:1".to_owned();
        let mut archive = Vec::new();
        pack(&PackSpec { reference, files: vec![file], ..PackSpec::default() }, &mut archive).unwrap();
        let image = store.load(io::Cursor::new(archive)).await.unwrap().remove(0);
        let ids = IdRange { first: 1_879_048_192, count: 65_536 };
        let newborn = Newborn::new("test", Some(ids)).unwrap();
        let namespace = Arc::new(std::fs::File::open(newborn.namespace(Kind::User)).unwrap().into());
        let users = Users { namespace, ids };
        for needs_places in [false, true] {
            NEEDS_PLACES.store(needs_places, Ordering::Relaxed);
            let place = scratch.path().join("pod");
            let rootfs = store.mount_rootfs(&image, &place, Some(users.clone())).await.unwrap();
            for name in ["own", "dev", "etc/hosts"] {
                assert_eq!(std::fs::metadata(rootfs.join(name)).unwrap().uid(), ids.first, "{name}");
            }
            assert_eq!(std::fs::read_to_string(rootfs.join("own")).unwrap(), "own");
            assert_eq!(std::fs::read_dir(place.join("upper")).unwrap().count(), 0, "nothing had to be made");
            assert!(!place.join(MAPPED_DIRECTORY).exists());
            store.unmount_rootfs(&place).await.unwrap();
        }
    }
}
