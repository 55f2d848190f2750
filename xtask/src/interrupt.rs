//! Ctrl-C and SIGTERM as a flag, so that a command can clean up before it ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use signal_hook::consts::{SIGINT, SIGTERM};

/// Whether somebody asked this program to end.
#[derive(Clone)]
pub(crate) struct Interrupt(Arc<AtomicBool>);

impl Interrupt {
    /// From now on, the signals set the flag and do nothing else.
    ///
    /// # Errors
    /// When the signals cannot be taken.
    pub(crate) fn catch() -> Result<Self> {
        let flag = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM] {
            signal_hook::flag::register(signal, Arc::clone(&flag)).context("failed to catch signals")?;
        }
        Ok(Self(flag))
    }

    /// Whether a signal has arrived.
    pub(crate) fn arrived(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}
