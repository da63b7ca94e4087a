//! Applying the log, and making this node's own part of the replicated state true; after any crash it simply looks again.

use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::entry::{Entry, Erasure, LogEntry, Payload, Witness};
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::fresh::Placed;
use symbolon_protocol::generate::activated_vote;
use symbolon_protocol::genesis::MemberRole;
use symbolon_protocol::history::root_at;
use symbolon_protocol::id::{Digest, Epoch, KeyId, KeyVersion};
use symbolon_protocol::identity::{Domain, Signature, tagged_hash};
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::limits;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::request::{RequestBody, SignedRequest};
use symbolon_protocol::schema::{private, replicated};
use symbolon_protocol::state::records::{self, AttemptRecord, Trigger, VersionRecord};
use symbolon_protocol::state::{self, Applied, OwedErasure, owed_erasures, owes_witness, running_operations};
use symbolon_protocol::table::{Overlay, StoreFault, Tables, read};
use symbolon_protocol::wire::{FORMAT_VERSION, Reader, Wire, decode, encode};

use super::{APPLIED, Env, Halt, Node, PROPOSE_MS, Reply, payload_digest};
use crate::bugs::Bug;
use crate::count::situation;
use crate::disk::{Batch, Column};
use crate::invariants::Known;

/// Operations and destructions that are looked at in one round.
const BATCH: usize = 256;
/// One of so many entries is applied by a node itself though it is known what it does.
const BY_ITSELF: u64 = 7;
/// Between two tries to have a witness or an erasure ordered, milliseconds.
const SAY_AGAIN_MS: u64 = 3_000;

impl Node {
    /// Applies the next entry: tables and position in one batch, which is not synced; a crash may take it back.
    ///
    /// What the entry does to the state that everybody has may be known: then only a part of the nodes finds it out for itself.
    pub(crate) fn apply(
        &mut self,
        env: &mut Env<'_>,
        index: u64,
        entry: LogEntry<'_>,
        known: Option<&Known>,
    ) -> Result<Applied, Halt> {
        let own_time = if env.has(Bug::OwnClock) { with_own_time(entry, env.now_ms) } else { None };
        let applied_entry = own_time.as_deref().map_or(entry, LogEntry::Normal);
        let by_itself = own_time.is_some() || (index + u64::from(self.me.get())).is_multiple_of(BY_ITSELF);
        let (applied, writes) = match known.filter(|known| !by_itself && self.is_before(index, known)) {
            Some(known) => (known.applied.clone(), known.writes.clone()),
            None => {
                let mut overlay = Overlay::new(self.disk.live(Column::State));
                let applied = state::apply(&mut overlay, &self.genesis, index, applied_entry)?;
                (applied, overlay.into_writes())
            }
        };
        let bytes = if let LogEntry::Normal(bytes) = applied_entry { bytes } else { &[] };
        let placed = Placed::of(&self.cluster, index, bytes, &applied.outcome, &writes);
        let mut batch: Batch = writes.into_iter().map(|(key, value)| (Column::State, key, value)).collect();
        let position = (Column::Position, APPLIED.to_vec(), Some(encode(&index)));
        if env.has(Bug::PositionFirst) {
            self.disk.write(vec![position]);
        } else {
            batch.push(position);
        }
        self.disk.write(batch);
        self.applied = Some(index);
        placed.into_iter().for_each(|placed| self.remember_placed(placed));
        self.note_applied(env, index, entry, &applied.outcome)?;
        Ok(applied)
    }

    /// Whether the tables are those that an entry is known to follow: roots bind every entry and every outcome before it.
    fn is_before(&self, index: u64, known: &Known) -> bool {
        let root = index.checked_sub(1).and_then(|before| root_at(self.tables(), before).ok().flatten());
        root.is_some() && root == known.before
    }

    fn note_applied(
        &mut self,
        env: &mut Env<'_>,
        index: u64,
        entry: LogEntry<'_>,
        outcome: &Outcome,
    ) -> Result<(), Halt> {
        match outcome {
            Outcome::Noted | Outcome::Started | Outcome::Upgraded { .. } | Outcome::Refused(_) => {}
            Outcome::Advanced { operation } => self.advanced(env, operation)?,
            Outcome::Activated { key, version, .. } => {
                self.owed.insert((*key, *version), 0);
                self.needs.insert((*key, *version), 0);
                self.forget_what_was_looked_up(env);
                if let (true, Some(certificate)) = (env.has(Bug::EraseAtCommit), self.certificate(key, *version)?) {
                    self.erase_at_commit(env, &certificate.core)?;
                }
            }
            Outcome::Generating { .. }
            | Outcome::Redistributing { .. }
            | Outcome::PolicyChanged { .. }
            | Outcome::MembershipChanged { .. }
            | Outcome::VotersMoved { .. }
            | Outcome::AttemptEnded { .. }
            | Outcome::KeyChanged { .. }
            | Outcome::ClientChanged { .. } => self.forget_what_was_looked_up(env),
        }
        if let Some(payload) = payload_of(entry) {
            let digest = payload_digest(&payload);
            self.proposals.remove(&digest);
            for ticket in self.orders.remove(&digest).unwrap_or_default() {
                self.answer_ordered(env, ticket, index, &payload, outcome)?;
            }
        }
        self.answer_waiting(env)
    }

