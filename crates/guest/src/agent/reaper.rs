//! Every end of a process in the machine comes here: to whoever began it, or to nobody.

use std::{
    collections::HashMap,
    sync::{
        Arc, Condvar, Mutex, OnceLock, PoisonError,
        mpsc::{Receiver, Sender, channel},
    },
    thread,
};

use rustix::process::{Pid, WaitOptions, WaitStatus, wait};

use crate::{flow::lock, order::Ended};

/// Waits for all processes.
#[derive(Clone, Debug, Default)]
pub(super) struct Reaper {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    /// Who waits for which process.
    waiting: Mutex<HashMap<i32, Sender<Ended>>>,
    begun: Condvar,
    at_work: OnceLock<()>,
}

impl Reaper {
    /// Begins a process, and gives where its end will be told. None that begins here can end unseen.
    pub(super) fn begin<T>(
        &self,
        begin: impl FnOnce() -> Result<(Pid, T), String>,
    ) -> Result<(Pid, T, Receiver<Ended>), String> {
        let (send, receive) = channel();
        let mut waiting = lock(&self.shared.waiting);
        let (pid, more) = begin()?;
        waiting.insert(pid.as_raw_nonzero().get(), send);
        drop(waiting);
        self.shared.begun.notify_all();
        let shared = Arc::clone(&self.shared);
        self.shared.at_work.get_or_init(|| drop(thread::spawn(move || shared.reap())));
        Ok((pid, more, receive))
    }
}

impl Shared {
    fn reap(&self) {
        loop {
            match wait(WaitOptions::empty()) {
                Ok(Some((pid, status))) => self.tell(pid, status),
                Ok(None) | Err(rustix::io::Errno::INTR) => {}
                // There is no child: until there is one.
                Err(_none) => {
                    let waiting = lock(&self.waiting);
                    if waiting.is_empty() {
                        drop(self.begun.wait(waiting).unwrap_or_else(PoisonError::into_inner));
                    }
                }
            }
        }
    }

    fn tell(&self, pid: Pid, status: WaitStatus) {
        let ended =
            Ended { code: status.exit_status(), signal: status.terminating_signal(), out_of_memory: false };
        let sender = lock(&self.waiting).remove(&pid.as_raw_nonzero().get());
        if let Some(sender) = sender {
            // Whoever asked may have gone.
            let _ = sender.send(ended);
        }
    }
}
