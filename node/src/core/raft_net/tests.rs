//! Answers that no honest peer gives, each beside the nearest one that an honest peer does give.

use std::fmt::Display;
use std::ops::RangeInclusive;

use openraft::{EntryPayload, LogId, StoredMembership};
use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::history::Head;
use symbolon_protocol::id::Digest;
use symbolon_protocol::identity::Signature;

use super::*;
use crate::core::checkpoint::{Checkpoint, Shelf};
use crate::core::door::bench::{MemoryStore, Types, node};
use crate::core::types::{Committed, LinkError};

type Answer = AppendEntriesResponse<Types>;

/// A peer that has one answer to everything.
#[derive(Clone)]
struct Parrot(Vec<u8>);

impl Transport for Parrot {
    fn call(
        &self,
        _to: NodeId,
        _lane: Lane,
        _call: Vec<u8>,
    ) -> impl Future<Output = Result<Vec<u8>, LinkError>> + Send + 'static {
        std::future::ready(Ok(self.0.clone()))
    }

    fn reachable(&self, _node: NodeId) -> bool {
        true
    }
}

/// The way of node 1, one of three voters, to node 2.
fn way_to(parrot: Parrot) -> RaftPeer<Parrot, MemoryStore> {
    let network = RaftNetwork::new(node(1), parrot, MemoryStore::default(), 3, Duration::from_secs(5));
    RaftPeer { network, target: Some(node(2)) }
}

/// The way to a peer that gives an answer of Raft.
fn peer(answer: &impl Serialize) -> RaftPeer<Parrot, MemoryStore> {
    way_to(Parrot(encode(&RaftAnswer::Raft(Bytes(pack(answer).unwrap())))))
}

fn option() -> RPCOption {
    RPCOption::new(Duration::from_secs(5))
}

fn id(term: u64, index: u64) -> RaftLogId {
    LogId::new(Committed { term }, index)
}

/// What the leader of term 6, node 1, sends after a position.
fn append(prev: Option<RaftLogId>, indices: RangeInclusive<u64>) -> AppendEntriesRequest<Types> {
    let entries = indices.map(|at| openraft::Entry { log_id: id(5, at), payload: EntryPayload::Blank });
    let vote = RaftVote::new_committed(6, 1);
    AppendEntriesRequest { vote, prev_log_id: prev, entries: entries.collect(), leader_commit: None }
}

/// Whether an answer passed; if not, then because it claims what cannot be, and for no other reason.
fn passed<A>(result: Result<A, impl Display>) -> bool {
    match result {
        Ok(_) => true,
        Err(error) => {
            assert!(error.to_string().contains("claims what cannot be"), "{error}");
            false
        }
    }
}

async fn append_passes(rpc: &AppendEntriesRequest<Types>, answer: Answer) -> bool {
    let result = RaftNetworkV2::<Types>::append_entries(&mut peer(&answer), rpc.clone(), option()).await;
    if let Ok(heard) = &result {
        assert_eq!(*heard, answer, "an answer that passes is not changed");
    }
    passed(result)
}

async fn vote_passes(asked: RaftVote, answer: &VoteResponse<Types>) -> bool {
    let rpc = VoteRequest::<Types>::new(asked, Some(id(5, 9)));
    passed(RaftNetworkV2::<Types>::vote(&mut peer(answer), rpc, option()).await)
}

async fn pre_vote_passes(asked: RaftVote, answer: &VoteResponse<Types>) -> bool {
    let rpc = VoteRequest::<Types>::new(asked, Some(id(5, 9)));
    passed(RaftNetworkV2::<Types>::pre_vote(&mut peer(answer), rpc, option()).await)
}

/// Sends a checkpoint without chunks that two of three voters signed.
async fn snapshot_passes(asked: RaftVote, vote: RaftVote) -> bool {
    let mut peer = peer(&SnapshotResponse::<Types>::new(vote));
    let digest = Digest::from_bytes([1; 32]);
    let head = Head { index: 16, root: digest, membership: 0, state: Some(digest) };
    let checkpoint = Checkpoint::new(id(5, 16), StoredMembership::default(), &head, 0);
    for signer in [1, 2] {
        peer.network.checkpoints.add_signature(16, node(signer), Signature::from_bytes([1; 64])).unwrap();
    }
    let snapshot = SnapshotOf::<Types, SnapshotHandle> {
        meta: checkpoint.meta::<Types>(),
        snapshot: SnapshotHandle { shelf: Shelf::Current, checkpoint },
    };
    let never = std::future::pending::<ReplicationClosed>();
    passed(RaftNetworkV2::<Types>::full_snapshot(&mut peer, asked, snapshot, never, option()).await)
}

