//! Records of the replicated tables.

use std::collections::{BTreeMap, BTreeSet};

pub use super::share_records::{AttemptRecord, Moved, OperationRecord, ReadyRecord, ShareSet, Trigger};
use crate::certificate::{Activation, CertificateCore, KeyCertificate, Ready};
use crate::genesis::{Genesis, Member};
use crate::id::{ClusterId, Digest, Epoch, KeyId, KeyVersion, Name, NodeId, Threshold};
use crate::identity::{PublicKey, Signature};
use crate::lifecycle::KeyState;
use crate::outcome::Outcome;
use crate::request::{Grant, KeyPolicy, Purpose, Suite};
use crate::schema::replicated as schema;
use crate::table::{StoreFault, Tables, read};
use crate::wire::encode;

/// The cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClusterRecord {
    /// Hash of genesis.
    pub cluster: ClusterId,
    /// Its name.
    pub name: Name,
    /// By whose rules `apply` decides.
    pub state_version: u32,
    /// Counts admin-signed changes of the membership; genesis is 0.
    pub membership: u64,
    /// State time, milliseconds since 1970: the highest time of all entries so far.
    pub time_ms: u64,
    /// Whether the start certificate was ordered.
    pub started: bool,
    /// Entries between two checkpoints.
    pub checkpoint_entries: u64,
}
crate::wire_struct!(ClusterRecord { cluster, name, state_version, membership, time_ms, started, checkpoint_entries });

/// A client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClientRecord {
    /// Its name.
    pub name: Name,
    /// Its identity.
    pub key: PublicKey,
    /// What it may do.
    pub grants: BTreeSet<Grant>,
    /// When it was registered, state time.
    pub added_ms: u64,
}
crate::wire_struct!(ClientRecord { name, key, grants, added_ms });

/// A key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRecord {
    /// Hash of the signed create request.
    pub id: KeyId,
    /// Its name.
    pub name: Name,
    /// What it is for.
    pub purpose: Purpose,
    /// Its algorithm.
    pub suite: Suite,
    /// Tags.
    pub tags: BTreeMap<String, String>,
    /// Reserved for keys that are derived from others; none in this version.
    pub parent: Option<KeyId>,
    /// Name of the client that created it.
    pub created_by: Name,
    /// State time of its creation.
    pub created_ms: u64,
    /// The version that signs, or would if it were not suspended.
    pub current: Option<KeyVersion>,
    /// The newest version.
    pub latest: KeyVersion,
    /// How it is kept.
    pub policy: KeyPolicy,
    /// The longest staleness before it was lowered, milliseconds, and the index of the entry that did.
    pub lowered: Option<(u32, u64)>,
}
crate::wire_struct!(KeyRecord {
    id,
    name,
    purpose,
    suite,
    tags,
    parent,
    created_by,
    created_ms,
    current,
    latest,
    policy,
    lowered,
});

impl KeyRecord {
    /// How stale a holder may be that is known to have applied `position`: who has not applied a lowering goes by what was
    /// before. Milliseconds.
    #[must_use]
    pub fn staleness_of(&self, position: u64) -> u32 {
        match self.lowered {
            Some((before, index)) if position < index => before.max(self.policy.max_staleness_ms),
            _ => self.policy.max_staleness_ms,
        }
    }
}

/// A certificate without its place in the history, which is stored beside it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredCertificate {
    /// What was voted for.
    pub core: CertificateCore,
    /// READY of each holder.
    pub ready: BTreeMap<NodeId, Ready>,
    /// ACTIVATED of holders.
    pub activated: BTreeMap<NodeId, Signature>,
    /// Signed heads of voters.
    pub heads: BTreeMap<NodeId, Signature>,
}
crate::wire_struct!(StoredCertificate { core, ready, activated, heads });

/// A destruction under way.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DestructionRecord {
    /// When erasing begins, state time.
    pub at_ms: u64,
    /// The state before, for a cancellation.
    pub before: KeyState,
}
crate::wire_struct!(DestructionRecord { at_ms, before });

