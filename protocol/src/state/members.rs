//! The membership in the replicated state: changes, what Raft may have as voters, and whose shares are needed.

#[cfg(test)]
#[expect(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic, reason = "tests")]
pub(crate) mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::error::{Detail, ErrorCode, Refusal};
use crate::genesis::{Genesis, Member, MemberRole, StartCertificate};
use crate::id::{KeyId, KeyVersion, Name, NodeId, StoreId};
use crate::identity::PublicKey;
use crate::limits;
use crate::membership::Membership;
use crate::outcome::Outcome;
use crate::request::{Action, VerifiedRequest};
use crate::schema::replicated as schema;
use crate::table::{Overlay, StoreFault, Tables, read};
use crate::wire::{Reader, Wire, decode, encode};

use super::records::{self, ClusterRecord, KeyRecord, OperationRecord, VersionRecord};
use super::{Stop, links, operation_id, refuse};

/// The voters that Raft may have: those that it was seen to have, then each set that came after.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VoterSets {
    /// The sets, the last one as administrators want it.
    pub sets: Vec<BTreeMap<NodeId, Member>>,
}
crate::wire_struct!(VoterSets { sets });

impl VoterSets {
    /// Whether Raft has, as far as was seen, the voters that it is to have.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.sets.len() < 2
    }
    /// The numbers in each set.
    #[must_use]
    pub fn numbers(&self) -> Vec<BTreeSet<NodeId>> {
        self.sets.iter().map(|set| set.keys().copied().collect()).collect()
    }
    /// Whether a membership of Raft may stand in the log: one of the sets, or two of them as a joint configuration.
    #[must_use]
    pub fn allows(&self, configuration: &[BTreeSet<NodeId>]) -> bool {
        let sets = self.numbers();
        match configuration {
            [one] => sets.contains(one),
            [one, other] => one != other && sets.contains(one) && sets.contains(other),
            _ => false,
        }
    }
}

/// A node that left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DepartedRecord {
    /// Its name.
    pub name: Name,
    /// Its identity.
    pub key: PublicKey,
    /// The version of the membership in which it was a member no more.
    pub version: u64,
    /// State time of its going.
    pub time_ms: u64,
    /// Key versions that needed its shares then: nobody will prove that they are erased.
    pub leaked: u64,
}
crate::wire_struct!(DepartedRecord { name, key, version, time_ms, leaked });

/// The rows of the membership before the first entry, besides the members themselves.
#[must_use]
pub fn initial(genesis: &Genesis) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let first = Membership::genesis(genesis);
    let sets = VoterSets { sets: vec![voting(&first)] };
    let mut rows =
        BTreeMap::from([(schema::voters(0), encode(&first.voters())), (schema::voter_sets(), encode(&sets))]);
    rows.extend(first.administrators.iter().map(|(name, key)| (schema::administrator(name), encode(key))));
    rows
}

fn voting(membership: &Membership) -> BTreeMap<NodeId, Member> {
    let voters = membership.members.iter().filter(|(_, member)| member.role == MemberRole::Voter);
    voters.map(|(id, member)| (*id, member.clone())).collect()
}

/// The membership as the tables have it.
///
/// # Errors
/// [`StoreFault`] when it cannot be read.
pub fn membership(tables: &impl Tables) -> Result<Membership, StoreFault> {
    let mut administrators = BTreeMap::new();
    for (row, key) in tables.scan(schema::ADMINISTRATORS, b"", limits::ADMINISTRATORS)? {
        let name = row.get(1..).and_then(|name| std::str::from_utf8(name).ok()).map(Name::new);
        let name = name.ok_or_else(|| StoreFault("the row of an administrator is damaged".to_owned()))??;
        administrators.insert(name, decode(&key)?);
    }
    Ok(Membership {
        version: records::cluster(tables)?.membership,
        members: records::members(tables)?,
        administrators,
        departed: departed(tables)?.into_iter().map(|(id, record)| (id, record.key)).collect(),
    })
}

/// Everybody who left.
///
/// # Errors
/// [`StoreFault`] when they cannot be read.
pub fn departed(tables: &impl Tables) -> Result<BTreeMap<NodeId, DepartedRecord>, StoreFault> {
    let mut all = BTreeMap::new();
    for (row, value) in tables.scan(schema::DEPARTED, b"", usize::from(u16::MAX))? {
        all.insert(node_in(&row)?, decode(&value)?);
    }
    Ok(all)
}

/// The number at the beginning of a row's key, after its prefix.
fn node_in(row: &[u8]) -> Result<NodeId, StoreFault> {
    let number = row.get(1..3).and_then(|number| number.try_into().ok()).map(u16::from_be_bytes);
    number.and_then(NodeId::new).ok_or_else(|| StoreFault("the row of a node is damaged".to_owned()))
}

