//! This node's lease: the machine of floor 0, which is asked when a share is wanted and the last answers grow old; what it says
//! of itself to others; and what it withholds.

use std::collections::BTreeMap;

use rand_core::RngCore as _;
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::fresh::{
    Equivocation, Evidence, Fresh, Lease, Notice, Position, Question, SignedPosition, Subject, Withdrawals,
};
use symbolon_protocol::genesis::MemberRole;
use symbolon_protocol::history::root_at;
use symbolon_protocol::id::{BootId, ClusterId, NodeId};
use symbolon_protocol::identity::PublicKey;
use symbolon_protocol::limits;
use symbolon_protocol::peer::{WorkAnswer, WorkCall};
use symbolon_protocol::request::{RequestBody, SignedRequest};
use symbolon_protocol::schema::{private, replicated};
use symbolon_protocol::state::records::{self, KeyRecord};
use symbolon_protocol::table::{Tables as _, read};
use symbolon_protocol::wire::{decode, encode};

use super::{Env, Halt, Node, Seen, Stop, Timer, settled};
use crate::bugs::Bug;
use crate::count::situation;
use crate::disk::{Column, Map};

/// Number of a call that asks for a position: what belongs to it says the nonce.
pub(super) const POSITION: u64 = 0;
/// How long an answer waits for an index that is asked for, milliseconds.
const AT_LEAST_MS: u64 = 1_000;

/// The lease of a node, and what belongs to it; all but the proofs is gone after a restart.
pub(super) struct Keeper {
    lease: Lease,
    withdrawn: Withdrawals,
    boot: BootId,
    /// Whether this node says where it is.
    ready: bool,
    /// Whether others found it current before it had applied its log.
    vouched: bool,
    /// The index after the last entry of its log at the start.
    log_end: u64,
    /// When the voters were asked last, boot time.
    asked_ms: Option<u64>,
    /// Questions of others that wait for an index.
    questions: BTreeMap<u64, (NodeId, Question)>,
}

impl Keeper {
    /// Without evidence, and with the proofs that were kept.
    pub(super) fn open(me: NodeId, cluster: ClusterId, boot: BootId, store: &Map, log_end: u64) -> Result<Self, Halt> {
        let proofs = store.scan(private::EQUIVOCATIONS, b"", limits::MEMBERS)?;
        let proofs = proofs.iter().map(|(_, bytes)| decode::<Equivocation>(bytes)).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            lease: Lease::new(me, cluster, proofs),
            withdrawn: Withdrawals::default(),
            boot,
            ready: false,
            vouched: false,
            log_end,
            asked_ms: None,
            questions: BTreeMap::new(),
        })
    }
}

impl Node {
    pub(super) fn voter_keys(&self) -> BTreeMap<NodeId, PublicKey> {
        let voters = self.genesis.members.iter().filter(|(_, member)| member.role == MemberRole::Voter);
        voters.map(|(node, member)| (*node, member.key)).collect()
    }

    /// Asks the voters, unless that was done a moment ago. `age_ms` says what a moment is.
    pub(super) fn ask_voters(&mut self, env: &mut Env<'_>, age_ms: u64) -> Result<(), Halt> {
        let lately = |at: u64| env.boot_ms.saturating_sub(at) < age_ms.max(limits::LEASE_PERIOD_MIN_MS);
        if self.keeper.asked_ms.is_some_and(lately) {
            return Ok(());
        }
        self.keeper.asked_ms = Some(env.boot_ms);
        self.look_ready(env)?;
        let voters = self.voter_keys();
        let others: Vec<NodeId> = voters.keys().copied().filter(|node| *node != self.me).collect();
        let mut nonce = [0; 16];
        self.rng.fill_bytes(&mut nonce);
        let (now_ms, mut question) = (env.boot_ms, None);
        self.with_lease(env, |lease, _, _| {
            lease.set_voters(voters);
            let (asked, notices) = lease.ask(now_ms, nonce);
            question = Some(asked);
            Ok(notices)
        })?;
        let Some(question) = question else { return Ok(()) };
        let call = encode(&WorkCall::Position(question));
        others.into_iter().for_each(|node| env.send(node, POSITION, call.clone()));
        Ok(())
    }

    /// Does something with the lease, keeps what it noticed, and looks again at what waits for evidence.
    fn with_lease(
        &mut self,
        env: &mut Env<'_>,
        act: impl FnOnce(&mut Lease, Option<u64>, &Map) -> Result<Vec<Notice>, Halt>,
    ) -> Result<(), Halt> {
        let before = self.keeper.lease.evidence();
        let notices = act(&mut self.keeper.lease, self.applied, self.disk.live(Column::State))?;
        for notice in notices {
            self.noticed(env, notice)?;
        }
        if self.keeper.lease.evidence() != before {
            self.look_wanted(env)?;
        }
        Ok(())
    }

