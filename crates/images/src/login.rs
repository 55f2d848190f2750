//! Logins of registries, in the form that docker's `config.json` has.
//!
//! ```json
//! { "auths": { "registry.example:5000": { "auth": "dXNlcjpwYXNzd29yZA==" } } }
//! ```
//! A key is a registry, or a registry and the beginning of a repository's path; the longest that fits counts. Helpers that
//! the file may name (`credsStore`) are not run: they are programs, and riklet is root.
//!
//! *Guarantee*: neither `Debug` nor an error shows a password.

use std::collections::BTreeMap;
use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::limits::{LOGIN_FILES_MAX, LOGINS_BYTES_MAX};
use crate::reference::check_registry;

/// How docker calls its own registry in this file.
const DOCKER_KEYS: [&str; 2] = ["index.docker.io", "registry-1.docker.io"];

/// Who asks a registry.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Login {
    pub(crate) user: String,
    password: String,
}

impl fmt::Debug for Login {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        to.debug_struct("Login").field("user", &self.user).finish_non_exhaustive()
    }
}

impl Login {
    /// The value of an `Authorization` header.
    pub(crate) fn header(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.user, self.password)))
    }
}

/// Logins by registry. Those that come first go before later ones.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Logins {
    held: Vec<(String, Login)>,
}

/// Logins that cannot be used.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LoginError {
    /// The file cannot be read.
    #[error("cannot read the logins of registries in {path:?}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Arc<io::Error>,
    },
    /// It is larger than logins are.
    #[error("{place} has more than {LOGINS_BYTES_MAX} bytes of logins")]
    TooLarge {
        /// Where it is.
        place: String,
    },
    /// There are more files than anybody has.
    #[error("{place} has more than {LOGIN_FILES_MAX} files of logins")]
    TooMany {
        /// Where they are.
        place: String,
    },
    /// It is something else.
    #[error("{place} does not hold logins as docker's config.json does: line {line}, column {column}")]
    Form {
        /// Where it is.
        place: String,
        /// Line of the fault.
        line: usize,
        /// Column of the fault.
        column: usize,
    },
    /// A login without a user and a password.
    #[error(
        "{place}: the login for {registry:?} has no user and password (identity tokens are not understood)"
    )]
    Empty {
        /// Where it is.
        place: String,
        /// Which registry.
        registry: String,
    },
}

#[derive(Deserialize)]
struct Document {
    #[serde(default)]
    auths: BTreeMap<String, Entry>,
}

#[derive(Deserialize)]
struct Entry {
    #[serde(default)]
    auth: String,
    #[serde(default)]
    username: String,
    #[serde(default)]
    password: String,
}

impl Logins {
    /// Reads logins; `place` is how messages call where they are.
    ///
    /// # Errors
    /// They are not of that form.
    pub fn parse(bytes: &[u8], place: &str) -> Result<Self, LoginError> {
        if bytes.len() as u64 > LOGINS_BYTES_MAX {
            return Err(LoginError::TooLarge { place: place.to_owned() });
        }
        // Not the parser's own words, which may quote a value.
        let document: Document = serde_json::from_slice(bytes).map_err(|fault| LoginError::Form {
            place: place.to_owned(),
            line: fault.line(),
            column: fault.column(),
        })?;
        let mut held = Vec::new();
        for (key, entry) in document.auths {
            let empty = || LoginError::Empty { place: place.to_owned(), registry: key.clone() };
            let login = entry.login().ok_or_else(empty)?;
            held.push((normal(&key), login));
        }
        // The longest first, so that the first that fits is the right one.
        held.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
        Ok(Self { held })
    }

