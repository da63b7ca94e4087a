//! One attempt of a redistribution on this node: a task that owns the machine, tells it what the log says, and does what it
//! asks for. What starts redistributions by itself stands at the end: needs of this node, and schedules.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use openraft::async_runtime::Instant as _;
use openraft::type_config::TypeConfigExt as _;
use symbolon_protocol::certificate::CertificateCore;
use symbolon_protocol::entry::{Need, Payload};
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::generate::{Ceremony, OwnVotes, Participation, ShareSecret, ready_vote};
use symbolon_protocol::id::{Digest, KeyId, KeyVersion, NodeId, OperationId};
use symbolon_protocol::identity::{Domain, PublicKey};
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::limits;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::redistribute::{Effect, Input, Redistribute, Start, SubshareMessage};
use symbolon_protocol::schema::{private, replicated};
use symbolon_protocol::state::records::{Moved, OperationRecord, VersionRecord};
use symbolon_protocol::state::{due_refreshes, running_operations};
use symbolon_protocol::step::Step;
use symbolon_protocol::table::{StoreFault, read};
use symbolon_protocol::wire::decode;
use tokio::sync::mpsc;

use super::ceremony::{EARLY, INBOX, RESEND, work_bytes};
use super::types::{Lane, NodeTypes, Surroundings, Transport};
use super::{Core, lock};
use crate::store::{Column, Store, commit};

/// Something that concerns an attempt.
pub(crate) enum Heard {
    /// A peer sent a subshare.
    Said {
        /// Who, as the channel says.
        from: NodeId,
        /// The subshare.
        message: SubshareMessage,
    },
    /// The log says more than before.
    Log,
}

/// A subshare of an attempt that this node has not heard of yet.
pub(crate) struct Early {
    /// When it came, milliseconds since 1970.
    at_ms: u64,
    from: NodeId,
    message: SubshareMessage,
}

/// Attempts that run here, by operation: the attempt, and the way to its task.
pub(crate) type Moves = BTreeMap<OperationId, (Digest, mpsc::Sender<Heard>)>;

