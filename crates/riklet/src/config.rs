//! The riklet's settings: flag, else environment, else file, else default. All are checked before anything is made.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;
use model::quantity::Memory;
use runtime::{
    microvm::{AcceleratorWish, MicrovmConfig, VmmWish},
    pod::{Allowed, RegistryConfig, limits::DEFAULT_MEMORY},
};
use serde::{Deserialize, Serialize};

/// Where the file is, unless another is given.
pub const DEFAULT_FILE: &str = "/etc/riklet/configuration.toml";
/// Where everything of this node is, unless another directory is given.
pub const DEFAULT_STATE_DIR: &str = "/var/lib/riklet";
/// Largest configuration file.
const MAX_FILE: u64 = 1 << 20;

/// The file. Keys that only had a meaning for the programs that RIK called in 2023 are accepted without effect.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct File {
    /// The scheduler, or several.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub master_ip: Option<Endpoints>,
    /// What is logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub log_level: Option<String>,
    /// Name of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Directory of everything of this node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub state_dir: Option<PathBuf>,
    /// Labels of the node.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Directories of the machine that volumes of instances may be below.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hostpath_allow: Vec<PathBuf>,
    /// Directory of seccomp profiles that containers may name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub seccomp_profiles: Option<PathBuf>,
    /// Whether containers may have no seccomp filter.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub seccomp_unconfined: bool,
    /// Whether containers may be privileged, and pods be in namespaces of the node.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub allow_privileged: bool,
    /// Memory limit of containers for which nobody says anything; 0 for none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub default_memory: Option<Memory>,
    /// Programs that make containers, the usual one first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub oci_runtime: Vec<String>,
    /// Hours for which logs of instances that are gone are kept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub keep_logs_hours: Option<u32>,
    /// Registries: mirrors, plain HTTP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub registries: Option<RegistryConfig>,
    /// Settings of the 2023 version's container runtime.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub runner: Option<toml::Table>,
    /// Settings of the 2023 version's image tools.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub manager: Option<toml::Table>,
}

/// One endpoint or several.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Endpoints {
    /// One, or several with commas between them.
    One(String),
    /// Several.
    Several(Vec<String>),
}

impl Endpoints {
    /// Each of them.
    #[must_use]
    pub fn list(&self) -> Vec<String> {
        let parts = match self {
            Self::One(text) => text.split(',').map(str::to_owned).collect(),
            Self::Several(all) => all.clone(),
        };
        parts.into_iter().map(|part| part.trim().to_owned()).filter(|part| !part.is_empty()).collect()
    }
}

/// The file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Reading.
    #[error("could not read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is larger than any configuration.
    #[error("{path} is larger than a configuration can be")]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// It is not what it should be.
    #[error("could not understand {path}: {fault}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Where and what.
        fault: String,
    },
}

/// Reads the file. One that does not exist is empty, unless somebody asked for it by name.
///
/// # Errors
/// It cannot be read or understood.
pub fn read(path: &Path, asked_for: bool) -> Result<File, ConfigError> {
    let error = |source| ConfigError::Read { path: path.to_owned(), source };
    match fs::metadata(path) {
        Ok(found) if found.len() > MAX_FILE => return Err(ConfigError::TooLarge { path: path.to_owned() }),
        Ok(_) => {}
        Err(missing) if missing.kind() == io::ErrorKind::NotFound && !asked_for => return Ok(File::default()),
        Err(other) => return Err(error(other)),
    }
    let text = fs::read_to_string(path).map_err(error)?;
    toml::from_str(&text).map_err(|fault| ConfigError::Parse {
        path: path.to_owned(),
        fault: fault.to_string().trim().replace('\n', " "),
    })
}

/// What the operator allows is given by whole paths.
///
/// # Errors
/// One is not whole.
pub fn check_allowed(allowed: Allowed) -> anyhow::Result<Allowed> {
    let torn =
        |path: &&PathBuf| !path.is_absolute() || path.components().any(|part| part.as_os_str() == "..");
    let host_paths = allowed.host_paths.iter().map(|path| ("--hostpath-allow", path));
    let profiles = allowed.seccomp_profiles.iter().map(|path| ("--seccomp-profiles", path));
    match host_paths.chain(profiles).find(|(_, path)| torn(path)) {
        Some((flag, path)) => {
            anyhow::bail!("{flag} {}: it has to be an absolute path without ..", path.display())
        }
        None => Ok(allowed),
    }
}

