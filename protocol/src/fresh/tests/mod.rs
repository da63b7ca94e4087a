//! Voters, their histories and a node that asks them.

mod barrier;
mod lease;
mod model;
mod report;
mod withdrawn;

use std::collections::BTreeMap;

use super::{Lease, Notice, Position, Quorums, SignedPosition};
use crate::contribute::Clocks;
use crate::error::ErrorCode;
use crate::id::{BootId, ClusterId, Digest, NodeId};
use crate::identity::{Identity, tagged_hash};
use crate::limits;
use crate::schema::replicated as schema;
use crate::wire::encode;

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 32]);

fn node(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

fn identity(number: u16) -> Identity {
    Identity::from_seed(&[u8::try_from(number).unwrap(); 32])
}

/// The root at an index of a history; histories with another number differ everywhere.
fn root(history: u8, index: u64) -> Digest {
    tagged_hash("a root for tests", &[&[history][..], &index.to_be_bytes()].concat())
}

/// Tables with the roots of history 0 up to an index.
fn tables(applied: u64) -> BTreeMap<Vec<u8>, Vec<u8>> {
    (0..=applied).map(|index| (schema::root(index), encode(&root(0, index)))).collect()
}

fn nonce(question: u64) -> [u8; 16] {
    let mut nonce = [9; 16];
    nonce[..8].copy_from_slice(&question.to_be_bytes());
    nonce
}

fn position(of: u16, question: u64, applied: u64, head: Digest) -> Position {
    let boot = BootId { counter: 1, random: [1; 16] };
    Position { node: node(of), boot, nonce: nonce(question), applied, head, membership: 0 }
}

/// What an honest voter answers that has applied so much.
fn honest(of: u16, question: u64, applied: u64) -> SignedPosition {
    position(of, question, applied, root(0, applied)).sign(&identity(of), &CLUSTER)
}

/// Node 1 of so many voters, ready, with a state up to an index.
struct World {
    lease: Lease,
    applied: u64,
    questions: u64,
}

impl World {
    fn new(voters: u16, applied: u64) -> Self {
        let mut lease = Lease::new(node(1), CLUSTER, []);
        lease.set_voters((1..=voters).map(|number| (node(number), identity(number).public())).collect());
        lease.set_ready();
        Self { lease, applied, questions: 0 }
    }
    /// Asks; the number of the question.
    fn ask(&mut self, now_ms: u64) -> u64 {
        self.questions += 1;
        let _ = self.lease.ask(now_ms, nonce(self.questions));
        self.questions
    }
    fn hear(&mut self, now_ms: u64, answer: &SignedPosition) -> Vec<Notice> {
        let from = answer.position.node;
        self.lease.answer(now_ms, from, answer, Some(self.applied), &tables(self.applied)).unwrap()
    }
    fn apply(&mut self, now_ms: u64, applied: u64) -> Vec<Notice> {
        self.applied = applied;
        self.lease.applied(now_ms, Some(applied), &tables(applied)).unwrap()
    }
    fn fresh(&self, now_ms: u64, staleness_ms: u64) -> bool {
        self.lease.fresh(now_ms, staleness_ms).is_some()
    }
}

#[test]
fn quorums_meet_in_somebody_honest() {
    let expected = [(1, 1), (2, 2), (2, 3), (3, 3), (3, 4), (4, 4), (4, 5)];
    for (n, (lease, barrier)) in (1..=limits::VOTERS).zip(expected) {
        let quorums = Quorums::of(n);
        assert_eq!((quorums.lease, quorums.barrier), (lease, barrier), "{n} voters");
        assert!(barrier <= n);
        let liars = u32::from(n > 1);
        // Every pair of sets, as bits.
        let sets = |size: usize| (0u32..1 << n).filter(move |set| set.count_ones() as usize == size);
        for of_lease in sets(lease) {
            assert!(sets(barrier).all(|of_barrier| (of_lease & of_barrier).count_ones() > liars), "{n} voters");
            assert!(sets(lease).all(|other| of_lease & other != 0), "{n} voters");
        }
    }
}

#[test]
fn a_state_that_hears_of_no_time_is_not_fresh() {
    let now_ms = 1_800_000_000_000;
    let at = |behind: u64| Clocks { now_ms, state_ms: now_ms - behind }.check_behind();
    assert!(at(0).is_ok() && at(limits::STATE_BEHIND_MS).is_ok());
    assert_eq!(at(limits::STATE_BEHIND_MS + 1).unwrap_err().code, ErrorCode::NotFresh);
    assert!(Clocks { now_ms, state_ms: now_ms + 5_000 }.check_behind().is_ok(), "a clock that is behind is no reason");
}
