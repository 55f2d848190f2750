//! Takes images from an archive file instead of a registry: same checks, same unpacking, same list.
//!
//! Two layouts are read: the OCI image layout (`index.json` and `blobs/`), and what `docker save` writes
//! (`manifest.json`), both with the files in any order, compressed as a whole or not. Names are completed like those
//! of pulled images, so a workload that says `hello:1` finds a loaded `hello:1` without any registry.

use std::collections::BTreeMap;
use std::io::Read;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::json;

use crate::document::{
    Config, Descriptor, Document, DocumentError, Manifest, OCI_MANIFEST, check_layer_count, check_size,
    parse_json, select,
};
use crate::image::{Image, LoadError, StoreError};
use crate::limits::{
    ARCHIVE_IMAGES_MAX, CONFIG_BYTES_MAX, DOCUMENTS_MAX, MANIFEST_BYTES_MAX, UNPACKED_BYTES_MAX,
};
use crate::pull::{LayerFault, unpack_layer};
use crate::spool::Spool;
use crate::store::{Arrival, ImageStore, Inner};
use crate::{Digest, Reference};

/// Annotations that name an image, the more complete first.
const NAME_ANNOTATIONS: [&str; 2] = ["io.containerd.image.name", "org.opencontainers.image.ref.name"];
/// Media type of an uncompressed layer, for manifests that are written here.
pub(crate) const PLAIN_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
/// Media type of a configuration.
pub(crate) const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

impl ImageStore {
    /// Reads an archive to its end and puts its images into the store, replacing those of the same name.
    ///
    /// # Errors
    /// It is no image archive, faulty, unnamed, too large, or has nothing for this machine. Images before the faulty
    /// one stay.
    pub async fn load(&self, archive: impl Read + Send + 'static) -> Result<Vec<Arc<Image>>, LoadError> {
        let inner = Arc::clone(&self.inner);
        let loading = tokio::task::spawn_blocking(move || load(&inner, archive));
        loading.await.map_err(|_| LoadError::Store { source: StoreError::BrokenOff })?
    }
}

fn load(store: &Arc<Inner>, archive: impl Read) -> Result<Vec<Arc<Image>>, LoadError> {
    let temporary = || StoreError::io("use", store.root.join("tmp"));
    let stage = store.stage().map_err(temporary()).map_err(|source| LoadError::Store { source })?;
    let spool = Spool::fill(archive, &stage.join("archive"))?;
    let found = match (spool.has("index.json"), spool.has("manifest.json")) {
        (true, has_manifest) => match find_in_layout(&spool) {
            Err(LoadError::Unnamed) if has_manifest => find_in_saved(&spool)?,
            found => found?,
        },
        (false, true) => find_in_saved(&spool)?,
        (false, false) => return Err(LoadError::NotAnArchive),
    };
    if found.len() > ARCHIVE_IMAGES_MAX {
        return Err(LoadError::Archive { reason: format!("it has more than {ARCHIVE_IMAGES_MAX} images") });
    }
    found.into_iter().map(|found| keep(store, &spool, found)).collect()
}

/// An image of the archive, checked but for its layers.
struct Found {
    reference: Reference,
    digest: Digest,
    /// Absent where the archive has none and one is to be written.
    manifest: Option<Vec<u8>>,
    config_bytes: Vec<u8>,
    config: Config,
    layers: Vec<FoundLayer>,
}

/// A layer of the archive.
#[derive(Clone)]
struct FoundLayer {
    name: String,
    carried: Option<(Digest, u64)>,
}

/// Images of an OCI layout, one for each name.
fn find_in_layout(spool: &Spool) -> Result<Vec<Found>, LoadError> {
    let bytes = spool.read("index.json", "index.json", MANIFEST_BYTES_MAX)?;
    let Document::Index(entries) = Document::parse(&bytes, &[]).map_err(LoadError::Document)? else {
        return Err(LoadError::Document(DocumentError::Neither));
    };
    let mut by_name: BTreeMap<String, Vec<Descriptor>> = BTreeMap::new();
    for entry in entries {
        let annotations = entry.annotations.as_ref();
        let name = NAME_ANNOTATIONS.iter().find_map(|key| annotations?.get(*key));
        let name = name.ok_or(LoadError::Unnamed)?.clone();
        by_name.entry(name).or_default().push(entry);
    }
    if by_name.is_empty() {
        return Err(LoadError::Archive { reason: "it has no images".to_owned() });
    }
    by_name.iter().map(|(name, entries)| find_named(spool, name, entries)).collect()
}

fn find_named(spool: &Spool, name: &str, entries: &[Descriptor]) -> Result<Found, LoadError> {
    let reference: Reference = name.parse().map_err(LoadError::Reference)?;
    let mut entry = select(entries).map_err(LoadError::Document)?.clone();
    let digest = entry.digest;
    if let Some(expected) = reference.digest()
        && expected != digest
    {
        return Err(LoadError::Digest { name: name.to_owned(), expected, found: digest });
    }
    for _ in 0..DOCUMENTS_MAX {
        let bytes = read_blob(spool, &entry, "manifest", MANIFEST_BYTES_MAX)?;
        match Document::parse(&bytes, &[&entry.media_type]).map_err(LoadError::Document)? {
            Document::Manifest(manifest) => return found_image(spool, reference, digest, bytes, &manifest),
            Document::Index(entries) => entry = select(&entries).map_err(LoadError::Document)?.clone(),
        }
    }
    Err(LoadError::Document(DocumentError::TooDeep(DOCUMENTS_MAX)))
}

