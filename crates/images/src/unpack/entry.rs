//! Reads the entries of a layer's tar, with pax and GNU long-name headers folded in.
//!
//! Where readers of tar differ in what they make of an archive (two sizes, two names, an extension without an entry),
//! the archive is refused instead of guessed at. Extended headers are held in memory, so they have a limit.

use std::io::{self, Read};

use crate::limits::{ENTRIES_MAX, EXTENDED_HEADER_BYTES_MAX};

/// A tar archive that is malformed, ambiguous or too large; travels inside an [`io::Error`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum TarFault {
    #[error("an extended header of {0} bytes; at most {EXTENDED_HEADER_BYTES_MAX} are accepted")]
    ExtendedHeader(u64),
    #[error("more than {ENTRIES_MAX} entries")]
    Entries,
    #[error("a malformed pax header")]
    Pax,
    #[error("two {0} headers for one entry")]
    Twice(&'static str),
    #[error("an extended header without an entry")]
    Dangling,
    #[error("two different sizes for one entry")]
    Size,
    #[error("two different names for one entry")]
    Name,
    #[error("a global header that changes {0:?} of all entries")]
    Global(String),
    #[error("a sparse file, which is not supported")]
    Sparse,
    #[error("an entry of the unknown type {0:?}")]
    Kind(char),
    #[error("an entry of type {0:?} that carries data")]
    Data(char),
    #[error("an owner outside of 32 bits")]
    Owner,
}

impl From<TarFault> for io::Error {
    fn from(fault: TarFault) -> Self {
        Self::new(io::ErrorKind::InvalidData, fault)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    File,
    Symlink,
    Hardlink,
    Fifo,
    Device,
}

/// Seconds and nanoseconds since 1970.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Time {
    pub(crate) seconds: i64,
    pub(crate) nanoseconds: i64,
}

/// What an entry says about itself; names are raw bytes as the archive has them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) path: Vec<u8>,
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) modified: Time,
    pub(crate) size: u64,
    /// Extended attributes by full name.
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

/// The entries of an archive, in order.
pub(crate) struct Entries<'a, R: 'a + Read> {
    raw: tar::Entries<'a, R>,
    seen: u64,
    limit: u64,
}

/// Extended headers that wait for their entry.
#[derive(Default)]
struct Pending {
    pax: Option<Pax>,
    name: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
}

#[derive(Default)]
struct Pax {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    modified: Option<Time>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl<'a, R: Read> Entries<'a, R> {
    pub(crate) fn of(archive: &'a mut tar::Archive<R>, limit: u64) -> io::Result<Self> {
        Ok(Self { raw: archive.entries()?.raw(true), seen: 0, limit })
    }

