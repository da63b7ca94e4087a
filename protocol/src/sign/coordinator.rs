//! The coordinating side of one attempt to sign: which holders are asked, and what becomes of their answers.
//!
//! Exactly t holders are asked, in the order that the driver prefers. One that fails in round 1 is replaced within the attempt.
//! In round 2 the package stands: one that fails there ends the attempt, and the driver starts another one without it. The
//! coordinator has no authority: it cannot change what is signed, and what it returns has been verified.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use super::frost::{self, DecodedPairs, DecodedShares, KeyGroup};
use super::holder::OwnPairs;
use super::{CheckedSigners, Commitments, Round1, Round2, Shares, misbehaved, misfit};
use crate::error::{Detail, ErrorCode, Fault, Refusal};
use crate::id::{Digest, NodeId};
use crate::identity::PublicKey;

/// What an attempt is made of.
#[derive(Debug)]
pub struct Plan {
    /// The node that coordinates.
    pub coordinator: NodeId,
    /// The key.
    pub group: Arc<KeyGroup>,
    /// Identity keys of the roster.
    pub members: Arc<BTreeMap<NodeId, PublicKey>>,
    /// Digest of the verified request.
    pub request: Digest,
    /// What holders are asked; its messages were checked against the request, its session is random and new.
    pub round1: Arc<Round1>,
    /// Holders in the order in which they are asked; those that the driver knows to be unreachable are left out.
    pub preference: Vec<NodeId>,
    /// Holders that failed in an earlier attempt for this request.
    pub excluded: BTreeSet<NodeId>,
}

/// What the driver does.
#[derive(Debug)]
pub enum Effect {
    /// Sends a Round1 to a holder.
    Ask(NodeId, Arc<Round1>),
    /// Sends [`CheckedSigners::round2`] to a holder; the holder on this node gets the checked form itself.
    Finish(NodeId, Arc<CheckedSigners>),
    /// Notes that a holder broke the protocol; the attempt goes on without it.
    Misbehaved(NodeId, Refusal),
    /// Ends: one verified signature for each message, and who made them.
    Done {
        /// Signatures in the order of the messages (RFC 8032 encoding).
        signatures: Vec<[u8; 64]>,
        /// The holders that signed.
        holders: Vec<NodeId>,
    },
    /// Ends without signatures.
    Failed(Failure),
}

/// Why an attempt ended without signatures.
#[derive(Debug)]
pub enum Failure {
    /// Holders broke the protocol in round 2. Another attempt may go on without them.
    Blamed {
        /// Who, and how.
        culprits: BTreeMap<NodeId, Refusal>,
        /// What proves it.
        evidence: Evidence,
    },
    /// A holder did not finish round 2. Another attempt may go on without it.
    Lost {
        /// Who.
        node: NodeId,
        /// What it said; none when it was unreachable.
        refusal: Option<Refusal>,
    },
    /// Too few holders remain, or most of them refuse: another attempt would end in the same way.
    Refused(Refusal),
}

/// Signed statements against the holders that are blamed. With the certificate and the messages anybody can repeat the check:
/// commitments and shares carry the holder's signature, shares name the package.
#[derive(Debug, Clone)]
pub struct Evidence {
    /// Digest of the request.
    pub request: Digest,
    /// Signers and commitments.
    pub package: Arc<Round2>,
    /// What the culprits answered.
    pub shares: BTreeMap<NodeId, Shares>,
}

enum State {
    Committing {
        /// Asked and not failed, answered or not.
        asked: BTreeSet<NodeId>,
        got: BTreeMap<NodeId, (Commitments, DecodedPairs)>,
    },
    Signing {
        signers: Arc<CheckedSigners>,
        waiting: BTreeSet<NodeId>,
        got: BTreeMap<NodeId, Shares>,
        decoded: BTreeMap<NodeId, DecodedShares>,
    },
    Ended,
}

/// One attempt. Late, repeated and unasked answers change nothing.
pub struct Coordinator {
    plan: Plan,
    spares: VecDeque<NodeId>,
    /// Who failed in round 1, and what it said; none when it was unreachable.
    failed: BTreeMap<NodeId, Option<Refusal>>,
    state: State,
}

