//! Whole attempts and whole operations: every node a machine, over the real codec, with a log and a network that do what they may.

use frost_ed25519::keys::{KeyPackage, PublicKeyPackage, SigningShare, VerifyingShare};
use frost_ed25519::{self as frost, Identifier, SigningPackage, VerifyingKey};
use rand_core::RngCore as _;

use super::*;
use crate::generate::transcript::identifier;
use crate::redistribute::vote::commitments_digest;

/// How an evil node plays its parts.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Evil {
    /// Deals nothing.
    NoDealing,
    /// Deals, and sends no subshare to this holder.
    Withholds(u16),
    /// Sends a wrong subshare to this holder.
    Wrong(u16),
    /// Sends this holder a good subshare of other commitments.
    Other(u16),
    /// Says nothing as a holder.
    NoWord,
    /// Accuses this dealer, whatever it sent.
    Accuses(u16),
    /// Accuses these two.
    AccusesTwo(u16, u16),
    /// Acknowledges everything, also what it did not get, and never votes.
    NoReady,
}

/// A machine per node, a network that reorders, repeats and loses, and a log that everybody sees at another pace.
struct Net {
    key: Key,
    ceremony: Ceremony,
    machines: BTreeMap<NodeId, Redistribute>,
    queue: Vec<(NodeId, NodeId, Vec<u8>)>,
    proposed: Vec<DealingVote>,
    log: Dealings,
    seen: BTreeMap<NodeId, Dealings>,
    staged: BTreeMap<NodeId, (CertificateCore, ShareSecret)>,
    votes: BTreeMap<NodeId, Vote>,
    /// Who said that it lost what it dealt to itself.
    lost: BTreeSet<NodeId>,
    evil: BTreeMap<NodeId, Evil>,
    /// Everything that was ever formatted, and everything that must not be in it.
    shown: String,
    secrets: Vec<Vec<u8>>,
    rng: ChaCha20Rng,
}

impl Net {
    fn new(key: Key, ceremony: Ceremony, log: Dealings, evil: &[(u16, Evil)], seed: u64) -> Self {
        let mut net = Self {
            key,
            machines: BTreeMap::new(),
            queue: Vec::new(),
            proposed: Vec::new(),
            log,
            seen: BTreeMap::new(),
            staged: BTreeMap::new(),
            votes: BTreeMap::new(),
            lost: BTreeSet::new(),
            evil: evil.iter().map(|(i, evil)| (node(*i), *evil)).collect(),
            shown: String::new(),
            secrets: Vec::new(),
            rng: ChaCha20Rng::seed_from_u64(seed),
            ceremony,
        };
        let dealers = net.ceremony.base.clone().unwrap().dealers;
        let mut all: BTreeSet<NodeId> = dealers.into_iter().collect();
        all.extend(&net.ceremony.holders);
        for i in all {
            net.start(i, None);
        }
        net
    }

    fn start(&mut self, i: NodeId, participation: Option<Participation>) {
        let keys = (1..=99).map(|i| (node(i), identity(node(i)).public())).collect();
        let share = self.key.shares.get(&i).map(|share| ShareSecret::new(share.expose()));
        let own = OwnVotes { participation, activated: false };
        let start = Start { ceremony: self.ceremony.clone(), base: self.key.core.clone(), me: i, keys, own, share };
        if let Ok((machine, step)) = Redistribute::start(start, &identity(i), &mut self.rng) {
            self.machines.insert(i, machine);
            self.act(i, step);
        }
    }

    fn act(&mut self, i: NodeId, step: Step<Effect>) {
        self.shown += &format!("{step:?}");
        let (writes, sealed) = step.split();
        for effect in sealed.release(&writes.durable()) {
            match effect {
                Effect::Send { to, message } => {
                    self.secrets.push(message.subshare.expose().to_vec());
                    self.send(i, to, &message);
                }
                Effect::Deal(vote) => self.propose(i, vote),
                Effect::Stage { core, secret } => {
                    self.secrets.push(secret.expose().to_vec());
                    let read = ShareSecret::new(secret.expose());
                    self.staged.insert(i, (core, secret));
                    self.input(i, Input::Staged(read));
                }
                Effect::Propose(_) if self.evil.get(&i) == Some(&Evil::NoReady) => {}
                Effect::Propose(Vote::Fault { report, .. }) => {
                    assert!(
                        report.kind == crate::generate::FaultKind::Restarted && report.culprits.is_empty(),
                        "{report:?}"
                    );
                    self.lost.insert(i);
                }
                Effect::Propose(vote) => assert_eq!(self.votes.insert(i, vote.clone()).unwrap_or(vote.clone()), vote),
            }
        }
    }

