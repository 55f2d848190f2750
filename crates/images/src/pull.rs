//! Gets an image that is not here: documents, then layers, then the list.
//!
//! ```text
//! ensure ── one flight an image ── documents ─┬─ one flight a layer ── network → channel → thread that unpacks
//!                                             ├─ …
//!                                             └─ all there → list
//! ```
//! Whoever asks for the same image, or for another one with the same layer, joins the flight that is under way. A
//! flight ends when nobody waits for it any more. Nothing is visible before everything is verified.

use std::io::{self, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use model::manifest::image::PullPolicy;
use tokio::sync::{mpsc, watch};

use crate::document::{Config, Document, DocumentError, Manifest, select};
use crate::flight::Flights;
use crate::image::{Image, Progress, PullError, StoreError};
use crate::limits::{CHUNKS_QUEUED, DOCUMENTS_MAX, LAYERS_AT_ONCE, MANIFEST_BYTES_MAX, UNPACKED_BYTES_MAX};
use crate::registry::{Fetched, Outlet, Repository, Wanted};
use crate::store::{Arrival, ImageStore, Inner};
use crate::unpack::{Promise, unpack};
use crate::{Digest, Logins, Reference, RegistryError, UnpackError};

pub(crate) type ImageFlights = Flights<String, watch::Receiver<Progress>, Result<Arc<Image>, PullError>>;
/// Layers by diffID; the news are the compressed bytes seen so far.
pub(crate) type LayerFlights = Flights<Digest, Arc<AtomicU64>, Result<u64, LayerFault>>;

/// How often progress is published: a person sees no more.
const PROGRESS_INTERVAL: Duration = Duration::from_millis(200);

/// Why one layer did not arrive, whichever images wait for it.
#[derive(Debug, Clone)]
pub(crate) enum LayerFault {
    Registry(RegistryError),
    Unpack(UnpackError),
    Store(StoreError),
}

/// A layer of the image that is pulled.
#[derive(Debug, Clone)]
struct Layer {
    wanted: Wanted,
    diff_id: Digest,
}

/// How an image is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wish {
    /// When a registry is asked.
    pub policy: PullPolicy,
    /// Logins for it, before those of the node.
    pub logins: Logins,
}

impl Wish {
    /// What pulls that may be shared have in common: the same name, asked in the same way by the same people.
    fn key(&self, reference: &Reference) -> String {
        let logins = if self.logins.is_empty() {
            String::new()
        } else {
            let held = self.logins.headers();
            Digest::of(held.as_bytes()).to_string()
        };
        format!("{reference} {:?} {logins}", self.policy)
    }
}

impl ImageStore {
    /// The image of that name; pulled if it is not here. A name that is here is used without asking any registry.
    ///
    /// # Errors
    /// As [`Self::ensure_as`].
    pub async fn ensure(&self, reference: &Reference) -> Result<Arc<Image>, PullError> {
        self.ensure_as(reference, &Wish::default()).await
    }

    /// The image of that name, as it is wanted.
    ///
    /// Dropping the future ends this wait only; the pull goes on for others, and ends with the last.
    ///
    /// # Errors
    /// The registry cannot be reached or has no such image, or what it gives is faulty or too large.
    pub async fn ensure_as(&self, reference: &Reference, wish: &Wish) -> Result<Arc<Image>, PullError> {
        match (self.inner.get(reference), wish.policy) {
            (Some(image), PullPolicy::IfNotPresent | PullPolicy::Never) => return Ok(image),
            (None, PullPolicy::Never) => return Err(PullError::NotHere { reference: reference.clone() }),
            (_, PullPolicy::Always) | (None, PullPolicy::IfNotPresent) => {}
        }
        let (publish, progress) = watch::channel(Progress::default());
        let (inner, name, own) = (Arc::clone(&self.inner), reference.clone(), wish.clone());
        let work = || pull(inner, name, own, publish);
        let seat = self.inner.image_flights.join(wish.key(reference), progress, work);
        let broken_off = || Err(PullError::BrokenOff { reference: reference.clone() });
        seat.flight.outcome().await.unwrap_or_else(broken_off)
    }

    /// How far the pull of an image has come, while one is under way.
    pub fn progress(&self, reference: &Reference, wish: &Wish) -> Option<watch::Receiver<Progress>> {
        self.inner.image_flights.look(&wish.key(reference), Clone::clone)
    }
}

