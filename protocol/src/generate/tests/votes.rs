//! What binds a node across attempts and restarts, and what the log accepts.

use super::*;

#[test]
fn who_restarted_does_not_begin_again() {
    let ceremony = ceremony(3, 2);
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut begin = |own| Generate::start(start(&ceremony, node(1), own), &identity(node(1)), &mut rng);
    let (machine, step) = begin(OwnVotes::default()).unwrap();
    let (writes, _) = release(step);
    assert_eq!(writes, [Write { key: ceremony.record_key(), value: Some(encode(&Participation::Begun)) }]);
    assert_eq!(release(machine.resend()).0, writes);
    let participation = decode(writes[0].value.as_deref().unwrap()).unwrap();
    let refused = begin(OwnVotes { participation: Some(participation), activated: false }).unwrap_err();
    assert_eq!(refused, StartRefused::Own(VoteRefused::Begun));
    let refused = begin(OwnVotes { participation: None, activated: true }).unwrap_err();
    assert_eq!(refused, StartRefused::Own(VoteRefused::Activated));
    let report = FaultReport::new(FaultKind::Restarted, []);
    Vote::fault(&ceremony, node(1), report, &identity(node(1))).verify(&ceremony, key_of).unwrap();
}

#[test]
fn a_machine_starts_only_for_a_sound_ceremony_and_as_itself() {
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let own = OwnVotes::default();
    let mut refused = |begin, me: u16| Generate::start(begin, &identity(node(me)), &mut rng).unwrap_err();
    let good = ceremony(3, 2);
    assert_eq!(refused(start(&good, node(4), own), 4), StartRefused::NotInRoster);
    assert_eq!(refused(start(&good, node(1), own), 2), StartRefused::Keys);
    let twice = Ceremony { roster: vec![node(1), node(2), node(2)], ..good.clone() };
    assert_eq!(refused(start(&twice, node(1), own), 1), StartRefused::Ceremony);
    let some = Ceremony { holders: vec![node(3), node(2)], ..good.clone() };
    assert_eq!(refused(start(&some, node(2), own), 2), StartRefused::Ceremony);
    let base = Some(Base { core: Digest::from_bytes([7; 32]), dealers: good.roster.clone() });
    let moved = Ceremony { base, ..good.clone() };
    assert_eq!(refused(start(&moved, node(1), own), 1), StartRefused::Ceremony);
    let many = Ceremony { threshold: Threshold::new(4, 4).unwrap(), ..good };
    assert_eq!(refused(start(&many, node(1), own), 1), StartRefused::Ceremony);
}

#[test]
fn one_ready_per_epoch_and_none_beside_a_key() {
    let (mut bench, core, secret) = staging();
    let mut ready = |core: &CertificateCore, participation, activated| {
        let own = OwnVotes { participation, activated };
        ready_vote(node(1), core, &secret, own, &identity(node(1)), &mut bench.rng).map(|step| release(step).1)
    };
    let voted = Some(Participation::Ready(core.digest()));
    // After a restart between staging and voting, and between voting and the log.
    for before in [Some(Participation::Begun), voted] {
        let effects = ready(&core, before, false).unwrap();
        effects.iter().find_map(vote).unwrap().verify(&bench.ceremony, key_of).unwrap();
    }
    let other = CertificateCore { transcript: Digest::from_bytes([7; 32]), ..core.clone() };
    assert_eq!(ready(&other, voted, false).unwrap_err(), VoteRefused::OtherCore);
    assert_eq!(ready(&core, None, true).unwrap_err(), VoteRefused::Activated);
    let foreign = CertificateCore { roster: vec![node(2), node(1), node(3)], ..core };
    assert_eq!(ready(&foreign, None, false).unwrap_err(), VoteRefused::WrongShare);
}

#[test]
fn one_activated_per_epoch() {
    let (_, core, _) = staging();
    let identity = identity(node(1));
    let (writes, sealed) = activated_vote(&core, &identity, None).unwrap().split();
    let key = schema::activated_vote(&core.key, core.version, core.epoch);
    assert_eq!(writes.list(), [Write { key, value: Some(encode(&core.digest())) }]);
    let [signature] = sealed.release(&writes.durable())[..] else { unreachable!() };
    let public = identity.public();
    assert!(crate::certificate::verifies_activated(&public, &core.cluster, &core.digest(), &signature));
    assert!(activated_vote(&core, &identity, Some(core.digest())).is_ok());
    let other = Some(Digest::from_bytes([7; 32]));
    assert_eq!(activated_vote(&core, &identity, other).unwrap_err(), VoteRefused::OtherCore);
}

#[test]
fn votes_are_for_this_attempt_by_its_roster() {
    let ceremony = ceremony(3, 2);
    let report = |kind, culprits: &[u16]| FaultReport::new(kind, culprits.iter().map(|i| node(*i)));
    let by = |i: u16, report| Vote::fault(&ceremony, node(i), report, &identity(node(i)));
    let good = by(1, report(FaultKind::BadShare, &[3, 2, 3]));
    good.verify(&ceremony, key_of).unwrap();
    assert!(good.verify(&Ceremony { epoch: Epoch::new(2).unwrap(), ..ceremony.clone() }, key_of).is_err());
    assert!(by(4, report(FaultKind::BadShare, &[2])).verify(&ceremony, key_of).is_err());
    assert!(by(1, report(FaultKind::BadShare, &[4])).verify(&ceremony, key_of).is_err());
    assert!(by(1, report(FaultKind::SplitView, &[2])).verify(&ceremony, key_of).is_err());
    let Vote::Fault { operation, epoch, report, signature, .. } = good else { unreachable!() };
    let stolen = Vote::Fault { node: node(2), operation, epoch, report: report.clone(), signature };
    assert!(stolen.verify(&ceremony, key_of).is_err());
    let seen = Bench::new(3, 2).round1(2).seen();
    let mut other = Bench::new(3, 2);
    let (_, package) = dkg::part1(identifier(node(2)).unwrap(), 3, 2, &mut other.rng).unwrap();
    let second = other.sign_package(2, &package).seen();
    let split = FaultReport::split(Evidence { node: node(2), to: None, kind: Kind::Round1, first: seen, second });
    by(1, split.clone()).verify(&ceremony, key_of).unwrap();
    assert!(by(1, FaultReport { kind: FaultKind::BadShare, ..split.clone() }).verify(&ceremony, key_of).is_err());
    assert!(by(1, FaultReport { culprits: vec![node(3)], ..split }).verify(&ceremony, key_of).is_err());
    let unsorted = FaultReport { culprits: vec![node(3), node(2)], ..report };
    assert!(by(1, unsorted).verify(&ceremony, key_of).is_err());
}
