//! The way to the peers over the network: two long-lived streams to each, mutually authenticated and encrypted.
//!
//! [`outbound`] dials and calls, [`inbound`] answers. A call is an item with a number; many items share one frame.

pub mod inbound;
pub mod outbound;

use std::collections::BTreeMap;
use std::sync::Arc;

use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::genesis::Member;
use symbolon_protocol::id::{BootId, ClusterId, NodeId};
use symbolon_protocol::identity::PublicKey;
use symbolon_protocol::state::records::STATE_VERSION;
use symbolon_protocol::wire::{decode, encode};
use symbolon_rpc::tls;
use symbolon_rpc::v1::PeerHello;
use symbolon_rpc::{PROTOCOL_VERSION_NEWEST, PROTOCOL_VERSION_OLDEST, negotiate};
use tokio::sync::watch;

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
pub fn member_with(members: &BTreeMap<NodeId, Member>, key: &PublicKey) -> Option<NodeId> {
    members.iter().find(|(_, member)| member.key == *key).map(|(id, _)| *id)
}

/// Who the peers are now. Clones are handles to the same knowledge.
#[derive(Debug, Clone)]
pub struct Peers(watch::Sender<Arc<BTreeMap<NodeId, Member>>>);

impl Peers {
    /// These, to begin with.
    #[must_use]
    pub fn new(peers: BTreeMap<NodeId, Member>) -> Self {
        Self(watch::Sender::new(Arc::new(peers)))
    }
    /// These from now on.
    pub fn set(&self, peers: BTreeMap<NodeId, Member>) {
        self.0.send_replace(Arc::new(peers));
    }
    /// All of them.
    #[must_use]
    pub fn all(&self) -> Arc<BTreeMap<NodeId, Member>> {
        Arc::clone(&self.0.borrow())
    }
    /// The peer with an identity.
    #[must_use]
    pub fn with(&self, key: &PublicKey) -> Option<NodeId> {
        member_with(&self.all(), key)
    }
    /// For TLS: a key is allowed as long as it is that of a peer.
    #[must_use]
    pub fn allowed(&self) -> tls::Allowed {
        let peers = self.clone();
        Arc::new(move |key: &PublicKey| peers.with(key).is_some())
    }
    /// Completes when a node is no peer any more.
    pub async fn left(&self, node: NodeId) {
        // The sender lives as long as this handle, so waiting ends for one reason only.
        let _ = self.0.subscribe().wait_for(|peers| !peers.contains_key(&node)).await;
    }
}
