//! This node as a coordinator, which has no authority: it asks holders, adds up, and goes on without those that fail.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use rand_core::RngCore as _;
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::id::{Digest, NodeId, SigningSession};
use symbolon_protocol::peer::{WorkAnswer, WorkCall};
use symbolon_protocol::request::{SignedRequest, VerifiedRequest};
use symbolon_protocol::sign::coordinator::{Coordinator, Effect, Failure, Plan};
use symbolon_protocol::sign::{Round1, Round2};
use symbolon_protocol::wire::{Bytes, decode, encode};

use super::hold::Loaded;
use super::{Env, Halt, Node, Reply, Seen, Stop, Timer, settled};
use crate::count::situation;

/// How long a holder may take for one round, milliseconds.
const ROUND_MS: u64 = 1_500;
/// How long a node that did not answer is asked last, milliseconds.
const SILENT_MS: u64 = 3_000;

/// What a client wants signed.
struct Wanted {
    ticket: u64,
    request: SignedRequest,
    messages: Vec<Bytes>,
    digest: Digest,
}

/// A request that is coordinated here.
pub(super) struct Job {
    wanted: Wanted,
    loaded: Arc<Loaded>,
    excluded: BTreeSet<NodeId>,
    attempts: usize,
    session: SigningSession,
    machine: Coordinator,
}

/// A question to a holder that has no answer yet.
pub(super) struct Call {
    job: u64,
    session: SigningSession,
    node: NodeId,
    second: bool,
}

impl Node {
    /// Coordinates a request of a client.
    pub(super) fn coordinate(
        &mut self,
        env: &mut Env<'_>,
        ticket: u64,
        request: &SignedRequest,
        messages: &[Bytes],
        verified: &VerifiedRequest,
    ) -> Result<(), Stop> {
        if self.jobs.values().any(|job| job.wanted.ticket == ticket) {
            return Ok(());
        }
        verified.check_messages(messages)?;
        let clocks = self.clocks(env)?;
        let core = Arc::clone(self.standing(verified)?.allows(clocks, verified)?);
        let loaded = self.loaded(&core)?;
        let wanted =
            Wanted { ticket, request: request.clone(), messages: messages.to_vec(), digest: verified.digest() };
        let plan = self.plan(env.now_ms, &wanted, &loaded, BTreeSet::new());
        let session = plan.round1.session;
        let (machine, effects) = Coordinator::new(plan);
        let id = self.next_number();
        let excluded = BTreeSet::new();
        self.jobs.insert(id, Job { wanted, loaded, excluded, attempts: 1, session, machine });
        Ok(self.drive(env, id, effects)?)
    }

    /// This node first, where it holds a share, then the others from a random place on; those that were silent last.
    fn plan(&mut self, now_ms: u64, wanted: &Wanted, loaded: &Loaded, excluded: BTreeSet<NodeId>) -> Plan {
        let core = &loaded.core;
        let mut session = [0; 16];
        self.rng.fill_bytes(&mut session);
        let [first, ..] = session;
        let (head, tail) = core.roster.split_at(usize::from(first) % core.roster.len().max(1));
        let mut preference: Vec<NodeId> = tail.iter().chain(head).copied().collect();
        let silent = |node: &NodeId| self.silent.get(node).is_some_and(|until| *until > now_ms);
        preference.sort_by_key(|node| (*node != self.me, silent(node)));
        let round1 = Round1 {
            session: SigningSession::from_bytes(session),
            key: core.key,
            version: core.version,
            epoch: core.epoch,
            request: wanted.request.clone(),
            messages: wanted.messages.clone(),
        };
        Plan {
            coordinator: self.me,
            group: Arc::clone(&loaded.group),
            members: Arc::clone(&loaded.members),
            request: wanted.digest,
            round1: Arc::new(round1),
            preference,
            excluded,
        }
    }

    /// Does what an attempt wants, until it waits for others or ends.
    fn drive(&mut self, env: &mut Env<'_>, id: u64, effects: Vec<Effect>) -> Result<(), Halt> {
        let mut queue = VecDeque::from(effects);
        while let Some(effect) = queue.pop_front() {
            match effect {
                Effect::Ask(node, round1) if node == self.me => {
                    let result = settled(self.sign_round1(env, node, Round1::clone(&round1)))?;
                    // Its own points need no check.
                    let own = self.holder.own_pairs(node, round1.session, env.now_ms);
                    let Some(job) = self.jobs.get_mut(&id) else { return Ok(()) };
                    queue.extend(match (result, own) {
                        (Ok(commitments), Some(pairs)) => job.machine.own_commitments(commitments, pairs),
                        (Ok(commitments), None) => job.machine.commitments(node, commitments),
                        (Err(refusal), _) => job.machine.refused(node, refusal),
                    });
                }
                Effect::Ask(node, round1) => {
                    self.call(env, id, node, false, &WorkCall::SignRound1(Round1::clone(&round1)));
                }
                Effect::Finish(node, signers) if node == self.me => {
                    let round2 = Arc::clone(signers.round2());
                    let result = settled(self.sign_round2(env, node, &round2, Some(signers)))?;
                    let Some(job) = self.jobs.get_mut(&id) else { return Ok(()) };
                    queue.extend(match result {
                        Ok(shares) => job.machine.shares(node, shares),
                        Err(refusal) => job.machine.refused(node, refusal),
                    });
                }
                Effect::Finish(node, signers) => {
                    self.call(env, id, node, true, &WorkCall::SignRound2(Round2::clone(signers.round2())));
                }
                Effect::Misbehaved(node, refusal) => {
                    env.saw(Seen::Blamed { culprits: vec![node], what: refusal.to_string() });
                }
                Effect::Done { signatures, holders: _ } => return self.done(env, id, signatures),
                Effect::Failed(failure) => {
                    // What is left in the queue belongs to the attempt that ended.
                    queue.clear();
                    queue.extend(self.failed(env, id, failure));
                }
            }
        }
        Ok(())
    }

