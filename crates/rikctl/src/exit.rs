//! The exit codes, and the table of them that `rikctl --help` ends with.

use std::process::ExitCode;

/// How a run of rikctl ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// All that was asked for was done.
    Done,
    /// Something that was asked for was not done; stderr says what and why.
    Failed,
    /// The command line makes no sense; nothing was done.
    Usage,
    /// The time for waiting ran out; what was waited for may still come.
    TimedOut,
    /// A program in a container was run, and ended with this code.
    Program(u8),
}

impl Exit {
    /// The number that the shell sees.
    #[must_use]
    pub const fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::TimedOut => 3,
            Self::Program(code) => code,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// The foot of `rikctl --help`. Ctrl-C is left to the system, so that a script's loop ends with the command.
pub(crate) const TABLE: &str = "\
Exit codes:
    0  done
    1  not done; stderr says why
    2  the command line makes no sense
    3  the time for waiting ran out
  130  ended by Ctrl-C
exec ends with the code of the program that it ran.

Names may be given as names, ids or unique beginnings of either, and as NOUN/NAME.
";
