//! What must hold, one file for each; and the oracle that knows everything and asks after every step.
//!
//! Safety is checked at every step: a run stops at the first one that is broken. Liveness is checked when faults are over:
//! everything converges within a bound, and every key signs that can (`converged`, `sign_answered`, `withdrawn_silent`).

pub(crate) mod converged;
mod erased_gone;
mod heads_equal;
mod key_usable;
mod liar_silent;
mod no_false_blame;
mod no_secret_in_log;
mod nonce_once;
mod position_durable;
pub(crate) mod promises;
mod reference;
mod revocation_final;
mod secrecy;
mod share_authorised;
pub(crate) mod sign_answered;
mod signature_valid;
mod usage_first;
pub(crate) mod withdrawn_silent;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use symbolon_protocol::certificate::{CertificateCore, KeyCertificate};
use symbolon_protocol::entry::{Entry, Payload};
use symbolon_protocol::genesis::Genesis;
use symbolon_protocol::id::{Digest, Epoch, KeyId, KeyVersion, NodeId};
use symbolon_protocol::identity::PublicKey;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::schema::private;
use symbolon_protocol::wire::{Bytes, decode};

use crate::count::{Counters, situation};
use crate::disk::{Column, Disk};
use crate::draw::Draw;
use crate::node::{Frame, Out, Seen};
use crate::order::Logged;
use crate::secrecy::{Ledger, Place};

pub(crate) use reference::{Known, Reference};

/// A key that was committed stays usable with any t of its holders.
pub const KEY_USABLE: &str = "key-usable";
/// No nonce is ever used for two messages or packages.
pub const NONCE_ONCE: &str = "nonce-once";
/// Heads are equal at equal index on all honest nodes.
pub const HEADS_EQUAL: &str = "heads-equal";
/// Every signature that leaves verifies for the requested message under the certified key.
pub const SIGNATURE_VALID: &str = "signature-valid";
/// A signature share leaves only for a message that a client with the right asked for.
pub const SHARE_AUTHORISED: &str = "share-authorised";
/// An honest node is never blamed with evidence, nor by an honest node for what it said.
pub const NO_FALSE_BLAME: &str = "no-false-blame";
/// No share occurs in the ordered log.
pub const NO_SECRET_IN_LOG: &str = "no-secret-in-log";
/// Fewer than t nodes, the same all the time, know nothing of a key.
pub const SECRET: &str = "secret";
/// Fewer than t nodes in each epoch, others in each, know nothing of a key.
pub const MOBILE: &str = "mobile";
/// Subshares are in memory only.
pub const MEMORY_ONLY: &str = "memory-only";
/// A node votes only for what its own applied state says runs or was committed.
pub const VOTES_FOLLOW_LOG: &str = "votes-follow-log";
/// A usage record is durable before a share leaves.
pub const USAGE_FIRST: &str = "usage-first";
/// A share whose erasure was said is gone.
pub const ERASED_GONE: &str = "erased-gone";
/// An honest node is never stopped by what it stored or was sent.
pub const NODE_RUNS: &str = "node-runs";
/// When faults are over, everything comes to an end and all honest nodes agree.
pub const CONVERGED: &str = "converged";
/// A sign request with t reachable honest holders is answered.
pub const SIGN_ANSWERED: &str = "sign-answered";
/// A key that was withdrawn signs nothing once everybody knows.
pub const WITHDRAWN_SILENT: &str = "withdrawn-silent";

/// What was taken away is gone everywhere once a client was told so.
pub const REVOCATION_FINAL: &str = "revocation-final";
/// A node signs where it is only from what is durable.
pub const POSITION_DURABLE: &str = "position-durable";
/// Nothing that a proven liar says counts.
pub const LIAR_SILENT: &str = "liar-silent";

/// A broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Which one.
    pub invariant: &'static str,
    /// Whether something good did not happen, rather than that something bad did.
    pub liveness: bool,
    /// What was found.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kind = if self.liveness { "liveness" } else { "safety" };
        write!(f, "{kind}, {}: {}", self.invariant, self.what)
    }
}

