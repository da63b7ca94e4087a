//! Rights that are taken away: what clients are told of that, and the sieges in which it must hold.

use std::collections::BTreeMap;

use symbolon_protocol::certificate::KeyCertificate;
use symbolon_protocol::fresh::{Checked, Enforced, Report};
use symbolon_protocol::id::NodeId;
use symbolon_protocol::outcome::Outcome;
use symbolon_protocol::request::Action;

use super::{Violation, World};
use crate::client::{Goal, Wish};
use crate::count::{fault, situation};
use crate::invariants::{REVOCATION_FINAL, safety};

impl World {
    /// Somebody is about to take a right away. Now and then some nodes are to hear of it as late as can be, while clients ask
    /// them for signatures: the log is withheld from them, by an evil leader that shows them its old head or by nobody in
    /// particular, or they are cut off together. How long the request waits for that, milliseconds.
    pub(super) fn besiege(&mut self, wish: &Wish) -> Option<u64> {
        if self.calm_since.is_some() || !self.siege.chance(self.options.siege) {
            return None;
        }
        let until_ms = self.now_ms + self.siege.between(4_000, 14_000);
        self.siege_until_ms = until_ms;
        let mut victims = self.options.honest();
        self.siege.shuffle(&mut victims);
        let most = (self.slots.len() / 2).max(1) as u64;
        victims.truncate(usize::try_from(self.siege.between(1, most)).unwrap_or(1));
        let evil: Vec<NodeId> = self.options.evil.iter().copied().collect();
        let evil = self.siege.pick(&evil);
        match (self.siege.below(3), evil) {
            (0, _) => {
                self.network.part(victims, until_ms);
                self.count.fault(fault::PARTED);
            }
            (1, Some(leader)) => {
                // One that is missing a barrier can do without, where there are four voters or more.
                victims.truncate(1);
                self.order.leader = Some(leader);
                self.withhold(&victims, until_ms);
                let next = |node: &NodeId| self.slots.get(node)?.running.as_ref().map(crate::node::Node::next_index);
                let shown: BTreeMap<NodeId, u64> =
                    victims.iter().filter_map(|node| Some((*node, next(node)?.checked_sub(1)?))).collect();
                let evil = self.slots.values_mut().filter_map(|slot| slot.evil.as_mut());
                evil.for_each(|evil| evil.withhold(shown.clone()));
            }
            _ => self.withhold(&victims, until_ms),
        }
        for _ in 0..self.siege.between(1, 3) {
            if let Some(wish) = self.clients.besieger(wish) {
                self.ask(wish);
            }
        }
        Some(self.siege.between(20, 1_200))
    }

    fn withhold(&mut self, victims: &[NodeId], until_ms: u64) {
        self.count.fault(fault::WITHHELD);
        for victim in victims {
            self.network.withhold(*victim, until_ms);
        }
    }

    /// A client was told what became of a request that takes a right away.
    pub(super) fn told_withdrawn(
        &mut self,
        from: NodeId,
        ticket: u64,
        claim: Result<&KeyCertificate, (u64, &Outcome)>,
        report: Option<&Report>,
    ) -> Result<(), Violation> {
        let honest = !self.options.evil.contains(&from);
        let Some(op) = self.clients.op(ticket) else { return Ok(()) };
        let (open, tries) = (op.open, op.tries);
        let checked = match report {
            Some(report) => self.clients.check_report(ticket, claim, report),
            None => Err("that is missing".to_owned()),
        };
        let checked = match checked {
            Ok(checked) => checked,
            Err(what) if honest => {
                return Err(safety(
                    REVOCATION_FINAL,
                    format!("node {from}, which is honest, answered with a report {what}"),
                ));
            }
            Err(_) => {
                if open {
                    self.elsewhere(ticket, tries);
                }
                return Ok(());
            }
        };
        if honest {
            self.accept(from, ticket, claim, &checked, report);
        }
        if checked.enforced > Enforced::No {
            self.clients.close(ticket);
        } else if open {
            // The same request goes on where it was.
            self.elsewhere(ticket, tries);
        }
        Ok(())
    }

    /// What an honest node told is true as long as no more voters lie than that allows for.
    fn accept(
        &mut self,
        from: NodeId,
        ticket: u64,
        claim: Result<&KeyCertificate, (u64, &Outcome)>,
        checked: &Checked,
        report: Option<&Report>,
    ) {
        let (what, liars) = match checked.enforced {
            Enforced::No => return self.count.situation(situation::NOT_ENFORCED),
            Enforced::Crash => (situation::ENFORCED_CRASH, 0),
            Enforced::Byzantine => (situation::ENFORCED_BYZANTINE, 1),
        };
        self.count.situation(what);
        let waited_ms = report.map_or(0, |report| report.staleness_ms);
        let rate = |node: &NodeId| self.slots.get(node).map_or(1000, |slot| slot.rate);
        if waited_ms > 0 && checked.missing.iter().any(|node| rate(node) + 20 <= rate(&from)) {
            self.count.situation(situation::SLOW_CLOCK);
        }
        if self.options.evil.len() > liars {
            return;
        }
        match claim {
            Ok(certificate) => self.oracle.rotated(certificate.core.key, certificate.core.version),
            Err((_, outcome)) => self.oracle.withdrawn(checked.index, outcome),
        }
        let op = self.clients.op(ticket);
        if let Some(Action::RemoveClient { name }) = op.map(|op| &op.wish.action)
            && let Some(client) = self.clients.guest_named(name)
        {
            self.oracle.removed(client);
        }
    }

    /// A besieger got a signature, or none: it asks on while the siege lasts.
    pub(super) fn ask_on(&mut self, ticket: u64) {
        let Some(wish) = self.clients.op(ticket).map(|op| op.wish.clone()) else { return };
        if wish.goal == Goal::Siege && self.now_ms < self.siege_until_ms && self.calm_since.is_none() {
            let again = self.clients.besieger(&wish);
            if let Some(again) = again {
                self.ask(Wish { who: wish.who, ..again });
            }
        }
    }
}
