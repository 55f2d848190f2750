//! What people read: links lead somewhere, and files that exist twice are equal.

use std::path::Path;

use tidy::{assert_none, repository};

/// Example files that the documentation names by two paths.
const TWINS: &[(&str, &str)] = &[
    ("docs/src/examples/config.json", "examples/config.json"),
    ("docs/src/examples/workloads/workload-1.json", "examples/workload-1.json"),
];

/// Where links of a page lead, without those to other sites and to places within pages.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let mut in_code = false;
    text.lines()
        .filter(move |line| {
            in_code ^= line.trim_start().starts_with("```");
            !in_code
        })
        .flat_map(|line| line.split("](").skip(1))
        .filter_map(|rest| rest.split(')').next())
        .map(|link| link.split('#').next().unwrap_or_default().split(' ').next().unwrap_or_default())
        .filter(|link| !link.is_empty() && !link.contains("://") && !link.starts_with("mailto:"))
}

#[test]
fn links_between_documents_lead_to_files() {
    let root = repository::root();
    let mut faults = Vec::new();
    for page in repository::files("md") {
        let folder = Path::new(&page.path).parent().unwrap_or(Path::new(""));
        for link in links(&page.text) {
            if !root.join(folder).join(link).exists() {
                faults.push(format!("{}: {link}", page.path));
            }
        }
    }
    assert_none("links lead to files that exist", &faults);
}

#[test]
fn every_page_of_the_book_is_in_its_summary() {
    let pages = repository::files("md");
    let Some(summary) = pages.iter().find(|page| page.path == "docs/src/SUMMARY.md") else {
        panic!("docs/src/SUMMARY.md is missing");
    };
    let listed: Vec<String> =
        links(&summary.text).map(|link| format!("docs/src/{}", link.trim_start_matches("./"))).collect();
    let faults: Vec<String> = pages
        .iter()
        .filter(|page| page.path.starts_with("docs/src/") && page.path != summary.path)
        .filter(|page| !listed.contains(&page.path))
        .map(|page| page.path.clone())
        .collect();
    assert_none("pages are reached from docs/src/SUMMARY.md", &faults);
}

#[test]
fn example_files_with_two_paths_are_equal() {
    let faults: Vec<String> = TWINS
        .iter()
        .filter(|(one, other)| repository::read(one) != repository::read(other))
        .map(|(one, other)| format!("{one} and {other} differ"))
        .collect();
    assert_none("both paths give the same file", &faults);
}

#[test]
fn every_example_is_valid_json() {
    let examples = repository::files("json");
    let faults: Vec<String> = examples
        .iter()
        .filter(|file| file.path.starts_with("docs/src/examples/"))
        .filter_map(|file| {
            let error = serde_json::from_str::<serde_json::Value>(&file.text).err()?;
            Some(format!("{}: {error}", file.path))
        })
        .collect();
    assert_none("examples can be read", &faults);
}
