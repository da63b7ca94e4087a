//! The freshness lease of this node: asking the voters, answering whoever asks, and what a request waits for
//! (`docs/spec/fresh.md`).

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use openraft::storage::RaftLogStorage;
use openraft::type_config::TypeConfigExt as _;
use rand_core::RngCore as _;
use symbolon_protocol::error::{Detail, ErrorCode, Refusal};
use symbolon_protocol::fresh::{
    Equivocation, Evidence, Lease, LeaseView, Notice, Position, Question, SignedPosition, Withdrawals,
};
use symbolon_protocol::genesis::MemberRole;
use symbolon_protocol::id::{ClusterId, NodeId, RequestId};
use symbolon_protocol::identity::PublicKey;
use symbolon_protocol::limits;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::peer::{WorkAnswer, WorkCall};
use symbolon_protocol::request::{RequestBody, VerifiedRequest};
use symbolon_protocol::schema::{private, replicated};
use symbolon_protocol::state::members;
use symbolon_protocol::state::records::{self, KeyRecord, VersionRecord};
use symbolon_protocol::table::{StoreFault, Tables, read};
use symbolon_protocol::wire::{decode, encode};
use tokio::sync::{Notify, watch};

use super::raft_log::RaftLog;
use super::raft_state::RequestName;
use super::types::{NodeTypes, Surroundings, Transport};
use super::{Core, lock};
use crate::store::{Batch, Column, Store};

/// How long a voter may take for an answer.
const ANSWER: Duration = Duration::from_millis(1_500);
/// How long an answer waits for an index that is asked for.
const AT_LEAST: Duration = Duration::from_secs(1);
/// How long a request waits for a lease that has lapsed. A coordinator waits a little longer for each round.
const PATIENCE: Duration = Duration::from_millis(1_200);
/// Between two rounds of questions at least.
const GAP: Duration = Duration::from_millis(limits::LEASE_PERIOD_MIN_MS);

/// What stands for "this node holds no share": no staleness is longer.
const NO_KEY: u64 = u64::MAX;

/// The lease of this node, and what belongs to it.
pub(crate) struct Keeper {
    lease: Mutex<Lease>,
    pub(crate) withdrawn: Mutex<Withdrawals>,
    /// Counts whenever a request that waits should look again.
    changed: watch::Sender<u64>,
    /// A request met a lapsed lease.
    wanted: Notify,
    /// Number of entries whose effects are certainly durable.
    durable: AtomicU64,
    /// The end of the log at the start of this node.
    log_end: Option<u64>,
    /// Whether this node says where it is.
    ready: AtomicBool,
    /// The smallest staleness of the keys that this node holds shares of, milliseconds.
    smallest: AtomicU64,
}

impl Keeper {
    /// Without evidence, and with the proofs that were kept.
    ///
    /// # Errors
    /// What the operator should know: the store cannot be read, or holds damaged records.
    pub(crate) async fn open<C: NodeTypes, S: Store>(
        me: NodeId,
        cluster: ClusterId,
        store: &S,
        mut log: RaftLog<S>,
    ) -> Result<Self, String> {
        let pairs = store.scan(Column::Private, private::EQUIVOCATIONS, b"", limits::MEMBERS);
        let proofs = pairs.map_err(|e| e.to_string())?.into_iter().map(|(_, bytes)| decode::<Equivocation>(&bytes));
        let proofs = proofs.collect::<Result<Vec<_>, _>>().map_err(|e| e.to_string())?;
        let end = RaftLogStorage::<C>::get_log_state(&mut log).await.map_err(|e| e.to_string())?.last_log_id;
        Ok(Self {
            lease: Mutex::new(Lease::new(me, cluster, proofs)),
            withdrawn: Mutex::default(),
            changed: watch::Sender::new(0),
            wanted: Notify::new(),
            durable: AtomicU64::new(0),
            log_end: end.map(|id| id.index),
            ready: AtomicBool::new(false),
            smallest: AtomicU64::new(NO_KEY),
        })
    }

    fn stir(&self) {
        self.changed.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// The smallest staleness of the keys that this node holds shares of, milliseconds.
    fn staleness_ms(&self) -> Option<u64> {
        Some(self.smallest.load(Ordering::Relaxed)).filter(|smallest| *smallest != NO_KEY)
    }

    /// Between two rounds of questions: three of them fit into the smallest staleness.
    fn period(&self) -> Duration {
        let staleness_ms = self.staleness_ms().unwrap_or(limits::STALENESS_MS.into());
        Duration::from_millis(staleness_ms / 3).max(GAP)
    }
}

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    pub(crate) fn boot_ms(&self) -> u64 {
        self.0.surroundings.boot_ms()
    }

    pub(crate) fn new_nonce(&self) -> [u8; 16] {
        let mut nonce = [0; 16];
        self.0.surroundings.rng().fill_bytes(&mut nonce);
        nonce
    }

