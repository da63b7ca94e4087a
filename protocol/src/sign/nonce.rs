//! Nonces: made for one session, kept in memory for seconds, used once.
//!
//! A nonce that answers two packages gives the share away. Therefore the type has neither `Clone` nor an encoding, the pool
//! gives it out by value and forgets it before anything is computed, and a restart forgets all of them.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::Arc;

use rand_core::{CryptoRng, RngCore};

use super::arithmetic::Nonces;
use super::batch::{self, DecodedPairs, Packages};
use super::key::HolderShare;
use super::{CheckedSigners, CommitmentPair, Commitments, Round1, Round2, Shares};
use crate::error::{ErrorCode, Refusal};
use crate::id::{Digest, NodeId, SigningSession};
use crate::limits;
use crate::request::VerifiedRequest;

/// Messages of all open sessions together, bytes.
const OPEN_MESSAGE_BYTES: usize = 256 << 20;

/// Commitment pairs in the packages of all answers together; 64 bytes each.
const ANSWER_PAIRS: usize = 1 << 18;

/// A coordinator and a session that it chose.
pub(super) type Slot = (NodeId, SigningSession);

/// The nonces of one session, one pair for each message.
pub struct OneShotNonces(Vec<Nonces>);

impl OneShotNonces {
    /// Makes `count` pairs and the commitments to them.
    pub(super) fn generate(
        share: &HolderShare,
        count: usize,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Self, Vec<CommitmentPair>), Refusal> {
        let (mut nonces, mut commitments) = (Vec::with_capacity(count), Vec::with_capacity(count));
        for _ in 0..count {
            let pair = share.group().backend().commit(share, rng)?;
            commitments.push(*pair.commitment().encoded());
            nonces.push(pair);
        }
        Ok((Self(nonces), commitments))
    }
    /// The commitments, as points: nothing to check.
    pub(super) fn commitments(&self) -> DecodedPairs {
        DecodedPairs(self.0.iter().map(|pair| pair.commitment().clone()).collect())
    }
    /// Computes the shares. The nonces are gone afterwards, also when it fails.
    pub(super) fn sign(self, share: &HolderShare, packages: &Packages) -> Result<Vec<[u8; 32]>, Refusal> {
        batch::sign(share, self.0, packages)
    }
}

impl fmt::Debug for OneShotNonces {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "OneShotNonces({} pairs, not shown)", self.0.len())
    }
}

/// A session that waits for its package.
#[derive(Debug)]
pub(super) struct Open {
    /// When the nonces were made.
    pub(super) created_ms: u64,
    /// What was asked; its messages were checked against the request.
    pub(super) round1: Arc<Round1>,
    /// The request.
    pub(super) request: Arc<VerifiedRequest>,
    /// What was answered.
    pub(super) commitments: Arc<Commitments>,
    /// The secret part.
    pub(super) nonces: OneShotNonces,
}

impl Open {
    fn message_bytes(&self) -> usize {
        bytes_of(&self.round1)
    }
    fn is_old(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.created_ms) > limits::NONCE_MS
    }
}

fn pairs_of(round2: &Round2) -> usize {
    round2.signers.iter().map(|signer| signer.pairs.len()).sum()
}

fn bytes_of(round1: &Round1) -> usize {
    round1.messages.iter().map(|message| message.0.len()).sum()
}

/// A session whose nonces are used.
#[derive(Debug)]
pub(super) struct Answer {
    /// Digest of the package that used them.
    pub(super) package: Digest,
    /// The package.
    pub(super) signers: Arc<Round2>,
    /// The request.
    pub(super) request: Arc<VerifiedRequest>,
    /// The answer; none while it is being computed, or when that failed.
    pub(super) shares: Option<Shares>,
}

/// The open sessions of a holder and its latest answers.
#[derive(Debug, Default)]
pub struct NoncePool {
    open: BTreeMap<Slot, Open>,
    /// Open sessions by the sequence number of their first pair: the oldest first.
    ages: BTreeMap<u64, Slot>,
    pairs: usize,
    message_bytes: usize,
    next_sequence: u64,
    answers: BTreeMap<Slot, Answer>,
    answer_pairs: usize,
    /// Exactly the keys of `answers`, the oldest first.
    answer_order: VecDeque<Slot>,
}

