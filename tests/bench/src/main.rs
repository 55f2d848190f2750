//! `bench`: measures one row of the table of numbers that RIK shall reach, against a peer in the same run.
//!
//! ```text
//! cargo xtask bench ──▶ bench ROW (outside) ──▶ harness enclose ──▶ bench ROW (inside): lab, load, report
//!                          └ copies the report ◀────────────────────── /tmp/lab/report.tsv
//! ```
//! Everything happens in an enclosure of the end-to-end harness, so the machine itself is left alone, and the ledger
//! proves it. The report is written line by line, so that a row that breaks off leaves what it has measured.
//!
//! *Assumptions*: root; the workspace and the static `hello` are built with optimisation; nothing else is busy on the
//! machine. Where something is, only the ratios of one run mean anything: nothing here asserts a time.

mod client;
mod disk;
mod oracle;
mod outside;
mod process;
mod report;
mod rows;
mod sample;
mod simulated;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;

use crate::report::Report;
use crate::rows::Row;

/// Measures one row.
#[derive(Parser)]
struct Arguments {
    /// The row.
    row: Row,
    /// Fewer and shorter runs: to see that it works, not to believe it.
    #[arg(long)]
    quick: bool,
    /// Where the report goes.
    #[arg(long)]
    out: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if outside::is_inside() {
        let mut report = Report::create();
        if arguments.row.makes_pods()
            && let Err(error) = disk::mount()
        {
            report.note(&format!("On the file system of the checkout, whichever that is: {error:#}."));
        }
        e2e::story(|lab| arguments.row.measure(lab, arguments.quick, &mut report));
        return ExitCode::SUCCESS;
    }
    outside::enclose(arguments.row.name(), &arguments.out).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
