//! A node that loses its RAM in the middle of an attempt.

use super::*;

#[test]
fn a_holder_that_restarts_comes_to_the_same_share() {
    let key = Key::new(&[1, 2, 3, 4, 5], 3, 21);
    let mut shares = Vec::new();
    for restart_after in [None, Some(1), Some(3), Some(4)] {
        let mut bench = Bench::new(false);
        (bench, _) = bench.commit(&[2, 3, 4]);
        for (step, dealer) in [3, 4, 2].into_iter().enumerate() {
            let (next, votes) = bench.well(dealer);
            (bench, _) = next.order(&votes);
            if restart_after == Some(step + 1) {
                bench = restarted(bench, &key);
            }
        }
        let (mut bench, mut effects) = bench.others(&[2, 3, 4]);
        if restart_after == Some(4) {
            // After the choice, before its disk had the share: dealers that were chosen send theirs again.
            bench = restarted(bench, &key);
            effects = Vec::new();
        }
        for dealer in [2, 3, 4] {
            let message = bench.good(dealer);
            let (next, more, _) = bench.hear(dealer, &message);
            bench = next;
            effects.extend(more);
        }
        if let (Some(1), false) = (restart_after, bench.log.dealings.result.is_some()) {
            let word = said(&bench.again());
            (bench, effects) = bench.order(&word);
        }
        let (core, secret) = staged(effects).unwrap();
        assert_eq!(bench.machine.waiting_for().0, Phase::Staging);
        shares.push((core, *secret.expose()));
    }
    assert!(shares.iter().all(|share| *share == shares[0]));
}

/// The node with an empty memory, shown the log as it is.
fn restarted(mut bench: Bench, key: &Key) -> Bench {
    let mut with = start(key, &bench.log.ceremony, 1, OwnVotes::default());
    with.share = None;
    bench.machine = begin(with, &mut bench.rng).unwrap().0;
    bench.order(&[]).0
}

#[test]
fn a_dealer_that_restarts_does_not_deal_again_and_still_holds() {
    let key = Key::new(&[1, 2, 3, 4, 5], 3, 21);
    let ceremony = key.refresh();
    let mut bench = Bench::new(true);
    let own = said(&bench.again());
    (bench, _) = bench.order(&own);
    let begun = OwnVotes { participation: Some(Participation::Begun), activated: false };
    let (machine, writes, effects) = begin(start(&key, &ceremony, 1, begun), &mut bench.rng).unwrap();
    assert_eq!((writes.len(), effects.len()), (0, 0));
    bench.machine = machine;
    (bench, _) = bench.commit(&[2, 3, 4, 5]);
    let mut votes = Vec::new();
    for i in [2, 3, 4] {
        (bench, votes) = bench.well(i);
    }
    // Of its own dealing it has no subshare any more, and does not claim one.
    assert_eq!(word(&votes), Some((vec![2, 3, 4], vec![])));
    (bench, _) = bench.order(&votes);
    let (bench, effects) = bench.others(&[2, 3, 4]);
    assert!(staged(effects).is_some());
    assert_eq!(bench.log.dealings.result.unwrap().dealers, nodes(&[2, 3, 4]));
    // A node that only dealt has no part any more.
    let away = key.moves(&[6, 7, 8], &[6, 7, 8], 2);
    let refused = begin(start(&key, &away, 1, begun), &mut bench.rng.clone()).unwrap_err();
    assert_eq!(refused, StartRefused::NoPart);
}

/// After a restart, what was acknowledged cannot be taken back, whatever a dealer sends now.
#[test]
fn a_holder_that_restarted_does_not_accuse_whom_it_acknowledged() {
    let key = Key::new(&[1, 2, 3, 4, 5], 3, 21);
    let (mut bench, _) = Bench::new(false).commit(&[2, 3, 4]);
    (bench, _) = bench.well(2);
    let word = said(&bench.again());
    (bench, _) = bench.order(&word);
    bench = restarted(bench, &key);
    let wrong = bench.subshare(2, 1, Scalar::ONE);
    let (bench, effects, _) = bench.hear(2, &wrong);
    assert!(effects.is_empty() && bench.again().is_empty());
}
