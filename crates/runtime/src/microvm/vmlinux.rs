//! A kernel as Firecracker takes it: the program (`vmlinux`, ELF) that a distribution's `bzImage` has packed in it.
//!
//! ```text
//!  bzImage:  boot sector and setup ┊ code that unpacks ┊ payload, packed ┊ …
//!            └ 0x1f1: sectors of setup; 0x248, 0x24c: where the payload is behind them, and its length
//! ```
//! After the boot protocol of the kernel's documentation (x86/boot.rst, 2.08 and later).

use std::{
    fs::File,
    io::{self, Read},
    path::Path,
};

/// Largest kernel, packed or not.
const MAX_BYTES: u64 = 512 << 20;
/// What an ELF file begins with.
const ELF: &[u8] = b"\x7fELF";
/// Bytes of a sector.
const SECTOR: usize = 512;
/// Largest part of a kernel that is packed by LZ4 in one piece, unpacked.
const LZ4_PIECE: usize = 8 << 20;

/// The program of a kernel's file.
///
/// # Errors
/// It cannot be read, or is packed in a way that is not known here; in words.
pub(super) fn unpacked(path: &Path) -> io::Result<Vec<u8>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes)).map_err(named)?;
    if bytes.starts_with(ELF) {
        return Ok(bytes);
    }
    let payload = payload(&bytes).ok_or_else(|| named(odd("it is neither an ELF file nor a bzImage")))?;
    let program = unpack(payload).map_err(named)?;
    if program.starts_with(ELF) {
        Ok(program)
    } else {
        Err(named(odd("what is packed in it is no ELF file")))
    }
}

fn odd(why: &'static str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why)
}

fn payload(image: &[u8]) -> Option<&[u8]> {
    if image.get(0x202..0x206)? != b"HdrS" {
        return None;
    }
    let number = |at: usize| {
        let bytes = image.get(at..at + 4)?.first_chunk::<4>()?;
        usize::try_from(u32::from_le_bytes(*bytes)).ok()
    };
    // None means four, for an old reason.
    let setup = match *image.get(0x1f1)? {
        0 => 4,
        sectors => usize::from(sectors),
    };
    let begin = ((setup + 1) * SECTOR).checked_add(number(0x248)?)?;
    image.get(begin..begin.checked_add(number(0x24c)?)?)
}

fn unpack(payload: &[u8]) -> io::Result<Vec<u8>> {
    let mut program = Vec::new();
    match payload {
        [0x1f, 0x8b, ..] => {
            flate2::read::GzDecoder::new(payload).take(MAX_BYTES).read_to_end(&mut program)?
        }
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            // One frame: what follows it is the length.
            let unpacking = zstd::stream::read::Decoder::new(payload)?.single_frame();
            unpacking.take(MAX_BYTES).read_to_end(&mut program)?
        }
        [0xfd, b'7', b'z', b'X', b'Z', 0, ..] => {
            lzma_rust2::XzReader::new(payload, false).take(MAX_BYTES).read_to_end(&mut program)?
        }
        [0x02, 0x21, 0x4c, 0x18, pieces @ ..] => return unpack_lz4(pieces),
        _ => {
            return Err(odd(
                "it is packed in a way that is not known here (gzip, xz, LZ4 and Zstandard are)",
            ));
        }
    };
    Ok(program)
}

/// The form of `lz4 -l`: pieces, each after its length; behind them the length of the whole.
fn unpack_lz4(mut pieces: &[u8]) -> io::Result<Vec<u8>> {
    let mut program = Vec::new();
    let mut piece = vec![0; LZ4_PIECE];
    while let Some((length, rest)) = pieces.split_first_chunk::<4>()
        && !rest.is_empty()
    {
        let length = usize::try_from(u32::from_le_bytes(*length)).map_err(io::Error::other)?;
        let (packed, rest) = rest.split_at_checked(length).ok_or_else(|| odd("it is cut off"))?;
        let count = lz4_flex::block::decompress_into(packed, &mut piece)
            .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
        program.extend_from_slice(piece.get(..count).unwrap_or_default());
        if program.len() as u64 > MAX_BYTES {
            return Err(odd("it is too large"));
        }
        pieces = rest;
    }
    Ok(program)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn image(payload: &[u8]) -> Vec<u8> {
        let mut image = vec![0; 3 * SECTOR + 16];
        image[0x1f1] = 2;
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x248..0x24c].copy_from_slice(&16_u32.to_le_bytes());
        image[0x24c..0x250].copy_from_slice(&u32::try_from(payload.len()).unwrap().to_le_bytes());
        image.extend_from_slice(payload);
        image.extend_from_slice(b"what comes after it");
        image
    }

    fn read(bytes: &[u8]) -> io::Result<Vec<u8>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), bytes).unwrap();
        unpacked(file.path())
    }

    #[test]
    fn kernel_comes_out_of_its_image_however_it_is_packed() {
        let kernel: Vec<u8> =
            ELF.iter().copied().chain((0..20_u32 << 20).map(|at| (at >> 9) as u8)).collect();
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&kernel).unwrap();
        let mut lz4 = vec![0x02, 0x21, 0x4c, 0x18];
        for piece in kernel.chunks(LZ4_PIECE) {
            let packed = lz4_flex::block::compress(piece);
            lz4.extend_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
            lz4.extend_from_slice(&packed);
        }
        let length = u32::try_from(kernel.len()).unwrap().to_le_bytes();
        let packed = [
            ("gzip", gzip.finish().unwrap()),
            ("lz4", [lz4.as_slice(), &length].concat()),
            ("zstd", [zstd::encode_all(kernel.as_slice(), 1).unwrap().as_slice(), &length].concat()),
        ];
        for (how, payload) in &packed {
            assert!(read(&image(payload)).unwrap() == kernel, "{how}");
        }
        assert!(read(&kernel).unwrap() == kernel, "it is not packed");
        for (bytes, why) in [
            (b"#!/bin/sh".to_vec(), "neither an ELF file nor a bzImage"),
            (image(b"BZh9"), "packed in a way that is not known"),
            (image(&packed[1].1[..5_000]), "it is cut off"),
            (image(&zstd::encode_all(&b"text"[..], 1).unwrap()), "no ELF file"),
        ] {
            let error = read(&bytes).unwrap_err().to_string();
            assert!(error.contains(why), "{error}");
        }
    }
}
