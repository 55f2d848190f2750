//! Removes trees of any depth and shape that somebody else made.
//!
//! A recursion holds a descriptor and a stack frame for each level, which a hostile tree exhausts. Here a directory's
//! children are moved up into one flat bin before it is removed, so depth costs nothing. Nothing is followed.

use std::ffi::OsString;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, Dir, Mode, OFlags, mkdir, open, openat, renameat, rmdir, unlinkat};
use rustix::io::Errno;

const DIRECTORY: OFlags =
    OFlags::RDONLY.union(OFlags::DIRECTORY).union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A directory that takes what shall vanish.
#[derive(Debug)]
pub(crate) struct Bin {
    directory: OwnedFd,
    next: u64,
}

impl Bin {
    /// Opens the bin at `path`; makes it if it is not there.
    pub(crate) fn open(path: &Path) -> io::Result<Self> {
        match mkdir(path, Mode::RWXU) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(fault) => return Err(fault.into()),
        }
        Ok(Self { directory: open(path, DIRECTORY, Mode::empty())?, next: 0 })
    }

    /// Moves `name` out of `parent` into the bin: at once, whatever its size.
    pub(crate) fn take(
        &mut self,
        parent: impl AsFd,
        name: impl rustix::path::Arg + Copy,
    ) -> rustix::io::Result<()> {
        loop {
            self.next += 1;
            match renameat(&parent, name, &self.directory, self.next.to_string()) {
                Err(Errno::EXIST | Errno::NOTEMPTY | Errno::ISDIR | Errno::NOTDIR) => {}
                done => return done,
            }
        }
    }

    /// Removes all that the bin holds.
    pub(crate) fn empty(&mut self) -> io::Result<()> {
        loop {
            let names = names_in(&self.directory)?;
            if names.is_empty() {
                return Ok(());
            }
            for name in names {
                self.remove(&name)?;
            }
        }
    }

    fn remove(&mut self, name: &[u8]) -> io::Result<()> {
        match unlinkat(&self.directory, name, AtFlags::empty()) {
            Ok(()) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(fault) => return Err(fault.into()),
        }
        let directory = openat(&self.directory, name, DIRECTORY, Mode::empty())?;
        for child in names_in(&directory)? {
            match unlinkat(&directory, child.as_slice(), AtFlags::empty()) {
                Ok(()) => {}
                Err(Errno::ISDIR | Errno::PERM) => self.take(&directory, child.as_slice())?,
                Err(fault) => return Err(fault.into()),
            }
        }
        Ok(unlinkat(&self.directory, name, AtFlags::REMOVEDIR)?)
    }
}

/// The names in a directory, without `.` and `..`.
fn names_in(directory: impl AsFd) -> io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(directory)? {
        let entry = entry?;
        let name = entry.file_name().to_bytes();
        if !matches!(name, b"." | b"..") {
            names.push(name.to_vec());
        }
    }
    Ok(names)
}

/// Removes what is at `path`, if anything is. Needs to write beside it.
pub(crate) fn remove_tree(path: &Path) -> io::Result<()> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    let parent_fd = match open(parent, OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()) {
        Ok(fd) => fd,
        Err(Errno::NOENT) => return Ok(()),
        Err(fault) => return Err(fault.into()),
    };
    let mut bin_name = OsString::from(".removing-");
    bin_name.push(name);
    let bin_path: PathBuf = parent.join(bin_name);
    let mut bin = Bin::open(&bin_path)?;
    match bin.take(&parent_fd, name) {
        Ok(()) | Err(Errno::NOENT) => {}
        Err(fault) => {
            let _ = rmdir(&bin_path);
            return Err(fault.into());
        }
    }
    bin.empty()?;
    Ok(rmdir(&bin_path)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use rustix::fs::{mkdirat, symlinkat};

    #[test]
    fn a_tree_deeper_than_any_path_is_removed() {
        let scratch = tempfile::tempdir().unwrap();
        let top = scratch.path().join("top");
        std::fs::create_dir(&top).unwrap();
        let mut at = open(&top, DIRECTORY, Mode::empty()).unwrap();
        for _ in 0..5000 {
            mkdirat(&at, "d", Mode::RWXU).unwrap();
            at = openat(&at, "d", DIRECTORY, Mode::empty()).unwrap();
        }
        remove_tree(&top).unwrap();
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
    }

    #[test]
    fn links_are_removed_and_not_followed() {
        let scratch = tempfile::tempdir().unwrap();
        let outside = scratch.path().join("outside");
        std::fs::create_dir(&outside).unwrap();
        std::fs::write(outside.join("kept"), b"x").unwrap();
        let top = scratch.path().join("top");
        std::fs::create_dir(&top).unwrap();
        let at = open(&top, DIRECTORY, Mode::empty()).unwrap();
        symlinkat(&outside, &at, "link").unwrap();
        remove_tree(&top).unwrap();
        remove_tree(&top).unwrap();
        assert!(outside.join("kept").exists());
        assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 1);
    }
}
