//! Tries a request a few times while its fault may pass.

use std::future::Future;
use std::time::Duration;

use super::RegistryError;
use crate::limits::{BACKOFF_FIRST, BACKOFF_MAX, TRIES};

/// Counts tries of one request.
#[derive(Debug, Default)]
pub(super) struct Tries {
    made: u32,
}

impl Tries {
    /// Waits for the next try, or gives the fault back if there is none.
    pub(super) async fn wait_after(&mut self, fault: RegistryError) -> Result<(), RegistryError> {
        self.made += 1;
        if self.made >= TRIES || !fault.is_transient() {
            return Err(fault);
        }
        let pause = pause(self.made, fault.retry_after());
        tracing::debug!(%fault, ?pause, "registry request is tried again");
        tokio::time::sleep(pause).await;
        Ok(())
    }

    /// Something worked: what fails next is a new fault.
    pub(super) fn reset(&mut self) {
        self.made = 0;
    }
}

/// Doubles with each try made; half of it is random, so that many nodes do not come back at once.
fn pause(made: u32, asked: Option<Duration>) -> Duration {
    let whole = BACKOFF_FIRST * 2_u32.saturating_pow(made.saturating_sub(1));
    let jittered = whole.mul_f64(0.5 + fastrand::f64() / 2.0);
    jittered.max(asked.unwrap_or_default()).min(BACKOFF_MAX)
}

/// Makes the same request until it succeeds, fails for good or has been tried often enough.
pub(super) async fn retried<T, F>(mut attempt: impl FnMut() -> F) -> Result<T, RegistryError>
where
    F: Future<Output = Result<T, RegistryError>>,
{
    let mut tries = Tries::default();
    loop {
        match attempt().await {
            Ok(value) => return Ok(value),
            Err(fault) => tries.wait_after(fault).await?,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn busy(seconds: u64) -> RegistryError {
        RegistryError::Status {
            registry: "r".to_owned(),
            status: 429,
            what: "x".to_owned(),
            retry_after: Some(Duration::from_secs(seconds)),
        }
    }

    #[test]
    fn pauses_grow_and_stay_bounded() {
        for made in 1..40 {
            let pause = pause(made, None);
            assert!(pause >= BACKOFF_FIRST / 2 && pause <= BACKOFF_MAX, "{made}: {pause:?}");
        }
        assert_eq!(pause(1, Some(Duration::from_secs(7))), Duration::from_secs(7));
        assert_eq!(pause(1, Some(Duration::from_secs(86400))), BACKOFF_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_lasting_fault_ends_after_a_few_tries_and_a_final_one_at_once() {
        let mut made = 0;
        let fault = retried(|| {
            made += 1;
            async { Err::<(), _>(busy(1)) }
        });
        assert!(fault.await.is_err());
        assert_eq!(made, TRIES);
        let mut made = 0;
        let missing = RegistryError::NotFound { registry: "r".to_owned(), what: "x".to_owned() };
        let fault = retried(|| {
            made += 1;
            std::future::ready(Err::<(), _>(missing.clone()))
        });
        assert!(fault.await.is_err());
        assert_eq!(made, 1);
    }
}
