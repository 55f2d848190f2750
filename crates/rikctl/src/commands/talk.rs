//! A conversation with a program in a container: with this terminal or with pipes, to its end.

use std::{
    io::{self, IsTerminal as _, Write as _},
    os::fd::AsFd as _,
};

use model::session::{CONTROL, Control, ERRORS, OUTPUT, Outcome, TerminalSize, message};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr};

use crate::{
    client::{
        Client,
        session::{self, Local, Over},
    },
    exit::Exit,
    failure::{Failure, Report},
    terminal::Terminal,
};

/// Ctrl-P, and then Ctrl-Q: the keys that detach, the same as of others.
const DETACH_FIRST: u8 = 0x10;
const DETACH_SECOND: u8 = 0x11;

/// How it is talked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ways {
    /// Whether stdin is passed on.
    pub(crate) stdin: bool,
    /// Whether this terminal is the program's.
    pub(crate) tty: bool,
    /// Whether the program goes on without us.
    pub(crate) detachable: bool,
}

/// How a conversation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ended {
    /// The program did, with this code.
    Exit(i32),
    /// We left.
    Detached,
}

impl Ended {
    /// The program's code as that of this command.
    pub(crate) fn outcome(self) -> Result<(), Failure> {
        match self {
            Self::Exit(0) | Self::Detached => Ok(()),
            Self::Exit(code) => Err(Failure::Already(Exit::Program(u8::try_from(code).unwrap_or(u8::MAX)))),
        }
    }
}

/// Whether the program can have this terminal, if it is wanted.
pub(crate) fn wants_terminal(wanted: bool, terminal: &mut Terminal) -> bool {
    let has = io::stdin().is_terminal();
    if wanted && !has {
        terminal.note("stdin is no terminal, so the program gets none");
    }
    wanted && has
}

/// Opens the session, asks, and talks to the end. `request` is given the size of the terminal, if there is one.
pub(crate) fn talk(
    client: &Client,
    path: &str,
    ways: Ways,
    request: impl FnOnce(Option<TerminalSize>) -> serde_json::Result<String>,
    terminal: &mut Terminal,
) -> Result<Ended, Failure> {
    let stdin = io::stdin();
    let size = if ways.tty { Some(size(&stdin)?) } else { None };
    let request = request(size).map_err(|error| Report::new(error.to_string()))?;
    let mut session = client.session(path)?;
    session.request(request)?;
    let raw = ways.tty && ways.stdin;
    let mut person = Person { terminal, size, keys: (raw && ways.detachable).then_some(false) };
    // Restored when it is dropped, whatever happens.
    let raw = if raw { Some(Raw::begin()?) } else { None };
    let over = session.run(ways.stdin.then(|| stdin.as_fd()), &mut person);
    drop(raw);
    match over? {
        Over::Told(Outcome::Exit(code)) => Ok(Ended::Exit(code)),
        Over::Told(Outcome::Failed { code, message }) => Err(session::failed(&code, &message)),
        Over::Left => Ok(Ended::Detached),
        Over::Silent => {
            Err(Report::new("the session ended before the program did").hint("rikctl get nodes").into())
        }
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
    /// Whether the keys that detach are looked for, and whether the first of them was the last key.
    keys: Option<bool>,
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

    fn typed(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        let Some(pressed) = &mut self.keys else { return Some(bytes.to_vec()) };
        let mut passed = Vec::with_capacity(bytes.len() + 1);
        for byte in bytes {
            match (*byte, *pressed) {
                (DETACH_SECOND, true) => return None,
                (DETACH_FIRST, false) => *pressed = true,
                (byte, held) => {
                    // What was held back was no beginning of it; the same key again may be one.
                    passed.extend(held.then_some(DETACH_FIRST));
                    *pressed = held && byte == DETACH_FIRST;
                    passed.extend((!*pressed).then_some(byte));
                }
            }
        }
        Some(passed)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_that_detach_are_seen_however_they_arrive_and_others_pass() {
        let mut terminal = Terminal::standard();
        let mut person = Person { terminal: &mut terminal, size: None, keys: Some(false) };
        let mut typed = |bytes: &[u8]| person.typed(bytes);
        assert_eq!(typed(b"ab").as_deref(), Some(&b"ab"[..]));
        assert_eq!(typed(b"a\x10").as_deref(), Some(&b"a"[..]));
        assert_eq!(typed(b"b").as_deref(), Some(&b"\x10b"[..]));
        assert_eq!(typed(b"\x10\x10x").as_deref(), Some(&b"\x10\x10x"[..]));
        assert_eq!(typed(b"\x11").as_deref(), Some(&b"\x11"[..]));
        assert_eq!(typed(b"\x10").as_deref(), Some(&b""[..]));
        assert_eq!(typed(b"\x11"), None);
    }
}
