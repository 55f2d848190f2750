//! Takes a file of this machine as [`crate::download`] takes one from elsewhere: with its digest, and only if it has
//! changed.

use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;

use crate::digest::Hasher;
use crate::download::{Downloaded, Validators};
use crate::limits::UNPACKED_BYTES_MAX;

/// Bytes that are copied at a time. Those that are all zero are left out of the copy, as images of disks have them.
const PIECE_BYTES: usize = 64 << 10;

/// Copies the file, unless it is as it was. A file that is written to meanwhile is refused.
///
/// # Errors
/// It is too large, was changed meanwhile, or the disk said no.
pub fn take_file(from: &File, known: &Validators, to: &File) -> io::Result<Downloaded> {
    let before = validators(from)?;
    if before == *known {
        return Ok(Downloaded::Unchanged);
    }
    let (mut from, mut to, mut hasher) = (from, to, Hasher::default());
    let mut piece = vec![0; PIECE_BYTES];
    loop {
        let count = from.read(&mut piece)?;
        let part = piece.get(..count).unwrap_or_default();
        if part.is_empty() {
            break;
        }
        hasher.update(part);
        if hasher.bytes() > UNPACKED_BYTES_MAX {
            return Err(io::Error::other(format!("it has more than {UNPACKED_BYTES_MAX} bytes")));
        }
        if part.iter().all(|byte| *byte == 0) {
            to.seek(SeekFrom::Current(i64::try_from(count).map_err(io::Error::other)?))?;
        } else {
            to.write_all(part)?;
        }
    }
    to.set_len(hasher.bytes())?;
    if validators(from)? != before {
        return Err(io::Error::other("it was changed while it was read"));
    }
    Ok(Downloaded::New { digest: hasher.finish(), validators: before })
}

/// What a file has another of when it has changed.
fn validators(file: &File) -> io::Result<Validators> {
    let found = file.metadata()?;
    let marks = [i128::from(found.dev()), found.ino().into(), found.len().into(), found.ctime().into()];
    let marks = marks.map(|mark| mark.to_string()).join("-");
    Ok(Validators { etag: Some(format!("{marks}.{}", found.ctime_nsec())), last_modified: None })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Digest;

    #[test]
    fn file_is_taken_with_its_holes_and_not_again_until_it_changes() {
        let mut bytes = vec![0_u8; 3 * PIECE_BYTES + 5];
        bytes[PIECE_BYTES + 1] = 7;
        let (mut from, mut to) = (tempfile::tempfile().unwrap(), tempfile::tempfile().unwrap());
        from.write_all(&bytes).unwrap();
        from.rewind().unwrap();
        let taken = take_file(&from, &Validators::default(), &to).unwrap();
        let Downloaded::New { digest, validators } = taken else { panic!("{taken:?}") };
        assert_eq!(digest, Digest::of(&bytes));
        let mut copy = Vec::new();
        to.rewind().unwrap();
        to.read_to_end(&mut copy).unwrap();
        assert_eq!(copy, bytes);
        assert_eq!(take_file(&from, &validators, &to).unwrap(), Downloaded::Unchanged);
        from.write_all(b"more").unwrap();
        from.rewind().unwrap();
        assert!(matches!(take_file(&from, &validators, &to).unwrap(), Downloaded::New { .. }));
    }
}
