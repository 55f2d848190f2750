//! Templates: the state of a microVM that has booted and knows nothing yet, from which others begin.
//!
//! ```text
//!  boot ─▶ the agent says that it is there ─▶ state ─▶ templates/<jail>-<processors>-<memory>      once
//!  template ─▶ VMM, with its own disk and link ─▶ "be this, run that" ─▶ program                    each start
//! ```
//! What takes time is the kernel's start, which is the same for everybody. A template is taken before the agent knows
//! disk, address, clock or program, so one serves every image of a size, and nothing of anybody's is in it. What must
//! differ is told afterwards: the clock is set, and random numbers are fresh, before anything of the user's runs.
//!
//! *Guarantees*: a template is only read. It is one of this very VMM, kernel and guest program, for it is named for them.
//!
//! *Not here*: machines that the processor runs (KVM), which boot in a fraction of a second.

use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Write},
    os::unix::{
        fs::PermissionsExt,
        net::{UnixListener, UnixStream},
    },
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};

use super::{Ready, Shape, own::OwnMachine};
use crate::pod::shim::through;

/// Name of the directory of all of them, beside that of the jails.
pub(super) const TEMPLATES: &str = "templates";
/// Most templates of a node: each takes some 60 MB of its disk.
const MAX_TEMPLATES: usize = 8;
/// How long a template may take to be made: a boot on a busy machine.
const MADE_WITHIN: Duration = Duration::from_secs(90);
/// Pause between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long the agent's first word may be ahead of the kernel's last work at its start.
const SETTLED_AFTER: Duration = Duration::from_millis(100);
/// Bytes in a second at which the state is written: as fast as the disk takes it.
const BANDWIDTH: u64 = 4 << 30;

/// Where the template of a shape is, or would be.
pub(super) fn path(templates: &Path, jail: &Path, shape: &Shape) -> PathBuf {
    let jail = jail.file_name().unwrap_or_default().to_string_lossy();
    templates.join(format!("{jail}-{}-{}", shape.processors, shape.memory_mib))
}

/// Makes the template of a shape, unless it is there. Takes as long as a boot.
pub(super) fn make(templates: &Path, ready: &Ready, shape: &Shape) -> io::Result<PathBuf> {
    let Ready { jail, program, vmm } = ready;
    let path = path(templates, jail, shape);
    if path.is_file() {
        return Ok(path);
    }
    super::make_private(templates)?;
    make_room(templates);
    let until = Instant::now() + MADE_WITHIN;
    let mut machine = OwnMachine::boot((*vmm, program), jail, shape, (path.with_extension("new"), until))?;
    thread::sleep(SETTLED_AFTER);
    let state = save(&mut machine, until)?;
    fs::set_permissions(&state, fs::Permissions::from_mode(0o444))?;
    fs::rename(&state, &path)?;
    Ok(path)
}

/// Removes the oldest templates, so that there is room for one more. What stands on one of them keeps it, or boots.
fn make_room(templates: &Path) {
    let entries = fs::read_dir(templates).into_iter().flatten().flatten();
    let mut found: Vec<_> =
        entries.filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path()))).collect();
    found.sort();
    let surplus = (found.len() + 1).saturating_sub(MAX_TEMPLATES);
    for (_, path) in found.into_iter().take(surplus).filter(|(_, path)| path.is_file()) {
        if let Err(error) = fs::remove_file(&path) {
            tracing::warn!(path = %path.display(), %error, "an old template stays");
        }
    }
}

/// Has the VMM write its state to a file of the machine's directory.
fn save(machine: &mut OwnMachine, until: Instant) -> io::Result<PathBuf> {
    let (socket, state) = ("state.sock", machine.dir().join("state"));
    let held = File::open(machine.dir())?;
    let listener = UnixListener::bind(through(&held).join(socket))?;
    let mut qmp = Qmp::new(machine.qmp(until)?)?;
    qmp.ask("migrate-set-parameters", &json!({ "max-bandwidth": BANDWIDTH }))?;
    qmp.ask("migrate", &json!({ "uri": format!("unix:{}", machine.socket(socket)) }))?;
    let (mut stream, _) = listener.accept()?;
    let mut file = File::create(&state)?;
    io::copy(&mut stream, &mut file)?;
    file.sync_all()?;
    while Instant::now() < until {
        let answer = qmp.ask("query-migrate", &json!({}))?;
        match answer.get("status").and_then(Value::as_str) {
            Some("completed") => return Ok(state),
            Some("failed" | "cancelled") => break,
            _ => thread::sleep(LOOK_EVERY),
        }
    }
    Err(io::Error::other("the VMM could not write down its state"))
}

/// The VMM's own protocol: a line of JSON for each request, answer and event.
struct Qmp {
    lines: BufReader<UnixStream>,
}

impl Qmp {
    fn new(stream: UnixStream) -> io::Result<Self> {
        stream.set_read_timeout(Some(MADE_WITHIN))?;
        let mut qmp = Self { lines: BufReader::new(stream) };
        // It greets first.
        qmp.line()?;
        qmp.ask("qmp_capabilities", &json!({}))?;
        Ok(qmp)
    }

    fn line(&mut self) -> io::Result<Value> {
        let mut line = String::new();
        if self.lines.read_line(&mut line)? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        Ok(serde_json::from_str(&line)?)
    }

    fn ask(&mut self, command: &str, arguments: &Value) -> io::Result<Value> {
        let request = json!({ "execute": command, "arguments": arguments });
        self.lines.get_mut().write_all(format!("{request}\n").as_bytes())?;
        loop {
            let mut line = self.line()?;
            if let Some(error) = line.get("error") {
                return Err(io::Error::other(format!("{command}: {error}")));
            }
            if let Some(answer) = line.get_mut("return") {
                return Ok(answer.take());
            }
            // An event: nobody has asked for it.
        }
    }
}

/// Removes templates of other VMMs, kernels and guest programs.
pub(super) fn remove_others(templates: &Path, jail: &Path) {
    let own = format!("{}-", jail.file_name().unwrap_or_default().to_string_lossy());
    for entry in fs::read_dir(templates).into_iter().flatten().flatten() {
        let path = entry.path();
        if !entry.file_name().to_string_lossy().starts_with(&own) {
            let gone = if path.is_dir() { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
            if let Err(error) = gone {
                tracing::warn!(path = %path.display(), %error, "a template of earlier stays");
            }
        }
    }
}
