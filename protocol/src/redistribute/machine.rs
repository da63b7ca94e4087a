//! One node's part in one attempt: as a dealer, as a holder, or both.
//!
//! Four verbs, as in [`crate::generate::machine`]: [`Redistribute::start`] and [`Redistribute::handle`] answer with a [`Step`],
//! [`Redistribute::resend`] repeats, [`Redistribute::waiting_for`] tells. Polynomials and subshares live in RAM only. A node that
//! lost its RAM never deals again in the attempt, but goes on as a holder: what dealers send again adds up to the same share. Only
//! what it dealt to itself nobody sends again: when that is needed, it says that it restarted.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use rand_core::{CryptoRng, RngCore};

use super::collect::{Collect, Sum};
use super::vote::commitments_digest;
use super::{DealingVote, Dealings, SubshareMessage, bridge};
use crate::certificate::CertificateCore;
use crate::generate::{
    Ceremony, FaultKind, FaultReport, OwnVotes, Participation, ShareSecret, Vote, VoteRefused, sign_ready,
};
use crate::id::{Digest, NodeId};
use crate::identity::{Identity, PublicKey};
use crate::step::Step;
use crate::wire::encode;

/// What a machine is started with.
#[derive(Debug)]
pub struct Start {
    /// The attempt, as replicated.
    pub ceremony: Ceremony,
    /// The certificate core of the epoch whose shares are dealt.
    pub base: CertificateCore,
    /// This node.
    pub me: NodeId,
    /// Identities of at least the dealers and the holders.
    pub keys: BTreeMap<NodeId, PublicKey>,
    /// What this node's private store says of the attempt.
    pub own: OwnVotes,
    /// This node's share of the base epoch; without it, it does not deal.
    pub share: Option<ShareSecret>,
}

/// Why a machine is not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartRefused {
    /// The attempt makes no sense, or does not begin from the base.
    Ceremony,
    /// This node is no holder, and cannot deal: it is no dealer, lost its polynomial, or has no share that fits.
    NoPart,
    /// The identity of a dealer or a holder is not known, or this node's is another.
    Keys,
    /// An earlier vote forbids it. After READY ([`VoteRefused::Begun`]): [`crate::generate::ready_vote`] repeats it.
    Own(VoteRefused),
}

impl fmt::Display for StartRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ceremony => f.write_str("the attempt does not fit the epoch that it begins from"),
            Self::NoPart => f.write_str("this node is no holder and has nothing to deal"),
            Self::Keys => f.write_str("the identity of a dealer or a holder is unknown or wrong"),
            Self::Own(refused) => refused.fmt(f),
        }
    }
}

impl std::error::Error for StartRefused {}

/// What happens to a machine.
#[derive(Debug)]
pub enum Input {
    /// A subshare came through the authenticated channel of a peer.
    Message {
        /// The peer, as the channel knows it; never what the message says.
        from: NodeId,
        /// The message.
        message: SubshareMessage,
    },
    /// What the log holds of the attempt, by this node's own applied state.
    Log(Dealings),
    /// The share of [`Effect::Stage`] as re-read from disk and unsealed.
    Staged(ShareSecret),
}

/// What a machine wants done.
#[derive(Debug)]
pub enum Effect {
    /// Send a subshare through the authenticated, confidential channel to a peer.
    Send {
        /// The peer.
        to: NodeId,
        /// The message; shared, because a secret is not copied.
        message: Arc<SubshareMessage>,
    },
    /// Have a dealing or an acknowledgement ordered through the log.
    Deal(DealingVote),
    /// Seal the share, write its key slot and record, sync, re-read, unseal, and answer with [`Input::Staged`].
    Stage {
        /// What the share belongs to; stored beside it.
        core: CertificateCore,
        /// The share.
        secret: ShareSecret,
    },
    /// Have READY ordered through the log, or that this node restarted.
    Propose(Vote),
}

/// Why an input changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// The sender does not deal in this attempt, or is this node.
    UnknownSender,
    /// The message belongs to another attempt.
    OtherCeremony,
    /// The message is for somebody else, or its sender did not sign it.
    NotSigned,
    /// A subshare of this dealer was heard before.
    Repeat,
    /// This node takes no subshares: it is no holder, or has its share.
    Over,
    /// No share was to be staged.
    NotStaging,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownSender => "the sender is no other dealer of the attempt",
            Self::OtherCeremony => "the message belongs to another attempt",
            Self::NotSigned => "the message is for another node, or its sender did not sign it",
            Self::Repeat => "a subshare of this dealer was heard before",
            Self::Over => "this node takes no more subshares",
            Self::NotStaging => "no share is being staged",
        })
    }
}

