//! The switch from one epoch of a key to the next: is the key there at every moment, whatever the leader shows to whom?
//!
//! Three holders, threshold 2. One holder lies: it signs and deals whatever is asked of it, or nothing; its votes are
//! therefore not modelled but taken as given, and its share is never counted. Its friend leads: each honest node is
//! shown a history of its own, as far as entries can be shown that nobody can forge.
//!
//! Epoch 0 exists. Attempt 0 makes epoch 1, attempt 1 makes epoch 2, from what the node's own history committed last.

use stateright::{Model, Property};

/// Shares that make the key.
const THRESHOLD: usize = 2;
/// The liar signs everything.
const LIARS: usize = 1;
/// How many attempts there are.
const ATTEMPTS: usize = 2;
/// Dealers: the honest nodes by their place, and the liar.
const LIAR: usize = 2;
/// An attempt's dealers are the first t whose dealings all have acknowledged: which, depends on the order that one is
/// shown. The place in this list is the core that they make.
const DEALERS: [[usize; THRESHOLD]; 3] = [[0, LIAR], [1, LIAR], [0, 1]];

const NEVER_LOST: &str = "I1 some epoch has t durable shares at honest nodes";
const OWN_EPOCH: &str = "an honest node holds its share of the epoch that its history calls active";
const EVIDENCE: &str = "I5 no share is erased before all holders of a later epoch attested ACTIVATED";
const ONE_READY: &str = "I9 a node signs READY for one core per epoch";
const ONE_CERTIFICATE: &str = "one core per epoch gathers READY of all holders";
const ABORT_STANDS: &str = "no ACTIVATED for an attempt whose abort was applied";
const ONE_SUCCESSOR: &str = "one core per base gathers ACTIVATED of all holders";

/// Planted: a rule left out.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Bug {
    /// Whoever applies the commit erases what was before.
    EraseAtCommit,
    /// Erases when the leader says that all have activated.
    EraseOnWord,
    /// Erases with ACTIVATED of t holders.
    EraseAtThreshold,
    /// Whoever applies the abort erases what it staged.
    EraseAtAbort,
    /// Stages and signs READY again when it is shown another order.
    ReadyTwice,
    /// Sends READY before share and vote are durable, and takes part again after a restart.
    SendBeforeDurable,
    /// Activates an attempt whose abort it applied, once it is shown the certificate.
    ActivateAborted,
}

/// What a node's history says of an attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum History {
    Unseen,
    /// Begun, and neither committed nor aborted.
    Open,
    Committed(usize),
    Aborted,
}
use History::{Aborted, Committed, Open, Unseen};

/// An honest node's part in an attempt. A set of cores is a mask: bit c is core c.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Part {
    history: History,
    /// Polynomials and subshares are in RAM.
    ram: bool,
    /// Whose dealings it has signed to have; a mask like the others.
    acknowledged: u8,
    /// Sealed shares, durable.
    staged: u8,
    /// READY votes that it ever signed. A vote that was sent can be shown to anybody, for ever.
    ready: u8,
    /// The same for ACTIVATED.
    activated: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Node {
    parts: [Part; ATTEMPTS],
    /// All epochs below this one are erased here.
    floor: usize,
}

type State = [Node; 2];

fn has(mask: u8, bit: usize) -> bool {
    mask & (1 << bit) != 0
}

impl Node {
    /// The share of the epoch that this attempt made, durable and not erased.
    fn holds(&self, attempt: usize, core: usize) -> bool {
        has(self.parts[attempt].staged, core) && self.floor <= attempt + 1
    }
    /// What an attempt starts from is part of its core: for the second, how the first ended.
    fn base(&self, attempt: usize) -> Option<History> {
        attempt.checked_sub(1).map(|before| self.parts[before].history)
    }
    /// The last epoch that its history committed, or the first one.
    fn holds_active(&self) -> bool {
        let committed = (0..ATTEMPTS).rev().find_map(|attempt| match self.parts[attempt].history {
            Committed(core) => Some(self.holds(attempt, core)),
            _ => None,
        });
        committed.unwrap_or(self.floor == 0)
    }
}

/// The nodes mean the same by an attempt.
fn same_base([one, other]: &State, attempt: usize) -> bool {
    one.base(attempt) == other.base(attempt)
}

/// Both honest nodes, and so with the liar all holders, have this for one and the same core.
fn all(state: &State, attempt: usize, core: usize, set: fn(&Part) -> u8) -> bool {
    same_base(state, attempt) && state.iter().all(|node| has(set(&node.parts[attempt]), core))
}

