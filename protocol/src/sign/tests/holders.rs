//! One holder against every coordinator: nonces, packages, limits, evidence.

use super::*;

#[test]
fn messages_have_the_sizes_that_are_documented_and_travel_unchanged() {
    let mut world = World::new(&[b"one", b"two"]);
    let round2 = world.package(1, &[1, 2, 3]);
    assert_eq!(encode(round2.signers.first().unwrap()).len(), 1 + 160 + 2 * 64);
    let shares = world.second(2, &round2, NOW).unwrap();
    assert_eq!(encode(&shares).len(), 1 + 116 + 2 * 32);
    assert_eq!(decode::<Shares>(&encode(&shares)), Ok(shares));
    assert_eq!(decode::<Round2>(&encode(&round2)), Ok(round2));
    let round1 = world.round1(1);
    assert_eq!(decode::<Round1>(&encode(&*round1)).as_ref(), Ok(&*round1));
}

#[test]
fn one_nonce_never_signs_two_packages() {
    let mut world = World::new(&[b"one"]);
    let first = world.package(1, &[2, 3, 4]);
    let other = Round2 {
        session: first.session,
        signers: [2, 3, 5].map(|node| world.first(node, &world.round1(1), NOW).unwrap()).to_vec(),
    };
    let shares = world.second(2, &first, NOW).unwrap();
    assert_eq!(world.second(2, &first, NOW + 1), Ok(shares.clone()));
    let SignRefusal { refusal, alarm, blames } = world.second(2, &other, NOW + 2).unwrap_err();
    assert!(blames.is_empty(), "another signer is no other view");
    assert_eq!(refusal.code, ErrorCode::PeerMisbehaved);
    assert!(alarm && refusal.message.contains("nonce reuse") && refusal.message.contains("node 1"));
    // Also long after the nonces would have ended, and the old answer is still the same.
    assert!(world.second(2, &other, NOW + 20_000).unwrap_err().alarm);
    assert_eq!(world.second(2, &first, NOW + 20_000), Ok(shares));
    // Round 1 of a used session gives no fresh nonces.
    let round1 = world.round1(1);
    assert_eq!(world.first(2, &round1, NOW).unwrap_err().code, ErrorCode::PeerMisbehaved);
}

#[test]
fn nonces_are_gone_before_anything_is_computed() {
    let mut world = World::new(&[b"one"]);
    let round2 = Arc::new(world.package(1, &[2, 3, 4]));
    let permit = world.permit();
    let Node { holder, share, identity } = world.nodes.get_mut(&id(2)).unwrap();
    let context = Context { now_ms: NOW, coordinator: id(1), permit: &permit, share: &*share, identity: &*identity };
    let Lookup::Open(pending) = holder.lookup(&context, &round2).unwrap() else { unreachable!("the session is open") };
    let signers = Arc::new(pending.check(&*share, &world.members, &round2).unwrap());
    let taken = holder.take(&context, &signers).unwrap();
    assert_eq!(holder.pool().open_pairs(), 0);
    // While the answer is computed, and when it is lost, the same package waits and another one is an alarm.
    let again = holder.lookup(&context, &round2).unwrap_err();
    assert_eq!((again.refusal.code, again.alarm), (ErrorCode::Overloaded, false));
    assert_eq!(holder.take(&context, &signers).unwrap_err().refusal.code, ErrorCode::Overloaded);
    let mut other = (*round2).clone();
    other.signers.pop();
    assert!(holder.lookup(&context, &other).unwrap_err().alarm);
    let shares = taken.sign(&*share, &*identity).unwrap();
    holder.keep(id(1), &shares);
    assert_eq!(holder.round2(&context, &round2, &world.members), Ok(shares));
}

#[test]
fn a_repeated_round_1_gets_the_same_commitments() {
    let mut world = World::new(&[b"one"]);
    let round1 = world.round1(1);
    let first = world.first(2, &round1, NOW).unwrap();
    assert_eq!(world.first(2, &round1, NOW + 10), Ok(first.clone()));
    let next = world.round1(2);
    let next = world.first(2, &next, NOW).unwrap();
    assert_eq!(next.first_sequence, first.first_sequence + 1);
    assert_ne!(next.pairs, first.pairs);
    let mut changed = (*round1).clone();
    changed.request.signatures.clear();
    assert_eq!(world.first(2, &Arc::new(changed), NOW).unwrap_err().code, ErrorCode::PeerMisbehaved);
}

