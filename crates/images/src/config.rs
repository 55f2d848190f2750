//! How registries are reached: mirrors, plain HTTP, time limits. Held by the node agent's configuration file.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Reference;
use crate::reference::{ReferenceFault, check_registry, host_of, is_loopback};

/// Where the registry called `docker.io` answers.
const DOCKER_ENDPOINT: &str = "registry-1.docker.io";
/// Token services of well-known registries that are on another host.
const TOKEN_HOSTS: [(&str, &str); 2] =
    [("docker.io", "auth.docker.io"), ("registry.gitlab.com", "gitlab.com")];
/// Mirrors of one registry: each costs a whole round of tries before the next.
const MIRRORS_MAX: usize = 8;

/// How registries are reached. Everything has a default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RegistryConfig {
    /// Hosts that are asked before a registry itself, in order: `"docker.io" = ["127.0.0.1:5001"]`.
    pub mirrors: BTreeMap<String, Vec<String>>,
    /// Registries reached by plain HTTP: `host:port`, or `host` for every port. This machine (`localhost`, 127.0.0.0/8,
    /// ::1) always is; all others need HTTPS.
    pub insecure: Vec<String>,
    /// File with logins, as docker's `config.json`; read at each pull.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logins: Option<PathBuf>,
    /// Hosts of token services that are told a registry's logins, beside its own host:
    /// `"registry.example" = ["auth.example"]`.
    pub token_hosts: BTreeMap<String, Vec<String>>,
    /// Files with certificates, in PEM, of authorities that registries may have beside those that this machine trusts.
    pub authorities: Vec<PathBuf>,
    /// Seconds until a registry must have taken a connection.
    pub connect_timeout_seconds: u64,
    /// Seconds that a registry may be silent within an answer.
    pub idle_timeout_seconds: u64,
    /// Seconds that one pull may last with all its tries.
    pub pull_deadline_seconds: u64,
}

/// A registry configuration that cannot work.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigError {
    /// A host in the configuration is not one.
    #[error("{key}: {fault}")]
    Host {
        /// Which key holds it.
        key: &'static str,
        /// What is wrong.
        fault: ReferenceFault,
    },
    /// A time limit of zero would fail every pull.
    #[error("{key} must be at least 1")]
    Zero {
        /// Which key.
        key: &'static str,
    },
    /// A registry has too many mirrors.
    #[error("mirrors: {registry:?} has more than {MIRRORS_MAX}")]
    TooManyMirrors {
        /// Which registry.
        registry: String,
    },
}

/// One host that can serve an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Endpoint {
    /// Host and optional port, as people know the registry.
    pub(crate) name: String,
    /// `http` or `https`, and the host that is really asked.
    pub(crate) base: String,
    /// Whether the registry is reached without TLS.
    pub(crate) plain: bool,
    /// Whether it is this machine.
    pub(crate) loopback: bool,
}

impl Endpoint {
    /// The host that is really asked.
    fn host(&self) -> &str {
        self.base.split_once("://").map_or("", |(_, host)| host)
    }
}

impl Default for RegistryConfig {
    fn default() -> Self {
        Self {
            mirrors: BTreeMap::new(),
            insecure: Vec::new(),
            logins: None,
            token_hosts: BTreeMap::new(),
            authorities: Vec::new(),
            connect_timeout_seconds: 10,
            idle_timeout_seconds: 30,
            pull_deadline_seconds: 1800,
        }
    }
}

impl RegistryConfig {
    /// Checks every value.
    ///
    /// # Errors
    /// The first fault found, with its key.
    pub fn check(&self) -> Result<(), ConfigError> {
        let host = |key, text: &String| {
            check_registry(text).map(drop).map_err(|fault| ConfigError::Host { key, fault })
        };
        for (registry, mirrors) in &self.mirrors {
            host("mirrors", registry)?;
            mirrors.iter().try_for_each(|mirror| host("mirrors", mirror))?;
            if mirrors.len() > MIRRORS_MAX {
                return Err(ConfigError::TooManyMirrors { registry: registry.clone() });
            }
        }
        for (registry, hosts) in &self.token_hosts {
            host("token_hosts", registry)?;
            hosts.iter().try_for_each(|listed| host("token_hosts", listed))?;
        }
        self.insecure.iter().try_for_each(|registry| host("insecure", registry))?;
        for (key, seconds) in [
            ("connect_timeout_seconds", self.connect_timeout_seconds),
            ("idle_timeout_seconds", self.idle_timeout_seconds),
            ("pull_deadline_seconds", self.pull_deadline_seconds),
        ] {
            if seconds == 0 {
                return Err(ConfigError::Zero { key });
            }
        }
        Ok(())
    }

