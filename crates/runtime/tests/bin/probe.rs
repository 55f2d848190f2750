//! What a container can see and do, told by a program inside it: a line for each thing that was tried.

use std::{fs, io, os::unix::fs::FileTypeExt};

/// A call and its arguments.
type Call = (&'static str, libc::c_long, [usize; 4]);

/// Calls that are tried. Each would give something else than EPERM if no filter held it, be it for its arguments.
const CALLS: &[Call] = &[
    ("add_key", libc::SYS_add_key, [0; 4]),
    ("bpf", libc::SYS_bpf, [999, 0, 0, 0]),
    ("clone3", libc::SYS_clone3, [0; 4]),
    ("finit_module", libc::SYS_finit_module, [usize::MAX, 0, 0, 0]),
    ("fsopen", libc::SYS_fsopen, [0; 4]),
    ("io_uring_setup", libc::SYS_io_uring_setup, [0; 4]),
    ("kexec_load", libc::SYS_kexec_load, [0, 0, 0, 1]),
    ("keyctl", libc::SYS_keyctl, [999, 0, 0, 0]),
    ("mount", libc::SYS_mount, [0; 4]),
    ("move_mount", libc::SYS_move_mount, [0; 4]),
    ("open_by_handle_at", libc::SYS_open_by_handle_at, [usize::MAX, 0, 0, 0]),
    ("perf_event_open", libc::SYS_perf_event_open, [0; 4]),
    ("personality", libc::SYS_personality, [0x4_0000, 0, 0, 0]),
    ("pivot_root", libc::SYS_pivot_root, [0; 4]),
    ("process_vm_readv", libc::SYS_process_vm_readv, [1, 0, 0, 0]),
    ("ptrace", libc::SYS_ptrace, [0; 4]),
    ("reboot", libc::SYS_reboot, [0; 4]),
    ("request_key", libc::SYS_request_key, [0; 4]),
    ("setns", libc::SYS_setns, [usize::MAX, 0, 0, 0]),
    ("socket AF_ALG", libc::SYS_socket, [38, 5, 0, 0]),
    ("socket AF_INET", libc::SYS_socket, [2, 1, 0, 0]),
    ("socket AF_VSOCK", libc::SYS_socket, [40, 1, 0, 0]),
    ("umount2", libc::SYS_umount2, [0; 4]),
    ("unknown", 1000, [0; 4]),
    ("unshare", libc::SYS_unshare, [0; 4]),
    ("unshare NEWUSER", libc::SYS_unshare, [0x1000_0000, 0, 0, 0]),
    ("userfaultfd", libc::SYS_userfaultfd, [0; 4]),
];

fn main() {
    for word in std::env::args().skip(1) {
        match word.as_str() {
            "calls" => calls(),
            "filter" => status(&["NoNewPrivs", "Seccomp", "Seccomp_filters"]),
            "threads" => threads(),
            "table" => table(),
            "hunt" => hunt(),
            other => println!("no probe is called {other:?}"),
        }
    }
}

fn calls() {
    for (name, number, [a, b, c, d]) in CALLS {
        // SAFETY: where a call takes an address, it is given none; every other argument is a plain number.
        let result = unsafe { libc::syscall(*number, *a, *b, *c, *d, 0, 0) };
        let error = io::Error::last_os_error().raw_os_error();
        println!("{name}: {}", if result >= 0 { "done" } else { name_of(error) });
    }
}

fn name_of(error: Option<i32>) -> &'static str {
    match error {
        Some(libc::EPERM) => "EPERM",
        Some(libc::ENOSYS) => "ENOSYS",
        Some(libc::EINVAL) => "EINVAL",
        Some(libc::EFAULT) => "EFAULT",
        Some(libc::EBADF) => "EBADF",
        Some(libc::EACCES) => "EACCES",
        Some(libc::EAFNOSUPPORT) => "EAFNOSUPPORT",
        _ => "another error",
    }
}

/// Lines of this process's status.
fn status(names: &[&str]) {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    for (name, value) in text.lines().filter_map(|line| line.split_once(':')) {
        if names.contains(&name) {
            println!("{name}: {}", value.trim());
        }
    }
}

/// The C library begins threads with `clone3`, and falls back to `clone` if that is not there.
fn threads() {
    let answer = std::thread::spawn(|| 42).join();
    println!("thread: {}", answer.map_or("panicked", |_| "ended"));
    let child = std::process::Command::new("/bin/sh").args(["-c", "exit 3"]).status();
    println!("child: {:?}", child.map(|status| status.code()).ok().flatten());
}

/// Files of the kernel that Docker hides.
const HIDDEN: &[&str] = &[
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];
/// Files of the kernel that must not be written, each with a file to try it on.
const FIXED: &[&str] =
    &["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys/kernel/hostname", "/proc/sysrq-trigger"];

