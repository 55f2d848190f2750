//! Processes as the kernel names them: a pid alone may be anybody's, a pid with its start time is one process.

use std::{
    fs, io,
    os::fd::{AsRawFd, OwnedFd},
};

use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open};

/// Field of `/proc/<pid>/stat` behind the name that holds the state; the fields are counted from there.
const STATE_FIELD: usize = 0;
/// The same for the start time, in ticks since boot.
const START_FIELD: usize = 19;
/// The same for the status that its parent gets when it has ended.
const STATUS_FIELD: usize = 49;

/// When the process was made, in ticks since boot. None if there is no such process or it has ended.
#[must_use]
pub fn start_ticks(pid: i32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The name may hold anything, blanks and brackets included; what follows the last bracket is plain.
    let (_, fields) = stat.rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    if matches!(*fields.get(STATE_FIELD)?, "Z" | "X") {
        return None;
    }
    fields.get(START_FIELD)?.parse().ok()
}

/// A handle on exactly the process with this pid and start time; None if it has ended.
///
/// # Errors
/// If the kernel has no such handles or no room for one.
pub fn open_exactly(pid: i32, ticks: u64) -> io::Result<Option<OwnedFd>> {
    let Some(id) = Pid::from_raw(pid) else { return Ok(None) };
    let handle = match pidfd_open(id, PidfdFlags::empty()) {
        Ok(handle) => handle,
        Err(rustix::io::Errno::SRCH) => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    // Looked at after the handle was taken: if the start time is right now, the handle is on the right process.
    Ok((start_ticks(pid) == Some(ticks)).then_some(handle))
}

/// A handle on our own child with this pid, which may have ended but has not been reaped.
///
/// # Errors
/// If the kernel has no such handles or no room for one.
pub fn open_child(pid: i32) -> io::Result<OwnedFd> {
    let id = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(id, PidfdFlags::empty())?)
}

/// How a process that is somebody else's child ended: the status that its parent gets or got. Seen as long as its parent
/// has not asked, and on newer kernels after that.
#[must_use]
pub fn how_it_ended(handle: &OwnedFd, pid: i32, ticks: u64) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    status_of_dead(&stat, ticks).or_else(|| remembered_end(handle))
}

/// How a process ended that has ended and that its parent has not asked about.
#[must_use]
pub fn unreaped_end(pid: i32, ticks: u64) -> Option<i32> {
    status_of_dead(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?, ticks)
}

/// The status in `/proc/<pid>/stat` if that is the process with this start time, and it has ended.
fn status_of_dead(stat: &str, ticks: u64) -> Option<i32> {
    let (_, fields) = stat.trim_end().rsplit_once(") ")?;
    let fields: Vec<&str> = fields.split(' ').collect();
    let same = fields.get(START_FIELD)?.parse() == Ok(ticks);
    if same && matches!(*fields.get(STATE_FIELD)?, "Z" | "X") {
        fields.get(STATUS_FIELD)?.parse().ok()
    } else {
        None
    }
}

/// What the kernel remembers of the process behind a handle after its parent asked (Linux 6.15 and later).
fn remembered_end(handle: &OwnedFd) -> Option<i32> {
    /// `PIDFD_INFO_EXIT` of `linux/pidfd.h`.
    const INFO_EXIT: u64 = 1 << 3;
    /// `PIDFD_GET_INFO`: `_IOWR(0xFF, 11, struct pidfd_info)`, for the first published size of the structure.
    const GET_INFO: libc::Ioctl = (3 << 30 | 64 << 16 | 0xFF << 8 | 11) as libc::Ioctl;
    /// `struct pidfd_info`, first published size.
    #[repr(C)]
    #[derive(Default)]
    struct PidfdInfo {
        mask: u64,
        cgroup_id: u64,
        ids: [u32; 11],
        exit_code: i32,
    }
    let mut info = PidfdInfo { mask: INFO_EXIT, ..PidfdInfo::default() };
    // SAFETY: the structure has the size that the request names, and outlives the call.
    let result = unsafe { libc::ioctl(handle.as_raw_fd(), GET_INFO, &raw mut info) };
    (result == 0 && info.mask & INFO_EXIT != 0).then_some(info.exit_code)
}

/// Sends a signal by handle. Ok also if the process has ended.
///
/// # Errors
/// If the number is no signal or the kernel refuses.
pub fn send(handle: &OwnedFd, signal: i32) -> io::Result<()> {
    // SAFETY: a plain call; the descriptor is open as long as `handle` is borrowed. (rustix knows no real-time signals.)
    let result = unsafe {
        let nothing = std::ptr::null::<libc::siginfo_t>();
        libc::syscall(libc::SYS_pidfd_send_signal, handle.as_raw_fd(), signal, nothing, 0)
    };
    match io::Error::last_os_error() {
        _ if result == 0 => Ok(()),
        error if error.raw_os_error() == Some(libc::ESRCH) => Ok(()),
        error => Err(error),
    }
}