/// How many cores of an attempt all holders have this for.
fn count(state: &State, attempt: usize, set: fn(&Part) -> u8) -> usize {
    (0..DEALERS.len()).filter(|core| all(state, attempt, *core, set)).count()
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Act {
    /// The node's history goes on with the beginning of an attempt; the node deals.
    Begin,
    /// The dealing of this dealer has arrived; the node signs that.
    Acknowledge(usize),
    /// The order in the node's history makes these dealers the first; the share is checked, sealed and synced.
    Stage(usize),
    Ready(usize),
    /// The node's history goes on with READY of all holders.
    Commit(usize),
    /// The node's history goes on with the end of the attempt: the liar reports a fault, or time is over.
    Abort,
    Activate(usize),
    /// Everything below the epoch of this attempt.
    Erase(usize),
    Crash,
}

struct EpochSwitch {
    planted: &'static [Bug],
}

impl EpochSwitch {
    fn has(&self, bug: Bug) -> bool {
        self.planted.contains(&bug)
    }

    /// One after the other, and the next only when t ACTIVATED for the last commit are known.
    fn may_begin(state: &State, node: &Node, attempt: usize) -> bool {
        match node.base(attempt) {
            None | Some(Aborted) => true,
            Some(Unseen | Open) => false,
            Some(Committed(core)) => {
                let activated = |node: &&Node| has(node.parts[attempt - 1].activated, core);
                state.iter().filter(activated).count() + LIARS >= THRESHOLD
            }
        }
    }

    fn may_acknowledge(state: &State, own: &Part, attempt: usize, dealer: usize) -> bool {
        let begun = |node: &Node| node.parts[attempt].history != Unseen && same_base(state, attempt);
        own.history == Open && own.ram && state.get(dealer).is_none_or(begun)
    }

    /// Nothing rests on the order being shown once: it may be another one at every look.
    fn may_stage(&self, state: &State, own: &Part, attempt: usize, core: usize) -> bool {
        let acknowledged = |dealer: &usize| state.iter().all(|node| has(node.parts[attempt].acknowledged, *dealer));
        let fixed = same_base(state, attempt) && DEALERS[core].iter().all(acknowledged);
        own.history == Open && own.ram && fixed && (own.staged == 0 || self.has(Bug::ReadyTwice))
    }

    fn may_vote(&self, own: &Part, core: usize) -> bool {
        let record_is_free = own.ready == 0 || self.has(Bug::ReadyTwice) || self.has(Bug::SendBeforeDurable);
        own.history == Open && has(own.staged, core) && record_is_free
    }

    fn may_activate(&self, state: &State, node: &Node, attempt: usize, core: usize) -> bool {
        let certified = all(state, attempt, core, |part| part.ready);
        let history = node.parts[attempt].history;
        let applied = history == Committed(core) || (history == Aborted && self.has(Bug::ActivateAborted));
        certified && applied && node.holds(attempt, core)
    }

    /// The votes come from the nodes themselves; how late does not matter, once signed they stay true.
    fn may_erase(&self, state: &State, node: &Node, attempt: usize, core: usize) -> bool {
        if self.has(Bug::EraseOnWord) {
            return node.parts[attempt].history != Unseen;
        }
        // With the liar's, its own vote is the second.
        let of_threshold = has(node.parts[attempt].activated, core);
        all(state, attempt, core, |part| part.activated) || (of_threshold && self.has(Bug::EraseAtThreshold))
    }

    fn crash(&self, part: &mut Part) {
        part.ram = false;
        if self.has(Bug::SendBeforeDurable) && part.history == Open {
            part.staged = 0;
            part.ram = true;
        }
    }

    fn step(&self, last: &State, at: usize, attempt: usize, act: Act) -> Option<State> {
        let mut state = *last;
        let node = &mut state[at];
        let part = &mut node.parts[attempt];
        match act {
            Act::Begin if part.history == Unseen && Self::may_begin(last, &last[at], attempt) => {
                *part = Part { history: Open, ram: true, acknowledged: 1 << at, ..*part };
            }
            Act::Acknowledge(dealer) if Self::may_acknowledge(last, part, attempt, dealer) => {
                part.acknowledged |= 1 << dealer;
            }
            Act::Stage(core) if self.may_stage(last, part, attempt, core) => part.staged |= 1 << core,
            Act::Ready(core) if self.may_vote(part, core) => part.ready |= 1 << core,
            Act::Commit(core) if part.history == Open && all(last, attempt, core, |part| part.ready) => {
                part.history = Committed(core);
                part.ram = false;
                if self.has(Bug::EraseAtCommit) {
                    node.floor = attempt + 1;
                }
            }
            Act::Abort if part.history == Open => {
                part.history = Aborted;
                part.ram = false;
                if self.has(Bug::EraseAtAbort) {
                    part.staged = 0;
                }
            }
            Act::Activate(core) if self.may_activate(last, &last[at], attempt, core) => part.activated |= 1 << core,
            Act::Erase(core) if self.may_erase(last, &last[at], attempt, core) => {
                node.floor = node.floor.max(attempt + 1);
            }
            Act::Crash => node.parts.iter_mut().for_each(|part| self.crash(part)),
            _ => return None,
        }
        (state != *last).then_some(state)
    }
}

impl Model for EpochSwitch {
    type State = State;
    /// Node, attempt, what happens there.
    type Action = (usize, usize, Act);

    fn init_states(&self) -> Vec<State> {
        let part = Part { history: Unseen, ram: false, acknowledged: 0, staged: 0, ready: 0, activated: 0 };
        vec![[Node { parts: [part; ATTEMPTS], floor: 0 }; 2]]
    }

    fn actions(&self, state: &State, actions: &mut Vec<Self::Action>) {
        for at in 0..state.len() {
            actions.push((at, 0, Act::Crash));
            for attempt in 0..ATTEMPTS {
                actions.extend([Act::Begin, Act::Abort].map(|act| (at, attempt, act)));
                // There are as many cores as dealers.
                for of in 0..DEALERS.len() {
                    let acts: [fn(usize) -> Act; 6] =
                        [Act::Acknowledge, Act::Stage, Act::Ready, Act::Commit, Act::Activate, Act::Erase];
                    actions.extend(acts.map(|act| (at, attempt, act(of))));
                }
            }
        }
    }

    fn next_state(&self, last: &State, (at, attempt, act): Self::Action) -> Option<State> {
        self.step(last, at, attempt, act)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(NEVER_LOST, |_, state: &State| {
                let both_hold = |attempt: usize, core: usize| {
                    same_base(state, attempt) && state.iter().all(|node| node.holds(attempt, core))
                };
                state.iter().all(|node| node.floor == 0)
                    || (0..ATTEMPTS).any(|attempt| (0..DEALERS.len()).any(|core| both_hold(attempt, core)))
            }),
            Property::always(OWN_EPOCH, |_, state: &State| state.iter().all(Node::holds_active)),
            Property::always(EVIDENCE, |_, state: &State| {
                let attested =
                    |floor: usize| (floor..=ATTEMPTS).any(|epoch| count(state, epoch - 1, |part| part.activated) > 0);
                state.iter().all(|node| node.floor == 0 || attested(node.floor))
            }),
            Property::always(ONE_READY, |_, state: &State| {
                state.iter().flat_map(|node| node.parts).all(|part| part.ready.count_ones() <= 1)
            }),
            Property::always(ONE_CERTIFICATE, |_, state: &State| {
                (0..ATTEMPTS).all(|attempt| count(state, attempt, |part| part.ready) <= 1)
            }),
            Property::always(ABORT_STANDS, |_, state: &State| {
                state.iter().flat_map(|node| node.parts).all(|part| part.history != Aborted || part.activated == 0)
            }),
            Property::always(ONE_SUCCESSOR, |_, state: &State| {
                // After an abort the second attempt starts from epoch 0 again.
                let [first, second] = [0, 1].map(|attempt| count(state, attempt, |part| part.activated));
                let both_from_0 = state.iter().all(|node| node.base(1) == Some(Aborted));
                if both_from_0 { first + second <= 1 } else { first <= 1 && second <= 1 }
            }),
            Property::sometimes("one node applied the commit, the other the abort", |_, state: &State| {
                let seen = |history: fn(&History) -> bool| state.iter().any(|node| history(&node.parts[0].history));
                seen(|history| matches!(history, Committed(_))) && seen(|history| *history == Aborted)
            }),
            Property::sometimes("the nodes staged different cores", |_, [one, other]: &State| {
                let (one, other) = (one.parts[0].staged, other.parts[0].staged);
                one != 0 && other != 0 && one != other
            }),
            Property::sometimes("two switches became final", |_, state: &State| {
                state.iter().all(|node| node.floor == 2 && matches!(node.base(1), Some(Committed(_))))
            }),
            Property::sometimes("a switch became final after an abort", |_, state: &State| {
                state.iter().all(|node| node.floor == 2 && node.base(1) == Some(Aborted))
            }),
        ]
    }
}

