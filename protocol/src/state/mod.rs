//! The replicated state: `apply` is a pure function from tables and an entry to writes and an outcome.
//!
//! It is total: a refused or senseless entry is an [`Outcome`], the only failure is a store that cannot be read. It reads no
//! clock and draws no randomness; time is in the entry. Raft gives it order and durability and is trusted for nothing else:
//! every right in an entry is proved by a signature that is checked here, on every node.

mod clients;
mod keys;
pub mod links;
pub mod members;
mod operations;
pub mod records;
mod redistributions;
mod rights;
mod rules;
mod share_records;
mod shares;
mod upgrade;
pub mod view;

use crate::certificate::Activation;
use crate::entry::{Entry, LogEntry, Payload};
use crate::error::{ErrorCode, Refusal};
use crate::genesis::{Genesis, StartCertificate};
use crate::history::{self, Head, Leaf};
use crate::id::{Digest, KeyId, KeyVersion};
use crate::limits;
use crate::outcome::Outcome;
use crate::request::{Action, SignedRequest, VerifiedRequest};
use crate::schema::replicated as schema;
use crate::table::{Overlay, StoreFault, Tables, read};
use crate::wire::decode;

pub use keys::next_destruction;
pub use operations::{next_operations, running_operations};
use records::{ClientRecord, ClusterRecord, RequestRecord, VersionRecord};
pub use redistributions::{ACTIVATED, due_refreshes};
pub(crate) use rights::{check_right, key_of};
pub use rights::{decide_right, may_read_key, may_read_usage};
pub use shares::{OwedErasure, owed_erasures, owes_witness};
pub use upgrade::{LACKING, SupportRecord, support_of};

/// Why an entry changed nothing: refused, or the store failed and the node must stop.
#[derive(Debug)]
pub(crate) enum Stop {
    Refused(Refusal),
    Fault(StoreFault),
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl From<StoreFault> for Stop {
    fn from(fault: StoreFault) -> Self {
        Self::Fault(fault)
    }
}

pub(crate) fn refuse<T>(code: ErrorCode, message: impl Into<String>) -> Result<T, Stop> {
    Err(Stop::Refused(Refusal::new(code, message)))
}

/// What `apply` leaves beside the writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// What became of the entry.
    pub outcome: Outcome,
    /// Root of the history right after it.
    pub root: Digest,
}

/// Applies one entry. The writes are in the overlay, sealed.
///
/// # Errors
/// [`StoreFault`] when the store cannot be read; then nothing was applied.
pub fn apply<T: Tables>(
    tables: &mut Overlay<'_, T>,
    genesis: &Genesis,
    index: u64,
    entry: LogEntry<'_>,
) -> Result<Applied, StoreFault> {
    let outcome = match entry {
        LogEntry::Blank => Outcome::Noted,
        LogEntry::Membership { voters, .. } => members::moved(tables, voters)?,
        LogEntry::Normal(bytes) => apply_normal(tables, genesis, index, bytes)?,
    };
    let writes = tables.entry_digest();
    let leaf = Leaf { index, entry: entry.digest(), outcome: outcome.digest(), writes };
    let appended = history::append(tables, &leaf)?;
    if matches!(outcome, Outcome::Activated { .. } | Outcome::MembershipChanged { .. }) {
        let membership = records::cluster(tables)?.membership;
        let head = Head { index, root: appended.root, membership, state: None };
        put_place(tables, &outcome, Activation { entry: leaf.entry, writes, path: appended.path, head })?;
    }
    tables.seal_entry();
    Ok(Applied { outcome, root: appended.root })
}

/// Keeps where in the history something happened that is to be proved. After the leaf, and therefore not under it: the place
/// names the root that the leaf is part of.
fn put_place<T: Tables>(tables: &mut Overlay<'_, T>, outcome: &Outcome, place: Activation) -> Result<(), StoreFault> {
    match outcome {
        Outcome::Activated { key, version, .. } => {
            let record = read::<VersionRecord>(tables, &schema::version(key, *version))?;
            if let Some(core) = record.as_ref().and_then(VersionRecord::core) {
                tables.put(schema::place(key, *version, core.epoch), &place);
            }
            Ok(())
        }
        Outcome::MembershipChanged { version, .. } => links::place_link(tables, *version, place),
        _ => Ok(()),
    }
}

