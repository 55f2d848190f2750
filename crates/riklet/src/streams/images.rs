//! Images by stream: what is here, bringing one here, taking one away.

use std::io::{self, BufWriter, Read, Write};

use model::api::{ImageView, ImagesRemoved};
use proto::relay::{Frame, MAX_DATA_BYTES, RelayFailure};
use runtime::pod::{ImageNotRemoved, ImageNotSaved, ImageOnNode, PodRuntime};
use tokio::sync::mpsc;

use super::{Stream, failure, say};

/// Pieces of an archive that wait to be read.
const HELD_PIECES: usize = 8;

/// Sends the images on this node as a JSON array.
pub(super) async fn list(pods: &PodRuntime, node: &str, stream: &Stream) -> Result<(), RelayFailure> {
    let views: Vec<ImageView> = pods.image_list().into_iter().map(|image| view(node, image)).collect();
    say(&views, stream).await
}

fn view(node: &str, image: ImageOnNode) -> ImageView {
    ImageView {
        node: node.to_owned(),
        reference: image.reference,
        digest: image.digest,
        size: image.size,
        pulled_at: image.pulled_at,
        containers: u32::try_from(image.containers).unwrap_or(u32::MAX),
        used_at: Some(image.used_at),
    }
}

/// Removes an image, or all that nothing uses, and says which.
pub(super) async fn remove(
    pods: &PodRuntime,
    reference: Option<&str>,
    stream: &Stream,
) -> Result<(), RelayFailure> {
    let cleaned = match reference {
        Some(reference) => pods.remove_image(reference).await.map_err(|error| {
            let code = match &error {
                ImageNotRemoved::Absent(_) => "image-not-found",
                ImageNotRemoved::InUse { .. } => "image-in-use",
                ImageNotRemoved::Other(_) => "request-invalid",
            };
            failure(code, error.to_string())
        })?,
        None => pods.prune_images().await.map_err(|error| failure("node-failed", error.to_string()))?,
    };
    let removed = cleaned.removed.iter().map(ToString::to_string).collect();
    say(&ImagesRemoved { removed, freed_bytes: cleaned.freed_bytes }, stream).await
}

/// Pulls an image, and tells of it.
pub(super) async fn pull(
    pods: &PodRuntime,
    node: &str,
    reference: &str,
    stream: &Stream,
) -> Result<(), RelayFailure> {
    let pulled = pods.pull_image(reference).await;
    let name = pulled.map_err(|error| failure("image-not-pulled", error.sentence()))?;
    let found = pods.image_list().into_iter().find(|image| image.reference == name);
    let image = found.ok_or_else(|| failure("image-not-found", "it was removed at once"))?;
    say(&view(node, image), stream).await
}

/// Sends an image as the bytes of an archive, as fast as the user takes them.
pub(super) async fn save(pods: &PodRuntime, reference: &str, stream: &Stream) -> Result<(), RelayFailure> {
    let (pieces, mut leaving) = mpsc::channel(HELD_PIECES);
    let out = BufWriter::with_capacity(MAX_DATA_BYTES, Leaving { pieces });
    let saving = pods.save_image(reference, out);
    let sending = async move {
        while let Some(piece) = leaving.recv().await {
            if stream.data(&piece).await.is_err() {
                // With `leaving` the packer loses who listens, and stops.
                return;
            }
        }
    };
    let (saved, ()) = tokio::join!(saving, sending);
    saved.map_err(|error| {
        let code = match &error {
            ImageNotSaved::Absent(_) => "image-not-found",
            ImageNotSaved::Name(_) => "request-invalid",
            ImageNotSaved::Other(_) => "node-failed",
        };
        failure(code, error.to_string())
    })
}

/// An archive on its way out, as the packer writes it, on a thread that may block.
struct Leaving {
    pieces: mpsc::Sender<Vec<u8>>,
}

impl Write for Leaving {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self.pieces.blocking_send(bytes.to_vec()) {
            Ok(()) => Ok(bytes.len()),
            Err(_gone) => Err(io::ErrorKind::BrokenPipe.into()),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Takes in an archive, and sends the references that were loaded as a JSON array.
pub(super) async fn load(pods: &PodRuntime, stream: &mut Stream) -> Result<(), RelayFailure> {
    let (pieces, arriving) = mpsc::channel(HELD_PIECES);
    let receive = &mut stream.receive;
    let feed = async move {
        loop {
            let piece = match receive.message().await {
                Ok(Some(frame)) => match Frame::try_from(frame) {
                    Ok(Frame::Data(data)) => Ok(data),
                    Ok(Frame::End) => return,
                    Ok(_) | Err(_) => Err(io::Error::other("the stream carried something else than data")),
                },
                Ok(None) | Err(_) => {
                    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "the archive broke off"))
                }
            };
            let broken = piece.is_err();
            if pieces.send(piece).await.is_err() || broken {
                return;
            }
        }
    };
    let loading = pods.load_image(Pieces { arriving, piece: Vec::new(), at: 0 });
    // Feeding ends when the archive does, or when the loader has had enough of it.
    let (loaded, ()) = tokio::join!(loading, feed);
    let references = loaded.map_err(|error| failure("image-not-loaded", error.sentence()))?;
    say(&references, stream).await
}

/// The archive as the loader reads it, on a thread that may block.
struct Pieces {
    arriving: mpsc::Receiver<io::Result<Vec<u8>>>,
    piece: Vec<u8>,
    at: usize,
}

impl Read for Pieces {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        while self.at == self.piece.len() {
            match self.arriving.blocking_recv() {
                Some(piece) => (self.piece, self.at) = (piece?, 0),
                None => return Ok(0),
            }
        }
        let count = into.len().min(self.piece.len() - self.at);
        into[..count].copy_from_slice(&self.piece[self.at..self.at + count]);
        self.at += count;
        Ok(count)
    }
}