    fn call(&mut self, env: &mut Env<'_>, job: u64, node: NodeId, second: bool, call: &WorkCall) {
        let Some(session) = self.jobs.get(&job).map(|job| job.session) else { return };
        let number = self.next_number();
        self.calls.insert(number, Call { job, session, node, second });
        env.send(node, number, encode(call));
        env.wake(ROUND_MS, Timer::Call(number));
    }

    fn done(&mut self, env: &mut Env<'_>, id: u64, signatures: Vec<[u8; 64]>) -> Result<(), Halt> {
        let Some(job) = self.jobs.remove(&id) else { return Ok(()) };
        if !job.excluded.is_empty() {
            env.count.situation(situation::WITHOUT_CHEAT);
        }
        let core = &job.loaded.core;
        let reply = match self.certificate(&core.key, core.version)? {
            Some(certificate) => Reply::Signed { signatures, certificate: Box::new(certificate) },
            None => Reply::Refused(Refusal::new(ErrorCode::Internal, "the version has no certificate")),
        };
        env.reply(job.wanted.ticket, reply);
        Ok(())
    }

    /// Starts another attempt without those that failed, or gives up.
    ///
    /// One holder's refusal in round 2 is its own word, as everything that one holder says: it costs that holder its place.
    fn failed(&mut self, env: &mut Env<'_>, id: u64, failure: Failure) -> Vec<Effect> {
        let Some(mut job) = self.jobs.remove(&id) else { return Vec::new() };
        match failure {
            Failure::Blamed { culprits, .. } => {
                let what = culprits.values().map(Refusal::to_string).collect::<Vec<_>>().join("; ");
                env.saw(Seen::Blamed { culprits: culprits.keys().copied().collect(), what });
                job.excluded.extend(culprits.into_keys());
            }
            Failure::Lost { node, refusal: _ } => {
                job.excluded.insert(node);
            }
            Failure::Refused(refusal) => {
                env.reply(job.wanted.ticket, Reply::Refused(refusal));
                return Vec::new();
            }
        }
        let core = &job.loaded.core;
        if job.attempts > core.roster.len().saturating_sub(core.threshold.get()) {
            let refusal = Refusal::new(ErrorCode::PeerMisbehaved, "no set of holders signed");
            env.reply(job.wanted.ticket, Reply::Refused(refusal));
            return Vec::new();
        }
        let plan = self.plan(env.now_ms, &job.wanted, &job.loaded, job.excluded.clone());
        job.attempts += 1;
        job.session = plan.round1.session;
        let (machine, effects) = Coordinator::new(plan);
        job.machine = machine;
        self.jobs.insert(id, job);
        effects
    }

    /// An answer of a holder; only the one that was asked may give it.
    pub(super) fn answered(&mut self, env: &mut Env<'_>, from: NodeId, number: u64, bytes: &[u8]) -> Result<(), Halt> {
        if self.calls.get(&number).is_none_or(|call| call.node != from) {
            return Ok(());
        }
        let Some(call) = self.calls.remove(&number) else { return Ok(()) };
        let answer = decode::<WorkAnswer>(bytes).ok();
        self.silent.remove(&from);
        let Some(job) = self.jobs.get_mut(&call.job).filter(|job| job.session == call.session) else { return Ok(()) };
        let effects = match (answer, call.second) {
            (Some(WorkAnswer::Commitments(commitments)), false) => job.machine.commitments(from, commitments),
            (Some(WorkAnswer::Shares(shares)), true) => job.machine.shares(from, shares),
            (Some(WorkAnswer::Refused(refusal)), _) => job.machine.refused(from, refusal),
            _ => job.machine.unreachable(from),
        };
        self.drive(env, call.job, effects)
    }

    /// The time of a call is over.
    pub(super) fn unanswered(&mut self, env: &mut Env<'_>, number: u64) -> Result<(), Halt> {
        let Some(call) = self.calls.remove(&number) else { return Ok(()) };
        self.silent.insert(call.node, env.now_ms + SILENT_MS);
        let Some(job) = self.jobs.get_mut(&call.job).filter(|job| job.session == call.session) else { return Ok(()) };
        let effects = job.machine.unreachable(call.node);
        self.drive(env, call.job, effects)
    }
}
