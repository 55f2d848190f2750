//! The first process of a microVM: makes it a machine, runs its program and further ones, and tells how they end.
//!
//! ```text
//!  kernel ─▶ /init: file systems, modules ─▶ port ─ Ready ▶ ┊ ◀ Boot ─▶ root, clock, network ─▶ the program
//!                                             ◀ Open, Data, Signal …      Opened, Data, Ended ▶
//! At ┊ nothing is known yet of what the machine is to be: there a template of it is taken, and many begin from it.
//! ```
//! The program has a root and processes of its own: it sees itself as the first process, and cannot end this one.
//!
//! *Guarantees*: does nothing at all unless it is the first process of a machine that the kernel has just started. When
//! it cannot go on, it says why through the port, or on the console if there is no port, and the machine goes off.

mod machine;
mod network;
mod program;
mod reaper;
mod volumes;

use std::{
    collections::HashMap,
    fs::File,
    io::{self, BufReader, Read},
    process::ExitCode,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
    time::Duration,
};

use rustix::{
    process::Pid,
    termios::{Winsize, tcsetwinsize},
};

use self::{
    machine::Port,
    program::{Beginner, Files, Outer},
    reaper::Reaper,
};
use crate::{
    flow::{Inlet, Room, Wire, carry, inlet, lock},
    frame::{Frame, MAIN, Pipe},
    order::{Boot, Ended, Order, Ready},
};

/// Most programs at the same time. More are refused.
const MAX_STREAMS: usize = 256;

/// Pause between two looks at a pipe whose program has ended.
const LOOK_EVERY: Duration = Duration::from_millis(2);
/// Looks in a row after which nothing more comes from it.
const QUIET_LOOKS: u32 = 5;
/// Signals that end a program that does not listen to them, and that are sent for that.
const ENDING: [i32; 6] =
    [libc::SIGTERM, libc::SIGINT, libc::SIGHUP, libc::SIGQUIT, libc::SIGUSR1, libc::SIGUSR2];

/// The life of the first process.
#[must_use]
pub fn main() -> ExitCode {
    if let Err(why) = machine::is_newborn() {
        eprintln!("{why}");
        return ExitCode::FAILURE;
    }
    if let Err(why) = live() {
        // The console: nobody else listens.
        eprintln!("rik: {why}");
    }
    machine::end()
}

/// Copies between standard files and this root, as its first two arguments after the word say.
#[must_use]
pub fn copy() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(2).collect();
    let done = match args.as_slice() {
        [way, path] if way == "out" => filecopy::pack(path.as_ref(), io::stdout().lock()),
        [_, path] => filecopy::unpack(io::stdin().lock(), path.as_ref()),
        _ => return ExitCode::FAILURE,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprint!("{error}");
            ExitCode::FAILURE
        }
    }
}

/// A port whose other end may be away for a while: a machine that begins from a template is there before anybody is
/// connected to it. Who has gone for good ends the machine.
struct Patient(Port);

impl Read for Patient {
    fn read(&mut self, part: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.0.file.read(part) {
                Ok(0) if !self.0.ends && !part.is_empty() => thread::sleep(LOOK_EVERY),
                other => return other,
            }
        }
    }
}

/// One program, as the channel sees it.
struct Stream {
    /// Its process, until that has ended.
    pid: Option<Pid>,
    input: Option<Inlet>,
    rooms: HashMap<u8, Arc<Room>>,
    terminal: Option<File>,
}

/// A file that says whether somebody waits for something to read from it.
struct Reading {
    file: File,
    now: Arc<AtomicBool>,
}

impl Read for Reading {
    fn read(&mut self, part: &mut [u8]) -> io::Result<usize> {
        self.now.store(true, Ordering::Release);
        let count = self.file.read(part);
        self.now.store(false, Ordering::Release);
        count
    }
}

