//! Whole requests: who is asked, who is left out and why, what the caller learns.

use super::*;

/// Asks and packages that came out of a coordinator, by node.
fn asked(effects: &[Effect]) -> Vec<u16> {
    let node = |effect: &Effect| match effect {
        Effect::Ask(node, _) | Effect::Finish(node, _) => Some(node.get()),
        _ => None,
    };
    effects.iter().filter_map(node).collect()
}

fn answer(from: u16, number: u8, answer: Answer) -> Input {
    Input::Answer { from: id(from), session: session(number), answer }
}

fn refusal(code: ErrorCode) -> Answer {
    Answer::Refused(Refusal::new(code, "words"))
}

/// The patience of a question, for when it is over.
fn patience(effects: &[Effect]) -> Input {
    let wait = |effect: &Effect| match effect {
        Effect::Wait(patience) => Some(Input::Patience(patience.clone())),
        _ => None,
    };
    effects.iter().find_map(wait).unwrap()
}

#[test]
fn three_of_five_sign_several_messages() {
    let mut world = World::new(&[b"one", b"two", b""]);
    let start = world.start(1, &[4, 2, 5, 3, 1], &[]);
    // The fourth is the spare.
    assert_eq!(asked(&start.1), [4, 2, 5, 3]);
    let ended = world.drive(start, honest);
    world.assert_signed(&ended, &[2, 4, 5]);
    assert_eq!((ended.sessions(), ended.misbehaved.len()), (1, 0));
    let mut open = |now_ms| {
        world.nodes.values_mut().map(|node| (node.holder.expire(now_ms), node.holder.pool().open_pairs()).1).collect()
    };
    // What the spare made is forgotten after its time.
    let (before, after): (Vec<usize>, Vec<usize>) = (open(NOW), open(NOW + limits::NONCE_MS + 1));
    assert_eq!((before, after), (vec![0, 0, 3, 0, 0], vec![0; 5]));
}

#[test]
fn the_holder_beside_the_coordinator_is_asked_last_and_needs_no_second_check() {
    let mut world = World::new(&[b"one"]);
    let (mut coordinator, effects) = world.start(1, &[1, 2, 3], &[]);
    assert_eq!(asked(&effects), [2, 3, 1]);
    let mut effects = Vec::new();
    for commitments in world.package(1, &[1, 2, 3]).signers {
        let own = world.nodes.get(&commitments.node).unwrap().holder.own_pairs(id(1), session(1), NOW);
        let (from, own) = (commitments.node.get(), own.filter(|_| commitments.node == id(1)));
        let said = match own {
            Some(pairs) => Answer::Own(commitments, pairs),
            None => Answer::Commitments(commitments),
        };
        effects = coordinator.handle(answer(from, 1, said));
    }
    assert_eq!(asked(&effects), [2, 3, 1]);
    let mut last = Vec::new();
    for effect in effects {
        let Effect::Finish(node, signers) = effect else { continue };
        let permit = world.permit();
        let Node { holder, share, identity } = world.nodes.get_mut(&node).unwrap();
        let context =
            Context { now_ms: NOW, coordinator: id(1), permit: &permit, share: &*share, identity: &*identity };
        let shares = holder.round2_checked(&context, &signers).unwrap();
        assert_eq!(holder.round2_checked(&context, &signers).unwrap(), shares);
        last = coordinator.handle(answer(node.get(), 1, Answer::Shares(shares)));
    }
    let ended = Ended { last: last.pop().unwrap(), misbehaved: BTreeMap::new() };
    world.assert_signed(&ended, &[1, 2, 3]);
}

#[test]
fn who_bends_a_share_is_proved_to_and_the_others_sign() {
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
        let rest: Vec<u16> = [2, 3, 4, 5].into_iter().filter(|node| *node != culprit).collect();
        world.assert_signed(&ended, &rest);
        assert_eq!((ended.sessions(), ended.kind(culprit)), (2, Some(BlameKind::BadShare)));
        assert!(ended.misbehaved.keys().eq([&id(culprit)]));
        let (refusal, _) = ended.misbehaved.values().next().unwrap();
        assert!(refusal.message.contains("does not verify"), "{refusal}");
    }
}

