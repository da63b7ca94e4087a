//! One node's part in one attempt: round 1, echo, round 2, staging, vote.
//!
//! Four verbs: [`Generate::start`] and [`Generate::handle`] answer with a [`Step`] (writes first, then effects),
//! [`Generate::resend`] repeats, [`Generate::waiting_for`] tells. A round is a state that is eaten by the turn to the next one,
//! and its secrets with it. Polynomials and received subshares live in RAM only; a crash ends the attempt.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::sync::Arc;

use frost_ed25519::Identifier;
use frost_ed25519::keys::dkg::{self, round1, round2};
use rand_core::{CryptoRng, RngCore};

use super::message::{
    Body, FaultKind, FaultReport, Kind, Seen, SignedMessage, Vote, parse_round1, parse_round2, put_round2,
};
use super::transcript::{self, Refused, Session, identifier};
use super::{Ceremony, OwnVotes, Participation, ShareSecret, VoteRefused, sign_ready};
use crate::certificate::CertificateCore;
use crate::id::{Digest, NodeId};
use crate::identity::{Identity, PublicKey};
use crate::request::Suite;
use crate::step::Step;
use crate::wire::{Bytes, encode};

/// What a machine is started with.
#[derive(Debug)]
pub struct Start {
    /// The attempt, as replicated.
    pub ceremony: Ceremony,
    /// This node.
    pub me: NodeId,
    /// Identities of at least the roster.
    pub keys: BTreeMap<NodeId, PublicKey>,
    /// What this node's private store says of the version.
    pub own: OwnVotes,
}

/// Why a machine is not started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StartRefused {
    /// Roster or threshold make no sense.
    Ceremony,
    /// This node is not in the roster.
    NotInRoster,
    /// The identity of a roster node is not known, or this node's is another.
    Keys,
    /// An earlier vote or a restart forbids it. After a restart: report [`FaultKind::Restarted`].
    Own(VoteRefused),
}

impl fmt::Display for StartRefused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ceremony => f.write_str("roster and threshold do not fit a generation"),
            Self::NotInRoster => f.write_str("this node is not in the roster"),
            Self::Keys => f.write_str("the identity of a node of the roster is unknown or wrong"),
            Self::Own(refused) => refused.fmt(f),
        }
    }
}

impl std::error::Error for StartRefused {}

/// What happens to a machine.
#[derive(Debug)]
pub enum Input {
    /// A message came through the authenticated channel of a peer.
    Message {
        /// The peer, as the channel knows it; never what the message says.
        from: NodeId,
        /// The message.
        message: SignedMessage,
    },
    /// The share of [`Effect::Stage`] as re-read from disk and unsealed.
    Staged(ShareSecret),
    /// The driver's patience with the current phase is at its end. Give later phases more: who waits for an echo of a node that
    /// itself waits for round 1 of a third would blame the wrong one.
    Deadline,
}

/// What a machine wants done.
#[derive(Debug)]
pub enum Effect {
    /// Send a message through the authenticated, confidential channel to a peer.
    Send {
        /// The peer.
        to: NodeId,
        /// The message; shared, because a secret body is not copied.
        message: Arc<SignedMessage>,
    },
    /// Seal the share, write its key slot and record, sync, re-read, unseal, and answer with [`Input::Staged`].
    Stage {
        /// What the share belongs to; stored beside it.
        core: CertificateCore,
        /// The share.
        secret: ShareSecret,
    },
    /// Have a vote ordered through the log.
    Propose(Vote),
}

/// Why an input changed nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ignored {
    /// The sender is not in the roster, or is this node.
    UnknownSender,
    /// The message belongs to another attempt.
    OtherCeremony,
    /// The message was heard before.
    Repeat,
    /// This node voted, or the attempt ended.
    Over,
    /// No share was to be staged.
    NotStaging,
}

impl fmt::Display for Ignored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::UnknownSender => "the sender is no other node of the roster",
            Self::OtherCeremony => "the message belongs to another attempt",
            Self::Repeat => "the message was heard before",
            Self::Over => "this node has voted, or the attempt has ended",
            Self::NotStaging => "no share is being staged",
        })
    }
}

/// The answer to an input.
#[derive(Debug)]
#[must_use = "the next state and its step are lost"]
pub struct Advance {
    /// The machine afterwards.
    pub next: Generate,
    /// What to persist and then do.
    pub step: Step<Effect>,
    /// Why nothing changed, when nothing did.
    pub ignored: Option<Ignored>,
}