impl Coordinator {
    /// Starts: asks the first t of the preference that are holders and not excluded.
    #[must_use]
    pub fn new(plan: Plan) -> (Self, Vec<Effect>) {
        let core = plan.group.core();
        let threshold = core.threshold.get();
        let mut seen = BTreeSet::new();
        let usable = |node: &NodeId| core.roster.contains(node) && !plan.excluded.contains(node);
        let mut spares: VecDeque<NodeId> =
            plan.preference.iter().copied().filter(|node| usable(node) && seen.insert(*node)).collect();
        let mut asked = BTreeSet::new();
        let mut effects = Vec::new();
        if spares.len() >= threshold {
            for node in spares.drain(..threshold) {
                asked.insert(node);
                effects.push(Effect::Ask(node, Arc::clone(&plan.round1)));
            }
        }
        let state = State::Committing { asked, got: BTreeMap::new() };
        let mut coordinator = Self { plan, spares, failed: BTreeMap::new(), state };
        if effects.is_empty() {
            effects = coordinator.give_up();
        }
        (coordinator, effects)
    }

    /// Whether nothing more will come out.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Holders whose answer is awaited.
    #[must_use]
    pub fn waiting_for(&self) -> BTreeSet<NodeId> {
        match &self.state {
            State::Committing { asked, got } => asked.iter().copied().filter(|node| !got.contains_key(node)).collect(),
            State::Signing { waiting, .. } => waiting.clone(),
            State::Ended => BTreeSet::new(),
        }
    }

    /// A holder's commitments arrived; `from` comes from the channel.
    #[must_use = "effects that are not carried out are lost"]
    pub fn commitments(&mut self, from: NodeId, commitments: Commitments) -> Vec<Effect> {
        self.take_commitments(from, commitments, None)
    }

    /// The holder on this node committed: its own points and its own signature need no check.
    pub fn own_commitments(&mut self, commitments: Commitments, pairs: OwnPairs) -> Vec<Effect> {
        self.take_commitments(self.plan.coordinator, commitments, Some(pairs))
    }

    fn take_commitments(&mut self, from: NodeId, commitments: Commitments, own: Option<OwnPairs>) -> Vec<Effect> {
        let threshold = self.plan.group.core().threshold.get();
        let State::Committing { asked, got } = &mut self.state else { return Vec::new() };
        let late = commitments.session != self.plan.round1.session;
        if late || !asked.contains(&from) || got.contains_key(&from) {
            return Vec::new();
        }
        let admitted = match own {
            Some(pairs) => Ok(pairs.0),
            None => self.plan.admit(from, &commitments),
        };
        match admitted {
            Ok(decoded) => {
                got.insert(from, (commitments, decoded));
                if got.len() < threshold { Vec::new() } else { self.start_signing() }
            }
            Err(refusal) => {
                let mut effects = vec![Effect::Misbehaved(from, refusal.clone())];
                effects.extend(self.replace(from, Some(refusal)));
                effects
            }
        }
    }

    /// A holder refused, in either round.
    #[must_use = "effects that are not carried out are lost"]
    pub fn refused(&mut self, from: NodeId, refusal: Refusal) -> Vec<Effect> {
        self.drop_holder(from, Some(refusal))
    }

    /// A holder cannot be reached, or did not answer in time.
    #[must_use = "effects that are not carried out are lost"]
    pub fn unreachable(&mut self, from: NodeId) -> Vec<Effect> {
        self.drop_holder(from, None)
    }

