//! An unpacked layer as a tar stream again: the reverse of [`crate::unpack`].
//!
//! *Guarantee*: the same layer gives the same bytes, whatever the order in which the disk has its files.

use std::{
    collections::BTreeMap,
    ffi::{CString, OsStr},
    fs::{self, File, Metadata},
    io::{self, Read as _, Write},
    os::unix::{
        ffi::OsStrExt as _,
        fs::{FileTypeExt as _, MetadataExt as _, OpenOptionsExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{OFlags, lgetxattr, llistxattr};
use tar::{EntryType, Header};

use crate::implied;
use crate::unpack::{OPAQUE, OPAQUE_NAME, WHITEOUT_PREFIX};

/// Longest list of attributes of one file, and longest value: the kernel's own limits.
const XATTR_BYTES_MAX: usize = 64 << 10;
/// Attributes that belong to the file system and not to the image.
const NOT_OF_IMAGE: &[u8] = b"trusted.";
/// Longest name that fits into a header of its own.
const NAME_BYTES: usize = 100;

/// Writes the layer in `root` to `out`.
///
/// # Errors
/// What the disk or `out` says.
pub(crate) fn layer(root: &Path, out: impl Write) -> io::Result<()> {
    let mut packer = Packer { archive: tar::Builder::new(out), links: BTreeMap::new() };
    packer.directory(root, Path::new(""))?;
    packer.archive.into_inner()?.flush()
}

struct Packer<W: Write> {
    archive: tar::Builder<W>,
    /// Where files with several names were written first, by device and number.
    links: BTreeMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packer<W> {
    fn directory(&mut self, root: &Path, name: &Path) -> io::Result<()> {
        let path = root.join(name);
        let metadata = fs::symlink_metadata(&path)?;
        // One that the layer does not describe comes again with what is in it.
        let described = !implied::marked(&path);
        let shown = if name.as_os_str().is_empty() { Path::new("./").to_owned() } else { name.join("") };
        if described {
            self.entry((&path, &shown), &metadata, (EntryType::Directory, 0), None)?;
        }
        if lgetxattr(&path, OPAQUE, &mut [0_u8; 4]).is_ok() {
            self.mark(&name.join(OsStr::from_bytes(OPAQUE_NAME)))?;
        }
        let mut names: Vec<_> =
            fs::read_dir(&path)?.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
        names.sort_unstable();
        for own in names {
            self.file(root, name, &own)?;
        }
        Ok(())
    }

    fn file(&mut self, root: &Path, parent: &Path, own: &OsStr) -> io::Result<()> {
        let name = parent.join(own);
        let path = root.join(&name);
        let metadata = fs::symlink_metadata(&path)?;
        let kind = metadata.file_type();
        if kind.is_dir() {
            return self.directory(root, &name);
        }
        if kind.is_char_device() && metadata.rdev() == 0 {
            return self.mark(&parent.join(OsStr::from_bytes(&[WHITEOUT_PREFIX, own.as_bytes()].concat())));
        }
        if metadata.nlink() > 1 {
            let known = self.links.entry((metadata.dev(), metadata.ino())).or_insert_with(|| name.clone());
            if *known != name {
                let target = known.clone();
                return self.entry((&path, &name), &metadata, (EntryType::Link, 0), Some(&target));
            }
        }
        if kind.is_symlink() {
            let target = fs::read_link(&path)?;
            self.entry((&path, &name), &metadata, (EntryType::Symlink, 0), Some(&target))
        } else if kind.is_file() {
            self.entry((&path, &name), &metadata, (EntryType::Regular, metadata.len()), None)?;
            self.content(&path, metadata.len())
        } else if kind.is_fifo() {
            self.entry((&path, &name), &metadata, (EntryType::Fifo, 0), None)
        } else {
            Err(io::Error::other(format!("{} is of a kind that no layer has", path.display())))
        }
    }

    /// A file that means that something below is not there.
    fn mark(&mut self, name: &Path) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::Regular);
        header.set_size(0);
        header.set_mode(0o600);
        self.head(header, name, None, Vec::new())
    }

    /// Everything of a file but what it holds.
    fn entry(
        &mut self,
        (path, name): (&Path, &Path),
        metadata: &Metadata,
        (kind, size): (EntryType, u64),
        target: Option<&Path>,
    ) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(kind);
        header.set_size(size);
        header.set_mode(metadata.mode() & 0o7777);
        header.set_uid(metadata.uid().into());
        header.set_gid(metadata.gid().into());
        let mut records = Vec::new();
        match u64::try_from(metadata.mtime()) {
            Ok(seconds) if metadata.mtime_nsec() == 0 => header.set_mtime(seconds),
            _ => {
                header.set_mtime(0);
                records.push(("mtime".to_owned(), time(metadata).into_bytes()));
            }
        }
        // Another name of a file that was told of already.
        if kind != EntryType::Link {
            for (name, value) in attributes(path)? {
                records.push((format!("SCHILY.xattr.{name}"), value));
            }
        }
        self.head(header, name, target, records)
    }

    fn head(
        &mut self,
        mut header: Header,
        name: &Path,
        target: Option<&Path>,
        mut records: Vec<(String, Vec<u8>)>,
    ) -> io::Result<()> {
        let name = name.as_os_str().as_bytes();
        let target = target.map(|target| target.as_os_str().as_bytes()).unwrap_or_default();
        for (key, bytes) in [("path", name), ("linkpath", target)] {
            if bytes.len() > NAME_BYTES {
                records.push((key.to_owned(), bytes.to_vec()));
            }
        }
        let old = header.as_old_mut();
        for (field, bytes) in [(&mut old.name, name), (&mut old.linkname, target)] {
            let length = bytes.len().min(NAME_BYTES);
            if let (Some(field), Some(bytes)) = (field.get_mut(..length), bytes.get(..length)) {
                field.copy_from_slice(bytes);
            }
        }
        header.set_cksum();
        let records = records.iter().map(|(key, value)| (key.as_str(), value.as_slice()));
        self.archive.append_pax_extensions(records)?;
        self.archive.get_mut().write_all(header.as_bytes())
    }

    fn content(&mut self, path: &Path, size: u64) -> io::Result<()> {
        let flags = (OFlags::NOFOLLOW | OFlags::CLOEXEC).bits().cast_signed();
        let file = fs::OpenOptions::new().read(true).custom_flags(flags).open(path)?;
        copy_exactly(file, self.archive.get_mut(), size)?;
        pad(self.archive.get_mut(), size)
    }
}

fn copy_exactly(file: File, out: &mut impl Write, size: u64) -> io::Result<()> {
    if io::copy(&mut file.take(size), out)? == size {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "a file of a layer has changed"))
}