impl NoncePool {
    /// Nonce pairs that are open.
    #[must_use]
    pub fn open_pairs(&self) -> usize {
        self.pairs
    }

    /// Forgets nonces that outlived their time.
    pub(super) fn expire(&mut self, now_ms: u64) {
        while let Some((_, slot)) = self.ages.first_key_value() {
            let slot = *slot;
            if self.open.get(&slot).is_some_and(|open| !open.is_old(now_ms)) {
                return;
            }
            if self.remove(&slot).is_none() {
                self.ages.pop_first();
            }
        }
    }

    /// Checks that another session fits in.
    ///
    /// # Errors
    /// `overloaded`.
    pub(super) fn check_room(&self, round1: &Round1) -> Result<(), Refusal> {
        let pairs = self.pairs.saturating_add(round1.messages.len());
        let bytes = self.message_bytes.saturating_add(bytes_of(round1));
        if pairs <= limits::OPEN_NONCES && bytes <= OPEN_MESSAGE_BYTES {
            return Ok(());
        }
        Err(Refusal::new(ErrorCode::Overloaded, "this node keeps as many nonces open as it can"))
    }

    /// Sequence numbers for `count` pairs, never given out before in this start: the first of them.
    ///
    /// # Errors
    /// `internal` when they are used up.
    pub(super) fn reserve(&mut self, count: usize) -> Result<u64, Refusal> {
        let first = self.next_sequence;
        let next = u64::try_from(count.max(1)).ok().and_then(|count| first.checked_add(count));
        self.next_sequence =
            next.ok_or_else(|| Refusal::new(ErrorCode::Internal, "the sequence numbers of nonces are used up"))?;
        Ok(first)
    }

    /// Opens a session; its sequence numbers come from [`NoncePool::reserve`].
    pub(super) fn insert(&mut self, slot: Slot, open: Open) {
        self.remove(&slot);
        self.pairs = self.pairs.saturating_add(open.nonces.0.len());
        self.message_bytes = self.message_bytes.saturating_add(open.message_bytes());
        self.ages.insert(open.commitments.first_sequence, slot);
        self.open.insert(slot, open);
    }

    /// An open session that is not too old.
    pub(super) fn get(&self, slot: &Slot, now_ms: u64) -> Option<&Open> {
        self.open.get(slot).filter(|open| !open.is_old(now_ms))
    }

    /// Takes the nonces of a session out, for good, and remembers the one package that they are for.
    pub(super) fn take(&mut self, slot: &Slot, signers: &CheckedSigners, now_ms: u64) -> Option<OneShotNonces> {
        let open = self.remove(slot).filter(|open| !open.is_old(now_ms))?;
        let CheckedSigners { package, round2, .. } = signers;
        let answer = Answer { package: *package, signers: Arc::clone(round2), request: open.request, shares: None };
        self.answer_pairs = self.answer_pairs.saturating_add(pairs_of(round2));
        if self.answers.insert(*slot, answer).is_none() {
            self.answer_order.push_back(*slot);
        }
        while self.answer_order.len() > limits::CACHED_ANSWERS || self.answer_pairs > ANSWER_PAIRS {
            let Some(oldest) = self.answer_order.pop_front() else { break };
            let pairs = self.answers.remove(&oldest).map_or(0, |answer| pairs_of(&answer.signers));
            self.answer_pairs = self.answer_pairs.saturating_sub(pairs);
        }
        Some(open.nonces)
    }

    /// The answer of a session whose nonces are used; none when it was forgotten.
    pub(super) fn answer(&self, slot: &Slot) -> Option<&Answer> {
        self.answers.get(slot)
    }

    /// Keeps an answer for identical repeats.
    pub(super) fn keep(&mut self, slot: &Slot, shares: Shares) {
        if let Some(answer) = self.answers.get_mut(slot).filter(|answer| answer.package == shares.package) {
            answer.shares = Some(shares);
        }
    }

    fn remove(&mut self, slot: &Slot) -> Option<Open> {
        let open = self.open.remove(slot)?;
        self.ages.remove(&open.commitments.first_sequence);
        self.pairs = self.pairs.saturating_sub(open.nonces.0.len());
        self.message_bytes = self.message_bytes.saturating_sub(open.message_bytes());
        Some(open)
    }
}
