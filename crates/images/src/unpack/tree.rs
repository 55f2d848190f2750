//! Writes a layer's entries below one directory, whatever their names say.
//!
//! A parent is opened by `openat2(RESOLVE_IN_ROOT)`, so links and `..` within it stay inside; then only `*at` calls on
//! the single last name follow, which never follow a link. Whiteouts take the form that overlay mounts honour.
//!
//! *Guarantees*: nothing outside of the root is read, written or linked to. Setuid bits and capabilities are set after
//! the owner, times of directories last.
//!
//! *Assumptions*: nobody else writes below the root; the caller is root.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Stat, Timespec, Timestamps, Uid, XattrFlags, chmodat,
    chownat, fchmod, fchown, fremovexattr, fsetxattr, futimens, linkat, mkdirat, mknodat, openat, openat2,
    statat, symlinkat, unlinkat, utimensat,
};
use rustix::io::Errno;

use super::entry::{Entry, Kind, Time};
use super::name::{Place, place};
use super::{NameFault, UnpackError};
use crate::implied::MARK;
use crate::limits::{DIRECTORY_PATH_BYTES_MAX, ENTRIES_MAX};
use crate::removal::Bin;

/// How a directory is opened: readable, because attributes and times cannot be set through a mere path descriptor.
const DIRECTORY: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::CLOEXEC);
const NEW_FILE: OFlags =
    OFlags::WRONLY.union(OFlags::CREATE).union(OFlags::EXCL).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);
/// Marks a directory whose lower layers are hidden.
pub(crate) const OPAQUE: &str = "trusted.overlay.opaque";
/// Bytes copied at a time.
const COPY_BYTES: usize = 64 << 10;

/// A directory that a layer is unpacked into.
pub(super) struct Tree {
    root: Rc<OwnedFd>,
    bin: Bin,
    /// The parent of the last entry: archives go directory by directory.
    last_parent: Option<(PathBuf, Rc<OwnedFd>)>,
    /// Times to set when nothing is written any more.
    directories: BTreeMap<PathBuf, Time>,
    directory_path_bytes: usize,
    /// Directories made because an entry needed them.
    implied: u64,
    buffer: Vec<u8>,
}

/// What went wrong at one name, before it is known which entry it was.
pub(super) enum Fault {
    System(&'static str, Errno),
    Read(io::Error),
    Name(NameFault),
}

type Outcome<T> = Result<T, Fault>;

/// Marks a failed system call with what it was for.
fn while_doing(doing: &'static str) -> impl FnOnce(Errno) -> Fault {
    move |fault| Fault::System(doing, fault)
}

impl Tree {
    /// `root` and `bin` are directories of the same filesystem.
    pub(super) fn new(root: OwnedFd, bin: Bin) -> Self {
        Self {
            root: Rc::new(root),
            bin,
            last_parent: None,
            directories: BTreeMap::new(),
            directory_path_bytes: 0,
            implied: 0,
            buffer: vec![0; COPY_BYTES],
        }
    }

    /// Marks the root: it is not described before an entry does.
    pub(super) fn begin(&self) -> io::Result<()> {
        Ok(fsetxattr(&*self.root, MARK, b"y", XattrFlags::empty())?)
    }

    /// Whether a directory was made that its entry did not come before, and perhaps never came.
    pub(super) const fn has_implied(&self) -> bool {
        self.implied > 0
    }

    /// Writes one entry; `body` is the content of a file.
    pub(super) fn apply(&mut self, entry: &Entry, body: &mut impl Read) -> Result<(), UnpackError> {
        let at = place(&entry.path).map_err(Fault::Name).and_then(|place| match place {
            Place::Skipped => Ok(()),
            Place::Root => self.root_entry(entry),
            Place::Whiteout { parent, name } => self.whiteout(&parent, &name),
            Place::Opaque { parent } => self.hide_below(&parent),
            Place::Ordinary { parent, name } => self.ordinary(entry, &parent, &name, body),
        });
        at.map_err(|fault| fault.at(&entry.path))
    }

    /// Sets the times of directories and clears away what was replaced.
    pub(super) fn finish(mut self) -> Result<(), UnpackError> {
        for (path, time) in std::mem::take(&mut self.directories) {
            // A directory that was replaced since then has no time to keep.
            if let Ok(directory) = self.open_inside(&path) {
                futimens(&directory, &timestamps(time))
                    .map_err(while_doing("set its time"))
                    .map_err(|fault| fault.at(path.as_os_str().as_bytes()))?;
            }
        }
        self.bin.empty().map_err(|source| UnpackError::Clear { source: source.into() })
    }

