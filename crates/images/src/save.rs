//! Writes an image of the store to an archive: an OCI image layout, with the list that `docker load` reads beside it.
//!
//! Layers are packed anew from their files, since their compressed originals are not kept. So the archive holds the same
//! files as the image, and other digests.
//!
//! *Guarantee*: the same image gives the same bytes; nothing is written to this machine's disk.

use std::{
    collections::BTreeSet,
    io::{self, Write},
    path::PathBuf,
    sync::Arc,
};

use serde_json::{Value, json};
use tar::Header;

use crate::archive::{NAME_ANNOTATIONS, append, descriptor};
use crate::digest::Hasher;
use crate::document::OCI_MANIFEST;
use crate::load::{CONFIG, PLAIN_LAYER};
use crate::store::{ImageStore, Inner, layer_path};
use crate::{Digest, Reference, StoreError, repack};

/// Why an image was not saved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SaveError {
    /// There is none.
    #[error("there is no image {reference} here")]
    NotFound {
        /// Its name.
        reference: Reference,
    },
    /// Its name is a digest, and the archive would have another.
    #[error("{reference} is named by its digest; an archive is loaded by a name with a tag")]
    ByDigest {
        /// Its name.
        reference: Reference,
    },
    /// It cannot be read.
    #[error("read the image {reference}")]
    Read {
        /// Its name.
        reference: Reference,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// The work was broken off.
    #[error(transparent)]
    Store(StoreError),
}

/// A layer as it will be in the archive.
struct Packed {
    path: PathBuf,
    digest: Digest,
    bytes: u64,
}

impl ImageStore {
    /// Writes the image of that name to `out`. It cannot be removed meanwhile.
    ///
    /// # Errors
    /// There is none, or it cannot be read, or `out` takes no more.
    pub async fn save(
        &self,
        reference: &Reference,
        out: impl Write + Send + 'static,
    ) -> Result<(), SaveError> {
        let (inner, reference) = (Arc::clone(&self.inner), reference.clone());
        let saving = tokio::task::spawn_blocking(move || save(&inner, &reference, out));
        saving.await.map_err(|_| SaveError::Store(StoreError::BrokenOff))?
    }
}

fn save(store: &Arc<Inner>, reference: &Reference, out: impl Write) -> Result<(), SaveError> {
    if reference.digest().is_some() {
        return Err(SaveError::ByDigest { reference: reference.clone() });
    }
    let absent = || SaveError::NotFound { reference: reference.clone() };
    let image = store.get(reference).ok_or_else(absent)?;
    let (config, diff_ids) = store.content(image.manifest).ok_or_else(absent)?;
    let _pins = store.pin(&diff_ids);
    let layers = diff_ids.iter().map(|diff_id| layer_path(&store.root, *diff_id));
    let read = |source| SaveError::Read { reference: reference.clone(), source };
    write(reference, &config, layers, out).map_err(read)
}

fn write(
    reference: &Reference,
    config: &std::path::Path,
    layers: impl Iterator<Item = PathBuf>,
    out: impl Write,
) -> io::Result<()> {
    let mut archive = tar::Builder::new(out);
    // Before the long work, so that whoever waits sees that it goes on.
    append(&mut archive, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let mut packed = Vec::new();
    let mut written = BTreeSet::new();
    for path in layers {
        let mut hasher = Hasher::default();
        repack::layer(&path, &mut hasher)?;
        let layer = Packed { path, bytes: hasher.bytes(), digest: hasher.finish() };
        if written.insert(layer.digest) {
            layer.append(&mut archive)?;
        }
        packed.push(layer);
    }
    let mut document: Value = serde_json::from_slice(&std::fs::read(config)?)?;
    document["rootfs"]["diff_ids"] = packed.iter().map(|layer| json!(layer.digest)).collect();
    let config = serde_json::to_vec(&document)?;
    let described = packed
        .iter()
        .map(|layer| json!({ "mediaType": PLAIN_LAYER, "digest": layer.digest, "size": layer.bytes }));
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": OCI_MANIFEST,
        "config": descriptor(CONFIG, &config),
        "layers": described.collect::<Vec<Value>>(),
    }))?;
    for bytes in [&config, &manifest] {
        append(&mut archive, &blob(Digest::of(bytes)), 0o644, bytes)?;
    }
    let name = reference.to_string();
    let mut entry = descriptor(OCI_MANIFEST, &manifest);
    entry["annotations"] = NAME_ANNOTATIONS.iter().map(|key| (*key, name.as_str())).collect();
    let index = serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [entry] }))?;
    append(&mut archive, "index.json", 0o644, &index)?;
    let paths: Vec<String> = packed.iter().map(|layer| blob(layer.digest)).collect();
    let saved = json!([{ "Config": blob(Digest::of(&config)), "RepoTags": [name], "Layers": paths }]);
    append(&mut archive, "manifest.json", 0o644, &serde_json::to_vec(&saved)?)?;
    archive.into_inner()?.flush()
}

fn blob(digest: Digest) -> String {
    format!("blobs/sha256/{}", digest.hex())
}

impl Packed {
    fn append(&self, archive: &mut tar::Builder<impl Write>) -> io::Result<()> {
        let mut header = Header::new_gnu();
        header.set_path(blob(self.digest))?;
        header.set_mode(0o644);
        header.set_size(self.bytes);
        header.set_mtime(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        let out = archive.get_mut();
        out.write_all(header.as_bytes())?;
        let mut passing = Passing { out, hasher: Hasher::default() };
        repack::layer(&self.path, &mut passing)?;
        if passing.hasher.finish() != self.digest {
            return Err(io::Error::other("a layer has changed while it was saved"));
        }
        repack::pad(out, self.bytes)
    }
}

/// Hashes what passes.
struct Passing<'a, W> {
    out: &'a mut W,
    hasher: Hasher,
}

impl<W: Write> Write for Passing<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let count = self.out.write(bytes)?;
        self.hasher.update(bytes.get(..count).unwrap_or_default());
        Ok(count)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}
