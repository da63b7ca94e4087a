//! A checkpoint that is coming in: what is taken of what a leader sends, before anything of it reaches Raft or the tables.

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;

use std::collections::BTreeMap;

use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::history::Head;
use symbolon_protocol::id::{ClusterId, NodeId};
use symbolon_protocol::identity::{PublicKey, Signature};
use symbolon_protocol::limits;
use symbolon_protocol::membership::{endorsers, is_majority};
use symbolon_protocol::wire::Bytes;

use super::checkpoint::Checkpoint;
use super::types::RaftVote;

/// Chunks of the largest checkpoint.
const CHUNKS: u64 = limits::SNAPSHOT_BYTES / (limits::SNAPSHOT_CHUNK_BYTES as u64 / 2) + 1;

/// A checkpoint that is coming in.
#[derive(Debug)]
pub(crate) struct Incoming {
    pub(crate) from: NodeId,
    pub(crate) vote: RaftVote,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) head: Head,
    next: u64,
    bytes: u64,
    /// The last key so far: keys ascend.
    last: Option<Vec<u8>>,
    /// When it last went on, milliseconds since 1970.
    pub(crate) touched_ms: u64,
}

fn misbehaved<T>(what: &str) -> Result<T, Refusal> {
    Err(Refusal::new(ErrorCode::PeerMisbehaved, what))
}

impl Incoming {
    /// What a leader offers, if a majority of these voters signed its head.
    ///
    /// # Errors
    /// `too_large`, `peer_misbehaved`.
    pub(crate) fn begin(
        (cluster, voters): (&ClusterId, &BTreeMap<NodeId, PublicKey>),
        (from, vote, checkpoint): (NodeId, RaftVote, Checkpoint),
        head: Head,
        signatures: &[(NodeId, Signature)],
        now_ms: u64,
    ) -> Result<Self, Refusal> {
        if signatures.len() > limits::MEMBERS || checkpoint.chunks > CHUNKS {
            let message = "more signatures than members, or more chunks than a checkpoint has";
            return Err(Refusal::new(ErrorCode::TooLarge, message));
        }
        let mut heads = BTreeMap::new();
        for (node, signature) in signatures {
            if heads.insert(*node, *signature).is_some() {
                return misbehaved("a checkpoint with two signatures of one node");
            }
        }
        let same = checkpoint.last_log_id.index == head.index && checkpoint.head().is_ok_and(|own| own == head);
        if !same || head.state.is_none() {
            return misbehaved("a checkpoint that is not the one of its head");
        }
        if !is_majority(endorsers(cluster, voters, &head, &heads).len(), voters.len()) {
            return misbehaved("a checkpoint without the heads of a majority of the voters of today is not taken");
        }
        Ok(Self { from, vote, checkpoint, head, next: 0, bytes: 0, last: None, touched_ms: now_ms })
    }

    /// Takes the next chunk, or nothing of it.
    ///
    /// # Errors
    /// `too_large`, `peer_misbehaved`.
    pub(crate) fn chunk(
        &mut self,
        from: NodeId,
        (index, number): (u64, u64),
        pairs: &[(Bytes, Bytes)],
        now_ms: u64,
    ) -> Result<(), Refusal> {
        if (self.from, self.head.index, self.next) != (from, index, number) || number >= self.checkpoint.chunks {
            return misbehaved("a chunk that does not come next");
        }
        let (mut bytes, mut last) = (self.bytes, self.last.as_ref());
        for (key, value) in pairs {
            if last.is_some_and(|last| key.0 <= *last) {
                return misbehaved("the keys of a checkpoint do not ascend");
            }
            bytes = bytes.saturating_add((key.0.len() + value.0.len() + 8) as u64);
            last = Some(&key.0);
        }
        if bytes > limits::SNAPSHOT_BYTES {
            return Err(Refusal::new(ErrorCode::TooLarge, "the checkpoint is too large"));
        }
        let last = last.cloned();
        (self.bytes, self.last, self.next, self.touched_ms) = (bytes, last, number.saturating_add(1), now_ms);
        Ok(())
    }

    /// Whether all of it is there.
    pub(crate) fn is_whole(&self, from: NodeId, index: u64, chunks: u64) -> bool {
        (self.from, self.head.index, self.next) == (from, index, chunks) && self.checkpoint.chunks == chunks
    }
}