#[test]
fn malformed_answers_of_round_2_name_their_sender_and_signed_ones_prove_it() {
    type Change = fn(&mut Shares);
    let changes: [(Change, &str, bool); 5] = [
        (|shares| shares.shares.truncate(1), "one signature share for each", true),
        (|shares| *shares.shares.first_mut().unwrap() = [0xff; 32], "canonical", true),
        (|shares| *shares.shares.first_mut().unwrap() = [0; 32], "does not verify", true),
        (|shares| shares.shares.reverse(), "does not verify", true),
        (|shares| shares.package = Digest::from_bytes([0; 32]), "another package", false),
    ];
    for (change, part, proved) in changes {
        for signs in [true, false] {
            let mut world = World::new(&[b"one", b"two"]);
            let request = world.verified.digest();
            let start = world.start(1, &[2, 3, 4, 5], &[]);
            let ended = world.drive(start, |node, reply| {
                if let (true, Reply::Second(shares)) = (node == id(3), reply) {
                    change(shares);
                    if signs {
                        *shares = shares.clone().signed(&identity_of(node), &CLUSTER, &request);
                    }
                }
                true
            });
            world.assert_signed(&ended, &[2, 4, 5]);
            let (refusal, blame) = ended.misbehaved.get(&id(3)).unwrap();
            let part = if signs || !proved { part } else { "did not sign" };
            assert!(ended.misbehaved.len() == 1 && refusal.message.contains(part), "{refusal}");
            assert_eq!(blame.is_some(), signs && proved, "{part}");
        }
    }
}

#[test]
fn a_failure_in_round_1_is_replaced_within_the_session() {
    let mut world = World::new(&[b"one"]);
    let start = world.start(1, &[1, 2, 3, 4, 5], &[]);
    let ended = world.drive(start, |node, reply| {
        if let (true, Reply::First(commitments)) = (node == id(2), reply) {
            commitments.pairs.first_mut().unwrap().hiding[0] ^= 1;
        }
        node != id(3)
    });
    world.assert_signed(&ended, &[1, 4, 5]);
    assert!(ended.sessions() == 1 && ended.misbehaved.keys().eq([&id(2)]));
    assert_eq!(ended.kind(2), None, "it did not sign that");

    let request = world.verified.digest();
    let start = world.start(20, &[2, 3, 4, 5], &[]);
    let ended = world.drive(start, |node, reply| {
        if let (true, Reply::First(commitments)) = (node == id(2), reply) {
            commitments.pairs.first_mut().unwrap().hiding = [0xff; 32];
            *commitments = resign(commitments, &request);
        }
        true
    });
    world.assert_signed(&ended, &[3, 4, 5]);
    assert_eq!(ended.kind(2), Some(BlameKind::BadCommitment));
}

#[test]
fn whoever_fails_in_round_2_is_left_out_of_another_session() {
    let mut world = World::new(&[b"one"]);
    let start = world.start(1, &[1, 2, 3, 4], &[]);
    let ended = world.drive(start, |node, reply| !(node == id(2) && matches!(reply, Reply::Second(_))));
    world.assert_signed(&ended, &[1, 3, 4]);
    assert_eq!((ended.sessions(), ended.misbehaved.len()), (2, 0));
}

/// A coordinator that waits for the shares of 2, 3 and 4, with the patience that it has for them.
fn signing(world: &mut World) -> (Coordinator, Input, Round2) {
    let (mut coordinator, _) = world.start(1, &[2, 3, 4, 5], &[]);
    let round2 = world.package(1, &[2, 3, 4]);
    let mut effects = Vec::new();
    for commitments in &round2.signers {
        let from = commitments.node.get();
        effects = coordinator.handle(answer(from, 1, Answer::Commitments(commitments.clone())));
    }
    assert_eq!(asked(&effects), [2, 3, 4]);
    (coordinator, patience(&effects), round2)
}

