//! What a VMM sees instead of the machine: a directory with its own files and nothing else.
//!
//! ```text
//!  microvms/<key>/   read-only, the root of every VMM, shared by all of them
//!     <its program, libraries and firmware>     copies, at the paths that they have on the machine
//!     rik-guest, vm/kernel, vm/initramfs
//!     vm/{machine.json,reason,root}, etc/…      empty: places for what each microVM brings
//! ```
//! The key is made of everything that goes in: a VMM or kernel that was upgraded gets a directory of its own, and
//! microVMs that run keep theirs.

use std::{
    fs::{self, DirBuilder, File},
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
};

use super::{
    find::Kind,
    initramfs::{self, GUEST},
    kernel::{self, Kernel},
    vmlinux::unpacked,
};

/// The guest program in a jail.
pub const GUEST_PROGRAM: &str = "/rik-guest";
/// The kernel in a jail.
pub const KERNEL: &str = "/vm/kernel";
/// What the kernel starts with, in a jail.
pub const INITRAMFS: &str = "/vm/initramfs";
/// The root file system of one microVM, in a jail.
pub const ROOT: &str = "/vm/root";
/// The state that a microVM begins with, in a jail.
pub const TEMPLATE: &str = "/vm/state";
/// Where firmware is, in a jail.
pub const FIRMWARE: &str = "/firmware";
/// Firmware that QEMU's `microvm` machine may ask for.
const FIRMWARE_FILES: [&str; 5] =
    ["bios-microvm.bin", "qboot.rom", "linuxboot.bin", "linuxboot_dma.bin", "pvh.bin"];
/// Where distributions keep it.
const FIRMWARE_DIRS: [&str; 5] = [
    "/usr/share/qemu",
    "/usr/share/seabios",
    "/usr/share/qemu-kvm",
    "/usr/share/seavgabios",
    "/usr/lib/ipxe/qemu",
];
/// Where distributions keep the parts of QEMU that it loads when it needs them.
const PART_DIRS: [&str; 4] =
    ["/usr/lib/x86_64-linux-gnu/qemu", "/usr/lib64/qemu", "/usr/lib64/qemu-kvm", "/usr/lib/qemu"];
/// Directories that a container's start mounts on.
const PLACES: [&str; 7] = ["proc", "sys", "dev", "etc", "run", "tmp", "vm"];
/// Files that a container's start mounts on.
const PLACES_OF_FILES: [&str; 7] =
    ["etc/hosts", "etc/hostname", "etc/resolv.conf", "vm/machine.json", "vm/reason", "vm/root", "vm/state"];

/// Makes the jail of a VMM and a kernel below `top`, unless it is there. Gives its directory.
///
/// # Errors
/// A file could not be found or copied; it is named.
pub(super) fn make(top: &Path, (kind, program): (Kind, &Path), kernel: &Kernel) -> io::Result<PathBuf> {
    let dir = top.join(key((kind, program), kernel)?);
    if dir.is_dir() {
        return Ok(dir);
    }
    let new = top.join(".new");
    match fs::remove_dir_all(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    make_dir(&new)?;
    for place in PLACES {
        make_dir(&new.join(place))?;
    }
    for place in PLACES_OF_FILES {
        File::create_new(new.join(place))?;
    }
    make_dir(&new.join("dev/net"))?;
    for path in needed(program)? {
        copy(&path, &inside(&new, &path))?;
    }
    let port = match kind {
        Kind::Firecracker => {
            write(&inside(&new, Path::new(KERNEL)), &unpacked(&kernel.path)?, 0o644)?;
            "vmw_vsock_virtio_transport"
        }
        Kind::Qemu => {
            copy(&kernel.path, &inside(&new, Path::new(KERNEL)))?;
            copy_firmware(&new)?;
            "virtio_console"
        }
    };
    write(&inside(&new, Path::new(GUEST_PROGRAM)), GUEST, 0o755)?;
    let initramfs = initramfs::build(&kernel::needed_modules(kernel, port)?)?;
    write(&inside(&new, Path::new(INITRAMFS)), &initramfs, 0o644)?;
    fs::rename(&new, &dir)?;
    Ok(dir)
}

/// The files that QEMU reads beside itself.
fn copy_firmware(jail: &Path) -> io::Result<()> {
    make_dir(&inside(jail, Path::new(FIRMWARE)))?;
    for name in FIRMWARE_FILES {
        let found = FIRMWARE_DIRS.iter().map(|dir| Path::new(dir).join(name)).find(|path| path.is_file());
        if let Some(path) = found {
            copy(&path, &inside(jail, &Path::new(FIRMWARE).join(name)))?;
        }
    }
    Ok(())
}

/// The path in the jail of a path of the machine.
fn inside(jail: &Path, path: &Path) -> PathBuf {
    jail.join(path.strip_prefix("/").unwrap_or(path))
}

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o755).create(path)
}

