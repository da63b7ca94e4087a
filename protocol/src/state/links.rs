//! The links of the membership in the replicated state: what an administrator signed, its place, and the heads that voters from
//! before it signed. A majority of them proves the change. As many as a barrier needs end every lease under the voters from before,
//! and so do all members that stayed.

use std::collections::{BTreeMap, BTreeSet};

use crate::certificate::Activation;
use crate::error::ErrorCode;
use crate::fresh::{Electorate, Enforced, Quorums};
use crate::genesis::Member;
use crate::history::Head;
use crate::id::NodeId;
use crate::identity::{Domain, PublicKey, Signature};
use crate::membership::{Endorsement, Link, is_majority};
use crate::outcome::Outcome;
use crate::request::SignedRequest;
use crate::schema::replicated as schema;
use crate::table::{Overlay, StoreFault, Tables, read};
use crate::wire::encode;

use super::members::{departed, voters_at};
use super::records::{self, ClusterRecord};
use super::{Stop, refuse};

/// A change of the membership, as far as its proof is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LinkRecord {
    /// What an administrator signed.
    pub request: SignedRequest,
    /// Its place in the history; written right after its leaf.
    pub place: Option<Activation>,
    /// Signed heads of voters from before it, no more than a barrier needs, and of members beside them.
    pub heads: BTreeMap<NodeId, Signature>,
}
crate::wire_struct!(LinkRecord { request, place, heads });

/// The version of the membership right after an index.
///
/// # Errors
/// [`StoreFault`] when it cannot be read.
pub fn version_at(tables: &impl Tables, index: u64) -> Result<u64, StoreFault> {
    let mut version = records::cluster(tables)?.membership;
    while version > 0 {
        let link = read::<LinkRecord>(tables, &schema::link(version))?;
        if link.and_then(|link| link.place).is_none_or(|place| place.head.index <= index) {
            break;
        }
        version -= 1;
    }
    Ok(version)
}

/// The voters from before the change that made a version; none for genesis and for a version that is not there yet.
fn voters_before(tables: &impl Tables, version: u64) -> Result<Option<BTreeMap<NodeId, PublicKey>>, StoreFault> {
    Ok(version.checked_sub(1).map(|before| voters_at(tables, before)).transpose()?.flatten())
}

/// How many of these voters signed the head of a link.
fn signed(voters: &BTreeMap<NodeId, PublicKey>, heads: &BTreeMap<NodeId, Signature>) -> usize {
    heads.keys().filter(|node| voters.contains_key(node)).count()
}

/// Whether so many voters signed the head of a link that nobody needs to take our word for it.
fn is_complete(tables: &impl Tables, version: u64, link: &LinkRecord) -> Result<bool, StoreFault> {
    let before = voters_before(tables, version)?;
    Ok(link.place.is_some() && before.is_some_and(|voters| is_majority(signed(&voters, &link.heads), voters.len())))
}

/// Whether the change that made a version is proved to everybody; genesis needs no proof.
///
/// # Errors
/// [`StoreFault`] when it cannot be read.
pub fn is_proved(tables: &impl Tables, version: u64) -> Result<bool, StoreFault> {
    match read::<LinkRecord>(tables, &schema::link(version))? {
        Some(link) => is_complete(tables, version, &link),
        None => Ok(version == 0),
    }
}

/// Complete links after a version, at most `limit`.
///
/// # Errors
/// [`StoreFault`] when they cannot be read.
pub fn links_after(tables: &impl Tables, version: u64, limit: usize) -> Result<Vec<Link>, StoreFault> {
    let mut links = Vec::new();
    let mut next = version;
    while links.len() < limit {
        next = next.saturating_add(1);
        let Some(record) = read::<LinkRecord>(tables, &schema::link(next))? else { break };
        if !is_complete(tables, next, &record)? {
            break;
        }
        let LinkRecord { request, place: Some(place), mut heads } = record else { break };
        // Of the others nobody needs to know who walks.
        let voters = voters_before(tables, next)?.unwrap_or_default();
        heads.retain(|node, _| voters.contains_key(node));
        links.push(Link { request, place, heads });
    }
    Ok(links)
}

/// Versions whose link has fewer heads than a barrier needs: somebody who does not know it may hold a lease under the voters
/// from before.
fn open_links(tables: &impl Tables) -> Result<BTreeSet<u64>, StoreFault> {
    Ok(read(tables, &schema::open_links())?.unwrap_or_default())
}

/// On whom a lease may rest over a state that lacks the entry with this index: the voters right before it, which are the last in
/// the list, and those from before each earlier link that is open, unless all members that stayed have signed it.
///
/// # Errors
/// [`StoreFault`] when they cannot be read.
pub fn electorates(tables: &impl Tables, index: u64) -> Result<Vec<Electorate>, StoreFault> {
    let last = version_at(tables, index.saturating_sub(1))?;
    let former = open_links(tables)?.into_iter().filter_map(|version| version.checked_sub(1));
    let lessees = lessees(tables, index)?;
    let mut list = Vec::new();
    for version in former.filter(|version| *version < last) {
        let electorate = electorate(tables, version, &lessees)?;
        if electorate.level(|_| false) < Enforced::Byzantine {
            list.push(electorate);
        }
    }
    list.push(electorate(tables, last, &lessees)?);
    Ok(list)
}

