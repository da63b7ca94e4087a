//! The one place that touches vsss-rs: a share is dealt out, a subshare is checked, subshares become a share (Feldman).
//!
//! vsss-rs is on curve25519-dalek 5, everything else here on dalek 4. Only encodings of 32 bytes cross over, and only those that
//! a value has exactly one of: canonical scalars, canonical points of prime order that are not the identity.
//!
//! What has to be known of vsss-rs 6, and what is done about it:
//! - It keeps the generator in the first slot of a commitment and checks against whatever stands there, for any degree. So the
//!   generator never travels, it is always ours, and there are exactly t coefficients.
//! - It combines any two shares or more and says that all is well. So there are exactly t, and the caller compares the result
//!   with a known verifying share.
//! - It numbers receivers from 1, takes a number twice when it is told to, and would hand out the secret itself under number 0.
//!   So the numbers are always those of nodes: never 0, and none twice (`Ceremony::check`).
//! - Its scalars are copied, printed and compared freely and never wiped. So its storage is [`Wiped`]; nothing of it is left on
//!   the heap, and no such type leaves this file. What remains are copies on the stack while a value is computed, as with every
//!   scalar that is `Copy`, those of dalek 4 and FROST too.

use std::collections::BTreeMap;
use std::convert::Infallible;

use curve25519_dalek_5::Scalar;
use curve25519_dalek_5::edwards::SubgroupPoint;
use rand_core::{CryptoRng, RngCore};
use vsss_rs::elliptic_curve::rand_core::{TryCryptoRng, TryRng};
use vsss_rs::{
    Feldman, FeldmanVerifierSet, IdentifierPrimeField, Polynomial, PrimeFieldShare, ReadableShareSet as _, Shamir,
    Share as _, ShareElement as _, ShareVerifierGroup, WriteableShareSet,
};
use zeroize::{Zeroize, Zeroizing};

use crate::generate::ShareSecret;
use crate::id::{NodeId, Threshold};

type Element = IdentifierPrimeField<Scalar>;
type Share = PrimeFieldShare<Scalar>;
type Commitment = ShareVerifierGroup<SubgroupPoint>;

/// What a dealer makes of its share.
pub(super) struct Dealing {
    /// Commitments to the coefficients of its polynomial, constant term first; exactly t, compressed points.
    pub(super) commitments: Vec<[u8; 32]>,
    /// The polynomial at the number of each receiver.
    pub(super) subshares: BTreeMap<NodeId, ShareSecret>,
}

/// Deals a share to receivers: a fresh polynomial of degree t-1 with the share as its constant term, at the number of each.
///
/// None when the share is no canonical scalar or there are fewer receivers than t.
pub(super) fn deal(
    share: &ShareSecret,
    threshold: Threshold,
    receivers: &[NodeId],
    rng: &mut (impl RngCore + CryptoRng),
) -> Option<Dealing> {
    let mut secret = element(share.expose())?;
    let dealt = InWiped::split_secret_with_participant_ids_iter_and_verifiers(
        threshold.get(),
        receivers.len(),
        &secret,
        Some(Commitment::one()),
        Rng(rng),
        receivers.iter().map(|node| number(*node)),
    );
    secret.0.zeroize();
    let (shares, commitments) = dealt.ok()?;
    let coefficients = FeldmanVerifierSet::<Share, Commitment>::verifiers(&commitments);
    let values = shares.0.iter().map(|share| ShareSecret::new(&Zeroizing::new(share.value().serialize())));
    Some(Dealing {
        commitments: coefficients.iter().map(|point| point.serialize()).collect(),
        subshares: receivers.iter().copied().zip(values).collect(),
    })
}

/// Whether a subshare for `node` lies on the polynomial that is committed to, and that has the right degree:
/// `f(node)·B = sum over k of node^k · C_k`.
pub(super) fn fits(commitments: &[[u8; 32]], threshold: Threshold, node: NodeId, subshare: &ShareSecret) -> bool {
    let points: Option<Vec<Commitment>> = commitments.iter().map(commitment).collect();
    let Some(points) = points.filter(|points| points.len() == threshold.get()) else { return false };
    let Some(shares) = Wiped::of(&[(node, subshare)]) else { return false };
    let committed = <Vec<Commitment> as FeldmanVerifierSet<Share, Commitment>>::with_generator_and_verifiers(
        Commitment::one(),
        &points,
    );
    shares.0.iter().all(|share| committed.verify_share(share).is_ok())
}

