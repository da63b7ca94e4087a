//! The usage log in the store: what this holder decided for each request, durable before a share leaves.

use std::collections::BTreeMap;
use std::sync::Mutex;

use symbolon_protocol::error::{ErrorCode, Refusal};
use symbolon_protocol::id::{Digest, Epoch, KeyId, KeyVersion, NodeId, RequestId};
use symbolon_protocol::identity::PublicKey;
use symbolon_protocol::limits;
use symbolon_protocol::request::{RequestBody, SignedRequest};
use symbolon_protocol::table::StoreFault;
use symbolon_protocol::usage::{NO_RECORD, UsageRecord};
use symbolon_protocol::wire::{decode, encode};

use super::lock;
use crate::store::{Batch, Column, Store};

const RECORD: u8 = b'u';
const BY_REQUEST: u8 = b'q';
/// Key of the size of all records, bytes (u64, big-endian).
const SIZE: &[u8] = b"t";
/// Records that are read at once to check the chain.
const PAGE: usize = 256;

fn record_key(sequence: u64) -> Vec<u8> {
    let mut key = vec![RECORD];
    key.extend_from_slice(&sequence.to_be_bytes());
    key
}

fn request_key(request: &RequestId, sequence: u64) -> Vec<u8> {
    let mut key = vec![BY_REQUEST];
    key.extend_from_slice(request.as_bytes());
    key.extend_from_slice(&sequence.to_be_bytes());
    key
}

struct Tail {
    sequence: u64,
    digest: Digest,
    bytes: u64,
    /// Granted requests of the last minutes, by client: digest of the body, and until when it matters.
    seen: BTreeMap<(PublicKey, RequestId), (Digest, u64)>,
}

/// The log.
pub struct UsageLog<S> {
    store: S,
    tail: Mutex<Tail>,
    bytes_max: u64,
}

/// What goes into a record.
pub(crate) struct Decision<'a> {
    pub(crate) now_ms: u64,
    pub(crate) request: &'a SignedRequest,
    pub(crate) coordinator: NodeId,
    pub(crate) refused: Option<&'a Refusal>,
    pub(crate) used: Option<(KeyId, (KeyVersion, Epoch))>,
}

impl<S: Store> UsageLog<S> {
    /// Opens the log and rebuilds the set of seen requests from its last records.
    ///
    /// # Errors
    /// [`StoreFault`] when it cannot be read or a record is damaged.
    pub fn open(store: S, bytes_max: u64) -> Result<Self, StoreFault> {
        let mut tail = Tail { sequence: 0, digest: NO_RECORD, bytes: 0, seen: BTreeMap::new() };
        if let Some((_, value)) = store.last(Column::Usage, &[RECORD])? {
            let last: UsageRecord = decode(&value)?;
            tail.sequence = last.sequence;
            tail.digest = last.digest();
            // A request lives five minutes at most: what was logged long before the last record cannot come back.
            let horizon = last.time_ms.saturating_sub(2 * limits::REQUEST_LIFETIME_MS);
            let mut at = last.sequence;
            while at > 0 {
                let Some(bytes) = store.get(Column::Usage, &record_key(at))? else { break };
                let record: UsageRecord = decode(&bytes)?;
                if record.time_ms < horizon || tail.seen.len() >= limits::SEEN_REQUESTS {
                    break;
                }
                if let (None, Ok(body)) = (record.refused, decode::<RequestBody>(&record.request.body.0)) {
                    tail.seen.insert((body.client, body.request_id), (digest_of(&record.request), body.expires_ms));
                }
                at -= 1;
            }
            let size = store.get(Column::Usage, SIZE)?.and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
            // A log that was begun without its size: the count times the last record is close enough.
            tail.bytes = size.unwrap_or_else(|| tail.sequence.saturating_mul(value.len() as u64));
        }
        Ok(Self { store, tail: Mutex::new(tail), bytes_max })
    }

    /// Size of the log, and at which size it stops this node, bytes.
    pub(crate) fn fill(&self) -> (u64, u64) {
        (lock(&self.tail).bytes, self.bytes_max)
    }

    /// Whether a client used a request id for another body that was granted.
    ///
    /// # Errors
    /// `request_replayed`.
    pub(crate) fn check_replay(&self, body: &RequestBody, signed: &SignedRequest) -> Result<(), Refusal> {
        match lock(&self.tail).seen.get(&(body.client, body.request_id)) {
            Some((digest, _)) if *digest != digest_of(signed) => {
                Err(Refusal::new(ErrorCode::RequestReplayed, "this request id was used for another request"))
            }
            _ => Ok(()),
        }
    }