/// Where a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Waits for round-1 messages.
    Round1,
    /// Waits for echoes.
    Echo,
    /// Waits for subshares.
    Round2,
    /// Waits for its own disk.
    Staging,
    /// Has voted READY; waits for the log.
    Voted,
    /// Has reported a fault.
    Ended,
}

/// One node's part in one attempt.
pub struct Generate {
    session: Session,
    state: State,
}

type Packages = BTreeMap<Identifier, round1::Package>;

/// The round; each holds exactly the secrets that it still needs.
enum State {
    Commit(Commit),
    Echo(Echo),
    Share(Share),
    Stage(Stage),
    Voted(Voted),
    Ended(Ended),
}

struct Commit {
    secret: round1::SecretPackage,
    own: Seen,
}

struct Echo {
    secret: round1::SecretPackage,
    packages: Packages,
    seen: BTreeMap<NodeId, Seen>,
}

struct Share {
    secret: round2::SecretPackage,
    /// The same map as in round 2, so that nobody can change a commitment in between.
    packages: Packages,
    round1: Digest,
}

struct Stage {
    core: CertificateCore,
}

struct Voted {
    core: Digest,
    vote: Vote,
}

struct Ended {
    vote: Vote,
}

/// How a round goes on.
enum Turn {
    Wait(State),
    Next(State, Vec<Effect>),
    Fault(FaultReport),
}

impl Generate {
    /// Begins an attempt: draws the polynomial and says round 1 to everybody, after a durable [`Participation::Begun`].
    ///
    /// # Errors
    /// [`StartRefused`]; then nothing was drawn or said.
    pub fn start(
        start: Start,
        identity: &Identity,
        rng: &mut (impl RngCore + CryptoRng),
    ) -> Result<(Self, Step<Effect>), StartRefused> {
        let Start { ceremony, me, mut keys, own } = start;
        ceremony.check().ok().filter(|()| ceremony.base.is_none()).ok_or(StartRefused::Ceremony)?;
        own.may_begin().map_err(StartRefused::Own)?;
        if !ceremony.roster.contains(&me) {
            return Err(StartRefused::NotInRoster);
        }
        keys.retain(|node, _| ceremony.roster.contains(node));
        if keys.len() != ceremony.roster.len() || keys.get(&me) != Some(&identity.public()) {
            return Err(StartRefused::Keys);
        }
        let (secret, package) = match ceremony.suite {
            Suite::Ed25519 => part1(&ceremony, me, rng).ok_or(StartRefused::Ceremony)?,
        };
        let mut session = Session::new(ceremony, me, keys);
        let message = session.say(None, Body::Round1 { package }, identity);
        let step = record(&session, Participation::Begun).effects(sends(&session, &message));
        Ok((Self { session, state: State::Commit(Commit { secret, own: message.seen() }) }, step))
    }

    /// Takes an input.
    ///
    /// Faults end the machine: its secrets are wiped and the step proposes one [`Vote::Fault`]. Nothing that a peer can send
    /// does more than that.
    pub fn handle(self, input: Input, identity: &Identity, rng: &mut (impl RngCore + CryptoRng)) -> Advance {
        match input {
            Input::Message { from, message } => self.hear(from, message, identity),
            Input::Staged(secret) => self.staged(&secret, identity, rng),
            Input::Deadline => self.deadline(identity),
        }
    }

    /// Everything said so far once more, for peers and a leader that did not get it. The step writes this node's record
    /// again, so that this is no way around the rule that it is durable first. After staging the share is not repeated.
    pub fn resend(&self) -> Step<Effect> {
        let session = &self.session;
        let messages = session.sent.iter().flat_map(|message| sends(session, message));
        match &self.state {
            State::Commit(_) | State::Echo(_) | State::Share(_) | State::Stage(_) => {
                record(session, Participation::Begun).effects(messages)
            }
            State::Voted(Voted { core, vote }) => {
                let step = record(session, Participation::Ready(*core));
                step.effects(messages).effect(Effect::Propose(vote.clone()))
            }
            State::Ended(Ended { vote }) => Step::default().effect(Effect::Propose(vote.clone())),
        }
    }

    /// Where the machine is and whom it waits for (itself, while it stages). Nobody once it has voted: the log decides.
    #[must_use]
    pub fn waiting_for(&self) -> (Phase, BTreeSet<NodeId>) {
        match &self.state {
            State::Commit(_) => (Phase::Round1, self.session.missing(Kind::Round1)),
            State::Echo(_) => (Phase::Echo, self.session.missing(Kind::Echo)),
            State::Share(_) => (Phase::Round2, self.session.missing(Kind::Round2)),
            State::Stage(_) => (Phase::Staging, BTreeSet::from([self.session.me])),
            State::Voted(_) => (Phase::Voted, BTreeSet::new()),
            State::Ended(_) => (Phase::Ended, BTreeSet::new()),
        }
    }

