//! A change of the voters and the barrier of a revocation behind it: when does no honest holder act by the old state, though it may
//! never have heard that the voters are others?
//!
//! Of three voters one is replaced. Voter 0 lies, is a voter before and after, and its friend leads: each node is shown as much of
//! the history as the leader likes. One honest holder is observed; it asks the voters of the state that it has. It is a member, as are
//! the voters; whoever was replaced holds no share.

use stateright::{Model, Property};

/// How long a node is fresh after it asked, and how long the barrier waits, in ticks.
const W: u8 = 2;
/// Of three voters: of a lease, and of a barrier.
const M: usize = 2;
const B: usize = 3;

const SILENT: &str = "after the barrier no honest holder contributes by the old state";

/// Planted: a rule left out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    /// A majority of the voters from before has signed the change, and nobody asks for more.
    OldForgotten,
    /// The barrier asks those from before only.
    NewForgotten,
    /// The voters that stayed are taken for all members that did.
    HolderForgotten,
    /// The barrier answers at once when both sets are complete.
    NoWait,
}

/// What a node has applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Position {
    Before,
    /// The change of the voters.
    Changed,
    /// The revocation behind it.
    Revoked,
}
use Position::{Before, Changed, Revoked};

/// An honest voter, of before, of after, or of both.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Voter {
    before: bool,
    after: bool,
    position: Position,
    /// What it answered to the question that is open, as far as that has arrived.
    answer: Option<Position>,
    /// What the barrier has of it, signed: the head of the change, or a position with the revocation.
    told: Position,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Holder {
    position: Position,
    /// Ticks since the open question was sent. `W` stands for more.
    question: Option<u8>,
    /// The liar has answered the question with whatever counts.
    liar_counts: bool,
    /// Ticks that count against the lease.
    lease: Option<u8>,
    /// The barrier has its signature over the head of the change.
    told: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Barrier {
    Gathering,
    Waiting(u8),
    Answered,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    holder: Holder,
    voters: [Voter; 3],
    barrier: Barrier,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Tick,
    /// The leader shows the next entry.
    ShowHolder,
    ShowVoter(usize),
    Ask,
    Answer(usize),
    LiarAnswers,
    /// A signed head of the change, or a position, comes to the barrier.
    Tell(usize),
    /// The holder's signed head of the change does.
    HolderTells,
    BarrierAnswers,
}

struct Voters {
    planted: Option<Bug>,
}

fn next(position: Position) -> Position {
    if position == Before { Changed } else { Revoked }
}

impl Voters {
    fn has(&self, bug: Bug) -> bool {
        self.planted == Some(bug)
    }

    fn settle_lease(state: &mut State) {
        let holder = state.holder;
        let Some(age) = holder.question else { return };
        let votes = |voter: &&Voter| if holder.position == Before { voter.before } else { voter.after };
        let counts = |voter: &&Voter| voter.answer.is_some_and(|answer| answer <= holder.position);
        let counted = state.voters.iter().filter(votes).filter(counts).count() + usize::from(holder.liar_counts);
        if counted >= M {
            state.holder.lease = Some(age).filter(|age| *age < W);
            close_question(state);
        }
    }

    /// The liar has signed everything from the beginning.
    fn settle_barrier(&self, state: &mut State) {
        let before = 1 + state.voters.iter().filter(|voter| voter.before && voter.told >= Changed).count();
        let after = 1 + state.voters.iter().filter(|voter| voter.after && voter.told == Revoked).count();
        let of_before = if self.has(Bug::OldForgotten) { M } else { B };
        let mut stayed = state.voters.iter().filter(|voter| voter.before && voter.after);
        let passed = stayed.all(|voter| voter.told >= Changed) && (state.holder.told || self.has(Bug::HolderForgotten));
        let complete = (before >= of_before || passed) && (after >= B || self.has(Bug::NewForgotten));
        if state.barrier == Barrier::Gathering && complete {
            state.barrier = Barrier::Waiting(0);
        }
    }

    fn step(&self, last: &State, act: Act) -> Option<State> {
        let mut state = last.clone();
        match act {
            Act::Tick => {
                let holder = &mut state.holder;
                holder.question = holder.question.map(|age| W.min(age + 1));
                holder.lease = holder.lease.map(|age| age + 1).filter(|age| *age < W);
                if let Barrier::Waiting(age) = &mut state.barrier {
                    *age = W.min(*age + 1);
                }
            }
            Act::ShowHolder => {
                let heard = state.holder.position == Before;
                state.holder.position = next(state.holder.position);
                if heard {
                    state.holder.lease = None;
                    close_question(&mut state);
                }
            }
            Act::ShowVoter(at) => state.voters[at].position = next(state.voters[at].position),
            Act::Ask => {
                close_question(&mut state);
                state.holder.question = Some(0);
            }
            Act::Answer(at) if state.holder.question.is_some() && state.voters[at].answer.is_none() => {
                state.voters[at].answer = Some(state.voters[at].position);
            }
            Act::LiarAnswers if state.holder.question.is_some() => state.holder.liar_counts = true,
            Act::Tell(at) if state.barrier == Barrier::Gathering => state.voters[at].told = state.voters[at].position,
            Act::HolderTells if state.barrier == Barrier::Gathering => {
                state.holder.told = state.holder.position != Before;
            }
            Act::BarrierAnswers => match state.barrier {
                Barrier::Waiting(age) if age == W || self.has(Bug::NoWait) => state.barrier = Barrier::Answered,
                _ => return None,
            },
            _ => return None,
        }
        Self::settle_lease(&mut state);
        self.settle_barrier(&mut state);
        (state != *last).then_some(state)
    }
}

fn close_question(state: &mut State) {
    state.holder.question = None;
    state.holder.liar_counts = false;
    state.voters.iter_mut().for_each(|voter| voter.answer = None);
}

fn acts_by_the_old_state(state: &State) -> bool {
    state.holder.lease.is_some() && state.holder.position != Revoked
}

impl Model for Voters {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        let voter = |before, after| Voter { before, after, position: Before, answer: None, told: Before };
        vec![State {
            holder: Holder { position: Before, question: None, liar_counts: false, lease: None, told: false },
            voters: [voter(true, true), voter(true, false), voter(false, true)],
            barrier: Barrier::Gathering,
        }]
    }

    fn actions(&self, state: &State, acts: &mut Vec<Act>) {
        acts.extend([Act::Tick, Act::ShowHolder, Act::Ask, Act::LiarAnswers, Act::HolderTells, Act::BarrierAnswers]);
        for at in 0..state.voters.len() {
            acts.extend([Act::ShowVoter(at), Act::Answer(at), Act::Tell(at)]);
        }
    }

    fn next_state(&self, last: &State, act: Act) -> Option<State> {
        self.step(last, act)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(SILENT, |_, state: &State| {
                state.barrier != Barrier::Answered || !acts_by_the_old_state(state)
            }),
            Property::sometimes("a holder that never heard of the change was fresh once", |_, state: &State| {
                state.holder.position == Before && state.holder.lease.is_some() && state.barrier != Barrier::Gathering
            }),
            Property::sometimes("the barrier answers though the holder heard of nothing", |_, state: &State| {
                state.barrier == Barrier::Answered && state.holder.position == Before
            }),
            Property::sometimes("the barrier answers without the voter that left", |_, state: &State| {
                let left = state.voters.iter().find(|voter| !voter.after);
                state.barrier == Barrier::Answered && left.is_some_and(|voter| voter.told == Before)
            }),
            Property::sometimes("a holder that obeys is fresh after the barrier", |_, state: &State| {
                state.barrier == Barrier::Answered && state.holder.position == Revoked && state.holder.lease.is_some()
            }),
        ]
    }
}

#[test]
fn the_voters_from_before_a_change_are_waited_for() {
    super::holds("change of voters", Voters { planted: None });
}

#[test]
fn every_planted_bug_is_found() {
    for bug in [Bug::OldForgotten, Bug::NewForgotten, Bug::HolderForgotten, Bug::NoWait] {
        super::found("change of voters", SILENT, bug, Voters { planted: Some(bug) });
    }
}
