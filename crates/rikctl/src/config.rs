//! Which cluster to talk to.
//!
//! ```text
//! built in  <  ~/.rik/config.yaml  <  RIK_CLUSTER_NAME, RIK_CLUSTER_SERVER  <  file in RIKCONFIG  <  --server
//! ```
//! A later source wins, key by key. The file at home is written with the defaults when nothing at all configures
//! rikctl, and is read only if the later sources leave something open.
//!
//! *Guarantee*: a file that cannot be understood is an error with its line, and never taken for its defaults.

use std::{
    fmt, fs,
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use ureq::http::Uri;

use crate::failure::{Failure, Report, plain};

/// Name of the cluster if nothing says otherwise.
const DEFAULT_NAME: &str = "rik.local";
/// Address of the controller if nothing says otherwise.
const DEFAULT_SERVER: &str = "http://127.0.0.1:5000";
/// Largest configuration that is read: it holds two short keys.
const MAX_CONFIG_BYTES: u64 = 64 << 10;

/// The cluster that commands go to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cluster {
    /// Its name, for messages only.
    pub(crate) name: String,
    /// Address of its controller, without a slash at the end.
    pub(crate) server: String,
    /// What said so.
    pub(crate) origin: Origin,
}

/// Where the address of the controller comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The flag.
    Flag,
    /// The file that `RIKCONFIG` names.
    Named(PathBuf),
    /// The environment.
    Environment,
    /// The file at home.
    Home(PathBuf),
    /// Nothing.
    BuiltIn,
}

impl fmt::Display for Origin {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Flag => out.write_str("--server"),
            Self::Named(path) => write!(out, "RIKCONFIG, {}", path.display()),
            Self::Environment => out.write_str("RIK_CLUSTER_SERVER"),
            Self::Home(path) => write!(out, "{}", path.display()),
            Self::BuiltIn => out.write_str("the built-in default"),
        }
    }
}

/// The parts of the environment that configure rikctl. An empty variable counts as none.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    pub(crate) home: Option<PathBuf>,
    pub(crate) config: Option<PathBuf>,
    pub(crate) name: Option<String>,
    pub(crate) server: Option<String>,
}

impl Environment {
    /// The environment of this process.
    pub(crate) fn of_process() -> Self {
        let path = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
        let text = |name| std::env::var(name).ok().filter(|value| !value.is_empty());
        Self {
            home: path("HOME"),
            config: path("RIKCONFIG"),
            name: text("RIK_CLUSTER_NAME"),
            server: text("RIK_CLUSTER_SERVER"),
        }
    }
}

/// What stands in a file.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ConfigFile {
    cluster: ClusterSection,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct ClusterSection {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    server: Option<String>,
}

/// Why the cluster is not known.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConfigError {
    /// The file is not there or cannot be read.
    #[error("the configuration {path} cannot be read")]
    Read { path: PathBuf, source: io::Error },
    /// The file is far too large.
    #[error("the configuration {path} is larger than {MAX_CONFIG_BYTES} bytes")]
    TooLarge { path: PathBuf },
    /// The file is not what it should be.
    #[error("the configuration {path} is broken: {place}{message}")]
    Parse { path: PathBuf, place: String, message: String },
    /// The address cannot be one.
    #[error("{server:?} is not the address of a controller: {problem}")]
    Server { server: String, problem: &'static str, origin: Origin },
}

impl From<ConfigError> for Failure {
    fn from(error: ConfigError) -> Self {
        let message = match &error {
            ConfigError::Read { source, .. } => format!("{error}: {}", plain(source)),
            ConfigError::TooLarge { .. } | ConfigError::Parse { .. } | ConfigError::Server { .. } => {
                error.to_string()
            }
        };
        let report = Report::new(message);
        let example =
            r#"it should look like {"cluster": {"name": "default", "server": "http://127.0.0.1:5000"}}"#;
        match error {
            ConfigError::Read { .. } => {
                report.hint("correct RIKCONFIG, or unset it to use ~/.rik/config.yaml")
            }
            ConfigError::TooLarge { .. } | ConfigError::Parse { .. } => report.hint(example),
            ConfigError::Server { origin, .. } => {
                report.details([format!("it comes from {origin}")]).hint("write it as http://HOST:5000")
            }
        }
        .into()
    }
}

