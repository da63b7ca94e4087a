//! Holders of every manner, in virtual time: whatever at most n - t of them do, the others sign, in at most n - t + 1 sessions,
//! and nobody honest is named.

use proptest::prelude::*;
use rand_core::RngCore as _;

use super::*;

/// Until a driver gives up on an answer, milliseconds.
const ROUND_MS: u64 = 1_500;

/// How a holder behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Manner {
    Good,
    /// Says everything twice.
    Twice,
    /// Answers after the patience and before the deadline.
    Slow,
    /// Commits in time, and gives its share like a slow one.
    SlowShare,
    /// Answers after the deadline.
    Late,
    Silent,
    /// Commits, and is silent in round 2.
    NoShare,
    Refuses,
    RefusesShare,
    /// Commits to something that is no point.
    BadPoint,
    /// Commits for another session.
    OtherSession,
    /// Commits a second time, to something else.
    TwoFaced,
    /// Bends its share and signs it.
    BadShare,
    /// Bends its share only.
    Unsigned,
    /// Names another package.
    OtherPackage,
}

use Manner::*;

const ALL: [Manner; 15] = [
    Good,
    Twice,
    Slow,
    SlowShare,
    Late,
    Silent,
    NoShare,
    Refuses,
    RefusesShare,
    BadPoint,
    OtherSession,
    TwoFaced,
    BadShare,
    Unsigned,
    OtherPackage,
];

impl Manner {
    /// Whether it obeys the rules and answers within the deadlines.
    fn is_good(self) -> bool {
        matches!(self, Good | Twice | Slow | SlowShare)
    }
    /// Whether an honest node may appear so.
    fn may_be_honest(self) -> bool {
        self.is_good() || matches!(self, Late | Silent | NoShare | Refuses | RefusesShare)
    }
    /// What it may be blamed for, if anything.
    fn blame(self) -> Option<BlameKind> {
        match self {
            BadPoint => Some(BlameKind::BadCommitment),
            TwoFaced => Some(BlameKind::SplitView),
            BadShare => Some(BlameKind::BadShare),
            _ => None,
        }
    }
}

/// A request under way.
struct Run<'a> {
    world: &'a mut World,
    manners: BTreeMap<NodeId, Manner>,
    coordinator: Coordinator,
    now_ms: u64,
    queue: BTreeMap<(u64, usize), Input>,
    events: usize,
    /// Questions and packages that each node got.
    asked: BTreeMap<NodeId, (usize, usize)>,
    ended: Ended,
}

impl<'a> Run<'a> {
    fn new(world: &'a mut World, manners: &[Manner]) -> (Self, Vec<Effect>) {
        let size = u16::try_from(manners.len()).unwrap();
        let order: Vec<u16> = (1..=size).collect();
        let (coordinator, effects) = world.start(1, &order, &[]);
        let manners = (1..).map(id).zip(manners.iter().copied()).collect();
        let last = Effect::Failed(Refusal::new(ErrorCode::Internal, "no end"));
        let ended = Ended { last, misbehaved: BTreeMap::new() };
        let (queue, asked) = (BTreeMap::new(), BTreeMap::new());
        (Self { world, manners, coordinator, now_ms: NOW, queue, events: 0, asked, ended }, effects)
    }

    fn push(&mut self, after_ms: u64, input: Input) {
        self.events += 1;
        self.queue.insert((self.now_ms + after_ms, self.events), input);
    }

    /// Runs to the end; `delay` says after how many milliseconds the next answer of a node that is quick arrives.
    fn until_the_end(mut self, effects: Vec<Effect>, mut delay: impl FnMut(NodeId) -> u64) -> Self {
        self.carry_out(effects, &mut delay);
        while let Some(((at_ms, _), input)) = self.queue.pop_first() {
            self.now_ms = at_ms;
            let had_ended = self.coordinator.has_ended();
            let effects = self.coordinator.handle(input);
            assert!(!had_ended || effects.is_empty(), "nothing comes out after the end");
            self.carry_out(effects, &mut delay);
        }
        self
    }

