//! What a client is told of a barrier, and how it checks that without believing the node that tells it.

use std::collections::{BTreeMap, BTreeSet};

use super::barrier::Enforced;
use super::electorate::{self, Electorate};
use super::position::SignedPosition;
use crate::entry::{Entry, LogEntry, Payload};
use crate::history::{self, Leaf};
use crate::id::{ClusterId, Digest, NodeId};
use crate::membership::{Endorsement, Followed, endorsers};
use crate::outcome::Outcome;
use crate::request::SignedRequest;
use crate::schema::replicated as schema;
use crate::state::links::LinkRecord;
use crate::table::{OrderedWrites, StoreFault, Tables};
use crate::wire::{Bytes, decode, encode};

/// How far a right that was taken away is gone, with what shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Report {
    /// Index of the entry that took it away.
    pub index: u64,
    /// What the serving node says came of its barrier.
    pub enforced: Enforced,
    /// Positions at or above the index, ascending by node.
    pub positions: Vec<SignedPosition>,
    /// Whose shares are concerned; by the word of the serving node.
    pub holders: BTreeSet<NodeId>,
    /// What was waited for, milliseconds, because a holder is missing; by the word of the serving node.
    pub staleness_ms: u64,
    /// That the entry is in the history of everybody in `positions`; none where there is nobody.
    pub place: Option<Place>,
    /// Signed heads of links, where those in `positions` are too few to speak for the voters from before.
    pub endorsements: Vec<Endorsement>,
}
crate::wire_struct!(Report { index, enforced, positions, holders, staleness_ms, place, endorsements });

/// The place of an entry in the history.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Time of the entry; 0 for the activation of a version, whose certificate has the rest.
    pub time_ms: u64,
    /// Hash of its ordered writes.
    pub writes: Digest,
    /// For each applied index in the positions the path of the entry's leaf in the tree that ends there, from the leaf up.
    pub paths: BTreeMap<u64, Vec<Digest>>,
}
crate::wire_struct!(Place { time_ms, writes, paths });

/// What an applied entry leaves behind for its [`Place`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Digest of the body of the request.
    pub request: Digest,
    /// Index of the entry.
    pub index: u64,
    /// Time of the entry.
    pub time_ms: u64,
    /// Hash of its ordered writes.
    pub writes: Digest,
}

impl Placed {
    /// For an entry that was just applied with these writes; none unless it is a request that takes a right away.
    #[must_use]
    pub fn of(
        cluster: &ClusterId,
        index: u64,
        entry: &[u8],
        outcome: &Outcome,
        writes: &OrderedWrites,
    ) -> Option<Self> {
        let hash = match outcome {
            Outcome::KeyChanged { .. } | Outcome::ClientChanged { .. } => hash_of(writes),
            Outcome::MembershipChanged { version, .. } => hash_of_change(writes, *version)?,
            _ => return None,
        };
        let Entry { time_ms, payload: Payload::Request(request) } = decode(entry).ok()? else { return None };
        let verified = request.verify(cluster).ok()?;
        if !verified.body().action.takes_away() {
            return None;
        }
        let placed = Self { request: verified.digest(), index, time_ms, writes: hash };
        let leaf = encode(&placed.leaf(LogEntry::Normal(entry).digest(), outcome).hash());
        let same = writes.get(&schema::tree(0, index)).is_some_and(|written| written.as_ref() == Some(&leaf));
        same.then_some(placed)
    }

    fn leaf(&self, entry: Digest, outcome: &Outcome) -> Leaf {
        Leaf { index: self.index, entry, outcome: outcome.digest(), writes: self.writes }
    }

    /// The place, with a path for each of these applied indices.
    ///
    /// # Errors
    /// [`StoreFault`] when the tables cannot be read. Inside: none when they do not reach that far.
    pub fn place(
        &self,
        tables: &impl Tables,
        applied: impl IntoIterator<Item = u64>,
    ) -> Result<Option<Place>, StoreFault> {
        let mut paths = BTreeMap::new();
        for index in applied {
            let Some(size) = index.checked_add(1) else { return Ok(None) };
            let Some(path) = history::path(tables, self.index, size)? else { return Ok(None) };
            paths.insert(index, path);
        }
        Ok(Some(Place { time_ms: self.time_ms, writes: self.writes, paths }))
    }
}

/// Hash of the ordered writes of an entry as its leaf has it: those of the history itself are left out.
fn hash_of(writes: &OrderedWrites) -> Digest {
    use sha2::{Digest as _, Sha256};
    let of_history = |key: &[u8]| [schema::TREE, schema::ROOTS, schema::PLACES].iter().any(|p| key.starts_with(p));
    let list: BTreeMap<Bytes, Option<Bytes>> = writes
        .iter()
        .filter(|(key, _)| !of_history(key))
        .map(|(key, value)| (Bytes(key.clone()), value.clone().map(Bytes)))
        .collect();
    Digest::from_bytes(Sha256::digest(encode(&list)).into())
}

/// The same for a change of the membership, whose place is kept beside it, right after the leaf.
fn hash_of_change(writes: &OrderedWrites, version: u64) -> Option<Digest> {
    let link: LinkRecord = decode(writes.get(&schema::link(version))?.as_ref()?).ok()?;
    link.place.map(|place| place.writes)
}