    /// The next entry and its content.
    pub(crate) fn next(&mut self) -> io::Result<Option<(Entry, tar::Entry<'a, R>)>> {
        let mut pending = Pending::default();
        for raw in self.raw.by_ref() {
            let mut raw = raw?;
            self.seen += 1;
            if self.seen > self.limit {
                return Err(TarFault::Entries.into());
            }
            match raw.header().as_bytes()[156] {
                b'x' => {
                    let pax = parse_pax(&read_extended(&mut raw)?)?;
                    put_once(&mut pending.pax, pax, "pax")?;
                }
                b'g' => check_global(&read_extended(&mut raw)?)?,
                b'L' => {
                    let name = read_long_name(&mut raw)?;
                    put_once(&mut pending.name, name, "long name")?;
                }
                b'K' => {
                    let link = read_long_name(&mut raw)?;
                    put_once(&mut pending.link, link, "long link")?;
                }
                _ => return Ok(Some((describe(&raw, pending)?, raw))),
            }
        }
        if pending.pax.is_some() || pending.name.is_some() || pending.link.is_some() {
            return Err(TarFault::Dangling.into());
        }
        Ok(None)
    }
}

fn put_once<T>(slot: &mut Option<T>, value: T, what: &'static str) -> Result<(), TarFault> {
    match slot.replace(value) {
        None => Ok(()),
        Some(_) => Err(TarFault::Twice(what)),
    }
}

fn read_extended(raw: &mut tar::Entry<'_, impl Read>) -> io::Result<Vec<u8>> {
    let size = raw.header().entry_size()?;
    if size > EXTENDED_HEADER_BYTES_MAX {
        return Err(TarFault::ExtendedHeader(size).into());
    }
    let mut bytes = Vec::new();
    raw.read_to_end(&mut bytes)?;
    if bytes.len() as u64 == size { Ok(bytes) } else { Err(io::ErrorKind::UnexpectedEof.into()) }
}

fn read_long_name(raw: &mut tar::Entry<'_, impl Read>) -> io::Result<Vec<u8>> {
    let mut name = read_extended(raw)?;
    if let Some(end) = name.iter().position(|byte| *byte == 0) {
        name.truncate(end);
    }
    Ok(name)
}

fn describe(raw: &tar::Entry<'_, impl Read>, pending: Pending) -> io::Result<Entry> {
    let header = raw.header();
    let pax = pending.pax.unwrap_or_default();
    let size = header.entry_size()?;
    if pax.size.is_some_and(|other| other != size) {
        return Err(TarFault::Size.into());
    }
    let path = one_name(pax.path, pending.name)?.unwrap_or_else(|| header.path_bytes().into_owned());
    let link = one_name(pax.link, pending.link)?
        .unwrap_or_else(|| header.link_name_bytes().map(|name| name.into_owned()).unwrap_or_default());
    let kind = kind_of(header.as_bytes()[156], &path, size)?;
    let modified = match pax.modified {
        Some(time) => time,
        // Out of range only by a base-256 number that no clock shows.
        None => Time {
            seconds: i64::try_from(field(header, 136..148, tar::Header::mtime)?).unwrap_or(0),
            nanoseconds: 0,
        },
    };
    let mode = field(header, 100..108, |header| header.mode().map(u64::from))?;
    Ok(Entry {
        path,
        link,
        kind,
        mode: u32::try_from(mode & 0o7777).unwrap_or_default(),
        uid: owner(pax.uid.map_or_else(|| field(header, 108..116, tar::Header::uid), Ok)?)?,
        gid: owner(pax.gid.map_or_else(|| field(header, 116..124, tar::Header::gid), Ok)?)?,
        modified,
        size,
        xattrs: pax.xattrs,
    })
}

/// A number of the header; a blank field is 0, as for other readers.
fn field(
    header: &tar::Header,
    bytes: std::ops::Range<usize>,
    read: impl Fn(&tar::Header) -> io::Result<u64>,
) -> io::Result<u64> {
    let blank = header.as_bytes()[bytes].iter().all(|byte| matches!(byte, 0 | b' '));
    if blank { Ok(0) } else { read(header) }
}

/// The name from a pax header and that from a GNU header, which must not differ.
fn one_name(pax: Option<Vec<u8>>, gnu: Option<Vec<u8>>) -> Result<Option<Vec<u8>>, TarFault> {
    match (pax, gnu) {
        (Some(pax), Some(gnu)) if pax != gnu => Err(TarFault::Name),
        (Some(name), _) | (None, Some(name)) => Ok(Some(name)),
        (None, None) => Ok(None),
    }
}

fn kind_of(flag: u8, path: &[u8], size: u64) -> Result<Kind, TarFault> {
    let kind = match flag {
        // Before 1988 a directory was a file whose name ends in a slash.
        0 | b'0' | b'7' if path.ends_with(b"/") => Kind::Directory,
        0 | b'0' | b'7' => Kind::File,
        b'1' => Kind::Hardlink,
        b'2' => Kind::Symlink,
        b'3' | b'4' => Kind::Device,
        b'5' => Kind::Directory,
        b'6' => Kind::Fifo,
        b'S' => return Err(TarFault::Sparse),
        other => return Err(TarFault::Kind(char::from(other))),
    };
    if kind != Kind::File && size > 0 { Err(TarFault::Data(char::from(flag))) } else { Ok(kind) }
}

/// `u32::MAX` means "leave it" to the kernel, so it is no owner.
fn owner(id: u64) -> Result<u32, TarFault> {
    u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or(TarFault::Owner)
}

fn parse_pax(bytes: &[u8]) -> Result<Pax, TarFault> {
    let mut pax = Pax::default();
    for_each_record(bytes, |key, value| {
        let number =
            || std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or(TarFault::Pax);
        // An empty value takes the key back, so that the plain header counts again.
        match key {
            b"path" => pax.path = (!value.is_empty()).then(|| value.to_vec()),
            b"linkpath" => pax.link = (!value.is_empty()).then(|| value.to_vec()),
            b"size" => pax.size = if value.is_empty() { None } else { Some(number()?) },
            b"uid" => pax.uid = if value.is_empty() { None } else { Some(number()?) },
            b"gid" => pax.gid = if value.is_empty() { None } else { Some(number()?) },
            b"mtime" => pax.modified = if value.is_empty() { None } else { Some(parse_time(value)?) },
            _ if key.starts_with(b"GNU.sparse.") => return Err(TarFault::Sparse),
            _ => {
                if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                    pax.xattrs.retain(|(earlier, _)| earlier != name);
                    pax.xattrs.push((name.to_vec(), value.to_vec()));
                }
            }
        }
        Ok(())
    })?;
    Ok(pax)
}

