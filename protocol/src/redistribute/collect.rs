//! What a holder makes of the subshares that dealers send it.

use std::collections::{BTreeMap, BTreeSet};

use super::machine::{Attempt, Ignored};
use super::vote::commitments_digest;
use super::{Chosen, DealingVote, SubshareMessage, bridge};
use crate::generate::ShareSecret;
use crate::id::{Digest, NodeId};
use crate::identity::Identity;

/// What came so far, and what this node says of it.
#[derive(Default)]
pub(super) struct Collect {
    heard: BTreeMap<NodeId, Subshare>,
    /// The whole word on the dealings in the log, signed anew whenever it grows.
    word: Option<DealingVote>,
}

/// What came from a dealer.
pub(super) enum Subshare {
    /// Its commitments are not in the log yet: what it bound the subshare to; the subshare, when it has the size of one.
    Heard(Digest, Option<ShareSecret>),
    Good(ShareSecret),
    Bad,
}

/// What subshares add up to.
pub(super) enum Sum {
    /// One is not here: this node lost its RAM after it acknowledged it, and the dealer sends it again.
    Missing,
    /// The same, and the dealer was this node: nobody sends it again.
    Lost,
    Share(ShareSecret),
    /// Not what the log expects; with good subshares only a bug can bring this about.
    Wrong,
}

impl Collect {
    /// Keeps what this node as a dealer gives to itself as a holder.
    pub(super) fn keep_own(&mut self, me: NodeId, bound: Digest, subshare: ShareSecret) {
        self.heard.insert(me, Subshare::Heard(bound, Some(subshare)));
    }

    /// Takes the first subshare of a dealer, after checking what can be checked of it alone.
    pub(super) fn accept(&mut self, attempt: &Attempt, from: NodeId, message: &SubshareMessage) -> Result<(), Ignored> {
        let key = attempt.keys.get(&from).filter(|_| from != attempt.me && attempt.dealers().contains(&from));
        let key = key.ok_or(Ignored::UnknownSender)?;
        if message.ceremony != attempt.digest {
            return Err(Ignored::OtherCeremony);
        }
        let addressed = message.from == from && message.to == attempt.me;
        if !addressed || !message.verifies(&attempt.ceremony.cluster, key) {
            return Err(Ignored::NotSigned);
        }
        if self.heard.contains_key(&from) {
            return Err(Ignored::Repeat);
        }
        self.heard.insert(from, Subshare::Heard(message.commitments, message.secret()));
        Ok(())
    }

    /// Compares subshares with the commitments in the log, as soon as these are there.
    pub(super) fn judge(&mut self, attempt: &Attempt) {
        for (dealer, subshare) in &mut self.heard {
            let Some(commitments) = attempt.log.commitments(*dealer) else { continue };
            let Subshare::Heard(bound, secret) = subshare else { continue };
            let bound = *bound == commitments_digest(&attempt.digest, *dealer, commitments);
            let good = |secret: &ShareSecret| {
                bound && bridge::fits(commitments, attempt.ceremony.threshold, attempt.me, secret)
            };
            *subshare = secret.take().filter(good).map_or(Subshare::Bad, Subshare::Good);
        }
    }

    fn judged(&self, good: bool) -> Vec<NodeId> {
        let kind = |subshare: &Subshare| match subshare {
            Subshare::Good(_) => good,
            Subshare::Bad => !good,
            Subshare::Heard(..) => false,
        };
        self.heard.iter().filter(|(_, subshare)| kind(subshare)).map(|(dealer, _)| *dealer).collect()
    }

    /// Signs the word anew when it grew, and gives it back when it is to be said at once: with the t-th good subshare, and with
    /// every accusation. Whatever else it has grown by is said with the next repetition.
    pub(super) fn speak(&mut self, attempt: &Attempt, identity: &Identity) -> Option<DealingVote> {
        let (good, mut bad) = (self.judged(true), self.judged(false));
        // What it acknowledged before it lost its RAM it cannot take back.
        bad.retain(|dealer| !attempt.log.acknowledges(attempt.me, *dealer));
        let before = match &self.word {
            Some(DealingVote::Acknowledged { dealers, accused, .. }) => (dealers.len(), accused.len()),
            Some(DealingVote::Dealt { .. }) | None => (0, 0),
        };
        if before == (good.len(), bad.len()) {
            return None;
        }
        let enough = attempt.base.threshold.get();
        let at_once = bad.len() > before.1 || (good.len() >= enough && before.0 < enough);
        let word = DealingVote::acknowledged(&attempt.ceremony, attempt.me, good, bad, identity);
        self.word = Some(word.clone());
        at_once.then_some(word)
    }

    /// The word, unless the log has all of it or needs no more.
    pub(super) fn unheard(&self, attempt: &Attempt) -> Option<&DealingVote> {
        let (log, me) = (&attempt.log, attempt.me);
        self.word.as_ref().filter(|word| match word {
            DealingVote::Acknowledged { dealers, accused, .. } => {
                let good = dealers.iter().all(|dealer| log.acknowledges(me, *dealer));
                let bad = accused.iter().all(|dealer| log.accused.contains(&(*dealer, me)));
                log.result.is_none() && !(good && bad)
            }
            DealingVote::Dealt { .. } => false,
        })
    }

    /// Dealers whose subshares are needed and not here: some, until there are t good ones; those of the dealing set, once it is
    /// fixed.
    pub(super) fn missing(&self, attempt: &Attempt) -> BTreeSet<NodeId> {
        let good = self.judged(true);
        let needed = match &attempt.log.result {
            Some(chosen) => chosen.dealers.as_slice(),
            None if good.len() < attempt.base.threshold.get() => attempt.dealers(),
            None => &[],
        };
        needed.iter().copied().filter(|dealer| !good.contains(dealer)).collect()
    }

    /// Adds up the subshares of the dealing set, and compares the sum with the verifying share that the log computed.
    pub(super) fn share(&self, attempt: &Attempt, chosen: &Chosen) -> Sum {
        let good = |dealer: &NodeId| match self.heard.get(dealer) {
            Some(Subshare::Good(secret)) => Some((*dealer, secret)),
            Some(Subshare::Heard(..) | Subshare::Bad) | None => None,
        };
        if chosen.dealers.contains(&attempt.me) && good(&attempt.me).is_none() {
            return Sum::Lost;
        }
        let subshares: Option<Vec<_>> = chosen.dealers.iter().map(good).collect();
        let Some(subshares) = subshares else { return Sum::Missing };
        let expected = chosen.core.verifying_share(attempt.me).filter(|_| attempt.ceremony.fits(&chosen.core));
        let secret = bridge::combine(&subshares, attempt.base.threshold);
        let right = |secret: &ShareSecret| expected.is_some() && secret.verifying_share().as_ref() == expected;
        secret.filter(right).map_or(Sum::Wrong, Sum::Share)
    }
}