    /// Appends a record: visible at once, durable after the store's next sync.
    ///
    /// # Errors
    /// Inside: `storage_failed` when the log is full. Outside: [`StoreFault`].
    pub(crate) fn append(
        &self,
        body: &RequestBody,
        decision: &Decision<'_>,
    ) -> Result<Result<(), Refusal>, StoreFault> {
        let mut tail = lock(&self.tail);
        // Anybody can have requests refused: refusals have half of the room, so that they cannot stop this node from signing.
        if decision.refused.is_some() && tail.bytes >= self.bytes_max / 2 {
            return Ok(Ok(()));
        }
        if tail.bytes >= self.bytes_max {
            let message = "the usage log of a holder is full: archive it, or raise usage_log_max_mib";
            return Ok(Err(Refusal::new(ErrorCode::StorageFailed, message)));
        }
        let record = UsageRecord {
            sequence: tail.sequence + 1,
            time_ms: decision.now_ms,
            request: decision.request.clone(),
            coordinator: decision.coordinator,
            refused: decision.refused.map(|refusal| refusal.code),
            reason: decision.refused.map(|refusal| refusal.message.clone()).unwrap_or_default(),
            used: decision.used,
            previous: tail.digest,
        };
        let bytes = encode(&record);
        tail.bytes += bytes.len() as u64;
        let mut batch = Batch::default();
        batch.put(Column::Usage, SIZE.to_vec(), tail.bytes.to_be_bytes().to_vec());
        batch.put(Column::Usage, request_key(&body.request_id, record.sequence), Vec::new());
        batch.put(Column::Usage, record_key(record.sequence), bytes);
        self.store.write(batch)?;
        tail.sequence = record.sequence;
        tail.digest = record.digest();
        // A refused request leaves no trace here: anybody can have one refused.
        if decision.refused.is_none() {
            tail.remember(body, digest_of(decision.request), decision.now_ms);
        }
        Ok(Ok(()))
    }

    /// Records for a request, in order.
    ///
    /// # Errors
    /// [`StoreFault`].
    pub(crate) fn explain(&self, request: &RequestId) -> Result<Vec<UsageRecord>, StoreFault> {
        let mut prefix = vec![BY_REQUEST];
        prefix.extend_from_slice(request.as_bytes());
        let mut records = Vec::new();
        for (key, _) in self.store.scan(Column::Usage, &prefix, b"", 64)? {
            let sequence = key.get(17..).and_then(|s| s.try_into().ok()).map(u64::from_be_bytes);
            let Some(sequence) = sequence else { continue };
            if let Some(bytes) = self.store.get(Column::Usage, &record_key(sequence))? {
                records.push(decode(&bytes)?);
            }
        }
        Ok(records)
    }
}

/// Reads the whole log of a node that does not run, each record against the one before; how many there are.
///
/// # Errors
/// [`StoreFault`]: it cannot be read, or a record is damaged, missing or exchanged.
pub fn check_chain<S: Store>(store: &S) -> Result<u64, StoreFault> {
    let (mut count, mut digest, mut after) = (0, NO_RECORD, Vec::new());
    loop {
        let page = store.scan(Column::Usage, &[RECORD], &after, PAGE)?;
        let Some((last, _)) = page.last() else { return Ok(count) };
        after.clone_from(last);
        for (_, bytes) in page {
            let record: UsageRecord = decode(&bytes)?;
            count += 1;
            if record.sequence != count || record.previous != digest {
                return Err(StoreFault(format!("the usage log is broken at record {count}")));
            }
            digest = record.digest();
        }
    }
}

impl Tail {
    fn remember(&mut self, body: &RequestBody, digest: Digest, now_ms: u64) {
        if self.seen.len() >= limits::SEEN_REQUESTS {
            self.seen.retain(|_, (_, expires)| *expires > now_ms);
        }
        // The first body wins; another one is refused before it comes here.
        let expires_ms = body.expires_ms.min(now_ms.saturating_add(limits::REQUEST_LIFETIME_MS));
        self.seen.entry((body.client, body.request_id)).or_insert((digest, expires_ms));
    }
}

fn digest_of(request: &SignedRequest) -> Digest {
    symbolon_protocol::identity::tagged_hash("symbolon/seen/v1", &request.body.0)
}
