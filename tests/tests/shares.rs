//! Shares are renewed, moved to other holders and healed while the key goes on signing, and its public key stays.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::scope;

use serde_json::Value;
use symbolon_client::{Client, Config, Name};
use symbolon_protocol::error::Refusal;
use symbolon_protocol::identity::PublicKey;
use symbolon_tests::{Cli, Cluster, PATIENCE, assert_signs, public_key, say, signature_of, wait_until};
use tokio::runtime::Builder;

/// The first version of a key, as `key show` tells it.
#[track_caller]
fn version(cli: &Cli, key: &str) -> Value {
    cli.json(&["key", "show", key])["versions"][0].clone()
}

#[track_caller]
fn shares(cli: &Cli, key: &str) -> Value {
    version(cli, key)["shares"].clone()
}

#[track_caller]
fn epoch(shares: &Value) -> u64 {
    shares["epoch"].as_u64().unwrap_or_else(|| panic!("shares without an epoch: {shares}"))
}

/// A key in `status`.
#[track_caller]
fn in_status(cli: &Cli, key: &str) -> Value {
    let status = cli.json(&["status"]);
    let found = status["keys"].as_array().unwrap().iter().find(|one| one["name"] == key);
    found.unwrap_or_else(|| panic!("`status` does not name {key}: {status}")).clone()
}

/// Who proved erasure of the shares of an epoch, and who owes it; none when no share of it can be left.
fn erasure(cli: &Cli, key: &str, epoch: u64) -> Option<(usize, Vec<String>)> {
    let shares = shares(cli, key);
    let set = shares["epochs"].as_array()?.iter().find(|set| set["epoch"] == epoch)?;
    let owing = set["owing"].as_array()?.iter().map(|node| node.as_str().unwrap().to_owned());
    Some((set["erased"].as_array()?.len(), owing.collect()))
}

/// Ends the clients, also when what happens meanwhile fails.
struct Done<'a>(&'a AtomicBool);

impl Drop for Done<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Signs until it is done, as a service does that runs for long: no error, and no node is accused.
fn sign_on(cli: &Cli, public: &PublicKey, done: &AtomicBool, signed: &AtomicUsize) {
    let (genesis, identity) = (cli.path("SYMBOLON_GENESIS"), cli.path("SYMBOLON_IDENTITY"));
    let accused = Arc::new(Mutex::new(Vec::new()));
    let heard = Arc::clone(&accused);
    let mut config = Config::load(&genesis, &identity).unwrap();
    config.report = Some(Arc::new(move |refusal: &Refusal| heard.lock().unwrap().push(refusal.to_string())));
    Builder::new_current_thread().enable_all().build().unwrap().block_on(async {
        let client = Client::connect(config).await.unwrap();
        let key = Name::new("release").unwrap();
        while !done.load(Ordering::Relaxed) {
            let message = format!("message {}", signed.load(Ordering::Relaxed));
            let outcome = client.sign(&key, message.as_bytes()).await;
            let outcome = outcome.unwrap_or_else(|error| panic!("{message}: {}: {error}", error.code()));
            assert!(public.verifies_raw(message.as_bytes(), &outcome.signatures[0]), "{outcome:?}");
            signed.fetch_add(1, Ordering::Relaxed);
        }
    });
    let accused = accused.lock().unwrap();
    assert!(accused.is_empty(), "{accused:?}");
}

