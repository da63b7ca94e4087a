//! How this node is, read at one moment: [`super::doctor`] judges it, [`super::series`] shows it to Prometheus.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use openraft::type_config::TypeConfigExt as _;
use openraft::type_config::alias::InstantOf;
use symbolon_protocol::error::Refusal;
use symbolon_protocol::fresh::LeaseView;
use symbolon_protocol::id::{KeyId, KeyVersion, Name, NodeId};
use symbolon_protocol::lifecycle::KeyState;
use symbolon_protocol::limits;
use symbolon_protocol::peer::PeerStatus;
use symbolon_protocol::schema::replicated as schema;
use symbolon_protocol::state::records::{self, KeyRecord, VersionRecord};
use symbolon_protocol::state::running_operations;
use symbolon_protocol::table::{StoreFault, Tables as _, read};
use symbolon_protocol::wire::decode;

use super::boots::PeerBoots;
use super::types::{NodeTypes, Surroundings, Transport};
use super::{Core, lock};
use crate::store::Store;

/// Keys that are looked at before others may work again.
const KEYS_AT_ONCE: usize = 128;
/// Share operations that are counted.
const OPERATIONS: usize = 1_000;

/// What a peer said of itself last.
#[derive(Clone)]
pub(crate) struct Heard<C: NodeTypes> {
    pub(crate) status: PeerStatus,
    pub(crate) at: InstantOf<C>,
    /// By how much its clock is ahead of this node's, see [`clock_difference`].
    pub(crate) ahead_ms: i64,
}

/// By how much a peer's clock is certainly ahead of this node's, milliseconds; below zero when it is behind. The peer read it
/// somewhere between the question and the answer, so that a slow answer alone makes no difference.
pub(crate) fn clock_difference(theirs_ms: u64, asked_ms: u64, answered_ms: u64) -> i64 {
    let signed = |ms: u64| i64::try_from(ms).unwrap_or(i64::MAX);
    let late = signed(theirs_ms.saturating_sub(answered_ms));
    let early = signed(asked_ms.saturating_sub(theirs_ms));
    if late > 0 { late } else { -early }
}

/// A key that signs, or would if it were not suspended.
#[derive(Debug)]
pub(crate) struct KeptKey {
    pub(crate) id: KeyId,
    pub(crate) version: KeyVersion,
    pub(crate) name: Name,
    pub(crate) threshold: usize,
    /// Who has a usable share, as far as is known.
    pub(crate) holders: Vec<NodeId>,
    /// Who is to have one, and has not.
    pub(crate) stale: Vec<NodeId>,
}

/// All of these keys by name, or so many as are looked at.
#[derive(Debug, Default)]
pub(crate) struct KeptKeys {
    /// Of the state in which they were looked up; none while they were not.
    generation: Option<u64>,
    pub(crate) keys: Vec<KeptKey>,
    /// Whether none is missing.
    pub(crate) all: bool,
}

/// Another member as this node sees it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    pub(crate) name: String,
    pub(crate) reachable: bool,
    pub(crate) quarantined: bool,
    /// What it said last, and by how much its clock is ahead.
    pub(crate) said: Option<(PeerStatus, i64)>,
}

/// How many more holders of a key may be lost before it does not sign; below zero when it does not.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Margin {
    pub(crate) margin: i64,
    pub(crate) key: Name,
}

/// How this node is.
#[derive(Debug)]
pub(crate) struct Vitals {
    pub(crate) now_ms: u64,
    /// Whether the store is the certified one.
    pub(crate) admitted: bool,
    /// Whether the cluster has started.
    pub(crate) started: bool,
    pub(crate) role: String,
    pub(crate) term: u64,
    /// Name of the leader, as long as it can be one.
    pub(crate) leader: Option<String>,
    pub(crate) applied: u64,
    /// Entries that the leader applied and this node did not; none while no leader is known.
    pub(crate) behind: Option<u64>,
    pub(crate) state_version: u32,
    pub(crate) state_ms: u64,
    pub(crate) membership: u64,
    pub(crate) voters: usize,
    /// Voters that can be reached, this node included if it is one.
    pub(crate) voters_reachable: usize,
    pub(crate) is_voter: bool,
    pub(crate) peers: Vec<Peer>,
    /// The smallest first.
    pub(crate) margins: Vec<Margin>,
    /// Whether all keys were looked at.
    pub(crate) all_keys: bool,
    pub(crate) usage_bytes: u64,
    pub(crate) usage_max_bytes: u64,
    pub(crate) operations: usize,
    pub(crate) lease: Freshness,
}