/// A version of a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionRecord {
    /// Its number.
    pub number: KeyVersion,
    /// Its state as it was last written; see [`VersionRecord::state_at`].
    pub state: KeyState,
    /// State time of its creation.
    pub created_ms: u64,
    /// When it expires.
    pub expires_ms: Option<u64>,
    /// Why it was revoked.
    pub reason: Option<String>,
    /// Holders.
    pub roster: Vec<NodeId>,
    /// Holders needed.
    pub threshold: Threshold,
    /// How attempts ended, the oldest first; at most [`crate::limits::ATTEMPTS_KEPT`].
    pub attempts: Vec<AttemptRecord>,
    /// The highest epoch that an attempt took.
    pub epoch: Epoch,
    /// Votes of the epoch that signs.
    pub certificate: Option<StoredCertificate>,
    /// Votes of the epoch before, until those of the one that signs are complete.
    pub retiring: Option<StoredCertificate>,
    /// Shares that are out, by epoch, that of the certificate included.
    pub shares: Vec<ShareSet>,
    /// Members of the roster that said they have no share of the epoch that signs, besides those that it does not count.
    pub stale: BTreeSet<NodeId>,
    /// State time at which the epoch that signs was committed.
    pub committed_ms: u64,
    /// When the next refresh by schedule is due, state time.
    pub refresh_ms: Option<u64>,
    /// When a node last had its share healed, state time.
    pub healed: BTreeMap<NodeId, u64>,
    /// A destruction under way or done.
    pub destruction: Option<DestructionRecord>,
}
crate::wire_struct!(VersionRecord {
    number,
    state,
    created_ms,
    expires_ms,
    reason,
    roster,
    threshold,
    attempts,
    epoch,
    certificate,
    retiring,
    shares,
    stale,
    committed_ms,
    refresh_ms,
    healed,
    destruction,
});

impl VersionRecord {
    /// What the epoch that signs was certified as.
    #[must_use]
    pub fn core(&self) -> Option<&CertificateCore> {
        self.certificate.as_ref().map(|certificate| &certificate.core)
    }
    /// Whether every holder of the epoch that signs activated it: then nobody needs earlier shares.
    #[must_use]
    pub fn is_final(&self) -> bool {
        self.certificate.as_ref().is_some_and(|c| c.core.holders.iter().all(|node| c.activated.contains_key(node)))
    }
    /// Whether a node may have a share of an epoch below this one.
    #[must_use]
    pub fn owes_erasure(&self, node: NodeId, below: Epoch) -> bool {
        self.shares.iter().any(|set| set.epoch < below && set.owing().contains(&node))
    }
    /// Notes how an attempt ended.
    pub fn remember(&mut self, attempt: AttemptRecord) {
        if self.attempts.len() >= crate::limits::ATTEMPTS_KEPT {
            self.attempts.remove(0);
        }
        self.attempts.push(attempt);
    }
    /// Its state at a time: a date that passed needs no entry to count.
    #[must_use]
    pub fn state_at(&self, now_ms: u64) -> KeyState {
        let due = self.expires_ms.is_some_and(|at| now_ms >= at);
        match crate::lifecycle::decide(self.state, crate::lifecycle::Event::Expire) {
            crate::lifecycle::Verdict::To(state) if due => state,
            _ => self.state,
        }
    }
}

/// What became of an ordered request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RequestRecord {
    /// Digest of its body.
    pub digest: Digest,
    /// Until when it is remembered.
    pub expires_ms: u64,
    /// What became of it.
    pub outcome: Outcome,
}
crate::wire_struct!(RequestRecord { digest, expires_ms, outcome });

/// The highest version of the rules that this release knows.
pub const STATE_VERSION: u32 = 1;
/// The version of the rules that every cluster begins with.
pub const FIRST_STATE_VERSION: u32 = 1;

/// The tables before the first entry.
#[must_use]
pub fn initial(genesis: &Genesis) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let record = ClusterRecord {
        cluster: genesis.cluster_id(),
        name: genesis.name.clone(),
        state_version: FIRST_STATE_VERSION,
        membership: 0,
        time_ms: 0,
        started: false,
        checkpoint_entries: genesis.checkpoint_entries,
    };
    let mut tables = BTreeMap::from([(schema::cluster(), encode(&record))]);
    for (id, member) in &genesis.members {
        tables.insert(schema::member(*id), encode(member));
    }
    tables.extend(super::members::initial(genesis));
    for (name, key) in &genesis.administrators {
        let grant = Grant { role: crate::request::Role::Admin, keys: "*".to_owned() };
        let client = ClientRecord { name: name.clone(), key: *key, grants: BTreeSet::from([grant]), added_ms: 0 };
        tables.insert(schema::client(name), encode(&client));
        tables.insert(schema::client_name(key), encode(name));
    }
    tables
}

