//! Taking rights away: what this node asks others before it answers such a request, around the machine of floor 0.

use std::collections::{BTreeMap, BTreeSet};

use rand_core::RngCore as _;
use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::fresh::{
    Barrier, Enforced, Holders, Placed, Progress, Question, Report, SignedPosition, holders_of_change,
    holders_of_rotation,
};
use symbolon_protocol::history::root_at;
use symbolon_protocol::id::{Digest, NodeId};
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::peer::WorkCall;
use symbolon_protocol::request::SignedRequest;
use symbolon_protocol::state::links;
use symbolon_protocol::wire::encode;

use super::fresh::POSITION;
use super::{Env, Halt, Node, Reply, Timer};
use crate::count::situation;

/// How long a node may take to say where it is, by the clock that nobody sets, milliseconds.
const ANSWER_MS: u64 = 1_500;
/// Between two looks at who is missing, milliseconds.
const LOOK_MS: u64 = 150;

/// Barriers of this start, and what they are for.
#[derive(Default)]
pub(super) struct Barriers {
    /// By index: the same request goes on where it was.
    open: BTreeMap<u64, Barrier>,
    /// Requests that took a right away, as they were applied here.
    placed: BTreeMap<Digest, Placed>,
    /// Clients that wait, by ticket.
    waiting: BTreeMap<u64, Collecting>,
}

/// A client that waits for a barrier.
struct Collecting {
    entry: Placed,
    told: Told,
    begun_ms: u64,
    /// Who was asked, with what, and when nobody expects the answer any more.
    asked: BTreeMap<NodeId, ([u8; 16], u64)>,
    /// Answers for which this node has to apply more.
    ahead: BTreeMap<NodeId, SignedPosition>,
    /// Who did not answer lately.
    silent: BTreeSet<NodeId>,
}

/// What the client is told beside the report.
pub(super) enum Told {
    Ordered(Outcome),
    Rotated(Box<KeyCertificate>),
}

impl Node {
    /// An entry that takes a right away was applied here; the first time counts.
    pub(super) fn remember_placed(&mut self, placed: Placed) {
        self.barriers.placed.entry(placed.request).or_insert(placed);
    }

    /// A request took a right away: the client is answered when that is gone as far as can be had.
    pub(super) fn enforce(
        &mut self,
        env: &mut Env<'_>,
        ticket: u64,
        index: u64,
        request: &SignedRequest,
        outcome: Outcome,
    ) -> Result<(), Halt> {
        let digest = request.verify(&self.cluster).ok().map(|verified| verified.digest());
        let Some(entry) = digest.and_then(|digest| self.barriers.placed.get(&digest)).copied() else {
            // Applied before the last start: this node cannot tell.
            let report = Report {
                index,
                enforced: Enforced::No,
                positions: Vec::new(),
                holders: BTreeSet::new(),
                staleness_ms: 0,
                place: None,
                endorsements: Vec::new(),
            };
            env.reply(ticket, Reply::Ordered { index, outcome, report: Some(Box::new(report)) });
            return Ok(());
        };
        let members: Vec<NodeId> = self.genesis.members.keys().copied().collect();
        let holders = holders_of_change(self.tables(), &outcome, members, |node| self.applied_by(node))?;
        self.collect(env, ticket, entry, holders, Told::Ordered(outcome))
    }

    /// A rotation takes the versions before away with the entry that made the new one active.
    pub(super) fn enforce_rotation(
        &mut self,
        env: &mut Env<'_>,
        ticket: u64,
        certificate: KeyCertificate,
    ) -> Result<(), Halt> {
        let (core, activation) = (&certificate.core, &certificate.activation);
        let request = core.digest();
        let entry = Placed { request, index: activation.head.index, time_ms: 0, writes: activation.writes };
        let holders = holders_of_rotation(self.tables(), &core.key, core.version, |node| self.applied_by(node))?;
        self.collect(env, ticket, entry, holders, Told::Rotated(Box::new(certificate)))
    }

    fn collect(
        &mut self,
        env: &mut Env<'_>,
        ticket: u64,
        entry: Placed,
        holders: Holders,
        told: Told,
    ) -> Result<(), Halt> {
        let electorates = links::electorates(self.tables(), entry.index)?;
        self.barriers.open.entry(entry.index).or_insert_with(|| Barrier::new(entry.index, electorates, holders));
        let collecting = Collecting {
            entry,
            told,
            begun_ms: env.boot_ms,
            asked: BTreeMap::new(),
            ahead: BTreeMap::new(),
            silent: BTreeSet::new(),
        };
        self.barriers.waiting.insert(ticket, collecting);
        env.wake(LOOK_MS, Timer::Barrier(ticket));
        self.look_collecting(env, ticket)
    }

