//! A directory as one can compare it: everything of every file that an image can say.

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs,
    os::unix::fs::{FileTypeExt, MetadataExt},
    path::Path,
};

use images::Digest;

/// A line for each file, in the order of their names. `directory_times`: whether those of directories count.
pub(crate) fn tree(root: &Path, directory_times: bool) -> Vec<String> {
    let mut paths = Vec::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        if fs::symlink_metadata(&path).unwrap().is_dir() {
            waiting.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        }
        paths.push(path);
    }
    paths.sort();
    let mut first_names: BTreeMap<u64, String> = BTreeMap::new();
    let lines = paths.iter().map(|path| {
        let stat = fs::symlink_metadata(path).unwrap();
        let name = format!("{:?}", path.strip_prefix(root).unwrap());
        let kind = stat.file_type();
        let what = if kind.is_dir() {
            "directory".to_owned()
        } else if kind.is_symlink() {
            format!("link to {:?}", fs::read_link(path).unwrap())
        } else if kind.is_file() {
            let first = first_names.entry(stat.ino()).or_insert_with(|| name.clone());
            format!("{} same as {first}", Digest::of(&fs::read(path).unwrap()))
        } else if kind.is_char_device() {
            format!("device {}", stat.rdev())
        } else {
            format!("fifo {}", kind.is_fifo())
        };
        // What hides something, and what no layer describes, has no time of its own.
        let mut attributes = attributes(path);
        let count = attributes.len();
        attributes.retain(|(name, _)| name != "trusted.rik.implied");
        let implied = attributes.len() < count;
        let time = if kind.is_char_device() || implied || (kind.is_dir() && !directory_times) {
            String::new()
        } else {
            format!("{}.{:09}", stat.mtime(), stat.mtime_nsec())
        };
        let (mode, owner) = (stat.mode() & 0o7777, (stat.uid(), stat.gid()));
        format!("{name} {what} {mode:o} {owner:?} {time} {attributes:?}")
    });
    lines.collect()
}

fn attributes(path: &Path) -> Vec<(String, Vec<u8>)> {
    let mut list = vec![0_u8; 64 << 10];
    let length = rustix::fs::llistxattr(path, &mut list).unwrap();
    let names = list[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty());
    let mut all: Vec<_> = names
        .map(|name| {
            let mut value = vec![0_u8; 64 << 10];
            let length =
                rustix::fs::lgetxattr(path, CString::new(name).unwrap().as_c_str(), &mut value).unwrap();
            value.truncate(length);
            (String::from_utf8_lossy(name).into_owned(), value)
        })
        .collect();
    all.sort();
    all
}
