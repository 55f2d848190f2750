//! `harness`: what tests and `cargo xtask` need done by a process of its own.
//!
//! `ledger` prints what is on the machine; `pack` makes an image of a static program; `enclose` and `init` are the two
//! steps into a test's enclosure (see the library's `enclosure`), `guest` is the one into a virtual machine (`guest`).

use std::fs::File;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use e2e::{enclosure, guest, image, ledger};

/// Helps the tests and the demo.
#[derive(Parser)]
enum Command {
    /// Print everything on this machine that RIK could leave behind.
    Ledger,
    /// Pack a static program as an OCI image archive.
    Pack {
        /// Name and tag of the image.
        #[arg(long)]
        reference: String,
        /// The program; it becomes the entrypoint.
        #[arg(long)]
        program: PathBuf,
        /// Where to write the archive.
        #[arg(long)]
        archive: PathBuf,
    },
    /// Run a test in namespaces of its own.
    Enclose {
        /// Name of its folder in every cgroup hierarchy.
        #[arg(long)]
        cgroup: String,
        /// The test and its arguments.
        #[arg(last = true)]
        test: Vec<String>,
    },
    /// Be the first process of a virtual machine.
    Guest {
        /// The test and its arguments, without `--` before them: the kernel leaves out what is behind a second one.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        test: Vec<String>,
    },
    /// Be the first process of an enclosure.
    Init {
        /// The test and its arguments.
        #[arg(last = true)]
        test: Vec<String>,
    },
}

fn main() -> ExitCode {
    run(Command::parse()).unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(command: Command) -> Result<ExitCode> {
    match command {
        Command::Ledger => print!("{}", ledger::Ledger::of_machine()?),
        Command::Pack { reference, program, archive } => {
            let spec = image::of_program(&reference, &program)?;
            let file =
                File::create(&archive).with_context(|| format!("failed to write {}", archive.display()))?;
            let digest = images::archive::pack(&spec, file).context("failed to pack the image")?;
            println!("{reference} {digest}");
        }
        Command::Enclose { cgroup, test } => return enclosure::enter(&cgroup, &test),
        Command::Guest { test } => return guest::first(&test),
        Command::Init { test } => return enclosure::init(&test),
    }
    Ok(ExitCode::SUCCESS)
}