async fn pull(
    store: Arc<Inner>,
    reference: Reference,
    wish: Wish,
    publish: watch::Sender<Progress>,
) -> Result<Arc<Image>, PullError> {
    let deadline = store.config.pull_deadline();
    match tokio::time::timeout(deadline, pull_from_any(&store, &reference, wish, &publish)).await {
        Ok(done) => done,
        Err(_) => Err(PullError::Deadline { reference, seconds: deadline.as_secs() }),
    }
}

async fn pull_from_any(
    store: &Arc<Inner>,
    reference: &Reference,
    wish: Wish,
    publish: &watch::Sender<Progress>,
) -> Result<Arc<Image>, PullError> {
    // It may have arrived between the caller's look and this flight.
    if let Some(image) = store.get(reference)
        && wish.policy != PullPolicy::Always
    {
        return Ok(image);
    }
    let logins = match &store.config.logins {
        None => wish.logins,
        Some(file) => {
            let file = file.clone();
            let of_node = tokio::task::spawn_blocking(move || Logins::read(&file)).await;
            let broken_off = |_| PullError::BrokenOff { reference: reference.clone() };
            let of_node = of_node.map_err(broken_off)?;
            let fault = |fault| PullError::Logins { reference: reference.clone(), fault };
            wish.logins.then(of_node.map_err(fault)?)
        }
    };
    let mut attempts = Vec::new();
    for endpoint in store.config.endpoints(reference) {
        let host = endpoint.name.clone();
        let path = reference.repository().to_owned();
        let login = logins.find(&host, &path).cloned();
        match pull_from(store, reference, Repository { endpoint, path, login }, publish).await {
            Ok(image) => {
                tracing::info!(image = %reference, image.digest = %image.digest, registry = %host, "image pulled");
                return Ok(image);
            }
            Err(fault) => attempts.push((host, Arc::new(fault))),
        }
    }
    match attempts.as_slice() {
        [(_, only)] => Err(PullError::clone(only)),
        _ => Err(PullError::Mirrors { reference: reference.clone(), attempts }),
    }
}

async fn pull_from(
    store: &Arc<Inner>,
    reference: &Reference,
    repository: Repository,
    publish: &watch::Sender<Progress>,
) -> Result<Arc<Image>, PullError> {
    let faulty = |fault| PullError::Document { reference: reference.clone(), fault };
    let (digest, fetched, manifest) = fetch_manifest(store, reference, &repository).await?;
    // The name means what it meant: nothing is to be fetched.
    if let Some(image) = store.get(reference).filter(|image| image.digest == digest) {
        return Ok(image);
    }
    let config = Wanted {
        digest: manifest.config.digest,
        size: manifest.config.size,
        what: format!("configuration of {reference}"),
    };
    let config_bytes = store.registry.blob(&repository, &config).await.map_err(PullError::Registry)?;
    let config = Config::parse(&config_bytes).map_err(faulty)?;
    config.check_layers(manifest.layers.len()).map_err(faulty)?;
    let layers: Vec<Layer> = manifest
        .layers
        .iter()
        .zip(&config.diff_ids)
        .map(|(layer, diff_id)| Layer {
            wanted: Wanted {
                digest: layer.digest,
                size: layer.size,
                what: format!("layer {}", layer.digest),
            },
            diff_id: *diff_id,
        })
        .collect();
    let pins = store.pin(&config.diff_ids);
    fetch_layers(store, reference, &repository, &layers, publish).await?;
    let arrival = Arrival {
        reference: reference.clone(),
        digest,
        manifest: fetched.bytes.to_vec(),
        config_bytes: config_bytes.to_vec(),
        config,
    };
    let store = Arc::clone(store);
    let committed = tokio::task::spawn_blocking(move || {
        let done = store.commit(arrival);
        drop(pins);
        done
    });
    let committed = committed.await.map_err(|_| PullError::BrokenOff { reference: reference.clone() })?;
    committed.map_err(|source| PullError::Store { reference: reference.clone(), source })
}

