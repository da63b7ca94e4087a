//! When to ask another node, when to wait and when to give up. Decides from what happened and the time; does nothing itself.
//!
//! - A node alone cannot refuse: its word counts once another node refuses too, or nobody else answers. It may lie, or be behind.
//! - What passes by itself (an election, a node that starts) is waited for until the deadline.
//! - When nobody can be reached at all, or a certificate lacks votes, only for a short while.
//!
//! Ordered requests and reads stay the same however often they are sent. A request for signatures goes to each node once, and
//! the next round has another one: for one request holders give a node as many sessions as it may need to answer it once.

use std::time::{Duration, Instant};

use symbolon_protocol::error::{Detail, ErrorCode, Refusal};
use symbolon_protocol::state::LACKING;

use crate::trust::is_incomplete;

/// How long unreachable nodes and missing votes are waited for.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long after the start a second opinion is asked for. A refusal is to arrive within five seconds.
const SECOND_OPINION: Duration = Duration::from_secs(2);
/// Shortest time for one attempt, while there is any left.
const ATTEMPT: Duration = Duration::from_secs(1);
/// Pause after a round over all nodes without an answer; doubles up to the longest.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_millis(800);

/// What a failure says about going on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    /// This node is of no use; others may be.
    Elsewhere,
    /// May pass within moments.
    Patience,
    /// May pass until the deadline.
    Wait,
    /// A decision, which counts when a second node agrees.
    Opinion,
}

fn class(refusal: &Refusal) -> Class {
    match refusal.code {
        ErrorCode::BadCertificate if is_incomplete(refusal) => Class::Patience,
        ErrorCode::Unreachable => Class::Patience,
        // The cluster's answer to an upgrade, not a node's to this program.
        ErrorCode::VersionUnknown if refusal.details.contains_key(LACKING) => Class::Opinion,
        ErrorCode::NoQuorum
        | ErrorCode::NotFresh
        | ErrorCode::EpochChanged
        | ErrorCode::Overloaded
        | ErrorCode::DeadlineExceeded => Class::Wait,
        ErrorCode::BadCertificate
        | ErrorCode::VersionUnknown
        | ErrorCode::WrongCluster
        | ErrorCode::StorageFailed
        | ErrorCode::Quarantined => Class::Elsewhere,
        _ => Class::Opinion,
    }
}

/// Which failure is told when there are several: the first of these.
const TOLD: [ErrorCode; 10] = [
    ErrorCode::BadCertificate,
    ErrorCode::NoQuorum,
    ErrorCode::NotFresh,
    ErrorCode::EpochChanged,
    ErrorCode::Overloaded,
    ErrorCode::DeadlineExceeded,
    ErrorCode::StorageFailed,
    ErrorCode::Quarantined,
    ErrorCode::VersionUnknown,
    ErrorCode::WrongCluster,
];

/// What to do after a round over all nodes.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Round {
    /// Ask them all again after a pause.
    Again(Duration),
    /// Give up.
    Over(Refusal),
}

/// The attempts of one call.
#[derive(Debug)]
pub(crate) struct Attempts {
    started: Instant,
    deadline: Duration,
    nodes: usize,
    rounds: u32,
    /// Failures of this round, or of the last one when this one has none yet.
    failures: Vec<(String, Refusal)>,
    stale: bool,
    opinion: Option<Refusal>,
}

impl Attempts {
    pub(crate) fn new(started: Instant, deadline: Duration, nodes: usize) -> Self {
        Self { started, deadline, nodes, rounds: 0, failures: Vec::new(), stale: false, opinion: None }
    }

    /// Whether every node is asked for the first time.
    pub(crate) fn is_first_round(&self) -> bool {
        self.rounds == 0
    }

    /// Time for the next attempt; none when it is over.
    pub(crate) fn budget(&self, now: Instant) -> Option<Duration> {
        let passed = now.saturating_duration_since(self.started);
        let left = self.deadline.checked_sub(passed).filter(|left| !left.is_zero())?;
        if self.opinion.is_some() {
            // What the first node said is good enough when the second does not answer soon.
            return (passed < SECOND_OPINION).then(|| left.min(SECOND_OPINION));
        }
        // A node that hangs must leave time for the others.
        Some(if self.nodes > 1 { (left / 2).max(ATTEMPT).min(left) } else { left })
    }

    /// Takes a failure; gives it back when it is final.
    pub(crate) fn note(&mut self, label: &str, refusal: Refusal) -> Option<Refusal> {
        if class(&refusal) == Class::Opinion {
            let first = self.opinion.take();
            if first.is_some() {
                return first;
            }
            self.opinion = Some(refusal);
            return None;
        }
        if std::mem::take(&mut self.stale) {
            self.failures.clear();
        }
        self.failures.push((label.to_owned(), refusal));
        None
    }