/// The cluster, and a warning if the file at home could not be written.
///
/// # Errors
/// A source that is broken.
pub(crate) fn cluster(
    flag: Option<&str>,
    environment: &Environment,
) -> Result<(Cluster, Option<String>), ConfigError> {
    let mut warning = None;
    let named = environment
        .config
        .as_deref()
        .map(|path| read(path).map(|file| (path.to_owned(), file)))
        .transpose()?;
    let (named_path, named) =
        named.map_or((None, ClusterSection::default()), |(path, file)| (Some(path), file));

    let mut name = named.name.or_else(|| environment.name.clone());
    let mut server = match (flag, named.server, named_path) {
        (Some(flag), _, _) => Some((flag.to_owned(), Origin::Flag)),
        (None, Some(server), Some(path)) => Some((server, Origin::Named(path))),
        _ => environment.server.clone().map(|server| (server, Origin::Environment)),
    };
    if let Some(home) = &environment.home
        && (name.is_none() || server.is_none())
    {
        let path = home.join(".rik").join("config.yaml");
        let unconfigured = name.is_none() && server.is_none() && environment.config.is_none();
        match read(&path) {
            Ok(file) => {
                name = name.or(file.name);
                server = server.or_else(|| file.server.map(|server| (server, Origin::Home(path))));
            }
            Err(ConfigError::Read { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
                if unconfigured && let Err(error) = write_defaults(&path) {
                    warning = Some(format!("the defaults cannot be written to {}: {error}", path.display()));
                }
            }
            Err(error) => return Err(error),
        }
    }
    let (server, origin) = server.unwrap_or_else(|| (DEFAULT_SERVER.to_owned(), Origin::BuiltIn));
    let server = checked(&server, &origin)?;
    Ok((Cluster { name: name.unwrap_or_else(|| DEFAULT_NAME.to_owned()), server, origin }, warning))
}

fn read(path: &Path) -> Result<ClusterSection, ConfigError> {
    let read_error = |source| ConfigError::Read { path: path.to_owned(), source };
    let mut text = String::new();
    let file = fs::File::open(path).map_err(read_error)?;
    file.take(MAX_CONFIG_BYTES + 1).read_to_string(&mut text).map_err(read_error)?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(ConfigError::TooLarge { path: path.to_owned() });
    }
    let options = serde_saphyr::options! { with_snippet: false };
    match serde_saphyr::from_str_with_options::<ConfigFile>(&text, options) {
        Ok(file) => Ok(file.cluster),
        Err(error) => {
            let place = error.location().map(|at| format!("line {}: ", at.line())).unwrap_or_default();
            let said = error.render_with_formatter(&serde_saphyr::UserMessageFormatter);
            let message = said.split(" at line ").next().unwrap_or(&said).to_owned();
            Err(ConfigError::Parse { path: path.to_owned(), place, message })
        }
    }
}

/// Writes the defaults beside the file and moves them into place, so that nobody ever reads half of them.
fn write_defaults(path: &Path) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    let draft = path.with_extension(format!("yaml.{}", std::process::id()));
    fs::write(&draft, format!("cluster:\n  name: {DEFAULT_NAME}\n  server: {DEFAULT_SERVER}\n"))?;
    fs::rename(&draft, path)
}

