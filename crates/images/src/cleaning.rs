//! Removes images that nobody uses: when somebody asks for that, and when the disk fills.
//!
//! *Guarantee*: an image that a root filesystem stands on, or that somebody is about to use, is never removed.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;
use std::{fs, io};

use jiff::{SignedDuration, Timestamp};

use crate::image::{RemoveError, StoreError};
use crate::limits::{DISK_HIGH_PERCENT, DISK_LOW_PERCENT, UNUSED_REST};
use crate::store::{ImageStore, Inner, blob_path};
use crate::{Digest, Image, Reference};

/// What was removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cleaned {
    /// Names of the images, in the order in which they went.
    pub removed: Vec<Reference>,
    /// Bytes of their layers, as far as no other image has them.
    pub freed_bytes: u64,
}

impl ImageStore {
    /// Removes every image that nothing stands on.
    ///
    /// # Errors
    /// The disk said no; what was removed before is gone.
    pub async fn prune(&self) -> Result<Cleaned, StoreError> {
        let inner = Arc::clone(&self.inner);
        let work = move || inner.clean(Duration::ZERO, || Ok(false));
        tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::BrokenOff)?
    }

    /// Removes images that nothing stands on, those first that were used the longest time ago, if the disk is fuller than
    /// 85 %, until it is less than 80 % full. Looks at the disk and does nothing else, if there is room.
    ///
    /// # Errors
    /// The disk said no.
    pub async fn make_room(&self) -> Result<Cleaned, StoreError> {
        let inner = Arc::clone(&self.inner);
        let work = move || {
            let gauge = || used_percent(&inner);
            inner.make_room_by(&gauge)
        };
        tokio::task::spawn_blocking(work).await.map_err(|_| StoreError::BrokenOff)?
    }

    /// What [`Self::make_room`] last removed in this process, and when.
    #[must_use]
    pub fn last_cleared(&self) -> Option<(Timestamp, Cleaned)> {
        self.inner.state().cleared.clone()
    }
}

impl Inner {
    fn make_room_by(
        self: &Arc<Self>,
        used_percent: &dyn Fn() -> Result<u64, StoreError>,
    ) -> Result<Cleaned, StoreError> {
        if used_percent()? <= DISK_HIGH_PERCENT {
            return Ok(Cleaned::default());
        }
        let cleaned = self.clean(UNUSED_REST, || Ok(used_percent()? < DISK_LOW_PERCENT))?;
        if !cleaned.removed.is_empty() {
            self.state().cleared = Some((Timestamp::now(), cleaned.clone()));
        }
        Ok(cleaned)
    }

    /// Removes images that nothing stands on and that nobody asked for since `rest`, until there is enough room.
    fn clean(
        self: &Arc<Self>,
        rest: Duration,
        is_enough: impl Fn() -> Result<bool, StoreError>,
    ) -> Result<Cleaned, StoreError> {
        let mut cleaned = Cleaned::default();
        for reference in self.unused(rest) {
            if is_enough()? {
                break;
            }
            match self.remove(&reference) {
                Ok(freed) => {
                    cleaned.freed_bytes += freed;
                    cleaned.removed.push(reference);
                }
                // Somebody was faster, in either way.
                Err(RemoveError::InUse { .. } | RemoveError::NotFound { .. }) => {}
                Err(RemoveError::Store { source, .. }) => return Err(source),
            }
        }
        Ok(cleaned)
    }

    /// Images that nothing stands on, the longest unused first.
    fn unused(&self, rest: Duration) -> Vec<Reference> {
        let rest = SignedDuration::try_from(rest).unwrap_or(SignedDuration::MAX);
        let now = Timestamp::now();
        let state = self.state();
        // Whoever is about to make a root filesystem of it holds it.
        let is_free =
            |image: &&Arc<Image>| Arc::strong_count(image) == 1 && state.leases.users_of(image.manifest) == 0;
        let free = state.images.values().filter(is_free);
        let mut unused: Vec<(Timestamp, Reference)> = free
            .map(|image| (state.last_used(image), image.reference.clone()))
            .filter(|(used, _)| now.duration_since(*used) >= rest)
            .collect();
        unused.sort();
        unused.into_iter().map(|(_, reference)| reference).collect()
    }
}

