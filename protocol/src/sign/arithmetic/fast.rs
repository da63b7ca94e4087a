//! The fast implementation, directly on curve25519-dalek.
//!
//! What is the same for all signers is computed once per package: binding factors, group commitment, challenge. Variable time
//! is used for public values only; the share and the nonces meet operations on scalars, which are in constant time.

use std::collections::BTreeMap;
use std::sync::Arc;

use curve25519_dalek::constants::ED25519_BASEPOINT_POINT;
use curve25519_dalek::traits::{IsIdentity as _, VartimeMultiscalarMul as _};
use curve25519_dalek::{EdwardsPoint, Scalar};
use sha2::{Digest as _, Sha512};
use zeroize::Zeroizing;

use super::lagrange::identifier;
use super::{Commitment, Nonces, Package, SignatureShare, internal};
use crate::error::Refusal;
use crate::id::NodeId;
use crate::identity::Signature;
use crate::sign::key::{HolderShare, KeyGroup};

/// `contextString` of RFC 9591, section 6.1.
pub(super) const CONTEXT: &[u8] = b"FROST-ED25519-SHA512-v1";

/// A signer of a package.
struct Signer {
    commitment: Commitment,
    binding_factor: Scalar,
    /// Lagrange coefficient times challenge: with what its share of the key counts.
    weight: Scalar,
}

/// A package, with everything that its signers and the coordinator have in common.
pub(super) struct FastPackage {
    group: Arc<KeyGroup>,
    signers: BTreeMap<NodeId, Signer>,
    /// Encoded.
    group_commitment: [u8; 32],
    message: Vec<u8>,
}

impl FastPackage {
    /// None when the group commitment is the identity.
    pub(super) fn new(group: &Arc<KeyGroup>, signers: &BTreeMap<NodeId, Commitment>, message: &[u8]) -> Option<Self> {
        let public_key = group.public_key().as_bytes();
        let factors = binding_factors(public_key, signers, message);
        let bindings = signers.values().map(|commitment| &commitment.binding);
        let hiding: EdwardsPoint = signers.values().map(|commitment| commitment.hiding).sum();
        let group_commitment = hiding + EdwardsPoint::vartime_multiscalar_mul(&factors, bindings);
        if group_commitment.is_identity() {
            return None;
        }
        let group_commitment = group_commitment.compress().to_bytes();
        // H2, the challenge of RFC 8032.
        let hash = Sha512::new().chain_update(group_commitment).chain_update(public_key).chain_update(message);
        let challenge = Scalar::from_hash(hash);
        let lagrange = group.lagrange().of(signers.keys().copied().collect());
        let computed = factors.into_iter().zip(lagrange.iter().map(|coefficient| coefficient * challenge));
        let signer = |((node, commitment), (binding_factor, weight)): ((&NodeId, &Commitment), _)| {
            (*node, Signer { commitment: commitment.clone(), binding_factor, weight })
        };
        let signers = signers.iter().zip(computed).map(signer).collect();
        Some(Self { group: Arc::clone(group), signers, group_commitment, message: message.to_vec() })
    }
}

/// `compute_binding_factors` of RFC 9591, section 4.4, in the order of the signers: H1 over the public key, H4 of the message, H5
/// of all commitments, and the identifier.
pub(super) fn binding_factors(
    public_key: &[u8; 32],
    signers: &BTreeMap<NodeId, Commitment>,
    message: &[u8],
) -> Vec<Scalar> {
    let hash = |what: &[u8]| Sha512::new().chain_update(CONTEXT).chain_update(what);
    let mut commitments = hash(b"com");
    for (node, commitment) in signers {
        let encoded = commitment.encoded();
        commitments.update(identifier(*node).as_bytes());
        commitments.update(encoded.hiding);
        commitments.update(encoded.binding);
    }
    let message = hash(b"msg").chain_update(message).finalize();
    let common = hash(b"rho").chain_update(public_key).chain_update(message).chain_update(commitments.finalize());
    signers.keys().map(|node| Scalar::from_hash(common.clone().chain_update(identifier(*node).as_bytes()))).collect()
}

impl Package for FastPackage {
    fn sign(&self, share: &HolderShare, nonces: Nonces) -> Result<[u8; 32], Refusal> {
        if share.group().public_key() != self.group.public_key() {
            return Err(internal("the share is one of another key"));
        }
        if self.signers.len() < share.group().core().threshold.get() {
            return Err(internal("the signers are too few"));
        }
        let signer = self.signers.get(&share.node()).ok_or_else(|| internal("the holder is no signer"))?;
        if signer.commitment.encoded() != nonces.commitment().encoded() {
            return Err(internal("the nonces are not those of the package"));
        }
        let [hiding, binding] = nonces.secret();
        let bound = Zeroizing::new(binding * signer.binding_factor);
        let weighted = Zeroizing::new(share.secret() * signer.weight);
        // Each partial sum would give the share or a nonce away beside the result, which is sent.
        let mut sum = Zeroizing::new(*bound + *weighted);
        *sum += hiding;
        Ok(sum.to_bytes())
    }

    fn verifies(&self, node: NodeId, share: &SignatureShare) -> Option<bool> {
        let Signer { commitment, binding_factor, weight } = self.signers.get(&node)?;
        let verifying_share = self.group.verifying_point(node)?;
        // z B - rho E - (lambda c) Y = D
        let scalars = [share.0, -binding_factor, -weight];
        let points = [ED25519_BASEPOINT_POINT, commitment.binding, *verifying_share];
        Some(EdwardsPoint::vartime_multiscalar_mul(scalars, points) == commitment.hiding)
    }

    fn signature(&self, shares: &BTreeMap<NodeId, SignatureShare>) -> Option<[u8; 64]> {
        if self.signers.len() < self.group.core().threshold.get() || !shares.keys().eq(self.signers.keys()) {
            return None;
        }
        let sum: Scalar = shares.values().map(|share| share.0).sum();
        let mut signature = [0; 64];
        let (first, second) = signature.split_at_mut(32);
        first.copy_from_slice(&self.group_commitment);
        second.copy_from_slice(sum.as_bytes());
        self.group.public_key().verifies_raw(&self.message, &Signature::from_bytes(signature)).then_some(signature)
    }
}
