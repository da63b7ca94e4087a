//! One attempt of a generation on this node: a task that owns the machine and does what it asks for.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use openraft::async_runtime::Instant as _;
use openraft::type_config::TypeConfigExt as _;
use symbolon_protocol::entry::Payload;
use symbolon_protocol::error::Refusal;
use symbolon_protocol::generate::{
    Ceremony, Effect, FaultKind, FaultReport, Generate, Input, OwnVotes, Phase, SignedMessage, Start, StartRefused,
    Vote, VoteRefused,
};
use symbolon_protocol::id::NodeId;
use symbolon_protocol::identity::{PublicKey, tagged_hash};
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::schema::private;
use symbolon_protocol::step::Step;
use symbolon_protocol::wire::{decode, encode};
use tokio::sync::mpsc;

use super::types::{NodeTypes, Surroundings, Transport};
use super::{Core, lock};
use crate::store::{Column, Store, commit};

/// Something heard from a peer for an attempt.
pub(crate) struct Said {
    from: NodeId,
    message: SignedMessage,
}

/// How long after its beginning an attempt may be in a phase before this node names whom it waits for. Later phases have more:
/// a node that is stuck behind a silent one must not be blamed before it.
fn patience(phase: Phase) -> Duration {
    Duration::from_millis(match phase {
        Phase::Round1 => 4_000,
        Phase::Echo => 5_500,
        Phase::Round2 => 7_000,
        Phase::Staging | Phase::Voted | Phase::Ended => 8_500,
    })
}

