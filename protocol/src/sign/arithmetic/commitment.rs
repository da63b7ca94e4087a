//! Nonces, and commitments to them that were checked.

use std::fmt;

use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::traits::IsIdentity as _;
use curve25519_dalek::{EdwardsPoint, Scalar};
use rand_core::{CryptoRng, RngCore};
use sha2::{Digest as _, Sha512};
use zeroize::Zeroizing;

use super::fast::CONTEXT;
use crate::sign::CommitmentPair;

/// 1/8 modulo the order of the group, little-endian.
const ONE_EIGHTH: [u8; 32] = [
    0x79, 0x2f, 0xdc, 0xe2, 0x29, 0xe5, 0x06, 0x61, 0xd0, 0xda, 0x1c, 0x7d, 0xb3, 0x9d, 0xd3, 0x07, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x06,
];

/// A point that is canonical, of prime order and not the identity.
pub(in crate::sign) fn decode_point(bytes: &[u8; 32]) -> Option<EdwardsPoint> {
    decompress(bytes).filter(|point| !point.is_identity() && has_prime_order(point))
}

/// A point with y < p. Decompression takes larger ones too, of which there are 19. It also takes a sign for x = 0, but the two
/// points with that have small order, and no caller takes these.
fn decompress(bytes: &[u8; 32]) -> Option<EdwardsPoint> {
    let [first, middle @ .., last] = bytes;
    let is_reduced = *first < 0xed || middle.iter().any(|byte| *byte != 0xff) || last & 0x7f != 0x7f;
    CompressedEdwardsY(*bytes).decompress().filter(|_| is_reduced)
}

/// Whether L P = 0, asked as (L-1) P = -P with the integer L-1, so that multiples of 8 do not get lost. In variable time, and
/// faster for it by a fifth: what is asked about was sent.
fn has_prime_order(point: &EdwardsPoint) -> bool {
    EdwardsPoint::vartime_double_scalar_mul_basepoint(&-Scalar::ONE, point, &Scalar::ZERO) == -point
}

/// Commitments to a hiding and a binding nonce that were checked, or made here: points of prime order, not the identity.
#[derive(Clone)]
pub struct Commitment {
    encoded: CommitmentPair,
    pub(super) hiding: EdwardsPoint,
    pub(super) binding: EdwardsPoint,
}

impl Commitment {
    /// Decodes and checks a pair: each point must be canonical, of prime order and not the identity.
    #[must_use]
    pub fn decode(pair: &CommitmentPair) -> Option<Self> {
        Some(Self { encoded: *pair, hiding: decode_point(&pair.hiding)?, binding: decode_point(&pair.binding)? })
    }

    /// Decodes a pair that was sent divided by eight: eight times a point has prime order or is the identity.
    #[must_use]
    pub fn decode_sent(sent: &SentPair) -> Option<Self> {
        Self::eightfold(&[decompress(&sent.0.hiding)?, decompress(&sent.0.binding)?])
    }

    fn eightfold(eighths: &[EdwardsPoint; 2]) -> Option<Self> {
        let [hiding, binding] = eighths.each_ref().map(EdwardsPoint::mul_by_cofactor);
        let encode = |point: &EdwardsPoint| (!point.is_identity()).then(|| point.compress().to_bytes());
        let encoded = CommitmentPair { hiding: encode(&hiding)?, binding: encode(&binding)? };
        Some(Self { encoded, hiding, binding })
    }

    /// The canonical encodings: what is hashed (RFC 9591 section 4.3).
    #[must_use]
    pub fn encoded(&self) -> &CommitmentPair {
        &self.encoded
    }
}

impl fmt::Debug for Commitment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Commitment({:?})", self.encoded)
    }
}

/// A pair as it can be sent so that its receiver need not ask for its order: each point divided by eight. Eight forms of it
/// mean the same commitments; `docs/spec/sign.md` says why nothing follows from that.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SentPair(pub CommitmentPair);

/// A hiding and a binding nonce and the commitments to them. For one use: no `Clone`, no encoding, wiped when dropped.
pub struct Nonces {
    /// Hiding, then binding; boxed, so that a move leaves no copy.
    secret: Box<Zeroizing<[Scalar; 2]>>,
    commitment: Commitment,
    /// The commitments divided by eight.
    eighths: [EdwardsPoint; 2],
}

impl Nonces {
    /// RFC 9591, sections 4.1 and 5.1: hedged with the share, so that a weak generator alone gives nothing away.
    pub(super) fn generate(share: &Scalar, rng: &mut (impl RngCore + CryptoRng)) -> Option<Self> {
        let mut randomness = Zeroizing::new([[0; 32]; 2]);
        for bytes in randomness.iter_mut() {
            rng.fill_bytes(bytes);
        }
        let mut secret = Box::new(Zeroizing::new([Scalar::ZERO; 2]));
        for (nonce, randomness) in secret.iter_mut().zip(randomness.iter()) {
            nonce_generate(share, randomness, nonce);
        }
        Self::of(secret)
    }

    /// The commitments come from the table of the base point, in constant time; none when a nonce is zero.
    pub(super) fn of(secret: Box<Zeroizing<[Scalar; 2]>>) -> Option<Self> {
        let eighth = Scalar::from_bytes_mod_order(ONE_EIGHTH);
        let eighths = secret.each_ref().map(|nonce| EdwardsPoint::mul_base(&Zeroizing::new(nonce * eighth)));
        let commitment = Commitment::eightfold(&eighths)?;
        Some(Self { secret, commitment, eighths })
    }

    /// The hiding and the binding nonce.
    pub(super) fn secret(&self) -> &[Scalar; 2] {
        &self.secret
    }

    /// The commitments: known points, nothing to check.
    #[must_use]
    pub fn commitment(&self) -> &Commitment {
        &self.commitment
    }

    /// The commitments divided by eight.
    #[must_use]
    pub fn sent(&self) -> SentPair {
        let [hiding, binding] = self.eighths.map(|point| point.compress().to_bytes());
        SentPair(CommitmentPair { hiding, binding })
    }
}

impl fmt::Debug for Nonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Nonces({:?}, not shown)", self.commitment)
    }
}

/// H3 over the randomness and the encoded share (RFC 9591 section 4.1).
fn nonce_generate(share: &Scalar, randomness: &[u8; 32], nonce: &mut Scalar) {
    let hash = Sha512::new().chain_update(CONTEXT).chain_update(b"nonce");
    let mut wide = Zeroizing::new([0; 64]);
    hash.chain_update(randomness).chain_update(share.as_bytes()).finalize_into((&mut *wide).into());
    *nonce = Scalar::from_bytes_mod_order_wide(&wide);
}
