//! A process that sleeps in new namespaces until they are held by something else.
//!
//! A process with threads cannot enter a new user namespace, so another one is made, which calls the kernel a few times and
//! nothing else. It has the memory of this one and not a copy of it: copying, and writing afterwards to what was copied,
//! takes longer than all that it does.

use std::{
    fs,
    io::{self, Read, Write},
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::PathBuf,
    sync::OnceLock,
};

use rustix::{
    io::Errno,
    mount::{MountFlags, mount},
    pipe::{PipeFlags, pipe_with},
    process::{
        DumpableBehavior, Gid, Signal, Uid, dumpable_behavior, set_dumpable_behavior,
        set_parent_process_death_signal,
    },
    thread::{set_thread_res_gid, set_thread_res_uid},
};

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

/// What the new process is told: read by it before it says that it is done.
struct Order<'a> {
    /// It begins when a byte comes from here.
    go: BorrowedFd<'a>,
    /// What it says when it is done.
    done: BorrowedFd<'a>,
    is_mapped: bool,
    task: Task<'a>,
}

/// Bytes of the new process's stack. It calls the kernel, and nothing that calls much.
const STACK_BYTES: usize = 64 << 10;

/// A process in new namespaces. Ended when this is dropped; what holds the namespaces by then keeps them.
#[derive(Debug)]
pub struct Newborn {
    pid: i32,
    /// It is on this until its end.
    _stack: Vec<u8>,
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
        // Becoming another user hides a process's memory, and it is this one's memory too.
        static VISIBLE: OnceLock<DumpableBehavior> = OnceLock::new();
        let visible = *VISIBLE.get_or_init(|| dumpable_behavior().unwrap_or(DumpableBehavior::Dumpable));
        let order = Order { go: go.as_fd(), done: done.as_fd(), is_mapped: ids.is_some(), task };
        let mut stack: Vec<u8> = Vec::with_capacity(STACK_BYTES);
        let flags = flags | libc::CLONE_VM | libc::SIGCHLD;
        // SAFETY: the stack is as long as is said and grows downwards from an aligned end; it is kept until the process has
        // ended, and the order until it has been carried out or the process has ended. What runs there takes no lock and no
        // memory, and leaves this thread's storage alone.
        let pid = unsafe {
            let end = stack.as_mut_ptr().add(STACK_BYTES);
            let end = end.sub(end.addr() % 16);
            libc::clone(sleep_inside, end.cast(), flags, (&raw const order).cast_mut().cast())
        };
        if pid < 0 {
            return Err(("new namespaces", io::Error::last_os_error()));
        }
        let newborn = Self { pid, _stack: stack };
        drop((go, done));
        if let Some(IdRange { first, count }) = ids {
            for map in ["gid_map", "uid_map"] {
                fs::write(format!("/proc/{pid}/{map}"), format!("0 {first} {count}\n"))
                    .map_err(at("the map of ids"))?;
            }
        }
        fs::File::from(start).write_all(&[0]).map_err(at("a pipe"))?;
        let outcome = outcome(heard).map_err(at("a process of the namespaces"));
        set_dumpable_behavior(visible).map_err(|error| ("its own memory", error.into()))?;
        match outcome? {
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

/// The life of the new process. Only calls of the kernel: no memory is taken, no lock, no destructor, no error number of a
/// thread's.
extern "C" fn sleep_inside(order: *mut libc::c_void) -> libc::c_int {
    // SAFETY: whoever made this process keeps the order until it is carried out.
    let order = unsafe { &*order.cast_const().cast::<Order<'_>>() };
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    if rustix::io::read(order.go, &mut [0_u8; 1]) != Ok(1) {
        return 1;
    }
    let (step, errno) = match act(order) {
        Ok(()) => (0, 0),
        Err((step, errno)) => (step, errno.raw_os_error()),
    };
    let [a, b, c, d] = errno.to_ne_bytes();
    let _ = rustix::io::write(order.done, &[step, a, b, c, d]);
    loop {
        rustix::event::pause();
    }
}

fn act(order: &Order<'_>) -> Result<(), (u8, Errno)> {
    let at = |step| move |errno| (step, errno);
    if order.is_mapped {
        // Of this thread alone, which is all there is; the C library would tell all threads of the other process.
        let (user, group) = (Uid::ROOT, Gid::ROOT);
        set_thread_res_gid(group, group, group).map_err(at(0))?;
        set_thread_res_uid(user, user, user).map_err(at(0))?;
    }
    // Becoming another user takes the signal at its parent's end away.
    let _ = set_parent_process_death_signal(Some(Signal::KILL));
    match order.task {
        Task::Name(name) => rustix::system::sethostname(name).map_err(at(1)),
        Task::MountKernelFiles => {
            let quiet = MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC;
            mount(c"proc", c"/proc", c"proc", quiet, None).map_err(at(1))?;
            mount(c"sysfs", c"/sys", c"sysfs", quiet, None).map_err(at(2))
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
