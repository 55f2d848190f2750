//! The kernel that microVMs boot, and the modules of it that they need.
//!
//! ```text
//!  --kernel-path, else the newest of /boot/vmlinuz-* and /lib/modules/*/vmlinuz
//!  <root>/boot/vmlinuz-<version>  ─▶  <root>/lib/modules/<version>   its modules
//! ```
//! A kernel without modules beside it is taken to have all that is needed built in.

use std::{
    cmp::Ordering,
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

/// What a guest needs whatever it is to be.
const FIRST: [&str; 5] = ["virtio_mmio", "erofs", "overlay", "squashfs", "net_failover"];
/// The drivers that look at what is there when they are loaded: once it is known what that is.
const OTHER: [&str; 2] = ["virtio_blk", "virtio_net"];
/// What a module's signature ends with.
const SIGNED: &[u8] = b"~Module signature appended~\n";
/// Bytes of the description between a signature and that, of which the last four are the signature's length.
const SIGNATURE_INFO: usize = 12;
/// Largest module that is looked into.
const MAX_MODULE_BYTES: u64 = 64 << 20;
/// How deep directories of modules are.
const MAX_DEPTH: usize = 12;

/// A kernel that was found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Kernel {
    /// Its file.
    pub path: PathBuf,
    /// Directory of its modules, if it has any.
    pub modules: Option<PathBuf>,
}

/// Why there is no kernel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NoKernel {
    /// None was named, and none is where distributions put them.
    #[error(
        "there is no kernel in {}: install linux-image-cloud-amd64 (Debian), linux-image-virtual (Ubuntu) or kernel-core (Fedora), or name one with --kernel-path",
        boot.display()
    )]
    NotFound {
        /// Where it was looked for.
        boot: PathBuf,
    },
    /// The one that was named cannot be read.
    #[error("the kernel {}: {why}", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        why: String,
    },
}

/// Finds the kernel: the named one, or else the newest one of this machine.
///
/// # Errors
/// There is none, or the named one is none.
pub fn find(named: Option<&Path>) -> Result<Kernel, NoKernel> {
    find_below(Path::new("/"), named)
}

fn find_below(root: &Path, named: Option<&Path>) -> Result<Kernel, NoKernel> {
    if let Some(path) = named {
        let unreadable = |why: String| NoKernel::Unreadable { path: path.to_owned(), why };
        let path = fs::canonicalize(path).map_err(|error| unreadable(error.to_string()))?;
        match is_kernel(&path) {
            Ok(true) => return Ok(Kernel { modules: modules_of(&path), path }),
            Ok(false) => return Err(unreadable("it is neither a bzImage nor an ELF file".to_owned())),
            Err(error) => return Err(unreadable(error.to_string())),
        }
    }
    let boot = root.join("boot");
    let in_boot = entries(&boot).into_iter().filter_map(|path| {
        let version = path.file_name()?.to_str()?.strip_prefix("vmlinuz-")?.to_owned();
        Some((version, path))
    });
    let in_modules = entries(&root.join("lib/modules"))
        .into_iter()
        .filter_map(|dir| Some((dir.file_name()?.to_str()?.to_owned(), dir.join("vmlinuz"))));
    let mut found: Vec<(String, PathBuf)> = in_boot.chain(in_modules).collect();
    found.sort_by(|one, other| by_version(&other.0, &one.0));
    let usable = found.into_iter().find(|(_, path)| is_kernel(path).unwrap_or(false));
    let (version, path) = usable.ok_or(NoKernel::NotFound { boot })?;
    let modules = Some(root.join("lib/modules").join(version)).filter(|dir| dir.is_dir());
    Ok(Kernel { path, modules })
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path()).collect()
}

/// Whether a file is a kernel: a bzImage by the mark in its header, or an ELF file.
fn is_kernel(path: &Path) -> io::Result<bool> {
    let mut head = Vec::new();
    File::open(path)?.take(0x206).read_to_end(&mut head)?;
    Ok(head.starts_with(b"\x7fELF") || head.get(0x202..) == Some(b"HdrS"))
}