#[test]
fn a_key_signs_on_while_its_shares_are_renewed() {
    const REFRESHES: usize = 10;
    let cluster = Cluster::start(3);
    let cli = cluster.cli();
    cli.ok(&["key", "create", "scheduled", "--refresh-every", "10s", "--max-staleness", "2s"]);
    cli.ok(&["key", "create", "release", "--threshold", "2"]);
    let public = public_key(cli, "release", None);

    let (done, signed) = (AtomicBool::new(false), AtomicUsize::new(0));
    scope(|threads| {
        let _at_the_end = Done(&done);
        threads.spawn(|| sign_on(cli, &public, &done, &signed));
        threads.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let answer = cli.sign("release", b"by a program that runs once").exits(0).json();
                assert!(public.verifies_raw(b"by a program that runs once", &signature_of(&answer)), "{answer}");
            }
        });
        let mut last = 1;
        for _ in 0..REFRESHES {
            let before = signed.load(Ordering::Relaxed);
            let refreshed = cli.json(&["key", "refresh", "release"]);
            assert!(epoch(&refreshed) > last, "epoch {last} before {refreshed}");
            last = epoch(&refreshed);
            assert_eq!(refreshed["shares"]["public_key"], public.to_string(), "{refreshed}");
            assert_eq!(refreshed["shares"]["stale"].as_array().unwrap().len(), 0, "{refreshed}");
            wait_until("a signature after the refresh", PATIENCE, || signed.load(Ordering::Relaxed) > before);
        }
    });
    say(&format!("{} signatures during {REFRESHES} refreshes", signed.into_inner()));
    let last = epoch(&shares(cli, "release"));
    assert_eq!(assert_signs(cli, "release", &public, b"with the new shares")["epoch"], last);
    assert_eq!(public_key(cli, "release", None), public);
    // Nothing of the ten epochs before is left, on any node.
    wait_until("the earlier shares to be erased", PATIENCE, || {
        let shares = shares(cli, "release");
        shares["epochs"].as_array().unwrap().len() == 1 && shares["open_epochs"].as_array().unwrap().is_empty()
    });
    operations(cli, last);
    policy(cli);
}

/// What ran and how it ended.
fn operations(cli: &Cli, last: u64) {
    let begun = cli.json(&["key", "refresh", "release", "--no-wait"]);
    assert!(begun["shares"].is_null() && epoch(&begun) > last, "{begun}");
    // It may be over already; when it is not, it says where it is.
    for running in cli.json(&["operation", "list"])["operations"].as_array().unwrap() {
        assert_eq!(running["kind"], "redistribute", "{running}");
        assert!(running["phase"].is_string() && running["waiting"].is_array(), "{running}");
    }
    wait_until("the refresh to be over", PATIENCE, || epoch(&shares(cli, "release")) >= epoch(&begun));
    let shown = cli.json(&["operation", "show", "release"]);
    let ended = shown["ended"].as_array().unwrap();
    let first = &ended[0];
    assert_eq!((&first["kind"], &first["epoch"], &first["committed"]), (&"generate".into(), &1.into(), &true.into()));
    let of = ended.iter().find(|ended| ended["epoch"] == begun["epoch"]);
    assert!(of.is_some_and(|ended| ended["trigger"] == "refresh" && ended["committed"] == true), "{shown}");
    // The same for people.
    assert!(cli.ok(&["operation", "show", "release"]).text().contains("refresh"));
    assert!(cli.ok(&["key", "show", "release"]).text().contains("shares of epoch"));
}

/// A key is refreshed by schedule, until it is told not to be.
fn policy(cli: &Cli) {
    wait_until("a refresh by schedule", PATIENCE, || {
        let shown = version(cli, "scheduled");
        let ended = shown["operations"].as_array().unwrap();
        ended.iter().any(|ended| ended["trigger"] == "schedule" && ended["committed"] == true)
    });
    let shown = cli.json(&["key", "policy", "scheduled"]);
    assert_eq!(shown["policy"], serde_json::json!({"max_staleness_ms": 2000, "refresh_every_ms": 10_000}), "{shown}");
    assert!(shares(cli, "scheduled")["refresh_due"].is_string());
    let changed = cli.ok(&["key", "policy", "scheduled", "--refresh-every", "never", "--max-staleness", "1s"]);
    assert!(changed.stderr.contains("2s"), "{changed}");
    let shown = cli.json(&["key", "show", "scheduled"]);
    assert_eq!(shown["policy"], serde_json::json!({"max_staleness_ms": 1000, "refresh_every_ms": null}), "{shown}");
    assert!(shares(cli, "scheduled")["refresh_due"].is_null());
    cli.refused(2, "invalid_argument", &["key", "policy", "scheduled", "--max-staleness", "1h"]);
    cli.refused(2, "invalid_argument", &["key", "policy", "scheduled", "--refresh-every", "1s"]);
}

