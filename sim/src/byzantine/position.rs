//! What an evil voter says of where it is, and of requests that nobody made.

use symbolon_protocol::fresh::{Position, SignedPosition};
use symbolon_protocol::history::root_at;
use symbolon_protocol::id::{Digest, NodeId, RequestId};
use symbolon_protocol::peer::{WorkAnswer, WorkCall};
use symbolon_protocol::request::{Action, RequestBody, SignedRequest};
use symbolon_protocol::sign::Round1;
use symbolon_protocol::wire::{decode, encode};

use super::{Evil, KEPT};
use crate::count::{Counters, fault, situation};
use crate::disk::Column;
use crate::node::{Frame, Node};

impl Evil {
    /// From now on this node shows its victims the history as it was up to an index; with none, the true one.
    pub(crate) fn withhold(&mut self, victims: impl IntoIterator<Item = (NodeId, u64)>) {
        self.shown = victims.into_iter().collect();
    }

    /// What goes out in the place of an answer where this node is; none for any other frame.
    pub(super) fn lie_of_position(
        &mut self,
        node: &Node,
        count: &mut Counters,
        to: NodeId,
        frame: &Frame,
    ) -> Option<Vec<Frame>> {
        if !frame.answer {
            return None;
        }
        let Ok(WorkAnswer::Position(truth)) = decode::<WorkAnswer>(&frame.bytes) else { return None };
        let shown = self.shown.get(&to).copied();
        if shown.is_none() && !self.draw.chance(self.malice) {
            self.keep_position(truth);
            return Some(vec![frame.clone()]);
        }
        count.fault(fault::EVIL);
        let lie = match shown {
            Some(index) => {
                count.situation(situation::OLD_SHOWN);
                old(node, &truth.position, index)
            }
            None => self.lie(node, truth),
        };
        self.keep_position(truth);
        let told = lie.unwrap_or(truth);
        Some(vec![Frame { bytes: encode(&WorkAnswer::Position(told)), ..frame.clone() }])
    }

    fn keep_position(&mut self, truth: SignedPosition) {
        if self.positions.len() < KEPT {
            self.positions.push(truth);
        }
    }

    fn lie(&mut self, node: &Node, truth: SignedPosition) -> Option<SignedPosition> {
        let sign = |position: Position| Some(position.sign(node.identity(), &node.cluster()));
        let SignedPosition { position, .. } = truth;
        match self.draw.below(6) {
            0 => sign(Position { applied: u64::MAX, ..position }),
            1 => old(node, &position, position.applied.saturating_sub(self.draw.between(1, 30))),
            // Two heads for one index, some of them right after a withdrawal.
            2 => sign(Position { head: Digest::from_bytes(self.draw.bytes()), ..position }),
            3 => self.draw.pick(&self.positions),
            4 => Some(SignedPosition { position: Position { applied: position.applied + 1, ..position }, ..truth }),
            _ => {
                let others: Vec<NodeId> = node.genesis().members.keys().copied().collect();
                sign(Position { node: self.draw.pick(&others)?, ..position })
            }
        }
    }

    /// A notice of a withdrawal that nobody with the right asked for.
    pub(super) fn forged_notice(&mut self, node: &Node, round1: &Round1) -> Option<Frame> {
        let body: RequestBody = decode(&round1.request.body.0).ok()?;
        let mut body = RequestBody { request_id: RequestId::from_bytes(self.draw.bytes()), ..body };
        body.action = if self.draw.chance(500) {
            Action::SuspendKey
        } else {
            Action::RevokeKey { reason: "because I say so".to_owned() }
        };
        body.messages.clear();
        // In its own name, which nobody registered, or in that of the client, whose signature it lacks.
        if self.draw.chance(500) {
            body.client = node.identity().public();
        }
        let request = SignedRequest::sign(&body, node.identity());
        Some(Frame { call: 0, answer: false, bytes: encode(&WorkCall::Withdrawn(request)) })
    }
}

/// The true position at an earlier index, newly signed.
fn old(node: &Node, truth: &Position, index: u64) -> Option<SignedPosition> {
    let applied = index.min(truth.applied);
    let head = root_at(node.disk().live(Column::State), applied).ok().flatten()?;
    Some(Position { applied, head, ..*truth }.sign(node.identity(), &node.cluster()))
}
