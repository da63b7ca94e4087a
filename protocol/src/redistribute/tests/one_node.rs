//! Traps, each against one machine whose peers are played by hand.

mod restarts;

use super::*;
use crate::generate::VoteRefused;
use crate::identity::Domain;
use crate::redistribute::vote::{MESSAGE_BYTES, commitments_digest};

/// Node 1 is a machine, the other dealers are played.
struct Bench {
    log: Log,
    machine: Redistribute,
    polys: BTreeMap<u16, Poly>,
    rng: ChaCha20Rng,
}

fn keys() -> BTreeMap<NodeId, PublicKey> {
    (1..=20).map(|i| (node(i), identity(node(i)).public())).collect()
}

fn start(key: &Key, ceremony: &Ceremony, me: u16, own: OwnVotes) -> Start {
    let share = key.shares.get(&node(me)).map(|share| ShareSecret::new(share.expose()));
    Start { ceremony: ceremony.clone(), base: key.core.clone(), me: node(me), keys: keys(), own, share }
}

fn begin(begin: Start, rng: &mut ChaCha20Rng) -> Result<(Redistribute, Vec<Write>, Vec<Effect>), StartRefused> {
    let me = identity(begin.me);
    let (machine, step) = Redistribute::start(begin, &me, rng)?;
    let (writes, effects) = release(step);
    Ok((machine, writes, effects))
}

fn release(step: Step<Effect>) -> (Vec<Write>, Vec<Effect>) {
    let (writes, sealed) = step.split();
    (writes.list().to_vec(), sealed.release(&writes.durable()))
}

fn sent(effects: &[Effect]) -> Vec<(u16, Arc<SubshareMessage>)> {
    let send = |effect: &Effect| match effect {
        Effect::Send { to, message } => Some((to.get(), Arc::clone(message))),
        _ => None,
    };
    effects.iter().filter_map(send).collect()
}

fn said(effects: &[Effect]) -> Vec<DealingVote> {
    let deal = |effect: &Effect| if let Effect::Deal(vote) = effect { Some(vote.clone()) } else { None };
    effects.iter().filter_map(deal).collect()
}

/// What an acknowledgement names.
fn word(votes: &[DealingVote]) -> Option<(Vec<u16>, Vec<u16>)> {
    let numbers = |list: &[NodeId]| list.iter().map(|i| i.get()).collect();
    votes.iter().find_map(|vote| match vote {
        DealingVote::Acknowledged { dealers, accused, .. } => Some((numbers(dealers), numbers(accused))),
        DealingVote::Dealt { .. } => None,
    })
}

fn staged(effects: Vec<Effect>) -> Option<(CertificateCore, ShareSecret)> {
    effects.into_iter().find_map(|effect| match effect {
        Effect::Stage { core, secret } => Some((core, secret)),
        _ => None,
    })
}

impl Bench {
    /// A refresh of a 3-of-5 key. Node 1 holds and does not deal, unless `deals`.
    fn new(deals: bool) -> Self {
        let key = Key::new(&[1, 2, 3, 4, 5], 3, 21);
        let ceremony = key.refresh();
        let mut rng = ChaCha20Rng::seed_from_u64(22);
        let polys = (2..=5).map(|i| (i, key.dealing(i, &ceremony, &mut rng))).collect();
        let mut with = start(&key, &ceremony, 1, OwnVotes::default());
        with.share = with.share.filter(|_| deals);
        let machine = begin(with, &mut rng).unwrap().0;
        Self { log: Log::new(key, ceremony), machine, polys, rng }
    }

    fn input(mut self, input: Input) -> (Self, Vec<Effect>, Option<Ignored>) {
        let advance = self.machine.handle(input, &identity(node(1)), &mut self.rng);
        self.machine = advance.next;
        (self, release(advance.step).1, advance.ignored)
    }

    fn subshare(&self, from: u16, to: u16, scalar: Scalar) -> SubshareMessage {
        let digest = self.log.ceremony.digest();
        let bound = commitments_digest(&digest, node(from), &self.polys[&from].commitments());
        self.bound(from, to, bound, scalar)
    }

    fn bound(&self, from: u16, to: u16, bound: Digest, scalar: Scalar) -> SubshareMessage {
        let (cluster, digest) = (&self.log.ceremony.cluster, self.log.ceremony.digest());
        let share = ShareSecret::new(scalar.as_bytes());
        SubshareMessage::sign(cluster, digest, node(from), node(to), bound, &share, &identity(node(from)))
    }

