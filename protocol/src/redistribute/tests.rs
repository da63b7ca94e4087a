//! What the tests of redistribution share: keys whose shares a test dealt itself, attempts at them, and votes made by hand.

mod certificates;
mod crossing;
mod one_node;
mod secrecy;
mod suspects;
mod vectors;
mod votes;
mod whole_runs;

use std::sync::Arc;

use curve25519_dalek::{EdwardsPoint, Scalar};
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use super::*;
use crate::generate::{Base, OwnVotes, Participation, ShareSecret, Vote};
use crate::id::{ClusterId, Digest, Epoch, KeyId, KeyVersion, Name, OperationId, Threshold};
use crate::identity::Identity;
use crate::request::Suite;
use crate::step::{Step, Write};
use crate::wire::{decode, encode};

fn node(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

fn nodes(numbers: &[u16]) -> Vec<NodeId> {
    numbers.iter().copied().map(node).collect()
}

fn identity(node: NodeId) -> Identity {
    Identity::from_seed(&[u8::try_from(node.get()).unwrap(); 32])
}

fn key_of(node: NodeId) -> Option<PublicKey> {
    (node.get() < 100).then(|| identity(node).public())
}

fn point(scalar: &Scalar) -> [u8; 32] {
    EdwardsPoint::mul_base(scalar).compress().to_bytes()
}

/// A polynomial, by its coefficients.
#[derive(Clone)]
struct Poly(Vec<Scalar>);

impl Poly {
    fn random(constant: Option<Scalar>, t: usize, rng: &mut ChaCha20Rng) -> Self {
        let mut coefficients: Vec<Scalar> = (0..t).map(|_| Scalar::random(rng)).collect();
        coefficients[0] = constant.unwrap_or(coefficients[0]);
        Self(coefficients)
    }
    fn at(&self, x: NodeId) -> Scalar {
        self.0.iter().rev().fold(Scalar::ZERO, |sum, coefficient| sum * Scalar::from(x.get()) + coefficient)
    }
    fn commitments(&self) -> Vec<[u8; 32]> {
        self.0.iter().map(point).collect()
    }
}

/// A key in some epoch: what is known of it, and all its shares.
struct Key {
    core: CertificateCore,
    shares: BTreeMap<NodeId, ShareSecret>,
}

impl Key {
    /// In its first epoch, with the shares on a polynomial.
    fn of(poly: &Poly, roster: &[u16]) -> Self {
        let roster = nodes(roster);
        let core = CertificateCore {
            cluster: ClusterId::from_bytes([1; 32]),
            key: KeyId::from_bytes([3; 32]),
            name: Name::new("release").unwrap(),
            version: KeyVersion::FIRST,
            suite: Suite::Ed25519,
            public_key: point(&poly.0[0]),
            holders: roster.clone(),
            threshold: Threshold::new(poly.0.len(), roster.len()).unwrap(),
            membership: 0,
            epoch: Epoch::FIRST,
            verifying_shares: roster.iter().map(|i| point(&poly.at(*i))).collect(),
            transcript: Digest::from_bytes([4; 32]),
            previous: None,
            roster,
        };
        let shares = core.roster.iter().map(|i| (*i, ShareSecret::new(poly.at(*i).as_bytes()))).collect();
        Self { core, shares }
    }

    fn new(roster: &[u16], t: usize, seed: u64) -> Self {
        Self::of(&Poly::random(None, t, &mut ChaCha20Rng::seed_from_u64(seed)), roster)
    }

    fn scalar(&self, node: NodeId) -> Scalar {
        Scalar::from_canonical_bytes(*self.shares[&node].expose()).unwrap()
    }

    /// An attempt from this epoch to another roster and threshold; all holders may deal.
    fn moves(&self, roster: &[u16], holders: &[u16], t: usize) -> Ceremony {
        let mut dealers = self.core.holders.clone();
        dealers.sort_unstable();
        Ceremony {
            cluster: self.core.cluster,
            operation: OperationId::from_bytes([2; 32]),
            key: self.core.key,
            name: self.core.name.clone(),
            version: self.core.version,
            suite: self.core.suite,
            roster: nodes(roster),
            holders: nodes(holders),
            threshold: Threshold::new(t, roster.len()).unwrap(),
            membership: 0,
            epoch: self.core.epoch.next().unwrap(),
            base: Some(Base { core: self.core.digest(), dealers }),
        }
    }

    /// An attempt to renew the shares.
    fn refresh(&self) -> Ceremony {
        let roster: Vec<u16> = self.core.roster.iter().map(|i| i.get()).collect();
        self.moves(&roster, &roster, self.core.threshold.get())
    }

    /// A polynomial that an honest dealer could draw.
    fn dealing(&self, dealer: u16, ceremony: &Ceremony, rng: &mut ChaCha20Rng) -> Poly {
        Poly::random(Some(self.scalar(node(dealer))), ceremony.threshold.get(), rng)
    }
}

fn dealt(ceremony: &Ceremony, dealer: u16, commitments: Vec<[u8; 32]>) -> DealingVote {
    DealingVote::dealt(ceremony, node(dealer), commitments, &identity(node(dealer)))
}

fn acknowledged(ceremony: &Ceremony, holder: u16, good: &[u16], bad: &[u16]) -> DealingVote {
    DealingVote::acknowledged(ceremony, node(holder), nodes(good), nodes(bad), &identity(node(holder)))
}

/// A key, an attempt at it, and the log of the attempt.
struct Log {
    key: Key,
    ceremony: Ceremony,
    dealings: Dealings,
}

impl Log {
    fn new(key: Key, ceremony: Ceremony) -> Self {
        Self { key, ceremony, dealings: Dealings::default() }
    }

    fn take(&mut self, vote: &DealingVote) -> Result<(), Refusal> {
        // Everything travels and is stored as bytes.
        let vote = decode(&encode(vote)).unwrap();
        let before = self.dealings.clone();
        let taken = self.dealings.take(&self.ceremony, &self.key.core, &vote, key_of);
        assert_eq!(decode(&encode(&self.dealings)), Ok(self.dealings.clone()));
        assert!(taken.is_ok() || self.dealings == before, "a refusal changes nothing");
        taken
    }

    fn suspects(&self) -> (Vec<u16>, Vec<u16>) {
        let Suspects { without_dealers, without_holders } = self.dealings.suspects(&self.ceremony, &self.key.core);
        let numbers = |list: Vec<NodeId>| list.iter().map(|i| i.get()).collect();
        (numbers(without_dealers), numbers(without_holders))
    }
}
