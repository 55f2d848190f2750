//! One file for each command: its arguments and what it does.

pub(crate) mod apply;
pub(crate) mod attach;
pub(crate) mod completion;
pub(crate) mod config;
pub(crate) mod cp;
pub(crate) mod create;
pub(crate) mod delete;
pub(crate) mod describe;
pub(crate) mod exec;
pub(crate) mod get;
pub(crate) mod image;
pub(crate) mod logs;
pub(crate) mod on_nodes;
pub(crate) mod port_forward;
pub(crate) mod run;
pub(crate) mod talk;
pub(crate) mod top;
pub(crate) mod version;
pub(crate) mod volume;
pub(crate) mod wait;

use std::time::Duration;

use crate::{age, exit::Exit, failure::Failure, terminal::Terminal};

/// How long commands wait unless told otherwise: a large image over a slow line still arrives.
const DEFAULT_TIMEOUT: &str = "5m";

/// `--timeout`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct TimeoutArgs {
    /// How long to wait at most, such as 90s, 5m or 1h.
    #[arg(long, value_name = "TIME", default_value = DEFAULT_TIMEOUT, value_parser = age::duration)]
    pub(crate) timeout: Duration,
}

/// Does something for each of several things; what fails is told, and the others are done all the same.
pub(crate) fn each<T>(
    things: impl IntoIterator<Item = T>,
    terminal: &mut Terminal,
    mut act: impl FnMut(T, &mut Terminal) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut worst = Exit::Done;
    for thing in things {
        match act(thing, terminal) {
            Ok(()) => {}
            Err(Failure::Told(report)) => {
                terminal.report(&report);
                worst = report.exit;
            }
            Err(Failure::Already(exit)) => worst = exit,
            Err(Failure::ReaderGone) => return Err(Failure::ReaderGone),
        }
    }
    if worst == Exit::Done { Ok(()) } else { Err(Failure::Already(worst)) }
}
