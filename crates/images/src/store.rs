//! The images of a node on disk: layout, lock, list, removal.
//!
//! ```text
//! root/lock            held as long as the store is open
//! root/images/         index.json: names → manifests → layers
//! root/blobs/sha256/   manifests and configurations, by digest; a manifest's time is when its image was last asked for
//! root/layers/         unpacked layers, by the hex of their diffID
//! root/directories/    what some images have on top of their layers (`implied`), by the hex of their manifest
//! root/leases/         which root filesystems stand on which image, unless the caller has another place for that
//! root/mountpoints/    what every root filesystem has below its layers
//! root/tmp/            whatever is not complete; emptied when the store is opened
//! ```
//! A layer is unpacked in `tmp`, renamed into `layers`, and counts only once the list names it; layers that the list
//! does not name are removed at open. An image is put on disk while it is in use already (`settling`). So neither a
//! crash nor a power loss leaves a half layer that looks whole.
//!
//! Compressed layers are not kept: nothing needs them once they are unpacked, and an export can pack them anew.
//!
//! *Guarantees*: one process at a time; a listed image is complete; a layer in use, or about to be, is not removed.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use tokio::sync::Semaphore;

use crate::cleaning::{Cleaned, last_uses};
use crate::document::Config;
use crate::image::{Image, ImageSummary, RemoveError, StoreError};
use crate::implied::directories_path;
use crate::index::{Index, LayerRecord, ManifestRecord, NameRecord, write_whole};
use crate::limits::LAYERS_AT_ONCE_TOTAL;
use crate::opening::{clear_unlisted, describe, make_directory, read_images, take_lock};
use crate::pull::{ImageFlights, LayerFlights};
use crate::registry::Registry;
use crate::removal::{Bin, remove_tree};
use crate::settling;
use crate::snapshot::{Leases, make_mount_points};
use crate::unpack::Unpacked;
use crate::{Digest, Reference, RegistryConfig};

/// The images of a node. Cheap to clone; all clones are one store.
#[derive(Clone)]
pub struct ImageStore {
    pub(crate) inner: Arc<Inner>,
    _handles: Arc<Handles>,
}

/// What all clones of a store share. When it goes, nothing writes the list any more: the directory is its owner's again.
struct Handles(Arc<Inner>);

impl Drop for Handles {
    fn drop(&mut self) {
        *self.0.writing.lock().unwrap_or_else(PoisonError::into_inner) = Writing::Over;
    }
}

pub(crate) struct Inner {
    pub(crate) root: PathBuf,
    root_fd: OwnedFd,
    _lock: OwnedFd,
    /// This boot of the machine.
    boot: String,
    pub(crate) config: RegistryConfig,
    pub(crate) registry: Registry,
    pub(crate) image_flights: ImageFlights,
    pub(crate) layer_flights: LayerFlights,
    pub(crate) layer_slots: Semaphore,
    state: Mutex<State>,
    /// Held while the list is written, so that readers of `state` never wait for the disk.
    writing: Mutex<Writing>,
    next_temporary: AtomicU64,
}

/// Whether the list may be written.
enum Writing {
    Allowed,
    /// Nobody has the store any more.
    Over,
}

pub(crate) struct State {
    index: Index,
    pub(crate) images: BTreeMap<String, Arc<Image>>,
    /// When somebody last asked for an image, by its manifest.
    pub(crate) used: BTreeMap<Digest, jiff::Timestamp>,
    /// What was last removed because the disk was nearly full, and when.
    pub(crate) cleared: Option<(jiff::Timestamp, Cleaned)>,
    /// Complete layers that no listed image has: of a pull under way, or of one that failed.
    loose: BTreeMap<Digest, LayerRecord>,
    /// How many pulls and loads need a layer to stay.
    pins: BTreeMap<Digest, usize>,
    pub(crate) leases: Leases,
}