    /// A client's request was applied.
    fn answer_ordered(
        &mut self,
        env: &mut Env<'_>,
        ticket: u64,
        index: u64,
        payload: &[u8],
        outcome: &Outcome,
    ) -> Result<(), Halt> {
        match outcome {
            Outcome::Refused(refusal) => env.reply(ticket, Reply::Refused(refusal.clone())),
            Outcome::Generating { key, version } => drop(self.waiting.insert(ticket, (*key, *version))),
            outcome => match decode(payload)? {
                Payload::Request(request) if takes_away(&request) => {
                    self.enforce(env, ticket, index, &request, outcome.clone())?;
                }
                _ => env.reply(ticket, Reply::Ordered { index, outcome: outcome.clone(), report: None }),
            },
        }
        Ok(())
    }

    /// Answers clients whose key version is certified, or failed.
    fn answer_waiting(&mut self, env: &mut Env<'_>) -> Result<(), Halt> {
        for (ticket, (key, version)) in self.waiting.clone() {
            if let Some(reply) = self.certified(&key, version)? {
                self.waiting.remove(&ticket);
                match reply {
                    Reply::Created { certificate, .. } if version > KeyVersion::FIRST => {
                        self.enforce_rotation(env, ticket, *certificate)?;
                    }
                    reply => env.reply(ticket, reply),
                }
            }
        }
        Ok(())
    }

    fn certified(&self, key: &KeyId, version: KeyVersion) -> Result<Option<Reply>, Halt> {
        let record: Option<VersionRecord> = read(self.tables(), &replicated::version(key, version))?;
        let Some(record) = record else { return Ok(None) };
        if record.state == KeyState::Failed {
            let refusal = Refusal::new(ErrorCode::GenerationFailed, "the generation failed");
            return Ok(Some(Reply::Refused(refusal)));
        }
        let certificate = records::shown_certificate(self.tables(), key, &record)?;
        let voters = self.genesis.voters().len();
        let complete = certificate.filter(|certificate| certificate.is_complete(voters));
        Ok(complete.map(|certificate| Reply::Created { certificate: Box::new(certificate), report: None }))
    }

    /// The certificate of a version as it is shown to clients.
    pub(super) fn shown_certificate(&self, key: &KeyId, version: KeyVersion) -> Result<Option<KeyCertificate>, Halt> {
        let record: Option<VersionRecord> = read(self.tables(), &replicated::version(key, version))?;
        let Some(record) = record else { return Ok(None) };
        Ok(records::shown_certificate(self.tables(), key, &record)?)
    }

    /// The certificate of the epoch of a version that signs, as far as it is there.
    pub(super) fn certificate(&self, key: &KeyId, version: KeyVersion) -> Result<Option<KeyCertificate>, Halt> {
        let record: Option<VersionRecord> = read(self.tables(), &replicated::version(key, version))?;
        let Some(record) = record else { return Ok(None) };
        Ok(records::certificate(self.tables(), key, &record)?)
    }

    /// Looks at the state and does what is this node's to do.
    pub(crate) fn reconcile(&mut self, env: &mut Env<'_>) -> Result<(), Halt> {
        self.join_operations(env)?;
        self.pay_witnesses(env)?;
        self.erase_due(env)?;
        self.heal(env)?;
        if env.leads {
            self.lead(env)?;
        }
        Ok(())
    }

    /// Versions that became active and lack this node's witness; looked for once, at start.
    pub(super) fn find_owed(&mut self) -> Result<(), Halt> {
        let (mut owed, mut needs) = (Vec::new(), Vec::new());
        for (key, value) in self.tables().scan(replicated::VERSIONS, b"", usize::MAX)? {
            let version: VersionRecord = decode(&value)?;
            let id: Option<[u8; 32]> = key.get(1..33).and_then(|id| id.try_into().ok());
            let Some(id) = id.map(KeyId::from_bytes).filter(|_| version.certificate.is_some()) else { continue };
            if owes_witness(self.tables(), &id, version.number, self.me)? {
                owed.push((id, version.number));
            }
            needs.push(((id, version.number), 0));
        }
        self.needs.extend(needs);
        self.owed.extend(owed.into_iter().map(|place| (place, 0)));
        Ok(())
    }

