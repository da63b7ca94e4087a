//! This node as a coordinator, which has no authority: it asks holders, adds up, and goes on without those that fail.

use std::collections::BTreeSet;
use std::sync::Arc;

use rand_core::RngCore as _;
use symbolon_protocol::blame::{Blame, BlameKind};
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::id::{Digest, NodeId, SigningSession};
use symbolon_protocol::limits::SIGN_PATIENCE_MS;
use symbolon_protocol::peer::{WorkAnswer, WorkCall};
use symbolon_protocol::request::{SignedRequest, VerifiedRequest};
use symbolon_protocol::sign::coordinator::{Answer, Coordinator, Effect, Input, Patience, Plan};
use symbolon_protocol::sign::{Round1, Round2, sessions_allowed};
use symbolon_protocol::wire::{Bytes, decode, encode};

use super::hold::Loaded;
use super::want::{Asker, Want};
use super::{Env, Halt, Node, Reply, Seen, Stop, Timer, settled};
use crate::count::situation;

/// How long a holder may take for one round, milliseconds.
const ROUND_MS: u64 = 1_500;
/// How long a node that did not answer is asked last, milliseconds.
const SILENT_MS: u64 = 3_000;
/// How often a request begins anew when the shares change under it.
const EPOCHS: u64 = 3;
/// Pause before it does; each time one more, milliseconds.
const EPOCH_PAUSE_MS: u64 = 200;

/// What a client wants signed.
struct Wanted {
    ticket: u64,
    request: SignedRequest,
    messages: Arc<Vec<Bytes>>,
    digest: Digest,
}

/// A request that is coordinated here.
pub(super) struct Job {
    wanted: Wanted,
    loaded: Arc<Loaded>,
    /// Who broke the protocol for it.
    excluded: BTreeSet<NodeId>,
    /// How often it began anew.
    epochs: u64,
    machine: Coordinator,
}

/// Something that a job waits for.
pub(super) struct Call {
    job: u64,
    what: Awaited,
}

