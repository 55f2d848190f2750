//! Reading one rule as `iptables-save` prints it, so far as needed to compare it with one of ours.
//!
//! The two backends and their versions print the same rule with its options in different orders and with or without
//! `-m`; the normal form is the sorted set of options.

use std::iter::Peekable;

use crate::owner::MARK;

/// One option of a rule: negated or not, its name, its values.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct RuleOption {
    negated: bool,
    name: String,
    values: Vec<String>,
}

/// A rule's options, sorted: two rules with the same normal form do the same.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct NormalRule(Vec<RuleOption>);

struct Word {
    text: String,
    quoted: bool,
}

impl NormalRule {
    /// Reads a rule without its leading `-A CHAIN`.
    pub(super) fn read(rule: &str) -> Self {
        let mut options = Vec::new();
        let mut words = words(rule).into_iter().peekable();
        let mut negated = false;
        while let Some(word) = words.next() {
            if is_negation(&word) {
                negated = true;
                continue;
            }
            let mut values = values(&mut words);
            match word.text.as_str() {
                // Which match an option belongs to follows from the option.
                "-m" => {}
                "--ctstate" => values = sorted_list(&values),
                "-s" | "-d" => values.iter_mut().for_each(with_prefix),
                _ => {}
            }
            if word.text != "-m" {
                options.push(RuleOption { negated, name: word.text, values });
            }
            negated = false;
        }
        options.sort();
        Self(options)
    }

    /// The chain or verdict that the rule leads to.
    pub(super) fn target(&self) -> Option<&str> {
        self.value("-j").or_else(|| self.value("-g"))
    }

    /// Whether the rule carries a mark of ours.
    pub(super) fn is_marked(&self) -> bool {
        self.value("--comment").is_some_and(|comment| comment.starts_with(MARK))
    }

    fn value(&self, name: &str) -> Option<&str> {
        let option = self.0.iter().find(|option| option.name == name)?;
        option.values.first().map(String::as_str)
    }
}

/// A word in quotes, as `iptables-save` writes comments.
pub(super) fn quoted(text: &str) -> String {
    format!("\"{text}\"")
}

fn is_negation(word: &Word) -> bool {
    !word.quoted && word.text == "!"
}

/// The words up to the next option.
fn values(words: &mut Peekable<std::vec::IntoIter<Word>>) -> Vec<String> {
    let is_value = |word: &Word| word.quoted || !(word.text.starts_with('-') || word.text == "!");
    std::iter::from_fn(|| words.next_if(is_value)).map(|word| word.text).collect()
}

fn sorted_list(values: &[String]) -> Vec<String> {
    let mut list: Vec<String> = values.iter().flat_map(|value| value.split(',')).map(str::to_owned).collect();
    list.sort();
    list
}

fn with_prefix(address: &mut String) {
    if !address.contains('/') {
        address.push_str("/32");
    }
}

/// Splits at blanks; double quotes hold words together, a backslash inside them takes the next letter as it is.
fn words(rule: &str) -> Vec<Word> {
    let mut words = Vec::new();
    let mut letters = rule.chars();
    let mut word: Option<Word> = None;
    while let Some(letter) = letters.next() {
        if letter.is_whitespace() {
            words.extend(word.take());
            continue;
        }
        let current = word.get_or_insert_with(|| Word { text: String::new(), quoted: false });
        if letter == '"' {
            current.quoted = true;
            while let Some(inner) = letters.next().filter(|inner| *inner != '"') {
                current.text.extend(if inner == '\\' { letters.next() } else { Some(inner) });
            }
        } else {
            current.text.push(letter);
        }
    }
    words.extend(word);
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn same(left: &str, right: &str) -> bool {
        NormalRule::read(left) == NormalRule::read(right)
    }

    #[test]
    fn order_of_options_and_match_names_do_not_matter() {
        assert!(same(
            "-p tcp -m tcp --dport 80 -m comment --comment \"rik:a\" -j DNAT --to-destination 10.0.0.2:80",
            "-m comment --comment rik:a -p tcp --dport 80 -j DNAT --to-destination 10.0.0.2:80"
        ));
        assert!(same("-m conntrack --ctstate RELATED,ESTABLISHED", "--ctstate ESTABLISHED,RELATED"));
        assert!(same("-d 10.0.0.1 -j DROP", "-d 10.0.0.1/32 -j DROP"));
    }

    #[test]
    fn a_negation_belongs_to_its_option() {
        assert!(!same("! -i br -o br -j DROP", "-i br ! -o br -j DROP"));
        assert!(!same("-i br -j DROP", "! -i br -j DROP"));
        assert!(same("! -i br -o br -j DROP", "-o br ! -i br -j DROP"));
    }

    #[test]
    fn a_comment_with_blanks_quotes_and_dashes_is_one_value() {
        let rule = NormalRule::read(r#"-m comment --comment "! -j \"x\" rik:a" -j ACCEPT"#);
        assert_eq!(rule.target(), Some("ACCEPT"));
        assert!(!rule.is_marked());
        assert!(NormalRule::read(r#"-m comment --comment "rik:a b" -j X"#).is_marked());
    }
}
