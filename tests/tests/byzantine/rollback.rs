//! A node whose disk was put back to an older state: it may have forgotten votes, entries and what it signed.

use std::fs;
use std::path::Path;
use std::process::Command;

use symbolon_protocol::identity::{Identity, PublicKey};
use symbolon_tests::{Cluster, PATIENCE, assert_signs, eventually, public_key, run, wait_until};

/// What a node says of each stream, once, that its peer does not let it open.
const REFUSED: &str = "does not let this node take part";
/// Streams of one node of three: two peers, two lanes.
const STREAMS: usize = 4;
/// Signatures after which every holder that can be asked was asked.
const SIGNATURES: usize = 12;

fn copy(from: &Path, to: &Path) {
    let mut command = Command::new("cp");
    command.arg("-a").arg(from).arg(to);
    run(&mut command, b"", PATIENCE).exits(0);
}

/// The third node is reached by nobody, and no signature has a share of it.
#[track_caller]
fn assert_left_out(cluster: &Cluster, public: &PublicKey) {
    for asked in [1, 2] {
        let cli = cluster.cli_at(asked);
        for _ in 0..SIGNATURES {
            let answer = assert_signs(&cli, "release", public, b"two of three");
            let holders = answer["holders"].as_array().unwrap();
            assert!(!holders.iter().any(|holder| *holder == "node3"), "the quarantined node contributed: {answer}");
        }
        let status = cli.json(&["status"]);
        let nodes = status["nodes"].as_array().unwrap();
        let third = nodes.iter().find(|one| one["name"] == "node3").unwrap();
        assert_eq!(third["reachable"], false, "{status}");
    }
    // Nor has it more luck when it coordinates itself.
    let refused = cluster.cli_at(3).sign("release", b"by way of the quarantined node");
    assert!(refused.code == 4 && refused.stdout.is_empty(), "{refused}");
}

#[test]
fn a_node_that_went_back_in_time_takes_no_part() {
    let mut cluster = Cluster::start(3);
    let cli = cluster.cli().clone();
    cli.ok(&["key", "create", "release", "--threshold", "2"]);
    let public = public_key(&cli, "release", None);
    let (directory, old, new) = (cluster.node_directory(3), cluster.scratch("old"), cluster.scratch("new"));
    cluster.stop(3);
    copy(&directory, &old);
    cluster.start_node(3);
    cluster.wait_ready();
    // What the copy does not know.
    cli.ok(&["key", "create", "later", "--threshold", "2"]);
    cluster.stop(3);

    fs::rename(&directory, &new).unwrap();
    copy(&old, &directory);
    let kept_out = |cluster: &Cluster| cluster.log(3).matches(REFUSED).count();
    cluster.start_node(3);
    wait_until("both peers to quarantine the node", PATIENCE, || {
        (1..=2).all(|peer| cluster.log(peer).contains("quarantined"))
    });
    wait_until("every stream of the copy to be refused", PATIENCE, || kept_out(&cluster) >= STREAMS);
    assert_left_out(&cluster, &public);

    // It has no vote either: one good node and this one are no majority, and no two holders.
    cluster.stop(2);
    let key = Identity::from_seed(&[9; 32]).public().to_string();
    let add = ["client", "add", "late", "--public-key", &key, "--role", "auditor", "--key", "*", "--timeout", "4"];
    let refused = cluster.cli_at(1).call(&add);
    assert!(refused.code == 4, "{refused}");
    let refused = cluster.cli_at(1).sign("release", b"one of three");
    assert!(refused.code == 4 && refused.stdout.is_empty(), "{refused}");
    cluster.start_node(2);
    wait_until("the two good nodes to have each other again", PATIENCE, || {
        (1..=2).all(|node| cluster.cli_at(node).sign("release", b"again").code == 0)
    });

    // Starting it once more raises its counter above the one that its peers saw, and makes it no younger.
    if cluster.runs(3) {
        cluster.stop(3);
    }
    let starts = |cluster: &Cluster| cluster.log(3).matches("symbolond listens").count();
    let before = starts(&cluster);
    cluster.start_node(3);
    wait_until("the copy to start once more", PATIENCE, || starts(&cluster) > before);
    wait_until("every stream to be refused again", PATIENCE, || kept_out(&cluster) >= 2 * STREAMS);
    assert_left_out(&cluster, &public);
}

#[test]
fn a_store_that_lost_its_tail_does_not_start() {
    let mut cluster = Cluster::start(3);
    let cli = cluster.cli().clone();
    cli.ok(&["key", "create", "release", "--threshold", "2"]);
    let public = public_key(&cli, "release", None);
    let (store, old) = (cluster.node_directory(3).join("store"), cluster.scratch("old"));
    cluster.stop(3);
    copy(&store, &old);
    cluster.start_node(3);
    cluster.wait_ready();
    cluster.stop(3);

    for (what, is_there) in [("an older store", true), ("no store", false)] {
        fs::remove_dir_all(&store).unwrap();
        if is_there {
            copy(&old, &store);
        }
        let before = cluster.log(3).matches("quarantined").count();
        cluster.start_node(3);
        let ended = eventually("the node to refuse its store", PATIENCE, || cluster.ended(3));
        assert!(!ended.success(), "{what}: {ended}");
        assert!(cluster.log(3).matches("quarantined").count() > before, "{what}: it does not say why");
    }
    let answer = assert_signs(&cli, "release", &public, b"two of three");
    assert!(!answer["holders"].to_string().contains("node3"), "{answer}");
}
