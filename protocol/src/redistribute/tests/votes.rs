//! What the log takes, and what it makes of it.

use curve25519_dalek::constants::EIGHT_TORSION;
use curve25519_dalek::edwards::CompressedEdwardsY;

use super::*;
use crate::error::ErrorCode::{BadSignature, InvalidArgument, PermissionDenied, WrongState};

fn code(taken: Result<(), Refusal>) -> ErrorCode {
    taken.unwrap_err().code
}

/// A refresh of a 2-of-3 key, and an honest polynomial of each dealer.
fn small() -> (Log, BTreeMap<u16, Poly>) {
    let key = Key::new(&[1, 2, 3], 2, 11);
    let ceremony = key.refresh();
    let mut rng = ChaCha20Rng::seed_from_u64(12);
    let polys = (1..=3).map(|i| (i, key.dealing(i, &ceremony, &mut rng))).collect();
    (Log::new(key, ceremony), polys)
}

#[test]
fn a_dealing_is_to_the_dealers_own_share_and_of_the_right_degree() {
    let (mut log, polys) = small();
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let good = polys[&1].commitments();
    let mixed = CompressedEdwardsY(good[1]).decompress().unwrap() + EIGHT_TORSION[1];
    let other_constant = Poly::random(None, 2, &mut rng).commitments();
    let identity = Poly(vec![polys[&1].0[0], Scalar::ZERO]).commitments();
    let mut not_canonical = [0xff; 32];
    (not_canonical[0], not_canonical[31]) = (0xee, 0x7f);
    let bad = [
        other_constant,
        polys[&2].commitments(),
        vec![],
        vec![good[0]],
        [good.clone(), vec![good[1]]].concat(),
        identity,
        vec![good[0], mixed.compress().to_bytes()],
        vec![good[0], not_canonical],
        vec![good[0], [0x02; 32]],
        vec![good[1], good[0]],
    ];
    for (i, commitments) in bad.into_iter().enumerate() {
        let vote = dealt(&log.ceremony, 1, commitments);
        assert_eq!(code(log.take(&vote)), InvalidArgument, "case {i}");
    }
    let vote = dealt(&log.ceremony, 1, good);
    log.take(&vote).unwrap();
}

#[test]
fn a_dealer_deals_once() {
    let (mut log, polys) = small();
    let vote = dealt(&log.ceremony, 1, polys[&1].commitments());
    log.take(&vote).unwrap();
    let before = log.dealings.clone();
    log.take(&vote).unwrap();
    assert_eq!(log.dealings, before);
    let other = log.key.dealing(1, &log.ceremony, &mut ChaCha20Rng::seed_from_u64(2)).commitments();
    let second = dealt(&log.ceremony, 1, other);
    assert_eq!(code(log.take(&second)), InvalidArgument);
}

#[test]
fn only_dealers_deal_and_only_holders_acknowledge() {
    let key = Key::new(&[1, 2, 3, 4], 2, 5);
    let mut ceremony = key.moves(&[3, 4, 5, 6], &[3, 4, 5], 2);
    ceremony.base.as_mut().unwrap().dealers = nodes(&[1, 2]);
    let mut rng = ChaCha20Rng::seed_from_u64(6);
    let polys: Vec<Poly> = [1, 2, 3].map(|i| key.dealing(i, &ceremony, &mut rng)).to_vec();
    let mut log = Log::new(key, ceremony.clone());
    log.take(&dealt(&ceremony, 1, polys[0].commitments())).unwrap();
    // A holder of the base that is not among those who may deal; a new holder; somebody else.
    for stranger in [3, 5, 99] {
        assert_eq!(code(log.take(&dealt(&ceremony, stranger, polys[2].commitments()))), PermissionDenied);
    }
    log.take(&acknowledged(&ceremony, 3, &[1], &[])).unwrap();
    // A dealer that is no holder; a node of the roster that is none; somebody else.
    for stranger in [1, 6, 99, 100] {
        let vote = DealingVote::acknowledged(&ceremony, node(stranger), nodes(&[1]), vec![], &identity(node(stranger)));
        assert_eq!(code(log.take(&vote)), PermissionDenied, "{stranger}");
    }
}

