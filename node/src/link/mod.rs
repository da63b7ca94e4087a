//! The way to the peers over the network: two long-lived streams to each, mutually authenticated and encrypted.
//!
//! [`outbound`] dials and calls, [`inbound`] answers. A call is an item with a number; many items share one frame.

pub mod inbound;
pub mod outbound;

use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::genesis::Genesis;
use symbolon_protocol::id::{BootId, ClusterId, NodeId};
use symbolon_protocol::state::records::STATE_VERSION;
use symbolon_protocol::wire::{decode, encode};
use symbolon_rpc::v1::PeerHello;
use symbolon_rpc::{PROTOCOL_VERSION_NEWEST, PROTOCOL_VERSION_OLDEST, negotiate};

/// Calls that may wait for an answer on one stream.
pub const CALLS_OPEN: usize = 4096;
/// Items in one frame.
pub const ITEMS_PER_FRAME: usize = 128;
/// One frame, bytes: an item of full size and its framing.
pub const FRAME_BYTES: usize = symbolon_protocol::limits::PEER_ITEM_BYTES + 64 * 1024;

/// What this node says of itself when a stream opens.
#[must_use]
pub fn hello(cluster: &ClusterId, boot: BootId) -> PeerHello {
    PeerHello {
        oldest: PROTOCOL_VERSION_OLDEST,
        newest: PROTOCOL_VERSION_NEWEST,
        cluster_id: cluster.as_bytes().to_vec().into(),
        boot: encode(&boot).into(),
        state_version: STATE_VERSION,
        release: env!("CARGO_PKG_VERSION").to_owned(),
    }
}

/// Checks what a peer says of itself. Gives its boot id.
///
/// # Errors
/// [`Refusal`] when it is of another cluster or speaks no common version.
pub fn check_hello(cluster: &ClusterId, theirs: &PeerHello) -> Result<BootId, Refusal> {
    if theirs.cluster_id.as_ref() != cluster.as_bytes() {
        return Err(Refusal::new(ErrorCode::WrongCluster, "the peer is of another cluster"));
    }
    if negotiate(theirs.oldest, theirs.newest).is_none() {
        let message = format!(
            "the peer speaks protocol versions {} to {}, this node {PROTOCOL_VERSION_OLDEST} to {PROTOCOL_VERSION_NEWEST}",
            theirs.oldest, theirs.newest
        );
        return Err(Refusal::new(ErrorCode::VersionUnknown, message));
    }
    Ok(decode(&theirs.boot)?)
}

/// The member with an identity.
#[must_use]
pub fn member_with(genesis: &Genesis, key: &symbolon_protocol::identity::PublicKey) -> Option<NodeId> {
    genesis.members.iter().find(|(_, member)| member.key == *key).map(|(id, _)| *id)
}