/// A new image on its way into the list. Its layers are in place.
pub(crate) struct Arrival {
    pub(crate) reference: Reference,
    pub(crate) digest: Digest,
    pub(crate) manifest: Vec<u8>,
    pub(crate) config_bytes: Vec<u8>,
    pub(crate) config: Config,
}

impl std::fmt::Debug for ImageStore {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("ImageStore").field("root", &self.inner.root).finish_non_exhaustive()
    }
}

impl ImageStore {
    /// Opens the store at `root`, makes it if it is not there, and clears what a crash left. Blocks for the disk.
    ///
    /// # Errors
    /// The configuration is faulty, another process has the store, its list is damaged, or the disk said no.
    pub fn open(root: &Path, config: RegistryConfig) -> Result<Self, StoreError> {
        Self::open_with(root, &root.join("leases"), config)
    }

    /// As [`Self::open`]; which root filesystems stand on which image is noted in the directory `leases`. It may be in
    /// memory, since what ends that ends the mounts as well.
    ///
    /// # Errors
    /// As [`Self::open`].
    pub fn open_with(root: &Path, leases: &Path, config: RegistryConfig) -> Result<Self, StoreError> {
        config.check().map_err(StoreError::Config)?;
        let registry = Registry::new(&config).map_err(StoreError::Registry)?;
        for directory in ["", "images", "blobs", "blobs/sha256", "layers", "directories", "tmp"] {
            make_directory(&root.join(directory))?;
        }
        make_directory(leases)?;
        let root = root.canonicalize().map_err(StoreError::io("find", root))?;
        let lock = take_lock(&root)?;
        let root_fd = open(&root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|fault| StoreError::io("open", &root)(fault.into()))?;
        let temporary = root.join("tmp");
        Bin::open(&temporary).and_then(|mut bin| bin.empty()).map_err(StoreError::io("clear", &temporary))?;
        make_mount_points(&root)?;
        let boot = settling::boot_id().map_err(StoreError::io("tell the machine's boot from", &root))?;
        let (index, images) = read_images(&root, &boot)?;
        let state = State {
            leases: Leases::read(leases)?,
            index,
            used: last_uses(&root, &images),
            images,
            cleared: None,
            loose: BTreeMap::new(),
            pins: BTreeMap::new(),
        };
        clear_unlisted(&root, &state.index)?;
        let inner = Inner {
            root,
            root_fd,
            _lock: lock,
            boot,
            config,
            registry,
            image_flights: ImageFlights::default(),
            layer_flights: LayerFlights::default(),
            layer_slots: Semaphore::new(LAYERS_AT_ONCE_TOTAL),
            state: Mutex::new(state),
            writing: Mutex::new(Writing::Allowed),
            next_temporary: AtomicU64::new(0),
        };
        let inner = Arc::new(inner);
        // Those of an earlier process of this boot.
        settling::begin(&inner);
        let handles = Handles(Arc::clone(&inner));
        Ok(Self { inner, _handles: Arc::new(handles) })
    }

    /// The image of that name or digest, if it is here. Asks no registry.
    pub fn get(&self, reference: &Reference) -> Option<Arc<Image>> {
        self.inner.get(reference)
    }

    /// All images, by name.
    pub fn list(&self) -> Vec<ImageSummary> {
        let state = self.inner.state();
        let summary = |image: &Arc<Image>| ImageSummary {
            reference: image.reference.clone(),
            digest: image.digest,
            size_bytes: image.size_bytes,
            pulled: image.pulled,
            users: state.leases.users_of(image.manifest),
            used: state.last_used(image),
        };
        state.images.values().map(summary).collect()
    }

    /// Removes a name, and with the last name of an image its layers, unless another image has them. Gives the bytes of the
    /// layers that went.
    ///
    /// # Errors
    /// There is no such name, root filesystems still stand on the image, or the disk said no.
    pub async fn remove(&self, reference: &Reference) -> Result<u64, RemoveError> {
        let (inner, name) = (Arc::clone(&self.inner), reference.clone());
        let broken_off =
            |_| RemoveError::Store { reference: reference.clone(), source: StoreError::BrokenOff };
        tokio::task::spawn_blocking(move || inner.remove(&name)).await.map_err(broken_off)?
    }
}

