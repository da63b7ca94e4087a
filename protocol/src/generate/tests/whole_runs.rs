//! Whole runs: every node a machine, over the real codec.

use frost_ed25519::keys::{KeyPackage, SigningShare, VerifyingShare};
use frost_ed25519::{self as frost, SigningPackage, VerifyingKey};

use super::*;

/// A machine per node and a network that reorders, repeats and loses.
struct Net {
    ceremony: Ceremony,
    machines: BTreeMap<NodeId, Generate>,
    queue: Vec<(NodeId, NodeId, Vec<u8>)>,
    shares: BTreeMap<NodeId, (CertificateCore, ShareSecret)>,
    votes: BTreeMap<NodeId, Vote>,
    /// Everything that was ever formatted, and everything that must not be in it.
    shown: String,
    secrets: Vec<Vec<u8>>,
    rng: ChaCha20Rng,
}

impl Net {
    fn new(ceremony: Ceremony, seed: u64) -> Self {
        let rng = ChaCha20Rng::seed_from_u64(seed);
        let (machines, shares, votes) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        let (queue, shown, secrets) = (Vec::new(), String::new(), Vec::new());
        let mut net = Self { ceremony, machines, queue, shares, votes, shown, secrets, rng };
        for i in net.ceremony.roster.clone() {
            let begin = start(&net.ceremony, i, OwnVotes::default());
            let (machine, step) = Generate::start(begin, &identity(i), &mut net.rng).unwrap();
            net.machines.insert(i, machine);
            net.act(i, step);
        }
        net
    }

    fn act(&mut self, i: NodeId, step: Step<Effect>) {
        self.shown += &format!("{step:?}");
        for effect in release(step).1 {
            match effect {
                Effect::Send { to, message } => {
                    if let Body::Round2 { package } = &message.body {
                        self.secrets.push(package.expose()[5..].to_vec());
                    }
                    self.queue.push((i, to, message.to_bytes().to_vec()));
                }
                Effect::Stage { core, secret } => {
                    self.secrets.push(secret.expose().to_vec());
                    let read = ShareSecret::new(secret.expose());
                    self.shares.insert(i, (core, secret));
                    self.input(i, Input::Staged(read));
                }
                Effect::Propose(vote) => assert_eq!(self.votes.insert(i, vote.clone()).unwrap_or(vote.clone()), vote),
            }
        }
    }

    fn input(&mut self, i: NodeId, input: Input) {
        self.shown += &format!("{input:?}");
        let machine = self.machines.remove(&i).unwrap();
        let advance = machine.handle(input, &identity(i), &mut self.rng);
        self.shown += &format!("{advance:?}");
        self.machines.insert(i, advance.next);
        self.act(i, advance.step);
    }

    /// Delivers in random order; a quarter is delivered twice, `lost` of a hundred not at all.
    fn run(&mut self, lost: u32) {
        for _ in 0..20_000 {
            if self.queue.is_empty() && self.votes.len() == self.machines.len() {
                return;
            }
            if self.queue.is_empty() {
                let steps: Vec<_> = self.machines.iter().map(|(i, machine)| (*i, machine.resend())).collect();
                for (i, step) in steps {
                    self.act(i, step);
                }
            }
            let at = self.draw() as usize % self.queue.len();
            let (from, to, bytes) = self.queue[at].clone();
            if !self.draw().is_multiple_of(4) {
                self.queue.swap_remove(at);
            }
            if self.draw() % 100 >= lost {
                let message = SignedMessage::from_bytes(&bytes).unwrap();
                self.input(to, Input::Message { from, message });
            }
        }
        unreachable!("no end: {:?}", self.machines);
    }

    fn draw(&mut self) -> u32 {
        use rand_core::RngCore as _;
        self.rng.next_u32()
    }

    /// All voted READY for one core, t of them sign under its key from every start, and nothing secret was ever formatted.
    fn check(&mut self, seed: u64) {
        let core = self.shares.values().next().unwrap().0.clone();
        for vote in self.votes.values() {
            vote.verify(&self.ceremony, key_of).unwrap();
            let Vote::Ready { core: voted, .. } = vote else { unreachable!("seed {seed}: {vote:?}") };
            assert_eq!(*voted, core, "seed {seed}");
        }
        let holders: Vec<NodeId> = self.shares.keys().copied().collect();
        for first in 0..holders.len() {
            let signers = holders.iter().cycle().skip(first).take(core.threshold.get()).copied();
            assert!(self.signs(&core, signers.collect()), "seed {seed}, first {first}");
        }
        for secret in &self.secrets {
            let list = format!("{secret:?}");
            assert!(!self.shown.contains(list.trim_matches(['[', ']'])) && !self.shown.contains(&hex::encode(secret)));
        }
    }

