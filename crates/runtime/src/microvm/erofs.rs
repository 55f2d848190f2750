//! Writes a directory tree as one read-only file system: EROFS, uncompressed, for the kernel of a microVM to mount.
//!
//! ```text
//!  block 0     superblock at 1024
//!  block 1…    inodes with their extended attributes, the root's first
//!  then        entries of directories, sorted by name
//!  then        contents of files and targets of links, each from a block's beginning
//! ```
//! There is no crate that writes it, and those that write others lose hard links or attributes. The format is that of
//! the kernel's `fs/erofs/erofs_fs.h`; only what every kernel since 5.4 reads is used.
//!
//! *Guarantees*: same tree, same bytes, whatever the order in which the machine lists it. Content, modes, owners, times,
//! hard links, devices and extended attributes are those of the tree. A file that changes meanwhile is an error.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fs::{self, File, Metadata},
    io::{self, BufWriter, Read, Seek, SeekFrom, Write},
    os::unix::{
        ffi::{OsStrExt, OsStringExt},
        fs::{FileTypeExt, MetadataExt},
    },
    path::{Path, PathBuf},
};

use rustix::fs::{lgetxattr, llistxattr, major, minor};

/// Size of a block, in bytes.
const BLOCK: u64 = 4096;
const BLOCK_BITS: u8 = 12;
/// What says that it is one.
const MAGIC: u32 = 0xe0f5_e1e2;
/// Where the superblock is.
const SUPERBLOCK_AT: u64 = 1024;
/// Inodes are numbered by where they are, in steps of so many bytes.
const SLOT: u64 = 32;
/// Size of an inode with all its fields.
const INODE: u64 = 64;
/// Size of an entry of a directory, before the names.
const ENTRY: usize = 12;
/// Most bytes of extended attributes of one file.
const MAX_ATTRIBUTES: usize = 64 << 10;
/// Most files of one tree.
const MAX_FILES: usize = 4 << 20;

/// One file of any kind.
struct Node {
    path: PathBuf,
    meta: Metadata,
    attributes: Vec<u8>,
    links: u32,
    /// Of a directory: its own parent's number and what is in it.
    parent: usize,
    children: Vec<(OsString, usize)>,
    /// Where its inode is, from the beginning of all inodes.
    at: u64,
    /// First block of its content.
    block: u32,
    size: u64,
}

/// Writes the tree below `root` to `out`, and gives its size in bytes.
///
/// # Errors
/// What the file system says, with the path, or that the tree is too large.
pub fn write(root: &Path, out: &File) -> io::Result<u64> {
    let mut nodes = Vec::new();
    add(&mut nodes, &mut BTreeMap::new(), root.to_owned(), 0)?;
    let inodes_end = number(&mut nodes);
    let blocks = place(&mut nodes, 1 + inodes_end.div_ceil(BLOCK))?;
    let mut out = BufWriter::with_capacity(1 << 20, out);
    out.write_all(&superblock(&nodes, blocks))?;
    let mut inodes = vec![0_u8; usize::try_from(inodes_end.next_multiple_of(BLOCK)).map_err(too_large)?];
    for (index, node) in nodes.iter().enumerate() {
        let bytes = inode(index, node);
        let at = usize::try_from(node.at).map_err(too_large)?;
        let place = inodes.get_mut(at..at + bytes.len()).ok_or_else(|| too_large("inodes"))?;
        place.copy_from_slice(&bytes);
    }
    out.write_all(&inodes)?;
    drop(inodes);
    for (index, node) in nodes.iter().enumerate() {
        for block in directory(index, node, &nodes) {
            out.write_all(&block)?;
        }
    }
    for node in nodes.iter().filter(|node| !node.meta.is_dir() && node.size > 0) {
        copy(node, &mut out).map_err(|error| named(&node.path, error))?;
    }
    out.flush()?;
    let size = blocks * BLOCK;
    let mut file = *out.get_ref();
    file.seek(SeekFrom::Start(0))?;
    Ok(size)
}

fn too_large(_: impl std::any::Any) -> io::Error {
    io::Error::new(io::ErrorKind::FileTooLarge, "the root file system is too large for a microVM")
}

