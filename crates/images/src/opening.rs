//! What opening a store does: takes its lock, reads its list and what stands on it, clears what a crash left.

use std::collections::BTreeMap;
use std::fs::DirBuilder;
use std::os::fd::OwnedFd;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, Mode, OFlags, flock, open};
use rustix::io::Errno;

use crate::document::Config;
use crate::image::{Image, StoreError};
use crate::implied::directories_path;
use crate::index::{Index, NameRecord};
use crate::removal::remove_tree;
use crate::store::{blob_path, layer_path};
use crate::unpack::OPAQUE;
use crate::{Digest, Reference};

/// How long another holder of the lock may take to let go: one that is ending may still be writing the list.
const LOCK_PATIENCE: Duration = Duration::from_secs(1);
/// Pause between two tries to take it.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

pub(crate) fn make_directory(path: &Path) -> Result<(), StoreError> {
    let made = DirBuilder::new().mode(0o700).recursive(true).create(path);
    made.map_err(StoreError::io("create", path))?;
    let narrowed = std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o700));
    narrowed.map_err(StoreError::io("protect", path))
}

pub(crate) fn take_lock(root: &Path) -> Result<OwnedFd, StoreError> {
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

/// Reads the list and every image on it. An image with something missing is left out, and said so.
pub(crate) fn read_images(
    root: &Path,
    boot: &str,
) -> Result<(Index, BTreeMap<String, Arc<Image>>), StoreError> {
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

pub(crate) fn describe(
    root: &Path,
    reference: Reference,
    name: &NameRecord,
    config: Config,
    index: &Index,
) -> Image {
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
pub(crate) fn clear_unlisted(root: &Path, index: &Index) -> Result<(), StoreError> {
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
