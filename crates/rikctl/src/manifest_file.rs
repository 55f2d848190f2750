//! Manifests that are named on the command line: read and checked here, before anything is sent.

use std::{
    fs,
    io::{self, Read},
    path::Path,
};

use model::{
    Workload,
    manifest::{
        read::{self, Strictness},
        tree::MAX_DOCUMENT_BYTES,
    },
};
use serde_json::Value;

use crate::failure::{Failure, Report, counted, plain};

/// Most documents of one file.
const MAX_DOCUMENTS: usize = 100;

/// A manifest that obeys every rule.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    /// What it says.
    pub(crate) workload: Workload,
    /// The same as it is sent.
    pub(crate) value: Value,
}

/// Reads every document of every file, `-` being stdin. Faults of all of them are told at once, and then none is given back.
///
/// # Errors
/// A file that cannot be read or breaks a rule.
pub(crate) fn read_all(files: &[String]) -> Result<Vec<Manifest>, Failure> {
    let mut manifests = Vec::new();
    let mut broken: Vec<Report> = Vec::new();
    for file in files {
        match read_one(file) {
            Ok(own) => manifests.extend(own),
            Err(report) => broken.push(report),
        }
    }
    match broken.len() {
        0 => Ok(manifests),
        1 => Err(broken.remove(0).into()),
        count => {
            let lines = broken.into_iter().flat_map(|report| {
                std::iter::once(report.message)
                    .chain(report.details.into_iter().map(|line| format!("  {line}")))
            });
            Err(Report::new(format!("{count} of {} files cannot be used", files.len()))
                .details(lines)
                .hint(HINT)
                .into())
        }
    }
}

const HINT: &str = "correct this and run the same command again; nothing was sent to the cluster";

fn read_one(file: &str) -> Result<Vec<Manifest>, Report> {
    let text = text_of(file)?;
    let shown = if file == "-" { "the manifest on stdin" } else { file };
    let documents = documents(&text);
    if documents.len() > MAX_DOCUMENTS {
        let message = format!("{shown} has {} documents; at most {MAX_DOCUMENTS} are read", documents.len());
        return Err(Report::new(message).hint("make several files of it"));
    }
    let mut manifests = Vec::new();
    let mut faults = Vec::new();
    for document in documents {
        match read::workload(&document.text(), Strictness::Strict) {
            Ok(workload) => {
                let value = serde_json::to_value(&workload)
                    .map_err(|error| Report::new(format!("{shown} cannot be sent as JSON: {error}")))?;
                manifests.push(Manifest { workload, value });
            }
            Err(error) => faults.extend(error.faults.iter().map(ToString::to_string)),
        }
    }
    if faults.is_empty() {
        return Ok(manifests);
    }
    let message = format!("{shown} has {}", counted(faults.len(), "fault"));
    Err(Report::new(message).details(faults).hint(HINT))
}

/// A document of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Document<'a> {
    /// Lines before it.
    after: usize,
    text: &'a str,
}

impl Document<'_> {
    /// Its text, with as many empty lines before it that its faults are found where they are in the file.
    fn text(&self) -> String {
        "\n".repeat(self.after) + self.text
    }
}

/// The documents of a file, which lines that begin with `---` separate in YAML. Those with nothing in them do not count,
/// unless there is no other.
fn documents(text: &str) -> Vec<Document<'_>> {
    let mut found = Vec::new();
    let (mut begin, mut after, mut at) = (0, 0, 0);
    for (number, line) in text.split_inclusive('\n').enumerate() {
        let rest = line.strip_prefix("---");
        if rest.is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n'])) {
            found.push(Document { after, text: text.get(begin..at).unwrap_or_default() });
            // What stands behind the dashes is of the next one.
            (begin, after) = (at + 3, number);
        }
        at += line.len();
    }
    found.push(Document { after, text: text.get(begin..).unwrap_or_default() });
    let says = |line: &str| !matches!(line.trim_start().chars().next(), None | Some('#'));
    found.retain(|document| document.text.lines().any(says));
    if found.is_empty() { vec![Document { after: 0, text }] } else { found }
}

fn text_of(file: &str) -> Result<String, Report> {
    let told = |error: io::Error| Report::new(format!("{file} cannot be read: {}", plain(&error))).hint(HINT);
    let source: Box<dyn Read> = if file == "-" {
        Box::new(io::stdin())
    } else if Path::new(file).is_dir() {
        return Err(Report::new(format!("{file} is a directory")).hint("name the files in it"));
    } else {
        Box::new(fs::File::open(file).map_err(told)?)
    };
    let mut bytes = Vec::new();
    source.take(MAX_DOCUMENT_BYTES as u64 + 1).read_to_end(&mut bytes).map_err(told)?;
    if bytes.len() > MAX_DOCUMENT_BYTES {
        return Err(Report::new(format!(
            "{file} is larger than {MAX_DOCUMENT_BYTES} bytes, the most a manifest may have"
        )));
    }
    String::from_utf8(bytes).map_err(|error| {
        Report::new(format!("{file} is no text: byte {} is not UTF-8", error.utf8_error().valid_up_to()))
            .hint(HINT)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_what_lines_of_dashes_separate() {
        let texts = |text| -> Vec<(usize, String)> {
            documents(text).into_iter().map(|own| (own.after, own.text.trim().to_owned())).collect()
        };
        let of = |list: &[(usize, &str)]| -> Vec<(usize, String)> {
            list.iter().map(|(after, text)| (*after, (*text).to_owned())).collect()
        };
        assert_eq!(texts("a: 1\n"), of(&[(0, "a: 1")]));
        let several = "# first\n---\na: 1\n--- # second\nb: |\n  ---\n---x: 1\n---\n";
        assert_eq!(texts(several), of(&[(1, "a: 1"), (3, "# second\nb: |\n  ---\n---x: 1")]));
        assert_eq!(texts("--- {a: 1}\r\n---\r\nb: 2"), of(&[(0, "{a: 1}"), (1, "b: 2")]));
        assert_eq!(texts("# nothing\n---\n"), of(&[(0, "# nothing\n---")]));
        let second = documents("a: 1\n---\nb: 2\n")[1].text();
        assert_eq!(second.lines().position(|line| line == "b: 2"), Some(2), "its line in the file");
    }
}
