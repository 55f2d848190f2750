//! What the name of an entry means: a place in the tree, a whiteout, or a reason to refuse the layer. Pure.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use crate::limits::PATH_BYTES_MAX;

/// Names that begin so are instructions to the unpacker; none is ever created.
pub(crate) const WHITEOUT: &[u8] = b".wh.";
/// The instruction that hides all of a directory's lower content.
pub(crate) const OPAQUE: &[u8] = b".wh..wh..opq";
/// Book-keeping of a union filesystem that wrote layers long ago.
const FOREIGN: &[u8] = b".wh..wh.";

/// Why an entry's name is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum NameFault {
    /// There is no name.
    #[error("its name is empty")]
    Empty,
    /// The name has `..` in it.
    #[error("its name leaves its directory by '..'")]
    Outside,
    /// The name has a NUL byte.
    #[error("its name has a NUL byte")]
    Nul,
    /// The name is longer than the kernel takes.
    #[error("its name is longer than {PATH_BYTES_MAX} bytes")]
    TooLong,
    /// Something else than a directory claims to be the root.
    #[error("it is the root of the image, but no directory")]
    Root,
    /// A `.wh.` name where none can be.
    #[error("its name is a malformed whiteout")]
    Whiteout,
    /// A link to nothing, or a hard link to the root or to a whiteout.
    #[error("it links to nothing that can be linked to")]
    LinkTarget,
    /// More directories than a layer can need.
    #[error("the layer has too many directories")]
    TooManyDirectories,
}

#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    Root,
    Ordinary { parent: PathBuf, name: OsString },
    Whiteout { parent: PathBuf, name: OsString },
    Opaque { parent: PathBuf },
    Skipped,
}

/// Places a name relative to the root; leading slashes and `.` mean nothing.
pub(super) fn place(path: &[u8]) -> Result<Place, NameFault> {
    if path.is_empty() {
        return Err(NameFault::Empty);
    }
    if path.len() > PATH_BYTES_MAX {
        return Err(NameFault::TooLong);
    }
    if path.contains(&0) {
        return Err(NameFault::Nul);
    }
    let parts: Vec<&[u8]> =
        path.split(|byte| *byte == b'/').filter(|part| !matches!(*part, b"" | b".")).collect();
    if parts.contains(&&b".."[..]) {
        return Err(NameFault::Outside);
    }
    let Some((name, above)) = parts.split_last() else {
        return Ok(Place::Root);
    };
    if let Some(part) = above.iter().find(|part| part.starts_with(WHITEOUT)) {
        return if part.starts_with(FOREIGN) { Ok(Place::Skipped) } else { Err(NameFault::Whiteout) };
    }
    let parent: PathBuf = above.iter().map(|part| OsStr::from_bytes(part)).collect();
    if *name == OPAQUE {
        return Ok(Place::Opaque { parent });
    }
    if name.starts_with(FOREIGN) {
        return Ok(Place::Skipped);
    }
    match name.strip_prefix(WHITEOUT) {
        Some(b"" | b"." | b"..") => Err(NameFault::Whiteout),
        Some(hidden) => Ok(Place::Whiteout { parent, name: OsStr::from_bytes(hidden).to_owned() }),
        None => Ok(Place::Ordinary { parent, name: OsStr::from_bytes(name).to_owned() }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_has_one_place_however_it_is_written() {
        let ordinary =
            |parent: &str, name: &str| Place::Ordinary { parent: parent.into(), name: name.into() };
        for path in ["a/b", "/a/b", "./a/b", "a//b", "a/./b/", "//a/b//", "/./a/b/."] {
            assert_eq!(place(path.as_bytes()), Ok(ordinary("a", "b")), "{path}");
        }
        for path in [".", "/", "./", "//."] {
            assert_eq!(place(path.as_bytes()), Ok(Place::Root), "{path}");
        }
        assert_eq!(place(b"...").unwrap(), ordinary("", "..."));
    }

    #[test]
    fn a_name_that_leaves_or_deceives_is_refused() {
        let cases: [(&[u8], NameFault); 9] = [
            (b"", NameFault::Empty),
            (b"..", NameFault::Outside),
            (b"../x", NameFault::Outside),
            (b"a/../../x", NameFault::Outside),
            (b"a/..", NameFault::Outside),
            (b"a\0b", NameFault::Nul),
            (b"a/.wh.", NameFault::Whiteout),
            (b"a/.wh...", NameFault::Whiteout),
            (b".wh.a/b", NameFault::Whiteout),
        ];
        for (path, fault) in cases {
            assert_eq!(place(path), Err(fault), "{:?}", String::from_utf8_lossy(path));
        }
        assert_eq!(place(&vec![b'a'; 4096]), Err(NameFault::TooLong));
    }

    #[test]
    fn whiteouts_are_instructions() {
        assert_eq!(place(b"a/.wh.b"), Ok(Place::Whiteout { parent: "a".into(), name: "b".into() }));
        assert_eq!(place(b".wh..wh..opq"), Ok(Place::Opaque { parent: "".into() }));
        assert_eq!(place(b"a/.wh..wh..opq"), Ok(Place::Opaque { parent: "a".into() }));
        assert_eq!(place(b".wh..wh.plnk/12.34"), Ok(Place::Skipped));
        assert_eq!(place(b".wh..wh.aufs"), Ok(Place::Skipped));
    }
}
