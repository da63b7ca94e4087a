//! Taking rights away: telling everybody at once, and answering when the right is gone (`docs/spec/fresh.md`).

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use openraft::type_config::TypeConfigExt as _;
use symbolon_protocol::error::Refusal;
use symbolon_protocol::fresh::{
    Barrier, Enforced, Holders, Placed, Progress, Question, Report, SignedPosition, Subject, holders_of_change,
    holders_of_rotation,
};
use symbolon_protocol::history;
use symbolon_protocol::id::{Digest, NodeId, RequestId};
use symbolon_protocol::identity::PublicKey;
use symbolon_protocol::limits;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::peer::{WorkAnswer, WorkCall};
use symbolon_protocol::request::{Action, SignedRequest, VerifiedRequest};
use symbolon_protocol::schema::replicated;
use symbolon_protocol::state::links;
use symbolon_protocol::state::members::DepartedRecord;
use symbolon_protocol::table::{StoreFault, read};

use super::request::Ordered;
use super::types::{NodeTypes, Surroundings, Transport};
use super::{Core, lock};
use crate::store::Store;

/// How long a node may take to say where it is; it waits for a moment to be there.
const ANSWER: Duration = Duration::from_millis(1_500);
/// Between two questions to the same node.
const AGAIN: Duration = Duration::from_millis(50);
/// How long this node may take to apply what another one has, and what it ordered itself.
const CATCH_UP: Duration = Duration::from_secs(2);
/// Between two looks at who can be reached.
const LOOK: Duration = Duration::from_millis(250);

/// Barriers and what they are for, in memory: the same request goes on where it was.
#[derive(Default)]
pub(crate) struct Barriers {
    /// By index; the oldest goes first.
    open: Mutex<BTreeMap<u64, Arc<Mutex<Barrier>>>>,
    /// Requests that took a right away, as they were applied here.
    placed: Mutex<VecDeque<Placed>>,
}