#[test]
fn shares_move_to_other_holders_and_back() {
    let mut cluster = Cluster::start(5);
    let cli = cluster.cli().clone();
    cli.ok(&["key", "create", "moving", "--roster", "node1,node2,node3", "--threshold", "2"]);
    let public = public_key(&cli, "moving", None);
    let id = cli.json(&["key", "show", "moving"])["id"].clone();

    // What cannot be is refused here, without a request.
    for arguments in [
        ["key", "reshare", "moving", "--roster", "node1,node2,node3", "--threshold", "4"],
        ["key", "reshare", "moving", "--roster", "node1,node2,node9", "--threshold", "2"],
        ["key", "reshare", "moving", "--roster", "node1,1,node2", "--threshold", "2"],
    ] {
        let error = cli.refused(2, "invalid_argument", &arguments).error();
        assert!(error["request_id"].is_null(), "{error}");
    }
    cli.refused(4, "roster_unreachable", &["key", "refresh", "moving", "--absent", "node3"]);
    cli.refused(4, "below_threshold", &["key", "refresh", "moving", "--absent", "node2,node3"]);

    let there = ["key", "reshare", "moving", "--roster", "node2,node3,node4,node5", "--threshold", "3"];
    let moved = cli.json(&there);
    let named = |names: &[&str]| Value::from(names.to_vec());
    assert_eq!(moved["shares"]["roster"], named(&["node2", "node3", "node4", "node5"]), "{moved}");
    assert_eq!((&moved["key_id"], &moved["shares"]["threshold"]), (&id, &3.into()), "{moved}");
    assert_eq!(moved["shares"]["public_key"], public.to_string(), "{moved}");
    // Everybody coordinates, whether it holds a share or not; who no longer does signs no more.
    for node in 1..=5 {
        let answer = assert_signs(&cluster.cli_at(node), "moving", &public, b"by the new holders");
        let holders = answer["holders"].as_array().unwrap();
        assert!(holders.len() == 3 && !holders.contains(&"node1".into()), "{answer}");
    }
    wait_until("the shares of before to be erased", PATIENCE, || erasure(&cli, "moving", 1).is_none());
    cluster.kill(1);
    assert_signs(&cli, "moving", &public, b"without the holder of before");
    let key = in_status(&cli, "moving");
    assert_eq!(
        (&key["threshold"], &key["holders"], &key["usable"], &key["margin"]),
        (&3.into(), &4.into(), &4.into(), &1.into())
    );
    cluster.start_node(1);
    cluster.wait_ready();

    let back = cli.ok(&["key", "reshare", "moving", "--roster", "1,2,3", "--threshold", "3", "-o", "json"]);
    assert!(back.stderr.contains("all 3 of 3 holders are needed"), "{back}");
    assert_eq!(back.json()["shares"]["roster"], named(&["node1", "node2", "node3"]), "{back}");
    cli.ok(&["key", "reshare", "moving", "--threshold", "2"]);
    let key = in_status(&cli, "moving");
    assert_eq!((&key["threshold"], &key["holders"], &key["margin"]), (&2.into(), &3.into(), &1.into()), "{key}");
    assert_eq!(public_key(&cli, "moving", None), public);
    cluster.kill(4);
    cluster.kill(5);
    assert_signs(&cli, "moving", &public, b"by the holders of the beginning");
}

/// Kills a node and waits until the others have noticed.
fn lose(cluster: &mut Cluster, node: usize) {
    cluster.kill(node);
    let others: Vec<usize> = (1..=cluster.count()).filter(|other| cluster.runs(*other)).collect();
    let name = format!("node{node}");
    wait_until("everybody to miss the node", PATIENCE, || {
        others.iter().all(|other| {
            let status = cluster.cli_at(*other).json(&["status"]);
            status["nodes"].as_array().unwrap().iter().any(|one| one["name"] == name && one["reachable"] == false)
        })
    });
}

