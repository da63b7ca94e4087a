//! The counting rule against its definition, and the lease against the barrier, over random runs.

use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

/// One thing that happens.
#[derive(Debug, Clone)]
enum Event {
    /// Time goes on and the node asks.
    Ask(u64),
    /// A voter answers one of the last questions (counted back), so much ahead of the node or behind it, or with another head.
    Answer { voter: u16, back: u64, offset: i64, odd: bool },
    /// The node applies more.
    Apply(u64),
}

fn event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (1u64..400).prop_map(Event::Ask),
        8 => (1u16..=7, 0u64..10, -3i64..4, prop::bool::weighted(0.1))
            .prop_map(|(voter, back, offset, odd)| Event::Answer { voter, back, offset, odd }),
        2 => (1u64..3).prop_map(Event::Apply),
    ]
}

/// When it was asked, and by voter what was answered and whether that counts.
type Asked = (u64, BTreeMap<u16, (u64, bool)>);

/// What a voter said to a question, by the definition: an answer counts when the node has reached it and has the same root.
#[derive(Default)]
struct Definition {
    /// By question: when it was sent, and the first answer of each voter.
    questions: BTreeMap<u64, Asked>,
    evidence: Option<u64>,
}

impl Definition {
    /// The time of the newest question that M voters back, each by an answer to it or to a later one that is still kept.
    fn weigh(&mut self, voters: u16, applied: u64) {
        let kept: Vec<_> = self.questions.values().rev().take(limits::LEASE_QUESTIONS).collect();
        for (number, (sent, _)) in kept.iter().enumerate() {
            let mut backing = BTreeSet::from([1]);
            for (_, answers) in kept.iter().take(number + 1) {
                let good = answers.iter().filter(|(_, (index, odd))| *index <= applied && !odd);
                backing.extend(good.map(|(voter, _)| *voter));
            }
            if backing.len() > usize::from(voters / 2) {
                self.evidence = self.evidence.max(Some(*sent));
            }
        }
    }
}

proptest! {
    #[test]
    fn the_counting_rule_is_its_definition(voters in 1u16..=7, script in prop::collection::vec(event(), 1..80)) {
        let mut world = World::new(voters, 20);
        let mut definition = Definition::default();
        let mut now = 1_000;
        // Nobody equivocates here: a voter keeps to the first history that it shows at an index.
        let mut histories: BTreeMap<(u16, u64), bool> = BTreeMap::new();
        for event in script {
            match event {
                Event::Ask(passed) => {
                    now += passed;
                    let question = world.ask(now);
                    definition.questions.insert(question, (now, BTreeMap::new()));
                }
                Event::Answer { voter, back, offset, odd } => {
                    let question = world.questions.saturating_sub(back);
                    let applied = world.applied.saturating_add_signed(offset);
                    let odd = *histories.entry((voter, applied)).or_insert(odd);
                    let head = root(u8::from(odd), applied);
                    world.hear(now, &position(voter, question, applied, head).sign(&identity(voter), &CLUSTER));
                    let kept = back < u64::try_from(limits::LEASE_QUESTIONS).unwrap();
                    if let (Some((_, answers)), true) = (definition.questions.get_mut(&question), kept && voter <= voters) {
                        answers.entry(voter).or_insert((applied, odd));
                    }
                }
                Event::Apply(more) => {
                    let applied = world.applied + more;
                    world.apply(now, applied);
                }
            }
            definition.weigh(voters, world.applied);
            let age = world.lease.evidence().and_then(|evidence| evidence.age_ms(now));
            prop_assert_eq!(age, definition.evidence.map(|sent| now - sent));
        }
    }

    /// B voters confirmed an entry at some time, one voter lies as it likes, and node 1 never gets the entry: no question
    /// that it sends after that time is ever backed.
    #[test]
    fn nobody_is_fresh_without_what_a_barrier_confirmed(
        voters in 2u16..=7,
        liar in 2u16..=7,
        order in Just((2u16..=7).collect::<Vec<_>>()).prop_shuffle(),
        script in prop::collection::vec((1u64..400, prop::collection::vec((1u16..=7, 0u64..5, 0u64..30), 0..8)), 4..20),
        confirmed_at in 0usize..4,
    ) {
        const INDEX: u64 = 20;
        let mut world = World::new(voters, INDEX - 1);
        let barrier = Quorums::of(usize::from(voters)).barrier;
        let confirm: BTreeSet<u16> = order.into_iter().filter(|number| *number <= voters).take(barrier).collect();
        // Where B takes every voter, node 1 is one of them and has the entry.
        prop_assume!(confirm.len() == barrier);
        let (mut now, mut sealed) = (1_000, None);
        for (round, (passed, answers)) in script.into_iter().enumerate() {
            now += passed;
            if round == confirmed_at {
                sealed = Some(now);
            }
            now += 1;
            world.ask(now);
            for (voter, back, at) in answers {
                // An answer is as old as its question at most; so it is true of the time of the question or later.
                let question = world.questions.saturating_sub(back);
                let knows = sealed.is_some() && confirm.contains(&voter) && question > u64::try_from(confirmed_at).unwrap();
                let applied = match voter == liar {
                    true => at,
                    false if knows => INDEX.max(at),
                    false => at.min(INDEX - 1),
                };
                if voter <= voters {
                    world.hear(now, &honest(voter, question, applied));
                }
            }
            let age = world.lease.evidence().and_then(|evidence| evidence.age_ms(now));
            if let (Some(sealed), Some(age)) = (sealed, age) {
                prop_assert!(now - age < sealed, "evidence of {} after {}", now - age, sealed);
            }
        }
    }

    /// With one liar and every other voter reachable the node is fresh within one question, whatever the liar says.
    #[test]
    fn one_liar_stops_nobody(voters in 3u16..=7, liar in 2u16..=7, lies in prop::collection::vec((0u64..40, 0u8..3), 1..20)) {
        let mut world = World::new(voters, 20);
        for (round, (applied, history)) in (0u64..).zip(lies) {
            let now = 1_000 + round * 333;
            let question = world.ask(now);
            world.hear(now, &position(liar, question, applied, root(history, applied)).sign(&identity(liar), &CLUSTER));
            for voter in (2..=voters).filter(|voter| *voter != liar) {
                world.hear(now, &honest(voter, question, 20));
            }
            prop_assert!(world.fresh(now + 300, 301));
        }
    }
}
