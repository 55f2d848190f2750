//! What a container can see and do, told by a program inside it: a line for each thing that was tried.

use std::{fs, io};

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
