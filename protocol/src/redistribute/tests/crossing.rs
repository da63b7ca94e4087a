//! The border to vsss-rs and curve25519-dalek 5: what crosses, and each of the traps that the bridge closes.

use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::edwards::CompressedEdwardsY;
use curve25519_dalek::traits::Identity as _;
use vsss_rs::{
    Feldman as _, FeldmanVerifierSet, IdentifierPrimeField, Polynomial, PrimeFieldShare, ReadableShareSet as _,
    Share as _, ShareElement as _, ShareVerifierGroup, StdVsss, feldman,
};

use super::*;
use crate::redistribute::bridge::{Wiped, combine, commitment, deal, element, fits};

type Share = PrimeFieldShare<curve25519_dalek_5::Scalar>;
type Commitment = ShareVerifierGroup<curve25519_dalek_5::edwards::SubgroupPoint>;

fn secret(scalar: &Scalar) -> ShareSecret {
    ShareSecret::new(scalar.as_bytes())
}

fn scalar_crosses(bytes: &[u8; 32]) -> Option<[u8; 32]> {
    element(bytes).map(|scalar| scalar.serialize())
}

fn commitment_crosses(bytes: &[u8; 32]) -> Option<[u8; 32]> {
    commitment(bytes).map(|point| point.serialize())
}

fn five(scalar: &Scalar) -> IdentifierPrimeField<curve25519_dalek_5::Scalar> {
    IdentifierPrimeField(curve25519_dalek_5::Scalar::from_canonical_bytes(scalar.to_bytes()).unwrap())
}

/// The order of the group, which is no canonical scalar.
const ORDER: [u8; 32] = [
    0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0, 0, 0, 0, 0,
    0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
];

proptest! {
    #[test]
    fn scalars_and_points_cross_unchanged(seed: u64) {
        let scalar = Scalar::random(&mut ChaCha20Rng::seed_from_u64(seed));
        prop_assert_eq!(scalar_crosses(scalar.as_bytes()), Some(scalar.to_bytes()));
        prop_assert_eq!(commitment_crosses(&point(&scalar)), Some(point(&scalar)));
        // Both libraries mean the same by them.
        let theirs = curve25519_dalek_5::EdwardsPoint::mul_base(&five(&scalar).0);
        prop_assert_eq!(theirs.compress().to_bytes(), point(&scalar));
    }

    #[test]
    fn whatever_crosses_is_what_dalek_4_takes_too(bytes: [u8; 32]) {
        let ours = Option::<Scalar>::from(Scalar::from_canonical_bytes(bytes));
        prop_assert_eq!(scalar_crosses(&bytes), ours.map(|scalar| scalar.to_bytes()));
        let ours = crate::generate::transcript::point(&bytes).map(|point| point.compress().to_bytes());
        prop_assert_eq!(commitment_crosses(&bytes), ours);
    }

    #[test]
    fn points_of_mixed_order_do_not_cross(seed: u64, torsion in 1usize..8) {
        let good = EdwardsPoint::mul_base(&Scalar::random(&mut ChaCha20Rng::seed_from_u64(seed)));
        prop_assert_eq!(commitment_crosses((good + EIGHT_TORSION[torsion]).compress().as_bytes()), None);
    }

    #[test]
    fn what_is_dealt_fits_and_adds_up(seed: u64, t in 2usize..6, more in 0u16..4) {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let share = Scalar::random(&mut rng);
        let receivers: Vec<NodeId> = (0..u16::try_from(t).unwrap() + more).map(|i| node(40_000 + 7 * i)).collect();
        let threshold = Threshold::new(t, receivers.len()).unwrap();
        let dealing = deal(&secret(&share), threshold, &receivers, &mut rng).unwrap();
        prop_assert_eq!(dealing.commitments.len(), t);
        prop_assert_eq!(dealing.commitments[0], point(&share));
        prop_assert!(dealing.subshares.keys().eq(receivers.iter()));
        for (receiver, subshare) in &dealing.subshares {
            prop_assert!(fits(&dealing.commitments, threshold, *receiver, subshare));
            prop_assert!(!fits(&dealing.commitments, threshold, node(1), subshare));
        }
        // Any t of them are the share, which is how a polynomial of degree t-1 shows itself.
        for first in 0..receivers.len() {
            let some: Vec<_> = dealing.subshares.iter().cycle().skip(first).take(t).map(|(i, s)| (*i, s)).collect();
            let sum = combine(&some, threshold).unwrap();
            prop_assert_eq!(sum.expose(), share.as_bytes());
        }
    }
}

