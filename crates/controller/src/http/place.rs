//! A request's place among those that are worked on.
//!
//! Places are few, and a connection that has one is never closed for another. So a request gives its place up while its
//! body is on the way: a client that sends slowly keeps nobody out, and may have to make room itself.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::problem::{Code, Refusal};

/// How many requests are worked on, of one connection.
#[derive(Clone, Debug, Default)]
pub(crate) struct Load(Arc<AtomicUsize>);

impl Load {
    /// Whether nothing is worked on.
    pub(crate) fn is_none(&self) -> bool {
        self.0.load(Ordering::Acquire) == 0
    }

    /// Marks a request as worked on until the mark is dropped.
    pub(crate) fn mark(&self) -> AtWork {
        self.0.fetch_add(1, Ordering::AcqRel);
        AtWork(Arc::clone(&self.0))
    }
}

/// The mark of a request that is worked on.
#[derive(Debug)]
pub(crate) struct AtWork(Arc<AtomicUsize>);

impl Drop for AtWork {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

/// Takes a mark back for as long as it lives.
struct Away<'a>(&'a AtomicUsize);

impl<'a> Away<'a> {
    fn from(load: &'a Load) -> Self {
        load.0.fetch_sub(1, Ordering::AcqRel);
        Self(&load.0)
    }
}

impl Drop for Away<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

/// A place. All clones are one.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    room: Arc<Semaphore>,
    permit: Arc<Mutex<Option<OwnedSemaphorePermit>>>,
    /// What the connection works on, this request included.
    connection: Option<Load>,
}

impl Place {
    /// A place in `room`.
    pub(crate) fn take(room: &Arc<Semaphore>, connection: Option<Load>) -> Result<Self, Refusal> {
        let permit = Arc::new(Mutex::new(Some(permit(room)?)));
        Ok(Self { room: Arc::clone(room), permit, connection })
    }

    /// Gives the place up until `reading` is done.
    pub(crate) async fn while_away<T>(
        &self,
        reading: impl Future<Output = Result<T, Refusal>>,
    ) -> Result<T, Refusal> {
        let read = {
            let _away = self.connection.as_ref().map(Away::from);
            self.set(None);
            reading.await?
        };
        self.set(Some(permit(&self.room)?));
        Ok(read)
    }

    /// Gives the place up for good.
    pub(crate) fn leave(&self) {
        self.set(None);
    }

    fn set(&self, permit: Option<OwnedSemaphorePermit>) {
        *self.permit.lock().unwrap_or_else(PoisonError::into_inner) = permit;
    }
}

fn permit(room: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, Refusal> {
    Arc::clone(room).try_acquire_owned().map_err(|_| {
        Refusal::new(Code::Overloaded, "the controller works on as many requests as it can")
            .hint("try again in a second")
    })
}