/// Between two repetitions of everything that was said.
pub(crate) const RESEND: Duration = Duration::from_millis(300);
/// A vote that was taken is not ordered again for so long, milliseconds.
const VOTE_MS: u64 = 10_000;
/// Messages that may wait for the task.
pub(crate) const INBOX: usize = 256;
/// Messages of one peer for attempts that this node has not heard of yet; the oldest go first.
pub(crate) const EARLY: usize = 64;

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    /// Gives a message to the attempt it belongs to. An attempt that this node has not heard of yet is repeated to it later.
    pub(crate) async fn hear_ceremony(&self, from: NodeId, message: SignedMessage) {
        if message.from != from {
            return;
        }
        let inbox = lock(&self.0.ceremonies).get(&message.ceremony).map(|(_, inbox)| inbox.clone());
        match inbox {
            // A full inbox loses messages, as a network does.
            Some(inbox) => drop(inbox.try_send(Said { from, message })),
            None => {
                // The peer applied the entry that begins the attempt before this node did.
                let mut early = lock(&self.0.early);
                if early.iter().filter(|said| said.from == from).count() >= EARLY {
                    // The oldest of this peer; it cannot push out those of others.
                    let oldest = early.iter().position(|said| said.from == from);
                    oldest.map(|at| early.remove(at));
                }
                early.push_back(Said { from, message });
            }
        }
    }

    /// Starts this node's part in an attempt, unless it runs.
    pub(crate) fn join_ceremony(&self, ceremony: Ceremony) {
        let digest = ceremony.digest();
        let mut running = lock(&self.0.ceremonies);
        if running.contains_key(&digest) {
            return;
        }
        let (inbox, heard) = mpsc::channel(INBOX);
        let mut early = lock(&self.0.early);
        let (mine, others) = early.drain(..).partition(|said| said.message.ceremony == digest);
        *early = others;
        let mine: VecDeque<Said> = mine;
        for said in mine {
            let _ = inbox.try_send(said);
        }
        running.insert(digest, (ceremony.operation, inbox));
        let core = self.clone();
        let _task = C::spawn(async move {
            if let Err(refusal) = core.run_ceremony(ceremony, heard).await {
                tracing::warn!(%refusal, "this node's part in a generation ended");
            }
        });
    }

    fn own_votes(&self, ceremony: &Ceremony) -> Result<OwnVotes, Refusal> {
        let read = |key: &[u8]| self.0.store.get(Column::Private, key).map_err(|e| self.fail(&e));
        let participation = read(&ceremony.record_key())?.map(|bytes| decode(&bytes)).transpose()?;
        // ACTIVATED votes of any epoch of the version share their first bytes.
        let mut prefix = private::activated_vote(&ceremony.key, ceremony.version, ceremony.epoch);
        prefix.truncate(prefix.len() - 4);
        let activated = self.0.store.last(Column::Private, &prefix).map_err(|e| self.fail(&e))?.is_some();
        Ok(OwnVotes { participation, activated })
    }

    async fn run_ceremony(&self, ceremony: Ceremony, mut heard: mpsc::Receiver<Said>) -> Result<(), Refusal> {
        let keys: BTreeMap<NodeId, PublicKey> =
            ceremony.roster.iter().filter_map(|node| Some((*node, self.member_key(*node)?))).collect();
        let own = self.own_votes(&ceremony)?;
        let start = Start { ceremony: ceremony.clone(), me: self.0.me, keys, own };
        let started = Generate::start(start, &self.0.identity, &mut self.0.surroundings.rng());
        let (mut machine, step) = match started {
            Ok(started) => started,
            // What this node knew before it restarted is gone: the attempt cannot succeed.
            Err(StartRefused::Own(VoteRefused::Begun)) => {
                let report = FaultReport::new(FaultKind::Restarted, []);
                let vote = Vote::fault(&ceremony, self.0.me, report, &self.0.identity);
                self.order_in_background(Payload::Generate(vote));
                return Ok(());
            }
            Err(refused) => {
                tracing::error!(%refused, key = %ceremony.name, "this node takes no part in a generation");
                return Ok(());
            }
        };
        tracing::info!(key = %ceremony.name, version = %ceremony.version, epoch = %ceremony.epoch, "generation begins");
        machine = self.perform(machine, step).await?;
        let begun = C::now();
        let mut said = C::now();
        loop {
            if machine.waiting_for().0 == Phase::Ended {
                return Ok(());
            }
            self.note_progress(&ceremony, &machine);
            match C::timeout(RESEND, heard.recv()).await {
                // The sender is dropped when the log has decided.
                Ok(None) => {
                    machine.abort();
                    return Ok(());
                }
                Ok(Some(Said { from, message })) => {
                    machine = self.turn(machine, Input::Message { from, message }).await?;
                }
                Err(_) => {}
            }
            let phase = machine.waiting_for().0;
            if phase != Phase::Voted && begun.elapsed() >= patience(phase) {
                machine = self.turn(machine, Input::Deadline).await?;
            } else if said.elapsed() >= RESEND {
                said = C::now();
                let step = machine.resend();
                machine = self.perform(machine, step).await?;
            }
        }
    }

    async fn turn(&self, machine: Generate, input: Input) -> Result<Generate, Refusal> {
        let advance = machine.handle(input, &self.0.identity, &mut self.0.surroundings.rng());
        if let Some(ignored) = advance.ignored {
            tracing::trace!(%ignored, "a message of a generation changed nothing");
        }
        self.perform(advance.next, advance.step).await
    }

    /// Makes a step durable, then does what it asks for; staging a share leads to the next turn.
    async fn perform(&self, mut machine: Generate, step: Step<Effect>) -> Result<Generate, Refusal> {
        let mut steps = VecDeque::from([step]);
        while let Some(step) = steps.pop_front() {
            let (writes, sealed) = step.split();
            let receipt = commit(&self.0.store, writes).await.map_err(|e| self.fail(&e))?;
            for effect in sealed.release(&receipt) {
                match effect {
                    Effect::Send { to, message } => {
                        let bytes = work_bytes(WORK_CALL_GENERATE, &message.to_bytes());
                        let called = self.0.transport.call(to, super::types::Lane::Work, bytes);
                        // Whether it arrives is not asked: everything is repeated until the log decides.
                        let patience = self.0.timing.call;
                        let _task = C::spawn(async move { drop(C::timeout(patience, called).await) });
                    }
                    Effect::Stage { core, secret } => {
                        let staged = self.stage_share(&core, &secret).await?;
                        let input = Input::Staged(staged);
                        let advance = machine.handle(input, &self.0.identity, &mut self.0.surroundings.rng());
                        machine = advance.next;
                        steps.push_back(advance.step);
                    }
                    Effect::Propose(vote) => self.order_in_background(Payload::Generate(vote)),
                }
            }
        }
        Ok(machine)
    }

    /// Has a vote ordered; whoever waits for it repeats it. A repeat of one that is being ordered, or that was taken, costs
    /// nothing: an entry for each would be what a busy cluster can bear least.
    pub(crate) fn order_in_background(&self, payload: Payload) {
        let (vote, now) = (tagged_hash("symbolon/vote/v1", &encode(&payload)), self.boot_ms());
        let mut votes = lock(&self.0.votes);
        votes.retain(|_, at| now.saturating_sub(*at) < VOTE_MS);
        if votes.contains_key(&vote) {
            return;
        }
        votes.insert(vote, now);
        drop(votes);
        let core = self.clone();
        let _task = C::spawn(async move {
            match core.propose(&payload, Duration::from_secs(5)).await {
                Ok((index, outcome)) if !matches!(outcome, Outcome::Refused(_)) => {
                    tracing::debug!(index, ?outcome, "a vote was ordered");
                    return;
                }
                Ok((index, outcome)) => tracing::debug!(index, ?outcome, "a vote was not taken"),
                Err(refusal) => tracing::debug!(%refusal, "a vote was not ordered"),
            }
            lock(&core.0.votes).remove(&vote);
        });
    }
}

/// A call without a copy of the message's secret body in our own types: its encoding is a tag before the message.
pub(crate) fn work_bytes(tag: u8, stand_alone: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(stand_alone.len() + 1);
    let (version, body) = stand_alone.split_at(stand_alone.len().min(1));
    bytes.extend_from_slice(version);
    bytes.push(tag);
    bytes.extend_from_slice(body);
    bytes
}

/// Tag of [`WorkCall::Generate`].
const WORK_CALL_GENERATE: u8 = 7;

#[cfg(test)]
mod tests {
    use super::*;
    use symbolon_protocol::peer::WorkCall;

    #[test]
    fn the_tag_is_the_one_of_the_codec() {
        // A status call and a propose call frame the tag: the list is in order and `Generate` is the seventh.
        assert_eq!(encode(&WorkCall::ReadIndex), [1, WORK_CALL_GENERATE - 1]);
    }
}
