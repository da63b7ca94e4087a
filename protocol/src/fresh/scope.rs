//! Whose shares a withdrawal concerns, and how stale each of their holders may be: for whom a [`super::Barrier`] waits.
//!
//! `known` says the highest index that a node is known to have applied, by its own signature; 0 where nothing is known.

use std::collections::{BTreeMap, BTreeSet};

use crate::id::{KeyId, KeyVersion, NodeId};
use crate::lifecycle::KeyState;
use crate::limits;
use crate::outcome::Outcome;
use crate::schema::replicated as schema;
use crate::state::members::departed;
use crate::state::records::{self, KeyRecord, VersionRecord};
use crate::table::{StoreFault, Tables, read};
use crate::wire::decode;

/// Holders, each with the longest staleness that it may go by, milliseconds.
pub type Holders = BTreeMap<NodeId, u64>;

/// Of what an entry with this outcome took away, whatever it is: a key, or else a client that may have signed with any.
///
/// # Errors
/// [`StoreFault`] when the state cannot be read.
pub fn holders_of_change(
    tables: &impl Tables,
    outcome: &Outcome,
    members: impl IntoIterator<Item = NodeId>,
    known: impl Fn(NodeId) -> u64,
) -> Result<Holders, StoreFault> {
    match outcome {
        Outcome::KeyChanged { key, versions } => {
            let changed: BTreeSet<KeyVersion> = versions.iter().map(|(version, _)| *version).collect();
            holders_of_versions(tables, key, |record| changed.contains(&record.number), known)
        }
        _ => holders_of_any_key(tables, members, known),
    }
}

/// Of the versions that a rotation to this version replaced.
///
/// # Errors
/// [`StoreFault`] when the state cannot be read.
pub fn holders_of_rotation(
    tables: &impl Tables,
    key: &KeyId,
    to: KeyVersion,
    known: impl Fn(NodeId) -> u64,
) -> Result<Holders, StoreFault> {
    let replaced = |record: &VersionRecord| record.number < to && record.state == KeyState::Rotated;
    holders_of_versions(tables, key, replaced, known)
}

/// Who has shares of versions of a key, or had: not everybody has heard of the last change of shares.
fn holders_of_versions(
    tables: &impl Tables,
    id: &KeyId,
    meant: impl Fn(&VersionRecord) -> bool,
    known: impl Fn(NodeId) -> u64,
) -> Result<Holders, StoreFault> {
    let Some(key) = read::<KeyRecord>(tables, &schema::key_record(id))? else { return Ok(Holders::new()) };
    let versions = records::versions(tables, id)?;
    let nodes = versions.iter().filter(|version| meant(version)).flat_map(|version| {
        let shares = version.shares.iter().flat_map(|set| &set.holders);
        version.roster.iter().chain(shares).copied()
    });
    Ok(nodes.map(|node| (node, key.staleness_of(known(node)).into())).collect())
}

/// All members, and whoever left with shares, each with the longest staleness of all keys.
fn holders_of_any_key(
    tables: &impl Tables,
    members: impl IntoIterator<Item = NodeId>,
    known: impl Fn(NodeId) -> u64,
) -> Result<Holders, StoreFault> {
    let left = departed(tables)?.into_iter().filter(|(_, gone)| gone.leaked > 0).map(|(node, _)| node);
    let nodes = members.into_iter().chain(left);
    let mut holders: Holders = nodes.map(|node| (node, limits::STALENESS_MS.into())).collect();
    let mut after = Vec::new();
    loop {
        let page = tables.scan(schema::KEYS, &after, 256)?;
        let Some((last, _)) = page.last() else { return Ok(holders) };
        after.clone_from(last);
        for (_, value) in page {
            let key: KeyRecord = decode(&value)?;
            for (node, longest) in &mut holders {
                *longest = (*longest).max(key.staleness_of(known(*node)).into());
            }
        }
    }
}
