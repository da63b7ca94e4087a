//! Which answers count, for how long, and what a voter that lies can do.

use super::*;
use crate::fresh::Equivocation;
use crate::wire::decode;

const W: u64 = 1_000;

#[test]
fn a_majority_makes_a_lease_from_the_time_of_the_question() {
    let mut world = World::new(5, 10);
    let question = world.ask(5_000);
    assert!(world.hear(5_100, &honest(2, question, 10)).is_empty());
    assert!(!world.fresh(5_100, W), "two of five, this node included");
    world.hear(5_400, &honest(3, question, 8));
    assert!(world.fresh(5_400, W) && world.fresh(5_999, W));
    assert!(!world.fresh(6_000, W), "W after the question was sent, not after the answer came");
    // The same evidence serves keys with another W.
    assert!(!world.fresh(5_400, 300) && world.fresh(14_000, 10_000));
    assert!(!world.fresh(4_999, W), "a clock that goes back proves nothing");
    assert_eq!(world.lease.evidence().unwrap().age_ms(5_400), Some(400));
}

#[test]
fn answers_to_later_questions_back_earlier_ones() {
    let mut world = World::new(5, 10);
    let first = world.ask(1_000);
    let second = world.ask(1_300);
    world.hear(1_400, &honest(2, second, 10));
    world.hear(1_500, &honest(3, first, 10));
    assert_eq!(
        world.lease.evidence().unwrap().age_ms(1_500),
        Some(500),
        "the first question is backed, the second is not"
    );
    world.hear(1_600, &honest(4, second, 10));
    assert_eq!(world.lease.evidence().unwrap().age_ms(1_600), Some(300));
    // An answer to an older question does not take anything back.
    world.hear(1_650, &honest(5, first, 10));
    assert_eq!(world.lease.evidence().unwrap().age_ms(1_650), Some(350));
}

#[test]
fn an_answer_that_is_ahead_counts_when_the_node_is_there_and_agrees() {
    let mut world = World::new(3, 10);
    let question = world.ask(1_000);
    world.hear(1_010, &honest(2, question, 12));
    assert!(!world.fresh(1_010, W));
    assert_eq!(world.lease.tally(1_010, W).ahead, [node(2)].into());
    world.apply(1_050, 11);
    assert!(!world.fresh(1_050, W));
    world.apply(1_060, 12);
    assert!(world.fresh(1_060, W));
    assert!(world.lease.tally(1_060, W).ahead.is_empty());
}

#[test]
fn another_history_never_counts_and_is_told_once_a_minute() {
    let mut world = World::new(5, 10);
    for (at, told) in [(1_000, true), (1_300, false), (60_999, false), (61_100, true)] {
        let question = world.ask(at);
        // At an index that was applied, and at one that is reached later.
        let odd = position(2, question, 10, root(1, 10)).sign(&identity(2), &CLUSTER);
        let notices = world.hear(at, &odd);
        let differs = Notice::Differs { node: node(2), index: 10, theirs: root(1, 10), ours: root(0, 10) };
        assert_eq!(notices, if told { vec![differs] } else { vec![] }, "at {at}");
    }
    let question = world.ask(70_000);
    world.hear(70_001, &position(3, question, 11, root(1, 11)).sign(&identity(3), &CLUSTER));
    world.hear(70_001, &honest(4, question, 10));
    assert!(matches!(world.apply(70_010, 11)[..], [Notice::Differs { index: 11, .. }]));
    assert!(!world.fresh(70_010, W), "two of five agree");
    world.hear(70_020, &honest(5, question, 11));
    assert!(world.fresh(70_020, W), "two that differ do not stop three that agree");
}

#[test]
fn who_is_beyond_reach_waits_in_bounded_memory_and_stops_nobody() {
    let mut world = World::new(3, 10);
    let mut alarms = 0;
    for round in 0..100 {
        let at = 1_000 + round * 333;
        let question = world.ask(at);
        world.hear(at, &honest(2, question, 10));
        let far = position(3, question, u64::MAX, root(1, u64::MAX)).sign(&identity(3), &CLUSTER);
        alarms += world.hear(at, &far).len();
        alarms += world.apply(at, 10).len();
        assert!(world.fresh(at + 300, W), "round {round}");
        assert_eq!(world.lease.tally(at, W).ahead, [node(3)].into());
    }
    assert_eq!(alarms, 0, "alarms come when its question is forgotten");
    let (_, notices) = world.lease.ask(200_000, nonce(1_000));
    assert_eq!(notices, [Notice::Ahead { node: node(3), index: u64::MAX }]);
    assert_eq!(world.lease.highest(node(2)), Some(10));
}

