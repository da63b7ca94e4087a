//! Nodes that stop, die, come back, and come back without their memory.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{scope, sleep};
use std::time::{Duration, Instant};

use symbolon_tests::{Cluster, PATIENCE, Random, assert_signs, public_key, say, signature_of, wait_until};

#[test]
fn a_node_comes_back_and_has_everything() {
    let mut cluster = Cluster::start(3);
    let cli = cluster.cli().clone();
    cli.ok(&["key", "create", "before"]);
    let before = public_key(&cli, "before", None);

    // Killed; what happens while it is away it learns when it is back.
    cluster.kill(2);
    let (client, _) = cluster.new_client("while-away", "signer", "before");
    cli.ok(&["key", "suspend", "before"]);
    cli.ok(&["key", "resume", "before"]);
    cluster.start_node(2);
    cluster.wait_ready();
    assert_signs(&client.endpoints(&[cluster.endpoint(2)]), "before", &before, b"asked at the node that was away");

    // Stopped as an operator stops it.
    cluster.stop(3);
    cluster.start_node(3);
    cluster.wait_ready();

    // It carries shares again: the other two make one holder less than the threshold without it.
    cli.ok(&["key", "create", "all-three", "--threshold", "3"]);
    let all_three = public_key(&cli, "all-three", None);
    cluster.kill(2);
    cluster.start_node(2);
    cluster.wait_ready();
    wait_until("the restarted node to sign", PATIENCE, || cli.sign("all-three", b"x").code == 0);
    assert_signs(&cli, "all-three", &all_three, b"with the share from its disk");
}

#[test]
fn all_five_at_once_keep_everything_that_was_acknowledged() {
    let mut cluster = Cluster::start(5);
    let cli = cluster.cli().clone();
    let mut random = Random::from_environment("all five at once");
    let mut keys = Vec::new();
    for round in 0..3 {
        let key = format!("key-{round}");
        cli.ok(&["key", "create", &key, "--tag", &format!("round={round}")]);
        keys.push((key.clone(), public_key(&cli, &key, None)));
        let _ = cluster.new_client(&format!("client-{round}"), "signer", &key);
        // The last thing that was acknowledged before the lights go out.
        cli.ok(&["key", "suspend", &key]);
        sleep(Duration::from_millis(random.below(300)));
        cluster.kill_all();
        for node in 1..=5 {
            cluster.start_node(node);
        }
        cluster.wait_ready();

        let clients = cli.json(&["client", "list"]).to_string();
        for (done, (key, public)) in keys.iter().enumerate() {
            assert!(clients.contains(&format!("client-{done}")), "{clients}");
            assert_eq!(cli.state(key, 1), if done == round { "suspended" } else { "active" }, "{key}");
            assert_eq!(public_key(&cli, key, None), *public, "{key}");
        }
        cli.ok(&["key", "resume", &key]);
        for (key, public) in &keys {
            wait_until("every key to sign", PATIENCE, || cli.sign(key, b"x").code == 0);
            assert_signs(&cli, key, public, b"after the lights came back");
        }
    }
}

/// While only one node with its memory runs, nothing may be agreed.
fn assert_no_majority(cluster: &Cluster, round: &str, duration: Duration) {
    let begin = Instant::now();
    let mut tries = 0;
    while begin.elapsed() < duration {
        let name = format!("intruder-{round}-{tries}");
        let key = cluster.new_identity(&name).1.public().to_string();
        let arguments =
            ["client", "add", &name, "--public-key", &key, "--role", "auditor", "--key", "*", "--timeout", "3"];
        let output = cluster.cli().call(&arguments);
        assert!(output.code != 0, "{round}: a node without its store made a majority\n{output}");
        tries += 1;
    }
    // Nor does it give shares: it has none.
    let output = cluster.cli().sign("release", b"x");
    assert!(output.code == 4, "{round}: {output}");
}

