//! What a row gave: lines of the table, and sentences beside it.

use super::Row;

/// Heads of the table's columns.
pub(super) const HEADS: [&str; 5] = ["what", "reach", "measured", "peer in the same run", "verdict"];

/// What a row gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Report {
    /// What, what is to be reached, what was measured, the peer, the verdict.
    pub(super) findings: Vec<[String; HEADS.len()]>,
    /// Sentences.
    pub(super) notes: Vec<String>,
}

impl Report {
    /// Reads what `bench` has written; lines that are no finding and no note are passed over.
    pub(super) fn read(text: &str) -> Self {
        let mut report = Self::default();
        for line in text.lines() {
            let fields: Vec<&str> = line.split('\t').collect();
            match fields[..] {
                ["finding", what, reach, measured, peer, verdict] => {
                    report.findings.push([what, reach, measured, peer, verdict].map(str::to_owned));
                }
                ["note", note] => report.notes.push(note.to_owned()),
                _ => {}
            }
        }
        report
    }

    /// As a table of the book.
    pub(super) fn for_book(&self) -> String {
        let mut text = format!("| {} |\n|{}\n", HEADS.join(" | "), "---|".repeat(HEADS.len()));
        for finding in &self.findings {
            text.push_str(&format!("| {} |\n", finding.join(" | ")));
        }
        if !self.notes.is_empty() {
            text.push('\n');
        }
        for note in &self.notes {
            text.push_str(&format!("- {note}\n"));
        }
        text
    }
}

/// The whole table with columns that stand below each other, and the notes below it.
pub(super) fn for_terminal(measured: &[(Row, Report)]) -> String {
    let mut lines = vec![HEADS.map(str::to_owned)];
    lines.extend(measured.iter().flat_map(|(_, report)| report.findings.iter().cloned()));
    let mut text = String::new();
    for line in &lines {
        let mut shown = String::new();
        for (column, field) in line.iter().enumerate() {
            let width = lines.iter().map(|line| line[column].chars().count()).max().unwrap_or_default();
            let gap = width - field.chars().count() + 2;
            shown.push_str(field);
            shown.push_str(&" ".repeat(gap));
        }
        text.push_str(shown.trim_end());
        text.push('\n');
    }
    for (_, report) in measured {
        for note in &report.notes {
            text.push_str(&format!("  {note}\n"));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_become_tables() {
        let text = "finding\tspeed\t≥ 1\t2\trunc 3\treached\nnote\tquiet\nnoise\n";
        let report = Report::read(text);
        assert_eq!(report.notes, ["quiet"]);
        assert!(report.for_book().ends_with("| speed | ≥ 1 | 2 | runc 3 | reached |\n\n- quiet\n"));
        let shown = for_terminal(&[(Row::Start, report)]);
        assert_eq!(shown.lines().nth(1), Some("speed  ≥ 1    2         runc 3                reached"));
    }
}
