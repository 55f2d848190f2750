//! The bytes of a layer on their way: compressed → hashed → decompressed → hashed, with the limits on both.
//!
//! One pass, constant memory. The compression is told by the first bytes, because media types are often wrong.

use std::cell::RefCell;
use std::io::{self, BufRead, BufReader, Read};
use std::rc::Rc;

use flate2::bufread::MultiGzDecoder;

use crate::Digest;
use crate::digest::Hasher;
use crate::limits::{RATIO_FREE_BYTES, RATIO_MAX, UNPACKED_BYTES_MAX, ZSTD_WINDOW_LOG_MAX};

/// Bytes taken from the source at a time.
const BUFFER_BYTES: usize = 64 << 10;
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];
const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];

/// A limit or promise that the bytes broke; travels inside an [`io::Error`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum StreamFault {
    #[error("more than the declared {declared} bytes")]
    Longer { declared: u64 },
    #[error("more than {UNPACKED_BYTES_MAX} bytes unpacked")]
    TooLarge,
    #[error("unpacks to more than {RATIO_MAX} times its size")]
    Bomb,
}

impl From<StreamFault> for io::Error {
    fn from(fault: StreamFault) -> Self {
        Self::other(fault)
    }
}

/// The compressed side: hashes, counts, and stops at the declared size.
struct Carried<R> {
    source: R,
    hasher: Rc<RefCell<Hasher>>,
    declared: Option<u64>,
}

impl<R: Read> Read for Carried<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.source.read(into)?;
        let mut hasher = self.hasher.borrow_mut();
        hasher.update(&into[..count]);
        match self.declared {
            Some(declared) if hasher.bytes() > declared => Err(StreamFault::Longer { declared }.into()),
            _ => Ok(count),
        }
    }
}

enum Decoder<R: BufRead> {
    Plain(R),
    Gzip(Box<MultiGzDecoder<R>>),
    Zstd(zstd::stream::read::Decoder<'static, R>),
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Plain(source) => source.read(into),
            Self::Gzip(decoder) => decoder.read(into),
            Self::Zstd(decoder) => decoder.read(into),
        }
    }
}

/// Parallel compressors begin with a frame of their own notes, which decoders skip.
fn is_zstd_skippable(magic: &[u8]) -> bool {
    matches!(magic, [0x50..=0x5f, 0x2a, 0x4d, 0x18])
}

/// The first bytes again, and then the rest.
type Source<R> = io::Chain<io::Cursor<Vec<u8>>, BufReader<Carried<R>>>;

/// A readable, uncompressed layer that knows both digests at its end.
pub(crate) struct LayerStream<R: Read> {
    decoder: Decoder<Source<R>>,
    carried: Rc<RefCell<Hasher>>,
    plain: Hasher,
}

/// Whether so many unpacked bytes may have come from so many compressed ones.
fn check_expansion(plain: u64, carried: u64) -> Result<(), StreamFault> {
    if plain > UNPACKED_BYTES_MAX {
        return Err(StreamFault::TooLarge);
    }
    if plain > RATIO_FREE_BYTES && plain / RATIO_MAX > carried {
        return Err(StreamFault::Bomb);
    }
    Ok(())
}

/// What a layer turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Sums {
    pub(crate) carried_digest: Digest,
    pub(crate) carried_bytes: u64,
    pub(crate) plain_digest: Digest,
    pub(crate) plain_bytes: u64,
}

impl<R: Read> LayerStream<R> {
    /// Reads the first bytes of `source` to learn its compression. `declared` is the compressed size, if one is known.
    pub(crate) fn open(source: R, declared: Option<u64>) -> io::Result<Self> {
        let carried = Rc::new(RefCell::new(Hasher::default()));
        let source = Carried { source, hasher: Rc::clone(&carried), declared };
        let mut source = BufReader::with_capacity(BUFFER_BYTES, source);
        let mut magic = Vec::with_capacity(ZSTD_MAGIC.len());
        (&mut source).take(ZSTD_MAGIC.len() as u64).read_to_end(&mut magic)?;
        let is_gzip = magic.starts_with(&GZIP_MAGIC);
        let is_zstd = magic == ZSTD_MAGIC || is_zstd_skippable(&magic);
        let source = io::Cursor::new(magic).chain(source);
        let decoder = if is_gzip {
            Decoder::Gzip(Box::new(MultiGzDecoder::new(source)))
        } else if is_zstd {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(source)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Decoder::Zstd(decoder)
        } else {
            Decoder::Plain(source)
        };
        Ok(Self { decoder, carried, plain: Hasher::default() })
    }