/// The address without a slash at its end, if it can be one.
fn checked(server: &str, origin: &Origin) -> Result<String, ConfigError> {
    let refuse =
        |problem| Err(ConfigError::Server { server: server.to_owned(), problem, origin: origin.clone() });
    let Ok(uri) = server.parse::<Uri>() else { return refuse("it is no URL") };
    match uri.scheme_str() {
        Some("http") => {}
        Some("https") => return refuse("https is not supported yet"),
        _ => return refuse("it does not begin with http://"),
    }
    let Some(authority) = uri.authority() else { return refuse("it names no host") };
    if authority.host().is_empty() || authority.as_str().contains('@') {
        return refuse("it should name a host and nothing before it");
    }
    if uri.query().is_some() || server.contains('#') {
        return refuse("it has more than a host, a port and a path");
    }
    Ok(server.trim_end_matches('/').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Home(tempfile::TempDir);

    impl Home {
        fn new() -> Self {
            Self(tempfile::tempdir().unwrap())
        }

        fn file(&self, name: &str, text: &str) -> PathBuf {
            let path = self.0.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(&path, text).unwrap();
            path
        }

        fn environment(&self) -> Environment {
            Environment { home: Some(self.0.path().to_owned()), ..Environment::default() }
        }
    }

    fn told(error: &ConfigError, home: &Home) -> String {
        crate::failure::chain(error).replace(&home.0.path().display().to_string(), "HOME")
    }

    #[test]
    fn nothing_configured_writes_the_defaults_at_home() {
        let home = Home::new();
        let (cluster, warning) = cluster(None, &home.environment()).unwrap();
        assert_eq!((cluster.name.as_str(), cluster.server.as_str()), ("rik.local", "http://127.0.0.1:5000"));
        assert_eq!(warning, None);
        let written = fs::read_to_string(home.0.path().join(".rik/config.yaml")).unwrap();
        assert_eq!(written, "cluster:\n  name: rik.local\n  server: http://127.0.0.1:5000\n");
        let again = super::cluster(None, &home.environment()).unwrap().0;
        assert!(matches!(again.origin, Origin::Home(_)), "{again:?}");
    }

    #[test]
    fn anything_configured_writes_nothing() {
        let home = Home::new();
        let environment = Environment { server: Some("http://h:1".to_owned()), ..home.environment() };
        cluster(None, &environment).unwrap();
        cluster(Some("http://h:2"), &home.environment()).unwrap();
        assert!(!home.0.path().join(".rik").exists());
    }

    #[test]
    fn later_sources_win_key_by_key() {
        let home = Home::new();
        home.file(".rik/config.yaml", "cluster:\n  name: home\n  server: http://home:1/\n");
        let mut environment = home.environment();
        let seen = |environment: &Environment, flag| {
            let cluster = cluster(flag, environment).unwrap().0;
            format!("{} {}", cluster.name, cluster.server)
        };
        assert_eq!(seen(&environment, None), "home http://home:1");
        environment.name = Some("env".to_owned());
        assert_eq!(seen(&environment, None), "env http://home:1");
        environment.server = Some("http://env:2".to_owned());
        assert_eq!(seen(&environment, None), "env http://env:2");
        environment.config = Some(home.file("only-server.json", r#"{"cluster":{"server":"http://file:3"}}"#));
        assert_eq!(seen(&environment, None), "env http://file:3");
        environment.config =
            Some(home.file("c.json", r#"{"cluster":{"name":"default","server":"http://file:3"}}"#));
        assert_eq!(seen(&environment, None), "default http://file:3");
        assert_eq!(seen(&environment, Some("http://flag:4")), "default http://flag:4");
    }

    #[test]
    fn a_broken_file_is_an_error_with_its_line() {
        let home = Home::new();
        let mut told_all = String::new();
        for text in ["cluster:\n  nam: x\n", "{\n \"cluster\": {\n", "cluster:\n  server: [1]\n", "", "7"] {
            let config = Some(home.file("broken.yaml", text));
            let error = cluster(None, &Environment { config, ..home.environment() }).unwrap_err();
            told_all.push_str(&format!("{}\n", told(&error, &home)));
        }
        insta::assert_snapshot!(told_all, @"
        the configuration HOME/broken.yaml is broken: line 2: unknown field `nam`, expected one of name, server
        the configuration HOME/broken.yaml is broken: line 2: unclosed bracket '{'
        the configuration HOME/broken.yaml is broken: line 2: expected string scalar
        the configuration HOME/broken.yaml is broken: line 1: unexpected end of file
        the configuration HOME/broken.yaml is broken: line 1: expected mapping start
        ");
        home.file(".rik/config.yaml", "]");
        assert!(cluster(None, &home.environment()).is_err());
    }

    #[test]
    fn an_address_that_cannot_be_one_is_refused() {
        for server in [
            "",
            "localhost:5000",
            "https://x",
            "ftp://x",
            "http://",
            "http://a b",
            "http://u:p@h",
            "http://h?x",
            "http://h/#x",
        ] {
            let error = cluster(Some(server), &Environment::default()).unwrap_err();
            assert!(matches!(error, ConfigError::Server { .. }), "{server:?}: {error}");
        }
        assert_eq!(
            cluster(Some("http://h:5000/rik/"), &Environment::default()).unwrap().0.server,
            "http://h:5000/rik"
        );
    }
}