    fn send(&mut self, from: NodeId, to: NodeId, message: &SubshareMessage) {
        let (bound, secret) = match self.evil.get(&from) {
            Some(Evil::Withholds(victim)) if node(*victim) == to => return,
            Some(Evil::Wrong(victim)) if node(*victim) == to => (message.commitments, Scalar::random(&mut self.rng)),
            Some(Evil::Other(victim)) if node(*victim) == to => {
                let poly = self.key.dealing(from.get(), &self.ceremony, &mut self.rng);
                (commitments_digest(&message.ceremony, from, &poly.commitments()), poly.at(to))
            }
            _ => return self.queue.push((from, to, message.to_bytes().to_vec())),
        };
        let share = ShareSecret::new(secret.as_bytes());
        let cluster = &self.ceremony.cluster;
        let bent = SubshareMessage::sign(cluster, message.ceremony, from, to, bound, &share, &identity(from));
        self.queue.push((from, to, bent.to_bytes().to_vec()));
    }

    fn propose(&mut self, i: NodeId, vote: DealingVote) {
        let all: Vec<u16> = self.log.dealt.iter().map(|(dealer, _)| dealer.get()).collect();
        let without = |bad: &[u16]| {
            let good: Vec<u16> = all.iter().copied().filter(|dealer| !bad.contains(dealer)).collect();
            let bad: Vec<u16> = bad.iter().copied().filter(|dealer| all.contains(dealer)).collect();
            let sorted = |mut list: Vec<u16>| {
                list.sort_unstable();
                list
            };
            acknowledged(&self.ceremony, i.get(), &sorted(good), &sorted(bad))
        };
        let acknowledges = matches!(vote, DealingVote::Acknowledged { .. });
        let vote = match self.evil.get(&i) {
            Some(Evil::NoDealing) if !acknowledges => return,
            Some(Evil::NoWord) if acknowledges => return,
            Some(Evil::Accuses(victim)) if acknowledges => without(&[*victim]),
            Some(Evil::AccusesTwo(one, two)) if acknowledges => without(&[*one, *two]),
            Some(Evil::NoReady) if acknowledges => without(&[]),
            _ => vote,
        };
        self.proposed.push(vote);
    }

    fn input(&mut self, i: NodeId, input: Input) {
        self.shown += &format!("{input:?}");
        let Some(machine) = self.machines.remove(&i) else { return };
        let advance = machine.handle(input, &identity(i), &mut self.rng);
        self.shown += &format!("{advance:?}");
        self.machines.insert(i, advance.next);
        self.act(i, advance.step);
    }

    fn draw(&mut self, below: usize) -> usize {
        self.rng.next_u32() as usize % below.max(1)
    }

    /// One thing happens: a message arrives, or is lost; a vote is ordered, or lost; a node sees more of the log.
    fn turn(&mut self, lost: usize) {
        match self.draw(3) {
            0 if !self.queue.is_empty() => {
                let at = self.draw(self.queue.len());
                let (from, to, bytes) = self.queue[at].clone();
                if self.draw(4) > 0 {
                    self.queue.swap_remove(at);
                }
                if self.draw(100) >= lost {
                    let message = SubshareMessage::from_bytes(&bytes).unwrap();
                    self.input(to, Input::Message { from, message });
                }
            }
            1 if !self.proposed.is_empty() => {
                let at = self.draw(self.proposed.len());
                let vote = self.proposed.swap_remove(at);
                if self.draw(100) >= lost {
                    // A word of a liar may name a dealer that is no longer there.
                    let _ = self.log.take(&self.ceremony, &self.key.core, &vote, key_of);
                }
            }
            _ => {
                let at = self.draw(self.machines.len());
                let i = *self.machines.keys().nth(at).unwrap();
                if self.seen.get(&i) != Some(&self.log) {
                    self.seen.insert(i, self.log.clone());
                    self.input(i, Input::Log(self.log.clone()));
                }
            }
        }
    }

    /// Everybody repeats.
    fn repeat(&mut self) {
        let steps: Vec<_> = self.machines.iter().map(|(i, machine)| (*i, machine.resend())).collect();
        for (i, step) in steps {
            self.act(i, step);
        }
    }

    fn is_idle(&self) -> bool {
        let shown = self.machines.keys().all(|i| self.seen.get(i) == Some(&self.log));
        self.queue.is_empty() && self.proposed.is_empty() && shown
    }

