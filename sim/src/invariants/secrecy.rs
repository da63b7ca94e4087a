//! Fewer than t nodes know nothing of a key: all that they hold over the whole run, as linear equations in all that was drawn at
//! random, does not tell the constant term.
//!
//! [`SECRET`]: the same nodes all the time, with everything that they ever held. [`MOBILE`]: others in each epoch, with what they
//! held in it; a share that outlives the word that it is erased is held in a later epoch too.

use std::collections::BTreeMap;

use symbolon_protocol::id::{Epoch, NodeId};

use super::{MOBILE, SECRET, Violation, safety};
use crate::draw::Draw;
use crate::secrecy::span::Span;
use crate::secrecy::{Fact, Ledger, Place};

/// Choices of nodes in each epoch that are tried when there are too many to try all.
const CHOICES: u64 = 24;

/// Choices of nodes as bits: what they know so far, and how many facts that is made of.
#[derive(Default)]
pub(super) struct Secrecy {
    spans: BTreeMap<(Place, u32), (Span, usize)>,
}

/// Every choice of `size` of `count` nodes, as bits.
fn choices(count: usize, size: usize) -> Vec<u32> {
    (0..1u32 << count.min(16)).filter(|mask| mask.count_ones() as usize == size).collect()
}

fn has(mask: u32, nodes: &[NodeId], node: NodeId) -> bool {
    nodes.iter().position(|other| *other == node).is_some_and(|at| (mask >> at) & 1 == 1)
}

fn names(mask: u32, nodes: &[NodeId]) -> String {
    let chosen = nodes.iter().filter(|node| has(mask, nodes, **node));
    chosen.map(NodeId::to_string).collect::<Vec<_>>().join(", ")
}

impl Secrecy {
    /// The same nodes all the time, for one version. True when there was something to look at.
    pub(super) fn check(&mut self, ledger: &Ledger, place: Place, nodes: &[NodeId]) -> Result<bool, Violation> {
        let Some(key) = ledger.key(&place) else { return Ok(false) };
        let Some(threshold) = ledger.attempts(place).map(|attempt| attempt.threshold).min() else { return Ok(false) };
        let facts = ledger.facts(&place);
        for mask in choices(nodes.len(), threshold - 1) {
            let (span, used) = self.spans.entry((place, mask)).or_default();
            for fact in facts.iter().skip(*used).filter(|fact| has(mask, nodes, fact.node)) {
                span.insert(&fact.row);
            }
            *used = facts.len();
            if span.contains(key) {
                let what = format!("nodes {} know version {} of key {}", names(mask, nodes), place.1, place.0);
                return Err(safety(SECRET, format!("{what}, which takes {threshold}")));
            }
        }
        Ok(true)
    }
}

/// Others in each epoch, for one version.
pub(super) fn mobile(ledger: &Ledger, place: Place, nodes: &[NodeId], draw: &mut Draw) -> Result<(), Violation> {
    let Some(key) = ledger.key(&place) else { return Ok(()) };
    let mut by_epoch: BTreeMap<Epoch, Vec<&Fact>> = BTreeMap::new();
    for fact in ledger.facts(&place) {
        by_epoch.entry(fact.epoch).or_default().push(fact);
    }
    let sizes = ledger.attempts(place).map(|attempt| (attempt.epoch, attempt.threshold - 1));
    let sets: BTreeMap<Epoch, Vec<u32>> = sizes.map(|(epoch, size)| (epoch, choices(nodes.len(), size))).collect();
    let all = sets.values().fold(1u64, |all, sets| all.saturating_mul(sets.len() as u64));
    for number in 0..all.min(CHOICES) {
        let mut rest = number;
        let mut span = Span::default();
        let mut chosen = Vec::new();
        for (epoch, sets) in &sets {
            let count = (sets.len() as u64).max(1);
            let at = if all <= CHOICES { rest % count } else { draw.below(count) };
            rest /= count;
            let Some(mask) = usize::try_from(at).ok().and_then(|at| sets.get(at)) else { continue };
            chosen.push(format!("{} in epoch {epoch}", names(*mask, nodes)));
            let facts = by_epoch.get(epoch).into_iter().flatten();
            facts.filter(|fact| has(*mask, nodes, fact.node)).for_each(|fact| span.insert(&fact.row));
        }
        if span.contains(key) {
            let what = format!("nodes {} together know version {} of key {}", chosen.join(", "), place.1, place.0);
            return Err(safety(MOBILE, what));
        }
    }
    Ok(())
}