    /// Asks the voters again and again, as long as this node holds a share, and whenever a request needs it.
    pub(crate) async fn keep_fresh(self) {
        let mut wanted = false;
        loop {
            match self.0.store.scan(Column::Private, private::SHARES, b"", 1) {
                Ok(shares) if self.admitted() && (wanted || !shares.is_empty()) => self.ask_voters(),
                Ok(_) => {}
                Err(fault) => drop(self.fail(&fault)),
            }
            C::sleep(GAP).await;
            let woken = self.0.keeper.wanted.notified();
            wanted = C::timeout(self.0.keeper.period().saturating_sub(GAP), woken).await.is_ok();
        }
    }

    /// One round of questions; the answers come when they come.
    fn ask_voters(&self) {
        self.look_ready();
        let Ok(voters) = self.lease_voters().map_err(|fault| self.fail(&fault)) else { return };
        let others: Vec<NodeId> = voters.keys().copied().filter(|node| *node != self.0.me).collect();
        let nonce = self.new_nonce();
        let question = self.with_lease(|lease, now| {
            lease.set_voters(voters);
            Ok(lease.ask(now, nonce))
        });
        let Some(question) = question else { return };
        let call = encode(&WorkCall::Position(question));
        for node in others {
            let (core, call) = (self.clone(), call.clone());
            let _task = C::spawn(async move {
                if let Ok(WorkAnswer::Position(answer)) = core.call_raw(node, call, ANSWER).await {
                    core.hear_position(node, &answer);
                }
            });
        }
    }

    /// On whom the lease rests: the voters of the state that it is to prove current, never those of links that lead beyond it. A
    /// barrier reckons with the voters from before its entry only.
    fn lease_voters(&self) -> Result<BTreeMap<NodeId, PublicKey>, StoreFault> {
        let tables = self.tables();
        let version = records::cluster(&tables)?.membership;
        Ok(members::voters_at(&tables, version)?.unwrap_or_default())
    }

    pub(crate) fn voter_keys(&self) -> BTreeMap<NodeId, PublicKey> {
        let membership = self.membership();
        let voters = membership.members.iter().filter(|(_, member)| member.role == MemberRole::Voter);
        voters.map(|(node, member)| (*node, member.key)).collect()
    }

    /// Does something with the lease, tells what there is to tell, and wakes whom new evidence may help.
    fn with_lease<R>(&self, act: impl FnOnce(&mut Lease, u64) -> Result<(R, Vec<Notice>), StoreFault>) -> Option<R> {
        let (result, renewed) = {
            let mut lease = lock(&self.0.keeper.lease);
            let before = lease.evidence();
            let result = act(&mut lease, self.boot_ms());
            (result, lease.evidence() != before)
        };
        if renewed {
            self.0.keeper.stir();
        }
        match result {
            Ok((result, notices)) => {
                notices.iter().for_each(|notice| self.tell(notice));
                Some(result)
            }
            Err(fault) => {
                self.fail(&fault);
                None
            }
        }
    }

    fn hear_position(&self, from: NodeId, answer: &SignedPosition) {
        let (applied, tables) = (self.applied_index(), self.tables());
        self.with_lease(|lease, now| Ok(((), lease.answer(now, from, answer, applied, &tables)?)));
    }

    fn tell(&self, notice: &Notice) {
        match notice {
            Notice::Equivocates(proof) => {
                let (peer, index) = (self.name_of(proof.node()), proof.index());
                self.0.counters.blame.count(proof.node());
                tracing::error!(%peer, index, "a voter signed two histories: nothing that it says counts any more");
                if let Err(fault) = self.keep_proof(proof) {
                    self.fail(&fault);
                }
            }
            Notice::Differs { node, index, theirs, ours } => {
                let peer = self.name_of(*node);
                tracing::error!(%peer, index, %theirs, %ours, "a voter has another history than this node");
            }
            Notice::Ahead { node, index } => {
                let peer = self.name_of(*node);
                tracing::error!(%peer, index, "a voter says that it is ahead, and the others find this node current");
            }
            Notice::Forged { node } => {
                let peer = self.name_of(*node);
                tracing::error!(%peer, "a voter answered with a position that it did not sign");
            }
        }
    }

    fn keep_proof(&self, proof: &Equivocation) -> Result<(), StoreFault> {
        let mut batch = Batch::default();
        batch.put(Column::Private, private::equivocation(proof.node()), encode(proof));
        self.0.store.write(batch)?;
        let (core, synced) = (self.clone(), self.0.store.sync());
        let _task = C::spawn(async move {
            if let Err(fault) = synced.await {
                core.fail(&fault);
            }
        });
        Ok(())
    }

