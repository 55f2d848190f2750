//! `cargo xtask check`: the quick stages, for use before every commit. Needs neither root nor a cluster.

use std::process::ExitCode;

use anyhow::Result;

use crate::stage::Stage;
use crate::{packages, summary};

/// Runs the stages; success when all passed.
///
/// # Errors
/// When a stage could not be run at all.
pub(crate) fn run() -> Result<ExitCode> {
    packages::install_nextest()?;
    let outcomes =
        [Stage::Fmt, Stage::Clippy, Stage::Tidy].into_iter().map(Stage::run).collect::<Result<Vec<_>>>()?;
    print!("{}", summary::render(&outcomes));
    Ok(ExitCode::from(u8::from(outcomes.iter().any(|outcome| !outcome.failed.is_empty()))))
}
