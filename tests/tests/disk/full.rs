//! File systems that are full or fail, logs that are full, clocks that are wrong.

use std::fs;
use std::path::Path;

use nix::sys::signal::Signal;
use symbolon_tests::hurt::{Disk, Memory};
use symbolon_tests::{Cluster, PATIENCE, assert_signs, eventually, public_key, say, wait_until};

use super::{assert_others_sign, cluster, doctor};

/// Size of a disk, MiB.
const DISK: u64 = 1024;
/// Leaders that go away while a clock is wrong.
const ELECTIONS: usize = 2;

/// What is said where a test is not possible.
fn skipped(test: &str, why: &str) {
    say(&format!("SKIPPED: {test}: {why}"));
}

#[test]
fn on_a_full_disk_nobody_signs_and_a_right_is_still_taken_away() {
    let mut cluster = Cluster::made(3);
    let disks: Option<Vec<Disk>> =
        (1..=3).map(|node| Disk::under(&cluster, node, DISK, &cluster.scratch("."))).collect();
    let Some(disks) = disks else { return skipped("a full disk", "no file system can be mounted here") };
    for node in 1..=3 {
        cluster.start_node(node);
    }
    cluster.wait_ready();
    let cli = cluster.cli().clone();
    for key in ["kept", "revoked"] {
        cli.ok(&["key", "create", key, "--threshold", "2"]);
    }
    let kept = public_key(&cli, "kept", None);
    assert_signs(&cli, "kept", &kept, b"while there is room");

    // So much is left that the nodes run, and not enough for shares.
    disks.iter().for_each(|disk| disk.fill(64));
    let refused = cli.refused(4, "storage_failed", &["sign", "kept", cluster.config(1).to_str().unwrap()]);
    assert!(refused.error()["message"].as_str().unwrap().contains("nearly full"), "{refused}");
    let space = doctor(&cluster, 1, "disk_space").unwrap();
    assert!(space["level"] == "failure" && space["detail"].as_str().unwrap().contains("no shares"), "{space}");
    cli.ok(&["key", "revoke", "revoked", "--reason", "the disk is full"]);
    assert_eq!(cli.state("revoked", 1), "revoked");

    disks.iter().for_each(Disk::free);
    wait_until("signatures when there is room", PATIENCE, || cli.sign("kept", b"x").code == 0);

    // With no room at all a node does not start, says why, and has everything when there is room.
    cluster.stop(3);
    disks[2].fill(0);
    cluster.start_node(3);
    if let Some(ended) = eventually("a start without room", PATIENCE, || {
        let ended = cluster.ended(3);
        (ended.is_some() || cluster.is_healthy(3)).then_some(ended)
    }) {
        assert!(ended.code() == Some(1), "{ended}");
        assert!(cluster.log(3).contains("No space left on device"), "it does not say why");
    } else {
        cluster.stop(3);
    }
    assert_others_sign_kept(&cluster);
    disks[2].free();
    cluster.start_node(3);
    cluster.wait_ready();
    cluster.kill(1);
    wait_until("the node whose disk was full to sign", PATIENCE, || cli.sign("kept", b"x").code == 0);
    assert_signs(&cluster.cli_at(3), "kept", &kept, b"nothing was lost");
    assert_eq!(cluster.cli_at(3).state("revoked", 1), "revoked");
    cluster.kill_all();
}

#[track_caller]
fn assert_others_sign_kept(cluster: &Cluster) {
    let kept = public_key(cluster.cli(), "kept", None);
    assert_signs(&cluster.cli_at(1), "kept", &kept, b"two of three");
}

#[test]
fn a_disk_that_fails_to_sync_stops_the_node() {
    let mut cluster = Cluster::made(3);
    let Some(memory) = Memory::at(&cluster.scratch("memory"), 48) else {
        return skipped("a failing disk", "no file system can be mounted here");
    };
    let Some(disk) = Disk::under(&cluster, 3, DISK, &cluster.scratch("memory")) else {
        return skipped("a failing disk", "no loop device can be had here");
    };
    for node in 1..=3 {
        cluster.start_node(node);
    }
    cluster.wait_ready();
    let cli = cluster.cli().clone();
    cli.ok(&["key", "create", "two", "--threshold", "2"]);
    cli.ok(&["key", "create", "three", "--threshold", "3"]);
    let (two, three) = (public_key(&cli, "two", None), public_key(&cli, "three", None));
    assert_signs(&cli, "three", &three, b"while the disk is well");

    // Below the file system there is no room: it takes writes and cannot keep them.
    memory.fill();
    wait_until("the node to stop", PATIENCE, || {
        let _ = cli.sign("three", b"until the log needs another block");
        !cluster.runs(3)
    });
    assert!(cluster.log(3).contains("the node stops on purpose"), "it does not say that it stops");
    assert!(cluster.log(3).contains("look at the disk"), "it does not say what to do");
    assert_others_sign(&cluster, &two);
    cli.ok(&["key", "suspend", "three"]);
    cli.ok(&["key", "resume", "three"]);

    memory.free();
    disk.remount();
    cluster.start_node(3);
    cluster.wait_ready();
    wait_until("all three to sign", PATIENCE, || cli.sign("three", b"x").code == 0);
    assert_signs(&cli, "three", &three, b"nothing that was acknowledged is lost");
    cluster.kill_all();
}

