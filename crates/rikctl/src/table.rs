//! The table that lists are shown as: no borders, one space before a line and after it, two between columns.
//!
//! A table without rows shows its header and one blank row. Every cell is one harmless line.

use comfy_table::{ColumnConstraint, Width, presets};

use crate::escape;

/// Longest cell that is shown, in characters: a sentence still fits, and a hostile megabyte does not.
const MAX_CELL: usize = 200;

/// Rows under a header.
#[derive(Clone, Debug)]
pub(crate) struct Table {
    header: Vec<&'static str>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// A table without rows.
    pub(crate) const fn new(header: Vec<&'static str>) -> Self {
        Self { header, rows: Vec::new() }
    }

    /// Adds a row.
    pub(crate) fn push(&mut self, cells: Vec<String>) {
        self.rows.push(cells.iter().map(|cell| shown(cell)).collect());
    }

    /// The text, without its header if so wished.
    pub(crate) fn render(&self, headed: Headed) -> String {
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        match headed {
            Headed::Yes => {
                table.set_header(&self.header);
                if self.rows.is_empty() {
                    table.add_row(vec![""; self.header.len()]);
                }
            }
            Headed::No if self.rows.is_empty() => return String::new(),
            Headed::No => {}
        }
        table.add_rows(&self.rows);
        format!("{table}\n")
    }

    /// One row as it would stand under this table: what a watch adds later.
    pub(crate) fn later_row(&self, cells: &[String]) -> String {
        let mut all = comfy_table::Table::new();
        all.set_header(&self.header).add_rows(&self.rows);
        let widths = all.column_max_content_widths();
        let mut table = comfy_table::Table::new();
        table.load_style(presets::NOTHING);
        table.add_row(cells.iter().map(|cell| shown(cell)));
        // A column's width includes the space on both of its sides.
        table.set_constraints(
            widths.iter().map(|width| ColumnConstraint::LowerBoundary(Width::Fixed(width.saturating_add(2)))),
        );
        format!("{table}\n")
    }
}

/// Whether a table begins with its header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Headed {
    /// With it.
    Yes,
    /// Rows only.
    No,
}

fn shown(cell: &str) -> String {
    let mut text = escape::line(cell).into_owned();
    if let Some((cut, _)) = text.char_indices().nth(MAX_CELL) {
        text.truncate(cut);
        text.push('…');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn visible(text: &str) -> String {
        text.replace(' ', "·")
    }

    #[test]
    fn the_layout_is_the_documented_one() {
        let mut table = Table::new(vec!["ID", "NAME", "STATUS"]);
        table.push(vec!["web-1".to_owned(), "web-1".to_owned(), "Running".to_owned()]);
        insta::assert_snapshot!(visible(&table.render(Headed::Yes)), @"
        ·ID·····NAME···STATUS··
        ·web-1··web-1··Running·
        ");
        insta::assert_snapshot!(visible(&table.render(Headed::No)), @"·web-1··web-1··Running·");
        let later = table.later_row(&["x".to_owned(), "x".to_owned(), "Terminated".to_owned()]);
        insta::assert_snapshot!(visible(&later), @"·x······x······Terminated·");
    }

    #[test]
    fn an_empty_table_is_its_header_and_one_blank_row() {
        let table = Table::new(vec!["ID", "NAME"]);
        assert_eq!(visible(&table.render(Headed::Yes)), "·ID··NAME·\n··········\n");
        assert_eq!(table.render(Headed::No), "");
    }

    #[test]
    fn a_hostile_cell_stays_one_short_line() {
        let mut table = Table::new(vec!["NAME"]);
        table.push(vec![format!("a\n\x1b[2J{}", "x".repeat(10_000))]);
        let text = table.render(Headed::No);
        assert_eq!(text.lines().count(), 1);
        assert!(text.starts_with(r" a\n\u{1b}[2Jxxx") && text.chars().count() < 300, "{text}");
    }
}
