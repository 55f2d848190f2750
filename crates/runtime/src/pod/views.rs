//! What users ask a node for beside running things: its images, and where a container's log is.

use std::{
    io::{Read, Write},
    path::PathBuf,
};

use images::{Cleaned, Reference, RemoveError, SaveError, StoreError, Wish};
use model::{
    Reason,
    lifecycle::{Observed, containers::has_come_to_its_end},
    manifest::image::PullPolicy,
};

use super::{
    PodRuntime, fault,
    record::{Found, Record, Runs, Stage},
};
use crate::RuntimeError;

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
    /// Containers that stand on it.
    pub containers: usize,
    /// When it was last asked for, or else pulled.
    pub used_at: jiff::Timestamp,
}

/// A log that somebody follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GrowingLog {
    /// The file of the present run, if there is one.
    pub path: Option<PathBuf>,
    /// Whether it may grow, or be followed by that of another run.
    pub goes_on: bool,
}

/// Why an image was not removed.
#[derive(Debug, thiserror::Error)]
pub enum ImageNotRemoved {
    /// There is no such image.
    #[error("there is no image {0} on this node")]
    Absent(String),
    /// Instances stand on it.
    #[error("{reference} is used by {}", .users.join(", "))]
    InUse {
        /// Which image.
        reference: String,
        /// Ids of the instances.
        users: Vec<String>,
    },
    /// It is no name, or the disk said no.
    #[error("{0}")]
    Other(String),
}

/// Why an image was not saved.
#[derive(Debug, thiserror::Error)]
pub enum ImageNotSaved {
    /// There is no such image.
    #[error("there is no image {0} on this node")]
    Absent(String),
    /// It is no name that an archive can have.
    #[error("{0}")]
    Name(String),
    /// The disk said no, or nobody took it.
    #[error("{0}")]
    Other(String),
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
            containers: image.users,
            used_at: image.used,
        });
        all.collect()
    }

    /// Pulls an image with the node's own logins, whether there is one of that name or not, and gives its name.
    ///
    /// # Errors
    /// It cannot be had.
    pub async fn pull_image(&self, reference: &str) -> Result<String, RuntimeError> {
        let unfit = |error: images::ReferenceError| {
            fault::words("pull the image".to_owned(), Reason::ImagePullFailed, &error.to_string())
        };
        let reference: Reference = reference.parse().map_err(unfit)?;
        let wish = Wish { policy: PullPolicy::Always, ..Wish::default() };
        let image = self.images().ensure_as(&reference, &wish).await.map_err(fault::pull)?;
        Ok(image.reference.to_string())
    }

    /// Removes an image that nothing stands on.
    ///
    /// # Errors
    /// Something does, or there is none, or the disk said no.
    pub async fn remove_image(&self, reference: &str) -> Result<Cleaned, ImageNotRemoved> {
        let other = |error: &dyn std::error::Error| ImageNotRemoved::Other(error.to_string());
        let reference: Reference =
            reference.parse().map_err(|error: images::ReferenceError| other(&error))?;
        match self.images().remove(&reference).await {
            Ok(freed_bytes) => Ok(Cleaned { removed: vec![reference], freed_bytes }),
            Err(RemoveError::NotFound { reference }) => Err(ImageNotRemoved::Absent(reference.to_string())),
            Err(RemoveError::InUse { reference, .. }) => {
                let users = self.users_of_image(&reference);
                Err(ImageNotRemoved::InUse { reference: reference.to_string(), users })
            }
            Err(error) => Err(other(&error)),
        }
    }

    /// Ids of instances whose manifest names an image.
    fn users_of_image(&self, reference: &Reference) -> Vec<String> {
        let uids = self.shared.places.uids().unwrap_or_default();
        let names = |record: &Record| {
            let mut containers = record.spec.spec.all_containers();
            containers.any(|own| own.image.parse().is_ok_and(|named: Reference| named == *reference))
        };
        let users = uids.iter().filter_map(|uid| match self.place(uid).ok()?.read() {
            Found::Record(record) if record.stage < Stage::Released && names(&record) => Some(record.spec.id),
            _ => None,
        });
        let mut users: Vec<String> = users.collect();
        if users.is_empty() {
            // Its name meant another image when they began.
            users.push("instances that began when the name meant it".to_owned());
        }
        users
    }

    /// Removes every image that nothing stands on.
    ///
    /// # Errors
    /// The disk said no.
    pub async fn prune_images(&self) -> Result<Cleaned, StoreError> {
        self.images().prune().await
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

    /// Writes an image of this node to an archive.
    ///
    /// # Errors
    /// There is none of that name, or it cannot be read, or `out` takes no more.
    pub async fn save_image(
        &self,
        reference: &str,
        out: impl Write + Send + 'static,
    ) -> Result<(), ImageNotSaved> {
        let unfit = |error: images::ReferenceError| ImageNotSaved::Name(error.to_string());
        let reference: Reference = reference.parse().map_err(unfit)?;
        self.images().save(&reference, out).await.map_err(|error| match error {
            SaveError::NotFound { reference } => ImageNotSaved::Absent(reference.to_string()),
            SaveError::ByDigest { .. } => ImageNotSaved::Name(error.to_string()),
            _ => ImageNotSaved::Other(crate::sentence(&error)),
        })
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

    /// The log of the present run of a container, and whether there will be more of it, or of a next run.
    pub async fn growing_log(&self, uid: &str, container: &str) -> GrowingLog {
        // What cannot be looked at now may be running.
        let Ok((record, observed)) = self.observe(uid).await else {
            return GrowingLog { path: self.log_path(uid, container, 0), goes_on: true };
        };
        let found = record.and_then(|record| {
            let index = record.spec.spec.all_containers().position(|own| own.name == container)?;
            Some((record, index))
        });
        let goes_on = match (observed, &found) {
            (Observed::Running(facts), Some((record, index))) => {
                !has_come_to_its_end(&record.spec.spec, &facts.containers, *index)
            }
            // What is being set up will run.
            (Observed::Partial | Observed::Prepared, _) => true,
            (Observed::Running(_) | Observed::Absent | Observed::Ended(_) | Observed::Released(_), _) => {
                false
            }
        };
        let path = found.and_then(|(record, index)| {
            let run = record.runs.get(index).and_then(Runs::present).unwrap_or(0);
            Some(self.place(uid).ok()?.log(index, run))
        });
        GrowingLog { path, goes_on }
    }
}
