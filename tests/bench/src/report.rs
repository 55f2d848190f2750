//! What was measured, as lines that `cargo xtask bench` makes a table of.
//!
//! | line | fields, separated by tabs |
//! |---|---|
//! | `finding` | what, what is to be reached, what was measured, the peer in the same run, verdict |
//! | `note` | a sentence beside the table |

use std::fs::{self, File};
use std::io::Write;

use e2e::Lab;

/// Name of the report in the lab's folder.
pub(crate) const NAME: &str = "report.tsv";

/// Whether a number is as it shall be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    /// It is.
    Reached,
    /// It is not.
    Missed,
}

impl Verdict {
    /// The verdict on a condition.
    pub(crate) const fn of(reached: bool) -> Self {
        if reached { Self::Reached } else { Self::Missed }
    }

    const fn word(self) -> &'static str {
        match self {
            Self::Reached => "reached",
            Self::Missed => "missed",
        }
    }
}

/// One line of the table.
#[derive(Debug)]
pub(crate) struct Finding {
    /// What was measured.
    pub(crate) what: String,
    /// What it shall be.
    pub(crate) reach: &'static str,
    /// What it is.
    pub(crate) measured: String,
    /// The peer's number in the same run.
    pub(crate) peer: String,
    /// Whether it is as it shall be.
    pub(crate) verdict: Verdict,
}

/// The report, on disk after each line.
#[derive(Debug)]
pub(crate) struct Report(File);

impl Report {
    /// Begins the report of this lab.
    ///
    /// # Panics
    /// When it cannot be written.
    pub(crate) fn create() -> Self {
        let path = Lab::root().join(NAME);
        let made = fs::create_dir_all(Lab::root()).and_then(|()| File::create(&path));
        Self(made.unwrap_or_else(|error| panic!("failed to write {}: {error}", path.display())))
    }

    /// Adds a line of the table.
    pub(crate) fn add(&mut self, finding: &Finding) {
        let Finding { what, reach, measured, peer, verdict } = finding;
        eprintln!("{what}: {measured}");
        self.line(&format!("finding\t{what}\t{reach}\t{measured}\t{peer}\t{}", verdict.word()));
    }

    /// Adds a sentence beside the table.
    pub(crate) fn note(&mut self, text: &str) {
        self.line(&format!("note\t{text}"));
    }

    fn line(&mut self, line: &str) {
        writeln!(self.0, "{line}").unwrap_or_else(|error| panic!("failed to write the report: {error}"));
    }
}
