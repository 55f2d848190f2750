//! The images of a node on disk: layout, lock, list, removal.
//!
//! ```text
//! root/lock            held as long as the store is open
//! root/images/         index.json: names → manifests → layers
//! root/blobs/sha256/   manifests and configurations, by digest; a manifest's time is when its image was last asked for
//! root/layers/         unpacked layers, by the hex of their diffID
//! root/directories/    what some images have on top of their layers (`implied`), by the hex of their manifest
//! root/leases/         which root filesystems stand on which image
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
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;
use tokio::sync::Semaphore;

use crate::cleaning::{Cleaned, last_uses};
use crate::document::Config;
use crate::image::{Image, ImageSummary, RemoveError, StoreError};
use crate::implied::directories_path;
use crate::index::{Index, LayerRecord, ManifestRecord, NameRecord, write_whole};
use crate::limits::LAYERS_AT_ONCE_TOTAL;
use crate::pull::{ImageFlights, LayerFlights};
use crate::registry::Registry;
use crate::removal::{Bin, remove_tree};
use crate::settling;
use crate::snapshot::Leases;
use crate::unpack::{OPAQUE, Unpacked};
use crate::{Digest, Reference, RegistryConfig};

/// How long another holder of the lock may take to let go: one that is ending may still be writing the list.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// Pause between two tries to take it.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// The images of a node. Cheap to clone; all clones are one store.
#[derive(Clone)]
pub struct ImageStore {
    pub(crate) inner: Arc<Inner>,
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
    writing: Mutex<()>,
    next_temporary: AtomicU64,
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
        config.check().map_err(StoreError::Config)?;
        let registry = Registry::new(&config).map_err(StoreError::Registry)?;
        for directory in ["", "images", "blobs", "blobs/sha256", "layers", "directories", "leases", "tmp"] {
            make_directory(&root.join(directory))?;
        }
        let root = root.canonicalize().map_err(StoreError::io("find", root))?;
        let lock = take_lock(&root)?;
        let root_fd = open(&root, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|fault| StoreError::io("open", &root)(fault.into()))?;
        let temporary = root.join("tmp");
        Bin::open(&temporary).and_then(|mut bin| bin.empty()).map_err(StoreError::io("clear", &temporary))?;
        let boot = settling::boot_id().map_err(StoreError::io("tell the machine's boot from", &root))?;
        let (index, images) = read_images(&root, &boot)?;
        let state = State {
            leases: Leases::read(&root.join("leases"))?,
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
            writing: Mutex::new(()),
            next_temporary: AtomicU64::new(0),
        };
        let inner = Arc::new(inner);
        // Those of an earlier process of this boot.
        settling::begin(&inner);
        Ok(Self { inner })
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
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
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
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
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
        let writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let failed = |source| RemoveError::Store { reference: reference.clone(), source };
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

fn make_directory(path: &Path) -> Result<(), StoreError> {
    let made = DirBuilder::new().mode(0o700).recursive(true).create(path);
    made.map_err(StoreError::io("create", path))?;
    let narrowed = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
    narrowed.map_err(StoreError::io("protect", path))
}

fn take_lock(root: &Path) -> Result<OwnedFd, StoreError> {
    let path = root.join("lock");
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let lock = open(&path, flags, Mode::RUSR | Mode::WUSR)
        .map_err(|fault| StoreError::io("open", &path)(fault.into()))?;
    let until = Instant::now() + LOCK_PATIENCE;
    loop {
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(lock),
            Err(Errno::WOULDBLOCK) if Instant::now() < until => std::thread::sleep(LOCK_PAUSE),
            Err(Errno::WOULDBLOCK) => return Err(StoreError::Locked { path: root.to_owned() }),
            Err(fault) => return Err(StoreError::io("lock", path)(fault.into())),
        }
    }
}

pub(crate) fn layer_path(root: &Path, diff_id: Digest) -> PathBuf {
    root.join("layers").join(diff_id.hex())
}

pub(crate) fn blob_path(root: &Path, digest: Digest) -> PathBuf {
    root.join("blobs/sha256").join(digest.hex())
}

