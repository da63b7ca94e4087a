//! What clients ask and are told, and what the oracle says to that.

use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::fresh::Report;
use symbolon_protocol::id::{KeyVersion, NodeId};

use super::{Event, START_MS, Violation, World};
use crate::client::{Goal, Who, Wish, may_pass};
use crate::invariants::{
    CONVERGED, SHARE_AUTHORISED, SIGNATURE_VALID, liveness, safety, sign_answered, withdrawn_silent,
};
use crate::node::Reply;

/// Tries after which a request for signatures is given up while there are faults.
const TRIES: u32 = 8;
/// Tries of somebody who wants what is being taken away.
const SIEGE_TRIES: u32 = 14;
/// After an answer that may be better elsewhere, milliseconds.
const ELSEWHERE_MS: u64 = 200;

impl World {
    /// A client thinks of something.
    pub(super) fn work(&mut self) {
        if self.calm_since.is_some() || self.work_left == 0 {
            return;
        }
        self.work_left -= 1;
        if let Some(wish) = self.clients.next_wish() {
            self.ask(wish);
        }
        let pause_ms = self.options.chaos_ms / u64::from(self.options.operations.max(1) + 2);
        let wait_ms = self.chaos.between(pause_ms / 2, pause_ms + pause_ms / 2);
        self.push(self.now_ms + wait_ms, Event::Work);
    }

    /// Asks something new; its ticket.
    pub(super) fn ask(&mut self, wish: Wish) -> u64 {
        if let (Some(key), true) = (wish.key, wish.goal.signs() && wish.who != Who::Stranger) {
            self.oracle.client_asks(key, &wish.messages);
        }
        let taken = wish.action.takes_away().then(|| wish.clone());
        let ticket = self.clients.open(START_MS + self.now_ms, wish);
        match taken.and_then(|wish| self.besiege(&wish)) {
            Some(wait_ms) => self.push(self.now_ms + wait_ms, Event::Again { ticket, tries: 0 }),
            None => self.ask_again(ticket),
        }
        ticket
    }

    fn ask_again(&mut self, ticket: u64) {
        let calm = self.calm_since.is_some();
        let Some((node, request)) = self.clients.ask_again(START_MS + self.now_ms, ticket, calm) else { return };
        let Some(op) = self.clients.op(ticket) else { return };
        let (tries, patience_ms) = (op.tries, op.wish.goal.patience_ms());
        let question = Box::new((request, op.wish.messages.clone()));
        for at_ms in self.network.arrivals(&self.options, &mut self.count, self.now_ms) {
            self.push(at_ms, Event::Ask { node, ticket, question: question.clone() });
        }
        self.push(self.now_ms + patience_ms, Event::Again { ticket, tries });
    }

    /// An answer is missing or was no good: another node is asked, or it is given up.
    pub(super) fn again(&mut self, ticket: u64, tries: u32) -> Result<(), Violation> {
        let Some(op) = self.clients.op(ticket).filter(|op| op.open && op.tries == tries) else { return Ok(()) };
        let goal = op.wish.goal;
        let expired = START_MS + self.now_ms >= op.expires_ms;
        let enough = u32::try_from(self.clients.nodes()).unwrap_or(u32::MAX) + 2;
        let over = match goal {
            Goal::Sign | Goal::Forbidden => op.tries >= TRIES && (op.calm_tries == 0 || op.calm_tries >= enough),
            Goal::Siege => op.tries >= SIEGE_TRIES || self.calm_since.is_some(),
            Goal::Register | Goal::Make | Goal::Change | Goal::Move => expired,
            Goal::ProveMakes | Goal::ProveSigns | Goal::ProveSilent => op.tries > enough,
        };
        if !over {
            self.ask_again(ticket);
            return Ok(());
        }
        let what = format!("`{}` (ticket {ticket}) was asked {} times", op.wish.action.name(), op.tries);
        let calm_tries = op.calm_tries;
        // Every node was asked once at least since faults are over, and one more time for luck.
        let excused = calm_tries < enough || self.clients.may_fail(&op.wish) || goal == Goal::Forbidden;
        self.clients.close(ticket);
        match goal {
            Goal::ProveSigns | Goal::ProveMakes => Err(sign_answered::unanswered(&what)),
            Goal::Sign if calm_tries >= enough => self.judge_silence(ticket, &what),
            Goal::Siege => {
                self.ask_on(ticket);
                Ok(())
            }
            Goal::Sign | Goal::ProveSilent => Ok(()),
            _ if excused => Ok(()),
            _ => Err(liveness(CONVERGED, format!("{what} and never answered"))),
        }
    }

    /// Asks another node after a while, which grows.
    pub(super) fn elsewhere(&mut self, ticket: u64, tries: u32) {
        self.push(self.now_ms + ELSEWHERE_MS * u64::from(tries), Event::Again { ticket, tries });
    }