/// Follows the name to the manifest for this platform. Gives the digest behind the name as well.
async fn fetch_manifest(
    store: &Arc<Inner>,
    reference: &Reference,
    repository: &Repository,
) -> Result<(Digest, Fetched, Manifest), PullError> {
    let faulty = |fault| PullError::Document { reference: reference.clone(), fault };
    let what = format!("manifest for {reference}");
    let fetch = |selector: String, expected| {
        let what = &what;
        async move { store.registry.document(repository, &selector, expected, what).await }
    };
    let mut fetched = fetch(reference.selector(), reference.digest()).await.map_err(PullError::Registry)?;
    let digest = fetched.digest;
    let mut claim = String::new();
    for _ in 0..DOCUMENTS_MAX {
        let claims = [claim.as_str(), fetched.content_type.as_deref().unwrap_or_default()];
        let entries = match Document::parse(&fetched.bytes, &claims).map_err(faulty)? {
            Document::Manifest(manifest) => return Ok((digest, fetched, manifest)),
            Document::Index(entries) => entries,
        };
        let entry = select(&entries).map_err(faulty)?;
        crate::document::check_size("manifest", entry.size, MANIFEST_BYTES_MAX).map_err(faulty)?;
        fetched = fetch(entry.digest.to_string(), Some(entry.digest)).await.map_err(PullError::Registry)?;
        let found = fetched.bytes.len() as u64;
        if found != entry.size {
            let registry = repository.endpoint.name.clone();
            let declared = entry.size;
            return Err(PullError::Registry(RegistryError::Size { registry, what, declared, found }));
        }
        claim.clone_from(&entry.media_type);
    }
    Err(faulty(DocumentError::TooDeep(DOCUMENTS_MAX)))
}

async fn fetch_layers(
    store: &Arc<Inner>,
    reference: &Reference,
    repository: &Repository,
    layers: &[Layer],
    publish: &watch::Sender<Progress>,
) -> Result<(), PullError> {
    let board = Board::of(layers);
    let board_ref = &board;
    let fetches: Vec<_> = layers
        .iter()
        .enumerate()
        .map(|(at, layer)| async move {
            let bytes = fetch_layer(store, repository, layer, board_ref, at).await;
            bytes.map_err(|fault| fault.of_image(reference, layer))
        })
        .collect();
    let mut arrivals = futures::stream::iter(fetches).buffer_unordered(LAYERS_AT_ONCE);
    let mut beat = tokio::time::interval(PROGRESS_INTERVAL);
    let mut unpacked: u64 = 0;
    loop {
        // Both arms can be dropped at any await: a stream keeps its place, and a beat is only a look.
        tokio::select! {
            arrival = arrivals.next() => match arrival {
                Some(bytes) => unpacked = unpacked.saturating_add(bytes?),
                None => break,
            },
            _ = beat.tick() => {}
        }
        publish.send_replace(board.progress());
        if unpacked > UNPACKED_BYTES_MAX {
            let fault = DocumentError::ImageTooLarge(unpacked);
            return Err(PullError::Document { reference: reference.clone(), fault });
        }
    }
    Ok(())
}

/// Joins the flight for a layer or starts it. The fault of a flight that another image started is not believed: its
/// registry may have been at fault, so this image's own is asked then.
async fn fetch_layer(
    store: &Arc<Inner>,
    repository: &Repository,
    layer: &Layer,
    board: &Board,
    at: usize,
) -> Result<u64, LayerFault> {
    loop {
        if let Some(bytes) = store.layer_bytes(layer.diff_id) {
            board.done(at);
            return Ok(bytes);
        }
        let seen = Arc::new(AtomicU64::new(0));
        let work = || fly(Arc::clone(store), repository.clone(), layer.clone(), Arc::clone(&seen));
        let seat = store.layer_flights.join(layer.diff_id, Arc::clone(&seen), work);
        board.follow(at, &seat.flight.news);
        match seat.flight.outcome().await {
            Some(Ok(bytes)) => {
                board.done(at);
                return Ok(bytes);
            }
            Some(Err(fault)) if seat.first => return Err(fault),
            None if seat.first => return Err(LayerFault::Store(StoreError::BrokenOff)),
            Some(Err(_)) | None => {}
        }
    }
}

