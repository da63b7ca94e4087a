//! The lease: questions to all voters, which of their answers count, and for how long.
//!
//! Times are milliseconds of a clock that goes on while the machine sleeps and that nobody sets.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use super::position::{Equivocation, Question, SignedPosition};
use super::{Fresh, Quorums};
use crate::history;
use crate::id::{ClusterId, Digest, NodeId};
use crate::identity::PublicKey;
use crate::limits;
use crate::table::{StoreFault, Tables};

/// A lease of one node: a value that is told what happens.
#[derive(Debug)]
pub struct Lease {
    me: NodeId,
    cluster: ClusterId,
    voters: BTreeMap<NodeId, PublicKey>,
    /// Whether this node's own position counts: it would also sign it.
    ready: bool,
    /// The last questions, the newest at the end.
    asked: VecDeque<Asked>,
    evidence: Option<Evidence>,
    heard: BTreeMap<NodeId, Heard>,
    liars: BTreeMap<NodeId, Equivocation>,
}

/// A question.
#[derive(Debug)]
struct Asked {
    nonce: [u8; 16],
    sent_ms: u64,
    answers: BTreeMap<NodeId, Answer>,
}

/// What became of the answer of one voter to one question.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answer {
    /// This node has not applied that much yet.
    Waits { applied: u64, head: Digest },
    /// This node has the same history there.
    Counts,
    /// It has another one, or does not know any more which.
    Never,
}

/// What was heard of a voter.
#[derive(Debug, Default)]
struct Heard {
    /// Of different indices, the latest heard last.
    positions: VecDeque<SignedPosition>,
    alarmed_ms: Option<u64>,
}

/// Evidence that this node's state was current when a question was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Evidence {
    asked_ms: u64,
}

impl Evidence {
    /// Its age; none for a clock that went back.
    #[must_use]
    pub const fn age_ms(&self, now_ms: u64) -> Option<u64> {
        now_ms.checked_sub(self.asked_ms)
    }
    /// Whether it is younger than a staleness, both in milliseconds. What is decided with it must have been read from the
    /// state after this evidence was taken.
    #[must_use]
    pub fn fresh(&self, now_ms: u64, staleness_ms: u64) -> Option<Fresh> {
        self.age_ms(now_ms).filter(|age| *age < staleness_ms).map(|_| Fresh(()))
    }
}

/// What an operator must know of a voter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// It signed two histories. The proof is to be kept: none of its answers count any more.
    Equivocates(Box<Equivocation>),
    /// It has another history than this node.
    Differs {
        /// The voter.
        node: NodeId,
        /// At this index.
        index: u64,
        /// What it signed.
        theirs: Digest,
        /// What this node has.
        ours: Digest,
    },
    /// It says it is ahead of what this node can reach, though the other voters find this node current.
    Ahead {
        /// The voter.
        node: NodeId,
        /// Where it says it is.
        index: u64,
    },
    /// It answered with a position that it did not sign, or for another node.
    Forged {
        /// The voter.
        node: NodeId,
    },
}

/// Who answered lately.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tally {
    /// Voters whose answers count, this node included.
    pub counted: BTreeSet<NodeId>,
    /// Voters whose answers are ahead of this node.
    pub ahead: BTreeSet<NodeId>,
}

/// A lease as clients are shown it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LeaseView {
    /// Age of the evidence, milliseconds; none where there is none.
    pub age_ms: Option<u64>,
    /// Whether that is fresh for the key with the smallest staleness.
    pub fresh: bool,
    /// The smallest staleness of the keys that this node holds shares of, milliseconds; none where it holds none, and then it
    /// asks nobody.
    pub staleness_ms: Option<u64>,
    /// Voters whose answers count within that time.
    pub counted: BTreeSet<NodeId>,
    /// How many are needed.
    pub needed: u32,
    /// Voters that signed two histories, each with the proof.
    pub equivocations: Vec<Equivocation>,
}
crate::wire_struct!(LeaseView { age_ms, fresh, staleness_ms, counted, needed, equivocations });

impl Lease {
    /// A lease without evidence. `proofs` are the equivocations that this node has kept.
    #[must_use]
    pub fn new(me: NodeId, cluster: ClusterId, proofs: impl IntoIterator<Item = Equivocation>) -> Self {
        Self {
            me,
            cluster,
            voters: BTreeMap::new(),
            ready: false,
            asked: VecDeque::new(),
            evidence: None,
            heard: BTreeMap::new(),
            liars: proofs.into_iter().map(|proof| (proof.node(), proof)).collect(),
        }
    }

    /// Who votes, by the replicated state. What others answered says nothing under other voters.
    pub fn set_voters(&mut self, voters: BTreeMap<NodeId, PublicKey>) {
        if self.voters != voters {
            self.heard.retain(|node, _| voters.get(node) == self.voters.get(node));
            self.voters = voters;
            self.asked.clear();
            self.evidence = None;
        }
    }

    /// From now on this node would sign its own position, so it counts.
    pub fn set_ready(&mut self) {
        self.ready = true;
        self.weigh();
    }