const NAME: &str = "epoch switch";

#[test]
fn the_switch_keeps_its_promises() {
    super::holds(NAME, EpochSwitch { planted: &[] });
}

#[test]
fn every_planted_bug_is_found() {
    use Bug::*;
    const PLANTED: [(&str, &[Bug]); 11] = [
        (EVIDENCE, &[EraseAtCommit]),
        (EVIDENCE, &[EraseAtThreshold]),
        (EVIDENCE, &[EraseOnWord]),
        (NEVER_LOST, &[EraseOnWord]),
        (OWN_EPOCH, &[EraseOnWord]),
        (ONE_READY, &[ReadyTwice]),
        (ONE_CERTIFICATE, &[ReadyTwice]),
        (ONE_READY, &[SendBeforeDurable]),
        (ONE_CERTIFICATE, &[SendBeforeDurable]),
        (ABORT_STANDS, &[ActivateAborted]),
        (ONE_SUCCESSOR, &[ActivateAborted]),
    ];
    for (promise, planted) in PLANTED {
        super::found(NAME, promise, planted, EpochSwitch { planted });
    }
}

#[test]
fn the_key_is_lost_only_by_two_bugs_at_once() {
    use Bug::*;
    for planted in [&[EraseAtCommit], &[EraseAtThreshold], &[EraseAtAbort]] {
        super::not_found(NAME, NEVER_LOST, planted, EpochSwitch { planted });
    }
    const PAIRS: [&[Bug]; 2] = [&[EraseAtCommit, EraseAtAbort], &[EraseAtThreshold, EraseAtAbort]];
    for planted in PAIRS {
        super::found(NAME, NEVER_LOST, planted, EpochSwitch { planted });
    }
}
