//! What a microVM's kernel starts with: the guest program as `/init`, and the modules that it loads. Written as `cpio`
//! (the "newc" form of the kernel's `buffer-format.rst`), unpacked, because unpacking costs more than reading.

use std::io;

use super::kernel::{Modules, module_bytes};

/// The program inside microVMs, one static file, made by this crate's build.
pub const GUEST: &[u8] = include_bytes!(env!("RIK_GUEST"));

/// Modes and kinds of files, as in `stat`.
const DIRECTORY: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;
const PLAIN: u32 = 0o100_644;
const CHARACTERS: u32 = 0o020_600;
/// Number of the console: what the kernel gives `/init` as its standard files.
const CONSOLE: (u32, u32) = (5, 1);

/// The archive with these modules.
///
/// # Errors
/// A module cannot be read.
pub fn build(modules: &Modules) -> io::Result<Vec<u8>> {
    let mut archive = Archive::default();
    archive.add("init", PROGRAM, GUEST, (0, 0));
    archive.add("dev", DIRECTORY, &[], (0, 0));
    archive.add("dev/console", CHARACTERS, &[], CONSOLE);
    archive.add("modules", DIRECTORY, &[], (0, 0));
    for (set, paths) in [("first", &modules.first), ("other", &modules.other)] {
        archive.add(&format!("modules/{set}"), DIRECTORY, &[], (0, 0));
        for (number, path) in paths.iter().enumerate() {
            archive.add(&format!("modules/{set}/{number:02}.ko"), PLAIN, &module_bytes(path)?, (0, 0));
        }
    }
    archive.add("TRAILER!!!", 0, &[], (0, 0));
    Ok(archive.bytes)
}

#[derive(Default)]
struct Archive {
    bytes: Vec<u8>,
    files: usize,
}

impl Archive {
    fn add(&mut self, name: &str, mode: u32, content: &[u8], device: (u32, u32)) {
        self.files += 1;
        let mode = usize::try_from(mode).unwrap_or_default();
        let (major, minor) = (device.0 as usize, device.1 as usize);
        // Number, mode, owner, group, links, time, size, device of the archive (two), own device (two), name, checksum.
        let fields = [self.files, mode, 0, 0, 1, 0, content.len(), 0, 0, major, minor, name.len() + 1, 0];
        self.bytes.extend(b"070701");
        for field in fields {
            self.bytes.extend(format!("{field:08x}").bytes());
        }
        self.bytes.extend(name.bytes());
        self.bytes.push(0);
        self.pad();
        self.bytes.extend(content);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archive_begins_with_the_guest_program_and_ends_with_the_trailer() {
        let bytes = build(&Modules::default()).unwrap();
        assert!(bytes.starts_with(b"070701"));
        assert_eq!(bytes.get(110..115), Some(&b"init\0"[..]));
        assert_eq!(bytes.get(116..120), Some(&b"\x7fELF"[..]));
        assert_eq!(bytes.len() % 4, 0);
        let trailer = b"TRAILER!!!";
        assert!(bytes.windows(trailer.len()).any(|part| part == trailer));
    }

    #[test]
    fn guest_program_is_static() {
        // No PT_INTERP (3) among its program headers: nothing else has to be in a guest.
        let number = |at: usize, count: usize| {
            let bytes = GUEST.get(at..at + count).unwrap();
            bytes.iter().rev().fold(0_usize, |sum, byte| sum << 8 | usize::from(*byte))
        };
        let (headers, size, count) = (number(32, 8), number(54, 2), number(56, 2));
        assert!((0..count).all(|header| number(headers + header * size, 4) != 3));
    }
}
