//! The blames that a node keeps: counted for ever, kept as long as they are among the newest of their node.
#![cfg(feature = "rocksdb")]
#![allow(clippy::unwrap_used, reason = "tests")]

use symbolon_node::core::blames::Blames;
use symbolon_node::store::rocks::RocksStore;
use symbolon_node::store::{Column, Store as _};
use symbolon_protocol::blame::{Blame, BlameKind, BlameRecord, Evidence};
use symbolon_protocol::certificate::CertificateCore;
use symbolon_protocol::id::{
    BootId, ClusterId, Digest, Epoch, KeyId, KeyVersion, Name, NodeId, SigningSession, Threshold,
};
use symbolon_protocol::identity::Signature;
use symbolon_protocol::limits;
use symbolon_protocol::request::Suite;
use symbolon_protocol::schema::private;
use symbolon_protocol::sign::Commitments;
use symbolon_protocol::state::view::BlamedView;

fn node(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

fn core() -> CertificateCore {
    CertificateCore {
        cluster: ClusterId::from_bytes([7; 32]),
        key: KeyId::from_bytes([1; 32]),
        name: Name::new("release").unwrap(),
        version: KeyVersion::FIRST,
        suite: Suite::Ed25519,
        public_key: [2; 32],
        roster: vec![node(1), node(2)],
        holders: vec![node(1), node(2)],
        threshold: Threshold::new(2, 2).unwrap(),
        membership: 0,
        epoch: Epoch::FIRST,
        verifying_shares: vec![[3; 32]; 2],
        transcript: Digest::from_bytes([4; 32]),
        previous: None,
    }
}

fn record(accused: u16, time_ms: u64, split: bool) -> BlameRecord {
    let commitments = Commitments {
        session: SigningSession::from_bytes([5; 16]),
        coordinator: node(1),
        node: node(accused),
        boot: BootId { counter: 1, random: [6; 16] },
        key: core().key,
        version: KeyVersion::FIRST,
        epoch: Epoch::FIRST,
        first_sequence: time_ms,
        pairs: Vec::new(),
        signature: Signature::from_bytes([0; 64]),
    };
    let request = Digest::from_bytes([8; 32]);
    let evidence = if split {
        Evidence::SplitView { request, first: commitments.clone(), second: commitments }
    } else {
        Evidence::BadCommitment { request, commitments }
    };
    BlameRecord { time_ms, core: core(), blame: Blame { accused: node(accused), evidence } }
}

#[test]
fn the_newest_of_each_node_are_kept_and_all_are_counted() {
    let directory = tempfile::tempdir().unwrap();
    let store = RocksStore::open(&directory.path().join("store")).unwrap();
    let blames = Blames::new(store.clone());
    assert_eq!(blames.of(node(2)).unwrap(), None);
    for time_ms in 1..=20 {
        blames.keep(&record(2, time_ms, time_ms == 20)).unwrap();
    }
    blames.keep(&record(258, 30, false)).unwrap();
    // Nothing of it is kept in memory.
    let blames = Blames::new(store.clone());
    let told = |count, kind, time_ms| Some(BlamedView { count, kind, time_ms });
    assert_eq!(blames.of(node(2)).unwrap(), told(20, BlameKind::SplitView, 20));
    assert_eq!(blames.of(node(258)).unwrap(), told(1, BlameKind::BadCommitment, 30));
    assert_eq!(blames.of(node(1)).unwrap(), None);
    let kept = store.scan(Column::Private, &private::blames_of(node(2)), b"", 100).unwrap();
    assert_eq!(u64::try_from(kept.len()).unwrap(), limits::BLAMES_PER_NODE);
    assert_eq!(kept.first().unwrap().0, private::blame(node(2), 5), "1 to 4 are forgotten");
}
