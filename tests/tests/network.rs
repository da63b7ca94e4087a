//! Networks that misbehave between the nodes, and nodes that stand still: who is there goes on, and nobody does wrong.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use serde_json::Value;
use symbolon_protocol::identity::PublicKey;
use symbolon_tests::load::Load;
use symbolon_tests::network::Network;
use symbolon_tests::proxy::{Flow, Line};
use symbolon_tests::{Cli, Cluster, PATIENCE, Random, assert_signs, eventually, public_key, say, wait_until};

const NODES: usize = 5;
/// What a connection that says nothing is given: 10 s until it is asked, 5 s to answer.
const GIVEN_UP: &str = "stream to peer is closed";

fn everybody() -> impl Iterator<Item = usize> + Clone {
    1..=NODES
}

/// `symbolon`, asking every node but one.
fn without(cluster: &Cluster, node: usize) -> Cli {
    let others: Vec<String> = everybody().filter(|other| *other != node).map(|other| cluster.endpoint(other)).collect();
    cluster.cli().endpoints(&others)
}

fn new_key(cluster: &Cluster, name: &str, threshold: &str) -> PublicKey {
    cluster.cli().ok(&["key", "create", name, "--threshold", threshold]);
    public_key(cluster.cli(), name, None)
}

/// Everybody has the same history, and nobody accuses anybody.
fn assert_one_history(cluster: &mut Cluster) {
    cluster.wait_ready();
    let applied = |node: usize| cluster.cli_at(node).json(&["status"])["applied_index"].as_u64().unwrap();
    let highest = everybody().map(applied).max().unwrap();
    for node in everybody() {
        wait_until("everybody to have everything", PATIENCE, || applied(node) >= highest);
        let log = cluster.log(node);
        for wrong in ["two histories", "another history", "broke the protocol", "panicked"] {
            assert!(!log.contains(wrong), "the log of node{node} says: {wrong}");
        }
    }
}

/// Every holder is needed for this key: it signs only when every node reaches the one that is asked.
fn assert_all_linked(cluster: &Cluster, public: &PublicKey) {
    for node in everybody() {
        let cli = cluster.cli_at(node);
        wait_until("a node to reach all others", PATIENCE, || cli.sign("whole", b"x").code == 0);
        assert_signs(&cli, "whole", public, b"everybody took part");
    }
}

/// A key that the others revoke while a node hears nothing of it is not signed with by that node, then and later.
fn revoke_behind(cluster: &Cluster, node: usize, key: &str) {
    let revoked = without(cluster, node).json(&["key", "revoke", key, "--reason", "a test"]);
    assert!(revoked["enforced"] == "crash" || revoked["enforced"] == "byzantine", "{revoked}");
}

#[track_caller]
fn assert_signs_nothing(cluster: &Cluster, node: usize, key: &str) {
    let output = cluster.cli_at(node).feed(b"x", &["sign", key, "-", "-o", "json", "--timeout", "2"]);
    assert!(output.code == 4 || output.code == 5, "node{node} signed with a key that was revoked\n{output}");
}

/// Cuts a node off in some way.
type Cut = fn(&Network, usize);

#[test]
fn a_leader_that_is_cut_off_is_replaced_and_does_nothing_wrong() {
    let (mut cluster, network) = Cluster::start_on_network(NODES);
    let public = new_key(&cluster, "release", "3");
    let whole = new_key(&cluster, "whole", "5");
    let ways: [(&str, Cut); 5] = [
        ("both ways, reset", |network, node| network.around(node, Flow::Cut)),
        ("both ways, held", |network, node| network.around(node, Flow::Stalled)),
        ("both ways, lost", |network, node| network.around(node, Flow::Lost)),
        ("inward, lost", |network, node| network.into(node, Flow::Lost)),
        ("outward, lost", |network, node| network.out_of(node, Flow::Lost)),
    ];
    for (number, (way, cut)) in ways.into_iter().enumerate() {
        let doomed = format!("doomed-{number}");
        new_key(&cluster, &doomed, "2");
        let leader = cluster.leader();
        let others = without(&cluster, leader);
        let begin = Instant::now();
        cut(&network, leader);
        // Asked of the others only: each signs and orders within the client's deadline, without a second try.
        assert_signs(&others, "release", &public, b"the leader is cut off");
        let signed = begin.elapsed();
        let client = format!("during-{number}");
        let key = cluster.new_identity(&client).1.public().to_string();
        others.ok(&["client", "add", &client, "--public-key", &key, "--role", "auditor", "--key", "*"]);
        let ordered = begin.elapsed();
        revoke_behind(&cluster, leader, &doomed);
        assert_signs_nothing(&cluster, leader, &doomed);
        say(&format!("leader cut off {way}: signed after {signed:?}, ordered after {ordered:?}"));
        network.heal();
        assert_signs_nothing(&cluster, leader, &doomed);
        assert_one_history(&mut cluster);
        assert!(cluster.cli_at(leader).json(&["client", "list"]).to_string().contains(&client), "{way}");
        assert_signs_nothing(&cluster, leader, &doomed);
    }
    assert_all_linked(&cluster, &whole);
}

