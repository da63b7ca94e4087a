//! The coordinating side of a signature: which holders are asked, and what becomes of their answers.
//!
//! A *session* is both rounds with one set of t signers. The first one asks t holders and a spare, and is formed of the first t
//! that commit. When a signer fails or is slow, another session starts without the signers that one waits for, and the old one
//! may still win: ROAST (ePrint 2022/550). A holder owes a share in at most one session at a time, and the shares of a session
//! that stalls are checked before another one starts; so each session that does not end well is held up by a holder of its
//! own, and with at most n - t of these the last of n - t + 1 sessions ends well. An answer that nobody waits for changes
//! nothing, unless it proves that its sender lied. The coordinator has no authority: it cannot change what is signed, and what
//! it returns has been verified.

mod answers;
mod failure;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use self::answers::Misdeed;
use super::batch::{self, DecodedPairs, DecodedShares};
use super::holder::OwnPairs;
use super::key::KeyGroup;
use super::{CheckedSigners, Commitments, Round1, Round2, Shares, contradict, misbehaved, sessions_allowed};
use crate::blame::Blame;
use crate::error::{ErrorCode, Refusal};
use crate::id::{Digest, NodeId, SigningSession};
use crate::identity::PublicKey;
use crate::request::SignedRequest;
use crate::wire::Bytes;

/// Holders that are asked beside the t that are needed.
const SPARES: usize = 1;

/// What a request is signed with.
#[derive(Debug)]
pub struct Plan {
    /// The node that coordinates.
    pub coordinator: NodeId,
    /// The key.
    pub group: Arc<KeyGroup>,
    /// Identity keys of the roster.
    pub members: Arc<BTreeMap<NodeId, PublicKey>>,
    /// The verified request.
    pub request: SignedRequest,
    /// Its digest.
    pub digest: Digest,
    /// The messages, checked against the request.
    pub messages: Arc<Vec<Bytes>>,
    /// Ids for sessions, random, and not used before with these shares. At most [`sessions_allowed`] of them are used.
    pub sessions: Vec<SigningSession>,
    /// Holders in the order in which they are asked; those that the driver knows to be unreachable are left out.
    pub preference: Vec<NodeId>,
    /// Holders that broke the protocol for this request before.
    pub excluded: BTreeSet<NodeId>,
}

/// What a holder answers, or does not.
pub enum Answer {
    /// Commitments, in round 1.
    Commitments(Commitments),
    /// The same of the holder on this node: its own points and its own signature need no check.
    Own(Commitments, OwnPairs),
    /// Signature shares, in round 2.
    Shares(Shares),
    /// A refusal, in either round.
    Refused(Refusal),
    /// The holder cannot be reached, or did not answer in time.
    Silent,
}

/// What happens to a coordinator.
pub enum Input {
    /// To each question comes one answer, or [`Answer::Silent`] at the deadline of the round.
    Answer {
        /// The holder that was asked: from the channel, never from the message.
        from: NodeId,
        /// The session that it was asked for.
        session: SigningSession,
        /// What it said.
        answer: Answer,
    },
    /// The time of an [`Effect::Wait`] is over.
    Patience(Patience),
}

/// Answers for which there is patience: whoever does not give his in time is slow, and others are asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Patience {
    session: SigningSession,
    second_round: bool,
    nodes: Vec<NodeId>,
}

/// What the driver does.
#[derive(Debug)]
pub enum Effect {
    /// Sends a Round1 to a holder.
    Ask(NodeId, Arc<Round1>),
    /// Sends [`CheckedSigners::round2`] to a holder; the holder on this node gets the checked form itself.
    Finish(NodeId, Arc<CheckedSigners>),
    /// Gives it back as [`Input::Patience`] after [`crate::limits::SIGN_PATIENCE_MS`].
    Wait(Patience),
    /// Notes that a holder broke the protocol; the request goes on without it.
    Misbehaved {
        /// Who.
        node: NodeId,
        /// How.
        refusal: Refusal,
        /// What proves it to others, where its own signature does.
        blame: Option<Box<Blame>>,
    },
    /// Ends: one verified signature for each message, and who made them.
    Done {
        /// Signatures in the order of the messages (RFC 8032 encoding).
        signatures: Vec<[u8; 64]>,
        /// The holders that signed.
        holders: Vec<NodeId>,
        /// Sessions that were begun.
        sessions: usize,
    },
    /// Ends without signatures. `epoch_changed` when a holder that is missed has, or waits for, other shares than these: then
    /// the driver brings its state up to date and starts again.
    Failed(Refusal),
}