/// Tag of `WorkCall::Subshare`.
const WORK_CALL_SUBSHARE: u8 = 20;
/// Followers start what is due by schedule only when the leader has not done so for this long, milliseconds.
const LEADER_FIRST_MS: u64 = 30_000;
/// Between two requests for one share, milliseconds.
const NEED_MS: u64 = 5_000;
/// Shares that are asked for in one round.
const NEEDS_AT_ONCE: usize = 8;

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    /// Gives a subshare to the attempt it belongs to; one of an attempt that this node has not heard of yet waits.
    pub(crate) fn hear_subshare(&self, from: NodeId, message: SubshareMessage) {
        if message.from != from {
            return;
        }
        let inbox =
            lock(&self.0.moves).values().find(|(digest, _)| *digest == message.ceremony).map(|(_, i)| i.clone());
        if let Some(inbox) = inbox {
            // A full inbox loses messages, as a network does: everything is sent again.
            drop(inbox.try_send(Heard::Said { from, message }));
            return;
        }
        let mut early = lock(&self.0.early_subshares);
        if early.iter().filter(|known| known.from == from).count() >= EARLY {
            let oldest = early.iter().position(|known| known.from == from);
            oldest.map(|at| early.remove(at));
        }
        early.push_back(Early { at_ms: self.now_ms(), from, message });
    }

    /// Tells an attempt that the log says more of its operation.
    pub(crate) fn note_advanced(&self, operation: &OperationId) {
        if let Some((_, inbox)) = lock(&self.0.moves).get(operation) {
            drop(inbox.try_send(Heard::Log));
        }
    }

    /// Whether this node deals or holds in an attempt.
    pub(crate) fn has_part_in_move(&self, ceremony: &Ceremony) -> bool {
        let deals = ceremony.base.as_ref().is_some_and(|base| base.dealers.contains(&self.0.me));
        deals || ceremony.holders.contains(&self.0.me)
    }

    /// A subshare must not outlive its attempt: with others of its polynomial it would give an old share away.
    pub(crate) fn forget_early_subshares(&self) {
        let oldest = self.now_ms().saturating_sub(limits::REDISTRIBUTE_ATTEMPT_MS);
        lock(&self.0.early_subshares).retain(|early| early.at_ms >= oldest);
    }

    /// Starts this node's part in an attempt, unless it runs.
    pub(crate) fn join_move(&self, ceremony: &Ceremony) {
        let digest = ceremony.digest();
        let mut moves = lock(&self.0.moves);
        if moves.contains_key(&ceremony.operation) {
            return;
        }
        let (inbox, heard) = mpsc::channel(INBOX);
        let mut early = lock(&self.0.early_subshares);
        let (mine, others): (VecDeque<_>, VecDeque<_>) =
            early.drain(..).partition(|early| early.message.ceremony == digest);
        *early = others;
        for Early { from, message, .. } in mine {
            drop(inbox.try_send(Heard::Said { from, message }));
        }
        moves.insert(ceremony.operation, (digest, inbox));
        let (core, ceremony) = (self.clone(), ceremony.clone());
        let _task = C::spawn(async move {
            if let Err(refusal) = core.run_move(ceremony, heard).await {
                tracing::warn!(%refusal, "this node's part in a redistribution ended");
            }
        });
    }

    /// What the log says of an attempt; none when it is over.
    fn moved(&self, ceremony: &Ceremony) -> Result<Option<Moved>, Refusal> {
        let record: Option<OperationRecord> =
            read(&self.tables(), &replicated::operation(&ceremony.operation)).map_err(|e| self.fail(&e))?;
        Ok(record.filter(|record| record.ceremony == *ceremony).and_then(|record| record.moved))
    }

    async fn run_move(&self, ceremony: Ceremony, mut heard: mpsc::Receiver<Heard>) -> Result<(), Refusal> {
        let Some(Moved { base, dealings }) = self.moved(&ceremony)? else { return Ok(()) };
        let own = self.own_part(&ceremony)?;
        if let Some(Participation::Ready(_)) = own.participation {
            return self.stand_by_vote(&ceremony, own, heard).await;
        }
        let deals = ceremony.base.as_ref().is_some_and(|b| b.dealers.contains(&self.0.me));
        let share = if deals { self.share_to_deal(&base) } else { None };
        let keys: BTreeMap<NodeId, PublicKey> = base
            .roster
            .iter()
            .chain(&ceremony.roster)
            .filter_map(|node| Some((*node, self.member_key(*node)?)))
            .collect();
        let start = Start { ceremony: ceremony.clone(), base, me: self.0.me, keys, own, share };
        let started = Redistribute::start(start, &self.0.identity, &mut self.0.surroundings.rng());
        let (mut machine, step) = match started {
            Ok(started) => started,
            Err(refused) => {
                tracing::error!(%refused, key = %ceremony.name, "this node takes no part in a redistribution");
                return Ok(());
            }
        };
        tracing::info!(key = %ceremony.name, version = %ceremony.version, epoch = %ceremony.epoch, "redistribution begins");
        machine = self.perform_move(machine, step).await?;
        machine = self.turn_move(machine, Input::Log(dealings)).await?;
        let mut said = C::now();
        loop {
            match C::timeout(RESEND, heard.recv()).await {
                // The sender is dropped when the log has decided.
                Ok(None) => {
                    machine.abort();
                    return Ok(());
                }
                Ok(Some(Heard::Said { from, message })) => {
                    machine = self.turn_move(machine, Input::Message { from, message }).await?;
                }
                Ok(Some(Heard::Log)) | Err(_) => {
                    let Some(moved) = self.moved(&ceremony)? else { continue };
                    machine = self.turn_move(machine, Input::Log(moved.dealings)).await?;
                }
            }
            if said.elapsed() >= RESEND {
                said = C::now();
                let step = machine.resend();
                machine = self.perform_move(machine, step).await?;
            }
        }
    }

    /// This node voted before it restarted, and its share lies on its disk: the vote is repeated until the log has decided.
    async fn stand_by_vote(
        &self,
        ceremony: &Ceremony,
        own: OwnVotes,
        mut heard: mpsc::Receiver<Heard>,
    ) -> Result<(), Refusal> {
        while let Some(moved) = self.moved(ceremony)? {
            let Some(chosen) = moved.dealings.result else { return Ok(()) };
            let stored = self.read_share(&chosen.core)?;
            let share = ShareSecret::new(&stored);
            let mut rng = self.0.surroundings.rng();
            match ready_vote(self.0.me, &chosen.core, &share, own, &self.0.identity, &mut rng) {
                Ok(step) => {
                    let (writes, sealed) = step.split();
                    let receipt = commit(&self.0.store, writes).await.map_err(|e| self.fail(&e))?;
                    for effect in sealed.release(&receipt) {
                        if let symbolon_protocol::generate::Effect::Propose(vote) = effect {
                            self.order_in_background(Payload::Generate(vote));
                        }
                    }
                }
                Err(refused) => {
                    tracing::error!(%refused, key = %ceremony.name, "this node does not repeat its vote");
                    return Ok(());
                }
            }
            C::sleep(RESEND * 4).await;
            // Dropped by the reconciler when the attempt is over.
            if heard.is_closed() {
                return Ok(());
            }
            while heard.try_recv().is_ok() {}
        }
        Ok(())
    }

    fn own_part(&self, ceremony: &Ceremony) -> Result<OwnVotes, Refusal> {
        let read = |key: &[u8]| self.0.store.get(Column::Private, key).map_err(|e| self.fail(&e));
        let participation = read(&ceremony.record_key())?.map(|bytes| decode(&bytes)).transpose()?;
        // Epochs ascend in the store: the last ACTIVATED vote is the highest.
        let own = private::activated_vote(&ceremony.key, ceremony.version, ceremony.epoch);
        let prefix = own.get(..own.len().saturating_sub(4)).unwrap_or_default();
        let last = self.0.store.last(Column::Private, prefix).map_err(|e| self.fail(&e))?;
        let activated = last.is_some_and(|(key, _)| key >= own);
        Ok(OwnVotes { participation, activated })
    }

    /// This node's share of the epoch that is moved. Without one it is only a receiver, and says so.
    fn share_to_deal(&self, base: &CertificateCore) -> Option<ShareSecret> {
        match self.read_share(base) {
            Ok(share) => Some(ShareSecret::new(&share)),
            Err(refusal) => {
                tracing::error!(key = %base.name, %refusal, "this node cannot deal its share");
                None
            }
        }
    }

    async fn turn_move(&self, machine: Redistribute, input: Input) -> Result<Redistribute, Refusal> {
        let advance = machine.handle(input, &self.0.identity, &mut self.0.surroundings.rng());
        if let Some(ignored) = advance.ignored {
            tracing::trace!(%ignored, "a message of a redistribution changed nothing");
        }
        self.perform_move(advance.next, advance.step).await
    }

    /// Makes a step durable, then does what it asks for; staging a share leads to the next turn.
    async fn perform_move(&self, mut machine: Redistribute, step: Step<Effect>) -> Result<Redistribute, Refusal> {
        let mut steps = VecDeque::from([step]);
        while let Some(step) = steps.pop_front() {
            let (writes, sealed) = step.split();
            let receipt = commit(&self.0.store, writes).await.map_err(|e| self.fail(&e))?;
            for effect in sealed.release(&receipt) {
                match effect {
                    Effect::Send { to, message } => {
                        let bytes = work_bytes(WORK_CALL_SUBSHARE, &message.to_bytes());
                        let called = self.0.transport.call(to, Lane::Work, bytes);
                        let patience = self.0.timing.call;
                        let _task = C::spawn(async move { drop(C::timeout(patience, called).await) });
                    }
                    Effect::Stage { core, secret } => {
                        let staged = self.stage_share(&core, &secret).await?;
                        self.drop_if_over(machine.ceremony()).await?;
                        let mut rng = self.0.surroundings.rng();
                        let advance = machine.handle(Input::Staged(staged), &self.0.identity, &mut rng);
                        machine = advance.next;
                        steps.push_back(advance.step);
                    }
                    Effect::Deal(vote) => self.order_in_background(Payload::Deal(vote)),
                    Effect::Propose(vote) => self.order_in_background(Payload::Generate(vote)),
                }
            }
        }
        Ok(machine)
    }

    /// A share that was staged while its attempt ended and everything below a later epoch was erased is erased too: nobody
    /// would come back for it.
    async fn drop_if_over(&self, ceremony: &Ceremony) -> Result<(), Refusal> {
        if self.moved(ceremony)?.is_some() {
            return Ok(());
        }
        let place = replicated::version(&ceremony.key, ceremony.version);
        let record: Option<VersionRecord> = read(&self.tables(), &place).map_err(|e| self.fail(&e))?;
        let me = self.0.me;
        let is_out = |record: VersionRecord| {
            record.shares.iter().any(|set| set.epoch == ceremony.epoch && !set.erased.contains(&me))
        };
        if record.is_some_and(is_out) {
            return Ok(());
        }
        self.erase_share(&ceremony.key, ceremony.version, ceremony.epoch).await
    }

    /// A version of which this node may lack a usable share.
    pub(crate) fn note_need(&self, key: KeyId, version: KeyVersion) {
        lock(&self.0.needs).entry((key, version)).or_insert(0);
    }

    /// Asks for the shares that this node lacks, a few at a time, each at most once in [`limits::HEAL_MS`].
    pub(crate) async fn ask_for_shares(&self) -> Result<(), Refusal> {
        let now = self.now_ms();
        let due: Vec<_> = lock(&self.0.needs).iter().filter(|(_, at)| **at <= now).map(|(key, _)| *key).collect();
        let mut asked = 0;
        for (key, version) in due {
            let Some((record, epoch)) = self.lacks_share(&key, version).map_err(|e| self.fail(&e))? else {
                lock(&self.0.needs).remove(&(key, version));
                continue;
            };
            let healed = record.healed.get(&self.0.me).map_or(0, |at| at.saturating_add(limits::HEAL_MS));
            if healed > now {
                lock(&self.0.needs).insert((key, version), healed.min(now.saturating_add(NEED_MS)));
                continue;
            }
            if asked == NEEDS_AT_ONCE {
                return Ok(());
            }
            asked += 1;
            let payload = Need::payload(&key, version, epoch, self.0.me);
            let signature = self.0.identity.sign(Domain::Need, &self.0.cluster, &payload);
            let need = Need { key, version, epoch, node: self.0.me, signature };
            lock(&self.0.needs).insert((key, version), now.saturating_add(NEED_MS));
            match self.propose(&Payload::Need(need), Duration::from_secs(1)).await {
                Ok((_, Outcome::Redistributing { .. })) => {
                    tracing::info!(%key, %version, "this node asked for a share that it lacks");
                }
                Ok((_, outcome)) => tracing::debug!(%key, %version, ?outcome, "a share is not given yet"),
                Err(refusal) if refusal.code == ErrorCode::NoQuorum => return Ok(()),
                Err(refusal) => tracing::debug!(%key, %version, %refusal, "a share is not given yet"),
            }
        }
        Ok(())
    }

    /// Whether this node is in the roster of a version that signs and has no usable share of its epoch.
    fn lacks_share(
        &self,
        key: &KeyId,
        version: KeyVersion,
    ) -> Result<Option<(VersionRecord, symbolon_protocol::id::Epoch)>, StoreFault> {
        let record: Option<VersionRecord> = read(&self.tables(), &replicated::version(key, version))?;
        let Some(record) = record else { return Ok(None) };
        let signs = matches!(record.state, KeyState::Active | KeyState::Suspended);
        let Some(core) = record.core().filter(|core| signs && core.roster.contains(&self.0.me)) else {
            return Ok(None);
        };
        if core.holders.contains(&self.0.me) && self.read_share(core).is_ok() {
            return Ok(None);
        }
        let epoch = core.epoch;
        Ok(Some((record, epoch)))
    }

    /// Starts refreshes that are due by schedule: the leader at once, the others when it does not.
    pub(crate) async fn start_due_refreshes(&self) -> Result<(), Refusal> {
        let tables = self.tables();
        let patience = if self.leads() { 0 } else { LEADER_FIRST_MS };
        let now = self.now_ms().saturating_sub(patience);
        let due = due_refreshes(&tables, now, limits::REDISTRIBUTIONS_AT_ONCE).map_err(|e| self.fail(&e))?;
        if due.is_empty() {
            return Ok(());
        }
        let running = running_operations(&tables, limits::REDISTRIBUTIONS_AT_ONCE).map_err(|e| self.fail(&e))?;
        let room = limits::REDISTRIBUTIONS_AT_ONCE.saturating_sub(running.len());
        for (key, version) in due.into_iter().take(room) {
            match self.propose(&Payload::Refresh { key, version }, Duration::from_secs(3)).await {
                Ok((index, outcome)) => tracing::info!(index, %key, %version, ?outcome, "a refresh was due"),
                Err(refusal) if refusal.code == ErrorCode::NoQuorum => return Ok(()),
                Err(refusal) => tracing::warn!(%key, %version, %refusal, "a refresh that is due was not ordered"),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use symbolon_protocol::id::ClusterId;
    use symbolon_protocol::identity::Identity;
    use symbolon_protocol::peer::WorkCall;
    use symbolon_protocol::wire::encode;

    #[test]
    fn the_tag_is_the_one_of_the_codec() {
        let identity = Identity::from_seed(&[7; 32]);
        let cluster = ClusterId::from_bytes([1; 32]);
        let (Some(from), Some(to)) = (NodeId::new(1), NodeId::new(2)) else { return };
        let zero = Digest::from_bytes([0; 32]);
        let message = || SubshareMessage::sign(&cluster, zero, from, to, zero, &ShareSecret::new(&[3; 32]), &identity);
        assert_eq!(work_bytes(WORK_CALL_SUBSHARE, &message().to_bytes()), encode(&WorkCall::Subshare(message())));
    }
}