    /// Begins a round of questions; the nonce must be new and random.
    pub fn ask(&mut self, now_ms: u64, nonce: [u8; 16]) -> (Question, Vec<Notice>) {
        let question = Question { nonce, at_least: 0, seen: self.seen() };
        self.asked.push_back(Asked { nonce, sent_ms: now_ms, answers: BTreeMap::new() });
        let mut notices = Vec::new();
        while self.asked.len() > limits::LEASE_QUESTIONS {
            let Some(dropped) = self.asked.pop_front() else { break };
            notices.extend(self.left_waiting(now_ms, &dropped));
        }
        self.weigh();
        (question, notices)
    }

    /// Who is still ahead when its question is forgotten, though the others found this node current after it was asked.
    fn left_waiting(&mut self, now_ms: u64, dropped: &Asked) -> Vec<Notice> {
        if self.evidence.is_none_or(|evidence| evidence.asked_ms < dropped.sent_ms) {
            return Vec::new();
        }
        let ahead = dropped.answers.iter().filter_map(|(node, answer)| match answer {
            Answer::Waits { applied, .. } => Some(Notice::Ahead { node: *node, index: *applied }),
            Answer::Counts | Answer::Never => None,
        });
        ahead.collect::<Vec<_>>().into_iter().filter_map(|notice| self.alarm(now_ms, notice)).collect()
    }

    /// What others are told: the newest position of each voter, or the proof against it.
    fn seen(&self) -> Vec<SignedPosition> {
        let newest = self.heard.iter().filter(|(node, _)| !self.liars.contains_key(node));
        let newest = newest.filter_map(|(_, heard)| heard.positions.back().copied());
        let proofs = self.liars.values().flat_map(|proof| [proof.first, proof.second]);
        proofs.chain(newest).take(limits::POSITIONS_TOLD).collect()
    }

    /// Takes an answer; `from` is who the channel says. `applied` is how far this node's `tables` are.
    ///
    /// # Errors
    /// [`StoreFault`] when the tables cannot be read.
    pub fn answer(
        &mut self,
        now_ms: u64,
        from: NodeId,
        answer: &SignedPosition,
        applied: Option<u64>,
        tables: &impl Tables,
    ) -> Result<Vec<Notice>, StoreFault> {
        let position = &answer.position;
        let Some(key) = self.voters.get(&from) else { return Ok(Vec::new()) };
        if position.node != from || !answer.verifies(key, &self.cluster) {
            return Ok(self.alarm(now_ms, Notice::Forged { node: from }).into_iter().collect());
        }
        let mut notices: Vec<Notice> = self.compare_verified(answer).into_iter().collect();
        if self.liars.contains_key(&from) {
            return Ok(notices);
        }
        if let Some(asked) = self.asked.iter_mut().find(|asked| asked.nonce == position.nonce) {
            asked.answers.entry(from).or_insert(Answer::Waits { applied: position.applied, head: position.head });
            notices.extend(self.applied(now_ms, applied, tables)?);
        }
        Ok(notices)
    }

    /// This node has applied more: answers that waited for that count, or never will.
    ///
    /// # Errors
    /// [`StoreFault`] when the tables cannot be read.
    pub fn applied(
        &mut self,
        now_ms: u64,
        applied: Option<u64>,
        tables: &impl Tables,
    ) -> Result<Vec<Notice>, StoreFault> {
        let mut differing = Vec::new();
        let answers = self.asked.iter_mut().flat_map(|asked| asked.answers.iter_mut());
        for (node, answer) in answers {
            let Answer::Waits { applied: index, head: theirs } = *answer else { continue };
            if applied.is_none_or(|applied| applied < index) {
                continue;
            }
            *answer = match history::root_at(tables, index)? {
                Some(ours) if ours == theirs => Answer::Counts,
                Some(ours) => {
                    differing.push(Notice::Differs { node: *node, index, theirs, ours });
                    Answer::Never
                }
                None => Answer::Never,
            };
        }
        self.weigh();
        Ok(differing.into_iter().filter_map(|notice| self.alarm(now_ms, notice)).collect())
    }

    /// The newest question that a majority backs, each voter by an answer to it or to a later one.
    fn weigh(&mut self) {
        let own = (self.ready && self.votes(self.me)).then_some(self.me);
        let mut backing: BTreeSet<NodeId> = own.into_iter().collect();
        for asked in self.asked.iter().rev() {
            backing.extend(asked.counted());
            if backing.len() >= Quorums::of(self.voters.len()).lease {
                self.evidence = self.evidence.max(Some(Evidence { asked_ms: asked.sent_ms }));
                return;
            }
        }
    }

    fn votes(&self, node: NodeId) -> bool {
        self.voters.contains_key(&node) && !self.liars.contains_key(&node)
    }