pub(crate) fn safety(invariant: &'static str, what: impl Into<String>) -> Violation {
    Violation { invariant, liveness: false, what: what.into() }
}

pub(crate) fn liveness(invariant: &'static str, what: impl Into<String>) -> Violation {
    Violation { invariant, liveness: true, what: what.into() }
}

/// Disks of the honest nodes.
pub(crate) type Disks<'a> = BTreeMap<NodeId, &'a Disk>;

/// Sees everything.
pub(crate) struct Oracle {
    evil: BTreeSet<NodeId>,
    /// The state after every entry of the log, by the same rules.
    pub(crate) reference: Reference,
    heads: heads_equal::Heads,
    usable: key_usable::Usable,
    nonces: nonce_once::Nonces,
    secrets: no_secret_in_log::Secrets,
    asked: share_authorised::Asked,
    /// What was drawn, and who learned what of it.
    ledger: Ledger,
    secrecy: secrecy::Secrecy,
    draw: Draw,
    /// All nodes.
    nodes: Vec<NodeId>,
    /// Of which epochs a node said that its shares are erased: all below.
    below: BTreeMap<(NodeId, Place), Epoch>,
    gone: revocation_final::Gone,
    proved: liar_silent::Proved,
}

impl Oracle {
    pub(crate) fn new(genesis: Genesis, evil: BTreeSet<NodeId>, seed: u64) -> Self {
        Self {
            evil,
            ledger: Ledger::default(),
            secrecy: secrecy::Secrecy::default(),
            draw: Draw::new(seed, "oracle"),
            nodes: genesis.members.keys().copied().collect(),
            below: BTreeMap::new(),
            reference: Reference::new(genesis),
            heads: heads_equal::Heads::default(),
            usable: key_usable::Usable::default(),
            nonces: nonce_once::Nonces::default(),
            secrets: no_secret_in_log::Secrets::default(),
            asked: share_authorised::Asked::default(),
            gone: revocation_final::Gone::default(),
            proved: liar_silent::Proved::default(),
        }
    }

    /// An entry got its place in the log.
    pub(crate) fn ordered(
        &mut self,
        index: u64,
        logged: &Logged,
        disks: &Disks<'_>,
        count: &mut Counters,
    ) -> Result<(), Violation> {
        self.secrets.check(index, logged.bytes())?;
        let payload = decode::<Entry>(logged.bytes()).ok().map(|entry| entry.payload);
        let applied = self.reference.apply(index, logged.entry())?;
        self.heads.ordered(applied.root, &applied.outcome);
        let secrets = &self.ledger;
        if secrets.secrets_in(logged.bytes()).next().is_some() {
            return Err(safety(NO_SECRET_IN_LOG, format!("the entry at index {index} holds a share or a subshare")));
        }
        self.gone.ordered(index, &applied.outcome);
        if let Outcome::Refused(_) = applied.outcome {
            return Ok(());
        }
        match &payload {
            Some(Payload::Generate(vote)) => no_false_blame::ordered(&self.evil, vote, count)?,
            Some(Payload::Erased(erasure)) => {
                erased_gone::check(erasure, disks)?;
                self.below.insert((erasure.node, (erasure.key, erasure.version)), erasure.below);
                if let Some(disk) = disks.get(&erasure.node) {
                    self.look_at_disk(erasure.node, disk)?;
                }
                if self.reference.still_signs(&erasure.key, erasure.version)? {
                    count.situation(situation::OLD_ERASED);
                }
            }
            Some(Payload::Deal(vote)) => no_false_blame::dealt(&self.evil, vote, count)?,
            _ => {}
        }
        if !matches!(applied.outcome, Outcome::Noted | Outcome::ClientChanged { .. }) {
            self.reference.operations()?.iter().for_each(|operation| self.ledger.operation(operation));
        }
        match applied.outcome {
            Outcome::Activated { key, version, .. } => {
                let core = self.reference.core(&key, version)?;
                self.ledger.committed((key, version), core.epoch, |node| core.verifying_share(node).copied());
                self.keep_secret((key, version), count)?;
                count.keys += 1;
                if core.previous.is_some() {
                    count.situation(situation::MOVED);
                } else if core.epoch.get() > 1 {
                    count.situation(situation::SECOND_ATTEMPT);
                }
                if version.get() > 1 {
                    count.situation(situation::ROTATED);
                }
                if self.usable.committed(core)? {
                    count.situation(situation::RESHARED);
                }
                for (node, disk) in disks {
                    self.disk(*node, disk)?;
                }
            }
            Outcome::AttemptEnded { key, version, next, .. } if self.reference.is_active(&key, version)? => {
                count.situation(if next.is_some() { situation::MOVED_AGAIN } else { situation::NOT_MOVED });
            }
            Outcome::AttemptEnded { next: None, .. } => count.situation(situation::FAILED),
            Outcome::AttemptEnded { key, version, next: Some(_), .. }
                if self.reference.has_new_roster(&key, version)? =>
            {
                count.situation(situation::SPARE);
            }
            Outcome::Generating { key, version } if self.reference.was_seen(&key, version) => {
                count.situation(situation::ORDERED_TWICE);
            }
            _ => {}
        }
        Ok(())
    }

