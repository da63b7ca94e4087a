//! Floor 1: what crosses a connection, and the connection itself. No decisions are made here.
//!
//! - [`v1`]: messages and services generated from `proto/symbolon/v1` (what a client asks, what nodes say to each other).
//! - [`tls`]: certificates made from node identities, pinned in both directions; TLS 1.3 only, post-quantum between nodes.
//! - [`serve`]: an accept loop with deadlines and caps for servers, and the channel for clients.
//! - [`convert`]: a [`Refusal`](symbolon_protocol::error::Refusal) as a gRPC status and back.
//!
//! Everything inside a `bytes` field is canonical (`symbolon_protocol::wire`): whoever receives it decodes it there.

/// Generated from `proto/symbolon/v1`.
#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    clippy::pedantic,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "generated code is not ours to tidy"
)]
pub mod v1 {
    tonic::include_proto!("symbolon.v1");
}

pub mod convert;
pub mod serve;
pub mod tls;

/// Oldest protocol version that this release speaks, to clients and to peers.
pub const PROTOCOL_VERSION_OLDEST: u32 = 1;
/// Newest protocol version that this release speaks, to clients and to peers.
pub const PROTOCOL_VERSION_NEWEST: u32 = 1;

/// The newest protocol version that both sides speak; none when the ranges do not meet.
#[must_use]
pub fn negotiate(theirs_oldest: u32, theirs_newest: u32) -> Option<u32> {
    let newest = theirs_newest.min(PROTOCOL_VERSION_NEWEST);
    (newest >= theirs_oldest.max(PROTOCOL_VERSION_OLDEST)).then_some(newest)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_common_version_is_chosen() {
        assert_eq!(negotiate(1, 1), Some(1));
        assert_eq!(negotiate(0, 7), Some(PROTOCOL_VERSION_NEWEST));
        assert_eq!(negotiate(PROTOCOL_VERSION_NEWEST + 1, PROTOCOL_VERSION_NEWEST + 3), None);
        assert_eq!(negotiate(0, 0), None);
        assert_eq!(negotiate(1, 0), None, "a range that is upside down");
    }
}