    fn good(&self, from: u16) -> SubshareMessage {
        self.subshare(from, 1, self.polys[&from].at(node(1)))
    }

    fn hear(self, from: u16, message: &SubshareMessage) -> (Self, Vec<Effect>, Option<Ignored>) {
        let message = SubshareMessage::from_bytes(&message.to_bytes()).unwrap();
        self.input(Input::Message { from: node(from), message })
    }

    /// A good subshare of a dealer; gives back what the node says.
    fn well(self, from: u16) -> (Self, Vec<DealingVote>) {
        let message = self.good(from);
        let (bench, effects, ignored) = self.hear(from, &message);
        assert_eq!(ignored, None);
        (bench, said(&effects))
    }

    /// Orders votes and shows the log to the node.
    fn order(mut self, votes: &[DealingVote]) -> (Self, Vec<Effect>) {
        for vote in votes {
            self.log.take(vote).unwrap();
        }
        let log = self.log.dealings.clone();
        let (bench, effects, ignored) = self.input(Input::Log(log));
        assert_eq!(ignored, None);
        (bench, effects)
    }

    /// Orders the commitments of played dealers.
    fn commit(self, dealers: &[u16]) -> (Self, Vec<Effect>) {
        let vote = |i: &u16| dealt(&self.log.ceremony, *i, self.polys[i].commitments());
        let votes: Vec<_> = dealers.iter().map(vote).collect();
        self.order(&votes)
    }

    /// The other holders acknowledge dealers.
    fn others(self, dealers: &[u16]) -> (Self, Vec<Effect>) {
        let votes: Vec<_> = (2..=5).map(|i| acknowledged(&self.log.ceremony, i, dealers, &[])).collect();
        self.order(&votes)
    }

    /// What a repetition says.
    fn again(&self) -> Vec<Effect> {
        release(self.machine.resend()).1
    }
}

#[test]
fn a_holder_speaks_with_the_last_subshare_it_needs_and_of_more_with_the_next_repetition() {
    let (bench, effects) = Bench::new(false).commit(&[2, 3, 4, 5]);
    assert!(effects.is_empty());
    assert_eq!(bench.machine.waiting_for(), (Phase::Subshares, BTreeSet::from_iter(nodes(&[1, 2, 3, 4, 5]))));
    assert!(bench.again().is_empty());
    let (bench, votes) = bench.well(3);
    assert_eq!(votes, []);
    // Below t it speaks only when it repeats: silence is what a holder that is away looks like.
    assert_eq!(word(&said(&bench.again())), Some((vec![3], vec![])));
    let (bench, votes) = bench.well(5);
    assert_eq!(votes, []);
    let (bench, votes) = bench.well(2);
    assert_eq!(word(&votes), Some((vec![2, 3, 5], vec![])));
    assert_eq!(bench.machine.waiting_for(), (Phase::Choice, BTreeSet::from_iter(nodes(&[1, 2, 3, 4, 5]))));
    let (bench, effects) = bench.order(&votes);
    assert!(effects.is_empty() && bench.again().is_empty());
    let (bench, votes) = bench.well(4);
    assert_eq!(votes, []);
    let again = said(&bench.again());
    assert_eq!(word(&again), Some((vec![2, 3, 4, 5], vec![])));
    assert!(bench.order(&again).0.again().is_empty());
}

#[test]
fn subshares_may_come_before_their_commitments_and_the_first_counts() {
    let (mut bench, votes) = Bench::new(false).well(2);
    assert_eq!(votes, []);
    let wrong = bench.subshare(3, 1, Scalar::ONE);
    (bench, _, _) = bench.hear(3, &wrong);
    let late = bench.good(3);
    let (bench, effects, ignored) = bench.hear(3, &late);
    assert_eq!((effects.len(), ignored), (0, Some(Ignored::Repeat)));
    let (bench, votes) = bench.well(4);
    assert_eq!(votes, []);
    let (bench, effects) = bench.commit(&[2]);
    assert!(effects.is_empty());
    // An accusation is said at once.
    let (_, effects) = bench.commit(&[3]);
    assert_eq!(word(&said(&effects)), Some((vec![2], vec![3])));
}

