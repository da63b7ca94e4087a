//! The leader is killed in the middle of a key generation, ten times at random moments. Each time the key signs in the end, or it
//! failed and its name can be used again; nothing stays pending.
#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, reason = "tests")]

use std::thread::{sleep, spawn};
use std::time::{Duration, Instant};

use symbolon_tests::{Cli, Cluster, PATIENCE, Random, assert_signs, eventually, public_key, say};

const ROUNDS: usize = 10;
/// Three attempts of ten seconds by the replicated clock, and an election.
const DECIDED: Duration = Duration::from_secs(90);

/// What has become of a key: its state, or none when there is no such key (any more).
fn state(cli: &Cli, key: &str) -> Option<String> {
    let shown = cli.call(&["key", "show", key, "-o", "json"]);
    match shown.code {
        0 => Some(shown.json()["versions"][0]["state"].as_str().unwrap().to_owned()),
        5 => None,
        _ => Some("unknown".to_owned()),
    }
}

#[test]
fn the_leader_dies_in_the_middle_of_a_generation() {
    let mut cluster = Cluster::start(5);
    let cli = cluster.cli().clone();
    let mut random = Random::from_environment("leader dies during generation");

    // How long an undisturbed generation takes here tells where its middle is.
    let begin = Instant::now();
    cli.ok(&["key", "create", "undisturbed", "--threshold", "3"]);
    let usual = u64::try_from(begin.elapsed().as_millis()).unwrap().max(50);

    let (mut survived, mut failed) = (0, 0);
    for round in 0..ROUNDS {
        let key = format!("key-{round}");
        let leader = cluster.leader();
        let creation = {
            let (cli, key) = (cli.clone(), key.clone());
            spawn(move || cli.call(&["key", "create", &key, "--threshold", "3", "-o", "json"]))
        };
        sleep(Duration::from_millis(random.below(usual + usual / 2)));
        cluster.kill(leader);
        // Sometimes it is back within the first attempt, sometimes not.
        sleep(Duration::from_millis(random.below(3_000)));
        cluster.start_node(leader);
        let output = creation.join().unwrap();
        cluster.wait_ready();

        // The client got an answer or a clear error.
        if output.code != 0 {
            assert!(output.code == 4 || output.code == 5, "{output}");
            assert!(!output.error_code().is_empty(), "{output}");
        }
        let end = eventually("the generation to be decided", DECIDED, || match state(&cli, &key).as_deref() {
            Some("pending" | "unknown") => None,
            other => Some(other.unwrap_or("failed").to_owned()),
        });
        match end.as_str() {
            "active" => survived += 1,
            "failed" => {
                // What was acknowledged as a key is one.
                assert!(output.code != 0, "an acknowledged key is gone\n{output}");
                failed += 1;
                eventually("the name to be usable again", PATIENCE, || {
                    let again = cli.call(&["key", "create", &key, "--threshold", "3", "-o", "json"]);
                    assert!(again.code == 0 || again.code == 4, "{again}");
                    (again.code == 0).then_some(())
                });
            }
            other => panic!("round {round}: the key is {other}"),
        }
        let public = public_key(&cli, &key, None);
        assert_signs(&cli, &key, &public, key.as_bytes());
    }
    say(&format!("leader killed {ROUNDS} times: {survived} keys came through, {failed} failed and were made again"));

    let listed = cli.json(&["key", "list"]).to_string();
    assert!(!listed.contains("pending"), "{listed}");
    for round in 0..ROUNDS {
        assert!(listed.contains(&format!("key-{round}")), "{listed}");
    }
}