#[test]
fn encodings_that_are_not_the_only_one_do_not_cross() {
    assert_eq!(scalar_crosses(&ORDER), None);
    assert_eq!(scalar_crosses(&[0xff; 32]), None);
    let mut sign = Scalar::ONE.to_bytes();
    sign[31] |= 0x80;
    assert_eq!(scalar_crosses(&sign), None);
    // y = 1 + p decompresses to the identity, y = 1 with a sign bit as well; so does the identity itself.
    let mut identity_plus_p = [0xff; 32];
    (identity_plus_p[0], identity_plus_p[31]) = (0xee, 0x7f);
    let mut negative_identity = EdwardsPoint::identity().compress().to_bytes();
    negative_identity[31] |= 0x80;
    for bytes in [identity_plus_p, negative_identity, EdwardsPoint::identity().compress().to_bytes()] {
        assert!(curve25519_dalek_5::edwards::CompressedEdwardsY(bytes).decompress().is_some());
        assert!(CompressedEdwardsY(bytes).decompress().is_some());
        assert_eq!(commitment_crosses(&bytes), None);
    }
    for small in &EIGHT_TORSION {
        assert_eq!(commitment_crosses(small.compress().as_bytes()), None);
    }
}

#[test]
fn only_canonical_shares_are_dealt_and_only_to_enough_receivers() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let threshold = Threshold::new(3, 3).unwrap();
    assert!(deal(&ShareSecret::new(&ORDER), threshold, &nodes(&[1, 2, 3]), &mut rng).is_none());
    assert!(deal(&secret(&Scalar::ONE), threshold, &nodes(&[1, 2]), &mut rng).is_none());
    assert!(deal(&secret(&Scalar::ONE), threshold, &nodes(&[1, 2, 3]), &mut rng).is_some());
}

#[test]
fn every_dealing_draws_a_new_polynomial() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let threshold = Threshold::new(3, 3).unwrap();
    let mut deal = || deal(&secret(&Scalar::ONE), threshold, &nodes(&[1, 2, 3]), &mut rng).unwrap().commitments;
    let (first, second) = (deal(), deal());
    assert_eq!(first[0], second[0]);
    assert!(first[1] != second[1] && first[2] != second[2] && first[1] != first[2]);
}

/// Trap: the verifier set begins with a generator, and a share is checked against whatever stands there.
#[test]
fn the_generator_is_ours_and_does_not_travel() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let threshold = Threshold::new(2, 3).unwrap();
    let poly = Poly::random(None, 2, &mut rng);
    let subshare = poly.at(node(1));
    // Their verifier set has t + 1 elements, and with a generator of a liar's choice it takes a subshare that is not ours.
    let wrong = subshare + Scalar::ONE;
    let generator = EdwardsPoint::mul_base(&(subshare * wrong.invert())).compress().to_bytes();
    let coefficients: Vec<Commitment> = poly.commitments().iter().map(|c| commitment(c).unwrap()).collect();
    let theirs = <Vec<Commitment> as FeldmanVerifierSet<Share, Commitment>>::with_generator_and_verifiers(
        commitment(&generator).unwrap(),
        &coefficients,
    );
    assert_eq!(theirs.len(), 3);
    let share = Share::with_identifier_and_value(IdentifierPrimeField(1u16.into()), five(&wrong));
    assert!(theirs.verify_share(&share).is_ok());
    // Ours is made of the t coefficients and the base point.
    assert!(fits(&poly.commitments(), threshold, node(1), &secret(&subshare)));
    assert!(!fits(&poly.commitments(), threshold, node(1), &secret(&wrong)));
    let with_generator = [vec![generator], poly.commitments()].concat();
    assert!(!fits(&with_generator, threshold, node(1), &secret(&wrong)));
}

/// Trap: a share is checked against commitments of any degree.
#[test]
fn the_degree_is_part_of_the_check() {
    let mut rng = ChaCha20Rng::seed_from_u64(2);
    for t in [1, 2, 4] {
        let poly = Poly::random(None, t, &mut rng);
        let subshare = secret(&poly.at(node(5)));
        assert!(!fits(&poly.commitments(), Threshold::new(3, 5).unwrap(), node(5), &subshare), "{t} coefficients");
    }
    let poly = Poly::random(None, 3, &mut rng);
    assert!(fits(&poly.commitments(), Threshold::new(3, 5).unwrap(), node(5), &secret(&poly.at(node(5)))));
}

