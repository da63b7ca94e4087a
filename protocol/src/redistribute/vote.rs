//! What the nodes of a redistribution say: one signed message to each other, two signed votes to the log.
//!
//! Everything public goes through the log, so that everybody sees the same. What is secret, the subshares, goes from node to
//! node only; nothing that anybody can claim makes anybody publish one.

use zeroize::Zeroizing;

use crate::error::{ErrorCode, Refusal};
use crate::generate::message::SecretBytes;
use crate::generate::{Ceremony, ShareSecret};
use crate::id::{ClusterId, Digest, Epoch, NodeId, OperationId};
use crate::identity::{Domain, Identity, PublicKey, Signature, tagged_hash};
use crate::wire::{Wire, WireError, Writer, decode, encode};

/// The largest subshare message, bytes; every honest one has this size.
pub const MESSAGE_BYTES: usize = 169;

/// What a dealer commits to, as a subshare names it: `H(ceremony || dealer || t commitments)`.
#[must_use]
pub fn commitments_digest(ceremony: &Digest, dealer: NodeId, commitments: &Vec<[u8; 32]>) -> Digest {
    let mut w = Writer::default();
    ceremony.put(&mut w);
    dealer.put(&mut w);
    commitments.put(&mut w);
    tagged_hash("symbolon/redistribute/commitments/v1", &w.finish())
}

/// A dealer's polynomial at the number of one holder, over their authenticated and confidential channel.
///
/// The subshare stands last: an encoder's growing buffer then never leaves a copy of it behind.
#[derive(Debug)]
pub struct SubshareMessage {
    /// [`Ceremony::digest`] of the attempt.
    pub ceremony: Digest,
    /// The dealer.
    pub from: NodeId,
    /// The holder.
    pub to: NodeId,
    /// [`commitments_digest`] of what the dealer commits to.
    pub commitments: Digest,
    /// By the dealer, over everything else, with a digest in the place of the subshare.
    pub signature: Signature,
    /// A canonical scalar, 32 bytes; secret.
    pub subshare: SecretBytes,
}
crate::wire_struct!(SubshareMessage { ceremony, from, to, commitments, signature, subshare });

impl SubshareMessage {
    /// Signs a subshare. `ceremony` and `commitments` are digests.
    #[must_use]
    pub fn sign(
        cluster: &ClusterId,
        ceremony: Digest,
        from: NodeId,
        to: NodeId,
        commitments: Digest,
        subshare: &ShareSecret,
        identity: &Identity,
    ) -> Self {
        let subshare = SecretBytes::new(Zeroizing::new(subshare.expose().to_vec()));
        let signature = Signature::from_bytes([0; 64]);
        let unsigned = Self { ceremony, from, to, commitments, signature, subshare };
        let signature = identity.sign(Domain::Subshare, cluster, &unsigned.payload());
        Self { signature, ..unsigned }
    }

    /// What the signature covers, 100 bytes: it can be shown to others without the subshare.
    pub(super) fn payload(&self) -> Vec<u8> {
        let mut w = Writer::default();
        self.ceremony.put(&mut w);
        self.from.put(&mut w);
        self.to.put(&mut w);
        self.commitments.put(&mut w);
        tagged_hash("symbolon/redistribute/subshare/v1", self.subshare.expose()).put(&mut w);
        w.finish()
    }

    /// Checks the signature.
    #[must_use]
    pub fn verifies(&self, cluster: &ClusterId, key: &PublicKey) -> bool {
        key.verifies(Domain::Subshare, cluster, &self.payload(), &self.signature)
    }

    /// The subshare; none when it has not 32 bytes.
    pub(super) fn secret(&self) -> Option<ShareSecret> {
        Some(ShareSecret::new(self.subshare.expose().try_into().ok()?))
    }

    /// The stand-alone encoding; secret.
    #[must_use]
    pub fn to_bytes(&self) -> Zeroizing<Vec<u8>> {
        Zeroizing::new(encode(self))
    }

    /// Reads the stand-alone encoding.
    ///
    /// # Errors
    /// [`WireError`] when it is larger than [`MESSAGE_BYTES`] or was not made by [`SubshareMessage::to_bytes`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, WireError> {
        if bytes.len() > MESSAGE_BYTES {
            return Err(WireError::Invalid("the size of a subshare message"));
        }
        decode(bytes)
    }
}

