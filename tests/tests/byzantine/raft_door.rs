//! What a member says on the Raft stream without having been elected to anything.

use std::time::Duration;

use symbolon_protocol::entry::{Entry, Payload};
use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::peer::{RaftAnswer, RaftCall};
use symbolon_protocol::wire::{Bytes, encode};
use symbolon_tests::hostile::raft::{append, blank, membership, normal, vote};
use symbolon_tests::now_ms;

use crate::member::{Attacked, HONEST, STOLEN};
use crate::node;

/// Time in which a node that means to stop has stopped.
const PAUSE: Duration = Duration::from_millis(500);

/// Nothing of this passes the door, and the cluster goes on.
pub(crate) fn raft_door(scene: &Attacked) {
    let me = u64::from(STOLEN);
    let status = scene.cluster.status().unwrap();
    let last =
        status["nodes"].as_array().unwrap().iter().filter_map(|one| one["applied_index"].as_u64()).max().unwrap();
    // Ahead of every term that elections on this machine can have reached, and well within what the door lets pass.
    let (term, far) = (500, 10_000);
    let (tail, next) = ((term, last + 1_000), (term, last + 1_001));
    let others: Vec<u64> = HONEST.iter().map(|to| u64::from(*to)).collect();
    let tick = |time_ms: u64| encode(&Entry { time_ms, payload: Payload::Tick });
    let with = |entry: Vec<u8>| append(term, me, Some(tail), &[entry]);

    for to in HONEST {
        let ask = |call: RaftCall| scene.hostile.raft(node(to), &call).unwrap();
        let refused = |what: &str, call: RaftCall, code: ErrorCode| match ask(call) {
            RaftAnswer::Refused(refusal) => assert!(refusal.code == code, "{what}: {refusal}"),
            other => panic!("{what}: node{to} answers {other:?}"),
        };
        // What it says in its own name and of a term long past reaches Raft, which has better things to do.
        for call in [
            RaftCall::Append(append(0, me, None, &[])),
            RaftCall::Vote(vote(0, me, None)),
            RaftCall::PreVote(vote(0, me, None)),
        ] {
            let answer = ask(call);
            assert!(matches!(answer, RaftAnswer::Raft(_)), "the door is shut: {answer:?}");
        }

        for other in &others {
            let misbehaved = ErrorCode::PeerMisbehaved;
            refused("another's append", RaftCall::Append(append(term, *other, None, &[])), misbehaved);
            refused("another's vote", RaftCall::Vote(vote(term, *other, Some(tail))), misbehaved);
            refused("another's pre-vote", RaftCall::PreVote(vote(term, *other, Some(tail))), misbehaved);
        }
        let strange = [vec![me], others.clone(), vec![1, 2, me, 4], vec![me, 8, 9]];
        let strange = strange.iter().map(|voters| ("other voters", RaftCall::Append(with(membership(next, voters)))));
        let calls = [
            ("a far term", RaftCall::Append(append(far, me, None, &[]))),
            ("a vote of a far term", RaftCall::Vote(vote(far, me, Some((far, last + 1_000))))),
            ("a pre-vote of a far term", RaftCall::PreVote(vote(far, me, Some((far, last + 1_000))))),
            ("an entry from the future", RaftCall::Append(with(normal(next, &tick(now_ms() + 3_600_000))))),
            ("an entry that is none", RaftCall::Append(with(normal(next, b"garbage")))),
            ("an entry of a later term", RaftCall::Append(with(blank((term + 1, last + 1_001))))),
            ("entries that do not follow", RaftCall::Append(with(blank((term, last + 1_002))))),
            ("a chunk of nothing", RaftCall::SnapshotChunk { index: last, number: 0, pairs: Vec::new() }),
            ("the end of nothing", RaftCall::SnapshotEnd { index: last, chunks: 0 }),
        ];
        for (what, call) in strange.chain(calls) {
            refused(what, call, ErrorCode::PeerMisbehaved);
        }
        for call in [RaftCall::Append, RaftCall::Vote, RaftCall::PreVote] {
            refused("garbage", call(Bytes(vec![0xff; 40])), ErrorCode::InvalidArgument);
        }
    }
    assert_ne!(scene.cluster.leader(), usize::from(STOLEN), "the attacker leads");
    scene.cluster.cli().ok(&["key", "suspend", "other"]);
    scene.cluster.cli().ok(&["key", "resume", "other"]);
    scene.still_works();
}

#[test]
fn a_member_that_rewrites_history_is_refused_and_stops_nobody() {
    let mut scene = Attacked::new();
    let me = u64::from(STOLEN);
    for to in HONEST {
        for term in [0, 500] {
            // Other entries in the place of those that founded the cluster and were applied everywhere.
            let rewrite = append(term, me, None, &[blank((0, 0)), blank((0, 1)), blank((0, 2))]);
            match scene.hostile.raft(node(to), &RaftCall::Append(rewrite)).unwrap() {
                RaftAnswer::Refused(refusal) => assert_eq!(refusal.code, ErrorCode::PeerMisbehaved, "{refusal}"),
                other => panic!("node{to} answers {other:?}"),
            }
        }
        std::thread::sleep(PAUSE);
        assert!(scene.cluster.runs(usize::from(to)), "node{to} let itself be stopped");
    }
    scene.still_works();
}
