//! On whose word a lease may rest: the voters of now, and those from before a change of which not enough of them are known to know.
//!
//! A holder that never heard of a change asks the voters from before it. A link proves the change with a majority of them, and
//! that leaves so many that they and one liar are a majority, too. Only when as many as a barrier needs have signed something
//! that lies behind the change can nobody hold a lease under the old set: by heads of the link, or by later positions. Or when
//! all have whose lease could matter.

use std::collections::BTreeSet;

use super::Quorums;
use super::barrier::Enforced;
use crate::id::NodeId;

/// Voters on whose word a lease may rest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Electorate {
    /// The voters.
    pub voters: BTreeSet<NodeId>,
    /// Whose leases could rest on them: members of then, without those that left since. These have no share that is needed, or
    /// one that counts as leaked.
    pub lessees: BTreeSet<NodeId>,
    /// Who signed the head of the change that ended this electorate.
    pub passed: BTreeSet<NodeId>,
}

impl Electorate {
    /// Of voters who are all the members, and of whom nobody is known to know more.
    #[must_use]
    pub fn of(voters: BTreeSet<NodeId>) -> Self {
        Self { lessees: voters.clone(), voters, passed: BTreeSet::new() }
    }

    /// Voters who neither signed the change nor are among these.
    pub fn missing(&self, confirmed: impl Fn(NodeId) -> bool) -> impl Iterator<Item = NodeId> {
        self.voters.iter().copied().filter(move |node| !self.knows(*node, &confirmed))
    }

    /// Lessees of whom the same is true.
    pub fn lessees_missing(&self, confirmed: impl Fn(NodeId) -> bool) -> impl Iterator<Item = NodeId> {
        self.lessees.iter().copied().filter(move |node| !self.knows(*node, &confirmed))
    }

    fn knows(&self, node: NodeId, confirmed: impl Fn(NodeId) -> bool) -> bool {
        self.passed.contains(&node) || confirmed(node)
    }

    /// Against whom it is certain that no lease rests on these voters any more, when these nodes have confirmed.
    #[must_use]
    pub fn level(&self, confirmed: impl Fn(NodeId) -> bool) -> Enforced {
        let quorums = Quorums::of(self.voters.len());
        if self.lessees_missing(&confirmed).next().is_none() {
            return Enforced::Byzantine;
        }
        match self.voters.len() - self.missing(confirmed).count() {
            count if count >= quorums.barrier => Enforced::Byzantine,
            count if count >= quorums.lease => Enforced::Crash,
            _ => Enforced::No,
        }
    }
}

/// The same for all of them: a lease may rest on any.
#[must_use]
pub(super) fn level(electorates: &[Electorate], confirmed: impl Fn(NodeId) -> bool) -> Enforced {
    electorates.iter().map(|electorate| electorate.level(&confirmed)).min().unwrap_or(Enforced::No)
}

/// Who is missing so that all of them could be certain.
#[must_use]
pub(super) fn missing(electorates: &[Electorate], confirmed: impl Fn(NodeId) -> bool) -> BTreeSet<NodeId> {
    electorates.iter().flat_map(|electorate| electorate.missing(&confirmed)).collect()
}
