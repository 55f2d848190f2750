//! Progress on stderr: one line that changes where a person watches, plain lines where a file does.

use std::time::Duration;

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{escape, terminal::Terminal};

/// How often the line moves.
const TICK: Duration = Duration::from_millis(120);

/// A piece of work that takes its time.
#[derive(Debug)]
pub(crate) struct Progress {
    bar: Option<ProgressBar>,
    last: String,
}

impl Progress {
    /// Work of unknown length.
    pub(crate) fn spinner(terminal: &Terminal) -> Self {
        Self::start(terminal, None, "{spinner} {msg} ({elapsed})")
    }

    /// Work on that many bytes.
    pub(crate) fn of_bytes(terminal: &Terminal, length: Option<u64>) -> Self {
        let template = match length {
            Some(_) => "{spinner} {msg} {bytes}/{total_bytes} [{bar:24}] {bytes_per_sec}",
            None => "{spinner} {msg} {bytes} {bytes_per_sec}",
        };
        Self::start(terminal, length, template)
    }

    fn start(terminal: &Terminal, length: Option<u64>, template: &str) -> Self {
        let bar = terminal.err_is_terminal().then(|| {
            let bar = ProgressBar::with_draw_target(length, ProgressDrawTarget::stderr());
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar, last: String::new() }
    }

    /// Says how far it is. Without a terminal, a line is printed once, when it changes.
    pub(crate) fn say(&mut self, line: &str, terminal: &mut Terminal) {
        if self.last == line {
            return;
        }
        line.clone_into(&mut self.last);
        match &self.bar {
            Some(bar) => bar.set_message(escape::line(line).into_owned()),
            None => terminal.say(line),
        }
    }

    /// Counts bytes.
    pub(crate) fn advance(&self, bytes: usize) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes as u64);
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