fn named(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// Adds a file and, depth first, all that is below it. Gives its index.
fn add(
    nodes: &mut Vec<Node>,
    known: &mut BTreeMap<(u64, u64), usize>,
    path: PathBuf,
    parent: usize,
) -> io::Result<usize> {
    let meta = fs::symlink_metadata(&path).map_err(|error| named(&path, error))?;
    let identity = (meta.dev(), meta.ino());
    if !meta.is_dir() && meta.nlink() > 1 {
        if let Some(first) = known.get(&identity).copied() {
            if let Some(node) = nodes.get_mut(first) {
                node.links += 1;
            }
            return Ok(first);
        }
        known.insert(identity, nodes.len());
    }
    if nodes.len() >= MAX_FILES {
        return Err(too_large(()));
    }
    let index = nodes.len();
    let attributes = attributes(&path).map_err(|error| named(&path, error))?;
    let size = if meta.is_file() || meta.is_symlink() { meta.len() } else { 0 };
    let is_dir = meta.is_dir();
    nodes.push(Node {
        path: path.clone(),
        meta,
        attributes,
        links: if is_dir { 2 } else { 1 },
        parent,
        children: Vec::new(),
        at: 0,
        block: 0,
        size,
    });
    if is_dir {
        let entries = fs::read_dir(&path).map_err(|error| named(&path, error))?;
        let mut names: Vec<OsString> =
            entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
        names.sort();
        let mut children = Vec::with_capacity(names.len());
        for name in names {
            let child = add(nodes, known, path.join(&name), index)?;
            children.push((name, child));
        }
        let below =
            children.iter().filter_map(|(_, child)| nodes.get(*child)).filter(|node| node.meta.is_dir());
        let below = u32::try_from(below.count()).map_err(too_large)?;
        if let Some(node) = nodes.get_mut(index) {
            node.links += below;
            node.children = children;
        }
    }
    Ok(index)
}

/// The extended attributes of a file as they stand behind its inode; empty if it has none.
fn attributes(path: &Path) -> io::Result<Vec<u8>> {
    /// Kinds that the format has a number for, and that can be in an image: what is trusted is our own book-keeping.
    const KINDS: [(&[u8], u8); 4] =
        [(b"user.", 1), (b"system.posix_acl_access", 2), (b"system.posix_acl_default", 3), (b"security.", 6)];
    let mut list = vec![0_u8; MAX_ATTRIBUTES];
    let count = match llistxattr(path, &mut list) {
        Ok(count) => count,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error.into()),
    };
    let mut names: Vec<&[u8]> = list.get(..count).unwrap_or_default().split(|byte| *byte == 0).collect();
    names.sort_unstable();
    let mut entries = Vec::new();
    let mut value = vec![0_u8; MAX_ATTRIBUTES];
    for name in names.into_iter().filter(|name| !name.is_empty()) {
        let Some((kind, number)) = KINDS.iter().find(|(kind, _)| name.starts_with(kind)) else { continue };
        let size = lgetxattr(path, name, &mut value)?;
        let rest = name.get(kind.len()..).unwrap_or_default();
        let length = u8::try_from(rest.len()).map_err(too_large)?;
        entries.extend([length, *number]);
        entries.extend(u16::try_from(size).map_err(too_large)?.to_le_bytes());
        entries.extend(rest);
        entries.extend(value.get(..size).unwrap_or_default());
        pad(&mut entries, 4);
    }
    if entries.is_empty() {
        return Ok(entries);
    }
    // Before them stands a header, here without anything in it.
    Ok([vec![0_u8; 12], entries].concat())
}

fn pad(bytes: &mut Vec<u8>, to: usize) {
    bytes.resize(bytes.len().next_multiple_of(to), 0);
}

/// Says where each inode is, and where they end.
fn number(nodes: &mut [Node]) -> u64 {
    // Number 0 stands for nothing.
    let mut at = SLOT;
    for node in nodes {
        node.at = at;
        at += (INODE + node.attributes.len() as u64).next_multiple_of(SLOT);
    }
    at
}

/// Says where each content begins, and how many blocks there are in all.
fn place(nodes: &mut [Node], first: u64) -> io::Result<u64> {
    let mut block = first;
    let sizes = nodes.iter().enumerate();
    let sizes = sizes.map(|(index, node)| directory(index, node, nodes).count() as u64 * BLOCK);
    let sizes: Vec<u64> = sizes.collect();
    for (node, size) in nodes.iter_mut().zip(sizes).filter(|(node, _)| node.meta.is_dir()) {
        node.size = size;
        node.block = u32::try_from(block).map_err(too_large)?;
        block += size / BLOCK;
    }
    for node in nodes.iter_mut().filter(|node| !node.meta.is_dir() && node.size > 0) {
        node.block = u32::try_from(block).map_err(too_large)?;
        block += node.size.div_ceil(BLOCK);
    }
    u32::try_from(block).map_err(too_large)?;
    Ok(block)
}

