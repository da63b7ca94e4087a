//! A run that fails is made smaller while the same invariant still breaks: no faults of a class, fewer operations, fewer nodes,
//! less time.

use symbolon_protocol::id::NodeId;

use crate::bugs::Bug;
use crate::invariants::Violation;
use crate::options::Options;
use crate::run_with;

/// Runs that are tried at most.
const TRIES: usize = 400;

/// Half of a number, as long as that is less.
fn half<T: Copy + PartialEq + std::ops::Div<Output = T> + From<u8>>(number: &mut T) {
    *number = *number / T::from(2);
}

/// Everything that is a little less than a run, the largest steps first.
fn smaller(options: &Options) -> Vec<Options> {
    let changes: [fn(&mut Options); 26] = [
        |o| o.evil.clear(),
        |o| o.crash_persist = 0,
        |o| o.crash_ms = 0,
        |o| o.leader_ms = 0,
        |o| o.isolate_ms = 0,
        |o| o.drop = 0,
        |o| o.duplicate = 0,
        |o| o.spike = 0,
        |o| o.skew_ms = 0,
        |o| o.lag_ms = 2,
        |o| o.delay_ms = 2,
        |o| o.nodes = o.nodes.saturating_sub(1).max(2),
        |o| half(&mut o.operations),
        |o| half(&mut o.chaos_ms),
        |o| o.operations = o.operations.saturating_sub(1),
        |o| o.chaos_ms -= o.chaos_ms / 4,
        |o| half(&mut o.malice),
        |o| half(&mut o.crash_persist),
        |o| half(&mut o.drop),
        |o| half(&mut o.duplicate),
        |o| half(&mut o.spike),
        |o| half(&mut o.skew_ms),
        |o| half(&mut o.lag_ms),
        |o| half(&mut o.delay_ms),
        |o| half(&mut o.down_ms),
        |o| {
            o.evil.pop_last();
        },
    ];
    let mut list = Vec::new();
    for change in changes {
        let mut next = options.clone();
        change(&mut next);
        (next.lag_ms, next.delay_ms, next.down_ms) = (next.lag_ms.max(2), next.delay_ms.max(2), next.down_ms.max(20));
        let nodes = next.nodes;
        next.evil.retain(|node: &NodeId| node.get() <= nodes);
        // An honest majority of the voters is what every promise rests on.
        if next != *options && next.evil.len() <= usize::from((nodes - 1) / 2) {
            list.push(next);
        }
    }
    list
}

/// The smallest run found that breaks what this one breaks, with what it breaks; none when this one breaks nothing.
#[must_use]
pub fn shrink(options: &Options, bug: Option<Bug>) -> Option<(Options, Violation)> {
    let mut violation = run_with(options.clone(), bug, false).violation?;
    let mut best = options.clone();
    let mut tries = 0;
    'smaller: loop {
        for candidate in smaller(&best) {
            tries += 1;
            if tries > TRIES {
                return Some((best, violation));
            }
            let broken = run_with(candidate.clone(), bug, false).violation;
            if let Some(broken) = broken.filter(|broken| broken.invariant == violation.invariant) {
                (best, violation) = (candidate, broken);
                continue 'smaller;
            }
        }
        return Some((best, violation));
    }
}
