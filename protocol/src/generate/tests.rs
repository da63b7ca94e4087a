//! Traps, each against one machine whose peers are played by hand; votes and whole runs stand in files of their own.

mod votes;
mod whole_runs;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use frost_ed25519::Identifier;
use frost_ed25519::keys::dkg::{self, round1, round2};
use proptest::prelude::*;
use rand_chacha::ChaCha20Rng;
use rand_core::SeedableRng as _;

use super::message::{Body, Evidence, Kind, MESSAGE_BYTES, SecretBytes, Seen, parse_round1, parse_round2, put_round2};
use super::transcript::{identifier, on_one_polynomial, round1_digest};
use super::*;
use crate::identity::PublicKey;
use crate::step::Write;
use crate::wire::{Bytes, decode};

fn node(number: u16) -> NodeId {
    NodeId::new(number).unwrap()
}

fn identity(node: NodeId) -> Identity {
    Identity::from_seed(&[u8::try_from(node.get()).unwrap(); 32])
}

fn ceremony(n: u16, t: usize) -> Ceremony {
    Ceremony {
        cluster: ClusterId::from_bytes([1; 32]),
        operation: OperationId::from_bytes([2; 32]),
        key: KeyId::from_bytes([3; 32]),
        name: Name::new("release").unwrap(),
        version: KeyVersion::FIRST,
        suite: Suite::Ed25519,
        roster: (1..=n).rev().map(node).collect(),
        holders: (1..=n).rev().map(node).collect(),
        threshold: Threshold::new(t, usize::from(n)).unwrap(),
        membership: 0,
        epoch: Epoch::FIRST,
        base: None,
    }
}

fn key_of(node: NodeId) -> Option<PublicKey> {
    (node.get() < 100).then(|| identity(node).public())
}

fn start(ceremony: &Ceremony, me: NodeId, own: OwnVotes) -> Start {
    let keys = (1..=20).map(|i| (node(i), identity(node(i)).public())).collect();
    Start { ceremony: ceremony.clone(), me, keys, own }
}

fn release(step: Step<Effect>) -> (Vec<Write>, Vec<Effect>) {
    let (writes, sealed) = step.split();
    (writes.list().to_vec(), sealed.release(&writes.durable()))
}

/// A peer of the machine under test, played by the test over the real codec.
struct Puppet {
    secret: round1::SecretPackage,
    package: round1::Package,
}

/// Node 1 is a machine, the others are puppets.
struct Bench {
    ceremony: Ceremony,
    machine: Generate,
    own: Arc<SignedMessage>,
    puppets: BTreeMap<NodeId, Puppet>,
    rng: ChaCha20Rng,
}

impl Bench {
    fn new(n: u16, t: usize) -> Self {
        let mut rng = ChaCha20Rng::seed_from_u64(7);
        let ceremony = ceremony(n, t);
        let begin = start(&ceremony, node(1), OwnVotes::default());
        let (machine, step) = Generate::start(begin, &identity(node(1)), &mut rng).unwrap();
        let own = release(step).1.iter().find_map(sent).unwrap();
        let mut puppets = BTreeMap::new();
        for i in (2..=n).map(node) {
            let t = u16::try_from(t).unwrap();
            let (secret, package) = dkg::part1(identifier(i).unwrap(), n, t, &mut rng).unwrap();
            puppets.insert(i, Puppet { secret, package });
        }
        Self { ceremony, machine, own, puppets, rng }
    }

    fn sign(&self, from: u16, to: Option<u16>, body: Body) -> SignedMessage {
        let (cluster, digest) = (&self.ceremony.cluster, self.ceremony.digest());
        SignedMessage::sign(cluster, digest, node(from), to.map(node), body, &identity(node(from)))
    }

    fn sign_package(&self, from: u16, package: &round1::Package) -> SignedMessage {
        self.sign(from, None, Body::Round1 { package: Bytes(package.serialize().unwrap()) })
    }

    fn round1(&self, from: u16) -> SignedMessage {
        self.sign_package(from, &self.puppets[&node(from)].package)
    }

    fn seen(&self) -> BTreeMap<NodeId, Seen> {
        let others = self.puppets.keys().map(|i| (*i, self.round1(i.get()).seen()));
        others.chain([(node(1), self.own.seen())]).collect()
    }