    fn noticed(&mut self, env: &mut Env<'_>, notice: Notice) -> Result<(), Halt> {
        match notice {
            Notice::Equivocates(proof) => {
                env.count.situation(situation::EQUIVOCATED);
                let node = proof.node();
                if self.voter_keys().get(&node).is_none_or(|key| !proof.proves(key, &self.cluster)) {
                    return Err(Halt::Fault(format!("the proof against node {node} proves nothing")));
                }
                let record = (Column::Private, private::equivocation(node), Some(encode(&*proof)));
                self.persist(env, vec![record], true)?;
                env.saw(Seen::Blamed { culprits: vec![node], what: "it signed two histories".to_owned() });
                env.saw(Seen::Equivocates(node));
                if env.has(Bug::LiarCounts) {
                    self.keeper.lease = Lease::new(self.me, self.cluster, []);
                    self.keeper.ready = false;
                }
            }
            Notice::Differs { node, .. } => {
                let what = "it has another history".to_owned();
                env.saw(Seen::Blamed { culprits: vec![node], what });
            }
            Notice::Ahead { .. } => env.count.situation(situation::AHEAD),
            Notice::Forged { node } => {
                let what = "it answered with a position that it did not sign".to_owned();
                env.saw(Seen::Blamed { culprits: vec![node], what });
            }
        }
        Ok(())
    }

    /// A node said where it is.
    pub(super) fn hear_position(
        &mut self,
        env: &mut Env<'_>,
        from: NodeId,
        signed: &SignedPosition,
    ) -> Result<(), Halt> {
        let now_ms = env.boot_ms;
        let known = self.keeper.lease.evidence();
        self.with_lease(env, |lease, applied, tables| Ok(lease.answer(now_ms, from, signed, applied, tables)?))?;
        if known.is_some_and(|known| self.keeper.lease.evidence() == Some(known)) {
            env.count.situation(situation::IDLE_ANSWER);
        }
        self.confirmed(env, from, *signed)
    }

    /// Entries were applied: answers that waited for that, and questions, and withdrawals.
    pub(crate) fn lease_applied(&mut self, env: &mut Env<'_>) -> Result<(), Halt> {
        self.look_ready(env)?;
        let now_ms = env.boot_ms;
        self.with_lease(env, |lease, applied, tables| Ok(lease.applied(now_ms, applied, tables)?))?;
        if !self.keeper.withdrawn.is_empty()
            && self.keeper.withdrawn.settle(self.disk.live(Column::State), env.now_ms, |_, _| true)?
        {
            self.look_wanted(env)?;
        }
        let (applied, questions) = (self.applied, std::mem::take(&mut self.keeper.questions));
        for (number, (from, question)) in questions {
            if applied.is_some_and(|applied| applied >= question.at_least) {
                self.say_position(env, from, question.nonce)?;
            } else {
                self.keeper.questions.insert(number, (from, question));
            }
        }
        Ok(())
    }

    /// After a start this node says where it is once it has applied its log to the end, or is fresh without its own word.
    fn look_ready(&mut self, env: &mut Env<'_>) -> Result<bool, Halt> {
        if self.keeper.ready {
            return Ok(true);
        }
        let at_end = self.applied.is_some() && self.next_index() >= self.keeper.log_end;
        let fresh = self.keeper.lease.fresh(env.boot_ms, limits::STALENESS_MIN_MS.into()).is_some();
        if !at_end && !fresh && !env.has(Bug::AnswerUnapplied) {
            return Ok(false);
        }
        self.keeper.ready = true;
        self.keeper.vouched = !at_end && fresh;
        self.with_lease(env, |lease, _, _| {
            lease.set_ready();
            Ok(Vec::new())
        })?;
        Ok(true)
    }

    /// A peer asks where this node is.
    pub(super) fn answer_position(&mut self, env: &mut Env<'_>, from: NodeId, question: Question) -> Result<(), Halt> {
        if question.seen.len() > limits::POSITIONS_TOLD {
            let refusal = Refusal::new(ErrorCode::TooLarge, "too many positions");
            env.answer(from, POSITION, &WorkAnswer::Refused(refusal));
            return Ok(());
        }
        self.with_lease(env, |lease, _, _| Ok(lease.compare(&question.seen)))?;
        if question.at_least > 0 && self.applied.is_none_or(|applied| applied < question.at_least) {
            let number = self.next_number();
            self.keeper.questions.insert(number, (from, question));
            env.wake(AT_LEAST_MS, Timer::Question(number));
            return Ok(());
        }
        self.say_position(env, from, question.nonce)
    }

    /// The index that a peer asked for did not come in time: it is told what there is.
    pub(super) fn question_waited(&mut self, env: &mut Env<'_>, number: u64) -> Result<(), Halt> {
        match self.keeper.questions.remove(&number) {
            Some((from, question)) => self.say_position(env, from, question.nonce),
            None => Ok(()),
        }
    }

    fn say_position(&mut self, env: &mut Env<'_>, from: NodeId, nonce: [u8; 16]) -> Result<(), Halt> {
        let answer = match self.own_position(env, nonce)? {
            Some(signed) => WorkAnswer::Position(signed),
            None => {
                env.count.situation(situation::NOT_READY);
                WorkAnswer::Refused(Refusal::new(ErrorCode::NotFresh, "this node has not applied its log yet"))
            }
        };
        env.answer(from, POSITION, &answer);
        Ok(())
    }