#[test]
fn what_does_not_fit_the_log_is_an_accusation() {
    let bench = || Bench::new(false).commit(&[2, 3, 4, 5]).0;
    let honest = bench();
    let digest = honest.log.ceremony.digest();
    let at_1 = |i: u16| honest.polys[&i].at(node(1));
    let mut rng = ChaCha20Rng::seed_from_u64(5);
    let other = honest.log.key.dealing(2, &honest.log.ceremony, &mut rng);
    let bound_to_other = commitments_digest(&digest, node(2), &other.commitments());
    let mut bad = vec![
        // Another number; somebody else's subshare; a good one that is bound to other commitments, and one that fits those.
        honest.subshare(2, 1, at_1(2) + Scalar::ONE),
        honest.subshare(2, 1, honest.polys[&2].at(node(3))),
        honest.subshare(2, 1, at_1(3)),
        honest.subshare(2, 1, Scalar::ZERO),
        honest.bound(2, 1, bound_to_other, at_1(2)),
        honest.bound(2, 1, bound_to_other, other.at(node(1))),
        honest.bound(2, 1, commitments_digest(&digest, node(3), &honest.polys[&2].commitments()), at_1(2)),
    ];
    // Well signed, and no canonical scalar or no scalar at all.
    for length in [0, 31, 32, 33] {
        let mut message = honest.good(2);
        message.subshare = crate::generate::message::SecretBytes::new(zeroize::Zeroizing::new(vec![0xff; length]));
        let cluster = &honest.log.ceremony.cluster;
        message.signature = identity(node(2)).sign(Domain::Subshare, cluster, &message.payload());
        bad.push(message);
    }
    for (i, message) in bad.iter().enumerate() {
        let message = decode(&message.to_bytes()).unwrap();
        let (bench, effects, ignored) = bench().input(Input::Message { from: node(2), message });
        assert_eq!((word(&said(&effects)), ignored), (Some((vec![], vec![2])), None), "case {i}");
        let (bench, _) = bench.order(&said(&effects));
        assert_eq!(bench.log.dealings.accused, BTreeSet::from([(node(2), node(1))]));
        assert!(bench.again().is_empty());
    }
}

#[test]
fn only_dealers_are_heard_in_their_own_name_and_for_this_attempt() {
    let bench = || Bench::new(false);
    let good = bench().good(2);
    let digest = bench().log.ceremony.digest();
    let sign = |from: u16, to: u16, ceremony: Digest, signer: u16| {
        let cluster = &ClusterId::from_bytes([1; 32]);
        let share = ShareSecret::new(Scalar::ONE.as_bytes());
        SubshareMessage::sign(
            cluster,
            ceremony,
            node(from),
            node(to),
            good.commitments,
            &share,
            &identity(node(signer)),
        )
    };
    let other = Digest::from_bytes([6; 32]);
    let mut moved = sign(2, 1, other, 2);
    moved.ceremony = digest;
    let mut bent = bench().good(2);
    bent.commitments = other;
    for (i, (from, message, expected)) in [
        (6, sign(6, 1, digest, 6), Ignored::UnknownSender),
        (1, sign(1, 1, digest, 1), Ignored::UnknownSender),
        (99, sign(99, 1, digest, 99), Ignored::UnknownSender),
        // A late message of the attempt before; the same with the digest of this one written over it.
        (2, sign(2, 1, other, 2), Ignored::OtherCeremony),
        (2, moved, Ignored::NotSigned),
        // Under somebody else's name; for somebody else; changed on the way.
        (2, sign(3, 1, digest, 2), Ignored::NotSigned),
        (3, sign(3, 1, digest, 2), Ignored::NotSigned),
        (2, sign(2, 3, digest, 2), Ignored::NotSigned),
        (2, bent, Ignored::NotSigned),
    ]
    .into_iter()
    .enumerate()
    {
        let (bench, effects, ignored) = bench().hear(from, &message);
        assert_eq!((effects.len(), ignored), (0, Some(expected)), "case {i}");
        // And the real one is still taken.
        assert_eq!(bench.hear(2, &good).2, None, "case {i}");
    }
}