impl State {
    /// When somebody last used an image, as far as is known.
    pub(crate) fn last_used(&self, image: &Image) -> jiff::Timestamp {
        self.used.get(&image.manifest).copied().unwrap_or_default().max(image.pulled)
    }

    pub(crate) fn has_manifest(&self, manifest: Digest) -> bool {
        self.index.manifests.contains_key(&manifest)
    }
}

impl Inner {
    pub(crate) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn get(&self, reference: &Reference) -> Option<Arc<Image>> {
        let mut state = self.state();
        let image = state.images.get(&reference.to_string()).cloned().or_else(|| {
            // The same content under another name is the same image.
            let digest = reference.digest()?;
            let mut all = state.images.values();
            let found = all.find(|image| image.digest == digest || image.manifest == digest)?;
            Some(Arc::new(Image { reference: reference.clone(), ..Image::clone(found) }))
        })?;
        state.used.insert(image.manifest, jiff::Timestamp::now());
        drop(state);
        // For the next process. Losing it in a crash does no harm.
        let _ = fs::File::open(blob_path(&self.root, image.manifest))
            .and_then(|manifest| manifest.set_modified(std::time::SystemTime::now()));
        Some(image)
    }

    /// Of an image: the file with its configuration, and the diffIDs of its layers, lowest first.
    pub(crate) fn content(&self, manifest: Digest) -> Option<(PathBuf, Vec<Digest>)> {
        let state = self.state();
        let record = state.index.manifests.get(&manifest)?;
        Some((blob_path(&self.root, record.config), record.layers.clone()))
    }

    /// Uncompressed size of a layer, if it is here and complete.
    pub(crate) fn layer_bytes(&self, diff_id: Digest) -> Option<u64> {
        self.layer(diff_id).map(|layer| layer.bytes)
    }

    fn layer(&self, diff_id: Digest) -> Option<LayerRecord> {
        let state = self.state();
        state.index.layers.get(&diff_id).or_else(|| state.loose.get(&diff_id)).copied()
    }

    /// Keeps layers from being removed, whether they are here already or not.
    pub(crate) fn pin(self: &Arc<Self>, diff_ids: &[Digest]) -> Pins {
        let mut state = self.state();
        for diff_id in diff_ids {
            *state.pins.entry(*diff_id).or_default() += 1;
        }
        Pins { store: Arc::clone(self), diff_ids: diff_ids.to_vec() }
    }

    /// A directory for what is not complete yet.
    pub(crate) fn stage(&self) -> io::Result<Stage> {
        let number = self.next_temporary.fetch_add(1, Ordering::Relaxed);
        let path = self.root.join("tmp").join(number.to_string());
        DirBuilder::new().mode(0o700).create(&path)?;
        let stage = Stage { path };
        DirBuilder::new().create(stage.tree())?;
        // Not by mkdir, which the process's umask would narrow: it is the root of an image.
        std::fs::set_permissions(stage.tree(), std::fs::Permissions::from_mode(0o755))?;
        Ok(stage)
    }

    /// Moves an unpacked layer into place. If somebody was faster, theirs stays.
    pub(crate) fn adopt_layer(
        &self,
        stage: &Stage,
        diff_id: Digest,
        Unpacked { bytes, implied }: Unpacked,
    ) -> Result<(), StoreError> {
        let place = layer_path(&self.root, diff_id);
        let mut state = self.state();
        match rustix::fs::rename(stage.tree(), &place) {
            Ok(()) | Err(Errno::EXIST | Errno::NOTEMPTY) => {}
            Err(fault) => return Err(StoreError::io("move a layer to", place)(fault.into())),
        }
        if !state.index.layers.contains_key(&diff_id) {
            state.loose.insert(diff_id, LayerRecord { bytes, implied });
        }
        Ok(())
    }

