//! The Raft door: what is checked before Raft sees a message of a peer.
//!
//! Raft believes its sender. So the sender must be who the channel says, a voter by the admin-signed membership, not far ahead
//! in its term; a membership entry must be one that an administrator signed for; nothing that was applied may be replaced.

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod bench;
#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests_append;

use std::collections::BTreeSet;

use openraft::raft::{AppendEntriesRequest, VoteRequest};
use openraft::{EmptyNode, EntryPayload, Membership};
use symbolon_protocol::entry::Entry;
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::id::NodeId;
use symbolon_protocol::limits;
use symbolon_protocol::wire::decode;

use super::checkpoint::Checkpoint;
use super::types::{NodeTypes, RaftEntry, RaftLogId, RaftVote};

/// What the door knows of this node.
pub(crate) struct DoorState {
    /// Who may lead or ask for a vote, by the admin-signed membership and its last change.
    pub(crate) voters: BTreeSet<u64>,
    /// All members by it, with the voters that leave.
    pub(crate) members: BTreeSet<u64>,
    /// The sets of voters that Raft may have: those before and after changes that this node has applied.
    pub(crate) sets: Vec<BTreeSet<u64>>,
    /// This node's term.
    pub(crate) term: u64,
    /// This node's clock.
    pub(crate) now_ms: u64,
    /// The last entry that was applied.
    pub(crate) applied: Option<RaftLogId>,
}

/// Entries that may lie beyond the last applied one.
const TAIL: u64 = 100_000;

/// Whether two log ids can lie in one log: terms never fall.
fn orderly(a: RaftLogId, b: RaftLogId) -> bool {
    let (one, other) = (a.leader_id.term, b.leader_id.term);
    (one <= other && a.index <= b.index) || (one >= other && a.index >= b.index)
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
        self.check_sender(from, &rpc.vote)?;
        // A transfer would pass over the lease of the leader; nobody here hands leadership over.
        if rpc.vote.committed || rpc.leadership_transfer {
            return Err(refused("a request for a vote that says it was granted, or asks without an election"));
        }
        if rpc.last_log_id.is_some_and(|id| !self.is_in_reach(id, &rpc.vote)) {
            return Err(refused("the candidate's log reaches further than any log can"));
        }
        Ok(())
    }

    /// Whether a log id can exist under a vote. Raft computes with these numbers and would fail on absurd ones.
    fn is_in_reach(&self, id: RaftLogId, vote: &RaftVote) -> bool {
        id.leader_id.term <= vote.leader_id.term && id.index < u64::MAX / 2
    }

    /// Checks where an append says that it begins and what is committed: in order with each other and with what is applied here.
    fn check_positions<C: NodeTypes>(&self, rpc: &AppendEntriesRequest<C>) -> Result<(), Barred> {
        let ids: Vec<RaftLogId> = rpc.prev_log_id.into_iter().chain(rpc.entries.iter().map(|e| e.log_id)).collect();
        let commit = rpc.leader_commit;
        let last = ids.last().copied().or(self.applied);
        let good = rpc.vote.committed
            && ids.iter().chain(&commit).all(|id| self.is_in_reach(*id, &rpc.vote))
            && ids.iter().zip(ids.iter().skip(1)).all(|(a, b)| a.leader_id.term <= b.leader_id.term)
            && self.applied.is_none_or(|mine| ids.iter().chain(&commit).all(|id| orderly(*id, mine)))
            && commit.is_none_or(|commit| last.is_some_and(|last| orderly(commit, last)));
        if !good {
            return Err(refused("an append whose positions cannot be those of one log"));
        }
        let end = self.applied.map_or(0, |id| id.index).saturating_add(TAIL);
        if rpc.entries.last().is_some_and(|entry| entry.log_id.index > end) {
            return Err(refused("more entries than may wait here; they come again once those before them are applied"));
        }
        Ok(())
    }

    /// Checks what comes with a checkpoint. Its content is checked against signed heads; this is what Raft believes beside it.
    pub(crate) fn check_checkpoint(
        &self,
        from: NodeId,
        vote: &RaftVote,
        checkpoint: &Checkpoint,
    ) -> Result<(), Barred> {
        self.check_sender(from, vote)?;
        let last = checkpoint.last_log_id;
        let membership = checkpoint.membership.log_id();
        // The log of a leader that has a checkpoint for us lies wholly behind what is applied here.
        let newer =
            self.applied.is_none_or(|mine| last.index > mine.index && last.leader_id.term >= mine.leader_id.term);
        let fits = vote.committed
            && self.is_in_reach(last, vote)
            && newer
            && membership.is_none_or(|at| at.index <= last.index && orderly(at, last));
        if fits { Ok(()) } else { Err(refused("a checkpoint that does not fit this node's log")) }
    }

    /// Checks an append and cuts off what may not enter. `local` gives the log id that this node has at an index. When
    /// something was cut, the last entry that is left: the answer must not claim more.
    pub(crate) fn check_append<C: NodeTypes>(
        &self,
        from: NodeId,
        rpc: &mut AppendEntriesRequest<C>,
        local: impl Fn(u64) -> std::io::Result<Option<RaftLogId>>,
    ) -> Result<Option<RaftLogId>, Barred> {
        self.check_sender(from, &rpc.vote)?;
        self.check_positions(rpc)?;
        let first = rpc.prev_log_id.map_or(0, |id| id.index.saturating_add(1));
        for (next, entry) in (first..).zip(&rpc.entries) {
            if entry.log_id.index != next {
                return Err(refused("entries are not consecutive"));
            }
            self.check_applied(entry.log_id, &local)?;
        }
        // What was applied here had its right when it came; a signed change since then may have taken it.
        let was_applied = |entry: &RaftEntry| self.applied.is_some_and(|applied| entry.log_id.index <= applied.index);
        let good = rpc.entries.iter().take_while(|entry| was_applied(entry) || self.may_enter(entry)).count();
        if let (0, Some(next)) = (good, rpc.entries.first()) {
            let what = format!("entry {} has no right to be there, or its time is too far ahead", next.log_id.index);
            return Err(refused(match &next.payload {
                EntryPayload::Membership(membership) => format!("{what}: the members {membership}"),
                EntryPayload::Blank | EntryPayload::Normal(_) => what,
            }));
        }
        let cut = good < rpc.entries.len();
        rpc.entries.truncate(good);
        Ok(rpc.entries.last().filter(|_| cut).map(|entry| entry.log_id))
    }

    /// An applied entry is for ever: whoever sends another one at its index rewrites history.
    fn check_applied(
        &self,
        id: RaftLogId,
        local: &impl Fn(u64) -> std::io::Result<Option<RaftLogId>>,
    ) -> Result<(), Barred> {
        if self.applied.is_none_or(|applied| id.index > applied.index) {
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
            EntryPayload::Membership(membership) => may_stand(membership, &self.sets, &self.members),
        }
    }
}

