//! What the kernel has to be told before a program can run: file systems, modules, clock, random numbers.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Read},
    os::{
        fd::{AsRawFd, FromRawFd, OwnedFd},
        unix::fs::symlink,
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use rustix::{
    fs::statfs,
    io::Errno,
    mount::{MountFlags, mount, mount_bind, mount_remount},
    time::{ClockId, Timespec, clock_settime},
};

use super::volumes;
use crate::{
    disk,
    order::Boot,
    vmm::{AGENT_PORT, PORT_NAME, TEMPLATE_WORD, VSOCK_WORD},
};

/// Where the program's root is made.
pub(super) const ROOT: &str = "/root";
/// The root file system as it was given.
const BASE: &str = "/base";
/// What is written over it, in memory.
const SCRATCH: &str = "/scratch";
/// The disk that the root file system is on.
const DISK: &str = "/dev/vda";
/// Where modules are, to be loaded in the order of their names: what is needed to speak with the outside, and the rest,
/// for which the agent waits until it knows what machine this is to be.
pub(super) const FIRST_MODULES: &str = "/modules/first";
pub(super) const OTHER_MODULES: &str = "/modules/other";
/// Most time that the kernel needs until a device is there after its module was loaded.
const DEVICE_WITHIN: Duration = Duration::from_secs(20);
/// Pause between two looks for it.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// `f_type` of the file systems that a kernel unpacks an initramfs into (linux/magic.h).
const FIRST_ROOTS: [u64; 2] = [0x8584_58f6, 0x0102_1994];

/// Whether this process is the first one of a machine that has just been started, in an initramfs of ours.
pub(super) fn is_newborn() -> Result<(), &'static str> {
    let refusal = "rik-guest is the first process of a microVM; here it does nothing";
    let first = std::process::id() == 1;
    let root = statfs("/").ok().and_then(|found| u64::try_from(found.f_type).ok());
    let in_memory = root.is_some_and(|kind| FIRST_ROOTS.contains(&kind));
    // Nobody has mounted anything yet.
    let untouched = !Path::new("/proc/self").exists() && Path::new(FIRST_MODULES).exists();
    if first && in_memory && untouched { Ok(()) } else { Err(refusal) }
}

/// Whether this word is on the kernel's command line.
fn is_said(word: &str) -> bool {
    fs::read_to_string("/proc/cmdline").is_ok_and(|words| words.split_whitespace().any(|own| own == word))
}

/// Ends the machine; does not come back.
pub(super) fn end() -> ! {
    rustix::fs::sync();
    // Firecracker knows no switching off, and ends when the machine would start again.
    let how = if is_said(VSOCK_WORD) { libc::RB_AUTOBOOT } else { libc::RB_POWER_OFF };
    // SAFETY: a plain call.
    unsafe { libc::reboot(how) };
    loop {
        // A kernel that does not know how: it is for the VMM to end then.
        thread::park();
    }
}

fn named(what: &str) -> impl Fn(Errno) -> String {
    move |error| format!("mounting {what}: {error}")
}

/// The kernel's own file systems.
pub(super) fn mount_basics() -> Result<(), String> {
    for (target, kind) in [("/dev", "devtmpfs"), ("/proc", "proc"), ("/sys", "sysfs")] {
        let _ = fs::create_dir(target);
        match mount(kind, target, kind, MountFlags::NOSUID | MountFlags::NOEXEC, None) {
            // A kernel may mount its devices by itself.
            Ok(()) | Err(Errno::BUSY) => {}
            Err(error) => return Err(named(target)(error)),
        }
    }
    Ok(())
}

/// Loads what the initramfs brings. What cannot be loaded is told on the console; what it was for will be missed later.
pub(super) fn load_modules(dir: &str) {
    /// `MODULE_INIT_COMPRESSED_FILE` of linux/module.h.
    const COMPRESSED: libc::c_int = 4;
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let Ok(file) = File::open(&path) else { continue };
        let compressed = path.extension().is_some_and(|ending| ending != "ko");
        let flags = if compressed { COMPRESSED } else { 0 };
        // SAFETY: a plain call; the text is constant and ends with NUL.
        let done = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), flags) };
        let error = io::Error::last_os_error();
        if done != 0 && error.raw_os_error() != Some(libc::EEXIST) {
            eprintln!("rik: module {}: {error}", path.display());
        }
    }
}

fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> Result<T, String> {
    let until = Instant::now() + DEVICE_WITHIN;
    loop {
        if let Some(found) = look() {
            return Ok(found);
        }
        if Instant::now() > until {
            return Err(format!("{what} does not appear: the kernel has no driver for it"));
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// What leads outside.
pub(super) struct Port {
    /// Both ways of it.
    pub(super) file: File,
    /// Whether it ends when the other side goes; else that comes back.
    pub(super) ends: bool,
}

/// The port that leads outside.
pub(super) fn find_port() -> Result<Port, String> {
    if is_said(VSOCK_WORD) {
        let file = accept_vsock().map_err(|error| format!("the port to the outside (vsock): {error}"))?;
        return Ok(Port { file, ends: true });
    }
    find_named_port().map(|file| Port { file, ends: false })
}

/// Waits until somebody outside connects.
fn accept_vsock() -> io::Result<File> {
    let check = |done: libc::c_int| if done < 0 { Err(io::Error::last_os_error()) } else { Ok(done) };
    // SAFETY: every field of this struct may be zero.
    let mut own: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    own.svm_family = libc::sa_family_t::try_from(libc::AF_VSOCK).unwrap_or_default();
    own.svm_port = AGENT_PORT;
    own.svm_cid = libc::VMADDR_CID_ANY;
    let length = libc::socklen_t::try_from(size_of_val(&own)).unwrap_or_default();
    // SAFETY: plain calls on values of this frame; a descriptor that is given is nobody else's.
    unsafe {
        let number = check(libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0))?;
        let listener = OwnedFd::from_raw_fd(number);
        check(libc::bind(listener.as_raw_fd(), (&raw const own).cast(), length))?;
        check(libc::listen(listener.as_raw_fd(), 1))?;
        let (none, no_length) = (std::ptr::null_mut(), std::ptr::null_mut());
        let flags = libc::SOCK_CLOEXEC;
        Ok(File::from_raw_fd(check(libc::accept4(listener.as_raw_fd(), none, no_length, flags))?))
    }
}

/// The port of this name: its number differs.
fn find_named_port() -> Result<File, String> {
    let path = wait_for("the port to the outside", || {
        let entries = fs::read_dir("/sys/class/virtio-ports").ok()?.flatten();
        let own =
            |dir: &PathBuf| fs::read_to_string(dir.join("name")).is_ok_and(|name| name.trim() == PORT_NAME);
        entries.map(|entry| entry.path()).find(own)
    })?;
    let device = Path::new("/dev").join(path.file_name().unwrap_or_default());
    let opened = OpenOptions::new().read(true).write(true).open(&device);
    opened.map_err(|error| format!("{}: {error}", device.display()))
}

/// Sets the clock.
pub(super) fn set_clock(unix_nanos: u64) -> Result<(), String> {
    let time = Timespec {
        tv_sec: i64::try_from(unix_nanos / 1_000_000_000).unwrap_or_default(),
        tv_nsec: i64::try_from(unix_nanos % 1_000_000_000).unwrap_or_default(),
    };
    clock_settime(ClockId::Realtime, time).map_err(|error| format!("setting the clock: {error}"))
}

/// Gives the kernel random bytes that it can count on.
pub(super) fn add_entropy(bytes: &[u8]) -> Result<(), String> {
    /// `struct rand_pool_info` of linux/random.h, with room for what is sent.
    #[repr(C)]
    struct Pool {
        bits: libc::c_int,
        bytes: libc::c_int,
        buffer: [u8; 64],
    }
    /// `RNDADDENTROPY` of linux/random.h.
    const ADD: libc::c_ulong = 0x4008_5203;
    /// `RNDRESEEDCRNG`: machines that begin from the same template have the same numbers until then.
    const RESEED: libc::c_ulong = 0x5207;
    let mut pool = Pool { bits: 0, bytes: 0, buffer: [0; 64] };
    let count = bytes.len().min(pool.buffer.len());
    if count == 0 {
        return Ok(());
    }
    for (to, from) in pool.buffer.iter_mut().zip(bytes) {
        *to = *from;
    }
    pool.bytes = libc::c_int::try_from(count).unwrap_or_default();
    pool.bits = pool.bytes * 8;
    let failed = |error: io::Error| format!("adding random numbers: {error}");
    let device = File::open("/dev/urandom").map_err(failed)?;
    // SAFETY: the structure is as the kernel wants it and outlives the call; the second call takes nothing.
    let done = unsafe {
        libc::ioctl(device.as_raw_fd(), ADD as _, &raw const pool) == 0
            && libc::ioctl(device.as_raw_fd(), RESEED as _) == 0
    };
    if done { Ok(()) } else { Err(failed(io::Error::last_os_error())) }
}

/// Makes the root of the program: what was given, and over it what it writes.
pub(super) fn mount_root(boot: &Boot) -> Result<(), String> {
    let mut device = wait_for("the disk with the root file system", || File::open(DISK).ok())?;
    let mut head = vec![0_u8; disk::HEAD_BYTES];
    device.read_exact(&mut head).map_err(|error| format!("reading the root file system: {error}"))?;
    let kind = disk::file_system(&head)
        .ok_or("the root file system is none that is known: erofs, squashfs or ext4")?;
    drop(device);
    for dir in [BASE, SCRATCH, ROOT] {
        let _ = fs::create_dir(dir);
    }
    // A journal that was not closed is not played back onto a disk that cannot be written.
    let options = (kind == "ext4").then_some(c"noload");
    mount(DISK, BASE, kind, MountFlags::RDONLY, options).map_err(named("the root file system"))?;
    mount("scratch", SCRATCH, "tmpfs", MountFlags::empty(), Some(c"mode=755")).map_err(named("memory"))?;
    for dir in ["upper", "work"] {
        fs::create_dir(Path::new(SCRATCH).join(dir)).map_err(|error| error.to_string())?;
    }
    let layers = c"lowerdir=/base,upperdir=/scratch/upper,workdir=/scratch/work";
    mount("overlay", ROOT, "overlay", MountFlags::empty(), Some(layers)).map_err(named("what is written"))?;
    furnish(boot)?;
    volumes::make(boot)?;
    if boot.read_only {
        mount_remount(ROOT, MountFlags::RDONLY, "").map_err(named("the root file system read-only"))?;
    }
    Ok(())
}

/// What every program finds in its root: devices, the kernel's settings, files of `/etc`. Its processes are mounted by
/// the first of them.
fn furnish(boot: &Boot) -> Result<(), String> {
    let root = Path::new(ROOT);
    for dir in ["dev", "proc", "sys", "etc", "tmp"] {
        // What is there already is as the image wants it.
        let _ = fs::create_dir(root.join(dir));
    }
    for (name, text) in &boot.etc {
        let path = root.join("etc").join(name);
        // A link would lead out of this root.
        let _ = fs::remove_file(&path);
        fs::write(&path, text).map_err(|error| format!("writing /etc/{name}: {error}"))?;
    }
    mount_bind("/dev", root.join("dev")).map_err(named("its devices"))?;
    let strict = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
    for dir in ["pts", "shm"] {
        let _ = fs::create_dir(root.join("dev").join(dir));
    }
    let terminals = c"newinstance,ptmxmode=0666,mode=0620,gid=5";
    let flags = MountFlags::NOSUID | MountFlags::NOEXEC;
    mount("devpts", root.join("dev/pts"), "devpts", flags, Some(terminals)).map_err(named("terminals"))?;
    mount("shm", root.join("dev/shm"), "tmpfs", strict, Some(c"mode=1777"))
        .map_err(named("shared memory"))?;
    mount("sysfs", root.join("sys"), "sysfs", strict, None).map_err(named("/sys"))?;
    let _ = fs::remove_file(root.join("dev/ptmx"));
    for (name, target) in [
        ("ptmx", "pts/ptmx"),
        ("fd", "/proc/self/fd"),
        ("stdin", "fd/0"),
        ("stdout", "fd/1"),
        ("stderr", "fd/2"),
    ] {
        let _ = symlink(target, root.join("dev").join(name));
    }
    Ok(())
}

/// How often the kernel has ended a program because there was no memory left.
pub(super) fn oom_kills() -> u64 {
    let text = fs::read_to_string("/proc/vmstat").unwrap_or_default();
    let count = text.lines().find_map(|line| line.strip_prefix("oom_kill ")?.parse().ok());
    count.unwrap_or_default()
}

/// Fills the memory that nobody uses with zeros, if a template of this machine is to be taken: what the kernel's start has
/// left there would be written down, and read for every machine that begins from it.
pub(super) fn wipe_for_template() {
    /// Memory that is left alone, in KiB: the kernel's own reserves, and what goes on meanwhile.
    const LEFT_KIB: usize = 4 << 10;
    let asked = is_said(TEMPLATE_WORD);
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let free = text.lines().find_map(|line| line.strip_prefix("MemFree:"));
    let free = free.and_then(|value| value.trim().trim_end_matches(" kB").parse::<usize>().ok());
    let bytes = free.unwrap_or_default().saturating_sub(LEFT_KIB) << 10;
    if !asked || bytes == 0 {
        return;
    }
    // SAFETY: a new mapping of its own, which is given back as it was got; the kernel fills it with zeros.
    unsafe {
        let (access, flags) = (libc::PROT_READ | libc::PROT_WRITE, libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
        let place = libc::mmap(std::ptr::null_mut(), bytes, access, flags | libc::MAP_POPULATE, -1, 0);
        if place != libc::MAP_FAILED {
            libc::munmap(place, bytes);
        }
    }
}

/// Whether a process listens to a signal, or has said that it does not care.
pub(super) fn catches(pid: i32, signal: i32) -> bool {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let mask = |key: &str| {
        let value = text.lines().find_map(|line| line.strip_prefix(key));
        value.and_then(|value| u64::from_str_radix(value.trim(), 16).ok()).unwrap_or_default()
    };
    (mask("SigCgt:") | mask("SigIgn:") | mask("SigBlk:")) >> (signal - 1) & 1 == 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agent_does_nothing_on_a_machine_that_lives() {
        assert!(is_newborn().is_err());
    }
}
