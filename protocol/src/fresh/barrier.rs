//! What a request that takes a right away waits for before it is answered.
//!
//! Times are milliseconds of a clock that goes on while the machine sleeps and that nobody sets.

use std::collections::{BTreeMap, BTreeSet};

use super::electorate::{self, Electorate};
use super::position::SignedPosition;
use crate::id::NodeId;
use crate::limits;

/// Against whom it is certain that a right is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Enforced {
    /// It is ordered, and gone where its entry has arrived.
    No,
    /// Gone everywhere, as long as no voter lies.
    Crash,
    /// Gone everywhere, though one voter may lie.
    Byzantine,
}
crate::wire_enum!(Enforced { 1 => No, 2 => Crash, 3 => Byzantine });

impl Enforced {
    /// Its name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Crash => "crash",
            Self::Byzantine => "byzantine",
        }
    }
}

/// How far a barrier is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Progress {
    /// Until this time nothing changes, unless another position arrives.
    Until(u64),
    /// This is what can be had.
    Done(Enforced),
}

/// Gathers the positions that show an entry to be known. It lasts from one try of the same request to the next.
#[derive(Debug)]
pub struct Barrier {
    index: u64,
    /// On whom a lease may rest.
    electorates: Vec<Electorate>,
    /// Whose shares are concerned, and how stale each of them may be, milliseconds.
    holders: BTreeMap<NodeId, u64>,
    positions: BTreeMap<NodeId, SignedPosition>,
    /// Since when as many voters as a lease needs have confirmed.
    majority_ms: Option<u64>,
    /// Since when as many voters as a barrier needs have confirmed.
    quorum_ms: Option<u64>,
}

impl Barrier {
    /// For the entry with an index.
    #[must_use]
    pub fn new(index: u64, electorates: Vec<Electorate>, holders: BTreeMap<NodeId, u64>) -> Self {
        Self { index, electorates, holders, positions: BTreeMap::new(), majority_ms: None, quorum_ms: None }
    }

    /// On whom a lease may rest, by what this node has applied since.
    pub fn set_electorates(&mut self, now_ms: u64, electorates: Vec<Electorate>) {
        self.electorates = electorates;
        self.weigh(now_ms);
    }

    /// Whose positions are missing.
    #[must_use]
    pub fn missing(&self) -> BTreeSet<NodeId> {
        let confirmed = |node| self.positions.contains_key(&node);
        let holders = self.holders.keys().copied().filter(|node| !confirmed(*node));
        electorate::missing(&self.electorates, confirmed).into_iter().chain(holders).collect()
    }

    /// Takes a position whose signature was checked, and whose head is that of this node.
    pub fn take(&mut self, now_ms: u64, signed: SignedPosition) {
        if signed.position.applied < self.index {
            return;
        }
        self.positions.insert(signed.position.node, signed);
        self.weigh(now_ms);
    }

    fn weigh(&mut self, now_ms: u64) {
        let level = electorate::level(&self.electorates, |node| self.positions.contains_key(&node));
        let since = |mark: Option<u64>, wanted| (level >= wanted).then_some(mark.unwrap_or(now_ms));
        self.majority_ms = since(self.majority_ms, Enforced::Crash);
        self.quorum_ms = since(self.quorum_ms, Enforced::Byzantine);
    }

    /// The longest that a holder which did not confirm may go on by what it knew, milliseconds; 0 when all did.
    #[must_use]
    pub fn staleness_ms(&self) -> u64 {
        let missing = self.holders.iter().filter(|(node, _)| !self.positions.contains_key(node));
        missing.map(|(_, staleness_ms)| *staleness_ms).max().unwrap_or(0)
    }

    /// How far it is for a client that waits since `begun_ms`. `reachable` says whom there is a chance to hear from.
    #[must_use]
    pub fn progress(&self, begun_ms: u64, now_ms: u64, reachable: impl Fn(NodeId) -> bool) -> Progress {
        if let Some(at) = self.quorum_ms {
            return self.after_wait(begun_ms, now_ms, at, Enforced::Byzantine);
        }
        let there = |node| self.positions.contains_key(&node) || reachable(node);
        let hopeless = electorate::level(&self.electorates, there) < Enforced::Byzantine;
        let patience = if hopeless { limits::BARRIER_HOPELESS_MS } else { limits::BARRIER_MS };
        let collecting = begun_ms.saturating_add(patience);
        if now_ms < collecting {
            return Progress::Until(collecting);
        }
        match self.majority_ms {
            Some(at) => self.after_wait(begun_ms, now_ms, at, Enforced::Crash),
            None => Progress::Done(Enforced::No),
        }
    }

    fn after_wait(&self, begun_ms: u64, now_ms: u64, confirmed_ms: u64, enforced: Enforced) -> Progress {
        let staleness = self.staleness_ms();
        // 1.05 W: the rates of two clocks differ by less than a twentieth.
        let over = confirmed_ms.saturating_add(staleness).saturating_add(staleness.div_ceil(20));
        if now_ms >= over {
            return Progress::Done(enforced);
        }
        if over > begun_ms.saturating_add(limits::BARRIER_LONGEST_MS) {
            return Progress::Done(Enforced::No);
        }
        Progress::Until(over)
    }

    /// The index.
    #[must_use]
    pub fn index(&self) -> u64 {
        self.index
    }
    /// The holders.
    #[must_use]
    pub fn holders(&self) -> BTreeSet<NodeId> {
        self.holders.keys().copied().collect()
    }
    /// The positions so far, ascending by node.
    #[must_use]
    pub fn positions(&self) -> Vec<SignedPosition> {
        self.positions.values().copied().collect()
    }
}