    /// An honest node applied an entry.
    pub(crate) fn applied(&self, node: NodeId, index: u64, root: Digest) -> Result<(), Violation> {
        self.heads.applied(node, index, root)
    }

    /// An honest node told a client what became of its request.
    pub(crate) fn told(&self, node: NodeId, index: u64, outcome: &Outcome) -> Result<(), Violation> {
        self.heads.told(node, index, outcome)
    }

    /// What is durable on an honest node may have changed.
    pub(crate) fn disk(&mut self, node: NodeId, disk: &Disk) -> Result<(), Violation> {
        self.usable.check(node, disk, &self.reference)
    }

    /// An honest node did something.
    pub(crate) fn saw(&mut self, node: NodeId, seen: &Seen, disk: &Disk) -> Result<(), Violation> {
        match seen {
            Seen::Staged { key, version, epoch, share } => {
                self.secrets.add(*share);
                self.ledger.staged(node, (*key, *version), *epoch, *share);
                Ok(())
            }
            Seen::Promised(sound) => sound.clone(),
            Seen::Released(released) => {
                self.gone.check(node, &released.permitted)?;
                self.proved.check(node, released)?;
                self.asked.check(node, released)?;
                usage_first::check(node, released, disk)?;
                self.nonces.check(node, released)
            }
            Seen::Blamed { culprits, what } => no_false_blame::coordinator(&self.evil, node, culprits, what),
            Seen::Permitted(permitted) => self.gone.check(node, permitted),
            Seen::Position { position, log_end } => position_durable::check(node, position, *log_end, disk),
            Seen::Equivocates(liar) => {
                self.proved.add(node, *liar);
                Ok(())
            }
            Seen::Alarm { against } => no_false_blame::alarm(&self.evil, node, *against),
        }
    }

    /// A node wants something done, before anything evil is made of it.
    pub(crate) fn wants(&mut self, node: NodeId, out: &[Out]) {
        for one in out {
            if let Out::Propose(payload) = one {
                self.ledger.proposed(payload);
            }
        }
        for one in out {
            if let Out::Send { frame: Frame { answer: false, bytes, .. }, .. } = one {
                self.ledger.sent(node, bytes);
            }
        }
    }

    /// Something reached a node that runs.
    pub(crate) fn received(&mut self, from: NodeId, to: NodeId, frame: &Frame) {
        if !frame.answer {
            self.ledger.received(from, to, !self.evil.contains(&from), &frame.bytes);
        }
    }

    /// Whether fewer than t nodes know nothing of any version.
    pub(crate) fn keep_secrets(&mut self, count: &mut Counters) -> Result<(), Violation> {
        let places: Vec<Place> = self.ledger.keys().map(|(place, _)| *place).collect();
        places.into_iter().try_for_each(|place| self.keep_secret(place, count))
    }