/// Brings one layer: the network feeds a channel, a thread unpacks from it.
async fn fly(
    store: Arc<Inner>,
    repository: Repository,
    layer: Layer,
    seen: Arc<AtomicU64>,
) -> Result<u64, LayerFault> {
    let _slot = store.layer_slots.acquire().await.map_err(|_| LayerFault::Store(StoreError::BrokenOff))?;
    let (feed, chunks) = mpsc::channel(CHUNKS_QUEUED);
    let carried = Some((layer.wanted.digest, layer.wanted.size));
    let unpacking = {
        let store = Arc::clone(&store);
        tokio::task::spawn_blocking(move || {
            unpack_layer(&store, ChunkReader::new(chunks), carried, layer.diff_id)
        })
    };
    let mut outlet = Outlet::new(feed, seen);
    let streamed = store.registry.stream(&repository, &layer.wanted, &mut outlet).await;
    if streamed.is_err() {
        outlet.break_off().await;
    }
    drop(outlet);
    let unpacked = unpacking.await.unwrap_or(Err(LayerFault::Store(StoreError::BrokenOff)));
    streamed.map_err(LayerFault::Registry)?;
    unpacked
}

/// Unpacks and verifies a layer and moves it into place. Blocks.
pub(crate) fn unpack_layer(
    store: &Inner,
    source: impl Read,
    carried: Option<(Digest, u64)>,
    diff_id: Digest,
) -> Result<u64, LayerFault> {
    let promise = Promise { carried, diff_id: Some(diff_id) };
    let temporary = || StoreError::io("use", store.root.join("tmp"));
    let stage = store.stage().map_err(temporary()).map_err(LayerFault::Store)?;
    let unpacked = unpack(source, promise, &stage.tree(), &stage.join("bin")).map_err(LayerFault::Unpack)?;
    store.adopt_layer(&stage, diff_id, unpacked).map_err(LayerFault::Store)?;
    Ok(unpacked.bytes)
}

impl LayerFault {
    fn of_image(self, reference: &Reference, layer: &Layer) -> PullError {
        let reference = reference.clone();
        match self {
            Self::Registry(fault) => PullError::Registry(fault),
            Self::Unpack(source) => PullError::Layer { reference, digest: layer.wanted.digest, source },
            Self::Store(source) => PullError::Store { reference, source },
        }
    }
}

/// Reads what the network sends; ends when the sender goes.
struct ChunkReader {
    chunks: mpsc::Receiver<io::Result<Bytes>>,
    current: Bytes,
}

impl ChunkReader {
    fn new(chunks: mpsc::Receiver<io::Result<Bytes>>) -> Self {
        Self { chunks, current: Bytes::new() }
    }
}

impl Read for ChunkReader {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.chunks.blocking_recv() {
                Some(chunk) => self.current = chunk?,
                None => return Ok(0),
            }
        }
        let count = self.current.len().min(into.len());
        into[..count].copy_from_slice(&self.current.split_to(count));
        Ok(count)
    }
}

/// Where the layers of one pull stand.
struct Board {
    layers: Mutex<Vec<Standing>>,
}

struct Standing {
    size: u64,
    done: bool,
    seen: Option<Arc<AtomicU64>>,
}

impl Board {
    fn of(layers: &[Layer]) -> Self {
        let standing = |layer: &Layer| Standing { size: layer.wanted.size, done: false, seen: None };
        Self { layers: Mutex::new(layers.iter().map(standing).collect()) }
    }

    fn change(&self, at: usize, change: impl FnOnce(&mut Standing)) {
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(standing) = layers.get_mut(at) {
            change(standing);
        }
    }

    fn done(&self, at: usize) {
        self.change(at, |standing| standing.done = true);
    }

    fn follow(&self, at: usize, seen: &Arc<AtomicU64>) {
        self.change(at, |standing| standing.seen = Some(Arc::clone(seen)));
    }

    fn progress(&self) -> Progress {
        let layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let bytes_done = |standing: &Standing| match &standing.seen {
            _ if standing.done => standing.size,
            Some(seen) => seen.load(Ordering::Relaxed).min(standing.size),
            None => 0,
        };
        Progress {
            layers_total: layers.len(),
            layers_done: layers.iter().filter(|standing| standing.done).count(),
            bytes_total: layers.iter().map(|standing| standing.size).sum(),
            bytes_done: layers.iter().map(bytes_done).sum(),
        }
    }
}
