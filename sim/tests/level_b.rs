//! Level B: one seed is one history, in whatever process it is played.

#![expect(clippy::unwrap_used, reason = "tests")]

use std::process::{Child, Command, Stdio};

/// Starts the simulator; one seed per process.
fn play(seed: u64) -> Child {
    Command::new(env!("CARGO_BIN_EXE_sim"))
        .args(["--level", "b", "--seed", &seed.to_string()])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What it printed: the hash of the trace.
fn hash_of(child: Child) -> String {
    let output = child.wait_with_output().unwrap();
    let (said, complained) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}\n{said}\n{complained}", output.status);
    let hash = said.trim().to_owned();
    assert!(!hash.is_empty(), "nothing was printed");
    hash
}

#[test]
fn one_seed_is_one_history() {
    // Both at the same time: what else the machine does must not matter.
    let (one, other) = (play(7), play(7));
    assert_eq!(hash_of(one), hash_of(other));
}

#[test]
fn another_seed_is_another_history() {
    let (one, other) = (play(8), play(9));
    assert_ne!(hash_of(one), hash_of(other));
}

#[test]
fn the_scenario_succeeds_with_every_seed() {
    for seeds in [[1, 2], [3, 4], [5, 6]] {
        for child in seeds.map(play) {
            hash_of(child);
        }
    }
}