    fn keep_secret(&mut self, place: Place, count: &mut Counters) -> Result<(), Violation> {
        if self.secrecy.check(&self.ledger, place, &self.nodes)? {
            count.situation(situation::RANKED);
        }
        Ok(())
    }

    /// What is raw on the disk of an honest node: no subshare at all, and of what it said is erased nothing that would help.
    fn look_at_disk(&mut self, node: NodeId, disk: &Disk) -> Result<(), Violation> {
        let mut kept = Vec::new();
        for value in disk.durable(Column::Private).values().chain(disk.durable(Column::Usage).values()) {
            for secret in self.ledger.secrets_in(value) {
                if secret.subshare {
                    return Err(safety(MEMORY_ONLY, format!("the disk of node {node} holds a subshare")));
                }
                if let Some(below) = self.below.get(&(node, secret.place)).filter(|below| secret.epoch < **below) {
                    kept.push((secret.clone(), *below));
                }
            }
        }
        for (secret, epoch) in kept {
            self.ledger.kept(node, &secret, epoch);
            self.keep_secret_from_others(secret.place)?;
        }
        Ok(())
    }

    fn keep_secret_from_others(&mut self, place: Place) -> Result<(), Violation> {
        secrecy::mobile(&self.ledger, place, &self.nodes, &mut self.draw)
    }

    /// An honest node told a client, truthfully as far as anybody can tell, that what an entry took away is gone.
    pub(crate) fn withdrawn(&mut self, index: u64, outcome: &Outcome) {
        self.gone.accepted(index, outcome);
    }

    /// The same of the versions below one.
    pub(crate) fn rotated(&mut self, key: KeyId, to: KeyVersion) {
        self.gone.rotated(key, to);
    }

    /// The same of a client.
    pub(crate) fn removed(&mut self, client: PublicKey) {
        self.gone.removed(client);
    }

    /// A client that has the right asks for signatures.
    pub(crate) fn client_asks(&mut self, key: KeyId, messages: &[Bytes]) {
        self.asked.add(key, messages);
    }

    /// Whether signatures are what they should be, by everything that is known.
    pub(crate) fn signature(
        &self,
        key: Option<KeyId>,
        messages: &[Bytes],
        signatures: &[[u8; 64]],
        certificate: &KeyCertificate,
    ) -> Result<(), Violation> {
        signature_valid::check(&self.usable, key, messages, signatures, &certificate.core)
    }

    /// A client was told, with a certificate that it believes, that a key exists.
    pub(crate) fn created(&self, certificate: &KeyCertificate) -> Result<(), Violation> {
        self.usable.acknowledged(&certificate.core)
    }

    /// Cores that were committed.
    pub(crate) fn committed(&self) -> impl Iterator<Item = &CertificateCore> {
        self.usable.cores()
    }

    /// Where shares may lie when everything has come to an end: those of the epoch that signs, and those that count as out.
    pub(crate) fn kept(&self) -> impl Iterator<Item = Vec<u8>> {
        let of = |core: &CertificateCore| {
            let record = self.reference.version(&core.key, core.version).ok().flatten();
            let out = record.map(|record| record.shares).unwrap_or_default();
            let (key, version) = (core.key, core.version);
            out.into_iter().map(move |set| private::share(&key, version, set.epoch)).collect::<Vec<_>>()
        };
        self.committed().flat_map(of).collect::<Vec<_>>().into_iter()
    }

    /// Holders of a version that are not evil.
    pub(crate) fn honest_holders(&self, core: &CertificateCore) -> usize {
        core.holders.iter().filter(|node| !self.evil.contains(node)).count()
    }

    /// Whether any t holders of every key that was committed have its secret between them, and no fewer.
    pub(crate) fn at_end(&mut self, disks: &Disks<'_>, count: &mut Counters) -> Result<(), Violation> {
        self.usable.at_end(disks, &self.reference)?;
        for (node, disk) in disks {
            self.look_at_disk(*node, disk)?;
        }
        self.keep_secrets(count)?;
        let places: Vec<Place> = self.ledger.keys().map(|(place, _)| *place).collect();
        places.into_iter().try_for_each(|place| self.keep_secret_from_others(place))
    }
}
