//! What clients are shown of the state.

use std::collections::BTreeMap;

mod doctor;
mod members;
mod operation;

use crate::blame::BlameKind;
use crate::certificate::KeyCertificate;
use crate::id::{BootId, ClusterId, Epoch, KeyId, KeyVersion, Name, NodeId, RequestId, Threshold};
use crate::lifecycle::KeyState;
use crate::request::{KeyPolicy, Purpose, Suite};
use crate::schema::replicated as schema;
use crate::table::{StoreFault, Tables, read};

pub use self::doctor::{Check, DoctorView, Level};
pub use self::members::{DepartedView, MemberView, MembersView, members_view};
pub use self::operation::{OperationPhase, OperationView, SharesView, operation_page};
use super::records::{self, AttemptRecord, ClientRecord, KeyRecord, OperationRecord, VersionRecord};
use super::{may_read_key, operation_id};

/// A version of a key as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct VersionView {
    /// Its number.
    pub number: KeyVersion,
    /// Its state at the time of the view.
    pub state: KeyState,
    /// Why it was revoked.
    pub reason: Option<String>,
    /// When it was asked for.
    pub created_ms: u64,
    /// When it expires.
    pub expires_ms: Option<u64>,
    /// Holders.
    pub roster: Vec<NodeId>,
    /// Holders needed.
    pub threshold: Threshold,
    /// How attempts ended, the oldest first.
    pub attempts: Vec<AttemptRecord>,
    /// The share operation that runs.
    pub running: Option<OperationView>,
    /// Its shares.
    pub shares: Option<SharesView>,
    /// When erasing begins or began.
    pub destroy_ms: Option<u64>,
    /// Its certificate; the client checks it.
    pub certificate: Option<KeyCertificate>,
}
crate::wire_struct!(VersionView {
    number,
    state,
    reason,
    created_ms,
    expires_ms,
    roster,
    threshold,
    attempts,
    running,
    shares,
    destroy_ms,
    certificate,
});

/// A key as clients see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyView {
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
    /// Name of the client that created it.
    pub created_by: Name,
    /// When it was created.
    pub created_ms: u64,
    /// The version that signs, or would if it were not suspended.
    pub current: Option<KeyVersion>,
    /// How it is kept.
    pub policy: KeyPolicy,
    /// All versions, ascending.
    pub versions: Vec<VersionView>,
}
crate::wire_struct!(KeyView { id, name, purpose, suite, tags, created_by, created_ms, current, policy, versions });

impl KeyView {
    /// A version.
    #[must_use]
    pub fn version(&self, number: KeyVersion) -> Option<&VersionView> {
        self.versions.iter().find(|version| version.number == number)
    }
    /// The newest version.
    #[must_use]
    pub fn latest(&self) -> Option<&VersionView> {
        self.versions.last()
    }
}

fn version_view(
    tables: &impl Tables,
    key: &KeyId,
    version: VersionRecord,
    now_ms: u64,
) -> Result<VersionView, StoreFault> {
    let running = read::<OperationRecord>(tables, &schema::operation(&operation_id(key, version.number)))?;
    let certificate = records::shown_certificate(tables, key, &version)?;
    let shares = SharesView::of(tables, &version)?;
    Ok(VersionView {
        number: version.number,
        state: version.state_at(now_ms),
        reason: version.reason,
        created_ms: version.created_ms,
        expires_ms: version.expires_ms,
        roster: version.roster,
        threshold: version.threshold,
        attempts: version.attempts,
        running: running.as_ref().map(OperationView::of),
        shares,
        destroy_ms: version.destruction.as_ref().map(|d| d.at_ms),
        certificate,
    })
}

/// A key with all of its versions.
///
/// # Errors
/// [`StoreFault`] when the store cannot be read.
pub fn key_view(tables: &impl Tables, key: KeyRecord, now_ms: u64) -> Result<KeyView, StoreFault> {
    let mut versions = Vec::new();
    for version in records::versions(tables, &key.id)? {
        versions.push(version_view(tables, &key.id, version, now_ms)?);
    }
    Ok(KeyView {
        id: key.id,
        name: key.name,
        purpose: key.purpose,
        suite: key.suite,
        tags: key.tags,
        created_by: key.created_by,
        created_ms: key.created_ms,
        current: key.current,
        policy: key.policy,
        versions,
    })
}

/// Names that are looked at for one page.
const EXAMINED: usize = 2048;