/// Modules of a kernel that was named: where a package puts them, seen from the kernel.
fn modules_of(kernel: &Path) -> Option<PathBuf> {
    let (name, dir) = (kernel.file_name()?.to_str()?, kernel.parent()?);
    if name == "vmlinuz" && dir.join("kernel").is_dir() {
        return Some(dir.to_owned());
    }
    let version = name.strip_prefix("vmlinuz-").or_else(|| name.strip_prefix("vmlinux-"))?;
    Some(dir.parent()?.join("lib/modules").join(version)).filter(|dir| dir.is_dir())
}

/// The order of versions: numbers by what they count.
fn by_version(one: &str, other: &str) -> Ordering {
    let parts = |text: &str| -> Vec<(u64, String)> {
        let split = text.split(['.', '-', '_', '+', '~']);
        split.map(|part| (part.parse().unwrap_or_default(), part.to_owned())).collect()
    };
    parts(one).cmp(&parts(other))
}

/// Modules that a guest needs, each in the order in which they are to be loaded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Modules {
    /// To speak with the outside.
    pub first: Vec<PathBuf>,
    /// Beside those.
    pub other: Vec<PathBuf>,
}

/// The modules that a guest needs of this kernel, with the one by which it speaks with the outside.
///
/// # Errors
/// A module could not be read.
pub fn needed_modules(kernel: &Kernel, port: &str) -> io::Result<Modules> {
    let Some(dir) = &kernel.modules else { return Ok(Modules::default()) };
    let known = known_modules(&dir.join("kernel"));
    let mut order = Vec::new();
    for name in FIRST.into_iter().chain([port]) {
        require(name, &known, &mut order, 0)?;
    }
    let count = order.len();
    for name in OTHER {
        require(name, &known, &mut order, 0)?;
    }
    let other = order.split_off(count);
    Ok(Modules { first: order, other })
}

/// Adds a module after all that it needs. One that is not there is built in, or will be missed by the guest.
fn require(
    name: &str,
    known: &BTreeMap<String, PathBuf>,
    order: &mut Vec<PathBuf>,
    depth: usize,
) -> io::Result<()> {
    let Some(path) = known.get(name).filter(|path| !order.contains(path)) else { return Ok(()) };
    if depth > MAX_DEPTH {
        return Err(io::Error::other(format!("modules need each other in a circle, with {name} among them")));
    }
    for other in needs(path)? {
        require(&other, known, order, depth + 1)?;
    }
    order.push(path.clone());
    Ok(())
}

/// All modules by their names.
fn known_modules(dir: &Path) -> BTreeMap<String, PathBuf> {
    let mut known = BTreeMap::new();
    let mut waiting = vec![(dir.to_owned(), 0)];
    while let Some((dir, depth)) = waiting.pop() {
        for path in entries(&dir) {
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            match name.split_once(".ko") {
                Some((name, _)) => drop(known.insert(name.replace('-', "_"), path)),
                None if depth < MAX_DEPTH && path.is_dir() => waiting.push((path, depth + 1)),
                None => {}
            }
        }
    }
    known
}

/// Names of the modules that one needs, as it says itself.
fn needs(path: &Path) -> io::Result<Vec<String>> {
    let bytes = module_bytes(path)?;
    let key = b"\0depends=";
    let found = bytes.windows(key.len()).position(|part| part == key);
    let value = found.map_or(&[][..], |at| bytes.get(at + key.len()..).unwrap_or_default());
    let value = value.split(|byte| *byte == 0).next().unwrap_or_default();
    let names = String::from_utf8_lossy(value);
    Ok(names.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect())
}

/// A module as the kernel takes it, unpacked if we know how it is packed.
///
/// # Errors
/// It cannot be read, or is packed in a way that is not known here.
pub fn module_bytes(path: &Path) -> io::Result<Vec<u8>> {
    let named = |error: io::Error| io::Error::new(error.kind(), format!("{}: {error}", path.display()));
    let file = File::open(path).map_err(named)?;
    let mut bytes = Vec::new();
    let read = match path.extension().and_then(std::ffi::OsStr::to_str) {
        Some("ko") => file.take(MAX_MODULE_BYTES).read_to_end(&mut bytes),
        Some("gz") => flate2::read::GzDecoder::new(file).take(MAX_MODULE_BYTES).read_to_end(&mut bytes),
        Some("zst") => {
            let unpacked = zstd::stream::read::Decoder::new(file).map_err(named)?;
            unpacked.take(MAX_MODULE_BYTES).read_to_end(&mut bytes)
        }
        Some("xz") => lzma_rust2::XzReader::new(file, true).take(MAX_MODULE_BYTES).read_to_end(&mut bytes),
        _ => Err(io::Error::other("it is packed in a way that is not known here")),
    };
    read.map_err(named)?;
    strip_signature(&mut bytes);
    Ok(bytes)
}