#[test]
fn a_node_with_an_empty_store_cannot_vote() {
    let mut cluster = Cluster::start(3);
    let cli = cluster.cli().clone();
    cli.ok(&["key", "create", "release", "--threshold", "2"]);
    let public = public_key(&cli, "release", None);
    cluster.stop(3);
    cluster.kill(2);

    // Only node1 and the node without memory are left: if it voted, or took entries, the two would be a majority.
    let directory = cluster.node_directory(3);
    fs::remove_dir_all(directory.join("store")).unwrap();
    cluster.start_node(3);
    assert_no_majority(&cluster, "store", Duration::from_secs(6));

    // The same without the key slots, as after a disk that was replaced: nothing local tells that it was here before.
    if cluster.runs(3) {
        cluster.kill(3);
    }
    let _ = fs::remove_dir_all(directory.join("store"));
    let _ = fs::remove_file(directory.join("slots"));
    cluster.start_node(3);
    assert_no_majority(&cluster, "disk", Duration::from_secs(15));

    // With a node that has its memory the cluster goes on.
    cluster.start_node(2);
    wait_until("two of three to sign again", PATIENCE, || cli.sign("release", b"x").code == 0);
    assert_signs(&cli, "release", &public, b"without the third");
    wait_until("two of three to agree again", PATIENCE, || {
        // Refused as a wrong state when an earlier try came through without its answer.
        matches!(cli.call(&["key", "suspend", "release"]).code, 0 | 5)
    });
    assert_eq!(cli.state("release", 1), "suspended");
}

/// Ends the clients, also when what kills the nodes fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn deaths_under_load_give_no_wrong_signature() {
    const CLIENTS: usize = 3;
    const DEATHS: usize = 6;
    let mut cluster = Cluster::start(5);
    let cli = cluster.cli().clone();
    cli.ok(&["key", "create", "release", "--threshold", "3"]);
    let public = public_key(&cli, "release", None);
    let mut random = Random::from_environment("deaths under load");

    let (done, signed, refused) = (AtomicBool::new(false), AtomicUsize::new(0), AtomicUsize::new(0));
    scope(|threads| {
        let _at_the_end = Done(&done);
        for client in 0..CLIENTS {
            let (cli, done, signed, refused) = (cli.clone(), &done, &signed, &refused);
            threads.spawn(move || {
                for number in 0_u64.. {
                    if done.load(Ordering::Relaxed) {
                        return;
                    }
                    let message = format!("message {number} of client {client}");
                    let output = cli.sign("release", message.as_bytes());
                    if output.code == 0 {
                        let answer = output.json();
                        assert!(public.verifies_raw(message.as_bytes(), &signature_of(&answer)), "{answer}");
                        signed.fetch_add(1, Ordering::Relaxed);
                    } else {
                        // Three of five are always there, so this is rare; when it happens it is said clearly.
                        assert!(output.code == 4, "{output}");
                        assert!(!output.error()["message"].as_str().unwrap().is_empty(), "{output}");
                        refused.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
        }
        for _ in 0..DEATHS {
            sleep(Duration::from_millis(200 + random.below(600)));
            let node = 1 + usize::try_from(random.below(5)).unwrap();
            let before = signed.load(Ordering::Relaxed);
            cluster.kill(node);
            wait_until("signatures with a node dead", PATIENCE, || signed.load(Ordering::Relaxed) > before + CLIENTS);
            cluster.start_node(node);
            wait_until("the node to be healthy again", PATIENCE, || cluster.is_healthy(node));
        }
    });
    let (signed, refused) = (signed.into_inner(), refused.into_inner());
    say(&format!("deaths under load: {signed} signatures, {refused} clear refusals"));
    assert!(signed > refused, "{signed} signatures, {refused} refusals");
    cluster.wait_ready();
    assert_signs(&cli, "release", &public, b"after the load");
}

/// A node that was away for longer than the log reaches back gets a checkpoint, under heads that the voters signed.
#[test]
fn a_node_that_was_down_for_long_catches_up_from_a_checkpoint() {
    let mut cluster = Cluster::start_with(3, &["--checkpoint-entries", "16"]);
    let cli = cluster.cli().clone();
    cli.ok(&["key", "create", "release", "--threshold", "2"]);
    let public = public_key(&cli, "release", None);
    cluster.kill(3);
    for _ in 0..40 {
        cli.ok(&["key", "suspend", "release"]);
        cli.ok(&["key", "resume", "release"]);
    }
    cluster.start_node(3);
    cluster.wait_ready();
    let applied = |at: usize| cluster.cli_at(at).json(&["status"])["applied_index"].as_u64().unwrap();
    wait_until("node 3 to have everything", PATIENCE, || applied(3) >= applied(1));
    let log = std::fs::read_to_string(cluster.node_directory(3).join("log")).unwrap();
    assert!(log.contains("a checkpoint was taken"), "node 3 replayed a log that should have been purged");
    // With another node dead its own share is needed.
    cluster.kill(1);
    let at_three = cluster.cli_at(3);
    wait_until("node 3 to sign", PATIENCE, || at_three.sign("release", b"x").code == 0);
    assert_signs(&at_three, "release", &public, b"with a share older than the checkpoint");
}
