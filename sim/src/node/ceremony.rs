//! This node's part in generations: machines, what they ask for, and what a restart means.

use std::collections::{BTreeSet, VecDeque};

use symbolon_protocol::certificate::CertificateCore;
use symbolon_protocol::entry::{Payload, Witness};
use symbolon_protocol::generate::{
    Advance, Ceremony, Effect, FaultKind, FaultReport, Generate, Input, OwnVotes, Participation, Phase, ShareSecret,
    SignedMessage, Start, StartRefused, Vote, VoteRefused,
};
use symbolon_protocol::id::{Digest, NodeId};
use symbolon_protocol::identity::Domain;
use symbolon_protocol::schema::private;
use symbolon_protocol::state::running_operations;
use symbolon_protocol::step::Step;
use symbolon_protocol::table::{Tables as _, read};
use symbolon_protocol::wire::{FORMAT_VERSION, encode};

use super::{Env, Halt, Node, PROPOSE_MS, Seen, ShareRecord, Timer};
use crate::bugs::Bug;
use crate::count::situation;
use crate::disk::Column;

/// How long after its beginning an attempt may be in a phase before this node names whom it waits for, milliseconds. Later
/// phases have more: a node that is stuck behind a silent one must not be blamed before it.
const fn patience_ms(phase: Phase) -> u64 {
    match phase {
        Phase::Round1 => 4_000,
        Phase::Echo => 5_500,
        Phase::Round2 => 7_000,
        Phase::Staging | Phase::Voted | Phase::Ended => 8_500,
    }
}

/// Messages of attempts that this node has not heard of yet; the oldest go first.
const EARLY: usize = 256;
/// Between two repetitions of everything that was said, milliseconds.
const RESEND_MS: u64 = 400;
/// Operations that are looked at in one round.
const OPERATIONS: usize = 256;

/// A machine that runs.
pub(super) struct Part {
    pub(super) machine: Generate,
    begun_ms: u64,
}