#[test]
fn nonces_end_and_their_session_stays_used() {
    let mut world = World::new(&[b"one", b"two"]);
    let round2 = world.package(1, &[2, 3, 4]);
    let late = NOW + limits::NONCE_MS + 1;
    let refused = world.second(2, &round2, late).unwrap_err();
    assert_eq!((refused.refusal.code, refused.alarm), (ErrorCode::DeadlineExceeded, false));
    let round1 = world.round1(1);
    assert!(world.first(2, &round1, late).unwrap_err().message.contains("session again"));
    assert_eq!(world.nodes.get(&id(2)).unwrap().holder.pool().open_pairs(), 0);
    assert_eq!(world.nodes.get(&id(3)).unwrap().holder.pool().open_pairs(), 2);
    world.nodes.get_mut(&id(3)).unwrap().holder.expire(late);
    assert_eq!(world.nodes.get(&id(3)).unwrap().holder.pool().open_pairs(), 0);
}

#[test]
fn one_request_gets_as_many_sets_as_can_be_needed() {
    let mut world = World::new(&[b"one"]);
    for number in 1..=3 {
        let round1 = world.round1(number);
        assert!(world.first(2, &round1, NOW).is_ok());
    }
    let round1 = world.round1(4);
    let refusal = world.first(2, &round1, NOW).unwrap_err();
    assert_eq!(refusal.code, ErrorCode::PeerMisbehaved);
    assert!(refusal.message.contains("3 times"));
    // Ended nonces do not give a new try; another request does.
    assert!(world.first(2, &round1, NOW + 10_000).is_err());
    world.ask(2);
    let round1 = world.round1(5);
    assert!(world.first(2, &round1, NOW).is_ok());
}

#[test]
fn the_pool_is_bounded_and_frees_what_is_old() {
    let mut world = World::new(&[b"m".as_slice(); limits::MESSAGES_PER_REQUEST]);
    let large = Round1 { messages: vec![Bytes(Vec::new()); limits::OPEN_NONCES + 1], ..(*world.round1(1)).clone() };
    let pool = world.nodes.get(&id(2)).unwrap().holder.pool();
    assert_eq!(pool.check_room(&large).unwrap_err().code, ErrorCode::Overloaded);
    let large = Round1 { messages: vec![Bytes(vec![0; 257 << 20])], ..large };
    assert_eq!(pool.check_room(&large).unwrap_err().code, ErrorCode::Overloaded);
    let round1 = world.round1(1);
    assert!(world.first(2, &round1, NOW).is_ok());
    assert_eq!(world.nodes.get(&id(2)).unwrap().holder.pool().open_pairs(), limits::MESSAGES_PER_REQUEST);
}

#[test]
fn a_holder_signs_only_what_it_was_asked_for_with_the_right_share() {
    let mut world = World::new(&[b"one"]);
    let mut changed = (*world.round1(1)).clone();
    changed.messages = vec![Bytes(b"two".to_vec())];
    assert_eq!(world.first(2, &Arc::new(changed), NOW).unwrap_err().code, ErrorCode::BadSignature);
    let mut changed = (*world.round1(1)).clone();
    changed.epoch = Epoch::FIRST;
    assert_eq!(world.first(2, &Arc::new(changed.clone()), NOW).unwrap_err().code, ErrorCode::EpochChanged);
    changed.epoch = world.core.epoch;
    changed.version = changed.version.next().unwrap();
    assert_eq!(world.first(2, &Arc::new(changed), NOW).unwrap_err().code, ErrorCode::EpochChanged);
    let mut changed = (*world.round1(1)).clone();
    changed.key = KeyId::from_bytes([9; 32]);
    assert_eq!(world.first(2, &Arc::new(changed), NOW).unwrap_err().code, ErrorCode::NotFresh);
    let mut changed = (*world.round1(1)).clone();
    changed.request = client_request(&world.messages, 2);
    assert_eq!(world.first(2, &Arc::new(changed), NOW).unwrap_err().code, ErrorCode::Internal);
    // A permit for another request opens nothing.
    let round1 = world.round1(1);
    let permit = Permit::for_test(Digest::from_bytes([0; 32]), world.core.clone());
    let Node { holder, share, identity } = world.nodes.get_mut(&id(2)).unwrap();
    let context = Context { now_ms: NOW, coordinator: id(1), permit: &permit, share: &*share, identity: &*identity };
    let refused = holder.round1(&context, &round1, &world.verified, &mut world.rng).unwrap_err();
    assert_eq!(refused.code, ErrorCode::Internal);
}