/// What a barrier is about.
struct Scope {
    /// The entry that takes the right away.
    entry: Placed,
    /// Whose shares are concerned, and how stale each of them may be, milliseconds.
    holders: Holders,
}

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    /// Stops acting on the right that a request takes away, and tells everybody else to, before it is ordered.
    pub(crate) fn spread_withdrawal(&self, request: &SignedRequest) {
        // What is wrong with a request is said when it is ordered.
        if !matches!(self.withhold(request), Ok(true)) {
            return;
        }
        for node in self.others() {
            let (core, call) = (self.clone(), WorkCall::Withdrawn(request.clone()));
            let _task = C::spawn(async move {
                // Whoever does not hear of it is what the barrier is for.
                let _ = core.call_work(node, &call, core.0.timing.call).await;
            });
        }
    }

    /// Takes a request that is on its way to the log: if it is good, this node does not act on the right until its own state
    /// holds what became of the request, or it has expired. False when it takes nothing away that anybody uses now.
    ///
    /// # Errors
    /// Why it is not good.
    pub(crate) fn withhold(&self, request: &SignedRequest) -> Result<bool, Refusal> {
        let (tables, now_ms) = (self.tables(), self.now_ms());
        let checked = Subject::withdrawn_by(&tables, &self.0.cluster, now_ms, request).map_err(|e| self.fail(&e))?;
        let Some((verified, subject)) = checked? else { return Ok(false) };
        let mut withdrawn = lock(&self.0.keeper.withdrawn);
        withdrawn.note(&verified, subject);
        // It may have been applied here already.
        let body = verified.body();
        let noted = |client: &PublicKey, id: &RequestId| (*client, *id) == (body.client, body.request_id);
        withdrawn.settle(&tables, now_ms, noted).map_err(|e| self.fail(&e))?;
        Ok(true)
    }

    /// A request that takes a right away was applied here.
    pub(crate) fn remember_placed(&self, placed: Placed) {
        let mut list = lock(&self.0.barriers.placed);
        // The first time counts: a repeat finds the outcome in the tables.
        if list.iter().all(|known| known.request != placed.request) {
            list.push_back(placed);
            if list.len() > limits::BARRIERS_KEPT {
                list.pop_front();
            }
        }
    }

    /// Where a request was applied here; none when this node took a checkpoint in its place.
    async fn placed(&self, request: Digest) -> Option<Placed> {
        let find = || lock(&self.0.barriers.placed).iter().find(|placed| placed.request == request).copied();
        let mut applied = self.0.applied.subscribe();
        let wait = async {
            loop {
                if let Some(placed) = find() {
                    return Some(placed);
                }
                if applied.changed().await.is_err() {
                    return None;
                }
            }
        };
        C::timeout(CATCH_UP, wait).await.ok().flatten()
    }

    /// An ordered request that takes a right away, once that is gone as far as that can be had.
    ///
    /// # Errors
    /// `storage_failed`.
    pub(crate) async fn enforced(&self, request: &VerifiedRequest, ordered: Ordered) -> Result<Ordered, Refusal> {
        let report = self.enforce(request, &ordered).await?;
        // Where the entry lies this node knows from its own log, not from the leader. A rotation takes away in a later one.
        let rotates = matches!(request.body().action, Action::RotateKey { .. });
        let index = if rotates { ordered.index } else { report.index };
        Ok(Ordered { index, barrier: Some(report), ..ordered })
    }

    async fn enforce(&self, request: &VerifiedRequest, ordered: &Ordered) -> Result<Report, Refusal> {
        let Some(scope) = self.scope(request, ordered).await.map_err(|e| self.fail(&e))? else {
            let (positions, holders) = (Vec::new(), BTreeSet::new());
            return Ok(Report {
                index: ordered.index,
                enforced: Enforced::No,
                positions,
                holders,
                staleness_ms: 0,
                place: None,
                endorsements: Vec::new(),
            });
        };
        let barrier = self.barrier(&scope).map_err(|e| self.fail(&e))?;
        let enforced = self.collect(&barrier).await.map_err(|e| self.fail(&e))?;
        let report = {
            let barrier = lock(&barrier);
            let (positions, holders) = (barrier.positions(), barrier.holders());
            let staleness_ms = barrier.staleness_ms();
            let confirmed = positions.iter().map(|signed| signed.position.node).collect();
            let beside = links::endorsements_beside(&self.tables(), barrier.index(), &confirmed);
            let endorsements = beside.map_err(|e| self.fail(&e))?;
            Report { index: barrier.index(), enforced, positions, holders, staleness_ms, place: None, endorsements }
        };
        let applied = report.positions.iter().map(|signed| signed.position.applied);
        let place = scope.entry.place(&self.tables(), applied).map_err(|e| self.fail(&e))?;
        let index = report.index;
        tracing::info!(request = %request.body().request_id, index, enforced = enforced.name(), "a right is taken away");
        Ok(Report { place, ..report })
    }

    /// None where this node cannot tell.
    async fn scope(&self, request: &VerifiedRequest, ordered: &Ordered) -> Result<Option<Scope>, StoreFault> {
        if matches!(request.body().action, Action::RotateKey { .. }) {
            return self.scope_of_rotation(request.digest(), ordered);
        }
        let Some(entry) = self.placed(request.digest()).await else { return Ok(None) };
        let members = self.membership().members.keys().copied().collect::<Vec<_>>();
        let holders = holders_of_change(&self.tables(), &ordered.outcome, members, |node| self.applied_by(node))?;
        Ok(Some(Scope { entry, holders }))
    }

    /// From the entry on that made the new version active, the ones before do not sign.
    fn scope_of_rotation(&self, request: Digest, ordered: &Ordered) -> Result<Option<Scope>, StoreFault> {
        let (Some(key), Outcome::Generating { version, .. }) = (&ordered.key, &ordered.outcome) else {
            return Ok(None);
        };
        let certificate = key.version(*version).and_then(|made| made.certificate.as_ref());
        let Some(activation) = certificate.map(|certificate| &certificate.activation) else { return Ok(None) };
        let entry = Placed { request, index: activation.head.index, time_ms: 0, writes: activation.writes };
        let holders = holders_of_rotation(&self.tables(), &key.id, *version, |node| self.applied_by(node))?;
        Ok(Some(Scope { entry, holders }))
    }

    /// The highest index that a node is known to have applied; 0 where nothing is known.
    fn applied_by(&self, node: NodeId) -> u64 {
        self.known_position(node).unwrap_or(0)
    }

    /// The barrier of an index, as far as it came before.
    fn barrier(&self, scope: &Scope) -> Result<Arc<Mutex<Barrier>>, StoreFault> {
        let index = scope.entry.index;
        let electorates = links::electorates(&self.tables(), index)?;
        let mut open = lock(&self.0.barriers.open);
        let new = || Arc::new(Mutex::new(Barrier::new(index, electorates, scope.holders.clone())));
        let barrier = Arc::clone(open.entry(index).or_insert_with(new));
        if open.len() > limits::BARRIERS_KEPT {
            open.pop_first();
        }
        Ok(barrier)
    }

    /// Gathers positions until the barrier is passed, or will not be.
    async fn collect(&self, barrier: &Mutex<Barrier>) -> Result<Enforced, StoreFault> {
        let begun = self.boot_ms();
        let (index, missing) = {
            let barrier = lock(barrier);
            (barrier.index(), barrier.missing())
        };
        let ask = |node| -> BoxFuture<'static, SignedPosition> { Box::pin(self.clone().confirmation(node, index)) };
        let mut answers: FuturesUnordered<_> = missing.into_iter().map(ask).collect();
        loop {
            let now = self.boot_ms();
            let electorates = links::electorates(&self.tables(), index)?;
            let progress = {
                let mut barrier = lock(barrier);
                barrier.set_electorates(now, electorates);
                barrier.progress(begun, now, |node| self.is_reachable(node))
            };
            let until = match progress {
                Progress::Done(enforced) => return Ok(enforced),
                Progress::Until(until) => Duration::from_millis(until.saturating_sub(now).max(1)),
            };
            // Who can be reached may change without an answer.
            let patience = until.min(LOOK);
            if answers.is_empty() {
                C::sleep(patience).await;
            } else if let Ok(Some(signed)) = C::timeout(patience, answers.next()).await {
                lock(barrier).take(self.boot_ms(), signed);
            }
        }
    }

    /// The identity of a member, or of one that left.
    fn key_of_any(&self, node: NodeId) -> Option<PublicKey> {
        let gone = || read::<DepartedRecord>(&self.tables(), &replicated::departed(node)).map_err(|e| self.fail(&e));
        self.member_key(node).or_else(|| Some(gone().ok()??.key))
    }

    /// A position of a node at or above an index, once it has one. Dropped when nobody waits for it any more.
    async fn confirmation(self, node: NodeId, index: u64) -> SignedPosition {
        loop {
            if let Some(signed) = self.try_confirmation(node, index).await {
                return signed;
            }
            C::sleep(AGAIN).await;
        }
    }

    async fn try_confirmation(&self, node: NodeId, index: u64) -> Option<SignedPosition> {
        let nonce = self.new_nonce();
        let signed = if node == self.0.me {
            self.applied_at_least(index, ANSWER).await;
            self.own_position(nonce).await.ok()?
        } else {
            let question = Question { nonce, at_least: index, seen: Vec::new() };
            match self.call_work(node, &WorkCall::Position(question), ANSWER).await {
                Ok(WorkAnswer::Position(signed)) => signed,
                Ok(_) | Err(_) => return None,
            }
        };
        let position = &signed.position;
        let asked_for = position.node == node && position.nonce == nonce && position.applied >= index;
        let key = self.key_of_any(node)?;
        if !asked_for || !signed.verifies(&key, &self.0.cluster) {
            return None;
        }
        // One that has another history confirms nothing.
        if !self.applied_at_least(position.applied, CATCH_UP).await {
            return None;
        }
        match history::root_at(&self.tables(), position.applied) {
            Ok(ours) => (ours == Some(position.head)).then_some(signed),
            Err(fault) => {
                self.fail(&fault);
                None
            }
        }
    }
}
