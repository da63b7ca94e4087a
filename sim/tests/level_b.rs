//! Level B: one seed is one history, in whatever process it is played; every scenario succeeds, and a planted bug is found.

#![expect(clippy::unwrap_used, clippy::panic, reason = "tests")]

use std::process::{Child, Command, Stdio};

use sim::level_b::replay;
use sim::level_b::scenario::{SCENARIOS, Scenario};

/// A seed in a process of its own.
struct Played {
    seed: u64,
    child: Child,
}

/// Starts the simulator.
fn play(seed: u64) -> Played {
    let child = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["--level", "b", "--seed", &seed.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    Played { seed, child }
}

impl Played {
    /// The hash of the trace, or what went wrong.
    fn end(self) -> Result<String, String> {
        let output = self.child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if output.status.success() && !said.is_empty() {
            return Ok(said);
        }
        let complained = String::from_utf8_lossy(&output.stderr);
        Err(format!("{}\n{}\n{said}\n{complained}", replay(self.seed), output.status))
    }

    #[track_caller]
    fn hash(self) -> String {
        match self.end() {
            Ok(hash) => hash,
            Err(why) => panic!("{why}"),
        }
    }
}

/// Plays some seeds of a scenario, two at a time; the first of them twice, which must give one history.
#[track_caller]
fn succeeds(scenario: Scenario, seeds: u64) {
    let (one, other) = (play(scenario.seed(0)), play(scenario.seed(0)));
    let (one, other) = (one.hash(), other.hash());
    assert_eq!(one, other, "{scenario}: {} has two histories", replay(scenario.seed(0)));
    let mut hashes = vec![one];
    for first in (1..=seeds).step_by(2) {
        for played in [first, first + 1].map(|number| play(scenario.seed(number))) {
            hashes.push(played.hash());
        }
    }
    let count = hashes.len();
    hashes.sort_unstable();
    hashes.dedup();
    assert_eq!(hashes.len(), count, "{scenario}: two seeds have one history");
}

#[test]
fn a_seed_names_its_scenario() {
    for scenario in SCENARIOS {
        for number in [0, 1, 999] {
            assert_eq!(Scenario::of(scenario.seed(number)), scenario);
        }
    }
    assert_eq!(Scenario::of(7), Scenario::Story);
    assert_eq!(Scenario::of(u64::MAX), Scenario::Story);
}

#[test]
fn a_key_signs_with_a_link_cut_and_a_node_down() {
    succeeds(Scenario::Story, 6);
}

#[test]
fn nodes_of_two_releases_have_one_history() {
    succeeds(Scenario::Upgrade, 2);
}

#[test]
fn shares_are_renewed_whatever_happens() {
    succeeds(Scenario::Shares, 4);
}

#[test]
fn a_minority_that_heard_nothing_signs_nothing_after_the_answer() {
    succeeds(Scenario::Barrier, 6);
}

#[test]
fn changes_follow_the_order_of_the_log() {
    succeeds(Scenario::Partitions, 4);
}

#[test]
fn a_minority_that_stood_still_signs_nothing_when_it_goes_on() {
    succeeds(Scenario::Standstill, 2);
}

#[test]
fn members_come_and_go_and_the_key_signs() {
    succeeds(Scenario::Churn, 2);
}

#[test]
fn wrong_clocks_move_no_state_time() {
    succeeds(Scenario::Clocks, 2);
}

#[test]
fn lies_count_for_nothing() {
    succeeds(Scenario::Liars, 2);
}

#[test]
fn a_store_that_is_not_its_own_takes_no_part() {
    succeeds(Scenario::Stores, 2);
}

/// Two keys are revoked in a run: so many runs are twice as many rounds.
#[test]
fn many_revocations_hold() {
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["--level", "b", "--scenario", "barrier", "--from", "100", "--seeds", "20"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("20 seeds of level b, 0 failed"), "{said}");
}

/// A seed that fails is named with the command that plays it again.
#[test]
fn a_failing_seed_says_how_it_is_replayed() {
    let output = Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["--level", "b", "--scenario", "slow-clocks", "--seeds", "1"])
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains(&replay(Scenario::SlowClocks.seed(0))), "{said}");
}

/// A barrier waits for as long as clocks may differ, and no longer: with slower ones the simulation must see a signature.
#[test]
fn clocks_that_are_too_slow_are_found() {
    for played in [0, 1, 2].map(|number| play(Scenario::SlowClocks.seed(number))) {
        let seed = played.seed;
        match played.end() {
            Err(why) => assert!(why.contains("after the revocation was answered"), "{why}"),
            Ok(_) => panic!("a minority with slow clocks signed nothing\n{}", replay(seed)),
        }
    }
}
