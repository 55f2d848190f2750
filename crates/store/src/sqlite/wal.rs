//! Checks the write-ahead log that an unclean end left, before SQLite reads it.
//!
//! SQLite takes the log up to the first frame that does not fit and drops the rest without a word. That is right for a
//! commit that was cut short, and wrong for a log that was damaged later: whole acknowledged transactions would vanish.
//! The two can be told apart: a transaction is only begun once the one before it is synced, so a cut leaves at most
//! one commit behind the first bad frame, and nothing behind that commit.
//!
//! *Not here*: a log whose end is missing. It looks as if the rest was never written.

use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::Path;

const HEADER_BYTES: usize = 32;
const FRAME_HEADER_BYTES: usize = 24;

/// The magic number, but for its last bit, which says whether checksums are made of big-endian words.
const MAGIC: u32 = 0x377f_0682;

/// The only version of the format that there is.
const FORMAT: u32 = 3_007_000;

/// A damaged log.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum WalFault {
    /// Its header does not fit.
    Header,
    /// This frame, counted from 1, does not fit, and transactions follow it.
    Frame(u64),
}

/// The header of a frame, as far as it matters.
struct Frame {
    commits: bool,
    salts: [u8; 8],
    sum: (u32, u32),
}

/// Looks through the log; `None` if there is nothing wrong with it, or no log.
pub(super) fn check(path: &Path) -> io::Result<Option<WalFault>> {
    match File::open(path) {
        Ok(file) => scan(&mut BufReader::new(file)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

fn scan(log: &mut impl Read) -> io::Result<Option<WalFault>> {
    let mut header = [0; HEADER_BYTES];
    // A log without a whole header, or with one that never reached the disk, has no transactions.
    if !fill(log, &mut header)? || header == [0; HEADER_BYTES] {
        return Ok(None);
    }
    let big_endian = word(&header, 0) == MAGIC | 1;
    let page_bytes = word(&header, 8) as usize;
    let mut sum = checksum((0, 0), &header[..24], big_endian);
    let sound = word(&header, 0) | 1 == MAGIC | 1
        && word(&header, 4) == FORMAT
        && (512..=65_536).contains(&page_bytes)
        && sum == (word(&header, 24), word(&header, 28));
    if !sound {
        return Ok(Some(WalFault::Header));
    }
    let mut bytes = vec![0; FRAME_HEADER_BYTES + page_bytes];
    let mut first_bad = None;
    let mut committed_since = false;
    for number in 1.. {
        if !fill(log, &mut bytes)? {
            break;
        }
        let frame = read_frame(&bytes);
        // Frames of an earlier round, which have not been overwritten yet, have other salts.
        let current = frame.salts == header[16..24];
        if first_bad.is_none() {
            let next =
                checksum(checksum(sum, &bytes[..8], big_endian), &bytes[FRAME_HEADER_BYTES..], big_endian);
            if current && next == frame.sum {
                sum = next;
                continue;
            }
            first_bad = Some(number);
        }
        if current && committed_since {
            return Ok(first_bad.map(WalFault::Frame));
        }
        committed_since |= current && frame.commits;
    }
    Ok(None)
}

/// Fills the buffer; `false` if the log ends before.
fn fill(log: &mut impl Read, buffer: &mut [u8]) -> io::Result<bool> {
    match log.read_exact(buffer) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

fn read_frame(bytes: &[u8]) -> Frame {
    let mut salts = [0; 8];
    salts.copy_from_slice(&bytes[8..16]);
    Frame { commits: word(bytes, 4) != 0, salts, sum: (word(bytes, 16), word(bytes, 20)) }
}

/// The big-endian word at this place.
fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

/// The checksum of the file format (<https://sqlite.org/fileformat2.html#checksum_algorithm>), continued from `sum`.
fn checksum(sum: (u32, u32), bytes: &[u8], big_endian: bool) -> (u32, u32) {
    let (mut first, mut second) = sum;
    for pair in bytes.chunks_exact(8) {
        let (mut left, mut right) = (word(pair, 0), word(pair, 4));
        if !big_endian {
            (left, right) = (left.swap_bytes(), right.swap_bytes());
        }
        first = first.wrapping_add(left).wrapping_add(second);
        second = second.wrapping_add(right).wrapping_add(first);
    }
    (first, second)
}