    /// Reads what is left of the source without decompressing it: size and digest of what came.
    pub(crate) fn drain_carried(mut self) -> io::Result<(u64, Digest)> {
        let source = match &mut self.decoder {
            Decoder::Plain(source) => source,
            Decoder::Gzip(decoder) => decoder.get_mut(),
            Decoder::Zstd(decoder) => decoder.get_mut(),
        };
        io::copy(source, &mut io::sink())?;
        let carried = self.carried.take();
        Ok((carried.bytes(), carried.finish()))
    }

    /// Reads what is left, so that both digests cover every byte.
    pub(crate) fn read_rest(&mut self) -> io::Result<()> {
        io::copy(self, &mut io::sink()).map(drop)
    }

    /// What it was, once it is read to its end.
    pub(crate) fn sums(self) -> Sums {
        let carried = self.carried.take();
        Sums {
            carried_bytes: carried.bytes(),
            carried_digest: carried.finish(),
            plain_bytes: self.plain.bytes(),
            plain_digest: self.plain.finish(),
        }
    }
}

impl<R: Read> Read for LayerStream<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let count = self.decoder.read(into)?;
        self.plain.update(&into[..count]);
        check_expansion(self.plain.bytes(), self.carried.borrow().bytes())?;
        Ok(count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use flate2::{Compression, write::GzEncoder};
    use std::io::Write;

    fn read_all(source: impl Read, declared: Option<u64>) -> io::Result<Sums> {
        let mut stream = LayerStream::open(source, declared)?;
        stream.read_rest()?;
        Ok(stream.sums())
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn every_compression_gives_both_digests() {
        let plain = b"some layer".repeat(1000);
        let mut two_members = gzip(&plain[..100]);
        two_members.extend(gzip(&plain[100..]));
        for carried in [plain.clone(), gzip(&plain), two_members, zstd::encode_all(&plain[..], 3).unwrap()] {
            let sums = read_all(&carried[..], Some(carried.len() as u64)).unwrap();
            assert_eq!(sums.carried_digest, Digest::of(&carried));
            assert_eq!(sums.carried_bytes, carried.len() as u64);
            assert_eq!(sums.plain_digest, Digest::of(&plain));
            assert_eq!(sums.plain_bytes, plain.len() as u64);
        }
    }

    #[test]
    fn reading_ends_at_the_declared_size() {
        let fault = read_all(io::repeat(7), Some(5000)).unwrap_err();
        assert_eq!(fault.to_string(), "more than the declared 5000 bytes");
    }

    #[test]
    fn a_bomb_ends_long_before_the_disk() {
        let mib = 1 << 20;
        assert_eq!(check_expansion(100 * mib, 1), Ok(()));
        assert_eq!(check_expansion(101 * mib, mib), Ok(()));
        assert_eq!(check_expansion(202 * mib, mib), Err(StreamFault::Bomb));
        assert_eq!(check_expansion(UNPACKED_BYTES_MAX, UNPACKED_BYTES_MAX), Ok(()));
        assert_eq!(check_expansion(UNPACKED_BYTES_MAX + 1, UNPACKED_BYTES_MAX), Err(StreamFault::TooLarge));
    }

    #[test]
    fn truncated_and_trailing_bytes_are_faults() {
        let plain = b"some layer".repeat(1000);
        let mut trailing = gzip(&plain);
        trailing.extend(b"garbage");
        let truncated = &gzip(&plain)[..40];
        let zstd = zstd::encode_all(&plain[..], 3).unwrap();
        for carried in [&trailing[..], truncated, &zstd[..zstd.len() - 3]] {
            assert!(read_all(carried, None).is_err());
        }
    }

    #[test]
    fn a_zstd_window_beyond_the_limit_is_refused() {
        // A frame header by hand: no single segment, window descriptor for 2 GiB, one empty last block.
        let carried = [&ZSTD_MAGIC[..], &[0x00, 21 << 3, 0x01, 0x00, 0x00]].concat();
        assert!(read_all(&carried[..], None).is_err());
    }
}
