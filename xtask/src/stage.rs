//! The stages of a test run: what each one runs, what it needs, and how its outcome is read.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use clap::ValueEnum;

use crate::summary::Outcome;
use crate::{hello, junit, paths, root, step};

/// A part of the test run that can be asked for by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum)]
pub(crate) enum Stage {
    /// Formatting.
    Fmt,
    /// Lints, as errors.
    Clippy,
    /// Every program and every test, built once.
    Build,
    /// The static program that test containers run.
    Static,
    /// Examples in the documentation of the code.
    Doctests,
    /// Unit, property, snapshot and conformance tests.
    Fast,
    /// What the repository promises about itself.
    Tidy,
    /// Stories with real containers, a real registry and real nodes.
    E2e,
}

impl Stage {
    /// Every stage, in the order in which they run: what fails soonest comes first.
    pub(crate) const ALL: [Self; 8] = [
        Self::Fmt,
        Self::Clippy,
        Self::Build,
        Self::Static,
        Self::Tidy,
        Self::Doctests,
        Self::Fast,
        Self::E2e,
    ];

    /// The name on the command line and in the summary.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Fmt => "fmt",
            Self::Clippy => "clippy",
            Self::Build => "build",
            Self::Static => "static",
            Self::Doctests => "doctests",
            Self::Fast => "fast",
            Self::Tidy => "tidy",
            Self::E2e => "e2e",
        }
    }

    /// The stages without which this one cannot run.
    pub(crate) const fn needs(self) -> &'static [Self] {
        match self {
            Self::Fmt | Self::Clippy | Self::Build | Self::Static | Self::Doctests | Self::Tidy => &[],
            Self::Fast => &[Self::Build],
            Self::E2e => &[Self::Build, Self::Static],
        }
    }

    /// Whether it makes namespaces, mounts, rules or processes that must be gone afterwards.
    pub(crate) const fn touches_the_machine(self) -> bool {
        matches!(self, Self::Fast | Self::E2e)
    }

    /// Runs the stage to its end.
    ///
    /// # Errors
    /// When it could not be run at all; failing is an outcome.
    pub(crate) fn run(self) -> Result<Outcome> {
        match self {
            Self::Fmt => self.command(&["fmt", "--all", "--check", "--", "--color", "never"]),
            Self::Clippy => self.command(&["clippy", "--workspace", "--all-targets", "--", "-D", "warnings"]),
            // All targets at once: programs and tests in two builds would compile what they share twice.
            Self::Build => self.command(&["build", "--workspace", "--all-targets"]),
            Self::Static => self.single(hello::build_command()),
            Self::Doctests => self.command(&["test", "--workspace", "--doc"]),
            Self::Fast => self.nextest(&["--workspace", "-E", "not (package(e2e) or package(tidy))"]),
            Self::Tidy => self.nextest(&["--package", "tidy"]),
            Self::E2e => self.nextest(&["--workspace", "-E", "package(e2e)"]),
        }
    }

    /// The outcome of a stage that an earlier failure kept from running.
    pub(crate) fn not_run(self) -> Outcome {
        Outcome { stage: self.name(), passed: 0, failed: vec![self.name().into()], elapsed: None, log: None }
    }

    fn command(self, arguments: &[&str]) -> Result<Outcome> {
        let mut command = Command::new("cargo");
        command.args(arguments).current_dir(paths::workspace());
        self.single(command)
    }

    /// A stage that passes or fails as a whole.
    fn single(self, mut command: Command) -> Result<Outcome> {
        let finished = step::watch(self.name(), &mut command)?;
        let good = finished.status.success();
        if !good {
            step::show_end(&finished.log);
        }
        Ok(self.outcome(finished, usize::from(good), if good { vec![] } else { vec![self.name().into()] }))
    }

    /// A stage of tests, counted one by one.
    fn nextest(self, selection: &[&str]) -> Result<Outcome> {
        let profile = self.name();
        let report = paths::target().join("nextest").join(profile).join("junit.xml");
        // A report of an earlier run must not be taken for this one's; most often there is none.
        let _ = std::fs::remove_file(&report);
        let mut command = Command::new("cargo");
        command.args(["nextest", "run", "--color=never", "--profile", profile]).args(selection);
        command.current_dir(paths::workspace());
        if self.touches_the_machine() && !root::is_root() {
            // These tests run as root; what cargo builds stays the user's.
            let triple =
                format!("CARGO_TARGET_{}_UNKNOWN_LINUX_GNU_RUNNER", std::env::consts::ARCH.to_uppercase());
            command.env(triple, "sudo --preserve-env --non-interactive --");
        }
        let finished = step::watch(profile, &mut command)?;
        let mut results = junit::read(&report).unwrap_or_default();
        if !finished.status.success() {
            if results.failed.is_empty() {
                results.failed.push(format!("{profile} (no test has failed, but the run has)"));
            }
            step::show_end(&finished.log);
        }
        Ok(self.outcome(finished, results.passed, results.failed))
    }

    fn outcome(self, finished: step::Finished, passed: usize, failed: Vec<String>) -> Outcome {
        let elapsed: Option<Duration> = Some(finished.elapsed);
        Outcome { stage: self.name(), passed, failed, elapsed, log: Some(finished.log) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_runs_after_what_it_needs() {
        for (position, stage) in Stage::ALL.iter().enumerate() {
            for need in stage.needs() {
                assert!(Stage::ALL[..position].contains(need), "{stage:?} needs {need:?}");
            }
        }
    }
}
