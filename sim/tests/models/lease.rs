//! The freshness lease and the barrier of a revocation: with which quorums does no honest holder act by the old state
//! after the barrier has answered?
//!
//! One holder is observed: holders do not depend on each other, only on the voters. It is a voter itself, or it is not.
//! Voter 0 lies, and its friend leads: a node sees the revocation, or another history in its place, or nothing yet.
//! Honest voters are interchangeable, so they are kept sorted.

use stateright::{Model, Property};

/// How long a node is fresh after it asked, and how long the barrier waits, in ticks.
const W: u8 = 2;
/// How many voters lie.
const LIARS: usize = 1;

const SILENT: &str = "after the barrier no honest holder contributes by the old state";
const NOT_STOPPED: &str = "one liar cannot keep a node stale whose history the honest voters share";

/// Planted: a rule left out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    /// M is one smaller.
    SmallMajority,
    /// B is one smaller.
    SmallQuorum,
    /// The lease counts from the arrival of the answer that completes it, not from the question.
    LeaseFromArrival,
    /// An answer counts whatever its head is.
    AnyHead,
    /// The barrier counts a head at or above the index whatever history it is of.
    AnyHistory,
    /// The barrier answers at once when its quorum is complete.
    NoWait,
    /// A voter signs its position before that is durable.
    PositionForgotten,
    /// A voter does not count its own position.
    OwnAnswerIgnored,
    /// An answer that does not count is more than ignored: the node begins anew.
    DisagreementStops,
}

/// What a node's history has at the index of the revocation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Position {
    /// Nothing yet.
    Before,
    /// The revocation.
    Revoked,
    /// Something else: the leader showed another history.
    Forked,
}
use Position::{Before, Forked, Revoked};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Answer {
    None,
    /// Signed, and delayed by the network.
    Sent(Position),
    Arrived(Position),
}

/// An honest voter that is not the observed holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Voter {
    /// Applied and durable.
    position: Position,
    /// Its answer to the holder's question that is open.
    answer: Answer,
    /// The barrier has its signed head with the revocation.
    heard: bool,
}

