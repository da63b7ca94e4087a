//! What is not taken of a checkpoint: by whom it is signed, what it says of itself, how it is cut.

use std::collections::BTreeSet;

use openraft::{LogId, StoredMembership, Vote};
use proptest::prelude::*;
use symbolon_protocol::id::Digest;
use symbolon_protocol::identity::{Domain, Identity};
use symbolon_protocol::peer::RaftCall;
use symbolon_protocol::wire::{decode, encode};

use super::*;
use crate::core::types::Committed;

const CLUSTER: ClusterId = ClusterId::from_bytes([7; 32]);
const INDEX: u64 = 4_096;

fn node(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

fn identity(number: u16) -> Identity {
    Identity::from_seed(&[u8::try_from(number).unwrap(); 32])
}

fn voters(numbers: &[u16]) -> BTreeMap<NodeId, PublicKey> {
    numbers.iter().map(|number| (node(*number), identity(*number).public())).collect()
}

fn head() -> Head {
    let digest = Digest::from_bytes([3; 32]);
    Head { index: INDEX, root: digest, membership: 0, state: Some(digest) }
}

fn signed(head: &Head, by: &[u16]) -> Vec<(NodeId, Signature)> {
    by.iter().map(|number| (node(*number), identity(*number).sign(Domain::Head, &CLUSTER, &encode(head)))).collect()
}

fn checkpoint(head: &Head, chunks: u64) -> Checkpoint {
    Checkpoint::new(LogId::new(Committed { term: 1 }, head.index), StoredMembership::default(), head, chunks)
}

fn begin(voters: &[u16], head: Head, by: &[u16], chunks: u64) -> Result<Incoming, Refusal> {
    let offer = (node(1), Vote::new_committed(1, 1), checkpoint(&head, chunks));
    Incoming::begin((&CLUSTER, &self::voters(voters)), offer, head, &signed(&head, by), 0)
}

fn pair(key: &[u8]) -> (Bytes, Bytes) {
    (Bytes(key.to_vec()), Bytes(b"value".to_vec()))
}

#[test]
fn voters_that_left_vouch_for_nothing() {
    // The head is of a time when 1 to 5 voted; the node knows that 6 and 7 have taken the places of 4 and 5.
    let now = [1, 2, 3, 6, 7];
    assert!(begin(&now, head(), &[1, 2, 3], 1).is_ok(), "who voted then and votes now");
    assert!(begin(&now, head(), &[1, 2, 4, 5], 1).is_err(), "four of five of then");
    assert!(begin(&now, head(), &[1, 2, 6], 1).is_ok(), "who took it over and vouches for it");
    assert!(begin(&now, head(), &[1, 2], 1).is_err());
}

#[test]
fn an_offer_says_one_thing() {
    let (three, good) = (voters(&[1, 2, 3]), head());
    let offer = |checkpoint: Checkpoint, signatures: &[(NodeId, Signature)]| {
        let offer = (node(1), Vote::new_committed(1, 1), checkpoint);
        Incoming::begin((&CLUSTER, &three), offer, good, signatures, 0).map(drop).map_err(|refusal| refusal.code)
    };
    let both = signed(&good, &[1, 2]);
    assert_eq!(offer(checkpoint(&good, 1), &both), Ok(()));
    let misbehaved = Err(ErrorCode::PeerMisbehaved);
    for other in [Head { index: 8_192, ..good }, Head { membership: 1, ..good }, Head { state: None, ..good }] {
        assert_eq!(offer(checkpoint(&other, 1), &both), misbehaved, "another checkpoint than the signed one");
    }
    let stateless = begin(&[1, 2, 3], Head { state: None, ..good }, &[1, 2, 3], 1);
    assert_eq!(stateless.unwrap_err().code, ErrorCode::PeerMisbehaved);
    let first = *both.first().unwrap();
    assert_eq!(offer(checkpoint(&good, 1), &[first, first]), misbehaved, "one voter twice");
    let swapped = [(node(2), first.1), (node(3), first.1)];
    assert_eq!(offer(checkpoint(&good, 1), &swapped), misbehaved);
    let many: Vec<_> = (1..=256).map(|number| (node(number), first.1)).collect();
    assert_eq!(offer(checkpoint(&good, 1), &many), Err(ErrorCode::TooLarge));
    assert_eq!(offer(checkpoint(&good, CHUNKS + 1), &both), Err(ErrorCode::TooLarge));
}

#[test]
fn chunks_come_in_order_whole_and_from_one_node() {
    let mut incoming = begin(&[1], head(), &[1], 2).unwrap();
    let mut take = |from: u16, index, number, keys: &[&[u8]]| {
        let pairs: Vec<_> = keys.iter().map(|key| pair(key)).collect();
        incoming.chunk(node(from), (index, number), &pairs, 5).map_err(|refusal| refusal.code)
    };
    let misbehaved = Err(ErrorCode::PeerMisbehaved);
    assert_eq!(take(2, INDEX, 0, &[b"a"]), misbehaved, "of another node");
    assert_eq!(take(1, INDEX + 1, 0, &[b"a"]), misbehaved, "of another checkpoint");
    assert_eq!(take(1, INDEX, 1, &[b"a"]), misbehaved, "the second first");
    assert_eq!(take(1, INDEX, 0, &[b"b", b"a"]), misbehaved);
    assert_eq!(take(1, INDEX, 0, &[b"a", b"a"]), misbehaved);
    assert_eq!(take(1, INDEX, 0, &[b"", b"a"]), Ok(()), "what was refused left nothing behind");
    assert_eq!(take(1, INDEX, 0, &[b"b"]), misbehaved, "the first again");
    assert_eq!(take(1, INDEX, 1, &[b"a"]), misbehaved, "not above the chunk before");
    assert_eq!(take(1, INDEX, 1, &[b"b"]), Ok(()));
    assert_eq!(take(1, INDEX, 2, &[b"c"]), misbehaved, "more than were announced");
    assert!(incoming.is_whole(node(1), INDEX, 2));
    assert!(!incoming.is_whole(node(1), INDEX, 1) && !incoming.is_whole(node(2), INDEX, 2));
    assert!(!incoming.is_whole(node(1), INDEX + 1, 2));
}

#[test]
fn the_size_is_limited_over_all_chunks() {
    let mut incoming = begin(&[1], head(), &[1], 3).unwrap();
    incoming.bytes = limits::SNAPSHOT_BYTES - 14;
    let fits = incoming.chunk(node(1), (INDEX, 0), &[pair(b"a")], 0);
    assert!(fits.is_ok() && incoming.bytes == limits::SNAPSHOT_BYTES);
    assert_eq!(incoming.chunk(node(1), (INDEX, 1), &[pair(b"b")], 0).unwrap_err().code, ErrorCode::TooLarge);
}

proptest! {
    /// Whatever a peer sends: nothing but the call, or an error.
    #[test]
    fn no_bytes_are_too_odd_for_the_decoder(
        tag in 0u8..10,
        bytes in prop::collection::vec(any::<u8>(), 0..200),
        cut in 0usize..400,
        flip in any::<(prop::sample::Index, u8)>(),
    ) {
        let _ = decode::<RaftCall>(&[&[1, tag][..], bytes.as_slice()].concat());
        let call = RaftCall::SnapshotChunk { index: INDEX, number: 0, pairs: vec![pair(&bytes), pair(b"a")] };
        let good = encode(&call);
        prop_assert_eq!(decode::<RaftCall>(&good).map(|call| encode(&call)).ok(), Some(good.clone()));
        prop_assert!(decode::<RaftCall>(good.get(..cut.min(good.len() - 1)).unwrap()).is_err(), "cut off");
        let mut flipped = good.clone();
        if let Some(byte) = flipped.get_mut(flip.0.index(good.len())) {
            *byte ^= flip.1;
        }
        // What decodes is canonical.
        if let Ok(call) = decode::<RaftCall>(&flipped) {
            prop_assert_eq!(encode(&call), flipped);
        }
    }

    /// In whatever order chunks come, what is taken is a strictly ascending list in the order of its numbers.
    #[test]
    fn what_is_taken_is_in_order(
        calls in prop::collection::vec((1u16..3, 0u64..2, 0u64..5, prop::collection::vec(0u8..40, 0..4)), 0..40),
    ) {
        let mut incoming = begin(&[1], head(), &[1], 4).unwrap();
        let (mut taken, mut numbers) = (Vec::new(), Vec::new());
        for (from, later, number, keys) in calls {
            let pairs: Vec<_> = keys.iter().map(|key| pair(&[*key])).collect();
            if incoming.chunk(node(from), (INDEX + later, number), &pairs, 0).is_ok() {
                prop_assert_eq!((from, later), (1, 0));
                taken.extend(keys);
                numbers.push(number);
            }
        }
        prop_assert!(numbers.len() <= 4 && numbers.iter().copied().eq(0..numbers.len() as u64));
        prop_assert!(taken.iter().zip(taken.iter().skip(1)).all(|(a, b)| a < b));
        prop_assert_eq!(taken.iter().collect::<BTreeSet<_>>().len(), taken.len());
        prop_assert_eq!(incoming.is_whole(node(1), INDEX, 4), numbers.len() == 4);
    }
}