    /// Whether a request for signatures should have been answered.
    fn judge_silence(&self, ticket: u64, what: &str) -> Result<(), Violation> {
        let key = self.clients.op(ticket).and_then(|op| op.wish.key);
        for (record, version) in self.oracle.reference.keys()? {
            let Some(version) = version.filter(|_| Some(record.id) == key) else { continue };
            let now_ms = START_MS + self.now_ms;
            let certified = version.certificate.as_ref().is_some_and(|c| c.activated.len() >= c.core.threshold.get());
            if certified && sign_answered::must_sign(&self.oracle, &version, now_ms).is_some() {
                return Err(sign_answered::unanswered(what));
            }
        }
        Ok(())
    }

    /// A client was told something.
    pub(super) fn told(&mut self, from: NodeId, ticket: u64, reply: Reply) -> Result<(), Violation> {
        let Some(op) = self.clients.op(ticket) else { return Ok(()) };
        let (goal, open, tries) = (op.wish.goal, op.open, op.tries);
        let honest = !self.options.evil.contains(&from);
        match reply {
            Reply::Signed { signatures, certificate } => self.told_signed(honest, ticket, &signatures, &certificate),
            Reply::Created { certificate, report } => self.told_created(from, ticket, &certificate, report.as_deref()),
            Reply::Ordered { index, outcome, report } if op.wish.action.takes_away() => {
                if honest {
                    self.oracle.told(from, index, &outcome)?;
                }
                self.told_withdrawn(from, ticket, Err((index, &outcome)), report.as_deref())
            }
            Reply::Ordered { index, outcome, .. } => {
                // An evil node may say so when it is not; a real client looks at the key afterwards.
                self.clients.close(ticket);
                if honest { self.oracle.told(from, index, &outcome) } else { Ok(()) }
            }
            Reply::Refused(refusal) if open => {
                let honest_nodes = self.slots.len() - self.options.evil.len();
                let done = match goal {
                    // Asked of one honest node after the other.
                    Goal::ProveSilent => tries as usize >= honest_nodes,
                    Goal::ProveSigns | Goal::ProveMakes | Goal::Siege => false,
                    Goal::Sign | Goal::Forbidden => honest && !may_pass(&refusal),
                    // What was ordered is remembered with its outcome: to ask again changes nothing.
                    Goal::Register | Goal::Make | Goal::Change | Goal::Move => honest,
                };
                if done {
                    self.clients.close(ticket);
                } else {
                    self.elsewhere(ticket, tries);
                }
                Ok(())
            }
            Reply::Refused(_) => Ok(()),
        }
    }

    fn told_signed(
        &mut self,
        honest: bool,
        ticket: u64,
        signatures: &[[u8; 64]],
        certificate: &KeyCertificate,
    ) -> Result<(), Violation> {
        let Some(op) = self.clients.op(ticket) else { return Ok(()) };
        let (goal, open, tries) = (op.wish.goal, op.open, op.tries);
        let judged = self.oracle.signature(op.wish.key, &op.wish.messages, signatures, certificate);
        if honest {
            judged.clone()?;
        }
        if !self.clients.accepts(ticket, signatures, certificate) {
            // A certificate that lacks votes still, or a lie.
            if open {
                self.elsewhere(ticket, tries);
            }
            return Ok(());
        }
        judged.map_err(|violation| safety(SIGNATURE_VALID, format!("a client believed it: {}", violation.what)))?;
        match goal {
            Goal::ProveSilent => return Err(withdrawn_silent::spoke("a key that was withdrawn signed")),
            Goal::Forbidden => return Err(safety(SHARE_AUTHORISED, "a stranger got a signature")),
            _ => {}
        }
        self.count.signatures += signatures.len() as u64;
        self.clients.close(ticket);
        if open {
            self.ask_on(ticket);
        }
        Ok(())
    }

    fn told_created(
        &mut self,
        from: NodeId,
        ticket: u64,
        certificate: &KeyCertificate,
        report: Option<&Report>,
    ) -> Result<(), Violation> {
        let honest = !self.options.evil.contains(&from);
        let Some(op) = self.clients.op(ticket) else { return Ok(()) };
        let (goal, open, tries) = (op.wish.goal, op.open, op.tries);
        if !self.clients.believes(certificate) {
            if honest {
                return Err(safety(SIGNATURE_VALID, "an honest node showed a certificate that does not verify"));
            }
            if open {
                self.elsewhere(ticket, tries);
            }
            return Ok(());
        }
        self.oracle.created(certificate)?;
        self.clients.learn(certificate);
        if certificate.core.version > KeyVersion::FIRST {
            return self.told_withdrawn(from, ticket, Ok(certificate), report);
        }
        self.clients.close(ticket);
        if goal == Goal::ProveMakes && open {
            let wish = self.clients.signing(Goal::ProveSigns, Who::Admin, certificate.core.key);
            self.ask(wish);
        }
        Ok(())
    }
}
