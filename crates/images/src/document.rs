//! The JSON documents of an image: index, manifest, configuration. Parsed, checked against each other, bounded.
//!
//! What a registry or an archive says is data only: unknown fields are ignored, `urls` of layers are never followed,
//! labels and volumes are not even read. A document that can be understood in two ways is refused.

use std::collections::BTreeMap;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::limits::{BLOB_BYTES_MAX, CONFIG_BYTES_MAX, LAYERS_MAX, MANIFEST_BYTES_MAX, UNPACKED_BYTES_MAX};
use crate::{Digest, archive};

pub(crate) const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
pub(crate) const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
const CONFIG_TYPES: [&str; 2] =
    ["application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json"];
const LAYER_TYPE_STEMS: [&str; 4] = [
    "application/vnd.oci.image.layer.v1.tar",
    "application/vnd.oci.image.layer.nondistributable.v1.tar",
    "application/vnd.docker.image.rootfs.diff.tar",
    "application/vnd.docker.image.rootfs.foreign.diff.tar",
];

/// Platforms named in a message; an index may have thousands.
const OFFERS_MAX: usize = 16;
/// Letters of each.
const OFFER_CHARS_MAX: usize = 40;

/// What is wrong with an image's documents.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DocumentError {
    /// Not JSON, a field missing, of a wrong type, or twice.
    #[error("{document} is malformed: {reason}")]
    Malformed {
        /// Which document.
        document: &'static str,
        /// What the parser found.
        reason: String,
    },
    /// Bigger than any real one.
    #[error("{document} has {bytes} bytes; at most {max} are accepted")]
    TooLarge {
        /// Which document.
        document: &'static str,
        /// Its size.
        bytes: u64,
        /// The limit.
        max: u64,
    },
    /// It could be read as a manifest and as an index.
    #[error("document has both manifests and layers, so its meaning depends on the reader")]
    Ambiguous,
    /// Neither a manifest nor an index.
    #[error("document is neither an image manifest nor an image index")]
    Neither,
    /// The format that registries gave up in 2017.
    #[error("manifest has the old schema 1; push the image again with a current tool")]
    SchemaOne,
    /// The media type says something else than the content.
    #[error("document is {found} by its content, but {claimed:?} by its media type")]
    MediaType {
        /// What the content is.
        found: &'static str,
        /// What its media type says.
        claimed: String,
    },
    /// The manifest is not that of a container image.
    #[error("not a container image: its configuration has the type {0:?}")]
    NotAnImage(String),
    /// A layer is in a form that cannot be unpacked (encrypted, or no file tree).
    #[error("layer type {0:?} is not supported")]
    LayerType(String),
    /// An image without files cannot run.
    #[error("image has no layers")]
    NoLayers,
    /// Too many layers.
    #[error("image has {0} layers; at most {LAYERS_MAX} are accepted")]
    TooManyLayers(usize),
    /// A layer bigger than may be unpacked.
    #[error("layer {digest} claims {bytes} bytes; at most {BLOB_BYTES_MAX} are accepted")]
    LayerTooLarge {
        /// Which layer.
        digest: Digest,
        /// What is claimed.
        bytes: u64,
    },
    /// All layers together are bigger than may be unpacked.
    #[error("image unpacks to {0} bytes; at most {UNPACKED_BYTES_MAX} are accepted")]
    ImageTooLarge(u64),
    /// Manifest and configuration disagree.
    #[error("manifest lists {layers} layers, but the configuration {diff_ids}")]
    LayerCount {
        /// Layers in the manifest.
        layers: usize,
        /// Layers in the configuration.
        diff_ids: usize,
    },
    /// A text of the configuration has a NUL byte: no program could be given it.
    #[error("configuration has a NUL byte in {0}")]
    Nul(&'static str),
    /// Indexes within indexes without end.
    #[error("more than {0} documents lie between the name and the image")]
    TooDeep(usize),
    /// Nothing for this machine.
    #[error("no image for {wanted}; it offers {}", offers_text(.offers))]
    NoPlatform {
        /// This machine, such as `linux/amd64`.
        wanted: String,
        /// What there is instead.
        offers: Vec<String>,
    },
}

