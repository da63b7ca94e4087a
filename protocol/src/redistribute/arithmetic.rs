//! What public commitments add up to: computed from the log, the same on every node, without any secret.

use std::collections::BTreeMap;

use curve25519_dalek::traits::Identity as _;
use curve25519_dalek::{EdwardsPoint, Scalar};

use crate::certificate::CertificateCore;
use crate::generate::Ceremony;
use crate::generate::transcript::{interpolate, on_one_polynomial, point};
use crate::id::{Digest, NodeId};
use crate::identity::tagged_hash;
use crate::wire::{Wire as _, Writer};

/// The commitments of a dealing set, by dealer.
pub(super) type Commitments = BTreeMap<NodeId, Vec<[u8; 32]>>;

/// Whether commitments are what a dealer whose share belongs to `verifying_share` may commit to: exactly t points of prime order
/// in their only encoding, none the identity, and the first is that verifying share.
pub(super) fn are_sound(commitments: &[[u8; 32]], threshold: usize, verifying_share: Option<&[u8; 32]>) -> bool {
    commitments.len() == threshold
        && commitments.first() == verifying_share
        && commitments.iter().all(|commitment| point(commitment).is_some())
}

/// The certificate core that a dealing set makes: `C_k = sum over dealers i of λ_i · C_ik`, λ the Lagrange weights at 0, and
/// `Y_j = sum over k of j^k · C_k` for every node j of the roster.
///
/// # Errors
/// The holders whose verifying share would be the identity, when the result is not sound: dealers and such a holder arranged
/// it, since nobody else knows what an honest dealer gave to that holder. Nobody, when the base is not what it says.
pub(super) fn result(
    ceremony: &Ceremony,
    base: &CertificateCore,
    dealt: &Commitments,
) -> Result<CertificateCore, Vec<NodeId>> {
    let polynomial = sum_polynomial(dealt, ceremony.threshold.get()).ok_or_else(Vec::new)?;
    let share = |node: &NodeId| evaluate(&polynomial, &Scalar::from(node.get())).compress().to_bytes();
    let shares: Vec<[u8; 32]> = ceremony.roster.iter().map(share).collect();
    let transcript = transcript(&ceremony.digest(), dealt, &shares, &base.public_key);
    let core = ceremony.core(base.public_key, shares, transcript);
    let held: BTreeMap<NodeId, [u8; 32]> =
        core.holders.iter().filter_map(|node| Some((*node, *core.verifying_share(*node)?))).collect();
    if held.len() == core.holders.len() && on_one_polynomial(&held, ceremony.threshold, &base.public_key) {
        return Ok(core);
    }
    Err(held.iter().filter(|(_, share)| point(share).is_none()).map(|(node, _)| *node).collect())
}

/// The commitments to the coefficients of the polynomial on which the new shares lie.
fn sum_polynomial(dealt: &Commitments, threshold: usize) -> Option<Vec<EdwardsPoint>> {
    let coefficient = |k: usize| {
        let of_dealer = |(node, commitments): (&NodeId, &Vec<[u8; 32]>)| {
            Some((Scalar::from(node.get()), point(commitments.get(k)?)?))
        };
        let points: Option<Vec<_>> = dealt.iter().map(of_dealer).collect();
        points.map(|points| interpolate(&points, &Scalar::ZERO))
    };
    (0..threshold).map(coefficient).collect()
}

/// The value of a polynomial in the exponent (Horner).
fn evaluate(polynomial: &[EdwardsPoint], at: &Scalar) -> EdwardsPoint {
    polynomial.iter().rev().fold(EdwardsPoint::identity(), |sum, coefficient| sum * at + coefficient)
}

/// The transcript: `H(ceremony || m || m times (dealer || t commitments) || n verifying shares || public key)`, dealers ascending.
///
/// It holds everything public that the shares are made of; subshares enter through the commitments that they were checked with.
fn transcript(ceremony: &Digest, dealt: &Commitments, shares: &Vec<[u8; 32]>, public_key: &[u8; 32]) -> Digest {
    let mut w = Writer::default();
    ceremony.put(&mut w);
    dealt.put(&mut w);
    shares.put(&mut w);
    public_key.put(&mut w);
    tagged_hash("symbolon/redistribute/transcript/v1", &w.finish())
}
