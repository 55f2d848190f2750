//! Talking to the kernel about links, addresses and routes.
//!
//! The kernel does the work inside the call that sends the request, and some of it waits (deleting a link for tens
//! of milliseconds). So a conversation runs on a thread that may block, with a small runtime of its own, and never
//! on a thread that serves others.
//!
//! What those libraries do not speak is [`ask`]ed by hand; such answers are there at once.

use std::{io, os::fd::OwnedFd};

use netlink_packet_route::link::LinkMessage;
use rtnetlink::Handle;
use rustix::{
    io::Errno,
    net::{AddressFamily, Protocol, SendFlags, SocketFlags, SocketType, send, socket_with},
};

/// Bytes of a message's head.
pub(crate) const HEAD: usize = 16;

/// Asks the kernel something on a socket of its own, from which the answer can be taken without waiting.
pub(crate) fn ask(protocol: Protocol, kind: u16, flags: u16, body: &[u8]) -> io::Result<OwnedFd> {
    let socket = socket_with(AddressFamily::NETLINK, SocketType::RAW, SocketFlags::CLOEXEC, Some(protocol))?;
    let length = u32::try_from(HEAD + body.len()).map_err(io::Error::other)?;
    // After the flags a number of the question and one of who asks, which the kernel chooses.
    let question =
        [&length.to_ne_bytes()[..], &kind.to_ne_bytes(), &flags.to_ne_bytes(), &[0; 8], body].concat();
    send(&socket, &question, SendFlags::empty())?;
    Ok(socket)
}

/// Why a conversation with the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// No socket, no runtime or no thread could be had.
    #[error("open a netlink socket")]
    Open {
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The kernel refused.
    #[error("{action}")]
    Refused {
        /// What was asked for, as a fragment.
        action: String,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Adds what was being done to what the kernel said.
pub(crate) trait Doing<T> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, NetlinkError>;
}

impl<T> Doing<T> for Result<T, rtnetlink::Error> {
    fn doing(self, action: impl FnOnce() -> String) -> Result<T, NetlinkError> {
        self.map_err(|error| NetlinkError::Refused { action: action(), source: kernel_error(error) })
    }
}

/// What the kernel said, in its own words.
fn kernel_error(error: rtnetlink::Error) -> io::Error {
    match error {
        rtnetlink::Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other),
    }
}

impl NetlinkError {
    /// Whether the kernel said that the thing does not exist.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self.errno(), Some(Errno::NODEV | Errno::NOENT | Errno::SRCH | Errno::ADDRNOTAVAIL))
    }

    /// Whether the kernel said that the thing exists already.
    pub(crate) fn exists(&self) -> bool {
        self.errno() == Some(Errno::EXIST)
    }

    /// A link that was made a moment ago is not there.
    pub(crate) fn vanished(link: &str) -> Self {
        Self::Refused { action: format!("find link {link} after its creation"), source: Errno::NODEV.into() }
    }

    fn errno(&self) -> Option<Errno> {
        match self {
            Self::Refused { source, .. } => Errno::from_io_error(source),
            Self::Open { .. } => None,
        }
    }
}

/// Runs a conversation on the calling thread, which may block, in the network namespace that the thread is in.
pub(crate) fn converse<T, E: From<NetlinkError>>(
    talk: impl AsyncFnOnce(Handle) -> Result<T, E>,
) -> Result<T, E> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()
        .map_err(|source| NetlinkError::Open { source })?;
    runtime.block_on(async { talk(connect()?).await })
}

/// Runs blocking work on a thread for it.
pub(crate) async fn elsewhere<T, E, F>(work: F) -> Result<T, E>
where
    T: Send + 'static,
    E: From<NetlinkError> + Send + 'static,
    F: FnOnce() -> Result<T, E> + Send + 'static,
{
    match tokio::task::spawn_blocking(work).await {
        Ok(outcome) => outcome,
        Err(ended) => Err(NetlinkError::Open { source: io::Error::other(ended) }.into()),
    }
}

/// A connection in the network namespace that the calling thread is in, driven by the calling runtime.
pub(crate) fn connect() -> Result<Handle, NetlinkError> {
    let (connection, handle, _messages) =
        rtnetlink::new_connection().map_err(|source| NetlinkError::Open { source })?;
    tokio::spawn(connection);
    Ok(handle)
}

/// Changes an existing link: whatever the message says, at once.
pub(crate) async fn change(handle: &Handle, message: LinkMessage) -> Result<(), rtnetlink::Error> {
    handle.link().change(message).execute().await
}