/// A page of the keys that a client may see, by name, and the name to go on after.
///
/// # Errors
/// [`StoreFault`] when the store cannot be read.
pub fn key_page(
    tables: &impl Tables,
    client: &ClientRecord,
    after: &str,
    limit: usize,
    tags: &BTreeMap<String, String>,
    now_ms: u64,
) -> Result<(Vec<KeyView>, Option<String>), StoreFault> {
    let prefixed = |name: &str| [schema::KEY_NAMES, name.as_bytes()].concat();
    let mut from = if after.is_empty() { Vec::new() } else { prefixed(after) };
    let mut list = Vec::new();
    let mut examined = 0;
    loop {
        // A client that may see little must not cost much: it goes on from here with its next question.
        if examined >= EXAMINED {
            let name = from.get(1..).map(|name| String::from_utf8_lossy(name).into_owned());
            return Ok((list, name));
        }
        examined += 256;
        let page = tables.scan(schema::KEY_NAMES, &from, 256)?;
        let Some((last, _)) = page.last() else { return Ok((list, None)) };
        from.clone_from(last);
        for (_, id) in page {
            let id: KeyId = crate::wire::decode(&id)?;
            let Some(key) = read::<KeyRecord>(tables, &schema::key_record(&id))? else { continue };
            let wanted = tags.iter().all(|(name, value)| key.tags.get(name) == Some(value));
            if !wanted || !may_read_key(client, &key.name) {
                continue;
            }
            let name = key.name.as_str().to_owned();
            list.push(key_view(tables, key, now_ms)?);
            if list.len() >= limit {
                return Ok((list, Some(name)));
            }
        }
    }
}

/// A page of clients, by name, and the name to go on after.
///
/// # Errors
/// [`StoreFault`] when the store cannot be read.
pub fn client_page(
    tables: &impl Tables,
    after: &str,
    limit: usize,
) -> Result<(Vec<ClientRecord>, Option<String>), StoreFault> {
    let from = if after.is_empty() { Vec::new() } else { [schema::CLIENTS, after.as_bytes()].concat() };
    let page = tables.scan(schema::CLIENTS, &from, limit)?;
    let full = page.len() >= limit;
    let mut list: Vec<ClientRecord> = Vec::new();
    for (_, value) in page {
        list.push(crate::wire::decode(&value)?);
    }
    let next = list.last().filter(|_| full).map(|client| client.name.as_str().to_owned());
    Ok((list, next))
}

/// A node as the asked node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeView {
    /// Its id.
    pub id: NodeId,
    /// Its name.
    pub name: Name,
    /// Whether it answers the asked node.
    pub reachable: bool,
    /// `leader`, `follower`, `candidate`, `learner` or `unknown`.
    pub role: String,
    /// What it applied.
    pub applied_index: Option<u64>,
    /// Its release.
    pub release: String,
    /// Its boot.
    pub boot: Option<BootId>,
    /// What the asked node can prove against it.
    pub blamed: Option<BlamedView>,
}
crate::wire_struct!(NodeView { id, name, reachable, role, applied_index, release, boot, blamed });

/// What one node can prove against another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BlamedView {
    /// How often it broke the protocol.
    pub count: u64,
    /// How, the last time.
    pub kind: BlameKind,
    /// When that was found, by the clock of the asked node, milliseconds since 1970.
    pub time_ms: u64,
}
crate::wire_struct!(BlamedView { count, kind, time_ms });

/// A key in the status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyStatus {
    /// Its name.
    pub name: Name,
    /// The current version, or the latest when none is.
    pub version: KeyVersion,
    /// Its state.
    pub state: KeyState,
    /// Holders needed.
    pub threshold: Threshold,
    /// Holders.
    pub holders: Vec<NodeId>,
    /// Holders that can be reached.
    pub usable: Vec<NodeId>,
    /// Members of the roster without a share of the current epoch.
    pub stale: Vec<NodeId>,
    /// Epoch of the shares, and when it was committed, state time.
    pub epoch: Option<(Epoch, u64)>,
    /// Earlier epochs of which so many shares may be left that they are the key.
    pub open: Vec<Epoch>,
    /// The share operation that runs.
    pub running: Option<OperationView>,
}
crate::wire_struct!(KeyStatus { name, version, state, threshold, holders, usable, stale, epoch, open, running });

/// The cluster as the asked node sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StatusView {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its name.
    pub name: Name,
    /// The asked node.
    pub asked: NodeId,
    /// The leader, where one is known.
    pub leader: Option<NodeId>,
    /// By whose rules `apply` decides.
    pub state_version: u32,
    /// Version of the membership.
    pub membership: u64,
    /// State time.
    pub time_ms: u64,
    /// What the asked node applied.
    pub applied_index: u64,
    /// All members.
    pub nodes: Vec<NodeView>,
    /// Keys that the client may see; at most a page.
    pub keys: Vec<KeyStatus>,
    /// What an operator should know.
    pub warnings: Vec<String>,
}
crate::wire_struct!(StatusView {
    cluster,
    name,
    asked,
    leader,
    state_version,
    membership,
    time_ms,
    applied_index,
    nodes,
    keys,
    warnings,
});

/// What one node did for a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExplainView {
    /// The node.
    pub node: NodeId,
    /// The request.
    pub request: RequestId,
    /// Its client, by name where it is registered.
    pub client: String,
    /// What was asked.
    pub action: String,
    /// When it was decided, by the node's clock.
    pub time_ms: u64,
    /// Whether it contributed.
    pub granted: bool,
    /// Why, or why not.
    pub reason: String,
    /// The key, version and epoch that were meant.
    pub key: Option<(KeyId, (KeyVersion, Epoch))>,
    /// Who coordinated.
    pub coordinator: NodeId,
}
crate::wire_struct!(ExplainView { node, request, client, action, time_ms, granted, reason, key, coordinator });