    fn echo(&self, from: u16) -> SignedMessage {
        self.sign(from, None, Body::Echo { seen: self.seen() })
    }

    /// The genuine subshares of a puppet, by receiver.
    fn subshares(&self, from: u16) -> BTreeMap<Identifier, round2::Package> {
        let Body::Round1 { package } = &self.own.body else { unreachable!() };
        let own = parse_round1(&package.0, self.ceremony.threshold).unwrap();
        let others = self.puppets.iter().filter(|(i, _)| i.get() != from);
        let packages = others.map(|(i, puppet)| (identifier(*i).unwrap(), puppet.package.clone()));
        let packages = packages.chain([(identifier(node(1)).unwrap(), own)]).collect();
        dkg::part2(self.puppets[&node(from)].secret.clone(), &packages).unwrap().1
    }

    /// The genuine subshare for `owner`, sent to the machine.
    fn round2(&self, from: u16, owner: u16) -> SignedMessage {
        let package = put_round2(&self.subshares(from)[&identifier(node(owner)).unwrap()]);
        self.sign(from, Some(1), Body::Round2 { package })
    }

    fn genuine(&self, kind: Kind, from: u16) -> SignedMessage {
        match kind {
            Kind::Round1 => self.round1(from),
            Kind::Echo => self.echo(from),
            Kind::Round2 => self.round2(from, 1),
        }
    }

    fn input(self, input: Input) -> (Self, Vec<Effect>, Option<Ignored>) {
        let Self { ceremony, machine, own, puppets, mut rng } = self;
        let Advance { next: machine, step, ignored } = machine.handle(input, &identity(node(1)), &mut rng);
        (Self { ceremony, machine, own, puppets, rng }, release(step).1, ignored)
    }

    fn hear(self, from: u16, message: SignedMessage) -> (Self, Vec<Effect>, Option<Ignored>) {
        let message = SignedMessage::from_bytes(&message.to_bytes()).unwrap();
        self.input(Input::Message { from: node(from), message })
    }

    /// Hears what must not end the attempt.
    fn well(self, from: u16, message: SignedMessage) -> (Self, Vec<Effect>) {
        let (bench, effects, ignored) = self.hear(from, message);
        assert_eq!(ignored, None);
        assert_ne!(bench.machine.waiting_for().0, Phase::Ended);
        (bench, effects)
    }

    /// Hears all of one kind from everybody.
    fn all(mut self, kind: Kind) -> (Self, Vec<Effect>) {
        let mut effects = Vec::new();
        for i in self.puppets.keys().map(|i| i.get()).collect::<Vec<_>>() {
            let message = self.genuine(kind, i);
            (self, effects) = self.well(i, message);
        }
        (self, effects)
    }

    /// Hears what must end the attempt, with exactly one report that the log accepts; nothing follows it.
    fn fault(self, from: u16, message: SignedMessage) -> (FaultKind, Vec<u16>) {
        let (bench, effects, _) = self.hear(from, message);
        bench.ended(&effects)
    }

    fn ended(self, effects: &[Effect]) -> (FaultKind, Vec<u16>) {
        let votes: Vec<_> = effects.iter().filter_map(vote).collect();
        let [Vote::Fault { report, .. }] = votes.as_slice() else { unreachable!("{votes:?}") };
        votes[0].verify(&self.ceremony, key_of).unwrap();
        assert_eq!(self.machine.waiting_for(), (Phase::Ended, BTreeSet::new()));
        let again = self.round1(2);
        let (bench, effects, ignored) = self.hear(2, again);
        assert_eq!((effects.len(), ignored), (0, Some(Ignored::Over)));
        let (_, effects, ignored) = bench.input(Input::Deadline);
        assert_eq!((effects.len(), ignored), (0, Some(Ignored::Over)));
        (report.kind, report.culprits.iter().map(|i| i.get()).collect())
    }
}

fn sent(effect: &Effect) -> Option<Arc<SignedMessage>> {
    if let Effect::Send { message, .. } = effect { Some(Arc::clone(message)) } else { None }
}

fn vote(effect: &Effect) -> Option<Vote> {
    if let Effect::Propose(vote) = effect { Some(vote.clone()) } else { None }
}