/// Memory of a node's process, kilobytes.
fn memory_kb(cluster: &Cluster, node: usize) -> u64 {
    let pid = fs::read_to_string(cluster.node_directory(node).join("pid")).unwrap();
    let status = fs::read_to_string(format!("/proc/{}/status", pid.trim())).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    line.trim().trim_end_matches("kB").trim().parse().unwrap()
}

/// How often the nodes gave up a stream to this one.
fn given_up(cluster: &Cluster, node: usize) -> Vec<usize> {
    let others = everybody().filter(|other| *other != node);
    others
        .map(|other| {
            let log = cluster.log(other);
            log.lines().filter(|line| line.contains(GIVEN_UP) && line.contains(&format!("peer={node} "))).count()
        })
        .collect()
}

#[test]
fn links_that_say_nothing_are_given_up_and_dialled_again_while_the_others_sign() {
    const ROOM_KB: u64 = 64 << 10;
    let (mut cluster, network) = Cluster::start_on_network(NODES);
    let public = new_key(&cluster, "release", "3");
    let whole = new_key(&cluster, "whole", "5");
    for (silent, flow) in [(2, Flow::Stalled), (4, Flow::Lost)] {
        let load = Load::start(&without(&cluster, silent), "release", &public, 2);
        wait_until("some signatures", PATIENCE, || load.signed() > 20);
        let (streams, memory) = (given_up(&cluster, silent), everybody().map(|node| memory_kb(&cluster, node)));
        let memory: Vec<u64> = memory.collect();
        network.around(silent, flow);
        wait_until("everybody to give up both streams", PATIENCE, || {
            given_up(&cluster, silent).iter().zip(&streams).all(|(now, before)| *now >= before + 2)
        });
        let signed = load.signed();
        wait_until("signatures to go on", PATIENCE, || load.signed() > signed + 20);
        for (node, before) in everybody().zip(memory) {
            let after = memory_kb(&cluster, node);
            assert!(after < before + ROOM_KB, "node{node} grew from {before} kB to {after} kB");
        }
        network.heal();
        assert_all_linked(&cluster, &whole);
        let errors = load.errors();
        assert!(errors.is_empty(), "{flow:?}: {errors:?}");
        say(&format!("node{silent} {flow:?}: {} signatures by the others", load.stop()));
    }
    assert_one_history(&mut cluster);
}

#[test]
fn everything_works_over_a_slow_network() {
    let (mut cluster, network) = Cluster::start_on_network(NODES);
    network.everywhere(Line::late(Duration::from_millis(50), Duration::from_millis(5)));
    cluster.wait_ready();
    let cli = cluster.cli().clone();
    let mut last = Instant::now();
    let mut lap = |what: &str| {
        say(&format!("100 ms between nodes: {what} in {:?}", std::mem::replace(&mut last, Instant::now()).elapsed()))
    };
    let public = new_key(&cluster, "release", "3");
    lap("a key of five holders");
    for node in everybody() {
        assert_signs(&cluster.cli_at(node), "release", &public, b"slowly");
    }
    lap("five signatures");
    let refreshed = cli.json(&["key", "refresh", "release"]);
    assert_eq!(refreshed["shares"]["public_key"], public.to_string(), "{refreshed}");
    lap("a refresh");
    assert_signs(&cli, "release", &public, b"with new shares");
    let revoked = cli.json(&["key", "revoke", "release", "--reason", "a test"]);
    assert_eq!(revoked["enforced"], "byzantine", "{revoked}");
    lap("a revocation");
    cli.sign("release", b"x").exits(5);
    assert_one_history(&mut cluster);
}

