//! Root file systems of microVMs: one read-only disk for each image, shared by all instances, made once.
//!
//! ```text
//!  image ─▶ its layers, mounted over each other for a moment ─▶ `erofs` ─▶ roots/<digest>
//!  URL   ─▶ download (`images`) ─┬ a file system: as it is ─────────────▶ roots/<sha256>
//!  path  ─▶ copy                 └ an archive: unpacked as a layer ─▶ `erofs` ─▶ roots/<sha256>
//! ```
//! *Guarantees*: a root is named for what it was made from, is whole when it has its name, and is never written to
//! again. The machine's own kernel never mounts what came from outside.

use std::{
    collections::{BTreeSet, HashMap},
    error::Error,
    fs::{self, DirBuilder, File, FileTimes},
    io::{self, Read, Seek},
    os::{
        fd::AsRawFd,
        unix::fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime},
};

use guest::disk;
use images::{Allowlist, Digest, Downloaded, Image, ImageStore, Validators};
use model::Reason;
use rustix::fs::{FileType, fstat};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::erofs;
use crate::{
    RuntimeError,
    pod::{
        fault,
        files::{read_whole, write_whole},
        open_allowed,
    },
    sentence,
};

/// How long a root that nothing stands on is kept since it was last used.
const KEPT_FOR: Duration = Duration::from_secs(24 * 60 * 60);

/// The roots of a node. Clones are the same.
#[derive(Clone, Debug)]
pub struct Roots {
    dir: PathBuf,
    /// Those that are being made.
    making: Arc<Mutex<HashMap<String, Arc<tokio::sync::Mutex<()>>>>>,
}

impl Roots {
    /// The roots below this directory.
    #[must_use]
    pub fn new(dir: PathBuf) -> Self {
        Self { dir, making: Arc::default() }
    }