    /// Whether all holders voted READY, after everything that can happen has happened, with some repetitions.
    fn run(&mut self, lost: usize) -> bool {
        let mut repetitions = 0;
        loop {
            if self.ceremony.holders.iter().all(|i| self.votes.contains_key(i)) {
                return true;
            }
            if self.is_idle() {
                repetitions += 1;
                // An attempt has time for some; a lossy network needs more.
                if repetitions > 4 + lost * 4 {
                    return false;
                }
                self.repeat();
            }
            self.turn(lost);
        }
    }

    /// Everybody voted for one core, of the same key; shares and signatures are what they should be; nothing secret was shown.
    fn check(mut self, seed: u64) -> Key {
        let Chosen { core, dealers } = self.log.result.clone().unwrap();
        assert!(self.ceremony.fits(&core), "seed {seed}");
        assert_eq!((dealers.len(), core.public_key), (self.key.core.threshold.get(), self.key.core.public_key));
        for (i, vote) in &self.votes {
            vote.verify(&self.ceremony, key_of).unwrap();
            let Vote::Ready { core: voted, .. } = vote else { unreachable!("seed {seed}: {vote:?}") };
            assert_eq!((voted, &self.staged[i].0), (&core, &core), "seed {seed}");
        }
        for secret in &self.secrets {
            let list = format!("{secret:?}");
            assert!(!self.shown.contains(list.trim_matches(['[', ']'])) && !self.shown.contains(&hex::encode(secret)));
        }
        let shares = std::mem::take(&mut self.staged).into_iter().map(|(i, (_, share))| (i, share)).collect();
        let next = Key { core, shares };
        let holders = next.core.holders.clone();
        for first in 0..holders.len() {
            let signers: Vec<NodeId> =
                holders.iter().cycle().skip(first).take(next.core.threshold.get()).copied().collect();
            let signers: Vec<_> = signers.iter().map(|i| (*i, &next.shares[i])).collect();
            assert!(signs(&next.core, &signers, &mut self.rng), "seed {seed}, first {first}");
        }
        next
    }
}

/// Whether these shares sign under the key: with FROST, checked by FROST and by everybody else's rule (RFC 8032, strict).
pub(super) fn signs(core: &CertificateCore, signers: &[(NodeId, &ShareSecret)], rng: &mut ChaCha20Rng) -> bool {
    let key = VerifyingKey::deserialize(&core.public_key).unwrap();
    let t = u16::try_from(core.threshold.get()).unwrap();
    let (mut packages, mut commitments) = (Vec::new(), BTreeMap::new());
    for (i, share) in signers {
        let id: Identifier = identifier(*i).unwrap();
        let share = SigningShare::deserialize(share.expose()).unwrap();
        let (nonces, commitment) = frost::round1::commit(&share, rng);
        commitments.insert(id, commitment);
        packages.push((id, nonces, KeyPackage::new(id, share, VerifyingShare::from(share), key, t)));
    }
    let package = SigningPackage::new(commitments, b"message");
    let sign =
        |(id, nonces, key): &(Identifier, _, KeyPackage)| Some((*id, frost::round2::sign(&package, nonces, key).ok()?));
    let Some(shares) = packages.iter().map(sign).collect::<Option<BTreeMap<_, _>>>() else { return false };
    let of_roster = |i: &NodeId| {
        let share = VerifyingShare::deserialize(core.verifying_share(*i).unwrap()).unwrap();
        (identifier(*i).unwrap(), share)
    };
    let verifying = core.roster.iter().map(of_roster).collect();
    let public = PublicKeyPackage::new(verifying, key, Some(t));
    let Ok(signature) = frost::aggregate(&package, &shares, &public) else { return false };
    let bytes: [u8; 64] = signature.serialize().unwrap().try_into().unwrap();
    let by_dalek = ed25519_dalek::VerifyingKey::from_bytes(&core.public_key)
        .unwrap()
        .verify_strict(b"message", &ed25519_dalek::Signature::from_bytes(&bytes));
    key.verify(b"message", &signature).is_ok() && by_dalek.is_ok()
}

fn honest(key: Key, ceremony: Ceremony, lost: usize, seed: u64) -> Key {
    let mut net = Net::new(key, ceremony, Dealings::default(), &[], seed);
    assert!(net.run(lost), "seed {seed}: {:?}", net.machines);
    net.check(seed)
}

#[test]
fn refreshes_keep_the_key_again_and_again() {
    for (n, t) in [(3, 2), (5, 3), (2, 2), (4, 4)] {
        for seed in 0..3 {
            let roster: Vec<u16> = (1..=n).collect();
            let mut key = Key::new(&roster, t, seed);
            for round in 0..3 {
                let before: Vec<[u8; 32]> = key.core.verifying_shares.clone();
                let ceremony = key.refresh();
                key = honest(key, ceremony, 0, 1000 * seed + round);
                assert!(before.iter().zip(&key.core.verifying_shares).all(|(old, new)| old != new));
            }
        }
    }
}