struct Session {
    round1: Arc<Round1>,
    /// Asked in round 1 and not heard of; whether their patience is over.
    asked: BTreeMap<NodeId, bool>,
    stage: Stage,
}

enum Stage {
    /// Round 1: who committed.
    Forming(BTreeMap<NodeId, (Commitments, DecodedPairs)>),
    /// Round 2.
    Signing(Signing),
    /// It cannot be completed.
    Over,
}

struct Signing {
    signers: Arc<CheckedSigners>,
    waiting: BTreeSet<NodeId>,
    got: BTreeMap<NodeId, (Shares, DecodedShares)>,
    /// Patience is over: another session may start, and every share is checked by itself.
    stalled: bool,
}

impl Session {
    fn owes(&self, node: NodeId) -> bool {
        matches!(&self.stage, Stage::Signing(signing) if signing.waiting.contains(&node))
    }
    fn is_signing(&self) -> bool {
        matches!(self.stage, Stage::Signing(_))
    }
}

/// The coordination of one request, with the shares of one epoch.
pub struct Coordinator {
    plan: Plan,
    sessions: Vec<Session>,
    /// Who is left out of this request, and what it said; none when it was silent.
    failed: BTreeMap<NodeId, Option<Refusal>>,
    ended: bool,
}

impl Coordinator {
    /// Starts the first session.
    #[must_use]
    pub fn new(mut plan: Plan) -> (Self, Vec<Effect>) {
        let core = plan.group.core();
        let mut seen = BTreeSet::new();
        plan.preference
            .retain(|node| core.holders.contains(node) && !plan.excluded.contains(node) && seen.insert(*node));
        plan.sessions.truncate(sessions_allowed(core));
        let mut coordinator = Self { plan, sessions: Vec::new(), failed: BTreeMap::new(), ended: false };
        let mut effects = Vec::new();
        coordinator.go_on(&mut effects);
        (coordinator, effects)
    }