    /// Reads a file of logins, or a directory of such files, each named `….json`: one for each team, say. Of several logins
    /// for the same key, that of the file whose name comes first counts.
    ///
    /// # Errors
    /// One cannot be read, or is not of that form.
    pub fn read(path: &Path) -> Result<Self, LoginError> {
        if !path.is_dir() {
            return Self::read_file(path);
        }
        let failed = |source| LoginError::Read { path: path.to_owned(), source: Arc::new(source) };
        let mut files = Vec::new();
        for entry in path.read_dir().map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            if file.extension().is_some_and(|extension| extension == "json") {
                files.push(file);
            }
        }
        if files.len() > LOGIN_FILES_MAX {
            return Err(LoginError::TooMany { place: path.display().to_string() });
        }
        files.sort_unstable();
        let mut all = Self::default();
        for file in files {
            all = all.then(Self::read_file(&file)?);
        }
        all.held.sort_by_key(|(key, _)| std::cmp::Reverse(key.len()));
        Ok(all)
    }

    fn read_file(path: &Path) -> Result<Self, LoginError> {
        let failed = |source| LoginError::Read { path: path.to_owned(), source: Arc::new(source) };
        let mut bytes = Vec::new();
        let file = File::open(path).map_err(failed)?;
        file.take(LOGINS_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(failed)?;
        Self::parse(&bytes, &path.display().to_string())
    }

    /// These, and then those.
    #[must_use]
    pub fn then(mut self, later: Self) -> Self {
        self.held.extend(later.held);
        self
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// All of them in one text, to tell them from others. Not to be shown.
    pub(crate) fn headers(&self) -> String {
        let lines = self.held.iter().map(|(key, login)| format!("{key} {}\n", login.header()));
        lines.collect()
    }

    /// The login for a repository of a registry.
    pub(crate) fn find(&self, registry: &str, repository: &str) -> Option<&Login> {
        let fits = |key: &str| {
            let (host, path) = key.split_once('/').unwrap_or((key, ""));
            let below = path.is_empty()
                || repository.strip_prefix(path).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'));
            host == registry && below
        };
        self.held.iter().find(|(key, _)| fits(key)).map(|(_, login)| login)
    }
}

impl Entry {
    fn login(self) -> Option<Login> {
        if !self.username.is_empty() {
            return Some(Login { user: self.username, password: self.password });
        }
        let decoded = String::from_utf8(STANDARD.decode(self.auth.trim()).ok()?).ok()?;
        let (user, password) = decoded.split_once(':')?;
        // Docker ends the password with NULs in some versions.
        let password = password.trim_end_matches('\0');
        (!user.is_empty()).then(|| Login { user: user.to_owned(), password: password.to_owned() })
    }
}

/// A key as registries are called elsewhere: no scheme, docker's own by its one name.
fn normal(key: &str) -> String {
    let bare = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    let (host, path) = bare.split_once('/').unwrap_or((bare, ""));
    // Docker's keys for whole registries end like this.
    let path = if matches!(path.trim_matches('/'), "v1" | "v2") { "" } else { path.trim_matches('/') };
    let host = if DOCKER_KEYS.contains(&host) { "docker.io" } else { host };
    let host = check_registry(host).unwrap_or_else(|_| host.to_owned());
    if path.is_empty() { host } else { format!("{host}/{path}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn logins(text: &str) -> Logins {
        Logins::parse(text.as_bytes(), "the test").unwrap()
    }

    #[test]
    fn login_of_the_longest_key_that_fits_is_taken() {
        let own = logins(
            r#"{ "auths": {
                "https://index.docker.io/v1/": { "auth": "aHViOnB3" },
                "reg.example:5000": { "username": "all", "password": "pw" },
                "reg.example:5000/team/app": { "auth": "dGVhbTpwOnc=" }
            }, "credsStore": "desktop" }"#,
        );
        let user = |registry, repository| own.find(registry, repository).map(|login| login.user.as_str());
        assert_eq!(user("docker.io", "library/alpine"), Some("hub"));
        assert_eq!(user("reg.example:5000", "other"), Some("all"));
        assert_eq!(user("reg.example:5000", "team/app"), Some("team"));
        assert_eq!(user("reg.example:5000", "team/app/web"), Some("team"));
        assert_eq!(user("reg.example:5000", "team/application"), Some("all"));
        assert_eq!(user("reg.example", "other"), None);
        assert_eq!(user("evil.reg.example:5000", "other"), None);
        let header = own.find("reg.example:5000", "team/app").unwrap().header();
        assert_eq!(header, "Basic dGVhbTpwOnc=", "a password may hold a colon");
    }

    #[test]
    fn no_password_is_ever_shown() {
        let own = logins(r#"{ "auths": { "r": { "username": "u", "password": "canary" } } }"#);
        assert!(!format!("{own:?}").contains("canary"));
        for text in [
            r#"{ "auths": { "r": "canary" } }"#,
            r#"{ "auths": { "r": { "identitytoken": "canary" } } }"#,
            r#"{ "auths": { "r": { "auth": "canary" } } }"#,
            "canary",
        ] {
            let fault = Logins::parse(text.as_bytes(), "the test").unwrap_err();
            assert!(!format!("{fault} {fault:?}").contains("canary"), "{fault:?}");
        }
    }

    #[test]
    fn directory_of_logins_is_read_as_one_list() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, key: &str, user: &str| {
            let text =
                format!(r#"{{ "auths": {{ "{key}": {{ "username": "{user}", "password": "p" }} }} }}"#);
            std::fs::write(dir.path().join(name), text).unwrap();
        };
        write("a.json", "reg.example", "a");
        write("b.json", "reg.example", "b");
        write("c.json", "reg.example/team", "c");
        std::fs::write(dir.path().join("README"), "no logins").unwrap();
        let own = Logins::read(dir.path()).unwrap();
        let user = |repository| own.find("reg.example", repository).map(|login| login.user.as_str());
        assert_eq!((user("other"), user("team/app")), (Some("a"), Some("c")));
        std::fs::write(dir.path().join("torn.json"), "{").unwrap();
        let fault = Logins::read(dir.path()).unwrap_err().to_string();
        assert!(fault.contains("torn.json"), "{fault}");
    }
}