    fn pay_witnesses(&mut self, env: &mut Env<'_>) -> Result<(), Halt> {
        for ((key, version), again_ms) in self.owed.clone() {
            if again_ms > env.now_ms {
                continue;
            }
            if owes_witness(self.tables(), &key, version, self.me)? {
                self.owed.insert((key, version), env.now_ms + SAY_AGAIN_MS);
                self.witness(env, key, version)?;
            } else {
                self.owed.remove(&(key, version));
            }
        }
        Ok(())
    }

    /// Says ACTIVATED as a holder, and signs the head of the activation as a voter.
    fn witness(&mut self, env: &mut Env<'_>, key: KeyId, version: KeyVersion) -> Result<(), Halt> {
        let Some(certificate) = self.certificate(&key, version)? else { return Ok(()) };
        let mut activated = self.say_activated(env, &certificate)?;
        if let (true, Some(share)) = (env.has(Bug::ShareInLog), self.read_share(&certificate.core)?) {
            let mut bytes = [0; 64];
            bytes.iter_mut().zip(share.expose()).for_each(|(to, from)| *to = *from);
            activated = Some(Signature::from_bytes(bytes));
        }
        let votes = self.genesis.members.get(&self.me).is_some_and(|member| member.role == MemberRole::Voter);
        let payload = encode(&certificate.activation.head);
        let head = votes.then(|| self.identity.sign(Domain::Head, &self.cluster, &payload));
        if activated.is_some() || head.is_some() {
            let epoch = certificate.core.epoch;
            let witness = Witness { key, version, epoch, node: self.me, activated, head };
            self.propose(env, &Payload::Witness(witness), PROPOSE_MS);
        }
        Ok(())
    }

    /// ACTIVATED, durable before it is said; only with a share in hand.
    fn say_activated(&mut self, env: &mut Env<'_>, certificate: &KeyCertificate) -> Result<Option<Signature>, Halt> {
        let core = &certificate.core;
        if !core.holders.contains(&self.me) || self.read_share(core)?.is_none() {
            return Ok(None);
        }
        let record = private::activated_vote(&core.key, core.version, core.epoch);
        let existing: Option<Digest> = read(self.disk.live(Column::Private), &record)?;
        match activated_vote(core, &self.identity, existing) {
            Ok(step) => {
                let (writes, sealed) = step.split();
                let receipt = self.commit(env, writes, true)?;
                Ok(sealed.release(&receipt).into_iter().next())
            }
            Err(_) => Ok(None),
        }
    }

    /// Erases shares of versions that are being destroyed, once both the replicated clock and its own say that it is time, and
    /// those of epochs that nobody needs any more.
    fn erase_due(&mut self, env: &mut Env<'_>) -> Result<(), Halt> {
        let cluster = records::cluster(self.tables())?;
        let now_ms = cluster.time_ms.min(env.now_ms);
        for OwedErasure { key, version, below } in owed_erasures(self.tables(), self.me, now_ms, BATCH)? {
            let again_ms = self.erased.get(&(key, version, below)).copied().unwrap_or(0);
            if again_ms > env.now_ms {
                continue;
            }
            if !env.has(Bug::EraseInWords) {
                self.erase_shares_below(env, &key, version, below)?;
            }
            env.count.situation(situation::ERASED);
            self.erased.insert((key, version, below), env.now_ms + SAY_AGAIN_MS);
            let payload = Erasure::payload(&key, version, below, self.me);
            let signature = self.identity.sign(Domain::Erased, &self.cluster, &payload);
            let erasure = Erasure { key, version, below, node: self.me, signature };
            self.propose(env, &Payload::Erased(erasure), PROPOSE_MS);
        }
        Ok(())
    }

    /// Erases all shares of a version below an epoch.
    pub(super) fn erase_shares_below(
        &mut self,
        env: &mut Env<'_>,
        key: &KeyId,
        version: KeyVersion,
        below: Epoch,
    ) -> Result<(), Halt> {
        let own = private::shares_of(key, version);
        for (record, _) in self.disk.live(Column::Private).scan(&own, b"", usize::MAX)? {
            let mut reader = Reader::new(record.get(own.len()..).unwrap_or_default());
            let epoch: Epoch = Wire::take(&mut reader)?;
            if epoch < below {
                self.erase_share(env, key, version, epoch)?;
            }
        }
        Ok(())
    }