    fn root_entry(&mut self, entry: &Entry) -> Outcome<()> {
        if entry.kind != Kind::Directory {
            return Err(Fault::Name(NameFault::Root));
        }
        let root = Rc::clone(&self.root);
        self.adorn_directory(&root, entry)?;
        describe(&root)?;
        self.remember_time(PathBuf::from("."), entry.modified)
    }

    fn ordinary(&mut self, entry: &Entry, parent: &Path, name: &OsStr, body: &mut impl Read) -> Outcome<()> {
        if entry.kind == Kind::Device {
            tracing::debug!(path = %parent.join(name).display(), "device node of an image left out");
            return Ok(());
        }
        let directory = self.open_parent(parent)?;
        match entry.kind {
            Kind::Directory => self.directory(entry, parent, &directory, name),
            Kind::File => self.file(entry, &directory, name, body),
            Kind::Symlink => self.symlink(entry, &directory, name),
            Kind::Hardlink => self.hardlink(entry, &directory, name),
            Kind::Fifo => self.fifo(entry, &directory, name),
            Kind::Device => Ok(()),
        }
    }

    fn directory(&mut self, entry: &Entry, parent: &Path, at: &OwnedFd, name: &OsStr) -> Outcome<()> {
        let before = look(at, name)?;
        let is_directory = before.as_ref().is_some_and(|stat| file_type(stat) == FileType::Directory);
        if !is_directory {
            let hides = before.as_ref().is_some_and(is_whiteout);
            self.clear(at, name, before.as_ref())?;
            self.make_directory(at, name, hides)?;
        }
        let directory = openat(at, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
            .map_err(while_doing("open the directory"))?;
        self.adorn_directory(&directory, entry)?;
        if self.implied > 0 {
            describe(&directory)?;
        }
        self.remember_time(parent.join(name), entry.modified)
    }

    fn file(&mut self, entry: &Entry, at: &OwnedFd, name: &OsStr, body: &mut impl Read) -> Outcome<()> {
        let create = || openat(at, name, NEW_FILE, Mode::RUSR | Mode::WUSR);
        let created = match create() {
            // Rarely: to look first would cost a call for every file.
            Err(Errno::EXIST) => {
                self.make_room(at, name)?;
                create()
            }
            other => other,
        };
        let file = created.map_err(while_doing("create the file"))?;
        let mut file = std::fs::File::from(file);
        let mut copied = 0;
        loop {
            let count = body.read(&mut self.buffer).map_err(Fault::Read)?;
            if count == 0 {
                break;
            }
            let written = file.write_all(&self.buffer[..count]);
            written.map_err(|fault| Fault::System("write the file", errno(&fault)))?;
            copied += count as u64;
        }
        if copied != entry.size {
            return Err(Fault::Read(io::ErrorKind::UnexpectedEof.into()));
        }
        let (owner, group) = owners(entry);
        fchown(&file, owner, group).map_err(while_doing("set its owner"))?;
        fchmod(&file, mode(entry)).map_err(while_doing("set its mode"))?;
        set_xattrs(&file, entry)?;
        futimens(&file, &timestamps(entry.modified)).map_err(while_doing("set its time"))
    }

    fn symlink(&mut self, entry: &Entry, at: &OwnedFd, name: &OsStr) -> Outcome<()> {
        if entry.link.is_empty() || entry.link.contains(&0) {
            return Err(Fault::Name(NameFault::LinkTarget));
        }
        self.make_room(at, name)?;
        symlinkat(entry.link.as_slice(), at, name).map_err(while_doing("create the link"))?;
        let (owner, group) = owners(entry);
        chownat(at, name, owner, group, AtFlags::SYMLINK_NOFOLLOW).map_err(while_doing("set its owner"))?;
        utimensat(at, name, &timestamps(entry.modified), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(while_doing("set its time"))
    }

    /// Links to another name inside the root; a link as target is linked itself, not what it points to.
    fn hardlink(&mut self, entry: &Entry, at: &OwnedFd, name: &OsStr) -> Outcome<()> {
        let Place::Ordinary { parent, name: target } = place(&entry.link).map_err(Fault::Name)? else {
            return Err(Fault::Name(NameFault::LinkTarget));
        };
        let from = self.open_inside(&parent).map_err(while_doing("find the target of the hard link"))?;
        let stat = look(&from, &target)?.filter(|stat| !is_whiteout(stat));
        let stat = stat.ok_or(Errno::NOENT).map_err(while_doing("find the target of the hard link"))?;
        let same = |other: &Stat| other.st_ino == stat.st_ino && other.st_dev == stat.st_dev;
        if look(at, name)?.as_ref().is_some_and(same) {
            return Ok(());
        }
        self.make_room(at, name)?;
        linkat(&from, &*target, at, name, AtFlags::empty()).map_err(while_doing("create the hard link"))
    }

    fn fifo(&mut self, entry: &Entry, at: &OwnedFd, name: &OsStr) -> Outcome<()> {
        self.make_room(at, name)?;
        mknodat(at, name, FileType::Fifo, Mode::RUSR, 0).map_err(while_doing("create the pipe"))?;
        let (owner, group) = owners(entry);
        chownat(at, name, owner, group, AtFlags::SYMLINK_NOFOLLOW).map_err(while_doing("set its owner"))?;
        // Follows links, but the name is the pipe made above and nobody else writes here.
        chmodat(at, name, mode(entry), AtFlags::empty()).map_err(while_doing("set its mode"))?;
        utimensat(at, name, &timestamps(entry.modified), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(while_doing("set its time"))
    }

    /// Hides `name` of the lower layers. What this layer itself has there stays, and hides by being there.
    fn whiteout(&mut self, parent: &Path, name: &OsStr) -> Outcome<()> {
        let at = self.open_parent(parent)?;
        match look(&at, name)? {
            None => mknodat(&*at, name, FileType::CharacterDevice, Mode::empty(), 0)
                .map_err(while_doing("create the whiteout")),
            Some(stat) if file_type(&stat) == FileType::Directory => {
                let directory = openat(&*at, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
                    .map_err(while_doing("open the directory"))?;
                set_opaque(&directory)
            }
            Some(_) => Ok(()),
        }
    }

    /// Hides everything of the lower layers in `directory`.
    fn hide_below(&mut self, directory: &Path) -> Outcome<()> {
        let at = self.open_parent(directory)?;
        set_opaque(&at)
    }

    /// Opens a directory by its path inside the root; links on the way are followed, but never out of it.
    fn open_inside(&self, path: &Path) -> rustix::io::Result<OwnedFd> {
        let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS;
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        openat2(&*self.root, path, DIRECTORY, Mode::empty(), resolve)
    }

    /// Opens the directory that an entry goes into; makes it, and those above it, if they are missing.
    fn open_parent(&mut self, parent: &Path) -> Outcome<Rc<OwnedFd>> {
        if parent.as_os_str().is_empty() {
            return Ok(Rc::clone(&self.root));
        }
        if let Some((path, directory)) = &self.last_parent
            && path == parent
        {
            return Ok(Rc::clone(directory));
        }
        let directory = match self.open_inside(parent) {
            Ok(directory) => Rc::new(directory),
            Err(Errno::NOENT | Errno::NOTDIR) => self.make_parents(parent)?,
            Err(fault) => return Err(Fault::System("open its directory", fault)),
        };
        self.last_parent = Some((parent.to_owned(), Rc::clone(&directory)));
        Ok(directory)
    }

    fn make_parents(&mut self, parent: &Path) -> Outcome<Rc<OwnedFd>> {
        let mut at = Rc::clone(&self.root);
        let mut path = PathBuf::new();
        for name in parent {
            path.push(name);
            at = match self.open_inside(&path) {
                Ok(directory) => Rc::new(directory),
                Err(Errno::NOENT | Errno::NOTDIR) => Rc::new(self.make_implied(&at, name)?),
                Err(fault) => return Err(Fault::System("open its directory", fault)),
            };
        }
        Ok(at)
    }

    /// A directory that no entry describes; only a whiteout may have its place.
    fn make_implied(&mut self, at: &OwnedFd, name: &OsStr) -> Outcome<OwnedFd> {
        self.implied += 1;
        if self.implied > ENTRIES_MAX {
            return Err(Fault::Name(NameFault::TooManyDirectories));
        }
        let before = look(at, name)?;
        match &before {
            None => {}
            Some(stat) if is_whiteout(stat) => self.clear(at, name, Some(stat))?,
            Some(_) => return Err(Fault::System("make its directory", Errno::NOTDIR)),
        }
        self.make_directory(at, name, before.is_some())?;
        let directory = openat(at, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
            .map_err(while_doing("open its directory"))?;
        // Not by mkdir, which the process's umask would narrow.
        fchmod(&directory, Mode::from_raw_mode(0o755)).map_err(while_doing("set its directory's mode"))?;
        mark(&directory)?;
        Ok(directory)
    }

    fn make_directory(&mut self, at: &OwnedFd, name: &OsStr, hides: bool) -> Outcome<()> {
        mkdirat(at, name, Mode::RWXU).map_err(while_doing("create the directory"))?;
        if hides {
            let directory = openat(at, name, DIRECTORY | OFlags::NOFOLLOW, Mode::empty())
                .map_err(while_doing("open the directory"))?;
            set_opaque(&directory)?;
        }
        Ok(())
    }

    /// Removes what has the name, so that it can be created anew.
    fn make_room(&mut self, at: &OwnedFd, name: &OsStr) -> Outcome<()> {
        let before = look(at, name)?;
        self.clear(at, name, before.as_ref())
    }

    fn clear(&mut self, at: &OwnedFd, name: &OsStr, before: Option<&Stat>) -> Outcome<()> {
        let Some(stat) = before else { return Ok(()) };
        // Its path may lead elsewhere from now on.
        self.last_parent = None;
        if file_type(stat) == FileType::Directory {
            return self.bin.take(at, name).map_err(while_doing("replace the directory"));
        }
        unlinkat(at, name, AtFlags::empty()).map_err(while_doing("replace it"))
    }

    fn adorn_directory(&mut self, directory: &OwnedFd, entry: &Entry) -> Outcome<()> {
        let (owner, group) = owners(entry);
        fchown(directory, owner, group).map_err(while_doing("set its owner"))?;
        fchmod(directory, mode(entry)).map_err(while_doing("set its mode"))?;
        set_xattrs(directory, entry)
    }

    fn remember_time(&mut self, path: PathBuf, time: Time) -> Outcome<()> {
        let bytes = path.as_os_str().len();
        if self.directories.insert(path, time).is_none() {
            self.directory_path_bytes += bytes;
        }
        if self.directory_path_bytes > DIRECTORY_PATH_BYTES_MAX {
            return Err(Fault::Name(NameFault::TooManyDirectories));
        }
        Ok(())
    }
}

impl Fault {
    fn at(self, path: &[u8]) -> UnpackError {
        let path = super::readable(path);
        match self {
            Self::System(doing, fault) => {
                UnpackError::Write { path, doing, source: io::Error::from(fault).into() }
            }
            Self::Read(source) => UnpackError::of_stream(source),
            Self::Name(fault) => UnpackError::Name { path, fault },
        }
    }
}

fn errno(fault: &io::Error) -> Errno {
    Errno::from_io_error(fault).unwrap_or(Errno::IO)
}

/// What has the name, not following it.
fn look(at: &OwnedFd, name: &OsStr) -> Outcome<Option<Stat>> {
    match statat(at, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(fault) => Err(Fault::System("look it up", fault)),
    }
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

fn is_whiteout(stat: &Stat) -> bool {
    file_type(stat) == FileType::CharacterDevice && stat.st_rdev == 0
}

fn set_opaque(directory: &OwnedFd) -> Outcome<()> {
    fsetxattr(directory, OPAQUE, b"y", XattrFlags::empty()).map_err(while_doing("hide lower layers"))
}

/// Sets the attributes that mean something inside an image; those that steer an overlay mount are left out, as are
/// labels of the machine that built it.
/// Marks a directory as one that no entry describes.
fn mark(directory: &OwnedFd) -> Outcome<()> {
    fsetxattr(directory, MARK, b"y", XattrFlags::empty()).map_err(while_doing("mark its directory"))
}

/// An entry describes the directory.
fn describe(directory: &OwnedFd) -> Outcome<()> {
    match fremovexattr(directory, MARK) {
        Ok(()) | Err(Errno::NODATA) => Ok(()),
        Err(fault) => Err(Fault::System("mark the directory", fault)),
    }
}

fn set_xattrs(file: impl std::os::fd::AsFd, entry: &Entry) -> Outcome<()> {
    for (name, value) in &entry.xattrs {
        let is_user = name.starts_with(b"user.") && !name.starts_with(b"user.overlay.");
        let is_capability = name == b"security.capability";
        if !is_user && !is_capability {
            continue;
        }
        match fsetxattr(&file, name.as_slice(), value, XattrFlags::empty()) {
            // The filesystem has no such attributes: programs live without, but not without a capability.
            Err(Errno::NOTSUP) if is_user => {}
            done => done.map_err(while_doing("set an extended attribute"))?,
        }
    }
    Ok(())
}

fn owners(entry: &Entry) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(entry.uid)), Some(Gid::from_raw(entry.gid)))
}

fn mode(entry: &Entry) -> Mode {
    Mode::from_raw_mode(entry.mode)
}

fn timestamps(time: Time) -> Timestamps {
    let time = Timespec { tv_sec: time.seconds, tv_nsec: time.nanoseconds };
    Timestamps { last_access: time, last_modification: time }
}