/// The answer to an input.
#[derive(Debug)]
#[must_use = "the next state and its step are lost"]
pub struct Advance {
    /// The machine afterwards.
    pub next: Redistribute,
    /// What to persist and then do.
    pub step: Step<Effect>,
    /// Why nothing changed, when nothing did.
    pub ignored: Option<Ignored>,
}

/// Where a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// A holder that waits for subshares of dealers.
    Subshares,
    /// Waits until the log has fixed the dealing set, that is, for acknowledgements of holders.
    Choice,
    /// Waits for its own disk.
    Staging,
    /// Has voted READY; waits for the log.
    Voted,
    /// Has nothing more to say: it only dealt and the dealing set is fixed; or it has said that it restarted; or its disk gave
    /// back another share, which ends the attempt for everybody when its time is over.
    Ended,
}

/// One node's part in one attempt.
pub struct Redistribute {
    attempt: Attempt,
    /// None when it does not deal.
    dealer: Option<Dealer>,
    holder: Holder,
}

/// What both parts know.
pub(super) struct Attempt {
    pub(super) ceremony: Ceremony,
    pub(super) digest: Digest,
    pub(super) base: CertificateCore,
    pub(super) me: NodeId,
    /// Of exactly the dealers and the holders.
    pub(super) keys: BTreeMap<NodeId, PublicKey>,
    pub(super) log: Dealings,
}

/// What was dealt. The polynomial is gone; what it gave to others waits for their acknowledgements.
struct Dealer {
    commitments: Vec<[u8; 32]>,
    vote: DealingVote,
    messages: Vec<Arc<SubshareMessage>>,
}

/// The part of a holder; each state holds exactly the secrets that it still needs.
enum Holder {
    /// It is none, or its disk failed: it says nothing.
    Silent,
    Collect(Collect),
    Stage(CertificateCore),
    Voted {
        core: Digest,
        vote: Vote,
    },
    /// It acknowledged its own dealing, lost it with its RAM, and that dealing was chosen: it has said so.
    Lost {
        vote: Vote,
    },
}

impl Redistribute {
    /// Begins this node's part. A dealer draws a polynomial, writes [`Participation::Begun`], and then says what it dealt.
    ///
    /// # Errors
    /// [`StartRefused`]; then nothing was drawn or said.
    pub fn start(
        start: Start,
        identity: &Identity,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Self, Step<Effect>), StartRefused> {
        let Start { ceremony, base, me, mut keys, own, share } = start;
        if ceremony.check().is_err() || !ceremony.follows(&base) {
            return Err(StartRefused::Ceremony);
        }
        match (own.activated, own.participation) {
            (true, _) => return Err(StartRefused::Own(VoteRefused::Activated)),
            (false, Some(Participation::Ready(_))) => return Err(StartRefused::Own(VoteRefused::Begun)),
            (false, Some(Participation::Begun) | None) => {}
        }
        let dealers = ceremony.base.iter().flat_map(|base| &base.dealers);
        let nodes: BTreeSet<NodeId> = dealers.chain(&ceremony.holders).copied().collect();
        keys.retain(|node, _| nodes.contains(node));
        if keys.len() != nodes.len() || keys.get(&me).is_some_and(|key| *key != identity.public()) {
            return Err(StartRefused::Keys);
        }
        let holds = ceremony.holders.contains(&me);
        let digest = ceremony.digest();
        let attempt = Attempt { ceremony, digest, base, me, keys, log: Dealings::default() };
        let mut collect = Collect::default();
        let dealer = match share.filter(|share| own.participation.is_none() && attempt.may_deal(share)) {
            Some(share) => Some(attempt.deal(&share, &mut collect, identity, rng).ok_or(StartRefused::Ceremony)?),
            None if holds => None,
            None => return Err(StartRefused::NoPart),
        };
        let holder = if holds { Holder::Collect(collect) } else { Holder::Silent };
        let machine = Self { attempt, dealer, holder };
        let step = machine.resend();
        Ok((machine, step))
    }

    /// Takes an input. Nothing that a peer can send ends the machine.
    pub fn handle(self, input: Input, identity: &Identity, rng: &mut (impl RngCore + CryptoRng)) -> Advance {
        match input {
            Input::Message { from, message } => self.hear(from, &message, identity),
            Input::Log(log) => self.follow(log, identity),
            Input::Staged(secret) => self.staged(&secret, identity, rng),
        }
    }

