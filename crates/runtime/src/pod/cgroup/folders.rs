//! The folders and files that control groups are: made, written, and removed with whatever still runs in them.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use super::CgroupError;

/// Time between two looks at a group that is not empty yet.
const REMOVAL_PAUSE: Duration = Duration::from_millis(5);

pub(super) fn failed(operation: &'static str, path: &Path, source: io::Error) -> CgroupError {
    CgroupError::Path { operation, path: path.to_owned(), source }
}

pub(super) fn make(path: &Path) -> Result<(), CgroupError> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(failed("make", path, error)),
        _ => Ok(()),
    }
}

pub(super) fn write(path: &Path, value: &str) -> Result<(), CgroupError> {
    // Never created: a file that is not there is a controller that is not there.
    let write = fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| io::Write::write_all(&mut file, value.as_bytes()));
    write.map_err(|source| failed("write", path, source))
}

pub(super) fn children(group: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(group) else { return Vec::new() };
    entries
        .flatten()
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|e| e.path())
        .collect()
}

pub(super) fn remove(group: &Path, until: Instant) -> Result<(), CgroupError> {
    loop {
        for child in children(group) {
            remove(&child, until)?;
        }
        match fs::remove_dir(group) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(error) if error.kind() == io::ErrorKind::ResourceBusy => {}
            Err(error) => return Err(failed("remove", group, error)),
        }
        let pids = pids_in(group);
        if Instant::now() >= until {
            return Err(CgroupError::Occupied { path: group.to_owned(), pids });
        }
        if fs::write(group.join("cgroup.kill"), "1").is_err() {
            for pid in pids.into_iter().filter_map(Pid::from_raw) {
                let _ = kill_process(pid, Signal::KILL);
            }
        }
        std::thread::sleep(REMOVAL_PAUSE);
    }
}

pub(super) fn pids_in(group: &Path) -> Vec<i32> {
    let text = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}