    /// Shares of attempts that failed.
    pub(super) fn erase_orphans(&mut self, env: &mut Env<'_>) -> Result<(), Halt> {
        for (key, version, epoch) in self.orphans()? {
            env.count.situation(situation::ORPHAN);
            self.erase_share(env, &key, version, epoch)?;
        }
        Ok(())
    }

    /// Erases a share for good: the intent first, so that it is clear after any crash what was meant.
    fn erase_share(&mut self, env: &mut Env<'_>, key: &KeyId, version: KeyVersion, epoch: Epoch) -> Result<(), Halt> {
        let record = private::share(key, version, epoch);
        if let (true, Some(copy)) = (env.has(Bug::KeepCopy), self.disk.live(Column::Private).get(&record)) {
            let change = (Column::Private, [b"~copy", &record[..]].concat(), Some(copy.clone()));
            self.disk.write(vec![change]);
        }
        let intent = private::erase_intent(&tagged_hash("symbolon/share-record/v1", &record));
        self.persist(env, vec![(Column::Private, intent.clone(), Some(record.clone()))], true)?;
        self.forget_what_was_looked_up(env);
        self.persist(env, vec![(Column::Private, record, None), (Column::Private, intent, None)], true)
    }

    /// What only the leader does: ends attempts whose time is over, lets the replicated clock go on.
    fn lead(&mut self, env: &mut Env<'_>) -> Result<(), Halt> {
        let cluster = records::cluster(self.tables())?;
        for operation in running_operations(self.tables(), BATCH)? {
            if env.now_ms > operation.deadline_ms {
                let (operation, epoch) = (operation.ceremony.operation, operation.ceremony.epoch);
                self.propose(env, &Payload::Expire { operation, epoch }, PROPOSE_MS);
            }
        }
        let waits = [replicated::DESTRUCTIONS, replicated::REFRESHES].iter().try_fold(false, |waits, prefix| {
            Ok::<bool, StoreFault>(waits || !self.tables().scan(prefix, b"", 1)?.is_empty())
        })?;
        let age_ms = if waits { 1_000 } else { limits::TICK_MS };
        if cluster.started && env.now_ms.saturating_sub(cluster.time_ms) >= age_ms {
            self.propose(env, &Payload::Tick, PROPOSE_MS);
        }
        Ok(())
    }
}

/// Whether a share belongs to an attempt that is over without a key, or to a version that failed.
pub(super) fn is_orphan(
    tables: &impl Tables,
    key: &KeyId,
    version: KeyVersion,
    epoch: Epoch,
) -> Result<bool, StoreFault> {
    // A node that lags keeps what it does not understand yet.
    let Some(record) = read::<VersionRecord>(tables, &replicated::version(key, version))? else { return Ok(false) };
    let committed = record.core().map(|core| core.epoch);
    // Of a generation only: what a redistribution left are shares of the key, and go when a later epoch is final.
    let of_generation = |attempt: &AttemptRecord| attempt.trigger == Trigger::Generate && attempt.fault.is_some();
    let ended = record.attempts.iter().any(|attempt| attempt.epoch == epoch && of_generation(attempt));
    Ok(record.state == KeyState::Failed || (ended && committed != Some(epoch)))
}

/// Whether a request takes a right away.
fn takes_away(request: &SignedRequest) -> bool {
    decode::<RequestBody>(&request.body.0).is_ok_and(|body| body.action.takes_away())
}

/// The payload of an entry, in its stand-alone encoding: what follows the time.
fn payload_of(entry: LogEntry<'_>) -> Option<Vec<u8>> {
    let LogEntry::Normal(bytes) = entry else { return None };
    let payload = bytes.get(9..)?;
    Some([&[FORMAT_VERSION][..], payload].concat())
}

/// Only for a planted bug: the entry with another time.
fn with_own_time(entry: LogEntry<'_>, time_ms: u64) -> Option<Vec<u8>> {
    let LogEntry::Normal(bytes) = entry else { return None };
    let Entry { payload, .. } = decode(bytes).ok()?;
    Some(encode(&Entry { time_ms, payload }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_payload_follows_the_time() {
        let payload = Payload::Tick;
        let entry = encode(&Entry { time_ms: 77, payload: payload.clone() });
        assert_eq!(payload_of(LogEntry::Normal(&entry)), Some(encode(&payload)));
        assert_eq!(payload_of(LogEntry::Blank), None);
    }
}