/// A global header may carry a comment; one that changes every entry's name or size is read differently by everybody.
fn check_global(bytes: &[u8]) -> Result<(), TarFault> {
    for_each_record(bytes, |key, _| match key {
        b"path" | b"linkpath" | b"size" | b"uid" | b"gid" => {
            Err(TarFault::Global(String::from_utf8_lossy(key).into_owned()))
        }
        _ => Ok(()),
    })
}

/// Walks the records `LENGTH KEY=VALUE\n` of a pax header. Values may hold any bytes.
fn for_each_record(
    mut bytes: &[u8],
    mut visit: impl FnMut(&[u8], &[u8]) -> Result<(), TarFault>,
) -> Result<(), TarFault> {
    while !bytes.is_empty() {
        let space = bytes.iter().take(20).position(|byte| *byte == b' ').ok_or(TarFault::Pax)?;
        let digits = std::str::from_utf8(&bytes[..space]).map_err(|_| TarFault::Pax)?;
        let length: usize = digits.parse().map_err(|_| TarFault::Pax)?;
        let record = bytes.get(space + 1..length).ok_or(TarFault::Pax)?;
        let record = record.strip_suffix(b"\n").ok_or(TarFault::Pax)?;
        let equals = record.iter().position(|byte| *byte == b'=').ok_or(TarFault::Pax)?;
        visit(&record[..equals], &record[equals + 1..])?;
        bytes = &bytes[length..];
    }
    Ok(())
}

/// Decimal seconds with an optional fraction: `1700000000.123456789`, `-1.5`.
fn parse_time(value: &[u8]) -> Result<Time, TarFault> {
    let text = std::str::from_utf8(value).map_err(|_| TarFault::Pax)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = whole.parse().map_err(|_| TarFault::Pax)?;
    if !fraction.bytes().all(|byte| byte.is_ascii_digit()) {
        return Err(TarFault::Pax);
    }
    let padded: String = fraction.chars().chain("000000000".chars()).take(9).collect();
    let nanoseconds: i64 = padded.parse().map_err(|_| TarFault::Pax)?;
    if !whole.starts_with('-') || nanoseconds == 0 {
        return Ok(Time { seconds, nanoseconds });
    }
    Ok(Time { seconds: seconds.saturating_sub(1), nanoseconds: 1_000_000_000 - nanoseconds })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(key: &str, value: &[u8]) -> Vec<u8> {
        let rest = key.len() + value.len() + 3;
        let mut length = rest + 1;
        while length.to_string().len() + rest != length {
            length += 1;
        }
        [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
    }

    #[test]
    fn pax_records_hold_any_bytes_and_empty_values() {
        let bytes = [
            record("path", b"old"),
            record("path", b"line\nbreak\xff"),
            record("linkpath", b""),
            record("SCHILY.xattr.user.empty", b""),
            record("SCHILY.xattr.user.nul", b"\0=\n"),
            record("mtime", b"-1.25"),
            record("comment", b"x"),
        ]
        .concat();
        let pax = parse_pax(&bytes).unwrap();
        assert_eq!(pax.path.unwrap(), b"line\nbreak\xff");
        assert_eq!(pax.link, None);
        assert_eq!(pax.xattrs[0], (b"user.empty".to_vec(), Vec::new()));
        assert_eq!(pax.xattrs[1], (b"user.nul".to_vec(), b"\0=\n".to_vec()));
        assert_eq!(pax.modified, Some(Time { seconds: -2, nanoseconds: 750_000_000 }));
    }

    #[test]
    fn a_malformed_pax_header_is_refused() {
        let cases: [&[u8]; 8] = [
            b"x",
            b"5 a=b",
            b"99 a=b\n",
            b"6 a=bc\n",
            b"5 ab\n",
            b"-5 a=b\n",
            b"0 a=b\n",
            b"18446744073709551615 a=b\n",
        ];
        for bytes in cases {
            assert!(parse_pax(bytes).is_err(), "{:?}", String::from_utf8_lossy(bytes));
        }
        for value in ["x", "1.x", "1..2", ""] {
            let parsed = parse_pax(&record("mtime", value.as_bytes()));
            assert_eq!(parsed.is_err(), !value.is_empty(), "{value}");
        }
        assert!(parse_pax(&record("size", b"-1")).is_err());
        assert!(check_global(&record("path", b"x")).is_err());
        assert!(check_global(&record("comment", b"x")).is_ok());
    }
}