    /// An entry was applied here, or a checkpoint in the place of many.
    pub(crate) fn lease_applied(&self, index: u64, entry: Option<(&Outcome, Option<RequestName>)>) {
        self.look_ready();
        let tables = self.tables();
        self.with_lease(|lease, now| Ok(((), lease.applied(now, Some(index), &tables)?)));
        let settled = {
            let mut withdrawn = lock(&self.0.keeper.withdrawn);
            let may_be_there = |client: &PublicKey, id: &RequestId| match entry {
                Some((_, recorded)) => recorded == Some((*client, *id)),
                None => true,
            };
            if withdrawn.is_empty() { Ok(false) } else { withdrawn.settle(&tables, self.now_ms(), may_be_there) }
        };
        let measured = match entry.map(|(outcome, _)| outcome) {
            Some(Outcome::Activated { key, .. } | Outcome::PolicyChanged { key }) => {
                self.key_record(key).and_then(|record| record.map_or(Ok(()), |key| self.measure_key(&key)))
            }
            Some(_) => Ok(()),
            None => self.measure_keys(),
        };
        match settled.and_then(|settled| measured.map(|()| settled)) {
            Ok(true) => self.0.keeper.stir(),
            Ok(false) => {}
            Err(fault) => drop(self.fail(&fault)),
        }
    }

    /// Looks which of this node's keys has the smallest staleness: at the start, and after a checkpoint came in.
    pub(crate) fn measure_keys(&self) -> Result<(), StoreFault> {
        let mut after = Vec::new();
        loop {
            let page = self.tables().scan(replicated::KEYS, &after, 256)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after.clone_from(last);
            for (_, value) in page {
                self.measure_key(&decode(&value)?)?;
            }
        }
    }

    /// A staleness that was raised counts after the next start: until then this node asks more often than it must.
    fn measure_key(&self, key: &KeyRecord) -> Result<(), StoreFault> {
        let Some(current) = key.current else { return Ok(()) };
        let version: Option<VersionRecord> = read(&self.tables(), &replicated::version(&key.id, current))?;
        if version.is_some_and(|version| version.roster.contains(&self.0.me)) {
            self.0.keeper.smallest.fetch_min(key.policy.max_staleness_ms.into(), Ordering::Relaxed);
        }
        Ok(())
    }

    /// After a start this node says where it is once it has applied its log to the end, or is fresh without its own word.
    fn look_ready(&self) -> bool {
        let keeper = &self.0.keeper;
        if keeper.ready.load(Ordering::Relaxed) {
            return true;
        }
        let applied = self.applied_index();
        // The end may have been cut off since: then what is left is the end.
        let last = self.metrics(|m| m.last_log_index);
        let at_end = applied.is_some() && (applied >= keeper.log_end || (last.is_some() && applied >= last));
        let staleness_ms = keeper.staleness_ms().unwrap_or(limits::STALENESS_MS.into());
        let now = self.boot_ms();
        let ready = at_end || lock(&keeper.lease).fresh(now, staleness_ms).is_some();
        if ready {
            keeper.ready.store(true, Ordering::Relaxed);
            self.with_lease(|lease, _| {
                lease.set_ready();
                Ok(((), Vec::new()))
            });
        }
        ready
    }

    /// Answers a peer that asks where this node is.
    ///
    /// # Errors
    /// `not_fresh` right after a start, `too_large`.
    pub(crate) async fn answer_position(&self, question: Question) -> Result<SignedPosition, Refusal> {
        if question.seen.len() > limits::POSITIONS_TOLD {
            return Err(Refusal::new(ErrorCode::TooLarge, "a question that tells of more positions than there can be"));
        }
        self.with_lease(|lease, _| Ok(((), lease.compare(&question.seen))));
        if question.at_least > 0 {
            self.applied_at_least(question.at_least, AT_LEAST).await;
        }
        self.own_position(question.nonce).await
    }

    /// Where this node is, signed, and durable before it is signed.
    ///
    /// # Errors
    /// `not_fresh` right after a start.
    pub(crate) async fn own_position(&self, nonce: [u8; 16]) -> Result<SignedPosition, Refusal> {
        let position = if self.look_ready() { self.position(nonce).map_err(|e| self.fail(&e))? } else { None };
        let Some(position) = position else {
            let message = format!("{} has not applied its log since it started", self.name_of(self.0.me));
            return Err(Refusal::new(ErrorCode::NotFresh, message));
        };
        let entries = position.applied.saturating_add(1);
        if self.0.keeper.durable.load(Ordering::Acquire) < entries {
            self.0.store.sync().await.map_err(|e| self.fail(&e))?;
            self.0.keeper.durable.fetch_max(entries, Ordering::AcqRel);
        }
        Ok(position.sign(&self.0.identity, &self.0.cluster))
    }