/// Trap: shares below the threshold combine to something, and all seems well.
#[test]
fn fewer_subshares_than_the_threshold_are_not_combined() {
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let poly = Poly::random(None, 3, &mut rng);
    let theirs =
        [1, 2].map(|i| Share::with_identifier_and_value(IdentifierPrimeField(i.into()), five(&poly.at(node(i)))));
    let wrong = theirs.as_slice().combine().unwrap();
    assert_ne!(wrong.0.to_bytes(), poly.0[0].to_bytes());
    let shares: Vec<(NodeId, ShareSecret)> = (1..=4).map(|i| (node(i), secret(&poly.at(node(i))))).collect();
    let some = |count: usize| {
        let list: Vec<_> = shares.iter().take(count).map(|(i, share)| (*i, share)).collect();
        combine(&list, Threshold::new(3, 4).unwrap()).map(|share| *share.expose())
    };
    assert_eq!([some(2), some(3), some(4)], [None, Some(poly.0[0].to_bytes()), None]);
    // The same dealer twice has no Lagrange weight.
    let twice = [(node(1), &shares[0].1), (node(1), &shares[0].1), (node(2), &shares[1].1)];
    assert!(combine(&twice, Threshold::new(3, 4).unwrap()).is_none());
}

/// Trap: receivers are numbered from 1 when nobody says otherwise, whatever their names are.
#[test]
fn receivers_are_numbered_by_their_nodes() {
    let mut rng = ChaCha20Rng::seed_from_u64(4);
    let mut their_rng = TheirRng(ChaCha20Rng::seed_from_u64(4));
    let default =
        feldman::split_secret::<Share, Commitment>(2, 3, &five(&Scalar::ONE), None, &mut their_rng).unwrap().0;
    assert_eq!(*default[2].identifier(), IdentifierPrimeField(3u16.into()));
    let receivers = nodes(&[9, 4, 30_000]);
    let threshold = Threshold::new(2, 3).unwrap();
    let dealing = deal(&secret(&Scalar::ONE), threshold, &receivers, &mut rng).unwrap();
    for (i, subshare) in &dealing.subshares {
        assert!(receivers.contains(i) && fits(&dealing.commitments, threshold, *i, subshare));
    }
    assert_eq!(dealing.subshares.len(), 3);
}

/// Trap: under number 0 it hands out the secret itself. No node has that number.
#[test]
fn number_zero_would_be_the_secret() {
    let mut rng = TheirRng(ChaCha20Rng::seed_from_u64(5));
    let zero = [0u16, 1].map(|i| IdentifierPrimeField(i.into()));
    let split = StdVsss::<Share, Commitment>::split_secret_with_participant_ids_iter_and_verifiers(
        2,
        2,
        &five(&Scalar::from(77u8)),
        None,
        &mut rng,
        zero,
    );
    assert_eq!(*split.unwrap().0[0].value(), five(&Scalar::from(77u8)));
    assert_eq!(NodeId::new(0), None);
}

/// Trap: their types print what they hold. None of them leaves the bridge, and ours do not.
#[test]
fn nothing_that_leaves_the_bridge_prints_a_secret() {
    let scalar = Scalar::from_bytes_mod_order([0x0b; 32]);
    assert!(format!("{:?}", five(&scalar)).contains("11, 11, 11"));
    assert!(!format!("{:?}", secret(&scalar)).contains("11"));
}

/// Trap: their polynomials and shares are not wiped. What they are stored in here is, coefficients too.
#[test]
fn their_storage_is_wiped() {
    let mut rng = TheirRng(ChaCha20Rng::seed_from_u64(6));
    let mut stored = <Wiped as Polynomial<Share>>::create(3);
    stored.fill(&five(&Scalar::from(77u8)), &mut rng, 3).unwrap();
    let secrets = |stored: &Wiped| stored.0.iter().flat_map(|s| [s.identifier.0, s.value.0]).collect::<Vec<_>>();
    let zero = curve25519_dalek_5::Scalar::ZERO;
    assert_eq!(secrets(&stored).iter().filter(|scalar| **scalar != zero).count(), 3);
    zeroize::Zeroize::zeroize(&mut stored);
    assert_eq!(secrets(&stored), [zero; 6]);
}

/// A source of randomness for their own functions.
struct TheirRng(ChaCha20Rng);

impl vsss_rs::elliptic_curve::rand_core::TryRng for TheirRng {
    type Error = std::convert::Infallible;
    fn try_next_u32(&mut self) -> Result<u32, Self::Error> {
        Ok(rand_core::RngCore::next_u32(&mut self.0))
    }
    fn try_next_u64(&mut self) -> Result<u64, Self::Error> {
        Ok(rand_core::RngCore::next_u64(&mut self.0))
    }
    fn try_fill_bytes(&mut self, bytes: &mut [u8]) -> Result<(), Self::Error> {
        rand_core::RngCore::fill_bytes(&mut self.0, bytes);
        Ok(())
    }
}

impl vsss_rs::elliptic_curve::rand_core::TryCryptoRng for TheirRng {}
