//! What users ask a node for beside running things: its images, and where a container's log is.

use std::{io::Read, path::PathBuf};

use model::{ContainerPhase, Reason, lifecycle::Observed};

use super::{PodRuntime, record::Found};
use crate::{Runtime, RuntimeError};

/// An image on this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ImageOnNode {
    /// Reference that it is known by.
    pub reference: String,
    /// Digest that its registry pins it by.
    pub digest: String,
    /// Bytes of all layers, unpacked.
    pub size: u64,
    /// When it arrived.
    pub pulled_at: jiff::Timestamp,
}

impl PodRuntime {
    /// The images on this node, ordered by reference.
    #[must_use]
    pub fn image_list(&self) -> Vec<ImageOnNode> {
        let all = self.images().list().into_iter().map(|image| ImageOnNode {
            reference: image.reference.to_string(),
            digest: image.digest.to_string(),
            size: image.size_bytes,
            pulled_at: image.pulled,
        });
        all.collect()
    }

    /// Takes in an image archive. Returns the references that were loaded.
    ///
    /// # Errors
    /// It is no archive of images, or not what it claims to be.
    pub async fn load_image(&self, archive: impl Read + Send + 'static) -> Result<Vec<String>, RuntimeError> {
        let loaded = self.images().load(archive).await.map_err(|error| RuntimeError {
            operation: "load the image".to_owned(),
            reason: Reason::ImagePullFailed,
            transient: false,
            source: Some(Box::new(error)),
        })?;
        Ok(loaded.iter().map(|image| image.reference.to_string()).collect())
    }

    /// The file that the log of a container is in, if there is such a container here: of its present run, or of the
    /// `back`-th one before it.
    #[must_use]
    pub fn log_path(&self, uid: &str, container: &str, back: u32) -> Option<PathBuf> {
        let place = self.place(uid).ok()?;
        let Found::Record(record) = place.read() else { return None };
        let index = record.spec.spec.all_containers().position(|own| own.name == container)?;
        let present = record.runs.get(index)?.present().unwrap_or(0);
        Some(place.log(index, present.checked_sub(back)?))
    }

    /// Place of a container in its pod, if there is such a container here.
    #[must_use]
    pub fn container_index(&self, uid: &str, container: &str) -> Option<usize> {
        let Found::Record(record) = self.place(uid).ok()?.read() else { return None };
        record.spec.spec.all_containers().position(|own| own.name == container)
    }

    /// Whether a container runs now.
    pub async fn is_running(&self, uid: &str, container: &str) -> bool {
        let running = |name: &str, phase| name == container && phase == ContainerPhase::Running;
        match self.inspect(uid).await {
            Ok(Observed::Running(facts)) => facts.containers.iter().any(|one| running(&one.name, one.phase)),
            // What is being set up will run; what cannot be looked at now may be running.
            Ok(Observed::Partial | Observed::Prepared) | Err(_) => true,
            Ok(Observed::Absent | Observed::Ended(_) | Observed::Released(_)) => false,
        }
    }
}
