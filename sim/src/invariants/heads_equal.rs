//! Heads (roots of the one history) are equal at equal index on all honest nodes; so are outcomes, also as clients are told them.

use symbolon_protocol::id::{Digest, NodeId};
use symbolon_protocol::outcome::Outcome;

use super::{HEADS_EQUAL, Violation, safety};

/// Roots and digests of outcomes, by index.
#[derive(Default)]
pub(super) struct Heads(Vec<(Digest, Digest)>);

impl Heads {
    pub(super) fn ordered(&mut self, root: Digest, outcome: &Outcome) {
        self.0.push((root, outcome.digest()));
    }

    fn at(&self, index: u64) -> Option<&(Digest, Digest)> {
        self.0.get(usize::try_from(index).ok()?)
    }

    pub(super) fn applied(&self, node: NodeId, index: u64, root: Digest) -> Result<(), Violation> {
        match self.at(index) {
            Some((expected, _)) if *expected == root => Ok(()),
            expected => {
                let expected = expected.map(|(root, _)| root);
                let what = format!("node {node} has root {root} at index {index}, it should be {expected:?}");
                Err(safety(HEADS_EQUAL, what))
            }
        }
    }

    pub(super) fn told(&self, node: NodeId, index: u64, outcome: &Outcome) -> Result<(), Violation> {
        if self.at(index).is_some_and(|(_, expected)| *expected == outcome.digest()) {
            return Ok(());
        }
        Err(safety(HEADS_EQUAL, format!("node {node} told a client that the outcome at index {index} is {outcome:?}")))
    }
}