    /// The attempt.
    #[must_use]
    pub fn ceremony(&self) -> &Ceremony {
        &self.session.ceremony
    }

    /// [`Ceremony::digest`] of the attempt: what incoming messages are sorted by.
    #[must_use]
    pub fn digest(&self) -> Digest {
        self.session.digest
    }

    /// Ends the machine after an applied abort or commit; what it knows is wiped. After an abort nothing of this attempt is
    /// ever activated.
    pub fn abort(self) {
        drop(self);
    }

    fn hear(self, from: NodeId, message: SignedMessage, identity: &Identity) -> Advance {
        let Self { mut session, state } = self;
        if matches!(state, State::Voted(_) | State::Ended(_)) {
            return Advance::ignored(Self { session, state }, Ignored::Over);
        }
        match session.accept(from, message) {
            Ok(()) => Self { session, state }.advance(identity),
            Err(Refused::Ignored(why)) => Advance::ignored(Self { session, state }, why),
            Err(Refused::Fault(report)) => end(session, *report, identity, Step::default()),
        }
    }

    /// Turns as long as everything that the current round needs is there.
    fn advance(self, identity: &Identity) -> Advance {
        let Self { mut session, mut state } = self;
        let mut step = Step::default();
        loop {
            let turn = match state {
                State::Commit(commit) => commit.turn(&mut session, identity),
                State::Echo(echo) => echo.turn(&mut session, identity),
                State::Share(share) => share.turn(&mut session),
                State::Stage(_) | State::Voted(_) | State::Ended(_) => Turn::Wait(state),
            };
            match turn {
                Turn::Wait(state) => return Advance { next: Self { session, state }, step, ignored: None },
                Turn::Next(next, effects) => {
                    state = next;
                    step = step.effects(effects);
                }
                Turn::Fault(report) => return end(session, report, identity, step),
            }
        }
    }

    /// The share is on disk and readable: proves possession of what was read, and votes.
    fn staged(self, secret: &ShareSecret, identity: &Identity, rng: &mut (impl RngCore + CryptoRng)) -> Advance {
        let Self { session, state } = self;
        let State::Stage(Stage { core }) = state else {
            return Advance::ignored(Self { session, state }, Ignored::NotStaging);
        };
        let Some(vote) = sign_ready(session.me, &core, secret, identity, rng) else {
            // The disk gave back something else: this node's own fault, and it says so.
            let report = FaultReport::new(FaultKind::WrongResult, [session.me]);
            return end(session, report, identity, Step::default());
        };
        let core = core.digest();
        let step = record(&session, Participation::Ready(core)).effect(Effect::Propose(vote.clone()));
        Advance { next: Self { session, state: State::Voted(Voted { core, vote }) }, step, ignored: None }
    }

    fn deadline(self, identity: &Identity) -> Advance {
        if matches!(self.state, State::Voted(_) | State::Ended(_)) {
            return Advance::ignored(self, Ignored::Over);
        }
        let (_, silent) = self.waiting_for();
        let report = FaultReport::new(FaultKind::Unresponsive, silent);
        end(self.session, report, identity, Step::default())
    }
}

impl fmt::Debug for Generate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (phase, waiting) = self.waiting_for();
        f.debug_struct("Generate")
            .field("operation", &self.session.ceremony.operation)
            .field("epoch", &self.session.ceremony.epoch)
            .field("me", &self.session.me)
            .field("phase", &phase)
            .field("waiting_for", &waiting)
            .finish_non_exhaustive()
    }
}

impl Advance {
    fn ignored(next: Generate, why: Ignored) -> Self {
        Self { next, step: Step::default(), ignored: Some(why) }
    }
}

/// FROST DKG round 1: a polynomial of degree t-1, its commitment and the proof that its constant term is known.
fn part1(
    ceremony: &Ceremony,
    me: NodeId,
    rng: &mut (impl RngCore + CryptoRng),
) -> Option<(round1::SecretPackage, Bytes)> {
    let n = u16::try_from(ceremony.roster.len()).ok()?;
    let t = u16::try_from(ceremony.threshold.get()).ok()?;
    let (secret, package) = dkg::part1(identifier(me)?, n, t, rng).ok()?;
    Some((secret, Bytes(package.serialize().ok()?)))
}

