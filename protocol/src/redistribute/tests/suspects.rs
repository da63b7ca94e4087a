//! Whom an attempt that came to nothing names.

use super::*;

/// What honest nodes and liars do in one attempt, without the cryptography: who deals, and who acknowledges whom.
struct Attempt {
    dealers: Vec<NodeId>,
    holders: Vec<NodeId>,
    log: Log,
}

impl Attempt {
    /// Everybody of an n-node key is dealer and holder.
    fn new(n: u16, t: usize) -> Self {
        let numbers: Vec<u16> = (1..=n).collect();
        let key = Key::new(&numbers, t, 1);
        let ceremony = key.refresh();
        Self { dealers: nodes(&numbers), holders: nodes(&numbers), log: Log::new(key, ceremony) }
    }

    /// Fills the log: `in_dispute` says which pairs do not come to terms; `silent` holders say nothing, `absent` dealers neither.
    fn run(&mut self, in_dispute: &[(u16, u16)], absent: &[u16], silent: &[u16]) -> &mut Self {
        let ceremony = &mut self.log.ceremony;
        ceremony.holders.clone_from(&self.holders);
        ceremony.base.as_mut().unwrap().dealers.clone_from(&self.dealers);
        let dealings = &mut self.log.dealings;
        *dealings = Dealings { disputes: dealings.disputes.clone(), ..Dealings::default() };
        let dealing = self.dealers.iter().filter(|dealer| !absent.contains(&dealer.get()));
        dealings.dealt = dealing.map(|dealer| (*dealer, vec![])).collect();
        for holder in self.holders.iter().filter(|holder| !silent.contains(&holder.get())) {
            let agrees = |dealer: &NodeId| !in_dispute.contains(&(dealer.get(), holder.get()));
            let good = dealings.dealt.iter().map(|(dealer, _)| *dealer).filter(agrees).collect();
            dealings.acknowledged.insert(*holder, good);
        }
        self
    }

    fn succeeds(&self) -> bool {
        let by_all = |dealer| self.holders.iter().all(|holder| self.log.dealings.acknowledges(*holder, dealer));
        let good = self.log.dealings.dealt.iter().filter(|(dealer, _)| by_all(*dealer)).count();
        good >= self.log.key.core.threshold.get()
    }

    fn suspects(&self) -> (Vec<u16>, Vec<u16>) {
        self.log.suspects()
    }
}

#[test]
fn the_silent_are_named_when_others_spoke() {
    let mut attempt = Attempt::new(5, 3);
    assert_eq!(attempt.run(&[], &[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5]).suspects(), (vec![], vec![]));
    assert_eq!(attempt.run(&[], &[1, 2, 3], &[1, 2, 3, 4, 5]).suspects(), (vec![1, 2, 3], vec![]));
    assert_eq!(attempt.run(&[], &[1, 2, 3], &[4]).suspects(), (vec![1, 2, 3], vec![4]));
    assert_eq!(attempt.run(&[], &[], &[4, 2]).suspects(), (vec![], vec![2, 4]));
}

#[test]
fn a_dispute_is_settled_against_the_dealer() {
    let mut attempt = Attempt::new(3, 2);
    assert_eq!(attempt.run(&[(1, 3)], &[], &[]).suspects(), (vec![1], vec![]));
    // One that went on to a second dealer is named itself, and the dealers are not.
    assert_eq!(attempt.run(&[(1, 3), (2, 3)], &[], &[]).suspects(), (vec![], vec![3]));
    // A dealer that is in dispute with two holders is named, and they are not.
    assert_eq!(attempt.run(&[(1, 3), (1, 2)], &[], &[]).suspects(), (vec![1], vec![]));
    // A node that lost what it dealt is in dispute with everybody, with itself too.
    assert_eq!(attempt.run(&[(1, 1), (1, 2), (1, 3)], &[], &[]).suspects(), (vec![1], vec![]));
}

#[test]
fn an_accusation_and_silence_about_a_dealer_weigh_the_same() {
    let key = Key::new(&[1, 2, 3], 2, 11);
    let ceremony = key.refresh();
    let mut rng = ChaCha20Rng::seed_from_u64(12);
    let polys: Vec<Poly> = (1..=3).map(|i| key.dealing(i, &ceremony, &mut rng)).collect();
    let mut log = Log::new(key, ceremony.clone());
    for i in 1..=3 {
        log.take(&dealt(&ceremony, i, polys[usize::from(i) - 1].commitments())).unwrap();
    }
    log.take(&acknowledged(&ceremony, 1, &[1, 2, 3], &[])).unwrap();
    log.take(&acknowledged(&ceremony, 2, &[2], &[])).unwrap();
    log.take(&acknowledged(&ceremony, 3, &[], &[1])).unwrap();
    // Holder 3 is in dispute with all three dealers, holder 2 with two of them.
    assert_eq!(log.suspects(), (vec![], vec![3, 2]));
    assert_eq!(log.dealings.for_next_attempt(&ceremony).disputes.len(), 5);
}