impl Node {
    /// Takes part in attempts that run, and ends its part in those that are over.
    pub(super) fn join_operations(&mut self, env: &mut Env<'_>) -> Result<(), Halt> {
        let operations = running_operations(self.tables(), OPERATIONS)?;
        self.join_moves(env, &operations)?;
        let generations = operations.into_iter().filter(|o| o.moved.is_none()).map(|o| o.ceremony);
        let mine: Vec<Ceremony> = generations.filter(|ceremony| ceremony.roster.contains(&self.me)).collect();
        let running: BTreeSet<Digest> = mine.iter().map(Ceremony::digest).collect();
        self.parts.retain(|digest, _| running.contains(digest) || env.has(Bug::ReadyLate));
        self.joined.retain(|digest| running.contains(digest));
        for ceremony in mine {
            let digest = ceremony.digest();
            if self.joined.insert(digest) {
                self.begin(env, ceremony, digest)?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, env: &mut Env<'_>, ceremony: Ceremony, digest: Digest) -> Result<(), Halt> {
        let members = &self.genesis.members;
        let keys = ceremony.roster.iter().filter_map(|node| Some((*node, members.get(node)?.key))).collect();
        let own = self.own_votes(env, &ceremony)?;
        let start = Start { ceremony: ceremony.clone(), me: self.me, keys, own };
        match Generate::start(start, &self.identity, &mut self.rng) {
            Ok((machine, step)) => {
                self.parts.insert(digest, Part { machine, begun_ms: env.now_ms });
                env.wake(RESEND_MS, Timer::Ceremony(digest));
                self.perform(env, digest, step)?;
                let (mine, others) =
                    std::mem::take(&mut self.early).into_iter().partition(|(_, said)| said.ceremony == digest);
                self.early = others;
                let mine: VecDeque<(NodeId, SignedMessage)> = mine;
                for (from, message) in mine {
                    self.turn(env, digest, Input::Message { from, message })?;
                }
                Ok(())
            }
            // What this node knew before it restarted is gone: the attempt cannot succeed.
            Err(StartRefused::Own(VoteRefused::Begun)) => {
                env.count.situation(situation::RESTARTED);
                let report = FaultReport::new(FaultKind::Restarted, []);
                let vote = Vote::fault(&ceremony, self.me, report, &self.identity);
                self.propose(env, &Payload::Generate(vote), PROPOSE_MS);
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }

    fn own_votes(&self, env: &Env<'_>, ceremony: &Ceremony) -> Result<OwnVotes, Halt> {
        let private_store = self.disk.live(Column::Private);
        let participation: Option<Participation> = read(private_store, &ceremony.record_key())?;
        // ACTIVATED votes of any epoch of the version share their first bytes.
        let mut prefix = private::activated_vote(&ceremony.key, ceremony.version, ceremony.epoch);
        prefix.truncate(prefix.len() - 4);
        let activated = !private_store.scan(&prefix, b"", 1)?.is_empty();
        Ok(OwnVotes { participation: participation.filter(|_| !env.has(Bug::BeginAgain)), activated })
    }

    /// A message for an attempt; one for an attempt that this node has not heard of yet waits.
    pub(super) fn hear_ceremony(
        &mut self,
        env: &mut Env<'_>,
        from: NodeId,
        message: SignedMessage,
    ) -> Result<(), Halt> {
        let digest = message.ceremony;
        if !self.parts.contains_key(&digest) {
            if !self.parts.is_empty() {
                env.count.situation(situation::OLD_ATTEMPT);
            }
            if self.early.len() >= EARLY {
                self.early.pop_front();
            }
            self.early.push_back((from, message));
            return Ok(());
        }
        self.turn(env, digest, Input::Message { from, message })
    }

    /// Repeats what was said, or gives up waiting.
    pub(super) fn look_after(&mut self, env: &mut Env<'_>, digest: Digest) -> Result<(), Halt> {
        let Some(part) = self.parts.get(&digest) else { return Ok(()) };
        let (phase, _) = part.machine.waiting_for();
        if phase == Phase::Ended {
            return Ok(());
        }
        env.wake(RESEND_MS, Timer::Ceremony(digest));
        if phase != Phase::Voted && env.now_ms.saturating_sub(part.begun_ms) >= patience_ms(phase) {
            return self.turn(env, digest, Input::Deadline);
        }
        let step = part.machine.resend();
        self.perform(env, digest, step)
    }

    fn turn(&mut self, env: &mut Env<'_>, digest: Digest, input: Input) -> Result<(), Halt> {
        match self.advance(&digest, input) {
            Some(step) => self.perform(env, digest, step),
            None => Ok(()),
        }
    }

    fn advance(&mut self, digest: &Digest, input: Input) -> Option<Step<Effect>> {
        let Part { machine, begun_ms } = self.parts.remove(digest)?;
        let Advance { next, step, ignored: _ } = machine.handle(input, &self.identity, &mut self.rng);
        self.parts.insert(*digest, Part { machine: next, begun_ms });
        Some(step)
    }

    /// Makes a step durable, then does what it asks for; staging a share leads to the next turn.
    fn perform(&mut self, env: &mut Env<'_>, digest: Digest, step: Step<Effect>) -> Result<(), Halt> {
        let sync = !env.has(Bug::SendBeforePersist);
        let mut steps = VecDeque::from([step]);
        while let Some(step) = steps.pop_front() {
            let (writes, sealed) = step.split();
            let receipt = self.commit(env, writes, sync)?;
            for effect in sealed.release(&receipt) {
                match effect {
                    Effect::Send { to, message } => env.send(to, 0, call_bytes(&message)),
                    Effect::Stage { core, secret } => {
                        let staged = self.stage(env, &core, &secret, sync)?;
                        steps.extend(self.advance(&digest, Input::Staged(staged)));
                    }
                    Effect::Propose(vote) => {
                        self.propose(env, &Payload::Generate(vote), PROPOSE_MS);
                    }
                }
            }
        }
        Ok(())
    }

    /// Stores a share, durable before this returns; gives it back as re-read from the store.
    pub(super) fn stage(
        &mut self,
        env: &mut Env<'_>,
        core: &CertificateCore,
        secret: &ShareSecret,
        sync: bool,
    ) -> Result<ShareSecret, Halt> {
        let key = private::share(&core.key, core.version, core.epoch);
        let record = ShareRecord { core: core.digest(), secret: *secret.expose() };
        self.persist(env, vec![(Column::Private, key, Some(encode(&record)))], sync)?;
        let (key, version, epoch) = (core.key, core.version, core.epoch);
        env.saw(Seen::Staged { key, version, epoch, share: *secret.expose() });
        env.crash_point(situation::STAGED)?;
        if env.has(Bug::ActivatedEarly) {
            let activated = self.identity.sign(Domain::Activated, &core.cluster, core.digest().as_bytes());
            let witness = Witness { key, version, epoch, node: self.me, activated: Some(activated), head: None };
            self.propose(env, &Payload::Witness(witness), PROPOSE_MS);
        }
        let staged = self.read_share(core)?;
        staged.ok_or_else(|| Halt::Fault("a share that was just stored is not there".to_owned()))
    }
}

/// A call with a message; the encoding of [`symbolon_protocol::peer::WorkCall::Generate`] is its tag before the message.
fn call_bytes(message: &SignedMessage) -> Vec<u8> {
    const GENERATE: u8 = 7;
    let stand_alone = message.to_bytes();
    let mut bytes = vec![FORMAT_VERSION, GENERATE];
    bytes.extend(stand_alone.iter().skip(1));
    bytes
}

#[cfg(test)]
mod tests {
    use symbolon_protocol::peer::WorkCall;
    use symbolon_protocol::wire::encode;

    #[test]
    fn the_tag_is_the_one_of_the_codec() {
        // The list is in order and `Generate` comes after `ReadIndex`.
        assert_eq!(encode(&WorkCall::ReadIndex), [1, 6]);
    }
}
