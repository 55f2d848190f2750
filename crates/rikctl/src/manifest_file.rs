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

/// A manifest that obeys every rule.
#[derive(Clone, Debug)]
pub(crate) struct Manifest {
    /// What it says.
    pub(crate) workload: Workload,
    /// The same as it is sent.
    pub(crate) value: Value,
}

/// Reads every file, `-` being stdin. Faults of all of them are told at once, and then none is given back.
///
/// # Errors
/// A file that cannot be read or breaks a rule.
pub(crate) fn read_all(files: &[String]) -> Result<Vec<Manifest>, Failure> {
    let mut manifests = Vec::new();
    let mut broken: Vec<Report> = Vec::new();
    for file in files {
        match read_one(file) {
            Ok(manifest) => manifests.push(manifest),
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

fn read_one(file: &str) -> Result<Manifest, Report> {
    let text = text_of(file)?;
    let shown = if file == "-" { "the manifest on stdin" } else { file };
    match read::workload(&text, Strictness::Strict) {
        Ok(workload) => {
            let value = serde_json::to_value(&workload)
                .map_err(|error| Report::new(format!("{shown} cannot be sent as JSON: {error}")))?;
            Ok(Manifest { workload, value })
        }
        Err(error) => {
            let message = format!("{shown} has {}", counted(error.faults.len(), "fault"));
            Err(Report::new(message).details(error.faults.iter().map(ToString::to_string)).hint(HINT))
        }
    }
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
