//! What evil nodes make of what their programs say and hear, over the real codec.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use openraft::raft::AppendEntriesRequest;
use openraft::{EmptyNode, EntryPayload, Membership};
use symbolon_node::core::raft_log::{pack, unpack};
use symbolon_node::core::types::{Lane, RaftEntry, RaftLogId};
use symbolon_protocol::fresh::Position;
use symbolon_protocol::history;
use symbolon_protocol::id::{ClusterId, Digest, NodeId};
use symbolon_protocol::identity::Identity;
use symbolon_protocol::peer::{RaftAnswer, RaftCall, WorkAnswer, WorkCall};
use symbolon_protocol::wire::{Bytes, decode, encode};

use super::network::Deceit;
use super::types::{SimCore, SimTypes, lock};

/// An append in a call; none in another call.
fn append_in(call: &[u8]) -> Option<AppendEntriesRequest<SimTypes>> {
    match decode::<RaftCall>(call) {
        Ok(RaftCall::Append(Bytes(bytes))) => unpack(&bytes).ok(),
        _ => None,
    }
}

fn append_of(rpc: &AppendEntriesRequest<SimTypes>) -> Option<Vec<u8>> {
    pack(rpc).ok().map(|bytes| encode(&RaftCall::Append(Bytes(bytes))))
}

/// Signs something else of where this node is than it answered; none in an answer that says nothing of it.
fn place_of(
    answer: &[u8],
    (identity, cluster): (&Identity, &ClusterId),
    bend: impl FnOnce(Position) -> Option<Position>,
) -> Option<Vec<u8>> {
    match decode(answer) {
        Ok(WorkAnswer::Position(signed)) => {
            let position = bend(signed.position)?;
            Some(encode(&WorkAnswer::Position(position.sign(identity, cluster))))
        }
        _ => None,
    }
}

/// A leader that keeps one entry and all after it from some, and tells them that there is nothing newer.
pub struct Withholds {
    /// Its node.
    pub core: SimCore,
    /// Its identity.
    pub identity: Identity,
    /// From whom.
    pub from: Vec<NodeId>,
    /// What the first entry that is kept from them carries.
    pub body: Vec<u8>,
    /// The last entry that they are given.
    pub last: Mutex<Option<RaftLogId>>,
}

impl Withholds {
    fn carries(&self, entry: &RaftEntry) -> bool {
        match &entry.payload {
            EntryPayload::Normal(bytes) => bytes.0.windows(self.body.len()).any(|part| part == self.body),
            EntryPayload::Blank | EntryPayload::Membership(_) => false,
        }
    }

    fn cut(&self, rpc: &mut AppendEntriesRequest<SimTypes>) {
        let mut last = lock(&self.last);
        if last.is_none()
            && let Some(at) = rpc.entries.iter().position(|entry| self.carries(entry))
        {
            let before = at.checked_sub(1).and_then(|at| rpc.entries.get(at));
            *last = before.map(|entry| entry.log_id).or(rpc.prev_log_id);
        }
        let Some(last) = *last else { return };
        rpc.entries.retain(|entry| entry.log_id.index <= last.index);
        for id in [&mut rpc.prev_log_id, &mut rpc.leader_commit] {
            *id = id.map(|id| if id.index > last.index { last } else { id });
        }
    }
}

impl Deceit for Withholds {
    fn calls(&self, to: NodeId, lane: Lane, call: Vec<u8>) -> Option<Vec<u8>> {
        if !self.from.contains(&to) {
            return Some(call);
        }
        match (lane, append_in(&call)) {
            (Lane::Raft, Some(mut rpc)) => {
                self.cut(&mut rpc);
                append_of(&rpc)
            }
            (Lane::Work, _) if matches!(decode(&call), Ok(WorkCall::Withdrawn(_))) => None,
            _ => Some(call),
        }
    }

    fn answers(&self, to: NodeId, lane: Lane, _call: &[u8], answer: Vec<u8>) -> Vec<u8> {
        let Some(last) = lock(&self.last).filter(|_| lane == Lane::Work && self.from.contains(&to)) else {
            return answer;
        };
        let old = |position| {
            let head = history::root_at(&self.core.state_tables(), last.index).ok()??;
            Some(Position { applied: last.index, head, ..position })
        };
        place_of(&answer, (&self.identity, &self.core.cluster()), old).unwrap_or(answer)
    }
}

