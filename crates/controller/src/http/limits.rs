//! The bounds of the HTTP side, each with its reason.
//!
//! What a client can make the controller hold is bounded by these: connections × (head + body), requests at work,
//! streams × (held frames + socket buffers).

use std::time::Duration;

/// Largest body that is read whole: the largest manifest that there may be.
pub const MAX_BODY_BYTES: usize = model::manifest::tree::MAX_DOCUMENT_BYTES;
/// Longest path and query. The longest of ours has two names of 63 and a page token.
pub const MAX_URL_BYTES: usize = 8 << 10;
/// Most bytes of one request's head, URL included. Beyond it the connection is answered 431 and closed. It is larger
/// than the longest URL that the HTTP library can hold, so that such a URL is answered 414.
pub const MAX_HEAD_BYTES: usize = 128 << 10;
/// Most bytes of all header fields: four times what browsers with many cookies send.
pub const MAX_HEADER_BYTES: usize = 32 << 10;
/// Most header fields.
pub const MAX_HEADERS: usize = 100;
/// Largest image archive that is passed on to a node: the largest images that are in use have some tens of gigabytes.
pub const MAX_UPLOAD_BYTES: u64 = 64 << 30;
/// Largest answer of a node that is gathered before it is passed on.
pub const MAX_NODE_ANSWER_BYTES: usize = 4 << 20;
/// Stack of the thread that parses a manifest. The parser goes down as deep as the text does, to its bound of 128
/// levels, and without optimisation each level takes up to 40 KiB: more in all than an async thread has.
pub const PARSE_STACK_BYTES: usize = 16 << 20;
/// Page of a list if the request names none.
pub const DEFAULT_PAGE: u32 = 500;
/// Largest page of a list.
pub const MAX_PAGE: u32 = 1_000;

/// The bounds that an operator, or a test, may want otherwise.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Connections in all. At 16 KiB of buffers each, 32 MiB.
    pub connections: usize,
    /// Connections of one client address: more than any browser or client library opens.
    pub connections_per_client: usize,
    /// Requests that are worked on at once; more are turned away with 503 rather than queued.
    pub in_flight: usize,
    /// Watch and log streams in all.
    pub streams: usize,
    /// Watch and log streams of one client address, so that it always has connections left for requests.
    pub streams_per_client: usize,
    /// Image archives that are on their way to nodes at once.
    pub uploads: usize,
    /// Time for the head of a request, and how long a connection may idle before the next one.
    pub head: Duration,
    /// Time for the whole of a body that is read whole.
    pub body: Duration,
    /// How long a client may take nothing of an answer, or send nothing of an upload.
    pub stall: Duration,
    /// How long a node may take to begin its answer.
    pub node_answer: Duration,
    /// How often a stream that has nothing to say shows that it lives.
    pub keep_alive: Duration,
    /// Time that running requests get to finish at shutdown.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 2_000,
            connections_per_client: 100,
            in_flight: 256,
            streams: 500,
            streams_per_client: 64,
            uploads: 4,
            head: Duration::from_secs(10),
            body: Duration::from_secs(20),
            stall: Duration::from_secs(30),
            node_answer: Duration::from_secs(10),
            keep_alive: Duration::from_secs(15),
            drain: Duration::from_secs(5),
        }
    }
}
