//! The list of images on disk: one JSON file, replaced whole. What it names is on disk, or marked with the boot of the
//! machine in which it is on its way there.

use std::collections::BTreeMap;
use std::io::{self, Write};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::{Digest, StoreError};

/// The only version there is; a file with another one was written by a program that knows more.
const VERSION: u32 = 1;
/// The list, in bytes: one image takes at most 10 KiB of it.
const INDEX_BYTES_MAX: u64 = 256 << 20;

/// Everything that the store has, by name, by manifest and by layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Index {
    version: u32,
    /// Full names.
    pub(crate) names: BTreeMap<String, NameRecord>,
    pub(crate) manifests: BTreeMap<Digest, ManifestRecord>,
    /// Unpacked layers by diffID.
    pub(crate) layers: BTreeMap<Digest, LayerRecord>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct NameRecord {
    pub(crate) digest: Digest,
    pub(crate) manifest: Digest,
    pub(crate) pulled: Timestamp,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ManifestRecord {
    pub(crate) config: Digest,
    /// DiffIDs, lowest first.
    pub(crate) layers: Vec<Digest>,
    /// The machine's boot in which it arrived, until all of it is known to be on disk.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) boot: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct LayerRecord {
    /// Uncompressed size.
    pub(crate) bytes: u64,
    /// Whether it has directories that it may not describe.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) implied: bool,
}

impl Default for Index {
    fn default() -> Self {
        Self { version: VERSION, names: BTreeMap::new(), manifests: BTreeMap::new(), layers: BTreeMap::new() }
    }
}

impl Index {
    /// Reads the list; a missing file is an empty list, a damaged one is an error.
    pub(crate) fn read(path: &Path) -> Result<Self, StoreError> {
        let damaged = |reason: String| StoreError::Damaged { path: path.to_owned(), reason };
        let size = match std::fs::metadata(path) {
            Ok(stat) => stat.len(),
            Err(fault) if fault.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(fault) => return Err(StoreError::io("read", path)(fault)),
        };
        if size > INDEX_BYTES_MAX {
            return Err(damaged(format!("it has {size} bytes")));
        }
        let bytes = std::fs::read(path).map_err(StoreError::io("read", path))?;
        let index: Self = serde_json::from_slice(&bytes).map_err(|fault| damaged(fault.to_string()))?;
        if index.version != VERSION {
            return Err(damaged(format!("it has version {}, this program writes {VERSION}", index.version)));
        }
        Ok(index)
    }

    /// Replaces the list: on disk when this returns.
    pub(crate) fn write(&self, path: &Path) -> Result<(), StoreError> {
        let bytes = serde_json::to_vec(self).map_err(|fault| StoreError::io("write", path)(fault.into()))?;
        write_whole(path, &bytes, true).map_err(StoreError::io("write", path))
    }

    /// Forgets manifests without a name and layers without a manifest; gives the layers forgotten.
    pub(crate) fn prune(&mut self) -> Vec<Digest> {
        let named: Vec<Digest> = self.names.values().map(|name| name.manifest).collect();
        self.manifests.retain(|digest, _| named.contains(digest));
        let used: std::collections::BTreeSet<Digest> =
            self.manifests.values().flat_map(|manifest| &manifest.layers).copied().collect();
        let unused: Vec<Digest> = self.layers.keys().filter(|layer| !used.contains(layer)).copied().collect();
        self.layers.retain(|layer, _| used.contains(layer));
        unused
    }
}

/// Writes a file beside `path` and renames it: readers see the old content or the new.
pub(crate) fn write_whole(path: &Path, bytes: &[u8], durable: bool) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    let beside: PathBuf = path.with_file_name(name);
    let mut file = std::fs::File::create(&beside)?;
    file.write_all(bytes)?;
    if durable {
        file.sync_all()?;
    }
    std::fs::rename(&beside, path)?;
    match path.parent() {
        Some(parent) if durable => std::fs::File::open(parent)?.sync_all(),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(text: &str) -> Digest {
        Digest::of(text.as_bytes())
    }

    fn sample() -> Index {
        let mut index = Index::default();
        for (name, manifest, layers) in
            [("a", "m", ["1", "2"]), ("b", "n", ["2", "3"]), ("c", "n", ["2", "3"])]
        {
            let pulled = Timestamp::UNIX_EPOCH;
            let record = NameRecord { digest: digest("i"), manifest: digest(manifest), pulled };
            index.names.insert(name.to_owned(), record);
            let layers: Vec<Digest> = layers.iter().map(|layer| digest(layer)).collect();
            index
                .layers
                .extend(layers.iter().map(|layer| (*layer, LayerRecord { bytes: 5, implied: false })));
            index
                .manifests
                .insert(digest(manifest), ManifestRecord { config: digest("c"), layers, boot: None });
        }
        index
    }

    #[test]
    fn the_list_survives_writing_and_reading() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("index.json");
        assert_eq!(Index::read(&path).unwrap(), Index::default());
        sample().write(&path).unwrap();
        assert_eq!(Index::read(&path).unwrap(), sample());
    }

    #[test]
    fn a_damaged_list_is_an_error_and_not_an_empty_one() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("index.json");
        sample().write(&path).unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        for bad in ["", "{}", &text[..text.len() / 2], &text.replace("\"version\":1", "\"version\":2")] {
            std::fs::write(&path, bad).unwrap();
            assert!(matches!(Index::read(&path), Err(StoreError::Damaged { .. })), "{bad}");
        }
    }

    #[test]
    fn pruning_keeps_what_a_name_leads_to() {
        let mut index = sample();
        index.names.remove("b");
        assert_eq!(index.prune(), []);
        index.names.remove("c");
        assert_eq!(index.prune(), [digest("3")]);
        assert_eq!(index.manifests.len(), 1);
        index.names.remove("a");
        assert_eq!(index.prune().len(), 2);
        assert!(index.layers.is_empty() && index.manifests.is_empty());
    }
}
