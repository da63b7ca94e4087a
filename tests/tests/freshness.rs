//! A right that was taken away is gone: also on nodes that slept, are cut off, or have not heard of it.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::scope;

use nix::sys::signal::Signal;
use serde_json::{Value, json};
use symbolon_protocol::error::ErrorCode;
use symbolon_protocol::genesis::Genesis;
use symbolon_protocol::id::KeyId;
use symbolon_protocol::identity::Identity;
use symbolon_protocol::request::SignedRequest;
use symbolon_tests::{Cluster, PATIENCE, Random, Raw, assert_signs, public_key, say, sign_body, wait_until};

const NODES: usize = 5;

/// A client that speaks to one node, with its connection open before the node falls asleep.
struct Asker<'a> {
    genesis: &'a Genesis,
    identity: &'a Identity,
    key: KeyId,
    raw: Raw,
}

impl Asker<'_> {
    fn asks(&mut self) -> Result<(), ErrorCode> {
        let body = sign_body(self.genesis, self.identity, self.key, b"a message");
        let request = SignedRequest::sign(&body, self.identity);
        self.raw.sign(&request, &[b"a message"]).map(drop).map_err(|refusal| refusal.code)
    }

    /// Signs once while all is well, says so, waits for the word, and asks as often as it is told to.
    fn run(mut self, warm: &Sender<()>, go: &Receiver<()>, requests: usize) -> Vec<Result<(), ErrorCode>> {
        wait_until("a signature while all is well", PATIENCE, || self.asks().is_ok());
        warm.send(()).unwrap();
        // Whoever should give the word failed: then there is nothing to test.
        if go.recv().is_err() {
            return Vec::new();
        }
        (0..requests).map(|_| self.asks()).collect()
    }
}

/// Some nodes, by chance.
fn some(random: &mut Random, count: usize) -> BTreeSet<usize> {
    let mut nodes = BTreeSet::new();
    while nodes.len() < count {
        nodes.insert(1 + usize::try_from(random.below(NODES as u64)).unwrap());
    }
    nodes
}

fn names(nodes: &BTreeSet<usize>) -> Value {
    nodes.iter().map(|node| format!("node{node}")).collect()
}

/// Two holders are enough for the key, and two sleep: together they could sign for whoever asks them.
#[test]
fn whoever_slept_through_a_revocation_does_not_sign() {
    const ROUNDS: usize = 5;
    const CLIENTS: usize = 20;
    const REQUESTS: usize = 50;
    /// How long holders may go on without hearing of a majority, by round.
    const STALENESS: [&str; 2] = ["300ms", "5s"];
    let mut cluster = Cluster::start(NODES);
    let (genesis, identity) = (cluster.genesis().clone(), cluster.administrator());
    let mut random = Random::from_environment("slept through a revocation");
    let mut ends: BTreeMap<ErrorCode, usize> = BTreeMap::new();
    for round in 0..ROUNDS {
        let name = format!("round-{round}");
        let made = cluster.cli().json(&[
            "key",
            "create",
            &name,
            "--threshold",
            "2",
            "--max-staleness",
            STALENESS[round % STALENESS.len()],
        ]);
        let key: KeyId = made["key_id"].as_str().unwrap().parse().unwrap();
        let asleep = some(&mut random, 2 - round % 2);
        let awake: Vec<String> =
            (1..=NODES).filter(|node| !asleep.contains(node)).map(|node| cluster.endpoint(node)).collect();
        let addresses: Vec<String> = asleep.iter().map(|node| cluster.endpoint(*node)).collect();

        let answers = scope(|threads| {
            let (warm, warmed) = channel();
            let (mut words, mut askers) = (Vec::new(), Vec::new());
            for address in addresses.iter().cycle().take(CLIENTS) {
                let (word, go) = channel();
                let (warm, genesis, identity) = (warm.clone(), &genesis, &identity);
                words.push(word);
                askers.push(threads.spawn(move || {
                    let asker = Asker { genesis, identity, key, raw: Raw::connect(genesis, address) };
                    asker.run(&warm, &go, REQUESTS)
                }));
            }
            for _ in 0..CLIENTS {
                warmed.recv_timeout(PATIENCE).unwrap();
            }
            for node in &asleep {
                cluster.signal(*node, Signal::SIGSTOP);
            }
            let cli = cluster.cli().endpoints(&awake);
            let revoked = cli.json(&["key", "revoke", &name, "--reason", "a test"]);
            let enforced = if asleep.len() == 1 { "byzantine" } else { "crash" };
            assert_eq!(revoked["enforced"], enforced, "{revoked}");
            assert_eq!(revoked["missing"], names(&asleep), "{revoked}");
            // Some requests lie in front of the nodes when they wake up, some come right after.
            for word in words {
                word.send(()).unwrap();
            }
            for node in &asleep {
                cluster.signal(*node, Signal::SIGCONT);
            }
            askers.into_iter().flat_map(|asker| asker.join().unwrap()).collect::<Vec<_>>()
        });
        assert_eq!(answers.len(), CLIENTS * REQUESTS);
        for answer in answers {
            let Err(code) = answer else { panic!("a signature after the revocation was answered (round {round})") };
            *ends.entry(code).or_default() += 1;
        }

        cluster.wait_ready();
        for node in asleep {
            wait_until("the state of a node that slept", PATIENCE, || {
                cluster.cli_at(node).state(&name, 1) == "revoked"
            });
        }
    }
    say(&format!("slept through a revocation: {ends:?}"));
    for node in 1..=NODES {
        let log = cluster.log(node);
        assert!(!log.contains("two histories") && !log.contains("another history"), "node{node} accuses somebody");
    }
}

