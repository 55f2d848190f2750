//! A file or a directory on its way between two places: one side packs it as an archive (tar), the other unpacks it.
//!
//! ```text
//!  pack(path) ──tar: NAME, NAME/…──▶ unpack(destination)
//! ```
//! The names mean what `cp -r` makes of them: into a directory that exists, or under the new name beside others.
//!
//! *Guarantees*: what is unpacked stays below its destination, whatever the archive says, also through links that it
//! brought; a file that grows or shrinks while it is packed does not spoil what follows; neither side holds more than a
//! buffer of a file.
//!
//! *Not here*: owners. What is unpacked belongs to whoever unpacks it.

mod pack;
mod unpack;

use std::{io, path::PathBuf};

pub use self::{pack::pack, unpack::unpack};

/// What went wrong with a copy.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// A file could not be read.
    #[error("{} cannot be read: {source}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file could not be written.
    #[error("{} cannot be written: {source}", path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// What was named is neither a file nor a directory.
    #[error("{} is neither a file nor a directory", path.display())]
    NoFile {
        /// What was named.
        path: PathBuf,
    },
    /// The destination ends with a slash and is no directory, or the directory that it would be in is none.
    #[error("there is no directory {}", path.display())]
    NoDirectory {
        /// What would have to be one.
        path: PathBuf,
    },
    /// The other side sent something else than it should.
    #[error("the archive holds {name:?}, which has no place here")]
    Misplaced {
        /// Its name in the archive.
        name: String,
    },
    /// The archive broke off, or could not be sent.
    #[error("the copy broke off: {source}")]
    Broken {
        /// Why.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use std::{
        fs,
        os::unix::fs::{PermissionsExt, symlink},
        path::Path,
    };

    use super::*;

    fn copy(from: &Path, to: &Path) -> Result<(), CopyError> {
        let mut archive = Vec::new();
        pack(from, &mut archive)?;
        unpack(archive.as_slice(), to)
    }

    #[test]
    fn names_mean_what_they_mean_to_cp() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| dir.path().join(name);
        fs::write(at("one"), "1").unwrap();
        fs::create_dir(at("there")).unwrap();
        copy(&at("one"), &at("two")).unwrap();
        copy(&at("one"), &at("there")).unwrap();
        copy(&at("one"), &at("there/three")).unwrap();
        for name in ["two", "there/one", "there/three"] {
            assert_eq!(fs::read_to_string(at(name)).unwrap(), "1", "{name}");
        }
        fs::write(at("two"), "another").unwrap();
        copy(&at("two"), &at("there/three")).unwrap();
        assert_eq!(fs::read_to_string(at("there/three")).unwrap(), "another");
        assert!(matches!(copy(&at("one"), &at("no/where")), Err(CopyError::NoDirectory { .. })));
        assert!(matches!(copy(&at("one"), &at("where/")), Err(CopyError::NoDirectory { .. })));
        assert!(matches!(copy(&at("nothing"), &at("x")), Err(CopyError::Read { .. })));
        assert!(matches!(copy(Path::new("/dev/null"), &at("x")), Err(CopyError::NoFile { .. })));
    }

    #[test]
    fn a_tree_arrives_as_it_was() {
        let dir = tempfile::tempdir().unwrap();
        let tree = dir.path().join("tree");
        fs::create_dir_all(tree.join("deep").join("x".repeat(120)).join("y".repeat(120))).unwrap();
        fs::write(tree.join("deep/run"), vec![7; 300_000]).unwrap();
        fs::set_permissions(tree.join("deep/run"), fs::Permissions::from_mode(0o750)).unwrap();
        fs::write(tree.join("deep").join("x".repeat(120)).join("y".repeat(120)).join("leaf"), "").unwrap();
        symlink("/etc/passwd", tree.join("away")).unwrap();
        fs::create_dir(tree.join("empty")).unwrap();
        let to = dir.path().join("copy");
        copy(&tree, &to).unwrap();
        assert_eq!(fs::read(to.join("deep/run")).unwrap(), vec![7; 300_000]);
        assert_eq!(fs::metadata(to.join("deep/run")).unwrap().permissions().mode() & 0o7777, 0o750);
        assert_eq!(fs::read_link(to.join("away")).unwrap(), Path::new("/etc/passwd"));
        assert!(to.join("empty").is_dir());
        assert!(to.join("deep").join("x".repeat(120)).join("y".repeat(120)).join("leaf").is_file());
        // A second time into the directory that exists now: beside, not over.
        copy(&tree, &to).unwrap();
        assert!(to.join("tree/deep/run").is_file());
    }

    #[test]
    fn file_of_unknown_length_is_packed_with_what_it_says() {
        let dir = tempfile::tempdir().unwrap();
        copy(Path::new("/proc/self/status"), &dir.path().join("status")).unwrap();
        assert!(fs::read_to_string(dir.path().join("status")).unwrap().starts_with("Name:"));
    }

    fn entry(builder: &mut tar::Builder<Vec<u8>>, name: &str, kind: tar::EntryType, target: &str) {
        let mut header = tar::Header::new_gnu();
        header.set_entry_type(kind);
        header.set_size(if kind == tar::EntryType::Regular { target.len() as u64 } else { 0 });
        header.set_mode(0o644);
        // Not through the setters, which refuse what is hostile.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        if kind == tar::EntryType::Regular {
            header.set_cksum();
            builder.append(&header, target.as_bytes()).unwrap();
        } else {
            header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
            header.set_cksum();
            builder.append(&header, std::io::empty()).unwrap();
        }
    }

    #[test]
    fn s_pod_12_archive_cannot_leave_its_destination() {
        use tar::EntryType as Kind;
        let dir = tempfile::tempdir().unwrap();
        let outside = dir.path().join("outside");
        fs::create_dir(&outside).unwrap();
        fs::write(outside.join("kept"), "kept").unwrap();
        let text = outside.to_str().unwrap().to_owned();
        let hostile: [&[(&str, Kind, &str)]; 6] = [
            &[("../outside/new", Kind::Regular, "x")],
            &[("a/../../outside/new", Kind::Regular, "x")],
            &[(&format!("{text}/new"), Kind::Regular, "x")],
            &[("a", Kind::Directory, ""), ("a/l", Kind::Symlink, &text), ("a/l/new", Kind::Regular, "x")],
            &[("a", Kind::Symlink, &text), ("a/new", Kind::Regular, "x")],
            &[
                ("a", Kind::Directory, ""),
                ("a/h", Kind::Link, "../outside/kept"),
                ("a/h", Kind::Regular, "x"),
            ],
        ];
        for (place, entries) in hostile.iter().enumerate() {
            let to = dir.path().join(format!("to-{place}"));
            fs::create_dir(&to).unwrap();
            let mut builder = tar::Builder::new(Vec::new());
            for (name, kind, target) in *entries {
                entry(&mut builder, name, *kind, target);
            }
            let archive = builder.into_inner().unwrap();
            assert!(unpack(archive.as_slice(), &to).is_err(), "{entries:?}");
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 1, "{entries:?}");
            assert_eq!(fs::read_to_string(outside.join("kept")).unwrap(), "kept", "{entries:?}");
        }
    }

    #[test]
    fn archive_that_breaks_off_is_an_error() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("file"), vec![1; 5000]).unwrap();
        let mut archive = Vec::new();
        pack(&dir.path().join("file"), &mut archive).unwrap();
        for length in [0, 100, 3000] {
            let broken = unpack(&archive[..length], &dir.path().join("to"));
            assert!(matches!(broken, Err(CopyError::Broken { .. } | CopyError::Write { .. })), "{length}");
        }
    }
}