    /// Where the root of this name is, or would be.
    #[must_use]
    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// The root of this name if it is there; its use is noted.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<PathBuf> {
        let path = self.path(name);
        let file = File::open(&path).ok()?;
        // Without the note, it is made again one day.
        let _ = file.set_times(FileTimes::new().set_modified(SystemTime::now()));
        Some(path)
    }

    /// The root of an image. Whoever asks while it is being made waits for it.
    ///
    /// # Errors
    /// It could not be made.
    pub async fn of_image(&self, images: &ImageStore, image: &Image) -> Result<String, RuntimeError> {
        let name = image.manifest.hex();
        let alone = self.alone(&name);
        let _alone = alone.lock().await;
        let made = if self.get(&name).is_some() { Ok(()) } else { self.make(images, image, &name).await };
        self.making().remove(&name);
        made.map(|()| name)
    }

    async fn make(&self, images: &ImageStore, image: &Image, name: &str) -> Result<(), RuntimeError> {
        let building = self.dir.join(format!(".{}", Uuid::new_v4()));
        let made = self.build(images, image, (&building, name)).await;
        let unmounted = images.unmount_rootfs(&building).await.map_err(fault::snapshot);
        let removed = fs::remove_dir(&building);
        made?;
        unmounted?;
        removed.map_err(fault::files)
    }

    /// The root that is behind a URL, or at a path of this machine: asked for each time, and fetched if it has changed. With a
    /// digest that is here already, nobody is asked. Gives its name, which is its SHA-256.
    ///
    /// # Errors
    /// It could not be fetched, is not what the digest says, or no file system that a guest's kernel knows.
    pub async fn of_place(
        &self,
        url: &str,
        sha256: Option<&str>,
        allowed: &Allowlist,
    ) -> Result<String, RuntimeError> {
        if let Some(name) = sha256.filter(|name| self.get(name).is_some()) {
            return Ok(name.to_owned());
        }
        let alone = self.alone(url);
        let _alone = alone.lock().await;
        let done = self.fetch(url, sha256, allowed).await;
        self.making().remove(url);
        done
    }

    async fn fetch(
        &self,
        url: &str,
        sha256: Option<&str>,
        allowed: &Allowlist,
    ) -> Result<String, RuntimeError> {
        let failed = |source: Box<dyn Error + Send + Sync>| RuntimeError {
            operation: "fetch the root file system".to_owned(),
            reason: Reason::ImagePullFailed,
            transient: false,
            source: Some(source),
        };
        let unwritten = |error: io::Error| failed(error.into());
        DirBuilder::new().recursive(true).mode(0o700).create(&self.dir).map_err(unwritten)?;
        let note = self.dir.join(format!(".{}.url", Digest::of(url.as_bytes()).hex()));
        // A note that cannot be read only costs a download.
        let known: Note = read_whole(&note).ok().flatten().unwrap_or_default();
        let is_here = self.get(&known.root).is_some();
        let validators = if is_here && sha256.is_none() { known.validators } else { Validators::default() };
        let place = self.dir.join(format!(".{}.part", Uuid::new_v4()));
        let part = Part(place);
        let file =
            File::options().read(true).write(true).create_new(true).open(&part.0).map_err(unwritten)?;
        let (file, done) = if Path::new(url).is_absolute() {
            let source = open_local(Path::new(url), allowed)?;
            let work = move || {
                let taken = images::take_file(&source, &validators, &file);
                taken.map(|taken| (file, taken))
            };
            let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other);
            let named = |error: io::Error| failed(format!("{url}: {error}").into());
            done.and_then(|done| done).map_err(named)?
        } else {
            let mut file = tokio::fs::File::from_std(file);
            let done = images::download(url, &validators, allowed, &mut file).await;
            (file.into_std().await, done.map_err(|error| failed(error.into()))?)
        };
        let (digest, validators) = match done {
            Downloaded::Unchanged => return Ok(known.root),
            Downloaded::New { digest, validators } => (digest.hex(), validators),
        };
        if let Some(wanted) = sha256.filter(|wanted| *wanted != digest) {
            let why = format!("{}: its SHA-256 is {digest}, not {wanted}", images::shown_url(url));
            return Err(failed(why.into()));
        }
        if self.get(&digest).is_none() {
            self.take_in(&digest, file, part, url).await?;
        }
        let note_of_it = Note { root: digest.clone(), validators };
        write_whole(&note, &note_of_it).map_err(unwritten)?;
        Ok(digest)
    }

    /// Makes a root of what was fetched: a file system as it is, an archive unpacked and made one.
    async fn take_in(&self, name: &str, mut file: File, part: Part, url: &str) -> Result<(), RuntimeError> {
        let (dir, shown) = (self.dir.clone(), images::shown_url(url));
        let kind = kind_of(&mut file).map_err(fault::files)?;
        let unfit =
            |why: String| fault::words("use the root file system".to_owned(), Reason::ImagePullFailed, &why);
        match kind {
            Kind::FileSystem => {
                let (from, to) = (part.0.clone(), self.path(name));
                let work = move || {
                    file.sync_all()?;
                    fs::set_permissions(&from, fs::Permissions::from_mode(0o444))?;
                    fs::rename(&from, &to)
                };
                let done = tokio::task::spawn_blocking(work).await.map_err(io::Error::other);
                done.and_then(|done| done).map_err(fault::files)
            }
            Kind::Archive => {
                self.keep(name, move |out| {
                    let tree = Tree(dir.join(format!(".{}", Uuid::new_v4())));
                    let (root, bin) = (tree.0.join("root"), tree.0.join("bin"));
                    for dir in [&root, &bin] {
                        DirBuilder::new().recursive(true).mode(0o755).create(dir)?;
                    }
                    let unpacked = images::unpack_archive(file, &root, &bin);
                    unpacked.map_err(|error| io::Error::other(sentence(&error)))?;
                    erofs::write(&root, out).map(drop)
                })
                .await
            }
            Kind::Unknown(what) => Err(unfit(format!(
                "{shown} is {what}; allowed are ext4, squashfs and erofs images, and tar archives, plain or packed with \
                 gzip or zstd"
            ))),
        }
    }

    async fn build(
        &self,
        images: &ImageStore,
        image: &Image,
        (building, name): (&Path, &str),
    ) -> Result<(), RuntimeError> {
        DirBuilder::new().recursive(true).mode(0o700).create(building).map_err(fault::files)?;
        let tree = images.mount_rootfs(image, building, None).await.map_err(fault::snapshot)?;
        self.keep(name, move |file| erofs::write(&tree, file).map(drop)).await
    }

    /// Makes a root by `fill`, and gives it its name when it is whole.
    pub(super) async fn keep(
        &self,
        name: &str,
        fill: impl FnOnce(&File) -> io::Result<()> + Send + 'static,
    ) -> Result<(), RuntimeError> {
        let (path, new) = (self.path(name), self.dir.join(format!(".{name}.new")));
        let work = move || {
            let file = File::create(&new)?;
            let made = fill(&file)
                .and_then(|()| fs::set_permissions(&new, fs::Permissions::from_mode(0o444)))
                .and_then(|()| file.sync_all())
                .and_then(|()| fs::rename(&new, &path));
            if made.is_err() {
                // What is left is overwritten by the next try.
                let _ = fs::remove_file(&new);
            }
            made
        };
        let made = tokio::task::spawn_blocking(work).await.map_err(io::Error::other);
        made.and_then(|made| made).map_err(|error| RuntimeError {
            operation: "make the microVM's root file system".to_owned(),
            reason: Reason::SandboxFailed,
            transient: error.kind() == io::ErrorKind::StorageFull,
            source: Some(Box::new(error)),
        })
    }

    fn making(&self) -> std::sync::MutexGuard<'_, HashMap<String, Arc<tokio::sync::Mutex<()>>>> {
        self.making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn alone(&self, name: &str) -> Arc<tokio::sync::Mutex<()>> {
        Arc::clone(self.making().entry(name.to_owned()).or_default())
    }

    /// Removes roots that nothing stands on and nobody has used for a day, and what was left half made.
    /// Which are used is only asked if there is one that is old enough.
    pub fn clean(&self, used: impl FnOnce() -> BTreeSet<String>) {
        let old = |entry: &fs::DirEntry| {
            let changed = entry.metadata().and_then(|meta| meta.modified());
            changed.is_ok_and(|at| at.elapsed().unwrap_or_default() > KEPT_FOR)
        };
        let entries = fs::read_dir(&self.dir).into_iter().flatten().flatten();
        let old: Vec<_> = entries.filter(old).collect();
        if old.is_empty() {
            return;
        }
        let used = used();
        for entry in old.iter().filter(|entry| !used.contains(&*entry.file_name().to_string_lossy())) {
            let path = entry.path();
            let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            if let Err(error) = gone {
                tracing::warn!(path = %path.display(), %error, "a root file system that is not used stays");
            }
        }
    }
}