/// Whether the state of this node is proved to be current.
#[derive(Debug)]
pub(crate) struct Freshness {
    /// Age of the proof, milliseconds; none where there is none.
    pub(crate) age_ms: Option<u64>,
    /// How old it may be for the most demanding key of which this node holds a share, milliseconds; none where it holds none.
    pub(crate) staleness_ms: Option<u64>,
    pub(crate) fresh: bool,
    /// Voters that signed two histories.
    pub(crate) liars: Vec<String>,
}

impl<C: NodeTypes, T: Transport, S: Store, E: Surroundings> Core<C, T, S, E> {
    /// Reads everything.
    pub(crate) async fn vitals(&self) -> Result<Vitals, Refusal> {
        let kept = self.kept_keys().await?;
        let cluster = records::cluster(&self.tables()).map_err(|e| self.fail(&e))?;
        let operations = running_operations(&self.tables(), OPERATIONS).map_err(|e| self.fail(&e))?;
        let voters = self.voters();
        let (usage_bytes, usage_max_bytes) = self.0.usage.fill();
        Ok(Vitals {
            now_ms: self.now_ms(),
            admitted: self.admitted(),
            started: cluster.started,
            role: self.own_role(),
            term: self.metrics(|m| m.current_term),
            leader: self.believable_leader().map(|leader| self.name_of(leader)),
            applied: self.applied_index().unwrap_or(0),
            behind: self.behind_leader(),
            state_version: cluster.state_version,
            state_ms: cluster.time_ms,
            membership: cluster.membership,
            voters: voters.len(),
            voters_reachable: voters.iter().filter(|node| self.is_reachable(**node)).count(),
            is_voter: self.is_voter(self.0.me),
            peers: self.other_members()?,
            margins: self.margins(&kept.keys),
            all_keys: kept.all,
            usage_bytes,
            usage_max_bytes,
            operations: operations.len(),
            lease: self.freshness(),
        })
    }

    fn freshness(&self) -> Freshness {
        let LeaseView { age_ms, fresh, staleness_ms, equivocations, .. } = self.lease_view();
        let liars = equivocations.iter().map(|proof| self.name_of(proof.node())).collect();
        Freshness { age_ms, staleness_ms, fresh, liars }
    }

    fn behind_leader(&self) -> Option<u64> {
        let leader = self.believable_leader()?;
        if leader == self.0.me {
            return Some(0);
        }
        let applied = lock(&self.0.heard).get(&leader)?.status.applied_index;
        Some(applied.saturating_sub(self.applied_index().unwrap_or(0)))
    }

    fn other_members(&self) -> Result<Vec<Peer>, Refusal> {
        let others = self.others();
        let quarantined = PeerBoots::new(self.0.store.clone()).quarantined(&others).map_err(|e| self.fail(&e))?;
        let said = |id: &NodeId| lock(&self.0.heard).get(id).map(|heard| (heard.status.clone(), heard.ahead_ms));
        let peer = |id: NodeId| Peer {
            id,
            name: self.name_of(id),
            reachable: self.is_reachable(id),
            quarantined: quarantined.contains(&id),
            said: said(&id),
        };
        Ok(others.into_iter().map(peer).collect())
    }

    fn margins(&self, keys: &[KeptKey]) -> Vec<Margin> {
        let holders: BTreeSet<NodeId> = keys.iter().flat_map(|key| &key.holders).copied().collect();
        let reachable: BTreeSet<NodeId> = holders.into_iter().filter(|node| self.is_reachable(*node)).collect();
        let count = |count: usize| i64::try_from(count).unwrap_or(i64::MAX);
        let margin = |key: &KeptKey| {
            let usable = key.holders.iter().filter(|node| reachable.contains(node)).count();
            Margin { margin: count(usable) - count(key.threshold), key: key.name.clone() }
        };
        let mut margins: Vec<Margin> = keys.iter().map(margin).collect();
        margins.sort_unstable();
        margins
    }