/// Votes in an answer to node 1, which asked with one of its own, and whether an honest peer can hold them.
fn votes(asked: RaftVote) -> Vec<(RaftVote, bool)> {
    let term = asked.leader_id.term;
    let far = term + limits::TERM_AHEAD;
    let kinds: [fn(u64, u64) -> RaftVote; 2] = [RaftVote::new, RaftVote::new_committed];
    let mut votes = vec![(asked, true), (RaftVote::new_committed(term, 1), asked.committed)];
    for vote in kinds {
        votes.extend([(vote(term, 2), true), (vote(far, 2), true), (vote(far + 1, 2), false)]);
        // Who followed node 1 last holds an old vote of it. Nobody holds one that node 1 has not given yet.
        votes.extend([(vote(term - 1, 1), true), (vote(term + 1, 1), false), (vote(far, 1), false)]);
    }
    votes
}

/// Raft would take a term or an election from the answer: one far away, or one of this node that never was.
#[tokio::test]
async fn a_candidate_hears_only_of_votes_that_can_be() {
    let asked = RaftVote::new(6, 1);
    for (vote, honest) in votes(asked) {
        for granted in [true, false] {
            let answer = VoteResponse::<Types>::new(vote, Some(id(5, 9)), granted);
            assert_eq!(vote_passes(asked, &answer).await, honest, "{vote:?} granted: {granted}");
            assert_eq!(pre_vote_passes(asked, &answer).await, honest, "{vote:?} granted before: {granted}");
        }
    }
}

#[tokio::test]
async fn a_leader_hears_only_of_votes_that_can_be() {
    let rpc = append(Some(id(5, 3)), 4..=6);
    for (vote, honest) in votes(rpc.vote) {
        assert_eq!(append_passes(&rpc, Answer::HigherVote(vote)).await, honest, "{vote:?}");
        assert_eq!(snapshot_passes(rpc.vote, vote).await, honest, "{vote:?} to a checkpoint");
    }
}

#[tokio::test]
async fn an_append_is_acknowledged_only_up_to_what_was_sent() {
    let after_three = append(Some(id(5, 3)), 4..=6);
    for (matched, honest) in [
        (Some(id(5, 3)), true),
        (Some(id(5, 4)), true),
        (Some(id(5, 6)), true),
        (Some(id(5, 7)), false),
        (Some(id(5, 2)), false),
        (Some(id(6, 5)), false),
        (Some(id(4, 3)), false),
        (None, false),
    ] {
        assert_eq!(append_passes(&after_three, Answer::PartialSuccess(matched)).await, honest, "{matched:?}");
    }
    let from_the_first = append(None, 0..=1);
    for (matched, honest) in [(Some(id(5, 0)), true), (Some(id(5, 1)), true), (Some(id(5, 2)), false), (None, false)] {
        assert_eq!(append_passes(&from_the_first, Answer::PartialSuccess(matched)).await, honest, "{matched:?}");
    }
    for rpc in [after_three, from_the_first] {
        assert!(append_passes(&rpc, Answer::Success).await);
    }
}

/// Raft unwraps the position that a conflict is about.
#[tokio::test]
async fn nothing_conflicts_with_the_beginning_of_a_log() {
    assert!(append_passes(&append(Some(id(5, 3)), 4..=6), Answer::Conflict).await);
    assert!(!append_passes(&append(None, 0..=1), Answer::Conflict).await);
}

#[tokio::test]
async fn what_is_no_answer_counts_as_silence() {
    let refused = encode(&RaftAnswer::Refused(Refusal::new(ErrorCode::PeerMisbehaved, "no")));
    let garbage = encode(&RaftAnswer::Raft(Bytes(vec![0xff; 3])));
    for bytes in [encode(&RaftAnswer::Taken), refused, garbage, vec![0xff; 3]] {
        let mut peer = way_to(Parrot(bytes.clone()));
        let result = RaftNetworkV2::<Types>::append_entries(&mut peer, append(None, 0..=1), option()).await;
        assert!(matches!(result, Err(RPCError::Unreachable(_))), "{bytes:?}: {result:?}");
    }
    let mut nobody = RaftPeer { target: None, ..peer(&Answer::Success) };
    let result = RaftNetworkV2::<Types>::append_entries(&mut nobody, append(None, 0..=1), option()).await;
    assert!(matches!(result, Err(RPCError::Unreachable(_))), "{result:?}");
}
