//! `rikctl` as a person types it, and what it says.

use std::process::{Child, Command, Stdio};

use crate::{lab::CONTROLLER_PORT, programs};

/// What a command said and how it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Said {
    /// Exit code; 128 and the signal's number if a signal ended it.
    pub code: i32,
    /// Data.
    pub stdout: String,
    /// Words.
    pub stderr: String,
}

impl Said {
    /// Its data, if it ended well.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    #[must_use]
    pub fn good(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }

    /// Its words, if it ended with `code`.
    ///
    /// # Panics
    /// When it ended otherwise.
    #[track_caller]
    #[must_use]
    pub fn bad(self, code: i32) -> String {
        assert_eq!(self.code, code, "{}{}", self.stdout, self.stderr);
        self.stderr
    }
}

/// The `rikctl` command, ready for arguments, in the workspace's folder as the documentation has it.
#[must_use]
pub fn command() -> Command {
    let mut command = Command::new(programs::built("rikctl"));
    command.current_dir(programs::workspace_folder()).env("NO_COLOR", "1");
    command
}

/// Runs a command to its end.
///
/// # Panics
/// When it cannot be started.
#[track_caller]
pub fn say(command: &mut Command) -> Said {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("failed to run {:?}: {error}", command.get_program()));
    Said {
        code: output.status.code().unwrap_or(-1),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

/// Starts `rikctl` against the cluster of a lab, with pipes.
///
/// # Panics
/// When it cannot be started.
#[must_use]
pub fn begin(arguments: &[&str]) -> Child {
    let mut command = command();
    command.args(arguments).env("RIK_CLUSTER_SERVER", format!("http://127.0.0.1:{CONTROLLER_PORT}"));
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("rikctl can be started")
}