#[test]
fn a_dealer_repeats_until_each_holder_has_acknowledged() {
    let key = Key::new(&[1, 2, 3, 4, 5], 3, 21);
    let ceremony = key.refresh();
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let (machine, writes, effects) = begin(start(&key, &ceremony, 1, OwnVotes::default()), &mut rng).unwrap();
    // Its record is durable before anything it says, now and with every repetition.
    let record = Write { key: ceremony.record_key(), value: Some(encode(&Participation::Begun)) };
    assert_eq!(writes, std::slice::from_ref(&record));
    let (_, sealed) = machine.resend().split();
    assert!(sealed.release(&Step::<Effect>::default().split().0.durable()).is_empty());
    let votes = said(&effects);
    let [DealingVote::Dealt { commitments, .. }] = &votes[..] else { unreachable!("{votes:?}") };
    let receivers: Vec<u16> = sent(&effects).iter().map(|(to, _)| *to).collect();
    assert_eq!(receivers, [2, 3, 4, 5]);
    for (to, message) in sent(&effects) {
        assert!(message.verifies(&ceremony.cluster, &identity(node(1)).public()));
        let secret = message.secret().unwrap();
        assert!(super::super::bridge::fits(commitments, ceremony.threshold, node(to), &secret));
    }
    let mut bench = Bench { log: Log::new(key, ceremony.clone()), machine, polys: BTreeMap::new(), rng };
    assert_eq!(said(&bench.again()), votes);
    (bench, _) = bench.order(&votes);
    // In the log: said no more. Its own subshare it holds already, and says so.
    assert_eq!(word(&said(&bench.again())), Some((vec![1], vec![])));
    for (holder, left) in [(3, &[2, 4, 5][..]), (2, &[4, 5]), (5, &[4])] {
        (bench, _) = bench.order(&[acknowledged(&ceremony, holder, &[1], &[])]);
        assert_eq!(sent(&bench.again()).iter().map(|(to, _)| *to).collect::<Vec<_>>(), left);
    }
    (bench, _) = bench.order(&[acknowledged(&ceremony, 4, &[1], &[]), acknowledged(&ceremony, 1, &[1], &[])]);
    assert!(bench.again().is_empty());
    assert_eq!(release(bench.machine.resend()).0, [record]);
}

#[test]
fn a_share_is_staged_read_back_and_voted_for() {
    for wrong in [false, true] {
        let mut bench = Bench::new(false);
        (bench, _) = bench.commit(&[2, 3, 4, 5]);
        let mut votes = Vec::new();
        for i in [4, 2, 5] {
            (bench, votes) = bench.well(i);
        }
        (bench, _) = bench.order(&votes);
        let (bench, effects) = bench.others(&[2, 4, 5]);
        let (core, secret) = staged(effects).unwrap();
        assert_eq!(core, bench.log.dealings.result.clone().unwrap().core);
        assert_eq!(secret.verifying_share().as_ref(), core.verifying_share(node(1)));
        assert_eq!(bench.machine.waiting_for(), (Phase::Staging, BTreeSet::from([node(1)])));
        assert!(bench.again().is_empty());
        // A late subshare changes nothing any more.
        let late = bench.good(3);
        let (mut bench, _, ignored) = bench.hear(3, &late);
        assert_eq!(ignored, Some(Ignored::Over));
        let read = ShareSecret::new(if wrong { Scalar::ONE.as_bytes() } else { secret.expose() });
        let advance = bench.machine.handle(Input::Staged(read), &identity(node(1)), &mut bench.rng);
        bench.machine = advance.next;
        let (writes, effects) = release(advance.step);
        if wrong {
            assert!(effects.is_empty() && bench.again().is_empty());
            assert_eq!(bench.machine.waiting_for().0, Phase::Ended);
            continue;
        }
        let record =
            Write { key: bench.log.ceremony.record_key(), value: Some(encode(&Participation::Ready(core.digest()))) };
        assert_eq!(writes, std::slice::from_ref(&record));
        let [Effect::Propose(vote @ Vote::Ready { core: voted, .. })] = &effects[..] else { unreachable!() };
        assert_eq!(*voted, core);
        vote.verify(&bench.log.ceremony, key_of).unwrap();
        assert_eq!(bench.machine.waiting_for(), (Phase::Voted, BTreeSet::new()));
        let (writes, effects) = release(bench.machine.resend());
        assert_eq!((writes, effects.len()), (vec![record], 1));
        let (bench, _, ignored) = bench.input(Input::Staged(secret));
        assert_eq!(ignored, Some(Ignored::NotStaging));
        bench.machine.abort();
    }
}

