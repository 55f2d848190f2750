//! A connection to a port of an instance, by stream.

use model::session::{INPUT, OUTPUT, message};
use proto::relay::{Frame, MAX_DATA_BYTES, RelayFailure};
use runtime::pod::PodRuntime;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::OwnedWriteHalf,
};
use tonic::Streaming;

use super::{Stream, failure};

/// Carries between the user and the port until both have ended, or one breaks off.
pub(super) async fn serve(
    pods: &PodRuntime,
    stream: &mut Stream,
    uid: &str,
    port: u16,
) -> Result<(), RelayFailure> {
    let connection = pods.connect(uid, port).await.map_err(|why| failure("port-unreachable", why))?;
    let (mut read, write) = connection.into_split();
    let (send, receive) = (stream.send.clone(), &mut stream.receive);
    let out = async {
        let mut buffer = vec![0_u8; MAX_DATA_BYTES - 1];
        while let Ok(count) = read.read(&mut buffer).await
            && count > 0
        {
            let piece = message(OUTPUT, buffer.get(..count).unwrap_or_default());
            if send.send(Frame::Data(piece)).await.is_err() {
                return;
            }
        }
    };
    tokio::select! {
        // Whoever answers has the last word; a user who has said all may still be listening.
        () = out => {}
        () = give(receive, write) => {}
        () = stream.send.closed() => {}
    }
    Ok(())
}

/// Gives the port what the user sends. Comes back when the user has gone.
async fn give(receive: &mut Streaming<proto::wire::Frame>, write: OwnedWriteHalf) {
    let mut write = Some(write);
    loop {
        let Ok(Some(frame)) = receive.message().await else { return };
        match Frame::try_from(frame) {
            Ok(Frame::Data(data)) => {
                if let (Some((&INPUT, bytes)), Some(open)) = (data.split_first(), &mut write)
                    && (bytes.is_empty() || open.write_all(bytes).await.is_err())
                {
                    // An empty message is the end of what the user has to say.
                    write = None;
                }
            }
            Ok(_) | Err(_) => return,
        }
    }
}