fn staged(effects: Vec<Effect>) -> (CertificateCore, ShareSecret) {
    let stage = |effect| if let Effect::Stage { core, secret } = effect { Some((core, secret)) } else { None };
    effects.into_iter().find_map(stage).unwrap()
}

#[test]
fn a_bad_proof_of_knowledge_names_its_maker() {
    let mut bench = Bench::new(3, 2);
    let proof = *bench.puppets[&node(3)].package.proof_of_knowledge();
    let puppet = bench.puppets.get_mut(&node(2)).unwrap();
    puppet.package = round1::Package::new(puppet.package.commitment().clone(), proof);
    let (bench, _) = bench.all(Kind::Round1);
    let (first, last) = (bench.echo(2), bench.echo(3));
    assert_eq!(bench.well(2, first).0.fault(3, last), (FaultKind::BadProof, vec![2]));
}

/// FROST's proof has no context: only our signature over the ceremony's digest stops a package of another session.
#[test]
fn a_package_of_another_session_is_refused() {
    let mut bench = Bench::new(3, 2);
    let older = Ceremony { epoch: Epoch::new(9).unwrap(), ..bench.ceremony.clone() };
    let package = Bytes(bench.puppets[&node(2)].package.serialize().unwrap());
    let body = || Body::Round1 { package: package.clone() };
    let sign = || SignedMessage::sign(&older.cluster, older.digest(), node(2), None, body(), &identity(node(2)));
    // A late message of the attempt before is nobody's fault.
    let (next, effects, ignored) = bench.hear(2, sign());
    bench = next;
    assert_eq!((effects.len(), ignored), (0, Some(Ignored::OtherCeremony)));
    // Somebody else's package under one's own name: the proof names its maker, so it is a bad proof.
    let stolen = bench.puppets[&node(2)].package.clone();
    bench.puppets.get_mut(&node(3)).unwrap().package = stolen;
    let (bench, _) = bench.all(Kind::Round1);
    let (first, last) = (bench.echo(2), bench.echo(3));
    assert_eq!(bench.well(2, first).0.fault(3, last), (FaultKind::BadProof, vec![3]));
    // The same message with the digest of this attempt written over the old one.
    let mut replayed = sign();
    replayed.ceremony = Bench::new(3, 2).ceremony.digest();
    assert_eq!(Bench::new(3, 2).fault(2, replayed), (FaultKind::BadMessage, vec![2]));
}

#[test]
fn a_bad_subshare_names_its_dealer() {
    let (bench, _) = Bench::new(3, 2).all(Kind::Round1).0.all(Kind::Echo);
    let good = bench.round2(2, 1);
    let (bench, _) = bench.well(2, good);
    let wrong = bench.round2(3, 2);
    assert_eq!(bench.fault(3, wrong), (FaultKind::BadShare, vec![3]));
}

#[test]
fn a_commitment_of_another_length_names_its_maker() {
    for t in [2, 4] {
        let mut bench = Bench::new(5, 3);
        let (_, package) = dkg::part1(identifier(node(4)).unwrap(), 5, t, &mut bench.rng).unwrap();
        let message = bench.sign_package(4, &package);
        assert_eq!(bench.fault(4, message), (FaultKind::BadMessage, vec![4]));
    }
}