/// The log holds other commitments in this node's name: its store was rolled back. What it drew now is of no use.
#[test]
fn a_dealer_that_the_log_knows_otherwise_says_no_more() {
    let bench = Bench::new(true);
    assert_eq!(sent(&bench.again()).len(), 4);
    let mut rng = ChaCha20Rng::seed_from_u64(99);
    let other = bench.log.key.dealing(1, &bench.log.ceremony, &mut rng);
    let vote = dealt(&bench.log.ceremony, 1, other.commitments());
    let (bench, effects) = bench.order(&[vote]);
    // Its own subshare is bound to the wrong commitments as well.
    assert_eq!(word(&said(&effects)), Some((vec![], vec![1])));
    assert!(sent(&bench.again()).is_empty());
}

#[test]
fn dealers_that_were_not_chosen_are_done() {
    for chosen in [true, false] {
        let bench = Bench::new(true);
        let own = said(&bench.again());
        let (bench, _) = bench.order(&own);
        let (bench, _) = bench.commit(&[2, 3, 4]);
        let dealers: &[u16] = if chosen { &[1, 2, 3] } else { &[2, 3, 4] };
        let (bench, _) = bench.others(dealers);
        let mine = acknowledged(&bench.log.ceremony, 1, dealers, &[]);
        let (bench, _) = bench.order(&[mine]);
        assert!(bench.log.dealings.result.is_some());
        assert_eq!(sent(&bench.again()).len(), if chosen { 4 } else { 0 });
    }
}

#[test]
fn a_machine_starts_only_for_a_sound_attempt_and_as_itself() {
    let key = Key::new(&[1, 2, 3], 2, 21);
    let good = key.moves(&[2, 3, 4], &[2, 3, 4], 2);
    let mut rng = ChaCha20Rng::seed_from_u64(1);
    let mut refused = |begin_with: Start, as_node: u16| {
        Redistribute::start(begin_with, &identity(node(as_node)), &mut rng).map(|_| ()).unwrap_err()
    };
    let none = OwnVotes::default();
    assert_eq!(refused(start(&key, &good, 5, none), 5), StartRefused::NoPart);
    assert_eq!(refused(start(&key, &good, 2, none), 3), StartRefused::Keys);
    let mut unknown = start(&key, &good, 2, none);
    unknown.keys.remove(&node(4));
    assert_eq!(refused(unknown, 2), StartRefused::Keys);
    let generate = Ceremony { base: None, ..good.clone() };
    assert_eq!(refused(start(&key, &generate, 2, none), 2), StartRefused::Ceremony);
    let too_few = Ceremony { holders: nodes(&[2, 3]), ..good.clone() };
    assert_eq!(refused(start(&key, &too_few, 2, none), 2), StartRefused::Ceremony);
    let mut foreign = start(&key, &good, 2, none);
    foreign.base.transcript = Digest::from_bytes([9; 32]);
    assert_eq!(refused(foreign, 2), StartRefused::Ceremony);
    let activated = OwnVotes { participation: None, activated: true };
    assert_eq!(refused(start(&key, &good, 2, activated), 2), StartRefused::Own(VoteRefused::Activated));
    let voted = OwnVotes { participation: Some(Participation::Ready(Digest::from_bytes([1; 32]))), activated: false };
    assert_eq!(refused(start(&key, &good, 2, voted), 2), StartRefused::Own(VoteRefused::Begun));
    // A dealer that is no holder, with no share, or with one that is not its own.
    let mut without = start(&key, &good, 1, none);
    without.share = None;
    assert_eq!(refused(without, 1), StartRefused::NoPart);
    for other in [ShareSecret::new(key.shares[&node(2)].expose()), ShareSecret::new(&[0xff; 32])] {
        let mut without = start(&key, &good, 1, none);
        without.share = Some(other);
        assert_eq!(refused(without, 1), StartRefused::NoPart);
    }
    // A holder that was not asked to deal does not deal, though it could.
    let mut few = good;
    few.base.as_mut().unwrap().dealers = nodes(&[1, 3]);
    assert!(begin(start(&key, &few, 2, none), &mut ChaCha20Rng::seed_from_u64(1)).unwrap().2.is_empty());
}

#[test]
fn messages_have_one_size() {
    let message = Bench::new(false).good(2);
    assert_eq!(message.to_bytes().len(), MESSAGE_BYTES);
    assert!(SubshareMessage::from_bytes(&[1; MESSAGE_BYTES + 1]).is_err());
    assert!(SubshareMessage::from_bytes(&message.to_bytes()[..MESSAGE_BYTES - 1]).is_err());
}
