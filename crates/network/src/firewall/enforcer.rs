//! The one place that changes the host's rules: many callers, few runs.
//!
//! Callers change the state and wait. Whoever gets the turn applies the state as it is then, and so does the work of
//! all who changed it before; those find it done. A hundred pods starting at once cost a few runs.
//!
//! A full run is save → plan → restore → save → plan, and is an error if the second plan is not empty. Within
//! 10 s of a full run, a change costs one restore of the chains that differ: that is atomic and complete
//! whatever others have done to those chains, and jumps that others removed meanwhile come back with the next
//! [`Firewall::ensure`].

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use super::{
    Backend, FirewallState, IptablesError, generation,
    observed::Observed,
    plan::plan,
    render::{Rules, render},
};

/// How long the rules are believed to be as they were last seen. Callers look every 5 s; twice that has room for a
/// slow look.
const TRUST: Duration = Duration::from_secs(10);

/// How often a restore is repeated whose result another program changed before it could be verified.
const ATTEMPTS: usize = 3;

/// Why the rules are not as they should be. Shared by all callers whose changes the failed run carried.
#[derive(Clone, Debug, thiserror::Error)]
pub enum FirewallError {
    /// A program failed.
    #[error("apply the firewall rules")]
    Apply {
        /// Why.
        #[source]
        source: Arc<IptablesError>,
    },
    /// The program succeeded, and yet the rules differ.
    #[error("apply the firewall rules: iptables-restore succeeded, but this is still missing: {missing}")]
    Unverified {
        /// What a further run would have to do.
        missing: String,
    },
}

/// Keeps the host's rules equal to a state.
#[derive(Debug)]
pub struct Firewall {
    backend: Backend,
    wanted: Mutex<Wanted>,
    turn: tokio::sync::Mutex<Applied>,
}

#[derive(Debug)]
struct Wanted {
    state: FirewallState,
    /// Counts the changes.
    generation: u64,
}

/// What the last run left.
#[derive(Debug, Default)]
struct Applied {
    generation: u64,
    failed: Option<(u64, FirewallError)>,
    rules: Option<Rules>,
    seen: Option<Instant>,
    /// The kernel's number for its rules at which they were seen to be these.
    seen_at: Option<u32>,
    /// Whether the rules are where the kernel numbers their states; None before it was asked.
    is_numbered: Option<bool>,
    runs: u64,
}

impl Firewall {
    /// Wants this state. Nothing is applied before the first change or [`Self::ensure`].
    #[must_use]
    pub fn new(backend: Backend, state: FirewallState) -> Self {
        let wanted = Mutex::new(Wanted { state, generation: 1 });
        Self { backend, wanted, turn: tokio::sync::Mutex::default() }
    }

    /// Changes the state and leaves it to the next run, whoever causes it, to apply it. Returns the number of the
    /// change.
    pub fn change(&self, change: impl FnOnce(&mut FirewallState)) -> u64 {
        let mut wanted = self.wanted();
        change(&mut wanted.state);
        wanted.generation += 1;
        wanted.generation
    }

    /// Changes the state and returns when it, or a later one, is in force.
    ///
    /// # Errors
    /// [`FirewallError`] when the run that carried the change failed. The state stays changed: the next run, for
    /// whomever, tries again.
    pub async fn update(&self, change: impl FnOnce(&mut FirewallState)) -> Result<(), FirewallError> {
        let generation = self.change(change);
        let mut applied = self.turn.lock().await;
        if applied.generation >= generation {
            return Ok(());
        }
        if let Some((failed, error)) = &applied.failed
            && *failed >= generation
        {
            return Err(error.clone());
        }
        let (rules, generation) = self.snapshot();
        let trusted = applied.seen.is_some_and(|seen| seen.elapsed() < TRUST);
        let outcome = match applied.rules.take().filter(|_| trusted) {
            Some(before) => match self.replace_chains(&before, &rules).await {
                Ok(()) => Ok(()),
                // What was believed may be wrong: look, then do it properly.
                Err(_) => self.apply_in_full(&rules).await.map(|_| applied.seen = Some(Instant::now())),
            },
            None => self.apply_in_full(&rules).await.map(|_| applied.seen = Some(Instant::now())),
        };
        applied.note(generation, rules, outcome)
    }