    /// Waits until nobody else writes the list.
    fn writing(&self) -> Result<MutexGuard<'_, Writing>, StoreError> {
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        match *writing {
            Writing::Allowed => Ok(writing),
            Writing::Over => Err(StoreError::BrokenOff),
        }
    }

    /// The directory of the store.
    pub(crate) fn root_fd(&self) -> &OwnedFd {
        &self.root_fd
    }

    /// Images that are not known to be on disk.
    pub(crate) fn unsettled(&self) -> Vec<Digest> {
        let state = self.state();
        let marked = state.index.manifests.iter().filter(|(_, manifest)| manifest.boot.is_some());
        marked.map(|(digest, _)| *digest).collect()
    }

    /// These images are on disk now.
    pub(crate) fn settled(&self, manifests: &[Digest]) -> Result<(), StoreError> {
        let writing = self.writing()?;
        let mut index = self.state().index.clone();
        for digest in manifests {
            if let Some(manifest) = index.manifests.get_mut(digest) {
                manifest.boot = None;
            }
        }
        index.write(&self.root.join("images/index.json"))?;
        self.state().index = index;
        drop(writing);
        Ok(())
    }

    /// Puts an image on the list, and has it put on disk.
    pub(crate) fn commit(self: &Arc<Self>, arrival: Arrival) -> Result<Arc<Image>, StoreError> {
        let writing = self.writing()?;
        let manifest = Digest::of(&arrival.manifest);
        let config = Digest::of(&arrival.config_bytes);
        for (digest, bytes) in [(manifest, &arrival.manifest), (config, &arrival.config_bytes)] {
            let path = blob_path(&self.root, digest);
            write_whole(&path, bytes, false).map_err(StoreError::io("write", path))?;
        }
        let mut index = self.state().index.clone();
        for diff_id in &arrival.config.diff_ids {
            let record = self.layer(*diff_id).unwrap_or(LayerRecord { bytes: 0, implied: false });
            index.layers.insert(*diff_id, record);
        }
        self.complete(manifest, &arrival.config.diff_ids, &index)?;
        // What is here under another name may be on disk already.
        index.manifests.entry(manifest).or_insert_with(|| ManifestRecord {
            config,
            layers: arrival.config.diff_ids.clone(),
            boot: Some(self.boot.clone()),
        });
        let old = self.keep_used(&mut index, &arrival.reference, manifest);
        let name = NameRecord { digest: arrival.digest, manifest, pulled: jiff::Timestamp::now() };
        index.names.insert(arrival.reference.to_string(), name.clone());
        let image = Arc::new(describe(&self.root, arrival.reference, &name, arrival.config, &index));
        index.write(&self.root.join("images/index.json"))?;
        let mut state = self.state();
        state.loose.retain(|diff_id, _| !index.layers.contains_key(diff_id));
        state.index = index;
        state.images.extend(old.map(|old| (old.reference.to_string(), Arc::new(old))));
        state.images.insert(image.reference.to_string(), Arc::clone(&image));
        drop(state);
        drop(writing);
        settling::begin(self);
        Ok(image)
    }

    /// If a name is about to mean another image while root filesystems stand on the one that it means now, that one keeps
    /// a name by its digest: containers that start again find it, and it is not cleared away as nameless.
    fn keep_used(&self, index: &mut Index, reference: &Reference, manifest: Digest) -> Option<Image> {
        let state = self.state();
        let before = index.names.get(&reference.to_string())?;
        if before.manifest == manifest || state.leases.users_of(before.manifest) == 0 {
            return None;
        }
        let old = state.images.get(&reference.to_string())?;
        let pinned = reference.by_digest(before.digest);
        let before = before.clone();
        index.names.insert(pinned.to_string(), before);
        Some(Image { reference: pinned, ..Image::clone(old) })
    }

    /// Gives the bytes of layers that went.
    pub(crate) fn remove(&self, reference: &Reference) -> Result<u64, RemoveError> {
        let failed = |source| RemoveError::Store { reference: reference.clone(), source };
        let writing = self.writing().map_err(failed)?;
        let name = reference.to_string();
        let mut index = {
            let state = self.state();
            let not_found = || RemoveError::NotFound { reference: reference.clone() };
            let manifest = state.index.names.get(&name).ok_or_else(not_found)?.manifest;
            let names = state.index.names.values().filter(|other| other.manifest == manifest).count();
            let users = state.leases.users_of(manifest);
            if names == 1 && users > 0 {
                return Err(RemoveError::InUse { reference: reference.clone(), users });
            }
            state.index.clone()
        };
        index.names.remove(&name);
        index.prune();
        index.write(&self.root.join("images/index.json")).map_err(failed)?;
        let stage = self.stage().map_err(StoreError::io("use", self.root.join("tmp"))).map_err(failed)?;
        let freed = self.drop_layers(index, &name, &stage).map_err(failed)?;
        drop(writing);
        // Clearing the stage is the slow part, and holds nothing.
        drop(stage);
        Ok(freed)
    }

    /// Takes a new list into use, and moves layers that nobody has or awaits out of the way.
    fn drop_layers(&self, index: Index, name: &str, stage: &Stage) -> Result<u64, StoreError> {
        let mut freed = 0;
        let mut state = self.state();
        let before = std::mem::replace(&mut state.index, index);
        state.images.remove(name);
        for (diff_id, record) in before.layers {
            if !state.index.layers.contains_key(&diff_id) {
                state.loose.insert(diff_id, record);
            }
        }
        let unwanted: Vec<Digest> =
            state.loose.keys().filter(|diff_id| !state.pins.contains_key(diff_id)).copied().collect();
        for diff_id in unwanted {
            let path = layer_path(&self.root, diff_id);
            let moved = std::fs::rename(&path, stage.path.join(diff_id.hex()));
            moved.map_err(StoreError::io("remove", path))?;
            freed += state.loose.remove(&diff_id).map_or(0, |layer| layer.bytes);
        }
        for (digest, record) in before.manifests {
            if !state.index.manifests.contains_key(&digest) {
                // Few have any.
                let _ = fs::rename(directories_path(&self.root, digest), stage.join(&digest.hex()));
                for blob in [digest, record.config] {
                    let kept = state.index.manifests.values().any(|other| other.config == blob);
                    if !kept {
                        let _ = std::fs::remove_file(blob_path(&self.root, blob));
                    }
                }
            }
        }
        Ok(freed)
    }
}

