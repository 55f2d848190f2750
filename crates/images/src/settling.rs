//! Puts images on disk after they were put into use.
//!
//! ```text
//! commit ─▶ list says: here, in boot B ──(a thread)── syncfs ─▶ list says: here
//! power lost in between ─▶ open in another boot ─▶ the image is left out, and pulled again when it is wanted
//! ```
//! A container need not wait until the disk has what the page cache has already: for a large image that is seconds. As
//! long as the machine goes on, whatever becomes of this process, the files are as they were written.

use std::os::fd::OwnedFd;
use std::sync::{Arc, Weak};

use rustix::fs::syncfs;

use crate::store::Inner;
use crate::{Digest, StoreError};

/// Where the kernel tells one boot of the machine from another.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// This boot of the machine.
pub(crate) fn boot_id() -> std::io::Result<String> {
    std::fs::read_to_string(BOOT_ID).map(|text| text.trim().to_owned())
}

/// Begins to put everything that the list names on disk. Holds the store neither open nor locked meanwhile.
pub(crate) fn begin(store: &Arc<Inner>) {
    let waiting = store.unsettled();
    if waiting.is_empty() {
        return;
    }
    let weak = Arc::downgrade(store);
    let begun = store.root_fd().try_clone().and_then(|root| {
        let thread = std::thread::Builder::new().name("rik-settling".to_owned());
        thread.spawn(move || settle(&weak, &root, &waiting))
    });
    if let Err(fault) = begun {
        tracing::warn!(%fault, "images are not known to be on disk until the next one has arrived");
    }
}

fn settle(store: &Weak<Inner>, root: &OwnedFd, waiting: &[Digest]) {
    if let Err(fault) = syncfs(root) {
        // They stay marked: after a power loss they are pulled again.
        tracing::warn!(%fault, "images could not be put on disk");
        return;
    }
    let Some(store) = store.upgrade() else { return };
    match store.settled(waiting) {
        // Whoever has the store next sees to it.
        Ok(()) | Err(StoreError::BrokenOff) => {}
        Err(fault) => tracing::warn!(%fault, "images are on disk, but the list does not say so"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{PackSpec, pack};
    use crate::{ImageStore, RegistryConfig};

    #[tokio::test]
    async fn list_of_a_store_that_nobody_has_any_more_is_not_written() {
        let scratch = tempfile::tempdir().unwrap();
        let store = ImageStore::open(scratch.path(), RegistryConfig::default()).unwrap();
        let mut archive = Vec::new();
        pack(&PackSpec { reference: "127.0.0.1:1/a:1".to_owned(), ..PackSpec::default() }, &mut archive)
            .unwrap();
        store.load(std::io::Cursor::new(archive)).await.unwrap();
        // As a thread does that has waited for the disk.
        let inner = Arc::clone(&store.inner);
        let all: Vec<Digest> = store.list().iter().map(|image| image.digest).collect();
        let other = store.clone();
        drop(store);
        inner.settled(&all).unwrap();
        drop(other);
        std::fs::remove_file(scratch.path().join("images/index.json")).unwrap();
        assert!(matches!(inner.settled(&all), Err(StoreError::BrokenOff)));
        assert!(!scratch.path().join("images/index.json").exists());
    }
}
