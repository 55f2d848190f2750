//! Shows that something is being done, what, and for how long.
//!
//! On a terminal one line is redrawn in place. Elsewhere (a pipe, a CI log) the beginning and the end are one line
//! each, and a line now and then says that it is still going on. All of it goes to stderr: stdout is for results.

use std::io::{self, IsTerminal, Write};
use std::time::{Duration, Instant};

/// How often a line is added where lines cannot be redrawn.
const HEARTBEAT: Duration = Duration::from_secs(20);
/// How often the line on a terminal is redrawn.
const REDRAW: Duration = Duration::from_millis(200);
/// The widest that a redrawn line gets when the terminal does not tell its width.
const DEFAULT_WIDTH: usize = 80;

/// One running step.
pub(crate) struct Progress {
    title: String,
    started: Instant,
    shown: Instant,
    terminal: bool,
}

impl Progress {
    /// Says that the step called `title` begins.
    pub(crate) fn begin(title: &str) -> Self {
        let now = Instant::now();
        let progress =
            Self { title: title.to_owned(), started: now, shown: now, terminal: io::stderr().is_terminal() };
        if progress.terminal {
            progress.redraw("");
        } else {
            eprintln!("     … {title}");
        }
        progress
    }

    /// How long the step has taken so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Says that the step goes on; `detail` is its latest news. Cheap: call it as often as convenient.
    pub(crate) fn tick(&mut self, detail: &str) {
        let since = self.shown.elapsed();
        if self.terminal && since >= REDRAW {
            self.redraw(detail);
            self.shown = Instant::now();
        } else if !self.terminal && since >= HEARTBEAT {
            eprintln!(
                "     … {}, {}: {}",
                self.title,
                seconds(self.started.elapsed()),
                printable(detail).trim()
            );
            self.shown = Instant::now();
        }
    }

    /// Says how the step ended, and returns how long it took.
    pub(crate) fn end(self, good: bool) -> Duration {
        let elapsed = self.started.elapsed();
        if self.terminal {
            eprint!("\r\x1b[2K");
        }
        eprintln!("{} {} ({})", if good { "    ok" } else { "FAILED" }, self.title, seconds(elapsed));
        elapsed
    }

    fn redraw(&self, detail: &str) {
        let width = std::env::var("COLUMNS").ok().and_then(|text| text.parse().ok()).unwrap_or(DEFAULT_WIDTH);
        let line =
            format!("     … {} {} {}", self.title, seconds(self.started.elapsed()), printable(detail).trim());
        let line: String = line.chars().take(width.saturating_sub(1)).collect();
        eprint!("\r\x1b[2K{line}");
        // A terminal that went away must not end the work.
        let _ = io::stderr().flush();
    }
}

/// A duration for people: tenths below ten seconds, minutes from a hundred on.
pub(crate) fn seconds(duration: Duration) -> String {
    let whole = duration.as_secs();
    if whole < 10 {
        format!("{:.1} s", duration.as_secs_f64())
    } else if whole < 100 {
        format!("{whole} s")
    } else {
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

/// Other programs' text without anything that could move the cursor.
pub(crate) fn printable(text: &str) -> String {
    let mut clean = String::new();
    let mut characters = text.chars();
    while let Some(character) = characters.next() {
        if character == '\x1b' {
            // A colour or cursor sequence ends with a letter.
            characters.by_ref().find(char::is_ascii_alphabetic);
        } else if !character.is_control() {
            clean.push(character);
        }
    }
    clean
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_read_well() {
        assert_eq!(seconds(Duration::from_millis(1_230)), "1.2 s");
        assert_eq!(seconds(Duration::from_secs(42)), "42 s");
        assert_eq!(seconds(Duration::from_secs(125)), "2 min 05 s");
    }

    #[test]
    fn foreign_text_cannot_move_the_cursor() {
        assert_eq!(printable("\x1b[31mred\x1b[0m\r\n and \x07bell"), "red and bell");
    }
}
