//! One piece of work for many who wait for its result.
//!
//! The first to ask starts a task, later ones join it. The task goes on while anybody waits and is stopped when the
//! last one leaves. A finished flight is not joined any more: who asks then starts anew.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::watch;
use tokio::task::AbortHandle;

/// All flights of one kind, by what they fetch.
pub(crate) struct Flights<K, N, V> {
    under_way: Mutex<BTreeMap<K, Weak<Flight<N, V>>>>,
}

/// One flight; dropping the last handle stops it.
pub(crate) struct Flight<N, V> {
    /// What everybody on board may look at while it lasts.
    pub(crate) news: N,
    outcome: watch::Receiver<Option<V>>,
    task: AbortHandle,
}

/// A place on a flight.
pub(crate) struct Seat<N, V> {
    pub(crate) flight: Arc<Flight<N, V>>,
    /// Whether this one started it.
    pub(crate) first: bool,
}

impl<K, N, V> Default for Flights<K, N, V> {
    fn default() -> Self {
        Self { under_way: Mutex::default() }
    }
}

impl<K: Ord, N, V: Clone + Send + Sync + 'static> Flights<K, N, V> {
    /// Joins the flight for `key`, or starts `work` as one.
    pub(crate) fn join<F>(&self, key: K, news: N, work: impl FnOnce() -> F) -> Seat<N, V>
    where
        F: Future<Output = V> + Send + 'static,
    {
        let mut under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(flight) = under_way.get(&key).and_then(Weak::upgrade)
            && flight.is_under_way()
        {
            return Seat { flight, first: false };
        }
        under_way.retain(|_, flight| flight.strong_count() > 0);
        let (publish, outcome) = watch::channel(None);
        let work = work();
        let task = tokio::spawn(async move {
            let value = work.await;
            let _ = publish.send(Some(value));
        });
        let flight = Arc::new(Flight { news, outcome, task: task.abort_handle() });
        under_way.insert(key, Arc::downgrade(&flight));
        Seat { flight, first: true }
    }

    /// The flight for `key`, if there is one, without joining it.
    pub(crate) fn look<R>(&self, key: &K, see: impl FnOnce(&N) -> R) -> Option<R> {
        let under_way = self.under_way.lock().unwrap_or_else(PoisonError::into_inner);
        let flight = under_way.get(key).and_then(Weak::upgrade)?;
        flight.is_under_way().then(|| see(&flight.news))
    }
}

impl<N, V: Clone> Flight<N, V> {
    fn is_under_way(&self) -> bool {
        self.outcome.has_changed().is_ok() && self.outcome.borrow().is_none()
    }

    /// Waits for the result; `None` if the task broke off without one.
    pub(crate) async fn outcome(&self) -> Option<V> {
        let mut outcome = self.outcome.clone();
        let value = outcome.wait_for(Option::is_some).await.ok()?;
        value.clone()
    }
}

impl<N, V> Drop for Flight<N, V> {
    fn drop(&mut self) {
        self.task.abort();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot;

    type Numbers = Flights<&'static str, (), u32>;

    #[tokio::test]
    async fn many_wait_for_one_piece_of_work() {
        let flights = Numbers::default();
        let (finish, finished) = oneshot::channel();
        let first = flights.join("a", (), || async { finished.await.unwrap_or(0) });
        let second = flights.join("a", (), || async { unreachable!("joined") });
        assert!(first.first && !second.first);
        drop(first);
        finish.send(7).unwrap();
        assert_eq!(second.flight.outcome().await, Some(7));
        let third = flights.join("a", (), || async { 8 });
        assert_eq!(third.flight.outcome().await, Some(8));
    }

    #[tokio::test]
    async fn work_that_nobody_waits_for_is_stopped() {
        let flights = Numbers::default();
        let (mut held, dropped) = oneshot::channel::<()>();
        let seat = flights.join("a", (), || async move {
            let _held = dropped;
            std::future::pending().await
        });
        drop(seat);
        held.closed().await;
        assert_eq!(flights.look(&"a", |()| ()), None);
    }

    #[tokio::test]
    async fn work_that_panics_has_no_outcome() {
        let flights = Numbers::default();
        let seat = flights.join("a", (), || async { panic!("a fault of the test") });
        assert_eq!(seat.flight.outcome().await, None);
    }
}
