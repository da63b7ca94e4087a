//! Who can be blamed before others, and that nothing an honest holder signs can be turned against it.

use rand_core::RngCore as _;

use super::*;

/// What was said in one session: the package, and what its signers answered.
struct Said {
    request: SignedRequest,
    digest: Digest,
    messages: Vec<Bytes>,
    package: Round2,
    shares: BTreeMap<NodeId, Shares>,
}

impl World {
    /// An honest session of these signers. A later request has other messages.
    fn said(&mut self, number: u16, session: u8, signers: &[u16]) -> Said {
        self.messages = vec![Bytes(format!("one of {number}").into_bytes()), Bytes(b"two".to_vec())];
        self.ask(number);
        let package = self.package(session, signers);
        let shares = signers.iter().map(|node| (id(*node), self.second(*node, &package, NOW).unwrap())).collect();
        let (request, digest) = (self.request.clone(), self.verified.digest());
        Said { request, digest, messages: self.messages.clone(), package, shares }
    }
}

impl Said {
    fn bad_share(&self, accused: u16, at: usize) -> Blame {
        let evidence = Evidence::BadShare {
            request: self.request.clone(),
            at: u32::try_from(at).unwrap(),
            message: self.messages[at].clone(),
            package: self.package.clone(),
            shares: self.shares[&id(accused)].clone(),
        };
        Blame { accused: id(accused), evidence }
    }
    /// The same with another share of the accused, signed by it.
    fn bent(&self, accused: u16, at: usize, share: [u8; 32]) -> Blame {
        let mut blame = self.bad_share(accused, at);
        if let Evidence::BadShare { shares, .. } = &mut blame.evidence {
            shares.shares[at] = share;
            *shares = shares.clone().signed(&identity_of(id(accused)), &CLUSTER, &self.digest);
        }
        blame
    }
}

#[test]
fn a_wrong_share_is_proved_and_a_right_one_is_not() {
    let mut world = World::new(&[b"one"]);
    let said = world.said(1, 1, &[2, 3, 4]);
    for at in 0..2 {
        assert!(!world.proves(&said.bad_share(3, at)));
        assert!(world.proves(&said.bent(3, at, [1; 32])), "message {at}");
        assert!(world.proves(&said.bent(3, at, [0xff; 32])), "no scalar");
    }
    // The share of the other message is the wrong one; this one is right.
    let mut elsewhere = said.bent(3, 1, [1; 32]);
    let Evidence::BadShare { at, message, .. } = &mut elsewhere.evidence else { unreachable!("a bad share") };
    (*at, *message) = (0, said.messages[0].clone());
    assert!(!world.proves(&elsewhere));
    // One share too few.
    let mut short = said.bad_share(3, 0);
    let Evidence::BadShare { shares, .. } = &mut short.evidence else { unreachable!("a bad share") };
    shares.shares.truncate(1);
    *shares = shares.clone().signed(&identity_of(id(3)), &CLUSTER, &said.digest);
    assert!(world.proves(&short));
    // It is said of its author and with the shares of this epoch, or not at all.
    let good = said.bent(3, 0, [1; 32]);
    assert!(!world.proves(&Blame { accused: id(2), ..good.clone() }));
    assert!(!good.verifies(&CertificateCore { epoch: Epoch::FIRST, ..world.core.clone() }, &world.members));
    assert!(!good.verifies(&world.core, &BTreeMap::new()));
}

