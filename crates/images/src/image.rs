//! A whole image in the store, as its users see it, and the faults of getting and keeping one.

use std::error::Error;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use jiff::Timestamp;

use crate::{
    Digest, DocumentError, ImageConfig, LoginError, Reference, ReferenceError, RegistryError, UnpackError,
};

/// An image whose every layer is unpacked and verified.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Image {
    /// The name it was asked for by.
    pub reference: Reference,
    /// What its registry pins it by: the digest of the index or manifest behind the name.
    pub digest: Digest,
    /// Digest of the manifest for this platform: what it is by content. Equal to `digest` if there is no index.
    pub manifest: Digest,
    /// How to run it. Data only.
    pub config: ImageConfig,
    /// Directories of its layers, lowest first, for use as lower layers of an overlay; never to be written to.
    pub layers: Vec<PathBuf>,
    /// Uncompressed size of all layers, in bytes.
    pub size_bytes: u64,
    /// When it was built, if the image says so.
    pub created: Option<Timestamp>,
    /// When it came into this store.
    pub pulled: Timestamp,
}

/// One line of a list of images.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ImageSummary {
    /// Its name.
    pub reference: Reference,
    /// What its registry pins it by.
    pub digest: Digest,
    /// Uncompressed size of all layers, in bytes; layers shared with other images count in each.
    pub size_bytes: u64,
    /// When it came into this store.
    pub pulled: Timestamp,
    /// Root filesystems that stand on it.
    pub users: usize,
    /// When it was last asked for, or else pulled.
    pub used: Timestamp,
}

/// How far a pull has come.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Progress {
    /// Layers of the image; 0 until its manifest is known.
    pub layers_total: usize,
    /// Layers that are here and verified.
    pub layers_done: usize,
    /// Compressed bytes of all layers.
    pub bytes_total: u64,
    /// Compressed bytes that came or were here already.
    pub bytes_done: u64,
}

/// Why an image could not be had.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum PullError {
    /// A registry did not give it.
    #[error(transparent)]
    Registry(RegistryError),
    /// It is not on this node, and is not to be pulled.
    #[error(
        "{reference} is not on this node, and its imagePullPolicy is Never; `rikctl image load` brings it here"
    )]
    NotHere {
        /// Which image.
        reference: Reference,
    },
    /// The logins that this node has cannot be used.
    #[error("no registry was asked for {reference}")]
    Logins {
        /// Which image.
        reference: Reference,
        /// Why not.
        #[source]
        fault: LoginError,
    },
    /// Its documents are faulty, or it has nothing for this machine.
    #[error("{reference}: {fault}")]
    Document {
        /// Which image.
        reference: Reference,
        /// What is wrong.
        fault: DocumentError,
    },
    /// A layer is faulty or could not be written.
    #[error("cannot unpack layer {digest} of {reference}")]
    Layer {
        /// Which image.
        reference: Reference,
        /// Which layer, by its compressed digest.
        digest: Digest,
        /// What is wrong.
        #[source]
        source: UnpackError,
    },
    /// The store could not be written.
    #[error("cannot keep {reference}")]
    Store {
        /// Which image.
        reference: Reference,
        /// What is wrong.
        #[source]
        source: StoreError,
    },
    /// It took too long, with all tries.
    #[error("{reference} was not complete after {seconds} s")]
    Deadline {
        /// Which image.
        reference: Reference,
        /// The configured limit.
        seconds: u64,
    },
    /// Neither a mirror nor the registry itself gave it.
    #[error("no mirror of {} gave {reference}, nor did it itself: {}", .reference.registry(), attempts_text(.attempts))]
    Mirrors {
        /// Which image.
        reference: Reference,
        /// What each host said, in the order asked.
        attempts: Vec<(String, Arc<PullError>)>,
    },
    /// The pull ended without a result: this process is shutting down.
    #[error("the pull of {reference} was broken off")]
    BrokenOff {
        /// Which image.
        reference: Reference,
    },
}

fn attempts_text(attempts: &[(String, Arc<PullError>)]) -> String {
    let texts: Vec<String> =
        attempts.iter().map(|(host, fault)| format!("{host}: {}", with_causes(fault))).collect();
    texts.join("; ")
}

