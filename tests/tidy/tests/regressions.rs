//! The failures of the RIK of 2023, `C-01` to `C-46`: each has a test of ours that carries its number, in its name
//! (`fn c23_…`) or in a comment (`C-23`).

use tidy::assert_none;
use tidy::repository::{self, File};

/// The last number of the list.
const LAST: u32 = 46;

/// Numbers without a test, and why.
const NOT_YET: &[(u32, &str)] = &[
    (10, "ports of functions; functions are not run yet"),
    (38, "root file systems of functions; functions are not run yet"),
    (39, "files of functions; functions are not run yet"),
    (40, "start of functions; functions are not run yet"),
    (41, "subnets of functions; functions are not run yet"),
];

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
        .filter(|number| NOT_YET.iter().all(|(exempt, _)| exempt != number))
        .filter(|number| !tested.iter().any(|file| names(file, *number)))
        .map(|number| format!("C-{number:02}"))
        .collect();
    assert_none("known failures without a test", &faults);
}