fn found_image(
    spool: &Spool,
    reference: Reference,
    digest: Digest,
    bytes: Vec<u8>,
    manifest: &Manifest,
) -> Result<Found, LoadError> {
    let config_bytes = read_blob(spool, &manifest.config, "configuration", CONFIG_BYTES_MAX)?;
    let config = Config::parse(&config_bytes).map_err(LoadError::Document)?;
    config.check_layers(manifest.layers.len()).map_err(LoadError::Document)?;
    let layer = |layer: &Descriptor| FoundLayer {
        name: blob_name(layer.digest),
        carried: Some((layer.digest, layer.size)),
    };
    let layers = manifest.layers.iter().map(layer).collect();
    Ok(Found { reference, digest, manifest: Some(bytes), config_bytes, config, layers })
}

fn blob_name(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

fn read_blob(
    spool: &Spool,
    wanted: &Descriptor,
    document: &'static str,
    max: u64,
) -> Result<Vec<u8>, LoadError> {
    let name = blob_name(wanted.digest);
    check_size(document, wanted.size, max).map_err(LoadError::Document)?;
    let bytes = spool.read(&name, document, max)?;
    let found = Digest::of(&bytes);
    if found != wanted.digest {
        return Err(LoadError::Digest { name, expected: wanted.digest, found });
    }
    Ok(bytes)
}

/// One image of `docker save`.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Saved {
    config: String,
    #[serde(default)]
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

/// Images of `docker save`, one for each name that it gives them.
fn find_in_saved(spool: &Spool) -> Result<Vec<Found>, LoadError> {
    let bytes = spool.read("manifest.json", "manifest.json", MANIFEST_BYTES_MAX)?;
    let saved: Vec<Saved> = parse_json("manifest.json", &bytes).map_err(LoadError::Document)?;
    let mut found = Vec::new();
    for image in &saved {
        check_layer_count(image.layers.len()).map_err(LoadError::Document)?;
        for name in image.repo_tags.iter().flatten() {
            if found.len() < ARCHIVE_IMAGES_MAX + 1 {
                found.push(find_saved(spool, image, name)?);
            }
        }
    }
    if found.is_empty() { Err(LoadError::Unnamed) } else { Ok(found) }
}

fn find_saved(spool: &Spool, image: &Saved, name: &str) -> Result<Found, LoadError> {
    let reference: Reference = name.parse().map_err(LoadError::Reference)?;
    if let Some(digest) = reference.digest() {
        let reason = format!("{name:?} names a digest ({digest}), which such an archive cannot hold");
        return Err(LoadError::Archive { reason });
    }
    let config_bytes = spool.read(&image.config, "configuration", CONFIG_BYTES_MAX)?;
    let config = Config::parse(&config_bytes).map_err(LoadError::Document)?;
    config.check_layers(image.layers.len()).map_err(LoadError::Document)?;
    let layers = image.layers.iter().map(|name| FoundLayer { name: name.clone(), carried: None }).collect();
    Ok(Found { reference, digest: Digest::of(&config_bytes), manifest: None, config_bytes, config, layers })
}

/// Unpacks what is not here yet and puts the image on the list.
fn keep(store: &Arc<Inner>, spool: &Spool, found: Found) -> Result<Arc<Image>, LoadError> {
    let _pins = store.pin(&found.config.diff_ids);
    let mut unpacked: u64 = 0;
    let mut sizes = Vec::new();
    for (layer, diff_id) in found.layers.iter().zip(&found.config.diff_ids) {
        let bytes = match store.layer_bytes(*diff_id) {
            Some(bytes) => bytes,
            None => unpack_found(store, spool, layer, *diff_id)?,
        };
        sizes.push(bytes);
        unpacked = unpacked.saturating_add(bytes);
        if unpacked > UNPACKED_BYTES_MAX {
            return Err(LoadError::Document(DocumentError::ImageTooLarge(unpacked)));
        }
    }
    let (digest, manifest) = match found.manifest {
        Some(manifest) => (found.digest, manifest),
        None => {
            let manifest = written_manifest(&found.config_bytes, &found.config.diff_ids, &sizes);
            (Digest::of(&manifest), manifest)
        }
    };
    let Found { reference, config_bytes, config, .. } = found;
    let arrival = Arrival { reference, digest, manifest, config_bytes, config };
    let image = store.commit(arrival).map_err(|source| LoadError::Store { source })?;
    tracing::info!(image = %image.reference, image.digest = %image.digest, "image loaded");
    Ok(image)
}

fn unpack_found(store: &Inner, spool: &Spool, layer: &FoundLayer, diff_id: Digest) -> Result<u64, LoadError> {
    let content = spool.open(&layer.name)?;
    unpack_layer(store, content, layer.carried, diff_id).map_err(|fault| match fault {
        LayerFault::Unpack(source) => LoadError::Layer { name: layer.name.clone(), source },
        LayerFault::Store(source) => LoadError::Store { source },
        LayerFault::Registry(fault) => LoadError::Store { source: StoreError::Registry(fault) },
    })
}

/// The manifest of an image that came without: its layers uncompressed.
fn written_manifest(config: &[u8], diff_ids: &[Digest], sizes: &[u64]) -> Vec<u8> {
    let layer = |(digest, size)| json!({ "mediaType": PLAIN_LAYER, "digest": digest, "size": size });
    let layers: Vec<_> = diff_ids.iter().zip(sizes).map(layer).collect();
    json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": { "mediaType": CONFIG, "digest": Digest::of(config), "size": config.len() },
        "layers": layers,
    })
    .to_string()
    .into_bytes()
}