#[test]
fn what_a_silent_node_is_in_dispute_about_counts_against_nobody_else() {
    let mut attempt = Attempt::new(5, 3);
    // Dealer 5 deals to nobody and holder 4 is away: nobody else is named.
    let disputes: Vec<(u16, u16)> = (1..=5).map(|holder| (5, holder)).collect();
    assert_eq!(attempt.run(&disputes, &[], &[4]).suspects(), (vec![5], vec![4]));
}

#[test]
fn once_the_dealers_are_chosen_nobody_is_named() {
    let mut attempt = Attempt::new(3, 2);
    attempt.run(&[(1, 3)], &[2], &[]);
    let core = attempt.log.key.core.clone();
    attempt.log.dealings.result = Some(Chosen { dealers: nodes(&[1, 2]), core });
    assert_eq!(attempt.suspects(), (vec![], vec![]));
    assert!(attempt.log.dealings.for_next_attempt(&attempt.log.ceremony).disputes.is_empty());
}

#[test]
fn disputes_are_remembered_until_the_operation_ends() {
    let mut attempt = Attempt::new(7, 4);
    // A liar that accuses another dealer in each attempt is named the second time, its first victim no more.
    assert_eq!(attempt.run(&[(1, 7)], &[], &[]).suspects(), (vec![1], vec![]));
    attempt.log.dealings = attempt.log.dealings.for_next_attempt(&attempt.log.ceremony);
    assert_eq!(
        attempt.log.dealings,
        Dealings { disputes: BTreeSet::from([(node(1), node(7))]), ..Dealings::default() }
    );
    assert_eq!(attempt.run(&[(2, 7)], &[], &[]).suspects(), (vec![], vec![7]));
    // Two lying dealers frame holder 1. As soon as they go on to a second victim, they are named and their victims no more.
    let mut attempt = Attempt::new(7, 4);
    assert_eq!(attempt.run(&[(6, 1), (7, 1)], &[], &[]).suspects(), (vec![], vec![1]));
    attempt.log.dealings = attempt.log.dealings.for_next_attempt(&attempt.log.ceremony);
    assert_eq!(attempt.run(&[(6, 2), (7, 2)], &[], &[]).suspects(), (vec![7, 6], vec![]));
}

/// One liar among n = 2t-1 nodes, n > 3, in both of its roles: to stop an attempt it must quarrel with two at once, and is named
/// alone; without it as a holder nothing is left to stop.
#[test]
fn a_single_liar_that_stops_an_attempt_is_named_and_nobody_else() {
    let mut stopped = 0;
    for (n, t) in [(5, 3), (7, 4), (9, 5)] {
        let liar = 2;
        let others: Vec<u16> = (1..=n).filter(|i| *i != liar).collect();
        let mut attempt = Attempt::new(n, t);
        // Every set of dealers that it quarrels with as a holder, beside some holders that it quarrels with as a dealer.
        for (set, framed) in (0..1u32 << (n - 1)).flat_map(|set| (0..=2).map(move |framed| (set, framed))) {
            let chosen = others.iter().enumerate().filter(|(at, _)| set >> at & 1 == 1);
            let as_holder = chosen.map(|(_, dealer)| (*dealer, liar));
            let as_dealer: Vec<(u16, u16)> = others.iter().take(framed).map(|holder| (liar, *holder)).collect();
            let disputes: Vec<(u16, u16)> = as_holder.chain(as_dealer.iter().copied()).collect();
            attempt.holders.clone_from(&attempt.dealers);
            if attempt.run(&disputes, &[], &[]).succeeds() {
                continue;
            }
            stopped += 1;
            let (dealers, holders) = attempt.suspects();
            assert!(holders == [liar] && dealers.iter().all(|dealer| *dealer == liar), "{disputes:?}: {dealers:?}");
            attempt.holders.retain(|holder| *holder != node(liar));
            assert!(attempt.run(&as_dealer, &[], &[]).succeeds());
        }
    }
    assert!(stopped > 100);
}