/// A fault and its causes on one line.
fn with_causes(fault: &dyn Error) -> String {
    let mut text = fault.to_string();
    let mut cause = fault.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

impl PullError {
    /// Whether the same pull may succeed later without anybody changing anything.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Registry(fault) => fault.is_transient(),
            Self::Deadline { .. } | Self::BrokenOff { .. } => true,
            Self::Mirrors { attempts, .. } => attempts.iter().any(|(_, fault)| fault.is_transient()),
            Self::Layer { source, .. } => source.is_transient(),
            Self::Store { source, .. } => source.is_transient(),
            Self::Document { .. } | Self::NotHere { .. } | Self::Logins { .. } => false,
        }
    }
}

/// Why the store could not be opened, read or written.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// Another process has it.
    #[error("image store {path:?} is in use by another process")]
    Locked {
        /// Its root.
        path: PathBuf,
    },
    /// The registry configuration cannot work.
    #[error("registry configuration: {0}")]
    Config(crate::ConfigError),
    /// No HTTP client could be made.
    #[error(transparent)]
    Registry(RegistryError),
    /// The list of images is damaged. It is never taken for an empty one.
    #[error("list of images {path:?} is damaged: {reason}; move it away to start with no images")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The work ended without a result: this process is shutting down, or has a defect.
    #[error("the work was broken off")]
    BrokenOff,
    /// The filesystem said no.
    #[error("cannot {doing} {path:?}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// To what.
        path: PathBuf,
        /// Why not.
        #[source]
        source: Arc<io::Error>,
    },
}

impl StoreError {
    pub(crate) fn io(doing: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { doing, path, source: Arc::new(source) }
    }

    /// Space may be freed; nothing else mends itself.
    pub(crate) fn is_transient(&self) -> bool {
        matches!(self, Self::Io { source, .. } if is_space(source))
    }
}

/// Whether a fault is a full disk or quota.
pub(crate) fn is_space(fault: &io::Error) -> bool {
    matches!(fault.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Why an archive gave no images.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LoadError {
    /// The archive could not be read to its end, or its tar is malformed or too large.
    #[error("cannot read the archive")]
    Read {
        /// Why.
        #[source]
        source: Arc<io::Error>,
    },
    /// It is no image archive.
    #[error("not an image archive: it has neither index.json nor manifest.json")]
    NotAnArchive,
    /// It refers to something that it does not have.
    #[error("the archive has no {name:?}, which it refers to")]
    Missing {
        /// The file's name.
        name: String,
    },
    /// The archive's structure makes no sense.
    #[error("archive refused: {reason}")]
    Archive {
        /// What is wrong.
        reason: String,
    },
    /// A document is faulty, or there is nothing for this machine.
    #[error("{0}")]
    Document(DocumentError),
    /// It does not say what the image is called.
    #[error("the archive does not name its image; save it again with a name and a tag")]
    Unnamed,
    /// What it calls the image is no name.
    #[error("{0}")]
    Reference(ReferenceError),
    /// A blob has other bytes than its name says.
    #[error("digest mismatch: {name:?} has {found}, expected {expected}")]
    Digest {
        /// The file's name.
        name: String,
        /// What it should be.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// A layer is faulty or could not be written.
    #[error("cannot unpack layer {name:?}")]
    Layer {
        /// The file's name.
        name: String,
        /// What is wrong.
        #[source]
        source: UnpackError,
    },
    /// The store could not be written.
    #[error("cannot keep the image")]
    Store {
        /// What is wrong.
        #[source]
        source: StoreError,
    },
}

/// Why an image was not removed.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum RemoveError {
    /// There is none of that name.
    #[error("there is no image {reference}")]
    NotFound {
        /// The name.
        reference: Reference,
    },
    /// Containers stand on it.
    #[error("image {reference} is in use by {users} containers")]
    InUse {
        /// The name.
        reference: Reference,
        /// Root filesystems made of it.
        users: usize,
    },
    /// The store could not be written.
    #[error("cannot remove {reference}")]
    Store {
        /// The name.
        reference: Reference,
        /// What is wrong.
        #[source]
        source: StoreError,
    },
}