#[test]
fn a_slow_signer_is_replaced_and_its_session_may_still_win() {
    let mut world = World::new(&[b"one"]);
    let (mut coordinator, over, round2) = signing(&mut world);
    let shares: Vec<Shares> = (2..5).map(|node| world.second(node, &round2, NOW).unwrap()).collect();
    let give = |coordinator: &mut Coordinator, node: u16| {
        let shares = shares.iter().zip(2..).find(|(_, from)| *from == node).unwrap().0.clone();
        coordinator.handle(answer(node, 1, Answer::Shares(shares)))
    };
    assert!(give(&mut coordinator, 2).is_empty() && give(&mut coordinator, 3).is_empty());
    // 4 is slow, and the spare that did not answer yet comes last.
    let effects = coordinator.handle(over);
    assert_eq!(asked(&effects), [2, 3, 5]);
    let round1 = world.round1(2);
    let commitments = world.first(2, &round1, NOW).unwrap();
    assert!(asked(&coordinator.handle(answer(2, 2, Answer::Commitments(commitments)))).is_empty());
    let last = give(&mut coordinator, 4).pop().unwrap();
    let ended = Ended { last, misbehaved: BTreeMap::new() };
    world.assert_signed(&ended, &[2, 3, 4]);
    assert_eq!(ended.sessions(), 2);
}

#[test]
fn the_shares_of_a_session_that_stalls_are_checked_before_another_one_starts() {
    let mut world = World::new(&[b"one"]);
    let (mut coordinator, over, round2) = signing(&mut world);
    let request = world.verified.digest();
    let mut bent = world.second(2, &round2, NOW).unwrap();
    *bent.shares.first_mut().unwrap() = [0; 32];
    bent = bent.signed(&identity_of(id(2)), &CLUSTER, &request);
    // Nobody knows yet.
    assert!(coordinator.handle(answer(2, 1, Answer::Shares(bent))).is_empty());
    let effects = coordinator.handle(over);
    assert!(matches!(effects.first(), Some(Effect::Misbehaved { node, blame: Some(_), .. }) if *node == id(2)));
    assert_eq!(asked(&effects), [3, 4, 5]);
}

#[test]
fn slow_answers_in_round_1_have_others_asked_too() {
    let mut world = World::new(&[b"one"]);
    let (mut coordinator, effects) = world.start(1, &[2, 3, 4, 5, 1], &[]);
    let over = patience(&effects);
    let round1 = world.round1(1);
    let first = world.first(2, &round1, NOW).unwrap();
    assert!(coordinator.handle(answer(2, 1, Answer::Commitments(first))).is_empty());
    let effects = coordinator.handle(over);
    assert_eq!(asked(&effects), [1], "all that are left");
    let mut last = Vec::new();
    for node in [1, 5] {
        let commitments = world.first(node, &round1, NOW).unwrap();
        last = coordinator.handle(answer(node, 1, Answer::Commitments(commitments)));
    }
    assert_eq!(asked(&last), [2, 5, 1], "one session all the same");
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

    let (_, effects) = world.start(20, &[1, 9, 1, 2], &[3]);
    let ended = Ended { last: effects.into_iter().next().unwrap(), misbehaved: BTreeMap::new() };
    let refusal = ended.refusal();
    assert_eq!(refusal.code, ErrorCode::BelowThreshold);
    assert_eq!(refusal.details.get("unreachable"), Some(&list(&["4", "5"])));
    assert_eq!(refusal.details.get("excluded"), Some(&list(&["3"])));
}

/// What comes of it when these nodes refuse with these codes in round 1, and the others are silent.
fn refused(world: &World, codes: &[(u16, ErrorCode)]) -> Refusal {
    let (mut coordinator, _) = world.start(1, &[1, 2, 3, 4, 5], &[]);
    for (node, code) in codes {
        if let Some(Effect::Failed(refusal)) = coordinator.handle(answer(*node, 1, refusal(*code))).pop() {
            return refusal;
        }
    }
    let silent = (1..=5).find_map(|node| coordinator.handle(answer(node, 1, Answer::Silent)).pop());
    Ended { last: silent.unwrap(), misbehaved: BTreeMap::new() }.refusal()
}

#[test]
fn what_so_many_refuse_that_the_others_are_too_few_is_told() {
    let world = World::new(&[b"one"]);
    for code in [ErrorCode::WrongState, ErrorCode::NotFresh, ErrorCode::StorageFailed] {
        let told = refused(&world, &[(1, code), (2, code), (3, code)]);
        assert_eq!(told, Refusal::new(code, "words"));
    }
    // Two liars cannot say it for all.
    let told = refused(&world, &[(1, ErrorCode::WrongState), (2, ErrorCode::WrongState)]);
    assert_eq!(told.code, ErrorCode::BelowThreshold);
    let said = Detail::List(vec!["1: wrong_state".to_owned(), "2: wrong_state".to_owned()]);
    assert_eq!(told.details.get("refused"), Some(&said));
}