fn apply_normal<T: Tables>(
    tables: &mut Overlay<'_, T>,
    genesis: &Genesis,
    index: u64,
    bytes: &[u8],
) -> Result<Outcome, StoreFault> {
    let entry: Entry = match decode(bytes) {
        Ok(entry) => entry,
        Err(error) => return Ok(Outcome::Refused(error.into())),
    };
    let mut cluster = records::cluster(tables)?;
    if !rules::knows_entry(cluster.state_version, bytes) {
        return Ok(Outcome::Refused(rules::unknown()));
    }
    cluster.time_ms = cluster.time_ms.max(entry.time_ms);
    let result = apply_payload(tables, genesis, &cluster, index, entry.payload);
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(Stop::Refused(refusal)) => {
            tables.discard_entry();
            Outcome::Refused(refusal)
        }
        Err(Stop::Fault(fault)) => return Err(fault),
    };
    cluster.started |= outcome == Outcome::Started;
    // A request that comes again has its outcome of then: nothing goes back.
    match outcome {
        Outcome::Upgraded { to } => cluster.state_version = cluster.state_version.max(to),
        Outcome::MembershipChanged { version, .. } => cluster.membership = cluster.membership.max(version),
        _ => {}
    }
    tables.put(schema::cluster(), &cluster);
    members::index_holders(tables)?;
    forget_expired(tables, cluster.time_ms)?;
    Ok(outcome)
}

fn apply_payload<T: Tables>(
    tables: &mut Overlay<'_, T>,
    genesis: &Genesis,
    cluster: &ClusterRecord,
    index: u64,
    payload: Payload,
) -> Result<Outcome, Stop> {
    if let Payload::Start(certificate) = &payload {
        return start(tables, genesis, cluster, certificate);
    }
    if !cluster.started {
        return refuse(ErrorCode::NoQuorum, "the cluster has not started: its start certificate comes first");
    }
    match payload {
        Payload::Start(_) | Payload::Tick => Ok(Outcome::Noted),
        Payload::Request(request) => Ok(apply_request(tables, cluster, index, &request)?),
        Payload::Generate(vote) => operations::vote(tables, cluster, vote),
        Payload::Witness(witness) => shares::witness(tables, cluster, &witness),
        Payload::Expire { operation, epoch } => operations::expire(tables, cluster, &operation, epoch),
        Payload::Erased(erasure) => shares::erased(tables, cluster, &erasure),
        Payload::Deal(vote) => redistributions::deal(tables, &vote),
        Payload::Refresh { key, version } => redistributions::scheduled(tables, cluster, &key, version),
        Payload::Need(need) => redistributions::needed(tables, cluster, &need),
        Payload::Supports(support) => upgrade::supports(tables, cluster, &support),
        Payload::Endorse(endorsement) => links::endorse(tables, cluster, &endorsement),
    }
}

fn start<T: Tables>(
    tables: &mut Overlay<'_, T>,
    genesis: &Genesis,
    cluster: &ClusterRecord,
    certificate: &StartCertificate,
) -> Result<Outcome, Stop> {
    if cluster.started {
        return refuse(ErrorCode::WrongState, "the cluster has started already");
    }
    match certificate.check(genesis) {
        Ok(()) => {
            members::started(tables, certificate);
            Ok(Outcome::Started)
        }
        Err(error) => Err(Stop::Refused(error.into())),
    }
}

/// A request that was ordered: verified, idempotent until it expires, decided by the roles as they are now.
fn apply_request<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    index: u64,
    request: &SignedRequest,
) -> Result<Outcome, StoreFault> {
    if !rules::knows_request(cluster.state_version, request) {
        return Ok(Outcome::Refused(rules::unknown()));
    }
    let verified = match request.verify(&cluster.cluster) {
        Ok(verified) => verified,
        Err(refusal) => return Ok(Outcome::Refused(refusal)),
    };
    let body = verified.body();
    let record_key = schema::request(&body.client, &body.request_id);
    if let Some(seen) = read::<RequestRecord>(tables, &record_key)? {
        let replayed = Refusal::new(ErrorCode::RequestReplayed, "this request id was used for another request");
        return Ok(if seen.digest == verified.digest() { seen.outcome } else { Outcome::Refused(replayed) });
    }
    // A refusal before this line is not remembered: neither somebody without a registered identity nor a request whose time is
    // not now, and may never be, must fill the tables.
    if let Err(refusal) = verified.check_time(cluster.time_ms) {
        return Ok(Outcome::Refused(refusal));
    }
    let Some(client) = records::client_of(tables, &body.client)? else {
        return Ok(Outcome::Refused(unknown_client(&verified)));
    };
    let outcome = match decide(tables, cluster, index, &client, &verified) {
        Ok(outcome) => outcome,
        Err(Stop::Refused(refusal)) => {
            tables.discard_entry();
            Outcome::Refused(refusal)
        }
        Err(Stop::Fault(fault)) => return Err(fault),
    };
    if let Outcome::MembershipChanged { version, .. } = &outcome {
        links::begin_link(tables, *version, request)?;
    }
    let expires_ms = body.expires_ms;
    let record = RequestRecord { digest: verified.digest(), expires_ms, outcome: outcome.without_words() };
    if cluster.time_ms < expires_ms {
        tables.put(record_key, &record);
        tables.put(schema::request_expiry(expires_ms, &body.client, &body.request_id), &true);
    }
    Ok(outcome)
}