/// What a client can do with the usage log.
#[test]
fn a_client_that_fills_the_usage_log_stops_signatures_and_nothing_else() {
    let mut cluster = Cluster::made(3);
    let set = |cluster: &Cluster, from: &str, to: &str| {
        for node in 1..=3 {
            let text = fs::read_to_string(cluster.config(node)).unwrap();
            assert!(text.contains(from), "{text}");
            fs::write(cluster.config(node), text.replace(from, to)).unwrap();
        }
    };
    set(&cluster, "usage_log_max_mib = 16384", "usage_log_max_mib = 1");
    for node in 1..=3 {
        cluster.start_node(node);
    }
    cluster.wait_ready();
    let cli = cluster.cli().clone();
    cli.ok(&["key", "create", "three", "--threshold", "3"]);
    let public = public_key(&cli, "three", None);
    let (greedy, _) = cluster.new_client("greedy", "signer", "*");

    let full = |message: &[u8]| {
        let output = greedy.sign("three", message);
        output.code == 4 && output.error_code() == "storage_failed" && output.stderr.contains("usage log")
    };
    wait_until("the usage log to be full", PATIENCE, || {
        let load = ["bench", "sign", "--key", "three", "--clients", "16", "--seconds", "10", "--messages", "64"];
        let _ = greedy.call(&load);
        full(b"x")
    });
    let log = doctor(&cluster, 2, "usage_log").unwrap();
    assert!(log["level"] == "failure", "{log}");

    // The size is remembered: a start does not make room, nor does it take any.
    cluster.stop(3);
    cluster.start_node(3);
    cluster.wait_ready();
    let percent = |node| doctor(&cluster, node, "usage_log").unwrap()["detail"].as_str().unwrap().to_owned();
    assert_eq!(percent(3), percent(2));
    assert!(full(b"y"), "a restart makes room in a full log");

    // Whoever may take rights away still can.
    cli.ok(&["client", "remove", "greedy"]);
    cli.ok(&["key", "suspend", "three"]);
    assert_eq!(cli.state("three", 1), "suspended");
    cli.ok(&["key", "resume", "three"]);

    set(&cluster, "usage_log_max_mib = 1\n", "usage_log_max_mib = 2\n");
    for node in 1..=3 {
        cluster.stop(node);
        cluster.start_node(node);
    }
    cluster.wait_ready();
    wait_until("signatures with a larger log", PATIENCE, || cli.sign("three", b"x").code == 0);
    assert_signs(&cli, "three", &public, b"with a larger log");
}

const FAKE_TIME: &str = "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1";

#[test]
fn a_clock_that_is_a_year_off_stops_nobody_else() {
    if !Path::new(FAKE_TIME).is_file() {
        return skipped("wrong clocks", "libfaketime is not installed");
    }
    let (mut cluster, two, three) = cluster();
    let in_a_month = symbolon_tests::date_in(std::time::Duration::from_secs(30 * 86_400));
    cluster.cli().ok(&["key", "create", "dated", "--threshold", "2", "--expires", &in_a_month]);
    let dated = public_key(cluster.cli(), "dated", None);
    for offset in ["+1y", "-1y"] {
        cluster.stop(3);
        let clock = [("LD_PRELOAD", FAKE_TIME), ("FAKETIME", offset), ("FAKETIME_DONT_FAKE_MONOTONIC", "1")];
        cluster.start_node_with(3, &clock);
        let side = if offset == "+1y" { "ahead" } else { "behind" };
        wait_until("a good node to see the wrong clock", PATIENCE, || {
            let clock = doctor(&cluster, 1, "clock").filter(|clock| clock["level"] == "failure");
            let detail = clock.and_then(|clock| Some(clock["detail"].as_str()?.to_owned())).unwrap_or_default();
            detail.contains("node3") && detail.contains(side)
        });

        // No key expires by one wrong clock, and the other two go on.
        let first = cluster.cli_at(1);
        assert_eq!(first.state("dated", 1), "active", "{offset}");
        for (key, public) in [("two", &two), ("dated", &dated)] {
            wait_until("the two good clocks to sign", PATIENCE, || first.sign(key, b"x").code == 0);
            let answer = assert_signs(&first, key, public, b"with two good clocks");
            assert!(!answer["holders"].to_string().contains("node3"), "{offset}: {answer}");
        }
        // Changes are ordered too, and when the leader is away for a while the wrong clock does not keep its place.
        for _ in 0..ELECTIONS {
            let leader = cluster.leader();
            assert!(leader != 3, "{offset}: a node whose clock is wrong leads");
            let other = cluster.cli_at(3 - leader);
            cluster.signal(leader, Signal::SIGSTOP);
            eventually("somebody else to lead", PATIENCE, || {
                let led = other.call(&["status", "-o", "json"]);
                (led.code == 0 && !led.json()["leader"].is_null() && led.json()["leader"] != format!("node{leader}"))
                    .then_some(())
            });
            cluster.signal(leader, Signal::SIGCONT);
            wait_until("a change to be ordered", PATIENCE, || {
                matches!(other.call(&["key", "suspend", "two"]).code, 0 | 5) && other.state("two", 1) == "suspended"
            });
            wait_until("a change to be ordered", PATIENCE, || {
                matches!(other.call(&["key", "resume", "two"]).code, 0 | 5) && other.state("two", 1) == "active"
            });
        }
        // A share of that node is for nobody.
        let answer = first.sign("three", b"x");
        assert!(answer.code != 0, "{offset}: a node whose clock is wrong signed: {answer}");
    }
    cluster.stop(3);
    cluster.start_node(3);
    cluster.wait_ready();
    wait_until("all three to sign again", PATIENCE, || cluster.cli().sign("three", b"x").code == 0);
    assert_signs(cluster.cli(), "three", &three, b"with three good clocks");
}
