//! Redistribute: holders of a key deal their shares out anew, to a roster and with a threshold that may be others. The key stays.
//!
//! t holders of the old epoch each share their own share (Feldman) among the new holders; what a new holder got from each, times
//! the Lagrange weights, adds up to its new share of the same key. With the same roster and threshold this is the proactive
//! refresh: old shares and new ones do not fit together. `docs/spec/redistribute.md` has layouts, checks, reasons and vectors.
//!
//! Read [`vote`] (what is said), then here [`Dealings`] (what the log makes of it: which dealings are taken, which core they
//! make, who is suspect), then [`machine`] (who says it when). `arithmetic` computes in public, `bridge` in secret.
//!
//! Never here: sockets, files, clocks, the log. Who drives a machine moves its messages, seals its share, has its votes ordered,
//! and tells it what the log holds.

mod arithmetic;
mod bridge;
mod collect;
pub mod machine;
pub mod vote;

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, reason = "tests")]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::certificate::CertificateCore;
use crate::error::{ErrorCode, Refusal};
use crate::generate::Ceremony;
use crate::id::NodeId;
use crate::identity::PublicKey;

pub use machine::{Advance, Effect, Ignored, Input, Phase, Redistribute, Start, StartRefused};
pub use vote::{DealingVote, SubshareMessage};

use arithmetic::Commitments;

/// What the log holds of one attempt: replicated, and changed by [`Dealings::take`] only.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Dealings {
    /// Commitments of dealers, in log order.
    pub dealt: Vec<(NodeId, Vec<[u8; 32]>)>,
    /// For each holder that spoke: dealers of which it holds a subshare that fits.
    pub acknowledged: BTreeMap<NodeId, BTreeSet<NodeId>>,
    /// Dealer and holder, for each holder that says that the dealer sent it a subshare that does not fit.
    pub accused: BTreeSet<(NodeId, NodeId)>,
    /// Dealer and holder, for each pair that was in dispute in an earlier attempt of the operation.
    pub disputes: BTreeSet<(NodeId, NodeId)>,
    /// What the new shares are made of, once that is fixed. Then nothing changes any more.
    pub result: Option<Chosen>,
}
crate::wire_struct!(Dealings { dealt, acknowledged, accused, disputes, result });

/// The dealing set, and what it makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Chosen {
    /// The dealers, ascending; exactly the threshold of the base.
    pub dealers: Vec<NodeId>,
    /// What every holder votes READY for.
    pub core: CertificateCore,
}
crate::wire_struct!(Chosen { dealers, core });

/// Whom the next attempt should leave out, the worst first: as many from the front as can be spared.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Suspects {
    /// As dealers.
    pub without_dealers: Vec<NodeId>,
    /// As holders.
    pub without_holders: Vec<NodeId>,
}

/// A node in one of its roles.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Role {
    Holder(NodeId),
    Dealer(NodeId),
}

impl Dealings {
    /// Takes a vote: the same on every node, whatever it says.
    ///
    /// A dealer's commitments are taken once; the same ones again change nothing. A holder's word adds to what it said before,
    /// and an accusation takes nothing back that it acknowledged. As soon as every holder has acknowledged t dealers, t being
    /// the threshold of `base`, the first t of them in log order are the dealing set.
    ///
    /// # Errors
    /// Then nothing changed: `wrong_state` when the vote is for another attempt or `base` is not the one of the attempt,
    /// `permission_denied` when the voter has no such part in it, `bad_signature`, `invalid_argument` when what it says makes no
    /// sense: commitments that are not t points of prime order beginning with the dealer's verifying share, other ones than
    /// before, a word that says nothing, is not in order, contradicts itself or names a dealer that is not in the log.
    pub fn take(
        &mut self,
        ceremony: &Ceremony,
        base: &CertificateCore,
        vote: &DealingVote,
        key_of: impl Fn(NodeId) -> Option<PublicKey>,
    ) -> Result<(), Refusal> {
        if !ceremony.follows(base) {
            return Err(vote.refuse(ErrorCode::WrongState, "is for an attempt that does not begin from this epoch"));
        }
        vote.verify(ceremony, key_of)?;
        let senseless = |what| Err(vote.refuse(ErrorCode::InvalidArgument, what));
        let before = (self.dealt.len(), self.said());
        match vote {
            DealingVote::Dealt { node, commitments, .. } => match self.commitments(*node) {
                Some(first) if first == commitments => {}
                Some(_) => return senseless("commits to something else than before"),
                None if !arithmetic::are_sound(commitments, ceremony.threshold.get(), base.verifying_share(*node)) => {
                    return senseless("is not to its own share, or not of the right degree");
                }
                None if self.result.is_none() => self.dealt.push((*node, commitments.clone())),
                None => {}
            },
            DealingVote::Acknowledged { node, dealers, accused, .. } => {
                if !self.makes_sense(dealers, accused) {
                    return senseless("says nothing, or something that cannot be");
                }
                if self.result.is_none() {
                    let good = self.acknowledged.entry(*node).or_default();
                    good.extend(dealers);
                    let bad = accused.iter().filter(|dealer| !good.contains(dealer));
                    self.accused.extend(bad.map(|dealer| (*dealer, *node)));
                }
            }
        }
        if before != (self.dealt.len(), self.said()) {
            // A result that is not sound is no choice; the vote that completed it is kept, because its voter did nothing wrong.
            self.result = self.choose(ceremony, base).and_then(Result::ok);
        }
        Ok(())
    }

