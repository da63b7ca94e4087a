//! The Raft door: what is checked before Raft sees a message of a peer.
//!
//! Raft believes its sender. So the sender must be who the channel says, a voter by the admin-signed membership, not far ahead
//! in its term; a membership entry must be one that an administrator signed for; nothing that was applied may be replaced.

use std::collections::BTreeSet;

use openraft::EntryPayload;
use openraft::raft::{AppendEntriesRequest, VoteRequest};
use symbolon_protocol::entry::Entry;
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::id::NodeId;
use symbolon_protocol::limits;
use symbolon_protocol::wire::decode;

use super::types::{NodeTypes, RaftEntry, RaftLogId, RaftVote};

/// What the door knows of this node.
pub(crate) struct DoorState {
    /// Voters by the admin-signed membership.
    pub(crate) voters: BTreeSet<u64>,
    /// All members by it.
    pub(crate) members: BTreeSet<u64>,
    /// This node's term.
    pub(crate) term: u64,
    /// This node's clock.
    pub(crate) now_ms: u64,
    /// The last index that was applied.
    pub(crate) applied: Option<u64>,
}

/// Refused, or worse: somebody tries to rewrite what was applied.
#[derive(Debug)]
pub(crate) enum Barred {
    Refused(Refusal),
    Rewrites { index: u64 },
}

fn refused(what: impl Into<String>) -> Barred {
    Barred::Refused(Refusal::new(ErrorCode::PeerMisbehaved, what))
}

impl DoorState {
    fn check_sender(&self, from: NodeId, vote: &RaftVote) -> Result<(), Barred> {
        let from = u64::from(from.get());
        if vote.leader_id.voted_for != from {
            return Err(refused(format!("node {from} speaks in the name of another node")));
        }
        if !self.voters.contains(&from) {
            return Err(refused(format!("node {from} is no voter")));
        }
        if vote.leader_id.term > self.term.saturating_add(limits::TERM_AHEAD) {
            return Err(refused(format!("term {} of node {from} is too far ahead", vote.leader_id.term)));
        }
        Ok(())
    }

    /// Checks a vote request.
    pub(crate) fn check_vote<C: NodeTypes>(&self, from: NodeId, rpc: &VoteRequest<C>) -> Result<(), Barred> {
        self.check_sender(from, &rpc.vote)
    }

    /// Checks an append. `local` gives the log id that this node has at an index.
    pub(crate) fn check_append<C: NodeTypes>(
        &self,
        from: NodeId,
        rpc: &mut AppendEntriesRequest<C>,
        local: impl Fn(u64) -> std::io::Result<Option<RaftLogId>>,
    ) -> Result<(), Barred> {
        self.check_sender(from, &rpc.vote)?;
        let first = rpc.prev_log_id.map_or(0, |id| id.index.saturating_add(1));
        for (next, entry) in (first..).zip(&rpc.entries) {
            if entry.log_id.index != next {
                return Err(refused("entries are not consecutive"));
            }
            if entry.log_id.leader_id.term > rpc.vote.leader_id.term {
                return Err(refused("an entry is of a later term than its leader"));
            }
            self.check_applied(entry.log_id, &local)?;
        }
        let good = rpc.entries.iter().take_while(|entry| self.may_enter(entry)).count();
        if good == 0 && !rpc.entries.is_empty() {
            return Err(refused("the next entry has no right to be there, or its time is too far ahead"));
        }
        rpc.entries.truncate(good);
        Ok(())
    }

    /// An applied entry is for ever: whoever sends another one at its index rewrites history.
    fn check_applied(
        &self,
        id: RaftLogId,
        local: &impl Fn(u64) -> std::io::Result<Option<RaftLogId>>,
    ) -> Result<(), Barred> {
        if self.applied.is_none_or(|applied| id.index > applied) {
            return Ok(());
        }
        match local(id.index) {
            Ok(Some(mine)) if mine != id => Err(Barred::Rewrites { index: id.index }),
            Ok(_) => Ok(()),
            Err(error) => Err(refused(format!("the log cannot be read: {error}"))),
        }
    }