/// Whether a membership of Raft is one that administrators signed: a set of voters that it may have, or two of them as a joint
/// configuration. Whole, since Raft looks every voter up among its nodes, and without strangers.
pub(crate) fn may_stand(
    membership: &Membership<u64, EmptyNode>,
    sets: &[BTreeSet<u64>],
    members: &BTreeSet<u64>,
) -> bool {
    let nodes: BTreeSet<u64> = membership.nodes().map(|(id, _)| *id).collect();
    let signed = match membership.get_joint_config().as_slice() {
        [one] => sets.contains(one),
        [one, other] => one != other && sets.contains(one) && sets.contains(other),
        _ => false,
    };
    signed && membership.voter_ids().all(|id| nodes.contains(&id)) && nodes.is_subset(members)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::core::types::{EntryBytes, LeaderId};
    use openraft::{LogId, Vote};
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
            sets: vec![BTreeSet::from([1, 2, 3])],
            term: 5,
            now_ms: 1_000_000,
            applied: Some(id(5, 3)),
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

    fn joint(sets: &[&[u64]], nodes: &[u64]) -> crate::core::types::RaftPayload {
        let nodes: BTreeMap<u64, EmptyNode> = nodes.iter().map(|id| (*id, EmptyNode {})).collect();
        let sets = sets.iter().map(|set| set.iter().copied().collect()).collect();
        EntryPayload::Membership(Membership::new(sets, nodes).unwrap())
    }

    #[test]
    fn the_steps_of_a_signed_change_pass_and_no_others() {
        // Applied: node 4 takes the place of node 1; Raft has the voters from before.
        let (before, after) = (BTreeSet::from([1u64, 2, 3]), BTreeSet::from([2u64, 3, 4]));
        let changing = || DoorState { sets: vec![before.clone(), after.clone()], ..door() };
        let passes = |payload| {
            changing().check_append(node(2), &mut append(2, 5, vec![entry(4, payload)]), |_| Ok(None)).is_ok()
        };
        assert!(passes(joint(&[&[1, 2, 3]], &[1, 2, 3, 4])), "with the new one as a learner");
        assert!(passes(joint(&[&[1, 2, 3], &[2, 3, 4]], &[1, 2, 3, 4])));
        assert!(passes(joint(&[&[2, 3, 4]], &[2, 3, 4])));
        assert!(passes(joint(&[&[2, 3, 4], &[1, 2, 3]], &[1, 2, 3, 4])), "the way back");
        assert!(!passes(joint(&[&[1, 2, 3, 4]], &[1, 2, 3, 4])));
        assert!(!passes(joint(&[&[1, 2, 3], &[1, 2, 3, 4]], &[1, 2, 3, 4])));
        assert!(!passes(joint(&[&[1, 2, 3]], &[1, 2, 3, 9])), "a stranger as a learner");
        // Before the change is applied here only its own set passes; the entries before it are taken.
        let mut early =
            append(2, 5, vec![entry(4, normal(1)), entry(5, joint(&[&[1, 2, 3], &[2, 3, 4]], &[1, 2, 3, 4]))]);
        assert_eq!(door().check_append(node(2), &mut early, |_| Ok(None)).unwrap(), Some(id(5, 4)));
        // Once Raft has moved there is no way back.
        let moved = DoorState { sets: vec![after.clone()], ..door() };
        let mut back = append(2, 5, vec![entry(4, joint(&[&[1, 2, 3]], &[1, 2, 3, 4]))]);
        assert!(moved.check_append(node(2), &mut back, |_| Ok(None)).is_err());
    }

    #[test]
    fn who_left_leads_no_more() {
        let left = DoorState { voters: BTreeSet::from([2, 3, 4]), ..door() };
        assert!(left.check_append(node(1), &mut append(1, 5, vec![]), |_| Ok(None)).is_err());
        assert!(left.check_vote(node(1), &VoteRequest::<Types>::new(Vote::new(6, 1), None)).is_err());
        assert!(left.check_vote(node(4), &VoteRequest::<Types>::new(Vote::new(6, 4), None)).is_ok());
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

    #[test]
    fn what_was_cut_off_is_not_acknowledged() {
        let ahead = 1_000_000 + limits::ENTRY_AHEAD_MS + 1;
        let mut both = append(1, 5, vec![entry(4, normal(1)), entry(5, normal(ahead))]);
        assert_eq!(door().check_append(node(1), &mut both, |_| Ok(None)).unwrap(), Some(id(5, 4)));
        let mut whole = append(1, 5, vec![entry(4, normal(1))]);
        assert_eq!(door().check_append(node(1), &mut whole, |_| Ok(None)).unwrap(), None);
    }

    #[test]
    fn a_membership_without_its_nodes_does_not_pass() {
        // Not possible through the constructor, but through the wire: Raft would look the nodes up and fail, at every start.
        let bytes =
            crate::core::raft_log::pack(&(vec![BTreeSet::from([1u64, 2, 3])], BTreeMap::<u64, EmptyNode>::new()));
        let bare: Membership<u64, EmptyNode> = crate::core::raft_log::unpack(&bytes.unwrap()).unwrap();
        assert!(!may_stand(&bare, &door().sets, &door().members));
        let mut alone = append(1, 5, vec![entry(4, EntryPayload::Membership(bare))]);
        assert!(door().check_append(node(1), &mut alone, |_| Ok(None)).is_err());
    }

    #[test]
    fn absurd_positions_do_not_pass() {
        let refused = |change: &dyn Fn(&mut AppendEntriesRequest<Types>)| {
            let mut rpc = append(1, 5, vec![]);
            change(&mut rpc);
            door().check_append(node(1), &mut rpc, |_| Ok(None)).is_err()
        };
        assert!(!refused(&|rpc| rpc.leader_commit = Some(id(5, 9))));
        assert!(refused(&|rpc| rpc.vote.committed = false));
        assert!(refused(&|rpc| rpc.leader_commit = Some(id(5, u64::MAX))));
        assert!(refused(&|rpc| rpc.leader_commit = Some(id(6, 9))), "a later term than the leader's");
        assert!(refused(&|rpc| rpc.prev_log_id = Some(id(5, u64::MAX))));
        assert!(refused(&|rpc| rpc.prev_log_id = Some(id(4, 9))), "after what is applied, of an earlier term");
        assert!(
            refused(&|rpc| rpc.leader_commit = Some(id(4, 9))),
            "committed after what is applied, of an earlier term"
        );
        let granted = VoteRequest::<Types>::new(Vote::new_committed(6, 1), None);
        assert!(door().check_vote(node(1), &granted).is_err());
        let far = VoteRequest::<Types>::new(Vote::new(6, 1), Some(id(5, u64::MAX)));
        assert!(door().check_vote(node(1), &far).is_err());
    }
}
