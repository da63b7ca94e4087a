//! The replicated state: `apply` is a pure function from tables and an entry to writes and an outcome.
//!
//! It is total: a refused or senseless entry is an [`Outcome`], the only failure is a store that cannot be read. It reads no
//! clock and draws no randomness; time is in the entry. Raft gives it order and durability and is trusted for nothing else:
//! every right in an entry is proved by a signature that is checked here, on every node.

mod clients;
mod keys;
mod operations;
pub mod records;
mod rights;
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

pub use keys::{next_destruction, owed_erasures};
pub use operations::{owes_witness, running_operations};
use records::{ClientRecord, ClusterRecord, RequestRecord};
pub(crate) use rights::{check_right, key_of};
pub use rights::{decide_right, may_read_key, may_read_usage};

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
        LogEntry::Blank | LogEntry::Membership(_) => Outcome::Noted,
        LogEntry::Normal(bytes) => apply_normal(tables, genesis, bytes)?,
    };
    let writes = tables.entry_digest();
    let leaf = Leaf { index, entry: entry.digest(), outcome: outcome.digest(), writes };
    let appended = history::append(tables, &leaf)?;
    if let Outcome::Activated { key, version, .. } = &outcome {
        let membership = records::cluster(tables)?.membership;
        let head = Head { index, root: appended.root, membership, state: None };
        let place = Activation { entry: leaf.entry, writes, path: appended.path, head };
        // After the leaf, and therefore not under it: the place names the root that the leaf is part of.
        tables.put(schema::place(key, *version), &place);
    }
    tables.seal_entry();
    Ok(Applied { outcome, root: appended.root })
}

fn apply_normal<T: Tables>(
    tables: &mut Overlay<'_, T>,
    genesis: &Genesis,
    bytes: &[u8],
) -> Result<Outcome, StoreFault> {
    let entry: Entry = match decode(bytes) {
        Ok(entry) => entry,
        Err(error) => return Ok(Outcome::Refused(error.into())),
    };
    let mut cluster = records::cluster(tables)?;
    cluster.time_ms = cluster.time_ms.max(entry.time_ms);
    let result = apply_payload(tables, genesis, &cluster, entry.payload);
    let outcome = match result {
        Ok(outcome) => outcome,
        Err(Stop::Refused(refusal)) => {
            tables.discard_entry();
            Outcome::Refused(refusal)
        }
        Err(Stop::Fault(fault)) => return Err(fault),
    };
    cluster.started |= outcome == Outcome::Started;
    if let Outcome::Upgraded { to } = outcome {
        cluster.state_version = to;
    }
    tables.put(schema::cluster(), &cluster);
    forget_expired(tables, cluster.time_ms)?;
    Ok(outcome)
}

fn apply_payload<T: Tables>(
    tables: &mut Overlay<'_, T>,
    genesis: &Genesis,
    cluster: &ClusterRecord,
    payload: Payload,
) -> Result<Outcome, Stop> {
    if let Payload::Start(certificate) = &payload {
        return start(genesis, cluster, certificate);
    }
    if !cluster.started {
        return refuse(ErrorCode::NoQuorum, "the cluster has not started: its start certificate comes first");
    }
    match payload {
        Payload::Start(_) | Payload::Tick => Ok(Outcome::Noted),
        Payload::Request(request) => Ok(apply_request(tables, cluster, &request)?),
        Payload::Generate(vote) => operations::vote(tables, cluster, vote),
        Payload::Witness(witness) => operations::witness(tables, cluster, &witness),
        Payload::Expire { operation, epoch } => operations::expire(tables, cluster, &operation, epoch),
        Payload::Erased(erasure) => keys::erased(tables, cluster, &erasure),
    }
}

fn start(genesis: &Genesis, cluster: &ClusterRecord, certificate: &StartCertificate) -> Result<Outcome, Stop> {
    if cluster.started {
        return refuse(ErrorCode::WrongState, "the cluster has started already");
    }
    match certificate.check(genesis) {
        Ok(()) => Ok(Outcome::Started),
        Err(error) => Err(Stop::Refused(error.into())),
    }
}

/// A request that was ordered: verified, idempotent until it expires, decided by the roles as they are now.
fn apply_request<T: Tables>(
    tables: &mut Overlay<'_, T>,
    cluster: &ClusterRecord,
    request: &SignedRequest,
) -> Result<Outcome, StoreFault> {
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
    let outcome = match decide(tables, cluster, &client, &verified) {
        Ok(outcome) => outcome,
        Err(Stop::Refused(refusal)) => {
            tables.discard_entry();
            Outcome::Refused(refusal)
        }
        Err(Stop::Fault(fault)) => return Err(fault),
    };
    let expires_ms = body.expires_ms;
    let record = RequestRecord { digest: verified.digest(), expires_ms, outcome: outcome.clone() };
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
        Action::AddClient { name, key, grant } => clients::add(tables, cluster, name, key, grant),
        Action::RemoveClient { name } => clients::remove(tables, name),
        Action::UpgradeCluster { to } => upgrade(cluster, *to),
        Action::Sign
        | Action::ShowKey { .. }
        | Action::ListKeys { .. }
        | Action::Status
        | Action::Explain { .. }
        | Action::ListClients { .. } => {
            refuse(ErrorCode::InvalidArgument, format!("`{}` is not ordered", body.action.name()))
        }
    }
}

fn upgrade(cluster: &ClusterRecord, to: u32) -> Result<Outcome, Stop> {
    let now = cluster.state_version;
    if to > records::STATE_VERSION {
        let message = format!("this release knows state version {}, not {to}", records::STATE_VERSION);
        return refuse(ErrorCode::VersionUnknown, message);
    }
    if to <= now {
        return refuse(ErrorCode::WrongState, format!("the cluster is at state version {now} already"));
    }
    Ok(Outcome::Upgraded { to })
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

/// The operation that generates a version.
#[must_use]
pub fn operation_id(key: &KeyId, version: KeyVersion) -> crate::id::OperationId {
    let mut payload = key.as_bytes().to_vec();
    payload.extend_from_slice(&version.get().to_be_bytes());
    let digest = crate::identity::tagged_hash("symbolon/operation/generate/v1", &payload);
    crate::id::OperationId::from_bytes(*digest.as_bytes())
}
