//! Making this node's own part of the replicated state true; after any crash it simply looks again.

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use openraft::async_runtime::Instant as _;
use openraft::type_config::TypeConfigExt as _;
use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::entry::{Erasure, Payload, Support, Witness};
use symbolon_protocol::error::Refusal;
use symbolon_protocol::generate::activated_vote;
use symbolon_protocol::id::{Digest, KeyId, KeyVersion, NodeId, OperationId};
use symbolon_protocol::identity::{Domain, Signature};
use symbolon_protocol::limits;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::peer::{WorkAnswer, WorkCall};
use symbolon_protocol::schema::{private, replicated};
use symbolon_protocol::state::records::{self, KeyRecord, OperationRecord, VersionRecord};
use symbolon_protocol::state::{
    OwedErasure, SupportRecord, next_destruction, next_operations, owed_erasures, owes_witness, support_of,
};
use symbolon_protocol::table::{StoreFault, Tables, read};
use symbolon_protocol::wire::{decode, encode};

use super::checkpoint::Checkpoints;
use super::types::{NodeTypes, Surroundings, Transport};
use super::vitals::{Heard, clock_difference};
use super::{Core, lock};
use crate::store::{Column, Store, commit};

/// Operations, destructions and witnesses that are looked at in one round, and attempts in which this node takes part at a time.
const BATCH: usize = 256;
/// Of these so many, the first ones by id, are those that everybody joins.
const COMMON: usize = BATCH / 2;
/// Between two searches for shares of attempts that failed, milliseconds.
const ORPHANS_MS: u64 = 5_000;
/// Between two questions to a peer how it is.
const PEER_ROUND: Duration = Duration::from_millis(400);
/// A peer that said nothing for so long counts as unreachable.
const SILENCE: Duration = Duration::from_millis(2_500);

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    /// An entry was applied here.
    pub(crate) fn note_applied(&self, index: u64, outcome: &Outcome) {
        self.0.applied.send_replace(Some(index));
        self.0.counters.applied(outcome);
        match outcome {
            Outcome::Noted | Outcome::Started | Outcome::Upgraded { .. } | Outcome::Refused(_) => return,
            Outcome::Advanced { operation } => return self.note_advanced(operation),
            Outcome::Activated { key, version, .. } => {
                lock(&self.0.owed).insert((*key, *version));
                self.note_need(*key, *version);
                lock(&self.0.keys).remove(key);
            }
            Outcome::KeyChanged { key, .. } => drop(lock(&self.0.keys).remove(key)),
            Outcome::Generating { .. }
            | Outcome::Redistributing { .. }
            | Outcome::AttemptEnded { .. }
            | Outcome::PolicyChanged { .. }
            | Outcome::ClientChanged { .. } => {}
            Outcome::MembershipChanged { .. } | Outcome::VotersMoved { .. } => {
                lock(&self.0.keys).clear();
                if let Err(fault) = self.follow_membership() {
                    self.fail(&fault);
                }
            }
        }
        self.0.began.notify_one();
        self.0.wake.notify_one();
    }

    /// Joins attempts as soon as they begin; the reconciler's other work may take long.
    pub(crate) async fn join_for_ever(self) {
        loop {
            if self.admitted()
                && let Err(refusal) = self.join_operations()
            {
                tracing::warn!(%refusal, "this node could not join the attempts that run");
            }
            let woken = self.0.began.notified();
            let _ = C::timeout(self.0.timing.reconcile, woken).await;
        }
    }

    pub(crate) async fn reconcile_for_ever(self) {
        loop {
            if self.admitted()
                && let Err(refusal) = self.reconcile().await
            {
                tracing::warn!(%refusal, "the reconciler could not do all of its work");
            }
            let woken = self.0.wake.notified();
            // Whether woken or not: look again.
            let _ = C::timeout(self.0.timing.reconcile, woken).await;
        }
    }

    async fn reconcile(&self) -> Result<(), Refusal> {
        self.finish_erasures().await?;
        self.endorse().await?;
        self.ask_for_members().await?;
        self.pay_witnesses().await?;
        self.erase_due().await?;
        self.erase_orphans().await?;
        self.say_what_is_known().await?;
        self.ask_for_shares().await?;
        self.start_due_refreshes().await?;
        if self.leads() {
            self.lead().await?;
        }
        self.exchange_checkpoint_signatures().await
    }

    /// Erases shares of attempts that failed. All shares are looked at, so not in every round.
    async fn erase_orphans(&self) -> Result<(), Refusal> {
        let now = self.boot_ms();
        let last = self.0.orphans_ms.load(Ordering::Relaxed);
        if last != 0 && now.saturating_sub(last) < ORPHANS_MS {
            return Ok(());
        }
        self.0.orphans_ms.store(now, Ordering::Relaxed);
        for (key, version, epoch) in self.orphaned_shares(BATCH).map_err(|e| self.fail(&e))? {
            tracing::info!(%key, %version, %epoch, "a share of an attempt that failed is erased");
            self.erase_share(&key, version, epoch).await?;
        }
        Ok(())
    }

    /// Tells the cluster which rules this program knows, once in a boot.
    async fn say_what_is_known(&self) -> Result<(), Refusal> {
        let tables = self.tables();
        let said = support_of(&tables, self.0.me).map_err(|e| self.fail(&e))?;
        let current = SupportRecord { boot: self.0.boot, highest: self.0.state_version };
        let started = records::cluster(&tables).map_err(|e| self.fail(&e))?.started;
        if !started || said == Some(current) {
            return Ok(());
        }
        let payload = Support::payload(self.0.me, current.boot, current.highest);
        let signature = self.0.identity.sign(Domain::Supports, &self.0.cluster, &payload);
        let support = Support { node: self.0.me, boot: current.boot, highest: current.highest, signature };
        // Not ordered now means ordered in a later round.
        let _ = self.propose(&Payload::Supports(support), Duration::from_secs(2)).await;
        Ok(())
    }

    /// Takes part in attempts that run, and ends its part in those that are over.
    fn join_operations(&self) -> Result<(), Refusal> {
        self.leave_operations().map_err(|e| self.fail(&e))?;
        // The first ones are the same for everybody, so all who are needed for these are there; whatever more there is gets its
        // turn in a circle.
        for operation in next_operations(&self.tables(), None, COMMON).map_err(|e| self.fail(&e))? {
            self.join_operation(operation);
        }
        for operation in self.next_operations(&self.0.joined)? {
            // The one that finds no place is the first to be looked at when there is one.
            if self.parts() >= BATCH {
                break;
            }
            *lock(&self.0.joined) = Some(operation.ceremony.operation);
            self.join_operation(operation);
        }
        Ok(())
    }

    fn join_operation(&self, operation: OperationRecord) {
        let ceremony = operation.ceremony;
        match operation.moved {
            Some(_) if self.has_part_in_move(&ceremony) => self.join_move(&ceremony),
            None if ceremony.roster.contains(&self.0.me) => self.join_ceremony(ceremony),
            Some(_) | None => {}
        }
    }

    /// In how many attempts this node takes part now.
    fn parts(&self) -> usize {
        let generations = lock(&self.0.ceremonies).len();
        generations + lock(&self.0.moves).len()
    }

    /// What runs, behind what was looked at before.
    fn next_operations(&self, after: &Mutex<Option<OperationId>>) -> Result<Vec<OperationRecord>, Refusal> {
        let after = *lock(after);
        next_operations(&self.tables(), after.as_ref(), BATCH).map_err(|e| self.fail(&e))
    }

    /// Ends this node's part in attempts that are over.
    fn leave_operations(&self) -> Result<(), StoreFault> {
        let tables = self.tables();
        let runs = |operation: &OperationId, attempt: &Digest| -> Result<bool, StoreFault> {
            let record: Option<OperationRecord> = read(&tables, &replicated::operation(operation))?;
            Ok(record.is_some_and(|record| record.ceremony.digest() == *attempt))
        };
        let generations: Vec<_> = lock(&self.0.ceremonies).iter().map(|(d, (o, _))| (*o, *d)).collect();
        for (operation, attempt) in generations {
            if !runs(&operation, &attempt)? {
                lock(&self.0.ceremonies).remove(&attempt);
                lock(&self.0.progress).remove(&attempt);
            }
        }
        let moves: Vec<_> = lock(&self.0.moves).iter().map(|(o, (d, _))| (*o, *d)).collect();
        for (operation, attempt) in moves {
            if !runs(&operation, &attempt)? {
                lock(&self.0.moves).remove(&operation);
            }
        }
        self.forget_early_subshares();
        Ok(())
    }

    /// Versions that became active and lack this node's witness; looked for once, at start and after a checkpoint came in.
    pub(crate) fn find_owed(&self) -> Result<(), StoreFault> {
        let tables = self.tables();
        let mut after = Vec::new();
        loop {
            let page = tables.scan(replicated::VERSIONS, &after, 256)?;
            let Some((last, _)) = page.last() else { return Ok(()) };
            after.clone_from(last);
            for (key, value) in page {
                let version: VersionRecord = decode(&value)?;
                let id: Option<[u8; 32]> = key.get(1..33).and_then(|id| id.try_into().ok());
                if let (Some(id), true) = (id, version.certificate.is_some()) {
                    let id = KeyId::from_bytes(id);
                    self.note_need(id, version.number);
                    if owes_witness(&tables, &id, version.number, self.0.me)? {
                        lock(&self.0.owed).insert((id, version.number));
                    }
                }
            }
        }
    }

    async fn pay_witnesses(&self) -> Result<(), Refusal> {
        let owed: Vec<_> = lock(&self.0.owed).iter().copied().take(BATCH).collect();
        let payments = owed.into_iter().map(|(key, version)| async move {
            let still = owes_witness(&self.tables(), &key, version, self.0.me).map_err(|e| self.fail(&e))?;
            if !still || self.witness(&key, version).await? {
                lock(&self.0.owed).remove(&(key, version));
            }
            Ok::<(), Refusal>(())
        });
        futures::future::try_join_all(payments).await?;
        Ok(())
    }

    /// Says ACTIVATED as a holder, and signs the head of the activation as a voter. False when it was not ordered.
    async fn witness(&self, key: &KeyId, version: KeyVersion) -> Result<bool, Refusal> {
        let tables = self.tables();
        let record = read::<VersionRecord>(&tables, &replicated::version(key, version)).map_err(|e| self.fail(&e))?;
        let Some(record) = record else { return Ok(true) };
        let certificate = records::certificate(&tables, key, &record).map_err(|e| self.fail(&e))?;
        let Some(certificate) = certificate else { return Ok(true) };
        let activated = self.say_activated(&certificate).await?;
        let head = &certificate.activation.head;
        let voters = self.voters_of(head.membership).map_err(|e| self.fail(&e))?;
        let votes = voters.is_some_and(|voters| voters.contains_key(&self.0.me));
        let head = votes.then(|| self.0.identity.sign(Domain::Head, &self.0.cluster, &encode(head)));
        if activated.is_none() && head.is_none() {
            return Ok(true);
        }
        let epoch = certificate.core.epoch;
        let witness = Witness { key: *key, version, epoch, node: self.0.me, activated, head };
        Ok(self.propose(&Payload::Witness(witness), Duration::from_secs(3)).await.is_ok())
    }

    /// ACTIVATED, durable before it is said; only with a share in hand.
    async fn say_activated(&self, certificate: &KeyCertificate) -> Result<Option<Signature>, Refusal> {
        let core = &certificate.core;
        if !core.holders.contains(&self.0.me) {
            return Ok(None);
        }
        if let Err(refusal) = self.read_share(core) {
            tracing::error!(key = %core.name, %refusal, "this node cannot activate its share");
            return Ok(None);
        }
        let record = private::activated_vote(&core.key, core.version, core.epoch);
        let existing = self.0.store.get(Column::Private, &record).map_err(|e| self.fail(&e))?;
        let existing: Option<Digest> = existing.map(|bytes| decode(&bytes)).transpose()?;
        match activated_vote(core, &self.0.identity, existing) {
            Ok(step) => {
                let (writes, sealed) = step.split();
                let receipt = commit(&self.0.store, writes).await.map_err(|e| self.fail(&e))?;
                Ok(sealed.release(&receipt).into_iter().next())
            }
            Err(refused) => {
                tracing::error!(key = %core.name, %refused, "this node does not activate a key version");
                Ok(None)
            }
        }
    }

    /// Erases shares of versions that are being destroyed, once both the replicated clock and its own say that it is time, and
    /// shares of epochs that nobody needs any more.
    async fn erase_due(&self) -> Result<(), Refusal> {
        let tables = self.tables();
        let cluster = records::cluster(&tables).map_err(|e| self.fail(&e))?;
        let now = cluster.time_ms.min(self.now_ms());
        let owed = owed_erasures(&tables, self.0.me, now, BATCH).map_err(|e| self.fail(&e))?;
        // At the same time, so that they share their syncs.
        let erased = owed.into_iter().map(|OwedErasure { key, version, below }| async move {
            self.erase_shares_below(&key, version, below).await?;
            let payload = Erasure::payload(&key, version, below, self.0.me);
            let signature = self.0.identity.sign(Domain::Erased, &self.0.cluster, &payload);
            tracing::info!(%key, %version, %below, "shares that are no longer needed are erased");
            let proof = Payload::Erased(Erasure { key, version, below, node: self.0.me, signature });
            // Not ordered now means ordered in a later round: the erasure is done already.
            let _ = self.propose(&proof, Duration::from_secs(3)).await;
            Ok::<(), Refusal>(())
        });
        futures::future::try_join_all(erased).await?;
        Ok(())
    }

    /// Gathers the voters' signatures over the last checkpoint until all are there.
    async fn exchange_checkpoint_signatures(&self) -> Result<(), Refusal> {
        let checkpoints = Checkpoints::new(self.0.store.clone());
        let Ok(Some(checkpoint)) = checkpoints.current() else { return Ok(()) };
        let head = checkpoint.head().map_err(|e| self.fail(&e))?;
        let known = checkpoints.signatures(head.index).map_err(|e| self.fail(&e))?;
        let Some(own) = known.get(&self.0.me).copied() else {
            // A crash came between the checkpoint and its signature.
            return self.sign_checkpoint(&head).map_err(|e| self.fail(&e));
        };
        for node in self.others().into_iter().filter(|node| self.is_voter(*node) && !known.contains_key(node)) {
            let call = WorkCall::Checkpoint { head, signature: own };
            let answer = self.call_work(node, &call, self.0.timing.call).await;
            if let Ok(WorkAnswer::Checkpoint(Some(signature))) = answer
                && let Err(refusal) = self.take_checkpoint_signature(node, &head, signature)
            {
                tracing::warn!(peer = %node, %refusal, "a peer's signature over a checkpoint is not taken");
            }
        }
        Ok(())
    }

    /// What only the leader does.
    async fn lead(&self) -> Result<(), Refusal> {
        let tables = self.tables();
        let cluster = records::cluster(&tables).map_err(|e| self.fail(&e))?;
        let now = self.now_ms();
        for operation in self.next_operations(&self.0.expired)? {
            *lock(&self.0.expired) = Some(operation.ceremony.operation);
            if now > operation.deadline_ms {
                let (operation, epoch) = (operation.ceremony.operation, operation.ceremony.epoch);
                let _ = self.order(&Payload::Expire { operation, epoch }).await;
            }
        }
        // The clock also goes on when something that waits for a date is due.
        let next = next_destruction(&tables, cluster.time_ms).map_err(|e| self.fail(&e))?;
        let old = now.saturating_sub(cluster.time_ms) >= limits::TICK_MS;
        if cluster.started && (old || next.is_some_and(|at| at <= now)) {
            let _ = self.order(&Payload::Tick).await;
        }
        self.move_raft().await
    }

    /// Asks a peer again and again how it is, as long as it is one.
    pub(crate) async fn watch_peer(self, node: NodeId) {
        while self.is_watched(node) {
            let asked_ms = self.now_ms();
            let answer = self.call_work(node, &WorkCall::Status, Duration::from_millis(1_500)).await;
            if let Ok(WorkAnswer::Status(mut status)) = answer {
                // Kept and shown: a peer does not decide how much.
                for text in [&mut status.role, &mut status.release] {
                    if text.len() > limits::NAME_BYTES {
                        *text = "unreadable".to_owned();
                    }
                }
                let ahead_ms = clock_difference(status.time_ms, asked_ms, self.now_ms());
                lock(&self.0.heard).insert(node, Heard { status, at: C::now(), ahead_ms });
            }
            self.lead_only_what_follows();
            C::sleep(PEER_ROUND).await;
        }
    }

    /// A leader that is heard but hears too few has nothing ordered, nor has one whose entries come from a future in which too few
    /// others live; one that lives far in the past holds state time back. So it falls silent, and another is elected.
    fn lead_only_what_follows(&self) {
        let (voters, me) = (self.voters(), self.0.me);
        if !voters.contains(&me) {
            return;
        }
        let limit = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
        let (mut take, mut are_ahead) = (1, 0);
        for node in voters.iter().filter(|node| **node != me) {
            let ahead_ms = lock(&self.0.heard).get(node).map_or(0, |heard| heard.ahead_ms);
            take += usize::from(ahead_ms >= -limit(limits::ENTRY_AHEAD_MS) && self.is_reachable(*node));
            are_ahead += usize::from(ahead_ms > limit(limits::STATE_BEHIND_MS));
        }
        let majority = voters.len() / 2 + 1;
        let off = take < majority || are_ahead >= majority;
        if self.0.unfollowed.swap(off, Ordering::Relaxed) != off {
            tracing::warn!(off, "whether too few voters answer this node or share its time; if so it does not lead");
            self.0.raft.runtime_config().heartbeat(!off);
            self.0.raft.runtime_config().elect(!off);
        }
    }

    /// Whether a node answers, as far as this node knows.
    #[must_use]
    pub fn is_reachable(&self, node: NodeId) -> bool {
        // A stream that is open counts until the peer behind it has been silent for too long.
        let silent = lock(&self.0.heard).get(&node).is_some_and(|heard| heard.at.elapsed() >= SILENCE);
        node == self.0.me || (!silent && self.0.transport.reachable(node))
    }

    /// The key record with an id.
    pub(crate) fn key_record(&self, id: &KeyId) -> Result<Option<KeyRecord>, StoreFault> {
        read(&self.tables(), &replicated::key_record(id))
    }
}