/// Which entry a report must be about.
#[derive(Debug, Clone, Copy)]
pub enum Claim<'a> {
    /// This request, with this outcome, at the index that the reply names.
    Request(&'a SignedRequest, &'a Outcome, u64),
    /// An entry that a certificate proves.
    Leaf(Leaf),
}

impl Claim<'_> {
    fn leaf(&self, place: &Place) -> Leaf {
        match self {
            Self::Request(request, outcome, index) => {
                let payload = Payload::Request(SignedRequest::clone(request));
                let entry = encode(&Entry { time_ms: place.time_ms, payload });
                let entry = LogEntry::Normal(&entry).digest();
                Leaf { index: *index, entry, outcome: outcome.digest(), writes: place.writes }
            }
            Self::Leaf(leaf) => *leaf,
        }
    }
    const fn index(&self) -> u64 {
        match self {
            Self::Request(_, _, index) => *index,
            Self::Leaf(leaf) => leaf.index,
        }
    }
}

/// Against what a report is checked.
#[derive(Debug, Clone, Copy)]
pub struct Expected<'a> {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its members, as far as links led.
    pub followed: &'a Followed,
    /// The entry that took the right away.
    pub claim: Claim<'a>,
}

/// A report that was checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checked {
    /// How far the right is gone.
    pub enforced: Enforced,
    /// Voters and holders that did not confirm.
    pub missing: BTreeSet<NodeId>,
    /// Index of the entry.
    pub index: u64,
}

impl Report {
    /// Checks everything but the wait and the list of holders, which are the serving node's word.
    ///
    /// # Errors
    /// What does not verify, in words that go on after "a report of a barrier".
    pub fn check(&self, expected: &Expected<'_>) -> Result<Checked, String> {
        if self.index != expected.claim.index() {
            return Err(format!("for index {} where {} is meant", self.index, expected.claim.index()));
        }
        let mut confirmed = BTreeSet::new();
        for signed in &self.positions {
            let node = signed.position.node;
            // Also of one that left: for the voters from before that.
            let member =
                expected.followed.member(node).ok_or_else(|| format!("with a position of {node}, no member"))?;
            if !signed.verifies(&member.key, &expected.cluster) {
                return Err(format!("with a position that {} did not sign", member.name));
            }
            if signed.position.applied < self.index || !confirmed.insert(node) {
                return Err(format!("with a position of {} that confirms nothing", member.name));
            }
        }
        if !self.positions.is_empty() {
            self.check_place(&expected.claim)?;
        }
        let electorates = self.electorates(expected);
        let has = |node: NodeId| confirmed.contains(&node);
        if self.enforced > electorate::level(&electorates, has) {
            let missing = electorate::missing(&electorates, has).len();
            return Err(format!("that says `{}` where {missing} voters are missing", self.enforced.name()));
        }
        let mut missing: BTreeSet<NodeId> = self.holders.iter().copied().filter(|node| !has(*node)).collect();
        if let Some((newest, former)) = electorates.split_last() {
            missing.extend(newest.missing(has));
            for short in former.iter().filter(|electorate| electorate.level(has) < Enforced::Byzantine) {
                missing.extend(short.missing(has).chain(short.lessees_missing(has)));
            }
        }
        Ok(Checked { enforced: self.enforced, missing, index: self.index })
    }

    /// On whom a lease may rest over a state without the entry: the voters of every version that began before it.
    fn electorates(&self, expected: &Expected<'_>) -> Vec<Electorate> {
        let followed = expected.followed;
        let before = |end: u64| followed.links().iter().take_while(|link| link.place.head.index < end).count();
        let versions = (0..).zip(1..).take(before(self.index).saturating_add(1));
        let stayed = followed.at(before(self.index.saturating_add(1)) as u64);
        let electorate = |(version, next): (u64, u64)| {
            let (then, stayed) = (followed.at(version)?, stayed?);
            let members: BTreeMap<_, _> = then.members.iter().map(|(node, member)| (*node, member.key)).collect();
            let lessees = members.keys().copied().filter(|node| stayed.members.contains_key(node)).collect();
            let voters = then.voters().into_keys().collect();
            let mut electorate = Electorate { voters, lessees, passed: BTreeSet::new() };
            if let Some(link) = followed.links().get(usize::try_from(version).ok()?) {
                let told = self.endorsements.iter().filter(|endorsement| endorsement.version == next);
                let told = told.map(|endorsement| (endorsement.node, endorsement.signature)).collect();
                electorate.passed = endorsers(&expected.cluster, &members, &link.place.head, &told);
                electorate.passed.extend(link.heads.keys());
            }
            Some(electorate)
        };
        versions.filter_map(electorate).collect()
    }

    /// Checks that the entry stands in the history of everybody who signed: heads of another history confirm nothing.
    fn check_place(&self, claim: &Claim<'_>) -> Result<(), String> {
        let place = self.place.as_ref().ok_or("without a place in the history")?;
        let leaf = claim.leaf(place).hash();
        let holds = |signed: &SignedPosition| {
            let (applied, head) = (signed.position.applied, &signed.position.head);
            let path = place.paths.get(&applied).zip(applied.checked_add(1));
            path.is_some_and(|(path, size)| history::includes(&leaf, self.index, size, path, head))
        };
        if self.positions.iter().all(holds) {
            return Ok(());
        }
        Err("whose voters do not have this change, with this outcome, in their history".to_owned())
    }
}