#[test]
fn a_permit_for_another_version_lets_no_share_leave() {
    let world = World::new(&[b"one"]);
    let permit = world.permit();
    assert!(permit.covers(world.core.version).is_ok());
    let other = world.core.version.next().unwrap();
    assert_eq!(permit.covers(other).unwrap_err().code, ErrorCode::EpochChanged);
}

#[test]
fn a_bent_package_is_refused_and_the_right_one_still_signs() {
    let mut world = World::new(&[b"one"]);
    let good = world.package(1, &[2, 3, 4, 5]);
    let request = world.verified.digest();
    let bent = |change: &dyn Fn(&mut Vec<Commitments>)| {
        let mut bent = good.clone();
        change(&mut bent.signers);
        bent
    };
    let with_last = |change: &dyn Fn(&mut Commitments)| {
        bent(&|signers| {
            let mut last = signers.pop().unwrap();
            change(&mut last);
            signers.push(resign(&last, &request));
        })
    };
    let cases: [(Round2, &str); 12] = [
        (bent(&|signers| signers.truncate(2)), "named 2 signers"),
        (bent(&|signers| signers.reverse()), "out of order"),
        (bent(&|signers| signers.insert(1, signers.first().unwrap().clone())), "out of order"),
        (bent(&|signers| drop(signers.remove(0))), "no signer"),
        (bent(&|signers| signers.first_mut().unwrap().first_sequence += 1), "commitments of this node"),
        (bent(&|signers| signers.last_mut().unwrap().first_sequence += 1), "not signed"),
        (bent(&|signers| signers.last_mut().unwrap().pairs.first_mut().unwrap().hiding[0] ^= 1), "not signed"),
        (with_last(&|last| last.epoch = Epoch::FIRST), "another epoch"),
        (with_last(&|last| last.key = KeyId::from_bytes([9; 32])), "another key"),
        (with_last(&|last| last.session = session(9)), "another session"),
        (with_last(&|last| last.pairs.clear()), "one for each message"),
        (with_last(&|last| last.node = id(9)), "no share"),
    ];
    for (round2, part) in cases {
        assert_refused(world.second(2, &round2, NOW), part);
    }
    // Signed for another request, or made for another coordinator.
    let foreign = bent(&|signers| {
        let last = signers.pop().unwrap();
        signers.push(resign(&last, &Digest::from_bytes([0; 32])));
    });
    assert_refused(world.second(2, &foreign, NOW), "not signed");
    let foreign = with_last(&|last| last.coordinator = id(3));
    assert_refused(world.second(2, &foreign, NOW), "another session");
    // A point of small order, signed: then its signer is named.
    let small = with_last(&|last| last.pairs.first_mut().unwrap().binding = [0; 32]);
    assert_refused(world.second(2, &small, NOW), "node 5");
    assert!(world.second(2, &good, NOW).is_ok());
}

#[test]
fn a_split_view_is_proved_against_its_author_only() {
    let mut world = World::new(&[b"one"]);
    let request = world.verified.digest();
    let a = world.package(1, &[2]).signers.pop().unwrap();
    let key = identity_of(id(2)).public();
    let proves = |b: &Commitments| proves_split_view(&a, b, &key, &CLUSTER, &request);
    let other_pairs = world.package(2, &[2]).signers.pop().unwrap().pairs;
    let b = Commitments { pairs: other_pairs, ..a.clone() };
    assert!(!proves(&b), "not signed");
    let signed = resign(&b, &request);
    assert!(proves(&signed));
    // What an honest node may say twice proves nothing.
    assert!(!proves(&a));
    let elsewhere = [
        Commitments { session: session(3), ..b.clone() },
        Commitments { coordinator: id(3), ..b.clone() },
        Commitments { boot: BootId { counter: 2, random: [8; 16] }, ..b.clone() },
    ];
    assert!(elsewhere.iter().all(|c| !proves(&resign(c, &request))));
    assert!(!proves(&resign(&b, &Digest::from_bytes([0; 32]))));
    assert!(!proves_split_view(&a, &signed, &identity_of(id(3)).public(), &CLUSTER, &request));
}