#[test]
fn two_heads_for_one_index_are_a_proof_and_end_a_voters_say() {
    let mut world = World::new(3, 10);
    let first = world.ask(1_000);
    world.hear(1_010, &honest(2, first, 9));
    assert!(world.fresh(1_010, W));
    let second = world.ask(1_300);
    let other = position(2, second, 9, root(1, 9)).sign(&identity(2), &CLUSTER);
    let notices = world.hear(1_310, &other);
    let [Notice::Equivocates(proof)] = &notices[..] else { panic!("{notices:?}") };
    assert!(!world.fresh(1_310, W), "what it said before does not count any more either");
    // Anybody can check the proof, and nobody can make one against somebody else.
    let proof: Equivocation = decode(&encode(&**proof)).unwrap();
    assert_eq!((proof.node(), proof.index()), (node(2), 9));
    assert!(proof.proves(&identity(2).public(), &CLUSTER));
    assert!(!proof.proves(&identity(3).public(), &CLUSTER));
    assert!(!Equivocation { second: proof.first, ..proof }.proves(&identity(2).public(), &CLUSTER));
    // True answers of a liar are not asked for.
    let third = world.ask(1_600);
    assert!(world.hear(1_610, &honest(2, third, 10)).is_empty());
    assert!(!world.fresh(1_610, W));
    world.hear(1_620, &honest(3, third, 10));
    assert!(world.fresh(1_620, W), "the other voter is enough");
    assert_eq!(world.lease.view(1_620, Some(W)).equivocations, [proof]);
    // After a restart the proof still counts.
    let mut again = World::new(3, 10);
    let mut lease = Lease::new(node(1), CLUSTER, [proof]);
    lease.set_voters((1..=3).map(|number| (node(number), identity(number).public())).collect());
    lease.set_ready();
    again.lease = lease;
    let question = again.ask(5_000);
    again.hear(5_010, &honest(2, question, 10));
    assert!(!again.fresh(5_010, W));
}

#[test]
fn nobody_is_framed_by_saying_the_same_again() {
    let mut world = World::new(3, 10);
    for round in 0..20 {
        let question = world.ask(1_000 + round * 100);
        for applied in [10, 9, 3] {
            // Another boot and another nonce are no other history.
            let mut said = position(2, question, applied, root(0, applied));
            said.boot.counter = round;
            assert!(world.hear(1_000 + round * 100, &said.sign(&identity(2), &CLUSTER)).is_empty());
        }
    }
    let membership = Position { membership: 1, ..position(2, 1, 3, root(0, 3)) };
    assert!(membership.contradicts(&position(2, 1, 3, root(0, 3))), "the membership is part of the head");
    assert!(!membership.contradicts(&position(3, 1, 3, root(0, 3))), "two voters do not contradict each other");
    assert!(!membership.contradicts(&position(2, 1, 4, root(1, 4))));
}

#[test]
fn what_others_saw_is_compared_too() {
    let mut world = World::new(5, 10);
    let question = world.ask(1_000);
    world.hear(1_010, &honest(2, question, 10));
    let elsewhere = position(2, 99, 10, root(1, 10)).sign(&identity(2), &CLUSTER);
    // Not signed by the voter: no proof.
    let false_witness = position(2, 99, 10, root(1, 10)).sign(&identity(3), &CLUSTER);
    assert!(world.lease.compare(&[honest(2, 98, 10), honest(3, 98, 10), false_witness]).is_empty());
    let notices = world.lease.compare(&[honest(3, 98, 10), elsewhere]);
    assert!(matches!(&notices[..], [Notice::Equivocates(proof)] if proof.node() == node(2)), "{notices:?}");
    assert!(world.lease.compare(&[elsewhere]).is_empty(), "known already");
    // A node that never heard of the voter takes the proof whole, and hands it on.
    let (question, _) = world.lease.ask(2_000, nonce(2));
    let mut other = World::new(5, 3);
    let notices = other.lease.compare(&question.seen);
    assert!(matches!(&notices[..], [Notice::Equivocates(proof)] if proof.node() == node(2)), "{notices:?}");
}