/// What a coordinator may change in the evidence against holder 3, who did nothing wrong.
#[test]
fn whatever_a_coordinator_changes_an_honest_holder_is_not_blamed() {
    let mut world = World::new(&[b"one"]);
    let said = world.said(1, 1, &[2, 3, 4]);
    let other = world.said(1, 2, &[2, 3, 4]);
    let later = world.said(2, 3, &[2, 3, 4]);
    type Change<'a> = &'a dyn Fn(&mut SignedRequest, &mut u32, &mut Bytes, &mut Round2, &mut Shares);
    let evil = id(4);
    let re_said = |change: fn(&mut Commitments)| {
        let mut other = said.package.signers[2].clone();
        change(&mut other);
        other.signed(&identity_of(evil), &CLUSTER, &said.digest)
    };
    let (others_pairs, more_pairs) = (re_said(|c| c.pairs.reverse()), re_said(|c| c.pairs.extend_from_within(..1)));
    let changes: [(&str, Change<'_>); 15] = [
        ("another message", &|_, _, message, _, _| message.0.push(0)),
        ("the other message", &|_, _, message, _, _| *message = said.messages[1].clone()),
        ("the other number", &|_, at, _, _, _| *at = 1),
        ("a number that is too large", &|_, at, _, _, _| *at = 7),
        ("another request", &|request, _, _, _, _| *request = later.request.clone()),
        ("another request with its message", &|request, _, message, _, _| {
            (*request, *message) = (later.request.clone(), later.messages[0].clone());
        }),
        ("a request without its client", &|request, _, _, _, _| request.signatures.clear()),
        ("other commitments of an accomplice", &|_, _, _, package, _| package.signers[2] = others_pairs.clone()),
        ("more commitments of an accomplice", &|_, _, _, package, _| package.signers[2] = more_pairs.clone()),
        ("a changed commitment of the holder", &|_, _, _, package, _| package.signers[1].pairs.reverse()),
        ("a signer less", &|_, _, _, package, _| package.signers.truncate(2)),
        ("a package of another session", &|_, _, _, package, _| *package = other.package.clone()),
        ("shares of another session", &|_, _, _, _, shares| *shares = other.shares[&id(3)].clone()),
        ("shares under another package's name", &|_, _, _, package, shares| {
            *package = other.package.clone();
            (shares.session, shares.package) = (package.session, package.digest(&said.digest));
        }),
        ("changed shares", &|_, _, _, _, shares| shares.shares[0] = [1; 32]),
    ];
    for (what, change) in changes {
        let mut blame = said.bad_share(3, 0);
        let Evidence::BadShare { request, at, message, package, shares } = &mut blame.evidence else {
            unreachable!("a bad share")
        };
        change(request, at, message, package, shares);
        assert!(!world.proves(&blame), "{what}");
    }
}

/// Another package for each holder: whoever answers is bound to the one that it saw, and no other proves anything.
#[test]
fn packages_that_differ_from_holder_to_holder_frame_nobody() {
    let mut world = World::new(&[b"one", b"two"]);
    let package = world.package(1, &[2, 3, 4]);
    let (request, digest) = (world.request.clone(), world.verified.digest());
    let mut other = package.clone();
    other.signers[2].pairs.reverse();
    other.signers[2] = resign(&other.signers[2], &digest);
    let shares = BTreeMap::from([
        (id(2), world.second(2, &package, NOW).unwrap()),
        (id(3), world.second(3, &other, NOW).unwrap()),
    ]);
    let messages = world.messages.clone();
    for package in [&package, &other] {
        let package = package.clone();
        let said =
            Said { request: request.clone(), digest, messages: messages.clone(), package, shares: shares.clone() };
        for accused in [2, 3] {
            assert!((0..2).all(|at| !world.proves(&said.bad_share(accused, at))));
        }
    }
    // The holder that sees both packages has the proof against the one who committed twice.
    let SignRefusal { alarm, blames, .. } = world.second(2, &other, NOW).unwrap_err();
    let [blame] = blames.as_slice() else { unreachable!("one signer said two things: {blames:?}") };
    assert!(alarm && (blame.accused, blame.kind()) == (id(4), BlameKind::SplitView) && world.proves(blame));
    // A coordinator that changes the statement itself gets nobody blamed.
    other.signers[2] = Commitments { first_sequence: 9, ..other.signers[2].clone() };
    let SignRefusal { alarm, blames, .. } = world.second(2, &other, NOW).unwrap_err();
    assert!(alarm && blames.iter().all(|blame| !world.proves(blame)));
}

/// Every statement of honest holders in several sessions and requests, put together in every way.
#[test]
fn no_mixture_of_honest_statements_proves_anything() {
    let mut world = World::new(&[b"one"]);
    let said = [world.said(1, 1, &[2, 3, 4]), world.said(1, 2, &[2, 3, 5]), world.said(2, 3, &[2, 3, 4])];
    for (one, two, three) in [0, 1, 2].into_iter().flat_map(|a| (0..9).map(move |b| (a, b / 3, b % 3))) {
        let (asked, packed, signed) = (&said[one], &said[two], &said[three]);
        for (accused, shares) in &signed.shares {
            for at in 0..2 {
                let evidence = Evidence::BadShare {
                    request: asked.request.clone(),
                    at: u32::try_from(at).unwrap(),
                    message: asked.messages[at].clone(),
                    package: packed.package.clone(),
                    shares: shares.clone(),
                };
                assert!(!world.proves(&Blame { accused: *accused, evidence }), "{one} {two} {three} {accused} {at}");
            }
        }
        for (first, second) in packed.package.signers.iter().zip(&signed.package.signers) {
            assert!(!world.proves(&Blame::split_view(asked.digest, first.clone(), second.clone())));
            let evidence = Evidence::BadCommitment { request: asked.digest, commitments: first.clone() };
            assert!(!world.proves(&Blame { accused: first.node, evidence }));
        }
    }
}

/// Any byte of any evidence changed: what was proved may not be proved any more, and nobody else is.
#[test]
fn changed_bytes_prove_nothing_against_the_honest() {
    for seed in 0..4 {
        let mut world = World::new(&[b"one"]);
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let said = world.said(1, 1, &[2, 3, 4]);
        let first = said.package.signers[0].clone();
        let split = Blame::split_view(said.digest, first.clone(), first.clone());
        let point = Evidence::BadCommitment { request: said.digest, commitments: first };
        for honest in [said.bad_share(3, 0), split, Blame { accused: id(2), evidence: point }] {
            let bytes = encode(&honest);
            for _ in 0..400 {
                let mut changed = bytes.clone();
                let at = usize::try_from(rng.next_u32()).unwrap() % changed.len();
                changed[at] ^= 1 << (rng.next_u32() % 8);
                if let Ok(blame) = decode::<Blame>(&changed) {
                    assert!(!world.proves(&blame), "seed {seed}: byte {at}");
                }
            }
        }
    }
}

#[test]
fn a_holder_gives_so_many_shares_as_sessions_can_be_needed_over_all_epochs() {
    let mut world = World::of(4, 3, &[b"one"]);
    let packages = [world.package(1, &[2, 3, 4]), world.package(2, &[2, 3, 4])];
    assert!(world.first(2, &world.round1(3), NOW).is_err(), "two sessions can be needed");
    assert!(packages.iter().all(|package| world.second(2, package, NOW).is_ok()));
    // The shares change under the request: it begins anew, and gets no more shares for it.
    world.core.epoch = world.core.epoch.next().unwrap();
    let dealt = deal(&world.core.roster, 3, &mut world.rng);
    world.core.public_key = dealt.public_key;
    world.core.verifying_shares = dealt.shares.iter().map(|(_, _, verifying)| *verifying).collect();
    for (node, secret, _) in dealt.shares {
        world.nodes.get_mut(&node).unwrap().share = HolderShare::new(node, secret, &world.core).unwrap();
    }
    let package = world.package(4, &[2, 3, 4]);
    assert_refused(world.second(2, &package, NOW), "more often");
    assert!(world.second(3, &package, NOW).is_ok(), "it gave none before");
}

#[test]
fn a_clock_that_goes_back_brings_no_session_back() {
    let mut world = World::new(&[b"one"]);
    let first = world.first(2, &world.round1(1), NOW).unwrap();
    let expired = NOW + 60_000;
    world.nodes.get_mut(&id(2)).unwrap().holder.expire(expired);
    let again = world.first(2, &world.round1(1), NOW).unwrap_err();
    assert_eq!(again.code, ErrorCode::RequestExpired);
    assert_eq!(first.session, session(1));
}
