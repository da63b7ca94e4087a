//! Level A: one seed is one run, honest code is clean, and every planted bug is found.

use std::io::{self, Write as _};
use std::path::Path;

use sim::bugs::{BUGS, Bug};
use sim::count::{fault, situation};
use sim::matrix;
use sim::options::Options;
use sim::shrink::shrink;
use sim::sweep::{Sweep, each, first_failure, replay};
use sim::{Report, run, run_with};

/// Seeds that are run at every change.
const CLEAN: u64 = 1_000;

fn assert_clean(sweep: &Sweep) {
    let told: Vec<String> = sweep
        .failures
        .iter()
        .map(|(options, what)| format!("seed {}: {what}\n  replay: {}", options.seed, replay(options, None)))
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
    let written = writeln!(io::stdout(), "{sweep}");
    assert!(written.is_ok(), "the figures could not be printed");
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
        situation::RANKED,
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
    assert_clean(&Sweep::over(parsed.unwrap_or_default().into_iter(), None));
}

/// Each promise of the threat model has a check that is awake: the bug planted in its place is found in time, by that check.
#[test]
fn every_promise_has_a_check_that_is_awake() {
    let rows = matrix::rows();
    let written = writeln!(io::stdout(), "{}", matrix::table(&rows));
    assert!(written.is_ok(), "the matrix could not be printed");
    let asleep: Vec<&str> = rows.iter().filter(|row| !row.holds()).map(|row| row.promise).collect();
    assert!(asleep.is_empty(), "no check finds its planted bug for: {asleep:?}");
    let planted: Vec<Bug> = rows.iter().filter_map(|row| Some(row.found.as_ref()?.0)).collect();
    let missing: Vec<&Bug> = BUGS.iter().filter(|bug| !planted.contains(bug)).collect();
    assert!(missing.is_empty(), "bugs that stand for no promise: {missing:?}");
}

/// The tests that carry what level A cannot attack are there.
#[test]
fn the_tests_that_the_matrix_names_exist() {
    for (file, test) in matrix::elsewhere() {
        let source = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file));
        assert!(source.is_ok_and(|source| source.contains(&format!("fn {test}("))), "{file} has no test {test}");
    }
}

/// A run that fails is made smaller, breaks the same, and is replayed exactly from one line.
#[test]
fn a_failing_run_is_made_smaller() {
    let bug = Some(Bug::EraseAtCommit);
    let found = first_failure(1..=Bug::EraseAtCommit.within(), bug);
    let Some(Report { options, violation: Some(violation), .. }) = found else {
        assert!(found.is_some(), "the planted bug was not found");
        return;
    };
    let smaller = shrink(&options, bug);
    let Some((smaller, still)) = smaller else {
        assert!(smaller.is_some(), "the run did not fail again");
        return;
    };
    assert_eq!(still.invariant, violation.invariant);
    assert!(
        smaller.operations < options.operations && smaller.drop == 0 && smaller.crash_ms == 0,
        "{}",
        smaller.line()
    );
    let again = Options::parse(&smaller.line()).map(|options| run_with(options, bug, false).violation);
    assert_eq!(again, Ok(Some(still)), "{}", smaller.line());
}

/// Every share operation once, with one loss of power at each persist point in turn.
fn assert_survives(nodes: u16, every: usize) {
    let quiet = run_with(Options::script(nodes, 0), None, false);
    assert_eq!(quiet.violation, None, "without any crash");
    assert!(quiet.points > 100, "{} persist points", quiet.points);
    let mut broken = Vec::new();
    each((1..=quiet.points).step_by(every).map(|point| Options::script(nodes, point)), None, |report| {
        if let Some(violation) = report.violation {
            broken.push(format!("crash at point {} of {}: {violation}", report.options.crash_at, quiet.points));
        }
        true
    });
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