#[test]
fn garbage_names_its_sender() {
    let bench = || Bench::new(3, 2);
    let mut bad: Vec<SignedMessage> = Vec::new();
    // An encoding that FROST would read but not write: postcard ignores what follows.
    let mut longer = bench().puppets[&node(2)].package.serialize().unwrap();
    assert!(round1::Package::deserialize(&[longer.clone(), vec![0]].concat()).is_ok());
    longer.push(0);
    bad.push(bench().sign(2, None, Body::Round1 { package: Bytes(longer) }));
    bad.push(bench().sign(2, None, Body::Round1 { package: Bytes(vec![0xff; 135]) }));
    bad.push(bench().sign(2, Some(1), Body::Round2 { package: SecretBytes::new(Zeroizing::new(vec![0xff; 37])) }));
    bad.push(bench().sign(2, Some(1), Body::Round2 { package: SecretBytes::new(Zeroizing::new(vec![])) }));
    let mut seen = bench().seen();
    seen.remove(&node(3));
    bad.push(bench().sign(2, None, Body::Echo { seen: seen.clone() }));
    seen.insert(node(4), bench().own.seen());
    bad.push(bench().sign(2, None, Body::Echo { seen }));
    // Addressed to somebody else, or to one where everybody must get the same.
    let package = put_round2(&bench().subshares(2)[&identifier(node(3)).unwrap()]);
    bad.push(bench().sign(2, Some(3), Body::Round2 { package }));
    let Body::Round1 { package } = bench().round1(2).body else { unreachable!() };
    bad.push(bench().sign(2, Some(1), Body::Round1 { package }));
    // In another's name; signed by somebody else; said by somebody else; this node's own words thrown back at it.
    let Body::Round1 { package } = bench().round1(2).body else { unreachable!() };
    let (cluster, digest) = (bench().ceremony.cluster, bench().ceremony.digest());
    bad.push(SignedMessage::sign(&cluster, digest, node(3), None, Body::Round1 { package }, &identity(node(2))));
    let mut forged = bench().round1(2);
    forged.signature = bench().round1(3).signature;
    bad.push(forged);
    bad.push(bench().round1(3));
    bad.push(SignedMessage::from_bytes(&bench().own.to_bytes()).unwrap());
    for (i, message) in bad.into_iter().enumerate() {
        assert_eq!(bench().fault(2, message), (FaultKind::BadMessage, vec![2]), "case {i}");
    }
}

/// A commitment to too few coefficients, filled up to the right length with bytes that postcard ignores.
#[test]
fn a_package_has_one_encoding() {
    let package = &Bench::new(3, 2).puppets[&node(2)].package;
    let threshold = Threshold::new(2, 3).unwrap();
    let good = package.serialize().unwrap();
    assert_eq!(parse_round1(&good, threshold).as_ref(), Some(package));
    let padded = [&good[..5], &[1], &good[6..38], &good[70..], &[0; 32]].concat();
    assert!(round1::Package::deserialize(&padded).is_ok());
    assert_eq!((padded.len(), parse_round1(&padded, threshold)), (good.len(), None));
}

#[test]
fn only_other_nodes_of_the_roster_are_heard() {
    let mut bench = Bench::new(3, 2);
    for stranger in [1, 4] {
        let message = bench.sign_package(stranger, &bench.puppets[&node(2)].package);
        let (next, effects, ignored) = bench.hear(stranger, message);
        bench = next;
        assert_eq!((effects.len(), ignored), (0, Some(Ignored::UnknownSender)));
    }
    assert_eq!(bench.machine.waiting_for(), (Phase::Round1, BTreeSet::from([node(2), node(3)])));
}

#[test]
fn a_node_that_says_two_things_proves_it_itself() {
    let mut bench = Bench::new(3, 2);
    let first = bench.round1(2);
    let (_, other) = dkg::part1(identifier(node(2)).unwrap(), 3, 2, &mut bench.rng).unwrap();
    let second = bench.sign_package(2, &other);
    let (bench, _) = bench.well(2, first);
    let again = bench.round1(2);
    let (bench, effects, ignored) = bench.hear(2, again);
    assert_eq!((effects.len(), ignored), (0, Some(Ignored::Repeat)));
    assert_eq!(bench.fault(2, second), (FaultKind::SplitView, vec![2]));
}

/// Different packages for different peers: the echo of a peer carries the maker's own signature over the other one.
#[test]
fn an_equivocating_dealer_is_convicted_by_an_echo() {
    let (mut bench, _) = Bench::new(3, 2).all(Kind::Round1);
    let (_, other) = dkg::part1(identifier(node(2)).unwrap(), 3, 2, &mut bench.rng).unwrap();
    let mut seen = bench.seen();
    seen.insert(node(2), bench.sign_package(2, &other).seen());
    let echo = bench.sign(3, None, Body::Echo { seen });
    assert_eq!(bench.fault(3, echo), (FaultKind::SplitView, vec![2]));
}