#[test]
fn roster_and_threshold_may_change() {
    let all: &[u16] = &[1, 2, 3, 4, 5];
    for (seed, (from, t, roster, holders, new_t)) in [
        // Threshold up and down; to others altogether; to some others; to one less; to fewer holders than the roster.
        (all, 3, all, all, 4),
        (all, 3, all, all, 5),
        (all, 3, all, all, 2),
        (all, 3, &[11, 12, 13, 14, 15, 16, 17], &[11, 12, 13, 14, 15, 16, 17], 4),
        (all, 3, &[21, 20], &[21, 20], 2),
        (all, 3, &[6, 5, 4, 3], &[6, 5, 4, 3], 2),
        (all, 3, &[1, 2, 3, 4], &[1, 2, 3, 4], 3),
        (all, 3, all, &[1, 2, 4, 5], 3),
        (&[1, 2, 3], 2, all, &[1, 2, 4, 5], 3),
    ]
    .into_iter()
    .enumerate()
    {
        let key = Key::new(from, t, 7);
        let ceremony = key.moves(roster, holders, new_t);
        honest(key, ceremony, 0, seed as u64);
    }
}

#[test]
fn who_missed_an_epoch_is_healed_by_the_next() {
    let key = Key::new(&[1, 2, 3, 4, 5], 3, 1);
    let ceremony = key.moves(&[1, 2, 3, 4, 5], &[1, 2, 3, 5], 3);
    let key = honest(key, ceremony, 0, 1);
    assert!(!key.shares.contains_key(&node(4)));
    assert!(key.core.verifying_share(node(4)).is_some());
    let ceremony = key.refresh();
    // Who has no share cannot deal: the attempt does not let it.
    assert_eq!(ceremony.base.as_ref().unwrap().dealers, nodes(&[1, 2, 3, 5]));
    let key = honest(key, ceremony, 0, 2);
    assert!(key.shares.contains_key(&node(4)));
}

#[test]
fn the_fewest_dealers_suffice() {
    let key = Key::new(&[1, 2, 3, 4, 5], 3, 1);
    let mut ceremony = key.moves(&[1, 2, 3, 4, 5], &[1, 2, 4, 5], 3);
    ceremony.base.as_mut().unwrap().dealers = nodes(&[2, 4, 5]);
    let key = honest(key, ceremony, 0, 3);
    assert_eq!(key.core.epoch, Epoch::new(2).unwrap());
}

#[test]
fn a_network_and_a_log_that_lose_much_only_delay() {
    for seed in 0..6 {
        let key = Key::new(&[1, 2, 3, 4, 5], 3, seed);
        let ceremony = key.refresh();
        honest(key, ceremony, 40, seed);
    }
}

/// Nodes lose their RAM in the middle: dealers deal no more, holders come to the same share, and t dealers are left.
#[test]
fn restarts_in_the_middle() {
    let mut ended = BTreeSet::new();
    for seed in 0..40 {
        let key = Key::new(&[1, 2, 3, 4, 5], 3, seed);
        let ceremony = key.refresh();
        let mut net = Net::new(key, ceremony, Dealings::default(), &[], seed);
        let turns = 20 + net.draw(400);
        for _ in 0..turns {
            if net.is_idle() {
                net.repeat();
            }
            net.turn(0);
        }
        for i in nodes(&[2, 5]) {
            if !net.votes.contains_key(&i) {
                net.start(i, Some(Participation::Begun));
                net.seen.remove(&i);
            }
        }
        let before = net.log.result.is_some();
        let done = net.run(0);
        ended.insert((before, done));
        // Three others still deal. But a node that acknowledged its own lost dealing cannot use it, if that was chosen.
        if done {
            assert!(net.lost.is_empty(), "seed {seed}");
            net.check(seed);
        } else {
            // It says so, and nobody else does.
            let dealers = &net.log.result.as_ref().unwrap().dealers;
            let lost: BTreeSet<NodeId> =
                nodes(&[2, 5]).into_iter().filter(|i| dealers.contains(i) && !net.votes.contains_key(i)).collect();
            assert!(!lost.is_empty() && net.lost == lost, "seed {seed}: {:?}", net.lost);
        }
    }
    assert_eq!(ended.len(), 4, "{ended:?}");
}