    /// All nodes were asked.
    pub(crate) fn round_over(&mut self, now: Instant) -> Round {
        let passed = now.saturating_duration_since(self.started);
        let patience = match self.failures.iter().map(|(_, refusal)| class(refusal)).max() {
            Some(Class::Wait) => self.deadline,
            Some(Class::Patience) => self.deadline.min(PATIENCE),
            _ => Duration::ZERO,
        };
        let pause = LONGEST_PAUSE.min(PAUSE * 2u32.saturating_pow(self.rounds));
        if self.opinion.is_some() || passed + pause >= patience {
            return Round::Over(self.give_up());
        }
        self.rounds = self.rounds.saturating_add(1);
        self.stale = true;
        Round::Again(pause)
    }

    /// What is told when nothing more can be tried.
    pub(crate) fn give_up(&mut self) -> Refusal {
        if let Some(opinion) = self.opinion.take() {
            return opinion;
        }
        let told = TOLD.iter().find_map(|code| self.failures.iter().find(|(_, refusal)| refusal.code == *code));
        let all: Vec<String> =
            self.failures.iter().map(|(label, refusal)| format!("{label}: {}", refusal.message)).collect();
        let text = all.join("; ");
        let refusal = match told.or(self.failures.first()) {
            None => Refusal::new(ErrorCode::DeadlineExceeded, "the time was over before any node was asked"),
            Some((_, first)) if first.code == ErrorCode::Unreachable => {
                Refusal::new(ErrorCode::Unreachable, format!("no node can be reached: {text}"))
            }
            Some((_, first)) => Refusal { message: text, ..first.clone() },
        };
        refusal.with("nodes", Detail::List(all))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const DEADLINE: Duration = Duration::from_secs(10);

    fn refusal(code: ErrorCode) -> Refusal {
        Refusal::new(code, "why")
    }

    fn over(round: Round) -> Refusal {
        match round {
            Round::Over(refusal) => refusal,
            Round::Again(_) => refusal(ErrorCode::Internal),
        }
    }

    #[test]
    fn one_node_alone_cannot_refuse() {
        let start = Instant::now();
        let mut attempts = Attempts::new(start, DEADLINE, 3);
        assert_eq!(attempts.note("a", refusal(ErrorCode::PermissionDenied)), None);
        assert_eq!(attempts.note("b", refusal(ErrorCode::Unreachable)), None);
        let second = attempts.note("c", refusal(ErrorCode::NotFound));
        assert_eq!(second, Some(refusal(ErrorCode::PermissionDenied)), "the first one is told");
        // Nobody else answers: then it counts.
        let mut attempts = Attempts::new(start, DEADLINE, 2);
        attempts.note("a", refusal(ErrorCode::BelowThreshold));
        attempts.note("b", refusal(ErrorCode::NoQuorum));
        assert_eq!(over(attempts.round_over(start)).code, ErrorCode::BelowThreshold);
    }

    #[test]
    fn a_second_opinion_is_not_waited_for() {
        let start = Instant::now();
        let mut attempts = Attempts::new(start, DEADLINE, 5);
        assert_eq!(attempts.budget(start), Some(Duration::from_secs(5)));
        attempts.note("a", refusal(ErrorCode::BelowThreshold));
        assert!(attempts.budget(start + Duration::from_secs(1)).unwrap() <= SECOND_OPINION);
        assert_eq!(attempts.budget(start + Duration::from_secs(3)), None);
        assert_eq!(attempts.give_up().code, ErrorCode::BelowThreshold);
    }

    #[test]
    fn an_election_is_waited_for_and_dead_nodes_are_not() {
        let start = Instant::now();
        let late = start + Duration::from_secs(5);
        let mut attempts = Attempts::new(start, DEADLINE, 2);
        attempts.note("a", refusal(ErrorCode::Unreachable));
        attempts.note("b", refusal(ErrorCode::NoQuorum));
        assert!(matches!(attempts.round_over(late), Round::Again(_)));
        attempts.note("a", refusal(ErrorCode::Unreachable));
        assert_eq!(attempts.failures.len(), 1, "failures of the round before are replaced");
        assert_eq!(over(attempts.round_over(late)).code, ErrorCode::Unreachable);
        let mut attempts = Attempts::new(start, DEADLINE, 2);
        attempts.note("a", refusal(ErrorCode::Unreachable));
        assert!(matches!(attempts.round_over(start), Round::Again(_)));
    }

    #[test]
    fn a_false_certificate_is_told_before_everything_else() {
        let start = Instant::now();
        let mut attempts = Attempts::new(start, DEADLINE, 3);
        attempts.note("a", refusal(ErrorCode::WrongCluster));
        attempts.note("b", refusal(ErrorCode::BadCertificate));
        let told = over(attempts.round_over(start));
        assert_eq!(told.code, ErrorCode::BadCertificate);
        assert!(told.message.contains("a: why") && told.message.contains("b: why"), "{}", told.message);
        assert_eq!(told.details.get("nodes").map(|_| ()), Some(()));
    }

    #[test]
    fn the_time_is_shared() {
        let start = Instant::now();
        let only = Attempts::new(start, DEADLINE, 1);
        assert_eq!(only.budget(start), Some(DEADLINE));
        assert_eq!(only.budget(start + DEADLINE), None);
        let many = Attempts::new(start, DEADLINE, 5);
        let near = start + DEADLINE.saturating_sub(Duration::from_millis(300));
        assert_eq!(many.budget(near), Some(Duration::from_millis(300)));
    }
}
