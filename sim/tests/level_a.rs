//! Level A: one seed is one run, honest code is clean, and every planted bug is found.

use sim::bugs::Bug;
use sim::count::{fault, situation};
use sim::options::Options;
use sim::sweep::{Sweep, first_failure, replay};
use sim::{run, run_with};

/// Seeds that are run at every change.
const CLEAN: u64 = 60;

fn assert_clean(sweep: &Sweep) {
    let told: Vec<String> = sweep
        .failures
        .iter()
        .map(|(seed, what)| format!("seed {seed}: {what}\n  replay: {}", replay(*seed, None)))
        .collect();
    assert!(told.is_empty(), "{}", told.join("\n"));
}

#[test]
fn one_seed_is_one_run() {
    let mut hashes = Vec::new();
    for seed in [1, 2, 3, 4] {
        let (one, other) = (run(seed, None, true), run(seed, None, true));
        let differs = one.lines.iter().zip(&other.lines).find(|(a, b)| a != b);
        assert_eq!(differs, None, "seed {seed}");
        assert_eq!((one.hash.clone(), one.steps), (other.hash, other.steps), "seed {seed}");
        assert!(!hashes.contains(&one.hash), "seed {seed} does what another one did");
        hashes.push(one.hash);
    }
}

#[test]
fn honest_code_is_clean_and_the_faults_are_real() {
    let sweep = Sweep::over(1..=CLEAN, None);
    assert_clean(&sweep);
    for class in fault::ALL {
        assert!(sweep.count.faults_of(class) > 0, "no seed met a fault of the class `{class}`\n{sweep}");
    }
    let met = [
        situation::BEFORE_SYNC,
        situation::AFTER_SYNC,
        situation::RESTARTED,
        situation::FAILED,
        situation::SECOND_ATTEMPT,
        situation::ROTATED,
        situation::ERASED,
        situation::MOVED,
        situation::RESHARED,
        situation::STOOD_BY,
        situation::OLD_ERASED,
        situation::LAPSED,
        situation::RENEWED,
        situation::NOT_FRESH,
        situation::EQUIVOCATED,
        situation::AHEAD,
        situation::NOT_READY,
        situation::OLD_SHOWN,
        situation::NOTICE_REFUSED,
        situation::ENFORCED_CRASH,
        situation::ENFORCED_BYZANTINE,
        situation::WAITED_OUT,
    ];
    for what in met {
        assert!(sweep.count.times(what) > 0, "no seed met the situation `{what}`\n{sweep}");
    }
    assert!(sweep.count.keys >= CLEAN && sweep.count.signatures >= CLEAN, "{sweep}");
}

#[test]
fn seeds_that_once_failed_are_clean() {
    let lines = include_str!("corpus.txt").lines();
    let seeds = lines.map(|line| line.split('#').next().unwrap_or_default().trim()).filter(|seed| !seed.is_empty());
    let parsed: Result<Vec<u64>, _> = seeds.map(str::parse).collect();
    assert!(parsed.is_ok(), "tests/corpus.txt: {parsed:?}");
    assert_clean(&Sweep::over(parsed.unwrap_or_default(), None));
}

/// A planted bug must be found within so many seeds, by an invariant that can find it.
fn assert_found(bug: Bug, within: u64) {
    let found = first_failure(1..=within, Some(bug));
    let found = found.and_then(|report| Some((report.options.seed, report.violation?)));
    assert!(found.is_some(), "`{bug}` was not found within {within} seeds");
    let Some((seed, violation)) = found else { return };
    let expected = bug.found_by().contains(&violation.invariant);
    assert!(expected, "`{bug}` led to something else: {violation}\n  replay: {}", replay(seed, Some(bug)));
}

#[test]
fn ready_before_it_is_durable_is_found() {
    assert_found(Bug::SendBeforePersist, 150);
}

#[test]
fn nonces_that_come_twice_are_found() {
    assert_found(Bug::ReuseNonce, 20);
}

#[test]
fn a_clock_of_its_own_in_apply_is_found() {
    assert_found(Bug::OwnClock, 5);
}

#[test]
fn a_position_before_its_tables_is_found() {
    assert_found(Bug::PositionFirst, 60);
}

#[test]
fn a_second_beginning_of_an_attempt_is_found() {
    assert_found(Bug::BeginAgain, 100);
}

#[test]
fn decisions_by_an_old_state_are_found() {
    assert_found(Bug::StalePermit, 150);
}

#[test]
fn a_share_in_the_log_is_found() {
    assert_found(Bug::ShareInLog, 10);
}

#[test]
fn a_share_before_its_usage_record_is_found() {
    assert_found(Bug::ShareBeforeUsage, 20);
}

#[test]
fn a_second_polynomial_in_one_redistribution_is_found() {
    assert_found(Bug::DealAgain, 150);
}

#[test]
fn old_shares_that_go_too_early_are_found() {
    assert_found(Bug::EraseAtCommit, 20);
}

#[test]
fn shares_that_are_erased_in_words_only_are_found() {
    assert_found(Bug::EraseInWords, 20);
}

#[test]
fn positions_that_are_signed_before_they_are_durable_are_found() {
    assert_found(Bug::SignBeforeSync, 5);
}

#[test]
fn liars_that_still_count_are_found() {
    assert_found(Bug::LiarCounts, 40);
}

#[test]
fn positions_of_nodes_that_have_not_applied_their_log_are_found() {
    assert_found(Bug::AnswerUnapplied, 60);
}

#[test]
fn barriers_that_claim_too_much_are_found() {
    assert_found(Bug::MajorityBarrier, 100);
}

#[test]
fn a_lease_on_the_word_of_the_leader_is_found() {
    assert_found(Bug::LeaderLease, 200);
}

/// Every share operation once, with one loss of power at each persist point in turn.
fn assert_survives(nodes: u16, every: usize) {
    let quiet = run_with(Options::script(nodes, 0), None, false);
    assert_eq!(quiet.violation, None, "without any crash");
    assert!(quiet.points > 100, "{} persist points", quiet.points);
    let mut broken = Vec::new();
    for point in (1..=quiet.points).step_by(every) {
        if let Some(violation) = run_with(Options::script(nodes, point), None, false).violation {
            broken.push(format!("crash at point {point} of {}: {violation}", quiet.points));
        }
    }
    assert!(broken.is_empty(), "{}", broken.join("\n"));
}

#[test]
fn three_nodes_survive_a_crash_at_every_persist_point() {
    assert_survives(3, 1);
}

#[test]
fn five_nodes_survive_a_crash_at_persist_points_all_over() {
    assert_survives(5, 6);
}
