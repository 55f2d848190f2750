//! Directories that a layer needs and does not describe.
//!
//! A layer may say `usr/bin/tool` and leave out `usr/bin`. Unpacked on top of the layers below, as other engines do it,
//! the directory stays as those have it. Here each layer is unpacked by itself, and an overlay shows a directory as its
//! topmost layer has it. So such a directory is marked, and an image in which a mark would hide what a lower layer says gets
//! a layer of its own on top: directories alone, as they should be.
//!
//! *Guarantee*: nothing comes into sight that the layers do not show.

use std::{
    collections::BTreeSet,
    fs::{self, Metadata},
    io,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, lgetxattr, lsetxattr, utimensat},
    io::Errno,
};

use crate::repack::attributes;
use crate::store::{Inner, layer_path};
use crate::unpack::OPAQUE;
use crate::{Digest, StoreError, index::Index};

/// Attribute of a directory that no entry of its layer describes.
pub(crate) const MARK: &str = "trusted.rik.implied";

/// Where what an image has on top of its layers is, if there is any.
pub(crate) fn directories_path(root: &Path, manifest: Digest) -> PathBuf {
    root.join("directories").join(manifest.hex())
}

impl Inner {
    /// Gives an image the directories that it needs on top of its layers.
    pub(crate) fn complete(
        &self,
        manifest: Digest,
        diff_ids: &[Digest],
        index: &Index,
    ) -> Result<(), StoreError> {
        let place = directories_path(&self.root, manifest);
        if place.exists() {
            return Ok(());
        }
        let layers: Vec<PathBuf> = diff_ids.iter().map(|diff_id| layer_path(&self.root, *diff_id)).collect();
        let implied: Vec<bool> =
            diff_ids.iter().map(|diff_id| index.layers.get(diff_id).is_some_and(|own| own.implied)).collect();
        let failed = StoreError::io("make", &place);
        let stage = self.stage().map_err(StoreError::io("use", self.root.join("tmp")))?;
        let made = complete(&layers, &implied, &stage.join("directories"))
            .and_then(|any| if any { fs::rename(stage.join("directories"), &place) } else { Ok(()) });
        made.map_err(failed)
    }
}

/// How one layer has a path.
enum Has {
    /// Nothing of it, and nothing against it.
    Nothing,
    /// A directory.
    Directory(Metadata),
    /// A directory below which nothing of lower layers is seen.
    Closed(Metadata),
    /// Something that hides it.
    Hidden,
}

/// Whether some directory of the layer is marked that is not its root.
pub(crate) fn marked(layer: &Path) -> bool {
    lgetxattr(layer, MARK, &mut [0_u8; 4]).is_ok()
}

/// Makes the additional layer in `target`, which is not there. Gives false, and makes nothing, if the image needs none.
/// `layers`: lowest first; `implied`: those of them that have marked directories below their root.
///
/// # Errors
/// What the disk says.
fn complete(layers: &[PathBuf], implied: &[bool], target: &Path) -> io::Result<bool> {
    let mut asked = BTreeSet::from([PathBuf::new()]);
    for (layer, _) in layers.iter().zip(implied).skip(1).filter(|(_, implied)| **implied) {
        collect(layer, Path::new(""), &mut asked)?;
    }
    let mut wanted = BTreeSet::new();
    for path in asked {
        if is_corrected(layers, &path)? {
            wanted.extend(path.ancestors().map(Path::to_owned));
        }
    }
    // A parent comes before what is in it.
    for path in &wanted {
        fs::create_dir(target.join(path))?;
    }
    // What is made in a directory changes its time.
    for path in wanted.iter().rev() {
        let at = target.join(path);
        if let Some((layer, metadata)) = described(layers, path)? {
            adorn(&at, &layer.join(path), &metadata)?;
        }
    }
    Ok(!wanted.is_empty())
}

/// The marked directories of a layer.
fn collect(layer: &Path, below: &Path, found: &mut BTreeSet<PathBuf>) -> io::Result<()> {
    let entries = match fs::read_dir(layer.join(below)) {
        Ok(entries) => entries,
        // Deeper than a path can say: it is seen as this layer has it.
        Err(error) if Errno::from_io_error(&error) == Some(Errno::NAMETOOLONG) => return Ok(()),
        Err(error) => return Err(error),
    };
    for entry in entries {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            let path = below.join(entry.file_name());
            if marked(&entry.path()) {
                found.insert(path.clone());
            }
            collect(layer, &path, found)?;
        }
    }
    Ok(())
}

/// Whether the directory is seen as its topmost layer has it, without that layer having said so, though another has.
fn is_corrected(layers: &[PathBuf], path: &Path) -> io::Result<bool> {
    for layer in layers.iter().rev() {
        match look(layer, path)? {
            Has::Nothing => {}
            Has::Hidden | Has::Closed(_) => return Ok(false),
            Has::Directory(seen) => {
                let Some((other, said)) = described(layers, path)? else { return Ok(false) };
                let own = |metadata: &Metadata| (metadata.mode(), metadata.uid(), metadata.gid());
                let same = own(&seen) == own(&said) && attributes(&other.join(path))?.is_empty();
                return Ok(marked(&layer.join(path)) && !same);
            }
        }
    }
    Ok(false)
}

/// The layer that says what the directory is, or else the topmost one that has it.
fn described<'a>(layers: &'a [PathBuf], path: &Path) -> io::Result<Option<(&'a Path, Metadata)>> {
    let mut topmost = None;
    for layer in layers.iter().rev() {
        match look(layer, path)? {
            Has::Nothing => {}
            Has::Hidden => break,
            Has::Closed(metadata) | Has::Directory(metadata) if !marked(&layer.join(path)) => {
                return Ok(Some((layer, metadata)));
            }
            Has::Closed(metadata) => {
                topmost = topmost.or(Some((layer.as_path(), metadata)));
                break;
            }
            Has::Directory(metadata) => topmost = topmost.or(Some((layer.as_path(), metadata))),
        }
    }
    Ok(topmost)
}

fn look(layer: &Path, path: &Path) -> io::Result<Has> {
    let mut closed = false;
    let mut last = None;
    let mut prefixes: Vec<&Path> = path.ancestors().collect();
    prefixes.reverse();
    for prefix in prefixes {
        let at = layer.join(prefix);
        let metadata = match fs::symlink_metadata(&at) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(if closed { Has::Hidden } else { Has::Nothing });
            }
            Err(error) => return Err(error),
        };
        if !metadata.is_dir() || (metadata.file_type().is_char_device() && metadata.rdev() == 0) {
            return Ok(Has::Hidden);
        }
        closed |= lgetxattr(&at, OPAQUE, &mut [0_u8; 4]).is_ok();
        last = Some(metadata);
    }
    Ok(match last {
        Some(metadata) if closed => Has::Closed(metadata),
        Some(metadata) => Has::Directory(metadata),
        None => Has::Nothing,
    })
}

/// Makes a directory look like another one.
fn adorn(directory: &Path, like: &Path, metadata: &Metadata) -> io::Result<()> {
    std::os::unix::fs::lchown(directory, Some(metadata.uid()), Some(metadata.gid()))?;
    fs::set_permissions(directory, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
    for (name, value) in attributes(like)? {
        match lsetxattr(directory, name.as_str(), &value, XattrFlags::empty()) {
            Ok(()) | Err(Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let time = Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() };
    utimensat(
        CWD,
        directory,
        &Timestamps { last_access: time, last_modification: time },
        AtFlags::SYMLINK_NOFOLLOW,
    )?;
    Ok(())
}
