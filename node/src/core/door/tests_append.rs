//! What a whole node answers to an append that its door shortened: the leader must not count what was not taken.

use std::collections::BTreeMap;

use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use openraft::{EmptyNode, EntryPayload, LogId, Membership, Vote};
use symbolon_protocol::entry::{Entry, Payload};
use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::peer::{RaftAnswer, RaftCall};
use symbolon_protocol::wire::{Bytes, decode, encode};

use super::bench::{NOW_MS, Types, Voter, node, voter};
use crate::core::raft_log::{pack, unpack};
use crate::core::types::{Committed, EntryBytes, Lane, RaftLogId, RaftPayload};

type Answer = AppendEntriesResponse<Types>;

fn id(term: u64, index: u64) -> RaftLogId {
    LogId::new(Committed { term }, index)
}

fn tick() -> RaftPayload {
    EntryPayload::Normal(EntryBytes(encode(&Entry { time_ms: NOW_MS, payload: Payload::Tick })))
}

fn membership(voters: &[u64]) -> RaftPayload {
    let nodes: BTreeMap<u64, EmptyNode> = voters.iter().map(|id| (*id, EmptyNode {})).collect();
    EntryPayload::Membership(Membership::new(vec![voters.iter().copied().collect()], nodes).unwrap())
}

/// A membership that no administrator signed.
fn forged() -> RaftPayload {
    membership(&[1, 2])
}

/// Hands an append to a node, through the codec and the door, as the stream of its leader would.
async fn append(
    to: &Voter,
    (term, leader): (u64, u16),
    prev: Option<RaftLogId>,
    payloads: Vec<RaftPayload>,
) -> Result<Answer, ErrorCode> {
    let first = prev.map_or(0, |id| id.index + 1);
    let entries = (first..).zip(payloads).map(|(at, payload)| openraft::Entry { log_id: id(term, at), payload });
    let rpc = AppendEntriesRequest::<Types> {
        vote: Vote::new_committed(term, u64::from(leader)),
        prev_log_id: prev,
        entries: entries.collect(),
        leader_commit: None,
    };
    let call = encode(&RaftCall::Append(Bytes(pack(&rpc).unwrap())));
    match decode::<RaftAnswer>(&to.answer_peer(node(leader), Lane::Raft, call).await).unwrap() {
        RaftAnswer::Raft(Bytes(bytes)) => Ok(unpack(&bytes).unwrap()),
        RaftAnswer::Refused(refusal) => Err(refusal.code),
        RaftAnswer::Taken => unreachable!("an append is answered by Raft"),
    }
}

#[tokio::test]
async fn a_shortened_append_is_acknowledged_up_to_what_was_taken() {
    let voter = voter(2).await;
    let leader = (1, 1);
    let whole = append(&voter, leader, None, vec![membership(&[1, 2, 3]), tick()]).await;
    assert_eq!(whole, Ok(Answer::Success), "nothing was cut off");
    let shortened = append(&voter, leader, Some(id(1, 1)), vec![tick(), tick(), forged(), tick()]).await;
    assert_eq!(shortened, Ok(Answer::PartialSuccess(Some(id(1, 3)))));
    let at = |index| voter.0.log.log_id_at(index).unwrap();
    assert_eq!([at(3), at(4), at(5)], [Some(id(1, 3)), None, None]);
    // The leader goes on after what was acknowledged, and does not get further with the same entry.
    let again = append(&voter, leader, Some(id(1, 3)), vec![forged(), tick()]).await;
    assert_eq!((again, at(4)), (Err(ErrorCode::PeerMisbehaved), None));
    let better = append(&voter, leader, Some(id(1, 3)), vec![tick()]).await;
    assert_eq!((better, at(4)), (Ok(Answer::Success), Some(id(1, 4))));
}

/// That something was cut off does not turn Raft's refusal into an acknowledgement.
#[tokio::test]
async fn a_shortened_append_that_raft_rejects_is_not_acknowledged() {
    let voter = voter(2).await;
    let leader = (2, 3);
    let whole = append(&voter, leader, None, vec![membership(&[1, 2, 3]), tick()]).await;
    assert_eq!(whole, Ok(Answer::Success));
    let elsewhere = append(&voter, leader, Some(id(2, 50)), vec![tick(), forged()]).await;
    assert_eq!(elsewhere, Ok(Answer::Conflict));
    let deposed = append(&voter, (1, 1), None, vec![tick(), forged()]).await;
    assert_eq!(deposed, Ok(Answer::HigherVote(Vote::new_committed(2, 3))));
    let at = |index| voter.0.log.log_id_at(index).unwrap();
    assert_eq!([at(0), at(1), at(51)], [Some(id(2, 0)), Some(id(2, 1)), None]);
}