    /// Compares what another node saw with what this one did; a signature is checked only where the contents disagree.
    pub fn compare(&mut self, seen: &[SignedPosition]) -> Vec<Notice> {
        let seen = seen.get(..limits::POSITIONS_TOLD.min(seen.len())).unwrap_or_default();
        let mut notices = Vec::new();
        for (number, second) in seen.iter().enumerate() {
            let node = second.position.node;
            let Some(key) = self.voters.get(&node).filter(|_| self.votes(node)) else { continue };
            let heard = self.heard.get(&node).into_iter().flat_map(|heard| &heard.positions);
            let others = heard.chain(seen.iter().take(number));
            let pairs = others.map(|first| Equivocation { first: *first, second: *second });
            let proof = pairs
                .filter(|pair| pair.first.position.contradicts(&second.position))
                .find(|pair| pair.proves(key, &self.cluster));
            notices.extend(proof.map(|proof| self.convict(proof)));
        }
        notices
    }

    /// Compares a position whose signature was checked with earlier ones of its node, and keeps it for later ones.
    fn compare_verified(&mut self, answer: &SignedPosition) -> Option<Notice> {
        let node = answer.position.node;
        if self.liars.contains_key(&node) {
            return None;
        }
        let positions = &mut self.heard.entry(node).or_default().positions;
        let same = positions.iter().position(|earlier| earlier.position.applied == answer.position.applied);
        let earlier = same.and_then(|place| positions.remove(place));
        positions.push_back(*answer);
        if positions.len() > limits::POSITIONS_KEPT {
            positions.pop_front();
        }
        let first = earlier.filter(|earlier| earlier.position.contradicts(&answer.position))?;
        Some(self.convict(Equivocation { first, second: *answer }))
    }

    /// From a proof on nothing that the node said counts, earlier answers included.
    fn convict(&mut self, proof: Equivocation) -> Notice {
        let node = proof.node();
        for asked in &mut self.asked {
            asked.answers.remove(&node);
        }
        self.heard.remove(&node);
        self.liars.insert(node, proof);
        self.evidence = None;
        self.weigh();
        Notice::Equivocates(Box::new(proof))
    }

    /// Lets an alarm through, for each voter once in [`limits::ALARM_MS`].
    fn alarm(&mut self, now_ms: u64, notice: Notice) -> Option<Notice> {
        let (Notice::Differs { node, .. } | Notice::Ahead { node, .. } | Notice::Forged { node }) = &notice else {
            return Some(notice);
        };
        let heard = self.heard.entry(*node).or_default();
        let recent = heard.alarmed_ms.is_some_and(|at| now_ms.saturating_sub(at) < limits::ALARM_MS);
        if recent {
            return None;
        }
        heard.alarmed_ms = Some(now_ms);
        Some(notice)
    }

    /// The evidence so far. To be taken before the state is read that is to be acted on.
    #[must_use]
    pub fn evidence(&self) -> Option<Evidence> {
        self.evidence
    }

    /// Whether this node is fresh now for a key with this staleness, milliseconds.
    #[must_use]
    pub fn fresh(&self, now_ms: u64, staleness_ms: u64) -> Option<Fresh> {
        self.evidence?.fresh(now_ms, staleness_ms)
    }

    /// Who answered questions that are younger than a staleness, milliseconds.
    #[must_use]
    pub fn tally(&self, now_ms: u64, staleness_ms: u64) -> Tally {
        let mut tally = Tally::default();
        tally.counted.extend((self.ready && self.votes(self.me)).then_some(self.me));
        for asked in self.asked.iter().filter(|asked| now_ms.saturating_sub(asked.sent_ms) < staleness_ms) {
            tally.counted.extend(asked.counted());
            let waits = asked.answers.iter().filter(|(_, answer)| matches!(answer, Answer::Waits { .. }));
            tally.ahead.extend(waits.map(|(node, _)| *node));
        }
        tally.ahead.retain(|node| !tally.counted.contains(node));
        tally
    }

    /// The lease as clients are shown it.
    #[must_use]
    pub fn view(&self, now_ms: u64, staleness_ms: Option<u64>) -> LeaseView {
        let window = staleness_ms.unwrap_or(limits::STALENESS_MS.into());
        LeaseView {
            age_ms: self.evidence.and_then(|evidence| evidence.age_ms(now_ms)),
            fresh: self.fresh(now_ms, window).is_some(),
            staleness_ms,
            counted: self.tally(now_ms, window).counted,
            needed: u32::try_from(self.needed()).unwrap_or(u32::MAX),
            equivocations: self.liars.values().copied().collect(),
        }
    }

    /// How many voters a lease needs.
    #[must_use]
    pub fn needed(&self) -> usize {
        Quorums::of(self.voters.len()).lease
    }

    /// The highest index that a node is known to have applied, by its own signature.
    #[must_use]
    pub fn highest(&self, node: NodeId) -> Option<u64> {
        self.heard.get(&node)?.positions.iter().map(|signed| signed.position.applied).max()
    }
}

impl Asked {
    fn counted(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.answers.iter().filter(|(_, answer)| **answer == Answer::Counts).map(|(node, _)| *node)
    }
}
