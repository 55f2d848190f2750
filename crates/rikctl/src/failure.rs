//! How a command ends when it does not succeed, and how that is told.
//!
//! The errors of each part are turned into a [`Report`] here or beside them, once, at the outermost layer.

use crate::exit::Exit;

/// What a person is told: `error:` what, indented details, `hint:` what to do next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// One sentence on what was not done, and why.
    pub(crate) message: String,
    /// One line each.
    pub(crate) details: Vec<String>,
    /// What to do next.
    pub(crate) hint: Option<String>,
    /// The exit code that it leads to.
    pub(crate) exit: Exit,
}

impl Report {
    /// A failure with nothing but its sentence.
    pub(crate) fn new(message: impl Into<String>) -> Self {
        Self { message: message.into(), details: Vec::new(), hint: None, exit: Exit::Failed }
    }

    /// The same with more lines.
    pub(crate) fn details(mut self, details: impl IntoIterator<Item = String>) -> Self {
        self.details.extend(details);
        self
    }

    /// The same with what to do next.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The same with another exit code.
    pub(crate) const fn exit(mut self, exit: Exit) -> Self {
        self.exit = exit;
        self
    }
}

/// Why a command ended before its end.
#[derive(Debug)]
pub(crate) enum Failure {
    /// To be told.
    Told(Box<Report>),
    /// Told already, while the rest of the work went on.
    Already(Exit),
    /// Nobody reads stdout any more, so there is nothing left to do.
    ReaderGone,
}

impl From<Report> for Failure {
    fn from(report: Report) -> Self {
        Self::Told(Box::new(report))
    }
}

/// An error with its causes in one line.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

/// `1 fault`, `3 faults`.
pub(crate) fn counted(count: usize, noun: &str) -> String {
    if count == 1 { format!("1 {noun}") } else { format!("{count} {noun}s") }
}

/// An error of the system without its number.
pub(crate) fn plain(error: &std::io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or(&text).to_lowercase()
}
