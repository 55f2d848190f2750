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

use guest::{frame::Frame, order::Api, vmm::api};

use super::{Shape, Vmm, firecracker, qemu};
use crate::pod::shim::through;

/// Pause between two looks whether a socket is there.
const LOOK_EVERY: Duration = Duration::from_millis(5);

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
        (vmm, program): (Vmm, &Path),
        jail: &Path,
        shape: &Shape,
        (dir, until): (PathBuf, Instant),
    ) -> io::Result<Self> {
        match fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        super::make_private(&dir)?;
        let run = |name: &str| seen_from_jail(&dir, name);
        let begin = match vmm {
            Vmm::Firecracker => firecracker::own_machine(program, shape, &run),
            Vmm::Qemu(accelerator) => qemu::own_machine(program, accelerator, shape, &run),
        };
        let mut command = Command::new(program);
        command
            .args(begin.command.get(1..).unwrap_or_default())
            .current_dir(jail)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        let mut machine = Self { vmm: command.spawn()?, dir, port: None };
        if let Some(Api { socket, requests }) = &begin.api {
            api::tell(machine.connect(socket, None, until)?, requests)?;
        }
        let port = machine.connect(&begin.port, begin.agent, until)?;
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
        self.connect(Path::new(qemu::QMP_SOCKET), None, until)
    }

    /// What a socket of this name in the machine's directory is called for the VMM.
    pub(super) fn socket(&self, name: &str) -> String {
        seen_from_jail(&self.dir, name)
    }

    /// The directory of its sockets.
    pub(super) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Connects to a socket of its directory, and there to the agent's port if there are several.
    fn connect(&mut self, socket: &Path, agent: Option<u32>, until: Instant) -> io::Result<UnixStream> {
        // The addresses of sockets are short.
        let held = File::open(&self.dir)?;
        let socket = through(&held).join(socket.file_name().unwrap_or_default());
        loop {
            let attempt = UnixStream::connect(&socket).and_then(|stream| {
                agent.map_or(Ok(()), |agent| api::ask_for(agent, &stream))?;
                Ok(stream)
            });
            match attempt {
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