    /// Index, root and membership of one view of the tables: the three must belong together.
    fn position(&self, nonce: [u8; 16]) -> Result<Option<Position>, StoreFault> {
        let Some(applied) = self.applied_index() else { return Ok(None) };
        let view = self.0.store.view();
        let mut after = applied.checked_sub(1).map_or_else(Vec::new, replicated::root);
        let mut newest = None;
        // The view may be a little ahead of what the core was told.
        while let Some((key, value)) = view.scan(replicated::ROOTS, &after, 256)?.pop() {
            let index = key.get(1..).and_then(|index| index.try_into().ok()).map(u64::from_be_bytes);
            newest = index.zip(Some(decode(&value)?));
            after = key;
        }
        let membership = records::cluster(&view)?.membership;
        let (node, boot) = (self.0.me, self.0.boot);
        Ok(newest.map(|(applied, head)| Position { node, boot, nonce, applied, head, membership }))
    }

    /// The evidence so far. To be taken before the state is read that is to be acted on.
    pub(crate) fn evidence(&self) -> Option<Evidence> {
        lock(&self.0.keeper.lease).evidence()
    }

    /// The highest index that a node is known to have applied.
    pub(crate) fn known_position(&self, node: NodeId) -> Option<u64> {
        lock(&self.0.keeper.lease).highest(node)
    }

    fn is_fresh_for(&self, body: &RequestBody, staleness_ms: u64) -> bool {
        let now = self.boot_ms();
        self.evidence().is_some_and(|evidence| evidence.fresh(now, staleness_ms).is_some())
            && !lock(&self.0.keeper.withdrawn).hit(body, self.now_ms())
    }

    /// Waits for a moment until this node is fresh for a request, where it is not. Whether it is then the decision says.
    pub(crate) async fn await_fresh(&self, request: &VerifiedRequest) {
        let (keeper, body) = (&self.0.keeper, request.body());
        if keeper.staleness_ms().is_some_and(|smallest| self.is_fresh_for(body, smallest)) {
            return;
        }
        let key = body.key.and_then(|key| self.key_record(&key).ok().flatten());
        let staleness_ms: u64 = key.map_or(limits::STALENESS_MS, |key| key.policy.max_staleness_ms).into();
        let mut changed = keeper.changed.subscribe();
        let wait = async {
            while !self.is_fresh_for(body, staleness_ms) {
                keeper.wanted.notify_one();
                if changed.changed().await.is_err() {
                    return;
                }
            }
        };
        let _ = C::timeout(PATIENCE, wait).await;
    }

    /// Refuses what a request that is on its way to the log takes away.
    ///
    /// # Errors
    /// `not_fresh`.
    pub(crate) fn check_withdrawn(&self, body: &RequestBody) -> Result<(), Refusal> {
        if !lock(&self.0.keeper.withdrawn).hit(body, self.now_ms()) {
            return Ok(());
        }
        let message = format!("{} waits for a request that takes this right away", self.name_of(self.0.me));
        Err(Refusal::new(ErrorCode::NotFresh, message))
    }

    /// Why this node is not fresh, in numbers.
    pub(crate) fn not_fresh(&self, staleness_ms: u64) -> Refusal {
        let now = self.boot_ms();
        let (tally, needed) = {
            let lease = lock(&self.0.keeper.lease);
            (lease.tally(now, staleness_ms), lease.needed())
        };
        let ahead: Vec<String> = tally.ahead.iter().map(|node| self.name_of(*node)).collect();
        let behind = if ahead.is_empty() { String::new() } else { format!("; it is behind {}", ahead.join(", ")) };
        let (answered, me) = (tally.counted.len(), self.name_of(self.0.me));
        let message = format!("{me} is not fresh: {answered} of {needed} needed voters find its state current{behind}");
        Refusal::new(ErrorCode::NotFresh, message)
            .with("answered", Detail::Number(answered as u64))
            .with("needed", Detail::Number(needed as u64))
            .with("ahead", Detail::List(ahead))
    }

    /// The lease as clients are shown it.
    #[must_use]
    pub fn lease_view(&self) -> LeaseView {
        let now = self.boot_ms();
        lock(&self.0.keeper.lease).view(now, self.0.keeper.staleness_ms())
    }

    /// What an operator should know about it.
    pub(crate) fn lease_warnings(&self) -> Vec<String> {
        let view = self.lease_view();
        let mut warnings = Vec::new();
        if let Some(staleness_ms) = view.staleness_ms.filter(|_| !view.fresh) {
            warnings.push(self.not_fresh(staleness_ms).message);
        }
        for proof in &view.equivocations {
            let (node, index) = (self.name_of(proof.node()), proof.index());
            warnings.push(format!(
                "{node} signed two histories at index {index}: nothing that it says counts on this node any more; replace \
                 it. Proof: {}",
                hex::encode(encode(proof))
            ));
        }
        warnings
    }
}
