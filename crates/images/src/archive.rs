//! Packs files into an OCI image archive: one tar file that [`crate::ImageStore::load`] and other tools read.
//!
//! A plain value goes in ([`PackSpec`]), the bytes of an OCI image layout come out. The same value gives the same
//! bytes: files are sorted by path, times and owners are zero, and nothing comes from the machine.
//!
//! *Not here*: layers with history, several platforms, signatures. It packs one static program for the demo and the
//! images of tests.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Write};

use flate2::Compression;
use flate2::write::GzEncoder;
use serde_json::json;

use crate::Digest;

/// Media type of a manifest for one platform.
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an image's configuration.
const CONFIG_TYPE: &str = "application/vnd.oci.image.config.v1+json";
/// Media type of a gzip layer.
const LAYER_TYPE: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
/// Annotations that carry an image's name in an archive: the standard one, and the one that container engines prefer.
pub(crate) const NAME_ANNOTATIONS: [&str; 2] =
    ["org.opencontainers.image.ref.name", "io.containerd.image.name"];

/// One regular file of an image.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PackFile {
    /// Where it stands in the image: `/bin/hello` or `bin/hello`. Missing directories are made (0755).
    pub path: String,
    /// Permission bits, such as `0o755`.
    pub mode: u32,
    /// What it holds.
    pub bytes: Vec<u8>,
}

/// What [`pack`] makes an image of.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PackSpec {
    /// The image's name and tag, such as `hello:1`.
    pub reference: String,
    /// Its files, in any order; all go into one layer.
    pub files: Vec<PackFile>,
    /// What a container starts.
    pub entrypoint: Vec<String>,
    /// Arguments behind `entrypoint`, or the program if that is empty.
    pub cmd: Vec<String>,
    /// Environment, in order.
    pub env: Vec<(String, String)>,
    /// User by name or number; empty is root.
    pub user: String,
    /// Working directory; empty is `/`.
    pub working_dir: String,
    /// Ports that the image listens on, such as `8080/tcp`.
    pub exposed_ports: Vec<String>,
    /// Architecture by OCI's name (`amd64`, `arm64`); empty is this machine's.
    pub architecture: String,
}

/// This machine's architecture by OCI's name.
pub fn host_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// Writes an OCI image archive for `spec` to `out` and gives the digest of its manifest.
///
/// # Errors
/// A path that leaves the image or occurs twice (`InvalidInput`), or a fault of `out`.
pub fn pack(spec: &PackSpec, out: impl Write) -> io::Result<Digest> {
    let layer = layer_tar(&spec.files)?;
    let diff_id = Digest::of(&layer);
    let layer = gzip(&layer)?;
    let config = serde_json::to_vec(&config_document(spec, &[diff_id]))?;
    let manifest = serde_json::to_vec(&json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": descriptor(CONFIG_TYPE, &config),
        "layers": [descriptor(LAYER_TYPE, &layer)],
    }))?;
    let mut entry = descriptor(MANIFEST_TYPE, &manifest);
    entry["annotations"] = NAME_ANNOTATIONS.iter().map(|key| (*key, spec.reference.as_str())).collect();
    let index = serde_json::to_vec(&json!({ "schemaVersion": 2, "manifests": [entry] }))?;

    let mut archive = tar::Builder::new(out);
    append(&mut archive, "oci-layout", 0o644, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    append(&mut archive, "index.json", 0o644, &index)?;
    for blob in [&manifest, &config, &layer] {
        append(&mut archive, &format!("blobs/sha256/{}", Digest::of(blob).hex()), 0o644, blob)?;
    }
    archive.into_inner()?.flush()?;
    Ok(Digest::of(&manifest))
}

/// An image's configuration as the OCI image specification writes it.
fn config_document(spec: &PackSpec, diff_ids: &[Digest]) -> serde_json::Value {
    let architecture = match spec.architecture.as_str() {
        "" => host_architecture(),
        given => given,
    };
    let mut config = serde_json::Map::new();
    for (key, list) in [("Entrypoint", &spec.entrypoint), ("Cmd", &spec.cmd)] {
        if !list.is_empty() {
            config.insert(key.to_owned(), json!(list));
        }
    }
    if !spec.env.is_empty() {
        let env: Vec<String> = spec.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        config.insert("Env".to_owned(), json!(env));
    }
    for (key, text) in [("User", &spec.user), ("WorkingDir", &spec.working_dir)] {
        if !text.is_empty() {
            config.insert(key.to_owned(), json!(text));
        }
    }
    if !spec.exposed_ports.is_empty() {
        let ports: BTreeMap<&str, _> =
            spec.exposed_ports.iter().map(|port| (port.as_str(), json!({}))).collect();
        config.insert("ExposedPorts".to_owned(), json!(ports));
    }
    json!({
        "architecture": architecture,
        "os": "linux",
        "config": config,
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    })
}

