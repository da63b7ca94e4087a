//! The arithmetic of one signature over one message: FROST(Ed25519, SHA-512), RFC 9591 section 6.1.
//!
//! There are two implementations, and they agree bit for bit (`tests.rs`): `fast`, directly on curve25519-dalek, and
//! `reference`, which asks frost-core. What is said between nodes is the same, so a roster may be mixed. Whether a node is to
//! blame is judged by the reference alone, whatever a node signs with.
//!
//! Both take commitments that were checked once, when they came in ([`Commitment`]), and nonces by value ([`Nonces`]).

mod commitment;
mod fast;
mod lagrange;
mod reference;
#[cfg(test)]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use curve25519_dalek::Scalar;
use rand_core::{CryptoRng, RngCore};

use self::fast::FastPackage;
use self::reference::ReferencePackage;
use super::CommitmentPair;
use super::key::{HolderShare, KeyGroup};
use crate::certificate::CertificateCore;
use crate::error::{ErrorCode, Refusal};
use crate::id::NodeId;

pub(super) use self::commitment::decode_point;
pub use self::commitment::{Commitment, Nonces, SentPair};
pub(super) use self::lagrange::LagrangeCache;

/// What computes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Backend {
    /// Directly on curve25519-dalek.
    #[default]
    Fast,
    /// The reference: the crate frost-core, which is given encodings and checks everything again.
    FrostCore,
}

/// A signature share, a canonical scalar. Not secret once it is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignatureShare(Scalar);

impl SignatureShare {
    /// From 32 bytes, little-endian; none when they are no canonical scalar.
    #[must_use]
    pub fn decode(bytes: &[u8; 32]) -> Option<Self> {
        Option::from(Scalar::from_canonical_bytes(*bytes)).map(Self)
    }
}

/// Who signs one message with which commitments, ready to compute with (RFC 9591 section 5.2).
pub trait Package: Send + Sync {
    /// A holder's signature share, 32 bytes. The nonces are used up, whatever comes of it.
    ///
    /// # Errors
    /// `internal`: the holder is no signer of the package, these are not its nonces, the signers are too few or the key is
    /// another one.
    fn sign(&self, share: &HolderShare, nonces: Nonces) -> Result<[u8; 32], Refusal>;

    /// Whether a signer's share satisfies its equation (RFC 9591 section 5.4). None when that cannot be calculated, which is
    /// nobody's fault: the node is no signer, or its verifying share is no point of prime order.
    fn verifies(&self, node: NodeId, share: &SignatureShare) -> Option<bool>;

    /// The shares of all signers added up, if the result is a good signature by the strict rule of RFC 8032, which is the rule
    /// of everybody who will verify it (RFC 9591 section 5.3).
    fn signature(&self, shares: &BTreeMap<NodeId, SignatureShare>) -> Option<[u8; 64]>;
}

impl Backend {
    /// Makes a nonce pair and its commitments (RFC 9591 section 5.1): two times 32 bytes are drawn, for the hiding nonce first.
    ///
    /// # Errors
    /// `internal`, with negligible probability: a nonce is zero.
    pub fn commit(self, share: &HolderShare, rng: &mut (impl RngCore + CryptoRng)) -> Result<Nonces, Refusal> {
        match self {
            Self::Fast => Nonces::generate(share.secret(), rng),
            Self::FrostCore => reference::commit(share, rng),
        }
        .ok_or_else(|| internal("no nonces could be made"))
    }

    /// Puts the package for a message together.
    ///
    /// # Errors
    /// `internal`, when the commitments add up to nothing that can be signed with.
    pub fn package(
        self,
        group: &Arc<KeyGroup>,
        signers: &BTreeMap<NodeId, Commitment>,
        message: &[u8],
    ) -> Result<Box<dyn Package>, Refusal> {
        match self {
            Self::Fast => {
                FastPackage::new(group, signers, message).map(|package| Box::new(package) as Box<dyn Package>)
            }
            Self::FrostCore => {
                let pairs = signers.iter().map(|(node, commitment)| (*node, *commitment.encoded())).collect();
                ReferencePackage::new(group, &pairs, message).map(|package| Box::new(package) as Box<dyn Package>)
            }
        }
        .ok_or_else(|| internal("the commitments make no package"))
    }
}

/// Judges by the reference whether a pair is two canonical points of prime order, neither the identity.
pub(super) fn is_good_pair(pair: &CommitmentPair) -> bool {
    reference::is_good_pair(pair)
}

/// Judges by the reference, from what was said: whether the share of a node for a message, in a package of these commitments,
/// is wrong. What cannot be calculated is nobody's fault.
pub(super) fn is_wrong_share(
    core: &CertificateCore,
    node: NodeId,
    signers: &BTreeMap<NodeId, CommitmentPair>,
    message: &[u8],
    share: &[u8; 32],
) -> bool {
    let Ok(group) = KeyGroup::with_backend(core, Backend::FrostCore) else { return false };
    let Some(package) = ReferencePackage::new(&Arc::new(group), signers, message) else { return false };
    match SignatureShare::decode(share) {
        Some(share) => package.verifies(node, &share) == Some(false),
        // No scalar at all.
        None => true,
    }
}

fn internal(what: &str) -> Refusal {
    Refusal::new(ErrorCode::Internal, what)
}
