//! The failures of the RIK of 2023, `C-01` to `C-46`: each has a test of ours that carries its number, in its name
//! (`fn c23_…`) or in a comment (`C-23`).

use tidy::assert_none;
use tidy::repository::{self, File};

/// The last number of the list.
const LAST: u32 = 46;

fn has_tests(file: &File) -> bool {
    (file.text.contains("#[test]") || file.text.contains("#[tokio::test") || file.text.contains("proptest!"))
        && !file.path.starts_with("tests/tidy/")
}

fn names(file: &File, number: u32) -> bool {
    file.text.contains(&format!("fn c{number:02}_")) || file.text.contains(&format!("C-{number:02}"))
}

#[test]
fn every_known_failure_has_a_test_that_carries_its_number() {
    let sources = repository::sources();
    let tested: Vec<&File> = sources.iter().filter(|file| has_tests(file)).collect();
    let faults: Vec<String> = (1..=LAST)
        .filter(|number| !tested.iter().any(|file| names(file, *number)))
        .map(|number| format!("C-{number:02}"))
        .collect();
    assert_none("known failures without a test", &faults);
}
