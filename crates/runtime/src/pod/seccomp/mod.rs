//! Which calls of the kernel a container may make: a filter that is loaded right before its program begins.
//!
//! ```text
//!  manifest ─▶ standard profile │ file of the node's operator │ none ─▶ programs ─▶ c/<index>/seccomp ─▶ executor
//! ```
//! *Guarantees*: it fails closed: a container without that file, or whose filter the kernel does not take, never begins;
//! "no filter" is a word in the file and not its absence. Whoever executes a program inside a container reads the same
//! file, so what is executed later is held by the same filter.

mod calls;
mod document;
mod profile;
mod standard;

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use rustix::fs::{Mode, OFlags, ResolveFlags, open, openat2};
use seccompiler::{BpfProgram, sock_filter};

use super::files::write_bytes_whole;

/// Name of the file in a container's directory.
const FILE: &str = "seccomp";
/// First bytes of the file: what it is, and in which version.
const MAGIC: &[u8] = b"rik seccomp 1\n";
/// What stands instead of programs if there is to be no filter.
const UNCONFINED: &[u8] = b"unconfined\n";
/// Bytes of one instruction.
const INSTRUCTION: usize = 8;
/// Most instructions of one program: the kernel's own limit.
const MAX_INSTRUCTIONS: usize = 4096;
/// Largest profile of an operator: Docker's own has some 20 kB.
const MAX_DOCUMENT_BYTES: u64 = 1 << 20;

/// Why there is no filter.
#[derive(Debug, thiserror::Error)]
pub enum SeccompError {
    /// The filter compiler refuses.
    #[error("compile the seccomp filter")]
    Compile {
        /// Why.
        #[source]
        source: seccompiler::BackendError,
    },
    /// Too many different answers.
    #[error("the seccomp profile has more than {max} different answers")]
    TooManyAnswers {
        /// Most that are possible.
        max: usize,
    },
    /// A profile is no profile.
    #[error("understand the seccomp profile")]
    Document {
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// A profile has a word that is not known.
    #[error("the seccomp profile has an unknown {what} {word:?}")]
    Unknown {
        /// What kind of word.
        what: &'static str,
        /// The word.
        word: String,
    },
    /// A profile cannot be read.
    #[error("read the seccomp profile {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// What a container's filter is to be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Profile {
    /// The one that every container has unless something else is said.
    #[default]
    Standard,
    /// None.
    Unconfined,
    /// A file that the node's operator wrote.
    File {
        /// The operator's directory.
        directory: PathBuf,
        /// The file's path below it.
        name: PathBuf,
    },
}

impl Profile {
    /// What it says for a container with these capabilities; None: nothing.
    fn calls(&self, capabilities: &[&str]) -> Result<Option<profile::Profile>, SeccompError> {
        Ok(Some(match self {
            Self::Unconfined => return Ok(None),
            Self::Standard => standard::standard(capabilities),
            Self::File { directory, name } => document::read(&read_document(directory, name)?, capabilities)?,
        }))
    }

    /// The same as the runtime specification has it, for other runtimes.
    ///
    /// # Errors
    /// If an operator's file is of no use.
    pub fn document(&self, capabilities: &[&str]) -> Result<Option<serde_json::Value>, SeccompError> {
        Ok(self.calls(capabilities)?.map(|calls| calls.document()))
    }
}

/// The filter of a container, ready to be loaded.
#[derive(Clone, Debug, PartialEq)]
pub struct Confinement {
    /// None: there is to be no filter.
    programs: Option<Vec<BpfProgram>>,
}

impl Confinement {
    /// Makes the filter of a container with these capabilities.
    ///
    /// # Errors
    /// If an operator's file is of no use.
    pub fn of(profile: &Profile, capabilities: &[&str]) -> Result<Self, SeccompError> {
        let calls = profile.calls(capabilities)?;
        Ok(Self { programs: calls.map(|calls| calls.compile()).transpose()? })
    }

    /// Writes it into a container's directory.
    ///
    /// # Errors
    /// What the file system says.
    pub fn write(&self, dir: &Path) -> io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        match &self.programs {
            None => bytes.extend_from_slice(UNCONFINED),
            Some(programs) => {
                for program in programs {
                    let count = u32::try_from(program.len()).map_err(io::Error::other)?;
                    bytes.extend_from_slice(&count.to_ne_bytes());
                    for line in program {
                        bytes.extend_from_slice(&line.code.to_ne_bytes());
                        bytes.extend_from_slice(&[line.jt, line.jf]);
                        bytes.extend_from_slice(&line.k.to_ne_bytes());
                    }
                }
            }
        }
        write_bytes_whole(&dir.join(FILE), &bytes)
    }