    fn signs(&mut self, core: &CertificateCore, signers: Vec<NodeId>) -> bool {
        let key = VerifyingKey::deserialize(&core.public_key).unwrap();
        let (mut packages, mut commitments, mut verifying) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
        for i in &core.roster {
            let share = VerifyingShare::deserialize(core.verifying_share(*i).unwrap()).unwrap();
            verifying.insert(identifier(*i).unwrap(), share);
        }
        let t = u16::try_from(core.threshold.get()).unwrap();
        for i in signers {
            let id = identifier(i).unwrap();
            let share = SigningShare::deserialize(self.shares[&i].1.expose()).unwrap();
            let (nonces, commitment) = frost::round1::commit(&share, &mut self.rng);
            commitments.insert(id, commitment);
            packages.insert(id, (nonces, KeyPackage::new(id, share, verifying[&id], key, t)));
        }
        let package = SigningPackage::new(commitments, b"message");
        let sign = |(nonces, key): &(_, KeyPackage)| frost::round2::sign(&package, nonces, key).unwrap();
        let shares = packages.iter().map(|(id, parts)| (*id, sign(parts))).collect();
        let public = frost::keys::PublicKeyPackage::new(verifying, key, Some(t));
        let signature = frost::aggregate(&package, &shares, &public).unwrap().serialize().unwrap();
        let signature = Signature::from_bytes(signature.try_into().unwrap());
        PublicKey::from_bytes(&core.public_key).unwrap().verifies_raw(b"message", &signature)
    }
}

#[test]
fn whole_runs_in_any_order_end_with_one_key() {
    for (n, t) in [(2, 2), (3, 2), (5, 3), (4, 4)] {
        for seed in 0..8 {
            let mut net = Net::new(ceremony(n, t), seed);
            net.run(0);
            net.check(seed);
        }
    }
}

#[test]
fn whole_runs_over_a_lossy_network_end_by_repeating() {
    for seed in 0..8 {
        let mut net = Net::new(ceremony(5, 3), seed);
        net.run(30);
        net.check(seed);
    }
}

/// What an evil node makes of a message of its own, newly signed: nothing, or the same kind with another content.
fn twist(net: &mut Net, evil: NodeId, to: NodeId, message: SignedMessage) -> Option<SignedMessage> {
    let choice = net.draw() % 8;
    let body = match &message.body {
        _ if choice > 5 => return None,
        Body::Round1 { .. } if choice == 0 => {
            let (n, t) = (net.ceremony.roster.len(), net.ceremony.threshold.get());
            let (n, t) = (u16::try_from(n).unwrap(), u16::try_from(t).unwrap());
            let (_, package) = dkg::part1(identifier(evil).unwrap(), n, t, &mut net.rng).unwrap();
            Body::Round1 { package: Bytes(package.serialize().unwrap()) }
        }
        Body::Echo { seen } if choice < 3 => {
            let mut seen = seen.clone();
            let lie = [evil, node(1), node(3)][choice as usize];
            seen.insert(lie, message.seen());
            Body::Echo { seen }
        }
        Body::Round2 { .. } if choice < 2 => {
            let share = SigningShare::deserialize(Scalar::random(&mut net.rng).as_bytes()).unwrap();
            Body::Round2 { package: put_round2(&round2::Package::new(share)) }
        }
        Body::Round1 { .. } | Body::Echo { .. } | Body::Round2 { .. } => return Some(message),
    };
    let to = (body.kind() == Kind::Round2).then_some(to);
    let (cluster, digest) = (net.ceremony.cluster, net.ceremony.digest());
    Some(SignedMessage::sign(&cluster, digest, evil, to, body, &identity(evil)))
}

/// Whatever one evil node says to whom: honest nodes blame it alone, and never vote READY for different cores.
#[test]
fn one_evil_node_never_gets_an_honest_one_blamed() {
    let mut kinds = BTreeSet::new();
    for seed in 0..150 {
        let (mut net, evil) = (Net::new(ceremony(4, 3), seed), node(2));
        while !net.queue.is_empty() {
            let at = net.draw() as usize % net.queue.len();
            let (from, to, bytes) = net.queue.swap_remove(at);
            let message = SignedMessage::from_bytes(&bytes).unwrap();
            let message = if from == evil { twist(&mut net, evil, to, message) } else { Some(message) };
            if let Some(message) = message {
                net.input(to, Input::Message { from, message });
            }
        }
        net.votes.remove(&evil);
        let mut cores = BTreeSet::new();
        for vote in net.votes.values() {
            vote.verify(&net.ceremony, key_of).unwrap();
            match vote {
                Vote::Ready { core, .. } => assert!(cores.insert(core.digest()) || cores.len() == 1, "seed {seed}"),
                Vote::Fault { report, .. } => {
                    assert_eq!(report.culprits, [evil], "seed {seed}: {vote:?}");
                    kinds.insert(report.kind);
                }
            }
        }
        assert!(cores.len() <= 1, "seed {seed}");
    }
    assert_eq!(kinds, BTreeSet::from([FaultKind::BadMessage, FaultKind::BadShare, FaultKind::SplitView]));
}
