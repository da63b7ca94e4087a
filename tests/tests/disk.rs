//! Nodes whose disks are hurt: cut logs, flipped bits, wrong slot files, full and failing file systems, wrong clocks.
//!
//! What is asked each time: the node notices, says what to do, and never answers wrongly; the others go on.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

#[path = "disk/file.rs"]
mod file;
#[path = "disk/full.rs"]
mod full;

use serde_json::Value;
use symbolon_protocol::identity::PublicKey;
use symbolon_tests::{Cluster, assert_signs, public_key};

/// Three nodes, a key that needs two of them and one that needs all.
fn cluster() -> (Cluster, PublicKey, PublicKey) {
    let cluster = Cluster::start(3);
    let cli = cluster.cli();
    cli.ok(&["key", "create", "two", "--threshold", "2"]);
    cli.ok(&["key", "create", "three", "--threshold", "3"]);
    let (two, three) = (public_key(cli, "two", None), public_key(cli, "three", None));
    (cluster, two, three)
}

/// The third node is out, and the other two sign.
#[track_caller]
fn assert_others_sign(cluster: &Cluster, public: &PublicKey) {
    let answer = assert_signs(&cluster.cli().endpoints(&[cluster.endpoint(1)]), "two", public, b"two of three");
    assert!(!answer["holders"].to_string().contains("node3"), "a node whose disk is hurt signed: {answer}");
}

/// A check of a node in the answer of `doctor -o json` at that node.
fn doctor(cluster: &Cluster, node: usize, name: &str) -> Option<Value> {
    let output = cluster.cli_at(node).call(&["doctor", "-o", "json"]);
    let answer: Value = serde_json::from_slice(&output.stdout).ok()?;
    let checks =
        answer["nodes"].as_array()?.iter().find(|one| one["node"] == format!("node{node}"))?["checks"].as_array()?;
    checks.iter().find(|check| check["name"] == name).cloned()
}