/// When images were last asked for, by their manifests.
pub(crate) fn last_uses(
    root: &Path,
    images: &BTreeMap<String, Arc<Image>>,
) -> BTreeMap<Digest, jiff::Timestamp> {
    let last = |manifest: Digest| {
        let modified =
            fs::metadata(blob_path(root, manifest)).and_then(|metadata| metadata.modified()).ok()?;
        Some((manifest, jiff::Timestamp::try_from(modified).ok()?))
    };
    images.values().filter_map(|image| last(image.manifest)).collect()
}

/// How full the store's file system is, as `df` counts.
fn used_percent(inner: &Inner) -> Result<u64, StoreError> {
    let found = rustix::fs::fstatvfs(inner.root_fd())
        .map_err(|fault| StoreError::io("see the free space of", &inner.root)(io::Error::from(fault)))?;
    let used = found.f_blocks.saturating_sub(found.f_bfree);
    Ok(used * 100 / (used + found.f_bavail).max(1))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::RegistryConfig;
    use crate::archive::{PackFile, PackSpec, pack};

    /// A store with images `a`, `b`, `c`, which arrived in this order.
    async fn store(scratch: &std::path::Path) -> ImageStore {
        let store = ImageStore::open(scratch, RegistryConfig::default()).unwrap();
        for name in ["a", "b", "c"] {
            let file = PackFile { path: "own".to_owned(), mode: 0o644, bytes: name.repeat(100).into_bytes() };
            let reference = format!("127.0.0.1:1/{name}:1");
            let spec = PackSpec { reference, files: vec![file], ..PackSpec::default() };
            let mut archive = Vec::new();
            pack(&spec, &mut archive).unwrap();
            store.load(io::Cursor::new(archive)).await.unwrap();
        }
        store
    }

    /// A small file system of its own; goes when dropped.
    struct Small(tempfile::TempDir);

    impl Small {
        fn of(bytes: usize) -> Self {
            let scratch = tempfile::tempdir().unwrap();
            let size = std::ffi::CString::new(format!("size={bytes}")).unwrap();
            let flags = rustix::mount::MountFlags::empty();
            rustix::mount::mount("rik-test", scratch.path(), "tmpfs", flags, Some(size.as_c_str())).unwrap();
            Self(scratch)
        }
    }

    impl Drop for Small {
        fn drop(&mut self) {
            let _ = rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH);
        }
    }

    #[tokio::test]
    async fn small_file_system_that_fills_up_loses_its_oldest_image_and_no_more() {
        const EACH: usize = 9 << 20;
        let small = Small::of(28 << 20);
        let store = ImageStore::open(&small.0.path().join("store"), RegistryConfig::default()).unwrap();
        for name in ["a", "b", "c"] {
            let file =
                PackFile { path: "own".to_owned(), mode: 0o644, bytes: name.repeat(EACH).into_bytes() };
            let reference = format!("127.0.0.1:1/{name}:1");
            let spec = PackSpec { reference, files: vec![file], ..PackSpec::default() };
            let mut archive = Vec::new();
            pack(&spec, &mut archive).unwrap();
            store.load(io::Cursor::new(archive)).await.unwrap();
            if name == "b" {
                assert_eq!(store.make_room().await.unwrap(), Cleaned::default(), "there is room for a third");
            }
        }
        rested(&store);
        assert!(used_percent(&store.inner).unwrap() > DISK_HIGH_PERCENT);
        assert_eq!(names(&store.make_room().await.unwrap().removed), ["a"]);
        assert!(used_percent(&store.inner).unwrap() < DISK_LOW_PERCENT);
        assert_eq!(store.make_room().await.unwrap(), Cleaned::default());
        let (_, cleared) = store.last_cleared().unwrap();
        assert_eq!(names(&cleared.removed), ["a"], "it is still known when there is room again");
    }

    #[tokio::test]
    async fn next_process_knows_when_an_image_was_last_used() {
        let scratch = tempfile::tempdir().unwrap();
        let store = store(scratch.path()).await;
        let before = Timestamp::now();
        let used = |store: &ImageStore| {
            let list = store.list();
            list.into_iter().map(|image| image.used >= before).collect::<Vec<bool>>()
        };
        store.get(&"127.0.0.1:1/b:1".parse().unwrap()).unwrap();
        assert_eq!(used(&store), [false, true, false]);
        drop(store);
        let store = ImageStore::open(scratch.path(), RegistryConfig::default()).unwrap();
        assert_eq!(used(&store), [false, true, false]);
    }

    fn names(all: &[Reference]) -> Vec<&str> {
        all.iter().map(Reference::repository).collect()
    }

    fn rested(store: &ImageStore) {
        let long_ago = Timestamp::now() - SignedDuration::from_hours(1);
        let mut state = store.inner.state();
        let images: Vec<_> = state.images.values().cloned().collect();
        for (place, image) in images.iter().enumerate() {
            let seconds = i64::try_from(place).unwrap();
            state.used.insert(image.manifest, long_ago + SignedDuration::from_secs(seconds));
            let old = Image { pulled: long_ago, ..Image::clone(image) };
            state.images.insert(image.reference.to_string(), Arc::new(old));
        }
    }

    #[tokio::test]
    async fn full_disk_costs_the_images_that_were_used_the_longest_time_ago() {
        let scratch = tempfile::tempdir().unwrap();
        let store = store(scratch.path()).await;
        let full = |levels: &'static [u64]| {
            let at = Cell::new(0);
            move || {
                at.set(at.get() + 1);
                Ok(levels[(at.get() - 1).min(levels.len() - 1)])
            }
        };
        let room = store.inner.make_room_by(&full(&[85])).unwrap();
        assert_eq!(room, Cleaned::default(), "there is room");
        let young = store.inner.make_room_by(&full(&[99])).unwrap();
        assert_eq!(young, Cleaned::default(), "an image that has just come is about to be used");
        rested(&store);
        // The first was used just now.
        store.get(&"127.0.0.1:1/a:1".parse().unwrap()).unwrap();
        let cleaned = store.inner.make_room_by(&full(&[86, 86, 79])).unwrap();
        assert_eq!(names(&cleaned.removed), ["b"]);
        assert!(cleaned.freed_bytes >= 100, "{cleaned:?}");
        let cleaned = store.inner.make_room_by(&full(&[99])).unwrap();
        assert_eq!(names(&cleaned.removed), ["c"], "what was asked for a moment ago stays even then");
    }

    #[tokio::test]
    async fn pruning_removes_all_that_nothing_stands_on() {
        let scratch = tempfile::tempdir().unwrap();
        let store = store(&scratch.path().join("store")).await;
        let image = store.get(&"127.0.0.1:1/b:1".parse().unwrap()).unwrap();
        let dir = scratch.path().join("pod");
        store.mount_rootfs(&image, &dir, None).await.unwrap();
        drop(image);
        let held = store.get(&"127.0.0.1:1/c:1".parse().unwrap()).unwrap();
        let kept = store.prune().await.unwrap().removed;
        assert_eq!(names(&kept), ["a"], "one is stood on, one is about to be");
        drop(held);
        let cleaned = store.prune().await;
        store.unmount_rootfs(&dir).await.unwrap();
        let mut removed = cleaned.unwrap().removed;
        removed.sort();
        assert_eq!(names(&removed), ["c"]);
        assert_eq!(names(&store.prune().await.unwrap().removed), ["b"]);
    }
}