/// The voters at a version of the membership, with their identities; none for a version that is not there yet.
///
/// # Errors
/// [`StoreFault`] when they cannot be read.
pub fn voters_at(tables: &impl Tables, version: u64) -> Result<Option<BTreeMap<NodeId, PublicKey>>, StoreFault> {
    read(tables, &schema::voters(version))
}

/// The voters that Raft may have.
///
/// # Errors
/// [`StoreFault`] when they cannot be read or are missing: they are written before the first entry.
pub fn voter_sets(tables: &impl Tables) -> Result<VoterSets, StoreFault> {
    read(tables, &schema::voter_sets())?.ok_or_else(|| StoreFault("the sets of voters are missing".to_owned()))
}

/// The store under which a node takes part, where one is known: learners of genesis have none.
///
/// # Errors
/// [`StoreFault`] when it cannot be read.
pub fn store_of(tables: &impl Tables, node: NodeId) -> Result<Option<StoreId>, StoreFault> {
    read(tables, &schema::store(node))
}

/// How many key versions need a share of a node.
///
/// # Errors
/// [`StoreFault`] when it cannot be read.
pub fn needed_shares(tables: &impl Tables, node: NodeId) -> Result<u64, StoreFault> {
    Ok(read(tables, &schema::holding_count(node))?.unwrap_or(0))
}

/// The store ids of the voters of genesis.
pub(crate) fn started<T: Tables>(tables: &mut Overlay<'_, T>, certificate: &StartCertificate) {
    for answer in &certificate.answers {
        tables.put(schema::store(answer.node), &answer.store);
    }
}

/// Decides a request that changes the membership.
pub(crate) fn change<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    request: &VerifiedRequest,
) -> Result<Outcome, Stop> {
    let action = &request.body().action;
    let before = membership(tables)?;
    let Some(after) = before.after(action)? else {
        return refuse(ErrorCode::Internal, "not a request that changes the membership");
    };
    if !links::is_proved(tables, before.version)? {
        let message =
            format!("the change that made membership {} is not signed by a majority of the voters yet", before.version);
        return refuse(ErrorCode::OperationRunning, message);
    }
    move_voters(tables, &before, &after, action)?;
    match action {
        Action::RemoveMember { id, lost } => depart(tables, cluster, &before, *id, *lost)?,
        Action::AddMember { id, member, store } => enter(tables, *id, member, *store),
        Action::ReplaceMember { old, id, member, store, lost } => {
            depart(tables, cluster, &before, *old, *lost)?;
            enter(tables, *id, member, *store);
        }
        Action::MoveMember { id, .. } => {
            if let Some(member) = after.members.get(id) {
                tables.put(schema::member(*id), member);
            }
        }
        Action::AddClient { name, key, .. } => tables.put(schema::administrator(name), key),
        Action::RemoveClient { name } => tables.remove(schema::administrator(name)),
        _ => return refuse(ErrorCode::Internal, "not a request that changes the membership"),
    }
    tables.put(schema::voters(after.version), &after.voters());
    Ok(after.outcome(request))
}

/// Another set of voters may come when Raft is known to have the last one. A voter that Raft does not have yet may be taken back:
/// one that never comes up would else block every change.
fn move_voters<T: Tables>(
    tables: &mut Overlay<'_, T>,
    before: &Membership,
    after: &Membership,
    action: &Action,
) -> Result<(), Stop> {
    let (old, new) = (voting(before), voting(after));
    let mut moving = voter_sets(tables)?;
    if old.keys().eq(new.keys()) {
        // Addresses follow at once: a voter that cannot be reached may have been given a wrong one.
        if let Some(last) = moving.sets.last_mut().filter(|_| old != new) {
            *last = new;
            tables.put(schema::voter_sets(), &moving);
        }
        return Ok(());
    }
    let has = moving.sets.first();
    let taken_back = matches!(action, Action::RemoveMember { id, .. } if has.is_some_and(|has| !has.contains_key(id)));
    if !moving.is_settled() && !taken_back {
        let comes: Vec<String> = old
            .iter()
            .filter(|(id, _)| has.is_some_and(|has| !has.contains_key(id)))
            .map(|(_, member)| member.name.to_string())
            .collect();
        let waits = if comes.is_empty() { "a majority of the voters".to_owned() } else { comes.join(", ") };
        let message = format!("the last change of the voters is not through: it waits for {waits}");
        return refuse(ErrorCode::OperationRunning, message);
    }
    moving.sets.push(new);
    tables.put(schema::voter_sets(), &moving);
    Ok(())
}

fn enter<T: Tables>(tables: &mut Overlay<'_, T>, id: NodeId, member: &Member, store: StoreId) {
    tables.put(schema::member(id), member);
    tables.put(schema::store(id), &store);
}