/// What the operator allows, for programs that have no flags for it.
///
/// # Errors
/// A path is not given whole.
pub fn allowed_of_environment() -> anyhow::Result<Allowed> {
    let text = |name| std::env::var_os(name).unwrap_or_default().to_string_lossy().into_owned();
    let paths = text("RIKLET_HOSTPATH_ALLOW");
    let paths = paths.split(',').filter(|path| !path.is_empty()).map(PathBuf::from);
    check_allowed(Allowed {
        host_paths: paths.collect(),
        seccomp_profiles: Some(text("RIKLET_SECCOMP_PROFILES"))
            .filter(|path| !path.is_empty())
            .map(PathBuf::from),
        seccomp_unconfined: text("RIKLET_SECCOMP_UNCONFINED") == "true",
        privileged: text("RIKLET_ALLOW_PRIVILEGED") == "true",
    })
}

/// The memory limit of containers for which nobody says anything, from what the operator says, which is 0 for none.
#[must_use]
pub fn default_memory(said: Option<Memory>) -> Option<Memory> {
    Some(said.unwrap_or(DEFAULT_MEMORY)).filter(|memory| memory.0 > 0)
}

/// The same for programs that have no flag for it.
///
/// # Errors
/// It is no quantity.
pub fn default_memory_of_environment() -> anyhow::Result<Option<Memory>> {
    let text = std::env::var_os("RIKLET_DEFAULT_MEMORY").unwrap_or_default();
    let text = text.to_string_lossy();
    let said = if text.is_empty() { None } else { Some(text.parse().context("RIKLET_DEFAULT_MEMORY")?) };
    Ok(default_memory(said))
}

/// The programs that make containers, for programs that have no flags for it.
#[must_use]
pub fn oci_runtimes_of_environment() -> Vec<String> {
    let text = std::env::var_os("RIKLET_OCI_RUNTIME").unwrap_or_default().to_string_lossy().into_owned();
    text.split(',').filter(|word| !word.is_empty()).map(str::to_owned).collect()
}

/// What the operator says about microVMs, for programs that have no flags for it.
///
/// # Errors
/// A value is not understood.
pub fn microvms_of_environment() -> anyhow::Result<MicrovmConfig> {
    let text = |name| std::env::var_os(name).unwrap_or_default().to_string_lossy().into_owned();
    let unfit = |name: &'static str| move |why: String| anyhow::anyhow!("{name}: {why}");
    let accelerator = match text("RIKLET_VM_ACCELERATOR").as_str() {
        "" => AcceleratorWish::Auto,
        other => other.parse().map_err(unfit("RIKLET_VM_ACCELERATOR"))?,
    };
    let path = |name| Some(PathBuf::from(text(name))).filter(|path| !path.as_os_str().is_empty());
    let vmm = match text("RIKLET_VMM").as_str() {
        "" => VmmWish::Auto,
        other => other.parse().map_err(unfit("RIKLET_VMM"))?,
    };
    Ok(MicrovmConfig {
        kernel: path("KERNEL_LOCATION"),
        vmm,
        firecracker: path("FIRECRACKER_LOCATION"),
        accelerator,
        allowed: text("RIKLET_ROOTFS_ALLOW").parse().map_err(unfit("RIKLET_ROOTFS_ALLOW"))?,
    })
}

/// So many hours.
#[must_use]
pub fn hours(count: u32) -> Duration {
    Duration::from_secs(u64::from(count) * 60 * 60)
}

/// Labels as `key=value,key=value`.
///
/// # Errors
/// A part has no `=` or an empty key.
pub fn labels(text: &str) -> Result<BTreeMap<String, String>, String> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    let pairs = parts.map(|part| match part.split_once('=') {
        Some((key, value)) if !key.trim().is_empty() => Ok((key.trim().to_owned(), value.trim().to_owned())),
        _ => Err(format!("{part:?} is no label; allowed is key=value, with commas between several")),
    });
    pairs.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_of_2023_is_still_a_file() {
        let text = r#"
            master_ip = "http://127.0.0.1:4995"
            log_level = "info"
            [runner]
            debug = false
            [manager.oci_manager]
            bundles_directory = "/var/lib/riklet/bundles"
            timeout = { secs = 30, nanos = 0 }
            [manager.image_puller]
            images_directory = "/var/lib/riklet/images"
        "#;
        let file: File = toml::from_str(text).unwrap();
        assert_eq!(file.master_ip.unwrap().list(), ["http://127.0.0.1:4995"]);
    }

    #[test]
    fn an_unknown_key_is_named() {
        let fault = toml::from_str::<File>("mastre_ip = \"x\"").unwrap_err().to_string();
        assert!(fault.contains("mastre_ip") && fault.contains("master_ip"), "{fault}");
    }

    #[test]
    fn labels_are_pairs() {
        assert_eq!(labels("a=1, b=2").unwrap().len(), 2);
        assert!(labels("a").is_err() && labels("=1").is_err());
    }
}
