//! What a node says of where it is, and the proof against one that says two things.

use crate::id::{BootId, ClusterId, Digest, NodeId};
use crate::identity::{Domain, Identity, PublicKey, Signature};
use crate::wire::encode;

/// Where a node is, in answer to a question. 90 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Position {
    /// The node.
    pub node: NodeId,
    /// Its boot.
    pub boot: BootId,
    /// The nonce of the question.
    pub nonce: [u8; 16],
    /// The index up to which it has applied the log, durably.
    pub applied: u64,
    /// Root of the one history right after that entry.
    pub head: Digest,
    /// Version of the membership right after that entry.
    pub membership: u64,
}
crate::wire_struct!(Position { node, boot, nonce, applied, head, membership });

impl Position {
    /// Signs it. What it says must be durable first.
    #[must_use]
    pub fn sign(self, identity: &Identity, cluster: &ClusterId) -> SignedPosition {
        let signature = identity.sign(Domain::Position, cluster, &encode(&self));
        SignedPosition { position: self, signature }
    }
    /// Whether both cannot be true: the same node, the same index, another history.
    #[must_use]
    pub fn contradicts(&self, other: &Self) -> bool {
        let place = |position: &Self| (position.node, position.applied);
        let history = |position: &Self| (position.head, position.membership);
        place(self) == place(other) && history(self) != history(other)
    }
}

/// A position with the signature of its node. 154 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedPosition {
    /// What is said.
    pub position: Position,
    /// By the node, for [`Domain::Position`].
    pub signature: Signature,
}
crate::wire_struct!(SignedPosition { position, signature });

impl SignedPosition {
    /// Whether a node with this key signed it.
    #[must_use]
    pub fn verifies(&self, key: &PublicKey, cluster: &ClusterId) -> bool {
        key.verifies(Domain::Position, cluster, &encode(&self.position), &self.signature)
    }
}

/// A question where a node is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Question {
    /// New and random for each round of questions.
    pub nonce: [u8; 16],
    /// An index that the asked node may wait for, for a moment, before it answers; 0 for none.
    pub at_least: u64,
    /// Positions that the asking node saw, for comparison; at most [`crate::limits::POSITIONS_TOLD`].
    pub seen: Vec<SignedPosition>,
}
crate::wire_struct!(Question { nonce, at_least, seen });

/// Proof that a node signed two histories. 308 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Equivocation {
    /// One of them.
    pub first: SignedPosition,
    /// The other.
    pub second: SignedPosition,
}
crate::wire_struct!(Equivocation { first, second });

impl Equivocation {
    /// The node.
    #[must_use]
    pub fn node(&self) -> NodeId {
        self.first.position.node
    }
    /// The index for which it signed two heads.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.first.position.applied
    }
    /// Whether it is a proof against the node with this key. Anybody can check that.
    #[must_use]
    pub fn proves(&self, key: &PublicKey, cluster: &ClusterId) -> bool {
        self.first.position.contradicts(&self.second.position)
            && self.first.verifies(key, cluster)
            && self.second.verifies(key, cluster)
    }
}
