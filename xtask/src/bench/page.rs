//! The page of the book that holds the numbers: text by hand above, measured sections below.
//!
//! Each row has a section between two marks, so that one row can be measured again without the others. A section says
//! on what it was measured, as rows may come from different runs.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result, bail};

use super::Row;
use super::machine::Machine;
use super::report::Report;
use crate::paths;

/// The page.
fn page() -> PathBuf {
    paths::workspace().join("docs/src/reference/performance.md")
}

/// Puts the reports into their sections of the page; rows without findings are left alone.
///
/// # Errors
/// When the page has no place for a row, or cannot be written.
pub(super) fn write(machine: &Machine, measured: &[(Row, Report)]) -> Result<()> {
    let page = page();
    let mut text =
        fs::read_to_string(&page).with_context(|| format!("failed to read {}", paths::short(&page)))?;
    for (row, report) in measured.iter().filter(|(_, report)| !report.findings.is_empty()) {
        let section = format!(
            "{}\nMeasured by `cargo xtask bench --only {} --write` on {}",
            report.for_book(),
            row.name(),
            machine.sentence()
        );
        text = replaced(&text, row.name(), &section)?;
    }
    fs::write(&page, text).with_context(|| format!("failed to write {}", paths::short(&page)))
}

fn replaced(text: &str, row: &str, section: &str) -> Result<String> {
    let (begin, end) = (format!("<!-- {row} -->\n"), format!("<!-- end of {row} -->"));
    let Some((before, rest)) = text.split_once(&begin) else {
        bail!("the page has no line {}", begin.trim())
    };
    let Some((_, after)) = rest.split_once(&end) else { bail!("the page has no line {end}") };
    Ok(format!("{before}{begin}\n{section}\n{end}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_section_changes_and_the_rest_stays() {
        let text = "above\n<!-- idle -->\nold\n<!-- end of idle -->\nbelow\n";
        let new = replaced(text, "idle", "new\n");
        assert_eq!(new.ok().as_deref(), Some("above\n<!-- idle -->\n\nnew\n\n<!-- end of idle -->\nbelow\n"));
        assert!(replaced(text, "start", "new").is_err());
    }

    #[test]
    fn the_page_has_a_place_for_every_row() {
        let text = fs::read_to_string(page()).unwrap_or_default();
        for row in Row::ALL {
            assert!(replaced(&text, row.name(), "").is_ok(), "{}", row.name());
        }
    }
}