/// Whoever is to be waited for where all have to know an entry with this index: the members right after it, also those of them
/// that left later, and whoever came since. No fewer than a client finds that has walked as far as the entry, or further.
fn lessees(tables: &impl Tables, index: u64) -> Result<BTreeSet<NodeId>, StoreFault> {
    let version = version_at(tables, index)?;
    let left = departed(tables)?.into_iter().filter(|(_, gone)| gone.version > version).map(|(node, _)| node);
    Ok(records::members(tables)?.into_keys().chain(left).collect())
}

fn electorate(tables: &impl Tables, version: u64, lessees: &BTreeSet<NodeId>) -> Result<Electorate, StoreFault> {
    let voters = voters_at(tables, version)?.unwrap_or_default().into_keys().collect();
    let ended = read::<LinkRecord>(tables, &schema::link(version.saturating_add(1)))?;
    let passed = ended.into_iter().flat_map(|link| link.heads.into_keys()).collect();
    Ok(Electorate { voters, lessees: lessees.clone(), passed })
}

/// Endorsements that show what the positions of these nodes are too few for: that nobody who lacks the entry with this index
/// holds a lease any more under voters from before a change.
///
/// # Errors
/// [`StoreFault`] when they cannot be read.
pub fn endorsements_beside(
    tables: &impl Tables,
    index: u64,
    confirmed: &BTreeSet<NodeId>,
) -> Result<Vec<Endorsement>, StoreFault> {
    let (mut list, lessees) = (Vec::new(), lessees(tables, index)?);
    for version in 0..=version_at(tables, index.saturating_sub(1))? {
        let electorate = electorate(tables, version, &lessees)?;
        let alone = Electorate { passed: BTreeSet::new(), ..electorate };
        if alone.level(|node| confirmed.contains(&node)) == Enforced::Byzantine {
            continue;
        }
        let version = version.saturating_add(1);
        let link = read::<LinkRecord>(tables, &schema::link(version))?;
        let heads = link.into_iter().flat_map(|link| link.heads);
        list.extend(heads.map(|(node, signature)| Endorsement { version, node, signature }));
    }
    Ok(list)
}

/// Remembers the request of a change: the first part of its link, under its leaf.
pub(crate) fn begin_link<T: Tables>(
    tables: &mut Overlay<'_, T>,
    version: u64,
    request: &SignedRequest,
) -> Result<(), StoreFault> {
    let link = LinkRecord { request: request.clone(), place: None, heads: BTreeMap::new() };
    tables.put(schema::link(version), &link);
    let mut open = open_links(tables)?;
    open.insert(version);
    tables.put(schema::open_links(), &open);
    Ok(())
}

/// Writes the place of a change, right after its leaf. A request that came again changed nothing and has its place.
pub(crate) fn place_link<T: Tables>(
    tables: &mut Overlay<'_, T>,
    version: u64,
    place: Activation,
) -> Result<(), StoreFault> {
    let key = schema::link(version);
    if let Some(link) = read::<LinkRecord>(tables, &key)?.filter(|link| link.place.is_none()) {
        tables.put(key, &LinkRecord { place: Some(place), ..link });
    }
    Ok(())
}

/// The key of a node whose signature over a link with these voters from before counts: one of them, or a member.
fn endorser(
    tables: &impl Tables,
    voters: &BTreeMap<NodeId, PublicKey>,
    node: NodeId,
) -> Result<Option<PublicKey>, StoreFault> {
    match voters.get(&node) {
        Some(key) => Ok(Some(*key)),
        None => Ok(read::<Member>(tables, &schema::member(node))?.map(|member| member.key)),
    }
}

/// Takes a signature over the head of a link.
pub(crate) fn endorse<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    endorsement: &Endorsement,
) -> Result<Outcome, Stop> {
    let Endorsement { version, node, signature } = endorsement;
    let link = read::<LinkRecord>(tables, &schema::link(*version))?;
    let (Some(LinkRecord { request, place: Some(place), mut heads }), Some(voters)) =
        (link, voters_before(tables, *version)?)
    else {
        return refuse(ErrorCode::NotFound, "an endorsement of a change that did not happen");
    };
    // Nothing is added to a link that ends every lease from before it.
    let mut open = open_links(tables)?;
    if !open.contains(version) {
        return Ok(Outcome::Noted);
    }
    let payload = encode(&place.head);
    let key = endorser(tables, &voters, *node)?;
    if !key.is_some_and(|key| key.verifies(Domain::Head, &cluster.cluster, &payload, signature)) {
        return refuse(ErrorCode::BadSignature, format!("an endorsement of node {node} that does not verify"));
    }
    heads.insert(*node, *signature);
    if signed(&voters, &heads) >= Quorums::of(voters.len()).barrier {
        open.remove(version);
        tables.put(schema::open_links(), &open);
    }
    tables.put(schema::link(*version), &LinkRecord { request, place: Some(place), heads });
    Ok(Outcome::Noted)
}

/// The heads that a node has to sign, as a voter from before a change or as a member, with the version that the change made,
/// ascending.
///
/// # Errors
/// [`StoreFault`] when the store cannot be read.
pub fn owed_endorsements(tables: &impl Tables, node: NodeId) -> Result<Vec<(u64, Head)>, StoreFault> {
    let mut owed = Vec::new();
    for version in open_links(tables)? {
        let Some(link) = read::<LinkRecord>(tables, &schema::link(version))? else { continue };
        let voters = voters_before(tables, version)?.unwrap_or_default();
        if !link.heads.contains_key(&node) && endorser(tables, &voters, node)?.is_some() {
            owed.extend(link.place.map(|place| (version, place.head)));
        }
    }
    Ok(owed)
}