fn offers_text(offers: &[String]) -> String {
    match offers.len() {
        0 => "none at all".to_owned(),
        1..=OFFERS_MAX => offers.join(", "),
        more => format!("{} and {} more", offers[..OFFERS_MAX].join(", "), more - OFFERS_MAX),
    }
}

/// Points to a blob.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    #[serde(default)]
    pub(crate) media_type: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) platform: Option<Platform>,
    #[serde(default)]
    pub(crate) annotations: Option<BTreeMap<String, String>>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
pub(crate) struct Platform {
    #[serde(default)]
    os: String,
    #[serde(default)]
    architecture: String,
    #[serde(default)]
    variant: String,
}

/// A document that a name or digest leads to.
#[derive(Debug)]
pub(crate) enum Document {
    Index(Vec<Descriptor>),
    Manifest(Manifest),
}

#[derive(Debug, Deserialize)]
pub(crate) struct Manifest {
    pub(crate) config: Descriptor,
    pub(crate) layers: Vec<Descriptor>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct RawDocument {
    #[serde(default)]
    schema_version: Option<u64>,
    #[serde(default)]
    media_type: Option<String>,
    #[serde(default)]
    manifests: Option<Vec<Descriptor>>,
    #[serde(default)]
    config: Option<Descriptor>,
    #[serde(default)]
    layers: Option<Vec<Descriptor>>,
    #[serde(default)]
    fs_layers: Option<serde::de::IgnoredAny>,
}

impl Document {
    /// Reads a manifest or index. `claims` are the media types that its carriers gave it.
    pub(crate) fn parse(bytes: &[u8], claims: &[&str]) -> Result<Self, DocumentError> {
        check_size("manifest", bytes.len() as u64, MANIFEST_BYTES_MAX)?;
        let raw: RawDocument = parse_json("manifest", bytes)?;
        if raw.schema_version == Some(1) || raw.fs_layers.is_some() {
            return Err(DocumentError::SchemaOne);
        }
        let own = raw.media_type.as_deref();
        let claims: Vec<&str> = claims.iter().copied().chain(own).collect();
        match (raw.manifests, raw.layers, raw.config) {
            (Some(_), Some(_), _) => Err(DocumentError::Ambiguous),
            (Some(manifests), None, _) => {
                check_claims("an index", &claims, [OCI_MANIFEST, DOCKER_MANIFEST])?;
                Ok(Self::Index(manifests))
            }
            (None, Some(layers), Some(config)) => {
                check_claims("a manifest", &claims, [OCI_INDEX, DOCKER_LIST])?;
                let manifest = Manifest { config, layers };
                manifest.check()?;
                Ok(Self::Manifest(manifest))
            }
            (None, _, _) => Err(DocumentError::Neither),
        }
    }
}

/// A media type that means the other kind is a contradiction; unknown ones (`application/json`) say nothing.
fn check_claims(
    found: &'static str,
    claims: &[&str],
    contradictions: [&str; 2],
) -> Result<(), DocumentError> {
    let bare = |claim: &str| claim.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    match claims.iter().map(|claim| bare(claim)).find(|claim| contradictions.contains(&claim.as_str())) {
        Some(claimed) => Err(DocumentError::MediaType { found, claimed }),
        None => Ok(()),
    }
}

impl Manifest {
    fn check(&self) -> Result<(), DocumentError> {
        if !CONFIG_TYPES.contains(&self.config.media_type.as_str()) {
            return Err(DocumentError::NotAnImage(self.config.media_type.clone()));
        }
        check_size("configuration", self.config.size, CONFIG_BYTES_MAX)?;
        check_layer_count(self.layers.len())?;
        for layer in &self.layers {
            if !is_layer_type(&layer.media_type) {
                return Err(DocumentError::LayerType(layer.media_type.clone()));
            }
            if layer.size > BLOB_BYTES_MAX {
                return Err(DocumentError::LayerTooLarge { digest: layer.digest, bytes: layer.size });
            }
        }
        Ok(())
    }
}

pub(crate) fn check_layer_count(layers: usize) -> Result<(), DocumentError> {
    match layers {
        0 => Err(DocumentError::NoLayers),
        1..=LAYERS_MAX => Ok(()),
        more => Err(DocumentError::TooManyLayers(more)),
    }
}

pub(crate) fn check_size(document: &'static str, bytes: u64, max: u64) -> Result<(), DocumentError> {
    if bytes > max { Err(DocumentError::TooLarge { document, bytes, max }) } else { Ok(()) }
}

fn is_layer_type(media_type: &str) -> bool {
    LAYER_TYPE_STEMS.iter().any(|stem| {
        media_type
            .strip_prefix(stem)
            .is_some_and(|rest| matches!(rest, "" | "+gzip" | "+zstd" | ".gzip" | ".zstd"))
    })
}

pub(crate) fn parse_json<'a, T: Deserialize<'a>>(
    document: &'static str,
    bytes: &'a [u8],
) -> Result<T, DocumentError> {
    serde_json::from_slice(bytes)
        .map_err(|fault| DocumentError::Malformed { document, reason: fault.to_string() })
}

/// This machine as images call it.
pub(crate) fn host_platform() -> String {
    format!("linux/{}", archive::host_architecture())
}

impl Platform {
    /// Whether this machine runs it: the architecture's base variant or an unnamed one.
    fn fits(&self) -> bool {
        let base = match self.architecture.as_str() {
            "amd64" => "v1",
            "arm64" => "v8",
            _ => "",
        };
        self.os == "linux"
            && self.architecture == archive::host_architecture()
            && (self.variant.is_empty() || self.variant == base)
    }