    /// Whom to leave out when the time of the attempt is over. Nobody once the dealing set was chosen: then whoever has not voted
    /// READY kept the others waiting.
    ///
    /// First the silent ones: dealers without commitments and holders without a word, each only when others have them. Then
    /// holders that have arranged their share to be nothing. Then pairs in dispute: dealer and holder, when the holder spoke and
    /// did not acknowledge the dealer, in this attempt or an earlier one. One of the two is at fault, nobody can say which; so
    /// the one in most disputes is named, then the next, until no dispute is left.
    #[must_use]
    pub fn suspects(&self, ceremony: &Ceremony, base: &CertificateCore) -> Suspects {
        let mut suspects = Suspects::default();
        let Some(origin) = ceremony.base.as_ref().filter(|_| self.result.is_none()) else { return suspects };
        if !self.dealt.is_empty() {
            let silent = origin.dealers.iter().filter(|dealer| self.commitments(**dealer).is_none());
            suspects.without_dealers.extend(silent);
        }
        if !self.acknowledged.is_empty() {
            let silent = ceremony.holders.iter().filter(|holder| !self.acknowledged.contains_key(holder));
            suspects.without_holders.extend(silent);
        }
        if let Some(Err(arranged)) = self.choose(ceremony, base) {
            suspects.without_holders.extend(arranged);
        }
        let mut open = self.in_dispute(ceremony);
        loop {
            let named = |dealer: &NodeId, holder: &NodeId| {
                suspects.without_dealers.contains(dealer) || suspects.without_holders.contains(holder)
            };
            open.retain(|(dealer, holder)| !named(dealer, holder));
            match worst(&open) {
                Some(Role::Dealer(dealer)) => suspects.without_dealers.push(dealer),
                Some(Role::Holder(holder)) => suspects.without_holders.push(holder),
                None => return suspects,
            }
        }
    }

    /// What the next attempt starts with: nothing but the memory of who was in dispute with whom. `ceremony` is the attempt that
    /// ended.
    #[must_use]
    pub fn for_next_attempt(&self, ceremony: &Ceremony) -> Self {
        Self { disputes: self.in_dispute(ceremony), ..Self::default() }
    }

    /// What a dealer committed to.
    #[must_use]
    pub fn commitments(&self, dealer: NodeId) -> Option<&Vec<[u8; 32]>> {
        self.dealt.iter().find(|(node, _)| *node == dealer).map(|(_, commitments)| commitments)
    }

    /// Whether a holder said that it holds a good subshare of a dealer.
    #[must_use]
    pub fn acknowledges(&self, holder: NodeId, dealer: NodeId) -> bool {
        self.acknowledged.get(&holder).is_some_and(|dealers| dealers.contains(&dealer))
    }

    /// How much holders have said: it only grows.
    fn said(&self) -> usize {
        self.acknowledged.values().map(|dealers| dealers.len() + 1).sum::<usize>() + self.accused.len()
    }

    fn makes_sense(&self, dealers: &[NodeId], accused: &[NodeId]) -> bool {
        let ascends = |list: &[NodeId]| list.is_sorted_by(|a, b| a < b);
        let mut named = dealers.iter().chain(accused).peekable();
        named.peek().is_some()
            && ascends(dealers)
            && ascends(accused)
            && named.all(|dealer| self.commitments(*dealer).is_some())
            && !accused.iter().any(|dealer| dealers.contains(dealer))
    }

    /// The first t dealers in log order that every holder acknowledged, and what they make; none while there are fewer. An error
    /// names the holders of [`arithmetic::result`].
    fn choose(&self, ceremony: &Ceremony, base: &CertificateCore) -> Option<Result<Chosen, Vec<NodeId>>> {
        let by_all = |dealer: NodeId| ceremony.holders.iter().all(|holder| self.acknowledges(*holder, dealer));
        let first = self.dealt.iter().filter(|(dealer, _)| by_all(*dealer)).take(base.threshold.get());
        let dealt: Commitments = first.cloned().collect();
        (dealt.len() == base.threshold.get()).then(|| {
            let core = arithmetic::result(ceremony, base, &dealt)?;
            Ok(Chosen { dealers: dealt.into_keys().collect(), core })
        })
    }

    /// Pairs of dealer and holder in dispute, in this attempt or an earlier one.
    fn in_dispute(&self, ceremony: &Ceremony) -> BTreeSet<(NodeId, NodeId)> {
        let mut pairs = self.disputes.clone();
        if self.result.is_some() {
            return pairs;
        }
        for (dealer, _) in &self.dealt {
            let spoke = ceremony.holders.iter().filter(|holder| self.acknowledged.contains_key(holder));
            let without = spoke.filter(|holder| !self.acknowledges(**holder, *dealer));
            pairs.extend(without.map(|holder| (*dealer, *holder)));
        }
        pairs
    }
}

/// The role in most disputes; among equals a dealer, to leave which out costs least. With k liars an honest node has at most k
/// disputes, so a liar with more victims than that is named before anybody honest.
fn worst(open: &BTreeSet<(NodeId, NodeId)>) -> Option<Role> {
    let mut disputes: BTreeMap<Role, usize> = BTreeMap::new();
    for (dealer, holder) in open {
        *disputes.entry(Role::Dealer(*dealer)).or_default() += 1;
        *disputes.entry(Role::Holder(*holder)).or_default() += 1;
    }
    disputes.into_iter().max_by_key(|(_, count)| *count).map(|(role, _)| role)
}