fn superblock(nodes: &[Node], blocks: u64) -> Vec<u8> {
    let mut bytes = vec![0_u8; 1024];
    debug_assert_eq!(bytes.len() as u64, SUPERBLOCK_AT);
    bytes.extend(MAGIC.to_le_bytes());
    // No checksum, no features.
    bytes.extend([0; 8]);
    bytes.extend([BLOCK_BITS, 0]);
    let root = nodes.first().map_or(0, |root| root.at / SLOT);
    bytes.extend(u16::try_from(root).unwrap_or_default().to_le_bytes());
    bytes.extend((nodes.len() as u64).to_le_bytes());
    // Times are in the inodes.
    bytes.extend([0; 12]);
    bytes.extend(u32::try_from(blocks).unwrap_or_default().to_le_bytes());
    // Inodes begin with block 1; shared attributes would be there as well.
    bytes.extend(1_u32.to_le_bytes());
    bytes.extend(1_u32.to_le_bytes());
    bytes.resize(usize::try_from(BLOCK).unwrap_or_default(), 0);
    bytes
}

fn inode(index: usize, node: &Node) -> Vec<u8> {
    let meta = &node.meta;
    let kind = meta.file_type();
    let mut bytes = Vec::with_capacity(128);
    // The long form, its content in whole blocks.
    bytes.extend(1_u16.to_le_bytes());
    let count = if node.attributes.is_empty() { 0 } else { (node.attributes.len() - 12) / 4 + 1 };
    bytes.extend(u16::try_from(count).unwrap_or_default().to_le_bytes());
    bytes.extend(u16::try_from(meta.mode()).unwrap_or_default().to_le_bytes());
    bytes.extend([0; 2]);
    bytes.extend(node.size.to_le_bytes());
    let place =
        if kind.is_char_device() || kind.is_block_device() { device(meta.rdev()) } else { node.block };
    bytes.extend(place.to_le_bytes());
    bytes.extend(u32::try_from(index + 1).unwrap_or_default().to_le_bytes());
    bytes.extend(meta.uid().to_le_bytes());
    bytes.extend(meta.gid().to_le_bytes());
    bytes.extend(meta.mtime().to_le_bytes());
    bytes.extend(u32::try_from(meta.mtime_nsec()).unwrap_or_default().to_le_bytes());
    bytes.extend(node.links.to_le_bytes());
    bytes.extend([0; 16]);
    bytes.extend(&node.attributes);
    bytes
}

/// A device's number, as the kernel writes it.
fn device(number: u64) -> u32 {
    let (major, minor) = (major(number), minor(number));
    (minor & 0xff) | (major << 8) | ((minor & !0xff) << 12)
}

/// The blocks of a directory; none of what is none.
fn directory<'a>(index: usize, node: &'a Node, nodes: &'a [Node]) -> impl Iterator<Item = Vec<u8>> + 'a {
    let block = usize::try_from(BLOCK).unwrap_or_default();
    let mut entries: Vec<(&[u8], usize)> = Vec::new();
    if node.meta.is_dir() {
        entries = vec![(b".", index), (b"..", node.parent)];
        entries.extend(node.children.iter().map(|(name, index)| (name.as_bytes(), *index)));
        entries.sort_unstable();
    }
    let mut rest = entries;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let mut used = 0;
        let fits = rest.iter().take_while(|(name, _)| {
            used += ENTRY + name.len();
            used <= block
        });
        let count = fits.count();
        let left = rest.split_off(count);
        let own = std::mem::replace(&mut rest, left);
        let mut bytes = Vec::with_capacity(block);
        let mut name_at = own.len() * ENTRY;
        for (name, index) in &own {
            let node = nodes.get(*index);
            bytes.extend(node.map_or(0, |node| node.at / SLOT).to_le_bytes());
            bytes.extend(u16::try_from(name_at).unwrap_or_default().to_le_bytes());
            bytes.extend([node.map_or(0, |node| kind_number(&node.meta)), 0]);
            name_at += name.len();
        }
        own.iter().for_each(|(name, _)| bytes.extend(*name));
        bytes.resize(block, 0);
        Some(bytes)
    })
}

fn kind_number(meta: &Metadata) -> u8 {
    let kind = meta.file_type();
    match () {
        () if kind.is_file() => 1,
        () if kind.is_dir() => 2,
        () if kind.is_char_device() => 3,
        () if kind.is_block_device() => 4,
        () if kind.is_fifo() => 5,
        () if kind.is_socket() => 6,
        () if kind.is_symlink() => 7,
        () => 0,
    }
}

fn copy(node: &Node, out: &mut impl Write) -> io::Result<()> {
    let copied = if node.meta.is_symlink() {
        let target = fs::read_link(&node.path)?.into_os_string().into_vec();
        out.write_all(&target)?;
        target.len() as u64
    } else {
        io::copy(&mut File::open(&node.path)?.take(node.size + 1), out)?
    };
    if copied != node.size {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "it changed while it was copied"));
    }
    let rest = usize::try_from(node.size.next_multiple_of(BLOCK) - node.size).map_err(too_large)?;
    out.write_all(&vec![0_u8; rest])
}

#[cfg(test)]
mod tests;