    fn is_known(&self) -> bool {
        !matches!(self.os.as_str(), "" | "unknown") && !matches!(self.architecture.as_str(), "" | "unknown")
    }

    /// For a message; the texts are not ours, so they are kept harmless and short.
    fn text(&self) -> String {
        let text = match self.variant.as_str() {
            "" => format!("{}/{}", self.os, self.architecture),
            variant => format!("{}/{}/{variant}", self.os, self.architecture),
        };
        text.escape_debug().take(OFFER_CHARS_MAX).collect()
    }
}

/// The entry of an index for this machine. One lonely entry without a platform is taken: its configuration will tell.
pub(crate) fn select(entries: &[Descriptor]) -> Result<&Descriptor, DocumentError> {
    if let Some(fit) = entries.iter().find(|entry| entry.platform.as_ref().is_some_and(Platform::fits)) {
        return Ok(fit);
    }
    match entries {
        [only] if only.platform.as_ref().is_none_or(|platform| *platform == Platform::default()) => Ok(only),
        _ => Err(DocumentError::NoPlatform {
            wanted: host_platform(),
            offers: entries
                .iter()
                .filter_map(|entry| entry.platform.as_ref())
                .filter(|platform| platform.is_known())
                .map(Platform::text)
                .collect(),
        }),
    }
}

/// What an image says about running it. All of it is data: nothing here names anything on the host.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[non_exhaustive]
pub struct ImageConfig {
    /// What a container starts.
    pub entrypoint: Vec<String>,
    /// Arguments behind `entrypoint`, or the program if that is empty.
    pub cmd: Vec<String>,
    /// Environment, in order. An entry without `=` has an empty value.
    pub env: Vec<(String, String)>,
    /// Where programs start; empty is `/`.
    pub working_dir: String,
    /// User and group as written: names or numbers, `user[:group]`; empty is root.
    pub user: String,
    /// Signal that asks the program to end, by name or number; empty is `SIGTERM`.
    pub stop_signal: String,
    /// Ports that the image listens on, as written: `8080/tcp`.
    pub exposed_ports: Vec<String>,
}

/// The parts of a configuration that a pull needs.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) run: ImageConfig,
    pub(crate) diff_ids: Vec<Digest>,
    pub(crate) created: Option<Timestamp>,
}

#[derive(Deserialize)]
struct RawConfig {
    #[serde(flatten)]
    platform: Platform,
    #[serde(default)]
    created: Option<String>,
    #[serde(default)]
    config: Option<RawRun>,
    rootfs: RawRootfs,
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "PascalCase", default)]
struct RawRun {
    entrypoint: Option<Vec<String>>,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: Option<String>,
    user: Option<String>,
    stop_signal: Option<String>,
    exposed_ports: Option<BTreeMap<String, serde::de::IgnoredAny>>,
}

