//! Members that break the rules: a node that lies to clients, a coordinator and a leader that nobody chose, a store that went
//! back in time, an attempt that was called off. None of them gets a share, a key or a client's trust.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "byzantine/aborted.rs"]
mod aborted;
#[path = "byzantine/liar.rs"]
mod liar;
#[path = "byzantine/member.rs"]
mod member;
#[path = "byzantine/raft_door.rs"]
mod raft_door;
#[path = "byzantine/rollback.rs"]
mod rollback;

use symbolon_client::keyfile;
use symbolon_protocol::id::NodeId;
use symbolon_protocol::identity::Identity;
use symbolon_tests::Cluster;

fn node(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

fn identity_of(cluster: &Cluster, number: usize) -> Identity {
    keyfile::load(&cluster.node_directory(number).join("identity")).unwrap()
}
