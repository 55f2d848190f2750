//! Images of containers: from a registry or an archive, verified, unpacked once, shared by all who run them.
//!
//! ```text
//! Reference ─▶ ImageStore::ensure ─▶ registry ─▶ document ─▶ unpack ─┐
//! archive   ─▶ ImageStore::load   ─▶ spool    ─▶ document ─▶ unpack ─┴▶ layers/ + list ─▶ Image
//! Image     ─▶ ImageStore::save ─▶ archive
//! Image     ─▶ ImageStore::mount_rootfs ─▶ overlay of the layers and a writable one
//! ```
//!
//! *Guarantees*: an [`Image`] is complete and is what its digests say; an image, however hostile, touches nothing
//! outside of its own directory and stays within the bounds of `limits`; a crash or power loss at any moment leaves the
//! images that were there, and nothing that must be cleaned by hand.
//!
//! *Assumptions*: the caller is root on Linux with `openat2` (5.6) and overlay mounts; one process has the store.
//!
//! *Not here*: logins at registries; running anything; names of users in images; building images beyond
//! [`archive::pack`].

pub mod archive;
mod cleaning;
mod config;
mod digest;
mod document;
mod download;
mod flight;
mod image;
mod implied;
mod index;
mod limits;
mod load;
mod local;
mod login;
mod opening;
mod overlay;
mod pull;
mod reference;
mod registry;
mod removal;
mod repack;
mod save;
mod settling;
mod snapshot;
mod spool;
mod store;
mod unpack;

pub use cleaning::Cleaned;
pub use config::{ConfigError, RegistryConfig};
pub use digest::{Digest, DigestError};
pub use document::{DocumentError, ImageConfig};
pub use download::{
    Allowlist, DownloadError, DownloadFault, Downloaded, Validators, download, shown as shown_url,
};
pub use image::{Image, ImageSummary, LoadError, Progress, PullError, RemoveError, StoreError};
pub use local::take_file;
pub use login::{LoginError, Logins};
pub use pull::Wish;
pub use reference::{Reference, ReferenceError, ReferenceFault};
pub use registry::RegistryError;
pub use save::SaveError;
pub use snapshot::{RootfsPlace, SnapshotError, Users, check_rootfs};
pub use store::ImageStore;
pub use unpack::{NameFault, UnpackError, unpack_archive};