#[derive(Deserialize)]
struct RawRootfs {
    diff_ids: Vec<Digest>,
}

impl Config {
    /// Reads a configuration; refuses one that is for another platform.
    pub(crate) fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        check_size("configuration", bytes.len() as u64, CONFIG_BYTES_MAX)?;
        let raw: RawConfig = parse_json("configuration", bytes)?;
        if raw.platform.is_known() && !raw.platform.fits() {
            return Err(DocumentError::NoPlatform {
                wanted: host_platform(),
                offers: vec![raw.platform.text()],
            });
        }
        let run = raw.config.unwrap_or_default();
        let run = ImageConfig {
            entrypoint: run.entrypoint.unwrap_or_default(),
            cmd: run.cmd.unwrap_or_default(),
            env: run.env.unwrap_or_default().into_iter().map(split_env).collect(),
            working_dir: run.working_dir.unwrap_or_default(),
            user: run.user.unwrap_or_default(),
            stop_signal: run.stop_signal.unwrap_or_default(),
            exposed_ports: run.exposed_ports.unwrap_or_default().into_keys().collect(),
        };
        run.check()?;
        Ok(Self {
            run,
            diff_ids: raw.rootfs.diff_ids,
            created: raw.created.and_then(|text| text.parse().ok()),
        })
    }

    /// The diffID of each of `layers` layers.
    pub(crate) fn check_layers(&self, layers: usize) -> Result<(), DocumentError> {
        if layers == self.diff_ids.len() {
            Ok(())
        } else {
            Err(DocumentError::LayerCount { layers, diff_ids: self.diff_ids.len() })
        }
    }
}

impl ImageConfig {
    fn check(&self) -> Result<(), DocumentError> {
        let has_nul = |text: &String| text.contains('\0');
        let faults = [
            ("Entrypoint", self.entrypoint.iter().any(has_nul)),
            ("Cmd", self.cmd.iter().any(has_nul)),
            ("Env", self.env.iter().any(|(key, value)| has_nul(key) || has_nul(value))),
            ("WorkingDir", has_nul(&self.working_dir)),
            ("User", has_nul(&self.user)),
            ("StopSignal", has_nul(&self.stop_signal)),
        ];
        match faults.iter().find(|(_, faulty)| *faulty) {
            Some((field, _)) => Err(DocumentError::Nul(field)),
            None => Ok(()),
        }
    }
}

