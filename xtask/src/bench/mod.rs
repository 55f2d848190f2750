//! `cargo xtask bench`: the numbers that RIK shall reach, measured on this machine, beside its peers in the same run.
//!
//! ```text
//! packages → release build → for each row: `bench ROW` as root, in an enclosure of its own → report → table
//!                                                                                             └ --write → the book
//! ```
//! The measuring is done by the program `bench` of `tests/bench`, because it needs the project's own crates. Nothing
//! here judges a time: a missed number is a line of the table, not a failure.

mod machine;
mod page;
mod report;

use std::process::{Command, ExitCode};

use anyhow::{Context, Result, bail};
use clap::{Args, ValueEnum};

use self::machine::Machine;
use self::report::Report;
use crate::{hello, packages, paths, root, step};

/// A row of the table, or several that are measured together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Row {
    /// From the request to the running container, against runc.
    Start,
    /// A hundred pods in one request, against runc.
    Burst,
    /// Memory of every process, idle and for each further pod.
    Memory,
    /// What a cluster costs that has nothing to do.
    Idle,
    /// The control plane alone, with a hundred simulated nodes.
    Control,
    /// The placement alone, with ten thousand nodes.
    Placement,
    /// Pull and unpack an image, against skopeo and umoci.
    Images,
    /// From the request to the first byte of a microVM, against one that is booted by hand.
    Functions,
}

impl Row {
    /// Every row, in the order of the table.
    const ALL: [Self; 8] = [
        Self::Start,
        Self::Burst,
        Self::Memory,
        Self::Idle,
        Self::Control,
        Self::Placement,
        Self::Images,
        Self::Functions,
    ];

    /// The name on the command line, of this program and of `bench`.
    const fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Burst => "burst",
            Self::Memory => "memory",
            Self::Idle => "idle",
            Self::Control => "control",
            Self::Placement => "placement",
            Self::Images => "images",
            Self::Functions => "functions",
        }
    }
}

/// What to measure.
#[derive(Args)]
pub(crate) struct BenchOptions {
    /// Measure this row alone; may be given several times.
    #[arg(long, value_name = "ROW")]
    only: Vec<Row>,
    /// Fewer and shorter runs: to see that it works, not to believe it.
    #[arg(long)]
    quick: bool,
    /// Measure the programs as they were last built with optimisation.
    #[arg(long)]
    no_build: bool,
    /// Put the table into the book. Rows that were not measured now keep what the book has of them.
    #[arg(long, conflicts_with = "quick")]
    write: bool,
}

/// Measures, and prints the table.
///
/// # Errors
/// When something is missing that cannot be installed, or a row breaks off.
pub(crate) fn run(options: &BenchOptions) -> Result<ExitCode> {
    packages::install(packages::FOR_TEST)?;
    packages::install(packages::FOR_BENCH)?;
    root::acquire("to make containers and their network")?;
    if !options.no_build {
        build()?;
    }
    let machine = Machine::read()?;
    let mut measured = Vec::new();
    let mut broken = Vec::new();
    for row in Row::ALL.into_iter().filter(|row| options.only.is_empty() || options.only.contains(row)) {
        let (report, whole) = measure(row, options.quick)?;
        if !whole {
            broken.push(row.name());
        }
        measured.push((row, report));
    }
    root::give_back(&paths::target())?;
    print!("{}\n{}", report::for_terminal(&measured), machine.sentence());
    if options.write {
        page::write(&machine, &measured).context("failed to write the page")?;
    }
    if !broken.is_empty() {
        bail!("not everything was measured: {}", broken.join(", "));
    }
    Ok(ExitCode::SUCCESS)
}

fn build() -> Result<()> {
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "--workspace"]).current_dir(paths::workspace());
    step::run("build RIK with optimisation", &mut command)?;
    step::run("build the example", &mut hello::build_command())
}

/// What a row gave, and whether it was measured to its end.
fn measure(row: Row, quick: bool) -> Result<(Report, bool)> {
    let out = paths::target().join("xtask").join(format!("bench-{}.tsv", row.name()));
    let mut command = root::command(paths::target().join("release").join("bench"));
    command.arg(row.name()).arg("--out").arg(&out);
    if quick {
        command.arg("--quick");
    }
    // What an earlier run left is not what this one has measured.
    if let Err(error) = std::fs::remove_file(&out)
        && error.kind() != std::io::ErrorKind::NotFound
    {
        return Err(error).with_context(|| format!("failed to remove {}", paths::short(&out)));
    }
    let finished = step::watch(&format!("measure {}", row.name()), &mut command)?;
    let whole = finished.status.success();
    if !whole {
        step::show_end(&finished.log);
    }
    let text = std::fs::read_to_string(&out).unwrap_or_default();
    Ok((Report::read(&text), whole))
}
