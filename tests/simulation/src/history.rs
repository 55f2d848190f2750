//! The history of one run: what happened when, for a person to read.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::time::Instant;

/// What happened. Cheap to clone; all clones are one.
#[derive(Clone, Debug)]
pub struct History {
    began: Instant,
    lines: Arc<Mutex<Vec<String>>>,
}

impl History {
    /// An empty history that begins now.
    #[must_use]
    pub fn begin() -> Self {
        Self { began: Instant::now(), lines: Arc::default() }
    }

    /// Notes something.
    pub fn note(&self, what: impl fmt::Display) {
        let line = format!("{:>9.3}s  {what}", self.began.elapsed().as_secs_f64());
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).push(line);
    }

    /// Everything, a line each.
    #[must_use]
    pub fn text(&self) -> String {
        self.lines.lock().unwrap_or_else(PoisonError::into_inner).join("\n")
    }
}