/// What is known of a URL.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Note {
    /// Name of the root that was behind it.
    root: String,
    /// How to ask whether it still is.
    validators: Validators,
}

/// A file that goes unless it was given another name.
struct Part(PathBuf);

impl Drop for Part {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.0);
    }
}

/// A directory tree that goes when it was used.
struct Tree(PathBuf);

impl Drop for Tree {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            tracing::warn!(path = %self.0.display(), %error, "an unpacked root file system stays");
        }
    }
}

/// What a file is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    FileSystem,
    Archive,
    Unknown(&'static str),
}

/// A file of this machine that its operator lets Functions run from.
fn open_local(path: &Path, allowed: &Allowlist) -> Result<File, RuntimeError> {
    let unfit =
        |why: String| fault::words("use the root file system".to_owned(), Reason::ImagePullFailed, &why);
    let found = open_allowed(path, allowed.directories(), "--rootfs-allow").map_err(unfit)?;
    let read = || {
        if FileType::from_raw_mode(fstat(&found)?.st_mode) != FileType::RegularFile {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is no file"));
        }
        // What was looked at, whatever its name means by now.
        File::open(format!("/proc/self/fd/{}", found.as_raw_fd()))
    };
    read().map_err(|error| unfit(format!("{}: {error}", path.display())))
}

/// What a file is, by its marks and not by its name.
fn kind_of(file: &mut File) -> io::Result<Kind> {
    let mut head = Vec::new();
    file.rewind()?;
    file.by_ref().take(disk::HEAD_BYTES as u64).read_to_end(&mut head)?;
    file.rewind()?;
    let has = |at: usize, mark: &[u8]| head.get(at..at + mark.len()) == Some(mark);
    Ok(match () {
        () if disk::file_system(&head).is_some() => Kind::FileSystem,
        () if has(0, &[0x1f, 0x8b]) || has(0, &[0x28, 0xb5, 0x2f, 0xfd]) || has(257, b"ustar") => {
            Kind::Archive
        }
        () if head.is_empty() => Kind::Unknown("empty"),
        () if has(0, b"QFI\xfb") => Kind::Unknown("a qcow2 image, which may name other files of the node"),
        () if has(0, b"<") => Kind::Unknown("a page, or some other text"),
        () => Kind::Unknown("of a kind that is not known"),
    })
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn what_came_is_known_by_its_marks() {
        let kind = |at: usize, mark: &[u8]| {
            let mut bytes = vec![0_u8; 4096];
            bytes.get_mut(at..at + mark.len()).unwrap().copy_from_slice(mark);
            let mut file = tempfile::tempfile().unwrap();
            file.write_all(&bytes).unwrap();
            kind_of(&mut file).unwrap()
        };
        assert_eq!(kind(1024, &[0xe2, 0xe1, 0xf5, 0xe0]), Kind::FileSystem);
        assert_eq!(kind(0, b"hsqs"), Kind::FileSystem);
        assert_eq!(kind(1080, &[0x53, 0xef]), Kind::FileSystem);
        assert_eq!(kind(0, &[0x1f, 0x8b]), Kind::Archive);
        assert_eq!(kind(257, b"ustar"), Kind::Archive);
        assert!(matches!(kind(0, b"QFI\xfb"), Kind::Unknown(why) if why.contains("qcow2")));
        assert!(matches!(kind(0, b"<html>"), Kind::Unknown(_)));
    }
}
