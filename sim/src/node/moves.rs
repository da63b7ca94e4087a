//! This node's part in redistributions: machines, what the log tells them, what they ask for, and asking for shares it lacks.

use std::collections::{BTreeSet, VecDeque};

use symbolon_protocol::certificate::CertificateCore;
use symbolon_protocol::entry::{Need, Payload};
use symbolon_protocol::generate::{Ceremony, Effect as GenerateEffect, OwnVotes, Participation, ready_vote};
use symbolon_protocol::id::{Digest, Epoch, KeyId, KeyVersion, NodeId, OperationId};
use symbolon_protocol::identity::Domain;
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::redistribute::{Advance, Effect, Input, Redistribute, Start, SubshareMessage};
use symbolon_protocol::schema::{private, replicated};
use symbolon_protocol::state::due_refreshes;
use symbolon_protocol::state::records::{Moved, OperationRecord, VersionRecord};
use symbolon_protocol::step::Step;
use symbolon_protocol::table::{Tables as _, read};
use symbolon_protocol::wire::FORMAT_VERSION;

use super::{Env, Halt, Node, PROPOSE_MS, Timer};
use crate::bugs::Bug;
use crate::count::situation;
use crate::disk::Column;
use crate::draw;

/// Subshares of attempts that this node has not heard of yet; the oldest go first.
const EARLY: usize = 256;
/// Between two repetitions of everything that was said, milliseconds.
const RESEND_MS: u64 = 400;
/// Between two requests for a share, milliseconds.
const NEED_MS: u64 = 4_000;
/// Refreshes that are started in one round.
const DUE: usize = 8;

/// A machine that runs, or a vote that is stood by.
pub(super) enum Move {
    Runs(Box<Redistribute>),
    Voted(Box<(Ceremony, OwnVotes)>),
}

impl Node {
    /// Takes part in redistributions that run, and ends its part in those that are over.
    pub(super) fn join_moves(&mut self, env: &mut Env<'_>, operations: &[OperationRecord]) -> Result<(), Halt> {
        let me = self.me;
        let concerns = |ceremony: &Ceremony| {
            let deals = ceremony.base.as_ref().is_some_and(|base| base.dealers.contains(&me));
            deals || ceremony.holders.contains(&me)
        };
        let mine: Vec<&OperationRecord> =
            operations.iter().filter(|o| o.moved.is_some() && concerns(&o.ceremony)).collect();
        let running: BTreeSet<Digest> = mine.iter().map(|o| o.ceremony.digest()).collect();
        self.moves.retain(|digest, _| running.contains(digest) || env.has(Bug::ReadyLate));
        for operation in mine {
            let digest = operation.ceremony.digest();
            if self.moves.contains_key(&digest) {
                self.tell_move(env, &operation.ceremony.operation, digest)?;
            } else {
                self.begin_move(env, operation, digest)?;
            }
        }
        Ok(())
    }

