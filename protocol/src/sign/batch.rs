//! The arithmetic of a session: one package, one nonce pair and one share for each of its messages.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::arithmetic::{Commitment, Nonces, Package, SignatureShare};
use super::key::{HolderShare, KeyGroup};
use super::{CommitmentPair, misbehaved};
use crate::error::{ErrorCode, Refusal};
use crate::id::NodeId;
use crate::wire::Bytes;

/// Commitments of one node, one for each message, as checked points.
#[derive(Clone)]
pub(super) struct DecodedPairs(pub(super) Vec<Commitment>);

/// Decodes commitments: each point must be canonical, of prime order and not the identity. This is done once, when they come in.
///
/// # Errors
/// `peer_misbehaved`, naming the node.
pub(super) fn decode_pairs(node: NodeId, pairs: &[CommitmentPair]) -> Result<DecodedPairs, Refusal> {
    let what = "committed to a nonce with something that is no point of prime order";
    let decode = |pair| Commitment::decode(pair).ok_or_else(|| misbehaved(node, what));
    pairs.iter().map(decode).collect::<Result<_, _>>().map(DecodedPairs)
}

/// Signing packages, one for each message.
pub(super) struct Packages(Vec<Box<dyn Package>>);

/// Puts packages together. Every signer has a commitment for every message.
///
/// # Errors
/// `peer_misbehaved`, naming a node with too few commitments; `internal`.
pub(super) fn packages(
    group: &Arc<KeyGroup>,
    signers: &[(NodeId, DecodedPairs)],
    messages: &[Bytes],
) -> Result<Packages, Refusal> {
    let mut packages = Vec::with_capacity(messages.len());
    for (at, message) in messages.iter().enumerate() {
        let mut list = BTreeMap::new();
        for (node, pairs) in signers {
            let pair = pairs.0.get(at).ok_or_else(|| misbehaved(*node, "sent too few nonce commitments"))?;
            list.insert(*node, pair.clone());
        }
        packages.push(group.backend().package(group, &list, &message.0)?);
    }
    Ok(Packages(packages))
}

/// Computes a holder's signature share for each message. The nonces are used up, whatever comes of it.
///
/// # Errors
/// `internal`: the packages were checked before.
pub(super) fn sign(share: &HolderShare, nonces: Vec<Nonces>, packages: &Packages) -> Result<Vec<[u8; 32]>, Refusal> {
    if nonces.len() != packages.0.len() {
        return Err(Refusal::new(ErrorCode::Internal, "nonces and messages differ in number"));
    }
    nonces.into_iter().zip(&packages.0).map(|(nonces, package)| package.sign(share, nonces)).collect()
}

/// Signature shares of one node, one for each message, as canonical scalars.
pub(super) struct DecodedShares(Vec<SignatureShare>);

/// Decodes signature shares.
///
/// # Errors
/// The number of the first one that is no canonical scalar.
pub(super) fn decode_shares(shares: &[[u8; 32]]) -> Result<DecodedShares, usize> {
    let decode = |(at, share)| SignatureShare::decode(share).ok_or(at);
    shares.iter().enumerate().map(decode).collect::<Result<_, _>>().map(DecodedShares)
}

/// Adds the shares up to one signature for each message and verifies each strictly.
///
/// # Errors
/// The nodes with a share that does not verify, and the first message where that is so; nobody, when signatures are bad and
/// all shares are good, which cannot be.
pub(super) fn aggregate(
    packages: &Packages,
    shares: &BTreeMap<NodeId, DecodedShares>,
) -> Result<Vec<[u8; 64]>, BTreeMap<NodeId, usize>> {
    let mut signatures = Vec::with_capacity(packages.0.len());
    let mut culprits = BTreeMap::new();
    for (at, package) in packages.0.iter().enumerate() {
        let of_message: BTreeMap<NodeId, SignatureShare> =
            shares.iter().filter_map(|(node, list)| Some((*node, *list.0.get(at)?))).collect();
        match package.signature(&of_message) {
            Some(signature) => signatures.push(signature),
            None => {
                for (node, share) in of_message {
                    if package.verifies(node, &share) == Some(false) {
                        culprits.entry(node).or_insert(at);
                    }
                }
            }
        }
    }
    if signatures.len() == packages.0.len() { Ok(signatures) } else { Err(culprits) }
}

/// The first message for which a node's share does not verify.
pub(super) fn first_bad(packages: &Packages, node: NodeId, shares: &DecodedShares) -> Option<usize> {
    packages.0.iter().zip(&shares.0).position(|(package, share)| package.verifies(node, share) == Some(false))
}