/// Everything that the table of `docs/src/riklet/containers.md` says, a row each.
fn table() {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let words = |text: String| text.split_whitespace().collect::<Vec<_>>().join(" ");
    println!("ids | {}", words(read("/proc/self/uid_map")));
    for (row, name) in [
        ("capabilities", "CapBnd"),
        ("inherited", "CapInh"),
        ("ambient", "CapAmb"),
        ("no new privileges", "NoNewPrivs"),
        ("seccomp", "Seccomp"),
    ] {
        let status = read("/proc/self/status");
        let own = status.lines().filter_map(|line| line.split_once(':')).find(|(known, _)| *known == name);
        println!("{row} | {}", own.map_or("", |(_, value)| value.trim()));
    }
    println!("devices | {}", devices());
    println!("making a device | {}", make_device());
    let shown = HIDDEN.iter().filter(|path| !is_hidden(path)).copied().collect::<Vec<_>>();
    println!("hidden but shown | {}", shown.join(" "));
    let written = FIXED.iter().filter(|path| can_change(path)).copied().collect::<Vec<_>>();
    println!("fixed but changed | {}", written.join(" "));
    let changed = mounts().into_iter().filter(|[place, kind, _]| {
        ["sysfs", "cgroup", "cgroup2"].contains(&kind.as_str()) && can_change(place)
    });
    println!(
        "kernel's files that can be changed | {}",
        changed.map(|[place, ..]| place).collect::<Vec<_>>().join(" ")
    );
    // The null device that hides a file is one.
    let loose = mounts().into_iter().filter(|[place, kind, options]| {
        !options.contains("nodev") && kind != "devtmpfs" && !place.starts_with("/dev") && can_change(place)
    });
    println!(
        "mounts where devices would work | {}",
        loose.map(|[place, ..]| place).collect::<Vec<_>>().join(" ")
    );
    println!("descriptors | {}", descriptors());
    println!(
        "root of the machine | {}",
        if fs::read("/proc/1/root/etc/shadow").is_ok() { "seen" } else { "not seen" }
    );
    println!("first process | {}", if std::process::id() == 1 { "own" } else { "not own" });
}

fn devices() -> String {
    let entries = fs::read_dir("/dev").into_iter().flatten().flatten();
    // What a name is says the file that is mounted on it.
    let is_device =
        |found: fs::Metadata| found.file_type().is_char_device() || found.file_type().is_block_device();
    let mut names: Vec<String> = entries
        .filter(|entry| fs::symlink_metadata(entry.path()).is_ok_and(is_device))
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    names.sort();
    names.join(" ")
}

fn make_device() -> &'static str {
    // SAFETY: a plain call with a constant path.
    let made = unsafe { libc::mknod(c"/memory".as_ptr(), libc::S_IFCHR | 0o600, libc::makedev(1, 1)) };
    if made == 0 { "done" } else { name_of(io::Error::last_os_error().raw_os_error()) }
}

/// Hidden is what is not there, is an empty directory, or is the null device.
fn is_hidden(path: &str) -> bool {
    match fs::symlink_metadata(path) {
        Err(_) => true,
        Ok(found) if found.is_dir() => fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none()),
        Ok(found) => found.file_type().is_char_device(),
    }
}

/// Whether the file system that is seen there may be written; who may is another matter.
fn can_change(path: &str) -> bool {
    let Ok(path) = std::ffi::CString::new(path) else { return false };
    // SAFETY: all zeros are a value of it, and the call writes it.
    let mut found: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a plain call on values of this frame.
    let done = unsafe { libc::statvfs(path.as_ptr(), &raw mut found) };
    done == 0 && found.f_flag & libc::ST_RDONLY == 0
}

/// Place, kind and options of every mount.
fn mounts() -> Vec<[String; 3]> {
    let text = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let each = text.lines().filter_map(|line| {
        let (left, right) = line.split_once(" - ")?;
        let mut fields = left.split(' ').skip(4);
        let (place, options, kind) = (fields.next()?, fields.next()?, right.split(' ').next()?);
        Some([place, kind, options].map(str::to_owned))
    });
    each.collect()
}

fn descriptors() -> String {
    let entries = fs::read_dir("/proc/self/fd").into_iter().flatten().flatten();
    // One is that of the listing itself.
    let mut numbers: Vec<i32> =
        entries.filter_map(|entry| entry.file_name().to_string_lossy().parse().ok()).collect();
    numbers.sort_unstable();
    numbers.pop();
    numbers.iter().map(i32::to_string).collect::<Vec<_>>().join(" ")
}

/// Looks for the programs of all other processes here, as what broke out of Docker did for the runtime's own
/// (CVE-2019-5736), until a file says that it is enough. Who may follow the link may open the file.
fn hunt() {
    let (mut seen, mut reached) = (0, 0);
    while fs::metadata("/enough").is_err() {
        for entry in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.parse::<u32>().map_or(true, |pid| pid == std::process::id()) {
                continue;
            }
            seen += 1;
            // The container's own programs are its own.
            let program = fs::read_link(format!("/proc/{name}/exe"));
            reached += u32::from(program.is_ok_and(|program| !program.starts_with("/bin")));
        }
    }
    println!("others seen: {}", seen > 0);
    println!("others reached: {reached}");
}
