//! `rikctl exec`: runs a program in a container, with this terminal or with pipes.

use std::{
    io::{self, IsTerminal as _, Write as _},
    os::fd::AsFd as _,
};

use clap::Args;
use model::{
    Instance,
    session::{CONTROL, Control, ERRORS, ExecRequest, OUTPUT, Outcome, TerminalSize, message},
};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::{
    client::{
        Client, segment,
        session::{self, Local},
    },
    exit::Exit,
    failure::{Failure, Report},
    noun::{Noun, bare},
    resolve,
    terminal::Terminal,
};

#[derive(Debug, Args)]
pub(crate) struct ExecArgs {
    /// The instance: its name, or a unique beginning.
    #[arg(value_name = "INSTANCE")]
    instance: String,
    /// Container, if the instance has several.
    #[arg(short, long, value_name = "NAME")]
    container: Option<String>,
    /// Pass stdin on to the program.
    #[arg(short = 'i', long)]
    stdin: bool,
    /// Give the program a terminal.
    #[arg(short = 't', long)]
    tty: bool,
    /// The program and its arguments, after --.
    #[arg(value_name = "COMMAND", required = true, last = true)]
    command: Vec<String>,
}

pub(crate) fn run(args: &ExecArgs, client: &Client, terminal: &mut Terminal) -> Result<(), Failure> {
    let instance = resolve::object::<Instance>(client, bare(Noun::Instance, &args.instance))?.object;
    let stdin = io::stdin();
    let tty = args.tty && stdin.is_terminal();
    if args.tty && !tty {
        terminal.note("stdin is no terminal, so the program gets none");
    }
    let size = if tty { Some(size(&stdin)?) } else { None };
    let request = ExecRequest {
        container: args.container.clone(),
        command: args.command.clone(),
        stdin: args.stdin,
        terminal: size,
    };
    let request = serde_json::to_string(&request).map_err(|error| Report::new(error.to_string()))?;
    let mut session = client.session(&format!("/instances/{}/exec", segment(&instance.id)))?;
    session.request(request)?;
    let mut person = Person { terminal, size };
    // Restored when it is dropped, whatever happens.
    let raw = if tty && args.stdin { Some(Raw::begin()?) } else { None };
    let outcome = session.run(args.stdin.then(|| stdin.as_fd()), &mut person);
    drop(raw);
    match outcome? {
        Some(Outcome::Exit(0)) => Ok(()),
        Some(Outcome::Exit(code)) => Err(Failure::Already(Exit::Program(u8::try_from(code).unwrap_or(255)))),
        Some(Outcome::Failed { code, message }) => Err(session::failed(&code, &message)),
        None => Err(Report::new("the session ended before the program did").hint("rikctl get nodes").into()),
    }
}

fn size(terminal: impl std::os::fd::AsFd) -> Result<TerminalSize, Failure> {
    let size =
        tcgetwinsize(terminal).map_err(|error| Report::new(format!("the terminal has no size: {error}")))?;
    Ok(TerminalSize { rows: size.ws_row.max(1), columns: size.ws_col.max(1) })
}

/// Who types and reads.
struct Person<'a> {
    terminal: &'a mut Terminal,
    /// Size of the terminal as last told.
    size: Option<TerminalSize>,
}

impl Local for Person<'_> {
    fn hear(&mut self, channel: u8, bytes: &[u8]) -> Result<(), Failure> {
        match channel {
            OUTPUT => self.terminal.print_bytes(bytes),
            ERRORS => {
                // Nobody is left to tell if that fails.
                let _ = io::stderr().write_all(bytes);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn control(&mut self) -> Option<Control> {
        let before = self.size?;
        let now = size(io::stdin()).ok()?;
        self.size = Some(now);
        (before != now).then_some(Control::Resize(now))
    }

    fn end_of_input(&self) -> Vec<u8> {
        serde_json::to_vec(&Control::EndOfInput).map(|bytes| message(CONTROL, &bytes)).unwrap_or_default()
    }
}

/// The terminal passes every key on as it is.
struct Raw {
    before: Termios,
}

impl Raw {
    fn begin() -> Result<Self, Failure> {
        let failed = |error: rustix::io::Errno| Report::new(format!("the terminal cannot be used: {error}"));
        let before = tcgetattr(io::stdin()).map_err(failed)?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw).map_err(failed)?;
        Ok(Self { before })
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.before);
    }
}
