//! Fetches the images of an instance, as its manifest wants them, and tells how far that is.

use std::{
    sync::Arc,
    task::Poll,
    time::{Duration, Instant},
};

use images::{Image, Logins, Reference, Wish};
use model::{ContainerSpec, Reason, WorkloadSpec, given::Given, lifecycle::Facts};

use super::{PodRuntime, fault};
use crate::{Progress, RuntimeError};

/// How often word of a pull is given: each is an event of the instance.
const NEWS_PERIOD: Duration = Duration::from_secs(5);

impl PodRuntime {
    /// A container's image, and word of how far it is while it is being fetched.
    pub(super) async fn fetch(
        &self,
        container: &ContainerSpec,
        spec: &WorkloadSpec,
        given: &Given,
        progress: Progress<'_>,
    ) -> Result<Arc<Image>, RuntimeError> {
        let store = &self.shared.images;
        let unfit = |why: &str| fault::words("fetch an image".to_owned(), Reason::ImagePullFailed, why);
        let reference: Reference =
            container.image.parse().map_err(|error: images::ReferenceError| unfit(&error.to_string()))?;
        let wish = Wish { policy: container.image_pull_policy, logins: logins(spec, given)? };
        let say = |message: String| {
            progress(Facts {
                reason: Some(Reason::ImagePulling),
                message: Some(message),
                ..Facts::default()
            });
        };
        let began = Instant::now();
        let mut fetching = std::pin::pin!(store.ensure_as(&reference, &wish));
        // The first poll begins the fetching, if there is anything to fetch; there is no news of it before.
        if let Poll::Ready(done) = futures::poll!(&mut fetching) {
            return done.map_err(fault::pull);
        }
        say(format!("fetching image {reference}"));
        let Some(news) = store.progress(&reference, &wish) else {
            return fetching.await.map_err(fault::pull);
        };
        let mut beat = tokio::time::interval_at(tokio::time::Instant::now() + NEWS_PERIOD, NEWS_PERIOD);
        loop {
            tokio::select! {
                biased;
                done = &mut fetching => {
                    let image = done.map_err(fault::pull)?;
                    let seen = *news.borrow();
                    if seen.bytes_total > 0 {
                        say(format!("fetched image {reference}: {}", told(&seen, began.elapsed())));
                    }
                    return Ok(image);
                }
                _ = beat.tick() => {
                    let seen = *news.borrow();
                    if seen.layers_total > 0 {
                        say(format!("fetching image {reference}: {}", told(&seen, began.elapsed())));
                    }
                }
            }
        }
    }
}

/// The logins that an instance brings.
fn logins(spec: &WorkloadSpec, given: &Given) -> Result<Logins, RuntimeError> {
    let unfit = |why: &str, reason| fault::words("read imagePullSecrets".to_owned(), reason, why);
    let documents = given.logins(spec).map_err(|why| unfit(&why, Reason::ObjectMissing))?;
    documents.into_iter().try_fold(Logins::default(), |all, (name, document)| {
        let place = format!("secret {name:?}");
        let own = Logins::parse(document, &place);
        own.map(|own| all.then(own)).map_err(|error| unfit(&error.to_string(), Reason::ImagePullFailed))
    })
}

fn told(seen: &images::Progress, elapsed: Duration) -> String {
    let (done, total) = (seen.bytes_done, seen.bytes_total);
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let rate = (done as f64 / elapsed.as_secs_f64().max(0.001)) as u64;
    format!(
        "{} of {} layers, {} of {}, {}/s",
        seen.layers_done,
        seen.layers_total,
        size(done),
        size(total),
        size(rate)
    )
}

/// Bytes with one digit after the point, in the largest unit that they fill.
pub(super) fn size(bytes: u64) -> String {
    const UNITS: [(u64, &str); 3] = [(1 << 30, "GiB"), (1 << 20, "MiB"), (1 << 10, "KiB")];
    match UNITS.iter().find(|(unit, _)| bytes >= *unit) {
        Some((unit, name)) => format!("{}.{} {name}", bytes / unit, bytes % unit * 10 / unit),
        None => format!("{bytes} B"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn progress_is_told_in_layers_bytes_and_rate() {
        let mut seen = images::Progress::default();
        (seen.layers_total, seen.layers_done) = (3, 1);
        (seen.bytes_total, seen.bytes_done) = (5 << 20, (2 << 20) + (1 << 19));
        let words = told(&seen, Duration::from_secs(2));
        assert_eq!(words, "1 of 3 layers, 2.5 MiB of 5.0 MiB, 1.2 MiB/s");
        assert_eq!(size(1023), "1023 B");
    }
}