    pub(crate) fn pull_deadline(&self) -> Duration {
        Duration::from_secs(self.pull_deadline_seconds)
    }

    /// The hosts that can serve `reference`, in the order in which they are asked: mirrors, then the registry.
    pub(crate) fn endpoints(&self, reference: &Reference) -> Vec<Endpoint> {
        let here = |(key, _): &(&String, _)| check_registry(key).is_ok_and(|key| key == reference.registry());
        let mirrors = self.mirrors.iter().find(here).map(|(_, mirrors)| mirrors);
        let mirrors = mirrors.into_iter().flatten();
        mirrors.map(String::as_str).chain([reference.registry()]).map(|host| self.endpoint(host)).collect()
    }

    /// Whether the token service `host` may be told a login for the registry `endpoint`.
    pub(crate) fn may_tell(&self, endpoint: &Endpoint, host: &str) -> bool {
        let own = [endpoint.name.as_str(), endpoint.host()];
        let listed = self.token_hosts.get(&endpoint.name).into_iter().flatten().map(String::as_str);
        let known =
            TOKEN_HOSTS.iter().filter(|(registry, _)| *registry == endpoint.name).map(|(_, host)| *host);
        own.into_iter()
            .chain(listed)
            .chain(known)
            .any(|told| host_of(told).eq_ignore_ascii_case(host_of(host)))
    }

    fn endpoint(&self, host: &str) -> Endpoint {
        let loopback = is_loopback(host);
        let same =
            |listed: &str| listed.eq_ignore_ascii_case(host) || listed.eq_ignore_ascii_case(host_of(host));
        let listed = self.insecure.iter().any(|listed| same(listed));
        let plain = loopback || listed;
        let scheme = if plain { "http" } else { "https" };
        let asked = if host == "docker.io" { DOCKER_ENDPOINT } else { host };
        Endpoint { name: host.to_owned(), base: format!("{scheme}://{asked}"), plain, loopback }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bases(config: &RegistryConfig, name: &str) -> Vec<String> {
        config.endpoints(&name.parse().unwrap()).into_iter().map(|endpoint| endpoint.base).collect()
    }

    #[test]
    fn only_loopback_and_listed_registries_are_plain() {
        let config = RegistryConfig {
            insecure: vec!["lab.example:5000".to_owned(), "10.0.0.9".to_owned(), "Upper.Example".to_owned()],
            ..RegistryConfig::default()
        };
        for (name, base) in [
            ("localhost:5000/a", "http://localhost:5000"),
            ("127.0.0.7:5000/a", "http://127.0.0.7:5000"),
            ("[::1]:5000/a", "http://[::1]:5000"),
            ("lab.example:5000/a", "http://lab.example:5000"),
            ("lab.example:5001/a", "https://lab.example:5001"),
            ("10.0.0.9:1234/a", "http://10.0.0.9:1234"),
            ("alpine", "https://registry-1.docker.io"),
            ("upper.example/a", "http://upper.example"),
            ("128.0.0.1/a", "https://128.0.0.1"),
        ] {
            assert_eq!(bases(&config, name), [base], "{name}");
        }
    }

    #[test]
    fn mirrors_are_asked_before_the_registry() {
        let config: RegistryConfig =
            toml::from_str(r#"mirrors = { "Index.docker.io" = ["127.0.0.1:5001", "mirror.example"] }"#)
                .unwrap();
        config.check().unwrap();
        assert_eq!(
            bases(&config, "alpine"),
            ["http://127.0.0.1:5001", "https://mirror.example", "https://registry-1.docker.io"]
        );
    }

    #[test]
    fn unknown_keys_and_useless_values_are_refused() {
        assert!(toml::from_str::<RegistryConfig>("mirror = {}").is_err());
        let faulty = [
            (r#"insecure = ["http://x"]"#, "insecure"),
            (r#"mirrors = { "Index.docker.io" = ["x y:z"] }"#, "mirrors"),
            ("idle_timeout_seconds = 0", "idle_timeout_seconds must be at least 1"),
        ];
        for (text, reason) in faulty {
            let config: RegistryConfig = toml::from_str(text).unwrap();
            let fault = config.check().unwrap_err().to_string();
            assert!(fault.contains(reason), "{text}: {fault}");
        }
    }
}