enum Awaited {
    Answer {
        session: SigningSession,
        node: NodeId,
        second: bool,
    },
    Patience(Patience),
    /// That the state goes on.
    Epoch,
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
        let wanted = Wanted {
            ticket,
            request: request.clone(),
            messages: Arc::new(messages.to_vec()),
            digest: verified.digest(),
        };
        let id = self.next_number();
        let (loaded, machine, effects) = self.begin_signing(env, &wanted, verified, None)?;
        self.jobs.insert(id, Job { wanted, loaded, excluded: BTreeSet::new(), epochs: 0, machine });
        Ok(self.drive(env, id, effects)?)
    }

    /// With the shares that this node knows of.
    fn begin_signing(
        &mut self,
        env: &Env<'_>,
        wanted: &Wanted,
        verified: &VerifiedRequest,
        before: Option<&Job>,
    ) -> Result<(Arc<Loaded>, Coordinator, Vec<Effect>), Stop> {
        let clocks = self.clocks(env)?;
        let core = Arc::clone(self.standing(verified)?.allows(clocks, verified)?);
        let loaded = self.loaded(&core)?;
        let mut plan = self.plan(env.now_ms, wanted, &loaded);
        if let Some(before) = before {
            plan.excluded.clone_from(&before.excluded);
            if before.loaded.core == *core {
                plan.sessions = before.machine.unused_sessions().to_vec();
            }
        }
        let (machine, effects) = Coordinator::new(plan);
        Ok((loaded, machine, effects))
    }

    /// This node first, where it holds a share, then the others from a random place on; those that were silent last.
    fn plan(&mut self, now_ms: u64, wanted: &Wanted, loaded: &Loaded) -> Plan {
        let core = &loaded.core;
        let mut random = || {
            let mut session = [0; 16];
            self.rng.fill_bytes(&mut session);
            session
        };
        let [first, ..] = random();
        let sessions = (0..sessions_allowed(core)).map(|_| SigningSession::from_bytes(random())).collect();
        let (head, tail) = core.holders.split_at(usize::from(first) % core.holders.len().max(1));
        let mut preference: Vec<NodeId> = tail.iter().chain(head).copied().collect();
        let silent = |node: &NodeId| self.silent.get(node).is_some_and(|until| *until > now_ms);
        preference.sort_by_key(|node| (*node != self.me, silent(node)));
        Plan {
            coordinator: self.me,
            group: Arc::clone(&loaded.group),
            members: Arc::clone(&loaded.members),
            request: wanted.request.clone(),
            digest: wanted.digest,
            messages: Arc::clone(&wanted.messages),
            sessions,
            preference,
            excluded: BTreeSet::new(),
        }
    }

    /// Does what a request wants.
    fn drive(&mut self, env: &mut Env<'_>, id: u64, effects: Vec<Effect>) -> Result<(), Halt> {
        for effect in effects {
            match effect {
                Effect::Ask(node, round1) if node == self.me => {
                    self.want(env, Asker::Own { job: id, session: round1.session }, Want::Commitments(round1))?;
                }
                Effect::Ask(node, round1) => {
                    let call = WorkCall::SignRound1(Round1::clone(&round1));
                    self.call(env, id, (node, round1.session, false), &call);
                }
                Effect::Finish(node, signers) if node == self.me => {
                    let round2 = Arc::clone(signers.round2());
                    let asker = Asker::Own { job: id, session: round2.session };
                    self.want(env, asker, Want::Shares(round2, Some(signers)))?;
                }
                Effect::Finish(node, signers) => {
                    let round2 = signers.round2();
                    let call = WorkCall::SignRound2(Round2::clone(round2));
                    self.call(env, id, (node, round2.session, true), &call);
                }
                Effect::Wait(patience) => {
                    self.await_time(env, SIGN_PATIENCE_MS, Call { job: id, what: Awaited::Patience(patience) });
                }
                Effect::Misbehaved { node, refusal, blame } => {
                    self.left_out(env, id, node, &refusal, blame.as_deref())?
                }
                Effect::Done { signatures, sessions, .. } => self.done(env, id, signatures, sessions)?,
                Effect::Failed(refusal) => self.failed(env, id, refusal)?,
            }
        }
        Ok(())
    }

    fn call(
        &mut self,
        env: &mut Env<'_>,
        job: u64,
        (node, session, second): (NodeId, SigningSession, bool),
        call: &WorkCall,
    ) {
        let number = self.await_time(env, ROUND_MS, Call { job, what: Awaited::Answer { session, node, second } });
        env.send(node, number, encode(call));
    }

    fn await_time(&mut self, env: &mut Env<'_>, after_ms: u64, call: Call) -> u64 {
        let number = self.next_number();
        self.calls.insert(number, call);
        env.wake(after_ms, Timer::Call(number));
        number
    }

    /// A holder broke the protocol. What this node says to prove it must prove it.
    fn left_out(
        &mut self,
        env: &mut Env<'_>,
        id: u64,
        node: NodeId,
        refusal: &Refusal,
        blame: Option<&Blame>,
    ) -> Result<(), Halt> {
        env.saw(Seen::Blamed { culprits: vec![node], what: refusal.to_string() });
        let Some(job) = self.jobs.get_mut(&id) else { return Ok(()) };
        job.excluded.insert(node);
        let Some(blame) = blame else { return Ok(()) };
        if blame.accused != node || !blame.verifies(&job.loaded.core, &job.loaded.members) {
            return Err(Halt::Fault(format!("the evidence against node {node} proves nothing: {refusal}")));
        }
        if blame.kind() == BlameKind::SplitView {
            env.count.situation(situation::SPLIT_PROVED);
        }
        Ok(())
    }

    fn done(&mut self, env: &mut Env<'_>, id: u64, signatures: Vec<[u8; 64]>, sessions: usize) -> Result<(), Halt> {
        let Some(job) = self.jobs.remove(&id) else { return Ok(()) };
        if sessions > 1 {
            env.count.situation(situation::WITHOUT_CHEAT);
        }
        let core = &job.loaded.core;
        let reply = match self.shown_certificate(&core.key, core.version)? {
            Some(certificate) => Reply::Signed { signatures, certificate: Box::new(certificate) },
            None => Reply::Refused(Refusal::new(ErrorCode::Internal, "the version has no certificate")),
        };
        env.reply(job.wanted.ticket, reply);
        Ok(())
    }

    /// There is no signature: told to the client, unless the state may have gone on.
    fn failed(&mut self, env: &mut Env<'_>, id: u64, refusal: Refusal) -> Result<(), Halt> {
        let Some(job) = self.jobs.get_mut(&id) else { return Ok(()) };
        if refusal.code == ErrorCode::EpochChanged && job.epochs < EPOCHS {
            job.epochs += 1;
            let after_ms = EPOCH_PAUSE_MS * job.epochs;
            self.await_time(env, after_ms, Call { job: id, what: Awaited::Epoch });
            return Ok(());
        }
        self.refuse(env, id, refusal);
        Ok(())
    }

    fn refuse(&mut self, env: &mut Env<'_>, id: u64, refusal: Refusal) {
        if let Some(job) = self.jobs.remove(&id) {
            env.reply(job.wanted.ticket, Reply::Refused(refusal));
        }
    }

    /// A request begins anew with the shares that this node knows of now.
    fn begin_anew(&mut self, env: &mut Env<'_>, id: u64) -> Result<(), Halt> {
        let Some(mut job) = self.jobs.remove(&id) else { return Ok(()) };
        // Nothing that was asked before is waited for.
        self.calls.retain(|_, call| call.job != id);
        let verified = job.wanted.request.verify(&self.cluster).map_err(Stop::from);
        let begun = verified.and_then(|verified| self.begin_signing(env, &job.wanted, &verified, Some(&job)));
        match settled(begun)? {
            Ok((loaded, machine, effects)) => {
                (job.loaded, job.machine) = (loaded, machine);
                self.jobs.insert(id, job);
                self.drive(env, id, effects)
            }
            Err(refusal) => {
                env.reply(job.wanted.ticket, Reply::Refused(refusal));
                Ok(())
            }
        }
    }

    pub(super) fn tell(&mut self, env: &mut Env<'_>, id: u64, input: Input) -> Result<(), Halt> {
        let Some(job) = self.jobs.get_mut(&id) else { return Ok(()) };
        let effects = job.machine.handle(input);
        self.drive(env, id, effects)
    }

    /// An answer of a holder; only the one that was asked may give it.
    pub(super) fn answered(&mut self, env: &mut Env<'_>, from: NodeId, number: u64, bytes: &[u8]) -> Result<(), Halt> {
        let asked = match self.calls.get(&number) {
            Some(Call { job, what: Awaited::Answer { session, node, second } }) if *node == from => {
                (*job, *session, *second)
            }
            _ => return Ok(()),
        };
        let (job, session, second) = asked;
        self.calls.remove(&number);
        self.silent.remove(&from);
        let answer = match (decode::<WorkAnswer>(bytes), second) {
            (Ok(WorkAnswer::Commitments(commitments)), false) => Answer::Commitments(commitments),
            (Ok(WorkAnswer::Shares(shares)), true) => Answer::Shares(shares),
            (Ok(WorkAnswer::Refused(refusal)), _) => Answer::Refused(refusal),
            _ => Answer::Silent,
        };
        self.tell(env, job, Input::Answer { from, session, answer })
    }

    /// The time of something that was waited for is over.
    pub(super) fn unanswered(&mut self, env: &mut Env<'_>, number: u64) -> Result<(), Halt> {
        let Some(Call { job, what }) = self.calls.remove(&number) else { return Ok(()) };
        match what {
            Awaited::Answer { session, node, .. } => {
                self.silent.insert(node, env.now_ms + SILENT_MS);
                self.tell(env, job, Input::Answer { from: node, session, answer: Answer::Silent })
            }
            Awaited::Patience(patience) => self.tell(env, job, Input::Patience(patience)),
            Awaited::Epoch => self.begin_anew(env, job),
        }
    }
}