    /// Reads it from a container's directory.
    ///
    /// # Errors
    /// If it is not there or not whole: the container must not begin.
    pub fn read(dir: &Path) -> io::Result<Self> {
        let bytes = fs::read(dir.join(FILE))?;
        let torn = || io::Error::new(io::ErrorKind::InvalidData, "it is not what the riklet writes");
        let mut rest = bytes.strip_prefix(MAGIC).ok_or_else(torn)?;
        if rest == UNCONFINED {
            return Ok(Self { programs: None });
        }
        let mut programs = Vec::new();
        while let Some((count, lines)) = rest.split_first_chunk::<4>() {
            let count = u32::from_ne_bytes(*count) as usize;
            if count == 0 || count > MAX_INSTRUCTIONS {
                return Err(torn());
            }
            let (lines, more) = lines.split_at_checked(count * INSTRUCTION).ok_or_else(torn)?;
            programs.push(lines.as_chunks::<INSTRUCTION>().0.iter().map(instruction).collect());
            rest = more;
        }
        if !rest.is_empty() || programs.is_empty() {
            return Err(torn());
        }
        Ok(Self { programs: Some(programs) })
    }

    /// Loads the filter for the calling thread and everything that it will execute. There is no way back. From here on
    /// only what the profile allows can be done.
    ///
    /// # Errors
    /// If the kernel does not take it: nothing must be executed then.
    pub fn load(&self) -> Result<(), seccompiler::Error> {
        self.programs.iter().flatten().try_for_each(|program| seccompiler::apply_filter(program))
    }
}

fn instruction(bytes: &[u8; INSTRUCTION]) -> sock_filter {
    let [a, b, jt, jf, k @ ..] = *bytes;
    sock_filter { code: u16::from_ne_bytes([a, b]), jt, jf, k: u32::from_ne_bytes(k) }
}

/// Reads the file below the directory; no link leads out of it.
fn read_document(directory: &Path, name: &Path) -> Result<String, SeccompError> {
    let failed = |source| SeccompError::Read { path: directory.join(name), source };
    let open = || -> io::Result<fs::File> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let directory = open(directory, flags, Mode::empty())?;
        let within = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        // Whatever is there, opening it does not wait for anybody.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        Ok(openat2(&directory, name, flags, Mode::empty(), within)?.into())
    };
    let file = open().map_err(failed)?;
    let metadata = file.metadata().map_err(failed)?;
    if !metadata.is_file() || metadata.len() > MAX_DOCUMENT_BYTES {
        return Err(failed(io::Error::new(
            io::ErrorKind::InvalidData,
            "it is no file, or larger than 1 MiB",
        )));
    }
    io::read_to_string(file).map_err(failed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn filter_is_read_as_written() {
        let dir = tempfile::tempdir().unwrap();
        for profile in [Profile::Standard, Profile::Unconfined] {
            let confinement = Confinement::of(&profile, &["CAP_SYS_CHROOT"]).unwrap();
            confinement.write(dir.path()).unwrap();
            assert_eq!(Confinement::read(dir.path()).unwrap(), confinement);
        }
    }

    #[test]
    fn file_that_is_absent_empty_or_torn_is_no_filter() {
        let dir = tempfile::tempdir().unwrap();
        assert!(Confinement::read(dir.path()).is_err());
        Confinement::of(&Profile::Standard, &[]).unwrap().write(dir.path()).unwrap();
        let whole = fs::read(dir.path().join(FILE)).unwrap();
        for length in [0, MAGIC.len() - 1, MAGIC.len(), MAGIC.len() + 3, whole.len() - 1] {
            fs::write(dir.path().join(FILE), &whole[..length]).unwrap();
            assert!(Confinement::read(dir.path()).is_err(), "{length}");
        }
    }

    #[test]
    fn more_capabilities_allow_more_calls() {
        let size = |capabilities: &[&str]| {
            let confinement = Confinement::of(&Profile::Standard, capabilities).unwrap();
            confinement.programs.iter().flatten().map(Vec::len).sum::<usize>()
        };
        assert!(size(&["CAP_SYS_PTRACE"]) > size(&["CAP_SYS_CHROOT"]));
        assert!(size(&["CAP_SYS_CHROOT"]) > size(&[]));
    }
}