#[test]
fn a_minority_does_not_sign_and_does_again_when_it_hears_of_the_others() {
    let mut cluster = Cluster::start(NODES);
    cluster.cli().ok(&["key", "create", "release", "--threshold", "2"]);
    let public = public_key(cluster.cli(), "release", None);
    let lonely = cluster.cli().endpoints(&[cluster.endpoint(1), cluster.endpoint(2)]);
    assert_signs(&lonely, "release", &public, b"with everybody");
    for node in 3..=NODES {
        cluster.signal(node, Signal::SIGSTOP);
    }
    // Two holders are there, and two are enough; they only hear of nobody else.
    let sign = || lonely.feed(b"alone", &["sign", "release", "-", "-o", "json", "--timeout", "3"]);
    wait_until("two of five to stop signing", PATIENCE, || sign().code == 4);
    for _ in 0..3 {
        sign().exits(4);
    }
    let lease = |node| cluster.cli_at(node).json(&["status"])["lease"].clone();
    assert_eq!(lease(1)["fresh"], false, "{}", lease(1));
    for node in 3..=NODES {
        cluster.signal(node, Signal::SIGCONT);
    }
    cluster.wait_ready();
    wait_until("everybody to sign again", PATIENCE, || sign().code == 0);
    assert_signs(&lonely, "release", &public, b"with everybody again");
    let lease = |node| cluster.cli_at(node).json(&["status"])["lease"].clone();
    wait_until("a fresh node", PATIENCE, || lease(1)["fresh"] == true);
    assert_eq!(lease(1)["needed"], 3);
}

#[test]
fn what_takes_a_right_away_says_how_far_it_is_gone() {
    let mut cluster = Cluster::start(3);
    let cli = cluster.cli().clone();
    cli.ok(&["key", "create", "release", "--threshold", "2"]);
    let suspended = cli.json(&["key", "suspend", "release"]);
    assert_eq!((&suspended["enforced"], &suspended["missing"]), (&json!("byzantine"), &json!([])), "{suspended}");
    let resumed = cli.json(&["key", "resume", "release"]);
    assert_eq!((&resumed["enforced"], &resumed["missing"]), (&Value::Null, &json!([])), "{resumed}");
    assert!(cli.ok(&["key", "suspend", "release"]).text().ends_with("enforced: byzantine"));
    let (bob, _) = cluster.new_client("bob", "signer", "release");
    let removed = cli.json(&["client", "remove", "bob"]);
    assert_eq!(removed["enforced"], "byzantine", "{removed}");
    bob.refused(3, "unknown_client", &["key", "show", "release"]);

    // Two of three are enough for the order and for the lease, and too few should one of them lie.
    cluster.kill(3);
    cli.ok(&["key", "resume", "release"]);
    let suspended = cli.json(&["key", "suspend", "release"]);
    assert_eq!((&suspended["enforced"], &suspended["missing"]), (&json!("crash"), &json!(["node3"])), "{suspended}");
}

/// A key whose holders may go on for a minute without hearing of anybody, and one of them is away.
#[test]
fn a_wait_that_is_longer_than_the_deadline_is_said() {
    let mut cluster = Cluster::start(3);
    let cli = cluster.cli().clone();
    cli.ok(&["key", "create", "patient", "--threshold", "2", "--max-staleness", "60s"]);
    cluster.kill(3);
    let output = cli.call(&["key", "suspend", "patient", "-o", "json", "--timeout", "10"]).exits(4);
    assert_eq!(output.error_code(), "no_quorum", "{output}");
    let suspended = output.json();
    assert_eq!((&suspended["enforced"], &suspended["missing"]), (&json!("no"), &json!(["node3"])), "{output}");
    assert_eq!(cli.state("patient", 1), "suspended", "ordered it is");

    cluster.start_node(3);
    cluster.wait_ready();
    cli.ok(&["key", "resume", "patient"]);
    let suspended = cli.json(&["key", "suspend", "patient"]);
    assert_eq!(suspended["enforced"], "byzantine", "{suspended}");
}