fn split_env(entry: String) -> (String, String) {
    match entry.split_once('=') {
        Some((key, value)) => (key.to_owned(), value.to_owned()),
        None => (entry, String::new()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn blob(media_type: &str, size: i128) -> serde_json::Value {
        let size: serde_json::Number = size.to_string().parse().unwrap();
        json!({ "mediaType": media_type, "digest": Digest::of(b"x"), "size": size })
    }

    fn manifest(layers: Vec<serde_json::Value>) -> serde_json::Value {
        json!({ "schemaVersion": 2, "config": blob(CONFIG_TYPES[0], 5), "layers": layers })
    }

    fn fault(document: &serde_json::Value, claim: Option<&str>) -> String {
        let claims: Vec<&str> = claim.into_iter().collect();
        Document::parse(&serde_json::to_vec(document).unwrap(), &claims).unwrap_err().to_string()
    }

    #[test]
    fn a_hostile_manifest_is_refused_with_its_reason() {
        let layer = || blob("application/vnd.oci.image.layer.v1.tar+gzip", 5);
        let mut both = manifest(vec![layer()]);
        both["manifests"] = json!([]);
        let mut index_type = manifest(vec![layer()]);
        index_type["mediaType"] = json!(OCI_INDEX);
        let mut artifact = manifest(vec![layer()]);
        artifact["config"] = blob("application/vnd.cncf.helm.config.v1+json", 5);
        let mut big_config = manifest(vec![layer()]);
        big_config["config"] = blob(CONFIG_TYPES[1], 100 << 20);
        let mut padded = manifest(vec![layer()]);
        padded["annotations"] = json!({ "pad": "x".repeat(4 << 20) });
        let cases = [
            (both, None, "both manifests and layers"),
            (index_type, None, "is a manifest by its content"),
            (manifest(vec![layer()]), Some(DOCKER_LIST), "is a manifest by its content"),
            (json!({ "manifests": [] }), Some(OCI_MANIFEST), "is an index by its content"),
            (json!({ "schemaVersion": 1, "fsLayers": [] }), None, "schema 1"),
            (json!({}), None, "neither"),
            (json!({ "layers": [] }), None, "neither"),
            (json!("text"), None, "malformed"),
            (artifact, None, "not a container image"),
            (big_config, None, "configuration has 104857600 bytes"),
            (padded, None, "manifest has"),
            (manifest(vec![]), None, "no layers"),
            (manifest(vec![layer(); 129]), None, "129 layers"),
            (
                manifest(vec![blob("application/vnd.oci.image.layer.v1.tar+gzip+encrypted", 5)]),
                None,
                "encrypted",
            ),
            (manifest(vec![blob("application/vnd.oci.image.layer.v1.tar", -1)]), None, "malformed"),
            (
                manifest(vec![blob("application/vnd.oci.image.layer.v1.tar", 1 << 63)]),
                None,
                "9223372036854775808",
            ),
        ];
        for (document, content_type, reason) in cases {
            let fault = fault(&document, content_type);
            assert!(fault.contains(reason), "{reason}: {fault}");
        }
    }

    #[test]
    fn a_field_given_twice_is_malformed() {
        let text = br#"{"manifests": [], "manifests": []}"#;
        assert!(matches!(Document::parse(text, &[]), Err(DocumentError::Malformed { .. })));
    }

    #[test]
    fn this_platform_is_selected_and_others_are_named() {
        let entry = |os: &str, architecture: &str, variant: &str| {
            let mut entry = blob(OCI_MANIFEST, 5);
            entry["platform"] = json!({ "os": os, "architecture": architecture, "variant": variant });
            serde_json::from_value::<Descriptor>(entry).unwrap()
        };
        let here = archive::host_architecture();
        let entries = [
            entry("windows", here, ""),
            entry("unknown", "unknown", ""),
            entry("linux", here, "v9"),
            entry("linux", here, ""),
        ];
        assert!(std::ptr::eq(select(&entries).unwrap(), &entries[3]));
        let fault = select(&entries[..3]).unwrap_err().to_string();
        assert_eq!(fault, format!("no image for linux/{here}; it offers windows/{here}, linux/{here}/v9"));
        assert!(select(&[]).unwrap_err().to_string().ends_with("it offers none at all"));
    }

    #[test]
    fn a_configuration_is_read_as_data() {
        let text = json!({
            "os": "linux", "architecture": archive::host_architecture(), "created": null,
            "config": {
                "Entrypoint": null, "Cmd": ["/proc/self/fd/8"], "Env": ["A=1=2", "B", "=x"],
                "WorkingDir": "../../..", "User": "4294967296", "StopSignal": "SIGNONSENSE",
                "ExposedPorts": { "80/tcp": {}, "../../etc": {} }, "Labels": { "x": "binary:///bin/sh" },
                "Volumes": { "/../../etc": {} }
            },
            "rootfs": { "type": "layers", "diff_ids": [Digest::of(b"a")] }
        });
        let config = Config::parse(&serde_json::to_vec(&text).unwrap()).unwrap();
        let pair = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        assert_eq!(config.run.env, [pair("A", "1=2"), pair("B", ""), pair("", "x")]);
        assert_eq!(config.run.exposed_ports, ["../../etc", "80/tcp"]);
        assert_eq!(config.run.working_dir, "../../..");
        assert!(config.check_layers(1).is_ok());
        let fault = config.check_layers(2).unwrap_err().to_string();
        assert_eq!(fault, "manifest lists 2 layers, but the configuration 1");
    }

    #[test]
    fn a_configuration_for_another_machine_or_with_nul_bytes_is_refused() {
        let foreign = br#"{"os":"linux","architecture":"s390x","rootfs":{"diff_ids":[]}}"#;
        assert!(Config::parse(foreign).unwrap_err().to_string().ends_with("it offers linux/s390x"));
        let nul = br#"{"config":{"Cmd":["a\u0000b"]},"rootfs":{"diff_ids":[]}}"#;
        assert_eq!(Config::parse(nul).unwrap_err(), DocumentError::Nul("Cmd"));
    }
}