#[test]
fn a_node_that_was_away_is_healed() {
    let mut cluster = Cluster::start(5);
    let cli = cluster.cli().clone();
    cli.ok(&["key", "create", "release", "--threshold", "3"]);
    cli.ok(&["key", "create", "ending", "--threshold", "3"]);
    let public = public_key(&cli, "release", None);
    lose(&mut cluster, 5);
    for key in ["release", "ending"] {
        let refreshed = cli.json(&["key", "refresh", key]);
        assert_eq!(refreshed["absent"], Value::from(vec!["node5"]), "{refreshed}");
        assert_eq!(refreshed["shares"]["stale"], Value::from(vec!["node5"]), "{refreshed}");
        assert_eq!(refreshed["shares"]["holders"].as_array().unwrap().len(), 4, "{refreshed}");
    }
    let key = in_status(&cli, "release");
    assert_eq!((&key["stale_names"], &key["margin"]), (&Value::from(vec!["node5"]), &1.into()), "{key}");
    assert!(cli.ok(&["key", "show", "release"]).text().contains("without a share: node5"));
    assert_signs(&cli, "release", &public, b"without the stale one");
    // One more, and too few could take new shares.
    lose(&mut cluster, 4);
    let refused = cli.refused(4, "roster_unreachable", &["key", "refresh", "release"]).error();
    assert_eq!(refused["details"]["unreachable"], Value::from(vec!["node4", "node5"]), "{refused}");
    cluster.start_node(4);
    cluster.wait_ready();
    destruction(&mut cluster, &cli);

    let before = epoch(&shares(&cli, "release"));
    if !cluster.runs(5) {
        cluster.start_node(5);
    }
    wait_until("the node that was away to be healed", PATIENCE, || {
        let shares = shares(&cli, "release");
        epoch(&shares) >= before && shares["stale"].as_array().unwrap().is_empty()
    });
    let shown = cli.json(&["operation", "show", "release"]);
    let healed = shown["ended"].as_array().unwrap().iter().any(|ended| ended["needed_by"] == "node5");
    assert!(healed, "{shown}");
    // Its new share counts: two others may go now.
    cluster.wait_ready();
    cluster.kill(1);
    cluster.kill(2);
    wait_until("the healed node to sign", PATIENCE, || cli.sign("release", b"x").code == 0);
    let answer = assert_signs(&cli, "release", &public, b"with the share that was healed");
    assert!(answer["holders"].as_array().unwrap().contains(&"node5".into()), "{answer}");
}

/// A key ends with the shares of all of its epochs; who was away erases when it returns.
fn destruction(cluster: &mut Cluster, cli: &Cli) {
    // Four erased what the refresh replaced, the fifth is away with its share: fewer than needed.
    wait_until("the others to erase the first epoch", PATIENCE, || {
        erasure(cli, "ending", 1) == Some((4, vec!["node5".to_owned()]))
    });
    let last = epoch(&shares(cli, "ending"));
    cli.ok(&["key", "revoke", "ending", "--reason", "its end"]);
    cli.ok(&["key", "destroy", "ending", "--confirm", "ending"]);
    wait_until("the key to be destroyed", PATIENCE, || cli.state("ending", 1) == "destroyed");
    wait_until("all four to have erased the last epoch", PATIENCE, || {
        erasure(cli, "ending", last) == Some((4, Vec::new()))
    });
    let text = cli.ok(&["key", "show", "ending"]).text();
    assert!(text.contains("epoch 1 is closed") && text.contains("owed by node5"), "{text}");
    cluster.start_node(5);
    wait_until("who was away to erase the first epoch", PATIENCE, || erasure(cli, "ending", 1).is_none());
    let erased = version(cli, "ending")["erased"].clone();
    assert_eq!(erased, Value::from(vec!["node1", "node2", "node3", "node4"]));
    cli.refused(5, "wrong_state", &["key", "refresh", "ending"]);
}
