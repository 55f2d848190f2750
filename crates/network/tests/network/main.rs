//! The network as pods, neighbours and other programs see it. Needs root; everything happens in namespaces that the
//! tests make themselves.

#![expect(
    clippy::unwrap_used,
    reason = "a test that cannot go on has failed; clippy knows tests only by #[test]"
)]

mod isolation;
mod lifecycle;
mod reachability;
mod refusal;
mod restoration;
mod sandbox;
mod server;
