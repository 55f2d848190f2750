//! Programs that make containers in place of RIK's own code, by the node's operator's word: those with runc's command line
//! (docs/adr/0047).
//!
//! Their containers have to be processes of this machine's kernel, as RIK enters them by their namespaces, ends them by
//! signals and counts them in control groups of its own. Walls of another kind are what Functions are for.

use std::{
    io,
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};

use model::Reason;
use serde_json::{Value, json};
use tokio::{process::Command, time::timeout};
use userns::IdRange;

use super::fault;
use crate::RuntimeError;

/// What RIK's own is called.
pub const OWN: &str = "rik";
/// Runtimes whose containers are processes of this kernel, as they call themselves.
const KNOWN: [&str; 3] = ["crun", "runc", "youki"];
/// How long a program may take to say its version.
const VERSION_WITHIN: Duration = Duration::from_secs(10);

/// Why a runtime cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum OciRuntimeError {
    /// It cannot be called.
    #[error("the OCI runtime {} cannot be called", program.display())]
    Call {
        /// The program.
        program: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
    /// It says something else.
    #[error(
        "the OCI runtime {} is none of {}: it says {said:?}. RIK enters containers as processes of this kernel; for \
         programs that are not trusted there is kind Function",
        program.display(), KNOWN.join(", ")
    )]
    Unknown {
        /// The program.
        program: PathBuf,
        /// Its first line.
        said: String,
    },
}

/// A program that makes containers.
#[derive(Clone, Debug, PartialEq, Eq)]
struct OciRuntime {
    name: String,
    program: PathBuf,
    /// As it says itself, such as `runc version 1.1.5`.
    version: String,
}

/// What makes the containers of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OciRuntimes {
    others: Vec<OciRuntime>,
    /// What makes those of pods that do not say. None: RIK itself.
    usual: Option<PathBuf>,
}

impl OciRuntimes {
    /// Asks each program who it is. The first of the list is the usual one; `rik` stands for RIK's own, which is always
    /// there.
    ///
    /// # Errors
    /// One is not there, or none that RIK can use.
    pub async fn find(list: &[String]) -> Result<Self, OciRuntimeError> {
        let mut found = Self::default();
        for (place, word) in list.iter().enumerate().filter(|(_, word)| *word != OWN) {
            let runtime = find_one(Path::new(word)).await?;
            if place == 0 {
                found.usual = Some(runtime.program.clone());
            }
            found.others.push(runtime);
        }
        Ok(found)
    }

    /// What they are, the usual one first.
    #[must_use]
    pub fn in_words(&self) -> String {
        let (usual, rest): (Vec<_>, Vec<_>) =
            self.others.iter().partition(|own| Some(&own.program) == self.usual.as_ref());
        let version = |own: &'_ OciRuntime| own.version.clone();
        let mut all: Vec<String> = usual.into_iter().map(version).collect();
        all.push(OWN.to_owned());
        all.extend(rest.into_iter().map(version));
        all.join(", ")
    }

    /// The program that makes the containers of a pod that asks for `class`; None for RIK itself.
    ///
    /// # Errors
    /// The node has none of that name.
    pub(super) fn choose(&self, class: Option<&str>) -> Result<Option<PathBuf>, RuntimeError> {
        let Some(class) = class else { return Ok(self.usual.clone()) };
        if class == OWN {
            return Ok(None);
        }
        let found = self.others.iter().find(|own| own.name == class);
        found.map(|own| Some(own.program.clone())).ok_or_else(|| {
            let names: Vec<&str> =
                [OWN].into_iter().chain(self.others.iter().map(|own| own.name.as_str())).collect();
            let why = format!("this node has {} and not {class:?} (riklet --oci-runtime)", names.join(", "));
            fault::words("choose a runtime".to_owned(), Reason::NotAllowed, &why)
        })
    }
}

