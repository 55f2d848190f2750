//! A process that sleeps in new namespaces until they are held by something else.
//!
//! A process with threads cannot enter a new user namespace, so another one is made: a copy of this one's only thread
//! that calls the kernel a few times and nothing else.

use std::{
    fs,
    io::{self, Read, Write},
    os::fd::{AsRawFd, OwnedFd, RawFd},
    path::PathBuf,
};

use rustix::pipe::{PipeFlags, pipe_with};

use crate::IdRange;

/// Kinds of namespaces that a pod has, by the kernel's names for their files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Users and groups.
    User,
    /// Links, addresses, ports.
    Net,
    /// Queues and shared memory.
    Ipc,
    /// Host name.
    Uts,
}

impl Kind {
    /// Name of the file below `/proc/<pid>/ns`.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Net => "net",
            Self::Ipc => "ipc",
            Self::Uts => "uts",
        }
    }
}

/// What the new process does before it sleeps.
#[derive(Clone, Copy)]
pub(crate) enum Task<'a> {
    /// Takes this host name.
    Name(&'a [u8]),
    /// Mounts what every container mounts.
    MountKernelFiles,
}

/// A process in new namespaces. Ended when this is dropped; what holds the namespaces by then keeps them.
#[derive(Debug)]
pub struct Newborn {
    pid: i32,
}

impl Newborn {
    /// Makes network, ipc and uts namespaces with this host name. With `ids`, they belong to a new user namespace where
    /// those ids are 0 and following.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn new(hostname: &str, ids: Option<IdRange>) -> io::Result<Self> {
        let flags = libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;
        Self::with(flags, ids, Task::Name(hostname.as_bytes())).map_err(|(_, error)| error)
    }

    /// As [`Self::new`], with what it did last if that failed.
    pub(crate) fn with(
        flags: i32,
        ids: Option<IdRange>,
        task: Task<'_>,
    ) -> Result<Self, (&'static str, io::Error)> {
        let at = |what: &'static str| move |error: io::Error| (what, error);
        let flags = if ids.is_some() { flags | libc::CLONE_NEWUSER } else { flags };
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(|error| ("a pipe", io::Error::from(error)));
        let ((go, start), (heard, done)) = (pipe()?, pipe()?);
        // SAFETY: without a stack of its own the child goes on here, on a copy of this stack; it calls nothing but the
        // kernel, so locks that other threads of this process hold do not matter to it.
        let pid = unsafe {
            libc::syscall(libc::SYS_clone, flags | libc::SIGCHLD, 0_usize, 0_usize, 0_usize, 0_usize)
        };
        match pid {
            -1 => return Err(("new namespaces", io::Error::last_os_error())),
            0 => sleep_inside(go.as_raw_fd(), done.as_raw_fd(), ids.is_some(), task),
            _ => {}
        }
        let pid = i32::try_from(pid).map_err(|error| ("new namespaces", io::Error::other(error)))?;
        let newborn = Self { pid };
        drop((go, done));
        if let Some(IdRange { first, count }) = ids {
            for map in ["gid_map", "uid_map"] {
                fs::write(format!("/proc/{pid}/{map}"), format!("0 {first} {count}\n"))
                    .map_err(at("the map of ids"))?;
            }
        }
        fs::File::from(start).write_all(&[0]).map_err(at("a pipe"))?;
        match outcome(heard).map_err(at("a process of the namespaces"))? {
            (_, 0) => Ok(newborn),
            (step, errno) => Err((task.steps(step), io::Error::from_raw_os_error(errno))),
        }
    }

    /// The file of one of its namespaces: as long as this lives.
    #[must_use]
    pub fn namespace(&self, kind: Kind) -> PathBuf {
        PathBuf::from(format!("/proc/{}/ns/{}", self.pid, kind.name()))
    }
}

impl Drop for Newborn {
    fn drop(&mut self) {
        // SAFETY: plain calls; the process is a child that nobody else waits for, so the number is its own until then.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            while libc::waitpid(self.pid, std::ptr::null_mut(), 0) < 0
                && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted
            {}
        }
    }
}

