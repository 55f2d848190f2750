//! The end of a run: one table of all stages, what failed and where to read more, and the one line that counts.

use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;

use crate::paths;
use crate::progress::seconds;

/// How one stage ended.
pub(crate) struct Outcome {
    /// The stage's name, as `--only` takes it.
    pub(crate) stage: &'static str,
    /// How many checks passed in it.
    pub(crate) passed: usize,
    /// What failed in it, by name.
    pub(crate) failed: Vec<String>,
    /// How long it took; `None` where it could not run because an earlier stage failed.
    pub(crate) elapsed: Option<Duration>,
    /// Everything that it printed.
    pub(crate) log: Option<PathBuf>,
}

/// The whole run as text. The last line is always `N passed, N failed`.
pub(crate) fn render(outcomes: &[Outcome]) -> String {
    let mut text = String::from("\nSTAGE       RESULT   PASSED  FAILED  TIME\n");
    for outcome in outcomes {
        let result = match (outcome.elapsed, outcome.failed.is_empty()) {
            (None, _) => "not run",
            (_, true) => "ok",
            (_, false) => "FAILED",
        };
        let time = outcome.elapsed.map(seconds).unwrap_or_default();
        let (passed, failed) = (outcome.passed, outcome.failed.len());
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{:<11} {result:<7} {passed:>7} {failed:>7}  {time}", outcome.stage);
    }
    for outcome in outcomes.iter().filter(|outcome| !outcome.failed.is_empty() && outcome.elapsed.is_some()) {
        let _ = writeln!(text, "\nfailed in {}:", outcome.stage);
        outcome.failed.iter().for_each(|name| {
            let _ = writeln!(text, "  {name}");
        });
        if let Some(log) = &outcome.log {
            let _ = writeln!(text, "  log: {}", paths::short(log));
        }
    }
    let passed: usize = outcomes.iter().map(|outcome| outcome.passed).sum();
    let failed: usize = outcomes.iter().map(|outcome| outcome.failed.len()).sum();
    let _ = writeln!(text, "\n{passed} passed, {failed} failed");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn outcome(stage: &'static str, passed: usize, failed: &[&str], elapsed: Option<u64>) -> Outcome {
        Outcome {
            stage,
            passed,
            failed: failed.iter().map(ToString::to_string).collect(),
            elapsed: elapsed.map(Duration::from_secs),
            log: None,
        }
    }

    #[test]
    fn last_line_counts_everything_alone() {
        let text =
            render(&[outcome("fmt", 1, &[], Some(1)), outcome("fast", 40, &["model a::b"], Some(100))]);
        assert_eq!(text.lines().last(), Some("41 passed, 1 failed"));
        assert!(text.contains("failed in fast:\n  model a::b\n"));
    }

    #[test]
    fn stage_that_could_not_run_counts_as_failed() {
        let text = render(&[outcome("build", 0, &["build"], Some(3)), outcome("e2e", 0, &["e2e"], None)]);
        assert!(text.contains("e2e         not run"));
        assert_eq!(text.lines().last(), Some("0 passed, 2 failed"));
    }
}