pub(crate) fn descriptor(media_type: &str, bytes: &[u8]) -> serde_json::Value {
    json!({ "mediaType": media_type, "digest": Digest::of(bytes), "size": bytes.len() })
}

fn gzip(bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut encoder = GzEncoder::new(Vec::new(), Compression::default());
    encoder.write_all(bytes)?;
    encoder.finish()
}

/// One layer: every directory on the way to a file first, then the files by path.
fn layer_tar(files: &[PackFile]) -> io::Result<Vec<u8>> {
    let mut sorted = BTreeMap::new();
    let mut directories = BTreeSet::new();
    for file in files {
        let path = image_path(&file.path)?;
        for (at, _) in path.match_indices('/') {
            directories.insert(path[..at].to_owned());
        }
        if sorted.insert(path, file).is_some() {
            return Err(invalid(format!("{} occurs twice", file.path)));
        }
    }
    if let Some(path) = sorted.keys().find(|path| directories.contains(*path)) {
        return Err(invalid(format!("{path} is a file and a directory")));
    }
    let mut archive = tar::Builder::new(Vec::new());
    for directory in &directories {
        let mut header = header(0o755, 0);
        header.set_entry_type(tar::EntryType::Directory);
        archive.append_data(&mut header, format!("{directory}/"), io::empty())?;
    }
    for (path, file) in &sorted {
        append(&mut archive, path, file.mode, &file.bytes)?;
    }
    archive.into_inner()
}

pub(crate) fn append(
    archive: &mut tar::Builder<impl Write>,
    path: &str,
    mode: u32,
    bytes: &[u8],
) -> io::Result<()> {
    archive.append_data(&mut header(mode, bytes.len() as u64), path, bytes)
}

fn header(mode: u32, size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_mode(mode & 0o7777);
    header.set_size(size);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header
}

/// `path` without its leading slash; refused if it is empty or leaves the image.
fn image_path(path: &str) -> io::Result<String> {
    let inner = path.trim_start_matches('/');
    if inner.is_empty() || inner.split('/').any(|part| matches!(part, "" | "." | "..")) {
        return Err(invalid(format!("{path:?} is not the path of a file in an image")));
    }
    Ok(inner.to_owned())
}

fn invalid(reason: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, reason)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;

    fn spec() -> PackSpec {
        PackSpec {
            reference: "hello:1".to_owned(),
            files: vec![
                PackFile { path: "/srv/www/index.html".to_owned(), mode: 0o644, bytes: b"hi".to_vec() },
                PackFile { path: "bin/hello".to_owned(), mode: 0o755, bytes: vec![7; 3000] },
            ],
            entrypoint: vec!["/bin/hello".to_owned()],
            env: vec![("PORT".to_owned(), "8080".to_owned())],
            exposed_ports: vec!["8080/tcp".to_owned()],
            ..PackSpec::default()
        }
    }

    #[test]
    fn packing_twice_gives_the_same_bytes_whatever_the_order_of_the_files() {
        let (mut one, mut other) = (Vec::new(), Vec::new());
        let mut reversed = spec();
        reversed.files.reverse();
        let digest = pack(&spec(), &mut one).unwrap();
        assert_eq!(digest, pack(&reversed, &mut other).unwrap());
        assert_eq!(one, other);
    }

    #[test]
    fn an_archive_holds_every_blob_under_its_digest() {
        let mut bytes = Vec::new();
        let digest = pack(&spec(), &mut bytes).unwrap();
        let mut names = Vec::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let name = entry.path().unwrap().to_string_lossy().into_owned();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            if let Some(hex) = name.strip_prefix("blobs/sha256/") {
                assert_eq!(hex, Digest::of(&content).hex());
            }
            names.push(name);
        }
        assert_eq!(names[..2], ["oci-layout", "index.json"]);
        assert!(names.contains(&format!("blobs/sha256/{}", digest.hex())));
        assert_eq!(names.len(), 5);
    }

    #[test]
    fn a_layer_names_the_directories_before_their_files() {
        let layer = layer_tar(&spec().files).unwrap();
        let names: Vec<_> = tar::Archive::new(layer.as_slice())
            .entries()
            .unwrap()
            .map(|entry| entry.unwrap().path().unwrap().to_string_lossy().into_owned())
            .collect();
        assert_eq!(names, ["bin/", "srv/", "srv/www/", "bin/hello", "srv/www/index.html"]);
    }

    #[test]
    fn a_path_outside_of_the_image_is_refused() {
        for path in ["", "/", "../x", "a/../../x", "a//b", "./x"] {
            let files = [PackFile { path: path.to_owned(), mode: 0o644, bytes: Vec::new() }];
            assert_eq!(layer_tar(&files).unwrap_err().kind(), io::ErrorKind::InvalidInput, "{path:?}");
        }
    }
}
