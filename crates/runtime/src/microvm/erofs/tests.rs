//! What is written is read by the kernel itself, mounted by a loop device.

use std::{
    collections::BTreeMap,
    os::unix::fs::{PermissionsExt, chown, symlink},
    process::Command,
};

use rustix::{
    fs::{CWD, FileType, Mode, XattrFlags, lsetxattr, makedev, mknodat},
    mount::{UnmountFlags, unmount},
};

use super::*;

/// Mounted, and unmounted also if the test fails.
struct Mounted(tempfile::TempDir);

impl Mounted {
    fn new(image: &Path) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut mount = Command::new("mount");
        mount.args(["-t", "erofs", "-o", "loop,ro"]).arg(image).arg(dir.path());
        let done = mount.output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        Self(dir)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = unmount(self.0.path(), UnmountFlags::DETACH);
    }
}

/// Everything about every file of a tree, in words.
fn told(root: &Path) -> BTreeMap<PathBuf, String> {
    let mut all = BTreeMap::new();
    let mut numbers: BTreeMap<u64, PathBuf> = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let meta = fs::symlink_metadata(&path).unwrap();
        let content = match () {
            () if meta.is_dir() => {
                let mut names: Vec<PathBuf> =
                    fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()).collect();
                names.sort();
                waiting.extend(names.into_iter().rev());
                String::new()
            }
            () if meta.is_file() => format!("{:x?}", fs::read(&path).unwrap()),
            () if meta.is_symlink() => fs::read_link(&path).unwrap().display().to_string(),
            () => meta.rdev().to_string(),
        };
        let inside = path.strip_prefix(root).unwrap().to_owned();
        let first = numbers.entry(meta.ino()).or_insert_with(|| inside.clone()).clone();
        let size = if meta.is_dir() { 0 } else { meta.len() };
        let words = format!(
            "{:o} {}:{} {}.{} {} links, as {}, {size} bytes, {:x?}: {content}",
            meta.mode(),
            meta.uid(),
            meta.gid(),
            meta.mtime(),
            meta.mtime_nsec(),
            meta.nlink(),
            first.display(),
            attributes(&path).unwrap(),
        );
        all.insert(inside, words);
    }
    all
}

fn tree() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    for name in ["bin", "empty", "many", "deep/a/b/c"] {
        fs::create_dir_all(at(name)).unwrap();
    }
    fs::write(at("bin/tool"), vec![7; 10_000]).unwrap();
    fs::set_permissions(at("bin/tool"), fs::Permissions::from_mode(0o4755)).unwrap();
    chown(at("bin/tool"), Some(70_000), Some(5)).unwrap();
    fs::write(at("none"), "").unwrap();
    fs::write(at("block"), vec![1; 4096]).unwrap();
    fs::hard_link(at("bin/tool"), at("deep/a/same")).unwrap();
    symlink("../bin/tool", at("deep/link")).unwrap();
    symlink("x".repeat(4000), at("deep/long-link")).unwrap();
    for number in 0..500 {
        fs::write(at(&format!("many/{number}-{}", "n".repeat(number % 200))), number.to_string()).unwrap();
    }
    fs::write(at(&format!("many/{}", "ü".repeat(120))), "name").unwrap();
    let make =
        |name: &str, kind, number| mknodat(CWD, at(name), kind, Mode::from_raw_mode(0o640), number).unwrap();
    make("null", FileType::CharacterDevice, makedev(1, 3));
    make("disk", FileType::BlockDevice, makedev(259, 70_000));
    make("pipe", FileType::Fifo, 0);
    let set =
        |name: &str, key: &str, value: &[u8]| lsetxattr(at(name), key, value, XattrFlags::empty()).unwrap();
    set("bin/tool", "user.note", b"a");
    set("bin/tool", "user.longer-name", &[9; 300]);
    // CAP_NET_BIND_SERVICE, permitted and effective: revision 2.
    set("block", "security.capability", &[1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    dir
}

#[test]
fn kernel_finds_every_file_as_it_was() {
    let (tree, image) = (tree(), tempfile::NamedTempFile::new().unwrap());
    let size = write(tree.path(), image.as_file()).unwrap();
    assert_eq!(image.as_file().metadata().unwrap().len(), size);
    let mounted = Mounted::new(image.path());
    let (found, wanted) = (told(mounted.0.path()), told(tree.path()));
    for (path, words) in &wanted {
        assert_eq!(found.get(path), Some(words), "{}", path.display());
    }
    assert_eq!(found.len(), wanted.len());
    // By name, which the kernel looks for by halving.
    for number in 0..500 {
        let name = format!("many/{number}-{}", "n".repeat(number % 200));
        assert_eq!(fs::read_to_string(mounted.0.path().join(name)).unwrap(), number.to_string());
    }
    assert!(!mounted.0.path().join("many/missing").exists());
}

#[test]
fn same_tree_gives_the_same_bytes() {
    let tree = tree();
    let bytes = || {
        let mut image = tempfile::tempfile().unwrap();
        write(tree.path(), &image).unwrap();
        let mut bytes = Vec::new();
        image.read_to_end(&mut bytes).unwrap();
        bytes
    };
    assert!(bytes() == bytes());
}
