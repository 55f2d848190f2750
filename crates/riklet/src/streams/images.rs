//! Images by stream: what is here, and taking in an archive.

use std::io::{self, Read};

use model::api::ImageView;
use proto::relay::{Frame, RelayFailure};
use runtime::pod::PodRuntime;
use tokio::sync::mpsc;

use super::{Stream, failure};

/// Pieces of an archive that wait to be read.
const HELD_PIECES: usize = 8;

/// Sends the images on this node as a JSON array.
pub(super) async fn list(pods: &PodRuntime, node: &str, stream: &Stream) -> Result<(), RelayFailure> {
    let views = pods.image_list().into_iter().map(|image| ImageView {
        node: node.to_owned(),
        reference: image.reference,
        digest: image.digest,
        size: image.size,
        pulled_at: image.pulled_at,
    });
    let text = serde_json::to_vec(&views.collect::<Vec<_>>())
        .map_err(|error| failure("internal", error.to_string()))?;
    // If the user has gone there is nobody to tell.
    let _ = stream.data(&text).await;
    Ok(())
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
    let text = serde_json::to_vec(&references).map_err(|error| failure("internal", error.to_string()))?;
    let _ = stream.data(&text).await;
    Ok(())
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
