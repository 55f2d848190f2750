//! Keeps the files of an image archive on disk, so that they can be read in any order.
//!
//! All contents go one after the other into one temporary file; a table says which name is where. Nothing of the
//! archive becomes a name on this machine.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::image::LoadError;
use crate::limits::{ARCHIVE_ENTRIES_MAX, PATH_BYTES_MAX};
use crate::unpack::{Entries, Kind, LayerStream};

/// Links from one name to the next that are followed; archives of old tools have one.
const LINKS_MAX: usize = 4;

/// The files of an archive.
pub(crate) struct Spool {
    file: File,
    members: BTreeMap<String, Member>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
enum Member {
    File {
        at: u64,
        bytes: u64,
    },
    /// A link to another name, already resolved to a full one.
    Link(String),
}

/// One file of the archive.
pub(crate) struct Content<'a> {
    file: &'a File,
    at: u64,
    left: u64,
}

impl Spool {
    /// Reads a whole archive, compressed or not, into a new file at `path`.
    pub(crate) fn fill(archive: impl Read, path: &Path) -> Result<Self, LoadError> {
        let read_fault = |source: io::Error| LoadError::Read { source: source.into() };
        let mut file =
            File::options().read(true).write(true).create_new(true).open(path).map_err(read_fault)?;
        let stream = LayerStream::open(archive, None).map_err(read_fault)?;
        let mut archive = tar::Archive::new(stream);
        let mut entries = Entries::of(&mut archive, ARCHIVE_ENTRIES_MAX).map_err(read_fault)?;
        let mut members = BTreeMap::new();
        let mut at = 0;
        while let Some((entry, mut body)) = entries.next().map_err(read_fault)? {
            let odd = || LoadError::Archive {
                reason: format!("odd name {:?}", String::from_utf8_lossy(&entry.path)),
            };
            let name = normal_name("", &entry.path).ok_or_else(odd)?;
            let member = match entry.kind {
                Kind::File => {
                    let bytes = io::copy(&mut body, &mut file).map_err(read_fault)?;
                    if bytes != entry.size {
                        return Err(read_fault(io::ErrorKind::UnexpectedEof.into()));
                    }
                    at += bytes;
                    Member::File { at: at - bytes, bytes }
                }
                Kind::Symlink => {
                    let folder = name.rsplit_once('/').map_or("", |(folder, _)| folder);
                    Member::Link(normal_name(folder, &entry.link).ok_or_else(odd)?)
                }
                Kind::Hardlink => Member::Link(normal_name("", &entry.link).ok_or_else(odd)?),
                Kind::Directory | Kind::Fifo | Kind::Device => continue,
            };
            if members.insert(name.clone(), member).is_some() {
                return Err(LoadError::Archive { reason: format!("{name:?} occurs twice") });
            }
        }
        file.flush().map_err(read_fault)?;
        Ok(Self { file, members })
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.find(name).is_some()
    }

    /// The file of that name, for reading once.
    pub(crate) fn open(&self, name: &str) -> Result<Content<'_>, LoadError> {
        let (at, left) = self.find(name).ok_or_else(|| LoadError::Missing { name: name.to_owned() })?;
        Ok(Content { file: &self.file, at, left })
    }

    /// A whole file of at most `max` bytes. `document` names it in a refusal.
    pub(crate) fn read(&self, name: &str, document: &'static str, max: u64) -> Result<Vec<u8>, LoadError> {
        let mut content = self.open(name)?;
        crate::document::check_size(document, content.left, max).map_err(LoadError::Document)?;
        let mut bytes = Vec::new();
        content.read_to_end(&mut bytes).map_err(|source| LoadError::Read { source: source.into() })?;
        Ok(bytes)
    }

    fn find(&self, name: &str) -> Option<(u64, u64)> {
        let mut name = normal_name("", name.as_bytes())?;
        for _ in 0..=LINKS_MAX {
            match self.members.get(&name)? {
                Member::File { at, bytes } => return Some((*at, *bytes)),
                Member::Link(target) => name.clone_from(target),
            }
        }
        None
    }
}

impl Read for Content<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let count = self.file.read_at(&mut into[..most], self.at)?;
        if count == 0 && most > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.at += count as u64;
        self.left -= count as u64;
        Ok(count)
    }
}

/// A name without `.`, with `..` taken back, relative to `folder`; `None` if it leaves the archive.
fn normal_name(folder: &str, name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok().filter(|name| name.len() <= PATH_BYTES_MAX)?;
    let mut parts: Vec<&str> = Vec::new();
    for part in folder.split('/').chain(name.split('/')) {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop()?;
            }
            part => parts.push(part),
        }
    }
    Some(parts.join("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn archive(entries: &[(&str, tar::EntryType, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (name, kind, content) in entries {
            let mut header = tar::Header::new_gnu();
            header.set_entry_type(*kind);
            header.set_mode(0o644);
            if *kind == tar::EntryType::Regular {
                header.set_size(content.len() as u64);
                builder.append_data(&mut header, name, *content).unwrap();
            } else {
                header.set_size(0);
                builder.append_link(&mut header, name, std::str::from_utf8(content).unwrap()).unwrap();
            }
        }
        builder.into_inner().unwrap()
    }

    fn spool(bytes: &[u8]) -> Result<Spool, LoadError> {
        let scratch = tempfile::tempdir().unwrap();
        Spool::fill(bytes, &scratch.path().join("spool"))
    }

    #[test]
    fn files_are_found_by_any_spelling_and_through_links() {
        use tar::EntryType::{Regular, Symlink};
        let bytes = archive(&[
            ("b/layer.tar", Symlink, b"../a/layer.tar"),
            ("a/layer.tar", Regular, b"layer"),
            ("circle", Symlink, b"circle"),
            ("empty", Regular, b""),
        ]);
        let spool = spool(&zstd::encode_all(&bytes[..], 1).unwrap()).unwrap();
        for name in ["a/layer.tar", "./a//layer.tar", "b/layer.tar"] {
            assert_eq!(spool.read(name, "layer", 5).unwrap(), b"layer", "{name}");
        }
        assert_eq!(spool.read("empty", "layer", 5).unwrap(), b"");
        assert!(!spool.has("circle"));
        assert!(matches!(spool.read("a/layer.tar", "layer", 4), Err(LoadError::Document(_))));
        assert!(matches!(spool.open("missing"), Err(LoadError::Missing { .. })));
    }

    #[test]
    fn odd_archives_are_refused() {
        use tar::EntryType::{Regular, Symlink};
        let twice = archive(&[("a", Regular, b"1"), ("./a", Regular, b"2")]);
        let outside = archive(&[("a", Symlink, b"../../etc/passwd")]);
        for (bytes, reason) in
            [(twice, "twice"), (outside, "odd name"), (b"no tar at all".repeat(100), "read")]
        {
            let fault = spool(&bytes).err().unwrap().to_string();
            assert!(fault.contains(reason), "{fault}");
        }
    }
}