    /// A holder's signature shares arrived; `from` comes from the channel. Their signature is checked when the sum does not
    /// verify: it says who is to blame, and nothing about a sum that is right.
    #[must_use = "effects that are not carried out are lost"]
    pub fn shares(&mut self, from: NodeId, shares: Shares) -> Vec<Effect> {
        let State::Signing { signers, waiting, got, decoded } = &mut self.state else { return Vec::new() };
        if shares.session != signers.round1.session || !waiting.contains(&from) {
            return Vec::new();
        }
        let good = if shares.package != signers.package {
            Err(misbehaved(from, "signed another package than it was sent"))
        } else if shares.shares.len() != signers.round1.messages.len() {
            Err(misbehaved(from, "did not send one signature share for each message"))
        } else {
            frost::decode_shares(from, &shares.shares)
        };
        got.insert(from, shares);
        match good {
            Ok(good) => {
                waiting.remove(&from);
                decoded.insert(from, good);
                if waiting.is_empty() { self.add_up() } else { Vec::new() }
            }
            Err(refusal) => self.blame(BTreeMap::from([(from, refusal)])),
        }
    }

    fn drop_holder(&mut self, from: NodeId, refusal: Option<Refusal>) -> Vec<Effect> {
        match &self.state {
            State::Committing { asked, got } if asked.contains(&from) && !got.contains_key(&from) => {
                self.replace(from, refusal)
            }
            State::Signing { waiting, .. } if waiting.contains(&from) => {
                self.state = State::Ended;
                vec![Effect::Failed(Failure::Lost { node: from, refusal })]
            }
            State::Committing { .. } | State::Signing { .. } | State::Ended => Vec::new(),
        }
    }

    /// Asks the next spare instead of a holder that failed in round 1.
    fn replace(&mut self, from: NodeId, refusal: Option<Refusal>) -> Vec<Effect> {
        let State::Committing { asked, .. } = &mut self.state else { return Vec::new() };
        asked.remove(&from);
        self.failed.insert(from, refusal);
        match self.spares.pop_front() {
            Some(spare) => {
                asked.insert(spare);
                vec![Effect::Ask(spare, Arc::clone(&self.plan.round1))]
            }
            None => self.give_up(),
        }
    }

    fn start_signing(&mut self) -> Vec<Effect> {
        let State::Committing { got, .. } = std::mem::replace(&mut self.state, State::Ended) else { return Vec::new() };
        let mut signers = Vec::with_capacity(got.len());
        let mut points = Vec::with_capacity(got.len());
        for (node, (commitments, decoded)) in got {
            signers.push(commitments);
            points.push((node, decoded));
        }
        let Plan { round1, request, .. } = &self.plan;
        let round2 = Arc::new(Round2 { session: round1.session, signers });
        let signers = match CheckedSigners::assemble(Arc::clone(round1), round2, *request, &points) {
            Ok(signers) => Arc::new(signers),
            Err(refusal) => return vec![Effect::Failed(Failure::Refused(refusal))],
        };
        let waiting: BTreeSet<NodeId> = points.iter().map(|(node, _)| *node).collect();
        let effects = waiting.iter().map(|node| Effect::Finish(*node, Arc::clone(&signers))).collect();
        self.state = State::Signing { signers, waiting, got: BTreeMap::new(), decoded: BTreeMap::new() };
        effects
    }

    fn add_up(&mut self) -> Vec<Effect> {
        let State::Signing { signers, got, decoded, .. } = &self.state else { return Vec::new() };
        let plan = &self.plan;
        let bad = match frost::aggregate(&plan.group, &signers.packages, decoded) {
            Ok(signatures) => {
                let holders = got.keys().copied().collect();
                self.state = State::Ended;
                return vec![Effect::Done { signatures, holders }];
            }
            Err(bad) => bad,
        };
        let mut culprits = BTreeMap::new();
        for (node, shares) in got {
            let cluster = &plan.group.core().cluster;
            let signed = plan.members.get(node).is_some_and(|key| shares.verifies(key, cluster, &plan.request));
            if !signed {
                culprits.insert(*node, misbehaved(*node, "did not sign the signature shares that it sent"));
            } else if bad.contains(node) {
                culprits.insert(*node, misbehaved(*node, "sent a signature share that does not verify"));
            }
        }
        self.blame(culprits)
    }