/// What goes in, in one word.
fn key((kind, program): (Kind, &Path), kernel: &Kernel) -> io::Result<String> {
    let mut hasher = DefaultHasher::new();
    for path in [program, &kernel.path] {
        let meta = fs::metadata(path).map_err(|error| named(path, &error))?;
        (path, meta.len(), meta.mtime(), meta.mtime_nsec(), meta.ino()).hash(&mut hasher);
    }
    (kind, &kernel.modules, GUEST).hash(&mut hasher);
    Ok(format!("{:016x}", hasher.finish()))
}

fn named(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}

/// A program and all that it needs to run: its libraries, as the machine's own loader finds them, and the parts of QEMU
/// that emulate a processor.
fn needed(program: &Path) -> io::Result<Vec<PathBuf>> {
    let mut all = vec![program.to_owned()];
    let parts = PART_DIRS.iter().map(|dir| Path::new(dir).join("accel-tcg-x86_64.so"));
    all.extend(parts.filter(|path| path.is_file()));
    for of in all.clone() {
        let listed =
            Command::new("ldd").arg(&of).output().map_err(|error| named(Path::new("ldd"), &error))?;
        let text = String::from_utf8_lossy(&listed.stdout).into_owned();
        if let Some(line) = text.lines().find(|line| line.contains("not found")) {
            return Err(io::Error::new(
                io::ErrorKind::NotFound,
                format!("{}: {}", of.display(), line.trim()),
            ));
        }
        // `name => path (address)`, or `path (address)` for the loader. A static program has none.
        let paths =
            text.lines().filter_map(|line| line.split_whitespace().find(|word| word.starts_with('/')));
        all.extend(paths.map(PathBuf::from));
    }
    all.sort();
    all.dedup();
    Ok(all)
}

fn copy(from: &Path, to: &Path) -> io::Result<()> {
    let place = to.parent().map_or(Ok(()), make_dir);
    place.and_then(|()| fs::copy(from, to).map(drop)).map_err(|error| named(from, &error))?;
    let mode = fs::metadata(to)?.mode();
    // Readable for a VMM, which is nobody; nothing more than that.
    fs::set_permissions(to, fs::Permissions::from_mode(if mode & 0o111 == 0 { 0o644 } else { 0o755 }))
}

fn write(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    fs::write(path, bytes)?;
    fs::set_permissions(path, fs::Permissions::from_mode(mode))
}

/// Removes all jails but those that are used from now on and those that something is still mounted from.
pub(super) fn remove_others(top: &Path, keep: &[PathBuf]) {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        let path = entry.path();
        let name = entry.file_name();
        let mounted = mounts.lines().any(|line| line.contains(&*name.to_string_lossy()));
        if !keep.contains(&path)
            && path.is_dir()
            && !mounted
            && let Err(error) = fs::remove_dir_all(&path)
        {
            tracing::warn!(path = %path.display(), %error, "a VMM's directory of earlier stays");
        }
    }
}
