//! Unpacks one layer: a compressed tar stream becomes a directory that serves as a lower layer of overlay mounts.
//!
//! One pass on one thread: [`stream`] hashes and decompresses, [`entry`] reads the tar, [`name`] decides what a name
//! means, [`tree`] writes. The caller owns the directory and makes it visible only if all of this ended well.
//!
//! *Guarantees*: nothing outside of the directory is touched; size, digest and diffID are as promised, over every byte;
//! the limits of [`crate::limits`] hold.
//!
//! *Not here*: device nodes (left out), sparse files (refused), attributes of directories that a layer does not describe
//! (they get 0755 and root, and a mark: see `implied`).

mod entry;
mod name;
mod stream;
mod tree;

use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use rustix::fs::{Mode, OFlags, open};

pub use name::NameFault;
pub(crate) use name::{OPAQUE as OPAQUE_NAME, WHITEOUT as WHITEOUT_PREFIX};
pub(crate) use stream::LayerStream;
pub(crate) use tree::OPAQUE;

use crate::Digest;
use crate::limits::ENTRIES_MAX;
use crate::removal::Bin;

pub(crate) use entry::{Entries, Kind};

/// How much of an entry's name is repeated to the reader.
const QUOTED_BYTES_MAX: usize = 160;

/// Why a layer could not be unpacked.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum UnpackError {
    /// An entry's name cannot be honoured.
    #[error("entry {path:?}: {fault}")]
    Name {
        /// Its name (the beginning).
        path: String,
        /// What is wrong.
        fault: NameFault,
    },
    /// The kernel refused an entry.
    #[error("entry {path:?}: cannot {doing}")]
    Write {
        /// Its name (the beginning).
        path: String,
        /// What was being done.
        doing: &'static str,
        /// The kernel's reason.
        #[source]
        source: Arc<io::Error>,
    },
    /// The archive is malformed, truncated, ambiguous or beyond a limit.
    #[error("archive refused")]
    Stream {
        /// What is wrong.
        #[source]
        source: Arc<io::Error>,
    },
    /// Not as many bytes as declared.
    #[error("size mismatch: {declared} bytes were declared, {found} came")]
    Size {
        /// What the manifest declares.
        declared: u64,
        /// What came.
        found: u64,
    },
    /// The compressed bytes are others than promised.
    #[error("digest mismatch: expected {expected}, got {found}")]
    Digest {
        /// What the manifest promises.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The uncompressed bytes are others than promised.
    #[error("digest mismatch: the configuration expects {expected} uncompressed, got {found}")]
    DiffId {
        /// What the configuration promises.
        expected: Digest,
        /// What came.
        found: Digest,
    },
    /// The directory to unpack into could not be prepared or cleared.
    #[error("cannot prepare the layer's directory")]
    Clear {
        /// The kernel's reason.
        #[source]
        source: Arc<io::Error>,
    },
}

impl UnpackError {
    /// Space may be freed; a faulty layer stays faulty.
    pub(crate) fn is_transient(&self) -> bool {
        match self {
            Self::Write { source, .. } | Self::Clear { source } => crate::image::is_space(source),
            Self::Name { .. }
            | Self::Stream { .. }
            | Self::Size { .. }
            | Self::Digest { .. }
            | Self::DiffId { .. } => false,
        }
    }

    pub(crate) fn of_stream(source: io::Error) -> Self {
        Self::Stream { source: Arc::new(source) }
    }
}

/// What a layer must turn out to be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Promise {
    /// Digest and size of the bytes as they come, if somebody promised them.
    pub(crate) carried: Option<(Digest, u64)>,
    /// Digest of the uncompressed bytes, if it is known.
    pub(crate) diff_id: Option<Digest>,
}

/// Unpacks an archive that promises nothing, plain or packed with gzip or zstd, into the empty directory `root`. `bin` is
/// scratch beside it.
///
/// # Errors
/// It is no archive, one that is beyond a limit, or one that cannot be written.
pub fn unpack_archive(source: impl Read, root: &Path, bin: &Path) -> Result<u64, UnpackError> {
    unpack(source, Promise { carried: None, diff_id: None }, root, bin).map(|unpacked| unpacked.bytes)
}

/// A layer that was unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Unpacked {
    /// Its uncompressed size.
    pub(crate) bytes: u64,
    /// Whether directories below its root may be marked as not described.
    pub(crate) implied: bool,
}

/// Unpacks `source` into the empty directory `root`. `bin` is scratch beside it.
pub(crate) fn unpack(
    source: impl Read,
    promise: Promise,
    root: &Path,
    bin: &Path,
) -> Result<Unpacked, UnpackError> {
    let prepare = |source: io::Error| UnpackError::Clear { source: source.into() };
    let directory = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let root = open(root, directory, Mode::empty()).map_err(|fault| prepare(fault.into()))?;
    let tree = tree::Tree::new(root, Bin::open(bin).map_err(prepare)?);
    tree.begin().map_err(prepare)?;
    let declared = promise.carried.map(|(_, bytes)| bytes);
    let mut stream = LayerStream::open(source, declared).map_err(UnpackError::of_stream)?;
    let written = write_entries(&mut stream, tree)
        .and_then(|implied| stream.read_rest().map(|()| implied).map_err(UnpackError::of_stream));
    let implied = match written {
        Ok(implied) => implied,
        Err(fault) => return Err(real_fault(fault, stream, promise)),
    };
    let sums = stream.sums();
    if let Some((expected, declared)) = promise.carried {
        if sums.carried_bytes != declared {
            return Err(UnpackError::Size { declared, found: sums.carried_bytes });
        }
        if sums.carried_digest != expected {
            return Err(UnpackError::Digest { expected, found: sums.carried_digest });
        }
    }
    if let Some(expected) = promise.diff_id.filter(|expected| *expected != sums.plain_digest) {
        return Err(UnpackError::DiffId { expected, found: sums.plain_digest });
    }
    Ok(Unpacked { bytes: sums.plain_bytes, implied })
}

/// A stream that broke off or was altered shows as any odd fault of tar or compression: says what it really was.
fn real_fault(fault: UnpackError, stream: LayerStream<impl Read>, promise: Promise) -> UnpackError {
    let UnpackError::Stream { source } = &fault else { return fault };
    let is_limit = source.get_ref().is_some_and(|inner| inner.is::<stream::StreamFault>());
    let Some((expected, declared)) = promise.carried.filter(|_| !is_limit) else { return fault };
    match stream.drain_carried() {
        Ok((found, _)) if found != declared => UnpackError::Size { declared, found },
        Ok((_, found)) if found != expected => UnpackError::Digest { expected, found },
        _ => fault,
    }
}

/// Says whether directories may be marked.
fn write_entries(stream: &mut LayerStream<impl Read>, mut tree: tree::Tree) -> Result<bool, UnpackError> {
    let mut archive = tar::Archive::new(stream);
    let mut entries = Entries::of(&mut archive, ENTRIES_MAX).map_err(UnpackError::of_stream)?;
    while let Some((entry, mut body)) = entries.next().map_err(UnpackError::of_stream)? {
        tree.apply(&entry, &mut body)?;
    }
    let implied = tree.has_implied();
    tree.finish()?;
    Ok(implied)
}

/// The beginning of a raw name, for a message.
fn readable(path: &[u8]) -> String {
    String::from_utf8_lossy(&path[..path.len().min(QUOTED_BYTES_MAX)]).into_owned()
}

#[cfg(test)]
mod tests;