    /// Asks whoever is missing, and answers when that is over.
    pub(super) fn look_collecting(&mut self, env: &mut Env<'_>, ticket: u64) -> Result<(), Halt> {
        let Some(collecting) = self.barriers.waiting.get(&ticket) else { return Ok(()) };
        let index = collecting.entry.index;
        let missing = self.barriers.open.get(&index).map(Barrier::missing).unwrap_or_default();
        for node in missing {
            let mut nonce = [0; 16];
            self.rng.fill_bytes(&mut nonce);
            if node == self.me {
                if let Some(signed) = self.own_position(env, nonce)? {
                    self.take(env, index, signed);
                }
                continue;
            }
            let Some(collecting) = self.barriers.waiting.get_mut(&ticket) else { return Ok(()) };
            match collecting.asked.get(&node) {
                Some((_, until_ms)) if env.boot_ms < *until_ms => continue,
                Some(_) => drop(collecting.silent.insert(node)),
                None => {}
            }
            collecting.asked.insert(node, (nonce, env.boot_ms + ANSWER_MS));
            let question = Question { nonce, at_least: index, seen: Vec::new() };
            env.send(node, POSITION, encode(&WorkCall::Position(question)));
        }
        self.look_answered(env, ticket)
    }

    fn look_answered(&mut self, env: &mut Env<'_>, ticket: u64) -> Result<(), Halt> {
        let Some(collecting) = self.barriers.waiting.get(&ticket) else { return Ok(()) };
        let Some(barrier) = self.barriers.open.get(&collecting.entry.index) else { return Ok(()) };
        let reachable = |node| !collecting.silent.contains(&node);
        match barrier.progress(collecting.begun_ms, env.boot_ms, reachable) {
            Progress::Done(enforced) => self.answer_enforced(env, ticket, enforced),
            Progress::Until(_) => Ok(()),
        }
    }

    fn answer_enforced(&mut self, env: &mut Env<'_>, ticket: u64, enforced: Enforced) -> Result<(), Halt> {
        let Some(Collecting { entry, told, .. }) = self.barriers.waiting.remove(&ticket) else { return Ok(()) };
        let Some(barrier) = self.barriers.open.get(&entry.index) else { return Ok(()) };
        let (positions, holders) = (barrier.positions(), barrier.holders());
        let (index, staleness_ms) = (barrier.index(), barrier.staleness_ms());
        let place = entry.place(self.tables(), positions.iter().map(|signed| signed.position.applied))?;
        if staleness_ms > 0 && enforced != Enforced::No {
            env.count.situation(situation::WAITED_OUT);
        }
        // The members of a run never change: there is nothing to show of earlier ones.
        let endorsements = Vec::new();
        let report = Report { index, enforced, positions, holders, staleness_ms, place, endorsements };
        let report = Some(Box::new(report));
        let reply = match told {
            Told::Ordered(outcome) => Reply::Ordered { index, outcome, report },
            Told::Rotated(certificate) => Reply::Created { certificate, report },
        };
        env.reply(ticket, reply);
        Ok(())
    }

    /// A node said where it is: whoever asked that for a barrier takes it.
    pub(super) fn confirmed(&mut self, env: &mut Env<'_>, from: NodeId, signed: SignedPosition) -> Result<(), Halt> {
        let asked = |collecting: &Collecting| {
            collecting.asked.get(&from).is_some_and(|(nonce, _)| *nonce == signed.position.nonce)
        };
        let found = self.barriers.waiting.iter().find(|(_, collecting)| asked(collecting));
        let Some(ticket) = found.map(|(ticket, _)| *ticket) else { return Ok(()) };
        let Some(collecting) = self.barriers.waiting.get_mut(&ticket) else { return Ok(()) };
        collecting.asked.remove(&from);
        collecting.silent.remove(&from);
        let verifies =
            self.genesis.members.get(&from).is_some_and(|member| signed.verifies(&member.key, &self.cluster));
        if signed.position.node == from && verifies && signed.position.applied >= collecting.entry.index {
            collecting.ahead.insert(from, signed);
        }
        self.compare_confirmed(env, ticket)
    }

    /// More was applied here: answers that waited for that can be compared.
    pub(crate) fn barriers_applied(&mut self, env: &mut Env<'_>) -> Result<(), Halt> {
        let tickets: Vec<u64> = self.barriers.waiting.keys().copied().collect();
        for ticket in tickets {
            self.compare_confirmed(env, ticket)?;
        }
        Ok(())
    }

    /// One that has another history confirms nothing.
    fn compare_confirmed(&mut self, env: &mut Env<'_>, ticket: u64) -> Result<(), Halt> {
        let Some(collecting) = self.barriers.waiting.get_mut(&ticket) else { return Ok(()) };
        let (index, ahead) = (collecting.entry.index, std::mem::take(&mut collecting.ahead));
        for (node, signed) in ahead {
            let position = &signed.position;
            if self.applied.is_none_or(|applied| applied < position.applied) {
                if let Some(collecting) = self.barriers.waiting.get_mut(&ticket) {
                    collecting.ahead.insert(node, signed);
                }
            } else if root_at(self.tables(), position.applied)? == Some(position.head) {
                self.take(env, index, signed);
            }
        }
        self.look_answered(env, ticket)
    }

    fn take(&mut self, env: &Env<'_>, index: u64, signed: SignedPosition) {
        if let Some(barrier) = self.barriers.open.get_mut(&index) {
            barrier.take(env.boot_ms, signed);
        }
    }

    /// Looks at a barrier once more, and goes on looking.
    pub(super) fn barrier_waited(&mut self, env: &mut Env<'_>, ticket: u64) -> Result<(), Halt> {
        if self.barriers.waiting.contains_key(&ticket) {
            env.wake(LOOK_MS, Timer::Barrier(ticket));
        }
        self.look_collecting(env, ticket)
    }
}