/// What carries a program's output.
struct Carrier {
    thread: thread::JoinHandle<io::Result<()>>,
    watched: File,
    reading: Arc<AtomicBool>,
}

impl Carrier {
    /// Waits until all that the program wrote is carried, however slowly somebody reads it. What other programs that it
    /// began still write is not waited for.
    fn finish(&self) {
        let mut quiet = 0;
        while !self.thread.is_finished() && quiet < QUIET_LOOKS {
            thread::sleep(LOOK_EVERY);
            let empty = rustix::io::ioctl_fionread(&self.watched).is_ok_and(|count| count == 0);
            quiet = if empty && self.reading.load(Ordering::Acquire) { quiet + 1 } else { 0 };
        }
    }
}

struct Agent {
    wire: Wire<File>,
    streams: Mutex<HashMap<u32, Stream>>,
    reaper: Reaper,
    beginner: Beginner,
}

fn live() -> Result<(), String> {
    machine::mount_basics()?;
    machine::load_modules(machine::FIRST_MODULES);
    let port = machine::find_port()?;
    machine::wipe_for_template();
    let out = port.file.try_clone().map_err(|error| format!("the port: {error}"))?;
    let agent = Arc::new(Agent {
        wire: Wire::new(out),
        streams: Mutex::default(),
        reaper: Reaper::default(),
        beginner: Beginner::new(),
    });
    let mut port = BufReader::new(Patient(port));
    let ready = Ready { version: env!("CARGO_PKG_VERSION").to_owned() };
    let lost = |error: io::Error| format!("the port: {error}");
    agent.wire.send(MAIN, &Frame::Ready(ready)).map_err(lost)?;
    loop {
        let (stream, frame) = Frame::read(&mut port).map_err(lost)?;
        agent.obey(stream, frame).map_err(lost)?;
    }
}

impl Agent {
    fn obey(self: &Arc<Self>, stream: u32, frame: Frame) -> io::Result<()> {
        match frame {
            Frame::Boot(boot) => {
                if let Err(why) = become_machine(&boot) {
                    return self.wire.send(MAIN, &Frame::Failed(why));
                }
            }
            Frame::Open(order) => match self.begin(stream, &order) {
                Ok(()) => {}
                Err(why) => return self.wire.send(stream, &Frame::Failed(why)),
            },
            Frame::Data(Pipe::Input, bytes) => {
                let inlet = lock(&self.streams).get(&stream).and_then(|own| own.input.clone());
                if let Some(inlet) = inlet {
                    inlet.put(bytes)?;
                }
            }
            Frame::End(Pipe::Input) => {
                if let Some(own) = lock(&self.streams).get_mut(&stream) {
                    own.input = None;
                }
            }
            Frame::Room(pipe, count) => {
                if let Some(room) = self.room(stream, pipe) {
                    room.give(usize::try_from(count).unwrap_or(usize::MAX));
                }
            }
            // Nobody reads that any more.
            Frame::End(pipe) => {
                if let Some(room) = self.room(stream, pipe) {
                    room.close();
                }
            }
            Frame::Signal(number) => self.signal(stream, number),
            Frame::Resize(rows, columns) => {
                if let Some(terminal) = lock(&self.streams).get(&stream).and_then(|own| own.terminal.as_ref())
                {
                    let size = Winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
                    // A terminal without a size works all the same.
                    let _ = tcsetwinsize(terminal, size);
                }
            }
            // Things that only this side says.
            Frame::Ready(_) | Frame::Opened | Frame::Failed(_) | Frame::Data(..) | Frame::Ended(_) => {}
        }
        Ok(())
    }

    fn room(&self, stream: u32, pipe: Pipe) -> Option<Arc<Room>> {
        lock(&self.streams).get(&stream)?.rooms.get(&pipe.number()).cloned()
    }

