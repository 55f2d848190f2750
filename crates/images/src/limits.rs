//! Every bound on what an image may cost, each with its reason. A hostile image ends at one of these.

use std::time::Duration;

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;

/// A manifest or index: registries refuse larger ones as well.
pub(crate) const MANIFEST_BYTES_MAX: u64 = 4 * MIB;
/// An image's configuration, held in memory: real ones are a few KiB.
pub(crate) const CONFIG_BYTES_MAX: u64 = 4 * MIB;
/// Layers of one image: container engines build no more, and an overlay takes that many.
pub(crate) const LAYERS_MAX: usize = 128;
/// Documents between a name and a manifest (index, index within, manifest): ends chains and circles.
pub(crate) const DOCUMENTS_MAX: usize = 3;

/// One image unpacked, and so also one layer: more fills a node's disk from one pull.
pub(crate) const UNPACKED_BYTES_MAX: u64 = 10 * GIB;
/// One compressed layer: could not unpack to less than its limit anyway.
pub(crate) const BLOB_BYTES_MAX: u64 = UNPACKED_BYTES_MAX;
/// Unpacked bytes before the ratio counts: small layers of zeros are ordinary.
pub(crate) const RATIO_FREE_BYTES: u64 = 100 * MIB;
/// Unpacked bytes for one compressed byte: beyond lies a bomb, real layers stay under 20.
pub(crate) const RATIO_MAX: u64 = 200;
/// Entries of one layer: a full distribution has 100,000.
pub(crate) const ENTRIES_MAX: u64 = 500_000;
/// One extended header (pax, GNU long name), held in memory.
pub(crate) const EXTENDED_HEADER_BYTES_MAX: u64 = MIB;
/// One path: what the kernel takes.
pub(crate) const PATH_BYTES_MAX: usize = 4095;
/// Paths of all directories of a layer together, held in memory until their times are set.
pub(crate) const DIRECTORY_PATH_BYTES_MAX: usize = 64 << 20;
/// Window that a zstd frame may ask for (128 MiB): the most that the format's own tools take without being told.
pub(crate) const ZSTD_WINDOW_LOG_MAX: u32 = 27;

/// Files of an image archive: a big one has a few blobs for each of 128 layers.
pub(crate) const ARCHIVE_ENTRIES_MAX: u64 = 10_000;
/// Images named by one archive: each costs an unpack.
pub(crate) const ARCHIVE_IMAGES_MAX: usize = 64;

/// Layers of one image under way at once: more gains nothing on one disk.
pub(crate) const LAYERS_AT_ONCE: usize = 4;
/// Layers under way at once for all images: each holds one thread of the blocking pool (512), which others need too.
pub(crate) const LAYERS_AT_ONCE_TOTAL: usize = 64;
/// Chunks between the network and the thread that unpacks: evens out bursts at about 16 KiB each.
pub(crate) const CHUNKS_QUEUED: usize = 32;

/// How full the disk may be before images that nothing uses are removed, as the kubelet has it.
pub(crate) const DISK_HIGH_PERCENT: u64 = 85;
/// How full it is when that ends.
pub(crate) const DISK_LOW_PERCENT: u64 = 80;
/// How long nobody has asked for an image that is removed so: somebody who asked is about to use it.
pub(crate) const UNUSED_REST: Duration = Duration::from_secs(120);

/// Tries of one request: a registry that is away longer is the caller's next pull.
pub(crate) const TRIES: u32 = 4;
/// Wait before the second try; doubles, with jitter.
pub(crate) const BACKOFF_FIRST: Duration = Duration::from_millis(200);
/// Longest wait between two tries, also when the registry asks for more (`Retry-After`).
pub(crate) const BACKOFF_MAX: Duration = Duration::from_secs(20);
/// How long a manifest, configuration or token may take: they are small, so a trickle is a fault.
pub(crate) const SMALL_ANSWER_DEADLINE: Duration = Duration::from_secs(60);
/// Redirects of one request: storage behind a registry needs one or two.
pub(crate) const REDIRECTS_MAX: u32 = 5;
/// The `WWW-Authenticate` header that is read: real ones are a few hundred bytes.
pub(crate) const CHALLENGE_BYTES_MAX: usize = 8 << 10;
/// An answer that carries a token, held in memory.
pub(crate) const TOKEN_BYTES_MAX: u64 = 256 << 10;
/// How long a token is believed at most, whatever its issuer claims.
pub(crate) const TOKEN_AGE_MAX: Duration = Duration::from_secs(3600);
/// How long a token is believed if its issuer does not say: the token specification's value.
pub(crate) const TOKEN_AGE_DEFAULT: Duration = Duration::from_secs(60);
/// Files of logins in one directory.
pub(crate) const LOGIN_FILES_MAX: usize = 256;
/// Logins of registries in one file or secret: a few hundred bytes for each registry.
pub(crate) const LOGINS_BYTES_MAX: u64 = MIB;
/// Tokens kept: one for each registry and repository.
pub(crate) const TOKENS_MAX: usize = 256;