    /// The keys whose shares matter; looked up once per generation of the state.
    pub(crate) async fn kept_keys(&self) -> Result<Arc<KeptKeys>, Refusal> {
        let generation = self.0.generation.load(Ordering::Acquire);
        let known = Arc::clone(&lock(&self.0.kept));
        if known.generation == Some(generation) {
            return Ok(known);
        }
        let mut kept = KeptKeys { generation: Some(generation), keys: Vec::new(), all: false };
        let mut after = Vec::new();
        let mut looked_at = 0;
        while looked_at < limits::MARGIN_KEYS {
            let page = self.tables().scan(schema::KEY_NAMES, &after, KEYS_AT_ONCE).map_err(|e| self.fail(&e))?;
            let Some((last, _)) = page.last() else {
                kept.all = true;
                break;
            };
            after.clone_from(last);
            looked_at += page.len();
            for (_, id) in page {
                kept.keys.extend(self.kept_key(&id).map_err(|e| self.fail(&e))?);
            }
            C::yield_now().await;
        }
        let kept = Arc::new(kept);
        *lock(&self.0.kept) = Arc::clone(&kept);
        Ok(kept)
    }

    fn kept_key(&self, id: &[u8]) -> Result<Option<KeptKey>, StoreFault> {
        let id: KeyId = decode(id)?;
        let Some(key) = self.key_record(&id)? else { return Ok(None) };
        let KeyRecord { name, current, latest, .. } = key;
        let version = current.unwrap_or(latest);
        let record: Option<VersionRecord> = read(&self.tables(), &schema::version(&id, version))?;
        let Some(record) = record else { return Ok(None) };
        let Some(core) = record.core() else { return Ok(None) };
        if !matches!(record.state_at(self.now_ms()), KeyState::Active | KeyState::Suspended) {
            return Ok(None);
        }
        let has = |node: &NodeId| core.holders.contains(node) && !record.stale.contains(node);
        let (holders, stale) = core.roster.iter().copied().partition(has);
        Ok(Some(KeptKey { id, version, name, threshold: core.threshold.get(), holders, stale }))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
pub(crate) mod tests {
    use super::*;
    use symbolon_protocol::id::BootId;

    /// A follower of three, with everything as it should be.
    pub(crate) fn well() -> Vitals {
        let peer = |number: u16, role: &str| Peer {
            id: NodeId::new(number).unwrap(),
            name: format!("node{number}"),
            reachable: true,
            quarantined: false,
            said: Some((
                PeerStatus {
                    role: role.to_owned(),
                    applied_index: 40,
                    release: env!("CARGO_PKG_VERSION").to_owned(),
                    boot: BootId { counter: 1, random: [0; 16] },
                    state_version: records::STATE_VERSION,
                    time_ms: 1_000_000,
                },
                0,
            )),
        };
        Vitals {
            now_ms: 1_000_000,
            admitted: true,
            started: true,
            role: "follower".to_owned(),
            term: 3,
            leader: Some("node2".to_owned()),
            applied: 40,
            behind: Some(0),
            state_version: records::STATE_VERSION,
            state_ms: 990_000,
            membership: 0,
            voters: 3,
            voters_reachable: 3,
            is_voter: true,
            peers: vec![peer(2, "leader"), peer(3, "follower")],
            margins: vec![margin("release", 1)],
            all_keys: true,
            usage_bytes: 1 << 20,
            usage_max_bytes: 1 << 30,
            operations: 0,
            lease: Freshness { age_ms: Some(250), staleness_ms: Some(1_000), fresh: true, liars: Vec::new() },
        }
    }

    pub(crate) fn margin(key: &str, margin: i64) -> Margin {
        Margin { margin, key: Name::new(key).unwrap() }
    }

    #[test]
    fn a_slow_answer_is_no_difference_of_clocks() {
        assert_eq!(clock_difference(5_000, 4_000, 6_000), 0);
        assert_eq!(clock_difference(4_000, 4_000, 6_000), 0);
        assert_eq!(clock_difference(6_000, 4_000, 6_000), 0);
        assert_eq!(clock_difference(7_500, 4_000, 6_000), 1_500);
        assert_eq!(clock_difference(1_000, 4_000, 6_000), -3_000);
        assert_eq!(clock_difference(u64::MAX, 0, 0), i64::MAX);
        assert_eq!(clock_difference(0, u64::MAX, u64::MAX), -i64::MAX);
    }

    #[test]
    fn the_smallest_margin_comes_first() {
        let mut margins = vec![margin("a", 2), margin("z", -1), margin("b", 0), margin("c", 0)];
        margins.sort_unstable();
        assert_eq!(margins, [margin("z", -1), margin("b", 0), margin("c", 0), margin("a", 2)]);
    }
}