#[test]
fn only_what_was_asked_for_counts() {
    let mut world = World::new(3, 10);
    let question = world.ask(1_000);
    let forged = position(2, question, 10, root(0, 10)).sign(&identity(3), &CLUSTER);
    assert_eq!(world.hear(1_001, &forged), [Notice::Forged { node: node(2) }]);
    let other_cluster = ClusterId::from_bytes([8; 32]);
    world.hear(1_002, &position(2, question, 10, root(0, 10)).sign(&identity(2), &other_cluster));
    world.hear(1_003, &honest(2, question + 1, 10));
    world.hear(1_003, &honest(4, question, 10));
    let tables = tables(10);
    world.lease.answer(1_004, node(2), &honest(3, question, 10), Some(10), &tables).unwrap();
    assert!(!world.fresh(1_004, W), "forged, of another cluster, unasked, by no voter, by another voter");
    world.hear(1_005, &honest(2, question, 10));
    assert!(world.fresh(1_005, W));
}

#[test]
fn the_first_answer_to_a_question_stands() {
    let mut world = World::new(3, 10);
    let question = world.ask(1_000);
    world.hear(1_001, &honest(2, question, 11));
    world.hear(1_002, &honest(2, question, 10));
    assert!(!world.fresh(1_002, W), "who said 11 does not get away with 10");
    world.apply(1_003, 11);
    assert!(world.fresh(1_003, W));
}

#[test]
fn a_machine_that_slept_is_not_fresh_by_answers_from_before() {
    let mut world = World::new(3, 10);
    let question = world.ask(1_000);
    // The answer lay in a buffer while the machine slept for an hour; its clock went on.
    world.hear(3_601_000, &honest(2, question, 10));
    assert!(!world.fresh(3_601_000, W) && !world.fresh(3_601_000, 300_000));
    let question = world.ask(3_601_001);
    world.hear(3_601_002, &honest(3, question, 10));
    assert!(world.fresh(3_601_002, W));
}

#[test]
fn old_questions_are_forgotten_and_their_evidence_is_not() {
    let mut world = World::new(3, 10);
    let first = world.ask(1_000);
    world.hear(1_001, &honest(2, first, 10));
    for round in 1..=u64::try_from(limits::LEASE_QUESTIONS).unwrap() {
        world.ask(1_000 + round * 10);
    }
    assert!(world.fresh(1_500, W));
    let mut late = World::new(3, 10);
    let first = late.ask(1_000);
    for round in 1..=u64::try_from(limits::LEASE_QUESTIONS).unwrap() {
        late.ask(1_000 + round * 10);
    }
    late.hear(1_100, &honest(2, first, 10));
    assert!(!late.fresh(1_100, W));
}

#[test]
fn a_node_counts_itself_only_when_it_would_sign() {
    let voters: BTreeMap<_, _> = (1..=3).map(|number| (node(number), identity(number).public())).collect();
    for (me, ready, alone) in [(1, true, true), (1, false, false), (4, true, false)] {
        let mut lease = Lease::new(node(me), CLUSTER, []);
        lease.set_voters(voters.clone());
        if ready {
            lease.set_ready();
        }
        let _ = lease.ask(1_000, nonce(1));
        let mut hear = |of: u16| lease.answer(1_001, node(of), &honest(of, 1, 4), Some(4), &tables(4)).unwrap();
        hear(2);
        assert_eq!(lease.fresh(1_001, W).is_some(), alone, "node {me}, ready: {ready}");
        let mut hear = |of: u16| lease.answer(1_001, node(of), &honest(of, 1, 4), Some(4), &tables(4)).unwrap();
        hear(3);
        assert!(lease.fresh(1_001, W).is_some(), "two others are a majority of three");
    }
}

#[test]
fn a_single_voter_is_its_own_majority() {
    let mut world = World::new(1, 0);
    assert!(!world.fresh(1_000, W));
    world.ask(1_000);
    assert!(world.fresh(1_500, W) && !world.fresh(2_000, W));
}

#[test]
fn other_voters_begin_from_nothing() {
    let mut world = World::new(3, 10);
    let question = world.ask(1_000);
    world.hear(1_001, &honest(2, question, 10));
    assert!(world.fresh(1_001, W));
    world.lease.set_voters((1..=5).map(|number| (node(number), identity(number).public())).collect());
    assert!(!world.fresh(1_001, W));
    assert_eq!(world.lease.needed(), 3);
}

#[test]
fn positions_have_the_sizes_of_the_specification() {
    let signed = honest(2, 1, 10);
    assert_eq!(encode(&signed.position).len(), 1 + 90);
    assert_eq!(encode(&signed).len(), 1 + 154);
    assert_eq!(encode(&Equivocation { first: signed, second: signed }).len(), 1 + 308);
    let back: SignedPosition = decode(&encode(&signed)).unwrap();
    assert!(back.verifies(&identity(2).public(), &CLUSTER));
    let changed = SignedPosition { position: Position { applied: 11, ..signed.position }, ..signed };
    assert!(!changed.verifies(&identity(2).public(), &CLUSTER));
}
