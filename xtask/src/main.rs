//! `cargo xtask`: the project's own commands, one file for each.
//!
//! ```text
//! demo   packages → build → one-node cluster → hello, reached over the network → clean-up, proven by the ledger
//! test   packages → stages (fmt, clippy, build, …, e2e) → one summary, between two ledgers
//! check  the stages that need no cluster: fmt, clippy, tidy
//! bench  packages → release build → rows, each in an enclosure → one table
//! ```
//!
//! Depends on little, so that it is compiled and speaking within seconds on a fresh clone. What needs the project's
//! own crates (packing an image, reading the machine's ledger, measuring) is done by the programs of `tests/e2e` and `tests/bench`.

mod bench;
mod check;
mod demo;
mod failure;
mod hello;
mod http;
mod interrupt;
mod junit;
mod kernel;
mod ledger;
mod packages;
mod paths;
mod progress;
mod root;
mod stage;
mod step;
mod summary;
mod test;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// The project's own commands.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Start a cluster on this machine and see a container of yours running.
    Demo(demo::DemoOptions),
    /// Run every test, and leave the machine as it was.
    Test(test::TestOptions),
    /// Run the quick checks: formatting, lints, tidiness.
    Check,
    /// Measure the numbers that RIK shall reach, beside its peers.
    Bench(bench::BenchOptions),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Demo(options) => demo::run(&options),
        Command::Test(options) => test::run(&options),
        Command::Check => check::run(),
        Command::Bench(options) => bench::run(&options),
    };
    outcome.unwrap_or_else(|error| {
        failure::print(&error);
        ExitCode::FAILURE
    })
}
