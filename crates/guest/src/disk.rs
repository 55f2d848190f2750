//! What is on a disk, by the marks that file systems have. Pure.

/// How much of a disk's beginning has to be looked at, in bytes.
pub const HEAD_BYTES: usize = 2048;
/// Marks of the file systems that a guest's kernel mounts: where each is, and what the kernel calls it.
const MARKS: [(usize, &[u8], &str); 3] =
    [(1024, &[0xe2, 0xe1, 0xf5, 0xe0], "erofs"), (0, b"hsqs", "squashfs"), (1080, &[0x53, 0xef], "ext4")];

/// The file system on a disk that begins so; None if it is none that is known.
#[must_use]
pub fn file_system(head: &[u8]) -> Option<&'static str> {
    let found = MARKS.iter().find(|(at, mark, _)| head.get(*at..at + mark.len()) == Some(*mark));
    found.map(|(_, _, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn file_system_is_known_by_its_mark_and_by_nothing_else() {
        let kind = |at: usize, mark: &[u8]| {
            let mut bytes = vec![0_u8; HEAD_BYTES];
            bytes.get_mut(at..at + mark.len()).unwrap().copy_from_slice(mark);
            file_system(&bytes)
        };
        assert_eq!(kind(1024, &0xe0f5_e1e2_u32.to_le_bytes()), Some("erofs"));
        assert_eq!(kind(0, b"hsqs"), Some("squashfs"));
        assert_eq!(kind(1080, &0xef53_u16.to_le_bytes()), Some("ext4"));
        assert_eq!(kind(0, b"QFI\xfb"), None);
        assert_eq!(file_system(b""), None);
    }
}