/// Fills up to a whole block, as every entry of a tar is.
pub(crate) fn pad(out: &mut impl Write, size: u64) -> io::Result<()> {
    const BLOCK: u64 = 512;
    let missing = size.next_multiple_of(BLOCK) - size;
    out.write_all([0; BLOCK as usize].get(..usize::try_from(missing).unwrap_or(0)).unwrap_or_default())
}

/// Seconds since 1970 with their fraction, as the extended headers of tar have them.
fn time(metadata: &Metadata) -> String {
    let (seconds, nanos) = (metadata.mtime(), metadata.mtime_nsec());
    // The fraction of a time before 1970 counts the other way.
    if seconds < 0 && nanos > 0 {
        let whole = seconds + 1;
        let sign = if whole == 0 { "-" } else { "" };
        return format!("{sign}{whole}.{:09}", 1_000_000_000 - nanos);
    }
    format!("{seconds}.{nanos:09}")
}

/// The attributes of a file that are the image's, by name.
pub(crate) fn attributes(path: &Path) -> io::Result<Vec<(String, Vec<u8>)>> {
    let mut list = vec![0_u8; XATTR_BYTES_MAX];
    let length = match llistxattr(path, &mut list) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut found = Vec::new();
    for name in list.get(..length).unwrap_or_default().split(|byte| *byte == 0) {
        if name.is_empty() || name.starts_with(NOT_OF_IMAGE) {
            continue;
        }
        let mut value = vec![0_u8; XATTR_BYTES_MAX];
        let length = lgetxattr(path, CString::new(name)?.as_c_str(), &mut value)?;
        value.truncate(length);
        found.push((String::from_utf8_lossy(name).into_owned(), value));
    }
    found.sort_unstable();
    Ok(found)
}