/// The refusal of an identity that nobody registered.
#[must_use]
pub fn unknown_client(request: &VerifiedRequest) -> Refusal {
    let message = format!("client identity {} is not registered", request.body().client);
    Refusal::new(ErrorCode::UnknownClient, message)
}

fn decide<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    index: u64,
    client: &ClientRecord,
    request: &VerifiedRequest,
) -> Result<Outcome, Stop> {
    check_right(tables, client, request.body())?;
    let body = request.body();
    match &body.action {
        Action::CreateKey { .. } => keys::create(tables, cluster, client, request),
        Action::RotateKey { plan, expires_ms } => keys::rotate(tables, cluster, request, plan, *expires_ms),
        Action::SuspendKey
        | Action::ResumeKey
        | Action::RevokeKey { .. }
        | Action::DestroyKey { .. }
        | Action::CancelDestroyKey => keys::change(tables, cluster, body),
        Action::AddClient { name, key, grant } => clients::add(tables, cluster, request, name, key, grant),
        Action::RemoveClient { name } => clients::remove(tables, cluster, request, name),
        Action::AddMember { .. }
        | Action::RemoveMember { .. }
        | Action::ReplaceMember { .. }
        | Action::MoveMember { .. } => members::change(tables, cluster, request),
        Action::UpgradeCluster { to } => upgrade::upgrade(tables, cluster, *to),
        Action::RefreshKey { .. } | Action::ReshareKey { .. } => redistributions::requested(tables, cluster, body),
        Action::SetKeyPolicy { policy } => keys::set_policy(tables, cluster, index, body.key, *policy),
        Action::Sign
        | Action::ShowKey { .. }
        | Action::ListKeys { .. }
        | Action::Status
        | Action::Explain { .. }
        | Action::Doctor
        | Action::ListClients { .. }
        | Action::ListMembers { .. }
        | Action::ListOperations { .. } => {
            refuse(ErrorCode::InvalidArgument, format!("`{}` is not ordered", body.action.name()))
        }
    }
}

/// Forgets some requests that expired, a few per entry so that no entry is slow.
fn forget_expired<T: Tables>(tables: &mut Overlay<'_, T>, now_ms: u64) -> Result<(), StoreFault> {
    for (key, _) in tables.scan(schema::REQUEST_EXPIRIES, b"", limits::FORGET_PER_ENTRY)? {
        let expired =
            key.get(1..9).and_then(|ms| ms.try_into().ok()).is_some_and(|ms| u64::from_be_bytes(ms) <= now_ms);
        if !expired {
            break;
        }
        // The rest of the key, client and id, is that of the record.
        tables.remove([schema::REQUESTS, key.get(9..).unwrap_or_default()].concat());
        tables.remove(key);
    }
    Ok(())
}

/// SHA-256 of the whole ordered key-value stream, as checkpoints sign it.
///
/// # Errors
/// [`StoreFault`] when the store cannot be read.
pub fn stream_digest(tables: &impl Tables) -> Result<Digest, StoreFault> {
    let mut stream = StreamDigest::default();
    let mut after = Vec::new();
    loop {
        let page = tables.scan(b"", &after, 1024)?;
        let Some((last, _)) = page.last() else { return Ok(stream.finish()) };
        after.clone_from(last);
        for (key, value) in &page {
            stream.add(key, value);
        }
    }
}

/// The stream digest, pair by pair.
#[derive(Default)]
pub struct StreamDigest(sha2::Sha256);

impl StreamDigest {
    /// Adds the next pair.
    pub fn add(&mut self, key: &[u8], value: &[u8]) {
        use sha2::Digest as _;
        let mut w = crate::wire::Writer::default();
        w.bytes(key);
        w.bytes(value);
        self.0.update(w.finish());
    }
    /// The digest.
    #[must_use]
    pub fn finish(self) -> Digest {
        use sha2::Digest as _;
        Digest::from_bytes(self.0.finalize().into())
    }
}

/// The share operation of a version: one runs at a time.
#[must_use]
pub fn operation_id(key: &KeyId, version: KeyVersion) -> crate::id::OperationId {
    let mut payload = key.as_bytes().to_vec();
    payload.extend_from_slice(&version.get().to_be_bytes());
    let digest = crate::identity::tagged_hash("symbolon/operation/generate/v1", &payload);
    crate::id::OperationId::from_bytes(*digest.as_bytes())
}
