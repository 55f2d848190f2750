//! Who is at work on which pod: so that nothing is taken away under the hands of those who still make it.
//!
//! A call may be dropped at any instant, but work on a thread goes on. Those who make something hold a share of the pod
//! until their work is really done; whoever takes away waits until nobody holds one.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock};

/// Held while something of a pod is being made.
pub type AtWork = OwnedRwLockReadGuard<()>;
/// Held while a pod is nobody else's.
pub type Alone = OwnedRwLockWriteGuard<()>;

/// The pods that somebody is at work on.
#[derive(Debug, Default)]
pub struct Busy {
    pods: Mutex<BTreeMap<String, Arc<RwLock<()>>>>,
}

impl Busy {
    fn of(&self, uid: &str) -> Arc<RwLock<()>> {
        let mut pods = self.pods.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that nobody refers to are of no use any more.
        pods.retain(|own, lock| own == uid || Arc::strong_count(lock) > 1);
        Arc::clone(pods.entry(uid.to_owned()).or_default())
    }

    /// A share of the pod, to make something of it.
    pub async fn work_on(&self, uid: &str) -> AtWork {
        self.of(uid).read_owned().await
    }

    /// The whole pod, once nobody makes anything of it any more.
    pub async fn alone_with(&self, uid: &str) -> Alone {
        self.of(uid).write_owned().await
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;

    use super::*;

    #[test]
    fn taking_away_waits_for_those_who_make() {
        let busy = Busy::default();
        let first = busy.work_on("a").now_or_never().unwrap();
        let second = busy.work_on("a").now_or_never().unwrap();
        assert!(busy.alone_with("b").now_or_never().is_some());
        drop(first);
        assert!(busy.alone_with("a").now_or_never().is_none());
        drop(second);
        assert!(busy.alone_with("a").now_or_never().is_some());
        assert!(busy.pods.lock().unwrap().len() <= 1);
    }
}