#[test]
fn an_echo_cannot_frame_an_honest_node() {
    for victim in [1, 2] {
        let (bench, _) = Bench::new(3, 2).all(Kind::Round1);
        let mut seen = bench.seen();
        seen.get_mut(&node(victim)).unwrap().body = Digest::from_bytes([9; 32]);
        let echo = bench.sign(3, None, Body::Echo { seen: seen.clone() });
        let ceremony = bench.ceremony.clone();
        assert_eq!(bench.fault(3, echo), (FaultKind::BadMessage, vec![3]));
        // Nor can a lying reporter, even with the framed echo as its evidence.
        let first = Bench::new(3, 2).seen()[&node(victim)];
        let evidence =
            Evidence { node: node(victim), to: None, kind: Kind::Round1, first, second: seen[&node(victim)] };
        let vote = Vote::fault(&ceremony, node(3), FaultReport::split(evidence), &identity(node(3)));
        assert!(vote.verify(&ceremony, key_of).is_err());
    }
}

#[test]
fn messages_may_come_before_their_turn() {
    let mut bench = Bench::new(3, 2);
    for kind in [Kind::Round2, Kind::Echo] {
        bench = bench.all(kind).0;
    }
    assert_eq!(bench.machine.waiting_for().0, Phase::Round1);
    let (bench, effects) = bench.all(Kind::Round1);
    assert_eq!(bench.machine.waiting_for(), (Phase::Staging, BTreeSet::from([node(1)])));
    assert_eq!(effects.iter().filter_map(sent).count(), 2 + 2);
    assert!(bench.ceremony.fits(&staged(effects).0));
}

#[test]
fn the_deadline_names_who_is_silent() {
    let kinds = [Kind::Round1, Kind::Echo, Kind::Round2];
    for (kind, phase) in kinds.into_iter().zip([Phase::Round1, Phase::Echo, Phase::Round2]) {
        let mut bench = Bench::new(3, 2);
        for before in kinds.into_iter().filter(|before| *before < kind) {
            bench = bench.all(before).0;
        }
        let message = bench.genuine(kind, 2);
        let (bench, _) = bench.well(2, message);
        assert_eq!(bench.machine.waiting_for(), (phase, BTreeSet::from([node(3)])));
        let (bench, effects, _) = bench.input(Input::Deadline);
        assert_eq!(bench.ended(&effects), (FaultKind::Unresponsive, vec![3]));
    }
}

/// A machine that waits for its disk, and what it gave the disk.
fn staging() -> (Bench, CertificateCore, ShareSecret) {
    let (bench, effects) = Bench::new(3, 2).all(Kind::Round1).0.all(Kind::Echo).0.all(Kind::Round2);
    let (core, secret) = staged(effects);
    (bench, core, secret)
}

#[test]
fn a_share_that_the_disk_gives_back_changed_is_refused() {
    for wrong in [[0xff; 32], *Scalar::from(5u8).as_bytes()] {
        let (bench, effects, _) = staging().0.input(Input::Staged(ShareSecret::new(&wrong)));
        assert_eq!(bench.ended(&effects), (FaultKind::WrongResult, vec![1]));
    }
    let (bench, effects, ignored) = Bench::new(3, 2).input(Input::Staged(ShareSecret::new(&[1; 32])));
    assert_eq!((effects.len(), ignored), (0, Some(Ignored::NotStaging)));
    assert_eq!(bench.machine.waiting_for().0, Phase::Round1);
}

#[test]
fn ready_comes_out_only_against_the_receipt_of_its_write() {
    let record = |core: &CertificateCore| Write {
        key: schema::ready_vote(&core.key, core.version, core.epoch),
        value: Some(encode(&Participation::Ready(core.digest()))),
    };
    for foreign_receipt in [true, false] {
        let (mut bench, core, secret) = staging();
        let input = Input::Staged(ShareSecret::new(secret.expose()));
        let advance = bench.machine.handle(input, &identity(node(1)), &mut bench.rng);
        let (writes, sealed) = advance.step.split();
        assert_eq!(writes.list(), [record(&core)]);
        if foreign_receipt {
            let (others, _sealed) = Step::<Effect>::default().split();
            assert!(sealed.release(&others.durable()).is_empty());
        } else {
            let votes: Vec<_> = sealed.release(&writes.durable()).iter().filter_map(vote).collect();
            votes[0].verify(&bench.ceremony, key_of).unwrap();
            assert!(matches!(votes.as_slice(), [Vote::Ready { .. }]));
        }
        // Repeating it is no way around.
        let (writes, effects) = release(advance.next.resend());
        assert_eq!(writes, [record(&core)]);
        assert_eq!(effects.iter().filter_map(vote).count(), 1);
        assert_eq!(effects.iter().filter_map(sent).count(), 2 + 2 + 2);
        // After its vote a node says nothing more, whatever it hears.
        let (late, _) = Bench::new(3, 2).all(Kind::Round1);
        let input = Input::Message { from: node(2), message: late.sign(2, None, Body::Echo { seen: BTreeMap::new() }) };
        let advance = advance.next.handle(input, &identity(node(1)), &mut bench.rng);
        assert_eq!(advance.ignored, Some(Ignored::Over));
        advance.next.abort();
    }
}