    /// Where this node is, signed, and durable before it is signed; none right after a start.
    pub(super) fn own_position(&mut self, env: &mut Env<'_>, nonce: [u8; 16]) -> Result<Option<SignedPosition>, Halt> {
        let Some(applied) = self.applied.filter(|_| self.keeper.ready) else { return Ok(None) };
        let Some(head) = root_at(self.tables(), applied)? else { return Ok(None) };
        let membership = records::cluster(self.tables())?.membership;
        if self.disk.pending() > 0 && !env.has(Bug::SignBeforeSync) {
            env.crash_point(situation::BEFORE_SYNC)?;
            self.disk.sync();
            env.persisted = true;
            env.crash_point(situation::POSITION_SYNCED)?;
        }
        let position = Position { node: self.me, boot: self.keeper.boot, nonce, applied, head, membership };
        let signed = position.sign(&self.identity, &self.cluster);
        let log_end = if self.keeper.vouched { 0 } else { self.keeper.log_end };
        env.saw(Seen::Position { position, log_end });
        Ok(Some(signed))
    }

    /// The evidence so far. To be taken before the state is read that is to be acted on.
    pub(super) fn evidence(&self) -> Option<Evidence> {
        self.keeper.lease.evidence()
    }

    /// The proof that evidence is young enough.
    pub(super) fn fresh_by(&self, env: &Env<'_>, evidence: Option<Evidence>, staleness_ms: u64) -> Option<Fresh> {
        evidence?.fresh(env.boot_ms, staleness_ms)
    }

    /// The longest staleness of the key that a request is about, milliseconds.
    pub(super) fn staleness_ms(&self, body: &RequestBody) -> Result<u64, Halt> {
        let id = body.key.map(|key| replicated::key_record(&key));
        let key = id.map_or(Ok(None), |id| read::<KeyRecord>(self.tables(), &id))?;
        Ok(key.map_or(limits::STALENESS_MS, |key| key.policy.max_staleness_ms).into())
    }

    pub(super) fn is_fresh_for(&self, env: &Env<'_>, body: &RequestBody, staleness_ms: u64) -> bool {
        self.fresh_by(env, self.evidence(), staleness_ms).is_some() && !self.withholds(body, env.now_ms)
    }

    /// Whether a request that is on its way to the log takes away what this one asks for.
    pub(crate) fn withholds(&self, body: &RequestBody, now_ms: u64) -> bool {
        self.keeper.withdrawn.hit(body, now_ms)
    }

    pub(super) fn not_fresh(&self, env: &Env<'_>, staleness_ms: u64) -> Refusal {
        let (answered, needed) =
            (self.keeper.lease.tally(env.boot_ms, staleness_ms).counted.len(), self.keeper.lease.needed());
        Refusal::new(ErrorCode::NotFresh, format!("{answered} of {needed} needed voters find this node current"))
    }

    /// Voters whose answers count now.
    pub(super) fn counted(&self, env: &Env<'_>, staleness_ms: u64) -> Vec<NodeId> {
        self.keeper.lease.tally(env.boot_ms, staleness_ms).counted.into_iter().collect()
    }

    /// The highest index that a node is known to have applied; 0 where nothing is known.
    pub(super) fn applied_by(&self, node: NodeId) -> u64 {
        self.keeper.lease.highest(node).unwrap_or(0)
    }

    /// A peer says that a request is on its way to the log.
    pub(super) fn hear_withdrawn(
        &mut self,
        env: &mut Env<'_>,
        from: NodeId,
        call: u64,
        request: &SignedRequest,
    ) -> Result<(), Halt> {
        let answer = match settled(self.withhold(env, request))? {
            Ok(_) => WorkAnswer::Taken,
            Err(refusal) => {
                env.count.situation(situation::NOTICE_REFUSED);
                WorkAnswer::Refused(refusal)
            }
        };
        env.answer(from, call, &answer);
        Ok(())
    }

    /// Stops acting on what a good request takes away until the state holds what became of it, or it has expired.
    fn withhold(&mut self, env: &Env<'_>, request: &SignedRequest) -> Result<bool, Stop> {
        let tables = self.disk.live(Column::State);
        let checked = Subject::withdrawn_by(tables, &self.cluster, env.now_ms, request).map_err(Halt::from)??;
        let Some((verified, subject)) = checked else { return Ok(false) };
        self.keeper.withdrawn.note(&verified, subject);
        // It may have been applied here already.
        self.keeper.withdrawn.settle(tables, env.now_ms, |_, _| true).map_err(Halt::from)?;
        Ok(true)
    }

    /// Stops acting on the right that a request takes away, and tells everybody else to.
    pub(super) fn spread_withdrawal(&mut self, env: &mut Env<'_>, request: &SignedRequest) -> Result<(), Halt> {
        if matches!(settled(self.withhold(env, request))?, Ok(true)) {
            let call = encode(&WorkCall::Withdrawn(request.clone()));
            let others = self.genesis.members.keys().copied().filter(|node| *node != self.me);
            others.for_each(|node| env.send(node, POSITION, call.clone()));
        }
        Ok(())
    }
}