/// A member leaves, unless keys need its shares; with `lost` also then.
fn depart<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    before: &Membership,
    id: NodeId,
    lost: bool,
) -> Result<(), Stop> {
    let Some(member) = before.members.get(&id) else {
        return refuse(ErrorCode::NotFound, format!("node {id} is no member"));
    };
    let needed = needed_shares(tables, id)?;
    if needed > 0 && !lost {
        return Err(still_needed(tables, id, member, needed)?.into());
    }
    let record = DepartedRecord {
        name: member.name.clone(),
        key: member.key,
        version: before.version.saturating_add(1),
        time_ms: cluster.time_ms,
        leaked: needed,
    };
    tables.put(schema::departed(id), &record);
    tables.remove(schema::member(id));
    tables.remove(schema::store(id));
    Ok(())
}

/// Keys that are named when a node is still needed.
const KEYS_NAMED: usize = 5;

fn still_needed(tables: &impl Tables, id: NodeId, member: &Member, needed: u64) -> Result<Refusal, StoreFault> {
    let mut names = Vec::new();
    for (row, _) in tables.scan(&schema::holdings_of(id), b"", KEYS_NAMED)? {
        let mut reader = Reader::new(row.get(3..).unwrap_or_default());
        let (key, version): (KeyId, KeyVersion) = Wire::take(&mut reader)?;
        if let Some(key) = read::<KeyRecord>(tables, &schema::key_record(&key))? {
            names.push(format!("{} version {version}", key.name));
        }
    }
    let message = format!("{needed} key versions need the shares of `{}`, such as {}", member.name, names.join(", "));
    Ok(Refusal::new(ErrorCode::StillNeeded, message)
        .with("needed", Detail::Number(needed))
        .with("keys", Detail::List(names)))
}

/// A membership of Raft was applied: that of one set, in numbers. When it is the one that administrators want, Raft has moved.
pub(crate) fn moved<T: Tables>(
    tables: &mut Overlay<'_, T>,
    voters: Option<&BTreeSet<NodeId>>,
) -> Result<Outcome, StoreFault> {
    let mut moving = voter_sets(tables)?;
    let wanted = moving.sets.pop();
    match (wanted, voters) {
        (Some(wanted), Some(voters)) if !moving.sets.is_empty() && wanted.keys().eq(voters.iter()) => {
            tables.put(schema::voter_sets(), &VoterSets { sets: vec![wanted] });
            Ok(Outcome::VotersMoved { version: records::cluster(tables)?.membership })
        }
        _ => Ok(Outcome::Noted),
    }
}

/// Nodes whose shares of a version are needed: those of sets that are still the key, and those that an operation is about to make.
fn needed_of(
    tables: &impl Tables,
    version: &VersionRecord,
    running: Option<&OperationRecord>,
) -> Result<BTreeSet<NodeId>, StoreFault> {
    let left = records::left(tables, version)?;
    let open = version.shares.iter().filter(|set| !set.is_closed(|node| left.contains(&node)));
    let mut nodes: BTreeSet<NodeId> = open.flat_map(super::records::ShareSet::owing).collect();
    nodes.extend(running.iter().flat_map(|running| &running.ceremony.holders));
    Ok(nodes)
}

/// Makes the index of holders follow the versions that this entry wrote.
pub(crate) fn index_holders<T: Tables>(tables: &mut Overlay<'_, T>) -> Result<(), StoreFault> {
    for row in tables.written(schema::VERSIONS) {
        let mut reader = Reader::new(row.get(1..).unwrap_or_default());
        let (key, number): (KeyId, KeyVersion) = Wire::take(&mut reader)?;
        let Some(version) = read::<VersionRecord>(tables, &row)? else { continue };
        let running = read::<OperationRecord>(tables, &schema::operation(&operation_id(&key, number)))?;
        let place = schema::holders(&key, number);
        let before = read::<BTreeSet<NodeId>>(tables, &place)?.unwrap_or_default();
        let after = needed_of(tables, &version, running.as_ref())?;
        for node in before.difference(&after) {
            tables.remove(schema::holding(*node, &key, number));
            count(tables, *node, |count| count.saturating_sub(1))?;
        }
        for node in after.difference(&before) {
            tables.put(schema::holding(*node, &key, number), &true);
            count(tables, *node, |count| count.saturating_add(1))?;
        }
        if before != after {
            tables.put(place, &after);
        }
    }
    Ok(())
}

fn count<T: Tables>(
    tables: &mut Overlay<'_, T>,
    node: NodeId,
    change: impl FnOnce(u64) -> u64,
) -> Result<(), StoreFault> {
    match change(needed_shares(tables, node)?) {
        0 => tables.remove(schema::holding_count(node)),
        count => tables.put(schema::holding_count(node), &count),
    }
    Ok(())
}
