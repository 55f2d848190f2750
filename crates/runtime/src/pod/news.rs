//! News of pods: a counter for each, so that nothing that happens between looking and waiting is missed.
//!
//! Looking notes the counter, waiting waits until it differs from what was noted.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::watch;

#[derive(Debug)]
struct Entry {
    count: watch::Sender<u64>,
    noted: u64,
}

/// Counters of all pods that somebody looked at.
#[derive(Debug, Default)]
pub struct News {
    pods: Mutex<BTreeMap<String, Entry>>,
}

impl News {
    fn pods(&self) -> MutexGuard<'_, BTreeMap<String, Entry>> {
        // Entries are whole at every instant, so a panic elsewhere does not spoil them.
        self.pods.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that the pod is being looked at. To be called before looking.
    pub fn note(&self, uid: &str) {
        let mut pods = self.pods();
        let entry =
            pods.entry(uid.to_owned()).or_insert_with(|| Entry { count: watch::Sender::new(0), noted: 0 });
        entry.noted = *entry.count.borrow();
    }

    /// There is something new to see of the pod.
    pub fn tell(&self, uid: &str) {
        if let Some(entry) = self.pods().get(uid) {
            entry.count.send_modify(|count| *count += 1);
        }
    }

    /// There may be something new to see of every pod.
    pub fn tell_all(&self) {
        for entry in self.pods().values() {
            entry.count.send_modify(|count| *count += 1);
        }
    }

    /// Waits until there is something that the last look cannot have seen. For ever if it was never looked at.
    pub async fn wait(&self, uid: &str) {
        let waiting = self.pods().get(uid).map(|entry| (entry.count.subscribe(), entry.noted));
        match waiting {
            Some((mut count, noted)) => {
                // An error means that the pod was forgotten: that is news as well.
                let _ = count.wait_for(|count| *count != noted).await;
            }
            None => std::future::pending().await,
        }
    }

    /// The pod's counter itself, for whoever waits on terms of his own.
    #[must_use]
    pub fn counter(&self, uid: &str) -> watch::Receiver<u64> {
        let mut pods = self.pods();
        let entry =
            pods.entry(uid.to_owned()).or_insert_with(|| Entry { count: watch::Sender::new(0), noted: 0 });
        entry.count.subscribe()
    }

    /// Drops the counter of a pod that is gone; whoever waits for it wakes up.
    pub fn forget(&self, uid: &str) {
        self.pods().remove(uid);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::FutureExt;

    use super::*;

    #[test]
    fn news_between_looking_and_waiting_is_not_missed() {
        let news = News::default();
        news.note("a");
        news.tell("a");
        assert!(news.wait("a").now_or_never().is_some());
        news.note("a");
        assert!(news.wait("a").now_or_never().is_none());
        news.tell_all();
        assert!(news.wait("a").now_or_never().is_some());
    }

    #[tokio::test]
    async fn waiter_wakes_when_its_pod_is_forgotten() {
        let news = Arc::new(News::default());
        news.note("a");
        let waiter = tokio::spawn({
            let news = Arc::clone(&news);
            async move { news.wait("a").await }
        });
        tokio::task::yield_now().await;
        news.forget("a");
        waiter.await.unwrap();
    }
}