    /// What others may not have got, once more: a dealer's commitments until they are in the log, its subshares until their
    /// holders acknowledged them (and once it is chosen, for a holder that lost its RAM after that), a holder's word until the
    /// log has all of it, a vote.
    ///
    /// The step writes this node's record again, so that this is no way around the rule that it is durable first.
    pub fn resend(&self) -> Step<Effect> {
        let deals = self.dealer.iter().flat_map(|dealer| dealer.repeats(&self.attempt));
        self.record().effects(deals).effects(self.holder.repeats(&self.attempt))
    }

    /// Where the machine is and whom it waits for (itself, while it stages). Nobody once it has voted: the log decides.
    #[must_use]
    pub fn waiting_for(&self) -> (Phase, BTreeSet<NodeId>) {
        let attempt = &self.attempt;
        match &self.holder {
            Holder::Collect(collect) => match collect.missing(attempt) {
                missing if missing.is_empty() => (Phase::Choice, attempt.owing()),
                missing => (Phase::Subshares, missing),
            },
            Holder::Stage(_) => (Phase::Staging, BTreeSet::from([attempt.me])),
            Holder::Voted { .. } => (Phase::Voted, BTreeSet::new()),
            Holder::Lost { .. } => (Phase::Ended, BTreeSet::new()),
            Holder::Silent if attempt.log.result.is_none() => (Phase::Choice, attempt.owing()),
            Holder::Silent => (Phase::Ended, BTreeSet::new()),
        }
    }

    /// The attempt.
    #[must_use]
    pub fn ceremony(&self) -> &Ceremony {
        &self.attempt.ceremony
    }

    /// [`Ceremony::digest`] of the attempt: what incoming messages are sorted by.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.attempt.digest
    }

    /// Ends the machine after an applied abort or commit; what it knows is wiped.
    pub fn abort(self) {
        drop(self);
    }

    /// This node's record, before anything it says.
    fn record(&self) -> Step<Effect> {
        let participation = match (&self.holder, &self.dealer) {
            (Holder::Voted { core, .. }, _) => Participation::Ready(*core),
            (_, Some(_)) => Participation::Begun,
            (_, None) => return Step::default(),
        };
        Step::default().write(self.attempt.ceremony.record_key(), Some(encode(&participation)))
    }

    fn hear(mut self, from: NodeId, message: &SubshareMessage, identity: &Identity) -> Advance {
        let Holder::Collect(collect) = &mut self.holder else { return Advance::ignored(self, Ignored::Over) };
        match collect.accept(&self.attempt, from, message) {
            Ok(()) => self.advance(identity),
            Err(why) => Advance::ignored(self, why),
        }
    }

    fn follow(mut self, log: Dealings, identity: &Identity) -> Advance {
        let attempt = &mut self.attempt;
        attempt.log = log;
        // Nobody needs what was dealt when others were chosen. Other commitments in this node's name are those of a store that
        // was rolled back: only they can be acknowledged.
        self.dealer = self.dealer.take().filter(|dealer| dealer.is_of_use(attempt));
        self.advance(identity)
    }

    /// Compares what was heard with what the log holds. Says what there is to say of it; or stages the share, once the dealing
    /// set is fixed.
    fn advance(self, identity: &Identity) -> Advance {
        let Self { attempt, dealer, holder } = self;
        let Holder::Collect(mut collect) = holder else {
            return Advance { next: Self { attempt, dealer, holder }, step: Step::default(), ignored: None };
        };
        collect.judge(&attempt);
        let (holder, effect) = match &attempt.log.result {
            None => {
                let effect = collect.speak(&attempt, identity).map(Effect::Deal);
                (Holder::Collect(collect), effect)
            }
            Some(chosen) => match collect.share(&attempt, chosen) {
                Sum::Missing => (Holder::Collect(collect), None),
                Sum::Lost => {
                    let report = FaultReport::new(FaultKind::Restarted, []);
                    let vote = Vote::fault(&attempt.ceremony, attempt.me, report, identity);
                    (Holder::Lost { vote: vote.clone() }, Some(Effect::Propose(vote)))
                }
                Sum::Share(secret) => {
                    let core = chosen.core.clone();
                    (Holder::Stage(core.clone()), Some(Effect::Stage { core, secret }))
                }
                Sum::Wrong => (Holder::Silent, None),
            },
        };
        let next = Self { attempt, dealer, holder };
        let step = effect.map_or_else(Step::default, |effect| next.record().effect(effect));
        Advance { next, step, ignored: None }
    }

    /// The share is on disk and readable: proves possession of what was read, and votes.
    fn staged(mut self, secret: &ShareSecret, identity: &Identity, rng: &mut (impl RngCore + CryptoRng)) -> Advance {
        let Holder::Stage(core) = &self.holder else { return Advance::ignored(self, Ignored::NotStaging) };
        self.holder = match sign_ready(self.attempt.me, core, secret, identity, rng) {
            Some(vote) => Holder::Voted { core: core.digest(), vote },
            None => Holder::Silent,
        };
        let step = self.record().effects(self.holder.repeats(&self.attempt));
        Advance { next: self, step, ignored: None }
    }
}