async fn find_one(word: &Path) -> Result<OciRuntime, OciRuntimeError> {
    let failed = |source| OciRuntimeError::Call { program: word.to_owned(), source };
    let program = locate(word).ok_or_else(|| failed(io::ErrorKind::NotFound.into()))?;
    let asked = Command::new(&program).arg("--version").stdin(Stdio::null()).kill_on_drop(true).output();
    let late = |_late| io::Error::new(io::ErrorKind::TimedOut, "it does not say its version");
    let output = timeout(VERSION_WITHIN, asked).await.map_err(late).and_then(|done| done).map_err(failed)?;
    let text = String::from_utf8_lossy(&output.stdout);
    let version = text.lines().next().unwrap_or_default().trim().to_owned();
    let calls_itself = version.split([' ', ':']).next().unwrap_or_default();
    if !KNOWN.contains(&calls_itself) {
        return Err(OciRuntimeError::Unknown { program, said: version });
    }
    let name = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
    Ok(OciRuntime { name, program, version })
}

/// The file that a word stands for, as a shell would find it; a link is followed no further.
fn locate(word: &Path) -> Option<PathBuf> {
    if word.components().count() > 1 {
        return word.is_absolute().then(|| word.to_owned()).filter(|path| path.is_file());
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .filter(|dir| dir.is_absolute())
        .map(|dir| dir.join(word))
        .find(|path| path.is_file())
}

/// What such a program has to be told that RIK's own code knows otherwise.
pub(super) struct Beside {
    /// The container's control group, below the mount of each hierarchy.
    pub(super) group: PathBuf,
    pub(super) ids: Option<IdRange>,
    pub(super) terminal: bool,
    /// The filter of system calls, as a document; None: there is to be none.
    pub(super) seccomp: Option<Value>,
}

/// Adds it to a specification that is whole otherwise.
pub(super) fn tell(document: &mut Value, beside: Beside) {
    document["process"]["terminal"] = beside.terminal.into();
    document["linux"]["cgroupsPath"] = json!(beside.group);
    if let Some(ids) = beside.ids {
        let mapping = json!([{ "containerID": 0, "hostID": ids.first, "size": ids.count }]);
        document["linux"]["uidMappings"] = mapping.clone();
        document["linux"]["gidMappings"] = mapping;
    }
    if let Some(seccomp) = beside.seccomp {
        document["linux"]["seccomp"] = seccomp;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(name: &str) -> OciRuntime {
        let program = Path::new("/usr/sbin").join(name);
        OciRuntime { name: name.to_owned(), program, version: format!("{name} version 1") }
    }

    #[test]
    fn pod_gets_what_it_asks_for_or_the_usual() {
        let runc = PathBuf::from("/usr/sbin/runc");
        let node = OciRuntimes { others: vec![one("runc"), one("crun")], usual: Some(runc.clone()) };
        assert_eq!(node.choose(None).unwrap(), Some(runc));
        assert_eq!(node.choose(Some("crun")).unwrap(), Some(PathBuf::from("/usr/sbin/crun")));
        assert_eq!(node.choose(Some(OWN)).unwrap(), None);
        assert_eq!(node.in_words(), "runc version 1, rik, crun version 1");
        let refused = node.choose(Some("kata")).unwrap_err();
        assert_eq!(refused.reason, Reason::NotAllowed);
        assert!(refused.sentence().contains("rik, runc, crun and not \"kata\""), "{}", refused.sentence());
        assert_eq!(OciRuntimes::default().choose(None).unwrap(), None);
    }

    #[tokio::test]
    async fn program_that_is_no_runtime_of_this_kernel_is_refused() {
        let refused = OciRuntimes::find(&["cat".to_owned()]).await.unwrap_err();
        assert!(matches!(refused, OciRuntimeError::Unknown { .. }), "{refused}");
        let absent = OciRuntimes::find(&["no-such-runtime".to_owned()]).await.unwrap_err();
        assert!(matches!(absent, OciRuntimeError::Call { .. }), "{absent}");
    }
}
