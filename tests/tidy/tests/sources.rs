//! How our code looks: what every source file says first, how long it may be, and words that it does not use.

use tidy::assert_none;
use tidy::repository::{self, File};

/// The longest that a file may be.
const LIMIT: usize = 800;
/// From here on, a file gives its reason.
const REASON_FROM: usize = 600;
/// How such a reason begins, in the file's own documentation.
const REASON: &str = "//! Long because ";
/// Names that say nothing about what is inside.
const EMPTY_NAMES: &[&str] =
    &["common", "core", "helper", "helpers", "imp", "impl", "manager", "misc", "types", "util", "utils"];

fn faults(of: impl Fn(&File) -> Option<String>) -> Vec<String> {
    repository::sources()
        .iter()
        .filter_map(|file| of(file).map(|fault| format!("{}: {fault}", file.path)))
        .collect()
}

/// The lines of `file` that begin with one of `words`, with their numbers.
fn lines_beginning_with(file: &File, words: &[&str]) -> Option<String> {
    let found: Vec<String> = (1..)
        .zip(file.text.lines())
        .filter(|(_, line)| words.iter().any(|word| line.trim_start().starts_with(word)))
        .map(|(number, line)| format!("line {number}: {}", line.trim()))
        .collect();
    (!found.is_empty()).then(|| found.join(", "))
}

#[test]
fn every_file_says_first_what_it_is_responsible_for() {
    let faults = faults(|file| {
        let first = file.text.lines().next().unwrap_or_default();
        let says = first.strip_prefix("//! ").is_some_and(|text| text.len() > 20);
        (!says).then(|| format!("begins with {first:?}"))
    });
    assert_none("a file begins with `//!` and a sentence", &faults);
}

#[test]
fn no_file_is_longer_than_one_sitting() {
    let faults = faults(|file| {
        let lines = file.text.lines().count();
        let doc = file.text.lines().take_while(|line| line.starts_with("//!"));
        let excused = doc.into_iter().any(|line| line.starts_with(REASON));
        match lines {
            0..=REASON_FROM => None,
            _ if lines > LIMIT => Some(format!("{lines} lines, at most {LIMIT}")),
            _ if excused => None,
            _ => Some(format!("{lines} lines, and no line that begins with `{REASON}`")),
        }
    });
    assert_none("files stay short", &faults);
}

#[test]
fn file_names_say_what_is_inside() {
    let faults = faults(|file| {
        let stem = file.path.trim_end_matches(".rs");
        stem.split('/').find(|part| EMPTY_NAMES.contains(part)).map(|part| format!("{part} says nothing"))
    });
    assert_none("names are nouns of what is inside", &faults);
}

#[test]
fn no_test_is_ignored() {
    assert_none("tests run or are deleted", &faults(|file| lines_beginning_with(file, &["#[ignore"])));
}

#[test]
fn lints_are_expected_with_a_reason_never_allowed() {
    // That an expected lint gives its reason is checked by clippy (`allow_attributes_without_reason`).
    let bare = faults(|file| lines_beginning_with(file, &["#[allow", "#![allow"]));
    assert_none("use #[expect(lint, reason = \"…\")]", &bare);
}

#[test]
fn names_of_tests_are_sentences() {
    let prefixed = faults(|file| lines_beginning_with(file, &["fn test_", "async fn test_"]));
    assert_none("a test is named <subject>_<condition>_<outcome>", &prefixed);
}
