//! From a file or a directory to an archive.

use std::{
    ffi::OsString,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Read, Write},
    os::unix::{ffi::OsStringExt as _, fs::OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use tar::{Builder, EntryType, Header};

use crate::CopyError;

/// Most bytes of a file whose length the system does not tell, such as those in `/proc`.
const MAX_UNTOLD_BYTES: u64 = 1 << 20;

/// Packs the file or directory at `path`. A link there is followed; links inside of a directory are packed as links.
/// Sockets, pipes and devices inside of it are left out.
///
/// # Errors
/// Something cannot be read, or the archive cannot be written.
pub fn pack(path: &Path, archive: impl Write) -> Result<(), CopyError> {
    let meta = fs::metadata(path).map_err(read(path))?;
    if !meta.is_file() && !meta.is_dir() {
        return Err(CopyError::NoFile { path: path.to_owned() });
    }
    let mut builder = Builder::new(archive);
    let mut waiting = vec![(path.to_owned(), PathBuf::from(name_of(path)), meta)];
    while let Some((path, name, meta)) = waiting.pop() {
        if meta.is_dir() {
            append(&mut builder, &name, header(&meta, EntryType::Directory), io::empty())?;
            for entry in fs::read_dir(&path).map_err(read(&path))? {
                let entry = entry.map_err(read(&path))?;
                let meta = entry.metadata().map_err(read(&entry.path()))?;
                waiting.push((entry.path(), name.join(entry.file_name()), meta));
            }
        } else if meta.is_file() {
            pack_file(&mut builder, &path, &name)?;
        } else if meta.is_symlink() {
            let target = fs::read_link(&path).map_err(read(&path))?;
            let mut header = header(&meta, EntryType::Symlink);
            builder.append_link(&mut header, &name, target).map_err(broken)?;
        }
    }
    builder.into_inner().and_then(|mut archive| archive.flush()).map_err(broken)
}

fn pack_file(builder: &mut Builder<impl Write>, path: &Path, name: &Path) -> Result<(), CopyError> {
    // It may have become a pipe meanwhile, which would not be waited for.
    let flags = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    let mut file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(read(path))?;
    let meta = file.metadata().map_err(read(path))?;
    let mut header = header(&meta, EntryType::Regular);
    if meta.len() == 0 {
        let mut all = Vec::new();
        (&mut file).take(MAX_UNTOLD_BYTES).read_to_end(&mut all).map_err(read(path))?;
        header.set_size(all.len() as u64);
        return append(builder, name, header, all.as_slice());
    }
    header.set_size(meta.len());
    append(builder, name, header, Promised { file, left: meta.len() })
}

fn append(
    builder: &mut Builder<impl Write>,
    name: &Path,
    mut header: Header,
    data: impl Read,
) -> Result<(), CopyError> {
    builder.append_data(&mut header, name, data).map_err(broken)
}

/// A file with the length that was promised: a longer one is cut, a shorter one is filled up.
struct Promised {
    file: File,
    left: u64,
}

impl Read for Promised {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let most = usize::try_from(self.left).map_or(into.len(), |left| left.min(into.len()));
        let Some(into) = into.get_mut(..most) else { return Ok(0) };
        let mut count = self.file.read(into)?;
        if count == 0 {
            into.fill(0);
            count = into.len();
        }
        self.left -= count as u64;
        Ok(count)
    }
}

fn header(meta: &Metadata, kind: EntryType) -> Header {
    let mut header = Header::new_gnu();
    header.set_metadata(meta);
    header.set_entry_type(kind);
    header.set_size(0);
    header
}

/// The name that it has where it is; of the root, and of `.`, something that stands for it.
fn name_of(path: &Path) -> OsString {
    let real = || fs::canonicalize(path).ok()?.file_name().map(OsString::from);
    path.file_name().map(OsString::from).or_else(real).unwrap_or_else(|| OsString::from_vec(b"root".to_vec()))
}

fn read(path: &Path) -> impl FnOnce(io::Error) -> CopyError + '_ {
    move |source| CopyError::Read { path: path.to_owned(), source }
}

const fn broken(source: io::Error) -> CopyError {
    CopyError::Broken { source }
}
