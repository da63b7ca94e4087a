//! What is waited for, and for how long.

use std::collections::BTreeSet;

use super::*;
use crate::fresh::{Barrier, Electorate, Enforced, Progress};

const W: u64 = 1_000;
const R: u64 = 50;

fn nodes(numbers: impl IntoIterator<Item = u16>) -> BTreeSet<NodeId> {
    numbers.into_iter().map(node).collect()
}

/// Of five voters; these hold shares.
fn barrier(holders: impl IntoIterator<Item = u16>) -> Barrier {
    let holders = holders.into_iter().map(|number| (node(number), W)).collect();
    Barrier::new(R, vec![Electorate::of(nodes(1..=5))], holders)
}

fn everybody(_: NodeId) -> bool {
    true
}

#[test]
fn all_holders_and_b_voters_are_enough_at_once() {
    let mut barrier = barrier([1, 2, 3, 4]);
    for number in 1..=4 {
        assert_eq!(barrier.progress(0, 10, everybody), Progress::Until(limits::BARRIER_MS));
        barrier.take(10, honest(number, 0, R + u64::from(number)));
    }
    assert_eq!(barrier.progress(0, 10, everybody), Progress::Done(Enforced::Byzantine));
    assert_eq!((barrier.missing(), barrier.staleness_ms()), (nodes([5]), 0));
}

#[test]
fn a_holder_that_is_missing_is_waited_out() {
    let mut barrier = barrier(1..=5);
    for number in 1..=3 {
        barrier.take(10, honest(number, 0, R));
    }
    barrier.take(200, honest(4, 0, R));
    barrier.take(900, honest(4, 0, R + 1));
    assert_eq!(
        barrier.progress(0, 900, everybody),
        Progress::Until(200 + 1_050),
        "1.05 W after the fourth voter, once"
    );
    assert_eq!(barrier.progress(0, 1_249, everybody), Progress::Until(1_250));
    assert_eq!(barrier.progress(0, 1_250, everybody), Progress::Done(Enforced::Byzantine));
    barrier.take(1_000, honest(5, 0, R));
    assert_eq!(barrier.progress(0, 1_000, everybody), Progress::Done(Enforced::Byzantine), "it came after all");
}

#[test]
fn the_longest_staleness_of_those_who_are_missing_counts() {
    let holders = BTreeMap::from([(node(1), W), (node(2), W), (node(5), 3 * W), (node(6), 10)]);
    let mut barrier = Barrier::new(R, vec![Electorate::of(nodes(1..=5))], holders);
    for number in 1..=4 {
        barrier.take(0, honest(number, 0, R));
    }
    assert_eq!(barrier.progress(0, 0, everybody), Progress::Until(3_150));
    barrier.take(5, honest(5, 0, R));
    assert_eq!(barrier.staleness_ms(), 10, "a learner that holds a share");
    assert_eq!(barrier.progress(0, 5, everybody), Progress::Until(11), "1.05 W is rounded up");
}

#[test]
fn a_majority_alone_is_enough_against_crashes_only() {
    let mut barrier = barrier(1..=5);
    for number in 1..=3 {
        barrier.take(2_500, honest(number, 0, R));
    }
    let collected = 1_000 + limits::BARRIER_MS;
    assert_eq!(barrier.progress(1_000, 2_500, everybody), Progress::Until(collected));
    assert_eq!(barrier.progress(1_000, collected, everybody), Progress::Done(Enforced::Crash), "W passed meanwhile");
    // Where the others cannot be reached there is nothing to wait for but W.
    let up = |node: NodeId| node.get() <= 3;
    assert_eq!(barrier.progress(1_000, 2_500, up), Progress::Until(2_500 + 1_050));
    assert_eq!(barrier.progress(1_000, 3_550, up), Progress::Done(Enforced::Crash));
}

#[test]
fn less_than_a_majority_enforces_nothing() {
    let mut barrier = barrier([1, 2]);
    barrier.take(10, honest(1, 0, R));
    barrier.take(10, honest(2, 0, R));
    // These say nothing about the entry, or do not vote.
    barrier.take(10, honest(3, 0, R - 1));
    barrier.take(10, honest(6, 0, R));
    let up = |node: NodeId| node.get() <= 2;
    assert_eq!(barrier.progress(0, 10, up), Progress::Until(limits::BARRIER_HOPELESS_MS));
    assert_eq!(barrier.progress(0, limits::BARRIER_HOPELESS_MS, up), Progress::Done(Enforced::No));
    assert_eq!(barrier.missing(), nodes([3, 4, 5]));
}