    fn carry_out(&mut self, effects: Vec<Effect>, delay: &mut impl FnMut(NodeId) -> u64) {
        for effect in effects {
            match effect {
                Effect::Ask(node, round1) => self.first(node, &round1, delay(node)),
                Effect::Finish(node, signers) => self.second(node, signers.round2(), delay(node)),
                Effect::Wait(patience) => self.push(limits::SIGN_PATIENCE_MS, Input::Patience(patience)),
                Effect::Misbehaved { node, refusal, blame } => {
                    assert!(blame.iter().all(|blame| blame.accused == node && self.world.proves(blame)));
                    let before = self.ended.misbehaved.insert(node, (refusal, blame.map(|blame| *blame)));
                    assert!(before.is_none(), "node {node} is named twice");
                }
                last @ (Effect::Done { .. } | Effect::Failed(_)) => self.ended.last = last,
            }
        }
    }

    /// Lets answers arrive, and the deadline pass where they do not.
    fn answer(&mut self, from: NodeId, session: SigningSession, after_ms: Option<u64>, answers: Vec<Answer>) {
        let said = |answer| Input::Answer { from, session, answer };
        if after_ms.is_none_or(|after_ms| after_ms >= ROUND_MS) {
            self.push(ROUND_MS, said(Answer::Silent));
        }
        if let Some(after_ms) = after_ms {
            answers.into_iter().for_each(|answer| self.push(after_ms, said(answer)));
        }
    }

    fn first(&mut self, node: NodeId, round1: &Arc<Round1>, quick_ms: u64) {
        self.asked.entry(node).or_default().0 += 1;
        let request = self.world.verified.digest();
        let good = self.world.first(node.get(), round1, self.now_ms).unwrap();
        let resigned = |change: &dyn Fn(&mut Commitments)| {
            let mut other = good.clone();
            change(&mut other);
            Answer::Commitments(resign(&other, &request))
        };
        let said = || Answer::Commitments(good.clone());
        let (after_ms, answers) = match self.manners[&node] {
            Twice => (Some(quick_ms), vec![said(), said()]),
            Slow => (Some(700 + quick_ms), vec![said()]),
            Late => (Some(ROUND_MS + 100), vec![said()]),
            Silent => (None, vec![]),
            Refuses => (Some(quick_ms), vec![Answer::Refused(Refusal::new(ErrorCode::Overloaded, "words"))]),
            BadPoint => (Some(quick_ms), vec![resigned(&|c| c.pairs.iter_mut().for_each(|p| p.hiding = [0xff; 32]))]),
            OtherSession => (Some(quick_ms), vec![resigned(&|c| c.session = session(200))]),
            TwoFaced => (Some(quick_ms), vec![said(), resigned(&|c| c.first_sequence += 1_000)]),
            _ => (Some(quick_ms), vec![said()]),
        };
        self.answer(node, round1.session, after_ms, answers);
    }

    fn second(&mut self, node: NodeId, round2: &Round2, quick_ms: u64) {
        self.asked.entry(node).or_default().1 += 1;
        let request = self.world.verified.digest();
        let mut shares = self.world.second(node.get(), round2, self.now_ms).unwrap();
        let manner = self.manners[&node];
        match manner {
            BadShare | Unsigned => *shares.shares.last_mut().unwrap() = [1; 32],
            OtherPackage => shares.package = Digest::from_bytes([1; 32]),
            _ => {}
        }
        if matches!(manner, BadShare | OtherPackage) {
            shares = shares.signed(&identity_of(node), &CLUSTER, &request);
        }
        let said = || Answer::Shares(shares.clone());
        let (after_ms, answers) = match manner {
            Twice => (Some(quick_ms), vec![said(), said()]),
            Slow | SlowShare => (Some(700 + quick_ms), vec![said()]),
            Late => (Some(ROUND_MS + 100), vec![said()]),
            Silent | NoShare => (None, vec![]),
            RefusesShare => (Some(quick_ms), vec![Answer::Refused(Refusal::new(ErrorCode::WrongState, "words"))]),
            _ => (Some(quick_ms), vec![said()]),
        };
        self.answer(node, round2.session, after_ms, answers);
    }

