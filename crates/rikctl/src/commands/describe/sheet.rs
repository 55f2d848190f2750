//! Names and values below each other, in sections. Every value is one harmless line.

use crate::escape;

/// Width of the names.
const NAME_WIDTH: usize = 14;
/// Longest value that is shown, in characters; the whole of it is in `-o json`.
const MAX_VALUE: usize = 2_000;

/// A page about one object.
#[derive(Debug, Default)]
pub(super) struct Sheet {
    text: String,
    indent: &'static str,
}

impl Sheet {
    /// One name and its value.
    pub(super) fn field(&mut self, name: &str, value: &str) {
        let name = format!("{name}:");
        let short: String = value.chars().take(MAX_VALUE).collect();
        let more = if short.len() < value.len() { "…" } else { "" };
        let line = format!("{}{name:NAME_WIDTH$} {}{more}", self.indent, escape::line(&short));
        self.text.push_str(line.trim_end());
        self.text.push('\n');
    }

    /// The same, if there is a value.
    pub(super) fn maybe(&mut self, name: &str, value: Option<String>) {
        if let Some(value) = value {
            self.field(name, &value);
        }
    }

    /// Begins a section: what follows is indented.
    pub(super) fn section(&mut self, title: &str) {
        self.text.push_str(&format!("{}:\n", escape::line(title)));
        self.indent = "  ";
    }

    /// Lines that are harmless already.
    pub(super) fn block(&mut self, lines: &str) {
        for line in lines.lines() {
            self.text.push_str(&format!(" {}\n", line.trim_end()));
        }
    }

    /// The page.
    pub(super) fn finish(self) -> String {
        self.text
    }
}
