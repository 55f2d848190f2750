//! A machine of ours that runs nothing of anybody's: booted to the agent's first word, to try the processor and to take
//! templates of.

use std::{
    fs::{self, File},
    io::{self, BufReader},
    os::unix::net::UnixStream,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use guest::frame::Frame;

use super::qemu::{Shape, own_machine};
use crate::pod::shim::through;

/// Pause between two looks whether a socket is there.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// Name of the socket by which the VMM is told things.
const QMP: &str = "qmp.sock";
/// Name of the socket of its port.
const PORT: &str = "port.sock";

/// A machine whose agent is there. It ends, and its directory goes, when it is let go.
pub(super) struct OwnMachine {
    vmm: Child,
    dir: PathBuf,
    /// Keeps the agent's other end open.
    port: Option<UnixStream>,
}

impl OwnMachine {
    /// Boots one of this shape, with its sockets in a new directory beside the jail's: `<top>/<shelf>/<name>`.
    pub(super) fn boot(
        program: &Path,
        jail: &Path,
        shape: &Shape,
        (dir, until): (PathBuf, Instant),
    ) -> io::Result<Self> {
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        super::make_private(&dir)?;
        let mut command = Command::new(program);
        command
            .args(own_machine(shape, &seen_from_jail(&dir, PORT)))
            .args(["-qmp", &format!("unix:{},server=on,wait=off", seen_from_jail(&dir, QMP))])
            .current_dir(jail)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut machine = Self { vmm: command.spawn()?, dir, port: None };
        let port = machine.connect(PORT, until)?;
        let left = until.saturating_duration_since(Instant::now()).max(LOOK_EVERY);
        port.set_read_timeout(Some(left))?;
        let first = Frame::read(BufReader::new(&port));
        machine.port = Some(port);
        match first {
            Ok((_, Frame::Ready(_))) => Ok(machine),
            Ok(_) => Err(io::Error::other("the guest did not speak as it should")),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                Err(io::Error::new(io::ErrorKind::TimedOut, "the kernel did not come up in time"))
            }
            Err(_ended) => Err(io::Error::other("the guest ended before it could say anything")),
        }
    }

    /// The socket by which the VMM is told things.
    pub(super) fn qmp(&mut self, until: Instant) -> io::Result<UnixStream> {
        self.connect(QMP, until)
    }

    /// What a socket of this name in the machine's directory is called for the VMM.
    pub(super) fn socket(&self, name: &str) -> String {
        seen_from_jail(&self.dir, name)
    }

    /// The directory of its sockets.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    fn connect(&mut self, name: &str, until: Instant) -> io::Result<UnixStream> {
        // The addresses of sockets are short.
        let held = File::open(&self.dir)?;
        let socket = through(&held).join(name);
        loop {
            match UnixStream::connect(&socket) {
                Ok(stream) => return Ok(stream),
                Err(error) if Instant::now() > until => return Err(error),
                Err(_not_yet) => {}
            }
            if let Some(status) = self.vmm.try_wait()? {
                return Err(io::Error::other(format!("the VMM ended at once ({status})")));
            }
            thread::sleep(LOOK_EVERY);
        }
    }
}

/// The VMM begins in the jail's directory, `<top>/jails/<key>`, and names what is not there from it: names of ours alone,
/// whatever the directories above are called.
fn seen_from_jail(dir: &Path, name: &str) -> String {
    let part = |path: Option<&Path>| {
        path.and_then(Path::file_name).unwrap_or_default().to_string_lossy().into_owned()
    };
    format!("../../{}/{}/{name}", part(dir.parent()), part(Some(dir)))
}

impl Drop for OwnMachine {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.vmm.kill();
        let _ = self.vmm.wait();
        let _ = fs::remove_dir_all(&self.dir);
    }
}