/// Some of the lines are clogged one by one, in a random order, and unclogged in another.
fn swizzle(random: &mut Random, network: &Network) {
    let mut lines: Vec<(usize, usize)> = everybody()
        .flat_map(|from| everybody().map(move |to| (from, to)))
        .filter(|(from, to)| from != to && random.below(2) == 0)
        .collect();
    for flow in [Flow::Stalled, Flow::Open] {
        for left in (1..=lines.len()).rev() {
            let chosen = usize::try_from(random.below(left as u64)).unwrap();
            lines.swap(chosen, left - 1);
            let (from, to) = lines[left - 1];
            let flow = match flow {
                Flow::Stalled => [Flow::Stalled, Flow::Lost, Flow::Cut][usize::try_from(random.below(3)).unwrap()],
                other => other,
            };
            network.line(from, to).set(Line::flowing(flow));
            std::thread::sleep(Duration::from_millis(random.below(120)));
        }
    }
}

#[test]
fn links_that_come_and_go_cost_time_and_nothing_else() {
    const ROUNDS: usize = 3;
    let (mut cluster, network) = Cluster::start_on_network(NODES);
    let mut random = Random::from_environment("links that come and go");
    let public = new_key(&cluster, "release", "3");
    let whole = new_key(&cluster, "whole", "5");
    let load = Load::start(cluster.cli(), "release", &public, 3);
    let (mut refused, mut refreshed) = (0, 0);
    for _ in 0..ROUNDS {
        std::thread::scope(|threads| {
            let cli = cluster.cli();
            let refreshing = threads.spawn(move || cli.call(&["key", "refresh", "release", "-o", "json"]));
            swizzle(&mut random, &network);
            let output = refreshing.join().unwrap();
            match output.code {
                0 => refreshed += 1,
                _ => assert!(output.error()["retryable"] == true, "{output}"),
            }
        });
        let signed = load.signed();
        wait_until("signatures after all links are back", PATIENCE, || load.signed() > signed + 20);
        for error in load.errors() {
            assert!(error.is_retryable(), "{}: {error}", error.code().row().name);
            refused += 1;
        }
    }
    let last = eventually("a refresh after all links are back", PATIENCE, || {
        let output = cluster.cli().call(&["key", "refresh", "release", "-o", "json"]);
        (output.code == 0).then(|| output.json())
    });
    assert_eq!(last["shares"]["public_key"], public.to_string(), "{last}");
    say(&format!(
        "links that come and go: {} signatures, {refused} clear refusals, {refreshed} of {ROUNDS} refreshes",
        load.stop()
    ));
    assert_all_linked(&cluster, &whole);
    wait_until("every earlier share to be erased", PATIENCE, || {
        let shown = cluster.cli().json(&["key", "show", "release"]);
        let shares: &Value = &shown["versions"][0]["shares"];
        shares["epochs"].as_array().unwrap().len() == 1 && shares["open_epochs"].as_array().unwrap().is_empty()
    });
    assert_one_history(&mut cluster);
}

/// Stopped for longer than an election and a lease take.
#[test]
fn a_leader_that_stood_still_does_nothing_wrong_when_it_goes_on() {
    const ROUNDS: usize = 3;
    let mut cluster = Cluster::start(NODES);
    let public = new_key(&cluster, "release", "3");
    let load = Load::start(cluster.cli(), "release", &public, 3);
    for round in 0..ROUNDS {
        let doomed = format!("doomed-{round}");
        new_key(&cluster, &doomed, "2");
        let leader = cluster.leader();
        let others = without(&cluster, leader);
        cluster.signal(leader, Signal::SIGSTOP);
        let next = eventually("another leader", PATIENCE, || {
            let status = others.call(&["status", "-o", "json"]);
            let leads = (status.code == 0).then(|| status.json()["leader"].as_str().map(str::to_owned))??;
            (leads != format!("node{leader}")).then_some(leads)
        });
        revoke_behind(&cluster, leader, &doomed);
        let client = format!("during-{round}");
        let key = cluster.new_identity(&client).1.public().to_string();
        let add = ["client", "add", &client, "--public-key", &key, "--role", "auditor", "--key", "*"];
        others.ok(&add);
        let signed = load.signed();
        wait_until("signatures without the leader", PATIENCE, || load.signed() > signed + 20);
        cluster.signal(leader, Signal::SIGCONT);
        // It believes that it leads until it hears of another: what it is asked now must come out as the others have it.
        let again = cluster.cli_at(leader).call(&add);
        assert!(again.code != 0, "node{leader} added a client twice, {next} leads\n{again}");
        assert_signs_nothing(&cluster, leader, &doomed);
        assert_one_history(&mut cluster);
        let listed = cluster.cli_at(leader).json(&["client", "list"]);
        assert!(listed.to_string().contains(&client), "{listed}");
    }
    let errors = load.errors();
    assert!(errors.iter().all(symbolon_client::Error::is_retryable), "{errors:?}");
    say(&format!("leaders that stood still: {} signatures, {} refusals", load.stop(), errors.len()));
}