#[test]
fn a_changed_epoch_is_told_when_a_holder_that_says_so_is_missed() {
    let world = World::new(&[b"one"]);
    let changed = ErrorCode::EpochChanged;
    assert_eq!(refused(&world, &[(1, changed), (2, changed), (3, changed)]).code, changed);
    assert_eq!(refused(&world, &[(1, changed), (2, ErrorCode::WrongState)]).code, changed);
    // It is left out while the others are enough.
    let (mut coordinator, _) = world.start(1, &[1, 2, 3, 4, 5], &[]);
    assert_eq!(asked(&coordinator.handle(answer(2, 1, refusal(changed)))), [5]);
}

/// All of three must sign, and one of them hears of the shares later than the others.
#[test]
fn a_request_that_begins_anew_goes_on_with_its_unused_sessions() {
    let mut world = World::of(3, 3, &[b"one"]);
    let (mut coordinator, _) = world.start(1, &[1, 2, 3], &[]);
    let round1 = world.round1(1);
    let commitments = world.first(2, &round1, NOW).unwrap();
    assert!(coordinator.handle(answer(2, 1, Answer::Commitments(commitments.clone()))).is_empty());
    let last = coordinator.handle(answer(3, 1, refusal(ErrorCode::EpochChanged))).pop().unwrap();
    assert_eq!(Ended { last, misbehaved: BTreeMap::new() }.refusal().code, ErrorCode::EpochChanged);
    assert_eq!(coordinator.unused_sessions(), [session(1)], "one can be needed");

    // The holders that committed say the same again, and count one session.
    let start = world.start(1, &[1, 2, 3], &[]);
    let ended = world.drive(start, honest);
    world.assert_signed(&ended, &[1, 2, 3]);
    assert_eq!(world.first(2, &round1, NOW).unwrap_err().code, ErrorCode::PeerMisbehaved);

    // Without a session that is left nobody is asked.
    let (coordinator, effects) = Coordinator::new(Plan { sessions: Vec::new(), ..world.plan(1, &[1, 2, 3], &[]) });
    assert!(matches!(effects.as_slice(), [Effect::Failed(refusal)] if refusal.code == ErrorCode::DeadlineExceeded));
    assert!(coordinator.has_ended() && coordinator.unused_sessions().is_empty());
}

#[test]
fn late_repeated_and_unasked_answers_change_nothing() {
    let mut world = World::new(&[b"one"]);
    let (mut coordinator, effects) = world.start(1, &[1, 2, 3, 4], &[]);
    let over = patience(&effects);
    let round2 = world.package(1, &[1, 2, 3, 5]);
    let [one, two, three, five] = round2.signers.as_slice() else { unreachable!("four signers") };
    let commit = |commitments: &Commitments| Answer::Commitments(commitments.clone());
    let mut nothing = |input: Input| assert!(coordinator.handle(input).is_empty());
    nothing(answer(1, 2, commit(one)));
    nothing(answer(5, 1, commit(five)));
    nothing(answer(1, 1, commit(one)));
    nothing(answer(1, 1, commit(one)));
    nothing(answer(1, 1, Answer::Silent));
    nothing(answer(5, 1, Answer::Silent));
    nothing(answer(5, 1, refusal(ErrorCode::WrongState)));
    nothing(answer(2, 1, commit(two)));
    assert_eq!(asked(&coordinator.handle(answer(3, 1, commit(three)))), [2, 3, 1]);
    let stale =
        Shares { session: session(2), package: Digest::from_bytes([0; 32]), shares: vec![], signature: UNSIGNED };
    let shares = world.second(2, &Round2 { session: session(1), signers: round2.signers[..3].to_vec() }, NOW).unwrap();
    let mut nothing = |input: Input| assert!(coordinator.handle(input).is_empty());
    nothing(answer(3, 1, commit(three)));
    nothing(over);
    nothing(answer(1, 2, Answer::Shares(stale.clone())));
    nothing(answer(5, 1, Answer::Shares(stale.clone())));
    nothing(answer(2, 1, Answer::Shares(shares)));
    nothing(answer(2, 1, Answer::Shares(stale)));
    nothing(answer(2, 1, refusal(ErrorCode::WrongState)));
    assert!(!coordinator.has_ended());
}