/// The observed holder.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Holder {
    votes: bool,
    position: Position,
    /// Ticks since the open question was sent. `W` stands for more.
    question: Option<u8>,
    /// The liar has answered the question with whatever counts.
    liar_counts: bool,
    /// Ticks that count against the lease; below `W` the holder is fresh.
    lease: Option<u8>,
    /// The barrier has its signed head with the revocation: it has confirmed.
    heard: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Barrier {
    Gathering,
    /// The quorum is complete, for so many ticks.
    Waiting(u8),
    Answered,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct State {
    holder: Holder,
    voters: Vec<Voter>,
    barrier: Barrier,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    Tick,
    /// The leader shows the holder what stands at the index.
    ShowHolder(Position),
    ShowVoter(usize, Position),
    Ask,
    Answer(usize),
    /// The network brings the answer.
    Arrive(usize),
    /// The liar answers what counts for this holder (true), or what does not.
    LiarAnswers(bool),
    /// The holder starts anew: question and lease were in RAM.
    Restart,
    /// A voter starts anew. Only with [`Bug::PositionForgotten`] does that take anything away.
    CrashVoter(usize),
    HolderConfirms,
    VoterConfirms(usize),
    BarrierAnswers,
}

struct Lease {
    voters: usize,
    planted: Option<Bug>,
}

impl Lease {
    fn has(&self, bug: Bug) -> bool {
        self.planted == Some(bug)
    }
    /// M: how many answers must count.
    fn lease_quorum(&self) -> usize {
        self.voters / 2 + 1 - usize::from(self.has(Bug::SmallMajority))
    }
    /// B = min(n, n - M + f + 1): how many voters' heads the barrier needs.
    fn barrier_quorum(&self) -> usize {
        let majority = self.voters / 2 + 1;
        self.voters.min(self.voters - majority + LIARS + 1) - usize::from(self.has(Bug::SmallQuorum))
    }

    /// Whether a node at this position shows the barrier a head that counts.
    fn confirms(&self, position: Position) -> bool {
        position == Revoked || (position == Forked && self.has(Bug::AnyHistory))
    }

    /// An answer counts when the holder has applied as much and has the same head there.
    fn counts(&self, answer: Position, own: Position) -> bool {
        let applied = answer == Before || own != Before;
        let equal = answer == Before || answer == own;
        applied && (equal || self.has(Bug::AnyHead))
    }

    /// When enough answers count, the holder is fresh and the question is closed.
    fn settle_lease(&self, state: &mut State) {
        let holder = state.holder;
        let Some(age) = holder.question else { return };
        let own = holder.votes && !self.has(Bug::OwnAnswerIgnored);
        let counts = |voter: &&Voter| matches!(voter.answer, Answer::Arrived(at) if self.counts(at, holder.position));
        let counted = state.voters.iter().filter(counts).count();
        if counted + usize::from(own) + usize::from(holder.liar_counts) >= self.lease_quorum() {
            let age = if self.has(Bug::LeaseFromArrival) { 0 } else { age };
            state.holder.lease = Some(age).filter(|age| *age < W);
            close_question(state);
        }
    }

    /// The liar's head counts from the beginning.
    fn settle_barrier(&self, state: &mut State) {
        let own = state.holder.votes && state.holder.heard;
        let heard = state.voters.iter().filter(|voter| voter.heard).count() + usize::from(own) + LIARS;
        if state.barrier == Barrier::Gathering && heard >= self.barrier_quorum() {
            state.barrier = Barrier::Waiting(0);
            // What the barrier has heard matters no more: one state instead of many.
            state.voters.iter_mut().for_each(|voter| voter.heard = false);
        }
    }

    /// One question, answered by all honest voters after the liar said what it wants: is the holder fresh?
    fn fresh_in_spite(&self, state: &State, liar_counts: bool) -> bool {
        let mut state = state.clone();
        for act in [Act::Ask, Act::LiarAnswers(liar_counts)] {
            state = self.step(&state, act).unwrap_or(state);
        }
        let voters = state.voters.len();
        let answers = || (0..voters).flat_map(|at| [Act::Answer(at), Act::Arrive(at)]);
        while let Some(next) = answers().find_map(|act| self.step(&state, act)) {
            state = next;
        }
        state.holder.lease == Some(0)
    }

    fn step(&self, last: &State, act: Act) -> Option<State> {
        let mut state = last.clone();
        let (holder, barrier) = (&mut state.holder, &mut state.barrier);
        match act {
            Act::Tick => {
                holder.question = holder.question.map(|age| W.min(age + 1));
                holder.lease = holder.lease.map(|age| age + 1).filter(|age| *age < W);
                if let Barrier::Waiting(age) = barrier {
                    *age = W.min(*age + 1);
                }
            }
            Act::ShowHolder(position) if holder.position == Before => holder.position = position,
            Act::ShowVoter(at, position) if state.voters[at].position == Before => state.voters[at].position = position,
            Act::Ask => {
                close_question(&mut state);
                state.holder.question = Some(0);
            }
            Act::Answer(at) if holder.question.is_some() && state.voters[at].answer == Answer::None => {
                state.voters[at].answer = Answer::Sent(state.voters[at].position);
            }
            Act::Arrive(at) => match state.voters[at].answer {
                Answer::Sent(position) => state.voters[at].answer = Answer::Arrived(position),
                _ => return None,
            },
            Act::LiarAnswers(true) if holder.question.is_some() => holder.liar_counts = true,
            Act::LiarAnswers(false) if self.has(Bug::DisagreementStops) => close_question(&mut state),
            Act::Restart => {
                state.holder.lease = None;
                close_question(&mut state);
            }
            Act::CrashVoter(at) if self.has(Bug::PositionForgotten) => state.voters[at].position = Before,
            Act::HolderConfirms if self.confirms(holder.position) => holder.heard = true,
            Act::VoterConfirms(at) if *barrier == Barrier::Gathering && self.confirms(state.voters[at].position) => {
                state.voters[at].heard = true;
            }
            Act::BarrierAnswers => match *barrier {
                Barrier::Waiting(age) if age == W || holder.heard || self.has(Bug::NoWait) => {
                    *barrier = Barrier::Answered;
                }
                _ => return None,
            },
            _ => return None,
        }
        self.settle_lease(&mut state);
        self.settle_barrier(&mut state);
        state.voters.sort_unstable();
        (state != *last).then_some(state)
    }
}

fn close_question(state: &mut State) {
    state.holder.question = None;
    state.holder.liar_counts = false;
    state.voters.iter_mut().for_each(|voter| voter.answer = Answer::None);
}

/// The holder would let a share go, by a state without the revocation.
fn acts_by_the_old_state(state: &State) -> bool {
    state.holder.lease.is_some() && state.holder.position != Revoked
}

impl Model for Lease {
    type State = State;
    type Action = Act;

    fn init_states(&self) -> Vec<State> {
        let start = |votes: bool| State {
            holder: Holder { votes, position: Before, question: None, liar_counts: false, lease: None, heard: false },
            voters: vec![
                Voter { position: Before, answer: Answer::None, heard: false };
                self.voters - LIARS - usize::from(votes)
            ],
            barrier: Barrier::Gathering,
        };
        vec![start(false), start(true)]
    }

    fn actions(&self, state: &State, acts: &mut Vec<Act>) {
        acts.extend([Act::Tick, Act::Ask, Act::LiarAnswers(true), Act::LiarAnswers(false), Act::Restart]);
        acts.extend([Act::HolderConfirms, Act::BarrierAnswers, Act::ShowHolder(Revoked), Act::ShowHolder(Forked)]);
        for at in 0..state.voters.len() {
            acts.extend([Act::ShowVoter(at, Revoked), Act::ShowVoter(at, Forked)]);
            acts.extend([Act::Answer(at), Act::Arrive(at), Act::CrashVoter(at), Act::VoterConfirms(at)]);
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
            Property::always(NOT_STOPPED, |model: &Self, state: &State| {
                let together = state.voters.iter().all(|voter| voter.position == state.holder.position);
                !together || [true, false].iter().all(|counts| model.fresh_in_spite(state, *counts))
            }),
            Property::sometimes("a holder acts by the old state until the barrier answers", |_, state: &State| {
                matches!(state.barrier, Barrier::Waiting(1)) && acts_by_the_old_state(state)
            }),
            Property::sometimes("the barrier answers though the holder saw nothing", |_, state: &State| {
                state.barrier == Barrier::Answered && state.holder.position == Before
            }),
            Property::sometimes("a holder with another history was fresh once", |_, state: &State| {
                state.holder.position == Forked && state.holder.lease.is_some()
            }),
            Property::sometimes("a holder that obeys is fresh after the barrier", |_, state: &State| {
                state.barrier == Barrier::Answered && state.holder.position == Revoked && state.holder.lease.is_some()
            }),
        ]
    }
}

#[test]
fn the_quorums_keep_their_promises() {
    for (name, voters) in [("lease of 3", 3), ("lease of 5", 5)] {
        super::holds(name, Lease { voters, planted: None });
    }
}

#[test]
fn every_planted_bug_is_found() {
    for (name, voters) in [("lease of 3", 3), ("lease of 5", 5)] {
        let with = |bug| Lease { voters, planted: Some(bug) };
        for bug in
            [Bug::SmallMajority, Bug::SmallQuorum, Bug::LeaseFromArrival, Bug::AnyHead, Bug::AnyHistory, Bug::NoWait]
        {
            super::found(name, SILENT, bug, with(bug));
        }
        super::found(name, NOT_STOPPED, Bug::DisagreementStops, with(Bug::DisagreementStops));
    }
    let three = |bug| Lease { voters: 3, planted: Some(bug) };
    super::found("lease of 3", SILENT, Bug::PositionForgotten, three(Bug::PositionForgotten));
    // Of five, the other three honest voters are a majority without the holder.
    super::found("lease of 3", NOT_STOPPED, Bug::OwnAnswerIgnored, three(Bug::OwnAnswerIgnored));
}