    fn blame(&mut self, culprits: BTreeMap<NodeId, Refusal>) -> Vec<Effect> {
        let State::Signing { signers, got, .. } = std::mem::replace(&mut self.state, State::Ended) else {
            return Vec::new();
        };
        if culprits.is_empty() {
            let refusal = Refusal::new(ErrorCode::Internal, "good signature shares add up to a bad signature");
            return vec![Effect::Failed(Failure::Refused(refusal))];
        }
        let shares = got.into_iter().filter(|(node, _)| culprits.contains_key(node)).collect();
        let evidence = Evidence { request: self.plan.request, package: Arc::clone(&signers.round2), shares };
        vec![Effect::Failed(Failure::Blamed { culprits, evidence })]
    }

    fn give_up(&mut self) -> Vec<Effect> {
        let refusal = self.common_refusal().unwrap_or_else(|| self.below_threshold());
        self.state = State::Ended;
        vec![Effect::Failed(Failure::Refused(refusal))]
    }

    /// What so many holders refuse for the caller's fault that the others are too few: then the caller is told that.
    fn common_refusal(&self) -> Option<Refusal> {
        let core = self.plan.group.core();
        let mut by_code: BTreeMap<ErrorCode, Vec<&Refusal>> = BTreeMap::new();
        for refusal in self.failed.values().flatten().filter(|refusal| refusal.code.row().fault == Fault::Caller) {
            by_code.entry(refusal.code).or_default().push(refusal);
        }
        let others_too_few = |refusals: usize| core.roster.len().saturating_sub(refusals) < core.threshold.get();
        by_code.into_values().find(|list| others_too_few(list.len())).and_then(|list| list.first().copied().cloned())
    }

    fn below_threshold(&self) -> Refusal {
        let core = self.plan.group.core();
        let needed = core.threshold.get();
        let mut reachable: BTreeSet<NodeId> = self.spares.iter().copied().collect();
        if let State::Committing { asked, .. } = &self.state {
            reachable.extend(asked);
        }
        let excluded: Vec<String> = self.plan.excluded.iter().map(NodeId::to_string).collect();
        let refused: Vec<String> = self
            .failed
            .iter()
            .filter_map(|(node, refusal)| refusal.as_ref().map(|refusal| format!("{node}: {}", refusal.code)))
            .collect();
        let is_unreachable = |node: &&NodeId| {
            let said_something = self.failed.get(*node).is_some_and(Option::is_some);
            !reachable.contains(*node) && !said_something && !self.plan.excluded.contains(*node)
        };
        let unreachable: Vec<String> = core.roster.iter().filter(is_unreachable).map(NodeId::to_string).collect();
        let number = |count: usize| Detail::Number(u64::try_from(count).unwrap_or(u64::MAX));
        let mut message = format!("key `{}` needs {needed} holders and {} can sign", core.name, reachable.len());
        for (what, list) in [("unreachable", &unreachable), ("refused", &refused), ("excluded", &excluded)] {
            if !list.is_empty() {
                message.push_str(&format!("; {what}: {}", list.join(", ")));
            }
        }
        Refusal::new(ErrorCode::BelowThreshold, message)
            .with("reachable", number(reachable.len()))
            .with("needed", number(needed))
            .with("unreachable", Detail::List(unreachable))
            .with("refused", Detail::List(refused))
            .with("excluded", Detail::List(excluded))
    }
}

impl Plan {
    /// Checks a holder's commitments and decodes them.
    fn admit(&self, from: NodeId, commitments: &Commitments) -> Result<DecodedPairs, Refusal> {
        if commitments.node != from {
            return Err(misbehaved(from, "sent commitments of another node"));
        }
        if let Some(what) = misfit(commitments, &self.round1, self.coordinator) {
            return Err(misbehaved(from, &format!("sent commitments that {what}")));
        }
        let cluster = &self.group.core().cluster;
        let signed = self.members.get(&from).is_some_and(|key| commitments.verifies(key, cluster, &self.request));
        if !signed {
            return Err(misbehaved(from, "did not sign the commitments that it sent"));
        }
        frost::decode_pairs(from, &commitments.pairs)
    }
}
