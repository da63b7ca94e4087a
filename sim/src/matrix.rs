//! The matrix of promises: for each line of the threat model the check that carries it, and the proof that the check is awake:
//! a bug planted in its place, and how many seeds pass until it is found. What level A cannot attack names the test that does.

use std::fmt::Write as _;

use crate::bugs::Bug;
use crate::invariants::Violation;
use crate::sweep::first_failure;

/// Who attacks, and what still holds.
struct Promise {
    promise: &'static str,
    proof: Proof,
}

enum Proof {
    /// A planted bug that takes the check away.
    Planted(Bug),
    /// A test elsewhere: its file and its name.
    Elsewhere(&'static str, &'static str),
}

const fn planted(promise: &'static str, bug: Bug) -> Promise {
    Promise { promise, proof: Proof::Planted(bug) }
}

const fn attacked(promise: &'static str, file: &'static str, test: &'static str) -> Promise {
    Promise { promise, proof: Proof::Elsewhere(file, test) }
}

const PROMISES: &[Promise] = &[
    planted("t-1 nodes, the same all the time: no key (coefficients)", Bug::SameCoefficient),
    planted("t-1 nodes, the same all the time: no key (channels)", Bug::SubshareToAll),
    planted("t-1 nodes in each epoch, others in each: no key (polynomials)", Bug::SamePolynomial),
    planted("t-1 nodes in each epoch, others in each: no key (erasure)", Bug::KeepCopy),
    planted("t-1 nodes: a signature needs fresh nonces of t", Bug::ReuseNonce),
    planted("t-1 nodes: what was said to be erased is gone", Bug::EraseInWords),
    planted("t-1 nodes: polynomials and subshares are on no disk", Bug::SubshareOnDisk),
    planted("t-1 nodes: blame for what they send, never for an honest node (new keys)", Bug::BeginAgain),
    planted("t-1 nodes: blame for what they send, never for an honest node (moved shares)", Bug::DealAgain),
    planted("t-1 nodes: nothing is said before it is durable", Bug::SendBeforePersist),
    planted("t-1 nodes: the key stays usable by any t (erasure)", Bug::EraseAtCommit),
    planted("Raft leader: no share ever reaches the log", Bug::ShareInLog),
    planted("Raft leader: one history, whatever clock a node has", Bug::OwnClock),
    planted("Raft leader: one history, whenever a node loses power", Bug::PositionFirst),
    planted("Raft leader: READY only for what runs by the node's own state", Bug::ReadyLate),
    planted("Raft leader: ACTIVATED only after the commit was applied", Bug::ActivatedEarly),
    attacked(
        "Raft leader: equivocation is detected and stops signing",
        "tests/tests/byzantine/raft_door.rs",
        "a_member_that_rewrites_history_is_refused_and_stops_nobody",
    ),
    attacked(
        "Raft leader: hides a revocation from nobody who is fresh (quorums, time of a lease)",
        "sim/tests/models/lease.rs",
        "every_planted_bug_is_found",
    ),
    attacked(
        "Raft leader: a right that is reported as gone is gone though the voters changed",
        "sim/tests/models/voters.rs",
        "every_planted_bug_is_found",
    ),
    planted("Raft leader: a head is signed only from what is durable", Bug::SignBeforeSync),
    planted("Raft leader: a head is signed only once the own log is applied", Bug::AnswerUnapplied),
    planted("Raft leader: a voter with two histories counts for nothing", Bug::LiarCounts),
    attacked(
        "coordinator: a share leaves only while the right is still there",
        "protocol/src/sign/tests/holders.rs",
        "a_permit_for_another_version_lets_no_share_leave",
    ),
    planted("coordinator: every share is decided by the holder's own state", Bug::StalePermit),
    planted("coordinator: no share without a durable record of it", Bug::ShareBeforeUsage),
    attacked(
        "coordinator: shows no false public key",
        "tests/tests/byzantine/liar.rs",
        "a_lying_node_may_withhold_a_key_and_never_puts_another_in_its_place",
    ),
    attacked(
        "network: reads nothing, forges nothing (TLS with pinned keys)",
        "rpc/src/tls/tests.rs",
        "a_stolen_certificate_is_worth_nothing",
    ),
    attacked(
        "client: gets what policy grants and crashes no node",
        "tests/tests/refusals.rs",
        "bad_requests_are_refused_by_name_and_change_nothing",
    ),
    attacked(
        "stolen disk: shares are sealed",
        "node/src/seal/record.rs",
        "refuses_other_key_other_aad_and_every_flipped_bit",
    ),
    attacked(
        "rolled-back disk: detected, takes no part",
        "tests/tests/byzantine/rollback.rs",
        "a_node_that_went_back_in_time_takes_no_part",
    ),
];

/// A line of the matrix as it came out.
pub struct Row {
    /// Who attacks, and what still holds.
    pub promise: &'static str,
    /// The planted bug, and where it was found first; none when another test carries the promise.
    pub found: Option<(Bug, Option<(u64, Violation)>)>,
    /// File and name of that test.
    pub test: Option<(&'static str, &'static str)>,
}

impl Row {
    /// Whether the check is awake: its bug was found in time, by an invariant that is meant to find it.
    #[must_use]
    pub fn holds(&self) -> bool {
        match &self.found {
            None => self.test.is_some(),
            Some((bug, found)) => {
                found.as_ref().is_some_and(|(_, violation)| bug.found_by().contains(&violation.invariant))
            }
        }
    }
}

/// Plants every bug and looks for it.
#[must_use]
pub fn rows() -> Vec<Row> {
    let row = |promise: &Promise| match promise.proof {
        Proof::Planted(bug) => {
            let report = first_failure(1..=bug.within(), Some(bug));
            let found = report.and_then(|report| Some((report.options.seed, report.violation?)));
            Row { promise: promise.promise, found: Some((bug, found)), test: None }
        }
        Proof::Elsewhere(file, test) => Row { promise: promise.promise, found: None, test: Some((file, test)) },
    };
    PROMISES.iter().map(row).collect()
}

/// File and name of each test that carries what level A cannot attack.
pub fn elsewhere() -> impl Iterator<Item = (&'static str, &'static str)> {
    PROMISES.iter().filter_map(|promise| match promise.proof {
        Proof::Planted(_) => None,
        Proof::Elsewhere(file, test) => Some((file, test)),
    })
}

/// The matrix for people.
#[must_use]
pub fn table(rows: &[Row]) -> String {
    let mut table = format!("{:<78} | {:<18} | {:<18} | seeds until found\n", "promise", "check", "planted");
    for row in rows {
        let line = match (&row.found, row.test) {
            (Some((bug, Some((seed, violation)))), _) => {
                let wrong = if row.holds() { "" } else { "  NOT THE RIGHT CHECK" };
                format!("{:<18} | {:<18} | {seed}{wrong}", violation.invariant, bug.name())
            }
            (Some((bug, None)), _) => {
                format!("{:<18} | {:<18} | NOT FOUND within {}", bug.found_by().join(", "), bug.name(), bug.within())
            }
            (None, Some((file, test))) => format!("not by level A: {test} in {file}"),
            (None, None) => "NO CHECK".to_owned(),
        };
        // Writing to a string does not fail.
        let _ = writeln!(table, "{:<78} | {line}", row.promise);
    }
    table
}