#[test]
fn layouts_and_sizes_are_those_of_the_specification() {
    let (n, t) = (15, 8);
    let bench = Bench::new(n, t);
    let sizes = [Kind::Round1, Kind::Echo, Kind::Round2].map(|kind| bench.genuine(kind, 2).to_bytes().len());
    assert_eq!(sizes, [176 + 32 * t, 105 + 98 * usize::from(n), 144]);
    assert!(sizes.into_iter().all(|size| size <= MESSAGE_BYTES));
    assert!(SignedMessage::from_bytes(&[1; MESSAGE_BYTES + 1]).is_err());
    // Ours and FROST's encoding of a subshare are the same.
    let subshare = &bench.subshares(2)[&identifier(node(1)).unwrap()];
    assert_eq!(put_round2(subshare).expose(), subshare.serialize().unwrap());
    assert_eq!(parse_round2(&put_round2(subshare)), Some(subshare.clone()));
    let message = bench.round1(2);
    assert_eq!(encode(&SignedMessage::from_bytes(&message.to_bytes()).unwrap()), *message.to_bytes());
}

/// Computed from the specification by another program (Python's hashlib).
#[test]
fn known_digests() {
    let ceremony = ceremony(3, 2);
    assert_eq!(ceremony.digest().to_string(), "aa2adcc5c4a5fe2855f4cf6e5abc62df3ba8a1dc40559f11c9519809e4cb68bc");
    let body = Body::Round2 { package: SecretBytes::new(Zeroizing::new(vec![5; 37])) };
    assert_eq!(body.digest().to_string(), "5255421f023a866fda587ee93b856d97cd3fe877c1f3993aad78db31e07122ad");
    let seen = Seen { body: body.digest(), signature: Signature::from_bytes([6; 64]) };
    let seen = BTreeMap::from([(node(1), seen), (node(2), seen)]);
    assert_eq!(
        round1_digest(&ceremony.digest(), &seen).to_string(),
        "88e77f367ae958b3f44cf137124a4dac147be3955e5950acd13ff5920c3e296c"
    );
}

proptest! {
    #[test]
    fn only_points_of_one_polynomial_pass(seed: u64, n in 2u16..8, t in 2usize..8, bent in 0usize..9) {
        let t = t.min(usize::from(n));
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let coefficients: Vec<Scalar> = (0..t).map(|_| Scalar::random(&mut rng)).collect();
        let at = |x: u16| {
            let value = coefficients.iter().rev().fold(Scalar::ZERO, |sum, c| sum * Scalar::from(x) + c);
            EdwardsPoint::mul_base(&value).compress().to_bytes()
        };
        let mut shares: BTreeMap<NodeId, [u8; 32]> = (1..=n).map(|i| (node(i * 3), at(i * 3))).collect();
        let threshold = Threshold::new(t, usize::from(n)).unwrap();
        prop_assert!(on_one_polynomial(&shares, threshold, &at(0)));
        // Another degree: t+1 points of a true polynomial of degree t-1 do not lie on one of degree t-2.
        if let Some(lower) = Threshold::new(t - 1, usize::from(n)) {
            prop_assert!(!on_one_polynomial(&shares, lower, &at(0)));
        }
        let other = EdwardsPoint::mul_base(&Scalar::random(&mut rng)).compress().to_bytes();
        prop_assert!(!on_one_polynomial(&shares, threshold, &other));
        let victim = shares.values_mut().nth(bent % usize::from(n)).unwrap();
        *victim = other;
        prop_assert!(!on_one_polynomial(&shares, threshold, &at(0)));
    }
}