#[test]
fn votes_are_signed_and_for_this_attempt() {
    let (mut log, polys) = small();
    let ceremony = log.ceremony.clone();
    let later = Ceremony { epoch: Epoch::new(9).unwrap(), ..ceremony.clone() };
    let other = Ceremony { operation: OperationId::from_bytes([8; 32]), ..ceremony.clone() };
    for attempt in [&later, &other] {
        assert_eq!(code(log.take(&dealt(attempt, 1, polys[&1].commitments()))), WrongState);
    }
    // The same attempt by its number, and yet another one: what is signed says so.
    let elsewhere = Ceremony { holders: nodes(&[1, 2]), ..ceremony.clone() };
    assert_eq!(code(log.take(&dealt(&elsewhere, 1, polys[&1].commitments()))), BadSignature);
    let forged = DealingVote::dealt(&ceremony, node(1), polys[&1].commitments(), &identity(node(2)));
    assert_eq!(code(log.take(&forged)), BadSignature);
    for i in 1..=3 {
        log.take(&dealt(&ceremony, i, polys[&i].commitments())).unwrap();
    }
    assert_eq!(code(log.take(&acknowledged(&later, 1, &[1], &[]))), WrongState);
    assert_eq!(code(log.take(&acknowledged(&elsewhere, 1, &[1], &[]))), BadSignature);
    // A signed word with a dealer moved from one list to the other.
    let DealingVote::Acknowledged { node, operation, epoch, signature, .. } = acknowledged(&ceremony, 1, &[1], &[2])
    else {
        unreachable!()
    };
    let (dealers, accused) = (nodes(&[1, 2]), vec![]);
    let bent = DealingVote::Acknowledged { node, operation, epoch, dealers, accused, signature };
    assert_eq!(code(log.take(&bent)), BadSignature);
    // Another base than the one that the attempt names.
    let vote = acknowledged(&ceremony, 1, &[1], &[]);
    let mut base = log.key.core.clone();
    base.transcript = Digest::from_bytes([5; 32]);
    assert_eq!(code(log.dealings.take(&ceremony, &base, &vote, key_of)), WrongState);
}

#[test]
fn a_word_names_dealers_of_the_log_in_order_and_each_once() {
    let (mut log, polys) = small();
    let ceremony = log.ceremony.clone();
    for i in 1..=2 {
        log.take(&dealt(&ceremony, i, polys[&i].commitments())).unwrap();
    }
    for (good, bad) in [
        (&[][..], &[][..]),
        (&[3], &[]),
        (&[], &[3]),
        (&[2, 1], &[]),
        (&[1, 1], &[]),
        (&[], &[2, 1]),
        (&[1], &[1]),
        (&[1, 9], &[]),
    ] {
        assert_eq!(code(log.take(&acknowledged(&ceremony, 1, good, bad))), InvalidArgument, "{good:?} {bad:?}");
    }
    log.take(&acknowledged(&ceremony, 1, &[1], &[2])).unwrap();
}

#[test]
fn words_add_up_and_accusations_take_nothing_back() {
    let (mut log, polys) = small();
    let ceremony = log.ceremony.clone();
    for i in 1..=3 {
        log.take(&dealt(&ceremony, i, polys[&i].commitments())).unwrap();
    }
    log.take(&acknowledged(&ceremony, 2, &[1], &[])).unwrap();
    log.take(&acknowledged(&ceremony, 2, &[3], &[2])).unwrap();
    log.take(&acknowledged(&ceremony, 2, &[], &[1])).unwrap();
    assert_eq!(log.dealings.acknowledged[&node(2)], BTreeSet::from([node(1), node(3)]));
    assert_eq!(log.dealings.accused, BTreeSet::from([(node(2), node(2))]));
    assert!(log.dealings.acknowledges(node(2), node(1)) && !log.dealings.acknowledges(node(2), node(2)));
}

#[test]
fn the_first_in_log_order_that_every_holder_acknowledged_are_chosen() {
    let (mut log, polys) = small();
    let ceremony = log.ceremony.clone();
    for i in [3, 1, 2] {
        log.take(&dealt(&ceremony, i, polys[&i].commitments())).unwrap();
    }
    log.take(&acknowledged(&ceremony, 1, &[1, 2, 3], &[])).unwrap();
    log.take(&acknowledged(&ceremony, 2, &[1, 2, 3], &[])).unwrap();
    log.take(&acknowledged(&ceremony, 3, &[2], &[3])).unwrap();
    // Only one dealer has all three, and dealer 3 is first but in dispute.
    assert_eq!(log.dealings.result, None);
    log.take(&acknowledged(&ceremony, 3, &[1, 2], &[])).unwrap();
    let chosen = log.dealings.result.clone().unwrap();
    assert_eq!(chosen.dealers, nodes(&[1, 2]));
    assert!(ceremony.fits(&chosen.core));
    assert_eq!(chosen.core.public_key, log.key.core.public_key);
    assert_eq!(chosen.core.previous, Some(log.key.core.digest()));
    assert_ne!(chosen.core.verifying_shares, log.key.core.verifying_shares);
    // Then nothing changes any more, and senseless votes are still refused.
    let before = log.dealings.clone();
    log.take(&acknowledged(&ceremony, 3, &[3], &[])).unwrap();
    log.take(&acknowledged(&ceremony, 1, &[], &[2])).unwrap();
    assert_eq!(log.dealings, before);
    assert_eq!(code(log.take(&acknowledged(&ceremony, 1, &[9], &[]))), InvalidArgument);
    let vote = DealingVote::acknowledged(&ceremony, node(1), nodes(&[1]), vec![], &identity(node(2)));
    assert_eq!(code(log.take(&vote)), BadSignature);
}