/// Takes the signature off a module. A guest's kernel need not check what its own machine has given it, and each check
/// takes as long as all the rest of the loading, where the processor is emulated.
fn strip_signature(module: &mut Vec<u8>) {
    let Some(rest) = module.strip_suffix(SIGNED) else { return };
    let length = rest.last_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
    let length = length.and_then(|length| usize::try_from(length).ok()).unwrap_or_default();
    module.truncate(rest.len().saturating_sub(SIGNATURE_INFO + length));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(path: &Path, bytes: &[u8]) {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }

    fn bz_image() -> Vec<u8> {
        let mut bytes = vec![0; 0x400];
        bytes.get_mut(0x202..0x206).unwrap().copy_from_slice(b"HdrS");
        bytes
    }

    #[test]
    fn newest_kernel_is_found_with_its_modules_and_what_is_none_is_passed_over() {
        let root = tempfile::tempdir().unwrap();
        let at = |name: &str| root.path().join(name);
        assert!(matches!(find_below(root.path(), None), Err(NoKernel::NotFound { .. })));
        for version in ["6.1.9-1-amd64", "6.1.10-1-amd64", "5.10.0"] {
            put(&at(&format!("boot/vmlinuz-{version}")), &bz_image());
        }
        put(&at("boot/vmlinuz-6.2.0-rescue"), b"not one");
        fs::create_dir_all(at("lib/modules/6.1.10-1-amd64")).unwrap();
        let found = find_below(root.path(), None).unwrap();
        assert_eq!(found.path, at("boot/vmlinuz-6.1.10-1-amd64"));
        assert_eq!(found.modules, Some(at("lib/modules/6.1.10-1-amd64")));
        put(&at("lib/modules/6.12.3/vmlinuz"), &bz_image());
        assert_eq!(find_below(root.path(), None).unwrap().path, at("lib/modules/6.12.3/vmlinuz"));
    }

    #[test]
    fn named_kernel_is_taken_as_it_is_or_refused_in_words() {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().join("boot/vmlinuz-6.1.0");
        put(&path, &bz_image());
        fs::create_dir_all(root.path().join("lib/modules/6.1.0")).unwrap();
        let path = fs::canonicalize(path).unwrap();
        let found = find(Some(&path)).unwrap();
        assert_eq!(found.modules, Some(fs::canonicalize(root.path()).unwrap().join("lib/modules/6.1.0")));
        put(&path, b"#!/bin/sh");
        assert!(find(Some(&path)).unwrap_err().to_string().contains("neither a bzImage nor an ELF"));
        assert!(find(Some(&root.path().join("none"))).unwrap_err().to_string().contains("No such file"));
    }

    #[test]
    fn module_is_taken_without_its_signature() {
        let plain = b"\x7fELF module".to_vec();
        let mut signed = [plain.as_slice(), &[7; 300], &[0; 8], &300_u32.to_be_bytes(), SIGNED].concat();
        strip_signature(&mut signed);
        assert_eq!(signed, plain);
        strip_signature(&mut signed);
        assert_eq!(signed, plain);
    }

    #[test]
    fn modules_come_after_those_that_they_need_however_they_are_packed() {
        let root = tempfile::tempdir().unwrap();
        let dir = root.path().join("modules");
        let module =
            |depends: &str| format!("\x7fELF\0license=GPL\0depends={depends}\0name=x\0").into_bytes();
        put(&dir.join("kernel/a/virtio-mmio.ko"), &module("virtio,virtio_ring"));
        put(
            &dir.join("kernel/a/virtio.ko.zst"),
            &zstd::encode_all(module("virtio_ring").as_slice(), 1).unwrap(),
        );
        put(&dir.join("kernel/b/virtio_ring.ko"), &module(""));
        let kernel = Kernel { path: PathBuf::new(), modules: Some(dir) };
        let order = needed_modules(&kernel, "virtio_console").unwrap();
        assert!(order.other.is_empty());
        let names: Vec<_> =
            order.first.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
        assert_eq!(names, ["virtio_ring.ko", "virtio.ko.zst", "virtio-mmio.ko"]);
    }
}
