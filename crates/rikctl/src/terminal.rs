//! The streams of one run: data goes to `out`, words for a person go to `err`.
//!
//! *Guarantees*: a reader of stdout that goes away (`| head -1`) ends the run quietly; trouble with stderr ends nothing.

use std::io::{self, IsTerminal as _, Write};

use crate::{
    escape,
    failure::{Failure, Report},
};

/// Where a run writes to.
pub struct Terminal {
    out: Box<dyn Write>,
    err: Box<dyn Write>,
    out_is_terminal: bool,
    err_is_terminal: bool,
}

/// Who reads what is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reader {
    /// Somebody at a terminal, whom hostile text could deceive.
    Person,
    /// A file or a program, which gets every byte as it is.
    Program,
}

impl std::fmt::Debug for Terminal {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Terminal").field("out_is_terminal", &self.out_is_terminal).finish_non_exhaustive()
    }
}

const BOLD_RED: &str = "\x1b[1;31m";
const BOLD_CYAN: &str = "\x1b[1;36m";
const BOLD_YELLOW: &str = "\x1b[1;33m";
const PLAIN: &str = "\x1b[0m";

impl Terminal {
    /// The streams of this process. Colour follows `NO_COLOR`, `CLICOLOR` and whether stderr is a terminal.
    #[must_use]
    pub fn standard() -> Self {
        Self {
            out_is_terminal: io::stdout().is_terminal(),
            err_is_terminal: io::stderr().is_terminal(),
            out: Box::new(io::stdout()),
            err: Box::new(anstream::stderr()),
        }
    }

    /// Streams of somebody else, without colour.
    #[must_use]
    pub fn new(out: Box<dyn Write>, err: Box<dyn Write>, reader: Reader) -> Self {
        let is_terminal = reader == Reader::Person;
        let err = Box::new(anstream::StripStream::new(err));
        Self { out, err, out_is_terminal: is_terminal, err_is_terminal: is_terminal }
    }

    /// Whether a person reads what is printed.
    pub(crate) const fn out_is_terminal(&self) -> bool {
        self.out_is_terminal
    }

    /// Whether a person reads the words.
    pub(crate) const fn err_is_terminal(&self) -> bool {
        self.err_is_terminal
    }

    /// Writes data as it is.
    pub(crate) fn print(&mut self, text: &str) -> Result<(), Failure> {
        self.print_bytes(text.as_bytes())
    }

    /// Writes data as it is, and lets its reader see it at once.
    pub(crate) fn print_bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        self.out.write_all(bytes).and_then(|()| self.out.flush()).map_err(|error| match error.kind() {
            io::ErrorKind::BrokenPipe => Failure::ReaderGone,
            _ => Report::new(format!("the answer cannot be written to stdout: {error}")).into(),
        })
    }

    /// Writes one line of data.
    pub(crate) fn print_line(&mut self, line: &str) -> Result<(), Failure> {
        self.print(&format!("{}\n", escape::line(line)))
    }

    /// Says something that is neither an answer nor a failure.
    pub(crate) fn say(&mut self, line: &str) {
        self.words(&escape::line(line));
    }

    /// Points something out.
    pub(crate) fn note(&mut self, line: &str) {
        self.words(&format!("{BOLD_YELLOW}note:{PLAIN} {}", escape::line(line)));
    }

    /// Tells what to do next.
    pub(crate) fn hint(&mut self, line: &str) {
        self.words(&format!("{BOLD_CYAN}hint:{PLAIN} {}", escape::line(line)));
    }

    /// Tells a failure: what, why, and what to do next.
    pub(crate) fn report(&mut self, report: &Report) {
        self.words(&format!("{BOLD_RED}error:{PLAIN} {}", escape::line(&report.message)));
        for detail in &report.details {
            self.words(&format!("  {}", escape::line(detail)));
        }
        if let Some(hint) = &report.hint {
            self.hint(hint);
        }
    }

    /// A person who has closed stderr has asked for silence, so errors of writing to it are passed over.
    fn words(&mut self, line: &str) {
        let _ = writeln!(self.err, "{line}");
    }
}