/// Whether the first process of a pid namespace may take notice of a signal: it catches, blocks or ignores it. The
/// kernel drops signals for it that it left at their default, all but KILL.
#[must_use]
pub fn hears(pid: i32, signal: i32) -> bool {
    let Ok(status) = fs::read_to_string(format!("/proc/{pid}/status")) else { return false };
    heard_in(&status, signal)
}

fn heard_in(status: &str, signal: i32) -> bool {
    // The last of its numbers is that in its own namespace: another one's signals may do what they do by default.
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    let first = numbers.is_none_or(|line| line.split_whitespace().last() == Some("1"));
    if signal == libc::SIGKILL || !first {
        return true;
    }
    let bit = 1_u64 << (signal.clamp(1, 64) - 1);
    ["SigBlk:", "SigIgn:", "SigCgt:"].iter().any(|name| {
        let mask = status.lines().find_map(|line| line.strip_prefix(name));
        mask.and_then(|text| u64::from_str_radix(text.trim(), 16).ok()).is_some_and(|mask| mask & bit != 0)
    })
}

/// The number of a signal as images write it: `SIGTERM`, `TERM`, `15`, `SIGRTMIN+3`. None if there is no such signal.
#[must_use]
pub fn signal_number(text: &str) -> Option<i32> {
    const NAMES: [(&str, i32); 15] = [
        ("HUP", libc::SIGHUP),
        ("INT", libc::SIGINT),
        ("QUIT", libc::SIGQUIT),
        ("ABRT", libc::SIGABRT),
        ("KILL", libc::SIGKILL),
        ("USR1", libc::SIGUSR1),
        ("USR2", libc::SIGUSR2),
        ("PIPE", libc::SIGPIPE),
        ("ALRM", libc::SIGALRM),
        ("TERM", libc::SIGTERM),
        ("CONT", libc::SIGCONT),
        ("TSTP", libc::SIGTSTP),
        ("WINCH", libc::SIGWINCH),
        ("PWR", libc::SIGPWR),
        ("IO", libc::SIGIO),
    ];
    let upper = text.trim().to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let first = libc::SIGRTMIN();
    let number = match name.strip_prefix("RTMIN") {
        Some("") => Some(first),
        Some(more) => more
            .strip_prefix('+')
            .and_then(|more| more.parse::<u8>().ok())
            .map(|more| first + i32::from(more)),
        None => {
            let named = NAMES.iter().find(|(known, _)| *known == name).map(|(_, number)| *number);
            named.or_else(|| name.parse().ok())
        }
    };
    number.filter(|number| (1..=libc::SIGRTMAX()).contains(number))
}

/// Ends every process whose pid is listed in the control group.
pub fn kill_group(group_dir: &std::path::Path) {
    let Ok(list) = fs::read_to_string(group_dir.join("cgroup.procs")) else { return };
    for pid in list.lines().filter_map(|line| line.parse().ok()).filter_map(Pid::from_raw) {
        let _ = rustix::process::kill_process(pid, Signal::KILL);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn start_time_tells_a_process_from_a_later_one_of_the_same_pid() {
        let me = i32::try_from(std::process::id()).unwrap();
        let ticks = start_ticks(me).unwrap();
        assert!(open_exactly(me, ticks).unwrap().is_some());
        assert!(open_exactly(me, ticks + 1).unwrap().is_none());
        assert_eq!(start_ticks(-1), None);
    }

    #[test]
    fn signal_is_understood_in_every_form_that_images_use() {
        for (text, number) in [("SIGTERM", 15), ("quit", 3), ("9", 9), ("SIGRTMIN+3", libc::SIGRTMIN() + 3)] {
            assert_eq!(signal_number(text), Some(number), "{text}");
        }
        for text in ["", "SIGNOPE", "0", "-1", "65", "SIGRTMIN+99"] {
            assert_eq!(signal_number(text), None, "{text}");
        }
    }

    #[test]
    fn end_of_a_process_that_nobody_has_reaped_is_seen() {
        let mut command = std::process::Command::new("sh");
        command.args(["-c", "read line; exit 5"]).stdin(std::process::Stdio::piped());
        let mut child = command.spawn().unwrap();
        let pid = child.id().cast_signed();
        let ticks = start_ticks(pid).unwrap();
        let handle = open_exactly(pid, ticks).unwrap().unwrap();
        assert_eq!(how_it_ended(&handle, pid, ticks), None);
        drop(child.stdin.take());
        while start_ticks(pid).is_some() {
            std::thread::yield_now();
        }
        assert_eq!(how_it_ended(&handle, pid, ticks).map(|status| libc::WEXITSTATUS(status)), Some(5));
        child.wait().unwrap();
    }

    #[test]
    fn signal_left_at_its_default_is_not_heard() {
        let status = "SigBlk:\t0000000000000000\nSigIgn:\t0000000000001000\nSigCgt:\t0000000000004002\n";
        assert!(heard_in(status, libc::SIGTERM));
        assert!(heard_in(status, libc::SIGPIPE));
        assert!(!heard_in(status, libc::SIGUSR1));
        assert!(heard_in("", libc::SIGKILL));
        assert!(!heard_in("NSpid:\t812\t1\n", libc::SIGTERM));
        assert!(heard_in("NSpid:\t812\t7\n", libc::SIGTERM));
    }
}
