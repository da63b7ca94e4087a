//! The usage log: what a holder decided for each request, durable before its share leaves, each record bound to the one before.

use crate::error::ErrorCode;
use crate::id::{Digest, Epoch, KeyId, KeyVersion, NodeId};
use crate::identity::tagged_hash;
use crate::request::SignedRequest;
use crate::wire::encode;

/// One decision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UsageRecord {
    /// Counts from 1, without a gap.
    pub sequence: u64,
    /// The node's clock, milliseconds since 1970.
    pub time_ms: u64,
    /// The request, body and signatures.
    pub request: SignedRequest,
    /// Who coordinated.
    pub coordinator: NodeId,
    /// Whether a share left; else the code of the refusal.
    pub refused: Option<ErrorCode>,
    /// Why not, in words; empty when a share left.
    pub reason: String,
    /// What was used.
    pub used: Option<(KeyId, (KeyVersion, Epoch))>,
    /// Hash of the record before; zeros for the first.
    pub previous: Digest,
}
crate::wire_struct!(UsageRecord { sequence, time_ms, request, coordinator, refused, reason, used, previous });

/// What the first record names as its predecessor.
pub const NO_RECORD: Digest = Digest::from_bytes([0; 32]);

impl UsageRecord {
    /// Its hash.
    #[must_use]
    pub fn digest(&self) -> Digest {
        tagged_hash("symbolon/usage/v1", &encode(self))
    }
}
