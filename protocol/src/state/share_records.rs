//! Records of share operations: what runs, how earlier ones ended, and which shares are still out.

use std::collections::{BTreeMap, BTreeSet};

use crate::certificate::{CertificateCore, Ready};
use crate::generate::{Ceremony, FaultKind};
use crate::id::{Epoch, NodeId, Threshold};
use crate::redistribute::Dealings;

/// Why a share operation runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// A client asked for a version.
    Generate,
    /// A client asked for new shares.
    Refresh,
    /// A client asked for another roster or threshold.
    Reshare,
    /// The schedule of the key.
    Schedule,
    /// A node of the roster has no usable share.
    Need(NodeId),
}
crate::wire_enum!(Trigger { 1 => Generate, 2 => Refresh, 3 => Reshare, 4 => Schedule, 5 => Need(node) });

/// How an attempt ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AttemptRecord {
    /// Why its operation ran.
    pub trigger: Trigger,
    /// Its epoch.
    pub epoch: Epoch,
    /// Its roster.
    pub roster: Vec<NodeId>,
    /// Its threshold.
    pub threshold: Threshold,
    /// State time of its end.
    pub ended_ms: u64,
    /// Why it came to nothing; none when it was committed.
    pub fault: Option<FaultKind>,
    /// Who said so; none when its time ran out by the replicated clock.
    pub reporter: Option<NodeId>,
    /// Whom the reporter blames, or who kept the others waiting.
    pub culprits: Vec<NodeId>,
}
crate::wire_struct!(AttemptRecord { trigger, epoch, roster, threshold, ended_ms, fault, reporter, culprits });

/// How many nodes may say that they erased a share and keep it.
const LIARS: usize = 1;

/// Shares of one epoch that were handed out. They count until their holders proved erasure, also when the attempt that made
/// them came to nothing: they are shares of the same key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShareSet {
    /// Their epoch.
    pub epoch: Epoch,
    /// Who has one, or may have.
    pub holders: Vec<NodeId>,
    /// So many of them are the key.
    pub threshold: Threshold,
    /// Holders that proved erasure.
    pub erased: BTreeSet<NodeId>,
}
crate::wire_struct!(ShareSet { epoch, holders, threshold, erased });

impl ShareSet {
    /// Holders that have not proved erasure.
    #[must_use]
    pub fn owing(&self) -> Vec<NodeId> {
        self.holders.iter().copied().filter(|node| !self.erased.contains(node)).collect()
    }
    /// Whether fewer shares than the threshold can be left though one of the proofs is a lie. Where nodes left without a proof,
    /// their shares are leaked, and no more can be had than the proofs of all others; as many leaked as are the key stay open.
    #[must_use]
    pub fn is_closed(&self, left: impl Fn(NodeId) -> bool) -> bool {
        let (owing, threshold) = (self.owing(), self.threshold.get());
        owing.len() < threshold && (owing.len().saturating_add(LIARS) < threshold || owing.into_iter().all(left))
    }
}

/// A share operation that is not finished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OperationRecord {
    /// Why it runs.
    pub trigger: Trigger,
    /// The attempt that runs.
    pub ceremony: Ceremony,
    /// Spares that are left, in order; for a generation.
    pub spares: Vec<NodeId>,
    /// Number of the attempt, from 1.
    pub attempt: u32,
    /// State time at which it began.
    pub begun_ms: u64,
    /// When the attempt may be ended by anybody, state time.
    pub deadline_ms: u64,
    /// READY votes so far.
    pub ready: BTreeMap<NodeId, ReadyRecord>,
    /// The shares that are moved; none for a generation.
    pub moved: Option<Moved>,
}
crate::wire_struct!(OperationRecord { trigger, ceremony, spares, attempt, begun_ms, deadline_ms, ready, moved });

/// What an attempt of a redistribution begins from, and how far it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Moved {
    /// The epoch that is moved.
    pub base: CertificateCore,
    /// What was dealt and acknowledged.
    pub dealings: Dealings,
}
crate::wire_struct!(Moved { base, dealings });

/// A READY vote of an attempt that runs, with what it votes for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadyRecord {
    /// What is voted for.
    pub core: CertificateCore,
    /// The vote.
    pub ready: Ready,
}
crate::wire_struct!(ReadyRecord { core, ready });