/// What the replicated state makes of an attempt that ended: leaves out whom it can spare.
fn next_attempt(net: Net) -> (Key, Ceremony, Dealings) {
    let Net { key, mut ceremony, log, votes, .. } = net;
    let Suspects { without_dealers, mut without_holders } = log.suspects(&ceremony, &key.core);
    if log.result.is_some() {
        without_holders.extend(ceremony.holders.iter().filter(|i| !votes.contains_key(i)));
    }
    let memory = log.for_next_attempt(&ceremony);
    let dealers = &mut ceremony.base.as_mut().unwrap().dealers;
    for dealer in without_dealers {
        if dealers.len() > key.core.threshold.get() {
            dealers.retain(|i| *i != dealer);
        }
    }
    for holder in without_holders {
        if ceremony.holders.len() > ceremony.roster.len().min(ceremony.threshold.get() + 1) {
            ceremony.holders.retain(|i| *i != holder);
        }
    }
    ceremony.epoch = ceremony.epoch.next().unwrap();
    (key, ceremony, memory)
}

/// An evil node of a 3-of-5 key does something else in each attempt. Attempts may fail; no wrong share ever comes of it, and after
/// four attempts at most all honest nodes have new shares.
#[test]
fn one_evil_node_stops_nothing_for_long_and_pushes_nobody_out() {
    let tricks = [
        Evil::NoDealing,
        Evil::Withholds(1),
        Evil::Withholds(4),
        Evil::Wrong(1),
        Evil::Other(4),
        Evil::NoWord,
        Evil::Accuses(2),
        Evil::AccusesTwo(1, 2),
        Evil::AccusesTwo(2, 5),
        Evil::NoReady,
    ];
    let mut failed = BTreeMap::new();
    for seed in 0..60 {
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut key = Key::new(&[1, 2, 3, 4, 5], 3, seed);
        let (mut ceremony, mut log) = (key.refresh(), Dealings::default());
        for attempt in 1.. {
            let trick = tricks[rng.next_u32() as usize % tricks.len()];
            let mut net = Net::new(key, ceremony, log, &[(3, trick)], seed);
            if net.run(0) {
                let honest = nodes(&[1, 2, 4, 5]);
                let held: Vec<NodeId> = net.ceremony.holders.iter().copied().filter(|i| honest.contains(i)).collect();
                assert_eq!(held, honest, "seed {seed}");
                net.check(seed);
                *failed.entry(attempt).or_insert(0) += 1;
                break;
            }
            for vote in net.votes.values() {
                let Vote::Ready { core, .. } = vote else { unreachable!() };
                assert_eq!(*core, net.log.result.as_ref().unwrap().core);
            }
            assert!(attempt < 4, "seed {seed}: {trick:?}, {:?}", net.log);
            (key, ceremony, log) = next_attempt(net);
        }
    }
    assert!(failed.len() > 1, "{failed:?}");
}

/// With 2 of 3 every holder is needed, so an evil holder can always stop an attempt. An evil dealer cannot.
#[test]
fn an_evil_dealer_alone_stops_nothing() {
    for (seed, trick) in
        [Evil::NoDealing, Evil::Withholds(1), Evil::Wrong(2), Evil::Other(1)].into_iter().cycle().take(12).enumerate()
    {
        let key = Key::new(&[1, 2, 3], 2, seed as u64);
        let ceremony = key.refresh();
        let mut net = Net::new(key, ceremony, Dealings::default(), &[(3, trick)], seed as u64);
        assert!(net.run(0), "{trick:?}");
        if !matches!(trick, Evil::NoDealing) {
            assert_eq!(net.log.result.as_ref().unwrap().dealers, nodes(&[1, 2]));
        }
        net.check(seed as u64);
    }
}

#[test]
fn a_late_or_foreign_message_of_another_attempt_changes_nothing() {
    let key = Key::new(&[1, 2, 3], 2, 1);
    let ceremony = key.refresh();
    let mut first = Net::new(key, ceremony, Dealings::default(), &[(2, Evil::NoWord)], 1);
    assert!(!first.run(0));
    first.repeat();
    let (old, old_votes) = (first.queue.clone(), first.proposed.clone());
    assert!(!old.is_empty());
    let (key, mut ceremony, memory) = next_attempt(first);
    ceremony.holders = nodes(&[1, 2, 3]);
    let mut second = Net::new(key, ceremony, memory, &[], 2);
    second.queue.extend(old);
    for vote in old_votes {
        assert!(second.log.take(&second.ceremony, &second.key.core, &vote, key_of).is_err());
    }
    assert!(second.run(0));
    second.check(2);
}
