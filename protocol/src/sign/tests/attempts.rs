//! Whole attempts: who is asked, who is blamed, what the caller learns.

use super::*;

#[test]
fn three_of_five_sign_several_messages() {
    let mut world = World::new(&[b"one", b"two", b""]);
    let start = world.start(1, &[4, 2, 5, 1], &[]);
    let ended = world.drive(start, honest);
    world.assert_signed(&ended, &[2, 4, 5]);
    assert!(ended.misbehaved.is_empty());
    assert!(world.nodes.values().all(|node| node.holder.pool().open_pairs() == 0));
}

#[test]
fn the_holder_beside_the_coordinator_needs_no_second_check() {
    let mut world = World::new(&[b"one"]);
    let (mut coordinator, _) = world.start(1, &[1, 2, 3], &[]);
    let mut effects = Vec::new();
    for commitments in world.package(1, &[1, 2, 3]).signers {
        effects = coordinator.commitments(commitments.node, commitments);
    }
    let mut last = Vec::new();
    for effect in effects {
        let Effect::Finish(node, signers) = effect else { continue };
        let permit = world.permit();
        let Node { holder, share, identity } = world.nodes.get_mut(&node).unwrap();
        let context =
            Context { now_ms: NOW, coordinator: id(1), permit: &permit, share: &*share, identity: &*identity };
        let shares = holder.round2_checked(&context, &signers).unwrap();
        assert_eq!(holder.round2_checked(&context, &signers).unwrap(), shares);
        last = coordinator.shares(node, shares);
    }
    let ended = Ended { last: last.pop().unwrap(), misbehaved: BTreeSet::new() };
    world.assert_signed(&ended, &[1, 2, 3]);
}

#[test]
fn who_bends_a_share_is_found() {
    for culprit in [2, 3, 4] {
        let mut world = World::new(&[b"one", b"two"]);
        let request = world.verified.digest();
        let start = world.start(1, &[2, 3, 4, 5], &[]);
        let ended = world.drive(start, |node, reply| {
            if let (true, Reply::Second(shares)) = (node == id(culprit), reply) {
                let first = shares.shares.first().copied().unwrap();
                *shares.shares.last_mut().unwrap() = first;
                *shares = shares.clone().signed(&identity_of(node), &CLUSTER, &request);
            }
            true
        });
        let culprits = ended.culprits();
        assert_eq!(culprits.keys().copied().collect::<Vec<_>>(), [id(culprit)]);
        assert!(culprits.values().all(|refusal| refusal.message.contains("does not verify")));
        // The request goes on once without it.
        let rest: Vec<u16> = [2, 3, 4, 5].into_iter().filter(|node| *node != culprit).collect();
        let start = world.start(2, &[2, 3, 4, 5], &[culprit]);
        let ended = world.drive(start, honest);
        world.assert_signed(&ended, &rest);
    }
}

#[test]
fn malformed_and_unsigned_answers_of_round_2_name_their_sender() {
    type Change = fn(&mut Shares);
    let changes: [(Change, &str); 5] = [
        (
            |shares| {
                let _ = shares.shares.pop();
            },
            "one signature share for each",
        ),
        (|shares| shares.package = Digest::from_bytes([0; 32]), "another package"),
        (|shares| *shares.shares.first_mut().unwrap() = [0xff; 32], "canonical"),
        (|shares| *shares.shares.first_mut().unwrap() = [0; 32], "did not sign"),
        (|shares| shares.shares.reverse(), "did not sign"),
    ];
    for (change, part) in changes {
        let mut world = World::new(&[b"one", b"two"]);
        let start = world.start(1, &[2, 3, 4], &[]);
        let ended = world.drive(start, |node, reply| {
            if let (true, Reply::Second(shares)) = (node == id(3), reply) {
                change(shares);
            }
            true
        });
        let culprits = ended.culprits();
        assert!(culprits.keys().eq([&id(3)]));
        assert!(culprits.values().all(|refusal| refusal.message.contains(part)), "{culprits:?}");
    }
}

#[test]
fn a_failure_in_round_1_is_replaced_within_the_attempt() {
    let mut world = World::new(&[b"one"]);
    let start = world.start(1, &[1, 2, 3, 4, 5], &[]);
    let ended = world.drive(start, |node, reply| {
        if let (true, Reply::First(commitments)) = (node == id(2), reply) {
            commitments.pairs.first_mut().unwrap().hiding[0] ^= 1;
        }
        node != id(3)
    });
    world.assert_signed(&ended, &[1, 4, 5]);
    assert_eq!(ended.misbehaved, BTreeSet::from([id(2)]));
}