    /// What must hold however the holders behaved.
    fn check(&self, run: &str) {
        let core = &self.world.core;
        let allowed = sessions_allowed(core);
        for (node, (_, blame)) in &self.ended.misbehaved {
            let manner = self.manners[node];
            assert!(!manner.may_be_honest(), "{run}: node {node} did nothing wrong");
            assert_eq!(blame.as_ref().map(Blame::kind), manner.blame(), "{run}");
        }
        for (node, (questions, packages)) in &self.asked {
            assert!(*questions <= allowed && packages <= questions, "{run}: {node} got {questions} and {packages}");
        }
        let bad = self.manners.values().filter(|manner| !manner.is_good()).count();
        match &self.ended.last {
            Effect::Done { holders, sessions, .. } => {
                assert!(*sessions <= allowed && holders.len() == core.threshold.get(), "{run}: {sessions} sessions");
                let by: Vec<u16> = holders.iter().map(|node| node.get()).collect();
                self.world.assert_signed(&self.ended, &by);
            }
            Effect::Failed(refusal) => {
                assert!(bad > core.holders.len() - core.threshold.get(), "{run}: {refusal}");
                assert_ne!(refusal.code, ErrorCode::Internal, "{run}: {refusal}");
            }
            other => unreachable!("{run}: {other:?}"),
        }
    }
}

/// In the good case there is one session, and only the spare's question is more than what is needed.
#[test]
fn in_the_good_case_the_spare_costs_one_question() {
    let mut world = World::new(&[b"one"]);
    let (run, effects) = Run::new(&mut world, &[Good; 5]);
    let run = run.until_the_end(effects, |node| u64::from(node.get()));
    run.check("all are good");
    assert_eq!(run.ended.sessions(), 1);
    assert_eq!(
        run.asked.values().map(|(questions, packages)| [*questions, *packages]).collect::<Vec<_>>(),
        [[1, 1], [1, 1], [1, 1], [1, 0]]
    );
}

/// Two of four: manners of each of the three that are asked first, all against all.
#[test]
fn every_schedule_of_the_first_three() {
    let manners = [Good, Twice, Slow, SlowShare, Late, NoShare, Refuses, BadPoint, TwoFaced, BadShare];
    let mut world = World::of(4, 2, &[b"one"]);
    let orders = [[1, 2, 3], [1, 3, 2], [2, 1, 3], [2, 3, 1], [3, 1, 2], [3, 2, 1]];
    let mut number = 0;
    for one in manners {
        for two in manners {
            for three in manners {
                // Each triple in one of the orders; its permutations come in others.
                let order = orders[number % orders.len()];
                number += 1;
                world.restart();
                let manners = [one, two, three, Good];
                let (run, effects) = Run::new(&mut world, &manners);
                let delay = |node: NodeId| order.get(usize::from(node.get()) - 1).copied().unwrap_or(4);
                run.until_the_end(effects, delay).check(&format!("{manners:?}, answers come as {order:?}"));
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// What fails is printed with its seed.
    #[test]
    fn schedules_of_any_size(seed: u64, size in 2u16..8, threshold in 2u16..8) {
        let threshold = threshold.min(size);
        let mut rng = ChaCha20Rng::seed_from_u64(seed);
        let mut draw = |below: usize| usize::try_from(rng.next_u64() % u64::try_from(below).unwrap()).unwrap();
        let mut manners = vec![Good; usize::from(size)];
        // Half of the runs keep to the number of bad ones that is borne.
        let most = if draw(2) == 0 { usize::from(size - threshold) } else { usize::from(size) };
        for _ in 0..draw(most + 1) {
            manners[draw(usize::from(size))] = ALL[draw(ALL.len())];
        }
        for manner in manners.iter_mut().filter(|manner| **manner == Good) {
            *manner = [Good, Good, Twice, Slow, SlowShare][draw(5)];
        }
        let mut world = World::of(size, threshold, &[b"one", b"two"]);
        let (run, effects) = Run::new(&mut world, &manners);
        run.until_the_end(effects, |_| 1 + u64::try_from(draw(40)).unwrap()).check(&format!("{manners:?}"));
    }
}
