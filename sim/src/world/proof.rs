//! When faults are over: everything comes to an end, and then every key signs that can, and no other one.

use super::{PROVE_MS, SETTLE_MS, START_MS, Violation, World, honest_disks};
use crate::client::{Goal, Who};
use crate::invariants::{CONVERGED, converged, liveness, sign_answered, withdrawn_silent};

/// Between two looks whether everything came to an end, virtual milliseconds.
const LOOK_MS: u64 = 250;

impl World {
    /// Waits until nothing is open any more.
    pub(super) fn settle(&mut self) -> Result<(), Violation> {
        let end_ms = self.now_ms + SETTLE_MS;
        loop {
            self.until(self.now_ms + LOOK_MS)?;
            match self.unsettled()? {
                None => return Ok(()),
                Some(why) if self.now_ms >= end_ms => {
                    return Err(liveness(CONVERGED, format!("{SETTLE_MS} ms after the last fault: {why}")));
                }
                Some(_) => {}
            }
        }
    }

    fn unsettled(&self) -> Result<Option<String>, Violation> {
        if let Some((ticket, op)) = self.clients.first_open() {
            return Ok(Some(format!("`{}` (ticket {ticket}) is not answered", op.wish.action.name())));
        }
        let length = self.order.length();
        for (id, slot) in self.slots.iter().filter(|(_, slot)| slot.evil.is_none()) {
            match slot.running.as_ref().map(crate::node::Node::next_index) {
                Some(next) if next == length => {}
                next => return Ok(Some(format!("node {id} is at {next:?} of {length} entries"))),
            }
        }
        let disks = honest_disks(&self.slots);
        let voters = (disks.len(), self.slots.len());
        converged::unfinished(&self.oracle, &disks, voters)
    }

    /// Asks for signatures with every key, and for a new key.
    pub(super) fn prove(&mut self) -> Result<(), Violation> {
        let now_ms = START_MS + self.now_ms;
        for (key, version) in self.oracle.reference.keys()? {
            let Some(version) = version else { continue };
            let (goal, who) = if sign_answered::must_sign(&self.oracle, &version, now_ms).is_some() {
                (Goal::ProveSigns, Who::Admin)
            } else if withdrawn_silent::must_be_silent(&version, now_ms) {
                // By the client that used the key while it could: nodes may remember that.
                (Goal::ProveSilent, Who::Signer)
            } else {
                continue;
            };
            let wish = self.clients.signing(goal, who, key.id);
            self.ask(wish);
        }
        if let Some(wish) = self.clients.make_honest_key() {
            self.ask(wish);
        }
        let end_ms = self.now_ms + PROVE_MS;
        while let Some((ticket, op)) = self.clients.first_open() {
            if self.now_ms >= end_ms {
                let what = format!("`{}` (ticket {ticket}) is open", op.wish.action.name());
                return Err(sign_answered::unanswered(&what));
            }
            self.until(self.now_ms + LOOK_MS)?;
        }
        Ok(())
    }
}