#[test]
fn who_deals_after_the_choice_is_too_late() {
    let (mut log, polys) = small();
    let ceremony = log.ceremony.clone();
    for i in [2, 1] {
        log.take(&dealt(&ceremony, i, polys[&i].commitments())).unwrap();
    }
    for i in 1..=3 {
        log.take(&acknowledged(&ceremony, i, &[1, 2], &[])).unwrap();
    }
    assert!(log.dealings.result.is_some());
    let before = log.dealings.clone();
    log.take(&dealt(&ceremony, 3, polys[&3].commitments())).unwrap();
    assert_eq!(log.dealings, before);
    assert_eq!(code(log.take(&dealt(&ceremony, 3, polys[&1].commitments()))), InvalidArgument);
}

#[test]
fn log_order_decides_among_those_that_everybody_acknowledged() {
    for (order, expected) in [([3, 1, 2], [1, 3]), ([2, 3, 1], [2, 3]), ([1, 2, 3], [1, 2])] {
        let (mut log, polys) = small();
        let ceremony = log.ceremony.clone();
        for i in order {
            log.take(&dealt(&ceremony, i, polys[&i].commitments())).unwrap();
        }
        for i in [2, 3, 1] {
            log.take(&acknowledged(&ceremony, i, &[1, 2, 3], &[])).unwrap();
        }
        assert_eq!(log.dealings.result.unwrap().dealers, nodes(&expected), "{order:?}");
    }
}

/// Dealer 3 deals last and knows what dealer 1 gave to holder 3: together they can make the share of holder 3 nothing at all.
#[test]
fn a_share_that_is_nothing_is_no_choice_and_names_its_holder() {
    let (mut log, polys) = small();
    let ceremony = log.ceremony.clone();
    let weight = |i: u16, k: u16| Scalar::from(k) * (Scalar::from(k) - Scalar::from(i)).invert();
    let (w1, w3) = (weight(1, 3), weight(3, 1));
    let wanted = -(w1 * polys[&1].at(node(3))) * w3.invert();
    let share = log.key.scalar(node(3));
    let poly = Poly(vec![share, (wanted - share) * Scalar::from(3u8).invert()]);
    assert_eq!(w1 * polys[&1].at(node(3)) + w3 * poly.at(node(3)), Scalar::ZERO);
    log.take(&dealt(&ceremony, 1, polys[&1].commitments())).unwrap();
    log.take(&dealt(&ceremony, 3, poly.commitments())).unwrap();
    for i in [3, 1, 2] {
        log.take(&acknowledged(&ceremony, i, &[1, 3], &[])).unwrap();
    }
    assert_eq!((log.dealings.acknowledged.len(), log.dealings.result.clone()), (3, None));
    assert_eq!(log.suspects(), (vec![2], vec![3]));
}

#[test]
fn a_base_that_does_not_belong_to_its_key_gives_nothing() {
    let mut key = Key::new(&[1, 2, 3], 2, 11);
    key.core.public_key = point(&Scalar::from(5u8));
    let ceremony = key.refresh();
    let mut rng = ChaCha20Rng::seed_from_u64(3);
    let polys: Vec<Poly> = (1..=3).map(|i| key.dealing(i, &ceremony, &mut rng)).collect();
    let mut log = Log::new(key, ceremony.clone());
    for i in 1..=3 {
        log.take(&dealt(&ceremony, i, polys[usize::from(i) - 1].commitments())).unwrap();
    }
    for i in 1..=3 {
        log.take(&acknowledged(&ceremony, i, &[1, 2, 3], &[])).unwrap();
    }
    assert_eq!((log.dealings.result.clone(), log.suspects()), (None, (vec![], vec![])));
}

