//! Images of any number of layers, in memory, free to lie.

use std::io::Write;

use flate2::{Compression, write::GzEncoder};
use images::{Digest, archive::host_architecture};
use serde_json::{Value, json};

use super::rawtar::{Member, tar_of};

pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Packing {
    Plain,
    Gzip,
    Zstd,
}

/// A layer as it travels.
#[derive(Debug, Clone)]
pub(crate) struct Layer {
    pub(crate) carried: Vec<u8>,
    pub(crate) diff_id: Digest,
    pub(crate) media_type: &'static str,
}

impl Layer {
    pub(crate) fn of(members: &[Member], packing: Packing) -> Self {
        Self::of_tar(&tar_of(members), packing)
    }

    pub(crate) fn of_tar(tar: &[u8], packing: Packing) -> Self {
        let (carried, media_type) = match packing {
            Packing::Plain => (tar.to_vec(), "application/vnd.oci.image.layer.v1.tar"),
            Packing::Gzip => (gzip(tar), "application/vnd.oci.image.layer.v1.tar+gzip"),
            Packing::Zstd => {
                (zstd::encode_all(tar, 3).unwrap(), "application/vnd.oci.image.layer.v1.tar+zstd")
            }
        };
        Self { carried, diff_id: Digest::of(tar), media_type }
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.carried)
    }
}

pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
    encoder.write_all(bytes).unwrap();
    encoder.finish().unwrap()
}

/// An image: its layers and the documents about them, which a test may change.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    pub(crate) layers: Vec<Layer>,
    pub(crate) config: Value,
    /// Set to replace the manifest that follows from the rest.
    pub(crate) manifest: Option<Value>,
}

impl Picture {
    pub(crate) fn of(layers: Vec<Layer>) -> Self {
        let diff_ids: Vec<_> = layers.iter().map(|layer| layer.diff_id).collect();
        let config = json!({
            "architecture": host_architecture(),
            "os": "linux",
            "config": { "Cmd": ["/bin/hello"], "Env": ["PATH=/bin"] },
            "rootfs": { "type": "layers", "diff_ids": diff_ids },
        });
        Self { layers, config, manifest: None }
    }

    /// One small layer with one file, whose content is `content`.
    pub(crate) fn simple(content: &str) -> Self {
        Self::of(vec![Layer::of(&[Member::file("file", content)], Packing::Gzip)])
    }

    pub(crate) fn config_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.config).unwrap()
    }

    pub(crate) fn manifest_value(&self) -> Value {
        if let Some(manifest) = &self.manifest {
            return manifest.clone();
        }
        let layer = |layer: &Layer| descriptor(layer.media_type, &layer.carried);
        json!({
            "schemaVersion": 2,
            "mediaType": OCI_MANIFEST,
            "config": descriptor(OCI_CONFIG, &self.config_bytes()),
            "layers": self.layers.iter().map(layer).collect::<Vec<_>>(),
        })
    }

    pub(crate) fn manifest_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(&self.manifest_value()).unwrap()
    }

    pub(crate) fn digest(&self) -> Digest {
        Digest::of(&self.manifest_bytes())
    }

    /// Its entry in an index.
    pub(crate) fn entry(&self, os: &str, architecture: &str) -> Value {
        let mut entry = descriptor(OCI_MANIFEST, &self.manifest_bytes());
        entry["platform"] = json!({ "os": os, "architecture": architecture });
        entry
    }

    /// Everything but the index: digests and bytes.
    pub(crate) fn blobs(&self) -> Vec<(Digest, Vec<u8>)> {
        let documents = [self.config_bytes(), self.manifest_bytes()];
        let layers = self.layers.iter().map(|layer| layer.carried.clone());
        documents.into_iter().chain(layers).map(|bytes| (Digest::of(&bytes), bytes)).collect()
    }
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() })
}

pub(crate) fn index_of(entries: &[Value]) -> Value {
    json!({ "schemaVersion": 2, "mediaType": OCI_INDEX, "manifests": entries })
}

/// An archive of an image with this name.
pub(crate) fn archive_of(picture: &Picture, name: &str) -> Vec<u8> {
    let mut entry = picture.entry("linux", host_architecture());
    entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    let blobs = picture.blobs().into_iter();
    let blobs = blobs.map(|(digest, bytes)| Member::file(format!("blobs/sha256/{}", digest.hex()), bytes));
    let ends = [
        Member::file("oci-layout", r#"{"imageLayoutVersion":"1.0.0"}"#),
        Member::file("index.json", index_of(&[entry]).to_string()),
    ];
    tar_of(&blobs.chain(ends).collect::<Vec<_>>())
}

/// Bytes that do not compress, the same each time.
pub(crate) fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..length).map(|_| next()).collect()
}
