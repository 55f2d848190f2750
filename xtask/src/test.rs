//! `cargo xtask test`: everything that must pass, with one summary, and the machine left as it was found.

use std::path::Path;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::Result;
use clap::Args;

use crate::ledger::Ledger;
use crate::stage::Stage;
use crate::summary::{self, Outcome};
use crate::{kernel, packages, paths, root};

/// What to test.
#[derive(Args)]
pub(crate) struct TestOptions {
    /// Run this stage alone (and what it needs); may be given several times.
    #[arg(long, value_name = "STAGE")]
    only: Vec<Stage>,
}

/// Runs the stages; success when all passed.
///
/// # Errors
/// When something is missing that cannot be installed, or a stage could not be run at all.
pub(crate) fn run(options: &TestOptions) -> Result<ExitCode> {
    let stages = selected(&options.only);
    packages::install(packages::FOR_TEST)?;
    packages::install_nextest()?;
    if stages.iter().any(|stage| stage.touches_the_machine()) {
        root::acquire("for tests with namespaces, mounts and containers of their own")?;
    }
    if stages.contains(&Stage::E2e)
        && let Err(error) = kernel::fetch()
    {
        eprintln!(
            "warning: there is no kernel for virtual machines, so the story that needs one fails: {error:#}"
        );
    }
    let outcomes = run_stages(&stages)?;
    print!("{}", summary::render(&outcomes));
    Ok(ExitCode::from(u8::from(outcomes.iter().any(|outcome| !outcome.failed.is_empty()))))
}

/// The stages asked for and what they need, in their order; all of them when none is asked for.
fn selected(only: &[Stage]) -> Vec<Stage> {
    let wanted = |stage: &Stage| {
        only.is_empty() || only.contains(stage) || only.iter().any(|asked| asked.needs().contains(stage))
    };
    Stage::ALL.into_iter().filter(wanted).collect()
}

fn run_stages(stages: &[Stage]) -> Result<Vec<Outcome>> {
    let mut outcomes: Vec<Outcome> = Vec::new();
    let mut before: Option<Ledger> = None;
    let programs = paths::target().join("debug");
    for stage in stages {
        let broken = |outcome: &Outcome| {
            !outcome.failed.is_empty() && stage.needs().iter().any(|need| need.name() == outcome.stage)
        };
        if outcomes.iter().any(broken) {
            outcomes.push(stage.not_run());
            continue;
        }
        if stage.touches_the_machine() && before.is_none() {
            before = Some(Ledger::take(&programs)?);
        }
        outcomes.push(stage.run()?);
    }
    if let Some(before) = before {
        root::give_back(&paths::target())?;
        outcomes.push(nothing_left_behind(&before, &programs)?);
    }
    Ok(outcomes)
}

/// The last stage: the machine is as it was.
fn nothing_left_behind(before: &Ledger, programs: &Path) -> Result<Outcome> {
    let started = Instant::now();
    let failed = before.differences(&Ledger::take(programs)?);
    Ok(Outcome {
        stage: "ledger",
        passed: usize::from(failed.is_empty()),
        failed,
        elapsed: Some(started.elapsed()),
        log: None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_stage_brings_what_it_needs() {
        assert_eq!(selected(&[Stage::E2e]), [Stage::Build, Stage::Static, Stage::E2e]);
        assert_eq!(selected(&[]), Stage::ALL);
    }
}