    /// Looks at the rules, and puts back whatever is missing or changed. Says whether something was. Costs next to nothing
    /// where the kernel says that no rule has changed since the last look, and one `iptables-save` elsewhere, so it may be
    /// called every few seconds.
    ///
    /// # Errors
    /// [`FirewallError`] when the rules are not, and could not be made, as they should be.
    pub async fn ensure(&self) -> Result<bool, FirewallError> {
        let mut applied = self.turn.lock().await;
        let (rules, generation) = self.snapshot();
        let number = self.number(&mut applied).await;
        if number.is_some() && number == applied.seen_at && applied.rules.as_ref() == Some(&rules) {
            applied.seen = Some(Instant::now());
            return Ok(false);
        }
        let outcome = self.apply_in_full(&rules).await;
        applied.seen = outcome.is_ok().then(Instant::now);
        // Of what had to be changed the number is not known before the next look.
        applied.seen_at = number.filter(|_| matches!(outcome, Ok(false)));
        let changed = *outcome.as_ref().unwrap_or(&false);
        applied.note(generation, rules, outcome.map(|_| ())).map(|()| changed)
    }

    /// Removes every rule and chain of ours.
    ///
    /// # Errors
    /// [`FirewallError`] when some could not be removed.
    pub async fn clear(&self) -> Result<(), FirewallError> {
        let mut applied = self.turn.lock().await;
        applied.seen = None;
        applied.rules = None;
        self.apply_in_full(&Rules::none()).await.map(|_| ())
    }

    /// How often rules were applied or looked at: what tests count.
    #[must_use]
    pub async fn runs(&self) -> u64 {
        self.turn.lock().await.runs
    }

    /// The kernel's number for the state of the rules.
    async fn number(&self, applied: &mut Applied) -> Option<u32> {
        if applied.is_numbered.is_none() {
            applied.is_numbered = Some(self.backend.is_numbered().await);
        }
        applied.is_numbered.filter(|is| *is).and_then(|_| generation::read())
    }

    fn wanted(&self) -> MutexGuard<'_, Wanted> {
        self.wanted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn snapshot(&self) -> (Rules, u64) {
        let wanted = self.wanted();
        (render(&wanted.state), wanted.generation)
    }

    async fn replace_chains(&self, before: &Rules, rules: &Rules) -> Result<(), FirewallError> {
        match plan(&Observed::of(before), rules) {
            Some(batch) => Ok(self.backend.restore(&batch).await?),
            None => Ok(()),
        }
    }

    /// Says whether anything had to be done.
    async fn apply_in_full(&self, rules: &Rules) -> Result<bool, FirewallError> {
        let mut missing = match plan(&self.backend.save().await?, rules) {
            None => return Ok(false),
            Some(batch) => batch,
        };
        for _ in 0..ATTEMPTS {
            self.backend.restore(&missing).await?;
            match plan(&self.backend.save().await?, rules) {
                None => return Ok(true),
                Some(batch) => missing = batch,
            }
        }
        Err(FirewallError::Unverified { missing: missing.to_string() })
    }
}

impl Applied {
    fn note(
        &mut self,
        generation: u64,
        rules: Rules,
        outcome: Result<(), FirewallError>,
    ) -> Result<(), FirewallError> {
        self.runs += 1;
        match outcome {
            Ok(()) => {
                self.generation = generation;
                self.rules = Some(rules);
                self.failed = None;
                Ok(())
            }
            Err(error) => {
                self.rules = None;
                self.seen = None;
                self.failed = Some((generation, error.clone()));
                Err(error)
            }
        }
    }
}

impl From<IptablesError> for FirewallError {
    fn from(source: IptablesError) -> Self {
        Self::Apply { source: Arc::new(source) }
    }
}