impl fmt::Debug for Redistribute {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (phase, waiting) = self.waiting_for();
        f.debug_struct("Redistribute")
            .field("operation", &self.attempt.ceremony.operation)
            .field("epoch", &self.attempt.ceremony.epoch)
            .field("me", &self.attempt.me)
            .field("deals", &self.dealer.is_some())
            .field("phase", &phase)
            .field("waiting_for", &waiting)
            .finish_non_exhaustive()
    }
}

impl Advance {
    fn ignored(next: Redistribute, why: Ignored) -> Self {
        Self { next, step: Step::default(), ignored: Some(why) }
    }
}

impl Attempt {
    /// Who may deal.
    pub(super) fn dealers(&self) -> &[NodeId] {
        self.ceremony.base.as_ref().map(|base| base.dealers.as_slice()).unwrap_or_default()
    }

    /// Whether this is the share that this node is known to hold, and it may deal it.
    fn may_deal(&self, share: &ShareSecret) -> bool {
        let known = self.base.verifying_share(self.me);
        self.dealers().contains(&self.me) && known.is_some() && share.verifying_share().as_ref() == known
    }

    /// Draws a polynomial and writes the messages of a dealer. What it gives to itself goes where the others' subshares come.
    fn deal(
        &self,
        share: &ShareSecret,
        collect: &mut Collect,
        identity: &Identity,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Option<Dealer> {
        let bridge::Dealing { commitments, subshares } =
            bridge::deal(share, self.ceremony.threshold, &self.ceremony.holders, rng)?;
        let bound = commitments_digest(&self.digest, self.me, &commitments);
        let mut messages = Vec::new();
        for (to, subshare) in subshares {
            if to == self.me {
                collect.keep_own(to, bound, subshare);
                continue;
            }
            let cluster = &self.ceremony.cluster;
            let message = SubshareMessage::sign(cluster, self.digest, self.me, to, bound, &subshare, identity);
            messages.push(Arc::new(message));
        }
        let vote = DealingVote::dealt(&self.ceremony, self.me, commitments.clone(), identity);
        Some(Dealer { commitments, vote, messages })
    }

    /// Holders that have not acknowledged enough dealers.
    fn owing(&self) -> BTreeSet<NodeId> {
        let enough = |holder: &NodeId| {
            let dealers = self.log.acknowledged.get(holder);
            dealers.is_some_and(|dealers| dealers.len() >= self.base.threshold.get())
        };
        self.ceremony.holders.iter().copied().filter(|holder| !enough(holder)).collect()
    }
}

impl Dealer {
    fn is_of_use(&self, attempt: &Attempt) -> bool {
        let known = attempt.log.commitments(attempt.me);
        let chosen = attempt.log.result.as_ref().is_none_or(|chosen| chosen.dealers.contains(&attempt.me));
        chosen && known.is_none_or(|known| *known == self.commitments)
    }

    fn repeats(&self, attempt: &Attempt) -> Vec<Effect> {
        let (log, me) = (&attempt.log, attempt.me);
        let commit = log.commitments(me).is_none().then(|| Effect::Deal(self.vote.clone()));
        let needed = |to: NodeId| log.result.is_some() || !log.acknowledges(to, me);
        let messages = self.messages.iter().filter(|message| needed(message.to));
        let sends = messages.map(|message| Effect::Send { to: message.to, message: Arc::clone(message) });
        commit.into_iter().chain(sends).collect()
    }
}

impl Holder {
    fn repeats(&self, attempt: &Attempt) -> Option<Effect> {
        match self {
            Self::Voted { vote, .. } | Self::Lost { vote } => Some(Effect::Propose(vote.clone())),
            Self::Collect(collect) => collect.unheard(attempt).map(|word| Effect::Deal(word.clone())),
            Self::Silent | Self::Stage(_) => None,
        }
    }
}
