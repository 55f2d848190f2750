//! Reads the report that nextest writes (JUnit XML): how many tests passed, and which failed.
//!
//! Not an XML parser: nextest writes each test as a `<testcase>` element whose attributes are escaped, and that is
//! all that is looked for.

use std::fs;
use std::path::Path;

/// What one run of nextest gave.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Report {
    /// How many tests passed.
    pub(crate) passed: usize,
    /// The full names of those that did not.
    pub(crate) failed: Vec<String>,
}

/// Reads the report at `path`; `None` where there is none, because no test was run.
pub(crate) fn read(path: &Path) -> Option<Report> {
    fs::read_to_string(path).ok().map(|text| parse(&text))
}

fn parse(text: &str) -> Report {
    let mut report = Report::default();
    for case in text.split("<testcase ").skip(1) {
        let head = case.split('>').next().unwrap_or_default();
        let body = case.split("</testcase>").next().unwrap_or_default();
        // A skipped test is not run by choice of a filter; it is none of either.
        if body.contains("<skipped") {
            continue;
        }
        if !head.ends_with('/') && (body.contains("<failure") || body.contains("<error")) {
            report.failed.push(format!("{} {}", attribute(head, "classname"), attribute(head, "name")));
        } else {
            report.passed += 1;
        }
    }
    report
}

fn attribute(head: &str, name: &str) -> String {
    let start = format!("{name}=\"");
    let position =
        head.match_indices(&start).find(|(at, _)| *at == 0 || head[..*at].ends_with(' ')).map(|(at, _)| at);
    let value = position.map(|at| &head[at + start.len()..]).and_then(|rest| rest.split('"').next());
    value
        .unwrap_or_default()
        .replace("&lt;", "<")
        .replace("&gt;", ">")
        .replace("&quot;", "\"")
        .replace("&amp;", "&")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passed_and_failed_tests_are_told_apart() {
        let text = r#"<?xml version="1.0"?><testsuites name="nextest-run" tests="3" failures="1">
            <testsuite name="model" tests="2"><testcase name="a::b" classname="model" time="0.1"/>
            <testcase name="a::c&lt;T&gt;" classname="model" time="0.1">
              <failure type="test failure">thread panicked</failure></testcase></testsuite>
            <testsuite name="e2e::pods"><testcase name="d" classname="e2e::pods"><system-out>x</system-out>
            </testcase></testsuite></testsuites>"#;
        assert_eq!(parse(text), Report { passed: 2, failed: vec!["model a::c<T>".into()] });
    }
}