/// What a node of a redistribution has ordered through the log; at most 588 bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DealingVote {
    /// A dealer commits to its polynomial.
    Dealt {
        /// The dealer.
        node: NodeId,
        /// The operation.
        operation: OperationId,
        /// The attempt.
        epoch: Epoch,
        /// Commitments to its coefficients, constant term first; exactly t compressed points.
        commitments: Vec<[u8; 32]>,
        /// By the dealer, over ceremony, dealer and commitments.
        signature: Signature,
    },
    /// A holder's whole word on the dealings in the log so far; the log keeps the union of all that it says.
    Acknowledged {
        /// The holder.
        node: NodeId,
        /// The operation.
        operation: OperationId,
        /// The attempt.
        epoch: Epoch,
        /// Dealers of which it holds a subshare that fits, ascending.
        dealers: Vec<NodeId>,
        /// Dealers that sent it one that does not, ascending.
        accused: Vec<NodeId>,
        /// By the holder, over ceremony, holder and both lists.
        signature: Signature,
    },
}
crate::wire_enum!(DealingVote {
    1 => Dealt { node, operation, epoch, commitments, signature },
    2 => Acknowledged { node, operation, epoch, dealers, accused, signature },
});

fn dealt_payload(ceremony: &Ceremony, node: NodeId, commitments: &Vec<[u8; 32]>) -> Vec<u8> {
    let mut w = Writer::default();
    ceremony.digest().put(&mut w);
    node.put(&mut w);
    commitments.put(&mut w);
    w.finish()
}

fn acknowledged_payload(ceremony: &Ceremony, node: NodeId, dealers: &Vec<NodeId>, accused: &Vec<NodeId>) -> Vec<u8> {
    let mut w = Writer::default();
    ceremony.digest().put(&mut w);
    node.put(&mut w);
    dealers.put(&mut w);
    accused.put(&mut w);
    w.finish()
}

impl DealingVote {
    /// Signs a dealer's commitments.
    #[must_use]
    pub fn dealt(ceremony: &Ceremony, node: NodeId, commitments: Vec<[u8; 32]>, identity: &Identity) -> Self {
        let payload = dealt_payload(ceremony, node, &commitments);
        let signature = identity.sign(Domain::Dealing, &ceremony.cluster, &payload);
        Self::Dealt { node, operation: ceremony.operation, epoch: ceremony.epoch, commitments, signature }
    }

    /// Signs a holder's word. Both lists ascend and share nobody.
    #[must_use]
    pub fn acknowledged(
        ceremony: &Ceremony,
        node: NodeId,
        dealers: Vec<NodeId>,
        accused: Vec<NodeId>,
        identity: &Identity,
    ) -> Self {
        let payload = acknowledged_payload(ceremony, node, &dealers, &accused);
        let signature = identity.sign(Domain::Acknowledged, &ceremony.cluster, &payload);
        Self::Acknowledged { node, operation: ceremony.operation, epoch: ceremony.epoch, dealers, accused, signature }
    }

    /// Who votes.
    #[must_use]
    pub const fn node(&self) -> NodeId {
        match self {
            Self::Dealt { node, .. } | Self::Acknowledged { node, .. } => *node,
        }
    }

    /// The operation.
    #[must_use]
    pub const fn operation(&self) -> OperationId {
        match self {
            Self::Dealt { operation, .. } | Self::Acknowledged { operation, .. } => *operation,
        }
    }

    /// The attempt.
    #[must_use]
    pub const fn epoch(&self) -> Epoch {
        match self {
            Self::Dealt { epoch, .. } | Self::Acknowledged { epoch, .. } => *epoch,
        }
    }

    /// Checks who votes, for which attempt, and the signature; what is said is checked by [`super::Dealings::take`].
    pub(super) fn verify(
        &self,
        ceremony: &Ceremony,
        key_of: impl Fn(NodeId) -> Option<PublicKey>,
    ) -> Result<(), Refusal> {
        let node = self.node();
        let (named, domain, payload, signature) = match self {
            Self::Dealt { commitments, signature, .. } => {
                let deals = ceremony.base.as_ref().is_some_and(|base| base.dealers.contains(&node));
                (deals, Domain::Dealing, dealt_payload(ceremony, node, commitments), signature)
            }
            Self::Acknowledged { dealers, accused, signature, .. } => {
                let payload = acknowledged_payload(ceremony, node, dealers, accused);
                (ceremony.holders.contains(&node), Domain::Acknowledged, payload, signature)
            }
        };
        if self.operation() != ceremony.operation || self.epoch() != ceremony.epoch {
            return Err(self.refuse(ErrorCode::WrongState, "is for another attempt"));
        }
        let Some(key) = key_of(node).filter(|_| named) else {
            return Err(self.refuse(ErrorCode::PermissionDenied, "is by a node that has no such part in this attempt"));
        };
        if !key.verifies(domain, &ceremony.cluster, &payload, signature) {
            return Err(self.refuse(ErrorCode::BadSignature, "does not verify"));
        }
        Ok(())
    }

    /// A refusal of this vote.
    pub(super) fn refuse(&self, code: ErrorCode, what: &str) -> Refusal {
        let said = match self {
            Self::Dealt { .. } => "dealing",
            Self::Acknowledged { .. } => "acknowledgement",
        };
        Refusal::new(code, format!("the {said} of node {} {what}", self.node()))
    }
}