    fn signal(&self, stream: u32, number: i32) {
        let streams = lock(&self.streams);
        let Some(pid) = streams.get(&stream).and_then(|own| own.pid) else { return };
        let pid = pid.as_raw_nonzero().get();
        // The first of its processes does not hear what it does not listen to; another program would end by it.
        let deaf = stream == MAIN && ENDING.contains(&number) && !machine::catches(pid, number);
        let number = if deaf { libc::SIGKILL } else { number };
        // SAFETY: a plain call. One that has just ended hears nothing.
        unsafe { libc::kill(pid, number) };
    }

    fn begin(self: &Arc<Self>, stream: u32, order: &Order) -> Result<(), String> {
        let mut streams = lock(&self.streams);
        if streams.len() >= MAX_STREAMS {
            return Err(format!("{MAX_STREAMS} programs run in this microVM already"));
        }
        if streams.contains_key(&stream) {
            return Err("there is such a program already".to_owned());
        }
        let before = machine::oom_kills();
        let (pid, files, end) = self.reaper.begin(|| self.beginner.begin(order, stream == MAIN))?;
        let Outer { input, output, errors, terminal } = files.outer().map_err(|error| error.to_string())?;
        let (in_let, outlet) = inlet();
        let rooms: HashMap<u8, Arc<Room>> =
            [Pipe::Output, Pipe::Errors].map(|pipe| (pipe.number(), Arc::new(Room::default()))).into();
        streams
            .insert(stream, Stream { pid: Some(pid), input: Some(in_let), rooms: rooms.clone(), terminal });
        drop(streams);
        self.wire.send(stream, &Frame::Opened).map_err(|error| error.to_string())?;
        let own = Arc::clone(self);
        thread::spawn(move || outlet.write_to(input, &own.wire, (stream, Pipe::Input)));
        let mut carriers = Vec::new();
        for (pipe, file) in [(Pipe::Output, Some(output)), (Pipe::Errors, errors)] {
            let (Some(file), Some(room)) = (file, rooms.get(&pipe.number()).cloned()) else { continue };
            let watched = file.try_clone().map_err(|error| error.to_string())?;
            let (own, reading) = (Arc::clone(self), Arc::new(AtomicBool::new(false)));
            let file = Reading { file, now: Arc::clone(&reading) };
            let thread = thread::spawn(move || carry(file, &own.wire, (stream, pipe), &room));
            carriers.push(Carrier { thread, watched, reading });
        }
        let own = Arc::clone(self);
        thread::spawn(move || {
            let status = end.recv().unwrap_or_default();
            if let Some(stream) = lock(&own.streams).get_mut(&stream) {
                stream.pid = None;
            }
            let out_of_memory = status.signal == Some(libc::SIGKILL) && machine::oom_kills() > before;
            carriers.iter().for_each(Carrier::finish);
            lock(&own.streams).remove(&stream);
            let ended = Ended { out_of_memory, ..status };
            // Without a channel there is nobody to tell, and the machine goes off.
            let _ = own.wire.send(stream, &Frame::Ended(ended));
        });
        Ok(())
    }
}

impl Files {
    /// This side's ends; the program's are closed.
    fn outer(self) -> io::Result<Outer> {
        match self {
            Self::Pipes { input, output, errors } => {
                Ok(Outer { input, output, errors: Some(errors), terminal: None })
            }
            Self::Terminal(terminal) => Ok(Outer {
                input: terminal.try_clone()?,
                output: terminal.try_clone()?,
                errors: None,
                terminal: Some(terminal),
            }),
        }
    }
}

fn become_machine(boot: &Boot) -> Result<(), String> {
    machine::load_modules(machine::OTHER_MODULES);
    machine::set_clock(boot.unix_nanos)?;
    machine::add_entropy(&boot.entropy)?;
    machine::mount_root(boot)?;
    rustix::system::sethostname(boot.hostname.as_bytes()).map_err(|error| format!("its name: {error}"))?;
    network::bring_up(boot.network.as_ref())
}
