//! What is there now: the output of `iptables-save`, so far as a plan needs it.

use std::collections::BTreeMap;

use super::{
    Table,
    render::{Position, Rules},
};

/// Chains of one table, each with its rules as printed, without `-A CHAIN`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct ObservedTable {
    pub(super) chains: BTreeMap<String, Vec<String>>,
}

/// The tables that concern us, as they were found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    pub(super) tables: BTreeMap<Table, ObservedTable>,
}

/// Why the output of `iptables-save` could not be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ObservedError {
    /// A line of a form that is not known.
    #[error("read line {number} of iptables-save: {line:?}")]
    UnknownLine {
        /// Number of the line, from 1.
        number: usize,
        /// The line.
        line: String,
    },
    /// A table was filled through `nft` with things that iptables cannot show, so nothing can be said about it.
    #[error(
        "read table {table:?}: it holds rules made by the nft program that iptables cannot show; keep those in a table of another name"
    )]
    Incompatible {
        /// Name of the table.
        table: String,
    },
}

impl Observed {
    /// Reads the output of `iptables-save`. Tables that have nothing to do with us are passed over.
    ///
    /// # Errors
    /// [`ObservedError`] when a line cannot be understood.
    pub fn parse(text: &str) -> Result<Self, ObservedError> {
        let mut observed = Self::default();
        let mut current: Option<Table> = None;
        for (at, line) in text.lines().enumerate() {
            let line = line.trim();
            let unknown = || ObservedError::UnknownLine { number: at + 1, line: line.to_owned() };
            if let Some(remark) = line.strip_prefix('#') {
                refuse_incompatible(remark)?;
            } else if let Some(name) = line.strip_prefix('*') {
                current = Table::from_name(name);
                if let Some(table) = current {
                    observed.tables.entry(table).or_default();
                }
            } else if let Some(table) = current.and_then(|table| observed.tables.get_mut(&table)) {
                table.read_line(line).ok_or_else(unknown)?;
            }
        }
        Ok(observed)
    }

    /// What would be found if exactly these rules were there.
    pub(super) fn of(rules: &Rules) -> Self {
        let mut observed = Self::default();
        for (table, wanted) in &rules.tables {
            let found = observed.tables.entry(*table).or_default();
            for (chain, rules) in &wanted.chains {
                found.chains.insert((*chain).to_owned(), rules.clone());
            }
            for jump in &wanted.jumps {
                let chain = found.chains.entry(jump.from.to_owned()).or_default();
                match jump.position {
                    Position::First => chain.insert(0, jump.rule.clone()),
                    Position::Last | Position::Anywhere => chain.push(jump.rule.clone()),
                }
            }
        }
        observed
    }
}

impl ObservedTable {
    fn read_line(&mut self, line: &str) -> Option<()> {
        if let Some(chain) = line.strip_prefix(':') {
            let name = chain.split_whitespace().next()?;
            self.chains.entry(name.to_owned()).or_default();
        } else if let Some(rule) = line.strip_prefix("-A ") {
            let (chain, rule) = rule.split_once(' ').unwrap_or((rule, ""));
            self.chains.get_mut(chain)?.push(rule.to_owned());
        } else if !(line.is_empty() || line == "COMMIT") {
            return None;
        }
        Some(())
    }
}

/// `# Table `nat' is incompatible, use 'nft' tool.`
fn refuse_incompatible(remark: &str) -> Result<(), ObservedError> {
    let Some(rest) = remark.trim().strip_prefix("Table `") else { return Ok(()) };
    match rest.split_once('\'') {
        Some((name, rest)) if rest.contains("incompatible") && Table::from_name(name).is_some() => {
            Err(ObservedError::Incompatible { table: name.to_owned() })
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn other_tables_are_passed_over() {
        let text = "*mangle\n:PREROUTING ACCEPT [0:0]\n-A PREROUTING -j MARK --set-mark 1\nCOMMIT\n";
        assert_eq!(Observed::parse(text), Ok(Observed::default()));
    }

    #[test]
    fn a_table_that_iptables_cannot_show_is_an_error_that_names_it() {
        let text = "# Table `nat' is incompatible, use 'nft' tool.\n";
        assert_eq!(Observed::parse(text), Err(ObservedError::Incompatible { table: "nat".into() }));
        assert!(Observed::parse("# Table `mangle' is incompatible, use 'nft' tool.\n").is_ok());
    }

    #[test]
    fn an_unknown_line_is_an_error_with_its_number() {
        let error = Observed::parse("*nat\n:RIKLET - [0:0]\nwhat\n").unwrap_err();
        assert_eq!(error, ObservedError::UnknownLine { number: 3, line: "what".into() });
    }
}