impl Commit {
    /// All round-1 messages are in: tells everybody which ones.
    fn turn(self, session: &mut Session, identity: &Identity) -> Turn {
        if !session.missing(Kind::Round1).is_empty() {
            return Turn::Wait(State::Commit(self));
        }
        let mut seen = BTreeMap::from([(session.me, self.own)]);
        let mut packages = Packages::new();
        for (node, received) in session.heard(Kind::Round1) {
            seen.insert(node, received.seen);
            let package = match &received.body {
                Some(Body::Round1 { package }) => parse_round1(&package.0, session.ceremony.threshold),
                Some(Body::Echo { .. } | Body::Round2 { .. }) | None => None,
            };
            let (Some(id), Some(package)) = (identifier(node), package) else {
                return Turn::Fault(FaultReport::new(FaultKind::BadMessage, [node]));
            };
            packages.insert(id, package);
        }
        let message = session.say(None, Body::Echo { seen: seen.clone() }, identity);
        let effects = sends(session, &message);
        Turn::Next(State::Echo(Echo { secret: self.secret, packages, seen }), effects)
    }
}

impl Echo {
    /// Every echo is compared as soon as it is here; when all are equal, FROST DKG round 2: a subshare for everybody. The
    /// polynomial is wiped with the state.
    fn turn(self, session: &mut Session, identity: &Identity) -> Turn {
        if let Some(report) = session.compare_echoes(&self.seen) {
            return Turn::Fault(report);
        }
        if !session.missing(Kind::Echo).is_empty() {
            return Turn::Wait(State::Echo(self));
        }
        let Self { secret, packages, seen } = self;
        let (secret, subshares) = match dkg::part2(secret, &packages) {
            Ok(parts) => parts,
            Err(error) => return Turn::Fault(session.blame(&error)),
        };
        let mut effects = Vec::new();
        for node in session.others() {
            let Some(subshare) = identifier(node).and_then(|id| subshares.get(&id)) else {
                return Turn::Fault(FaultReport::new(FaultKind::WrongResult, []));
            };
            let body = Body::Round2 { package: put_round2(subshare) };
            let message = session.say(Some(node), body, identity);
            effects.extend(sends(session, &message));
        }
        let round1 = transcript::round1_digest(&session.digest, &seen);
        Turn::Next(State::Share(Share { secret, packages, round1 }), effects)
    }
}

impl Share {
    /// All subshares are in: FROST DKG part 3, the checks of the result, and the share goes to disk. Subshares are wiped here.
    fn turn(self, session: &mut Session) -> Turn {
        if !session.missing(Kind::Round2).is_empty() {
            return Turn::Wait(State::Share(self));
        }
        let mut subshares = BTreeMap::new();
        for node in session.others() {
            let body = session.take_body(Kind::Round2, node);
            let subshare = match &body {
                Some(Body::Round2 { package }) => parse_round2(package),
                Some(Body::Round1 { .. } | Body::Echo { .. }) | None => None,
            };
            let (Some(id), Some(subshare)) = (identifier(node), subshare) else {
                return Turn::Fault(FaultReport::new(FaultKind::BadMessage, [node]));
            };
            subshares.insert(id, subshare);
        }
        let (key, public) = match dkg::part3(&self.secret, &self.packages, &subshares) {
            Ok(parts) => parts,
            Err(error) => return Turn::Fault(session.blame(&error)),
        };
        match transcript::result(&session.ceremony, session.me, &self.round1, &key, &public) {
            Some((core, secret)) => {
                let effect = Effect::Stage { core: core.clone(), secret };
                Turn::Next(State::Stage(Stage { core }), vec![effect])
            }
            None => Turn::Fault(FaultReport::new(FaultKind::WrongResult, [])),
        }
    }
}

/// The effects that send a message: to its receiver, or to everybody.
fn sends(session: &Session, message: &Arc<SignedMessage>) -> Vec<Effect> {
    let receivers = message.to.map_or_else(|| session.others(), |to| vec![to]);
    receivers.into_iter().map(|to| Effect::Send { to, message: Arc::clone(message) }).collect()
}

fn record(session: &Session, participation: Participation) -> Step<Effect> {
    Step::default().write(session.ceremony.record_key(), Some(encode(&participation)))
}

/// Wipes what was said and heard, and reports.
fn end(mut session: Session, report: FaultReport, identity: &Identity, step: Step<Effect>) -> Advance {
    session.wipe();
    let vote = Vote::fault(&session.ceremony, session.me, report, identity);
    let step = step.effect(Effect::Propose(vote.clone()));
    Advance { next: Generate { session, state: State::Ended(Ended { vote }) }, step, ignored: None }
}