    fn may_enter(&self, entry: &RaftEntry) -> bool {
        match &entry.payload {
            EntryPayload::Blank => true,
            EntryPayload::Normal(bytes) => {
                let ahead = decode::<Entry>(&bytes.0).map(|e| e.time_ms.saturating_sub(self.now_ms));
                bytes.0.len() <= limits::ENTRY_BYTES && ahead.is_ok_and(|ms| ms <= limits::ENTRY_AHEAD_MS)
            }
            EntryPayload::Membership(membership) => {
                let voters: BTreeSet<u64> = membership.voter_ids().collect();
                let nodes: BTreeSet<u64> = membership.nodes().map(|(id, _)| *id).collect();
                membership.get_joint_config().len() == 1 && voters == self.voters && nodes.is_subset(&self.members)
            }
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::core::types::{EntryBytes, LeaderId};
    use openraft::{EmptyNode, LogId, Membership, Vote};
    use std::collections::BTreeMap;
    use symbolon_protocol::entry::Payload;
    use symbolon_protocol::wire::encode;

    openraft::declare_raft_types!(
        /// Types of these tests.
        pub(crate) Types: D = EntryBytes, R = crate::core::types::OutcomeBytes, NodeId = u64, Node = EmptyNode,
        LeaderId = LeaderId, AsyncRuntime = openraft_rt_tokio::TokioRuntime,
    );

    fn door() -> DoorState {
        DoorState {
            voters: BTreeSet::from([1, 2, 3]),
            members: BTreeSet::from([1, 2, 3, 4]),
            term: 5,
            now_ms: 1_000_000,
            applied: Some(3),
        }
    }

    fn id(term: u64, index: u64) -> RaftLogId {
        LogId::new(crate::core::types::Committed { term }, index)
    }

    fn entry(index: u64, payload: crate::core::types::RaftPayload) -> RaftEntry {
        openraft::Entry { log_id: id(5, index), payload }
    }

    fn append(leader: u64, term: u64, entries: Vec<RaftEntry>) -> AppendEntriesRequest<Types> {
        let first = entries.first().map_or(4, |e| e.log_id.index);
        AppendEntriesRequest {
            vote: Vote::new_committed(term, leader),
            prev_log_id: Some(id(5, first - 1)),
            entries,
            leader_commit: None,
        }
    }

    fn node(n: u16) -> NodeId {
        NodeId::new(n).unwrap()
    }

    fn normal(time_ms: u64) -> crate::core::types::RaftPayload {
        EntryPayload::Normal(EntryBytes(encode(&Entry { time_ms, payload: Payload::Tick })))
    }

    fn membership(voters: &[u64]) -> crate::core::types::RaftPayload {
        let nodes: BTreeMap<u64, EmptyNode> = voters.iter().map(|id| (*id, EmptyNode {})).collect();
        EntryPayload::Membership(Membership::new(vec![voters.iter().copied().collect()], nodes).unwrap())
    }

    #[test]
    fn nobody_speaks_for_another_node() {
        assert!(door().check_append(node(2), &mut append(2, 5, vec![]), |_| Ok(None)).is_ok());
        assert!(door().check_append(node(2), &mut append(1, 5, vec![]), |_| Ok(None)).is_err());
        assert!(door().check_append(node(4), &mut append(4, 5, vec![]), |_| Ok(None)).is_err());
        assert!(door().check_append(node(2), &mut append(2, 1006, vec![]), |_| Ok(None)).is_err());
        let vote = VoteRequest::<Types>::new(Vote::new(6, 1), None);
        assert!(door().check_vote(node(1), &vote).is_ok());
        assert!(door().check_vote(node(2), &vote).is_err());
    }

    #[test]
    fn a_membership_that_no_administrator_signed_does_not_pass() {
        let mut good = append(1, 5, vec![entry(4, membership(&[1, 2, 3]))]);
        assert!(door().check_append(node(1), &mut good, |_| Ok(None)).is_ok());
        for voters in [&[1u64, 2][..], &[1, 2, 3, 4], &[1, 2, 9]] {
            let mut bad = append(1, 5, vec![entry(4, normal(1)), entry(5, membership(voters))]);
            assert!(door().check_append(node(1), &mut bad, |_| Ok(None)).is_ok());
            assert_eq!(bad.entries.len(), 1, "the entries before it are taken");
            let mut alone = append(1, 5, vec![entry(4, membership(voters))]);
            assert!(door().check_append(node(1), &mut alone, |_| Ok(None)).is_err());
        }
    }

    #[test]
    fn an_entry_from_the_future_does_not_pass() {
        let ahead = 1_000_000 + limits::ENTRY_AHEAD_MS;
        assert!(door().check_append(node(1), &mut append(1, 5, vec![entry(4, normal(ahead))]), |_| Ok(None)).is_ok());
        assert!(
            door().check_append(node(1), &mut append(1, 5, vec![entry(4, normal(ahead + 1))]), |_| Ok(None)).is_err()
        );
    }

    #[test]
    fn what_was_applied_is_not_rewritten() {
        let mut same = append(1, 5, vec![entry(3, normal(1))]);
        assert!(door().check_append(node(1), &mut same, |i| Ok(Some(id(5, i)))).is_ok());
        let result = door().check_append(node(1), &mut same, |i| Ok(Some(id(4, i))));
        assert!(matches!(result, Err(Barred::Rewrites { index: 3 })), "{result:?}");
    }
}