/// Layers that must stay; let go when dropped.
pub(crate) struct Pins {
    store: Arc<Inner>,
    diff_ids: Vec<Digest>,
}

impl Drop for Pins {
    fn drop(&mut self) {
        let mut state = self.store.state();
        for diff_id in &self.diff_ids {
            if let Some(count) = state.pins.get_mut(diff_id) {
                *count -= 1;
                if *count == 0 {
                    state.pins.remove(diff_id);
                }
            }
        }
    }
}

/// A temporary directory of the store; removed when dropped, so drop it where blocking is fine.
pub(crate) struct Stage {
    path: PathBuf,
}

impl Stage {
    /// Where a layer is unpacked.
    pub(crate) fn tree(&self) -> PathBuf {
        self.path.join("tree")
    }

    pub(crate) fn join(&self, name: &str) -> PathBuf {
        self.path.join(name)
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if let Err(fault) = remove_tree(&self.path) {
            tracing::warn!(path = %self.path.display(), %fault, "temporary files of a pull stay until the next start");
        }
    }
}

pub(crate) fn layer_path(root: &Path, diff_id: Digest) -> PathBuf {
    root.join("layers").join(diff_id.hex())
}

pub(crate) fn blob_path(root: &Path, digest: Digest) -> PathBuf {
    root.join("blobs/sha256").join(digest.hex())
}
