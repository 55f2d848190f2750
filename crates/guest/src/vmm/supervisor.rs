//! Begins a VMM, and is the outer end of its microVM's program.

use std::{
    collections::HashMap,
    fs,
    io::{self, BufReader, Read},
    os::{
        fd::AsRawFd,
        unix::{
            net::{UnixListener, UnixStream},
            process::CommandExt,
        },
    },
    process::{Child, Command, ExitCode, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    thread,
    time::{Duration, Instant, SystemTime},
};

use super::{
    MACHINE_FILE, OUT_OF_MEMORY, REASON_FILE, STATE, api,
    console::Console,
    lost,
    session::{self, Ends, become_terminal, pass_signals},
    sessions_socket, signals,
};
use crate::{
    flow::{Wire, lock},
    frame::{Frame, MAIN, Pipe},
    order::{Api, Ended, Machine},
};

/// Pause between two looks whether the VMM listens.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Largest description of a microVM.
const MAX_MACHINE_BYTES: u64 = 16 << 20;
/// How long the VMM may take to end by itself once its port has closed.
const VMM_ENDS_WITHIN: Duration = Duration::from_secs(5);

/// Sessions by the number of their stream.
type Sessions = Arc<Mutex<HashMap<u32, Arc<Wire<UnixStream>>>>>;

/// A supervisor whose microVM's program has begun.
pub(super) struct Supervisor {
    vmm: Child,
    console: Console,
    wire: Arc<Wire<UnixStream>>,
    port: BufReader<UnixStream>,
    sessions: Sessions,
    ends: Ends,
}

impl Supervisor {
    /// Begins the VMM and waits until the program in the microVM has begun. The error is words on why it could not.
    pub(super) fn begin() -> Result<Self, String> {
        let mut machine = read_machine()?;
        if machine.main.terminal.is_some() {
            machine.main.terminal =
                Some(become_terminal().map_err(|error| format!("its terminal: {error}"))?);
        }
        let template = machine.template.as_ref();
        let template = template.map(fs::File::open).transpose();
        let template = template.map_err(|error| format!("the template of its machine: {error}"))?;
        let (mut vmm, console) = begin_vmm(&machine.vmm, template.as_ref())?;
        let until = Instant::now() + Duration::from_secs(machine.boot_seconds.into());
        match boot(&mut vmm, &machine, until) {
            Ok((wire, port)) => {
                let wire = Arc::new(wire);
                let ends = Ends::new(&wire, MAIN);
                if machine.stdin || machine.main.terminal.is_some() {
                    ends.carry_input(&wire, MAIN);
                }
                let own = Self { vmm, console, wire, port, sessions: Sessions::default(), ends };
                own.listen().map_err(|error| format!("a socket for sessions: {error}"))?;
                Ok(own)
            }
            Err(fault) => {
                end(&mut vmm, Duration::ZERO);
                let last = console.last_words();
                Err(match fault {
                    NotBegun::Told(words) => words,
                    NotBegun::Lost(words) if last.is_empty() => words,
                    NotBegun::Lost(words) => format!("{words}; the last that it said: {last}"),
                })
            }
        }
    }

    /// Carries until the program has ended, or the microVM.
    pub(super) fn run(mut self) -> ExitCode {
        let own = Arc::clone(&self.wire);
        pass_signals(MAIN, move |stream, frame| drop(own.send(stream, &frame)));
        let why = loop {
            match Frame::read(&mut self.port) {
                Ok((MAIN, Frame::Ended(ended))) => return self.ended(ended),
                Ok((MAIN, frame)) => {
                    if let Err(error) = self.ends.take(frame) {
                        break error.to_string();
                    }
                }
                Ok((stream, frame)) => self.pass(stream, &frame),
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => break String::new(),
                Err(error) => break error.to_string(),
            }
        };
        self.ends.flush();
        let how = end(&mut self.vmm, VMM_ENDS_WITHIN);
        let last = self.console.last_words();
        let parts = [why, how, last];
        let said = parts.iter().filter(|part| !part.is_empty()).map(String::as_str);
        say_reason(&format!("the microVM ended: {}", said.collect::<Vec<_>>().join("; ")));
        ExitCode::from(Ended::default().shell_code())
    }

    fn ended(mut self, ended: Ended) -> ExitCode {
        self.ends.flush();
        if ended.out_of_memory {
            say_reason(OUT_OF_MEMORY);
        }
        // Nothing of it is kept: all that it wrote was in its memory.
        end(&mut self.vmm, Duration::ZERO);
        ExitCode::from(ended.shell_code())
    }

    /// Passes on what came for a session.
    fn pass(&self, stream: u32, frame: &Frame) {
        let last = matches!(frame, Frame::Ended(_) | Frame::Failed(_));
        let session = {
            let mut sessions = lock(&self.sessions);
            if last { sessions.remove(&stream) } else { sessions.get(&stream).cloned() }
        };
        if let Some(session) = session {
            // One that has gone is told to the microVM by whoever reads from it.
            let _ = session.send(session::OWN, frame);
        }
    }

    /// Lets sessions come.
    fn listen(&self) -> io::Result<()> {
        let listener = UnixListener::bind(sessions_socket())?;
        let (sessions, wire) = (Arc::clone(&self.sessions), Arc::clone(&self.wire));
        thread::spawn(move || {
            let next = AtomicU32::new(MAIN + 1);
            while let Ok((connection, _)) = listener.accept() {
                let stream = next.fetch_add(1, Ordering::Relaxed);
                let (sessions, wire) = (Arc::clone(&sessions), Arc::clone(&wire));
                thread::spawn(move || serve(stream, connection, &sessions, &wire));
            }
        });
        Ok(())
    }
}

/// Passes on what a session says, until it goes.
fn serve(stream: u32, connection: UnixStream, sessions: &Sessions, wire: &Wire<UnixStream>) {
    let Ok(out) = connection.try_clone() else { return };
    lock(sessions).insert(stream, Arc::new(Wire::new(out)));
    let mut frames = BufReader::new(connection);
    while let Ok((_, frame)) = Frame::read(&mut frames) {
        if wire.send(stream, &frame).is_err() {
            break;
        }
    }
    if lock(sessions).remove(&stream).is_some() {
        // It went before its program ended: that ends too, and nobody reads what it has written.
        let gone = [Frame::Signal(libc::SIGKILL), Frame::End(Pipe::Output), Frame::End(Pipe::Errors)];
        // Without a port there is no program either.
        let _ = gone.iter().try_for_each(|frame| wire.send(stream, frame));
    }
}

fn read_machine() -> Result<Machine, String> {
    let failed = |error: io::Error| format!("its description: {error}");
    let mut text = Vec::new();
    let file = fs::File::open(MACHINE_FILE).map_err(failed)?;
    file.take(MAX_MACHINE_BYTES).read_to_end(&mut text).map_err(failed)?;
    serde_json::from_slice(&text).map_err(|error| format!("its description: {error}"))
}

fn begin_vmm(command: &[String], state: Option<&fs::File>) -> Result<(Child, Console), String> {
    let (program, args) = command.split_first().ok_or("no VMM was named")?;
    let failed = |error: io::Error| format!("{program} could not be begun: {error}");
    let (console, said) = io::pipe().map_err(failed)?;
    let errors = said.try_clone().map_err(failed)?;
    let mut vmm = Command::new(program);
    vmm.args(args).env_clear().stdin(Stdio::null()).stdout(said).stderr(errors);
    let state = state.map(AsRawFd::as_raw_fd);
    // SAFETY: system calls on values of its own; the descriptor is open as long as the child is begun.
    unsafe {
        vmm.pre_exec(move || {
            signals::unblock();
            match state {
                // It already is the one: then it must only stay.
                Some(STATE) => check(libc::fcntl(STATE, libc::F_SETFD, 0)),
                Some(state) => check(libc::dup2(state, STATE)),
                None => Ok(()),
            }
        });
    }
    let child = vmm.spawn().map_err(failed)?;
    // With it go this process's copies of the pipe's end, so that the console ends with the VMM.
    drop(vmm);
    Ok((child, Console::read(console)))
}

fn check(done: libc::c_int) -> io::Result<()> {
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Why a program in a microVM could not begin.
enum NotBegun {
    /// The agent says why.
    Told(String),
    /// Nobody inside says anything: perhaps the console did.
    Lost(String),
}

/// Tries until there is a connection, as long as the VMM lives.
fn connect(
    vmm: &mut Child,
    until: Instant,
    attempt: impl Fn() -> io::Result<UnixStream>,
) -> Result<UnixStream, NotBegun> {
    loop {
        match attempt() {
            Ok(connection) => return Ok(connection),
            Err(_not_yet) if Instant::now() < until => {}
            Err(error) => return Err(NotBegun::Lost(lost(&error))),
        }
        if let Ok(Some(status)) = vmm.try_wait() {
            return Err(NotBegun::Lost(format!("the VMM ended at once ({status})")));
        }
        thread::sleep(LOOK_EVERY);
    }
}

/// Brings the microVM up to the point where its program has begun.
fn boot(
    vmm: &mut Child,
    machine: &Machine,
    until: Instant,
) -> Result<(Wire<UnixStream>, BufReader<UnixStream>), NotBegun> {
    let late = || NotBegun::Lost(format!("the microVM did not come up within {} s", machine.boot_seconds));
    if let Some(Api { socket, requests }) = &machine.api {
        let socket = connect(vmm, until, || UnixStream::connect(socket))?;
        api::tell(socket, requests).map_err(|error| NotBegun::Lost(error.to_string()))?;
    }
    let connection = connect(vmm, until, || {
        let connection = UnixStream::connect(&machine.port)?;
        machine.agent.map_or(Ok(()), |agent| api::ask_for(agent, &connection))?;
        Ok(connection)
    })?;
    let said = |error: io::Error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => late(),
        io::ErrorKind::UnexpectedEof => {
            NotBegun::Lost("the microVM ended before its program had begun".to_owned())
        }
        _ => NotBegun::Lost(lost(&error)),
    };
    let mut port = BufReader::new(connection.try_clone().map_err(said)?);
    let wire = Wire::new(connection);
    let mut hear = |wanted: fn(&Frame) -> bool| {
        let left = until.saturating_duration_since(Instant::now()).max(LOOK_EVERY);
        port.get_ref().set_read_timeout(Some(left)).map_err(said)?;
        match Frame::read(&mut port).map_err(said)? {
            (MAIN, frame) if wanted(&frame) => Ok(()),
            (_, Frame::Failed(words)) => Err(NotBegun::Told(words)),
            _ => Err(NotBegun::Lost("the microVM does not speak as it should".to_owned())),
        }
    };
    // From a template, the agent has said so before.
    if machine.template.is_none() {
        hear(|frame| matches!(frame, Frame::Ready(_)))?;
    }
    let mut own = machine.boot.clone();
    own.unix_nanos = unix_nanos();
    own.entropy = entropy().map_err(|error| NotBegun::Told(format!("random numbers: {error}")))?;
    wire.send(MAIN, &Frame::Boot(Box::new(own))).map_err(said)?;
    wire.send(MAIN, &Frame::Open(Box::new(machine.main.clone()))).map_err(said)?;
    hear(|frame| *frame == Frame::Opened)?;
    port.get_ref().set_read_timeout(None).map_err(said)?;
    Ok((wire, port))
}

fn unix_nanos() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or_default()
}

fn entropy() -> io::Result<Vec<u8>> {
    let mut bytes = vec![0_u8; 64];
    fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

/// Waits for the VMM to end by itself, ends it if it does not, and says how it ended if that tells anything.
fn end(vmm: &mut Child, within: Duration) -> String {
    let until = Instant::now() + within;
    loop {
        match vmm.try_wait() {
            Ok(Some(status)) if status.success() => return String::new(),
            Ok(Some(status)) => return format!("the VMM ended with {status}"),
            Ok(None) if Instant::now() < until => thread::sleep(LOOK_EVERY),
            Ok(None) | Err(_) => break,
        }
    }
    // One that has ended by now is as good as one that is ended here.
    let _ = vmm.kill();
    let _ = vmm.wait();
    String::new()
}

/// Leaves the reason where the node looks for it, and in the log.
fn say_reason(words: &str) {
    if fs::write(REASON_FILE, words).is_err() {
        eprintln!("rik: {words}");
    }
}