#[test]
fn a_failure_in_round_2_ends_the_attempt_and_names_the_node() {
    let mut world = World::new(&[b"one"]);
    let start = world.start(1, &[1, 2, 3, 4], &[]);
    let ended = world.drive(start, |node, reply| !(node == id(2) && matches!(reply, Reply::Second(_))));
    assert!(matches!(ended.last, Effect::Failed(Failure::Lost { node, refusal: None }) if node == id(2)));
}

#[test]
fn below_the_threshold_the_caller_learns_who_is_missing() {
    let mut world = World::new(&[b"one"]);
    let start = world.start(1, &[1, 2, 3, 4], &[]);
    let refusal = world.drive(start, |node, _| node.get() < 3).refusal();
    assert_eq!(refusal.code, ErrorCode::BelowThreshold);
    let detail = |name: &str| refusal.details.get(name).cloned().unwrap();
    let list = |nodes: &[&str]| Detail::List(nodes.iter().map(|node| (*node).to_owned()).collect());
    assert_eq!((detail("reachable"), detail("needed")), (Detail::Number(2), Detail::Number(3)));
    assert_eq!(detail("unreachable"), list(&["3", "4", "5"]));
    assert_eq!((detail("refused"), detail("excluded")), (list(&[]), list(&[])));

    let (_, effects) = world.start(2, &[1, 9, 1, 2], &[3]);
    let ended = Ended { last: effects.into_iter().next().unwrap(), misbehaved: BTreeSet::new() };
    let refusal = ended.refusal();
    assert_eq!(refusal.code, ErrorCode::BelowThreshold);
    assert_eq!(refusal.details.get("unreachable"), Some(&list(&["4", "5"])));
    assert_eq!(refusal.details.get("excluded"), Some(&list(&["3"])));
}

#[test]
fn what_so_many_refuse_that_the_others_are_too_few_is_told() {
    let world = World::new(&[b"one"]);
    let refuse = |code| Refusal::new(code, "words");
    let (mut coordinator, _) = world.start(1, &[1, 2, 3, 4, 5], &[]);
    assert_eq!(coordinator.refused(id(1), refuse(ErrorCode::WrongState)).len(), 1);
    assert_eq!(coordinator.refused(id(2), refuse(ErrorCode::WrongState)).len(), 1);
    let last = coordinator.refused(id(3), refuse(ErrorCode::WrongState)).pop().unwrap();
    assert_eq!(Ended { last, misbehaved: BTreeSet::new() }.refusal(), refuse(ErrorCode::WrongState));
    // Two liars cannot say it for all.
    let (mut coordinator, _) = world.start(1, &[1, 2, 3, 4, 5], &[]);
    assert_eq!(coordinator.refused(id(1), refuse(ErrorCode::WrongState)).len(), 1);
    assert_eq!(coordinator.refused(id(2), refuse(ErrorCode::WrongState)).len(), 1);
    let last = coordinator.unreachable(id(3)).pop().unwrap();
    let refusal = Ended { last, misbehaved: BTreeSet::new() }.refusal();
    assert_eq!(refusal.code, ErrorCode::BelowThreshold);
    let refused = Detail::List(vec!["1: wrong_state".to_owned(), "2: wrong_state".to_owned()]);
    assert_eq!(refusal.details.get("refused"), Some(&refused));
}

#[test]
fn late_repeated_and_unasked_answers_change_nothing() {
    let mut world = World::new(&[b"one"]);
    let (mut coordinator, _) = world.start(1, &[1, 2, 3, 4], &[]);
    let round2 = world.package(1, &[1, 2, 3, 5]);
    let old = world.package(2, &[1]).signers.pop().unwrap();
    let [one, two, three, five] = round2.signers.as_slice() else { unreachable!("four signers") };
    assert!(coordinator.commitments(id(1), old).is_empty());
    assert!(coordinator.commitments(id(5), five.clone()).is_empty());
    assert!(coordinator.commitments(id(1), one.clone()).is_empty());
    assert!(coordinator.commitments(id(1), one.clone()).is_empty());
    assert!(coordinator.unreachable(id(1)).is_empty() && coordinator.unreachable(id(5)).is_empty());
    assert!(coordinator.commitments(id(2), two.clone()).is_empty());
    assert_eq!(coordinator.commitments(id(3), three.clone()).len(), 3);
    assert!(coordinator.commitments(id(3), three.clone()).is_empty());
    let stale =
        Shares { session: session(2), package: Digest::from_bytes([0; 32]), shares: vec![], signature: UNSIGNED };
    assert!(coordinator.shares(id(1), stale.clone()).is_empty());
    assert!(coordinator.shares(id(5), Shares { session: session(1), ..stale }).is_empty());
    assert_eq!(coordinator.waiting_for().len(), 3);
}