/// The cluster's record.
///
/// # Errors
/// [`StoreFault`] when it cannot be read or is missing: it is written before the first entry.
pub fn cluster(tables: &impl Tables) -> Result<ClusterRecord, StoreFault> {
    read(tables, &schema::cluster())?.ok_or_else(|| StoreFault("the cluster's record is missing".to_owned()))
}

/// All members.
///
/// # Errors
/// [`StoreFault`] when they cannot be read.
pub fn members(tables: &impl Tables) -> Result<BTreeMap<NodeId, Member>, StoreFault> {
    let mut members = BTreeMap::new();
    for (key, value) in tables.scan(schema::MEMBERS, b"", crate::limits::MEMBERS)? {
        let id = match key.get(1..) {
            Some([high, low]) => NodeId::new(u16::from_be_bytes([*high, *low])),
            _ => None,
        };
        let id = id.ok_or_else(|| StoreFault("a member's key is damaged".to_owned()))?;
        members.insert(id, crate::wire::decode(&value)?);
    }
    Ok(members)
}

/// Who had shares of a version and is no member any more.
///
/// # Errors
/// [`StoreFault`] when it cannot be read.
pub fn left(tables: &impl Tables, version: &VersionRecord) -> Result<BTreeSet<NodeId>, StoreFault> {
    let mut left = BTreeSet::new();
    for node in version.shares.iter().flat_map(|set| &set.holders) {
        if tables.get(&schema::member(*node))?.is_none() {
            left.insert(*node);
        }
    }
    Ok(left)
}

/// The client with an identity.
///
/// # Errors
/// [`StoreFault`] when it cannot be read.
pub fn client_of(tables: &impl Tables, identity: &PublicKey) -> Result<Option<ClientRecord>, StoreFault> {
    match read::<Name>(tables, &schema::client_name(identity))? {
        Some(name) => read(tables, &schema::client(&name)),
        None => Ok(None),
    }
}

/// The key with a name.
///
/// # Errors
/// [`StoreFault`] when it cannot be read.
pub fn key_named(tables: &impl Tables, name: &Name) -> Result<Option<KeyRecord>, StoreFault> {
    match read::<KeyId>(tables, &schema::key_name(name))? {
        Some(id) => read(tables, &schema::key_record(&id)),
        None => Ok(None),
    }
}

/// All versions of a key, ascending.
///
/// # Errors
/// [`StoreFault`] when they cannot be read.
pub fn versions(tables: &impl Tables, key: &KeyId) -> Result<Vec<VersionRecord>, StoreFault> {
    let prefix = schema::versions_of(key);
    let mut list = Vec::new();
    let mut after = Vec::new();
    loop {
        let page = tables.scan(&prefix, &after, 256)?;
        let Some((last, _)) = page.last() else { return Ok(list) };
        after.clone_from(last);
        for (_, value) in page {
            list.push(crate::wire::decode(&value)?);
        }
    }
}

/// The certificate of the epoch of a version that signs, with its place in the history.
///
/// # Errors
/// [`StoreFault`] when it cannot be read.
pub fn certificate(
    tables: &impl Tables,
    key: &KeyId,
    version: &VersionRecord,
) -> Result<Option<KeyCertificate>, StoreFault> {
    version.certificate.as_ref().map_or(Ok(None), |stored| placed(tables, key, version.number, stored))
}

/// The certificate that is shown to clients: right after a change of shares the one before, which certifies the same public
/// key, until all votes of the new one are there.
///
/// # Errors
/// [`StoreFault`] when it cannot be read.
pub fn shown_certificate(
    tables: &impl Tables,
    key: &KeyId,
    version: &VersionRecord,
) -> Result<Option<KeyCertificate>, StoreFault> {
    match &version.retiring {
        Some(stored) => placed(tables, key, version.number, stored),
        None => certificate(tables, key, version),
    }
}

fn placed(
    tables: &impl Tables,
    key: &KeyId,
    version: KeyVersion,
    stored: &StoredCertificate,
) -> Result<Option<KeyCertificate>, StoreFault> {
    let place: Option<Activation> = read(tables, &schema::place(key, version, stored.core.epoch))?;
    Ok(place.map(|activation| KeyCertificate {
        core: stored.core.clone(),
        ready: stored.ready.clone(),
        activated: stored.activated.clone(),
        activation,
        heads: stored.heads.clone(),
    }))
}