#[test]
fn the_same_request_goes_on_where_it_was() {
    let holders = BTreeMap::from([(node(5), 60_000)]);
    let mut barrier = Barrier::new(R, vec![Electorate::of(nodes(1..=5))], holders);
    for number in 1..=4 {
        barrier.take(100, honest(number, 0, R));
    }
    assert_eq!(barrier.progress(0, 100, everybody), Progress::Done(Enforced::No), "longer than an answer is held");
    assert_eq!(barrier.progress(55_000, 55_000, everybody), Progress::Until(63_100));
    assert_eq!(barrier.progress(55_000, 63_100, everybody), Progress::Done(Enforced::Byzantine));
}

#[test]
fn voters_from_before_a_change_are_waited_for_too() {
    // 4 and 5 left; three of five had signed that when it began.
    let before = |passed: &[u16]| Electorate { passed: nodes(passed.iter().copied()), ..Electorate::of(nodes(1..=5)) };
    let now = || Electorate::of([1, 2, 3, 6, 7].map(node).into());
    let mut barrier = Barrier::new(R, vec![before(&[1, 2, 3]), now()], BTreeMap::new());
    assert_eq!(barrier.missing(), nodes(1..=7));
    for number in [1, 2, 3, 6, 7] {
        barrier.take(10, honest(number, 0, R));
    }
    assert_eq!(barrier.missing(), nodes([4, 5]));
    assert_eq!(barrier.progress(0, 10, everybody), Progress::Until(limits::BARRIER_MS));
    let up = |node: NodeId| ![4, 5].contains(&node.get());
    assert_eq!(barrier.progress(0, limits::BARRIER_HOPELESS_MS, up), Progress::Done(Enforced::Crash));
    // One of the two signs the change late, or says where it is.
    barrier.set_electorates(20, vec![before(&[1, 2, 3, 5]), now()]);
    assert_eq!(barrier.progress(0, 20, everybody), Progress::Done(Enforced::Byzantine));
    barrier.set_electorates(30, vec![before(&[1, 2, 3]), now()]);
    barrier.take(40, honest(4, 0, R));
    assert_eq!(barrier.progress(0, 40, everybody), Progress::Done(Enforced::Byzantine));
    // Not even a majority of those from before knows of the change.
    barrier.set_electorates(50, vec![Electorate::of(nodes(8..=12)), now()]);
    assert_eq!(barrier.progress(0, limits::BARRIER_MS, everybody), Progress::Done(Enforced::No));
}

#[test]
fn voters_from_before_a_change_are_done_with_when_all_who_stayed_know_more() {
    // 4 and 5 left; 8 does not vote. Three voters had signed the change when it began.
    let before = |passed: &[u16]| {
        let (voters, lessees) = (nodes(1..=5), nodes([1, 2, 3, 8]));
        Electorate { voters, lessees, passed: nodes(passed.iter().copied()) }
    };
    let now = || Electorate::of([1, 2, 3, 6, 7].map(node).into());
    let mut barrier = Barrier::new(R, vec![before(&[1, 2, 3]), now()], BTreeMap::new());
    for number in [1, 2, 6, 7] {
        barrier.take(10, honest(number, 0, R));
    }
    assert_eq!(barrier.progress(0, limits::BARRIER_MS, everybody), Progress::Done(Enforced::Crash));
    // It signs the change, or says where it is.
    barrier.set_electorates(20, vec![before(&[1, 2, 3, 8]), now()]);
    assert_eq!(barrier.progress(0, 20, everybody), Progress::Done(Enforced::Byzantine));
    barrier.set_electorates(30, vec![before(&[1, 2, 3]), now()]);
    barrier.take(40, honest(8, 0, R));
    assert_eq!(barrier.progress(0, 40, everybody), Progress::Done(Enforced::Byzantine));
    // They do not speak for the voters of now.
    barrier.set_electorates(50, vec![before(&[1, 2, 3]), Electorate::of(nodes(8..=12))]);
    assert_eq!(barrier.progress(0, limits::BARRIER_MS, everybody), Progress::Done(Enforced::No));
}