    /// Whether nothing more will come out.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.ended
    }

    /// Sessions for which no package was made. Holders that committed in one of them do so again in the same words, so a request
    /// that begins anew with the same shares goes on with these.
    #[must_use]
    pub fn unused_sessions(&self) -> &[SigningSession] {
        let used = self.sessions.iter().filter(|session| !matches!(session.stage, Stage::Forming(_))).count();
        self.plan.sessions.get(used..).unwrap_or_default()
    }

    /// Takes what happened and says what is to be done.
    #[must_use = "effects that are not carried out are lost"]
    pub fn handle(&mut self, input: Input) -> Vec<Effect> {
        let mut effects = Vec::new();
        if self.ended {
            return effects;
        }
        let id = match &input {
            Input::Answer { session, .. } | Input::Patience(Patience { session, .. }) => *session,
        };
        let Some(at) = self.sessions.iter().position(|session| session.round1.session == id) else { return effects };
        match input {
            Input::Answer { from, answer, .. } => match answer {
                Answer::Commitments(commitments) => self.committed(at, from, commitments, None, &mut effects),
                Answer::Own(commitments, pairs) => self.committed(at, from, commitments, Some(pairs), &mut effects),
                Answer::Shares(shares) => self.signed(at, from, shares, &mut effects),
                Answer::Refused(refusal) => self.lost(at, from, Some(refusal)),
                Answer::Silent => self.lost(at, from, None),
            },
            Input::Patience(patience) => self.patience_over(at, &patience, &mut effects),
        }
        self.go_on(&mut effects);
        effects
    }

    /// Does what follows from how things stand: at most one session forms, and one that may still be quick is waited for.
    fn go_on(&mut self, effects: &mut Vec<Effect>) {
        if self.ended {
            return;
        }
        let threshold = self.threshold();
        let standing = |session: &Session| match &session.stage {
            Stage::Forming(got) => Some((got.len(), session.asked.len())),
            Stage::Signing(_) | Stage::Over => None,
        };
        let forming = self.sessions.iter().position(|session| standing(session).is_some());
        match forming {
            Some(at) => {
                if self.sessions.get(at).and_then(standing).is_some_and(|(got, _)| got >= threshold) {
                    return self.start_signing(at, effects);
                }
                self.ask_more(at, effects);
                if self.sessions.get(at).and_then(standing).is_some_and(|(got, asked)| got + asked >= threshold) {
                    return;
                }
            }
            None if self.may_be_quick() => return,
            None if self.eligible().len() >= threshold && self.begin(effects) => return,
            None => {}
        }
        // Those that owe a share may still give it, or come free for the session that forms.
        if !self.sessions.iter().any(Session::is_signing) {
            self.give_up(effects);
        }
    }

    fn threshold(&self) -> usize {
        self.plan.group.core().threshold.get()
    }

    fn may_be_quick(&self) -> bool {
        self.sessions.iter().any(|session| matches!(&session.stage, Stage::Signing(signing) if !signing.stalled))
    }

    /// Holders that may take part in another session; those that are slow to commit come last.
    fn eligible(&self) -> Vec<NodeId> {
        let owes = |node: NodeId| self.sessions.iter().any(|session| session.owes(node));
        let is_slow = |node| self.sessions.iter().any(|session| session.asked.get(&node) == Some(&true));
        let usable =
            self.plan.preference.iter().copied().filter(|node| !self.failed.contains_key(node) && !owes(*node));
        let (slow, quick): (Vec<NodeId>, Vec<NodeId>) = usable.partition(|node| is_slow(*node));
        [quick, slow].concat()
    }

    /// Starts another session, if there may be one.
    fn begin(&mut self, effects: &mut Vec<Effect>) -> bool {
        let plan = &self.plan;
        let Some(session) = plan.sessions.get(self.sessions.len()).copied() else { return false };
        let core = plan.group.core();
        let round1 = Round1 {
            session,
            key: core.key,
            version: core.version,
            epoch: core.epoch,
            request: plan.request.clone(),
            messages: Vec::clone(&plan.messages),
        };
        let stage = Stage::Forming(BTreeMap::new());
        self.sessions.push(Session { round1: Arc::new(round1), asked: BTreeMap::new(), stage });
        self.ask_more(self.sessions.len() - 1, effects);
        true
    }

    /// Asks so many that t and a spare have committed or may do so soon.
    fn ask_more(&mut self, at: usize, effects: &mut Vec<Effect>) {
        let (wanted, eligible) = (self.threshold() + SPARES, self.eligible());
        let Some(Session { round1, asked, stage: Stage::Forming(got) }) = self.sessions.get_mut(at) else { return };
        let expected = got.len() + asked.values().filter(|slow| !**slow).count();
        let others = eligible.into_iter().filter(|node| !got.contains_key(node) && !asked.contains_key(node));
        let mut nodes: Vec<NodeId> = others.take(wanted.saturating_sub(expected)).collect();
        if nodes.is_empty() {
            return;
        }
        // This node's own work is done while the questions are on their way.
        nodes.sort_by_key(|node| *node == self.plan.coordinator);
        asked.extend(nodes.iter().map(|node| (*node, false)));
        effects.extend(nodes.iter().map(|node| Effect::Ask(*node, Arc::clone(round1))));
        effects.push(Effect::Wait(Patience { session: round1.session, second_round: false, nodes }));
    }

    fn committed(
        &mut self,
        at: usize,
        from: NodeId,
        commitments: Commitments,
        own: Option<OwnPairs>,
        effects: &mut Vec<Effect>,
    ) {
        let Some(session) = self.sessions.get_mut(at) else { return };
        if session.asked.remove(&from).is_none() {
            return self.repeated(at, from, commitments, effects);
        }
        // A spare that came too late for this session is free for the next one.
        let Stage::Forming(got) = &mut session.stage else { return };
        let admitted = match own {
            Some(pairs) => Ok(pairs.0),
            None => self.plan.admit(from, &session.round1, &commitments),
        };
        match admitted {
            Ok(decoded) => {
                got.insert(from, (commitments, decoded));
            }
            Err(misdeed) => self.leave_out(from, misdeed, effects),
        }
    }

    /// Commitments that were not waited for prove something when their sender committed to others before.
    fn repeated(&mut self, at: usize, from: NodeId, second: Commitments, effects: &mut Vec<Effect>) {
        let first = self.sessions.get(at).and_then(|session| match &session.stage {
            Stage::Forming(got) => got.get(&from).map(|(first, _)| first),
            Stage::Signing(signing) => signing.signers.round2.signers.iter().find(|signer| signer.node == from),
            Stage::Over => None,
        });
        let Some(first) = first.filter(|first| contradict(first, &second)) else { return };
        let blame = Blame::split_view(self.plan.digest, first.clone(), second);
        if blame.verifies(self.plan.group.core(), &self.plan.members) {
            let refusal = misbehaved(from, "signed two different commitments for one session");
            self.leave_out(from, Misdeed { refusal, blame: Some(Box::new(blame)) }, effects);
        }
    }

    fn start_signing(&mut self, at: usize, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(at) else { return };
        let Stage::Forming(got) = std::mem::replace(&mut session.stage, Stage::Over) else { return };
        let (mut signers, mut points) = (Vec::with_capacity(got.len()), Vec::with_capacity(got.len()));
        for (node, (commitments, decoded)) in got {
            signers.push(commitments);
            points.push((node, decoded));
        }
        let round2 = Arc::new(Round2 { session: session.round1.session, signers });
        let round1 = Arc::clone(&session.round1);
        let plan = &self.plan;
        let signers = match CheckedSigners::assemble(&plan.group, round1, round2, plan.digest, &points) {
            Ok(signers) => Arc::new(signers),
            Err(refusal) => return self.fail(refusal, effects),
        };
        let mut nodes: Vec<NodeId> = points.iter().map(|(node, _)| *node).collect();
        nodes.sort_by_key(|node| *node == self.plan.coordinator);
        effects.extend(nodes.iter().map(|node| Effect::Finish(*node, Arc::clone(&signers))));
        let waiting = nodes.iter().copied().collect();
        session.stage = Stage::Signing(Signing { signers, waiting, got: BTreeMap::new(), stalled: false });
        effects.push(Effect::Wait(Patience { session: session.round1.session, second_round: true, nodes }));
    }

    fn signed(&mut self, at: usize, from: NodeId, shares: Shares, effects: &mut Vec<Effect>) {
        let Some(Session { stage: Stage::Signing(signing), .. }) = self.sessions.get_mut(at) else { return };
        if !signing.waiting.contains(&from) {
            return;
        }
        let plan = &self.plan;
        let read = plan.read(from, &signing.signers, &shares).and_then(|decoded| {
            if signing.stalled { plan.check(from, &signing.signers, &shares, decoded) } else { Ok(decoded) }
        });
        match read {
            Ok(decoded) => {
                signing.waiting.remove(&from);
                signing.got.insert(from, (shares, decoded));
                if signing.waiting.is_empty() {
                    self.add_up(at, effects);
                }
            }
            // Its session waits for it no longer.
            Err(misdeed) => self.leave_out(from, misdeed, effects),
        }
    }

    /// A holder refused or was silent. One that owes nothing in a session that is not over has said nothing new.
    fn lost(&mut self, at: usize, from: NodeId, refusal: Option<Refusal>) {
        let Some(session) = self.sessions.get(at).filter(|session| !matches!(session.stage, Stage::Over)) else {
            return;
        };
        if session.asked.contains_key(&from) || session.owes(from) {
            self.drop_holder(from, refusal);
        }
    }

    fn patience_over(&mut self, at: usize, patience: &Patience, effects: &mut Vec<Effect>) {
        let Some(session) = self.sessions.get_mut(at) else { return };
        if !patience.second_round {
            for node in &patience.nodes {
                session.asked.entry(*node).and_modify(|slow| *slow = true);
            }
            return;
        }
        let Stage::Signing(signing) = &mut session.stage else { return };
        signing.stalled = true;
        let (plan, mut misdeeds) = (&self.plan, Vec::new());
        for (node, (shares, decoded)) in &signing.got {
            if let Some(bad) = batch::first_bad(&signing.signers.packages, *node, decoded) {
                misdeeds.push((*node, plan.wrong(*node, &signing.signers, shares, bad)));
            }
        }
        self.caught(at, misdeeds, effects);
    }

    /// All shares are there.
    fn add_up(&mut self, at: usize, effects: &mut Vec<Effect>) {
        let Some(Session { stage, .. }) = self.sessions.get_mut(at) else { return };
        let Stage::Signing(Signing { signers, got, .. }) = std::mem::replace(stage, Stage::Over) else { return };
        let (plan, mut said, mut decoded) = (&self.plan, Vec::new(), BTreeMap::new());
        for (node, (shares, scalars)) in got {
            said.push((node, shares));
            decoded.insert(node, scalars);
        }
        let bad = match batch::aggregate(&signers.packages, &decoded) {
            Ok(signatures) => {
                self.ended = true;
                let holders = said.into_iter().map(|(node, _)| node).collect();
                return effects.push(Effect::Done { signatures, holders, sessions: self.sessions.len() });
            }
            Err(bad) => bad,
        };
        let misdeed = |(node, shares): (NodeId, Shares)| match bad.get(&node) {
            Some(bad) => Some((node, plan.wrong(node, &signers, &shares, *bad))),
            None => plan.unsigned(node, &shares).map(|misdeed| (node, misdeed)),
        };
        let misdeeds: Vec<_> = said.into_iter().filter_map(misdeed).collect();
        if misdeeds.is_empty() {
            let refusal = Refusal::new(ErrorCode::Internal, "good signature shares add up to a bad signature");
            return self.fail(refusal, effects);
        }
        self.caught(at, misdeeds, effects);
    }

    /// Signers of a session broke the protocol: it is over.
    fn caught(&mut self, at: usize, misdeeds: Vec<(NodeId, Misdeed)>, effects: &mut Vec<Effect>) {
        if misdeeds.is_empty() {
            return;
        }
        if let Some(session) = self.sessions.get_mut(at) {
            session.stage = Stage::Over;
        }
        for (node, misdeed) in misdeeds {
            self.leave_out(node, misdeed, effects);
        }
    }

    fn leave_out(&mut self, node: NodeId, misdeed: Misdeed, effects: &mut Vec<Effect>) {
        let Misdeed { refusal, blame } = misdeed;
        self.drop_holder(node, Some(refusal.clone()));
        effects.push(Effect::Misbehaved { node, refusal, blame });
    }

    /// Goes on without a holder: sessions that wait for its share are over.
    fn drop_holder(&mut self, node: NodeId, refusal: Option<Refusal>) {
        self.failed.entry(node).or_insert(refusal);
        for session in &mut self.sessions {
            session.asked.remove(&node);
            if let Stage::Forming(got) = &mut session.stage {
                got.remove(&node);
            }
            if session.owes(node) {
                session.stage = Stage::Over;
            }
        }
    }

    fn fail(&mut self, refusal: Refusal, effects: &mut Vec<Effect>) {
        self.ended = true;
        effects.push(Effect::Failed(refusal));
    }

    fn give_up(&mut self, effects: &mut Vec<Effect>) {
        let refusal = self.reason();
        self.fail(refusal, effects);
    }
}
