//! The shim alone: what `riklet shim --dir …` runs, for the tests.

use std::process::ExitCode;

fn main() -> ExitCode {
    // The first argument is the word `shim`.
    runtime::pod::shim::main(std::env::args_os().skip(2))
}