    fn begin_move(&mut self, env: &mut Env<'_>, operation: &OperationRecord, digest: Digest) -> Result<(), Halt> {
        let (ceremony, Some(Moved { base, dealings })) = (&operation.ceremony, &operation.moved) else { return Ok(()) };
        let own = self.own_part(env, ceremony)?;
        env.wake(RESEND_MS, Timer::Move(digest));
        if let Some(Participation::Ready(_)) = own.participation {
            env.count.situation(situation::STOOD_BY);
            self.moves.insert(digest, Move::Voted(Box::new((ceremony.clone(), own))));
            return Ok(());
        }
        let deals = ceremony.base.as_ref().is_some_and(|b| b.dealers.contains(&self.me));
        let share = if deals { self.read_share(base)? } else { None };
        let members = &self.genesis.members;
        let nodes = base.roster.iter().chain(&ceremony.roster);
        let keys = nodes.filter_map(|node| Some((*node, members.get(node)?.key))).collect();
        let start = Start { ceremony: ceremony.clone(), base: base.clone(), me: self.me, keys, own, share };
        let started = match env.bug {
            Some(Bug::SamePolynomial) => {
                let mut same = draw::stream(u64::from(self.me.get()), "a polynomial for every time");
                Redistribute::start(start, &self.identity, &mut same)
            }
            Some(Bug::SameCoefficient) => Redistribute::start(start, &self.identity, &mut draw::Stuck),
            _ => Redistribute::start(start, &self.identity, &mut self.rng),
        };
        let Ok((machine, step)) = started else { return Ok(()) };
        self.moves.insert(digest, Move::Runs(Box::new(machine)));
        self.perform_move(env, digest, step)?;
        let (mine, others): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.early_subshares).into_iter().partition(|(_, said)| said.ceremony == digest);
        self.early_subshares = others;
        self.turn_move(env, digest, Input::Log(dealings.clone()))?;
        for (from, message) in mine {
            self.turn_move(env, digest, Input::Message { from, message })?;
        }
        Ok(())
    }

    fn own_part(&self, env: &Env<'_>, ceremony: &Ceremony) -> Result<OwnVotes, Halt> {
        let private_store = self.disk.live(Column::Private);
        let participation: Option<Participation> = read(private_store, &ceremony.record_key())?;
        let own = private::activated_vote(&ceremony.key, ceremony.version, ceremony.epoch);
        let prefix = own.get(..own.len().saturating_sub(4)).unwrap_or_default();
        let votes = private_store.scan(prefix, b"", usize::MAX)?;
        let activated = votes.last().is_some_and(|(key, _)| *key >= own);
        Ok(OwnVotes { participation: participation.filter(|_| !env.has(Bug::DealAgain)), activated })
    }

    /// A subshare for an attempt; one for an attempt that this node has not heard of yet waits.
    pub(super) fn hear_subshare(
        &mut self,
        env: &mut Env<'_>,
        from: NodeId,
        message: SubshareMessage,
    ) -> Result<(), Halt> {
        let digest = message.ceremony;
        if env.has(Bug::SubshareOnDisk) {
            self.disk.write(vec![(Column::Private, b"~subshare".to_vec(), Some(message.to_bytes().to_vec()))]);
        }
        if self.moves.contains_key(&digest) {
            return self.turn_move(env, digest, Input::Message { from, message });
        }
        if self.early_subshares.len() >= EARLY {
            self.early_subshares.pop_front();
        }
        self.early_subshares.push_back((from, message));
        Ok(())
    }

    /// The log says more of an operation.
    pub(super) fn advanced(&mut self, env: &mut Env<'_>, operation: &OperationId) -> Result<(), Halt> {
        let record: Option<OperationRecord> = read(self.tables(), &replicated::operation(operation))?;
        match record {
            Some(record) => self.tell_move(env, operation, record.ceremony.digest()),
            None => Ok(()),
        }
    }

    fn tell_move(&mut self, env: &mut Env<'_>, operation: &OperationId, digest: Digest) -> Result<(), Halt> {
        let record: Option<OperationRecord> = read(self.tables(), &replicated::operation(operation))?;
        let record = record.filter(|record| record.ceremony.digest() == digest);
        match record.and_then(|record| record.moved) {
            Some(moved) => self.turn_move(env, digest, Input::Log(moved.dealings)),
            None => Ok(()),
        }
    }

    /// Repeats what was said.
    pub(super) fn look_after_move(&mut self, env: &mut Env<'_>, digest: Digest) -> Result<(), Halt> {
        let step = match self.moves.get(&digest) {
            None => return Ok(()),
            Some(Move::Runs(machine)) => machine.resend(),
            Some(Move::Voted(voted)) => {
                let (ceremony, own) = (voted.0.clone(), voted.1);
                env.wake(RESEND_MS * 4, Timer::Move(digest));
                return self.stand_by_vote(env, &ceremony, own);
            }
        };
        env.wake(RESEND_MS, Timer::Move(digest));
        self.perform_move(env, digest, step)
    }

    /// This node voted before it restarted, and its share lies on its disk.
    fn stand_by_vote(&mut self, env: &mut Env<'_>, ceremony: &Ceremony, own: OwnVotes) -> Result<(), Halt> {
        let record: Option<OperationRecord> = read(self.tables(), &replicated::operation(&ceremony.operation))?;
        let moved = record.filter(|record| record.ceremony == *ceremony).and_then(|record| record.moved);
        let Some(chosen) = moved.and_then(|moved| moved.dealings.result) else { return Ok(()) };
        let Some(share) = self.read_share(&chosen.core)? else { return Ok(()) };
        let Ok(step) = ready_vote(self.me, &chosen.core, &share, own, &self.identity, &mut self.rng) else {
            return Ok(());
        };
        let (writes, sealed) = step.split();
        let receipt = self.commit(env, writes, true)?;
        for effect in sealed.release(&receipt) {
            if let GenerateEffect::Propose(vote) = effect {
                self.propose(env, &Payload::Generate(vote), PROPOSE_MS);
            }
        }
        Ok(())
    }

    fn turn_move(&mut self, env: &mut Env<'_>, digest: Digest, input: Input) -> Result<(), Halt> {
        match self.advance_move(&digest, input) {
            Some(step) => self.perform_move(env, digest, step),
            None => Ok(()),
        }
    }

    fn advance_move(&mut self, digest: &Digest, input: Input) -> Option<Step<Effect>> {
        let Some(Move::Runs(machine)) = self.moves.remove(digest) else { return None };
        let Advance { next, step, .. } = machine.handle(input, &self.identity, &mut self.rng);
        self.moves.insert(*digest, Move::Runs(Box::new(next)));
        Some(step)
    }

    fn perform_move(&mut self, env: &mut Env<'_>, digest: Digest, step: Step<Effect>) -> Result<(), Halt> {
        let sync = !env.has(Bug::SendBeforePersist);
        let mut steps = VecDeque::from([step]);
        while let Some(step) = steps.pop_front() {
            let (writes, sealed) = step.split();
            let receipt = self.commit(env, writes, sync)?;
            for effect in sealed.release(&receipt) {
                match effect {
                    Effect::Send { to, message } => {
                        if env.has(Bug::SubshareToAll) {
                            let others: Vec<_> = self.genesis.members.keys().copied().collect();
                            others.into_iter().for_each(|other| env.send(other, 0, subshare_bytes(&message)));
                        }
                        env.send(to, 0, subshare_bytes(&message));
                    }
                    Effect::Stage { core, secret } => {
                        let staged = self.stage(env, &core, &secret, sync)?;
                        steps.extend(self.advance_move(&digest, Input::Staged(staged)));
                    }
                    Effect::Deal(vote) => drop(self.propose(env, &Payload::Deal(vote), PROPOSE_MS)),
                    Effect::Propose(vote) => drop(self.propose(env, &Payload::Generate(vote), PROPOSE_MS)),
                }
            }
        }
        Ok(())
    }

    /// Asks for shares that this node lacks, and starts refreshes that are due.
    pub(super) fn heal(&mut self, env: &mut Env<'_>) -> Result<(), Halt> {
        let due: Vec<_> = self.needs.iter().filter(|(_, at)| **at <= env.now_ms).map(|(place, _)| *place).collect();
        for (key, version) in due {
            let Some(epoch) = self.lacks_share(&key, version)? else {
                self.needs.remove(&(key, version));
                continue;
            };
            env.count.situation(situation::NEEDED);
            self.needs.insert((key, version), env.now_ms + NEED_MS);
            let payload = Need::payload(&key, version, epoch, self.me);
            let signature = self.identity.sign(Domain::Need, &self.cluster, &payload);
            let need = Need { key, version, epoch, node: self.me, signature };
            self.propose(env, &Payload::Need(need), PROPOSE_MS);
        }
        if env.leads {
            for (key, version) in due_refreshes(self.tables(), env.now_ms, DUE)? {
                self.propose(env, &Payload::Refresh { key, version }, PROPOSE_MS);
            }
        }
        Ok(())
    }

    /// The epoch of which this node should have a share and has none.
    fn lacks_share(&self, key: &KeyId, version: KeyVersion) -> Result<Option<Epoch>, Halt> {
        let record: Option<VersionRecord> = read(self.tables(), &replicated::version(key, version))?;
        let Some(record) = record else { return Ok(None) };
        let signs = matches!(record.state, KeyState::Active | KeyState::Suspended);
        let Some(core) = record.core().filter(|core| signs && core.roster.contains(&self.me)) else { return Ok(None) };
        let has = core.holders.contains(&self.me) && self.read_share(core)?.is_some();
        Ok((!has).then_some(core.epoch))
    }

    /// Only for a planted bug: the shares before a new epoch go at once.
    pub(super) fn erase_at_commit(&mut self, env: &mut Env<'_>, core: &CertificateCore) -> Result<(), Halt> {
        self.erase_shares_below(env, &core.key, core.version, core.epoch)
    }
}

/// A call with a subshare; the encoding of [`symbolon_protocol::peer::WorkCall::Subshare`] is its tag before the message.
fn subshare_bytes(message: &SubshareMessage) -> Vec<u8> {
    const SUBSHARE: u8 = 20;
    let stand_alone = message.to_bytes();
    let mut bytes = vec![FORMAT_VERSION, SUBSHARE];
    bytes.extend(stand_alone.iter().skip(1));
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use symbolon_protocol::generate::ShareSecret;
    use symbolon_protocol::id::ClusterId;
    use symbolon_protocol::identity::Identity;
    use symbolon_protocol::peer::WorkCall;
    use symbolon_protocol::wire::encode;

    #[test]
    fn the_tag_is_the_one_of_the_codec() {
        let (Some(from), Some(to)) = (NodeId::new(1), NodeId::new(2)) else { return };
        let (identity, zero) = (Identity::from_seed(&[7; 32]), Digest::from_bytes([0; 32]));
        let cluster = ClusterId::from_bytes([1; 32]);
        let message = || SubshareMessage::sign(&cluster, zero, from, to, zero, &ShareSecret::new(&[3; 32]), &identity);
        assert_eq!(subshare_bytes(&message()), encode(&WorkCall::Subshare(message())));
    }
}