/// Reads the list and every image on it. An image with something missing is left out, and said so.
fn read_images(root: &Path, boot: &str) -> Result<(Index, BTreeMap<String, Arc<Image>>), StoreError> {
    let path = root.join("images/index.json");
    let mut index = Index::read(&path)?;
    let mut images = BTreeMap::new();
    for (name, record) in &index.names {
        match read_image(root, name, record, &index, boot) {
            Ok(image) => {
                images.insert(name.clone(), Arc::new(image));
            }
            Err(reason) => tracing::warn!(image = %name, %reason, "image is incomplete and left out"),
        }
    }
    if images.len() < index.names.len() {
        index.names.retain(|name, _| images.contains_key(name));
        index.prune();
        index.write(&path)?;
    }
    Ok((index, images))
}

fn read_image(
    root: &Path,
    name: &str,
    record: &NameRecord,
    index: &Index,
    boot: &str,
) -> Result<Image, String> {
    let reference: Reference = name.parse().map_err(|fault: crate::ReferenceError| fault.to_string())?;
    let manifest = index.manifests.get(&record.manifest).ok_or("its manifest is not on the list")?;
    if manifest.boot.as_ref().is_some_and(|arrived| arrived != boot) {
        return Err("the machine went down before all of it was on disk".to_owned());
    }
    for diff_id in &manifest.layers {
        if !layer_path(root, *diff_id).is_dir() || !index.layers.contains_key(diff_id) {
            return Err(format!("layer {diff_id} is missing"));
        }
    }
    let bytes = std::fs::read(blob_path(root, manifest.config)).map_err(|fault| fault.to_string())?;
    if Digest::of(&bytes) != manifest.config {
        return Err("its configuration is damaged".to_owned());
    }
    let config = Config::parse(&bytes).map_err(|fault| fault.to_string())?;
    Ok(describe(root, reference, record, config, index))
}

fn describe(root: &Path, reference: Reference, name: &NameRecord, config: Config, index: &Index) -> Image {
    let bytes = |diff_id| index.layers.get(diff_id).map_or(0, |layer| layer.bytes);
    Image {
        reference,
        digest: name.digest,
        manifest: name.manifest,
        size_bytes: config.diff_ids.iter().map(bytes).sum(),
        layers: overlay_layers(root, &config.diff_ids, name.manifest),
        created: config.created,
        config: config.run,
        pulled: name.pulled,
    }
}

/// The layers that an overlay needs, lowest first: of one that occurs twice the upper (an overlay takes each directory
/// once, and the lower could add nothing), and nothing below one that hides everything.
fn overlay_layers(root: &Path, diff_ids: &[Digest], manifest: Digest) -> Vec<PathBuf> {
    let directories = directories_path(root, manifest);
    let mut layers: Vec<PathBuf> = directories.is_dir().then_some(directories).into_iter().collect();
    for diff_id in diff_ids.iter().rev() {
        let path = layer_path(root, *diff_id);
        if layers.contains(&path) {
            continue;
        }
        let mut value = [0; 4];
        let hides_all = rustix::fs::lgetxattr(&path, OPAQUE, &mut value).is_ok();
        layers.push(path);
        if hides_all {
            break;
        }
    }
    layers.reverse();
    layers
}

/// Removes layers and blobs that the list does not name.
fn clear_unlisted(root: &Path, index: &Index) -> Result<(), StoreError> {
    let layers: Vec<String> = index.layers.keys().map(Digest::hex).collect();
    let manifests = index.manifests.iter();
    let blobs: Vec<String> =
        manifests.flat_map(|(digest, manifest)| [digest.hex(), manifest.config.hex()]).collect();
    let own: Vec<String> = index.manifests.keys().map(Digest::hex).collect();
    for (directory, listed) in
        [(root.join("layers"), layers), (root.join("directories"), own), (root.join("blobs/sha256"), blobs)]
    {
        let listed: std::collections::BTreeSet<String> = listed.into_iter().collect();
        let entries = std::fs::read_dir(&directory).map_err(StoreError::io("read", &directory))?;
        for entry in entries {
            let entry = entry.map_err(StoreError::io("read", &directory))?;
            if !entry.file_name().to_str().is_some_and(|name| listed.contains(name)) {
                remove_tree(&entry.path()).map_err(StoreError::io("remove", entry.path()))?;
            }
        }
    }
    Ok(())
}