impl Task<'_> {
    fn steps(self, step: u8) -> &'static str {
        match (self, step) {
            (_, 0) => "becoming root of the namespace",
            (Self::Name(_), _) => "the host name",
            (Self::MountKernelFiles, 1) => "mounting /proc",
            (Self::MountKernelFiles, _) => "mounting /sys",
        }
    }
}

/// Step and error number that the child tells before it sleeps.
fn outcome(heard: OwnedFd) -> io::Result<(u8, i32)> {
    let mut said = [0; 5];
    fs::File::from(heard).read_exact(&mut said)?;
    let [step, errno @ ..] = said;
    Ok((step, i32::from_ne_bytes(errno)))
}

/// The life of the child. Only calls of the kernel: no memory is taken, no lock, no destructor.
fn sleep_inside(go: RawFd, done: RawFd, is_mapped: bool, task: Task<'_>) -> ! {
    // SAFETY: plain calls of the kernel on values of this frame and on open descriptors.
    unsafe {
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        let mut byte = 0_u8;
        if libc::read(go, (&raw mut byte).cast(), 1) != 1 {
            libc::_exit(1);
        }
        let (step, failed) = act(is_mapped, task);
        let errno = if failed { *libc::__errno_location() } else { 0 };
        let [a, b, c, d] = errno.to_ne_bytes();
        let said = [step, a, b, c, d];
        libc::write(done, said.as_ptr().cast(), said.len());
        loop {
            libc::pause();
        }
    }
}

/// # Safety
/// Only for a process that calls nothing but the kernel.
unsafe fn act(is_mapped: bool, task: Task<'_>) -> (u8, bool) {
    const QUIET: libc::c_ulong = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    // SAFETY: as for `sleep_inside`.
    unsafe {
        // Not by the C library, which tells all threads, of which there are none, and waits for their locks.
        let become_root = |call| libc::syscall(call, 0, 0, 0) != 0;
        if is_mapped && (become_root(libc::SYS_setresgid) || become_root(libc::SYS_setresuid)) {
            return (0, true);
        }
        // Becoming another user takes the signal at its parent's end away.
        libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
        match task {
            Task::Name(name) => (1, libc::sethostname(name.as_ptr().cast(), name.len()) != 0),
            Task::MountKernelFiles => {
                let mount = |kind: &std::ffi::CStr, at: &std::ffi::CStr| {
                    libc::mount(kind.as_ptr(), at.as_ptr(), kind.as_ptr(), QUIET, std::ptr::null()) != 0
                };
                if mount(c"proc", c"/proc") {
                    return (1, true);
                }
                (2, mount(c"sysfs", c"/sys"))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn new_namespaces_are_others_than_ours_and_end_with_their_process() {
        let ids = IdRange { first: 1_879_048_192, count: 65_536 };
        let newborn = Newborn::new("newborn", Some(ids)).unwrap();
        for kind in [Kind::User, Kind::Net, Kind::Ipc, Kind::Uts] {
            let inode = |path: PathBuf| fs::metadata(path).unwrap().ino();
            let own = PathBuf::from(format!("/proc/self/ns/{}", kind.name()));
            assert_ne!(inode(newborn.namespace(kind)), inode(own), "{kind:?}");
        }
        let map = fs::read_to_string(format!("/proc/{}/uid_map", newborn.pid)).unwrap();
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", "1879048192", "65536"]);
        let status = fs::read_to_string(format!("/proc/{}/status", newborn.pid)).unwrap();
        assert!(status.contains("Uid:\t1879048192\t1879048192"), "{status}");
        let user = newborn.namespace(Kind::User);
        drop(newborn);
        assert!(!user.exists());
    }

    #[test]
    fn host_name_that_the_kernel_refuses_is_told() {
        let error = Newborn::new(&"x".repeat(300), None).unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EINVAL));
    }
}