#[test]
fn an_attempt_follows_exactly_its_base() {
    let key = Key::new(&[1, 2, 3, 4, 5], 3, 2);
    let good = key.moves(&[2, 3, 4], &[2, 3, 4], 2);
    assert!(good.follows(&key.core) && good.check().is_ok());
    let with = |change: fn(&mut Ceremony)| {
        let mut ceremony = good.clone();
        change(&mut ceremony);
        ceremony
    };
    fn dealers(ceremony: &mut Ceremony) -> &mut Vec<NodeId> {
        &mut ceremony.base.as_mut().unwrap().dealers
    }
    for (i, change) in [
        (|c| c.base = None) as fn(&mut Ceremony),
        |c| c.base.as_mut().unwrap().core = Digest::from_bytes([9; 32]),
        |c| c.epoch = Epoch::FIRST,
        |c| c.version = KeyVersion::new(2).unwrap(),
        |c| c.key = KeyId::from_bytes([9; 32]),
        |c| c.cluster = ClusterId::from_bytes([9; 32]),
        |c| c.name = Name::new("other").unwrap(),
        |c| dealers(c).truncate(2),
        |c| dealers(c).swap(0, 1),
        |c| dealers(c)[1] = node(1),
        |c| dealers(c)[4] = node(6),
    ]
    .into_iter()
    .enumerate()
    {
        assert!(!with(change).follows(&key.core), "case {i}");
    }
    // Holders: a part of the roster, in its order, one more than t or all.
    let wide = key.moves(&[5, 4, 3, 2, 1], &[5, 4, 2], 2);
    assert!(wide.check().is_ok());
    for holders in [&[5, 4][..], &[4, 5, 2], &[5, 4, 4], &[5, 4, 6], &[]] {
        assert!(Ceremony { holders: nodes(holders), ..wide.clone() }.check().is_err(), "{holders:?}");
    }
    assert!(Ceremony { base: None, ..wide.clone() }.check().is_err());
    assert!(Ceremony { base: None, holders: wide.roster.clone(), ..wide }.check().is_ok());
}

#[test]
fn there_are_no_fault_reports_in_a_redistribution() {
    use crate::generate::{FaultKind, FaultReport};
    let key = Key::new(&[1, 2, 3], 2, 2);
    let report = |culprits: &[u16]| FaultReport::new(FaultKind::WrongResult, nodes(culprits));
    for culprits in [&[][..], &[1], &[2]] {
        let ceremony = key.refresh();
        let vote = Vote::fault(&ceremony, node(1), report(culprits), &identity(node(1)));
        assert_eq!(code(vote.verify(&ceremony, key_of)), InvalidArgument);
        let generate = Ceremony { base: None, ..ceremony };
        let vote = Vote::fault(&generate, node(1), report(culprits), &identity(node(1)));
        vote.verify(&generate, key_of).unwrap();
    }
}

proptest! {
    /// Whatever is ordered, in whatever order: every node that takes the same votes has the same, a choice is sound and final, and
    /// it is of dealers that every holder acknowledged.
    #[test]
    fn any_log_gives_one_sound_result_or_none(seed: u64, votes in prop::collection::vec((0u8..2, 1u16..7, 0u8..64, 0u8..64), 0..60)) {
        let key = Key::new(&[1, 2, 3, 4, 5], 3, seed);
        let ceremony = key.moves(&[2, 3, 4, 6], &[2, 4, 6], 2);
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let polys: Vec<Poly> = (1..=5).map(|i| key.dealing(i, &ceremony, &mut rng)).collect();
        let list = |bits: u8| (1..=6u16).filter(|i| bits >> (i - 1) & 1 == 1).collect::<Vec<_>>();
        let mut log = Log::new(key, ceremony.clone());
        let mut again = Dealings::default();
        let mut chosen: Option<Chosen> = None;
        for (kind, who, good, bad) in votes {
            let vote = if kind == 0 {
                dealt(&ceremony, who, polys[usize::from(who).min(5) - 1].commitments())
            } else {
                acknowledged(&ceremony, who, &list(good), &list(bad & !good))
            };
            let taken = log.take(&vote);
            prop_assert_eq!(&again.take(&ceremony, &log.key.core, &vote, key_of), &taken);
            prop_assert_eq!(&again, &log.dealings);
            let _ = log.suspects();
            if let Some(chosen) = &chosen {
                prop_assert_eq!(Some(chosen), log.dealings.result.as_ref());
            }
            chosen = log.dealings.result.clone();
        }
        if let Some(Chosen { dealers, core }) = chosen {
            prop_assert!(dealers.len() == 3 && dealers.is_sorted_by(|a, b| a < b) && ceremony.fits(&core));
            prop_assert!(dealers.iter().all(|d| ceremony.holders.iter().all(|h| log.dealings.acknowledges(*h, *d))));
            let shares = core.roster.iter().copied().zip(core.verifying_shares.iter().copied()).collect();
            let sound = crate::generate::transcript::on_one_polynomial(&shares, core.threshold, &log.key.core.public_key);
            prop_assert!(sound);
        }
    }
}
