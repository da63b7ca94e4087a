//! The network between nodes: it loses, doubles, delays and thereby reorders; who sent a message is known to the receiver.

use std::collections::{BTreeMap, BTreeSet};

use symbolon_protocol::id::NodeId;

use crate::count::{Counters, fault};
use crate::draw::Draw;
use crate::options::Options;

/// Messages of a thousand that are held back from and to nodes that the log does not reach.
const HELD_BACK: u32 = 150;

/// The network.
pub(crate) struct Network {
    draw: Draw,
    calm: bool,
    /// Nodes that are cut off from all others, until when.
    cut: BTreeMap<NodeId, u64>,
    /// Nodes that are cut off together, until when.
    parted: (BTreeSet<NodeId>, u64),
    /// Nodes that the log does not reach, until when.
    withheld: BTreeMap<NodeId, u64>,
}

impl Network {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            draw: Draw::new(seed, "network"),
            calm: false,
            cut: BTreeMap::new(),
            parted: (BTreeSet::new(), 0),
            withheld: BTreeMap::new(),
        }
    }

    /// From now on everything arrives, soon.
    pub(crate) fn heal(&mut self) {
        self.calm = true;
        self.cut.clear();
        self.parted.1 = 0;
        self.withheld.clear();
    }

    /// Cuts nodes off together until a time.
    pub(crate) fn part(&mut self, nodes: Vec<NodeId>, until_ms: u64) {
        self.parted = (nodes.into_iter().collect(), until_ms);
    }

    /// Keeps the log from a node until a time.
    pub(crate) fn withhold(&mut self, node: NodeId, until_ms: u64) {
        self.withheld.insert(node, until_ms);
    }

    /// Until when the log does not reach a node, as led from somewhere.
    pub(crate) fn behind_until(&self, node: NodeId, leader: Option<NodeId>, now_ms: u64) -> u64 {
        let cut = self.cut_until(node, now_ms);
        let parted = leader.filter(|leader| self.is_parted(node, *leader, now_ms)).map(|_| self.parted.1);
        let withheld = self.withheld.get(&node).copied();
        cut.max(parted).max(withheld).unwrap_or(now_ms).max(now_ms)
    }

    fn is_parted(&self, one: NodeId, other: NodeId, now_ms: u64) -> bool {
        let (side, until_ms) = &self.parted;
        *until_ms > now_ms && side.contains(&one) != side.contains(&other)
    }

    /// Whether nothing gets from one node to another.
    pub(crate) fn severed(&self, from: NodeId, to: NodeId, now_ms: u64) -> bool {
        let is_cut = |node| self.cut_until(node, now_ms).is_some();
        from != to && (is_cut(from) || is_cut(to) || self.is_parted(from, to, now_ms))
    }

    /// Cuts a node off until a time.
    pub(crate) fn cut(&mut self, node: NodeId, until_ms: u64) {
        self.cut.insert(node, until_ms);
    }

    /// Until when a node is cut off; none when it is not.
    pub(crate) fn cut_until(&self, node: NodeId, now_ms: u64) -> Option<u64> {
        self.cut.get(&node).copied().filter(|until| *until > now_ms)
    }

    /// When a message arrives: never, once or twice.
    pub(crate) fn route(
        &mut self,
        options: &Options,
        count: &mut Counters,
        now_ms: u64,
        (from, to): (NodeId, NodeId),
    ) -> Vec<u64> {
        if self.calm {
            return vec![now_ms + self.draw.between(1, 4)];
        }
        if self.severed(from, to, now_ms) {
            return Vec::new();
        }
        let besieged = |node| self.withheld.get(&node).is_some_and(|until| *until > now_ms);
        if (besieged(from) || besieged(to)) && self.draw.chance(HELD_BACK) {
            count.fault(fault::SPIKE);
            return vec![now_ms + self.draw.between(200, 4_000)];
        }
        self.arrivals(options, count, now_ms)
    }

    /// The same for the way between clients and nodes, which is not cut.
    pub(crate) fn arrivals(&mut self, options: &Options, count: &mut Counters, now_ms: u64) -> Vec<u64> {
        if self.calm {
            return vec![now_ms + self.draw.between(1, 4)];
        }
        if self.draw.chance(options.drop) {
            count.fault(fault::DROP);
            return Vec::new();
        }
        let mut arrivals = vec![self.arrival(options, count, now_ms)];
        if self.draw.chance(options.duplicate) {
            count.fault(fault::DUPLICATE);
            arrivals.push(self.arrival(options, count, now_ms));
        }
        arrivals
    }

    fn arrival(&mut self, options: &Options, count: &mut Counters, now_ms: u64) -> u64 {
        let ordinary = self.draw.between(1, options.delay_ms);
        if self.draw.chance(options.spike) {
            count.fault(fault::SPIKE);
            return now_ms + ordinary + self.draw.between(200, 4_000);
        }
        now_ms + ordinary
    }
}
