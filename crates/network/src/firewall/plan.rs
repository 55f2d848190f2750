//! What is there and what should be → the one input for `iptables-restore --noflush` that leads from the first to
//! the second. Pure.

use std::{collections::BTreeMap, fmt};

use super::{
    OWN_CHAINS, Table, is_own_chain,
    observed::{Observed, ObservedTable},
    render::{Jump, Position, Rules, TableRules},
    rule_text::NormalRule,
};

/// Input for one run of `iptables-restore --noflush`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch(String);

impl Batch {
    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Batch {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

/// The batch that makes `rules` true, or nothing when they are.
#[must_use]
pub fn plan(observed: &Observed, rules: &Rules) -> Option<Batch> {
    let (no_table, no_rules) = (ObservedTable::default(), TableRules::default());
    let mut text = String::new();
    for table in [Table::Raw, Table::Filter, Table::Nat] {
        let found = observed.tables.get(&table).unwrap_or(&no_table);
        let wanted = rules.tables.get(&table).unwrap_or(&no_rules);
        let lines = TablePlan { table, found, wanted }.lines();
        if !lines.is_empty() {
            text.push_str(&format!("*{}\n{}\nCOMMIT\n", table.name(), lines.join("\n")));
        }
    }
    (!text.is_empty()).then_some(Batch(text))
}

struct TablePlan<'a> {
    table: Table,
    found: &'a ObservedTable,
    wanted: &'a TableRules,
}

/// A rule of a chain of others that jumps into one of ours.
struct Reference<'a> {
    from: &'a str,
    at: usize,
    rule: &'a str,
    normal: NormalRule,
}

impl TablePlan<'_> {
    /// Chains first, so that jumps have somewhere to go; then jumps; then rules; chains of ours that are no longer
    /// wanted at the very end, when nothing jumps to them any more.
    fn lines(&self) -> Vec<String> {
        let (ours, foreign) = self.references();
        let mut lines = Vec::new();
        let mut rules = Vec::new();
        for (chain, wanted) in &self.wanted.chains {
            if self.found.chains.get(*chain).is_some_and(|found| same_rules(found, wanted)) {
                continue;
            }
            lines.push(declaration(chain));
            rules.extend(wanted.iter().map(|rule| format!("-A {chain} {rule}")));
        }
        let mut removals = Vec::new();
        for (chain, rules) in self.unwanted_chains() {
            let is_referenced = foreign.iter().any(|reference| reference.normal.target() == Some(chain));
            if !(is_referenced && rules.is_empty()) {
                lines.push(declaration(chain));
            }
            if !is_referenced {
                removals.push(format!("-X {chain}"));
            }
        }
        lines.extend(self.jump_lines(&ours));
        lines.extend(rules);
        lines.extend(removals);
        lines
    }

    /// Jumps into our chains from chains of others: those that we made, and those that somebody else made.
    fn references(&self) -> (Vec<Reference<'_>>, Vec<Reference<'_>>) {
        let foreign_chains = self.found.chains.iter().filter(|(chain, _)| !is_own_chain(self.table, chain));
        foreign_chains
            .flat_map(|(from, rules)| {
                // Most rules of a host are others' business: look closer only at those that could name us.
                let candidates = rules.iter().enumerate().filter(|(_, rule)| rule.contains("RIKLET"));
                candidates.map(move |(at, rule)| Reference { from, at, rule, normal: NormalRule::read(rule) })
            })
            .filter(|found| found.normal.target().is_some_and(|target| is_own_chain(self.table, target)))
            .partition(|found| found.normal.is_marked())
    }

    fn unwanted_chains(&self) -> impl Iterator<Item = (&'static str, &Vec<String>)> {
        let own = OWN_CHAINS.into_iter().filter(|(table, _)| *table == self.table);
        own.filter(|(_, chain)| !self.wanted.chains.contains_key(chain))
            .filter_map(|(_, chain)| self.found.chains.get(chain).map(|rules| (chain, rules)))
    }

    /// For each chain of others whose jumps are not as they should be: all of ours out, the right ones in.
    fn jump_lines(&self, found: &[Reference<'_>]) -> Vec<String> {
        let mut chains: BTreeMap<&str, (Vec<&Reference<'_>>, Vec<&Jump>)> = BTreeMap::new();
        for reference in found {
            chains.entry(reference.from).or_default().0.push(reference);
        }
        for jump in &self.wanted.jumps {
            chains.entry(jump.from).or_default().1.push(jump);
        }
        let mut lines = Vec::new();
        for (chain, (found, wanted)) in chains {
            let length = self.found.chains.get(chain).map_or(0, Vec::len);
            if are_in_place(&found, &wanted, length) {
                continue;
            }
            lines.extend(found.iter().map(|reference| format!("-D {chain} {}", reference.rule)));
            lines.extend(wanted.iter().map(|jump| match jump.position {
                Position::First => format!("-I {chain} 1 {}", jump.rule),
                Position::Last | Position::Anywhere => format!("-A {chain} {}", jump.rule),
            }));
        }
        lines
    }
}

fn are_in_place(found: &[&Reference<'_>], wanted: &[&Jump], length: usize) -> bool {
    let stands = |jump: &&Jump| {
        let wanted = NormalRule::read(&jump.rule);
        found.iter().any(|reference| {
            reference.normal == wanted
                && match jump.position {
                    Position::First => reference.at == 0,
                    Position::Last => reference.at + 1 == length,
                    Position::Anywhere => true,
                }
        })
    };
    found.len() == wanted.len() && wanted.iter().all(stands)
}

fn same_rules(found: &[String], wanted: &[String]) -> bool {
    let same = |(found, wanted): (&String, &String)| {
        found == wanted || NormalRule::read(found) == NormalRule::read(wanted)
    };
    found.len() == wanted.len() && found.iter().zip(wanted).all(same)
}

/// With `--noflush` this makes the chain if it is missing and empties it if it is not.
fn declaration(chain: &str) -> String {
    format!(":{chain} - [0:0]")
}