/// The share that exactly t subshares, by dealer, add up to: `sum over i of λ_i · f_i(node)`, λ the Lagrange weights at 0.
///
/// None when there are not exactly t, or one is no canonical scalar. Whether the result is the right one is not known here.
pub(super) fn combine(subshares: &[(NodeId, &ShareSecret)], threshold: Threshold) -> Option<ShareSecret> {
    if subshares.len() != threshold.get() {
        return None;
    }
    let mut sum = Element::ZERO;
    let combined = Wiped::of(subshares)?.combine_in_place(&mut sum);
    let share = ShareSecret::new(&Zeroizing::new(sum.serialize()));
    sum.0.zeroize();
    combined.ok().map(|()| share)
}

/// The number of a node as a scalar.
fn number(node: NodeId) -> Element {
    IdentifierPrimeField(Scalar::from(node.get()))
}

/// A scalar from its only encoding.
pub(super) fn element(bytes: &[u8; 32]) -> Option<Element> {
    Element::deserialize(bytes).ok()
}

/// A point of prime order from its only encoding; none for the identity.
pub(super) fn commitment(bytes: &[u8; 32]) -> Option<Commitment> {
    // Decompression takes encodings that compression never makes, so the way back is compared.
    let point = Commitment::deserialize(bytes).ok()?;
    (!bool::from(point.is_zero()) && point.serialize() == *bytes).then_some(point)
}

/// Coefficients or shares as vsss-rs stores them, wiped when dropped. It never grows, so it leaves no copy behind.
pub(super) struct Wiped(pub(super) Vec<Share>);

impl Wiped {
    fn zeros(count: usize) -> Self {
        Self(vec![Share::default(); count])
    }

    fn of(shares: &[(NodeId, &ShareSecret)]) -> Option<Self> {
        let mut list = Self(Vec::with_capacity(shares.len()));
        for (node, share) in shares {
            list.0.push(Share::with_identifier_and_value(number(*node), element(share.expose())?));
        }
        Some(list)
    }
}

impl Zeroize for Wiped {
    fn zeroize(&mut self) {
        for share in &mut self.0 {
            // vsss-rs keeps the coefficients of a polynomial, but for the constant term, in the place of the number.
            share.identifier.0.zeroize();
            share.value.0.zeroize();
        }
    }
}

impl Drop for Wiped {
    fn drop(&mut self) {
        self.zeroize();
    }
}

impl AsRef<[Share]> for Wiped {
    fn as_ref(&self) -> &[Share] {
        &self.0
    }
}

impl AsMut<[Share]> for Wiped {
    fn as_mut(&mut self) -> &mut [Share] {
        &mut self.0
    }
}

impl WriteableShareSet<Share> for Wiped {
    fn create(size_hint: usize) -> Self {
        Self::zeros(size_hint)
    }
}

impl Polynomial<Share> for Wiped {
    fn create(size_hint: usize) -> Self {
        Self::zeros(size_hint)
    }
    fn coefficients(&self) -> &[Share] {
        &self.0
    }
    fn coefficients_mut(&mut self) -> &mut [Share] {
        &mut self.0
    }
}

/// Feldman's scheme as vsss-rs has it, on storage that is wiped.
struct InWiped;

impl Shamir<Share> for InWiped {
    type InnerPolynomial = Wiped;
    type ShareSet = Wiped;
}

impl Feldman<Share, Commitment> for InWiped {
    type VerifierSet = Vec<Commitment>;
}

/// Our source of randomness (`rand_core` 0.6) as vsss-rs wants it (`rand_core` 0.10).
struct Rng<'a, R>(&'a mut R);

impl<R: RngCore> TryRng for Rng<'_, R> {
    type Error = Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Infallible> {
        Ok(self.0.next_u32())
    }
    fn try_next_u64(&mut self) -> Result<u64, Infallible> {
        Ok(self.0.next_u64())
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Infallible> {
        self.0.fill_bytes(bytes);
        Ok(())
    }
}

impl<R: RngCore + CryptoRng> TryCryptoRng for Rng<'_, R> {}