/// A voter that signs another history for some.
pub struct TwoHistories {
    /// Its identity.
    pub identity: Identity,
    /// The cluster.
    pub cluster: ClusterId,
    /// Who is told the other one.
    pub told: Vec<NodeId>,
}

impl Deceit for TwoHistories {
    fn answers(&self, to: NodeId, lane: Lane, _call: &[u8], answer: Vec<u8>) -> Vec<u8> {
        if lane != Lane::Work || !self.told.contains(&to) {
            return answer;
        }
        let other = |position: Position| {
            let head = position.head.as_bytes().map(|byte| !byte);
            Some(Position { head: Digest::from_bytes(head), ..position })
        };
        place_of(&answer, (&self.identity, &self.cluster), other).unwrap_or(answer)
    }
}

/// Counts what peers refuse.
fn refused(lane: Lane, answer: &[u8]) -> usize {
    usize::from(lane == Lane::Raft && matches!(decode(answer), Ok(RaftAnswer::Refused(_))))
}

/// A leader that makes itself the only voter, without an administrator; then it is silent.
#[derive(Default)]
pub struct Usurps {
    /// The voter that is to be left.
    pub only: BTreeSet<u64>,
    /// Who was told so.
    pub told: Mutex<BTreeSet<NodeId>>,
    /// How often that was refused.
    pub refused: AtomicUsize,
}

impl Deceit for Usurps {
    fn calls(&self, to: NodeId, lane: Lane, call: Vec<u8>) -> Option<Vec<u8>> {
        let Some(mut rpc) = append_in(&call).filter(|_| lane == Lane::Raft) else { return Some(call) };
        let mut told = lock(&self.told);
        if told.contains(&to) {
            return None;
        }
        let Some(entry) = rpc.entries.first_mut() else { return Some(call) };
        let nodes: BTreeMap<u64, EmptyNode> = self.only.iter().map(|id| (*id, EmptyNode {})).collect();
        entry.payload = EntryPayload::Membership(Membership::new(vec![self.only.clone()], nodes).ok()?);
        told.insert(to);
        append_of(&rpc)
    }

    fn hears(&self, _from: NodeId, lane: Lane, answer: Vec<u8>) -> Vec<u8> {
        self.refused.fetch_add(refused(lane, &answer), Ordering::Relaxed);
        answer
    }
}

/// A leader that hands out checkpoints with something else in them.
pub struct Corrupts {
    /// It.
    pub me: NodeId,
    /// Rows that it changes; where it has none, it leaves out the signatures of the others instead.
    pub rows: Option<&'static [u8]>,
    /// How often it did.
    pub done: AtomicUsize,
    /// How often it was refused.
    pub refused: AtomicUsize,
}

impl Deceit for Corrupts {
    fn calls(&self, _to: NodeId, lane: Lane, call: Vec<u8>) -> Option<Vec<u8>> {
        let bent = match (lane, decode(&call), self.rows) {
            (Lane::Raft, Ok(RaftCall::SnapshotBegin { meta, head, mut signatures }), None) => {
                signatures.retain(|(node, _)| *node == self.me);
                RaftCall::SnapshotBegin { meta, head, signatures }
            }
            (Lane::Raft, Ok(RaftCall::SnapshotChunk { index, number, mut pairs }), Some(rows)) => {
                let row = pairs.iter_mut().find(|(key, _)| key.0.starts_with(rows));
                let Some(byte) = row.and_then(|(_, value)| value.0.last_mut()) else { return Some(call) };
                *byte ^= 1;
                RaftCall::SnapshotChunk { index, number, pairs }
            }
            _ => return Some(call),
        };
        self.done.fetch_add(1, Ordering::Relaxed);
        Some(encode(&bent))
    }

    fn hears(&self, _from: NodeId, lane: Lane, answer: Vec<u8>) -> Vec<u8> {
        self.refused.fetch_add(refused(lane, &answer), Ordering::Relaxed);
        answer
    }
}
